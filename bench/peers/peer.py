"""What a peer is: a call per dense piece and pass, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..operands import Piece

MOST_SCORES = 4 << 30  # bytes of scores that a peer may write


class Cannot(Exception):
    """The peer has no words for the case, or not the memory."""


class Peer:
    """`call` says no with `Cannot`; `tensors` are the results of a call as [batch, heads, rows, channels]."""

    def call(self, piece: Piece) -> Callable[[], Any]:
        self.refuse(piece)
        works = {"forward": self.forward, "backward": self.backward, "training": self.training}
        return works[piece.case.work](piece)

    def refuse(self, piece: Piece) -> None:
        """What no peer here has; peers add their own."""
        case = piece.case
        if case.sink:
            raise Cannot("has no sinks")
        if case.cache.startswith("pages"):
            raise Cannot("has no paged cache")
        if case.cache == "int8":
            raise Cannot("has no int8 cache")
        if case.keep_prob < 1:
            raise Cannot("has no fused dropout")

    def forward(self, piece: Piece) -> Callable[[], Any]:
        raise NotImplementedError

    def backward(self, piece: Piece) -> Callable[[], Any]:
        raise Cannot("has no backward")

    def training(self, piece: Piece) -> Callable[[], Any]:
        raise Cannot("has no backward")

    def tensors(self, result: Any) -> list[Tensor]:
        return [result]


def bounded_scores(piece: Piece, element: int, copies: int) -> None:
    needed = piece.score_bytes(element) * copies
    if needed > MOST_SCORES:
        raise Cannot(f"would write {needed / 2**30:.0f} GiB of scores")
