"""`mindspeed.ops.npu_ring_attention_update`."""

from fusion_attention.ascend.mindspeed_ops import npu_ring_attention_update

__all__ = ["npu_ring_attention_update"]
