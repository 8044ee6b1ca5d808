"""`mindspeed.op_builder`: the builders of the operators that are served. Nothing is built."""

from .fusion_attention_v2_builder import FusionAttentionV2OpBuilder
from .npu_ring_attention_update_builder import RingAttentionUpdateOpBuilder

__all__ = ["FusionAttentionV2OpBuilder", "RingAttentionUpdateOpBuilder"]
