"""The cell on NumPy arrays: float16, ml_dtypes.bfloat16 and float32. MindSpore's tensors come here too."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusion_attention import _core
from fusion_attention._check import refuse_type
from fusion_attention._elements import ELEMENTS, OTHER
from fusion_attention.cell.words import Words, refuse_undocumented
from fusion_attention.numpy import _plain

Array = np.ndarray[Any, Any]
Operands = tuple[Any, Any, Any, Any, Any]  # NAMES; the masks may be None
NAMES = ("query", "key", "value", "attention_mask", "alibi_mask")
WHOLE = (0, 0, 0)


def _array(name: str, array: Any) -> tuple[int, int, tuple[int, ...], tuple[int, ...]] | None:
    if array is None:
        return None
    if not isinstance(array, np.ndarray):
        refuse_type(name, array, "a NumPy array, as query is")
    element = ELEMENTS.get(array.dtype.name, OTHER) if array.dtype.isnative else OTHER
    strides = tuple(step // array.itemsize for step in array.strides)
    return array.ctypes.data, element, array.shape, strides


def _call(
    backward: bool, words: Words, given: Operands, seed: int, whole: tuple[int, int, int]
) -> tuple[_core.FlashAttentionCell, tuple[Any, ...]]:
    """The call, read and checked in C++, and the arrays that must outlive it."""
    plain = tuple(map(_plain, given))
    arrays = tuple(_array(name, array) for name, array in zip(NAMES, plain))
    call = _core.FlashAttentionCell(backward, words, arrays, seed, whole)
    refuse_undocumented(backward, arrays)
    return call, plain


def _statistics_shape(query: Array) -> tuple[int, int, int]:
    batches, heads, rows, _ = query.shape
    return batches, rows, heads


def draw_seed() -> int:
    """The dropout of one call, from NumPy's global generator, which mindspore.set_seed seeds too."""
    return int(np.random.randint(1 << 62))


def forward(
    words: Words, given: Operands, seed: int = 0, whole: tuple[int, int, int] = WHOLE
) -> tuple[Array, Array, Array]:
    """The output and the softmax statistics (maximum and sum, float32 [B, Sq, N]).

    Args:
        words: the constructor's arguments.
        given: query, key, value, attention_mask, alibi_mask, as the cell takes them.
        seed: of dropout.
        whole: for a slice of the batch and of the heads that shall have the dropout of the whole: its first
            batch entry, its first head, and the number of heads of the whole.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape.
    """
    call, plain = _call(False, words, given, seed, whole)
    for note in call.notes():
        warnings.warn(note, stacklevel=4)
    out = np.empty(plain[0].shape, plain[0].dtype)
    top, total = (np.empty(_statistics_shape(plain[0]), np.float32) for _ in range(2))
    call.forward(out.ctypes.data, top.ctypes.data, total.ctypes.data)
    return out, top, total


def backward(
    words: Words,
    given: Operands,
    seed: int,
    dy: Array,
    results: Sequence[Array],
    whole: tuple[int, int, int] = WHOLE,
) -> tuple[Array, Array, Array]:
    """The gradients of query, key and value for dy, from what `forward` was given and its results."""
    call, plain = _call(True, words, given, seed, whole)
    dy, out = _plain(dy), _plain(results[0])
    statistics = tuple(np.ascontiguousarray(x, np.float32) for x in results[1:])
    shape = _statistics_shape(plain[0])
    for name, array in zip(("softmax_max", "softmax_sum"), statistics):
        if array.shape != shape:
            raise ValueError(f"{name}: got {array.shape}, allowed is {shape}")
    gradients = tuple(np.empty(operand.shape, operand.dtype) for operand in plain[:3])
    call.backward(
        _array("dy", dy),
        _array("out", out),
        *(array.ctypes.data for array in statistics),
        *(gradient.ctypes.data for gradient in gradients),
    )
    return gradients[0], gradients[1], gradients[2]
