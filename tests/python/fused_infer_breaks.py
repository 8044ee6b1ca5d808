"""Legal small inference calls and what breaks them, each with the argument that the refusal must name.

In the spelling of npu_fused_infer_attention_score; `bases` says which legal calls a break applies to.
"""

from __future__ import annotations

import numpy as np
from family_draw import DTYPES

HALF, FLOAT = np.float16, np.float32
INT32_MIN, INT32_MAX, INT64_MAX, INT64_MIN = -(2**31), 2**31 - 1, 2**63 - 1, -(2**63)


def ones(*shape, dtype=HALF):
    return np.ones(shape, dtype)


def tables(*rows):
    return np.array(rows, np.int32)


def dense(rows: int = 1) -> dict:
    """B = 2, N = 4, Nkv = 2, D = 8, Skv = 12, in BNSD."""
    return {
        "query": ones(2, 4, rows, 8),
        "key": ones(2, 2, 12, 8),
        "value": ones(2, 2, 12, 8),
        "num_heads": 4,
        "num_key_value_heads": 2,
        "input_layout": "BNSD",
        "scale": 0.5,
    }


def paged() -> dict:
    """Six pages of 4 keys; sequences of 9 and 5 keys."""
    return dense() | {
        "key": ones(6, 2, 4, 8),
        "value": ones(6, 2, 4, 8),
        "block_table": tables([4, 0, 5, -1], [1, 3, -1, 77]),
        "block_size": 4,
        "actual_seq_lengths_kv": [9, 5],
    }


def int8() -> dict:
    return dense() | {
        "key": ones(2, 2, 12, 8, dtype=np.int8),
        "value": ones(2, 2, 12, 8, dtype=np.int8),
        "key_antiquant_scale": ones(2, 1, 8),
        "value_antiquant_scale": ones(2, 1, 8),
    }


def stacked() -> dict:
    call = int8() | {"antiquant_scale": ones(2, 2, 1, 8)}
    return {name: word for name, word in call.items() if "key_anti" not in name and "value_anti" not in name}


def int4() -> dict:
    words = {name: np.ones((2, 2, 12, 1), np.int32) for name in ("key", "value")}
    return int8() | words


def prefixed() -> dict:
    return dense(3) | {"key_shared_prefix": ones(1, 2, 5, 8), "value_shared_prefix": ones(1, 2, 5, 8)}


def flat() -> dict:
    """The same in BSH."""
    words = {name: ones(1, 5, 16) for name in ("key_shared_prefix", "value_shared_prefix")}
    operands = {"query": ones(2, 3, 32), "key": ones(2, 12, 16), "value": ones(2, 12, 16)}
    return dense() | operands | words | {"input_layout": "BSH"}


def prompt() -> dict:
    return dense(3) | {"actual_seq_lengths": [3, 2], "actual_seq_lengths_kv": [12, 7]}


def packed() -> dict:
    return dense() | {
        "query": ones(5, 4, 8),
        "key": ones(10, 2, 8),
        "value": ones(10, 2, 8),
        "input_layout": "TND",
        "actual_seq_lengths": [3, 5],
        "actual_seq_lengths_kv": [5, 10],
    }


def tree() -> dict:
    mask = {"sparse_mode": 9, "atten_mask": np.triu(np.ones((2, 3, 3), bool), 1)}
    return dense(3) | mask | {"query_rope": ones(2, 4, 3, 8), "key_rope": ones(2, 2, 12, 8)}


def int8_query() -> dict:
    """Of version 2: scales per token and head, and rope channels."""
    call = dense(3) | {"query_rope": ones(2, 4, 3, 8), "key_rope": ones(2, 2, 12, 8)}
    scales = {f"{name}_antiquant_scale": ones(1, dtype=FLOAT) for name in ("key", "value")}
    scales |= {"dequant_scale_query": ones(2, 4, 3, dtype=FLOAT), "query_quant_mode": 3}
    return call | scales | {name: call[name].astype(np.int8) for name in ("query", "key", "value")}


def incre() -> dict:
    return dense() | {"actual_seq_lengths_kv": [9, 5]}


BASES = {
    base.__name__: base
    for base in (dense, paged, int8, stacked, int4, prefixed, flat, prompt, packed, tree, int8_query, incre)
}
# The legal calls that a function can take.
OF = {
    "v1": tuple(name for name in BASES if name != "int8_query"),
    "v2": ("dense", "paged", "int8", "int4", "prompt", "packed", "tree", "int8_query"),
    "incre": ("dense", "paged", "stacked", "incre"),
    "mindspore": ("dense", "paged", "stacked", "incre"),
}
ALL = ("dense", "paged", "int8", "prompt", "packed", "incre")

