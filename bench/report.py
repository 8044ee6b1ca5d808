"""One table, one JSON, one picture per run."""

from __future__ import annotations

import json
from pathlib import Path

SIDE = "{:>9} {:>4} {:>7}"
HEADER = " ".join(
    [
        f"{'case':36} thr",
        SIDE.format("ours ms", "±%", "% roof"),
        SIDE.format("torch ms", "±%", "% roof"),
        " ratio",
    ]
)


def row(cell: dict) -> str:
    def side(name: str) -> str:
        one = cell[name]
        return f"{one['ms']:9.2f} {100 * one['spread']:4.0f} {100 * one['of_roof']:7.1f}"

    ratio = cell["torch"]["ms"] / cell["ours"]["ms"]
    return f"{cell['name']:36} {cell['threads']:3} {side('ours')} {side('torch')} {ratio:6.2f}"


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
