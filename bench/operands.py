"""The tensors of a case, the same for every contender."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .case import DENSE, Case, dense, interval, parse_mask

# Numbers that are drawn; a larger tensor repeats them, and since this is odd, its rows differ all the same.
POOL = (1 << 22) + 1
INT8_SCALE = 1 / 32  # a power of two: the dequantised number is exact in every dtype


@dataclass
class Piece:
    """One dense problem [batch, heads, rows, channels]: the case itself, or one of its packed sequences."""

    case: Case
    query: Tensor
    key: Tensor
    value: Tensor
    gradient: Tensor
    stored: tuple[Tensor, Tensor] | None = None  # int8 key and value, where the cache is int8
    copies: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.case.depth)

    @property
    def mask(self) -> str:
        """The case's, "" where it hides nothing."""
        rows, keys = self.query.shape[2], self.key.shape[2]
        if self.case.mask == "full" or (self.case.mask == "bottom" and rows == 1):
            return ""
        return "causal" if self.case.mask == "bottom" and rows == keys else self.case.mask

    @property
    def kind(self) -> str:
        return parse_mask(self.mask)[0]

    @cached_property
    def keep(self) -> Tensor | None:
        """The mask as bool [1 or batch, 1, rows, keys], True is visible; None where it hides nothing."""
        if not self.mask:
            return None
        keep = torch.from_numpy(dense(self.mask, self.query.shape[2], self.key.shape[2], self.case.lengths))
        return keep.unsqueeze(1) if keep.dim() == 3 else keep[None, None]

    def sees(self, batch: int, rows: Tensor) -> Tensor | None:
        """The mask of some rows, bool [len(rows), keys], without the whole; None where it hides nothing."""
        if not self.mask:
            return None
        if self.kind in DENSE and self.keep is not None:
            return self.keep[batch if self.keep.shape[0] > 1 else 0, 0, rows]
        low, high = interval(self.mask, self.query.shape[2], self.key.shape[2])
        j = torch.arange(self.key.shape[2])
        return (j >= torch.from_numpy(low)[rows, None]) & (j < torch.from_numpy(high)[rows, None])

    def bias(self) -> Tensor | None:
        """What is added to the scores instead of a bool mask: 0 or −inf, in query's dtype."""
        if self.keep is None:
            return None
        return torch.zeros(self.keep.shape, dtype=self.query.dtype).masked_fill_(~self.keep, -math.inf)

    def repeated(self) -> tuple[Tensor, Tensor]:
        """Key and value with as many heads as query, for peers that share none."""
        group = self.query.shape[1] // self.key.shape[1]
        if group == 1:
            return self.key, self.value
        if group not in self.copies:
            self.copies[group] = self.key.repeat_interleave(group, 1), self.value.repeat_interleave(group, 1)
        return self.copies[group]

    def score_bytes(self, element: int) -> int:
        """Of one matrix of scores, for peers that write it."""
        return self.query.shape[0] * self.query.shape[1] * self.query.shape[2] * self.key.shape[2] * element


class Operands:
    """In the case's own layout (`query`, `key`, `value`, `gradient`) and as dense pieces for peers."""

    def __init__(self, case: Case):
        generator = torch.Generator().manual_seed(7)
        dtype = getattr(torch, case.dtype)
        self.case = case
        packed = case.layout == "TND"
        tokens = sum(case.lengths)

        def draw(heads: int, rows: int, depth: int) -> Tensor:
            shape = (tokens, heads, depth) if packed else (case.batch, heads, rows, depth)
            count = math.prod(shape)
            pool = torch.randn(min(count, POOL), generator=generator).to(dtype)
            return pool.repeat(-(-count // POOL))[:count].view(shape)

        self.query = draw(case.heads, case.rows, case.depth)
        self.key = draw(case.kv_heads, case.keys, case.depth)
        self.stored: tuple[Tensor, Tensor] | None = None
        if case.value_in_key:
            self.value = self.key[..., : case.value_depth]
        else:
            self.value = draw(case.kv_heads, case.keys, case.value_depth)
        if case.cache == "int8":
            key, value = (
                (x / INT8_SCALE).round().clamp(-127, 127).to(torch.int8) for x in (self.key, self.value)
            )
            self.stored = key, value
            self.key, self.value = ((x.to(dtype) * INT8_SCALE) for x in self.stored)
        forward = case.work == "forward"  # nobody reads its gradient
        self.gradient = self.query if forward else draw(case.heads, case.rows, case.value_depth)
        self.pieces = self._packed_pieces() if packed else [self._piece()]

    def _piece(self) -> Piece:
        return Piece(self.case, self.query, self.key, self.value, self.gradient, self.stored)

    def _packed_pieces(self) -> list[Piece]:
        tensors = (self.query, self.key, self.value, self.gradient)
        split = zip(*(x.split(list(self.case.lengths)) for x in tensors))
        return [
            Piece(self.case, *(x.transpose(0, 1).contiguous().unsqueeze(0) for x in sequence))
            for sequence in split
        ]

    def by_piece(self, result: Tensor) -> list[Tensor]:
        """A result in the case's layout as [batch, heads, rows, channels] per piece."""
        if self.case.layout != "TND":
            return [result]
        return [x.transpose(0, 1).unsqueeze(0) for x in result.split(list(self.case.lengths))]

    @property
    def has_dense_mask(self) -> bool:
        return parse_mask(self.case.mask)[0] in DENSE
