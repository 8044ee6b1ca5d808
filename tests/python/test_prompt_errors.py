# ruff: noqa: E501 (a line per row of the tables)
"""The error table of the document of prompt_flash_attention, row by row, by type and trigger (ruling 28).

Each row is tried on NumPy arrays and torch tensors, with strict mode off and on; nothing is computed. Below it
the further rows of inference-ops A.12, and what torch_npu's entry refuses.
"""

from __future__ import annotations

import re
import subprocess
import sys

import fusion_attention
import fusion_attention.mindspore
import ml_dtypes
import numpy as np
import pytest
import torch
from argument_names import check_names
from test_family_calls import to_torch

F16, BF16, I8, F32 = np.float16, ml_dtypes.bfloat16, np.int8, np.float32


def ones(*shape, dtype=F16):
    return np.ones(shape, dtype)


def bnsd(query=(2, 4, 8, 32), key=None, value=None, dtype=F16, **words):
    """A legal call but for what is given."""
    key = key or query
    operands = {"query": query, "key": key, "value": value or key}
    made = {name: ones(*shape, dtype=dtype) for name, shape in operands.items()}
    return made | {"num_heads": 4, "input_layout": "BNSD"} | words


def bsh(query=(2, 8, 128), key=None, value=None, dtype=F16, **words):
    return bnsd(query, key, value, dtype, **{"input_layout": "BSH", **words})


def one(dtype=F32):
    return ones(1, dtype=dtype)


def int8(**words):
    """A legal call of int8 operands but for what is given; None takes an argument away."""
    scales = {"deq_scale1": one(), "quant_scale1": one(), "deq_scale2": one()}
    return bnsd(dtype=I8, **{name: x for name, x in (scales | words).items() if x is not None})


def mask(*shape, dtype=bool):
    return np.zeros(shape, dtype)


