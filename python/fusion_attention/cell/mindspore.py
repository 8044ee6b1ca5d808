"""The cell as a `mindspore.nn.Cell`: PyNative and Graph mode, forward and gradient.

PyNative goes through `mindspore._Function`: NumPy views share the tensors' memory, nothing is copied. Graphs
(Graph mode, ms.jit) call back into Python through `ops.Custom`, which copies its operands. bfloat16, which
`ops.Custom` does not carry, is widened to float32 there and rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from fusion_attention._check import refuse_type
from fusion_attention._elements import ELEMENTS, OTHER
from fusion_attention.cell import layer
from fusion_attention.cell import numpy as front
from fusion_attention.cell.words import Words, checked, refuse_undocumented, sharded

# The shape of what stands for no mask, as a graph's operator has a fixed number of operands. No mask has it.
_ABSENT = (1,) * 6


def _seed(words: Words) -> int:
    return front.draw_seed() if words.dropout_rate > 0 else 0


# --- PyNative ---


def _views(tensors: Iterable[Any]) -> Any:
    """The tensors' memory as NumPy arrays; copied where strides are not those of the shape."""
    return tuple(None if tensor is None else tensor.contiguous().asnumpy() for tensor in tensors)


class _Attention(ms._Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, words: Words, seed: int, *tensors: Any) -> Tensor:
        results = [Tensor.from_numpy(x) for x in front.forward(words, _views(tensors), seed)]
        ctx.words, ctx.seed = words, seed
        ctx.places = [place for place, tensor in enumerate(tensors) if tensor is not None]
        ctx.save_for_backward(*(tensor for tensor in tensors if tensor is not None), *results)
        return results[0]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        *given, out, top, total = ctx.saved_tensors
        tensors = dict(zip(ctx.places, given))
        operands = _views(tensors.get(place) for place in range(len(front.NAMES)))
        dy_view, *results = _views((dy, out, top, total))
        gradients = front.backward(ctx.words, operands, ctx.seed, dy_view, results)
        return (None, None, *map(Tensor.from_numpy, gradients), None, None)


# --- Graphs ---


def _refuse_undocumented(tensors: tuple[Any, ...]) -> None:
    """Strict mode of this thread, which the operator's own does not know."""
    if len(tensors[0].shape) != 4:
        return  # refused in any mode

    def described(tensor: Any) -> Any:
        element = ELEMENTS.get(str(tensor.dtype).lower(), OTHER)
        return 0, element, tuple(tensor.shape), tuple(tensor.stride())

    refuse_undocumented(False, tuple(None if x is None else described(x) for x in tensors))


def _given(mask: Any) -> Any:
    return None if mask.shape == _ABSENT else mask


def _operator(words: Words) -> ops.Custom:
    """query, key, value, attention_mask, alibi_mask → out, maximum, sum, seed.

    MindSpore reads the source of the functions, so their arguments are spelled out.
    """

    def forward(query: Any, key: Any, value: Any, attention_mask: Any, alibi_mask: Any) -> Any:
        seed = _seed(words)
        given = query, key, value, _given(attention_mask), _given(alibi_mask)
        results = front.forward(words, given, seed)
        return (*results, np.array([seed], np.int64))

    def backward(query: Any, key: Any, value: Any, attention_mask: Any, alibi_mask: Any,
                 dy: Any, out: Any, top: Any, total: Any, seed: Any) -> Any:  # fmt: skip
        given = query, key, value, _given(attention_mask), _given(alibi_mask)
        return front.backward(words, given, int(seed[0]), dy, (out, top, total))

    def shapes(query: Any, key: Any, value: Any, attention_mask: Any, alibi_mask: Any) -> Any:
        statistics = [query[0], query[2], query[1]]
        return query, statistics, statistics, [1]

    def dtypes(query: Any, key: Any, value: Any, attention_mask: Any, alibi_mask: Any) -> Any:
        return query, ms.float32, ms.float32, ms.int64

    def like_operands(query: Any, key: Any, value: Any, *rest: Any) -> Any:
        return query, key, value

    gradient = ops.Custom(backward, out_shape=like_operands, out_dtype=like_operands, func_type="pyfunc")

    def bprop(query, key, value, attention_mask, alibi_mask, results, grads):  # type: ignore[no-untyped-def]
        operands = (query, key, value, attention_mask, alibi_mask)
        dq, dk, dv = gradient(*operands, grads[0], results[0], results[1], results[2], results[3])
        return dq, dk, dv, ops.zeros_like(attention_mask), ops.zeros_like(alibi_mask)

    return ops.Custom(forward, out_shape=shapes, out_dtype=dtypes, func_type="pyfunc", bprop=bprop)


class FlashAttention(nn.Cell):  # type: ignore[misc]
    __doc__ = layer.FlashAttention.__doc__

    def __init__(
        self,
        head_dim: int,
        dropout_rate: float = 0.0,
        prev_block_num: int = 65536,
        next_block_num: int = 65536,
        tiling_stgy_name: str = "sparse",
        dp: int = 1,
        mp: int = 1,
        have_attention_mask_batch: bool = True,
        alibi: bool = False,
    ) -> None:
        super().__init__()
        self._set(checked(
            head_dim, dropout_rate, prev_block_num, next_block_num, tiling_stgy_name, dp, mp,
            have_attention_mask_batch, alibi,
        ))  # fmt: skip

    def _set(self, words: Words) -> None:
        self._words = words
        self._operator = _operator(words)
        self._absent = Tensor(np.zeros(_ABSENT, np.float32))

    def __call__(
        self, query: Any, key: Any, value: Any, attention_mask: Any = None, alibi_mask: Any = None
    ) -> Any:
        rest = key, value, attention_mask, alibi_mask
        if not isinstance(query, Tensor):
            return layer.attend(self._words, query, *rest)
        for name, tensor in zip(front.NAMES[1:], rest):
            if tensor is not None and not isinstance(tensor, Tensor):
                refuse_type(name, tensor, "a MindSpore tensor, as query is")
        if ms.get_context("mode") == ms.GRAPH_MODE:
            _refuse_undocumented((query, *rest))
            return super().__call__(query, *rest)
        return _Attention.apply(self._words, _seed(self._words), query, *rest)

    def construct(self, query, key, value, attention_mask=None, alibi_mask=None):  # type: ignore[no-untyped-def]
        if attention_mask is None:
            attention_mask = self._absent
        elif attention_mask.dtype == ms.bfloat16:
            attention_mask = attention_mask.astype(ms.float32)
        if alibi_mask is None:
            alibi_mask = self._absent
        elif alibi_mask.dtype == ms.bfloat16:
            alibi_mask = alibi_mask.astype(ms.float32)
        if query.dtype == ms.bfloat16:
            out = self._operator(
                query.astype(ms.float32), key.astype(ms.float32), value.astype(ms.float32),
                attention_mask, alibi_mask,
            )[0]  # fmt: skip
            return out.astype(ms.bfloat16)
        return self._operator(query, key, value, attention_mask, alibi_mask)[0]

    def shard(self, in_strategy: Any = None, out_strategy: Any = None) -> FlashAttention:
        """Sets dp and mp from the strategy of query, ((dp, mp, 1, 1), …); out_strategy follows from it."""
        self._set(sharded(self._words, in_strategy))
        return self
