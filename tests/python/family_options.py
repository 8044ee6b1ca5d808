"""The options of a random call: mask and tokens, bias, dropout, sink, rope, numbers at hidden places."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from family_draw import Draw
from statement_bias import LAST_ROWS, is_slope, places
from statement_layout import join, split
from statement_mask import kept


@lru_cache(2)
def compressed_mask(rows: int) -> np.ndarray:
    """[2048, 2048]: ones above the diagonal; with 3072 rows the right half of the last 1024 is ones too."""
    hidden = np.triu(np.ones((rows, 2048), bool), 1)
    hidden[2048:, 1024:] = True
    return hidden


def mask(d: Draw) -> None:
    """atten_mask with the tokens or the prefix that its mode takes."""
    d.say(f"mode={d.mode}")
    if d.mode in (0, 1, 5):
        dense_mask(d)
    else:
        hidden = compressed_mask(3072 if d.mode == 6 else 2048)
        d.call["atten_mask"] = hidden if d.mode == 6 or d.chance(0.8) else hidden[None, None]
    if d.mode in (5, 6):
        prefix(d)
    if d.mode in (0, 4) and d.chance(0.7):
        low, high = tokens(d)
        d.call["pre_tokens"], d.call["next_tokens"] = low, high
        d.say(f"pre={low} next={high}")
    if d.mode in (7, 8):
        shift(d)


def dense_mask(d: Draw) -> None:
    rows, keys, batches = max(d.q_lens), max(d.kv_lens), len(d.q_lens)
    first = [(), (1, 1), (batches, 1), (batches, d.heads), (1, d.heads)]
    if d.packed:
        first = [()]
    elif d.mode == 5:  # documented: of each batch entry
        first = [(batches, 1), (batches, d.heads)]
    shape = (*d.pick(first), rows, keys)
    hidden = d.rng.random(shape) < d.pick([0.0, 0.1, 0.5, 0.95])
    if d.chance(0.3):
        hidden[..., int(d.rng.integers(rows)), :] = True  # a row that sees nothing
    d.call["atten_mask"] = (
        hidden if d.chance(0.6) else hidden.astype(np.uint8) * np.uint8(d.pick([1, 7, 255]))
    )
    if d.chance(0.1):
        d.call["atten_mask"] = -hidden.astype(np.int8)
    d.say(f"mask={d.call['atten_mask'].dtype}{list(shape)}")


def prefix(d: Draw) -> None:
    """One number per entry, within max(Skv − Sq, 0) … Skv; mode 5 also without, or with one out of range."""
    ranges = [(max(keys - rows, 0), keys) for rows, keys in zip(d.q_lens, d.kv_lens)] + [(0, 0)] * d.absent
    numbers = [int(d.rng.integers(low, high + 1)) for low, high in ranges]
    if d.mode == 5 and d.chance(0.25):
        numbers[-1] = d.kv_lens[-1] + 1
    if d.mode == 6 or d.chance(0.8):
        d.call["prefix"] = numbers
        d.say(f"prefix={numbers}")


def tokens(d: Draw) -> tuple[int, int]:
    """Tokens that the documents allow: one of them may be negative, within the other's reach."""
    rows, keys = min(d.q_lens), min(d.kv_lens)
    reach = max(rows, keys)
    low, high = int(d.rng.integers(0, reach + 2)), int(d.rng.integers(0, reach + 2))
    pairs = list(zip(d.q_lens, d.kv_lens))
    if d.packed and d.mode == 0:
        return max(low, *(a - b for a, b in pairs), 0), high
    if d.packed:  # mode 4: Sq − next ≤ Skv, pre + next ≥ 0
        most = min(b - a for a, b in pairs)
        back = int(d.rng.integers(0, min(most, low) + 1)) if most > 0 else 0
        return (low, -back) if back and d.chance(0.5) else (low, high)
    if d.chance(0.3) and rows == keys and rows > 1:
        back = int(d.rng.integers(1, rows))
        return (back + low, -back) if d.chance(0.5) else (-back, back + high)
    if d.mode == 4:  # converted to the top-left corner both must be legal
        return max(low, keys - rows, 0), max(high, rows - keys, 0)
    return low, high


