"""The inference operators on MindSpore tensors: PyNative, Graph mode and ms.jit.

A call from Python reads NumPy views that share the tensors' memory; nothing is copied. In a graph the call is
checked while the graph is compiled, as its shapes are known then, and runs through `ops.Custom`, which copies
its operands and does not carry bfloat16: that is widened to float32 on the way, which is exact.
"""

from __future__ import annotations

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
from fusion_attention.inference.table import BY_NAME, PROMPT

# --- From Python ---


def _view(tensor: Any) -> Any:
    """The tensor's memory as a NumPy array; copied where strides are not those of the shape."""
    return tensor.contiguous().asnumpy() if isinstance(tensor, Tensor) else tensor


def _eager(query: Tensor, key: Tensor, value: Tensor, words: dict[str, Any]) -> Tensor:
    views = {name: _view(word) for name, word in words.items()}
    return Tensor.from_numpy(front.attend(PROMPT, _view(query), _view(key), _view(value), views))


def _as_ints(name: str, value: Any) -> list[int]:
    return exact.as_ints(name, _view(value))


_call = define(
    PROMPT, _eager, tensor=Tensor, tensor_name="MindSpore tensor", as_ints=_as_ints, module=__name__
)

# --- In graphs ---

# What stands for an absent tensor, as a graph's operator has a fixed number of operands.
_ABSENT = (1,) * 7


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
    words: dict[str, Any]  # without tensors
    output_shape: tuple[int, ...]
    output_element: int


def _check(query: _Described, key: _Described, value: _Described, words: dict[str, Any]) -> _Checked:
    arrays = {name: word.array() for name, word in words.items() if isinstance(word, _Described)}
    plain = {name: word for name, word in words.items() if name not in arrays and word is not None}
    described = {name: array for name, array in arrays.items() if BY_NAME[name].kind == "tensor"}
    operands = query.array(), key.array(), value.array()
    call = _core.InferenceAttention(PROMPT.interface, *operands, plain | described, _strict.chosen())
    return _Checked(plain, call.output_shape, call.output_element)


_checked = define(
    PROMPT,
    _check,
    tensor=_Described,
    tensor_name="MindSpore tensor",
    # Numbers that are a tensor's are known when the graph runs.
    as_ints=lambda name, value: value if isinstance(value, _Described) else exact.as_ints(name, value),
    module=__name__,
)
_NAMES = (
    "atten_mask", "actual_seq_lengths", "actual_seq_lengths_kv", "pse_shift", "deq_scale1", "quant_scale1",
    "deq_scale2", "quant_scale2", "quant_offset2",
)  # fmt: skip
_BFLOAT16 = Tensor([0], ms.bfloat16).asnumpy().dtype  # NumPy's name for it
_DTYPES = {ELEMENTS["int8"]: ms.int8, ELEMENTS["float16"]: ms.float16}


def _run(call: _Checked, is_bfloat16: bool, query: Any, key: Any, value: Any, rest: tuple[Any, ...]) -> Any:
    words = dict(call.words)
    for name, array in zip(_NAMES, rest):
        if array.shape != _ABSENT:
            words[name] = exact.as_ints(name, array) if BY_NAME[name].kind == "ints" else array
    if is_bfloat16:
        query, key, value = (x.astype(_BFLOAT16) for x in (query, key, value))
        if "pse_shift" in words:
            words["pse_shift"] = words["pse_shift"].astype(_BFLOAT16)
    out = front.attend(PROMPT, query, key, value, words)
    return out.astype(np.float32) if out.dtype == _BFLOAT16 else out


@lru_cache(maxsize=256)
def _operator_of(args: tuple[Any, ...]) -> Any:
    described = [_Described(*word) if isinstance(word, tuple) and _is_tensor(word) else word for word in args]
    call = _checked(*described)
    query = described[0]
    is_bfloat16 = query.dtype == ms.bfloat16
    floating = ms.float32 if is_bfloat16 else query.dtype

    # MindSpore reads the source of the function, so its arguments are spelled out.
    def forward(query: Any, key: Any, value: Any, mask: Any, rows: Any, keys: Any, pse: Any, deq1: Any,
                quant1: Any, deq2: Any, quant2: Any, offset2: Any) -> Any:  # fmt: skip
        rest = mask, rows, keys, pse, deq1, quant1, deq2, quant2, offset2
        return _run(call, is_bfloat16, query, key, value, rest)

    return ops.Custom(
        forward,
        out_shape=call.output_shape,
        out_dtype=_DTYPES.get(call.output_element, floating),
        func_type="pyfunc",
    )


