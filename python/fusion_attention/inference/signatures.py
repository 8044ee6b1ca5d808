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


class IncreFlashAttention(Protocol[Array]):
    """incre_flash_attention"""

    def __call__(
        self,
        query: Array,
        key: Array | Sequence[Array],
        value: Array | Sequence[Array],
        attn_mask: Array | None = None,
        actual_seq_lengths: Sequence[int] | Array | None = None,
        pse_shift: Array | None = None,
        dequant_scale1: Array | None = None,
        quant_scale1: Array | None = None,
        dequant_scale2: Array | None = None,
        quant_scale2: Array | None = None,
        quant_offset2: Array | None = None,
        antiquant_scale: Array | None = None,
        antiquant_offset: Array | None = None,
        block_table: Array | None = None,
        num_heads: int = 1,
        input_layout: str = "BSH",
        scale_value: float = 1.0,
        num_key_value_heads: int = 0,
        block_size: int = 0,
        inner_precise: int = 1,
        kv_padding_size: Array | None = None,
    ) -> Array: ...


class NpuIncreFlashAttention(Protocol[Array]):
    """npu_incre_flash_attention"""

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
        antiquant_scale: Array | None = None,
        antiquant_offset: Array | None = None,
        block_table: Array | None = None,
        dequant_scale1: Array | None = None,
        quant_scale1: Array | None = None,
        dequant_scale2: Array | None = None,
        quant_scale2: Array | None = None,
        quant_offset2: Array | None = None,
        kv_padding_size: Array | None = None,
        num_heads: int = 1,
        scale_value: float = 1.0,
        input_layout: str = "BSH",
        num_key_value_heads: int = 0,
        block_size: int = 0,
        inner_precise: int = 1,
    ) -> Array: ...


class NpuFusedInferAttentionScore(Protocol[Array]):
    """npu_fused_infer_attention_score"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        *,
        pse_shift: Array | None = None,
        atten_mask: Array | None = None,
        actual_seq_lengths: Sequence[int] | Array | None = None,
        actual_seq_lengths_kv: Sequence[int] | Array | None = None,
        dequant_scale1: Array | None = None,
        quant_scale1: Array | None = None,
        dequant_scale2: Array | None = None,
        quant_scale2: Array | None = None,
        quant_offset2: Array | None = None,
        antiquant_scale: Array | None = None,
        antiquant_offset: Array | None = None,
        key_antiquant_scale: Array | None = None,
        key_antiquant_offset: Array | None = None,
        value_antiquant_scale: Array | None = None,
        value_antiquant_offset: Array | None = None,
        block_table: Array | None = None,
        query_padding_size: Array | None = None,
        kv_padding_size: Array | None = None,
        key_shared_prefix: Array | None = None,
        value_shared_prefix: Array | None = None,
        actual_shared_prefix_len: Sequence[int] | Array | None = None,
        query_rope: Array | None = None,
        key_rope: Array | None = None,
        key_rope_antiquant_scale: None = None,
        num_heads: int = 1,
        scale: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 2147483647,
        input_layout: str = "BSH",
        num_key_value_heads: int = 0,
        sparse_mode: int = 0,
        inner_precise: int = 0,
        block_size: int = 0,
        antiquant_mode: int = 0,
        key_antiquant_mode: int = 0,
        value_antiquant_mode: int = 0,
        softmax_lse_flag: bool = False,
    ) -> tuple[Array, Array]: ...


class NpuFusedInferAttentionScoreV2(Protocol[Array]):
    """npu_fused_infer_attention_score_v2"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        *,
        query_rope: Array | None = None,
        key_rope: Array | None = None,
        pse_shift: Array | None = None,
        atten_mask: Array | None = None,
        actual_seq_qlen: Sequence[int] | Array | None = None,
        actual_seq_kvlen: Sequence[int] | Array | None = None,
        block_table: Array | None = None,
        dequant_scale_query: Array | None = None,
        dequant_scale_key: Array | None = None,
        dequant_offset_key: Array | None = None,
        dequant_scale_value: Array | None = None,
        dequant_offset_value: Array | None = None,
        dequant_scale_key_rope: None = None,
        quant_scale_out: Array | None = None,
        quant_offset_out: Array | None = None,
        quant_scale_p: None = None,
        learnable_sink: Array | None = None,
        num_query_heads: int = 1,
        num_key_value_heads: int = 0,
        softmax_scale: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 2147483647,
        input_layout: str = "BSH",
        sparse_mode: int = 0,
        block_size: int = 0,
        query_quant_mode: int = 0,
        key_quant_mode: int = 0,
        value_quant_mode: int = 0,
        inner_precise: int = 0,
        return_softmax_lse: bool = False,
        query_dtype: None = None,
        key_dtype: None = None,
        value_dtype: None = None,
        query_rope_dtype: None = None,
        key_rope_dtype: None = None,
        key_shared_prefix_dtype: None = None,
        value_shared_prefix_dtype: None = None,
        dequant_scale_query_dtype: None = None,
        dequant_scale_key_dtype: None = None,
        dequant_scale_value_dtype: None = None,
        dequant_scale_key_rope_dtype: None = None,
        out_dtype: object | None = None,
    ) -> tuple[Array, Array]: ...
