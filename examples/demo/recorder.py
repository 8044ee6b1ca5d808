"""Watches a function that a model calls for its attention: how often, for how long, and with what."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import torch
import transformers.integrations.npu_flash_attention as ascend_path

ASCEND = (ascend_path, "npu_fusion_attention")  # what transformers calls where it finds an NPU
SDPA = (torch.nn.functional, "scaled_dot_product_attention")


class Recorder:
    """While entered, counts and times the calls of a function, and keeps the arguments of the first."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.first: dict[str, Any] = {}
        self._place = module, name
        self._function = getattr(module, name)

    def __enter__(self) -> Recorder:
        setattr(*self._place, self._timed)
        return self

    def __exit__(self, *error: Any) -> None:
        setattr(*self._place, self._function)

    def _timed(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.calls:
            self.first = {"shape": tuple(query.shape), "dtype": query.dtype, **kwargs}
        start = time.perf_counter()
        result = self._function(query, *args, **kwargs)
        self.seconds += time.perf_counter() - start
        self.calls += 1
        return result
