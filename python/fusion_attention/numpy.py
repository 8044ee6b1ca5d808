"""npu_fusion_attention on NumPy arrays: float32, float16 and ml_dtypes.bfloat16, without torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fusion_attention import _check, _core, _strict, _table, generator
from fusion_attention._define import define
from fusion_attention._elements import OTHER, of_array
from fusion_attention._explain import examiner

if TYPE_CHECKING:
    from fusion_attention import _signatures

_NDArray = np.ndarray[Any, Any]


def _array(name: str, array: _NDArray | None) -> tuple[int, int, tuple[int, ...], tuple[int, ...]] | None:
    """What the binding takes: address, element, shape, strides in elements. The caller keeps the array."""
    if array is None:
        return None
    element = of_array(array.dtype)
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


_BITS = _table.PLACE["dropout_mask"]
_OTHERS = tuple(_table.PLACE[name] for name in ("query_rope", "key_rope", "sink"))


def _call(
    backward: bool, tockens: bool, words: tuple[Any, ...], seed: int = 0, offset: int = 0
) -> _core.FusionAttention:
    """The call, read and checked in C++. `words`, made plain, follow the table; the last may be missing."""
    defaults = (argument.default for argument in _table.ARGUMENTS[len(words) :])
    ordered = zip(_table.ARGUMENTS, (*words, *defaults))
    given: list[Any] = [_array(row.name, word) if row.kind == "tensor" else word for row, word in ordered]
    given += [_check.as_int("seed", seed), _check.as_int("offset", offset), _strict.chosen()]
    return _core.FusionAttention(backward, tockens, *cast(Any, given))


def _words(*words: Any) -> tuple[Any, ...]:
    """As C++ reads them: strides of whole elements, and bits without gaps."""
    plain = [_plain(word) for word in words]
    if len(plain) > _BITS and plain[_BITS] is not None:
        plain[_BITS] = np.ascontiguousarray(plain[_BITS])
    return tuple(plain)


def _is_random(words: tuple[Any, ...]) -> bool:
    """Whether dropout bits come from a seed. What no probability is, is refused later."""
    return len(words) > _BITS and 0 < words[_table.PLACE["keep_prob"]] < 1 and words[_BITS] is None


def _seed(name: str, value: Any) -> int:
    """Of version 3 an array of one element."""
    if value is None:
        raise RuntimeError(f"{name}: got None, allowed is what the forward returned")
    if not isinstance(value, np.ndarray):
        return int(value)
    if value.size != 1 or value.dtype.kind not in "iu":
        given = f"{value.dtype} of shape {list(value.shape)}"
        raise RuntimeError(f"{name}: got {given}, allowed is an integer array of one element")
    return int(value.item())


def _implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    def forward(
        query: Any, key: Any, value: Any, common: Any, rest: Any, seed: int = 0, offset: int = 0
    ) -> tuple[Any, ...]:
        words = _words(query, key, value, *common, *rest)
        pair = (0, 0)
        if _is_random(words):
            pair = seed, offset = (seed, offset) if seed or offset else generator.draw()
        call = _call(False, function.tockens, words, *pair)
        out = np.empty(call.output_shape, query.dtype)
        top, total = (np.empty(call.statistics_shape, np.float32) for _ in range(2))
        call.forward(out.ctypes.data, top.ctypes.data, total.ctypes.data)
        for note in call.notes():
            warnings.warn(note, stacklevel=3)
        reserved = np.empty(0, query.dtype)
        if function.version == 3:
            return out, top, total, reserved, np.array([seed], np.int64), np.array([offset], np.int64)
        return out, top, total, reserved, seed, offset, call.numels

    return forward


def _gradients_like(words: tuple[Any, ...]) -> dict[str, Any]:
    """What each gradient is shaped like; None for an argument that is absent, and for slopes."""
    more = {_table.ARGUMENTS[place].name: words[place] for place in _OTHERS if place < len(words)}
    pse = _table.PLACE["pse"]
    external = len(words) > pse and words[_table.PLACE["pse_type"]] < 2
    return {
        "dq": words[0],
        "dk": words[1],
        "dv": words[2],
        "dpse": words[pse] if external else None,
        "dq_rope": more.get("query_rope"),
        "dk_rope": more.get("key_rope"),
        "dsink": more.get("sink"),
    }


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
        words = _words(query, key, value, *common, *rest)
        pair = (_seed("seed", seed), _seed("offset", offset)) if _is_random(words) else (0, 0)
        call = _call(True, function.tockens, words, *pair)
        gradients = {
            name: None if x is None else np.empty(x.shape, x.dtype)
            for name, x in _gradients_like(words).items()
        }
        top, total = (None if x is None else np.ascontiguousarray(x) for x in (softmax_max, softmax_sum))
        dy, attention_in = _plain(dy), _plain(attention_in)
        call.backward(
            _array("dy", dy),
            _array("softmax_max", top),
            _array("softmax_sum", total),
            _array("attention_in", attention_in),
            [0 if gradient is None else gradient.ctypes.data for gradient in gradients.values()],
        )
        return tuple(gradients[name] for name in function.results)

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
    words = _words(*words)
    return _call(False, tockens, words), words


examine = examiner(_examined, np.ndarray, "NumPy array", __name__)
