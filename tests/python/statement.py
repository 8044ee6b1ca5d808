"""What the interface documents say npu_fusion_attention computes, element by element, in float64.

Written from the documents alone: it knows layouts, modes and tokens, and nothing of the library's
Problem, Band or strides. One call = one dictionary of keyword arguments, the same that the operator gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

INT_MAX = 2147483647
FLT_MAX = float(np.finfo(np.float32).max)


def unit_roundoff(dtype: str) -> float:
    """Half the spacing at 1: what one rounding to the type can cost, relative."""
    return {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]


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


def kept(rows: int, keys: int, batch: int, heads: int, call: dict) -> np.ndarray:
    """keep[n, i, j] of one batch entry or sequence: the table of the documents, literally."""
    i, j = np.arange(rows)[:, None], np.arange(keys)[None, :]
    mask, mode = call.get("atten_mask"), call.get("sparse_mode", 0)
    everything = np.ones((heads, rows, keys), bool)
    if mask is None:  # the mode, the tokens and the prefix then have no effect
        return everything
    pre, post = call.get("pre_tokens", INT_MAX), call.get("next_tokens", INT_MAX)
    corner = keys - rows
    if mode in (2, 3, 4):
        formula = {2: j <= i, 3: j <= i + corner, 4: (j >= i + corner - pre) & (j <= i + corner + post)}[mode]
        return everything & formula
    full = np.asarray(mask) != 0
    if full.ndim == 2:
        full = full[None, None]
    entry = full[batch if full.shape[0] > 1 else 0][:, :rows, :keys]
    keep = everything & ~entry
    if mode == 0:
        keep &= (j >= i - pre) & (j <= i + post)
    return keep


@dataclass
class Answer:
    """One quantity: its value and the largest error that a correct kernel can make, element by element."""

    value: np.ndarray
    bound: np.ndarray


def scores(q, k, scale):
    """S = scale · Q·Kᵀ and the error of computing it in fp32, per head: [N, Sq, Skv] each."""
    with np.errstate(all="ignore"):
        s = scale * (q @ k.transpose(0, 2, 1))
        depth_error = (q.shape[-1] + 2) * 2.0**-24 * abs(scale) * (np.abs(q) @ np.abs(k).transpose(0, 2, 1))
        flushed = abs(scale) * q.shape[-1] * 2.0**-126 * 4
        return s, depth_error + 2 * 2.0**-24 * np.abs(s) + flushed


def forward_one(q, k, v, keep, scale, dtype):
    """(out, max, sum) Answers of one sequence; q [N, Sq, D], k and v repeated to N heads."""
    u, exp_error = unit_roundoff(dtype), 7.5e-5 if dtype == "bfloat16" else 2e-7
    s, s_error = scores(q, k, scale)
    visible = np.where(keep, s, -np.inf)
    top = visible.max(-1, initial=-np.inf)
    empty = ~np.isfinite(top)
    base = np.where(empty, 0, top)
    p = np.where(keep, np.exp(np.where(keep, s, 0) - base[..., None]), 0)
    total = np.where(empty, 1, p.sum(-1))
    # An error e of a score moves p by e; both the numerator and the normaliser move.
    row_error = np.where(keep, s_error, 0).max(-1, initial=0)
    p_relative = 2 * row_error + 2 * u + exp_error + (s.shape[-1] + 8) * 2.0**-24
    spread = (p @ np.abs(v)) / total[..., None]
    out = (p @ v) / total[..., None]
    out_bound = u * np.abs(out) + 2 * p_relative[..., None] * spread + v.shape[-2] * 2.0**-126 * 4
    out_bound += {"float16": 2.0**-25}.get(dtype, 0)  # half the spacing of the denormal halves
    maximum = np.where(empty, -FLT_MAX, top)
    max_bound = np.where(empty, 0, row_error + 4 * 2.0**-24 * np.abs(base))
    sum_relative = 2 * row_error + exp_error + 8 * 2.0**-24 * np.abs(base) + (s.shape[-1] + 8) * 2.0**-24
    return (
        Answer(np.where(empty[..., None], 0, out), np.where(empty[..., None], 0, out_bound)),
        Answer(maximum, max_bound),
        Answer(total, np.where(empty, 0, 2 * sum_relative * total)),
    )


def backward_one(q, k, v, dy, out, top, total, keep, scale, dtype):
    """(dq, dk, dv) Answers of one sequence per query head, from the caller's statistics and output."""
    u, exp_error = unit_roundoff(dtype), 7.5e-5 if dtype == "bfloat16" else 2e-7
    flat = 2.0**-24
    s, s_error = scores(q, k, scale)
    alive = keep & (top > -FLT_MAX)[..., None]
    s, s_error = np.where(alive, s, 0), np.where(alive, s_error, 0)
    base = np.where(top > -FLT_MAX, top, 0)[..., None]
    p = np.where(alive, np.exp(s - base) / total[..., None], 0)
    p_relative = (
        s_error + 8 * flat * (np.abs(base) + np.abs(np.log(total))[..., None] + np.abs(s)) + exp_error
    )
    dp = dy @ v.transpose(0, 2, 1)
    dp_error = (v.shape[-1] + 2) * flat * (np.abs(dy) @ np.abs(v).transpose(0, 2, 1))
    delta = (dy * out).sum(-1, keepdims=True)
    delta_error = (v.shape[-1] + 2) * flat * (np.abs(dy) * np.abs(out)).sum(-1, keepdims=True)
    ds = p * (dp - delta)
    ds_error = p * (dp_error + delta_error + 2 * flat * (np.abs(dp) + np.abs(delta))) + (
        p_relative + 2 * u
    ) * np.abs(ds)
    rows, keys = s.shape[-2:]
    floor = 4 * 2.0**-126 * (1 + max(rows, keys))

    def product(left, left_error, right, count, factor=1.0):
        value = factor * (left @ right)
        error = abs(factor) * ((2 * left_error + count * flat * np.abs(left)) @ np.abs(right))
        half = 2.0**-25 if dtype == "float16" else 0
        # What is below the flush threshold of a bf16 pair is lost before it meets the other factor.
        lost = abs(factor) * floor * (1 + np.abs(right).sum(-2, keepdims=True))
        return Answer(value, u * np.abs(value) + error + half + lost)

    dq = product(ds, ds_error, k, keys + 8, scale)
    dk = product(ds.transpose(0, 2, 1), ds_error.transpose(0, 2, 1), q, rows + 8, scale)
    dv = product(p.transpose(0, 2, 1), ((p_relative + u) * p).transpose(0, 2, 1), dy, rows + 8)
    return dq, dk, dv


