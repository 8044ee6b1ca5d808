"""The project's own checks: each says no where it has to."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """A script as a module."""
    loader = importlib.machinery.SourceFileLoader(Path(name).stem, str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


# layers ---------------------------------------------------------------------------------------------------


def layers(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, folder / "scripts/layers"], capture_output=True, text=True)


@pytest.fixture
def tree(tmp_path):
    """A copy of the sources that a test may spoil."""
    for part in ("scripts", "src", "include", "python/bindings"):
        shutil.copytree(ROOT / part, tmp_path / part)
    return tmp_path


def test_layers_accept_the_sources_and_print_the_graph(tree):
    done = layers(tree)
    assert done.returncode == 0, done.stdout
    assert all(f"{folder.name} " in done.stdout for folder in (tree / "src").iterdir())


@pytest.mark.parametrize(
    "file, include",
    [
        ("src/base/math.h", '"arch/tile.h"'),
        ("src/kernels/forward.h", '"plan/plan.h"'),
        ("src/ref/exact.h", '"kernels/softmax.h"'),
        ("src/problem/text.cc", '"plan/plan.h"'),
        ("include/fusion_attention/run.h", '"plan/plan.h"'),
        ("include/fusion_attention/run.h", "<plan/plan.h>"),
        ("python/bindings/core.cc", '"api/refuse.h"'),
        ("src/base/math.h", '"../arch/tile.h"'),
    ],
)
def test_layers_refuse_an_upward_arrow(tree, file, include):
    path = tree / file
    path.write_text(f"#include {include}\n" + path.read_text())
    done = layers(tree)
    assert done.returncode != 0 and f"{file} includes" in done.stdout


def test_layers_refuse_a_folder_they_do_not_know(tree):
    (tree / "src/shortcuts").mkdir()
    (tree / "src/shortcuts/all.h").write_text("#pragma once\n")
    done = layers(tree)
    assert done.returncode != 0 and "shortcuts" in done.stdout


# isa_symbols ----------------------------------------------------------------------------------------------


def isa_symbols(tmp_path: Path, **sources: str) -> subprocess.CompletedProcess:
    """The check over objects <name>.cc.o, one per source."""
    folder = tmp_path / "fusion_attention.dir/src/kernels/x86"
    folder.mkdir(parents=True)
    for name, source in sources.items():
        (tmp_path / "kernel.cc").write_text(source)
        subprocess.run(["g++", "-c", tmp_path / "kernel.cc", "-o", folder / f"{name}.cc.o"], check=True)
    return subprocess.run(
        [sys.executable, ROOT / "scripts/isa_symbols", tmp_path], capture_output=True, text=True
    )


TAGGED_ROWS = "struct Avx2; template <class A> int rows(int x) { return x; } template int rows<Avx2>(int);"


@pytest.mark.parametrize(
    "source, leaks",
    [
        ("template <class T> T twice(T x) { return x + x; } template int twice(int);", 1),
        ("inline int half(int x) { return x / 2; } int quarter(int x) { return half(half(x)); }", 1),
        ("inline int table[4] = {1}; int first() { return table[0]; }", 1),
        (TAGGED_ROWS, 0),
        ("static int half(int x) { return x / 2; } int quarter(int x) { return half(half(x)); }", 0),
    ],
    ids=["template", "inline", "variable", "tagged", "local"],
)
def test_isa_symbols_find_what_the_linker_might_share(tmp_path, source, leaks):
    done = isa_symbols(tmp_path, forward_avx2=source)
    assert done.returncode == (leaks > 0), done.stdout + done.stderr
    assert f" {leaks} leaks" in done.stdout


def test_isa_symbols_refuse_one_name_for_two_instruction_sets(tmp_path):
    assert isa_symbols(tmp_path / "a", forward_avx2=TAGGED_ROWS, decode_avx2=TAGGED_ROWS).returncode == 0
    done = isa_symbols(tmp_path / "b", forward_avx2=TAGGED_ROWS, forward_avx512=TAGGED_ROWS)
    assert done.returncode != 0 and "in avx2 and avx512" in done.stdout


def test_isa_symbols_refuse_an_empty_folder(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts/isa_symbols", tmp_path], capture_output=True)
    assert done.returncode != 0


# the suite's count ----------------------------------------------------------------------------------------

CASES = {
    "good": '<testcase classname="a" name="good" status="run"/>',
    "bad": '<testcase classname="a" name="bad" status="run"><failure message="no"/></testcase>',
    "error": '<testcase classname="a" name="error"><error message="no"/></testcase>',
    "skip": '<testcase classname="a" name="skip"><skipped message="no&#x0A;tiles"/></testcase>',
    "off": '<testcase classname="a" name="off" status="notrun"/>',
}


@pytest.fixture(scope="module")
def suite():
    return load("suite.py")


@pytest.mark.parametrize(
    "cases, finished, line",
    [
        (["good", "good"], True, "2 passed, 0 failed"),
        (["good", "bad", "error"], False, "1 passed, 2 failed"),
        (["good", "skip", "off"], True, "1 passed, 0 failed, 2 skipped"),
        (["good"], False, "1 passed, 1 failed"),  # a leak report, a crash after the last case
        ([], True, "0 passed, 1 failed"),
        (None, False, "0 passed, 1 failed"),
    ],
)
def test_the_suite_counts_cases(suite, tmp_path, cases, finished, line, capsys):
    file = tmp_path / "results.xml"
    if cases is not None:
        file.write_text(f"<testsuites><testsuite>{''.join(CASES[c] for c in cases)}</testsuite></testsuites>")
    tally = suite.Tally()
    tally.cases("part", file, finished, "output")
    assert tally.line() == line
    assert all("no tiles" in reason or "disabled" in reason for reason in tally.skipped)


def test_the_suite_stops_what_hangs(suite):
    ok, said = suite.run("sh", "-c", "echo started; sleep 60", limit=1)
    assert not ok and "started" in said and "stopped after 1 s" in said


# set-up ---------------------------------------------------------------------------------------------------


def test_the_pins_are_complete_and_are_what_is_installed():
    from importlib import metadata

    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split())
    assert "torch" not in {name.lower() for name in pins}, "torch has a spelling of its own, in scripts/setup"
    for name, version in pins.items():
        assert metadata.version(name) == version
    assert metadata.version("torch").split("+")[0] == "2.13.0"


def test_the_presets_are_all_there():
    presets = (ROOT / "CMakePresets.json").read_text()
    for name in ("dev", "release", "asan", "ubsan", "tsan", "bench", "python", "arm64"):
        assert f'"name": "{name}"' in presets
