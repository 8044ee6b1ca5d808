"""Strict mode of the decoding operators: every row of its table refuses a call that passes without it."""

from __future__ import annotations

import fusion_attention
import numpy as np
import pytest
from argument_names import PARAMETERS
from fusion_attention import _core
from test_fused_infer_malformed import function, in_words_of

ROWS = {
    (key, interface): (argument, allowed)
    for key, interfaces, argument, allowed, _ in _core.documented_limits()
    for interface in interfaces
    if key.startswith("decode-") and interface != "incre_flash_attention"
}
KIND = {
    "npu_incre_flash_attention": "incre",
    "npu_fused_infer_attention_score": "v1",
    "npu_fused_infer_attention_score_v2": "v2",
}


def operands(query, key, value=None, dtype=np.float16, layout="BNSD", **words):
    shapes = {"query": query, "key": key, "value": value or key}
    axis = {"BNSD": 1, "BSND": 2, "TND": 1}[layout]
    arrays = {name: np.broadcast_to(np.ones((), dtype), shape) for name, shape in shapes.items()}
    heads = {"num_heads": query[axis], "num_key_value_heads": key[axis]}
    return arrays | heads | {"input_layout": layout, "scale": 0.1} | words


def paged(size, layout="BNSD", flat=False, **words):
    pool = (2, size, 16) if flat else (2, 1, size, 16)
    words |= {"block_table": np.array([[1]], np.int32), "block_size": size, "actual_seq_lengths_kv": [1]}
    call = operands((1, 1, 1, 16), (1, 1, 1, 16), layout=layout) | words
    return call | {"key": np.ones(pool, np.float16), "value": np.ones(pool, np.float16)}


def prefixed_pages():
    prefix = np.ones((1, 1, 16, 16), np.float16)
    return paged(16) | {"key_shared_prefix": prefix, "value_shared_prefix": prefix}


def quantised_rows():
    scale = np.ones(2, np.float16)
    words = {
        f"{name}_antiquant_{word}": x
        for name in ("key", "value")
        for word, x in (("scale", scale), ("mode", 2))
    }
    call = operands((1, 2, 3, 32), (1, 2, 5, 32)) | words
    return call | {name: np.ones((1, 2, 5, 32), np.int8) for name in ("key", "value")}


def rope():
    ropes = {name: np.ones((1, 1, 1, 32), np.float16) for name in ("query_rope", "key_rope")}
    return operands((1, 1, 1, 128), (1, 1, 1, 128)) | ropes


def int8_query(depth=512, **more):
    ropes = {name: np.ones((1, 1, 1, 64), np.float16) for name in ("query_rope", "key_rope")}
    scales = {f"{name}_antiquant_scale": np.ones(1, np.float32) for name in ("key", "value")}
    words = {"dequant_scale_query": np.ones((1, 1, 1), np.float32), "query_quant_mode": 3}
    shape = (1, 1, 1, depth)
    stored = {name: np.ones(shape, np.int8) for name in ("key", "value")}
    return operands(shape, shape, dtype=np.int8) | stored | ropes | scales | words | more


def both(word, x):
    return {f"{name}_antiquant_{word}": x for name in ("key", "value")}


CASES = {
    "decode-int8-depth": lambda: int8_query(128),
    "decode-int8-mode": lambda: int8_query(**both("mode", 2)),
    "decode-int8-scale": lambda: int8_query(**both("scale", np.ones(1, np.float16))),
    "decode-int8-offset": lambda: int8_query(**both("offset", np.zeros(1, np.float32))),
    "decode-int8-output": lambda: int8_query(quant_scale2=np.ones(1, np.float32)),
    "decode-batch": lambda: operands((65537, 1, 1, 16), (65537, 1, 1, 16)),
    "decode-heads": lambda: operands((1, 257, 1, 16), (1, 257, 1, 16)),
    "decode-group": lambda: operands((1, 65, 1, 16), (1, 1, 1, 16)),
    "decode-depth": lambda: operands((1, 1, 1, 528), (1, 1, 1, 528)),
    "decode-depth-unaligned": lambda: operands((1, 1, 1, 24), (1, 1, 1, 24)),
    "decode-dtype": lambda: operands((1, 1, 1, 16), (1, 1, 1, 16), dtype=np.float32),
    "decode-value-depth": lambda: operands((1, 1, 1, 16), (1, 1, 1, 16), (1, 1, 1, 32)),
    "decode-keys": lambda: operands((1, 1, 1, 16), (1, 1, 262145, 16)),
    "decode-rope-depth": rope,
    "decode-nbsd": lambda: operands((1, 1, 17, 16), (1, 1, 17, 16)) | {"input_layout": "BNSD_NBSD"},
    "decode-page": lambda: paged(17),
    "decode-pool": lambda: paged(16, layout="BSND"),
    "decode-pages-prefix": prefixed_pages,
    "decode-quantised-rows": quantised_rows,
    "decode-quantised-rows-v2": quantised_rows,
    "decode-sink": lambda: (
        operands((1, 1, 1, 16), (1, 1, 1, 16)) | {"learnable_sink": np.ones(1, np.float16)}
    ),
}


@pytest.mark.parametrize(("key", "interface"), ROWS)
def test_every_row(key, interface):
    argument, allowed = ROWS[key, interface]
    call, which = CASES[key](), KIND[interface]
    attend, words = function("numpy", which), in_words_of(call, which)
    attend(**words)
    with fusion_attention.strict(), pytest.raises(RuntimeError) as refused:
        attend(**words)
    sentence = str(refused.value)
    assert sentence.startswith(f"{argument}: got "), sentence
    assert argument in PARAMETERS[interface]
    assert f"allowed is {allowed} by the document of {interface} (strict mode; " in sentence


def test_every_row_has_a_call():
    assert CASES.keys() == {key for key, _ in ROWS}


def test_documented_calls_pass():
    with fusion_attention.strict():
        function("numpy", "v1")(**operands((2, 4, 1, 64), (2, 2, 40, 64)))
        function("numpy", "v2")(**in_words_of(int8_query(), "v2"))
        function("numpy", "v1")(**paged(16, flat=True, layout="BSND"))
        function("numpy", "incre")(**in_words_of(paged(128), "incre"))
