"""Random calls of npu_fusion_attention, drawn from the documents' option space and named in one line.

`draw(seed, version)` gives the same call again; its line says what it holds. family_options.py draws what
goes beside the tensors.
"""

from __future__ import annotations

import math

import family_options as options
import numpy as np
from family_draw import DTYPES, Draw

EDGES = [1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 95, 100, 127, 128, 129, 255, 257]
DEPTHS = [1, 2, 3, 7, 8, 12, 16, 24, 31, 32, 33, 40, 64, 64, 72, 80, 96, 128, 128, 192, 256]
MAX_SCORES = 500_000  # N · Σ Sq · Skv of one call: keeps a call below ~100 ms in float64
LONG = (1025, 1700)  # S of the few calls that reach past one block of rows and the compressed bias


def draw(seed: int, version: str = "v2") -> tuple[dict, str, str]:
    """The keyword arguments of one call in the spelling of version 2, its dtype, the line that names it."""
    d = draw_sizes(np.random.default_rng([seed, int(version[1])]), version)
    d.say(f"{d.layout} {d.dtype} heads={d.heads}/{d.kv_heads} D={d.depth}/{d.value_depth}")
    d.say(f"q={d.q_lens} kv={d.kv_lens}")
    d.call["input_layout"] = d.layout if d.packed or d.chance(0.9) else d.layout.lower()
    d.call["head_num"] = d.heads
    d.call["scale"] = float(d.pick([1 / math.sqrt(d.depth)] * 4 + [1.0, -0.5, 0.0, 0.01]))
    d.call["sparse_mode"] = d.mode
    if d.packed:
        lists(d)
    masked = d.mode > 4 or d.chance(0.75)
    if masked:
        options.mask(d)
    tensors(d)
    options.bias(d, masked)
    options.dropout(d)
    options.sink(d)
    options.rope(d)
    if d.chance(0.12):
        options.hidden_numbers(d)
    d.say(f"scale={d.call['scale']:.4g}")
    return d.call, d.dtype, f"draw({seed}, {version!r}): {' '.join(d.said)}"


def draw_sizes(rng: np.random.Generator, version: str) -> Draw:
    pick = lambda choices: choices[rng.integers(len(choices))]  # noqa: E731
    layout = pick(["BSH", "SBH", "BSND", "BNSD", "TND", "TND"])
    long = rng.random() < 0.04
    kv_heads, group = (
        (1, int(pick([1, 2]))) if long else (int(pick([1, 1, 2, 3])), int(pick([1, 1, 2, 4, 7])))
    )
    depth = int(pick(DEPTHS) if rng.random() < 0.97 else rng.integers(257, 769))
    value_depth = depth if rng.random() < 0.7 else int(pick(DEPTHS))
    mode = int(pick([0, 0, 1, 2, 3, 4, 6, 7, 8] if layout == "TND" else [0, 0, 1, 2, 3, 4, 5, 6]))
    if long:
        depth, value_depth, mode = min(depth, 128), min(value_depth, 128), int(pick([mode, 2, 2, 3]))
        q_lens = [int(rng.integers(*LONG))]
        if layout == "TND":
            q_lens += [int(pick([1, 33, 257, rng.integers(*LONG)])) for _ in range(int(pick([0, 1, 1, 2])))]
        equal = layout != "TND" or rng.random() < 0.7
        kv_lens = list(q_lens) if equal else [n + int(rng.integers(0, 200)) for n in q_lens]
    else:
        sequences = int(pick([1, 1, 2, 3, 5] if layout == "TND" else [1, 1, 2, 3]))
        q_lens, kv_lens = draw_lengths(rng, pick, layout, sequences, mode, kv_heads * group)
    sizes = (kv_heads * group, kv_heads, depth, value_depth, q_lens, kv_lens, mode)
    return Draw(rng, version, layout, pick(list(DTYPES)), *sizes)


def draw_lengths(rng, pick, layout, sequences, mode, heads):
    while True:
        if layout == "TND":
            empty = 0.1 if rng.random() < 0.6 else 0.0
            q = [int(pick(EDGES)) if rng.random() >= empty else 0 for _ in range(sequences)]
            kv = [int(pick(EDGES)) for _ in range(sequences)]
            if rng.random() < 0.35:
                kv = list(q)
            if mode in (0, 1, 2) and rng.random() < 0.2:
                kv = [0 if rng.random() < 0.3 else n for n in kv]
            if mode in (3, 4, 7):  # documented: no sequence has more rows than keys
                kv = [max(a, b) for a, b in zip(q, kv)]
            if sum(q) == 0 or sum(kv) == 0:
                continue
        else:
            q, kv = [int(pick(EDGES))] * sequences, [int(pick(EDGES))] * sequences
            if rng.random() < 0.5:
                kv = list(q)
        if heads * sum(a * b for a, b in zip(q, kv)) <= MAX_SCORES:
            return q, kv


def lists(d: Draw) -> None:
    """The cumulative lists of TND, and what lies past them."""
    d.tail = int(d.pick([0, 0, 1, 5]))
    d.absent = int(d.pick([0, 0, 2]))
    d.call["actual_seq_qlen"] = [int(n) for n in np.cumsum(d.q_lens)] + [0] * d.absent
    d.call["actual_seq_kvlen"] = [int(n) for n in np.cumsum(d.kv_lens)] + [0] * d.absent
    if d.chance(0.4):
        d.call["softmax_layout"] = "TND"
    d.say(f"tail={d.tail} absent={d.absent} softmax_layout={d.call.get('softmax_layout', '')!r}")


def tensors(d: Draw) -> None:
    """query, key, value; of some calls the keys grow along the sequence, so that the maximum moves far."""
    spread = float(d.pick([1, 1, 1, 4]))
    for name, heads, lens, depth in (
        ("query", d.heads, d.q_lens, d.depth),
        ("key", d.kv_heads, d.kv_lens, d.depth),
        ("value", d.kv_heads, d.kv_lens, d.value_depth),
    ):
        d.call[name] = d.normal(d.shape(heads, lens, depth))
    d.call["query"] = (d.call["query"].astype(np.float32) * spread).astype(DTYPES[d.dtype])
    d.say(f"spread={spread}")
    if d.chance(0.6 if max(d.kv_lens) > 1024 else 0.1):
        grow(d)


def grow(d: Draw) -> None:
    """q += 1 and k += 30·j / Skv along the channels: scores climb by about 30·D·scale over the sequence."""
    d.say("growing keys")
    d.call["query"] = (d.call["query"].astype(np.float32) + 1).astype(DTYPES[d.dtype])
    key = d.call["key"].astype(np.float32)
    axis = {"BSH": 1, "BSND": 1, "BNSD": 2, "SBH": 0, "TND": 0}[d.layout]
    ramp = np.linspace(0, 30, key.shape[axis], dtype=np.float32)
    key += ramp.reshape([-1 if a == axis else 1 for a in range(key.ndim)])
    d.call["key"] = key.astype(DTYPES[d.dtype])
