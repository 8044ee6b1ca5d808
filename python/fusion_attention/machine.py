"""What this machine offers: instruction sets and why some are refused, kernels, threads, measured roofs."""

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