def _is_tensor(word: tuple[Any, ...]) -> bool:
    return len(word) == 2 and isinstance(word[0], tuple)


def _hashable(word: Any) -> Any:
    return tuple(word) if isinstance(word, list) else word


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _operator(*args: Any) -> Any:
    return _operator_of(tuple(map(_hashable, args)))


class _PromptFlashAttention(nn.Cell):  # type: ignore[misc]
    """A function to Python, a Cell to graphs."""

    def __init__(self) -> None:
        super().__init__()
        self._absent = Tensor(np.zeros(_ABSENT, np.float32))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        query = args[0] if args else kwargs.get("query")
        if isinstance(query, Tensor):
            return _call(*args, **kwargs)
        from fusion_attention import mindspore

        return mindspore._front(query).prompt_flash_attention(*args, **kwargs)

    def _operand(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return self._absent
        if x.dtype == ms.bfloat16:
            return x.astype(ms.float32)
        return x

    def construct(  # type: ignore[no-untyped-def]
        self, query, key, value, attn_mask=None, actual_seq_lengths=None, actual_seq_lengths_kv=None,
        pse_shift=None, deq_scale1=None, quant_scale1=None, deq_scale2=None, quant_scale2=None,
        quant_offset2=None, num_heads=1, scale_value=1.0, pre_tokens=2147483647, next_tokens=0,
        input_layout="BSH", num_key_value_heads=0, sparse_mode=0, inner_precise=1,
    ):  # fmt: skip
        operator = _operator(
            _described(query), _described(key), _described(value), _described(attn_mask),
            _described(actual_seq_lengths), _described(actual_seq_lengths_kv), _described(pse_shift),
            _described(deq_scale1), _described(quant_scale1), _described(deq_scale2),
            _described(quant_scale2), _described(quant_offset2), num_heads, scale_value, pre_tokens,
            next_tokens, input_layout, num_key_value_heads, sparse_mode, inner_precise,
        )  # fmt: skip
        out = operator(
            self._operand(query), self._operand(key), self._operand(value), self._operand(attn_mask),
            self._operand(actual_seq_lengths), self._operand(actual_seq_lengths_kv),
            self._operand(pse_shift), self._operand(deq_scale1), self._operand(quant_scale1),
            self._operand(deq_scale2), self._operand(quant_scale2), self._operand(quant_offset2),
        )  # fmt: skip
        if query.dtype == ms.bfloat16 and quant_scale2 is None:
            return out.astype(ms.bfloat16)
        return out


def _described(x: Any) -> Any:
    if isinstance(x, Tensor):
        return (x.shape, x.dtype)
    return x


def _eager_incre(query: Tensor, key: Tensor, value: Tensor, words: dict[str, Any]) -> Tensor:
    views = {name: _view(word) for name, word in words.items()}
    return Tensor.from_numpy(front.attend(INCRE, _view(query), _view(key), _view(value), views))


_call_incre = define(
    INCRE, _eager_incre, tensor=Tensor, tensor_name="MindSpore tensor", as_ints=_as_ints, module=__name__
)


def incre_flash_attention(*args: Any, **kwargs: Any) -> Any:
    query = args[0] if args else kwargs.get("query")
    if isinstance(query, Tensor):
        return _call_incre(*args, **kwargs)
    from fusion_attention import mindspore

    return mindspore._front(query).incre_flash_attention(*args, **kwargs)


incre_flash_attention.__doc__ = f"{_call_incre.__doc__}\n\nOn MindSpore tensors in PyNative mode alone."
prompt_flash_attention = _PromptFlashAttention()
prompt_flash_attention.__doc__ = _call.__doc__
