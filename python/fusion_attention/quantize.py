"""int8 operands and a consistent set of scales for the prompt interfaces, from floating point tensors."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

_NDArray = np.ndarray[Any, Any]
_LAYOUTS = ("BNSD", "BSND", "BSH")
_WEIGHT_SCALE = 127.0  # quant_scale1: weights lie in [0, 1]
_MOST = 127.0
_HALF = 65504.0


class QuantizationError(NamedTuple):
    """Root mean squares over the sampled rows, against fp64 on the tensors as they were given.

    Attributes:
        score: of the differences of scores, scale_value included.
        output: of the differences of outputs, in the unit of value; an int8 output is scaled back.
        relative: output, divided by the root mean square of the exact outputs.
    """

    score: float
    output: float
    relative: float


class PromptQuantization(NamedTuple):
    """What quantize_for_prompt gives: arguments of prompt_flash_attention under their names, and an error.

    query, key, value are int8, of the shape and kind (NumPy, torch) they were given in; the scales are
    float32 of shape (1,). quant_scale2 and quant_offset2 are None where no output range was given.
    """

    query: Any
    key: Any
    value: Any
    deq_scale1: Any
    quant_scale1: Any
    deq_scale2: Any
    quant_scale2: Any
    quant_offset2: Any
    error: QuantizationError


def _floats(name: str, tensor: Any) -> _NDArray:
    """The tensor as float32; a copy of torch's."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: got dtype {tensor.dtype}, allowed is a floating point tensor")
        array: _NDArray = tensor.detach().to("cpu", torch.float32).numpy()
    elif isinstance(tensor, np.ndarray) and tensor.dtype.name in (
        "bfloat16",
        "float16",
        "float32",
        "float64",
    ):
        array = tensor.astype(np.float32)
    else:
        given = f"dtype {tensor.dtype}" if isinstance(tensor, np.ndarray) else type(tensor).__name__
        raise TypeError(f"{name}: got {given}, allowed is a floating point NumPy array or torch tensor")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: got NaN or infinity, allowed are finite numbers")
    return array


def _heads(name: str, array: _NDArray, layout: str, heads: int | None) -> _NDArray:
    """The array as [B, N, S, D]."""
    if array.ndim != (3 if layout == "BSH" else 4):
        raise ValueError(f"{name}: got {array.ndim} dimensions, allowed are those of {layout}")
    if layout == "BNSD":
        return array
    if layout == "BSH":
        if heads is None or heads < 1 or array.shape[2] % heads:
            raise ValueError(f"num_heads: got {heads}, allowed for BSH is a divisor of H = {array.shape[2]}")
        array = array.reshape(*array.shape[:2], heads, -1)
    return array.transpose(0, 2, 1, 3)


def _step(array: _NDArray) -> float:
    """The value of one unit of int8, symmetric: the largest magnitude is 127."""
    largest = float(np.abs(array).max(initial=0.0))
    return largest / _MOST if largest > 0 else 1.0


def _integers(array: _NDArray, step: float) -> _NDArray:
    return np.clip(np.rint(array / np.float32(step)), -_MOST, _MOST).astype(np.int8)


def _half(array: Any) -> _NDArray:
    """To fp16, saturating."""
    rounded: _NDArray = np.clip(array, -_HALF, _HALF).astype(np.float16).astype(np.float64)
    return rounded


def _softmax(scores: _NDArray) -> tuple[_NDArray, _NDArray]:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights, weights.sum(-1, keepdims=True)


def _output_scale(output_range: float | tuple[float, float] | None) -> tuple[float, float | None] | None:
    """quant_scale2 and quant_offset2; no offset for a symmetric range."""
    if output_range is None:
        return None
    symmetric = not isinstance(output_range, tuple)
    low, high = (-output_range, output_range) if not isinstance(output_range, tuple) else output_range
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"output_range: got {output_range}, allowed is a positive number or low < high")
    if symmetric:
        return _MOST / high, None
    scale = 255.0 / (high - low)
    return scale, float(np.rint(-128.0 - low * scale))


def _rows(query: _NDArray, count: int) -> _NDArray:
    """Row numbers, evenly over the sequence."""
    picked: _NDArray = np.unique(np.linspace(0, query.shape[2] - 1, min(count, query.shape[2])).astype(int))
    return picked