# (argument, what is broken, legal calls, the change)
BREAKS = [
    ("query", "None", ALL, lambda c: {"query": None}),
    ("query", "a list", ALL, lambda c: {"query": [1.0]}),
    ("query", "rank 2", ALL, lambda c: {"query": ones(2, 8)}),
    ("query", "rank 5", ALL, lambda c: {"query": ones(1, 2, 4, 1, 8)}),
    ("query", "float64", ALL, lambda c: {"query": c["query"].astype(np.float64)}),
    ("query", "integers", ALL, lambda c: {"query": c["query"].astype(np.int32)}),
    ("query", "no channels", ("dense", "packed"), lambda c: {"query": c["query"][..., :0]}),
    ("key", "None", ALL, lambda c: {"key": None}),
    ("key", "another dtype", ("dense", "paged", "prompt"), lambda c: {"key": c["key"].astype(FLOAT)}),
    ("key", "float64", ("dense", "paged"), lambda c: {"key": c["key"].astype(np.float64)}),
    ("key", "int64", ("dense", "paged"), lambda c: {"key": c["key"].astype(np.int64)}),
    ("key", "rank 2", ("dense", "paged", "int8"), lambda c: {"key": c["key"][0, 0]}),
    ("key", "another D", ("dense", "paged", "packed", "int8"), lambda c: {"key": wider(c["key"])}),
    ("key", "another batch", ("dense", "prompt"), lambda c: {"key": np.repeat(c["key"], 2, 0)}),
    ("value", "None", ALL, lambda c: {"value": None}),
    ("value", "another dtype than key", ("int8", "stacked"), lambda c: {"value": ones(2, 2, 12, 8)}),
    ("value", "another length", ("dense", "prompt"), lambda c: {"value": ones(2, 2, 13, 8)}),
    ("value", "other pages", ("paged",), lambda c: {"value": ones(5, 2, 4, 8)}),
    ("block_size", "not that of value's pages", ("paged",), lambda c: {"value": ones(6, 2, 5, 8)}),
    ("num_key_value_heads", "not value's", ("dense", "paged"), lambda c: {"value": c["value"][:, :1]}),
    ("num_heads", "0", ALL, lambda c: {"num_heads": 0}),
    ("num_heads", "negative", ALL, lambda c: {"num_heads": -4}),
    ("num_heads", "not query's", ALL, lambda c: {"num_heads": 2}),
    ("num_heads", "huge", ALL, lambda c: {"num_heads": 2**62}),
    ("num_heads", "a string", ALL, lambda c: {"num_heads": "4"}),
    ("num_key_value_heads", "negative", ALL, lambda c: {"num_key_value_heads": -1}),
    ("num_key_value_heads", "no divisor", ALL, lambda c: {"num_key_value_heads": 3}),
    ("num_key_value_heads", "not key's", ("dense", "paged", "packed"), lambda c: {"num_key_value_heads": 1}),
    ("input_layout", "unknown", ALL, lambda c: {"input_layout": "SNBD"}),
    ("input_layout", "empty", ALL, lambda c: {"input_layout": ""}),
    ("input_layout", "a number", ALL, lambda c: {"input_layout": 1}),
    ("input_layout", "SBH", ("dense",), lambda c: {"input_layout": "SBH"}),
    ("input_layout", "BNSD_TND", ("dense", "prompt"), lambda c: {"input_layout": "BNSD_TND"}),
    ("scale", "NaN", ALL, lambda c: {"scale": float("nan")}),
    ("scale", "infinite", ALL, lambda c: {"scale": float("-inf")}),
    ("scale", "a string", ALL, lambda c: {"scale": "1"}),
    ("inner_precise", "4", ALL, lambda c: {"inner_precise": 4}),
    ("inner_precise", "negative", ALL, lambda c: {"inner_precise": -1}),
    ("sparse_mode", "5", ("prompt", "packed", "tree"), lambda c: {"sparse_mode": 5}),
    ("sparse_mode", "8", ("dense", "prompt", "packed"), lambda c: {"sparse_mode": 8}),
    ("sparse_mode", "10", ("dense", "prompt", "packed"), lambda c: {"sparse_mode": 10}),
    ("sparse_mode", "negative", ("dense", "prompt", "packed"), lambda c: {"sparse_mode": -1}),
    (
        "sparse_mode",
        "a tree without rope",
        ("prompt",),
        lambda c: {"sparse_mode": 9, "atten_mask": plane(2, 3, 3)},
    ),
    ("atten_mask", "None with mode 1", ("prompt", "packed"), lambda c: {"sparse_mode": 1}),
    ("atten_mask", "None with mode 3", ("prompt", "packed"), lambda c: {"sparse_mode": 3}),
    ("atten_mask", "None with a tree", ("tree",), lambda c: {"atten_mask": None}),
    (
        "atten_mask",
        "integers",
        ("dense", "prompt"),
        lambda c: {"atten_mask": plane(2, 1, 3, 12).astype(np.int32)},
    ),
    ("atten_mask", "too few keys", ("prompt",), lambda c: {"atten_mask": plane(2, 1, 3, 11)}),
    ("atten_mask", "too few rows", ("prompt",), lambda c: {"atten_mask": plane(2, 1, 2, 12)}),
    ("atten_mask", "another batch", ("dense", "prompt"), lambda c: {"atten_mask": plane(3, 1, 3, 12)}),
    ("atten_mask", "a mask of each head", ("prompt",), lambda c: {"atten_mask": plane(2, 4, 3, 12)}),
    ("atten_mask", "rank 1", ("dense", "prompt"), lambda c: {"atten_mask": plane(12)}),
    ("atten_mask", "too few keys of the pages", ("paged",), lambda c: {"atten_mask": plane(2, 8)}),
    (
        "atten_mask",
        "not compressed",
        ("prompt", "packed"),
        lambda c: {"sparse_mode": 3, "atten_mask": plane(3, 12)},
    ),
    (
        "atten_mask",
        "a full one beside a mode that asks for none",
        ("dense", "paged"),
        lambda c: {"sparse_mode": 3, "atten_mask": plane(2, 12)},
    ),
    ("atten_mask", "2047 rows", ("prompt",), lambda c: {"sparse_mode": 2, "atten_mask": plane(2047, 2048)}),
    (
        "atten_mask",
        "two compressed",
        ("prompt",),
        lambda c: {"sparse_mode": 4, "atten_mask": plane(2, 3, 2048, 2048)},
    ),
    ("atten_mask", "a tree of other rows", ("tree",), lambda c: {"atten_mask": plane(2, 2, 2)}),
    ("atten_mask", "a flat tree", ("tree",), lambda c: {"atten_mask": plane(18)}),
    ("actual_seq_lengths", "negative", ("prompt", "packed"), lambda c: {"actual_seq_lengths": [-1, 2]}),
    ("actual_seq_lengths", "beyond Sq", ("prompt", "packed"), lambda c: {"actual_seq_lengths": [3, 6]}),
    ("actual_seq_lengths", "None", ("packed",), lambda c: {"actual_seq_lengths": None}),
    ("actual_seq_lengths", "decreasing", ("packed",), lambda c: {"actual_seq_lengths": [5, 3]}),
    ("actual_seq_lengths", "huge", ("prompt", "packed"), lambda c: {"actual_seq_lengths": [0, INT64_MAX]}),
    ("actual_seq_lengths", "floats", ("prompt", "packed"), lambda c: {"actual_seq_lengths": [1.5, 2.5]}),
    ("actual_seq_lengths", "a string", ("prompt",), lambda c: {"actual_seq_lengths": "32"}),
    ("actual_seq_lengths_kv", "negative", ("paged", "prompt", "incre"), lambda c: lens(9, -5)),
    ("actual_seq_lengths_kv", "the least", ("paged", "prompt", "incre"), lambda c: lens(9, INT64_MIN)),
    ("actual_seq_lengths_kv", "beyond Skv", ("prompt", "packed", "incre"), lambda c: lens(9, 13)),
    ("actual_seq_lengths_kv", "beyond the table", ("paged",), lambda c: lens(17, 5)),
    ("actual_seq_lengths_kv", "huge", ("paged", "prompt", "packed", "incre"), lambda c: lens(9, INT64_MAX)),
    ("actual_seq_lengths_kv", "beyond 64 bits", ("paged", "incre"), lambda c: lens(9, 2**64)),
    ("actual_seq_lengths_kv", "none of two", ("paged",), lambda c: lens()),
    ("actual_seq_lengths_kv", "None", ("paged", "packed"), lambda c: {"actual_seq_lengths_kv": None}),
    ("actual_seq_lengths_kv", "more than rows' sequences", ("packed",), lambda c: lens(5, 7, 10)),
    ("actual_seq_lengths_kv", "decreasing", ("packed",), lambda c: lens(10, 5)),
    ("block_table", "int64", ("paged",), lambda c: {"block_table": c["block_table"].astype(np.int64)}),
    ("block_table", "floats", ("paged",), lambda c: {"block_table": c["block_table"].astype(FLOAT)}),
    ("block_table", "one row", ("paged",), lambda c: {"block_table": c["block_table"][:1]}),
    ("block_table", "three rows", ("paged",), lambda c: {"block_table": tables([0] * 4, [0] * 4, [0] * 4)}),
    ("block_table", "rank 1", ("paged",), lambda c: {"block_table": c["block_table"][0]}),
    ("block_table", "rank 3", ("paged",), lambda c: {"block_table": c["block_table"][None]}),
    ("block_table", "−1 among the pages", ("paged",), lambda c: entry(c, 0, 1, -1)),
    ("block_table", "−1 as last page", ("paged",), lambda c: entry(c, 0, 2, -1)),
    ("block_table", "a page too many", ("paged",), lambda c: entry(c, 1, 1, 6)),
    ("block_table", "the least", ("paged",), lambda c: entry(c, 0, 0, INT32_MIN)),
    ("block_table", "the largest", ("paged",), lambda c: entry(c, 1, 0, INT32_MAX)),
    ("block_size", "0", ("paged",), lambda c: {"block_size": 0}),
    ("block_size", "negative", ("paged",), lambda c: {"block_size": -4}),
    ("block_size", "not the pool's", ("paged",), lambda c: {"block_size": 8}),
    ("block_size", "huge", ("paged",), lambda c: {"block_size": INT64_MAX}),
    ("key", "a pool of rank 2", ("paged",), lambda c: {"key": ones(24, 16), "value": ones(24, 16)}),
    (
        "key",
        "a flat pool of another width",
        ("paged",),
        lambda c: {"key": ones(6, 4, 15), "value": ones(6, 4, 15)},
    ),
    ("key", "int8 without scales", ("int8", "stacked", "int4"), lambda c: without(c)),
    (
        "key_antiquant_scale",
        "of floats",
        ("int8",),
        lambda c: dense() | {"key_antiquant_scale": ones(2, 1, 8)},
    ),
    (
        "antiquant_scale",
        "of floats",
        ("stacked",),
        lambda c: {"key": ones(2, 2, 12, 8), "value": ones(2, 2, 12, 8)},
    ),
    ("value_antiquant_scale", "missing", ("int8",), lambda c: {"value_antiquant_scale": None}),
    ("key_antiquant_scale", "missing", ("int8",), lambda c: {"key_antiquant_scale": None}),
    (
        "key_antiquant_scale",
        "other heads",
        ("int8", "int4"),
        lambda c: {"key_antiquant_scale": ones(4, 1, 8)},
    ),
    (
        "key_antiquant_scale",
        "other channels",
        ("int8", "int4"),
        lambda c: {"key_antiquant_scale": ones(2, 1, 9)},
    ),
    ("key_antiquant_scale", "two numbers", ("int8",), lambda c: {"key_antiquant_scale": ones(2)}),
    (
        "key_antiquant_scale",
        "float64",
        ("int8",),
        lambda c: {"key_antiquant_scale": ones(2, 1, 8, dtype=float)},
    ),
    ("key_antiquant_scale", "bfloat16", ("int8",), lambda c: {"key_antiquant_scale": bf16(2, 1, 8)}),
    ("key_antiquant_scale", "per token, too short", ("int8",), lambda c: per_token(1, 2, 11)),
    ("key_antiquant_scale", "per token, halves", ("int8",), lambda c: per_token(1, 2, 12, dtype=HALF)),
    ("key_antiquant_scale", "per token of one sequence", ("int8",), lambda c: per_token(1, 1, 12)),
    ("key_antiquant_scale", "per token and head, too short", ("int8",), lambda c: per_token(3, 2, 2, 11)),
    ("key_antiquant_scale", "per head, too many", ("int8",), lambda c: per_token(2, 4, dtype=HALF)),
    ("key_antiquant_mode", "pages without a table", ("int8",), lambda c: per_token(4, 2, 12)),
    ("key_antiquant_mode", "6", ("int8",), lambda c: per_token(6, 2, 12)),
    ("key_antiquant_mode", "negative", ("int8",), lambda c: per_token(-1, 2, 12)),
    ("value_antiquant_mode", "another than key's", ("int8",), lambda c: {"value_antiquant_mode": 2}),
    ("antiquant_mode", "2", ("stacked",), lambda c: {"antiquant_mode": 2}),
    ("antiquant_mode", "negative", ("stacked",), lambda c: {"antiquant_mode": -1}),
    ("antiquant_scale", "one half", ("stacked",), lambda c: {"antiquant_scale": ones(1, 2, 1, 8)}),
    ("antiquant_scale", "three numbers", ("stacked",), lambda c: {"antiquant_scale": ones(3)}),
    ("antiquant_offset", "another shape", ("stacked",), lambda c: {"antiquant_offset": ones(2)}),
    (
        "antiquant_offset",
        "another dtype",
        ("stacked",),
        lambda c: {"antiquant_offset": ones(2, 2, 1, 8, dtype=FLOAT)},
    ),
    (
        "antiquant_scale",
        "missing",
        ("stacked",),
        lambda c: {"antiquant_scale": None, "antiquant_offset": ones(2)},
    ),
    ("value_antiquant_offset", "missing", ("int8",), lambda c: {"key_antiquant_offset": ones(2, 1, 8)}),
    ("key_antiquant_offset", "another shape", ("int8",), lambda c: offsets(ones(2, 1, 7))),
    ("key_antiquant_offset", "another dtype", ("int8",), lambda c: offsets(ones(2, 1, 8, dtype=FLOAT))),
    ("key_antiquant_offset", "alone", ("dense", "prompt"), lambda c: offsets(ones(2, 1, 8))),
    ("key_antiquant_offset", "of stacked scales", ("stacked",), lambda c: offsets(ones(2, 1, 8))),
    (
        "antiquant_scale",
        "an offset alone",
        ("dense", "int8"),
        lambda c: {"antiquant_offset": ones(2, 2, 1, 8)},
    ),
    ("key_antiquant_mode", "alone", ("dense", "prompt"), lambda c: {"key_antiquant_mode": 1}),
    ("value_antiquant_mode", "alone", ("dense", "prompt"), lambda c: {"value_antiquant_mode": 1}),
    ("key_antiquant_mode", "of stacked scales", ("stacked",), lambda c: {"key_antiquant_mode": 1}),
    ("antiquant_mode", "alone", ("dense", "prompt", "int8"), lambda c: {"antiquant_mode": 1}),
    (
        "key_antiquant_scale",
        "channels apart",
        ("int8",),
        lambda c: {"key_antiquant_scale": ones(2, 1, 16)[..., ::2]},
    ),
    (
        "atten_mask",
        "floats",
        ("dense", "incre"),
        lambda c: {"atten_mask": plane(2, 1, 1, 12).astype(FLOAT)},
    ),
    ("block_table", "with an int8 query", ("paged",), lambda c: with_int8(c)),
    ("antiquant_scale", "with an int8 query", ("stacked",), lambda c: with_int8(c)),
    ("key_antiquant_scale", "with an int8 query", ("int8",), lambda c: with_int8(c)),
    ("query_rope", "with an int8 query", ("tree",), lambda c: with_int8(c)),
    ("key_shared_prefix", "with an int8 query", ("prefixed",), lambda c: with_int8(c)),
    ("kv_padding_size", "with pages", ("paged",), lambda c: {"kv_padding_size": np.array([1])}),
    ("kv_padding_size", "two numbers", ("incre", "prompt"), lambda c: {"kv_padding_size": np.array([1, 2])}),
    ("kv_padding_size", "a float", ("incre", "prompt"), lambda c: {"kv_padding_size": np.array([1.0])}),
    ("kv_padding_size", "a window before key 0", ("prompt",), lambda c: {"kv_padding_size": np.array([1])}),
    ("kv_padding_size", "huge", ("prompt",), lambda c: {"kv_padding_size": np.array([INT64_MAX])}),
    ("kv_padding_size", "packed", ("packed",), lambda c: {"kv_padding_size": np.array([1])}),
    (
        "query_padding_size",
        "a window before row 0",
        ("prompt",),
        lambda c: {"query_padding_size": np.array([1])},
    ),
    ("query_padding_size", "huge", ("prompt",), lambda c: {"query_padding_size": np.array([INT64_MAX])}),
    ("query_padding_size", "packed", ("packed",), lambda c: {"query_padding_size": np.array([1])}),
    (
        "value_shared_prefix",
        "missing beside keys",
        ("dense",),
        lambda c: {"key_shared_prefix": ones(1, 2, 5, 8)},
    ),
    ("value_shared_prefix", "missing", ("prefixed",), lambda c: {"value_shared_prefix": None}),
    ("key_shared_prefix", "two", ("prefixed",), lambda c: {"key_shared_prefix": ones(2, 2, 5, 8)}),
    ("key_shared_prefix", "other heads", ("prefixed",), lambda c: {"key_shared_prefix": ones(1, 4, 5, 8)}),
    ("key_shared_prefix", "other channels", ("prefixed",), lambda c: {"key_shared_prefix": ones(1, 2, 5, 9)}),
    ("key_shared_prefix", "another width", ("flat",), lambda c: {"key_shared_prefix": ones(1, 5, 15)}),
    ("value_shared_prefix", "no width", ("flat",), lambda c: {"value_shared_prefix": ones(1, 5, 0)}),
    ("key_shared_prefix", "another dtype", ("prefixed",), lambda c: {"key_shared_prefix": bf16(1, 2, 5, 8)}),
    (
        "value_shared_prefix",
        "another length",
        ("prefixed",),
        lambda c: {"value_shared_prefix": ones(1, 2, 4, 8)},
    ),
    ("value_shared_prefix", "rank 3", ("prefixed",), lambda c: {"value_shared_prefix": ones(1, 5, 16)}),
    ("actual_shared_prefix_len", "too long", ("prefixed",), lambda c: {"actual_shared_prefix_len": [6]}),
    ("actual_shared_prefix_len", "negative", ("prefixed",), lambda c: {"actual_shared_prefix_len": [-1]}),
    ("actual_shared_prefix_len", "two", ("prefixed",), lambda c: {"actual_shared_prefix_len": [3, 3]}),
    ("actual_shared_prefix_len", "no prefix", ("dense",), lambda c: {"actual_shared_prefix_len": [3]}),
    ("key_rope", "missing", ("tree",), lambda c: {"key_rope": None}),
    ("query_rope", "missing", ("dense",), lambda c: {"key_rope": ones(2, 2, 12, 8)}),
    ("key_rope", "another length", ("tree",), lambda c: {"key_rope": ones(2, 2, 11, 8)}),
    ("key_rope", "other channels", ("tree",), lambda c: {"key_rope": ones(2, 2, 12, 7)}),
    ("query_rope", "another dtype", ("tree",), lambda c: {"query_rope": bf16(2, 4, 3, 8)}),
    ("query_rope", "other rows", ("tree",), lambda c: {"query_rope": ones(2, 4, 2, 8)}),
    ("pse_shift", "another dtype", ("dense", "prompt"), lambda c: {"pse_shift": bf16(2, 4, 3, 12)}),
    ("pse_shift", "other heads", ("dense", "prompt"), lambda c: {"pse_shift": ones(2, 2, 3, 12)}),
    ("pse_shift", "too few keys", ("dense", "prompt"), lambda c: {"pse_shift": ones(2, 4, 3, 11)}),
    ("pse_shift", "too few rows", ("prompt",), lambda c: {"pse_shift": ones(2, 4, 2, 12)}),
    ("pse_shift", "rank 3", ("dense", "prompt"), lambda c: {"pse_shift": ones(4, 3, 12)}),
    ("learnable_sink", "too few", ("dense", "packed"), lambda c: {"learnable_sink": ones(3)}),
    ("learnable_sink", "rank 2", ("dense", "packed"), lambda c: {"learnable_sink": ones(1, 4)}),
    ("learnable_sink", "integers", ("dense",), lambda c: {"learnable_sink": ones(4, dtype=np.int8)}),
    ("quant_scale_p", "given", ("dense",), lambda c: {"quant_scale_p": ones(1)}),
    ("padding_mask", "given", ("dense",), lambda c: {"padding_mask": ones(1)}),
    ("key_rope_antiquant_scale", "given", ("dense",), lambda c: {"key_rope_antiquant_scale": ones(1)}),
    ("dequant_scale1", "of floats", ("dense", "prompt"), lambda c: {"dequant_scale1": ones(1, dtype=FLOAT)}),
    ("quant_scale1", "of floats", ("dense", "prompt"), lambda c: {"quant_scale1": ones(1, dtype=FLOAT)}),
    ("dequant_scale2", "of floats", ("dense", "prompt"), lambda c: {"dequant_scale2": ones(1, dtype=FLOAT)}),
    ("quant_scale2", "too many", ("dense", "prompt"), lambda c: {"quant_scale2": ones(31, dtype=FLOAT)}),
    ("quant_scale2", "halves", ("dense", "prompt"), lambda c: {"quant_scale2": ones(1)}),
    ("quant_offset2", "alone", ("dense", "prompt"), lambda c: {"quant_offset2": ones(1, dtype=FLOAT)}),
    ("query_quant_mode", "3", ("dense",), lambda c: {"query_quant_mode": 3}),
    ("out_dtype", "of floats", ("dense",), lambda c: {"out_dtype": 5}),
    ("out_dtype", "not the rope's", ("int8_query",), lambda c: {"out_dtype": 15}),
    ("out_dtype", "int8", ("int8_query",), lambda c: {"out_dtype": np.int8}),
    ("out_dtype", "no dtype", ("dense", "int8_query"), lambda c: {"out_dtype": "half"}),
    ("out_dtype", "no number of one", ("int8_query",), lambda c: {"out_dtype": 290}),
    ("query_quant_mode", "0", ("int8_query",), lambda c: {"query_quant_mode": 0}),
    ("dequant_scale_query", "missing", ("int8_query",), lambda c: {"dequant_scale_query": None}),
    ("dequant_scale_query", "halves", ("int8_query",), lambda c: {"dequant_scale_query": ones(2, 4, 3)}),
    (
        "dequant_scale_query",
        "other heads",
        ("int8_query",),
        lambda c: {"dequant_scale_query": ones(2, 2, 3, 1, dtype=FLOAT)},
    ),
    (
        "dequant_scale_query",
        "one number",
        ("int8_query",),
        lambda c: {"dequant_scale_query": ones(1, dtype=FLOAT)},
    ),
    (
        "dequant_scale_query",
        "of floats",
        ("dense", "int8"),
        lambda c: {"dequant_scale_query": ones(2, 4, 1, dtype=FLOAT), "query_quant_mode": 3},
    ),
    ("query_rope", "missing", ("int8_query",), lambda c: {"query_rope": None, "key_rope": None}),
    ("query_rope", "float32", ("int8_query",), lambda c: {"query_rope": ones(2, 4, 3, 8, dtype=FLOAT)}),
    ("query_rope", "int8", ("int8_query",), lambda c: {"query_rope": ones(2, 4, 3, 8, dtype=np.int8)}),
    ("key_rope", "another dtype", ("int8_query", "tree"), lambda c: {"key_rope": bf16(2, 2, 12, 8)}),
    ("key", "of floats", ("int8_query",), lambda c: {"key": ones(2, 2, 12, 8)}),
    ("value", "of floats", ("int8_query",), lambda c: {"value": ones(2, 2, 12, 8)}),
    ("key", "without scales", ("int8_query",), lambda c: without(c)),
]


def wider(x):
    return np.concatenate([x, x], -1)


def plane(*shape):
    return np.zeros(shape, bool)


def bf16(*shape):
    return np.ones(shape, DTYPES["bfloat16"])


def lens(*numbers):
    return {"actual_seq_lengths_kv": list(numbers)}


def entry(call, row, column, value):
    table = call["block_table"].copy()
    table[row, column] = value
    return {"block_table": table}


def with_int8(call):
    """Of the interfaces that take integers in all three."""
    scales = {name: ones(1, dtype=FLOAT) for name in ("dequant_scale1", "quant_scale1", "dequant_scale2")}
    return scales | {name: call[name].astype(np.int8) for name in ("query", "key", "value")}


def without(call):
    return {name: None for name in call if name.endswith("antiquant_scale")}


def per_token(mode, *shape, dtype=FLOAT):
    scale = np.ones(shape, dtype)
    modes = {"key_antiquant_mode": mode, "value_antiquant_mode": mode}
    return {"key_antiquant_scale": scale, "value_antiquant_scale": scale} | modes


def offsets(x):
    return {"key_antiquant_offset": x, "value_antiquant_offset": x}
