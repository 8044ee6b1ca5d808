"""The inference operators that decode: npu_incre_flash_attention and npu_fused_infer_attention_score.

Their keys and values may lie in pages, in int8 or int4, behind a shared prefix. What they share with the
prompt operators stands in table.py.
"""

from __future__ import annotations

from typing import Any

from fusion_attention._table import FLOATING, INT_MAX, Argument
from fusion_attention.inference.table import BY_NAME, NPU_PROMPT, PROMPT, Function

_CACHE = "query's dtype, int8, or int32 of eight int4 (the first in the lowest bits)"
_SCALES = "query's dtype or float32; per token float32"
_SOURCE = "inference-ops B.3"


def _tensor(name: str, says: str, dtypes: str, source: str = _SOURCE) -> Argument:
    return Argument(name, "tensor", says, None, dtypes, source)


def _unused(name: str) -> Argument:
    """An argument that the documents reserve."""
    return Argument(name, "unused", "must be None", None, source="inference-ops B.4")


STORED = (
    _tensor(
        "block_table",
        "[B, pages of the longest sequence]: page t of a sequence lies in the pool at this index; entries "
        "behind a sequence's last page are not read",
        "int32",
    ),
    _tensor(
        "query_padding_size",
        "one number, below 0 means 0: rows end that many before Sq. Without actual_seq_lengths, and with "
        "one row, it is ignored, as documented",
        "int64",
    ),
    _tensor(
        "kv_padding_size",
        "one number, below 0 means 0: keys end that many before Skv. Without the lengths of the keys it is "
        "ignored, as documented; one row whose window would begin before key 0 is 0",
        "int64",
    ),
    _tensor(
        "antiquant_scale",
        "of int8 or int4 key and value, stacked: x = (stored + offset)·scale. antiquant_mode 0: [2], [2, "
        "Nkv, 1, D], [2, Nkv, D] or [2, Nkv·D]; 1: [2, B, Skv]",
        _SCALES,
    ),
    _tensor("antiquant_offset", "shaped like antiquant_scale; None: 0", "antiquant_scale's"),
    _tensor(
        "key_antiquant_scale",
        "of key; where it is given antiquant_scale and what belongs to it are ignored, as documented. "
        "key_antiquant_mode 0: [1], [Nkv, 1, D], [Nkv, D], [Nkv·D], each with any leading 1; 1 per token: "
        "[B, Skv] or [1, B, Skv]; 2 per head: [Nkv]; 3 per token and head: [B, Nkv, Skv]; 4 per token in "
        "pages: [pages, P]; 5 with heads: [pages, Nkv, P]",
        _SCALES,
    ),
    _tensor("key_antiquant_offset", "shaped like key_antiquant_scale; None: 0", "its scale's"),
    _tensor("value_antiquant_scale", "the same of value", _SCALES),
    _tensor("value_antiquant_offset", "the same of value", "its scale's"),
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
    Argument(
        "block_size",
        "symint",
        "P, any number that the pools have; without block_table it is ignored",
        0,
        source=_SOURCE,
    ),
    Argument(
        "antiquant_mode",
        "int",
        "0 per tensor or channel, 1 per token; 0 without antiquant_scale",
        0,
        source=_SOURCE,
    ),
    Argument("key_antiquant_mode", "int", "0 to 5, see key_antiquant_scale; 0 without it", 0, source=_SOURCE),
    Argument("value_antiquant_mode", "int", "key_antiquant_mode, or 1 where that is 0", 0, source=_SOURCE),
    Argument("softmax_lse_flag", "bool", "whether softmax_lse is computed", False, source=_SOURCE),
    _tensor(
        "dequant_scale_query",
        "of an int8 query, query's shape without its D, or with 1 for it; BSH: [B, Sq, N]",
        "float32",
        "inference-ops B.4",
    ),
    Argument(
        "query_quant_mode",
        "int",
        "3, per token and head, with dequant_scale_query; else 0",
        0,
        source="inference-ops B.4",
    ),
    Argument(
        "out_dtype",
        "dtype",
        "of an int8 query, query_rope's dtype (a dtype or torch's number of it); else None",
        None,
        source="inference-ops B.4",
    ),
    _tensor(
        "learnable_sink",
        "[N]: one more logit per head, which joins the sum of the weights and has no value",
        "bfloat16, float16 or float32",
        "inference-ops B.4",
    ),
)

