"""Which keys a row sees: the mode table of training-ops 4, literally, one boolean per (head, row, key)."""

from __future__ import annotations

import numpy as np

INT_MAX = 2147483647


def shown_by_mode(mode: int, rows: int, keys: int, pre: int, post: int) -> np.ndarray:
    """[Sq, Skv]: what modes 0, 2, 3 and 4 show by themselves; the others hide nothing here."""
    i, j, corner = np.arange(rows)[:, None], np.arange(keys)[None, :], keys - rows
    if mode == 0:
        return (j >= i - pre) & (j <= i + post)
    if mode == 2:
        return j <= i
    if mode == 3:
        return j <= i + corner
    if mode == 4:
        return (j >= i + corner - pre) & (j <= i + corner + post)
    return np.ones((rows, keys), bool)


def kept(call: dict, batch: int, q_lens: list[int], kv_lens: list[int]) -> np.ndarray:
    """keep[N, Sq, Skv] of one batch entry or, TND, of one sequence. i, j count within it."""
    rows, keys, mode = q_lens[batch], kv_lens[batch], call.get("sparse_mode", 0)
    keep = np.ones((call["head_num"], rows, keys), bool)
    if call.get("atten_mask") is None:  # the mode, the tokens and the prefix then have no effect
        return keep
    i, j, corner = np.arange(rows)[:, None], np.arange(keys)[None, :], keys - rows
    pre, post = call.get("pre_tokens", INT_MAX), call.get("next_tokens", INT_MAX)
    keep &= shown_by_mode(mode, rows, keys, pre, post)
    if mode in (0, 1, 5):
        keep &= ~dense_mask(call, batch, rows, keys)
    if mode == 5:  # a prefix that is missing, of the wrong length or out of range says nothing
        if prefix_is_valid(call.get("prefix"), q_lens, kv_lens):
            keep &= (j <= i + corner) | (j < call["prefix"][batch])
    elif mode == 6:
        keep &= (j <= i + corner) | (j < call["prefix"][batch])
    elif mode == 7:
        keep &= j <= i + corner + (post if batch == with_rows(q_lens)[-1] else 0)
    elif mode == 8:
        keep &= j <= i + (corner + post if batch == with_rows(q_lens)[0] else 0)
    return keep


def dense_mask(call: dict, batch: int, rows: int, keys: int) -> np.ndarray:
    """True where atten_mask hides. TND: every sequence uses its top left corner."""
    hidden = np.asarray(call["atten_mask"]) != 0
    hidden = hidden.reshape((1,) * (4 - hidden.ndim) + hidden.shape)
    shared = hidden.shape[0] == 1 or call["input_layout"].upper() == "TND"
    return hidden[0 if shared else batch][:, :rows, :keys]


def prefix_is_valid(prefix, q_lens: list[int], kv_lens: list[int]) -> bool:
    if prefix is None or len(prefix) != len(q_lens):
        return False
    return all(max(keys - rows, 0) <= n <= keys for n, rows, keys in zip(prefix, q_lens, kv_lens))


def with_rows(q_lens: list[int]) -> list[int]:
    return [b for b, rows in enumerate(q_lens) if rows > 0]
