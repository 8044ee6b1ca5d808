"""What the documents say the inference operators compute on floating operands, in float64.

Written from inference-ops A with the rulings above it, element by element: layouts, lengths, modes, tokens;
nothing of the library's Problem or Band. One call = one dictionary of keyword arguments in the spelling of
npu_prompt_flash_attention, whatever function takes it. Keys of a cache: `sequences` of a subclass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from statement_arithmetic import Answer, Pairs, forward_one, score_pairs
from statement_layout import join, lengths, split
from statement_mask import INT_MAX, shown_by_mode

MOST_HALF = 65504.0


@dataclass
class One:
    """One batch entry or packed sequence: the rows and keys that take part."""

    batch: int
    q: np.ndarray  # [N, Lq, D]
    k: np.ndarray  # [Nkv, Lk, D]
    v: np.ndarray  # [Nkv, Lk, Dv]


def per_batch(numbers, batches: int, size: int) -> list[int]:
    """A.4: one number for all, or the first B of a list."""
    if numbers is None:
        return [size] * batches
    numbers = [int(n) for n in numbers]
    return numbers * batches if len(numbers) == 1 else numbers[:batches]


def hidden_by_mask(call: dict, batch: int, rows: int, keys: int) -> np.ndarray:
    """A.5: the full mask of modes 0 and 1, True where it hides; its first rows and columns."""
    mask = np.asarray(call["atten_mask"]) != 0
    if mask.ndim == 4:
        mask = mask[:, 0]
    if mask.ndim == 3:
        mask = mask[batch if mask.shape[0] > 1 else 0]
    return mask[:rows, :keys]


def kept(call: dict, batch: int, rows: int, keys: int) -> np.ndarray:
    """A.6: keep[Lq, Lk], i and j counted within the sequence."""
    mode, keep = call.get("sparse_mode", 0), np.ones((rows, keys), bool)
    if call.get("atten_mask") is None:
        return keep
    pre, post = call.get("pre_tokens", INT_MAX), call.get("next_tokens", 0)
    if mode in (0, 1):
        keep &= ~hidden_by_mask(call, batch, rows, keys)
    return keep & shown_by_mode(mode, rows, keys, pre, post)


def rounded_to_half(dot: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ruling 18: Q·Kᵀ as a half, saturating, and how far off a dot product within `error` can land."""

    def half(x: np.ndarray) -> np.ndarray:
        return np.clip(x, -MOST_HALF, MOST_HALF).astype(np.float16).astype(np.float64)

    value = half(dot)
    return value, np.maximum(half(dot + error) - value, value - half(dot - error))


