"""AMD's plugin: its attention operator, which takes what torch's takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import zentorch  # noqa: F401, registers the operator
from torch import Tensor

from ..operands import Piece
from .peer import Cannot, Peer

attend = torch.ops.zentorch.zentorch_sdpa


class Zentorch(Peer):
    def refuse(self, piece: Piece) -> None:
        super().refuse(piece)
        if piece.case.depth != piece.case.value_depth:
            raise Cannot("wants Dv = D")

    def forward(self, piece: Piece) -> Callable[[], Any]:
        q, k, v = piece.query, piece.key, piece.value
        causal = piece.kind == "causal"
        words = {"attn_mask": None if causal else piece.bias(), "scale": piece.scale}
        return lambda: attend(q, k, v, 0.0, causal, **words)

    def tensors(self, result: Any) -> list[Tensor]:
        return [result[0]]


def create(threads: int) -> Peer:
    return Zentorch()
