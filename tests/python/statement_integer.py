"""int8 attention as the documents state it and `fusion_attention/integer.h` fixes its roundings, in NumPy.

One head of one sequence. Every number is a half or an fp32 where the definition says so; what is left over is
exact: integers, and sums of halves below 2^53.
"""

from __future__ import annotations

import numpy as np

TILE = 1024
MOST = 65504.0


def half(x) -> np.ndarray:
    """To the nearest half, ties to even, saturating; infinities and NaN stay. Held as float64."""
    x = np.asarray(x, dtype=np.float64)
    rounded = np.clip(x, -MOST, MOST).astype(np.float16).astype(np.float64)
    return np.where(np.isinf(x), x, rounded)


def scaled(sums: np.ndarray, scale: float) -> np.ndarray:
    """An int32 times an fp32 scale: both rounded to fp32, and their product, then to a half."""
    with np.errstate(over="ignore"):
        product = sums.astype(np.float32) * np.float32(scale)
    return half(np.clip(product.astype(np.float64), -MOST, MOST))


def quantised_weights(weights: np.ndarray, scale: float) -> np.ndarray:
    """Q(weights, scale, 0), int8 values held as int64."""
    y = half(weights * half(np.clip(np.float32(scale), -MOST, MOST)))
    return np.clip(np.rint(y), -128, 127).astype(np.int64)


def quantised_output(y: np.ndarray, scale: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """Q(y, scale, offset) of halves, int8: every step an IEEE half, which may become infinite; NaN is 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = y.astype(np.float16) * scale.astype(np.float16)
        if offset is not None:
            x = x + offset.astype(np.float16)
    return np.clip(np.rint(np.where(np.isnan(x), 0, x)), -128, 127).astype(np.int8)


def scores(query, key, scale, deq_scale1, bias=None) -> np.ndarray:
    dots = query.astype(np.int64) @ key.astype(np.int64).T
    one = half(scaled(dots, deq_scale1) * half(np.clip(np.float32(scale), -MOST, MOST)))
    return one if bias is None else half(one + np.asarray(bias, dtype=np.float64))


def integer_attention(
    query, key, value, visible, *, scale, deq_scale1, quant_scale1, deq_scale2, bias=None
) -> tuple[np.ndarray, np.ndarray]:
    """The halves y, as float64, and which rows see something.

    Args:
        query [rows, D], key [keys, D], value [keys, Dv]: int8.
        visible [rows, keys]: what the masks leave.
        bias [rows, keys]: halves, added after the scale.
    """
    rows, keys = visible.shape
    all_scores = scores(query, key, scale, deq_scale1, bias)
    out = np.zeros((rows, value.shape[1]))
    sees = np.zeros(rows, dtype=bool)
    for i in range(rows):
        seen = all_scores[i][visible[i]]
        if np.isnan(seen).any() or (seen == np.inf).any():
            out[i], sees[i] = np.nan, True
            continue
        top, total, row = None, np.float32(0), np.zeros(value.shape[1])
        for first in range(0, keys, TILE):
            at = np.flatnonzero(visible[i, first : first + TILE]) + first
            at = at[all_scores[i, at] > -np.inf]
            if at.size == 0:
                continue
            tile = all_scores[i, at]
            before, top = top, tile.max() if top is None else max(top, tile.max())
            alpha = 0.0 if before is None else float(half(np.exp(half(before - top))))
            weights = half(np.exp(half(tile - top)))
            total = np.float32(np.float32(total * np.float32(alpha)) + np.float32(weights.sum()))
            share = scaled(quantised_weights(weights, quant_scale1) @ value[at].astype(np.int64), deq_scale2)
            row = half((row * alpha).astype(np.float32) + share.astype(np.float32))
        if top is not None:
            out[i], sees[i] = half(row / half(total)), True
    return out, sees