def quantize_for_prompt(
    query: Any,
    key: Any,
    value: Any,
    *,
    input_layout: str = "BNSD",
    num_heads: int | None = None,
    num_key_value_heads: int | None = None,
    scale_value: float = 1.0,
    output_range: float | tuple[float, float] | None = None,
    sample_rows: int = 16,
) -> PromptQuantization:
    """int8 query, key, value and the scales that prompt_flash_attention takes with them.

    Symmetric and per tensor: a unit of int8 is worth s = max|x| / 127, and

        deq_scale1 = s_query · s_key    quant_scale1 = 127    deq_scale2 = s_value / 127

    so that 1/quant_scale1, which the operator does not undo, is part of deq_scale2. The scales go together:
    changing one of them needs the others changed.

    Args:
        query, key, value: floating point NumPy arrays (float16, bfloat16, float32, float64) or torch tensors.
        input_layout: BNSD [B, N, S, D], BSND [B, S, N, D] or BSH [B, S, N·D].
        num_heads, num_key_value_heads: for BSH; num_key_value_heads defaults to num_heads.
        scale_value: what the operator will be called with; enters the error alone.
        output_range: the values an int8 output is to hold, (low, high), or one number for −x … x. Sets
            quant_scale2 and, for a pair, quant_offset2: Q(y) = round(y·quant_scale2 + quant_offset2).
            Default: none, the output is fp16.
        sample_rows: rows per head, at least 1, on which the error is measured: evenly spread, every key
            visible.

    Returns:
        A PromptQuantization.

    Raises:
        TypeError: a tensor that is not of floating point numbers.
        ValueError: shapes that do not fit each other or input_layout, numbers that are not finite, a range
            that is empty.

    Source: "Quantisation" of the documents of prompt_flash_attention; the operator's arithmetic in
    `include/fusion_attention/integer.h`.
    """
    if input_layout not in _LAYOUTS:
        raise ValueError(f"input_layout: got {input_layout!r}, allowed are {', '.join(_LAYOUTS)}")
    if sample_rows < 1:
        raise ValueError(f"sample_rows: got {sample_rows}, allowed is at least 1")
    kv_heads = num_key_value_heads or num_heads
    given = {"query": query, "key": key, "value": value}
    floats = {name: _floats(name, tensor) for name, tensor in given.items()}
    q, k, v = (
        _heads(name, floats[name], input_layout, num_heads if name == "query" else kv_heads)
        for name in ("query", "key", "value")
    )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"key: got shape {k.shape}, allowed is one that fits query's {q.shape} (B, N, S, D)")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"value: got shape {v.shape}, allowed is one that fits key's {k.shape} (B, N, S, D)")
    out_scale = _output_scale(output_range)
    step = {name: _step(array) for name, array in floats.items()}
    integers = {name: _integers(floats[name], step[name]) for name in floats}
    scales = (step["query"] * step["key"], _WEIGHT_SCALE, step["value"] / _WEIGHT_SCALE)

    rows, group = _rows(q, sample_rows), q.shape[1] // k.shape[1]
    steps = (step["query"], step["key"], step["value"])
    error = _measure((q[:, :, rows], k, v), steps, scales, scale_value, out_scale, group)

    def like(name: str, array: _NDArray) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(given[name], torch.Tensor):
            return torch.from_numpy(np.ascontiguousarray(array)).to(given[name].device)
        return array

    def number(x: float | None) -> Any:
        return None if x is None else like("query", np.array([x], np.float32))

    quant2, offset2 = out_scale or (None, None)
    return PromptQuantization(
        query=like("query", integers["query"]),
        key=like("key", integers["key"]),
        value=like("value", integers["value"]),
        deq_scale1=number(scales[0]),
        quant_scale1=number(scales[1]),
        deq_scale2=number(scales[2]),
        quant_scale2=number(quant2),
        quant_offset2=number(offset2),
        error=error,
    )


def _measure(
    tensors: tuple[_NDArray, _NDArray, _NDArray],
    steps: tuple[float, float, float],
    scales: tuple[float, float, float],
    scale_value: float,
    out_scale: tuple[float, float | None] | None,
    group: int,
) -> QuantizationError:
    """Both computations, head by head: fp64, and the operator's with its roundings in one tile of keys."""
    squares = np.zeros(3)  # of score errors, output errors, exact outputs
    counts = np.zeros(2)
    q, k, v = tensors
    for batch in range(q.shape[0]):
        for head in range(q.shape[1]):
            one = [q[batch, head], k[batch, head // group], v[batch, head // group]]
            exact = [x.astype(np.float64) for x in one]
            scores = exact[0] @ exact[1].T * scale_value
            if scores.size == 0:
                continue
            weights, total = _softmax(scores)
            out = weights @ exact[2] / total

            q8, k8, v8 = (_integers(x, s).astype(np.float64) for x, s in zip(one, steps))
            halves = _half(_half(q8 @ k8.T * scales[0]) * _half(scale_value))
            relative = _half(halves - halves.max(-1, keepdims=True))
            p = _half(np.exp(relative))
            p8 = np.rint(_half(p * scales[1]))
            y = _half(_half(p8 @ v8 * scales[2]) / _half(p.sum(-1, keepdims=True)))
            if out_scale is not None:
                offset = _half(out_scale[1] or 0.0)
                y8 = np.clip(np.rint(_half(_half(y * _half(out_scale[0])) + offset)), -128, 127)
                y = (y8 - offset) / _half(out_scale[0])
            squares += [((halves - scores) ** 2).sum(), ((y - out) ** 2).sum(), (out**2).sum()]
            counts += [scores.size, out.size]
    score = float(np.sqrt(squares[0] / max(counts[0], 1)))
    output = float(np.sqrt(squares[1] / max(counts[1], 1)))
    return QuantizationError(
        score, output, float(np.sqrt(squares[1] / squares[2])) if squares[2] > 0 else 0.0
    )
