"""The roofline of a run: flops per byte that must move, against flops per second, ours and the best peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .report import best

COLORS = {"forward": "#0072b2", "backward": "#d55e00", "training": "#009e73"}


def draw(results: dict[str, Any], file: Path) -> None:
    """One thread alone: the roofs of several would be several pictures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [cell for cell in results["cells"] if "ours" in cell and cell["threads"] == 1]
    figure, axes = plt.subplots(figsize=(10, 6.5), layout="constrained")
    roofs: dict[str, list[float]] = {}
    for cell in cells:
        intensity, color = cell["flops"] / cell["bytes"], COLORS[cell["work"]]
        axes.plot(intensity, cell["flops"] / cell["ours"]["ms"] / 1e6, "o", color=color, markersize=5)
        found = best(cell)
        if found:
            rate = cell["flops"] / (cell["ours"]["ms"] * found[1]) / 1e6
            axes.plot(intensity, rate, "x", color=color, markersize=5, alpha=0.6)
        roofs.setdefault(cell["roof"]["name"], []).append(cell["roof"]["per_second"] / 1e9)
    read = float(np.median(roofs.pop("read", [np.nan])))
    reach = np.geomspace(0.3, max([1e4, *(cell["flops"] / cell["bytes"] for cell in cells)]), 200)
    for name, rates in roofs.items():
        roof = float(np.median(rates))
        under = np.minimum(roof, read * reach) if np.isfinite(read) else roof + 0 * reach
        axes.plot(reach, under, color="#555555", linewidth=1)
        axes.annotate(f"{name} {roof:.0f} GFLOP/s", (reach[-1], roof), ha="right", va="bottom", fontsize=9)
    if np.isfinite(read):
        axes.annotate(f"read {read:.1f} GB/s", (1, read), rotation=35, va="bottom", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="useful flops per byte of operands and results")
    axes.set_ylabel("useful GFLOP/s")
    for work, color in COLORS.items():
        axes.plot([], [], "o", color=color, label=f"{work}: fusion_attention")
        axes.plot([], [], "x", color=color, label=f"{work}: the best peer", alpha=0.6)
    axes.legend(fontsize=8)
    axes.set_title(f"{results['cpu']} · 1 thread · torch {results['torch']}")
    figure.savefig(file, dpi=120)
    plt.close(figure)
