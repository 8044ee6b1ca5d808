"""Attention as ascend_flash_attention and the older positional order of the fusion functions mean it.

    (query, key, value, atten_mask, alibi_mask, scale_value, q_scale, head_num, io_layout, keep_prob,
     pre_tokens, next_tokens, precise_mode) -> attention_out

Tokens are exclusive bounds here: row i sees key j when j - i < next_tokens and i - j < pre_tokens, so that
next_tokens = 1 is causal. The documents' own examples hide the past instead of the future: their mask is
written key by row. `alibi_mask` is added after the scale.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from fusion_attention import _check
from fusion_attention.ascend.documented import refuse_undocumented
from fusion_attention.ascend.spelling import hiding, spelled
from fusion_attention.torch import npu_fusion_attention_v2

FARTHEST = 2147483647
_PACKAGE = str(Path(__file__).resolve().parents[1])
_ROW_AXIS = {"BSH": 1, "SBH": 0, "BSND": 1, "BNSD": 2}
_told = False


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    atten_mask: Tensor | None = None,
    alibi_mask: Tensor | None = None,
    scale_value: float = 1.0,
    q_scale: float = 1.0,
    head_num: int = 1,
    io_layout: str = "BNSD",
    keep_prob: float = 1.0,
    pre_tokens: int = FARTHEST,
    next_tokens: int = 1,
    precise_mode: int = 0,
    *,
    drop_mask: Tensor | None = None,
    document: str = "ascend_flash_attention",
) -> Tensor:
    """Attention with exclusive tokens; the arguments are those of `ascend_flash_attention`.

    document: whose limits strict mode checks.
    """
    refuse_undocumented(document, query, key, value, head_num, io_layout, atten_mask=atten_mask)
    pre_tokens = _check.as_int("pre_tokens", pre_tokens)
    next_tokens = _check.as_int("next_tokens", next_tokens)
    atten_mask = hiding("atten_mask", atten_mask)
    if atten_mask is not None:
        rows, keys = _rows_keys(query, key, _check.as_str("io_layout", io_layout))
        _check_tokens(pre_tokens, next_tokens, rows, keys)
        atten_mask = oriented(atten_mask, (rows, keys), pre_tokens, next_tokens)
    if _check.as_int("precise_mode", precise_mode) not in (0, 1):
        raise RuntimeError(f"precise_mode: got {precise_mode}, allowed is 0 or 1")
    # The product is applied in float32 on the scores: the query is not rounded.
    scale = _check.as_float("scale_value", scale_value) * _check.as_float("q_scale", q_scale)
    words = {"pse": "alibi_mask", "scale": "scale_value", "input_layout": "io_layout"}
    with spelled(**words, dropout_mask="drop_mask"):
        return npu_fusion_attention_v2(
            query,
            key,
            value,
            head_num,
            io_layout,
            pse=_per_key(alibi_mask),
            pse_type=1 if alibi_mask is None else 0,
            atten_mask=atten_mask,
            scale=scale,
            keep_prob=keep_prob,
            pre_tokens=pre_tokens - 1,
            next_tokens=next_tokens - 1,
            dropout_mask=drop_mask,
        )[0]


def oriented(mask: Tensor, shape: tuple[int, int], pre_tokens: int, next_tokens: int) -> Tensor:
    """The mask as [.., row, key]: transposed when only its transpose keeps nothing outside the tokens' band.

    Where neither reading fits, the literal one is kept and the band cuts it.
    """
    rows, keys = shape
    if mask.dim() < 2 or tuple(mask.shape[-2:]) != shape:
        return mask  # of a shape that the function itself judges
    kept = mask == 0
    if _fits(kept, pre_tokens, next_tokens):
        return mask
    if rows == keys and _fits(kept.transpose(-1, -2), pre_tokens, next_tokens):
        _tell_once()
        return mask.transpose(-1, -2)
    return mask


def _fits(kept: Tensor, pre_tokens: int, next_tokens: int) -> bool:
    """Whether nothing is kept at j - i >= next_tokens or i - j >= pre_tokens."""
    rows, keys = kept.shape[-2:]
    late = next_tokens < keys and bool(kept.triu(next_tokens).any())
    return not late and not (pre_tokens < rows and bool(kept.tril(-pre_tokens).any()))


def _check_tokens(pre_tokens: int, next_tokens: int, rows: int, keys: int) -> None:
    """Refused here because the operator would name its own inclusive bounds."""
    empty = pre_tokens + next_tokens < 2 or next_tokens < 2 - rows or pre_tokens < 2 - keys
    if rows > 0 and keys > 0 and empty:
        raise RuntimeError(
            f"next_tokens: got {next_tokens} with pre_tokens {pre_tokens}, allowed are exclusive bounds "
            f"between which some of {rows} rows sees one of {keys} keys"
        )


def _rows_keys(query: Any, key: Any, layout: str) -> tuple[int, int]:
    """(Sq, Skv) of a dense layout; the function itself refuses what does not fit."""
    axis = _ROW_AXIS.get(layout.upper(), 0)
    if not isinstance(query, Tensor) or not isinstance(key, Tensor):
        return -1, -1
    return (query.shape[axis], key.shape[axis]) if query.dim() > axis and key.dim() > axis else (-1, -1)


def _per_key(alibi_mask: Any) -> Any:
    """[B, N, Skv] is one row for all queries, [B, N, 1, Skv]; what has four axes broadcasts."""
    return alibi_mask.unsqueeze(2) if isinstance(alibi_mask, Tensor) and alibi_mask.dim() == 3 else alibi_mask


def _tell_once() -> None:
    global _told
    if not _told:
        _told = True
        warnings.warn(
            "atten_mask: read with rows and columns exchanged: "
            "only so does it agree with pre_tokens and next_tokens",
            stacklevel=_level_of_caller(),
        )


def _level_of_caller() -> int:
    """warnings' stacklevel, as seen by _tell_once, of the first frame outside the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
