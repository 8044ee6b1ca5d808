"""The one table of npu_incre_flash_attention and npu_fused_infer_attention_score: what each argument is.

Signatures, docstrings, stubs, torch schemas and type checks are made from it; what is legal beyond types is
decided once, in C++. Canonical names are those of npu_fused_infer_attention_score; the functions at the end
say how each spells and orders them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fusion_attention._table import FLOATING, INT_MAX, Argument

NOTATION = """\
B batches, N query heads, Nkv key and value heads, Sq rows (queries), Skv keys, D channels of a head,
H = heads·D, T tokens of all packed sequences, P keys of a page; row i and key j are counted within their sequence."""

_CACHE = "query's dtype, int8, or int32 of eight int4 (the first in the lowest bits)"
_SCALES = "query's dtype or float32; per token float32"
_SOURCE = "inference-ops B.3"


def _tensor(name: str, says: str, dtypes: str, source: str = _SOURCE, default: Any = None) -> Argument:
    return Argument(name, "tensor", says, default, dtypes, source)


def _without_effect(name: str) -> Argument:
    return _tensor(name, "must be None, as in the documents", "")


# In the order of the torch operator; the first three are required.
ARGUMENTS = (
    Argument(
        "query",
        "tensor",
        "the queries, laid out as input_layout says; any strides",
        dtypes=f"{FLOATING}, or int8",
        source=_SOURCE,
    ),
    Argument(
        "key",
        "tensor",
        "the keys, with Nkv heads, laid out like query or, with block_table, a pool of pages [pages, "
        "P, Nkv·D] or "
        "[pages, Nkv, P, D]",
        dtypes=_CACHE,
        source=_SOURCE,
    ),
    Argument(
        "value", "tensor", "the values, like key; their D may differ", dtypes="key's dtype", source=_SOURCE
    ),
    _tensor(
        "pse_shift",
        "a bias on the scaled scores, [1 or B, N, Sq, Skv]; its last two axes may be longer",
        "query's dtype",
        "inference-ops A.10",
    ),
    _tensor(
        "atten_mask",
        "non-zero hides that key from that row. sparse_mode 0, 1: [Sq, Skv] ([B, Skv] for one row), "
        "[1 or B, Sq, Skv] or [1 or B, 1, Sq, Skv], the last two axes may be longer. 2, 3, 4: [2048, "
        "2048] with any "
        "leading ones, content not read. 9: [B, Sq, Sq], packed [Σ sq²]",
        "bool, uint8 or int8",
        "inference-ops A.5",
    ),
    Argument(
        "actual_seq_lengths",
        "ints",
        "rows of each batch entry: one number each or one for all. Packed layouts: cumulative ends, as "
        "many as "
        "there are sequences. One row without rope: without effect",
        None,
        source="inference-ops A.4",
    ),
    Argument(
        "actual_seq_lengths_kv",
        "ints",
        "keys of each batch entry, the same; must be given with block_table, then never cumulative",
        None,
        source="inference-ops A.4",
    ),
    _tensor(
        "dequant_scale1",
        "int8 query: multiplies Q·Kᵀ, one number",
        "float32, or uint64 bit patterns",
        "inference-ops A.11",
    ),
    _tensor(
        "quant_scale1", "int8 query: multiplies the weights, one number", "float32", "inference-ops A.11"
    ),
    _tensor(
        "dequant_scale2",
        "int8 query: multiplies P·V, one number",
        "float32, or uint64 bit patterns",
        "inference-ops A.11",
    ),
    _tensor(
        "quant_scale2",
        "makes the result int8: one number, or one for each of N·Dv",
        "float32; bfloat16 with bfloat16 query",
        "inference-ops A.11",
    ),
    _tensor(
        "quant_offset2", "added to the int8 result; like quant_scale2", "quant_scale2's", "inference-ops A.11"
    ),
    _tensor(
        "antiquant_scale",
        "of int8 or int4 key and value, stacked: x = (stored + offset)·scale. antiquant_mode 0: [2], "
        "[2, Nkv, 1, D], [2, Nkv, D] or [2, Nkv·D]; 1: [2, B, Skv]",
        _SCALES,
    ),
    _tensor("antiquant_offset", "shaped like antiquant_scale; None: 0", "antiquant_scale's"),
    _tensor(
        "key_antiquant_scale",
        "of key, before the stacked one. key_antiquant_mode 0: [1], [Nkv, 1, D], [Nkv, D], [Nkv·D], "
        "each with any "
        "leading 1; 1 per token: [B, Skv] or [1, B, Skv]; 2 per head: [Nkv]; 3 per token and head: [B, "
        "Nkv, Skv]; "
        "4 per token in pages: [pages, P]; 5 with heads: [pages, Nkv, P]",
        _SCALES,
    ),
    _tensor("key_antiquant_offset", "shaped like key_antiquant_scale; None: 0", "its scale's"),
    _tensor("value_antiquant_scale", "the same of value", _SCALES),
    _tensor("value_antiquant_offset", "the same of value", "its scale's"),
    _tensor(
        "block_table",
        "[B, pages of the longest sequence]: page t of a sequence lies in the pool at this index; "
        "entries behind a "
        "sequence's last page are not read",
        "int32",
    ),
    _tensor(
        "query_padding_size",
        "one number: rows end that many before Sq. Needs actual_seq_lengths",
        "int64",
    ),
    _tensor(
        "kv_padding_size",
        "one number, below 0 means 0: keys end that many before Skv. Needs the lengths of the keys; "
        "one row whose "
        "window would begin before key 0 is 0",
        "int64",
    ),
    _tensor(
        "key_shared_prefix",
        "keys that every sequence has before its own: key's layout with B = 1",
        "key's dtype",
    ),
    _tensor("value_shared_prefix", "the same of value", "key's dtype"),
    Argument(
        "actual_shared_prefix_len", "ints", "one number: the prefix's rows; None: all", None, source=_SOURCE
    ),
    _tensor(
        "query_rope",
        "more channels of query, in its layout with a D of their own: Q·Kᵀ becomes Q·Kᵀ + Qr·Krᵀ",
        "query's dtype",
    ),
    _tensor("key_rope", "the same of key, paged as key is", "query's dtype"),
    _without_effect("key_rope_antiquant_scale"),
    Argument("num_heads", "symint", "N", 1, source=_SOURCE),
    Argument("scale", "float", "multiplies Q·Kᵀ in float32; any finite number", 1.0, source=_SOURCE),
    Argument(
        "pre_tokens", "symint", "modes 0 and 4: keys before a row's own", INT_MAX, source="inference-ops A.6"
    ),
    Argument(
        "next_tokens", "symint", "modes 0 and 4: keys after a row's own", INT_MAX, source="inference-ops A.6"
    ),
    Argument(
        "input_layout",
        "str",
        "the axes of query and of keys that are not paged: BSH, BSND, BNSD, TND or NTD; after a _ "
        "those of the "
        "output: BNSD_BSND, BSH_BNSD, BSND_BNSD, BSH_NBSD, BSND_NBSD, BNSD_NBSD, TND_NTD, NTD_TND. In "
        "either case",
        "BSH",
        source=_SOURCE,
    ),
    Argument("num_key_value_heads", "symint", "Nkv, a divisor of N; 0: N", 0, source="inference-ops A.3"),
    Argument(
        "sparse_mode",
        "int",
        "0 mask and tokens, 1 mask alone, 2 causal from the top left, 3 causal from the bottom right, "
        "4 band from "
        "the bottom right, 9 a tree over the last Sq keys (with rope). One row without rope: 2 to 4 "
        "are full",
        0,
        source="inference-ops A.6",
    ),
    Argument(
        "inner_precise",
        "int",
        "0 to 3; odd: several float16 rows round Q·Kᵀ to float16, as the hardware does",
        0,
        source="inference-ops A.8",
    ),
    Argument("block_size", "symint", "P, any number that the pools have", 0, source=_SOURCE),
    Argument("antiquant_mode", "int", "0 per tensor or channel, 1 per token", 0, source=_SOURCE),
    Argument("softmax_lse_flag", "bool", "whether softmax_lse is computed", False, source=_SOURCE),
    Argument("key_antiquant_mode", "int", "0 to 5, see key_antiquant_scale", 0, source=_SOURCE),
    Argument("value_antiquant_mode", "int", "key_antiquant_mode, or 1 where that is 0", 0, source=_SOURCE),
    _tensor(
        "learnable_sink",
        "[N]: one more logit per head, which joins the sum of the weights and has no value",
        "bfloat16, float16 or float32",
        "inference-ops B.4",
    ),
    _without_effect("dequant_scale_query"),
    _without_effect("quant_scale_p"),
    _without_effect("padding_mask"),
    Argument(
        "query_quant_mode",
        "int",
        "must be 0: of int8 query with scales per token",
        0,
        source="inference-ops B.4",
    ),
)

_DTYPES = tuple(
    Argument(f"{name}_dtype", "int", "must be None, as in the documents", None, source="inference-ops B.4")
    for name in (
        "query key value query_rope key_rope key_shared_prefix value_shared_prefix dequant_scale_query "
        "dequant_scale_key dequant_scale_value dequant_scale_key_rope out"
    ).split()
)

BY_NAME = {argument.name: argument for argument in (*ARGUMENTS, *_DTYPES)}

RESULTS = {
    "attention_out": "query's dtype, int8 with quant_scale2; laid out as input_layout says, with value's D; rows "
    "past a sequence's length and rows that see nothing are 0",
    "softmax_lse": "float32 [B, N, Sq, 1], packed [T, N, 1]: the logarithm of the sum of exp(score), sink included, "
    "+inf for rows that see nothing; of shape [0] where it was not asked for",
}
