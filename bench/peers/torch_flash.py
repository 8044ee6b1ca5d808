"""torch's flash kernel for CPUs, called without the dispatch around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..operands import INT8_SCALE, Piece
from .peer import Cannot, Peer

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Flash(Peer):
    def refuse(self, piece: Piece) -> None:
        if piece.case.depth != piece.case.value_depth:
            raise Cannot("its flash kernel wants Dv = D")
        if piece.case.cache != "int8":  # dequantised in the call
            super().refuse(piece)

    def forward(self, piece: Piece) -> Callable[[], Any]:
        q, k, v = piece.query, piece.key, piece.value
        words: dict[str, Any] = {"is_causal": piece.kind == "causal", "scale": piece.scale}
        words["attn_mask"] = None if words["is_causal"] else piece.bias()
        stored = piece.stored
        if stored is None:
            return lambda: flash(q, k, v, 0.0, **words)

        def dequantised() -> Any:
            return flash(q, *(x.to(q.dtype) * INT8_SCALE for x in stored), 0.0, **words)

        return dequantised

    def backward(self, piece: Piece) -> Callable[[], Any]:
        # It wants as many kv heads as query heads: copies, made before the clock starts.
        operands = (piece.query, *piece.repeated())
        causal = piece.kind == "causal"
        words = {"attn_mask": None if causal else piece.bias(), "scale": piece.scale}
        out, lse = flash(*operands, 0.0, causal, **words)
        return lambda: flash_backward(piece.gradient, *operands, out, lse, 0.0, causal, **words)

    def training(self, piece: Piece) -> Callable[[], Any]:
        leaves = [x.detach().requires_grad_() for x in (piece.query, *piece.repeated())]
        words: dict[str, Any] = {"is_causal": piece.kind == "causal", "scale": piece.scale}
        words["attn_mask"] = None if words["is_causal"] else piece.bias()

        def step() -> Any:
            with torch.enable_grad():
                out = flash(*leaves, 0.0, **words)[0]
                return torch.autograd.grad(out, leaves, piece.gradient)

        return step

    def tensors(self, result: Any) -> list[Tensor]:
        return list(result[:1]) if len(result) == 2 else list(result)


def create(threads: int) -> Peer:
    return Flash()
