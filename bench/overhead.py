"""Call overhead: `python -m bench.overhead [--json] [--built]`; --built leaves C++ out where it is not built.

Through torch: one call at S = 16 against an operator with the same three results that is registered the same
way (define, implementation, autograd) and does nothing; each timed in runs of 2,000 calls, interleaved, the
best run of each kept, one thread. What remains is all of ours: the Python function, checks, plan, arithmetic.
Inside the library, in C++: overhead.cc.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import fusion_attention
import fusion_attention.torch as front
import torch

from .environments import Absent, overhead_program
from .report import overhead

CALLS, RUNS = 2000, 15
LIBRARY = torch.library.Library("overhead", "DEF")  # the operator lives as long as this


def empty_operator() -> Callable[..., object]:
    def implementation(*operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(map(torch.empty_like, operands))

    def nothing(*_: object, **__: object) -> None:
        return None

    LIBRARY.define("empty(Tensor query, Tensor key, Tensor value) -> (Tensor, Tensor, Tensor)")
    LIBRARY.impl("empty", implementation, "CompositeExplicitAutograd")
    torch.library.register_autograd("overhead::empty", nothing, setup_context=nothing, lib=LIBRARY)
    return torch.ops.overhead.empty.default


def microseconds(call: Callable[..., object], *operands: object, **options: object) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call(*operands, **options)
    return 1e6 * (time.perf_counter() - start) / CALLS


def measure(empty: Callable[..., object], dtype: torch.dtype, training: bool) -> tuple[float, float]:
    """The best run of the empty operator and of ours."""
    operands = [torch.randn(1, 16, 1, 64).to(dtype).requires_grad_(training) for _ in range(3)]
    pairs = [
        (
            microseconds(empty, *operands),
            microseconds(front.npu_fusion_attention, *operands, 1, "BSND", scale=0.125),
        )
        for _ in range(RUNS)
    ]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def through_torch() -> list[dict[str, Any]]:
    fusion_attention.set_thread_count(1)
    torch.set_num_threads(1)
    empty = empty_operator()
    measured = []
    for dtype in (torch.float32, torch.bfloat16):
        for training in (False, True):
            nothing, ours = measure(empty, dtype, training)
            case = f"torch {str(dtype).removeprefix('torch.')} {'training' if training else 'inference'}"
            measured.append({"case": case, "empty_us": nothing, "us": ours})
    return measured


def inside(build: bool) -> list[dict[str, Any]]:
    """Rows of the C++ program, or one that says why there are none."""
    try:
        program = overhead_program(build)
    except Absent as reason:
        return [{"case": "C++", "absent": str(reason)}]
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    return [{**row, "case": f"C++ {row['case']}"} for row in json.loads(done.stdout)]


def main() -> None:
    words = sys.argv[1:]
    rows = [*through_torch(), *inside(build="--built" not in words)]
    print(json.dumps(rows) if "--json" in words else "\n".join(map(overhead, rows)))


if __name__ == "__main__":
    main()
