"""Random calls of npu_fusion_attention, drawn from the documents' option space and printable in one line."""

from __future__ import annotations

import math
from functools import lru_cache

import ml_dtypes
import numpy as np

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
EDGES = [1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 95, 100, 127, 128, 129, 255, 257]
DEPTHS = [1, 2, 3, 7, 8, 12, 16, 24, 31, 32, 33, 40, 64, 64, 72, 80, 96, 128, 128, 192, 256]
MAX_SCORES = 600_000  # N · Σ Sq · Skv of one call: keeps a call below ~50 ms in float64


@lru_cache(1)
def compressed_mask() -> np.ndarray:
    return np.triu(np.ones((2048, 2048), bool), 1)


def draw(seed: int) -> tuple[dict, str, str]:
    """The keyword arguments of one call, its dtype, and the line that names it."""
    rng = np.random.default_rng(seed)
    pick = lambda options: options[rng.integers(len(options))]  # noqa: E731
    layout = pick(["BSH", "SBH", "BSND", "BNSD", "TND"])
    dtype = pick(list(DTYPES))
    kv_heads, group = int(pick([1, 1, 2, 3])), int(pick([1, 1, 2, 4, 7]))
    heads = kv_heads * group
    depth = int(pick(DEPTHS) if rng.random() < 0.97 else rng.integers(257, 769))
    value_depth = depth if rng.random() < 0.7 else int(pick(DEPTHS))
    sequences = int(pick([1, 1, 2, 3, 5] if layout == "TND" else [1, 1, 2, 3]))
    mode = int(pick([0, 0, 1, 2, 3, 4]))
    masked = rng.random() < 0.75
    q_lens, kv_lens = draw_lengths(rng, pick, layout, sequences, mode if masked else 0, heads)
    line = f"{layout} {dtype} heads={heads}/{kv_heads} D={depth}/{value_depth} q={q_lens} kv={kv_lens}"
    call = {
        "input_layout": layout if rng.random() < 0.9 or layout == "TND" else layout.lower(),
        "head_num": heads,
    }
    call["scale"] = float(pick([1 / math.sqrt(depth)] * 4 + [1.0, -0.5, 0.0, 0.01]))
    call["sparse_mode"] = mode
    if masked:
        line += f" mode={mode} " + draw_mask(rng, pick, call, layout, mode, heads, q_lens, kv_lens)
    if layout == "TND":
        tail = int(pick([0, 0, 1, 5]))  # tensors may be longer than the last cumulative length
        absent = [0] * int(pick([0, 0, 2]))  # trailing zeros: sequences that do not take part
        call["actual_seq_qlen"] = list(np.cumsum(q_lens)) + absent
        call["actual_seq_kvlen"] = list(np.cumsum(kv_lens)) + absent
        if rng.random() < 0.4:
            call["softmax_layout"] = "TND"
        line += f" tail={tail} absent={len(absent)} softmax_layout={call.get('softmax_layout', '')!r}"
        sizes = {"query": (sum(q_lens) + tail, heads), "key": (sum(kv_lens) + tail, kv_heads)}
        shapes = {name: (rows, n, depth) for name, (rows, n) in sizes.items()}
    else:
        shapes = {
            "query": dense_shape(layout, sequences, heads, q_lens[0], depth),
            "key": dense_shape(layout, sequences, kv_heads, kv_lens[0], depth),
        }
    shapes["value"] = (
        (*shapes["key"][:-1], value_depth)
        if len(layout) == 4 or layout == "TND"
        else dense_shape(layout, sequences, kv_heads, kv_lens[0], value_depth)
    )
    spread = float(pick([1, 1, 1, 4]))
    for name, shape in shapes.items():
        x = rng.standard_normal(shape) * (spread if name == "query" else 1)
        call[name] = x.astype(np.float32).astype(DTYPES[dtype])
    return call, dtype, f"seed={seed} {line} scale={call['scale']:.4g} spread={spread}"


def draw_lengths(rng, pick, layout, sequences, mode, heads):
    while True:
        if layout == "TND":
            q = [int(pick(EDGES)) if rng.random() < 0.9 else 0 for _ in range(sequences)]
            kv = [int(pick(EDGES)) for _ in range(sequences)]
            if mode in (0, 1, 2) and rng.random() < 0.3:
                kv = [0 if rng.random() < 0.3 else n for n in kv]
            if mode in (3, 4):  # documented: no sequence has more rows than keys
                kv = [max(a, b) for a, b in zip(q, kv)]
            if sum(q) == 0 or sum(kv) == 0:
                continue
        else:
            q, kv = [int(pick(EDGES))] * sequences, [int(pick(EDGES))] * sequences
            if rng.random() < 0.5:
                kv = list(q)
        if heads * sum(a * b for a, b in zip(q, kv)) <= MAX_SCORES:
            return q, kv


def draw_mask(rng, pick, call, layout, mode, heads, q_lens, kv_lens) -> str:
    """Adds atten_mask and tokens to the call; returns their part of the line."""
    rows, keys, said = max(q_lens), max(kv_lens), ""
    if mode in (2, 3, 4):
        call["atten_mask"] = compressed_mask() if rng.random() < 0.8 else compressed_mask()[None, None]
    else:
        first = [(), (1, 1), (len(q_lens), 1), (len(q_lens), heads)] if layout != "TND" else [()]
        shape = (*pick(first), rows, keys)
        hidden = rng.random(shape) < pick([0.0, 0.1, 0.5, 0.95])
        if rng.random() < 0.3:
            hidden[..., int(rng.integers(rows)), :] = True  # a row that sees nothing
        call["atten_mask"] = (
            hidden if rng.random() < 0.6 else hidden.astype(np.uint8) * int(pick([1, 7, 255]))
        )
        said = f"mask={call['atten_mask'].dtype}{shape} "
    if mode in (0, 4) and rng.random() < 0.7:
        low, high = draw_tokens(rng, mode, layout, q_lens, kv_lens)
        call["pre_tokens"], call["next_tokens"] = low, high
        said += f"pre={low} next={high}"
    return said


def draw_tokens(rng, mode, layout, q_lens, kv_lens) -> tuple[int, int]:
    """Tokens that the documents allow: one of them may be negative, within the other's reach."""
    rows, keys = min(q_lens), min(kv_lens)
    reach = max(rows, keys)
    low, high = int(rng.integers(0, reach + 2)), int(rng.integers(0, reach + 2))
    if layout == "TND":
        corner = max(a - b for a, b in zip(q_lens, kv_lens)) if mode == 0 else 0
        return max(low, corner, 0), high
    if rng.random() < 0.3 and rows == keys and rows > 1:
        back = int(rng.integers(1, rows))
        return (back + low, -back) if rng.random() < 0.5 else (-back, back + high)
    if mode == 4:  # converted to the top-left corner both must be legal
        return max(low, keys - rows, 0), max(high, rows - keys, 0)
    return low, high


def dense_shape(layout, batches, heads, rows, depth):
    return {
        "BSH": (batches, rows, heads * depth),
        "SBH": (rows, batches, heads * depth),
        "BSND": (batches, rows, heads, depth),
        "BNSD": (batches, heads, rows, depth),
    }[layout]
