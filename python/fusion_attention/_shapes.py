"""Shapes of the results from the shapes of the arguments, in arithmetic that also works on symbolic sizes.

C++ decides what is legal; this only says what comes out of a legal call, which tracing must know beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_RANKS = {"BSH": 3, "SBH": 3, "TND": 3, "BSND": 4, "BNSD": 4}
# The axes of batch and row; TND has no batch.
_AXES = {"BSH": (0, 1), "SBH": (1, 0), "BSND": (0, 1), "BNSD": (0, 2)}


def layout_of(letters: str, rank: int) -> str:
    layout = letters.upper()
    if layout not in _RANKS:
        raise RuntimeError(f'input_layout: got "{letters}", allowed is BSH, SBH, BSND, BNSD or TND')
    if rank != _RANKS[layout]:
        raise RuntimeError(
            f"query: got rank {rank}, allowed is rank {_RANKS[layout]} for input_layout {layout}"
        )
    return layout


def results(query: Any, key: Any, value: Any, head_num: Any, letters: str) -> tuple[list[Any], list[Any]]:
    """The shapes of attention_out and of the statistics."""
    layout = layout_of(letters, len(query))
    if layout in ("BSH", "SBH"):
        depth = query[2] // head_num
        kv_heads = key[2] // depth
        out = [query[0], query[1], head_num * (value[2] // kv_heads)]
    else:
        out = [*query[:-1], value[-1]]
    if layout == "TND":
        return out, [query[0], head_num, 8]
    batch, row = _AXES[layout]
    return out, [query[batch], head_num, query[row], 8]


def numels(
    query: Any,
    key: Any,
    head_num: Any,
    letters: str,
    q_ends: Sequence[int] | None,
    kv_ends: Sequence[int] | None,
) -> Any:
    """The number of scores: what the documents call the length of the dropout mask."""
    layout = letters.upper()
    if layout != "TND":
        batch, row = _AXES[layout]
        return query[batch] * head_num * query[row] * key[row]
    assert q_ends is not None and kv_ends is not None
    total, q_start, kv_start = 0, 0, 0
    for q_end, kv_end in zip(q_ends, kv_ends):
        total += max(q_end - q_start, 0) * max(kv_end - kv_start, 0)
        q_start, kv_start = q_end, kv_end
    return head_num * total
