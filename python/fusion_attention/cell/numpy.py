"""The cell on NumPy arrays: float16, ml_dtypes.bfloat16 and float32. MindSpore's tensors come here too."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from fusion_attention import _core
from fusion_attention._check import refuse_type
from fusion_attention._elements import ELEMENTS, OTHER
from fusion_attention.cell.words import Words
from fusion_attention.numpy import _plain

Array = np.ndarray[Any, Any]
WHOLE = (0, 0, 0)


def _array(name: str, array: Any) -> tuple[int, int, tuple[int, ...], tuple[int, ...]] | None:
    if array is None:
        return None
    if not isinstance(array, np.ndarray):
        refuse_type(name, array, "a NumPy array, as query is")
    element = ELEMENTS.get(array.dtype.name, OTHER) if array.dtype.isnative else OTHER
    strides = tuple(step // array.itemsize for step in array.strides)
    return array.ctypes.data, element, array.shape, strides


_NAMES = ("query", "key", "value", "attention_mask", "alibi_mask")


def _call(
    backward: bool, words: Words, arrays: tuple[Any, ...], seed: int, whole: tuple[int, int, int]
) -> tuple[_core.FlashAttentionCell, tuple[Any, ...]]:
    """The call, read and checked in C++, and the arrays that must outlive it."""
    plain = tuple(map(_plain, arrays))
    given = (_array(name, array) for name, array in zip(_NAMES, plain))
    return _core.FlashAttentionCell(backward, words, *given, seed, whole), plain


def draw_seed() -> int:
    """The dropout of one call, from NumPy's global generator, which mindspore.set_seed seeds too."""
    return int(np.random.randint(1 << 62))


def forward(
    words: Words,
    query: Array,
    key: Array,
    value: Array,
    attention_mask: Array | None = None,
    alibi_mask: Array | None = None,
    seed: int = 0,
    whole: tuple[int, int, int] = WHOLE,
) -> tuple[Array, Array, Array]:
    """The output and the softmax statistics (maximum and sum, float32 [B, N, Sq]).

    Args:
        words: the constructor's arguments.
        query, key, value: [B, N, Sq or Skv, D], all of one dtype.
        attention_mask, alibi_mask: as the cell takes them.
        seed: of dropout.
        whole: for a slice of the batch and of the heads that shall have the dropout of the whole: its first
            batch entry, its first head, and the number of heads of the whole.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape.
    """
    call, plain = _call(False, words, (query, key, value, attention_mask, alibi_mask), seed, whole)
    for note in call.notes():
        warnings.warn(note, stacklevel=4)
    out = np.empty(plain[0].shape, query.dtype)
    top, total = (np.empty(plain[0].shape[:3], np.float32) for _ in range(2))
    call.forward(out.ctypes.data, top.ctypes.data, total.ctypes.data)
    return out, top, total


def backward(
    words: Words,
    query: Array,
    key: Array,
    value: Array,
    attention_mask: Array | None,
    alibi_mask: Array | None,
    seed: int,
    dy: Array,
    out: Array,
    softmax_max: Array,
    softmax_sum: Array,
    whole: tuple[int, int, int] = WHOLE,
) -> tuple[Array, Array, Array]:
    """The gradients of query, key and value for dy, from what `forward` was given and returned."""
    call, plain = _call(True, words, (query, key, value, attention_mask, alibi_mask), seed, whole)
    statistics = tuple(np.ascontiguousarray(x, np.float32) for x in (softmax_max, softmax_sum))
    dy, out = _plain(dy), _plain(out)
    for name, array in zip(("softmax_max", "softmax_sum"), statistics):
        if array.shape != plain[0].shape[:3]:
            raise ValueError(f"{name}: got {array.shape}, allowed is {plain[0].shape[:3]}")
    gradients = tuple(np.empty(operand.shape, query.dtype) for operand in plain[:3])
    call.backward(
        _array("dy", dy),
        _array("out", out),
        *(array.ctypes.data for array in statistics),
        *(gradient.ctypes.data for gradient in gradients),
    )
    return gradients[0], gradients[1], gradients[2]
