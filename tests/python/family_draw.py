"""One random call of npu_fusion_attention while it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def dense_shape(layout: str, batches: int, heads: int, rows: int, depth: int) -> tuple[int, ...]:
    return {
        "BSH": (batches, rows, heads * depth),
        "SBH": (rows, batches, heads * depth),
        "BSND": (batches, rows, heads, depth),
        "BNSD": (batches, heads, rows, depth),
    }[layout]


@dataclass
class Draw:
    """One call as it is drawn: its sizes, the keyword arguments so far and what its line says of them."""

    rng: np.random.Generator
    version: str
    layout: str
    dtype: str
    heads: int
    kv_heads: int
    depth: int
    value_depth: int
    q_lens: list[int]
    kv_lens: list[int]
    mode: int
    absent: int = 0  # trailing entries of the lists that take no part
    tail: int = 0  # rows past the last sequence
    call: dict = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def packed(self) -> bool:
        return self.layout == "TND"

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def normal(self, shape, dtype=None) -> np.ndarray:
        numbers = self.rng.standard_normal(shape).astype(np.float32)
        return numbers.astype(DTYPES[dtype or self.dtype])

    def say(self, text: str) -> None:
        self.said.append(text)

    def shape(self, heads: int, lens: list[int], depth: int) -> tuple[int, ...]:
        """A tensor of the layout; TND has `tail` rows beyond its sequences."""
        if self.packed:
            return (sum(lens) + self.tail, heads, depth)
        return dense_shape(self.layout, len(lens), heads, lens[0], depth)