def shift(d: Draw) -> None:
    """next_tokens of modes 7 (0 or less) and 8; pre_tokens covers the keys of the sequence that is cut."""
    with_rows = [b for b, rows in enumerate(d.q_lens) if rows > 0]
    cut = with_rows[-1 if d.mode == 7 else 0]
    spare = d.kv_lens[cut] - d.q_lens[cut]
    low, high = min(-spare, 0), 0 if d.mode == 7 else max(-spare, d.q_lens[cut]) + 1
    if d.chance(0.2):  # rows that see nothing
        low -= d.q_lens[cut]
    d.call["next_tokens"] = int(d.rng.integers(low, high + 1))
    if d.chance(0.5):
        d.call["pre_tokens"] = int(d.kv_lens[cut] + d.rng.integers(0, 9))
    d.say(f"pre={d.call.get('pre_tokens')} next={d.call['next_tokens']}")


def bias(d: Draw, masked: bool) -> None:
    """pse of types 0 to 3 in every shape that sizes and mask allow; version 2 alone names the type."""
    compressible = masked and is_causal(d) and d.q_lens == d.kv_lens and max(d.q_lens) > LAST_ROWS
    if not d.chance(0.8 if compressible else 0.45) or (masked and d.mode == 7):
        return
    if d.packed and 0 in (*d.q_lens, *d.kv_lens):  # documented: no empty sequence with pse
        return
    if d.version != "v2":
        kinds = [1]
    elif masked and d.mode == 8:
        kinds = [2, 3]
    else:
        kinds = [0, 1] if compressible and d.chance(0.7) else [0, 1, 2, 3]
    kind = int(d.pick(kinds))
    if kind > 1 and (d.packed or d.q_lens == d.kv_lens):
        slopes(d, kind)
    elif kind < 2 and not (masked and d.mode == 8):
        numbers(d, kind, compressible)


def is_causal(d: Draw) -> bool:
    """Documented for a compressed bias: mode 2, 3, or 0 with pre ≥ Sq and next = 0."""
    if d.mode == 0:
        pre, post = d.call.get("pre_tokens", 0), d.call.get("next_tokens", 1)
        return post == 0 and pre >= max(d.q_lens)
    return d.mode in (2, 3)


def slopes(d: Draw, kind: int) -> None:
    sizes = [(d.heads,), (len(d.q_lens) + d.absent, d.heads)]
    shape = d.pick(sizes)
    d.call["pse_type"] = kind
    d.call["pse"] = (d.normal(shape, "float32") * d.pick([0.05, 0.5, 2])).astype(np.float32)
    d.say(f"pse_type={kind} slopes={list(shape)}")
    if d.chance(0.5):
        d.call["q_start_idx"], d.call["kv_start_idx"] = ([int(d.rng.integers(-40, 300))] for _ in range(2))
        d.say(f"start={d.call['q_start_idx'][0]}/{d.call['kv_start_idx'][0]}")


def numbers(d: Draw, kind: int, compressible: bool) -> None:
    shape = bias_shape(d, compressible)
    pse = d.normal(shape).astype(np.float32) * d.pick([0.1, 1, 5])
    if d.call["scale"] > 0 and d.chance(0.15):  # a bias that hides: −∞, rows of nothing else included
        pse = np.where(d.rng.random(shape) < 0.3, -np.inf, pse)
    d.call["pse"] = pse.astype(d.call["query"].dtype)
    if kind != 1 or (d.version == "v2" and d.chance(0.3)):
        d.call["pse_type"] = kind
    d.say(f"pse_type={kind} pse={list(shape)}")


def bias_shape(d: Draw, compressible: bool) -> tuple[int, ...]:
    batches, rows, keys = len(d.q_lens), max(d.q_lens), max(d.kv_lens)
    if compressible and d.chance(0.8):
        entries = [1] if d.absent else [1, batches]
        return (int(d.pick(entries)), d.heads, LAST_ROWS, keys)
    if d.packed:
        pairs = sum(a * b for a, b in zip(d.q_lens, d.kv_lens))
        return (d.heads * int(d.pick([pairs, pairs, sum(d.kv_lens)])),)
    return (int(d.pick([1, batches])), int(d.pick([1, d.heads])), int(d.pick([1, rows])), keys)


