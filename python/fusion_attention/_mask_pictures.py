"""`python -m fusion_attention._mask_pictures [--png FOLDER]` draws every sparse mode, by the library itself.

Without an option it writes docs/masks/*.txt, which docs/npu_fusion_attention.md shows; a test compares them
with what the library draws. PNG (extra `docs`) are made where they are asked for and not kept.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "masks"


@dataclass(frozen=True)
class Example:
    """One call: (Sq, Skv) of a dense one, or of each packed sequence, and its words."""

    name: str
    says: str
    lengths: tuple[tuple[int, int], ...] = ((6, 9),)
    words: dict[str, Any] = field(default_factory=dict)
    mask: str = ""  # kind of atten_mask


_PACKED = ((3, 4), (4, 4), (4, 6))
EXAMPLES = (
    Example(
        "none", "No atten_mask: every key, whatever sparse_mode and the tokens say", words={"sparse_mode": 2}
    ),
    Example(
        "mode0-mask", "Mode 0, defaultMask: what atten_mask leaves, here every third key hidden", mask="third"
    ),
    Example(
        "mode0-tokens",
        "Mode 0, pre_tokens 2, next_tokens 1: i − 2 ≤ j ≤ i + 1",
        words={"pre_tokens": 2, "next_tokens": 1},
        mask="empty",
    ),
    Example(
        "mode0-negative",
        "Mode 0, pre_tokens 4, next_tokens −2: i − 4 ≤ j ≤ i − 2; the first rows see nothing",
        words={"pre_tokens": 4, "next_tokens": -2},
        mask="empty",
    ),
    Example(
        "mode1",
        "Mode 1, allMask: atten_mask alone, the tokens without effect",
        words={"sparse_mode": 1},
        mask="third",
    ),
    Example("mode2", "Mode 2, leftUpCausal: j ≤ i", words={"sparse_mode": 2}, mask="2048"),
    Example("mode3", "Mode 3, rightDownCausal: j ≤ i + Skv − Sq", words={"sparse_mode": 3}, mask="2048"),
    Example(
        "mode3-more-rows",
        "Mode 3 with more rows than keys: the first Sq − Skv rows see nothing",
        ((9, 6),),
        {"sparse_mode": 3},
        "2048",
    ),
    Example(
        "mode4",
        "Mode 4, band, pre_tokens 2, next_tokens 1, from the bottom right: i + 3 − 2 ≤ j ≤ i + 3 + 1",
        words={"sparse_mode": 4, "pre_tokens": 2, "next_tokens": 1},
        mask="2048",
    ),
    Example(
        "mode4-negative",
        "Mode 4, pre_tokens 4, next_tokens −1: i + 3 − 4 ≤ j ≤ i + 3 − 1",
        words={"sparse_mode": 4, "pre_tokens": 4, "next_tokens": -1},
        mask="2048",
    ),
    Example(
        "mode5",
        "Mode 5, prefix 5 and atten_mask: j ≤ i + Skv − Sq or j < 5, where atten_mask does not hide",
        words={"sparse_mode": 5, "prefix": [5]},
        mask="third",
    ),
    Example(
        "mode6",
        "Mode 6, prefix 5: j ≤ i + Skv − Sq or j < 5",
        words={"sparse_mode": 6, "prefix": [5]},
        mask="3072",
    ),
    Example(
        "mode6-more-rows",
        "Mode 6, prefix 2, with more rows than keys",
        ((9, 6),),
        {"sparse_mode": 6, "prefix": [2]},
        "3072",
    ),
    Example(
        "mode7",
        "Mode 7, three packed sequences, next_tokens −1: as mode 3, but the last shifted by next_tokens",
        _PACKED,
        {"sparse_mode": 7, "next_tokens": -1},
        "2048",
    ),
    Example(
        "mode8",
        "Mode 8, three packed sequences, next_tokens 0: as mode 2, but the first from the bottom right",
        _PACKED,
        {"sparse_mode": 8, "next_tokens": 0},
        "2048",
    ),
)


def _atten_mask(kind: str, rows: int, keys: int) -> Any:
    import numpy as np

    if not kind:
        return None
    if kind == "third":
        return np.broadcast_to(np.arange(keys) % 3 == 2, (rows, keys))
    # The content of compressed masks is not read.
    shape = {"empty": (rows, keys), "2048": (2048, 2048), "3072": (3072, 2048)}[kind]
    return np.zeros(shape, bool)


def draw(example: Example, folder: Path | None = None) -> str:
    """The caption and the picture of each sequence; also as PNG in `folder`."""
    import numpy as np

    import fusion_attention

    (rows, keys), packed = example.lengths[0], len(example.lengths) > 1
    words = {**example.words, "atten_mask": _atten_mask(example.mask, rows, keys)}
    words["pse_type"] = 1  # a word of version 2 alone, as whose call this is read
    if packed:
        ends = [np.cumsum(lengths).tolist() for lengths in zip(*example.lengths)]
        rows, keys = ends[0][-1], ends[1][-1]
        words |= {"actual_seq_qlen": ends[0], "actual_seq_kvlen": ends[1]}
    query, key = (np.zeros((n, 1, 8), np.float32) for n in (rows, keys))
    if not packed:
        query, key = query[None], key[None]
    parts = [example.says]
    for index in range(len(example.lengths)):
        file = folder / f"{example.name}{f'-{index}' if packed else ''}.png" if folder else None
        parts.append(
            fusion_attention.draw_mask(
                query, key, key, 1, "TND" if packed else "BSND", sequence=index, file=file, **words
            )
        )
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str]) -> None:
    folder = Path(arguments[1]) if arguments[:1] == ["--png"] and len(arguments) == 2 else None
    if arguments and folder is None:
        raise SystemExit("usage: python -m fusion_attention._mask_pictures [--png FOLDER]")
    target = folder or FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        text = draw(example, folder)
        if folder is None:
            (target / f"{example.name}.txt").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
