"""Refusals in the words of the caller: one operator serves documents that name its arguments differently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fusion_attention import _check

_MASKS = (torch.bool, torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32)


@contextmanager
def spelled(**names: str) -> Iterator[None]:
    """Renames the argument that a refusal begins with: `spelled(pse="alibi_mask")`."""
    try:
        yield
    except (RuntimeError, TypeError) as refusal:
        name, colon, sentence = str(refusal).partition(":")
        if not colon or name not in names:
            raise
        raise type(refusal)(f"{names[name]}:{sentence}") from None


def hiding(name: str, mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask of any documented type as one that the operator takes: non-zero hides."""
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor):
        _check.refuse_type(name, mask, "a torch tensor")
    if mask.dtype not in _MASKS:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _MASKS)
        raise RuntimeError(f"{name}: got {mask.dtype}, allowed is {allowed}")
    return mask != 0 if mask.dtype.is_floating_point else mask
