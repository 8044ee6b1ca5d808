"""The cell on torch tensors, with autograd."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from fusion_attention import _core
from fusion_attention._check import refuse_type
from fusion_attention.cell.words import Words, refuse_undocumented
from fusion_attention.torch import _array as _dense

_NAMES = ("query", "key", "value", "attention_mask", "alibi_mask")
_WHOLE = (0, 0, 0)
_OPERANDS = 3  # query, key, value: what has a gradient


def _array(name: str, tensor: Any) -> Any:
    if tensor is not None and not isinstance(tensor, Tensor):
        refuse_type(name, tensor, "a torch tensor, as query is")
    return _dense(name, tensor)


def _call(backward: bool, words: Words, tensors: tuple[Any, ...], seed: int) -> _core.FlashAttentionCell:
    given = tuple(_array(name, tensor) for name, tensor in zip(_NAMES, tensors))
    call = _core.FlashAttentionCell(backward, words, given, seed, _WHOLE)
    refuse_undocumented(backward, given)
    return call


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, words: Words, seed: int, *tensors: Any) -> Tensor:
        call = _call(False, words, tensors, seed)
        for note in call.notes():
            warnings.warn(note, stacklevel=4)
        query = tensors[0]
        out = torch.empty(query.shape, dtype=query.dtype)
        batches, heads, rows, _ = query.shape
        top, total = (torch.empty(batches, rows, heads, dtype=torch.float32) for _ in range(2))
        call.forward(out.data_ptr(), top.data_ptr(), total.data_ptr())
        ctx.words, ctx.seed = words, seed
        ctx.save_for_backward(*tensors, out, top, total)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out, top, total = ctx.saved_tensors
        call = _call(True, ctx.words, tuple(tensors), ctx.seed)
        gradients = tuple(torch.empty(x.shape, dtype=x.dtype) for x in tensors[:_OPERANDS])
        call.backward(
            _array("dy", dy),
            _array("out", out),
            top.data_ptr(),
            total.data_ptr(),
            *(gradient.data_ptr() for gradient in gradients),
        )
        return (None, None, *gradients, *(None for _ in tensors[_OPERANDS:]))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attention(words: Words, *tensors: Any) -> Tensor:
    """The cell's call: query, key, value, attention_mask, alibi_mask. Dropout follows torch.manual_seed."""
    seed = int(torch.randint(1 << 62, ()).item()) if words.dropout_rate > 0 else 0
    out: Tensor = _Attention.apply(words, seed, *tensors)  # type: ignore[no-untyped-call]
    return out
