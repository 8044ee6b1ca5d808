"""The types of the public functions, one protocol each; Array is torch.Tensor or numpy.ndarray.

Written by `python -m fusion_attention._stubs` from the table; do not edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Array = TypeVar("Array")


class V1(Protocol[Array]):
    """npu_fusion_attention"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        head_num: int,
        input_layout: str,
        pse: Array | None = None,
        padding_mask: Array | None = None,
        atten_mask: Array | None = None,
        scale: float = 1.0,
        keep_prob: float = 1.0,
        pre_tockens: int = 2147483647,
        next_tockens: int = 2147483647,
        inner_precise: int = 0,
        prefix: Sequence[int] | Array | None = None,
        actual_seq_qlen: Sequence[int] | Array | None = None,
        actual_seq_kvlen: Sequence[int] | Array | None = None,
        sparse_mode: int = 0,
        gen_mask_parallel: bool = True,
        sync: bool = False,
        softmax_layout: str = "",
        sink: Array | None = None,
        dropout_mask: Array | None = None,
        seed: int = 0,
        offset: int = 0,
    ) -> tuple[Array, Array, Array, Array, int, int, int]: ...


class V2(Protocol[Array]):
    """npu_fusion_attention_v2"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        head_num: int,
        input_layout: str,
        *,
        pse: Array | None = None,
        padding_mask: Array | None = None,
        atten_mask: Array | None = None,
        query_rope: Array | None = None,
        key_rope: Array | None = None,
        scale: float = 1.0,
        keep_prob: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 2147483647,
        inner_precise: int = 0,
        prefix: Sequence[int] | Array | None = None,
        actual_seq_qlen: Sequence[int] | Array | None = None,
        actual_seq_kvlen: Sequence[int] | Array | None = None,
        sparse_mode: int = 0,
        gen_mask_parallel: bool = True,
        sync: bool = False,
        pse_type: int = 1,
        q_start_idx: Sequence[int] | Array | None = None,
        kv_start_idx: Sequence[int] | Array | None = None,
        softmax_layout: str = "",
        sink: Array | None = None,
        dropout_mask: Array | None = None,
        seed: int = 0,
        offset: int = 0,
    ) -> tuple[Array, Array, Array, Array, int, int, int]: ...


class V3(Protocol[Array]):
    """npu_fusion_attention_v3"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        head_num: int,
        input_layout: str,
        pse: Array | None = None,
        padding_mask: Array | None = None,
        atten_mask: Array | None = None,
        scale: float = 1.0,
        keep_prob: float = 1.0,
        pre_tockens: int = 2147483647,
        next_tockens: int = 2147483647,
        inner_precise: int = 0,
        prefix: Sequence[int] | Array | None = None,
        actual_seq_qlen: Sequence[int] | Array | None = None,
        actual_seq_kvlen: Sequence[int] | Array | None = None,
        sparse_mode: int = 0,
        gen_mask_parallel: bool = True,
        sync: bool = False,
        softmax_layout: str = "",
        sink: Array | None = None,
    ) -> tuple[Array, Array, Array, Array, Array, Array]: ...


class V1Grad(Protocol[Array]):
    """npu_fusion_attention_grad"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        dy: Array,
        head_num: int,
        input_layout: str,
        *,
        pse: Array | None = None,
        padding_mask: Array | None = None,
        atten_mask: Array | None = None,
        softmax_max: Array | None = None,
        softmax_sum: Array | None = None,
        softmax_in: Array | None = None,
        attention_in: Array | None = None,
        scale_value: float = 1.0,
        keep_prob: float = 1.0,
        pre_tockens: int = 2147483647,
        next_tockens: int = 2147483647,
        inner_precise: int = 0,
        seed: int = 0,
        offset: int = 0,
        numels: int = 0,
        prefix: Sequence[int] | Array | None = None,
        actual_seq_qlen: Sequence[int] | Array | None = None,
        actual_seq_kvlen: Sequence[int] | Array | None = None,
        sparse_mode: int = 0,
        gen_mask_parallel: bool = True,
        sync: bool = False,
        softmax_layout: str = "",
        sink: Array | None = None,
    ) -> tuple[Array, Array, Array, Array | None, Array | None]: ...


class V2Grad(Protocol[Array]):
    """npu_fusion_attention_grad_v2"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        dy: Array,
        head_num: int,
        input_layout: str,
        *,
        pse: Array | None = None,
        padding_mask: Array | None = None,
        atten_mask: Array | None = None,
        softmax_max: Array | None = None,
        softmax_sum: Array | None = None,
        softmax_in: Array | None = None,
        attention_in: Array | None = None,
        query_rope: Array | None = None,
        key_rope: Array | None = None,
        scale_value: float = 1.0,
        keep_prob: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 2147483647,
        inner_precise: int = 0,
        seed: int = 0,
        offset: int = 0,
        numels: int = 0,
        prefix: Sequence[int] | Array | None = None,
        actual_seq_qlen: Sequence[int] | Array | None = None,
        actual_seq_kvlen: Sequence[int] | Array | None = None,
        sparse_mode: int = 0,
        gen_mask_parallel: bool = True,
        sync: bool = False,
        pse_type: int = 1,
        q_start_idx: Sequence[int] | Array | None = None,
        kv_start_idx: Sequence[int] | Array | None = None,
        softmax_layout: str = "",
        sink: Array | None = None,
    ) -> tuple[Array, Array, Array, Array | None, Array | None, Array | None, Array | None]: ...


class V3Grad(Protocol[Array]):
    """npu_fusion_attention_grad_v3"""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        dy: Array,
        head_num: int,
        input_layout: str,
        *,
        pse: Array | None = None,
        padding_mask: Array | None = None,
        atten_mask: Array | None = None,
        softmax_max: Array | None = None,
        softmax_sum: Array | None = None,
        softmax_in: Array | None = None,
        attention_in: Array | None = None,
        scale_value: float = 1.0,
        keep_prob: float = 1.0,
        pre_tockens: int = 2147483647,
        next_tockens: int = 2147483647,
        inner_precise: int = 0,
        seed: Array | None = None,
        offset: Array | None = None,
        prefix: Sequence[int] | Array | None = None,
        actual_seq_qlen: Sequence[int] | Array | None = None,
        actual_seq_kvlen: Sequence[int] | Array | None = None,
        sparse_mode: int = 0,
        gen_mask_parallel: bool = True,
        sync: bool = False,
        softmax_layout: str = "",
        sink: Array | None = None,
    ) -> tuple[Array, Array, Array, Array | None, Array | None]: ...
