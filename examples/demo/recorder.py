"""Watches the operator that transformers calls on an NPU: how often, for how long, and with what."""

from __future__ import annotations

import time
from typing import Any

import transformers.integrations.npu_flash_attention as ascend_path


class Recorder:
    """While entered, counts and times the calls of torch_npu.npu_fusion_attention made by transformers."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.first: dict[str, Any] = {}
        self._operator: Any = None

    def __enter__(self) -> Recorder:
        self._operator = ascend_path.npu_fusion_attention
        ascend_path.npu_fusion_attention = self._timed
        return self

    def __exit__(self, *error: Any) -> None:
        ascend_path.npu_fusion_attention = self._operator

    def _timed(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.calls:
            self.first = {"shape": tuple(query.shape), "dtype": query.dtype, **kwargs}
        start = time.perf_counter()
        result = self._operator(query, *args, **kwargs)
        self.seconds += time.perf_counter() - start
        self.calls += 1
        return result
