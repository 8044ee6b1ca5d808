"""Random calls of the prompt interfaces through NumPy and torch against the statement of the documents.

FUSION_ATTENTION_FAMILY_CALLS sets the number; half of the seeds are fixed, half are fresh. A failure prints
the line of the call: `draw(seed, mindspore)` gives it back.
"""

from __future__ import annotations

import os
import warnings

import fusion_attention.inference.numpy as front
import ml_dtypes
import numpy as np
import pytest
import torch
from inference_calls import draw
from statement_inference import InferenceStatement, half_scores, quantised
from test_family_calls import ratio, to_torch

COUNT = int(os.environ.get("FUSION_ATTENTION_FAMILY_CALLS", "160"))
FRESH = int(os.environ["FUSION_ATTENTION_SEED"])  # conftest.py
SEEDS = [*range(COUNT // 2), *(FRESH + i for i in range(COUNT - COUNT // 2))]
OPERANDS = ("query", "key", "value")


def run(function, call: dict):
    """The warnings about masks are tested elsewhere."""
    words = {name: x for name, x in call.items() if name not in OPERANDS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*(call[name] for name in OPERANDS), **words)


def as_mindspore(call: dict, inner_precise: int) -> dict:
    return {"attn_mask" if name == "atten_mask" else name: x for name, x in call.items()} | {
        "inner_precise": inner_precise
    }


def check(call: dict, dtype: str, line: str, inner_precise: int, out) -> None:
    statement = InferenceStatement(call, dtype, half_scores(call, dtype, inner_precise))
    answer = statement.forward()
    assert np.shape(out) == answer.value.shape, line
    ratio("prompt attention_out", out, answer, line)


@pytest.mark.parametrize("seed", SEEDS)
def test_mindspores_words(seed):
    call, dtype, line = draw(seed, mindspore=True)
    inner_precise = seed % 4
    out = run(front.prompt_flash_attention, as_mindspore(call, inner_precise))
    assert out.dtype == call["query"].dtype
    check(call, dtype, f"inner_precise {inner_precise} {line}", inner_precise, out)


@pytest.mark.parametrize("seed", SEEDS)
def test_torch_npus_words(seed):
    call, dtype, line = draw(seed, mindspore=False)
    high = seed % 2  # modes 10 to 14
    given = call | {"sparse_mode": call.get("sparse_mode", 0) + 10 * high}
    out = run(front.npu_prompt_flash_attention, given)
    check(call, dtype, line, 1 - high, out)
    if seed % 4 == 0:
        import fusion_attention.inference.torch as tensors

        same = {name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
        again = run(tensors.npu_prompt_flash_attention, same)
        bits = {2: np.int16, 4: np.int32}[out.dtype.itemsize]
        whole = torch.int16 if bits is np.int16 else torch.int32
        assert np.array_equal(out.view(bits), again.view(whole).numpy()), line


@pytest.mark.parametrize("seed", SEEDS[: COUNT // 2])
def test_int8_output(seed):
    call, dtype, line = draw(seed, mindspore=True)
    rng = np.random.default_rng(seed)
    heads, layout = call["num_heads"], call["input_layout"]
    depth = call["query"].shape[-1] // (heads if layout == "BSH" else 1)
    channels = depth % 32 == 0 and seed % 2 == 1
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" and seed % 3 == 0 else np.float32
    shapes = (
        [(1, 1, heads * depth), (heads * depth,)]
        if layout == "BSH"
        else [(1, heads, 1, depth), (heads, depth)]
    )
    shape = shapes[seed % 4 // 2] if channels else (1,)
    scale = rng.uniform(5, 40, shape).astype(kind)
    offset = rng.uniform(-20, 20, shape).astype(kind) if seed % 5 else None
    given = as_mindspore(call, 0) | {"quant_scale2": scale, "quant_offset2": offset}
    out = run(front.prompt_flash_attention, given)
    assert out.dtype == np.int8
    statement = InferenceStatement(call, dtype)
    shift = np.zeros(shape, kind) if offset is None else offset
    if channels:
        axes = (1, 1, heads * depth) if layout == "BSH" else (1, heads, 1, depth)
        scale, shift = scale.reshape(axes), shift.reshape(axes)
    low, high = quantised(statement.forward(), scale, shift)
    empty = statement.empty_rows()
    low, high = (np.where(empty, 0, end) for end in (low, high))
    wrong = (out < low) | (out > high)
    assert not wrong.any(), f"{wrong.sum()} of {out.size}\n  {line}"


def test_large_scores_are_rounded_to_halves_once():
    """Ruling 18: with large scales callers see the hardware's numbers."""
    rng = np.random.default_rng(1)
    call = {name: rng.standard_normal((1, 1, 8, 64)).astype(np.float16) for name in OPERANDS}
    call |= {"input_layout": "BNSD", "scale_value": 3.0}
    fast, exact = (run(front.prompt_flash_attention, as_mindspore(call, mode)) for mode in (1, 0))
    assert not np.array_equal(fast, exact)
    check(call, "float16", "fast", 1, fast)
    check(call, "float16", "exact", 0, exact)
    for same, mode in ((fast, 3), (exact, 2)):
        assert np.array_equal(same, run(front.prompt_flash_attention, as_mindspore(call, mode)))


def test_scores_saturate():
    call = {name: np.full((1, 1, 2, 64), 100, np.float16) for name in ("query", "key")}
    call["key"][:, :, 1] = 90  # 640,000 and 576,000: both 65504 as halves
    call |= {"value": np.array([[[[1.0] * 64, [3.0] * 64]]], np.float16), "input_layout": "BNSD"}
    assert (run(front.prompt_flash_attention, as_mindspore(call, 1)) == 2).all()
    assert (run(front.prompt_flash_attention, as_mindspore(call, 0)) == 1).all()


def test_pse_shift_keeps_the_high_precision():
    rng = np.random.default_rng(2)
    call = {name: rng.standard_normal((1, 1, 8, 64)).astype(np.float16) for name in OPERANDS}
    call |= {"input_layout": "BNSD", "scale_value": 3.0, "pse_shift": np.zeros((1, 1, 8, 8), np.float16)}
    with_bias = run(front.prompt_flash_attention, as_mindspore(call, 1))
    without = {name: x for name, x in call.items() if name != "pse_shift"}
    exact, fast = (run(front.prompt_flash_attention, as_mindspore(without, mode)) for mode in (0, 1))
    assert np.array_equal(with_bias, exact)
    assert not np.array_equal(fast, exact)
