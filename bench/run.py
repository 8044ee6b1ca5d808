"""A process per peer and number of threads, and their figures joined into one result per case."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .case import Case
from .environments import ROOT, Absent, Environment, environment
from .measure import MOST_SECONDS
from .peers import PEERS
from .worker import ALONE

TOO_MANY = "this machine offers {} cores"
ALONE_SHARE = 0.4  # of a peer's time, for the cases that none can express
PATIENCE = 120.0  # seconds for a case beyond its slices: some paths of some peers take minutes for one call


@dataclass(frozen=True)
class Pace:
    """seconds and kept slices per case, and the time.monotonic() at which nothing new is started."""

    seconds: float
    least: int
    limit: float


class Run:
    """`cells` by key: the case, `ours`, `roof`, and per peer its figures or the reason why it has none."""

    def __init__(self, cases: list[Case]):
        self.cases = cases
        self.cells: dict[str, dict[str, Any]] = {x.key: {**x.describe(), "peers": {}} for x in cases}
        self.fates: dict[str, str] = {}
        self.facts: dict[str, str] = {}
        self._ours: dict[str, list[dict[str, Any]]] = {}

    def measure(self, peers: Iterable[str], pace: Pace) -> None:
        """Each peer gets an equal share of what is left of the time; at the end, what ran beside no peer."""
        present: dict[str, Environment] = {}
        for name in peers:
            try:
                present[name] = environment(PEERS[name])
            except Absent as reason:
                self.fates[name] = f"absent: {reason}"
                print(f"{name}: absent, {reason}", flush=True)
        for place, (name, where) in enumerate(present.items()):
            left = max(0.0, pace.limit - time.monotonic())
            limit = time.monotonic() + left / (len(present) - place + ALONE_SHARE)
            # What the limit leaves out is the largest.
            shared = sorted((x for x in self.cases if not x.arch), key=lambda x: x.flops)
            self._peer(name, where, shared, Pace(pace.seconds, pace.least, limit))
            told = [x["peers"][name] for x in self.cells.values() if name in x["peers"]]
            self.fates[name] = f"measured in {sum('ms' in x for x in told)} of {len(told)} cells"
            print(f"{name}: {self.fates[name]}", flush=True)
        rest = [x for x in self.cases if x.key not in self._ours]
        self._peer(ALONE, Environment(), rest, pace)
        for key, samples in self._ours.items():
            calm = [x for x in samples if not x["disturbed"]]
            self.cells[key]["ours"] = {
                name: median(x[name] for x in calm or samples) for name in ("ms", "of_roof", "spread")
            } | {"disturbed": not calm, "processes": samples}

    def _peer(self, name: str, where: Environment, cases: list[Case], pace: Pace) -> None:
        for threads in sorted({x.threads for x in cases}, reverse=True):  # the few of several threads first
            todo = [x for x in cases if x.threads == threads]
            if threads > len(os.sched_getaffinity(0)):
                for case in todo:
                    self._take(name, case.key, {"reason": TOO_MANY.format(len(os.sched_getaffinity(0)))})
                continue
            while todo:  # a process that ends early is replaced, without the case that ended it
                todo = todo[self._process(name, where, threads, todo, pace) :]

    def _process(self, name: str, where: Environment, threads: int, cases: list[Case], pace: Pace) -> int:
        """Runs one; how many of the cases are settled by it, at least one."""
        with tempfile.TemporaryDirectory() as folder:
            job, out, log = (Path(folder) / x for x in ("job.json", "out.jsonl", "log"))
            words = {"peer": name, "threads": threads, "out": str(out), **asdict(pace)}
            job.write_text(json.dumps({**words, "cases": [asdict(x) for x in cases]}))
            command = [str(where.python), "-m", "bench.worker", str(job)]
            with open(log, "wb") as file:
                worker = subprocess.Popen(
                    command, cwd=ROOT, env={**os.environ, **where.variables}, stdout=file, stderr=file
                )
                late = not _ended(worker, out, PATIENCE + MOST_SECONDS * pace.seconds)
            lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        settled = 0
        for line in lines:
            if "cpu" in line:
                self.facts = line
            if "case" in line:
                self._take(name, line.pop("case"), line)
                settled += 1
        if worker.returncode == 0:
            return len(cases)
        started = any("cpu" in line for line in lines)
        how = f"ended with {worker.returncode}: {last[:200]}"
        reason = {"reason": "takes minutes" if late else f"its process {how}"}
        lost = cases[settled : settled + 1] if started else cases
        for case in lost:
            self._take(name, case.key, dict(reason))
        return settled + len(lost)

    def _take(self, name: str, key: str, line: dict[str, Any]) -> None:
        cell = self.cells[key]
        if line.pop("wrong", False):
            cell["wrong"] = line["reason"]
        if line.pop("ours_cannot", False) or name == ALONE and "reason" in line:
            cell["ours_cannot"] = line["reason"]
        if "ours" in line:
            self._ours.setdefault(key, []).append(line["ours"])
            cell["roof"] = line["roof"]
        if name == ALONE:
            return
        told = {**line.get("peer", {}), **({"reason": line["reason"]} if "reason" in line else {})}
        if "ms" in told and "ours" in line:
            told["ours_ms"] = line["ours"]["ms"]
            told["ratio"] = told["ms"] / line["ours"]["ms"]
            told["disturbed"] |= line["ours"]["disturbed"]
        cell["peers"][name] = told


def _ended(worker: subprocess.Popen[bytes], out: Path, patience: float) -> bool:
    """Waits for its end; False: it was killed, because for that many seconds it wrote nothing."""
    size, since = -1, time.monotonic()
    while True:
        try:
            worker.wait(0.2)
            return True
        except subprocess.TimeoutExpired:
            pass
        now = out.stat().st_size if out.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            worker.kill()
            worker.wait()
            return False
