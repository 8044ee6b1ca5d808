"""The arguments of the cell's constructor: their types here, everything else about them in C++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fusion_attention import _check, _core, _strict


class Words(NamedTuple):
    """In the order of the document."""

    head_dim: int
    dropout_rate: float
    prev_block_num: int
    next_block_num: int
    tiling_stgy_name: str
    dp: int
    mp: int
    have_attention_mask_batch: bool
    alibi: bool


_INT, _FLOAT, _STR, _BOOL = _check.as_int, _check.as_float, _check.as_str, _check.as_bool
_CHECKS: tuple[Callable[[str, Any], Any], ...]
_CHECKS = (_INT, _FLOAT, _INT, _INT, _STR, _INT, _INT, _BOOL, _BOOL)


def checked(*given: Any) -> Words:
    """Raises TypeError for a wrong type, ValueError for a value that no tensors can make right."""
    try:
        words = Words(*(check(name, word) for check, name, word in zip(_CHECKS, Words._fields, given)))
    except RuntimeError as past_64_bits:
        raise ValueError(str(past_64_bits)) from None
    _core.FlashAttentionCell.check(words)
    return words


def sharded(words: Words, in_strategy: Any) -> Words:
    """With the dp and mp of the strategy of query, ((dp, mp, 1, 1), …), as `shard` of the cell takes it."""
    strategy = ((1, 1, 1, 1),) if in_strategy is None else in_strategy
    try:
        dp, mp, rows, channels = strategy[0]
    except (TypeError, ValueError, IndexError, KeyError):
        raise ValueError(f"in_strategy: got {in_strategy!r}, allowed is ((dp, mp, 1, 1), ...)") from None
    if (rows, channels) != (1, 1):
        raise ValueError(f"in_strategy: got {strategy[0]!r} for query, allowed is (dp, mp, 1, 1)")
    return checked(*words._replace(dp=dp, mp=mp))


def refuse_undocumented(backward: bool, arrays: tuple[Any, ...]) -> None:
    """Strict mode: the limits of the cell's document. arrays: query, key, value, attention_mask, …"""
    query, key, value, mask = arrays[:4]
    try:
        _strict.refuse_undocumented(
            "flash_attention_cell", query, key, value, query[2][1], "BNSD", backward=backward, atten_mask=mask
        )
    except RuntimeError as refusal:
        raise ValueError(str(refusal)) from None
