"""The switch: names, levels, refusals, the environment variable, `python -m fusion_attention run`."""

import importlib
import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the layers are for torch, which is not installed")
import fusion_attention  # noqa: E402
from fusion_attention.run import SERVED  # noqa: E402


@pytest.fixture(autouse=True)
def off_afterwards():
    yield
    fusion_attention.disable()


def python(*arguments, environment=None, folder=None):
    environment = {key: value for key, value in os.environ.items() if key != "FUSION_ATTENTION_ASCEND"} | (
        environment or {}
    )
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=folder
    )


def test_off_by_default():
    done = python(
        "-c", "import fusion_attention, torch, sys; print(hasattr(torch, 'npu'), 'torch_npu' in sys.modules)"
    )
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_enabling_twice_and_going_up_a_level():
    fusion_attention.enable()
    module = importlib.import_module("torch_npu")
    fusion_attention.enable("torch_npu")
    fusion_attention.enable("torch_npu", device=True)
    assert importlib.import_module("torch_npu") is module and torch.npu.is_available()
    with pytest.raises(RuntimeError, match=r"device: got False, allowed is True until .*disable\(\)"):
        fusion_attention.enable("torch_npu")
    fusion_attention.disable()
    fusion_attention.disable()
    fusion_attention.enable("torch_npu")
    assert not torch.npu.is_available()


@pytest.mark.parametrize(
    ("layer", "error", "sentence"),
    [
        ("mindspore", RuntimeError, 'layers: got "mindspore" without mindspore, allowed is only where'),
        ("torch", ValueError, 'layers: got "torch", allowed are torch_npu, mindspeed'),
        (3, TypeError, "layers: got int"),
    ],
)
def test_refused_layers(layer, error, sentence):
    with pytest.raises(error, match=sentence):
        fusion_attention.enable("torch_npu", layer)
    assert not hasattr(torch, "npu"), "nothing is enabled when one name is refused"


@pytest.mark.parametrize("imported", [False, True])
def test_refused_beside_a_genuine_package(tmp_path, monkeypatch, imported):
    package = tmp_path / "torch_npu"
    package.mkdir()
    (package / "__init__.py").write_text("genuine = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    if imported:
        monkeypatch.setitem(sys.modules, "torch_npu", None)
        monkeypatch.delitem(sys.modules, "torch_npu")
        importlib.import_module("torch_npu")
    with pytest.raises(RuntimeError, match='got "torch_npu" beside a genuine torch_npu, allowed') as refusal:
        fusion_attention.enable("torch_npu")
    assert "\n" not in str(refusal.value)
    assert importlib.import_module("torch_npu").genuine and not hasattr(torch, "npu")
    sys.modules.pop("torch_npu")


PATHS = {
    "torch_npu": ["torch_npu", "torch_npu.npu", "torch_npu.testing.testcase"],
    "mindspeed": [
        "mindspeed.ops.fusion_attention_v2",
        "mindspeed.ops.npu_ring_attention_update",
        "mindspeed.op_builder.fusion_attention_v2_builder",
        "npu_fusion_attention",
    ],
    "ascendspeed": [
        "ascendspeed.ops",
        "ascendspeed.ops.FlashAttention",
        "ascendspeed.te.ops.flash_attention",
    ],
}


@pytest.mark.parametrize("layers", [*([name] for name in PATHS), list(PATHS), list(reversed(PATHS))])
def test_original_module_paths_while_enabled_and_no_longer(layers):
    modules, finders = set(sys.modules), list(sys.meta_path)
    fusion_attention.enable(*layers)
    fusion_attention.enable(*layers)
    for layer in layers:
        for path in PATHS[layer]:
            assert importlib.import_module(path).__spec__ is not None
    fusion_attention.disable()
    assert sys.meta_path == finders
    served = {package for layer in layers for package in (path.partition(".")[0] for path in PATHS[layer])}
    assert not [name for name in set(sys.modules) - modules if name.partition(".")[0] in served]
    for layer in layers:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(PATHS[layer][0])


def test_nothing_is_enabled_when_the_last_layer_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "ascendspeed"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match='got "ascendspeed" beside a genuine ascendspeed, allowed'):
        fusion_attention.enable("mindspeed", "ascendspeed")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mindspeed")


def test_a_bare_folder_is_no_genuine_package(tmp_path, monkeypatch):
    (tmp_path / "torch_npu").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    fusion_attention.enable("torch_npu")
    assert importlib.import_module("torch_npu").__file__


