"""Pictures of masks, as text and as PNG: which keys each row sees. Knows no interface."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

TILE = 32  # rows and keys of the kernels' tiles
NONE, PART, FULL = "·", "▒", "█"
COLOURS = {"none": "#f2f2f2", "part": "#e69f00", "full": "#0072b2"}  # told apart by any eye


def matrix(visible: bytes, rows: int, keys: int) -> Any:
    """One byte per (row, key), row-major, as a boolean matrix."""
    import numpy as np

    return np.frombuffer(visible, np.uint8).reshape(rows, keys) != 0


def _cells(visible: np.ndarray, rows: int, keys: int) -> Any:
    """The share of visible pairs in each cell of a rows × keys grid laid over the mask."""
    import numpy as np

    def edges(size: int, cells: int) -> np.ndarray:
        return np.linspace(0, size, cells + 1).round().astype(int)

    down, across = edges(visible.shape[0], rows), edges(visible.shape[1], keys)
    sums = np.add.reduceat(np.add.reduceat(visible.astype(np.int64), down[:-1], 0), across[:-1], 1)
    return sums / (np.diff(down)[:, None] * np.diff(across)[None, :])


def text(visible: np.ndarray, width: int = 64, height: int = 32) -> str:
    """The mask in characters, rows downwards and keys to the right.

    ``█`` every pair of the cell is visible, ``▒`` some are, ``·`` none is. A mask larger than
    width × height is shown in equal cells.
    """
    rows, keys = visible.shape
    if rows == 0 or keys == 0:
        return f"(empty: {rows} rows, {keys} keys)"
    share = _cells(visible, min(rows, height), min(keys, width))
    lines = ["".join(FULL if s == 1 else NONE if s == 0 else PART for s in line) for line in share]
    scale = (
        ""
        if share.shape == visible.shape
        else f", one cell = {rows / len(lines):.4g} × {keys / len(lines[0]):.4g}"
    )
    return "\n".join([f"{rows} rows ↓   {keys} keys →{scale}", *lines])


def png(visible: np.ndarray, file: str | Path, title: str = "") -> Path:
    """Writes the mask to a PNG: tiles that are skipped, masked element by element, and computed whole.

    Needs matplotlib (extra ``docs``).
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("drawing a PNG needs matplotlib: pip install 'fusion_attention[docs]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    rows, keys = visible.shape
    down, across = max(1, -(-rows // TILE)), max(1, -(-keys // TILE))
    share = tiles(visible)
    kind = np.where(share == 1, 2, np.where(share == 0, 0, 1))
    size = 6.0
    figure, axes = plt.subplots(
        figsize=(size, size * min(max(rows / max(keys, 1), 0.3), 2)), layout="constrained"
    )
    axes.imshow(
        kind,
        cmap=ListedColormap(list(COLOURS.values())),
        vmin=0,
        vmax=2,
        extent=(0, across * TILE, down * TILE, 0),
    )
    if rows * keys <= 512 * 512:  # the pairs themselves, where a point of the picture can show one
        shade = np.zeros((rows, keys, 4))
        shade[..., 3] = np.where(visible, 0.0, 0.55)
        shade[..., :3] = 1.0
        axes.imshow(shade, extent=(0, keys, rows, 0), interpolation="nearest")
    axes.set(xlim=(0, keys), ylim=(rows, 0), xlabel="key", ylabel="row", title=title)
    counts = {name: int((kind == i).sum()) for i, name in enumerate(COLOURS)}
    handles = [Patch(color=COLOURS[name], label=f"{name}: {count}") for name, count in counts.items()]
    axes.legend(handles=handles, title=f"{TILE} × {TILE} tiles", loc="lower left", fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return Path(file)


def tiles(visible: np.ndarray) -> Any:
    """The share of visible pairs in each 32 × 32 tile; the ragged last tiles count the pairs that exist."""
    import numpy as np

    rows, keys = visible.shape
    down, across = np.arange(0, max(rows, 1), TILE), np.arange(0, max(keys, 1), TILE)
    if rows == 0 or keys == 0:
        return np.zeros((len(down), len(across)))
    sums = np.add.reduceat(np.add.reduceat(visible.astype(np.int64), down, 0), across, 1)
    sizes = np.minimum(TILE, rows - down)[:, None] * np.minimum(TILE, keys - across)[None, :]
    return sums / sizes