class InferenceStatement:
    """One call, answered by the documents. Arrays are float64 copies of the rounded inputs."""

    def __init__(self, call: dict, dtype: str, half_scores: bool = False):
        self.call, self.dtype, self.half_scores = call, dtype, half_scores
        letters = call.get("input_layout", "BSH").upper()
        self.layout, _, output = letters.partition("_")
        self.output_layout = output or self.layout
        self.heads = call.get("num_heads", 1)
        self.kv_heads = call.get("num_key_value_heads", 0) or self.heads
        self.group = self.heads // self.kv_heads
        self.scale = call.get("scale_value", 1.0)
        self.ones = self.sequences()

    def sequences(self) -> list[One]:
        arrays = [np.asarray(self.call[name], np.float64) for name in ("query", "key", "value")]
        heads = self.heads, self.kv_heads, self.kv_heads
        rows, keys = self.call.get("actual_seq_lengths"), self.call.get("actual_seq_lengths_kv")
        if self.layout == "TND":
            lens = lengths(rows), lengths(keys), lengths(keys)
            parts = zip(*(split(x, "TND", n, lens_) for x, n, lens_ in zip(arrays, heads, lens)))
            return [One(b, *part) for b, part in enumerate(parts)]
        q, k, v = (split(x, self.layout, n, None) for x, n in zip(arrays, heads))
        self.rows = q[0].shape[1] if q else 0
        row_counts = per_batch(rows, len(q), self.rows)
        key_counts = per_batch(keys, len(q), k[0].shape[1] if k else 0)
        return [
            One(b, q[b][:, :n], k[b][:, :m], v[b][:, :m])
            for b, (n, m) in enumerate(zip(row_counts, key_counts))
        ]

    def _bias(self, one: One) -> np.ndarray | None:
        """A.10: the top left corner."""
        if self.call.get("pse_shift") is None:
            return None
        pse = np.asarray(self.call["pse_shift"], np.float64)
        return pse[one.batch if pse.shape[0] > 1 else 0, :, : one.q.shape[1], : one.k.shape[1]]

    def _pairs(self, one: One) -> Pairs:
        keep = np.broadcast_to(
            kept(self.call, one.batch, one.q.shape[1], one.k.shape[1]),
            (self.heads, one.q.shape[1], one.k.shape[1]),
        )
        k, bias = np.repeat(one.k, self.group, 0), self._bias(one)
        if not self.half_scores or bias is not None:  # A.8: pse_shift keeps the high precision
            return score_pairs(one.q, k, bias, False, self.scale, keep, 1.0)
        exact = score_pairs(one.q, k, None, False, 1.0, keep, 1.0)
        dot, off = rounded_to_half(exact.score, exact.error)
        score, error = self.scale * dot, abs(self.scale) * off
        return Pairs(score, error + 2.0**-23 * np.abs(score), keep, 1.0, self.scale)

    def forward(self) -> Answer:
        """attention_out; rows that take no part are 0."""
        with np.errstate(all="ignore"):
            outs = [
                forward_one(self._pairs(one), np.repeat(one.v, self.group, 0), None, self.dtype)[0]
                for one in self.ones
            ]
        shape = self._output_shape()
        joined = []
        for field in ("value", "bound"):
            parts = [getattr(out, field) for out in outs]
            if self.layout != "TND":
                parts = [np.pad(part, ((0, 0), (0, self.rows - part.shape[1]), (0, 0))) for part in parts]
            joined.append(join(parts, self.output_layout, shape))
        return Answer(*joined)

    def empty_rows(self) -> np.ndarray:
        """1 where attention_out's row takes no part or sees no key, else 0, in attention_out's shape."""
        parts = []
        for one in self.ones:
            heads, rows, keys = self.heads, one.q.shape[1], one.k.shape[1]
            blind = ~kept(self.call, one.batch, rows, keys).any(-1)
            blind = np.pad(blind, (0, self.rows - rows), constant_values=True)
            parts.append(
                np.broadcast_to(blind[None, :, None], (heads, self.rows, one.v.shape[-1])).astype(float)
            )
        return join(parts, self.output_layout, self._output_shape())

    def _output_shape(self) -> tuple[int, ...]:
        query, value = np.shape(self.call["query"]), np.shape(self.call["value"])
        if self.layout == "BSH":
            return (*query[:2], self.heads * (value[2] // self.kv_heads))
        if self.output_layout != self.layout:
            query = (query[0], query[2], query[1], query[3])
        return (*query[:-1], value[-1])


def half_scores(call: dict, dtype: str, inner_precise: int) -> bool:
    """Ruling 18: float16 in high performance; npu_prompt_flash_attention's modes 10 to 14 are not."""
    return dtype == "float16" and inner_precise % 2 == 1


def quantised(answer: Answer, scale: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A.11's Q of an output that is known to within a bound: the least and the largest int8 it can be.

    scale, offset: one number, or as many as the last axes of the answer hold.
    """
    half = lambda x: x.astype(np.float16)  # noqa: E731
    factor, shift = half(np.asarray(scale, np.float32)), half(np.asarray(offset, np.float32))
    ends = []
    with np.errstate(over="ignore", invalid="ignore"):
        for value in (answer.value - answer.bound, answer.value + answer.bound):
            scaled = half(half(half(value) * factor) + shift)
            ends.append(np.clip(np.rint(scaled.astype(np.float64)), -128, 127))
    return np.minimum(*ends), np.maximum(*ends)
