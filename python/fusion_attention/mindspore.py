"""MindSpore's inference operators under their exact signatures, on the CPU.

    from fusion_attention.mindspore import incre_flash_attention, prompt_flash_attention
    out = prompt_flash_attention(query, key, value, num_heads=8, scale_value=0.125)

They take MindSpore tensors, torch tensors and NumPy arrays. Once MindSpore is loaded a function can also
stand in a Cell that is compiled to a graph. `fusion_attention.enable("mindspore")` puts them where
MindSpore keeps its own.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_attention.inference import signatures

    prompt_flash_attention: signatures.PromptFlashAttention[Any]
    incre_flash_attention: Any

__all__ = ["incre_flash_attention", "prompt_flash_attention"]


def _front(query: Any) -> Any:
    """The module that serves this kind of array; no framework is imported for another's sake."""
    for name in ("mindspore", "torch"):
        framework = sys.modules.get(name)
        if framework is not None and isinstance(query, framework.Tensor):
            return importlib.import_module(f"fusion_attention.inference.{name}")
    return importlib.import_module("fusion_attention.inference.numpy")


def _dispatch(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        query = args[0] if args else kwargs.get("query")
        return getattr(_front(query), name)(*args, **kwargs)

    original = getattr(importlib.import_module("fusion_attention.inference.numpy"), name)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = original.__doc__.replace("NumPy array", "tensor")
    return call


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fusion_attention.mindspore' has no attribute {name!r}")
    if "mindspore" in sys.modules:
        return getattr(importlib.import_module("fusion_attention.inference.mindspore"), name)
    return _dispatch(name)
