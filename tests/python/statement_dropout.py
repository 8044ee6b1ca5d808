"""Which scores dropout keeps: training-ops 6, with Philox4x32-10 written from its paper.

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

import numpy as np

MULTIPLY = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
WORD = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Ten rounds over arrays of counters: four words of 32 bits in, four out (held in uint64)."""
    c = [np.asarray(word, np.uint64) for word in counter]
    k = [np.uint64(word) for word in key]
    for _ in range(10):
        first, second = MULTIPLY[0] * c[0], MULTIPLY[1] * c[2]
        c = [(second >> HALF) ^ c[1] ^ k[0], second & WORD, (first >> HALF) ^ c[3] ^ k[1], first & WORD]
        k = [(word + step) & WORD for word, step in zip(k, WEYL)]
    return c


def kept_by_seed(first: int, count: int, drop: np.float32, seed: int, offset: int) -> np.ndarray:
    """keep of the elements first … first + count − 1: u ≥ p, u the low 23 bits as a fraction."""
    group = np.arange(first // 4, (first + count + 3) // 4, dtype=np.uint64)
    seed, offset = seed % 2**64, offset % 2**64
    high = [np.full_like(group, offset & 0xFFFFFFFF), np.full_like(group, offset >> 32)]
    words = philox([group & WORD, group >> HALF, *high], (seed & 0xFFFFFFFF, seed >> 32))
    u = (np.stack(words, -1).reshape(-1) & np.uint64(0x7FFFFF)).astype(np.float64) / 2.0**23
    return u[first % 4 : first % 4 + count] >= float(drop)


def drop_probability(keep_prob: float) -> np.float32:
    return np.float32(1) - np.float32(keep_prob)


def kept_by_mask(first: int, count: int, mask: np.ndarray) -> np.ndarray:
    """The same elements of a given mask: bit e % 8, lowest first, of byte e // 8."""
    e = np.arange(first, first + count)
    return (np.asarray(mask, np.uint8).reshape(-1)[e // 8] >> (e % 8)) & 1 == 1


def packed(keep: np.ndarray) -> np.ndarray:
    """Bits as the mask holds them, ceil(numels / 128) · 16 bytes; what pads is 0."""
    bits = np.zeros(-(-keep.size // 128) * 128, np.uint8)
    bits[: keep.size] = keep.reshape(-1)
    return np.packbits(bits, bitorder="little")


def dropout_factor(call: dict, batch: int, q_lens: list[int], kv_lens: list[int]) -> np.ndarray | None:
    """keep / keep_prob [N, Sq, Skv] of one batch entry or sequence; None without dropout.

    e is linear over [B, N, Sq, Skv]; TND: over the [N, sq, skv] of the sequences, one behind the other.
    """
    keep_prob, mask = call.get("keep_prob", 1.0), call.get("dropout_mask")
    if mask is None and keep_prob == 1.0:
        return None
    heads, rows, keys = call["head_num"], q_lens[batch], kv_lens[batch]
    first = heads * sum(a * b for a, b in zip(q_lens[:batch], kv_lens[:batch]))
    count = heads * rows * keys
    if mask is not None:
        keep = kept_by_mask(first, count, mask)
    else:
        keep = kept_by_seed(first, count, drop_probability(keep_prob), call["seed"], call["offset"])
    return keep.reshape(heads, rows, keys) / keep_prob