# (row of the document, exception, the argument that the sentence names, the call)
TABLE = [
    ("query's dtype is not int8, float16 or bfloat16", TypeError, "query", bnsd(dtype=F32)),
    ("query's dtype, another one", TypeError, "query", bnsd(dtype=np.int32)),
    ("query's dtype, with quant_scale2", TypeError, "query", bnsd(dtype=F32, quant_scale2=one())),
    ("query, key and value differ in dtype: key", TypeError, "key", bnsd() | {"key": ones(2, 4, 8, 32, dtype=BF16)}),
    ("query, key and value differ in dtype: value", TypeError, "value", bnsd() | {"value": ones(2, 4, 8, 32, dtype=I8)}),
    ("attn_mask's dtype", TypeError, "attn_mask", bnsd(attn_mask=mask(8, 8, dtype=np.int32))),
    ("attn_mask's dtype, floating", TypeError, "attn_mask", bnsd(attn_mask=mask(8, 8, dtype=F32))),
    ("pse_shift's dtype", TypeError, "pse_shift", bnsd(pse_shift=ones(1, 4, 8, 8, dtype=F32))),
    ("pse_shift's dtype is not query's", TypeError, "pse_shift", bnsd(pse_shift=ones(1, 4, 8, 8, dtype=BF16))),
    ("scale_value is no double: str", TypeError, "scale_value", bnsd(scale_value="1")),
    ("scale_value is no double: bool", TypeError, "scale_value", bnsd(scale_value=True)),
    ("scale_value is no double: None", TypeError, "scale_value", bnsd(scale_value=None)),
    ("input_layout is no string", TypeError, "input_layout", bnsd(input_layout=1)),
    ("input_layout is no string: None", TypeError, "input_layout", bnsd(input_layout=None)),
    ("num_key_value_heads is no integer", TypeError, "num_key_value_heads", bnsd(num_key_value_heads=2.0)),
    ("num_key_value_heads is no integer: bool", TypeError, "num_key_value_heads", bnsd(num_key_value_heads=True)),
    ("sparse_mode is no integer", TypeError, "sparse_mode", bnsd(sparse_mode="0")),
    ("inner_precise is no integer", TypeError, "inner_precise", bnsd(inner_precise=0.0)),
    ("quant_scale1 is no float32 tensor", TypeError, "quant_scale1", int8(quant_scale1=one(F16))),
    ("quant_scale1 is no tensor", TypeError, "quant_scale1", int8(quant_scale1=1.0)),
    ("deq_scale1 is no uint64 or float32 tensor", TypeError, "deq_scale1", int8(deq_scale1=one(F16))),
    ("deq_scale1 is no uint64 or float32 tensor: int64", TypeError, "deq_scale1", int8(deq_scale1=one(np.int64))),
    ("quant_scale2 is no float32 tensor", TypeError, "quant_scale2", bnsd(quant_scale2=one(F16))),
    ("quant_scale2 is bfloat16 without such a query", TypeError, "quant_scale2", bnsd(quant_scale2=one(BF16))),
    ("deq_scale2 is no uint64 or float32 tensor", TypeError, "deq_scale2", int8(deq_scale2=one(np.int32))),
    ("deq_scale2 has not deq_scale1's dtype", TypeError, "deq_scale2", int8(deq_scale2=one(np.uint64))),
    ("quant_offset2 is no float32 tensor", TypeError, "quant_offset2", bnsd(quant_scale2=one(), quant_offset2=one(I8))),
    ("input_layout is a string but neither BSH nor BNSD", ValueError, "input_layout", bnsd(input_layout="SBH")),
    ("input_layout: what torch_npu takes", ValueError, "input_layout", bnsd(input_layout="BNSD_BSND")),
    ("num_heads is no multiple of num_key_value_heads", RuntimeError, "num_key_value_heads", bnsd(num_key_value_heads=3)),
    ("num_heads is 0", RuntimeError, "num_heads", bnsd(num_heads=0)),
    ("num_heads is negative", RuntimeError, "num_heads", bnsd(num_heads=-4)),
    ("num_key_value_heads is negative", RuntimeError, "num_key_value_heads", bnsd(num_key_value_heads=-1)),
    ("kv_n is not num_key_value_heads", RuntimeError, "num_key_value_heads", bnsd(num_key_value_heads=2)),
    ("kv_n is not num_key_value_heads, 0", RuntimeError, "num_key_value_heads", bnsd(key=(2, 2, 8, 32))),
    ("attn_mask's shape", RuntimeError, "attn_mask", bnsd(attn_mask=mask(8, 9))),
    ("attn_mask's shape: heads", RuntimeError, "attn_mask", bnsd(attn_mask=mask(2, 4, 8, 8))),
    ("attn_mask's shape: batch", RuntimeError, "attn_mask", bnsd(attn_mask=mask(3, 8, 8))),
    ("attn_mask's shape: modes 2, 3, 4", RuntimeError, "attn_mask", bnsd(attn_mask=mask(8, 8), sparse_mode=3)),
    ("sparse_mode is not 0 to 4", RuntimeError, "sparse_mode", bnsd(sparse_mode=5)),
    ("sparse_mode is not 0 to 4: negative", RuntimeError, "sparse_mode", bnsd(sparse_mode=-1)),
    ("sparse_mode is not 0 to 4: torch_npu's 10", RuntimeError, "sparse_mode", bnsd(sparse_mode=10)),
    ("bfloat16 with D no multiple of 16", RuntimeError, "query", bnsd((2, 4, 8, 24), dtype=BF16)),
    ("kv_h is no multiple of num_key_value_heads", RuntimeError, "key", bsh(key=(2, 8, 33), num_key_value_heads=2)),
    ("D of query, key and value differ: key", RuntimeError, "key", bnsd(key=(2, 4, 8, 16), value=(2, 4, 8, 32))),
    ("D of query, key and value differ: value", RuntimeError, "value", bnsd(value=(2, 4, 8, 16))),
    ("D of query, key and value differ: BSH", RuntimeError, "value", bsh(value=(2, 8, 64))),
    ("per-channel output with D no multiple of 32", RuntimeError, "quant_scale2", bnsd((2, 4, 8, 16), quant_scale2=ones(4, 16, dtype=F32))),
]  # fmt: skip

