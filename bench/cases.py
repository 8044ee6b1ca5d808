"""The cells: what is computed, and how much of it is useful work."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Case:
    dtype: str  # "bfloat16", "float16", "float32"
    depth: int
    rows: int
    causal: bool
    backward: bool
    batch: int = 1
    heads: int = 8
    kv_heads: int = 8

    @property
    def name(self) -> str:
        short = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[self.dtype]
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        kind = "bwd" if self.backward else "fwd"
        mask = "causal" if self.causal else "full"
        return f"{kind} {short} b{self.batch} h{heads} s{self.rows} d{self.depth} {mask}"

    @property
    def flops(self) -> float:
        pairs = self.rows * (self.rows + 1) / 2 if self.causal else self.rows**2
        return (10 if self.backward else 4) * self.depth * pairs * self.batch * self.heads

    def describe(self) -> dict:
        return {"name": self.name, "flops": self.flops, **asdict(self)}


def cells(quick: bool) -> list[Case]:
    """Forward and backward, D 64 and 128, full and causal; the full run adds fp16, lengths and GQA."""
    base = [
        Case(dtype, depth, 2048, causal, backward)
        for backward in (False, True)
        for dtype in ("bfloat16", "float32")
        for depth in (128, 64)
        for causal in (False, True)
    ]
    if quick:
        return base
    more = [Case("float16", depth, 2048, causal, False) for depth in (128, 64) for causal in (False, True)]
    more += [Case("bfloat16", 128, rows, True, False, heads=32, kv_heads=8) for rows in (512, 2048)]
    more += [Case("float32", 64, rows, False, False, batch=8, heads=12, kv_heads=12) for rows in (128, 384)]
    return base + more
