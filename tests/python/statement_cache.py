"""What the inference documents say the keys and values of a call are, wherever and however they are stored.

From the documents alone (inference-ops B, rulings 9, 20, 21): one call = one dictionary in the spelling of
npu_fused_infer_attention_score. `stored(call, dtype)` gives, for each batch entry or packed sequence, the
plain keys [Nkv, Lk, D + rope] and values [Nkv, Lk, Dv] that it attends to, its shared prefix first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from family_draw import DTYPES

PACKED = ("TND", "NTD")


def layouts(letters: str) -> tuple[str, str]:
    """The layout of query (and of keys that are not paged) and that of the output."""
    first, _, last = letters.upper().partition("_")
    return first, last or first


def sequences(call: dict) -> int:
    """How many batch entries, or packed sequences, the call has."""
    if layouts(call["input_layout"])[0] in PACKED:
        return len(call["actual_seq_lengths"])
    return call["query"].shape[0]


def heads_of(call: dict) -> tuple[int, int]:
    """N and Nkv; no num_key_value_heads means as many as query has (ruling 21)."""
    heads = call["num_heads"]
    return heads, call.get("num_key_value_heads", 0) or heads


def per_sequence(given, count: int, default: int) -> list[int]:
    """One length for all, or one each, of which more than `count` are not read."""
    if given is None:
        return [default] * count
    numbers = [int(n) for n in given]
    return numbers * count if len(numbers) == 1 else numbers[:count]


def from_ends(ends) -> list[tuple[int, int]]:
    """(first, count) of each packed sequence from cumulative ends."""
    starts = [0, *map(int, ends)]
    return [(a, b - a) for a, b in zip(starts, starts[1:])]


def by_head(x: np.ndarray, layout: str, heads: int) -> np.ndarray:
    """[B, N, S, D] of a tensor of that layout; a packed one has B = 1."""
    if layout == "BSH":
        x = x.reshape(*x.shape[:2], heads, x.shape[2] // heads)
    if layout in ("BSH", "BSND"):
        return x.transpose(0, 2, 1, 3)
    if layout == "TND":
        return x.transpose(1, 0, 2)[None]
    return x[None] if layout == "NTD" else x


def numbers(x: np.ndarray) -> np.ndarray:
    """Int32 holds eight int4, the first in the lowest bits; all else is what it says."""
    if x.dtype != np.int32:
        return x
    nibbles = (x[..., None] >> np.arange(0, 32, 4, dtype=np.int32)) & 15
    return (((nibbles + 8) & 15) - 8).astype(np.int8).reshape(*x.shape[:-1], -1)


@dataclass
class Quantisation:
    """x = (stored + offset)·scale, by the number of its mode."""

    mode: int
    scale: np.ndarray
    offset: np.ndarray | None

    def of(self, heads: int, batch: int, rows: np.ndarray, pages: np.ndarray) -> list[np.ndarray]:
        """Scale and offset, which broadcast against [heads, len(rows), D]: of row `rows` of the batch entry
        or, where scales lie in pages, of row `rows` of page `pages`."""

        def one(x):
            if self.mode == 0:
                return x.reshape(1, 1, 1) if x.size == 1 else x.reshape(heads, 1, -1)
            if self.mode == 1:
                return x.reshape(x.shape[-2:])[batch][rows][None, :, None]
            if self.mode == 2:
                return x.reshape(heads, 1, 1)
            if self.mode == 3:
                return x[batch][:, rows, None]
            return x[pages, rows][None, :, None] if self.mode == 4 else x[pages, :, rows].T[:, :, None]

        offset = np.zeros((1, 1, 1), np.float32) if self.offset is None else one(self.offset)
        return [one(self.scale).astype(np.float32), offset.astype(np.float32)]


def quantisation(call: dict, name: str) -> Quantisation | None:
    """Of key or value: its own scales, or its half of the stacked ones."""
    if call.get(f"{name}_antiquant_scale") is not None:
        scale, offset = (call.get(f"{name}_antiquant_{what}") for what in ("scale", "offset"))
        return Quantisation(call.get(f"{name}_antiquant_mode", 0), scale, offset)
    if call.get("antiquant_scale") is None:
        return None
    half = 0 if name == "key" else 1
    offset = call.get("antiquant_offset")
    scale = call["antiquant_scale"][half]
    return Quantisation(call.get("antiquant_mode", 0), scale, None if offset is None else offset[half])


def read(stored: np.ndarray, scales, dtype: str) -> np.ndarray:
    """[N, n, D] stored numbers as query's type holds them: float32 arithmetic, rounded once."""
    if scales is None:
        return stored.astype(np.float64)
    scale, offset = scales
    return ((stored.astype(np.float32) + offset) * scale).astype(DTYPES[dtype]).astype(np.float64)


