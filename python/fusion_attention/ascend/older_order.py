"""The older argument order of the fusion functions, and how its mask and tokens are read.

    (query, key, value, atten_mask, pse, scale, q_scale, head_num, layout, keep_prob, pre_tokens, next_tokens)

Tokens are exclusive bounds here: row i sees key j when j - i < next_tokens and i - j < pre_tokens, so that
next_tokens = 1 is causal. The documents' own example hides the past instead of the future: its mask is
written key by row. The result is a tensor.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

FARTHEST = 2147483647
_ROW_AXIS = {"BSH": 1, "SBH": 0, "BSND": 1, "BNSD": 2}
_told = False


def npu_fusion_attention(*args: Any, **kwargs: Any) -> Any:
    """The older order when argument 4 is a tensor or None, else `npu_fusion_attention_v2`, literally."""
    if len(args) >= 4 and (args[3] is None or isinstance(args[3], torch.Tensor)):
        return older_order(*args, **kwargs)
    from fusion_attention.torch import npu_fusion_attention_v2

    return npu_fusion_attention_v2(*args, **kwargs)


def older_order(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    atten_mask: torch.Tensor | None = None,
    pse: torch.Tensor | None = None,
    scale: float = 1.0,
    q_scale: float = 1.0,
    head_num: int = 1,
    layout: str = "BNSD",
    keep_prob: float = 1.0,
    pre_tokens: int = FARTHEST,
    next_tokens: int = 1,
) -> torch.Tensor:
    """Attention with exclusive tokens; `pse` is added after the scale, `q_scale` multiplies the query."""
    from fusion_attention.torch import npu_fusion_attention_v2

    if atten_mask is not None:
        atten_mask = oriented(atten_mask, rows_keys(query, key, layout), pre_tokens, next_tokens)
    return npu_fusion_attention_v2(
        query,
        key,
        value,
        head_num,
        layout,
        pse=pse,
        pse_type=1 if pse is None else 0,
        atten_mask=atten_mask,
        scale=scale * q_scale,  # the product is applied in fp32 on the scores: no rounding of the query
        keep_prob=keep_prob,
        pre_tokens=pre_tokens - 1,
        next_tokens=next_tokens - 1,
    )[0]


def oriented(mask: torch.Tensor, shape: tuple[int, int], pre_tokens: int, next_tokens: int) -> torch.Tensor:
    """The mask as [.., row, key]: transposed when only its transpose keeps nothing outside the tokens' band.

    Where neither reading fits, the literal one is kept and the band cuts it.
    """
    rows, keys = shape
    if mask.dtype not in (torch.bool, torch.uint8):
        mask = mask != 0
    if mask.dim() < 2 or tuple(mask.shape[-2:]) != (rows, keys):
        return mask  # of a shape that the function itself judges
    distance = torch.arange(keys)[None, :] - torch.arange(rows)[:, None]
    outside = (distance >= next_tokens) | (-distance >= pre_tokens)
    if _fits(mask, outside):
        return mask
    if rows == keys and _fits(mask.transpose(-1, -2), outside):
        _tell_once()
        return mask.transpose(-1, -2)
    return mask


def rows_keys(query: torch.Tensor, key: torch.Tensor, layout: str) -> tuple[int, int]:
    """(Sq, Skv) of a dense layout; the function itself refuses what does not fit."""
    axis = _ROW_AXIS.get(str(layout).upper(), 0)
    return (query.shape[axis], key.shape[axis]) if query.dim() > axis and key.dim() > axis else (-1, -1)


def _fits(mask: torch.Tensor, outside: torch.Tensor) -> bool:
    return not bool(((mask == 0) & outside).any())


def _tell_once() -> None:
    global _told
    if not _told:
        _told = True
        warnings.warn(
            "atten_mask: read with rows and columns exchanged: "
            "only so does it agree with pre_tokens and next_tokens",
            stacklevel=6,  # the caller of the callable module
        )
