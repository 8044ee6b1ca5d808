"""Layers: the modules that code written for the Ascend NPU imports, served on the CPU while enabled."""

from fusion_attention.ascend.switch import disable, enable

__all__ = ["disable", "enable"]