_DTYPES = " ".join(
    f"{name}_dtype"
    for name in (
        *("query", "key", "value", "query_rope", "key_rope", "key_shared_prefix", "value_shared_prefix"),
        *("dequant_scale_query", "dequant_scale_key", "dequant_scale_value", "dequant_scale_key_rope"),
    )
)
_UNUSED = ("key_rope_antiquant_scale", "dequant_scale_key_rope", "quant_scale_p", *_DTYPES.split())
ROWS = BY_NAME | {row.name: row for row in STORED} | {name: _unused(name) for name in _UNUSED}

_INTEGER = "dequant_scale1 quant_scale1 dequant_scale2 quant_scale2 quant_offset2"
_SPELLED = {"dequant_scale1": "deq_scale1", "dequant_scale2": "deq_scale2"}
_FUSED: dict[str, dict[str, Any]] = {
    "query": {"dtypes": f"{FLOATING}, or int8"},
    "key": {
        "says": "the keys, with Nkv heads, laid out like query or, with block_table, a pool of pages "
        "[pages, P, Nkv·D] or [pages, Nkv, P, D]",
        "dtypes": _CACHE,
    },
    "value": {"says": "the values, like key; their D may differ", "dtypes": "key's dtype"},
    "atten_mask": {
        "says": "non-zero hides that key from that row. sparse_mode 0, 1: [Sq, Skv] ([B, Skv] for one "
        "row), [1 or B, Sq, Skv] or [1 or B, 1, Sq, Skv], the last two axes may be longer. 2, 3, 4: [2048, "
        "2048] with any leading ones, content not read. 9: [B, Sq, Sq], packed [Σ sq²]",
        "dtypes": "bool, uint8 or int8",
    },
    "actual_seq_lengths": {
        "says": "rows of each batch entry: one number each or one for all. Packed layouts: cumulative "
        "ends, as many as there are sequences. One row without rope: without effect",
    },
    "actual_seq_lengths_kv": {
        "says": "keys of each batch entry, the same; must be given with block_table, then never cumulative",
    },
    "pre_tokens": {"says": BY_NAME["pre_tokens"].says + "; without effect on one row and on left padding"},
    "next_tokens": {"default": INT_MAX},
    "inner_precise": {
        "default": 0,
        "says": "odd: several float16 rows round Q·Kᵀ to float16, as the hardware does; else without effect",
    },
    "input_layout": {
        "says": "the axes of query and of unpaged keys: BSH, BSND, BNSD, TND or NTD (packed); after a _ "
        "those of the output: BSH_BNSD, BSND_BNSD, BNSD_BSND, BSH_NBSD, BSND_NBSD, BNSD_NBSD, TND_NTD, "
        "NTD_TND. In either case",
    },
    "sparse_mode": {
        "says": BY_NAME["sparse_mode"].says
        + ", 9 a tree over the last Lq keys (with rope). One row without rope: 2 to 4 are full",
    },
}
_V2: dict[str, dict[str, Any]] = _FUSED | {
    "query": {"dtypes": f"{FLOATING}, or int8 with dequant_scale_query and query_rope"},
    "query_rope": {"dtypes": "query's dtype; of an int8 query bfloat16 or float16, then that of the output"},
    "key_rope": {"dtypes": "query_rope's dtype"},
}
_INCRE: dict[str, dict[str, Any]] = {
    **{name: _FUSED[name] for name in ("query", "key", "value")},
    "input_layout": {"says": "the axes of query and of keys that are not paged: BSH, BNSD or BSND"},
    "atten_mask": {
        "says": "non-zero hides that key: [B, Skv], [B, 1, Skv] or [B, 1, 1, Skv]",
        "dtypes": "bool, uint8 or int8",
    },
    "actual_seq_lengths_kv": {"says": "keys of each batch entry: one number each or one for all"},
    "inner_precise": {"says": "0 to 3, without effect: both descriptions hold"},
    "antiquant_scale": {
        "says": "of int8 key and value, stacked: x = (stored + offset)·scale. [2], [2, Nkv, 1, D], [2, "
        "Nkv, D] or [2, Nkv·D]",
    },
}