# The further rows of inference-ops A.12 and ruling 38.
FURTHER = [
    ("rank: query", ValueError, "query", bnsd((2, 8, 128))),
    ("rank: key", ValueError, "key", bsh() | {"key": ones(2, 4, 8, 32)}),
    ("rank: value", ValueError, "value", bnsd() | {"value": ones(2, 8, 128)}),
    ("lengths: too few", ValueError, "actual_seq_lengths", bnsd((3, 4, 8, 32), actual_seq_lengths=[8, 8])),
    ("lengths: too many", ValueError, "actual_seq_lengths_kv", bnsd(actual_seq_lengths_kv=(8, 8, 8))),
    ("lengths: none", ValueError, "actual_seq_lengths", bnsd(actual_seq_lengths=[])),
    ("lengths: over S", ValueError, "actual_seq_lengths", bnsd(actual_seq_lengths=[8, 9])),
    ("lengths: over S, keys", ValueError, "actual_seq_lengths_kv", bnsd(actual_seq_lengths_kv=np.array([9, 8]))),
    ("lengths: negative", ValueError, "actual_seq_lengths", bnsd(actual_seq_lengths=[-1, 8])),
    ("lengths: over S in mode 3", ValueError, "actual_seq_lengths", bnsd(actual_seq_lengths=[9], attn_mask=mask(2048, 2048), sparse_mode=3)),
    ("lengths: a matrix", ValueError, "actual_seq_lengths", bnsd(actual_seq_lengths=np.array([[8, 8]]))),
    ("lengths: fractions", TypeError, "actual_seq_lengths", bnsd(actual_seq_lengths=[8.0, 8.0])),
    ("lengths: an array of fractions", TypeError, "actual_seq_lengths", bnsd(actual_seq_lengths=np.array([8.0, 8.0]))),
    ("lengths: a word", TypeError, "actual_seq_lengths", bnsd(actual_seq_lengths="88")),
    ("lengths: a number", TypeError, "actual_seq_lengths", bnsd(actual_seq_lengths=8)),
    ("BSH: H no multiple of num_heads", RuntimeError, "query", bsh(num_heads=3)),
    ("BNSD: N is not num_heads", RuntimeError, "num_heads", bnsd(num_heads=2)),
    ("B of key", RuntimeError, "key", bnsd(key=(1, 4, 8, 32))),
    ("B of value", RuntimeError, "value", bnsd(value=(1, 4, 8, 32))),
    ("S of value", RuntimeError, "value", bnsd(value=(2, 4, 9, 32))),
    ("no mask: mode 1", RuntimeError, "attn_mask", bnsd(sparse_mode=1)),
    ("no mask: mode 2", RuntimeError, "attn_mask", bnsd(sparse_mode=2)),
    ("no mask: mode 3", RuntimeError, "attn_mask", bnsd(sparse_mode=3)),
    ("no mask: mode 4", RuntimeError, "attn_mask", bnsd(sparse_mode=4)),
    ("compressed mask: a batch that is not B", RuntimeError, "attn_mask", bnsd(attn_mask=np.broadcast_to(mask(1), (3, 1, 2048, 2048)), sparse_mode=2)),
    ("int8 without deq_scale1", RuntimeError, "deq_scale1", int8(deq_scale1=None)),
    ("int8 without quant_scale1", RuntimeError, "quant_scale1", int8(quant_scale1=None)),
    ("int8 without deq_scale2", RuntimeError, "deq_scale2", int8(deq_scale2=None)),
    ("int8 with an offset alone", RuntimeError, "quant_offset2", int8(quant_offset2=one())),
    ("floating with deq_scale1", RuntimeError, "deq_scale1", bnsd(deq_scale1=one())),
    ("floating with quant_scale1", RuntimeError, "quant_scale1", bnsd(quant_scale1=one())),
    ("floating with deq_scale2", RuntimeError, "deq_scale2", bnsd(deq_scale2=one(), quant_scale2=one())),
    ("floating with an offset alone", RuntimeError, "quant_offset2", bnsd(quant_offset2=one())),
    ("deq_scale1 of two elements", RuntimeError, "deq_scale1", int8(deq_scale1=ones(2, dtype=F32))),
    ("quant_scale1 of no element", RuntimeError, "quant_scale1", int8(quant_scale1=ones(0, dtype=F32))),
    ("deq_scale2 not finite", RuntimeError, "deq_scale2", int8(deq_scale2=np.array([np.inf], F32))),
    ("quant_scale2 of D elements", RuntimeError, "quant_scale2", bnsd(quant_scale2=ones(32, dtype=F32))),
    ("quant_offset2 of another size", RuntimeError, "quant_offset2", bnsd(quant_scale2=one(), quant_offset2=ones(4, 32, dtype=F32))),
    ("quant_offset2 of another dtype", TypeError, "quant_offset2", bnsd(dtype=BF16, quant_scale2=one(BF16), quant_offset2=one())),
    ("tokens: both negative", RuntimeError, "pre_tokens", bnsd(attn_mask=mask(8, 8), pre_tokens=-1, next_tokens=-1)),
    ("tokens: they cross", RuntimeError, "next_tokens", bnsd(attn_mask=mask(8, 8), pre_tokens=1, next_tokens=-2)),
    ("tokens: next past Lq", RuntimeError, "next_tokens", bnsd(attn_mask=mask(8, 8), next_tokens=-8)),
    ("tokens: pre past Lk", RuntimeError, "pre_tokens", bnsd(attn_mask=mask(8, 8), pre_tokens=-8, next_tokens=9)),
    ("tokens: mode 4", RuntimeError, "pre_tokens", bnsd(attn_mask=mask(2048, 2048), sparse_mode=4, pre_tokens=-1, next_tokens=-1)),
    ("tokens: next past a length", RuntimeError, "next_tokens", bnsd(attn_mask=mask(8, 8), next_tokens=-4, actual_seq_lengths=[8, 4])),
    ("pse_shift: rank", RuntimeError, "pse_shift", bnsd(pse_shift=ones(4, 8, 8))),
    ("pse_shift: heads", RuntimeError, "pse_shift", bnsd(pse_shift=ones(1, 1, 8, 8))),
    ("pse_shift: rows", RuntimeError, "pse_shift", bnsd(pse_shift=ones(1, 4, 7, 8))),
    ("pse_shift: keys", RuntimeError, "pse_shift", bnsd(pse_shift=ones(1, 4, 8, 7))),
    ("pse_shift: batch", RuntimeError, "pse_shift", bnsd(pse_shift=ones(3, 4, 8, 8))),
    ("inner_precise: 4", RuntimeError, "inner_precise", bnsd(inner_precise=4)),
    ("inner_precise: -1", RuntimeError, "inner_precise", bnsd(inner_precise=-1)),
    ("scale_value: infinite", RuntimeError, "scale_value", bnsd(scale_value=float("inf"))),
    ("scale_value: NaN", RuntimeError, "scale_value", bnsd(scale_value=float("nan"))),
    ("query: None", TypeError, "query", bnsd() | {"query": None}),
    ("key: a list", TypeError, "key", bnsd() | {"key": [1.0]}),
    ("value: None", TypeError, "value", bnsd() | {"value": None}),
    ("attn_mask: a bool", TypeError, "attn_mask", bnsd(attn_mask=True)),
    ("attn_mask: rank 1", RuntimeError, "attn_mask", bnsd(attn_mask=mask(8))),
    ("attn_mask: rank 9", RuntimeError, "attn_mask", bnsd(attn_mask=mask(*[1] * 9))),
    ("attn_mask: rank 9, mode 2", RuntimeError, "attn_mask", bnsd(attn_mask=mask(*[1] * 9), sparse_mode=2)),
    ("pse_shift: a number", TypeError, "pse_shift", bnsd(pse_shift=0.5)),
    ("num_heads: a fraction", TypeError, "num_heads", bnsd(num_heads=4.0)),
    ("num_heads: past 64 bits", RuntimeError, "num_heads", bnsd(num_heads=1 << 64)),
    ("pre_tokens: a word", TypeError, "pre_tokens", bnsd(pre_tokens="many")),
    ("next_tokens: None", TypeError, "next_tokens", bnsd(next_tokens=None)),
    ("D of 0", RuntimeError, "query", bnsd((2, 4, 8, 0))),
    ("quant_scale2 of rank 9", RuntimeError, "quant_scale2", bnsd(quant_scale2=ones(*[1] * 9, dtype=F32))),
]  # fmt: skip


