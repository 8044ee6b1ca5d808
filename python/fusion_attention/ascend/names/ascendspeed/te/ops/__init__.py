"""`ascendspeed.te.ops`: ascend_flash_attention."""

from .flash_attention import ascend_flash_attention

__all__ = ["ascend_flash_attention"]
