"""One table, one JSON, one roofline picture per run."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from .peers import PEERS

NAME = 58
DISTURBED = "~"  # marks a figure whose every slice was disturbed


def mark(told: dict[str, Any]) -> str:
    return DISTURBED if told["disturbed"] else ""


def best(cell: dict[str, Any]) -> tuple[str, float] | None:
    """The fastest peer of a cell and how many times its time ours goes into."""
    ratios = {name: told["ratio"] for name, told in cell["peers"].items() if "ratio" in told}
    return min(ratios.items(), key=lambda one: one[1]) if ratios else None


def table(cells: list[dict[str, Any]], peers: list[str]) -> str:
    """ours: ms, spread, rate, percent of the roof and of the goal; per peer how many times ours."""
    head = f"{'case':{NAME}} thr {'ms':>9} {'±%':>3} {'rate':>10} {'% roof':>6} {'goal':>4} {'MiB':>6}"
    lines = [head + "".join(f" {name:>11}" for name in peers)]
    for cell in cells:
        if "ours" not in cell:
            lines.append(
                f"{cell['name']:{NAME}} {cell['threads']:3} {cell.get('wrong') or cell.get('ours_cannot')}"
            )
            continue
        one, reads = cell["ours"], cell["roof"]["name"] == "read"
        rate = (cell["bytes"] if reads else cell["flops"]) / one["ms"] / 1e6
        unit = "GB/s" if reads else "GF/s"
        goal = str(cell["roof"]["goal"] or "")
        peaks = [x["peak_bytes"] for x in one["processes"] if x.get("peak_bytes") is not None]
        memory = f"{max(peaks) / 2**20:.1f}" if peaks else "?"
        line = (
            f"{cell['name']:{NAME}} {cell['threads']:3} {mark(one) + format(one['ms'], '.3f'):>9} "
            f"{100 * one['spread']:3.0f} "
            f"{rate:5.0f} {unit} {100 * one['of_roof']:6.1f} {goal:>4} {memory:>6}"
        )
        for name in peers:
            told = cell["peers"].get(name, {})
            ratio = f"{mark(told)}{told['ratio']:.2f}×" if "ratio" in told else "−"
            line += f" {ratio:>11}"
        lines.append(line)
    return "\n".join(lines)


def goals(cells: list[dict[str, Any]]) -> list[str]:
    """Of each cell that has a goal on this machine: reached, or short by how much of which roof."""
    rows = []
    for cell in cells:
        goal = cell["roof"]["goal"] if "ours" in cell else cell["goal"]
        if not goal:
            continue
        if "ours" not in cell:
            rows.append((False, f"  not measured: {cell['key']}"))
            continue
        share = 100 * cell["ours"]["of_roof"]
        verdict = "reached" if share >= goal else f"short by {goal - share:.1f}"
        of = f"{mark(cell['ours'])}{share:.1f} % of {cell['roof']['name']}, goal {goal}"
        rows.append((share >= goal, f"  {verdict:13} {of:30} {cell['key']}"))
    if not rows:
        return []
    return [f"goals: {sum(good for good, _ in rows)} of {len(rows)} reached", *(line for _, line in rows)]


def summary(results: dict[str, Any]) -> str:
    """Goals, geometric mean, worst cell, cells below 1.0×, errors beside torch's, what peers could not do."""
    cells = results["cells"]
    lines = goals(cells)
    won = [(cell, *found) for cell in cells if "ours" in cell and (found := best(cell))]
    if won:
        mean = math.exp(sum(math.log(ratio) for _, _, ratio in won) / len(won))
        cell, name, ratio = min(won, key=lambda one: one[2])
        lines.append(f"best peer of each of {len(won)} cells: geometric mean {mean:.2f}×")
        lines.append(f"worst cell: {ratio:.2f}× of {name} in {cell['key']}")
        below = sorted((one for one in won if one[2] < 1), key=lambda one: one[2])
        lines.append(f"cells below 1.0×: {len(below)}")
        lines += [
            f"  {mark(cell['peers'][name])}{ratio:.2f}× of {name:12} {cell['key']}"
            for cell, name, ratio in below
        ]
    lines += _errors(cells)
    wrong = [cell for cell in cells if "wrong" in cell]
    lines.append(f"wrong answers of ours: {len(wrong)}")
    lines += [f"  {cell['key']}: {cell['wrong']}" for cell in wrong]
    notes = {f"{cell['id']} {cell['model']}: {cell['note']}": None for cell in cells if cell["note"]}
    lines += ["not as in the matrix of models:"] * bool(notes) + [f"  {note}" for note in notes]
    for name, fate in results["peers"].items():
        lines.append(f"{name} ({PEERS[name].says}): {fate}")
        reasons = defaultdict(list)
        for cell in cells:
            if "reason" in cell["peers"].get(name, {}):
                reasons[cell["peers"][name]["reason"]].append(cell["id"])
        lines += [f"  {reason}: {_counted(ids)}" for reason, ids in reasons.items()]
    return "\n".join(lines)


def overhead(row: dict[str, Any]) -> str:
    """A line of `bench.overhead`."""
    if "absent" in row:
        return f"overhead {row['case']}: {row['absent']}"
    over = f", {row['us'] - row['empty_us']:.1f} over an empty operator" if "empty_us" in row else ""
    return f"overhead {row['case']}: {row['us']:.2f} µs{over}"


def _errors(cells: list[dict[str, Any]]) -> list[str]:
    """The largest relative error of ours over torch's on the same numbers."""
    ratios = []
    for cell in cells:
        theirs = cell["peers"].get("torch", {}).get("relative_error")
        if theirs and "ours" in cell:
            own = max(one["relative_error"] for one in cell["ours"]["processes"])
            ratios.append((own / theirs, own, cell["key"]))
    if not ratios:
        return []
    worst = max(ratios)
    return [f"relative error of ours over torch's: at most {worst[0]:.2f} ({worst[1]:.1e} in {worst[2]})"]


def _counted(ids: list[str]) -> str:
    return ", ".join(f"{id}" + f" ({ids.count(id)})" * (ids.count(id) > 1) for id in sorted(set(ids)))


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    data, text = folder / "bench.json", folder / "bench.txt"
    data.write_text(json.dumps(results, indent=1) + "\n")
    text.write_text(results["text"] + "\n")
    return [data, text]
