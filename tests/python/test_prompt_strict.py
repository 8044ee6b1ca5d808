"""Strict mode of the prompt interfaces: every row of their table has a call that is read and then refused."""

import re

import fusion_attention
import numpy as np
import pytest
from argument_names import PARAMETERS
from fusion_attention import _core
from fusion_attention._elements import ELEMENTS
from fusion_attention.inference import numpy as front

INTERFACES = ("prompt_flash_attention", "npu_prompt_flash_attention")
LIMITS = {
    key: (interfaces, argument, allowed)
    for key, interfaces, argument, allowed, _ in _core.documented_limits()
    if set(interfaces) & set(INTERFACES)
}
PAIRS = [(key, interface) for key, (interfaces, *_) in LIMITS.items() for interface in interfaces]


def array(*shape, dtype="float16"):
    """What the binding takes, without memory."""
    strides = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    return 0, ELEMENTS[dtype], shape, tuple(strides)


def dense(query=(1, 1, 8, 16), key=None, value=None, dtype="float16", layout="BNSD", **words):
    key = key or query
    operands = [array(*shape, dtype=dtype) for shape in (query, key, value or key)]
    return operands, {"num_heads": query[1], "input_layout": layout} | words


def packed(rows=8, heads=8, depth=192, value_depth=None, dtype="bfloat16", **words):
    """A documented call of TND but for what is given."""
    q, v = (rows, heads, depth), (rows, heads, value_depth or depth)
    lengths = {"actual_seq_lengths": [rows], "actual_seq_lengths_kv": [rows]}
    return dense(q, q, v, dtype, "TND", **lengths, **words)


def mask(*shape):
    return array(*shape, dtype="bool")


TRIANGLE = mask(2048, 2048)
HIDES_NOTHING = np.zeros((8, 8), bool)
SCALE, CHANNELS = array(1, dtype="float32"), array(16, dtype="float32")
INT8 = {"deq_scale1": SCALE, "quant_scale1": SCALE, "deq_scale2": SCALE}
MOST = 20971520
CASES = {
    "prompt-batch": lambda: dense((65537, 1, 1, 16)),
    "prompt-batch-unaligned": lambda: dense((129, 1, 1, 24)),
    "prompt-heads": lambda: dense((1, 257, 1, 16)),
    "prompt-group": lambda: dense((1, 65, 1, 16), (1, 1, 1, 16), num_key_value_heads=1),
    "prompt-rows": lambda: dense((1, 1, MOST + 1, 16), (1, 1, 1, 16)),
    "prompt-keys": lambda: dense((1, 1, 1, 16), (1, 1, MOST + 1, 16)),
    "prompt-depth": lambda: dense((1, 1, 1, 528)),
    "prompt-width": lambda: dense((1, 1, 65536), layout="BSH", num_heads=128),
    "prompt-value-depth": lambda: dense(value=(1, 1, 8, 32)),
    "prompt-dtype": lambda: dense(dtype="float32"),
    "prompt-capitals": lambda: dense(layout="bnsd"),
    "prompt-inner-precise": lambda: dense(inner_precise=2),
    "prompt-lengths": lambda: dense(actual_seq_lengths=[0]),
    "prompt-lengths-kv": lambda: dense(actual_seq_lengths_kv=[0]),
    "prompt-band": lambda: dense(atten_mask=TRIANGLE, sparse_mode=4, pre_tokens=-1, next_tokens=5),
    "prompt-tokens-mask": lambda: dense(
        atten_mask=(HIDES_NOTHING.ctypes.data, ELEMENTS["bool"], (8, 8), (8, 1)), next_tokens=0
    ),
    "prompt-int8-tokens": lambda: dense(atten_mask=mask(8, 8), next_tokens=-1, quant_scale2=SCALE),
    "prompt-int8-channels": lambda: dense(quant_scale2=CHANNELS),
    "prompt-int8-offset": lambda: dense(
        (1, 1, 8, 16), (1, 1, 4, 16), atten_mask=TRIANGLE, sparse_mode=3, quant_scale2=SCALE,
        quant_offset2=SCALE,
    ),
    "prompt-int8-keys": lambda: dense((1, 1, 8, 32), (1, 1, 0, 32), dtype="int8", **INT8),
    "prompt-packed-dtype": lambda: packed(dtype="float16"),
    "prompt-packed-heads": lambda: packed(heads=4),
    "prompt-packed-depth": lambda: packed(depth=128),
    "prompt-packed-mode": lambda: packed(atten_mask=TRIANGLE, sparse_mode=2),
    "prompt-packed-tokens": lambda: packed(rows=65537),
}  # fmt: skip
# The rows of all sizes, which this one is under as well.
EARLIER = {"prompt-int8-keys": "prompt-keys"}


def read(key, interface, strict):
    operands, words = CASES[key]()
    return _core.InferenceAttention(interface, *operands, words, strict)


@pytest.mark.parametrize(("key", "interface"), PAIRS)
def test_every_row(key, interface):
    read(key, interface, False)
    _, argument, allowed = LIMITS[EARLIER.get(key, key)]
    sentence = f"{argument}: got .+, allowed is {re.escape(allowed)} by the document of {interface} "
    with pytest.raises(RuntimeError, match=sentence):
        read(key, interface, True)
    assert argument in PARAMETERS[interface]


def test_every_row_has_a_call():
    assert CASES.keys() == LIMITS.keys()


@pytest.mark.parametrize("interface", INTERFACES)
def test_documented_calls_pass(interface):
    cases = [
        dense((65536, 1, 1, 16)),
        dense((128, 1, 1, 24)),
        dense((1, 256, 4, 16), (1, 4, 4, 16), num_key_value_heads=4),
        dense((1, 1, MOST, 16), atten_mask=TRIANGLE, sparse_mode=4, pre_tokens=64),
        dense((2, 4, 8, 512), actual_seq_lengths=[3, 8], actual_seq_lengths_kv=[8]),
        dense((2, 4, 8, 32), dtype="int8", quant_scale2=SCALE, **INT8),
    ]
    if interface == "npu_prompt_flash_attention":
        cases += [packed(), packed(value_depth=128, atten_mask=TRIANGLE, sparse_mode=3)]
    for operands, words in cases:
        _core.InferenceAttention(interface, *operands, words, True)


def test_the_switch_reaches_the_fronts():
    x = np.ones((1, 1, 2, 528), np.float16)
    front.npu_prompt_flash_attention(x, x, x, input_layout="BNSD")
    with fusion_attention.strict(), pytest.raises(RuntimeError, match="strict mode"):
        front.npu_prompt_flash_attention(x, x, x, input_layout="BNSD")
