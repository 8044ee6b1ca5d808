"""`torch.npu.random`: the generator from which dropout draws its seed and offset.

Where "npu" means the CPU, `torch.rand(..., device="npu")` draws from torch's CPU generator, so seeding the
NPU seeds that one too. With the names only, no call here touches torch's own generators.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from fusion_attention import generator
from fusion_attention.ascend.switch import device_level


def manual_seed(seed: int) -> None:
    generator.default.manual_seed(int(seed))
    if device_level():
        torch.default_generator.manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    manual_seed(seed)


def seed() -> None:
    """Seeds from the operating system's entropy."""
    manual_seed(torch.Generator().seed())


def seed_all() -> None:
    seed()


def initial_seed() -> int:
    return generator.default.seed


def get_rng_state(device: Any = "npu") -> torch.Tensor:
    """Sixteen bytes: the seed and the offset."""
    return torch.frombuffer(bytearray(generator.default.state()), dtype=torch.uint8).clone()


def set_rng_state(new_state: torch.Tensor, device: Any = "npu") -> None:
    generator.default.set_state(new_state.cpu().numpy().tobytes())


def get_rng_state_all() -> list[torch.Tensor]:
    return [get_rng_state()]


def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    for state in new_states:
        set_rng_state(state)
