"""Random calls of the inference operators, drawn from the documents' option space and named in one line.

`draw(seed, which)` gives the same call again, in the spelling of npu_fused_infer_attention_score; `spelled`
turns it into the keyword arguments of `which`: incre, v1 or v2.
"""

from __future__ import annotations

import math

import numpy as np
from family_draw import DTYPES
from family_options import compressed_mask
from fused_infer_options import Draw, mask, position_bias, quantised, tables
from statement_cache import PACKED, layouts

DENSE = ("BSH", "BSND", "BNSD", "BNSD_BSND", "BSH_NBSD", "BSND_NBSD", "BNSD_NBSD", "BSH_BNSD", "BSND_BNSD")
TOKENS = ("TND", "TND_NTD", "NTD_TND", "NTD")
KEYS = [1, 2, 5, 15, 16, 17, 31, 32, 33, 64, 65, 100, 128, 129, 200, 257, 300]
ROWS = [2, 3, 4, 5, 8, 16, 17, 33, 40]
DEPTHS = [8, 16, 16, 24, 32, 40, 64, 64, 72, 80, 128, 128, 192]

V2 = {
    "actual_seq_lengths": "actual_seq_qlen",
    "actual_seq_lengths_kv": "actual_seq_kvlen",
    "key_antiquant_scale": "dequant_scale_key",
    "key_antiquant_offset": "dequant_offset_key",
    "value_antiquant_scale": "dequant_scale_value",
    "value_antiquant_offset": "dequant_offset_value",
    "key_antiquant_mode": "key_quant_mode",
    "value_antiquant_mode": "value_quant_mode",
    "num_heads": "num_query_heads",
    "scale": "softmax_scale",
    "softmax_lse_flag": "return_softmax_lse",
}
INCRE = {"actual_seq_lengths_kv": "actual_seq_lengths", "scale": "scale_value"}


def spelled(call: dict, which: str) -> dict:
    """The keyword arguments of one of the three functions."""
    names = {"v1": {}, "v2": V2, "incre": INCRE}[which]
    return {names.get(name, name): word for name, word in call.items()}


def draw(seed: int, which: str = "v1") -> tuple[dict, str, str]:
    """The call, its dtype, the line that names it."""
    d = sizes(np.random.default_rng([seed, {"incre": 0, "v1": 1, "v2": 2}[which]]), which)
    d.say(f"{d.letters} {d.dtype} heads={d.heads}/{d.kv_heads} D={d.depth}/{d.value_depth}")
    d.say(f"q={d.q_lens} of {d.rows} kv={d.kv_lens} of {d.keys}")
    d.call |= {"num_heads": d.heads, "scale": float(d.pick([1 / math.sqrt(d.depth)] * 4 + [1.0, -0.5, 0.0]))}
    d.call["input_layout"] = d.letters
    if d.kv_heads != d.heads or d.chance(0.5):
        d.call["num_key_value_heads"] = d.kv_heads
    lengths(d)
    tensors(d)
    options(d)
    return d.call, d.dtype, f"draw({seed}, {which!r}): {' '.join(d.said)}"


def sizes(rng: np.random.Generator, which: str) -> Draw:
    pick = lambda choices: choices[rng.integers(len(choices))]  # noqa: E731
    letters = pick(DENSE[:3]) if which == "incre" else pick([*DENSE, *TOKENS, *TOKENS])
    single = which == "incre" or (rng.random() < 0.5 and letters != "BNSD_BSND")
    kv_heads, group = int(pick([1, 1, 2, 3])), int(pick([1, 1, 2, 4, 7, 16]))
    depth = int(pick(DEPTHS))
    value_depth = depth if which == "incre" or rng.random() < 0.8 else int(pick(DEPTHS))
    count = int(pick([1, 2, 3, 4]))
    d = Draw(rng, which, letters, pick(list(DTYPES)), kv_heads * group, kv_heads, depth, value_depth, count)
    d.rows = 1 if single else int(pick(ROWS))
    d.keys = int(pick(KEYS))
    d.packed = layouts(letters)[0] in PACKED
    d.q_lens = [d.rows] * count
    d.kv_lens = [d.keys] * count
    if d.packed:
        d.q_lens = [
            1 if single else int(rng.integers(0 if count > 1 else 1, d.rows + 1)) for _ in range(count)
        ]
        d.kv_lens = [int(rng.integers(max(n, 1), d.keys + n + 1)) for n in d.q_lens]
    return d


def lengths(d: Draw) -> None:
    """Lists of lengths: per batch entry, or cumulative for what is packed."""
    d.paged = d.chance(0.5)
    if d.packed:
        if sum(d.q_lens) == 0:
            d.q_lens[0] = 1
        d.call["actual_seq_lengths"] = [int(n) for n in np.cumsum(d.q_lens)]
        d.call["actual_seq_lengths_kv"] = d.kv_lens if d.paged else [int(n) for n in np.cumsum(d.kv_lens)]
        return
    if d.paged or d.chance(0.6):
        low = d.rows if d.chance(0.7) else 0
        d.kv_lens = [int(d.rng.integers(min(low, d.keys), d.keys + 1)) for _ in range(d.count)]
        given = list(d.kv_lens)
        if d.chance(0.2):
            given, d.kv_lens = given[:1], given[:1] * d.count
        elif d.chance(0.2):
            given = [*given, 12345]  # documented: more than B, the rest is not read
        d.call["actual_seq_lengths_kv"] = given
    if d.which != "incre" and d.rows > 1 and d.chance(0.4):
        d.q_lens = [int(d.rng.integers(0, d.rows + 1)) for _ in range(d.count)]
        d.call["actual_seq_lengths"] = list(d.q_lens)


