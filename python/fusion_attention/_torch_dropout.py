"""Seeds and bits of dropout on torch: the operator that draws them, and the mask generators of torch_npu."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusion_attention import _check, _core, generator

_library: Any = torch.library.Library("fusion_attention", "FRAGMENT")  # type: ignore[no-untyped-call]
# For compiled graphs: drawn at each run, and the same pair for forward and backward. Compilers run a random
# operator once; that it says it writes its argument keeps two of them from being merged into one.
_library.define(
    "draw(Tensor(a!) order) -> (Tensor seed, Tensor offset)",
    tags=(torch.Tag.nondeterministic_seeded, torch.Tag.pt2_compliant_tag),
)


def tensor_of(number: int) -> Tensor:
    return torch.tensor([number], dtype=torch.int64)


def seed_tensor(name: str, value: int | Tensor | None) -> Tensor:
    """A seed or an offset that a gradient was given."""
    if value is None:
        raise RuntimeError(f"{name}: got None, allowed is what the forward returned")
    return value if isinstance(value, Tensor) else tensor_of(_check.as_int(name, value))


def _draw_kernel(order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    seed, offset = generator.draw()
    return tensor_of(seed), tensor_of(offset)


def _draw_fake(order: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(order), torch.empty_like(order)


_library.impl("draw", _draw_kernel, "CompositeExplicitAutograd")
torch.library.register_fake("fusion_attention::draw", _draw_fake, lib=_library)

_ORDER = torch.zeros(1, dtype=torch.int64)


def draw_tensors() -> tuple[Tensor, Tensor]:
    """The seed and the offset of one call."""
    if torch.compiler.is_compiling():
        pair: tuple[Tensor, Tensor] = torch.ops.fusion_attention.draw.default(_ORDER)
        return pair
    return _draw_kernel()


# A graph has no place for numbers that change from run to run: version 3 returns tensors for its sake.
draw_numbers: Callable[[], tuple[int, int]] = torch.compiler.disable(  # type: ignore[no-untyped-call]
    generator.draw, reason="seed and offset are Python numbers here; version 3 returns them as tensors"
)


def number_of(name: str, value: int | Tensor | None) -> int:
    """The number in a tensor of one integer; 0 where there is none."""
    if value is None or isinstance(value, int):
        return value or 0
    if value.numel() != 1 or value.dtype.is_floating_point or value.dtype is torch.bool or not value.is_cpu:
        given = f"a {value.dtype} tensor of shape {list(value.shape)} on {value.device}"
        raise RuntimeError(f"{name}: got {given}, allowed is an integer tensor of one element on the cpu")
    return int(value.item())


def _mask(size: Any, p: Any, seed: int, offset: int) -> Tensor:
    sizes = _check.as_ints("size", size)
    if any(length < 0 for length in sizes):
        raise RuntimeError(f"size: got {sizes}, allowed are lengths of 0 or more")
    numbers = _check.as_int("size", math.prod(sizes))
    p = _check.as_float("p", p)
    if not 0 <= p <= 1:
        raise RuntimeError(f"p: got {p}, allowed is 0 to 1")
    bits = torch.empty(_core.dropout_mask_bytes(numbers), dtype=torch.uint8)
    _core.dropout_mask(bits.data_ptr(), numbers, p, seed, offset)
    return bits


def _npu_dropout_gen_mask(
    input: Tensor,
    size: Any,
    p: float,
    seed: int,
    offset: int,
    *,
    parallel: bool | None = True,
    sync: bool | None = None,
) -> Tensor:
    """The dropout bits of npu_fusion_attention with that seed and offset, packed.

    Args:
        input: without effect: it only says where the mask is wanted.
        size (list of int): of the scores, [B, N, Sq, Skv] say; only their number counts.
        p (float): the dropout probability, 1 − keep_prob, in [0, 1]. 0 keeps all, 1 nothing.
        seed, offset (int): as npu_fusion_attention returned them.
        parallel, sync (bool): without effect.

    Returns:
        uint8 [ceil(scores / 128) · 16]: bit e % 8 of byte e // 8 is 1 where score e is kept.

    Raises:
        TypeError: an argument of the wrong Python type.
        RuntimeError: a size or a probability that is not allowed. [training-ops 1.7, 6.3]
    """
    if not isinstance(input, Tensor):
        _check.refuse_type("input", input, "a torch tensor")
    return _mask(size, p, _check.as_int("seed", seed), _check.as_int("offset", offset))


def npu_dropout_gen_mask(
    size: Any,
    p: float,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: Any = None,
    pin_memory: bool | None = None,
) -> Tensor:
    """`_npu_dropout_gen_mask` with the next seed and offset of `fusion_attention.generator`.

    Args:
        size (list of int): of the scores; only their number counts.
        p (float): the dropout probability, in [0, 1].
        dtype, layout, device, pin_memory: without effect: the mask is uint8, dense and on the CPU.

    Returns:
        uint8 [ceil(scores / 128) · 16].

    Raises:
        TypeError: an argument of the wrong Python type.
        RuntimeError: a size or a probability that is not allowed. [training-ops 1.7]
    """
    return _mask(size, p, *generator.draw())
