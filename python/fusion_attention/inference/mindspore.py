"""The inference operators on MindSpore tensors: PyNative, Graph mode and ms.jit.

A call from Python reads NumPy views that share the tensors' memory; nothing is copied. In a graph the call is
checked while the graph is compiled, as its shapes are known then, and runs through `ops.Custom`, which copies
its operands and does not carry bfloat16: that is widened to float32 on the way, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from fusion_attention import _core, _strict
from fusion_attention._elements import ELEMENTS, OTHER
from fusion_attention.inference import exact
from fusion_attention.inference import numpy as front
from fusion_attention.inference.decode import INCRE
from fusion_attention.inference.define import define
from fusion_attention.inference.table import OPERANDS, PROMPT, Function

_FUNCTIONS = {function.name: function for function in (PROMPT, INCRE)}

# --- From Python ---


def _view(tensor: Any) -> Any:
    """The tensor's memory as a NumPy array; copied where strides are not those of the shape."""
    return tensor.contiguous().asnumpy() if isinstance(tensor, Tensor) else tensor


def _eager(function: Function) -> Callable[..., Tensor]:
    def attend(query: Tensor, key: Tensor, value: Tensor, words: dict[str, Any]) -> Tensor:
        views = {name: _view(word) for name, word in words.items()}
        return Tensor.from_numpy(front.attend(function, _view(query), _view(key), _view(value), views))

    return attend


def _as_ints(name: str, value: Any) -> list[int]:
    return exact.as_ints(name, _view(value))


_EAGER = {
    name: define(
        function,
        _eager(function),
        tensor=Tensor,
        tensor_name="MindSpore tensor",
        as_ints=_as_ints,
        module=__name__,
    )
    for name, function in _FUNCTIONS.items()
}

# --- In graphs ---

# What stands for an absent tensor, as a graph's operator has a fixed number of operands.
_ABSENT = (1,) * 7
_MOST_OPTIONAL = 12


class _Described(NamedTuple):
    """A tensor while its graph is compiled."""

    shape: tuple[int, ...]
    dtype: Any

    def array(self) -> Any:
        strides = [1]
        for size in reversed(self.shape[1:]):
            strides.insert(0, strides[0] * size)
        element = ELEMENTS.get(str(self.dtype).lower(), OTHER)
        return 0, element, self.shape, tuple(strides[: len(self.shape)])


class _Checked(NamedTuple):
    function: Function
    words: dict[str, Any]  # without tensors
    output_shape: tuple[int, ...]
    output_element: int


def _check(function: Function) -> Callable[..., _Checked]:
    def check(query: _Described, key: _Described, value: _Described, words: dict[str, Any]) -> _Checked:
        arrays = {name: word.array() for name, word in words.items() if isinstance(word, _Described)}
        plain = {name: word for name, word in words.items() if name not in arrays and word is not None}
        described = {name: array for name, array in arrays.items() if function.rows[name].kind == "tensor"}
        if function is INCRE and "actual_seq_lengths_kv" in arrays:
            # Pages and left padding need lengths. 0 is one that every call allows.
            described["actual_seq_lengths_kv"] = [0]
        operands = query.array(), key.array(), value.array()
        call = _core.InferenceAttention(function.name, *operands, plain | described, _strict.chosen())
        return _Checked(function, plain, call.output_shape, call.output_element)

    return check


def _described_ints(name: str, value: Any) -> Any:
    """Numbers that are a tensor's are known when the graph runs."""
    return value if isinstance(value, _Described) else exact.as_ints(name, value)


_CHECKED = {
    name: define(
        function,
        _check(function),
        tensor=_Described,
        tensor_name="MindSpore tensor",
        as_ints=_described_ints,
        module=__name__,
    )
    for name, function in _FUNCTIONS.items()
}
_BFLOAT16 = Tensor([0], ms.bfloat16).asnumpy().dtype  # NumPy's name for it
_DTYPES = {ELEMENTS["int8"]: ms.int8, ELEMENTS["float16"]: ms.float16}


def _names(function: Function) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The caller's names of what may be a tensor, operands first, and of the others."""
    tensors: list[str] = []
    others: list[str] = []
    for name, argument, _ in function.parameters():
        (tensors if argument.kind in ("tensor", "ints") else others).append(name)
    return tuple(tensors), tuple(others)


def _run(call: _Checked, narrow: tuple[bool, ...], operands: tuple[Any, ...]) -> Any:
    """The call in NumPy. narrow: which operands were bfloat16 before the graph widened them."""
    function, words = call.function, dict(call.words)
    given = [x.astype(_BFLOAT16) if was else x for x, was in zip(operands, narrow)]
    query, key, value, *optional = given
    for name, array in zip(_names(function)[0][OPERANDS:], optional):
        if array.shape != _ABSENT:
            word = function.spellings.get(name, name)
            words[word] = exact.as_ints(name, array) if function.rows[word].kind == "ints" else array
    out = front.attend(function, query, key, value, words)
    return out.astype(np.float32) if out.dtype == _BFLOAT16 else out