def tensors(call):
    """The call on torch tensors; what is no array stays."""
    return {name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in call.items()}


def ids(rows):
    return [row[0] for row in rows]


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("front", ["numpy", "torch"])
@pytest.mark.parametrize(("row", "error", "argument", "call"), TABLE + FURTHER, ids=ids(TABLE + FURTHER))
def test_mindspores_entry(row, error, argument, call, front, strict):
    given = call if front == "numpy" else tensors(call)
    with fusion_attention.strict(strict), pytest.raises(error) as caught:
        fusion_attention.mindspore.prompt_flash_attention(**given)
    assert caught.type is error
    assert re.match(rf"{argument}: got .+, allowed is .+", str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    check_names(str(caught.value), "prompt_flash_attention")


def test_the_legal_calls_are_legal():
    """What the rows above change one word of."""
    for call in (bnsd(), bsh(), bnsd(dtype=BF16), bnsd(quant_scale2=one()), bnsd(attn_mask=mask(8, 8))):
        fusion_attention.mindspore.prompt_flash_attention(**call)


ACCEPTED = [
    ("num_key_value_heads 0 is num_heads", bnsd(num_key_value_heads=0)),
    ("an int scale", bnsd(scale_value=1)),
    ("a float16 mask", bnsd(attn_mask=mask(8, 8, dtype=F16), next_tokens=8)),
    ("a compressed mask per batch entry", bnsd(attn_mask=np.broadcast_to(mask(1), (2, 1, 2048, 2048)), sparse_mode=2)),
    ("bfloat16 scales with a bfloat16 query", bnsd(dtype=BF16, quant_scale2=one(BF16), quant_offset2=one(BF16))),
    ("lengths of 0", bnsd(actual_seq_lengths=[0, 8], actual_seq_lengths_kv=[8, 0])),
    ("one length for all", bnsd((3, 4, 8, 32), actual_seq_lengths=[5])),
    ("inner_precise 2 and 3", bnsd(inner_precise=3)),
    ("tokens without a mask", bnsd(pre_tokens=-5, next_tokens=-5)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "call"), ACCEPTED, ids=ids(ACCEPTED))
@pytest.mark.filterwarnings("ignore")
def test_accepted_by_ruling(row, call):
    out = fusion_attention.mindspore.prompt_flash_attention(**call)
    assert out.shape == call["query"].shape


def test_an_int_scale_is_refused_in_strict_mode():
    with (
        fusion_attention.strict(),
        pytest.raises(TypeError, match="scale_value: got int, allowed is a float"),
    ):
        fusion_attention.mindspore.prompt_flash_attention(**bnsd(scale_value=1))


def test_a_float16_mask_warns_once_per_process():
    code = (
        "import warnings, numpy as np, fusion_attention.inference.numpy as f\n"
        "x, m = np.ones((1, 1, 4, 16), np.float16), np.zeros((4, 4), np.float16)\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    [f.prompt_flash_attention(x, x, x, m, input_layout='BNSD') for _ in range(2)]\n"
        "print(len(said), said[0].message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 a float16 mask will no longer be supported")


# --- torch_npu's entry: RuntimeError for values, TypeError for Python types ---


def npu(call):
    return {
        "atten_mask" if name == "attn_mask" else name: x
        for name, x in call.items()
        if name != "inner_precise"
    }


# What only MindSpore's document refuses.
WIDER = {
    "query's dtype is not int8, float16 or bfloat16", "scale_value is no double: bool",
    "num_key_value_heads is no integer: bool", "deq_scale1 is no uint64 or float32 tensor: int64",
    "input_layout: what torch_npu takes", "sparse_mode is not 0 to 4: torch_npu's 10",
    "bfloat16 with D no multiple of 16", "D of query, key and value differ: value",
    "D of query, key and value differ: BSH", "per-channel output with D no multiple of 32",
    "lengths: too many", "lengths: none", "lengths: a matrix", "attn_mask's shape",
    "query's dtype, with quant_scale2",
}  # fmt: skip
BOTH = [
    row for row in TABLE + FURTHER
    if row[0] not in WIDER and "inner_precise" not in row[0] and "inner_precise" not in row[3]
]  # fmt: skip
OWN = [
    ("SBH", RuntimeError, "input_layout", bsh(input_layout="SBH")),
    ("an unknown transposition", RuntimeError, "input_layout", bnsd(input_layout="BSND_BNSD")),
    ("a layout twice", RuntimeError, "input_layout", bnsd(input_layout="BNSD_BNSD")),
    ("padding_mask", RuntimeError, "padding_mask", bnsd(padding_mask=mask(8, 8))),
    ("modes past 14", RuntimeError, "sparse_mode", bnsd(sparse_mode=15)),
    ("mode 11 is 1", RuntimeError, "atten_mask", bnsd(sparse_mode=11)),
    ("int8 output of float32", RuntimeError, "quant_scale2", bnsd(dtype=F32, quant_scale2=one())),
    ("TND without lengths", RuntimeError, "actual_seq_lengths", bsh((8, 4, 32), input_layout="TND")),
    ("TND: lists of two sizes", RuntimeError, "actual_seq_lengths_kv", bsh((8, 4, 32), input_layout="TND", actual_seq_lengths=[3, 8], actual_seq_lengths_kv=[8])),
    ("TND: ends past T", RuntimeError, "actual_seq_lengths", bsh((8, 4, 32), input_layout="TND", actual_seq_lengths=[9], actual_seq_lengths_kv=[8])),
    ("TND: ends that decrease", RuntimeError, "actual_seq_lengths_kv", bsh((8, 4, 32), input_layout="TND", actual_seq_lengths=[3, 8], actual_seq_lengths_kv=[5, 4])),
    ("TND with pse_shift", RuntimeError, "pse_shift", bsh((8, 4, 32), input_layout="TND", actual_seq_lengths=[8], actual_seq_lengths_kv=[8], pse_shift=ones(1, 4, 8, 8))),
    ("TND with a full mask", RuntimeError, "atten_mask", bsh((8, 4, 32), input_layout="TND", actual_seq_lengths=[8], actual_seq_lengths_kv=[8], atten_mask=mask(8, 8))),
    ("too few lengths", RuntimeError, "actual_seq_lengths", bnsd((3, 4, 8, 32), actual_seq_lengths=[8, 8])),
    ("a mask that is too small", RuntimeError, "atten_mask", bnsd(atten_mask=mask(7, 32))),
]  # fmt: skip


@pytest.mark.parametrize("front", ["numpy", "torch"])
@pytest.mark.parametrize(("row", "error", "argument", "call"), BOTH + OWN, ids=ids(BOTH + OWN))
def test_torch_npus_entry(row, error, argument, call, front):
    given = npu(call) if front == "numpy" else tensors(npu(call))
    with pytest.raises((RuntimeError, TypeError)) as caught:
        fusion_attention.npu_prompt_flash_attention(**given)
    spelled = argument.replace("attn_mask", "atten_mask")
    assert re.match(rf"{spelled}: got .+, allowed is .+", str(caught.value)), str(caught.value)
    check_names(str(caught.value), "npu_prompt_flash_attention")
    if error is not TypeError:
        assert caught.type is RuntimeError


WIDE = [
    ("float32", bnsd(dtype=F32)),
    ("D of value", bnsd(value=(2, 4, 8, 16))),
    ("bfloat16 of any D", bnsd((2, 4, 8, 24), dtype=BF16)),
    ("more lengths than B", bnsd(actual_seq_lengths=[3, 8, 9])),
    ("lengths that are empty", bnsd(actual_seq_lengths=[])),
    ("a padded mask", bnsd(atten_mask=mask(8, 32), next_tokens=8)),
    ("small letters", bnsd(input_layout="bnsd")),
]  # fmt: skip


@pytest.mark.parametrize(("row", "call"), WIDE, ids=ids(WIDE))
def test_torch_npus_entry_is_wider(row, call):
    out = fusion_attention.npu_prompt_flash_attention(**call)
    assert out.shape[-1] == call["value"].shape[-1]
    again = fusion_attention.npu_prompt_flash_attention(**tensors(call))
    assert again.shape == out.shape and isinstance(again, torch.Tensor)
