"""This library's call for a case."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import fusion_attention.torch as front
import torch
from torch import Tensor

from .case import parse_mask
from .operands import INT8_SCALE, Operands

SEED, OFFSET = 5, 0


class Missing(Exception):
    """This build lacks what the case needs."""


class Ours:
    def __init__(self, operands: Operands):
        self.operands, self.case = operands, operands.case
        self.qkv = (operands.query, operands.key, operands.value)
        self.scale = operands.pieces[0].scale

    def call(self) -> Callable[[], object]:
        """One call, ready to be timed."""
        if self.case.cache:
            return self._stored()
        make = {"forward": self._forward, "backward": self._backward, "training": self._training}
        return make[self.case.work]()

    def answer(self, result: Any) -> list[list[Tensor]]:
        """Per piece the output of a forward, or dQ, dK and dV."""
        tensors = list(result[:1] if self.case.work == "forward" else result[:3])
        return [list(parts) for parts in zip(*(self.operands.by_piece(x) for x in tensors))]

    def kept(self) -> Tensor | None:
        """The dropout bits of the calls above, one byte a score, or None."""
        if self.case.keep_prob == 1:
            return None
        shape = [self.case.batch, self.case.heads, self.case.rows, self.case.keys]
        bits = front._npu_dropout_gen_mask(self.operands.query, shape, 1 - self.case.keep_prob, SEED, OFFSET)
        spread = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        return spread.flatten()[: shape[0] * shape[1] * shape[2] * shape[3]].view(shape)

    def _words(self) -> dict[str, Any]:
        kind, number = parse_mask(self.case.mask)
        of_kind: dict[str, dict[str, Any]] = {
            "causal": {"sparse_mode": 2},
            "bottom": {"sparse_mode": 3},
            "window": {"sparse_mode": 4, "pre_tockens": int(number) - 1, "next_tockens": 0},
            "around": {"sparse_mode": 4, "pre_tockens": int(number), "next_tockens": int(number)},
            "prefix": {"sparse_mode": 6, "prefix": [int(number)] * self.case.batch},
        }
        words = of_kind.get(kind, {})
        if kind == "prefix":
            words["atten_mask"] = torch.ones(3072, 2048, dtype=torch.bool)
        elif words:
            words["atten_mask"] = torch.ones(2048, 2048, dtype=torch.bool).triu_(1)
        elif self.operands.has_dense_mask and (keep := self.operands.pieces[0].keep) is not None:
            words = {"sparse_mode": 1, "atten_mask": ~keep}
        if self.case.layout == "TND":
            ends = list(accumulate(self.case.lengths))
            words |= {"actual_seq_qlen": ends, "actual_seq_kvlen": ends}
        if self.case.keep_prob < 1:
            words |= {"keep_prob": self.case.keep_prob, "seed": SEED, "offset": OFFSET}
        if self.case.sink:
            words["sink"] = sink_of(self.case.heads)
        return words

    def _forward(self) -> Callable[[], Any]:
        words, case = self._words(), self.case
        return lambda: front.npu_fusion_attention(
            *self.qkv, case.heads, case.layout, scale=self.scale, **words
        )

    def _backward(self) -> Callable[[], Any]:
        words, case = self._words(), self.case
        out, top, total = self._forward()()[:3]
        words |= {"softmax_max": top, "softmax_sum": total, "attention_in": out, "scale_value": self.scale}
        return lambda: front.npu_fusion_attention_grad(
            *self.qkv, self.operands.gradient, case.heads, case.layout, **words
        )

    def _training(self) -> Callable[[], Any]:
        words, case = self._words(), self.case
        query, key, value = leaves = [x.detach().requires_grad_() for x in self.qkv]
        words["scale"] = self.scale

        def step() -> Any:
            with torch.enable_grad():
                out = front.npu_fusion_attention(query, key, value, case.heads, case.layout, **words)[0]
                return torch.autograd.grad(out, leaves, self.operands.gradient)

        return step

    def _stored(self) -> Callable[[], Any]:
        """Through the inference interface: pages in shuffled places, or int8 with one scale."""
        try:
            from fusion_attention.inference.torch import npu_fused_infer_attention_score as attend
        except ImportError:
            raise Missing("this build has no npu_fused_infer_attention_score") from None
        case = self.case
        words: dict[str, Any] = {
            "num_heads": case.heads,
            "num_key_value_heads": case.kv_heads,
            "input_layout": "BNSD",
            "scale": self.scale,
        }
        if self.operands.stored:
            key, value = self.operands.stored
            scale = torch.full((1,), INT8_SCALE, dtype=self.operands.query.dtype)
            words |= {"key_antiquant_scale": scale, "value_antiquant_scale": scale}
        else:
            size = int(case.cache.split()[-1])
            per_sequence = case.keys // size
            order = torch.randperm(case.batch * per_sequence, generator=torch.Generator().manual_seed(3))
            key, value = (paged(x, size, order) for x in self.qkv[1:])
            table = order.argsort().to(torch.int32).view(case.batch, per_sequence)
            words |= {"block_table": table, "block_size": size, "actual_seq_lengths_kv": list(case.lengths)}
        return lambda: attend(self.operands.query, key, value, **words)


def paged(stored: Tensor, size: int, order: Tensor) -> Tensor:
    """[batch, heads, keys, channels] as a pool [pages, heads, size, channels]; its page p is order[p]."""
    batch, heads, keys, depth = stored.shape
    pages = stored.view(batch, heads, keys // size, size, depth).transpose(1, 2)
    return pages.reshape(-1, heads, size, depth)[order].contiguous()


def sink_of(heads: int) -> Tensor:
    return torch.linspace(-1, 1, heads)
