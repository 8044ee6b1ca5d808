"""The benchmark's table is well formed; a tiny case of every kind runs and is checked, none is timed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fusion_attention.torch")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench import case as cases  # noqa: E402
from bench import environments, matrix, measure, operands, peers, report, run  # noqa: E402
from bench.case import Case  # noqa: E402
from bench.check import Wrong, check  # noqa: E402
from bench.operands import Operands  # noqa: E402
from bench.ours import Ours  # noqa: E402
from bench.run import Pace, Run  # noqa: E402
from bench.worker import ALONE, FORCED, held_to, measured, roof_of  # noqa: E402

WANTED = {f"A{n}" for n in range(1, 18)} | {f"B{n}" for n in range(1, 8)} | {f"C{n}" for n in range(1, 8)}


def test_the_matrix_is_complete_and_its_cases_are_told_apart():
    table = matrix.matrix()
    assert {case.id for case in table} >= WANTED
    assert len({case.key for case in table}) == len(table)
    for case in table:
        kind, _ = cases.parse_mask(case.mask)
        assert kind in cases.MASKS and case.work in cases.PASSES and case.cache in cases.CACHES, case.name
        assert case.dtype in cases.BYTES and case.heads % case.kv_heads == 0, case.name
        assert (case.layout == "TND") == bool(case.lengths and kind != "padding"), case.name
        assert kind != "padding" or len(case.lengths) == case.batch, case.name
        assert case.keys * case.kv_heads * case.batch * (case.depth + case.value_depth) <= 1 << 30, case.name


def test_the_quick_run_has_every_goal_and_one_thread():
    quick = matrix.quick()
    goals = [case for case in matrix.matrix() if case.goal and case.threads == 1 and not case.arch]
    assert len([case for case in quick if case.goal and not case.arch]) == len(goals) > 20
    assert any(case.arch for case in quick)
    assert all(case.threads == 1 and case.flops < 5e10 for case in quick)


@pytest.mark.parametrize("mask", ["full", "causal", "bottom", "window:5", "around:3", "prefix:12"])
@pytest.mark.parametrize("rows, keys", [(16, 16), (8, 24)])
def test_pairs_are_counted_as_the_mask_shows_them(mask, rows, keys):
    assert cases.visible_pairs(mask, rows, keys) == cases.dense(mask, rows, keys).sum()


def test_useful_work_of_a_known_case():
    case = Case("A1", "", "bfloat16", heads=4, kv_heads=2, rows=64, depth=32, mask="causal", work="backward")
    assert case.flops == 10 * 32 * 4 * 64 * 65 / 2
    decode = Case("B1", "", "bfloat16", heads=4, kv_heads=2, rows=1, keys=4096, depth=32)
    assert decode.is_decode and decode.amount == 2 * (2 * 4096 * 2 * 32 + 2 * 4 * 32)


SMALL = {"id": "T", "model": "", "dtype": "float32", "heads": 4, "kv_heads": 2, "rows": 64, "depth": 32}
MORE = {
    "half": {"dtype": "float16"},
    "causal": {"mask": "causal", "dtype": "bfloat16"},
    "bottom": {"mask": "bottom", "keys": 160},
    "window": {"mask": "window:24"},
    "around": {"mask": "around:7"},
    "prefix": {"mask": "prefix:16"},
    "documents": {"mask": "documents:3"},
    "kept": {"mask": "kept:0.9"},
    "blocks": {"mask": "blocks:0.25", "rows": 300},
    "padding": {"mask": "padding", "batch": 2, "lengths": (64, 40)},
    "packed": {"layout": "TND", "lengths": (64, 33), "mask": "causal"},
    "backward": {"work": "backward", "mask": "causal"},
    "training": {"work": "training", "dtype": "bfloat16"},
    "packed training": {"work": "training", "layout": "TND", "lengths": (64, 33)},
    "dropout": {"keep_prob": 0.9},
    "dropout training": {"keep_prob": 0.9, "work": "training"},
    "sink": {"sink": True},
    "latent": {"value_depth": 16, "value_in_key": True, "kv_heads": 1, "rows": 1, "keys": 128},
    "decode": {"rows": 1, "keys": 512},
    "pages": {
        "rows": 1,
        "batch": 2,
        "keys": 256,
        "mask": "padding",
        "lengths": (256, 100),
        "cache": "pages of 16",
    },
    "int8": {"rows": 1, "keys": 128, "dtype": "bfloat16", "cache": "int8"},
    "avx2": {"arch": "avx2"},
}


REFUSED = {
    "torch": {"dropout", "dropout training", "sink", "latent", "pages"},
    "math": {"sink", "pages", "int8"},
}


@pytest.mark.parametrize("kind", MORE)
@pytest.mark.parametrize("peer", ["torch", "math"])
def test_a_tiny_case_runs_and_its_answer_is_checked(kind, peer, monkeypatch):
    monkeypatch.setattr(measure, "switches", lambda: 0)  # however busy the machine is
    case = Case(**{**SMALL, **MORE[kind]})
    chosen = None if kind in REFUSED[peer] else peers.load(peer, 1)
    if chosen is None:
        with pytest.raises(peers.Cannot):
            peers.load(peer, 1).call(Operands(case).pieces[0])
    result = measured(case, chosen, 0.0, 1, time.monotonic() + 60)
    if result.get("ours_cannot"):
        pytest.skip(result["reason"])
    assert "reason" not in result
    assert 0 < result["ours"]["of_allowed"] <= 1 and result["ours"]["ms"] > 0
    assert result["roof"]["per_second"] > 0
    assert chosen is None or result["peer"]["ms"] > 0


@pytest.mark.parametrize("work", ["forward", "backward"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_wrong_answer_is_found(work, place):
    case = Case(**{**SMALL, "work": work})
    operands = Operands(case)
    ours = Ours(operands)
    answer = ours.answer(ours.call()())
    check(case, operands, answer, None)
    answer[0][place][0, 0, -1] += 0.01
    with pytest.raises(Wrong):
        check(case, operands, answer, None)


def test_absent_peers_say_why(monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda _: None)
    with pytest.raises(environments.Absent, match="compiler"):
        environments.environment(peers.PEERS["flex"])


def test_pins_are_those_of_the_project():
    listed = [line for line in environments.REQUIREMENTS.read_text().splitlines() if "==" in line]
    project = (ROOT / "pyproject.toml").read_text()
    for line in listed:
        assert f'"{line}' in project, line
    for name, entry in peers.PEERS.items():
        assert len(environments.pins(entry.packages)) == len(entry.packages), name


OURS = {
    "ms": 2.0,
    "of_roof": 0.5,
    "spread": 0.1,
    "disturbed": False,
    "processes": [{"relative_error": 1e-6}],
}
ROOF = {"name": "fma", "per_second": 1e11, "goal": 0}


def test_the_report_names_the_worst_cell():
    case = Case(**SMALL)
    cell = {
        **case.describe(),
        "ours": OURS,
        "roof": ROOF,
        "peers": {
            "torch": {"ratio": 0.5, "relative_error": 1e-6, "disturbed": True},
            "math": {"reason": "would write 9 GiB"},
        },
    }
    fates = {"torch": "measured in 1 of 1 cells", "math": "measured in 0 of 1 cells"}
    other = replace(case, id="U")
    fast = {**cell, **other.describe(), "peers": {"torch": {"ratio": 2.0, "disturbed": False}}}
    text = report.summary({"cells": [cell, fast], "peers": fates})
    assert "geometric mean 1.00×" in text and "worst cell: 0.50× of torch in T " in text
    assert "cells below 1.0×: 1" in text and "would write 9 GiB: T" in text
    lines = report.table([cell, fast], ["torch", "math"]).splitlines()
    assert "~0.50×" in lines[1] and "2.00×" in lines[2] and "~" not in lines[2]


def test_the_report_says_which_goals_are_reached():
    case = Case(**SMALL, goal=45)
    cells = [
        {**replace(case, id=id).describe(), "ours": OURS, "peers": {}, "roof": {**ROOF, "goal": goal}}
        for id, goal in (("R", 45), ("S", 60), ("N", 0))
    ]
    lost = {**replace(case, id="L").describe(), "peers": {}, "ours_cannot": "no time"}
    head, *lines = report.goals([*cells, lost])
    assert head == "goals: 1 of 3 reached" and len(lines) == 3
    assert "reached" in lines[0] and "50.0 % of fma, goal 45" in lines[0] and "R fwd" in lines[0]
    assert "short by 10.0" in lines[1] and "not measured: L fwd" in lines[2]


def test_a_case_of_an_arch_takes_its_kernels_and_its_roof_and_no_peer(monkeypatch):
    case = Case(**SMALL, arch="avx2")
    assert roof_of(case) == "fma_ymm" and roof_of(Case(**SMALL)) != "fma_ymm"
    with held_to("avx2"):
        assert os.environ[FORCED] == "avx2"
    assert FORCED not in os.environ
    asked = []
    monkeypatch.setattr(
        Run, "_process", lambda self, name, *rest: asked.append((name, rest[2])) or len(rest[2])
    )
    Run([case, Case(**SMALL)]).measure(["torch"], Pace(0, 1, time.monotonic() + 60))
    assert ("torch", [Case(**SMALL)]) in asked and all(case not in x for name, x in asked if name == "torch")
    assert any(name == ALONE and case in x for name, x in asked)


def test_the_limit_leaves_out_the_largest(monkeypatch):
    asked = []
    monkeypatch.setattr(
        Run, "_process", lambda self, name, where, threads, todo, pace: asked.append(todo) or len(todo)
    )
    large, small = Case(**{**SMALL, "rows": 512}), Case(**SMALL)
    Run([large, small]).measure(["torch"], Pace(0, 1, time.monotonic() + 60))
    assert asked[0] == [small, large]


def test_a_case_that_takes_minutes_costs_a_line(tmp_path):
    out, code = tmp_path / "out", "import sys, time; open(sys.argv[1], 'w').write('x'); time.sleep({})"
    for seconds, patience, ended in ((0, 60, True), (60, 0.5, False)):
        worker = subprocess.Popen([sys.executable, "-c", code.format(seconds), str(out)])
        assert run._ended(worker, out, patience) is ended and worker.returncode is not None


def test_the_least_disturbed_slices_stand_in_for_undisturbed_ones():
    calm = measure.Samples(seconds=[2.0], dropped=[(1.0, 9.0)])
    busy = measure.Samples(dropped=[(30.0, 5.0), (10.0, 3.0), (20.0, 4.0)])
    for samples, seconds, disturbed in ((calm, 2.0, False), (busy, 3.0, True)):
        samples.settle()
        assert samples.median == seconds and samples.describe()["disturbed"] is disturbed


def test_on_one_core_a_disturbed_slice_counts_its_cpu_time(monkeypatch):
    for cores, slept in (({0}, False), ({0, 1}, True)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        monkeypatch.setattr(measure, "switches", iter((0, 30)).__next__)
        samples = measure.Samples()
        measure.sample(lambda: time.sleep(0.05), samples)
        assert not samples.seconds and (samples.dropped[0][1] >= 0.05) == slept


@pytest.mark.parametrize("mask", ["causal", "bottom", "window:5", "documents:3", "padding"])
def test_rows_of_a_mask_are_those_of_the_whole(mask):
    lengths = (40, 17) if mask == "padding" else ()
    case = Case(**{**SMALL, "rows": 32, "keys": 40, "mask": mask, "batch": 2, "lengths": lengths})
    piece, rows = Operands(case).pieces[0], torch.tensor([0, 7, 31])
    assert torch.equal(piece.sees(1, rows), piece.keep[-1, 0, rows])


def test_large_tensors_repeat_what_was_drawn_in_rows_that_differ(monkeypatch):
    assert operands.POOL % 2 == 1
    monkeypatch.setattr(operands, "POOL", 101)
    key = Operands(Case(**SMALL)).key.flatten(0, 2)
    assert len(set(map(tuple, key[:100].tolist()))) == 100


def test_overhead_lines():
    assert report.overhead({"case": "C++ run", "us": 2.5}) == "overhead C++ run: 2.50 µs"
    assert "1.0 over" in report.overhead({"case": "torch", "us": 9, "empty_us": 8})
    assert report.overhead({"case": "C++", "absent": "no CMake"}).endswith("no CMake")
