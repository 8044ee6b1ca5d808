""" "npu" means the CPU: everything that has to change in torch for that, each change undone by `disable()`.

A torch function mode rewrites the device of every torch call; what never reaches a mode (autocast, Generator,
methods that torch does not have, torch.load) is patched one by one. Modes belong to a thread, so new threads
start with one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fusion_attention import generator
from fusion_attention.ascend.patches import Patches

NPU_NAMES = ("npu", "npu:0")
# The calls where a positional int may be a device index, and its place. Elsewhere an int is not a device.
_TAKES_INDEX = {torch.Tensor.to: 1, torch._C._nn._parse_to: 0}


class NpuMeansCpu(TorchFunctionMode):
    """Rewrites "npu" and "npu:0", and the index 0 where only a device can stand, to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.active = True  # cleared by disable(): a mode left on another thread's stack then does nothing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.active:
            return func(*args, **(kwargs or {}))
        if func is torch.device:
            return _device(args, kwargs)
        for value in args:
            if type(value) is str and value.startswith("npu"):
                args = tuple([_cpu(item) for item in args])
                break
        place = _TAKES_INDEX.get(func)
        if place is not None and len(args) > place and type(args[place]) is int:
            args = (*args[:place], _cpu_index(args[place]), *args[place + 1 :])
        if not kwargs:
            return func(*args)
        given = kwargs.get("device")
        if type(given) is str and given.startswith("npu"):
            kwargs = {**kwargs, "device": _cpu(given)}
        elif type(given) is int:
            kwargs = {**kwargs, "device": _cpu_index(given)}
        return func(*args, **kwargs)


def install() -> Patches:
    """Makes "npu" mean the CPU in this thread and in threads started from now on."""
    patches = Patches()
    try:
        _install_mode(patches)
        _install_methods(patches)
        _install_generator(patches)
        _install_autocast(patches)
        _install_module(patches)
        _install_loading(patches)
    except BaseException:
        patches.undo()
        raise
    return patches


def _cpu(value: Any) -> Any:
    """A name of the NPU becomes the CPU's; anything else stays as it is."""
    if type(value) is not str or not value.startswith("npu"):
        return value
    if value in NPU_NAMES:
        return "cpu"
    if value.startswith("npu:"):
        raise RuntimeError(f"device: got {value}, allowed is npu or npu:0, the only device")
    return value


def _cpu_index(index: int) -> str:
    if index != 0:
        raise RuntimeError(f"device: got {index}, allowed is 0, the only device")
    return "cpu"


def _device(args: Any, kwargs: Any) -> torch.device:
    """`torch.device(...)`; the result carries no index, as the device of a CPU tensor carries none."""
    options = kwargs or {}
    kind = args[0] if args else options.get("type", options.get("device"))
    if type(kind) is int:
        return torch.device(_cpu_index(kind))
    if type(kind) is str and kind.startswith("npu"):
        index = args[1] if len(args) > 1 else options.get("index")
        return torch.device(_cpu(kind if index is None else f"{kind}:{index}"))
    return torch.device(*args, **options)


def _install_mode(patches: Patches) -> None:
    mode = NpuMeansCpu()
    modes: Any = torch.overrides
    modes._push_mode(mode)
    patches.on_undo(lambda: _remove(mode))

    original = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    # Not Thread.run: a subclass that overrides run() would start without the mode.
    @wraps(original)
    def bootstrap(thread: threading.Thread) -> None:
        if not mode.active:
            original(thread)
            return
        with mode:
            original(thread)

    patches.set(threading.Thread, "_bootstrap_inner", bootstrap)


def _remove(mode: NpuMeansCpu) -> None:
    """Takes the mode out of this thread's stack, wherever in it others have pushed theirs."""
    mode.active = False
    modes: Any = torch.overrides
    above = []
    while modes._len_torch_function_stack():
        top = modes._pop_mode()
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        modes._push_mode(other)


