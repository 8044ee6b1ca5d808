"""The bias that pse puts on each score: training-ops 3.1 and 3.2, one number per (head, row, key)."""

from __future__ import annotations

import numpy as np

LAST_ROWS = 1024  # a compressed bias stores this many


def is_slope(call: dict) -> bool:
    return call.get("pse") is not None and call.get("pse_type", 1) in (2, 3)


def places(call: dict, batch: int, q_lens: list[int], kv_lens: list[int]) -> np.ndarray:
    """The index into the flattened pse (types 0, 1) that each pair [N, Sq, Skv] reads; −1: none.

    A pair that the causal mask of a compressed bias hides may have none.
    """
    shape, heads = np.asarray(call["pse"]).shape, call["head_num"]
    rows, keys = q_lens[batch], kv_lens[batch]
    n, i, j = np.ogrid[:heads, :rows, :keys]
    if len(shape) == 1:  # TND: [N, Sq, Skv] or [N, 1, Skv] of each sequence, one behind the other
        pairs = heads * sum(a * b for a, b in zip(q_lens, kv_lens))
        per_row = shape[0] == pairs
        start = heads * sum((a if per_row else 1) * b for a, b in zip(q_lens[:batch], kv_lens[:batch]))
        return start + (n * rows + i if per_row else n + 0 * i) * keys + j
    dense = call["input_layout"].upper() != "TND"
    if dense and shape[2] in (1, rows):
        row, column = (i if shape[2] > 1 else 0 * i), j
    else:
        row, column = compressed(i, j, rows)
    exists = (column >= 0) & (column < shape[3])
    first, head = (batch if shape[0] > 1 else 0), (n if shape[1] > 1 else 0)
    flat = ((first * shape[1] + head) * shape[2] + row) * shape[3] + column
    return np.where(exists, flat, -1) + 0 * n


def compressed(i: np.ndarray, j: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the last 1024 rows of a bias of j − i hold the number of (i, j): the formula of 3.2."""
    last = i >= size - LAST_ROWS
    m = np.where(last, i - (size - LAST_ROWS), i % LAST_ROWS)
    return m, np.where(last, j, size - (i - j) - (LAST_ROWS - m))


def distance(call: dict, batch: int, rows: int, keys: int) -> np.ndarray:
    """|j + kv0 − (i + q0)| or, type 3, its root: [Sq, Skv]. Mode 8 starts its first sequence alone."""
    q0, kv0 = ((call.get(name) or [0])[0] for name in ("q_start_idx", "kv_start_idx"))
    if call.get("sparse_mode", 0) == 8 and batch > 0:
        q0 = kv0 = 0
    i, j = np.arange(rows)[:, None], np.arange(keys)[None, :]
    apart = np.abs((j + int(kv0)) - (i + int(q0))).astype(np.float64)
    return np.sqrt(apart) if call["pse_type"] == 3 else apart


def slope_bias(call: dict, batch: int, rows: int, keys: int) -> np.ndarray:
    """−slope·distance: [N, Sq, Skv]."""
    slopes = np.asarray(call["pse"], np.float64)
    slope = slopes if slopes.ndim == 1 else slopes[batch]
    return -slope[:, None, None] * distance(call, batch, rows, keys)


def bias(call: dict, batch: int, q_lens: list[int], kv_lens: list[int]) -> np.ndarray:
    """What is added to scale·Q·Kᵀ or, type 1, to Q·Kᵀ, in float64."""
    if is_slope(call):
        return slope_bias(call, batch, q_lens[batch], kv_lens[batch])
    where = places(call, batch, q_lens, kv_lens)
    numbers = np.asarray(call["pse"]).astype(np.float64).reshape(-1)
    return np.where(where >= 0, numbers[np.maximum(where, 0)], 0.0)
