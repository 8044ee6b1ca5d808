"""npu_fusion_attention on NumPy arrays: float32, float16 and ml_dtypes.bfloat16, without torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fusion_attention import _check, _core, _table
from fusion_attention._define import define
from fusion_attention._elements import ELEMENTS, OTHER


def _array(name: str, array: np.ndarray | None) -> tuple[int, int, tuple[int, ...], tuple[int, ...]] | None:
    """What the binding takes: address, element, shape, strides in elements. The caller keeps `array` alive."""
    if array is None:
        return None
    element = ELEMENTS.get(array.dtype.name, OTHER) if array.dtype.isnative else OTHER
    if element == OTHER:
        dtypes = _table.BY_NAME[name].dtypes
        raise RuntimeError(f"{name}: got dtype {array.dtype.str}, allowed is {dtypes or 'a native number'}")
    strides = tuple(step // array.itemsize for step in array.strides)
    return array.ctypes.data, element, array.shape, strides


def _plain(array: np.ndarray | None) -> np.ndarray | None:
    """The array itself, or a copy where its strides are negative or fall between elements, or its data does."""
    if array is None or not isinstance(array, np.ndarray):
        return array
    size = array.itemsize
    odd = any(step < 0 or step % size for step in array.strides) or not array.flags.aligned
    return np.ascontiguousarray(array) if odd else array


def _call(backward: bool, tockens: bool, words: dict[str, Any]) -> _core.FusionAttention:
    """The call, read and checked in C++. `words` are the arguments under canonical names."""
    defaults = {a.name: a.default for a in _table.ARGUMENTS}
    ordered = []
    for argument in _table.ARGUMENTS:
        given = words.get(argument.name, defaults[argument.name])
        ordered.append(_array(argument.name, given) if argument.kind == "tensor" else given)
    return _core.FusionAttention(backward, tockens, *ordered)


def _flattened(words: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(word) for name, word in words.items()}


def _implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    def forward(**given: Any) -> tuple[Any, ...]:
        words = _flattened(given)
        call = _call(False, function.tockens, words)
        out = np.empty(call.output_shape, words["query"].dtype)
        top, total = (np.empty(call.statistics_shape, np.float32) for _ in range(2))
        call.forward(out.ctypes.data, top.ctypes.data, total.ctypes.data)
        for note in call.notes():
            warnings.warn(note, stacklevel=3)
        reserved = np.empty(0, words["query"].dtype)
        if function.version == 3:
            return out, top, total, reserved, np.zeros(1, np.int64), np.zeros(1, np.int64)
        return out, top, total, reserved, words["seed"], words["offset"], call.numels

    return forward


def _gradient_implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    def backward(**given: Any) -> tuple[Any, ...]:
        words = _flattened(given)
        call = _call(True, function.tockens, words)
        gradients = tuple(np.empty(words[name].shape, words["query"].dtype) for name in ("query", "key", "value"))
        for name in ("softmax_max", "softmax_sum"):
            if words[name] is not None:
                words[name] = np.ascontiguousarray(words[name])
        saved = (_array(name, words[name]) for name in ("dy", "softmax_max", "softmax_sum", "attention_in"))
        call.backward(*saved, *(gradient.ctypes.data for gradient in gradients))
        return (*gradients, *(None,) * (len(function.results) - 3))

    return backward


def _public(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    make = _gradient_implementation if function.backward else _implementation
    return define(
        function,
        make(function),
        tensor=np.ndarray,
        tensor_name="NumPy array",
        as_lengths=_check.as_ints,
        module=__name__,
    )


npu_fusion_attention = _public(_table.V1)
npu_fusion_attention_v2 = _public(_table.V2)
npu_fusion_attention_v3 = _public(_table.V3)
npu_fusion_attention_grad = _public(_table.V1_GRAD)
npu_fusion_attention_grad_v2 = _public(_table.V2_GRAD)
npu_fusion_attention_grad_v3 = _public(_table.V3_GRAD)
