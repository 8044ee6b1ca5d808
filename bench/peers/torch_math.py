"""torch's composite path: matrices of scores in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..operands import Piece
from .peer import Peer, bounded_scores

math_path = torch.ops.aten._scaled_dot_product_attention_math


class Math(Peer):
    def refuse(self, piece: Piece) -> None:
        if piece.case.keep_prob == 1:
            super().refuse(piece)
        bounded_scores(piece, 4, 2 if piece.case.work == "forward" else 4)

    def _words(self, piece: Piece) -> dict[str, Any]:
        causal = piece.kind == "causal"
        return {
            "attn_mask": None if causal else piece.bias(),
            "dropout_p": 1 - piece.case.keep_prob,
            "is_causal": causal,
            "scale": piece.scale,
            "enable_gqa": piece.case.heads != piece.case.kv_heads,
        }

    def forward(self, piece: Piece) -> Callable[[], Any]:
        operands, words = (piece.query, piece.key, piece.value), self._words(piece)
        return lambda: math_path(*operands, **words)[:1]

    def backward(self, piece: Piece) -> Callable[[], Any]:
        leaves = [x.detach().requires_grad_() for x in (piece.query, piece.key, piece.value)]
        with torch.enable_grad():
            out = math_path(*leaves, **self._words(piece))[0]
        return lambda: torch.autograd.grad(out, leaves, piece.gradient, retain_graph=True)

    def training(self, piece: Piece) -> Callable[[], Any]:
        leaves = [x.detach().requires_grad_() for x in (piece.query, piece.key, piece.value)]
        words = self._words(piece)

        def step() -> Any:
            with torch.enable_grad():
                return torch.autograd.grad(math_path(*leaves, **words)[0], leaves, piece.gradient)

        return step

    def tensors(self, result: Any) -> list[Tensor]:
        return list(result)


def create(threads: int) -> Peer:
    return Math()
