"""`torch.npu.amp`: autocast and gradient scaling, which are torch's own with the CPU for a device."""

from __future__ import annotations

from typing import Any

import torch


class autocast(torch.autocast):
    """`torch.npu.amp.autocast(enabled, dtype)`: float16 unless told otherwise, as on the NPU."""

    def __init__(
        self, enabled: bool = True, dtype: torch.dtype = torch.float16, cache_enabled: bool = True
    ) -> None:
        super().__init__("cpu", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(torch.amp.GradScaler):
    """`torch.npu.amp.GradScaler`; `dynamic` of the genuine one has no counterpart and is ignored."""

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        dynamic: Any = True,
    ) -> None:
        super().__init__("cpu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)
