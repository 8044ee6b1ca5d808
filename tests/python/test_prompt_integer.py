"""int8 calls of the prompt interfaces through NumPy and torch: bit for bit what statement_integer says.

FUSION_ATTENTION_INTEGER_CALLS sets the number; half of the seeds are fixed, half are fresh. A failure prints
the line of the call: `draw(seed, mindspore)` gives it back.
"""

from __future__ import annotations

import os

import fusion_attention.inference.numpy as front
import fusion_attention.inference.torch as tensors
import numpy as np
import pytest
from fusion_attention import quantize_for_prompt
from inference_calls import Prompt
from statement_inference import InferenceStatement, kept
from statement_integer import TILE, integer_attention, quantised_output
from statement_layout import join
from test_family_calls import to_torch
from test_prompt_calls import as_mindspore, run

COUNT = int(os.environ.get("FUSION_ATTENTION_INTEGER_CALLS", "120"))
FRESH = int(os.environ["FUSION_ATTENTION_SEED"])  # conftest.py
SEEDS = [*range(COUNT // 2), *(FRESH + i for i in range(COUNT - COUNT // 2))]
SCALES = ("deq_scale1", "quant_scale1", "deq_scale2")
MOST_ROWS = 160  # of all heads: the statement goes row by row
CUBE_BITS = 0xFFFFE000  # what is read of a float32 in a uint64


class IntegerPrompt(Prompt):
    """A call of int8 operands, with scales whose scores and weights use the range of int8."""

    def __init__(self, seed: int, mindspore: bool):
        super().__init__(seed, mindspore)
        self.dtype = "int8"
        if self.rng.random() < 0.3:
            self.depth = self.value_depth = int(self.rng.choice([32, 64]))
        self.rows = min(self.rows, max(1, MOST_ROWS // (self.batches * self.heads)))
        if self.rng.random() < 0.15:
            self.keys, self.batches = int(self.rng.choice([1024, 1025, 1100, 2048, 2111])), 1

    def numbers(self, *shape: int, dtype: str = "") -> np.ndarray:
        if dtype:
            return super().numbers(*shape, dtype=dtype)
        most = int(self.rng.choice([127, 127, 20, 1]))
        return self.rng.integers(-most - 1, most + 1, shape).astype(np.int8)

    def bias(self) -> None:
        more = self.rng.integers(0, 9, 2)
        batches = 1 if self.rng.random() < 0.5 else self.batches
        shape = batches, self.heads, self.rows + int(more[0]), self.keys + int(more[1])
        bias = self.numbers(*shape, dtype="float16")
        kind = self.rng.random()
        if kind < 0.3:
            bias[self.rng.random(shape) < 0.3] = -np.inf
        elif kind < 0.4:
            bias[self.rng.random(shape) < 0.02] = np.nan
        self.call["pse_shift"] = bias

    def spread(self, middle: float, factor: float) -> np.float32:
        return np.float32(middle * factor ** self.rng.uniform(-1, 1))

    def dequantiser(self, values: dict[str, np.float32], as_bits: type | None) -> None:
        """One number each; as bits, what the hardware does not read is set too."""
        for name, value in values.items():
            if as_bits is None:
                self.call[name] = np.array([value])
            else:
                bits = int(value.view(np.uint32)) | (1 << 46) | int(self.rng.integers(1 << 13))
                self.call[name] = np.array([bits], np.uint64).view(as_bits)

    def scales(self) -> None:
        kinds = [None, None, np.uint64] if self.mindspore else [None, np.uint64, np.int64]
        score = self.spread(3 / 74**2 / self.depth**0.5, 8)
        weight = self.spread(127, 2) if self.rng.random() < 0.4 else np.float32(127)
        values = {"deq_scale1": score, "deq_scale2": self.spread(1 / 127 / 30, 20)}
        self.dequantiser(values, kinds[int(self.rng.integers(3))])
        self.call["quant_scale1"] = np.array([weight])

    def output(self) -> None:
        """quant_scale2 by number or by channel, quant_offset2 or none."""
        heads, depth = self.heads, self.value_depth
        by_channel = self.rng.random() < 0.5 and (depth % 32 == 0 or not self.mindspore)
        forms = [
            (heads * depth,),
            (1, heads * depth),
            (heads, depth),
            (1, heads, depth),
            (1, heads, 1, depth),
        ]
        shape = forms[int(self.rng.integers(len(forms)))] if by_channel else (1,)
        scale = 40 / np.float32(127 * 74 / 3) / float(self.dequantised("deq_scale2"))
        self.call["quant_scale2"] = (scale * 4 ** self.rng.uniform(-1, 1, shape)).astype(np.float32)
        if self.rng.random() < 0.7:
            self.call["quant_offset2"] = self.rng.uniform(-40, 40, shape).astype(np.float32)
        if self.rng.random() < 0.1:  # halves that overflow, also against each other
            self.call["quant_scale2"] *= np.float32(self.rng.choice([1e4, 1e7, -1e7]))
            if "quant_offset2" in self.call:
                self.call["quant_offset2"] *= np.float32(self.rng.choice([1600, 1e5]))

    def dequantised(self, name: str) -> np.float32:
        return dequantised(self.call[name])


def dequantised(array: np.ndarray) -> np.float32:
    if array.dtype == np.float32:
        return array[0]
    return np.uint32(int(array.view(np.uint64)[0]) & CUBE_BITS).view(np.float32)


def draw(seed: int, mindspore: bool) -> tuple[dict, str]:
    drawn = IntegerPrompt(seed, mindspore)
    call, _, _ = drawn.draw()
    drawn.scales()
    if drawn.rng.random() < 0.5:
        drawn.output()
    said = {
        name: x if np.size(x) < 5 else f"{np.asarray(x).dtype}{list(np.shape(x))}" for name, x in call.items()
    }
    return call, f"draw({seed}, {mindspore}): {said}"


class IntegerStatement(InferenceStatement):
    """The call of statement_inference with integer_attention for every head of every sequence."""

    def output(self) -> np.ndarray:
        """attention_out: halves, or int8 with quant_scale2."""
        parts = [self.rounded(*self.sequence(one)) for one in self.ones]
        if self.layout != "TND":
            parts = [np.pad(part, ((0, 0), (0, self.rows - part.shape[1]), (0, 0))) for part in parts]
        kind = np.float16 if self.call.get("quant_scale2") is None else np.int8
        return join(parts, self.output_layout, self._output_shape()).astype(kind)

    def sequence(self, one) -> tuple[np.ndarray, np.ndarray]:
        """[N, rows, Dv], and which rows see something."""
        first, second = (dequantised(self.call[name]) for name in ("deq_scale1", "deq_scale2"))
        bias = self._bias(one)
        visible = kept(self.call, one.batch, one.q.shape[1], one.k.shape[1])
        values, sees = zip(
            *(
                integer_attention(
                    one.q[head],
                    one.k[head // self.group],
                    one.v[head // self.group],
                    visible,
                    scale=self.scale,
                    deq_scale1=first,
                    quant_scale1=self.call["quant_scale1"][0],
                    deq_scale2=second,
                    bias=None if bias is None else bias[head],
                )
                for head in range(self.heads)
            )
        )
        return np.stack(values), np.stack(sees)

    def rounded(self, values: np.ndarray, sees: np.ndarray) -> np.ndarray:
        scale, offset = self.call.get("quant_scale2"), self.call.get("quant_offset2")
        if scale is None:
            return values
        by_head = (1, 1, 1) if scale.size == 1 else (self.heads, 1, values.shape[-1])
        scale, offset = (None if x is None else x.reshape(by_head) for x in (scale, offset))
        return np.where(sees[..., None], quantised_output(values, scale, offset), 0)


def check(call: dict, out: np.ndarray, line: str) -> None:
    want = IntegerStatement(call, "int8").output()
    assert out.dtype == want.dtype and out.shape == want.shape, line
    same = (out == want) | (np.isnan(out) & np.isnan(want))
    assert same.all(), f"{(~same).sum()} of {out.size}, {out[~same][:4]} for {want[~same][:4]}\n  {line}"


@pytest.mark.parametrize("seed", SEEDS)
def test_mindspores_words(seed):
    call, line = draw(seed, mindspore=True)
    check(call, run(front.prompt_flash_attention, as_mindspore(call, seed % 4)), line)


@pytest.mark.parametrize("seed", SEEDS)
def test_torch_npus_words(seed):
    call, line = draw(seed, mindspore=False)
    given = call | {"sparse_mode": call.get("sparse_mode", 0) + 10 * (seed % 2)}
    out = run(front.npu_prompt_flash_attention, given)
    check(call, out, line)
    words = {name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    again = run(tensors.npu_prompt_flash_attention, words).numpy()
    assert again.dtype == out.dtype and np.array_equal(again, out, equal_nan=out.dtype != np.int8), line


@pytest.mark.parametrize("seed", range(12))
def test_fused_infer_takes_the_same_pipeline(seed):
    call, line = draw(1000 + seed, mindspore=False)
    want = run(front.npu_prompt_flash_attention, call)
    names = {"scale_value": "scale", "deq_scale1": "dequant_scale1", "deq_scale2": "dequant_scale2"}
    words = {names.get(name, name): x for name, x in call.items()}
    out, _ = run(front.npu_fused_infer_attention_score, words)
    assert np.array_equal(out, want, equal_nan=out.dtype != np.int8), line


def exact_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, scale: float) -> np.ndarray:
    group = query.shape[1] // key.shape[1]
    key, value = (np.repeat(x.astype(np.float64), group, 1) for x in (key, value))
    scores = query.astype(np.float64) @ key.swapaxes(-1, -2) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights @ value / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("output_range", [None, 4.0, (-3.0, 4.5)])
@pytest.mark.parametrize("keys", [300, TILE + 200])
def test_quantize_for_prompt_tells_the_error(keys, output_range):
    """One tile of keys: the reported number. Beyond, the order of roundings differs, their size does not."""
    rng = np.random.default_rng(keys)
    shapes = (2, 4, 24, 64), (2, 2, keys, 64), (2, 2, keys, 64)
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    scale = 0.3
    given = quantize_for_prompt(
        query, key, value, scale_value=scale, output_range=output_range, sample_rows=24
    )
    words = {name: x for name, x in given._asdict().items() if name != "error" and x is not None}
    words |= {"num_heads": 4, "num_key_value_heads": 2, "input_layout": "BNSD", "scale_value": scale}
    out = run(front.prompt_flash_attention, words).astype(np.float64)
    if output_range is not None:
        assert len(np.unique(out)) > 50
        offset = 0.0 if given.quant_offset2 is None else float(given.quant_offset2[0])
        out = (out - offset) / float(given.quant_scale2[0])
    error = np.sqrt(np.mean((out - exact_attention(query, key, value, scale)) ** 2))
    assert error == pytest.approx(given.error.output, rel=0.02 if keys < TILE else 0.25)
    assert given.error.relative < 0.2


def test_zz_report(capsys):
    with capsys.disabled():
        print(f"\ninteger calls: {3 * COUNT}, fresh seeds from {FRESH}; bit for bit")
