"""What the demo shows: a progress bar, a table of what was checked, pictures of masks."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from fusion_attention.picture import png

Item = TypeVar("Item")
BAR = 30
SHOW_AFTER = 2.0  # seconds: shorter work needs no bar


def progress(title: str, items: Iterable[Item], count: int) -> Iterator[Item]:
    """Yields the items; draws a bar on a terminal once the work has taken two seconds."""
    start = time.perf_counter()
    shown = False
    for done, item in enumerate(items):
        if sys.stderr.isatty() and time.perf_counter() - start > SHOW_AFTER:
            filled = BAR * done // max(count, 1)
            sys.stderr.write(f"\r  {title} [{'#' * filled}{'.' * (BAR - filled)}] {done}/{count} ")
            sys.stderr.flush()
            shown = True
        yield item
    if shown:
        sys.stderr.write("\r" + " " * (len(title) + BAR + 30) + "\r")


@dataclass
class Summary:
    """One line per thing checked; the demo fails when one of them does."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    failed: bool = False

    def check(self, what: str, measured: float, limit: float, at_least: bool = False) -> None:
        good = measured >= limit if at_least else measured <= limit
        self.failed |= not good
        sign, form = ("≥", ".8f") if at_least else ("≤", ".3g")
        self.rows.append((what, f"{measured:{form}}", f"{sign} {limit:g}", "ok" if good else "FAILED"))

    def compare(self, what: str, ours: list[float], sdpa: list[float]) -> None:
        """Medians of both, and how many times faster than torch SDPA."""
        a, b = statistics.median(ours), statistics.median(sdpa)
        self.note(f"{what}, median of {len(ours)}", f"{a:.3f} s, torch SDPA {b:.3f} s ({b / a:.2f}x)")

    def note(self, what: str, text: str) -> None:
        self.rows.append((what, text, "", ""))

    def print(self) -> None:
        header = ("checked or measured in this run", "figure", "limit", "")
        widths = [max(len(row[column]) for row in [header, *self.rows]) for column in range(4)]
        for row in [header, tuple("-" * width for width in widths), *self.rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def draw_mask(keep: torch.Tensor, path: Path, title: str) -> None:
    """A picture of which keys each row sees, by tiles as the kernels see them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    png(keep.numpy(), path, title)
