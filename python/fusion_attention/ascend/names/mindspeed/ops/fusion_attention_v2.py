"""`mindspeed.ops.fusion_attention_v2`: torch_npu's v2 functions under mindspeed's names and defaults."""

from __future__ import annotations

from typing import Any

import torch
from fusion_attention.ascend.older_order import npu_fusion_attention
from fusion_attention.torch import npu_fusion_attention_grad_v2

__all__ = ["npu_fusion_attention"]


def npu_fusion_attention_grad(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    grad_outputs: torch.Tensor,
    head_num: int,
    input_layout: str,
    *,
    scale: float = 1.0,
    seed: int = 1234,
    **options: Any,
) -> tuple[torch.Tensor | None, ...]:
    """(dq, dk, dv, dpse): `scale` and `grad_outputs` are what torch_npu calls scale_value and dy."""
    dq, dk, dv, dpse, *_ = npu_fusion_attention_grad_v2(
        query, key, value, grad_outputs, head_num, input_layout, scale_value=scale, seed=seed, **options
    )
    return dq, dk, dv, dpse
