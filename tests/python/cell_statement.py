"""What the document says the acctransformer cell computes, element by element, in float64.

Written from the document alone (and ruling 17 where it is silent): nothing here knows of bands, overlays or
planes. Values come with the largest error that a correct kernel can make.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from statement_arithmetic import Answer, unit_roundoff

FLAT = 2.0**-24


@dataclass
class Cell:
    """One call: the constructor's words, and the operands as float64."""

    words: dict
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mask: np.ndarray | None
    alibi: np.ndarray | None
    dtype: str
    kept: np.ndarray | float = 1.0  # 1 where dropout keeps, [B, N, Sq, Skv]
    seen: np.ndarray = field(init=False)
    p: np.ndarray = field(init=False)

    def added(self) -> np.ndarray:
        """What joins the scaled scores: alibi − 10000·mask, a small mask on the tiles of the diagonal."""
        rows, keys = self.query.shape[2], self.key.shape[2]
        total = np.zeros((self.query.shape[0], self.query.shape[1], rows, keys))
        if self.alibi is not None:
            total += self.alibi
        if self.mask is None:
            return total
        mask = self.mask if self.mask.ndim == 3 else self.mask[None]
        tile = self.tile()
        if mask.shape[1:] == (rows, keys):
            return total - 10000.0 * mask[:, None]
        i, j = np.arange(rows)[:, None], np.arange(keys)[None]
        return total - 10000.0 * np.where(i // tile == j // tile, mask[0][i % tile, j % tile], 0)

    def tile(self) -> int:
        return 64 if self.words.get("tiling_stgy_name") == "wukong" else 128

    def forward(self) -> Answer:
        q, k, v, u = self.query, self.key, self.value, unit_roundoff(self.dtype)
        scale = 1 / np.sqrt(q.shape[-1])
        i, j = np.arange(q.shape[2])[:, None] // self.tile(), np.arange(k.shape[2])[None] // self.tile()
        prev, after = (self.words.get(f"{side}_block_num", 65536) for side in ("prev", "next"))
        self.seen = (j >= i - prev) & (j <= i + after)
        added = self.added()
        y = scale * (q @ k.swapaxes(2, 3)) + added
        size = scale * (np.abs(q) @ np.abs(k).swapaxes(2, 3))
        self.y_error = (q.shape[-1] + 4) * FLAT * size + 4 * FLAT * (np.abs(y) + np.abs(added))
        top = np.where(self.seen, y, -np.inf).max(-1, keepdims=True, initial=-np.inf)
        top = np.where(np.isfinite(top), top, 0)
        p = np.exp(np.where(self.seen, y - top, -np.inf))
        total = p.sum(-1, keepdims=True)
        p /= np.where(total == 0, 1, total)
        # A score that adds nothing has no error that matters.
        row_error = np.where(p > 1e-30, self.y_error, 0).max(-1, keepdims=True, initial=0)
        exp_error = 7.5e-5 if self.dtype == "bfloat16" else 2e-7
        # In fp32 the reference of a row of scores about −10000 moves them all, and each sum by as much.
        base = 8 * FLAT * np.abs(top)
        self.p_error = 2 * row_error + base + 2 * u + exp_error + (k.shape[2] + 8) * FLAT
        self.p, self.factor = p, self.kept / (1 - self.words.get("dropout_rate", 0.0))
        weights = p * self.factor
        out = weights @ v
        bound = u * np.abs(out) + 2 * self.p_error * (weights @ np.abs(v)) + 2.0**-25
        self.out = out
        return Answer(out, bound)

    def backward(self, dy: np.ndarray) -> list[Answer]:
        """dq, dk, dv after forward()."""
        q, k, v, u = self.query, self.key, self.value, unit_roundoff(self.dtype)
        scale, p, weights = 1 / np.sqrt(q.shape[-1]), self.p, self.p * self.factor
        dp = (dy @ v.swapaxes(2, 3)) * self.factor
        dp_error = (v.shape[-1] + 2) * FLAT * (np.abs(dy) @ np.abs(v).swapaxes(2, 3)) * self.factor
        delta = (dy * self.out).sum(-1, keepdims=True)
        # The backward reads the rounded output.
        delta_error = (u + (v.shape[-1] + 2) * FLAT) * (np.abs(dy) * np.abs(self.out)).sum(-1, keepdims=True)
        delta_error += 2 * (np.abs(dy) * (self.p_error * (weights @ np.abs(v)))).sum(-1, keepdims=True)
        ds = p * (dp - delta)
        ds_error = p * (dp_error + delta_error) + (self.p_error + 2 * u) * (np.abs(ds) + 4 * u * p)

        def product(left, error, right, factor=1.0):
            value = factor * (left @ right)
            spread = factor * ((2 * error + (left.shape[-1] + 8) * FLAT * np.abs(left)) @ np.abs(right))
            return Answer(value, u * np.abs(value) + spread + 2.0**-24)

        return [
            product(ds, ds_error, k, scale),
            product(ds.swapaxes(2, 3), ds_error.swapaxes(2, 3), q, scale),
            product(weights.swapaxes(2, 3), ((self.p_error + u) * weights).swapaxes(2, 3), dy),
        ]