def tensors(d: Draw) -> None:
    """query, then keys and values as they are stored."""
    d.call["query"] = d.normal(d.shape(d.heads, d.rows, d.depth, d.q_lens))
    d.quantised = d.pick(["", "", "int8", "int8", "int4"])
    if d.quantised == "int4" and (d.depth % 8 or d.value_depth % 8 or d.which == "incre"):
        d.quantised = "int8"
    widths = {"key": d.depth, "value": d.value_depth}
    if d.paged:
        tables(d, widths)
    else:
        for name, width in widths.items():
            d.call[name] = d.stored(d.shape(d.kv_heads, d.keys, width, d.kv_lens))
    if not d.paged and not d.packed and d.which != "v2" and d.chance(0.25):
        left_padding(d)
    elif not d.packed and d.which == "v1" and d.chance(0.25):
        prefix(d, widths)
    if d.quantised:
        quantised(d)


def left_padding(d: Draw) -> None:
    if "actual_seq_lengths_kv" in d.call:
        spare = d.keys - max(d.kv_lens)
        d.padding = int(d.rng.integers(0, spare + 1))
        if d.rows == 1 and d.chance(0.2):
            d.padding = spare + 1  # documented for one row: a window that begins outside gives zero
        d.call["kv_padding_size"] = np.array([d.padding if d.padding or d.chance(0.5) else -3], np.int64)
        d.say(f"kv padding={d.padding}")
    if "actual_seq_lengths" in d.call:
        spare = d.rows - max(d.q_lens)
        d.call["query_padding_size"] = np.array([int(d.rng.integers(0, spare + 1))], np.int64)
        d.say(f"q padding={d.call['query_padding_size'][0]}")


def prefix(d: Draw, widths: dict[str, int]) -> None:
    rows = int(d.pick([1, 7, 16, 33, 64]))
    for name, width in widths.items():
        shape = {"BSH": (1, rows, d.kv_heads * width), "BSND": (1, rows, d.kv_heads, width)}
        shape = shape.get(d.layout, (1, d.kv_heads, rows, width))
        d.call[f"{name}_shared_prefix"] = d.stored(shape)
    d.prefix = rows
    if d.chance(0.5):
        d.prefix = int(d.rng.integers(0, rows + 1))
        d.call["actual_shared_prefix_len"] = [d.prefix]
    d.say(f"prefix={d.prefix} of {rows}")


def options(d: Draw) -> None:
    """Mask, position bias, rope, sink, what is returned."""
    if "key_shared_prefix" not in d.call and d.which != "incre" and d.chance(0.25):
        rope(d)
        if d.which == "v2" and d.quantised == "int8" and d.dtype != "float32":
            quantised_query(d)
    if d.chance(0.6):
        mask(d, compressed_mask)
    if not d.packed and d.chance(0.25):
        position_bias(d)
    if d.which == "v2" and d.chance(0.4):
        d.call["learnable_sink"] = d.normal((d.heads,), d.pick(["bfloat16", "float32"]))
        d.say("sink")
    if d.which != "incre" and d.chance(0.6):
        d.call["softmax_lse_flag"] = True
    if d.chance(0.3):
        d.call["inner_precise"] = int(d.pick([0, 1] if d.rows == 1 else [0, 1, 2, 3]))
        d.say(f"inner_precise={d.call['inner_precise']}")


def quantised_query(d: Draw) -> None:
    """int8, a scale for each token and head."""
    query = d.call["query"]
    shape = (*query.shape[:2], d.heads) if d.layout == "BSH" else query.shape[:-1]
    d.call["query"] = d.rng.integers(-128, 128, query.shape).astype(np.int8)
    scale = d.rng.uniform(0.003, 0.02, shape).astype(np.float32)
    d.call["dequant_scale_query"] = scale if d.chance(0.5) else scale[..., None]
    d.call["query_quant_mode"] = 3
    d.say("int8 query")


def rope(d: Draw) -> None:
    width = int(d.pick([8, 16, 64]))
    d.call["query_rope"] = d.normal(d.shape(d.heads, d.rows, width, d.q_lens))
    if d.paged:
        shape = d.call["key"].shape
        d.call["key_rope"] = d.normal(
            (*shape[:2], d.kv_heads * width) if len(shape) == 3 else (*shape[:3], width)
        )
    else:
        d.call["key_rope"] = d.normal(d.shape(d.kv_heads, d.keys, width, d.kv_lens))
    d.say(f"rope={width}")
