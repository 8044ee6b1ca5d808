"""Interleaved slices of several functions, disturbed ones dropped; peak memory of one call."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

# A neighbour that takes the core keeps it for a few milliseconds: one such switch in 100 ms costs little.
SECONDS_PER_SWITCH = 0.1
SLICE = 2e-3  # seconds: a shorter call is repeated within a slice
MOST_SECONDS = 6  # times those asked for, until every function has enough slices
LONG = 0.2  # seconds: a call that has been made once is as warm as it will be


@dataclass
class Samples:
    """Seconds per call, one entry per slice."""

    calls: int = 1
    seconds: list[float] = field(default_factory=list)
    dropped: list[tuple[float, float]] = field(default_factory=list)  # switches per second; seconds per call
    disturbed: bool = False  # `seconds` are the least disturbed slices, for want of others

    def settle(self) -> None:
        """Call once, at the end."""
        if not self.seconds:
            self.disturbed = True
            self.seconds = [seconds for _, seconds in sorted(self.dropped)[: len(self.dropped) // 4 + 1]]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        if len(self.seconds) < 4:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4)
        return (high - low) / self.median

    def describe(self) -> dict[str, float]:
        return {
            "ms": 1e3 * self.median,
            "spread": self.spread,
            "samples": len(self.seconds),
            "dropped": len(self.dropped),
            "disturbed": self.disturbed,
        }


def switches() -> int:
    """Involuntary context switches of the process so far: in each a neighbour took its core."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def sample(function: Callable[[], object], into: Samples) -> None:
    before, own, start = switches(), time.process_time(), time.perf_counter()
    for _ in range(into.calls):
        function()
    seconds = time.perf_counter() - start
    switched = switches() - before
    if switched <= seconds // SECONDS_PER_SWITCH:
        into.seconds.append(seconds / into.calls)
    else:
        # On one core, what the neighbours took can be left out, though not what they did to the caches.
        if len(os.sched_getaffinity(0)) == 1:
            seconds = time.process_time() - own
        into.dropped.append((switched / max(seconds, 1e-9), seconds / into.calls))


def warmed(function: Callable[[], object], made: float) -> Samples:
    """Caches, plans, pools and pages are warm, a slice has a length. `made`: what a first call took, or 0."""
    if made > LONG:
        return Samples()
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    if seconds < SLICE:
        start = time.perf_counter()
        function()
        seconds = time.perf_counter() - start
    return Samples(max(1, int(SLICE / max(seconds, 1e-7))))


def interleave(
    functions: dict[str, Callable[[], object]],
    seconds: float,
    least: int,
    limit: float,
    made: dict[str, float],
) -> dict[str, Samples]:
    """Rounds over all functions in shuffled order for about `seconds`, more until each has `least` kept
    slices, but never more than MOST_SECONDS times that, nor beyond `limit` on time.monotonic()."""
    samples = {name: warmed(function, made.get(name, 0)) for name, function in functions.items()}
    order, start = list(functions), time.monotonic()
    while True:
        random.shuffle(order)
        for name in order:
            sample(functions[name], samples[name])
        enough = all(len(s.seconds) >= least for s in samples.values())
        late = time.monotonic() - start
        if (late > seconds and enough) or late > MOST_SECONDS * seconds or time.monotonic() > limit:
            break
    for kept in samples.values():
        kept.settle()
    return samples


def peak_bytes(function: Callable[[], Any]) -> tuple[Any, int | None]:
    """The function's result and what it added to the memory of this process at its peak, None where the
    kernel does not tell."""
    before = _status("VmRSS:")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    except OSError:
        return function(), None
    result = function()
    return result, max(0, _status("VmHWM:") - before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
