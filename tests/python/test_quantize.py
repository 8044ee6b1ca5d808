"""quantize_for_prompt: scales that belong together, integers that mean the tensors, an error that is one."""

from __future__ import annotations

import fusion_attention
import numpy as np
import pytest
import torch
from fusion_attention.quantize import quantize_for_prompt


def operands(shape=(2, 4, 50, 32), kv_heads=2, keys=90, value_depth=24, seed=0):
    rng = np.random.default_rng(seed)
    b, n, s, d = shape
    shapes = ((b, n, s, d), (b, kv_heads, keys, d), (b, kv_heads, keys, value_depth))
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def dequantised(result):
    """fp64 attention of the integers under their scales alone, no rounding of scores or weights."""
    deq1, quant1, deq2 = (float(x[0]) for x in (result.deq_scale1, result.quant_scale1, result.deq_scale2))
    q, k, v = (np.asarray(x, dtype=np.float64) for x in (result.query, result.key, result.value))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = q @ k.transpose(0, 1, 3, 2) * deq1
    return scores, v * deq2 * quant1


def test_the_scales_give_the_tensors_back():
    query, key, value = operands()
    result = quantize_for_prompt(query, key, value)
    assert all(x.dtype == np.int8 for x in result[:3])
    assert all(x.dtype == np.float32 and x.shape == (1,) for x in result[3:6])
    scores, values = dequantised(result)
    want = query @ np.repeat(key, 2, 1).transpose(0, 1, 3, 2)
    assert np.sqrt(np.mean((scores - want) ** 2)) < 0.02 * want.std()
    assert np.abs(values - np.repeat(value, 2, 1)).max() <= np.abs(value).max() / 127 * 0.5001
    assert result.quant_scale2 is None and result.quant_offset2 is None


@pytest.mark.parametrize("layout", ["BNSD", "BSND", "BSH"])
def test_layouts_and_torch_agree(layout):
    arrays = operands()
    want = quantize_for_prompt(*arrays, scale_value=0.2)
    laid = [a if layout == "BNSD" else a.transpose(0, 2, 1, 3) for a in arrays]
    laid = [a.reshape(*a.shape[:2], -1) if layout == "BSH" else a for a in laid]
    got = quantize_for_prompt(
        *(torch.from_numpy(np.ascontiguousarray(a)) for a in laid),
        input_layout=layout,
        num_heads=4,
        num_key_value_heads=2,
        scale_value=0.2,
    )
    assert got.query.dtype == torch.int8 and got.query.shape == laid[0].shape
    assert got.error == want.error
    assert [float(x) for x in got[3:6]] == [float(x[0]) for x in want[3:6]]


# The error is that of the roundings: it follows from them within a factor, and shrinks with fewer of them.
def test_the_error_is_measured():
    query, key, value = operands(shape=(1, 2, 64, 64), keys=200)
    scale = 1 / 8
    error = quantize_for_prompt(query, key, value, scale_value=scale).error
    unit = (np.abs(query).max() + np.abs(key).max()) / 127 / np.sqrt(12) / np.sqrt(2)
    assert 0.5 < error.score / (unit * np.sqrt(2 * 64) * scale / np.sqrt(2)) < 2
    assert 0 < error.output < 0.02 and 0 < error.relative < 0.1
    with_int8 = quantize_for_prompt(query, key, value, scale_value=scale, output_range=8.0).error
    assert with_int8.output > error.output
    assert with_int8.output > 8 / 127 / np.sqrt(12) / 2
    outlier = query.copy()
    outlier[0, 0, 0, 0] = 100  # one number that takes the range of all others
    assert quantize_for_prompt(outlier, key, value, scale_value=scale).error.score > 4 * error.score


def test_output_ranges():
    arrays = operands()
    symmetric = quantize_for_prompt(*arrays, output_range=2.0)
    assert float(symmetric.quant_scale2[0]) == 63.5 and symmetric.quant_offset2 is None
    pair = quantize_for_prompt(*arrays, output_range=(-1.0, 3.0))
    scale, offset = float(pair.quant_scale2[0]), float(pair.quant_offset2[0])
    assert scale == np.float32(255 / 4) and offset == np.rint(-128 + 255 / 4)
    assert abs(3 * scale + offset - 127) <= 1 and abs(-scale + offset + 128) <= 1


def test_zero_tensors_and_halves():
    arrays = [np.zeros_like(a, dtype=np.float16) for a in operands()]
    result = quantize_for_prompt(*arrays)
    assert not result.query.any() and result.error == (0, 0, 0)
    assert float(result.deq_scale1[0]) == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"query": np.zeros((1, 2, 3, 4), np.int8)}, TypeError, "query: got dtype int8"),
        ({"key": [1.0]}, TypeError, "key: got list"),
        ({"value": np.full((2, 2, 90, 24), np.nan, np.float32)}, ValueError, "value: got NaN"),
        ({"key": np.zeros((2, 3, 90, 32), np.float32)}, ValueError, "key: got shape"),
        ({"value": np.zeros((2, 2, 91, 24), np.float32)}, ValueError, "value: got shape"),
        ({"input_layout": "SBH"}, ValueError, "input_layout: got 'SBH'"),
        ({"input_layout": "BSH"}, ValueError, "query: got 4 dimensions"),
        ({"output_range": (1.0, 1.0)}, ValueError, "output_range: got"),
        ({"output_range": -1.0}, ValueError, "output_range: got"),
        ({"sample_rows": 0}, ValueError, "sample_rows: got 0"),
    ],
)
def test_refusals(change, error, words):
    query, key, value = operands()
    arguments = {"query": query, "key": key, "value": value, **change}
    with pytest.raises(error, match=words.replace("(", r"\(")):
        fusion_attention.quantize_for_prompt(**arguments)
