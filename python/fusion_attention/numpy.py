"""npu_fusion_attention on NumPy arrays: float32, float16 and ml_dtypes.bfloat16, without torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fusion_attention import _check, _core, _table
from fusion_attention._define import define
from fusion_attention._elements import ELEMENTS, OTHER
from fusion_attention._explain import examiner

if TYPE_CHECKING:
    from fusion_attention import _signatures

_NDArray = np.ndarray[Any, Any]


def _array(name: str, array: _NDArray | None) -> tuple[int, int, tuple[int, ...], tuple[int, ...]] | None:
    """What the binding takes: address, element, shape, strides in elements. The caller keeps the array."""
    if array is None:
        return None
    element = ELEMENTS.get(array.dtype.name, OTHER) if array.dtype.isnative else OTHER
    if element == OTHER:
        dtypes = _table.BY_NAME[name].dtypes
        raise RuntimeError(f"{name}: got dtype {array.dtype.str}, allowed is {dtypes or 'a native number'}")
    strides = tuple(step // array.itemsize for step in array.strides)
    return array.ctypes.data, element, array.shape, strides


def _plain(array: Any) -> Any:
    """The array itself, or a copy where strides are negative or fall between elements, or its data does."""
    if not isinstance(array, np.ndarray):
        return array
    size = array.itemsize
    odd = any(step < 0 or step % size for step in array.strides) or not array.flags.aligned
    return array.copy() if odd else array


def _call(backward: bool, tockens: bool, words: tuple[Any, ...]) -> _core.FusionAttention:
    """The call, read and checked in C++. `words`, made plain, follow the table; the last may be missing."""
    defaults = (argument.default for argument in _table.ARGUMENTS[len(words) :])
    ordered = zip(_table.ARGUMENTS, (*words, *defaults))
    given = (_array(row.name, word) if row.kind == "tensor" else word for row, word in ordered)
    return _core.FusionAttention(backward, tockens, *cast(Any, given))


def _implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    def forward(
        query: Any, key: Any, value: Any, common: Any, rest: Any, seed: int = 0, offset: int = 0
    ) -> tuple[Any, ...]:
        words = tuple(map(_plain, (query, key, value, *common, *rest)))
        call = _call(False, function.tockens, words)
        out = np.empty(call.output_shape, query.dtype)
        top, total = (np.empty(call.statistics_shape, np.float32) for _ in range(2))
        call.forward(out.ctypes.data, top.ctypes.data, total.ctypes.data)
        for note in call.notes():
            warnings.warn(note, stacklevel=3)
        reserved = np.empty(0, query.dtype)
        if function.version == 3:
            return out, top, total, reserved, np.zeros(1, np.int64), np.zeros(1, np.int64)
        return out, top, total, reserved, seed, offset, call.numels

    return forward


def _gradient_implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    def backward(
        query: Any,
        key: Any,
        value: Any,
        common: Any,
        rest: Any,
        dy: Any,
        softmax_max: Any,
        softmax_sum: Any,
        attention_in: Any,
        seed: Any,
        offset: Any,
    ) -> tuple[Any, ...]:
        words = tuple(map(_plain, (query, key, value, *common, *rest)))
        call = _call(True, function.tockens, words)
        gradients = tuple(np.empty(operand.shape, query.dtype) for operand in (query, key, value))
        top, total = (None if x is None else np.ascontiguousarray(x) for x in (softmax_max, softmax_sum))
        dy, attention_in = _plain(dy), _plain(attention_in)
        call.backward(
            _array("dy", dy),
            _array("softmax_max", top),
            _array("softmax_sum", total),
            _array("attention_in", attention_in),
            *(gradient.ctypes.data for gradient in gradients),
        )
        return (*gradients, *(None,) * (len(function.results) - len(gradients)))

    return backward


def _public(function: _table.Function) -> Any:
    make = _gradient_implementation if function.backward else _implementation
    return define(
        function,
        make(function),
        tensor=np.ndarray,
        tensor_name="NumPy array",
        as_lengths=_check.as_ints,
        module=__name__,
    )


npu_fusion_attention: _signatures.V1[_NDArray] = _public(_table.V1)
npu_fusion_attention_v2: _signatures.V2[_NDArray] = _public(_table.V2)
npu_fusion_attention_v3: _signatures.V3[_NDArray] = _public(_table.V3)
npu_fusion_attention_grad: _signatures.V1Grad[_NDArray] = _public(_table.V1_GRAD)
npu_fusion_attention_grad_v2: _signatures.V2Grad[_NDArray] = _public(_table.V2_GRAD)
npu_fusion_attention_grad_v3: _signatures.V3Grad[_NDArray] = _public(_table.V3_GRAD)


def _examined(tockens: bool, words: tuple[Any, ...]) -> tuple[_core.FusionAttention, Any]:
    words = tuple(map(_plain, words))
    return _call(False, tockens, words), words


examine = examiner(_examined, np.ndarray, "NumPy array", __name__)
