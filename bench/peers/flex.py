"""FlexAttention, compiled for each case; its masks are the functions that its block masks are made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ..case import DENSE, parse_mask
from ..operands import Piece
from .peer import Cannot, Peer


class Flex(Peer):
    def refuse(self, piece: Piece) -> None:
        super().refuse(piece)
        if piece.case.work != "forward":
            raise Cannot("has no backward on CPUs")

    def forward(self, piece: Piece) -> Callable[[], Any]:
        torch._dynamo.reset()  # a graph per case, or the eighth case would not be compiled
        compiled = torch.compile(flex_attention, dynamic=False)
        rows, keys = piece.query.shape[2], piece.key.shape[2]
        block_mask = None
        if piece.mask:
            shared = piece.keep is None or piece.keep.shape[0] == 1
            batch = None if shared else piece.query.shape[0]
            block_mask = create_block_mask(visible(piece), batch, None, rows, keys, device="cpu")
        words: dict[str, Any] = {
            "block_mask": block_mask,
            "scale": piece.scale,
            "enable_gqa": piece.case.heads != piece.case.kv_heads,
        }
        return lambda: compiled(piece.query, piece.key, piece.value, **words)


def visible(piece: Piece) -> Callable[..., Any]:
    """The mask as a function of batch, head, row and key."""
    kind, amount = parse_mask(piece.mask)
    number = int(amount)
    offset = piece.key.shape[2] - piece.query.shape[2]
    if kind == "documents":
        size = -(-piece.query.shape[2] // number)
        return lambda b, h, i, j: (i // size == j // size) & (j <= i)
    if kind == "padding":
        lengths = torch.tensor(piece.case.lengths)
        return lambda b, h, i, j: j < lengths[b]
    if kind in DENSE and piece.keep is not None:
        keep = piece.keep[0, 0]
        return lambda b, h, i, j: keep[i, j]
    return {
        "causal": lambda b, h, i, j: j <= i,
        "bottom": lambda b, h, i, j: j <= i + offset,
        "window": lambda b, h, i, j: (j <= i + offset) & (j > i + offset - number),
        "around": lambda b, h, i, j: (j <= i + offset + number) & (j >= i + offset - number),
        "prefix": lambda b, h, i, j: (j <= i + offset) | (j < number),
    }[kind]


def create(threads: int) -> Peer:
    return Flex()
