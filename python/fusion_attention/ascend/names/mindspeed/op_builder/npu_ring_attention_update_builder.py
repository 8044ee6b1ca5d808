"""The builder of npu_ring_attention_update."""

from .builder import MindSpeedOpBuilder


class RingAttentionUpdateOpBuilder(MindSpeedOpBuilder):
    OP_NAME = "npu_ring_attention_update"

    def __init__(self) -> None:
        super().__init__(self.OP_NAME)
