"""Where a layout puts the numbers of each batch entry or sequence: training-ops 2 and 5."""

from __future__ import annotations

import numpy as np


def lengths(cumulative) -> list[int]:
    """Per-sequence lengths of a cumulative list without leading 0; trailing zeros are absent sequences."""
    ends = [0, *map(int, cumulative)]
    return [max(b - a, 0) for a, b in zip(ends, ends[1:])]


def split(x: np.ndarray, layout: str, heads: int, lens: list[int] | None) -> list[np.ndarray]:
    """The [heads, S, D] arrays of each batch entry (of each sequence for TND)."""
    layout = layout.upper()
    if layout == "TND":
        starts = np.cumsum([0, *lens])
        return [x[a : a + n].transpose(1, 0, 2) for a, n in zip(starts, lens)]
    if layout in ("BSH", "SBH"):
        if layout == "SBH":
            x = x.transpose(1, 0, 2)
        batches, rows, width = x.shape
        return list(x.reshape(batches, rows, heads, width // heads).transpose(0, 2, 1, 3))
    return list(x if layout == "BNSD" else x.transpose(0, 2, 1, 3))


def join(parts: list[np.ndarray], layout: str, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of split, into the shape of the layout; rows past the last sequence are zero."""
    out = np.zeros(shape, parts[0].dtype if parts else np.float64)
    layout, row = layout.upper(), 0
    for b, part in enumerate(parts):  # part: [N, S, D]
        heads, rows, depth = part.shape
        if layout == "TND":
            out[row : row + rows] = part.transpose(1, 0, 2)
            row += rows
        elif layout == "BNSD":
            out[b] = part
        elif layout == "BSND":
            out[b] = part.transpose(1, 0, 2)
        elif layout == "BSH":
            out[b] = part.transpose(1, 0, 2).reshape(rows, heads * depth)
        else:
            out[:, b] = part.transpose(1, 0, 2).reshape(rows, heads * depth)
    return out