def sum_heads(answer: Answer, kv_heads: int, dtype: str) -> Answer:
    """Gradients of a kv head: the sum over the query heads that share it."""
    group = answer.value.shape[0] // kv_heads
    shape = (kv_heads, group, *answer.value.shape[1:])
    u = unit_roundoff(dtype)
    value = answer.value.reshape(shape).sum(1)
    # The rounding to the output type happens once, on the sum.
    parts = (answer.bound - u * np.abs(answer.value)).reshape(shape)
    return Answer(
        value,
        u * np.abs(value) + parts.sum(1) + group * 2.0**-24 * np.abs(answer.value).reshape(shape).sum(1),
    )


class Statement:
    """One family call, answered by the documents. Arrays are float64 copies of the rounded inputs."""

    def __init__(self, call: dict, dtype: str):
        self.call, self.dtype = call, dtype
        self.layout, self.heads = call["input_layout"], call["head_num"]
        q, k, v = (np.asarray(call[name], np.float64) for name in ("query", "key", "value"))
        self.q_lens = lengths(call["actual_seq_qlen"]) if self.layout.upper() == "TND" else None
        self.kv_lens = lengths(call["actual_seq_kvlen"]) if self.layout.upper() == "TND" else None
        if len(self.layout) == 3 and self.layout.upper() != "TND":
            self.kv_heads = k.shape[-1] // (q.shape[-1] // self.heads)
        else:
            self.kv_heads = k.shape[{"BNSD": 1, "BSND": 2, "TND": 1}[self.layout.upper()]]
        self.group = self.heads // self.kv_heads
        self.q = split(q, self.layout, self.heads, self.q_lens)
        self.k = split(k, self.layout, self.kv_heads, self.kv_lens)
        self.v = split(v, self.layout, self.kv_heads, self.kv_lens)
        self.shapes = {"q": q.shape, "k": k.shape, "v": v.shape}
        self.scale = call.get("scale", 1.0)

    def _masks(self):
        for b, (q, k) in enumerate(zip(self.q, self.k)):
            batch = 0 if self.layout.upper() == "TND" else b
            yield kept(q.shape[1], k.shape[1], batch, self.heads, self.call)

    def _out_shape(self):
        depth = self.v[0].shape[-1] if self.v else 1
        shape = list(self.shapes["q"])
        shape[-1] = depth * self.heads if len(self.layout) == 3 and self.layout.upper() != "TND" else depth
        return tuple(shape)

    def _join(self, answers: list[Answer], shape) -> Answer:
        return Answer(
            *(join([getattr(a, f) for a in answers], self.layout, shape) for f in ("value", "bound"))
        )

    def forward(self):
        """out, softmax_max, softmax_sum: the statistics per sequence as [N, S] lists of Answers."""
        outs, tops, totals = [], [], []
        for q, k, v, keep in zip(self.q, self.k, self.v, self._masks()):
            k, v = (np.repeat(x, self.group, 0) for x in (k, v))
            out, top, total = forward_one(q, k, v, keep, self.scale, self.dtype)
            outs.append(out), tops.append(top), totals.append(total)
        return self._join(outs, self._out_shape()), tops, totals

    def statistics(self, answers: list[Answer], rows_shape) -> Answer:
        """Into the documented shape: [B, N, S, 8]; TND [T, N, 8], head-major unless asked natural."""
        if self.layout.upper() != "TND":
            parts = [np.stack([getattr(a, f) for a in answers]) for f in ("value", "bound")]
            return Answer(*(np.repeat(p[..., None], 8, -1) for p in parts))
        natural = self.call.get("softmax_layout", "") == "TND"
        out = []
        for field in ("value", "bound"):
            blocks = [getattr(a, field).T if natural else getattr(a, field) for a in answers]
            out.append(np.concatenate([b.reshape(-1) for b in blocks]) if blocks else np.zeros(0))
        return Answer(*(np.repeat(o[:, None], 8, -1) for o in out))

    def backward(self, dy, out, softmax_max, softmax_sum):
        """dq, dk, dv from the given output and statistics (arrays as the operator returned them)."""
        dys = split(np.asarray(dy, np.float64), self.layout, self.heads, self.q_lens)
        outs = split(np.asarray(out, np.float64), self.layout, self.heads, self.q_lens)
        tops, totals = (self._unstack(np.asarray(x, np.float64)) for x in (softmax_max, softmax_sum))
        dq, dk, dv = [], [], []
        for q, k, v, g, o, top, total, keep in zip(
            self.q, self.k, self.v, dys, outs, tops, totals, self._masks()
        ):
            repeated = [np.repeat(x, self.group, 0) for x in (k, v)]
            a, b, c = backward_one(q, *repeated, g, o, top, total, keep, self.scale, self.dtype)
            dq.append(a)
            dk.append(sum_heads(b, self.kv_heads, self.dtype))
            dv.append(sum_heads(c, self.kv_heads, self.dtype))
        return (
            self._join(dq, self.shapes["q"]),
            self._join(dk, self.shapes["k"]),
            self._join(dv, self.shapes["v"]),
        )

    def _unstack(self, x) -> list[np.ndarray]:
        if self.layout.upper() != "TND":
            return list(x[..., 0])
        flat, natural, parts, start = (
            x.reshape(-1, 8)[:, 0],
            self.call.get("softmax_layout", "") == "TND",
            [],
            0,
        )
        for n in self.q_lens:
            block = flat[start : start + n * self.heads]
            parts.append(block.reshape(n, self.heads).T if natural else block.reshape(self.heads, n))
            start += n * self.heads
        return parts
