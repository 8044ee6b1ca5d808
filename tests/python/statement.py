"""What the interface documents say npu_fusion_attention computes, element by element, in float64.

Written from the documents alone (training-ops, with the rulings above it): it knows layouts, modes and
tokens, and nothing of the library's Problem, Band or strides. One call = one dictionary of keyword arguments
in the spelling of version 2. Its parts: layout, mask, bias, dropout, arithmetic, each a file statement_*.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from statement_arithmetic import (
    FLAT,
    TINY,
    Answer,
    Pairs,
    backward_one,
    finite,
    forward_one,
    rounded,
    score_pairs,
    sum_heads,
)
from statement_bias import bias, distance, is_slope, places
from statement_dropout import dropout_factor
from statement_layout import join, lengths, split
from statement_mask import kept

GRADIENT_OF = {
    "query": "dq",
    "key": "dk",
    "value": "dv",
    "pse": "dpse",
    "query_rope": "dq_rope",
    "key_rope": "dk_rope",
    "sink": "dsink",
}


class Statement:
    """One family call, answered by the documents. Arrays are float64 copies of the rounded inputs."""

    def __init__(self, call: dict, dtype: str):
        self.call, self.dtype = call, dtype
        self.layout, self.heads = call["input_layout"], call["head_num"]
        self.packed = self.layout.upper() == "TND"
        q, k, v = (np.asarray(call[name], np.float64) for name in ("query", "key", "value"))
        self.q_lens = lengths(call["actual_seq_qlen"]) if self.packed else None
        self.kv_lens = lengths(call["actual_seq_kvlen"]) if self.packed else None
        if len(self.layout) == 3 and not self.packed:
            self.kv_heads = k.shape[-1] // (q.shape[-1] // self.heads)
        else:
            self.kv_heads = k.shape[{"BNSD": 1, "BSND": 2, "TND": 1}[self.layout.upper()]]
        self.group = self.heads // self.kv_heads
        self.q = split(q, self.layout, self.heads, self.q_lens)
        self.k = split(k, self.layout, self.kv_heads, self.kv_lens)
        self.v = split(v, self.layout, self.kv_heads, self.kv_lens)
        self.q_lens = [x.shape[1] for x in self.q]
        self.kv_lens = [x.shape[1] for x in self.k]
        self.depth = self.q[0].shape[-1]
        if call.get("query_rope") is not None:  # Q·Kᵀ + Qr·Krᵀ: channels of their own
            self._append_rope()
        sink = call.get("sink")
        self.sink = None if sink is None else np.asarray(sink, np.float64)
        self.scale = call.get("scale", 1.0)

    def _append_rope(self) -> None:
        q, k = (np.asarray(self.call[name], np.float64) for name in ("query_rope", "key_rope"))
        q_parts = split(q, self.layout, self.heads, self.q_lens)
        k_parts = split(k, self.layout, self.kv_heads, self.kv_lens)
        self.q = [np.concatenate(both, -1) for both in zip(self.q, q_parts)]
        self.k = [np.concatenate(both, -1) for both in zip(self.k, k_parts)]

    def _repeated(self, x: np.ndarray) -> np.ndarray:
        return np.repeat(x, self.group, 0)

    def _pairs(self) -> Iterator[Pairs]:
        for b, (q, k) in enumerate(zip(self.q, self.k)):
            where = (self.call, b, self.q_lens, self.kv_lens)
            added = None if self.call.get("pse") is None else bias(*where)
            factor = dropout_factor(*where)
            before = self.call.get("pse_type", 1) == 1
            yield score_pairs(
                q,
                self._repeated(k),
                added,
                before,
                self.scale,
                kept(*where),
                1.0 if factor is None else factor,
            )

    @property
    def numels(self) -> int:
        return self.heads * sum(a * b for a, b in zip(self.q_lens, self.kv_lens))

    def _join(self, answers: list[Answer], shape) -> Answer:
        return Answer(
            *(join([getattr(a, f) for a in answers], self.layout, shape) for f in ("value", "bound"))
        )

    def forward(self):
        """out, softmax_max, softmax_sum: the statistics per sequence as [N, S] lists of Answers."""
        with np.errstate(all="ignore"):
            each = [
                forward_one(pairs, self._repeated(v), self.sink, self.dtype)
                for pairs, v in zip(self._pairs(), self.v)
            ]
        outs, tops, totals = (list(x) for x in zip(*each))
        depth = self.v[0].shape[-1]
        shape = list(np.shape(self.call["query"]))
        shape[-1] = depth * self.heads if len(self.layout) == 3 and not self.packed else depth
        return self._join(outs, tuple(shape)), tops, totals

    def statistics(self, answers: list[Answer]) -> Answer:
        """Into the documented shape: [B, N, S, 8]; TND [T·N, 8], head-major unless asked natural."""
        if not self.packed:
            parts = [np.stack([getattr(a, f) for a in answers]) for f in ("value", "bound")]
            return Answer(*(np.repeat(p[..., None], 8, -1) for p in parts))
        natural = self.call.get("softmax_layout", "") == "TND"
        out = []
        for field in ("value", "bound"):
            blocks = [getattr(a, field).T if natural else getattr(a, field) for a in answers]
            out.append(np.concatenate([b.reshape(-1) for b in blocks]))
        return Answer(*(np.repeat(o[:, None], 8, -1) for o in out))

    def backward(self, dy, out, softmax_max, softmax_sum) -> dict[str, Answer | None]:
        """The documented gradients from the given output and statistics (arrays as the operator returned)."""
        dys, outs = (
            split(np.asarray(x, np.float64), self.layout, self.heads, self.q_lens) for x in (dy, out)
        )
        tops, totals = (self._unstack(np.asarray(x, np.float64)) for x in (softmax_max, softmax_sum))
        with np.errstate(all="ignore"):
            each = [
                backward_one(pairs, q, self._repeated(k), self._repeated(v), *rest, self.sink, self.dtype)
                for pairs, q, k, v, *rest in zip(
                    self._pairs(), self.q, self.k, self.v, dys, outs, tops, totals
                )
            ]
            dpse = self._bias_gradient([g.ds for g in each])
        dq = [g.dq for g in each]
        dk, dv = (
            [sum_heads(x, self.kv_heads, self.dtype) for x in y] for y in zip(*((g.dk, g.dv) for g in each))
        )
        rope = self.call.get("query_rope") is not None
        return {
            "dq": self._join(columns(dq, 0, self.depth), np.shape(self.call["query"])),
            "dk": self._join(columns(dk, 0, self.depth), np.shape(self.call["key"])),
            "dv": self._join(dv, np.shape(self.call["value"])),
            "dpse": dpse,
            "dq_rope": self._rope_gradient(dq, "query_rope") if rope else None,
            "dk_rope": self._rope_gradient(dk, "key_rope") if rope else None,
            "dsink": None
            if self.sink is None
            else Answer(*(sum(getattr(g.dsink, f) for g in each) for f in ("value", "bound"))),
        }

    def _rope_gradient(self, answers: list[Answer], name: str) -> Answer:
        return self._join(columns(answers, self.depth, None), np.shape(self.call[name]))

    def _bias_gradient(self, ds: list[Answer]) -> Answer | None:
        """dS (type 0) or scale·dS (type 1), summed over the pairs that read one number of pse.

        Of slopes −Σ dS·distance, in float32: what autograd gives where it is asked for.
        """
        if self.call.get("pse") is None:
            return None
        pse, slope = np.asarray(self.call["pse"]), is_slope(self.call)
        factor = self.scale if self.call.get("pse_type", 1) == 1 else 1.0
        value, error, size, count = (np.zeros(pse.size) for _ in range(4))
        for b, part in enumerate(ds):
            times = 1.0
            if slope:
                times = -distance(self.call, b, self.q_lens[b], self.kv_lens[b])
                head = np.arange(self.heads) + (b * self.heads if pse.ndim == 2 else 0)
                where = head[:, None, None] + np.zeros(part.value.shape, int)
            else:
                where = places(self.call, b, self.q_lens, self.kv_lens)
            read = where >= 0
            for into, what in (
                (value, times * part.value),
                (error, np.abs(times) * finite(part.bound)),
                (size, np.abs(times * finite(part.value))),
                (count, np.ones_like(part.value)),
            ):
                into += np.bincount(where[read], what[read], minlength=pse.size)
        bound = abs(factor) * (error + (count + 8) * FLAT * size + count * TINY) + TINY
        answer = factor * value
        bound += rounded(answer, "float32" if slope else self.dtype)
        return Answer(answer.reshape(pse.shape), bound.reshape(pse.shape))

    def _unstack(self, x) -> list[np.ndarray]:
        if not self.packed:
            return list(x[..., 0])
        natural, parts, start = self.call.get("softmax_layout", "") == "TND", [], 0
        flat = x.reshape(-1, 8)[:, 0]
        for n in self.q_lens:
            block = flat[start : start + n * self.heads]
            parts.append(block.reshape(n, self.heads).T if natural else block.reshape(self.heads, n))
            start += n * self.heads
        return parts


def columns(answers: list[Answer], first: int, last: int | None) -> list[Answer]:
    return [Answer(a.value[..., first:last], a.bound[..., first:last]) for a in answers]
