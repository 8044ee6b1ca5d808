"""The benchmark's table is well formed; a tiny case of every kind runs and is checked, none is timed."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("fusion_attention.torch")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench import case as cases  # noqa: E402
from bench import environments, matrix, measure, peers, report  # noqa: E402
from bench.case import Case  # noqa: E402
from bench.check import Wrong, check  # noqa: E402
from bench.operands import Operands  # noqa: E402
from bench.ours import Ours  # noqa: E402
from bench.worker import measured  # noqa: E402

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
    goals = [case for case in matrix.matrix() if case.goal and case.threads == 1]
    assert len([case for case in quick if case.goal]) == len(goals) > 20
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


def test_the_report_names_the_worst_cell():
    case = Case(**SMALL)
    ours = {"ms": 2.0, "of_roof": 0.5, "spread": 0.1, "processes": [{"relative_error": 1e-6}]}
    cell = {
        **case.describe(),
        "ours": ours,
        "roof": {"name": "fma", "per_second": 1e11},
        "peers": {"torch": {"ratio": 0.5, "relative_error": 1e-6}, "math": {"reason": "would write 9 GiB"}},
    }
    fates = {"torch": "measured in 1 of 1 cells", "math": "measured in 0 of 1 cells"}
    other = replace(case, id="U")
    fast = {**cell, **other.describe(), "peers": {"torch": {"ratio": 2.0}}}
    text = report.summary({"cells": [cell, fast], "peers": fates})
    assert "geometric mean 1.00×" in text and "worst cell: 0.50× of torch in T " in text
    assert "cells below 1.0×: 1" in text and "would write 9 GiB: T" in text
    assert "0.50×" in report.table([cell, fast], ["torch", "math"])