@dataclass
class Places:
    """Where the keys of one sequence lie: batch entry (page) and row of each, and its place in the batch."""

    batch: np.ndarray
    row: np.ndarray
    entry: int


def left(call: dict) -> int | None:
    """kv_padding_size, 0 where negative; it needs lengths to mean anything."""
    if call.get("kv_padding_size") is None or call.get("actual_seq_lengths_kv") is None:
        return None
    return max(int(np.asarray(call["kv_padding_size"]).reshape(-1)[0]), 0)


def places(call: dict) -> list[Places]:
    layout, _ = layouts(call["input_layout"])
    given, count = call.get("actual_seq_lengths_kv"), sequences(call)
    table = call.get("block_table")
    if table is not None:
        size = call["block_size"]
        each = [np.arange(n) for n in per_sequence(given, count, 0)]
        return [Places(np.asarray(table)[b, t // size], t % size, b) for b, t in enumerate(each)]
    if layout in PACKED:
        ends = enumerate(from_ends(given))
        return [Places(np.zeros(n, int), first + np.arange(n), b) for b, (first, n) in ends]
    length = call["key"].shape[2 if layout == "BNSD" else 1]
    padding, found = left(call), []
    for b, n in enumerate(per_sequence(given, count, length)):
        first = 0 if padding is None else length - padding - n
        if first < 0:  # documented: the window begins outside, the result is zero
            first, n = 0, 0
        found.append(Places(np.full(n, b), first + np.arange(n), b))
    return found


def in_pages(pool: np.ndarray, heads: int) -> np.ndarray:
    """[pages, Nkv, P, D] of either pool layout."""
    return by_head(pool, "BSH", heads) if pool.ndim == 3 else pool


def prefix_rows(call: dict) -> int:
    if call.get("key_shared_prefix") is None:
        return 0
    layout, _ = layouts(call["input_layout"])
    rows = call["key_shared_prefix"].shape[2 if layout == "BNSD" else 1]
    given = call.get("actual_shared_prefix_len")
    return rows if given is None else int(np.asarray(given).reshape(-1)[0])


def tensor(call: dict, name: str) -> np.ndarray:
    """[batch entry or page, Nkv, row, D] of key, value or key_rope."""
    layout, _ = layouts(call["input_layout"])
    _, heads = heads_of(call)
    x = numbers(np.asarray(call[name]))
    return in_pages(x, heads) if call.get("block_table") is not None else by_head(x, layout, heads)


def stored_part(call: dict, name: str, dtype: str) -> list[np.ndarray]:
    """[Nkv, Lk, D] of each sequence; key_rope has no scales and no prefix."""
    layout, _ = layouts(call["input_layout"])
    _, heads = heads_of(call)
    x, how = tensor(call, name), None if name == "key_rope" else quantisation(call, name)
    first = None
    if prefix_rows(call) and name != "key_rope":
        prefix = by_head(numbers(np.asarray(call[f"{name}_shared_prefix"])), layout, heads)[0]
        zero = np.zeros(1, int)
        scales = None if how is None else how.of(heads, 0, zero, zero)
        first = read(prefix[:, : prefix_rows(call)], scales, dtype)
    found = []
    for at in places(call):
        scales = None
        if how is not None:
            tokens = at.row if how.mode > 3 else logical(call, at)
            scales = how.of(heads, at.entry, tokens, at.batch)
        rows = read(x[at.batch, :, at.row].transpose(1, 0, 2), scales, dtype)
        found.append(rows if first is None else np.concatenate([first, rows], 1))
    return found


def logical(call: dict, at: Places) -> np.ndarray:
    """Which token each key is, as scales per token count: its row, or its number in the pages."""
    return np.arange(len(at.row)) if call.get("block_table") is not None else at.row


def stored(call: dict, dtype: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Keys with their rope channels, and values, of each sequence."""
    keys, values = (stored_part(call, name, dtype) for name in ("key", "value"))
    if call.get("key_rope") is not None:
        keys = [np.concatenate(both, -1) for both in zip(keys, stored_part(call, "key_rope", dtype))]
    return keys, values
