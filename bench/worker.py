"""One peer, this library and the roof in one process: `python -m bench.worker job.json`.

The job: {peer, threads, cases, seconds, least, limit, out}. A line of JSON per case goes to `out`; a case is
announced before it starts, so that the parent knows which one a crash belongs to.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ALONE = "alone"  # no peer: this library and the roof
FORCED = "FUSION_ATTENTION_KERNEL"
ROOF_OF_ARCH = {"avx2": "fma_ymm"}


def confine(threads: int) -> None:
    """To as many cores as there are threads, before any library counts them."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    confine(job["threads"])

    import fusion_attention
    import torch
    from fusion_attention import machine

    from .case import Case
    from .peers import load

    torch.set_num_threads(job["threads"])
    fusion_attention.set_thread_count(job["threads"])
    fields = Case.__dataclass_fields__
    with open(job["out"], "a", buffering=1) as out, torch.no_grad():

        def say(**line: Any) -> None:
            out.write(json.dumps(line) + "\n")

        say(cpu=machine.describe()["cpu"], torch=torch.__version__)
        peer = None if job["peer"] == ALONE else load(job["peer"], job["threads"])
        for words in job["cases"]:
            given: Any = {k: tuple(v) if k == "lengths" else v for k, v in words.items() if k in fields}
            case = Case(**given)
            if time.monotonic() > job["limit"]:
                say(case=case.key, reason="not measured: the time of the run was used up")
                continue
            say(begins=case.key)
            with held_to(case.arch):
                say(case=case.key, **measured(case, peer, job["seconds"], job["least"], job["limit"]))
            gc.collect()


@contextmanager
def held_to(arch: str) -> Iterator[None]:
    """This library may use no other instruction set; "" leaves it the choice."""
    if arch:
        os.environ[FORCED] = arch
    try:
        yield
    finally:
        if arch:
            del os.environ[FORCED]


def measured(case: Any, peer: Any, seconds: float, least: int, limit: float) -> dict[str, Any]:
    """The case's figures, or the reason why there are none."""
    from fusion_attention import machine

    from .check import Wrong, check
    from .measure import interleave, peak_bytes
    from .operands import Operands
    from .ours import Missing, Ours
    from .peers import Cannot

    operands = Operands(case)
    functions: dict[str, Callable[[], Any]] = {}
    result: dict[str, Any] = {}
    if peer is not None:
        try:
            calls = [peer.call(piece) for piece in operands.pieces]
            functions["peer"] = lambda: [call() for call in calls]
            answer, result["peer"] = _first(functions["peer"], peak_bytes)
            if case.keep_prob == 1:  # its dropout bits are its own
                tensors = [peer.tensors(part) for part in answer]
                result["peer"] |= check(case, operands, shared_heads_summed(case, tensors), None)
            del answer
        except (Cannot, Wrong) as error:
            return {"reason": str(error)}
        except Exception as error:  # whatever a peer does is a line of the report
            return {"reason": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"}
    ours = Ours(operands)
    try:
        functions["ours"] = ours.call()
        answer, result["ours"] = _first(functions["ours"], peak_bytes)
        result["ours"] |= check(case, operands, ours.answer(answer), ours.kept())
        del answer
    except Missing as error:
        return {"reason": str(error), "ours_cannot": True}
    except (Wrong, RuntimeError, TypeError, ValueError) as error:
        return {"reason": f"ours: {error}", "wrong": True}
    roof, rates = roof_of(case), []
    functions["roof"] = lambda: rates.append(machine.measure_roof(roof, 0.005))
    made = {name: told["first_call_s"] for name, told in result.items()}
    samples = interleave(functions, seconds, least, limit, made)
    # The upper quartile: a disturbed roof slice would flatter everybody.
    rates.sort()
    peak = rates[3 * len(rates) // 4] * case.threads
    for name in functions.keys() - {"roof"}:
        result[name] |= samples[name].describe()
        result[name]["of_roof"] = case.amount / samples[name].median / peak
    goal = case.tile_goal if "amx" in machine.roofs() else case.goal
    return {**result, "roof": {"name": roof, "per_second": peak, "goal": goal}}


def _first(function: Callable[[], Any], peak_bytes: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    start = time.perf_counter()
    answer, peak = peak_bytes(function)
    return answer, {"peak_bytes": peak, "first_call_s": time.perf_counter() - start}


def roof_of(case: Any) -> str:
    """The loop that a perfect kernel could be as fast as: the read bandwidth, or the fastest products."""
    from fusion_attention import machine

    if case.is_decode:
        return "read"
    if case.arch:
        return ROOF_OF_ARCH[case.arch]
    candidates = ["fma", "vdpbf16ps", "amx"] if case.dtype == "bfloat16" else ["fma"]
    rates = {name: machine.measure_roof(name, 0.02) for name in machine.roofs() if name in candidates}
    return max(rates, key=lambda name: rates[name])


def shared_heads_summed(case: Any, answer: list[list[Any]]) -> list[list[Any]]:
    """dK and dV of peers that were given a copy of a kv head per query head."""
    if case.work == "forward":
        return answer
    return [
        [
            x if x.shape[1] == heads else x.double().unflatten(1, (heads, -1)).sum(2)
            for x, heads in zip(piece, (case.heads, case.kv_heads, case.kv_heads))
        ]
        for piece in answer
    ]


if __name__ == "__main__":
    main()
