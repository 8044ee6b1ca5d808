"""The callable module of the documents' example: `npu_fusion_attention(query, ...)` once imported."""

import sys
from types import ModuleType
from typing import Any

from fusion_attention.ascend.mindspeed_ops import npu_fusion_attention

__all__ = ["npu_fusion_attention"]


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return npu_fusion_attention(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
