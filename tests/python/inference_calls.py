"""Random legal calls of the prompt interfaces: every layout, mask, length and option of the documents."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from statement_inference import INT_MAX

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
MASK_TYPES = (bool, np.uint8, np.int8, np.float16)


def shape_of(layout: str, batches: int, heads: int, rows: int, depth: int) -> tuple[int, ...]:
    return {
        "BSH": (batches, rows, heads * depth),
        "BNSD": (batches, heads, rows, depth),
        "BSND": (batches, rows, heads, depth),
        "BNSD_BSND": (batches, heads, rows, depth),
    }[layout]


class Prompt:
    """One call while it is drawn. mindspore: within what that document takes."""

    def __init__(self, seed: int, mindspore: bool):
        self.rng = rng = np.random.default_rng(seed)
        self.mindspore = mindspore
        layouts = ("BSH", "BNSD") if mindspore else ("BSH", "BNSD", "BSND", "BNSD_BSND", "TND")
        self.layout = str(rng.choice(layouts))
        self.dtype = str(rng.choice(["float16", "bfloat16"] if mindspore else [*DTYPES]))
        self.kv_heads = int(rng.choice([1, 1, 2, 3]))
        self.heads = self.kv_heads * int(rng.choice([1, 1, 2, 4]))
        depths = (
            [16, 32, 48, 80, 128]
            if mindspore and self.dtype == "bfloat16"
            else [1, 5, 16, 24, 40, 64, 72, 130]
        )
        self.depth = int(rng.choice(depths))
        self.value_depth = self.depth if mindspore or rng.random() < 0.8 else int(rng.choice([8, 33, 64]))
        self.batches = int(rng.choice([1, 2, 3]))
        self.rows, self.keys = (int(rng.choice([1, 2, 7, 17, 33, 70, 129, 200])) for _ in range(2))
        self.call: dict = {}

    def numbers(self, *shape: int, dtype: str = "") -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32).astype(DTYPES[dtype or self.dtype])

    def draw(self) -> tuple[dict, str, str]:
        """(call, dtype, its line)"""
        (self.packed_operands if self.layout == "TND" else self.dense_operands)()
        self.call |= {"num_heads": self.heads, "input_layout": self.layout}
        if self.kv_heads != self.heads or self.rng.random() < 0.5:
            self.call["num_key_value_heads"] = self.kv_heads
        self.call["scale_value"] = float(self.rng.choice([self.depth**-0.5, -0.3, 1.0, 0.0]))
        self.mask()
        if self.layout != "TND" and self.rng.random() < 0.25:
            self.bias()
        if not self.mindspore and self.rng.random() < 0.1:
            self.call["input_layout"] = self.layout.lower()
        said = {
            name: x if np.ndim(x) < 2 else f"{np.asarray(x).dtype}{list(np.shape(x))}"
            for name, x in self.call.items()
        }
        return self.call, self.dtype, f"{self.dtype} {said}"

    def dense_operands(self) -> None:
        sizes = (
            ("query", self.heads, self.rows, self.depth),
            ("key", self.kv_heads, self.keys, self.depth),
            ("value", self.kv_heads, self.keys, self.value_depth),
        )
        for name, heads, rows, depth in sizes:
            self.call[name] = self.numbers(*shape_of(self.layout, self.batches, heads, rows, depth))
        self.lens = []
        for name, size in (("actual_seq_lengths", self.rows), ("actual_seq_lengths_kv", self.keys)):
            count = int(self.rng.choice([0, 0, 1, self.batches, self.batches]))
            if count > 1 and not self.mindspore and self.rng.random() < 0.2:
                count += 2  # the first B count
            drawn = [
                int(self.rng.integers(0 if self.rng.random() < 0.2 else 1, size + 1)) for _ in range(count)
            ]
            if count:
                self.call[name] = drawn if self.rng.random() < 0.5 else np.array(drawn, np.int64)
            self.lens.append(
                (drawn * self.batches if count == 1 else drawn or [size] * self.batches)[: self.batches]
            )

    def packed_operands(self) -> None:
        self.lens = [
            [int(self.rng.integers(0, size + 1)) for _ in range(self.batches)]
            for size in (self.rows, self.keys)
        ]
        for row in self.lens:
            row[0] = max(row[0], 1)
        self.call["actual_seq_lengths"] = np.cumsum(self.lens[0]).tolist()
        self.call["actual_seq_lengths_kv"] = np.cumsum(self.lens[1]).tolist()
        tokens, keys = sum(self.lens[0]) + int(self.rng.choice([0, 0, 3])), sum(self.lens[1])
        self.call["query"] = self.numbers(tokens, self.heads, self.depth)
        self.call["key"] = self.numbers(keys, self.kv_heads, self.depth)
        self.call["value"] = self.numbers(keys, self.kv_heads, self.value_depth)

    def mask(self) -> None:
        modes = [0, 2, 3, 4] if self.layout == "TND" else [0, 0, 1, 2, 3, 4]
        mode = int(self.rng.choice(modes))
        if mode == 0 and (self.layout == "TND" or self.rng.random() < 0.3):
            if self.rng.random() < 0.3:
                self.call |= {"pre_tokens": 3, "next_tokens": -2}  # without a mask nothing heeds them
            return
        self.call["sparse_mode"] = mode
        self.call["atten_mask"] = self.full_mask() if mode < 2 else self.compressed_mask()
        if mode in (0, 4):
            self.tokens(mode)

    def full_mask(self) -> np.ndarray:
        rows, keys = self.rows, self.keys
        if not self.mindspore and self.rng.random() < 0.3:  # padded
            rows, keys = rows + int(self.rng.integers(0, 5)), (keys + 31) // 32 * 32
        front = [(), (1,), (self.batches,), (1, 1), (self.batches, 1)][int(self.rng.integers(5))]
        hidden = self.rng.random((*front, rows, keys)) < self.rng.choice([0.1, 0.5, 1.0], p=[0.5, 0.4, 0.1])
        kind = MASK_TYPES[int(self.rng.integers(len(MASK_TYPES)))]
        mask = hidden.astype(kind)
        if kind is not bool and self.rng.random() < 0.3:  # anything that is not zero hides, and −0 is zero
            mask = mask * kind(3) if kind is not np.float16 else np.where(hidden, kind(-0.25), kind(-0.0))
        return mask

    def compressed_mask(self) -> np.ndarray:
        triangle = np.triu(np.ones((2048, 2048), bool), 1)
        fronts = [(), (1,), (1, 1)] + ([(self.batches, 1)] if self.mindspore else [])
        front = fronts[int(self.rng.integers(len(fronts)))]
        return np.broadcast_to(triangle, (*front, 2048, 2048))

    def tokens(self, mode: int) -> None:
        """Negative ones only as far as A.6 allows for every sequence that has rows and keys."""
        sizes = [pair for pair in zip(*self.lens) if min(pair) > 0]
        rows, keys = (min((pair[axis] for pair in sizes), default=1) for axis in (0, 1))
        if mode == 4:
            rows, keys = keys, rows
        most = int(self.rng.choice([0, 1, 5, 40, 300, INT_MAX]))
        side = self.rng.random()
        if side < 0.2 and rows > 1:
            low = int(self.rng.integers(1, rows))
            self.call |= {"next_tokens": -low, "pre_tokens": max(low, most)}
        elif side < 0.4 and keys > 1:
            low = int(self.rng.integers(1, keys))
            self.call |= {"pre_tokens": -low, "next_tokens": max(low, most)}
        elif side < 0.9:
            self.call |= {"pre_tokens": most, "next_tokens": int(self.rng.choice([0, 1, 9, 100]))}

    def bias(self) -> None:
        more = [int(n) for n in self.rng.integers(0, 9, 2)]
        batches = 1 if self.rng.random() < 0.5 else self.batches
        self.call["pse_shift"] = self.numbers(batches, self.heads, self.rows + more[0], self.keys + more[1])


def draw(seed: int, mindspore: bool) -> tuple[dict, str, str]:
    return Prompt(seed, mindspore).draw()
