"""Layers: the module names that code written for the Ascend NPU imports, served on the CPU while they are enabled."""

from fusion_attention.ascend.switch import disable, enable

__all__ = ["disable", "enable"]