@lru_cache(maxsize=256)
def _operator_of(
    name: str, tensors: tuple[Any, ...], typed: tuple[tuple[type, Any], ...], strict: bool
) -> Any:
    # The key holds types (True, 1 and 1.0 are equal) and strict mode, in which a call may be refused.
    others = [value for _, value in typed]
    words = [_Described(*word) if _is_tensor(word) else word for word in tensors]
    tensor_names, other_names = _names(_FUNCTIONS[name])
    call = _CHECKED[name](**dict(zip(tensor_names, words)), **dict(zip(other_names, others)))
    narrow = tuple(isinstance(word, _Described) and word.dtype == ms.bfloat16 for word in words)
    floating = ms.float32 if narrow[0] else words[0].dtype

    # MindSpore reads the source of the function, so its arguments are spelled out.
    def forward(query: Any, key: Any, value: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any,
                h: Any, i: Any, j: Any, k: Any, m: Any) -> Any:  # fmt: skip
        return _run(call, narrow, (query, key, value, a, b, c, d, e, f, g, h, i, j, k, m))

    return ops.Custom(
        forward,
        out_shape=call.output_shape,
        out_dtype=_DTYPES.get(call.output_element, floating),
        func_type="pyfunc",
    )


def _is_tensor(word: Any) -> bool:
    return isinstance(word, tuple) and len(word) == 2 and isinstance(word[0], tuple)


def _hashable(word: Any) -> Any:
    return tuple(word) if isinstance(word, list) else word


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _operator(name: str, tensors: Any, others: Any) -> Any:
    typed = tuple((type(value), value) for value in others)
    return _operator_of(name, tuple(map(_hashable, tensors)), typed, _strict.is_on())


class _Served(nn.Cell):  # type: ignore[misc]
    """A function to Python, a Cell to graphs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._absent = Tensor(np.zeros(_ABSENT, np.float32))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        query = args[0] if args else kwargs.get("query")
        if isinstance(query, Tensor):
            return _EAGER[self._name](*args, **kwargs)
        from fusion_attention import mindspore

        return getattr(mindspore._front(query), self._name)(*args, **kwargs)

    def _operand(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return self._absent
        if x.dtype == ms.bfloat16:
            return x.astype(ms.float32)
        return x

    def _attend(self, query: Any, key: Any, value: Any, optional: Any, others: Any) -> Any:
        tensors = (query, key, value, *optional)
        operator = _operator(self._name, [_described(x) for x in tensors], others)
        absent = [self._absent] * (_MOST_OPTIONAL - len(optional))
        return operator(*[self._operand(x) for x in tensors], *absent)


class _PromptFlashAttention(_Served):
    def construct(  # type: ignore[no-untyped-def]
        self, query, key, value, attn_mask=None, actual_seq_lengths=None, actual_seq_lengths_kv=None,
        pse_shift=None, deq_scale1=None, quant_scale1=None, deq_scale2=None, quant_scale2=None,
        quant_offset2=None, num_heads=1, scale_value=1.0, pre_tokens=2147483647, next_tokens=0,
        input_layout="BSH", num_key_value_heads=0, sparse_mode=0, inner_precise=1,
    ):  # fmt: skip
        optional = (
            attn_mask, actual_seq_lengths, actual_seq_lengths_kv, pse_shift, deq_scale1, quant_scale1,
            deq_scale2, quant_scale2, quant_offset2,
        )  # fmt: skip
        others = (
            num_heads, scale_value, pre_tokens, next_tokens, input_layout, num_key_value_heads, sparse_mode,
            inner_precise,
        )  # fmt: skip
        out = self._attend(query, key, value, optional, others)
        if query.dtype == ms.bfloat16 and quant_scale2 is None:
            return out.astype(ms.bfloat16)
        return out


class _IncreFlashAttention(_Served):
    def construct(  # type: ignore[no-untyped-def]
        self, query, key, value, attn_mask=None, actual_seq_lengths=None, pse_shift=None,
        dequant_scale1=None, quant_scale1=None, dequant_scale2=None, quant_scale2=None, quant_offset2=None,
        antiquant_scale=None, antiquant_offset=None, block_table=None, num_heads=1, input_layout="BSH",
        scale_value=1.0, num_key_value_heads=0, block_size=0, inner_precise=1, kv_padding_size=None,
    ):  # fmt: skip
        optional = (
            attn_mask, actual_seq_lengths, pse_shift, dequant_scale1, quant_scale1, dequant_scale2,
            quant_scale2, quant_offset2, antiquant_scale, antiquant_offset, block_table, kv_padding_size,
        )  # fmt: skip
        others = (
            num_heads, input_layout, scale_value, num_key_value_heads, block_size, inner_precise,
        )  # fmt: skip
        out = self._attend(query, _only(key), _only(value), optional, others)
        if query.dtype == ms.bfloat16 and quant_scale2 is None:
            return out.astype(ms.bfloat16)
        return out


def _described(x: Any) -> Any:
    if isinstance(x, Tensor):
        return (x.shape, x.dtype)
    return x


def _only(x: Any) -> Any:
    """MindSpore's documents put key and value into a tuple of one."""
    if isinstance(x, (tuple, list)) and len(x) == 1:
        return x[0]
    return x


prompt_flash_attention = _PromptFlashAttention("prompt_flash_attention")
prompt_flash_attention.__doc__ = _EAGER["prompt_flash_attention"].__doc__
incre_flash_attention = _IncreFlashAttention("incre_flash_attention")
incre_flash_attention.__doc__ = _EAGER["incre_flash_attention"].__doc__