INCRE = Function(
    "incre_flash_attention",
    "Attention of one row per sequence over stored keys: mindspore.ops.incre_flash_attention",
    f"query key value attn_mask actual_seq_lengths pse_shift {_INTEGER} antiquant_scale antiquant_offset "
    "block_table num_heads input_layout scale_value num_key_value_heads block_size inner_precise "
    "kv_padding_size",
    spellings={
        **_SPELLED,
        "attn_mask": "atten_mask",
        "scale_value": "scale",
        "actual_seq_lengths": "actual_seq_lengths_kv",
    },
    changes=_INCRE,
    rows=ROWS,
    lists=("key", "value"),
)
NPU_INCRE = Function(
    "npu_incre_flash_attention",
    "Attention of one row per sequence over stored keys: torch_npu.npu_incre_flash_attention",
    "query key value",
    "padding_mask atten_mask pse_shift actual_seq_lengths antiquant_scale antiquant_offset block_table "
    f"{_INTEGER} kv_padding_size num_heads scale_value input_layout num_key_value_heads block_size "
    "inner_precise",
    spellings={**_SPELLED, "scale_value": "scale", "actual_seq_lengths": "actual_seq_lengths_kv"},
    changes=_INCRE,
    rows=ROWS,
)
FUSED = Function(
    "npu_fused_infer_attention_score",
    "Attention of prompts and of single rows over stored keys: torch_npu.npu_fused_infer_attention_score",
    "query key value",
    f"pse_shift atten_mask actual_seq_lengths actual_seq_lengths_kv {_INTEGER} antiquant_scale "
    "antiquant_offset key_antiquant_scale key_antiquant_offset value_antiquant_scale "
    "value_antiquant_offset block_table query_padding_size kv_padding_size key_shared_prefix "
    "value_shared_prefix actual_shared_prefix_len query_rope key_rope key_rope_antiquant_scale num_heads "
    "scale pre_tokens next_tokens input_layout num_key_value_heads sparse_mode inner_precise block_size "
    "antiquant_mode key_antiquant_mode value_antiquant_mode softmax_lse_flag",
    results=("attention_out", "softmax_lse"),
    spellings=_SPELLED,
    changes=_FUSED,
    rows=ROWS,
)
FUSED_V2 = Function(
    "npu_fused_infer_attention_score_v2",
    "Attention of prompts and of single rows over stored keys: torch_npu.npu_fused_infer_attention_score_v2",
    "query key value",
    "query_rope key_rope pse_shift atten_mask actual_seq_qlen actual_seq_kvlen block_table "
    "dequant_scale_query dequant_scale_key dequant_offset_key dequant_scale_value dequant_offset_value "
    "dequant_scale_key_rope quant_scale_out quant_offset_out quant_scale_p learnable_sink num_query_heads "
    "num_key_value_heads softmax_scale pre_tokens next_tokens input_layout sparse_mode block_size "
    f"query_quant_mode key_quant_mode value_quant_mode inner_precise return_softmax_lse {_DTYPES} out_dtype",
    results=("attention_out", "softmax_lse"),
    spellings={
        "actual_seq_qlen": "actual_seq_lengths",
        "actual_seq_kvlen": "actual_seq_lengths_kv",
        "dequant_scale_key": "key_antiquant_scale",
        "dequant_offset_key": "key_antiquant_offset",
        "dequant_scale_value": "value_antiquant_scale",
        "dequant_offset_value": "value_antiquant_offset",
        "key_quant_mode": "key_antiquant_mode",
        "value_quant_mode": "value_antiquant_mode",
        "quant_scale_out": "quant_scale2",
        "quant_offset_out": "quant_offset2",
        "num_query_heads": "num_heads",
        "softmax_scale": "scale",
        "return_softmax_lse": "softmax_lse_flag",
    },
    changes=_V2,
    rows=ROWS,
)
FUNCTIONS = (PROMPT, NPU_PROMPT, INCRE, NPU_INCRE, FUSED, FUSED_V2)
