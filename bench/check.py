"""Answers against float64: sampled rows of the output and of dQ, sampled keys of dK and dV.

An answer may be off by a few roundings of its dtype times the norm of the sum of its terms' magnitudes: of P
and the result (forward), of P, dP, dS and the result (backward). float32 is allowed 32, for its sums.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .case import Case
from .operands import Operands, Piece
from .ours import sink_of

ALLOWED = {"bfloat16": 4 * 2.0**-9, "float16": 4 * 2.0**-12, "float32": 32 * 2.0**-24}
MOST_PAIRS = 1 << 23  # of the heads whose dK and dV are checked


class Wrong(Exception):
    """An answer is off by more than allowed."""


class Score:
    """The largest error over what is allowed, and the relative error over all that was sampled."""

    def __init__(self) -> None:
        self.worst, self.where, self.error, self.norm = 0.0, "", 0.0, 0.0

    def add(self, got: Tensor, want: Tensor, size: Tensor, allowed: float, where: str) -> None:
        error = float((got.double() - want).norm())
        self.error, self.norm = self.error + error**2, self.norm + float(want.norm()) ** 2
        ratio = error / max(allowed * float(size), 1e-30)
        if not ratio <= self.worst:
            self.worst, self.where = ratio, where

    def verdict(self) -> dict[str, float]:
        if not self.worst <= 1:
            raise Wrong(f"answer off by {self.worst:.2g} of what is allowed, {self.where}")
        return {"of_allowed": self.worst, "relative_error": math.sqrt(self.error / max(self.norm, 1e-300))}


def check(
    case: Case, operands: Operands, answer: list[list[Tensor]], kept: Tensor | None
) -> dict[str, float]:
    """`answer`: per piece [out] or [dq, dk, dv], as [batch, heads, rows, channels]. `kept`: dropout bits."""
    score = Score()
    places = sorted({0, len(operands.pieces) - 1})
    for place in places:
        piece, got = operands.pieces[place], answer[place]
        for batch in sorted({0, piece.query.shape[0] - 1}):
            for head in sorted({0, case.heads - 1}):
                _rows(score, piece, got[0], batch, head, None if kept is None else kept[batch, head])
        shared = case.heads // case.kv_heads
        if case.work != "forward" and shared * piece.query.shape[2] * piece.key.shape[2] <= MOST_PAIRS:
            _keys(score, piece, got[1:], None if kept is None else kept[0])
    return score.verdict()


def _weights(piece: Piece, batch: int, head: int, rows: Tensor) -> Tensor:
    """P of some rows of one head, in float64."""
    case, group = piece.case, piece.case.heads // piece.case.kv_heads
    scores = piece.scale * (
        piece.query[batch, head, rows].double() @ piece.key[batch, head // group].double().T
    )
    sees = piece.sees(batch, rows)
    if sees is not None:
        scores = scores.masked_fill(~sees, -math.inf)
    if case.sink:
        column = sink_of(case.heads)[head].double().expand(len(rows), 1)
        return torch.softmax(torch.cat([scores, column], 1), 1)[:, :-1]
    return torch.softmax(scores, 1).nan_to_num(0.0)


def _rows(score: Score, piece: Piece, got: Tensor, batch: int, head: int, kept: Tensor | None) -> None:
    """The output of sampled rows; in a backward their dQ."""
    case, count = piece.case, piece.query.shape[2]
    rows = torch.tensor(sorted({0, min(1, count - 1), count // 3, count - 1}))
    kv = head // (case.heads // case.kv_heads)
    k, v = piece.key[batch, kv].double(), piece.value[batch, kv].double()
    p = _weights(piece, batch, head, rows)
    drop = 1.0 if kept is None else kept[rows].double() / case.keep_prob
    out, allowed = (p * drop) @ v, ALLOWED[case.dtype]
    where = f"head {head} of batch {batch}"
    for place, row in enumerate(rows):
        if case.work == "forward":
            size = ((p * drop)[place] @ v.abs()).norm()
            score.add(got[batch, head, row], out[place], size, allowed, f"row {row}, {where}")
            continue
        dy = piece.gradient[batch, head, row].double()
        dropped = drop if isinstance(drop, float) else drop[place]
        dp, delta = dropped * (v @ dy), dy @ out[place]
        dq = piece.scale * ((p[place] * (dp - delta)) @ k)
        # dP − Δ may cancel (one visible key: exactly), their rounding errors do not.
        terms = p[place] * (dp.abs() + dy.abs() @ out[place].abs())
        size = piece.scale * (terms @ k.abs()).norm()
        score.add(got[batch, head, row], dq, size, 2 * allowed, f"dQ of row {row}, {where}")


def _keys(score: Score, piece: Piece, got: list[Tensor], kept: Tensor | None) -> None:
    """dK and dV of sampled keys of the first kv head."""
    case, count = piece.case, piece.key.shape[2]
    keys = torch.tensor(sorted({0, count // 2, count - 1}))
    rows = torch.arange(piece.query.shape[2])
    v = piece.value[0, 0].double()
    sums = [torch.zeros(len(keys), x, dtype=torch.float64) for x in 2 * (case.depth, case.value_depth)]
    dk, dv, dk_terms, dv_terms = sums
    for head in range(case.heads // case.kv_heads):
        q, dy = piece.query[0, head].double(), piece.gradient[0, head].double()
        p = _weights(piece, 0, head, rows)
        drop = torch.ones_like(p) if kept is None else kept[head].double() / case.keep_prob
        out = (p * drop) @ v
        delta, magnitude = (dy * out).sum(1, keepdim=True), (dy.abs() * out.abs()).sum(1, keepdim=True)
        dp, weight = drop[:, keys] * (dy @ v[keys].T), p[:, keys]
        dk += piece.scale * ((weight * (dp - delta)).T @ q)
        dk_terms += piece.scale * ((weight * (dp.abs() + magnitude)).T @ q.abs())
        dv += (weight * drop[:, keys]).T @ dy
        dv_terms += (weight * drop[:, keys]).T @ dy.abs()
    allowed = 2 * ALLOWED[case.dtype]
    for place, key in enumerate(keys):
        score.add(got[0][0, 0, key], dk[place], dk_terms[place].norm(), allowed, f"dK of key {key}")
        score.add(got[1][0, 0, key], dv[place], dv_terms[place].norm(), allowed, f"dV of key {key}")
