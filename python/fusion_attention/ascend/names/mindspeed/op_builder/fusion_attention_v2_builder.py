"""The builder of npu_fusion_attention_v2 and its gradient."""

from .builder import MindSpeedOpBuilder


class FusionAttentionV2OpBuilder(MindSpeedOpBuilder):
    OP_NAME = "fusion_attention_v2"

    def __init__(self) -> None:
        super().__init__(self.OP_NAME)
