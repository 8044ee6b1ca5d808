"""Fused attention for CPUs under the exact Ascend interfaces.

    import fusion_attention
    out, softmax_max, softmax_sum, *_ = fusion_attention.npu_fusion_attention(query, key, value, head_num, "BSND")

The functions here take NumPy arrays or torch tensors and go to `fusion_attention.numpy` or
`fusion_attention.torch`, which are imported when first needed.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from fusion_attention._core import __version__, set_thread_count, thread_count
from fusion_attention.ascend.switch import disable, enable

_FUNCTIONS = (
    "npu_fusion_attention",
    "npu_fusion_attention_v2",
    "npu_fusion_attention_v3",
    "npu_fusion_attention_grad",
    "npu_fusion_attention_grad_v2",
    "npu_fusion_attention_grad_v3",
)
_MODULES = ("numpy", "torch", "machine")

__all__ = ["__version__", "disable", "enable", "explain", "set_thread_count", "thread_count", *_FUNCTIONS]


def _front(query: Any) -> Any:
    """The module that serves this kind of array; neither framework is imported for the other's sake."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(query, torch.Tensor):
        return importlib.import_module("fusion_attention.torch")
    return importlib.import_module("fusion_attention.numpy")


def _dispatch(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        query = args[0] if args else kwargs.get("query")
        return getattr(_front(query), name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"`fusion_attention.numpy.{name}` or `fusion_attention.torch.{name}`, by the type of query."
    return call


def explain(*args: Any, **kwargs: Any) -> Any:
    """How a call of npu_fusion_attention with these arguments would be computed; nothing is computed.

    Takes the arguments of version 1 or version 2. Prints as text; see `fusion_attention._explain.Explanation`.
    """
    query = args[0] if args else kwargs.get("query")
    return _front(query).explain(*args, **kwargs)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fusion_attention.{name}")
    if name in _FUNCTIONS:
        function = globals()[name] = _dispatch(name)
        return function
    raise AttributeError(f"module 'fusion_attention' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
