"""The arithmetic of one batch entry or sequence in float64, and the largest error of a correct kernel.

flat = 2⁻²⁴ is the roundoff of fp32, u that of the type, e what exp may lose. A score is off by

    δ = (D + 2)·flat·|scale|·Σ|q||k| + 4·flat·(|scale·q·k| + |bias|)         its dot product, scale and bias
      + 8·flat·(|s| + |max| + 1)                                              its way to the exponent

so that exp(s − max) = p is off by p·r, r = expm1(δ + e); the normaliser by Δ = Σ p·r / l + n·flat and

    |ô − o| ≤ Σ p·|v|·M·((1 + r)·(1 + 2u + 4·flat) / (1 − Δ) − 1 + n·flat) / l,

never above what a mean can be, with M = keep / keep_prob of dropout (1 without). The sink is a score
without δ's first line and without a value. The backward takes P = exp(s − max) / sum from exact
statistics, hence no Δ:

    dS = P·(M·dP − Δ), off by P·(1 + r)·(error of M·dP and of Δ) + (r + 2u)·|dS|

and dQ, dK, dV, dpse sum it with n·flat of the sum of magnitudes. What lies below 2⁻¹²⁶ may be lost.
A hidden pair reaches nothing: sums run over visible pairs, so that NaN there stays there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLAT = 2.0**-24
TINY = 4 * 2.0**-126
HEADROOM = 2.0**8  # a kernel's running reference may lie that far below the maximum
FLT_MAX = float(np.finfo(np.float32).max)


def unit_roundoff(dtype: str) -> float:
    """Half the spacing at 1: what one rounding to the type can cost, relative."""
    return {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]


def exp_error(dtype: str) -> float:
    return 7.5e-5 if dtype == "bfloat16" else 2e-7


def rounded(value: np.ndarray, dtype: str) -> np.ndarray:
    """What one rounding of the result costs: u of it, or half the spacing of the denormal halves; where the
    other types are denormal, all of it."""
    return unit_roundoff(dtype) * np.abs(value) + (2.0**-25 if dtype == "float16" else 2.0**-126)


@dataclass
class Answer:
    """One quantity: its value and the largest error that a correct kernel can make, element by element."""

    value: np.ndarray
    bound: np.ndarray


@dataclass
class Pairs:
    """What is known of each (head, row, key) of one sequence before the softmax: [N, Sq, Skv] each."""

    score: np.ndarray  # scaled and biased; 0 where hidden
    error: np.ndarray  # the first line of δ
    keep: np.ndarray
    factor: np.ndarray | float  # M
    scale: float

    def exponent_error(self, top: np.ndarray) -> np.ndarray:
        """δ, 0 at a score of −∞: its probability is 0 whatever is near it."""
        way = 8 * FLAT * (np.abs(self.score) + np.abs(top)[..., None] + 1)
        return np.where(self.keep & (self.score != -np.inf), self.error + way, 0)

    def dropped(self, x: np.ndarray) -> np.ndarray:
        """P, or dP, after dropout; what is dropped is 0 whatever it was."""
        return np.where(self.factor == 0, 0, x * self.factor)


def finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0)


def over_pairs(left: np.ndarray, right: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """left @ right over the visible pairs alone: [N, I, J] of [N, I, J'] with `left` 0 where hidden.

    NaN and infinity of a visible pair give NaN (0·∞ and ∞ − ∞ are not told apart: none are drawn).
    """
    if np.isfinite(left).all() and np.isfinite(right).all():
        return left @ right
    bad = visible.astype(np.float64) @ (~np.isfinite(right)).astype(np.float64)
    bad = bad + (visible & ~np.isfinite(left)).sum(-1, keepdims=True)
    return np.where(bad > 0, np.nan, finite(left) @ finite(right))


def score_pairs(q, k, bias, before_scale, scale, keep, factor) -> Pairs:
    """q [N, Sq, D], k of N heads, bias [N, Sq, Skv] or None."""
    dot = scale * (q @ k.transpose(0, 2, 1))
    terms = abs(scale) * (np.abs(q) @ np.abs(k).transpose(0, 2, 1))
    added = np.zeros(1) if bias is None else bias * (scale if before_scale else 1.0)
    error = (q.shape[-1] + 2) * FLAT * terms + 4 * FLAT * (np.abs(dot) + np.abs(added))
    error = error + abs(scale) * q.shape[-1] * TINY
    return Pairs(np.where(keep, dot + added, 0), np.where(keep, error, 0), keep, factor, scale)


def forward_one(pairs: Pairs, v, sink, dtype: str):
    """(out, max, sum) Answers; v repeated to N heads, sink [N] or None."""
    keys, u = v.shape[-2], unit_roundoff(dtype)
    s = np.where(pairs.keep, pairs.score, -np.inf)
    logit = np.full(s.shape[:2], -np.inf) if sink is None else np.repeat(sink[:, None], s.shape[1], 1)
    top = np.maximum(s.max(-1, initial=-np.inf), logit)  # of NaN NaN
    empty = top == -np.inf
    base = np.where(empty, 0, top)
    p = np.where(pairs.keep, np.exp(s - base[..., None]), 0)
    p_sink = np.exp(logit - base)
    total = np.where(empty, 1, p.sum(-1) + p_sink)

    delta = pairs.exponent_error(base)
    r = np.expm1(np.minimum(delta, 30) + exp_error(dtype))
    sink_delta = 8 * FLAT * (np.abs(base) + 1)
    off = (p * r).sum(-1) + p_sink * np.expm1(sink_delta + exp_error(dtype))
    off = off / total + (keys + 8) * FLAT
    kept_off = (1 + r) * (1 + 2 * u + 4 * FLAT) / np.maximum(1 - off, 1e-3)[..., None] - 1 + (keys + 8) * FLAT
    weight = pairs.dropped(p)
    out = over_pairs(weight, v, pairs.keep) / total[..., None]
    bound = finite(weight * kept_off) @ np.abs(finite(v)) / finite(total)[..., None]
    # Both are weighted means, whatever the weights.
    largest = np.max(pairs.factor, initial=0) * np.abs(finite(v)).max(1, initial=0)[:, None]
    bound = np.minimum(bound, np.abs(out) + largest * (1 + 2 * u))
    bound = bound + rounded(out, dtype) + keys * HEADROOM * TINY * (1 + largest)

    high = np.maximum((s + delta).max(-1, initial=-np.inf), logit + sink_delta)
    low = np.maximum((s - delta).max(-1, initial=-np.inf), logit - sink_delta)
    top_bound = np.maximum(high - top, top - low)
    sum_bound = total * (off + np.expm1(np.minimum(top_bound, 30)))
    alone = (s.max(-1, initial=-np.inf) == -np.inf)[..., None]  # scores of -inf weigh no value, not even NaN
    return (
        Answer(np.where(alone, 0, out), np.where(alone, 0, bound)),
        Answer(np.where(empty, -FLT_MAX, top), np.where(empty, 0, top_bound)),
        Answer(total, np.where(empty, 0, sum_bound)),
    )


@dataclass
class Gradients:
    """Of one sequence, per query head; ds is the gradient of the score before any rounding to the type."""

    dq: Answer
    dk: Answer
    dv: Answer
    ds: Answer
    dsink: Answer | None  # [N], of this sequence alone


def backward_one(pairs: Pairs, q, k, v, dy, out, top, total, sink, dtype: str) -> Gradients:
    """From the caller's statistics [N, Sq] and output [N, Sq, Dv], as documented."""
    u, rows, keys = unit_roundoff(dtype), q.shape[-2], k.shape[-2]
    alive = pairs.keep & (top != -FLT_MAX)[..., None]
    base = np.where(top == -FLT_MAX, 0, top)
    way = 8 * FLAT * np.abs(np.log(total))[..., None]
    r = np.expm1(np.minimum(pairs.exponent_error(base) + way, 30) + exp_error(dtype))
    p = np.where(alive, np.exp(pairs.score - base[..., None]) / total[..., None], 0)
    channels = (v.shape[-1] + 2) * FLAT
    dp = pairs.dropped(dy @ v.transpose(0, 2, 1))
    dp_error = pairs.factor * channels * (np.abs(dy) @ np.abs(v).transpose(0, 2, 1)) + 4 * FLAT * np.abs(dp)
    mean = (dy * out).sum(-1, keepdims=True)
    mean_error = channels * (np.abs(dy) * np.abs(out)).sum(-1, keepdims=True)
    ds = np.where(alive, p * (dp - mean), 0)
    left = dp_error + mean_error + 2 * FLAT * (np.abs(dp) + np.abs(mean))
    flushed = TINY * (1 + np.abs(dp) + np.abs(mean))  # P below 2⁻¹²⁶
    ds_error = np.where(alive, p * (1 + r) * left + (r + 2 * u) * np.abs(ds) + flushed, 0)
    weight = pairs.dropped(p)
    weight_error = np.where(alive, weight * (r + 2 * u + 4 * FLAT), 0)

    def product(left, left_error, right, visible, count, factor=1.0):
        value = factor * over_pairs(left, right, visible)
        size = np.abs(finite(right))
        error = abs(factor) * (finite(2 * left_error + count * FLAT * np.abs(left)) @ size)
        # What is below the flush threshold of a bf16 pair is lost before it meets the other factor.
        lost = abs(factor) * TINY * (1 + max(rows, keys)) * (1 + size.sum(-2, keepdims=True))
        return Answer(value, rounded(value, dtype) + error + lost)

    turn = (0, 2, 1)
    dsink = None if sink is None else sink_gradient(sink, base, top, total, mean, mean_error, dtype)
    return Gradients(
        product(ds, ds_error, k, alive, keys + 8, pairs.scale),
        product(
            ds.transpose(turn), ds_error.transpose(turn), q, alive.transpose(turn), rows + 8, pairs.scale
        ),
        product(weight.transpose(turn), weight_error.transpose(turn), dy, alive.transpose(turn), rows + 8),
        Answer(ds, ds_error),
        dsink,
    )


def sink_gradient(sink, base, top, total, mean, mean_error, dtype: str) -> Answer:
    """−Σ over the rows of P_sink·Δ: the sink takes weight from every value and has none of its own."""
    p = np.where(top == -FLT_MAX, 0, np.exp(sink[:, None] - base) / total)
    delta = 8 * FLAT * (np.abs(sink[:, None]) + np.abs(base) + np.abs(np.log(total)) + 1)
    r = np.expm1(np.minimum(delta, 30) + exp_error(dtype))
    mean, mean_error = mean[..., 0], mean_error[..., 0]
    error = p * (r * np.abs(mean) + (1 + r) * mean_error) + (p.shape[1] + 8) * FLAT * p * np.abs(mean)
    return Answer(-(p * mean).sum(-1), error.sum(-1) + TINY * (p.shape[1] + 1))


def sum_heads(answer: Answer, kv_heads: int, dtype: str) -> Answer:
    """Gradients of a kv head: the sum over the query heads that share it."""
    group = answer.value.shape[0] // kv_heads
    shape = (kv_heads, group, *answer.value.shape[1:])
    value = answer.value.reshape(shape).sum(1)
    # The rounding to the output type happens once, on the sum.
    parts = (answer.bound - rounded(answer.value, dtype)).reshape(shape)
    sums = group * FLAT * np.abs(answer.value).reshape(shape).sum(1)
    return Answer(value, rounded(value, dtype) + parts.sum(1) + sums)
