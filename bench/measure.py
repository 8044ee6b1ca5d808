"""Interleaved samples of several functions, disturbed ones dropped."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, quantiles


@dataclass
class Samples:
    seconds: list[float] = field(default_factory=list)
    dropped: int = 0

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


# A neighbour that takes the core keeps it for a few milliseconds: one such switch in 100 ms costs little.
SECONDS_PER_SWITCH = 0.1


def switches() -> int:
    """Involuntary context switches of the process so far: in each a neighbour took its core."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def sample(function: Callable[[], object], into: Samples) -> None:
    before, start = switches(), time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    if switches() - before <= seconds // SECONDS_PER_SWITCH:
        into.seconds.append(seconds)
    else:
        into.dropped += 1


def interleave(
    functions: dict[str, Callable[[], object]], seconds: float, least: int = 5
) -> dict[str, Samples]:
    """Rounds over all functions in shuffled order for about `seconds`; at least `least` kept samples each."""
    samples = {name: Samples() for name in functions}
    for function in functions.values():  # warm: caches, plans, pools, pages
        function()
    order, start = list(functions), time.perf_counter()
    rounds = 0
    while True:
        random.shuffle(order)
        for name in order:
            sample(functions[name], samples[name])
        rounds += 1
        enough = all(len(s.seconds) >= least for s in samples.values())
        late = time.perf_counter() - start
        if (late > seconds and enough) or late > 6 * seconds:
            break
    for name, kept in samples.items():
        if not kept.seconds:
            raise RuntimeError(
                f"{name}: every one of {rounds} samples was disturbed; the machine is too busy to measure"
            )
    return samples
