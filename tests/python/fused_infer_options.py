"""What goes beside the tensors of a random inference call: pages, scales of stored numbers, masks, bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from family_draw import DTYPES
from statement_cache import layouts


@dataclass
class Draw:
    """One call as it is drawn: its sizes, the keyword arguments so far and what its line says of them."""

    rng: np.random.Generator
    which: str
    letters: str
    dtype: str
    heads: int
    kv_heads: int
    depth: int
    value_depth: int
    count: int
    rows: int = 1
    keys: int = 1
    q_lens: list[int] = field(default_factory=list)
    kv_lens: list[int] = field(default_factory=list)
    packed: bool = False
    paged: bool = False
    quantised: str = ""
    prefix: int = 0
    padding: int | None = None
    call: dict = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def layout(self) -> str:
        return layouts(self.letters)[0]

    @property
    def seen_keys(self) -> list[int]:
        return [self.prefix + n for n in self.kv_lens]

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def normal(self, shape, dtype=None) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32).astype(DTYPES[dtype or self.dtype])

    def stored(self, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers as the cache holds them; int4 lies eight to an int32 along the last axis."""
        if self.quantised == "int8":
            return self.rng.integers(-128, 128, shape).astype(np.int8)
        if self.quantised == "int4":
            packed = (*shape[:-1], shape[-1] // 8)
            return self.rng.integers(-(2**31), 2**31, packed).astype(np.int32)
        return self.normal(shape)

    def say(self, text: str) -> None:
        self.said.append(text)

    def shape(self, heads: int, length: int, width: int, lens: list[int]) -> tuple[int, ...]:
        if self.layout == "TND":
            return (sum(lens), heads, width)
        if self.layout == "NTD":
            return (heads, sum(lens), width)
        return {
            "BSH": (self.count, length, heads * width),
            "BSND": (self.count, length, heads, width),
            "BNSD": (self.count, heads, length, width),
        }[self.layout]


def tables(d: Draw, widths: dict[str, int]) -> None:
    """Pools of pages in either layout, and tables with −1 or nonsense behind a sequence's last page."""
    size = int(d.pick([1, 3, 16, 32, 128]))
    needed = [-(-n // size) for n in d.kv_lens]
    pages = sum(needed) + int(d.pick([0, 1, 4]))
    order = d.rng.permutation(max(pages, 1))
    width = max(1, *needed) + int(d.pick([0, 0, 1, 3]))
    table = np.full((d.count, width), -1, np.int32)
    if d.chance(0.3):
        table[:] = d.rng.integers(-(2**31), 2**31, table.shape)
    for b, n in enumerate(needed):
        first = sum(needed[:b])
        table[b, :n] = order[first : first + n]
    if d.chance(0.2) and d.count > 1:  # two sequences may share their first page
        table[1, : min(needed[:2])] = table[0, : min(needed[:2])]
    flat = d.layout in ("BSH", "BSND") or d.chance(0.5)
    for name, width in widths.items():
        shape = (size, d.kv_heads * width) if flat else (d.kv_heads, size, width)
        d.call[name] = d.stored((len(order), *shape))
    d.call |= {"block_table": table, "block_size": size}
    if not d.quantised:
        hide_unreached(d, table, size)
    d.say(f"pages of {size} {'flat' if flat else 'by head'}")


def hide_unreached(d: Draw, table: np.ndarray, size: int) -> None:
    """NaN in every row of a page that no sequence reaches: nothing of it may be seen."""
    reached = np.zeros((len(d.call["key"]), size), bool)
    for b, n in enumerate(d.kv_lens):
        tokens = np.arange(n)
        reached[table[b, tokens // size], tokens % size] = True
    for name in ("key", "value"):
        pool = d.call[name]
        (pool if pool.ndim == 3 else pool.swapaxes(1, 2))[~reached] = np.nan


def quantised(d: Draw) -> None:
    """Scales, and offsets of some, in every documented form; small enough that scores stay moderate."""
    factor = 0.01 if d.quantised == "int8" else 0.15
    stacked = d.which == "incre" or (d.which == "v1" and d.value_depth == d.depth and d.chance(0.3))
    modes = [0, 0, 1] if stacked else [0, 0, 1, 2, 3, 4, 5]
    if d.packed:
        modes = [0, 2] if not stacked else [0]
    elif d.which == "incre":
        modes = [0]
    plain = d.pick([0, 0, 2]) if not stacked else 0
    if "key_shared_prefix" in d.call:  # whose keys have no scale of their own
        modes = [plain]
    modes = [m for m in modes if m < 4 or d.paged]
    mode = int(d.pick(modes))
    second = 1 if mode == 0 and not stacked and 1 in modes and d.chance(0.15) else mode
    asymmetric = d.chance(0.4)

    def one(mode: int, width: int, form: int) -> tuple[np.ndarray, np.ndarray | None]:
        shape = scale_shape(d, mode, width, form)
        dtype = np.float32 if mode in (1, 3, 4, 5) else DTYPES[d.dtype]
        scale = (d.rng.uniform(0.3, 1.5, shape) * factor).astype(dtype)
        return scale, d.rng.integers(-9, 9, shape).astype(dtype) if asymmetric else None

    form = int(d.rng.integers(7))
    key, value = one(mode, d.depth, form), one(second, d.value_depth, form)
    if stacked:
        d.call["antiquant_scale"] = np.stack([key[0], value[0]])
        if asymmetric:
            d.call["antiquant_offset"] = np.stack([key[1], value[1]])
        if mode:
            d.call["antiquant_mode"] = mode
        drop_axis(d, mode)
    else:
        for name, (scale, offset), number in (("key", key, mode), ("value", value, second)):
            d.call[f"{name}_antiquant_scale"] = scale
            if offset is not None:
                d.call[f"{name}_antiquant_offset"] = offset
            d.call[f"{name}_antiquant_mode"] = number
    d.say(f"{d.quantised} mode={mode}/{second} {'stacked' if stacked else 'apart'} form={form}")


def drop_axis(d: Draw, mode: int) -> None:
    """Stacked forms are (2,), (2, Nkv, 1, D), (2, Nkv, D), (2, H), (2, B, S)."""
    for name in ("antiquant_scale", "antiquant_offset"):
        x = d.call.get(name)
        if x is None:
            continue
        if mode == 0 and x.size == 2:
            d.call[name] = x.reshape(2)
        elif x.ndim == 4 if mode == 1 else shapeless(x.shape, d):
            d.call[name] = x.reshape(2, *x.shape[2:])


def shapeless(shape: tuple[int, ...], d: Draw) -> bool:
    """Whether a channel form has a leading 1 behind the 2, which the stacked forms have not."""
    return len(shape) == 5 or (
        shape[1] == 1 and shape[2:] in ((d.kv_heads, d.depth), (d.kv_heads * d.depth,))
    )


def scale_shape(d: Draw, mode: int, width: int, form: int) -> tuple[int, ...]:
    heads = d.kv_heads
    if mode == 0:
        channels = [(heads, 1, width), (heads, width), (heads * width,)]
        return [(1,), *channels, *((1, *shape) for shape in channels)][form]
    if mode == 2:
        return (heads,)
    size = d.call.get("block_size", 0)
    if mode > 3:
        pages = d.call["key"].shape[0]
        return (pages, size) if mode == 4 else (pages, heads, size)
    tokens = d.call["block_table"].shape[1] * size if d.paged else d.keys
    if mode == 3:
        return (d.count, heads, tokens)
    return (d.count, tokens) if form % 2 else (1, d.count, tokens)


def mask(d: Draw, compressed: Callable[[int], np.ndarray]) -> None:
    """atten_mask of one mode; tokens that no document refuses."""
    rope = "query_rope" in d.call
    modes = [0, 0, 1, 2, 3, 3, 4] if d.which != "incre" else [0]
    if d.packed:
        modes = [3, 3, 4]
    tree = rope and not d.prefix and d.padding is None and "query_padding_size" not in d.call
    if tree and all(a <= b for a, b in zip(d.q_lens, d.kv_lens)):
        modes += [9, 9, 9]
    mode = int(d.pick(modes))
    d.say(f"mode={mode}")
    if d.which != "incre":
        d.call["sparse_mode"] = mode
    hidden = compressed(2048)
    if mode == 9:
        hidden = tree_mask(d)
    elif mode < 2:
        hidden = dense_mask(d)
    else:
        hidden = d.pick([hidden, hidden[None], hidden[None, None]])
    d.call["atten_mask"] = hidden if d.chance(0.6) else hidden.astype(d.pick([np.uint8, np.int8]))
    if mode in (0, 4) and d.which != "incre" and d.chance(0.6):
        tokens(d, mode)


def tokens(d: Draw, mode: int) -> None:
    """Both 0 or more, or one negative within the reach of the other and of every sequence."""
    reach = max(*d.seen_keys, *d.q_lens, 1)
    low, high = int(d.rng.integers(0, reach + 2)), int(d.rng.integers(0, reach + 2))
    d.call["pre_tokens"], d.call["next_tokens"] = low, high
    d.say(f"pre={low} next={high}")


def tree_mask(d: Draw) -> np.ndarray:
    def one(n: int) -> np.ndarray:
        hidden = d.rng.random((n, n)) < 0.4
        hidden |= np.triu(np.ones((n, n), bool), 1)
        return hidden & ~np.eye(n, dtype=bool)

    if d.packed:
        return np.concatenate([one(n).reshape(-1) for n in d.q_lens])
    return np.stack([one(d.rows) for _ in range(d.count)])


def dense_mask(d: Draw) -> np.ndarray:
    keys = max(d.seen_keys) if d.paged else d.prefix + d.keys
    if d.paged:
        keys = max(keys, d.prefix + d.call["block_table"].shape[1] * d.call["block_size"])
    more = int(d.pick([0, 0, 1, 16]))
    rows, keys = d.rows + (more if d.rows > 1 else 0), max(keys, 1) + more
    shapes = [(1, rows, keys), (d.count, 1, rows, keys), (1, 1, rows, keys), (d.count, rows, keys)]
    if "query_rope" not in d.call:
        shapes.append((d.count, keys) if d.rows == 1 else (rows, keys))
    shape = d.pick(shapes)
    d.say(f"mask={list(shape)}")
    return d.rng.random(shape) < d.pick([0.0, 0.1, 0.5, 0.95])


def position_bias(d: Draw) -> None:
    keys = d.prefix + (d.call["block_table"].shape[1] * d.call["block_size"] if d.paged else d.keys)
    more = int(d.pick([0, 0, 5]))
    rows = d.rows + (more if d.rows > 1 else 0)
    d.call["pse_shift"] = d.normal((int(d.pick([1, d.count])), d.heads, rows, keys + more))
    d.say(f"pse={list(d.call['pse_shift'].shape)}")