def _install_methods(patches: Patches) -> None:
    def tensor_npu(
        self: torch.Tensor, device: Any = None, non_blocking: bool = False, **options: Any
    ) -> torch.Tensor:
        """The tensor on the NPU, which here is where it is."""
        _check_device(device)
        return self.to("cpu", non_blocking=non_blocking, **options)

    def module_npu(self: torch.nn.Module, device: Any = None) -> torch.nn.Module:
        """The module on the NPU, which here is where it is."""
        _check_device(device)
        return self.to("cpu")

    patches.set(torch.Tensor, "npu", tensor_npu)
    patches.set(torch.nn.Module, "npu", module_npu)
    patches.set(torch.Tensor, "is_npu", property(lambda self: self.device.type == "cpu"))


def _check_device(device: Any) -> None:
    if device is not None:
        torch.device(device)


def _install_generator(patches: Patches) -> None:
    plain = torch.Generator

    class AnyGenerator(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, plain)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, plain)

    class Generator(metaclass=AnyGenerator):
        """torch.Generator that takes "npu"; what it makes is an ordinary CPU generator."""

        def __new__(cls, device: Any = "cpu") -> Any:
            return plain(_cpu_index(device) if type(device) is int else _cpu(device))

    Generator.__doc__ = plain.__doc__
    patches.set(torch, "Generator", Generator)

    seed_custom_device = torch.random._seed_custom_device

    # torch.manual_seed calls this for a device of its own kind; on the NPU it seeds the dropout generator.
    @wraps(seed_custom_device)
    def seed_ours_too(seed: Any) -> None:
        generator.default.manual_seed(int(seed))
        seed_custom_device(seed)

    patches.set(torch.random, "_seed_custom_device", seed_ours_too)
    _install_states(patches)


def _install_states(patches: Patches) -> None:
    """States of torch's CPU generator carry that of ours.

    Who saves one to replay it, as torch.utils.checkpoint and fork_rng do, has then saved the NPU's.
    """
    get_rng_state, set_rng_state = torch.get_rng_state, torch.set_rng_state

    @wraps(get_rng_state)
    def get_both() -> torch.Tensor:
        state = get_rng_state()
        state._npu_rng_state = generator.default.state()  # type: ignore[attr-defined]
        return state

    @wraps(set_rng_state)
    def set_both(new_state: torch.Tensor) -> None:
        set_rng_state(new_state)
        ours = getattr(new_state, "_npu_rng_state", None)
        if ours is not None:
            generator.default.set_state(ours)

    for owner in (torch, torch.random):
        patches.set(owner, "get_rng_state", get_both)
        patches.set(owner, "set_rng_state", set_both)


def _install_autocast(patches: Patches) -> None:
    """autocast and the functions around it take the device's name and never pass through a mode."""

    def of_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            if "device_type" in kwargs:
                kwargs["device_type"] = _cpu(kwargs["device_type"])
            return function(*[_cpu(item) for item in args], **kwargs)

        return renamed

    autocast = torch.amp.autocast_mode.autocast
    patches.set(autocast, "__init__", of_cpu(autocast.__init__))
    for name in ("get_autocast_dtype", "is_autocast_enabled", "set_autocast_dtype", "set_autocast_enabled"):
        patches.set(torch, name, of_cpu(getattr(torch, name)))
    available = of_cpu(torch.amp.autocast_mode.is_autocast_available)
    for owner in (torch.amp.autocast_mode, torch.amp):
        patches.set(owner, "is_autocast_available", available)
    for name in ("custom_fwd", "custom_bwd"):
        renamed = of_cpu(getattr(torch.amp, name))
        for owner in (torch.amp.autocast_mode, torch.amp):
            patches.set(owner, name, renamed)


def _install_module(patches: Patches) -> None:
    """`torch.get_device_module("npu")`, which torch.random.fork_rng asks too."""
    get_device_module = torch.get_device_module

    @wraps(get_device_module)
    def module_of(device: Any = None) -> Any:
        return sys.modules["torch.npu"] if _cpu(device) != device else get_device_module(device)

    patches.set(torch, "get_device_module", module_of)


def _install_loading(patches: Patches) -> None:
    """Checkpoints written on an NPU, and `torch.load(..., map_location="npu")`, come to the CPU."""

    def restore(storage: Any, location: str) -> Any:
        return storage if location in NPU_NAMES or location.startswith("npu:") else None

    registry = torch.serialization._package_registry
    entry = (30, lambda storage: None, restore)  # after every device that torch knows itself
    patches.insert_last(registry, entry)
