"""One table, one JSON, one picture per run."""

from __future__ import annotations

import json
from pathlib import Path

HEADER = f"{'case':42} {'thr':>3} {'ours ms':>9} {'±%':>4} {'% of roof':>9} {'torch ms':>9} {'±%':>4} {'% of roof':>9} {'ratio':>6}"


def row(cell: dict) -> str:
    ours, peer = cell["ours"], cell["torch"]
    return (
        f"{cell['name']:42} {cell['threads']:3} {ours['ms']:9.2f} {100 * ours['spread']:4.0f} {100 * ours['of_roof']:9.1f} "
        f"{peer['ms']:9.2f} {100 * peer['spread']:4.0f} {100 * peer['of_roof']:9.1f} {peer['ms'] / ours['ms']:6.2f}"
    )


def write(results: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no picture")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = results["cells"]
    figure, axes = plt.subplots(figsize=(10, 0.32 * len(cells) + 1.5), layout="constrained")
    places = range(len(cells))
    axes.barh(
        [p - 0.2 for p in places],
        [100 * c["ours"]["of_roof"] for c in cells],
        0.4,
        label="fusion_attention",
        color="#0072b2",
    )
    axes.barh(
        [p + 0.2 for p in places],
        [100 * c["torch"]["of_roof"] for c in cells],
        0.4,
        label="torch flash",
        color="#e69f00",
    )
    axes.set_yticks(list(places), [f"{c['name']} · {c['threads']}t" for c in cells], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("useful flops, % of the roof loop measured beside")
    axes.set_title(f"{results['cpu']} · torch {results['torch']}")
    axes.legend()
    figure.savefig(folder / "bench.png", dpi=120)
    print(f"wrote {folder / 'bench.json'} and {folder / 'bench.png'}")
