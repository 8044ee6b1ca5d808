"""The module where AscendSpeed defines it."""

from fusion_attention.ascend.ascend_flash_attention import ascend_flash_attention

__all__ = ["ascend_flash_attention"]