def dropout(d: Draw) -> None:
    """keep_prob with given seed and offset, with drawn ones, or with a mask (versions 1 and 2)."""
    if not d.chance(0.4):
        return
    keep_prob = float(d.pick([0.9, 0.9, 0.5, 0.99, 0.1, 0.625]))
    d.call["keep_prob"] = keep_prob
    d.say(f"keep_prob={keep_prob}")
    if d.version == "v3":
        return
    if d.chance(0.25):
        numels = d.heads * sum(a * b for a, b in zip(d.q_lens, d.kv_lens))
        d.call["dropout_mask"] = d.rng.integers(0, 256, -(-numels // 128) * 16, np.uint8)
        d.say("dropout_mask")
    elif d.chance(0.75):
        d.call["seed"] = (
            int(d.rng.integers(-(2**63), 2**63 - 1)) if d.chance(0.5) else int(d.rng.integers(1, 99))
        )
        d.call["offset"] = int(d.pick([0, 12, 2**32 + 4, 2**62]))
        d.say(f"seed={d.call['seed']} offset={d.call['offset']}")


def sink(d: Draw) -> None:
    if d.chance(0.25):
        d.call["sink"] = d.normal((d.heads,), "float32") * np.float32(d.pick([1, 8, 300]))
        d.say("sink")


def rope(d: Draw) -> None:
    """query_rope and key_rope of version 2, in query's layout with a D of their own."""
    if d.version != "v2" or not d.chance(0.6 if d.packed and d.dtype == "bfloat16" else 0.1):
        return
    depth = int(d.pick([1, 8, 17, 64]))
    d.call["query_rope"] = d.normal(d.shape(d.heads, d.q_lens, depth))
    d.call["key_rope"] = d.normal(d.shape(d.kv_heads, d.kv_lens, depth))
    d.say(f"rope={depth}")


def hidden_numbers(d: Draw) -> None:
    """NaN and ∞ where no pair is visible, and NaN in one row or key that some may see.

    Hidden are a key that no row of its kv head sees, a row that sees no key, what lies past the last
    sequence, a number of pse that no visible pair reads.
    """
    names = {"query": (d.heads, d.q_lens), "key": (d.kv_heads, d.kv_lens), "value": (d.kv_heads, d.kv_lens)}
    parts = {name: split(d.call[name].copy(), d.layout, *where) for name, where in names.items()}
    for b in range(len(d.q_lens)):
        keep = kept(d.call, b, d.q_lens, d.kv_lens)
        unseen = ~keep.reshape(d.kv_heads, d.heads // d.kv_heads, *keep.shape[1:]).any((1, 2))
        bad = d.pick([np.nan, np.inf, -np.inf])
        for name, where in (("key", unseen), ("value", unseen), ("query", ~keep.any(2))):
            parts[name][b][where] = bad
    d.say("non-finite hidden")
    name, b = d.pick(list(names)), int(d.rng.integers(len(d.q_lens)))
    if d.chance(0.5) and parts[name][b].size:
        parts[name][b][tuple(int(d.rng.integers(n)) for n in parts[name][b].shape)] = np.nan
        d.say(f"NaN in {name} of {b}")
    for name in names:
        d.call[name] = join(parts[name], d.layout, d.call[name].shape)
        if d.packed and d.tail:
            d.call[name][-d.tail :] = np.nan
    if d.call.get("pse") is not None and not is_slope(d.call):
        hide_in_bias(d)


def hide_in_bias(d: Draw) -> None:
    pse = d.call["pse"].copy()
    seen = np.zeros(pse.size, bool)
    for b in range(len(d.q_lens)):
        keep = kept(d.call, b, d.q_lens, d.kv_lens)
        seen[places(d.call, b, d.q_lens, d.kv_lens)[keep]] = True
    pse.reshape(-1)[~seen] = np.nan
    d.call["pse"] = pse
