"""`ascendspeed.ops`: npu_flash_attention, npu_flash_attention_grad and FlashAttention."""

from .FlashAttention import *  # noqa: F403
