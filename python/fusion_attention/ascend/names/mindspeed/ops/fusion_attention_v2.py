"""`mindspeed.ops.fusion_attention_v2`; its __all__ has the forward alone, as the genuine one's."""

from fusion_attention.ascend.mindspeed_ops import npu_fusion_attention, npu_fusion_attention_grad  # noqa: F401

__all__ = ["npu_fusion_attention"]
