"""The types of the public functions, one protocol each; Array is torch.Tensor or numpy.ndarray.

Written by `python -m fusion_attention.inference.stubs` from the table; do not edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Array = TypeVar("Array")


class PromptFlashAttention(Protocol[Array]):
    """prompt_flash_attention"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        attn_mask: Array | None = None,
        actual_seq_lengths: Sequence[int] | Array | None = None,
        actual_seq_lengths_kv: Sequence[int] | Array | None = None,
        pse_shift: Array | None = None,
        deq_scale1: Array | None = None,
        quant_scale1: Array | None = None,
        deq_scale2: Array | None = None,
        quant_scale2: Array | None = None,
        quant_offset2: Array | None = None,
        num_heads: int = 1,
        scale_value: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 0,
        input_layout: str = "BSH",
        num_key_value_heads: int = 0,
        sparse_mode: int = 0,
        inner_precise: int = 1,
    ) -> Array: ...


class NpuPromptFlashAttention(Protocol[Array]):
    """npu_prompt_flash_attention"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        *,
        padding_mask: Array | None = None,
        atten_mask: Array | None = None,
        pse_shift: Array | None = None,
        actual_seq_lengths: Sequence[int] | Array | None = None,
        deq_scale1: Array | None = None,
        quant_scale1: Array | None = None,
        deq_scale2: Array | None = None,
        quant_scale2: Array | None = None,
        quant_offset2: Array | None = None,
        num_heads: int = 1,
        scale_value: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 0,
        input_layout: str = "BSH",
        num_key_value_heads: int = 0,
        actual_seq_lengths_kv: Sequence[int] | Array | None = None,
        sparse_mode: int = 0,
    ) -> Array: ...
