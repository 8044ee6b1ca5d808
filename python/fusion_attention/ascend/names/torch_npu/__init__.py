"""torch_npu on the CPU: the attention operators and the two that diffusers calls beside them."""

import torch
from fusion_attention.ascend.elementwise import npu_geglu, npu_rms_norm
from fusion_attention.ascend.fused_attention_score import npu_fused_attention_score
from fusion_attention.ascend.ring import npu_ring_attention_update
from fusion_attention.inference.torch import (
    npu_fused_infer_attention_score,
    npu_fused_infer_attention_score_v2,
    npu_incre_flash_attention,
    npu_prompt_flash_attention,
)
from fusion_attention.torch import (
    _npu_dropout_gen_mask,
    npu_dropout_gen_mask,
    npu_fusion_attention,
    npu_fusion_attention_grad,
    npu_fusion_attention_grad_v2,
    npu_fusion_attention_grad_v3,
    npu_fusion_attention_v2,
    npu_fusion_attention_v3,
)

from torch_npu import npu

# Clients compare it with torch's version; a genuine torch_npu carries that of the torch it was built for.
__version__ = torch.__version__.partition("+")[0]

__all__ = [
    "_npu_dropout_gen_mask",
    "npu",
    "npu_dropout_gen_mask",
    "npu_fused_attention_score",
    "npu_fused_infer_attention_score",
    "npu_fused_infer_attention_score_v2",
    "npu_fusion_attention",
    "npu_fusion_attention_grad",
    "npu_fusion_attention_grad_v2",
    "npu_fusion_attention_grad_v3",
    "npu_fusion_attention_v2",
    "npu_fusion_attention_v3",
    "npu_geglu",
    "npu_incre_flash_attention",
    "npu_prompt_flash_attention",
    "npu_ring_attention_update",
    "npu_rms_norm",
]


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"module 'torch_npu' has no attribute '{name}': "
        f"fusion_attention's torch_npu layer serves {', '.join(__all__)}"
    )
