"""JAX: dot_product_attention and its derivative, jitted; as many threads as the process may use cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import torch
from torch import Tensor

from ..operands import Piece
from .peer import Peer, bounded_scores


def lent(tensor: Tensor) -> Any:
    """[batch, heads, rows, channels] as JAX's [batch, rows, heads, channels]."""
    return jax.dlpack.from_dlpack(tensor.transpose(1, 2).contiguous())


class Jax(Peer):
    def refuse(self, piece: Piece) -> None:
        super().refuse(piece)
        bounded_scores(piece, 4, 2 if piece.case.work == "forward" else 4)

    def _function(self, piece: Piece) -> Callable[..., Any]:
        causal = piece.kind == "causal"
        keep = None if causal or piece.keep is None else jax.numpy.asarray(piece.keep.numpy())
        return partial(jax.nn.dot_product_attention, mask=keep, is_causal=causal, scale=piece.scale)

    def forward(self, piece: Piece) -> Callable[[], Any]:
        function = jax.jit(self._function(piece))
        operands = [lent(x) for x in (piece.query, piece.key, piece.value)]
        return lambda: [function(*operands).block_until_ready()]

    def backward(self, piece: Piece) -> Callable[[], Any]:
        """The pullback alone: what the forward saved is made before the clock starts."""
        operands = [lent(x) for x in (piece.query, piece.key, piece.value)]
        _, pullback = jax.vjp(self._function(piece), *operands)
        function, gradient = jax.jit(pullback), lent(piece.gradient)
        return lambda: jax.block_until_ready(function(gradient))

    def training(self, piece: Piece) -> Callable[[], Any]:
        attend, gradient = self._function(piece), lent(piece.gradient)
        operands = [lent(x) for x in (piece.query, piece.key, piece.value)]
        function = jax.jit(lambda dy, *qkv: jax.vjp(attend, *qkv)[1](dy))
        return lambda: jax.block_until_ready(function(gradient, *operands))

    def tensors(self, result: Any) -> list[Tensor]:
        return [torch.utils.dlpack.from_dlpack(x).transpose(1, 2) for x in result]


def create(threads: int) -> Peer:
    if (
        threads == 1
    ):  # else threads of its own would take turns on one core, and each turn count as a disturbance
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return Jax()