def test_a_client_that_asked_too_early_is_named(monkeypatch):
    class Client:
        _torch_npu_available = False

    monkeypatch.setitem(sys.modules, "diffusers.utils.import_utils", Client)
    with pytest.warns(UserWarning, match="diffusers asked for an NPU before"):
        fusion_attention.enable("torch_npu")
    fusion_attention.disable()
    Client._torch_npu_available = True
    for name in ("transformers.utils.import_utils", "accelerate.utils.imports"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fusion_attention.enable("torch_npu", device=True)


def test_the_entry_point_is_installed():
    names = [
        entry.value for entry in entry_points(group="torch.backends") if "fusion_attention" in entry.value
    ]
    assert set(names) == {"fusion_attention_autoload:autoload"}


@pytest.mark.parametrize(
    ("value", "printed"), [("", "False"), ("names", "True False"), ("device", "True True")]
)
def test_environment(value, printed):
    code = (
        "import torch; found = hasattr(torch, 'npu'); "
        "print(found, torch.npu.is_available()) if found else print(found)"
    )
    done = python("-c", code, environment={"FUSION_ATTENTION_ASCEND": value})
    assert done.stdout.strip() == printed, done.stderr


def test_environment_and_a_call_that_asks_for_the_same():
    code = (
        "import fusion_attention as f; f.enable(device=True); import torch; print(torch.npu.device_count())"
    )
    done = python("-c", code, environment={"FUSION_ATTENTION_ASCEND": "device"})
    assert done.stdout.strip() == "1", done.stderr


def test_environment_refuses_other_words():
    done = python("-c", "import torch", environment={"FUSION_ATTENTION_ASCEND": "yes"})
    assert done.returncode and 'FUSION_ATTENTION_ASCEND: got "yes", allowed is names or device' in done.stderr


def test_the_entry_point_imports_nothing_when_unset():
    done = python(
        "-c", "import sys, torch; print([m for m in sys.modules if m.startswith('fusion_attention.')])"
    )
    assert done.stdout.strip() == "[]", done.stderr


SCRIPT = """
import json, os, sys
import helper
import torch, torch_npu
if __name__ == "__main__":
    print(json.dumps({
        "argv": sys.argv, "path": sys.path[0], "file": __file__,
        "main": sys.modules["__main__"].__dict__ is globals(),
        "available": torch.npu.is_available(), "device": torch.zeros(1, device=sys.argv[-1]).device.type,
        "environment": os.environ["FUSION_ATTENTION_ASCEND"], "helper": helper.word,
        "package": __package__ or None,
    }))
    sys.exit(3)
"""


def test_processes_that_a_script_starts_make_the_same_choice(tmp_path):
    child = "import torch, mindspeed; print(torch.zeros(1, device='npu').device)"
    parent = tmp_path / "parent.py"
    parent.write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
    )
    done = python("-m", "fusion_attention", "run", parent)
    assert done.stdout.strip() == "cpu", done.stderr


@pytest.fixture
def script(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    (folder / "helper.py").write_text("word = 'beside the script'\n")
    return folder / "script.py"


def test_run_is_what_python_would_do(script):
    done = python(
        "-m", "fusion_attention", "run", "code/script.py", "--flag", "npu:0", folder=script.parents[1]
    )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout) == {
        "argv": ["code/script.py", "--flag", "npu:0"],
        "path": str(script.parent),
        "file": "code/script.py",
        "main": True,
        "available": True,
        "device": "cpu",
        "environment": f"device:{','.join(SERVED)}",
        "helper": "beside the script",
        "package": None,
    }


def test_run_with_the_names_only(script):
    older = {"FUSION_ATTENTION_ASCEND": "device"}
    done = python(
        "-m", "fusion_attention", "run", "--names", "--layers", "torch_npu", script, "cpu", environment=older
    )
    assert done.returncode == 3, done.stderr
    seen = json.loads(done.stdout)
    assert seen["available"] is False and seen["environment"] == "names:torch_npu"


def test_run_a_module(script):
    done = python("-m", "fusion_attention", "run", "-m", "script", "npu", folder=script.parent)
    assert done.returncode == 3, done.stderr
    seen = json.loads(done.stdout)
    assert seen["path"] == str(script.parent) and seen["device"] == "cpu" and Path(seen["argv"][0]) == script


@pytest.mark.parametrize("arguments", [[], ["--names"], ["-m"], ["--what", "x.py"], ["--layers"]])
def test_run_without_a_script_prints_its_usage(arguments):
    done = python("-m", "fusion_attention", "run", *arguments)
    assert done.returncode == 1 and "usage: python -m fusion_attention run" in done.stderr
