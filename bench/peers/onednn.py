"""oneDNN Graph through torch's JIT fuser: matmul, mask, softmax, matmul as one group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..operands import Piece
from .peer import Cannot, Peer, bounded_scores

GROUP = "oneDNNFusionGroup"
WARM = 3  # the JIT profiles two runs and compiles in the third


class OneDnn(Peer):
    def refuse(self, piece: Piece) -> None:
        super().refuse(piece)
        if piece.case.dtype == "float16":
            raise Cannot("the fuser takes fp32 and bf16 alone")
        bounded_scores(piece, 4, 1)

    def forward(self, piece: Piece) -> Callable[[], Any]:
        operands = [piece.query, *piece.repeated()]
        bias, divisor = piece.bias(), 1 / piece.scale

        def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / divisor, -1), v)

        def masked(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
            return torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / divisor + m, -1), v)

        operands += [] if bias is None else [bias]
        traced = torch.jit.trace(plain if bias is None else masked, tuple(operands), check_trace=False)
        for _ in range(WARM):
            traced(*operands)
        if GROUP not in str(torch._C._last_executed_optimized_graph()):
            raise Cannot("the fuser made no group of it")
        return lambda: traced(*operands)


def create(threads: int) -> Peer:
    torch.jit.enable_onednn_fusion(True)
    torch._C._jit_set_autocast_mode(False)
    return OneDnn()
