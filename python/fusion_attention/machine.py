"""What this machine offers: instruction sets and why some are refused, kernels, threads, measured roofs; and
what of it each pass and dtype takes."""

from __future__ import annotations

from typing import Any

from fusion_attention import _core


def describe() -> dict[str, Any]:
    """As one dictionary.

    Returns:
        version: of the library.
        cpu: its name.
        threads: how many the next call uses.
        instruction_sets: name → why it is refused here, "" where it is used.
        kernels: name → why it cannot be used here, "" where it can.
    """
    return {
        "version": _core.__version__,
        "cpu": _core.cpu_name(),
        "threads": _core.thread_count(),
        "instruction_sets": dict(_core.instruction_sets()),
        "kernels": dict(_core.kernels_built()),
    }


def report() -> str:
    """The same for people: what `python -m fusion_attention` prints."""
    facts = describe()
    lines = [
        f"fusion_attention {facts['version']}",
        f"cpu      {facts['cpu']}",
        f"threads  {facts['threads']}",
    ]
    lines += [
        f"isa      {name:<12} {refused or 'used'}" for name, refused in facts["instruction_sets"].items()
    ]
    usable = [name for name, refused in facts["kernels"].items() if not refused]
    lines.append(f"kernels  {len(usable)} of {len(facts['kernels'])} usable")
    lines += [f"         {name:<32} {refused}".rstrip() for name, refused in facts["kernels"].items()]
    return "\n".join(lines)


def roofs() -> dict[str, str]:
    """The loops that a kernel's speed is compared with on this CPU: name → unit."""
    return dict(_core.roofs())


def measure_roof(name: str, seconds: float = 0.02) -> float:
    """Runs one of `roofs()` on this thread for about so long; its rate per second."""
    return _core.measure_roof(name, seconds)


def choices() -> list[dict[str, Any]]:
    """Which kernel serves each pass and dtype here, and with what numbers.

    Returns: one dictionary each.
        pass: "forward", "decode" (few query rows per kv head), "backward" or "integer".
        dtype: "fp32", "fp16", "bf16" or "int8".
        kernel: the row of the list of kernels that is taken.
        route: how its multiplications are made.
        rate: useful flops per second of them on operands in L1, measured on one thread.
        roof: the name of the loop of `roofs()` that bounds them, "" where there is none.
        products: multiplications of that kind per useful one.
        machine: the row of the machine table that serves D + Dv ≤ 256.
        rows, keys, round_trip, splits: its numbers: query rows of a super-block (of a kv head at most, in
            decode), keys of a packed chunk, keys between two updates of the output, the most splits that
            one head is cut into.
        passed_over: name → reason of every other kernel of that pass and dtype.

    Raises:
        RuntimeError: FUSION_ATTENTION_KERNEL names a kernel that cannot serve here.
    """
    return [{**choice, "passed_over": dict(choice["passed_over"])} for choice in _core.choices()]


def calibration() -> str:
    """Roofs, and per pass and dtype the kernel with its share of its roof: what
    `python -m fusion_attention calibrate` prints. Takes about a second."""
    rates = {name: measure_roof(name, 0.1) for name in roofs()}
    lines = [f"cpu      {_core.cpu_name()}"]
    lines += [f"roof     {name:<10} {rates[name] / 1e9:8.1f} G{unit}" for name, unit in roofs().items()]
    for choice in choices():
        share = choice["rate"] * choice["products"] / rates.get(choice["roof"], float("inf"))
        of_roof = f", {100 * share:.0f} % of {choice['roof']}" if choice["roof"] else ""
        if choice["products"] > 1:
            of_roof += f" in {choice['products']} products"
        lines += [
            "",
            f"{choice['pass']} {choice['dtype']}",
            f"  kernel   {choice['kernel']}: {choice['rate'] / 1e9:.0f} GFLOP/s{of_roof}",
            f"  route    {choice['route']}",
            f"  machine  {choice['machine']}: {choice['rows']} rows, {choice['keys']} keys, "
            f"round trip {choice['round_trip']}, splits {choice['splits']}",
            *(f"  not      {name}: {reason}" for name, reason in choice["passed_over"].items()),
        ]
    return "\n".join(lines)
