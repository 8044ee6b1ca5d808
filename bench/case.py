"""One cell of the matrix: what is computed, which pairs are visible, and how much of it is useful work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
PASSES = ("forward", "backward", "training")
CACHES = ("", "pages of 16", "pages of 128", "int8")
# A name, then a colon and a number where the mask has one. The first row of each is what the others say.
MASKS = (
    "full",
    "causal",  # from the top left
    "bottom",  # causal from the bottom right
    "window",  # that many keys up to and with the row's own, which is counted from the bottom right
    "around",  # that many keys on both sides of the row's own
    "prefix",  # causal, and so many first keys seen by all
    "documents",  # so many equal documents, causal in each, as a bool mask
    "kept",  # each pair visible with this probability, a bool mask
    "blocks",  # each 128 x 128 block visible with this probability, and the diagonal, a bool mask
    "padding",  # lengths of each batch entry's keys, as a bool mask
)
DENSE = ("documents", "kept", "blocks", "padding")


@dataclass(frozen=True)
class Case:
    id: str
    model: str
    dtype: str
    heads: int
    rows: int
    depth: int
    mask: str = "full"
    batch: int = 1
    kv_heads: int = 0  # 0: as heads
    keys: int = 0  # 0: as rows
    value_depth: int = 0  # 0: as depth
    work: str = "forward"  # one of PASSES; training is forward and backward through autograd
    layout: str = "BNSD"  # or TND: sequences of `lengths` rows and keys, packed
    lengths: tuple[int, ...] = ()
    keep_prob: float = 1.0
    sink: bool = False
    value_in_key: bool = False  # V is the first channels of K
    cache: str = ""  # one of CACHES
    threads: int = 1
    quick: int = 0  # rows (decode: keys) in the quick run; 0 is not part of it
    arch: str = ""  # an instruction set that this library is held to; such a case has no peers
    goal: int = 0  # percent of the roof that is good, 0 for none
    tile_goal: int = 0  # the same on a CPU with a tile unit
    note: str = ""  # how it differs from the matrix, and why

    def __post_init__(self) -> None:
        for name, default in (("kv_heads", self.heads), ("keys", self.rows), ("value_depth", self.depth)):
            object.__setattr__(self, name, getattr(self, name) or default)

    @property
    def name(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        size = f"{self.rows}" if self.rows == self.keys else f"{self.rows}x{self.keys}"
        if self.layout == "TND":
            size = f"{len(self.lengths)} seqs {sum(self.lengths)}"
        depth = f"{self.depth}" if self.depth == self.value_depth else f"{self.depth}/{self.value_depth}"
        kind = {"forward": "fwd", "backward": "bwd", "training": "fwd+bwd"}[self.work]
        more = [self.mask, self.cache, "sink" * self.sink, self.arch]
        more += [f"dropout {1 - self.keep_prob:.1f}"] if self.keep_prob < 1 else []
        words = " ".join(word for word in more if word)
        return f"{self.id} {kind} {SHORT[self.dtype]} b{self.batch} h{heads} s{size} d{depth} {words}"

    @property
    def key(self) -> str:
        """The name with the number of threads: what a result is found by."""
        return f"{self.name} · {self.threads}t"

    @property
    def pairs(self) -> int:
        """Visible (row, key) pairs of one head, over all batch entries or sequences."""
        if self.layout == "TND":
            return sum(visible_pairs(self.mask, n, n) for n in self.lengths)
        if self.mask == "padding":
            return self.rows * sum(self.lengths)
        return self.batch * visible_pairs(self.mask, self.rows, self.keys)

    @property
    def flops(self) -> float:
        """Useful ones: two products in the forward, five in the backward; hidden pairs count nothing."""
        forward, backward = self.depth + self.value_depth, 3 * self.depth + 2 * self.value_depth
        terms = {"forward": forward, "backward": backward, "training": forward + backward}[self.work]
        return 2.0 * terms * self.pairs * self.heads

    @property
    def bytes(self) -> float:
        """Operands and results, each once: what must pass through memory at least."""
        element = BYTES[self.dtype]
        stored = 1 if self.cache == "int8" else element
        tokens = sum(self.lengths) if self.layout == "TND" else 0
        rows = tokens or self.batch * self.rows
        keys = tokens or (sum(self.lengths) if self.lengths else self.batch * self.keys)
        channels = self.depth + (0 if self.value_in_key else self.value_depth)
        kv, q = keys * self.kv_heads * channels, rows * self.heads * (self.depth + self.value_depth)
        passes = {"forward": 1, "backward": 2, "training": 3}[self.work]
        return float(passes * (kv * stored + q * element))

    @property
    def is_decode(self) -> bool:
        """Bound by reading the keys, not by multiplying: the roof is the read bandwidth."""
        return self.work == "forward" and self.rows * self.heads // self.kv_heads <= 32 <= self.keys // 8

    @property
    def amount(self) -> float:
        """What the roof counts: bytes where keys are read, flops elsewhere."""
        return self.bytes if self.is_decode else self.flops

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key, "flops": self.flops, "bytes": self.bytes, **asdict(self)}


def parse_mask(mask: str) -> tuple[str, float]:
    kind, _, number = mask.partition(":")
    return kind, float(number or 0)


def interval(mask: str, rows: int, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """First visible key and one past the last, for each row of a mask that is no bool mask."""
    kind, number = parse_mask(mask)
    i = np.arange(rows)
    own = i + keys - rows  # counted from the bottom right
    low, high = {
        "full": (0 * i, 0 * i + keys),
        "causal": (0 * i, i + 1),
        "bottom": (0 * i, own + 1),
        "window": (own + 1 - int(number), own + 1),
        "around": (own - int(number), own + 1 + int(number)),
        "prefix": (0 * i, np.maximum(own + 1, int(number))),
    }[kind]
    return low.clip(0, keys), high.clip(0, keys)


def dense(mask: str, rows: int, keys: int, lengths: tuple[int, ...] = ()) -> np.ndarray:
    """A bool mask, True is visible: [rows, keys]; padding [len(lengths), rows, keys]."""
    kind, number = parse_mask(mask)
    random = np.random.default_rng(11)
    i, j = np.arange(rows)[:, None], np.arange(keys)[None]
    if kind == "padding":
        return np.broadcast_to(
            j[None] < np.asarray(lengths)[:, None, None], (len(lengths), rows, keys)
        ).copy()
    if kind == "documents":
        size = -(-rows // int(number))
        same: np.ndarray = i // size == j // size
        return same & (j <= i)
    if kind == "kept":
        return random.random((rows, keys), dtype=np.float32) < number
    if kind == "blocks":
        blocks = random.random((-(-rows // 128), -(-keys // 128))) < number
        np.fill_diagonal(blocks, True)
        return blocks[i // 128, j // 128]
    low, high = interval(mask, rows, keys)
    return (j >= low[:, None]) & (j < high[:, None])


def visible_pairs(mask: str, rows: int, keys: int) -> int:
    if parse_mask(mask)[0] in DENSE:
        return int(dense(mask, rows, keys).sum())
    low, high = interval(mask, rows, keys)
    return int((high - low).clip(0).sum())
