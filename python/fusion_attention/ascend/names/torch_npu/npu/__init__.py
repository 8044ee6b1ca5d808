"""`torch.npu`: one device when "npu" means the CPU; none at all when only the names are served."""

from __future__ import annotations

import contextlib
import platform
import resource
from collections.abc import Iterator
from typing import Any

import torch
from fusion_attention.ascend.switch import device_level

from torch_npu.npu import amp, random
from torch_npu.npu.random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)

__all__ = [
    "NPUGraph",
    "amp",
    "current_device",
    "device",
    "device_count",
    "empty_cache",
    "get_amp_supported_dtype",
    "get_device_name",
    "get_rng_state",
    "get_rng_state_all",
    "graph",
    "init",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "random",
    "reset_max_memory_allocated",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_compile_mode",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "synchronize",
]


def is_available() -> bool:
    return device_level()


def device_count() -> int:
    return 1 if device_level() else 0


def current_device() -> int:
    """0: where "npu" means the CPU, `device=0` does too."""
    _need_device("current_device")
    return 0


def set_device(device: Any) -> None:
    _need_device("set_device")
    _index(device)


class device(contextlib.ContextDecorator):
    """`with torch.npu.device(0):` selects the only device there is."""

    def __init__(self, device: Any) -> None:
        _need_device("device")
        self.idx = _index(device)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: Any) -> None:
        return None


def synchronize(device: Any = None) -> None:
    """Calls on the CPU have finished when they return."""


def empty_cache() -> None:
    """There is no caching allocator to empty."""


def init() -> None:
    _need_device("init")


def is_initialized() -> bool:
    return device_level()


def is_bf16_supported() -> bool:
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]


def get_device_name(device: Any = None) -> str:
    """Begins with the model that op-plugin's tests select by its first ten letters."""
    _need_device("get_device_name")
    return f"Ascend910B (fusion_attention on {platform.machine()})"


def set_compile_mode(jit_compile: bool = False) -> None:
    """Nothing is compiled per shape here, so there is nothing to choose."""


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the machine's memory."""
    page = resource.getpagesize()
    with open("/proc/meminfo") as lines:
        amounts = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return amounts.get("MemAvailable", page), amounts["MemTotal"]


def memory_allocated(device: Any = None) -> int:
    """Bytes the process holds in memory: CPU tensors are not counted apart from the rest."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes the process ever held in memory; it cannot be reset."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


memory_reserved = memory_allocated
max_memory_reserved = max_memory_allocated


def reset_peak_memory_stats(device: Any = None) -> None:
    """The peak is the operating system's figure for the process, which nobody can reset."""


reset_max_memory_allocated = reset_peak_memory_stats


class NPUGraph:
    """Calls are run at once and cannot be recorded for replay on the CPU."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise NotImplementedError(
            "torch.npu.NPUGraph: got a graph capture, allowed are eager calls and torch.compile"
        )


@contextlib.contextmanager
def graph(*arguments: Any, **options: Any) -> Iterator[None]:
    raise NotImplementedError(
        "torch.npu.graph: got a graph capture, allowed are eager calls and torch.compile"
    )
    yield


def _need_device(name: str) -> None:
    if not device_level():
        raise RuntimeError(
            f"torch.npu.{name}: got a call with the names only, "
            'allowed is after fusion_attention.enable("torch_npu", device=True)'
        )


def _index(device: Any) -> int:
    given = device
    if isinstance(device, str) and device.startswith("npu"):
        device = device.partition(":")[2] or 0
    elif isinstance(device, torch.device):
        device = device.index or 0
    try:
        index = int(device)
    except (TypeError, ValueError):
        index = -1
    if index != 0:
        raise RuntimeError(f"device: got {given!r}, allowed is 0 or npu:0, the only device")
    return index
