"""The module where AscendSpeed defines them; the package exports the class under the module's name."""

from fusion_attention.ascend.npu_flash_attention import (
    FlashAttention,
    npu_flash_attention,
    npu_flash_attention_grad,
)

__all__ = ["FlashAttention", "npu_flash_attention", "npu_flash_attention_grad"]
