"""`npu_geglu` and `npu_rms_norm`: diffusers calls both on every device as soon as it finds a torch_npu."""

from __future__ import annotations

from typing import Any

import torch


def npu_geglu(
    input: torch.Tensor | None = None,
    dim: int = -1,
    approximate: int = 1,
    activate_left: bool = False,
    *,
    self: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Halves a and b of the input along `dim`; returns (a · gelu(b), gelu(b)).

    Args:
        input: the tensor, also accepted under its older name `self`.
        dim: the axis to halve; its size is even.
        approximate: 1 for the tanh form of gelu, 0 for the exact one.
        activate_left: the gelu goes to the left half instead.
    """
    x = _tensor("npu_geglu", "input", _either("npu_geglu", input, self))
    if approximate not in (0, 1):
        raise RuntimeError(f"npu_geglu: approximate: got {approximate}, allowed is 0 (erf) or 1 (tanh)")
    if not -x.dim() <= dim < x.dim():
        raise RuntimeError(f"npu_geglu: dim: got {dim}, allowed is an axis of a tensor of rank {x.dim()}")
    if x.shape[dim] % 2:
        raise RuntimeError(
            f"npu_geglu: input: got {x.shape[dim]} along axis {dim}, allowed is an even number"
        )
    left, right = x.chunk(2, dim)
    if activate_left:
        left, right = right, left
    gelu = torch.nn.functional.gelu(right, approximate="tanh" if approximate else "none")
    return left * gelu, gelu


def npu_rms_norm(
    input: torch.Tensor | None = None,
    gamma: torch.Tensor | None = None,
    epsilon: float = 1e-6,
    *,
    self: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Root-mean-square normalisation over the last axes, those of `gamma`; returns (y, rstd).

    Args:
        input: the tensor, also accepted under its older name `self`.
        gamma: the weight; its shape is that of the input's last axes.
        epsilon: added to the mean square.

    Returns:
        y in the input's dtype, and rstd in float32 with the normalised axes kept at size 1.
    """
    x = _tensor("npu_rms_norm", "input", _either("npu_rms_norm", input, self))
    weight = _tensor("npu_rms_norm", "gamma", gamma)
    axes = weight.dim()
    if not 1 <= axes <= x.dim() or x.shape[-axes:] != weight.shape:
        raise RuntimeError(
            f"npu_rms_norm: gamma: got shape {tuple(weight.shape)}, "
            f"allowed are the last axes of {tuple(x.shape)}"
        )
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rstd = torch.rsqrt(wide.square().mean(tuple(range(-axes, 0)), keepdim=True) + epsilon)
    return (wide * rstd * weight.to(wide.dtype)).to(x.dtype), rstd


def _either(function: str, input: Any, older: Any) -> Any:
    if input is not None and older is not None:
        raise TypeError(f"{function}: input: got both input and self, allowed is one of them")
    return older if input is None else input


def _tensor(function: str, argument: str, given: Any) -> torch.Tensor:
    if not isinstance(given, torch.Tensor):
        raise TypeError(f"{function}: {argument}: got {type(given).__name__}, allowed is a torch tensor")
    return given
