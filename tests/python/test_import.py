"""What importing costs and needs: nothing but Python."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def run(script: str, **environment: str) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    """Less than 150 ms beside the interpreter's own start, and no framework comes along."""
    script = """
        import sys, time
        start = time.perf_counter()
        import fusion_attention
        print(time.perf_counter() - start, *({"torch", "numpy", "ml_dtypes"} & sys.modules.keys()))
    """
    outputs = [run(script).split() for _ in range(3)]
    assert all(len(output) == 1 for output in outputs), f"imported {outputs}"
    assert min(float(seconds) for (seconds,) in outputs) < 0.150


@pytest.mark.parametrize("absent", ["torch", "ml_dtypes", "torch ml_dtypes transformers matplotlib"])
def test_numpy_front_needs_only_numpy(absent):
    run(
        f"""
        import sys
        for name in {absent.split()!r}:
            sys.modules[name] = None  # import then raises ImportError
        import numpy as np, fusion_attention
        x = np.ones((1, 4, 2, 8), np.float32)
        out = fusion_attention.npu_fusion_attention(x, x, x, 2, "BSND")[0]
        assert type(out) is np.ndarray and np.array_equal(out, x)
        """
    )


def test_torch_front_needs_no_numpy():
    pytest.importorskip("torch")
    run(
        """
        import torch, sys
        sys.modules["fusion_attention.numpy"] = None
        import fusion_attention
        x = torch.ones(1, 4, 2, 8)
        assert torch.equal(fusion_attention.npu_fusion_attention(x, x, x, 2, "BSND")[0], x)
        """
    )


def test_version_and_threads():
    import fusion_attention

    assert fusion_attention.__version__.count(".") == 2
    before = fusion_attention.thread_count()
    fusion_attention.set_thread_count(1)
    assert fusion_attention.thread_count() == 1
    fusion_attention.set_thread_count(before)


def test_unknown_attribute():
    import fusion_attention

    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = fusion_attention.no_such_thing


def test_report_of_the_machine():
    said = run(
        """
        import runpy, sys
        sys.argv = ["fusion_attention"]
        runpy.run_module("fusion_attention", run_name="__main__")
        """
    )
    assert "isa      scalar       used" in said
    assert "forward_scalar_fp32" in said


def test_calibration():
    said = run(
        """
        import runpy, sys
        sys.argv = ["fusion_attention", "calibrate"]
        runpy.run_module("fusion_attention", run_name="__main__")
        """
    )
    for word in (
        "roof     read",
        "backward bf16\n",
        "  route    ",
        "  machine  forward: ",
        "  not      forward_scalar_fp32: ",
    ):
        assert word in said


def test_choices_say_why_not():
    said = run(
        """
        from fusion_attention import machine
        for choice in machine.choices():
            print(choice["pass"], choice["dtype"], choice["kernel"], choice["route"], sep="|")
            assert choice["kernel"] not in choice["passed_over"] and all(choice["passed_over"].values())
            assert choice["roof"] in ("", *machine.roofs()) and choice["rate"] > 0
        """,
        FUSION_ATTENTION_KERNEL="scalar",
    )
    assert "backward|fp16|backward_scalar_fp16|widened to fp32, multiply-add\n" in said
    assert said.count("\n") == 10


def test_the_command_line_refuses_other_words():
    done = subprocess.run(
        [sys.executable, "-m", "fusion_attention", "calibrated"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "calibrate | run script.py" in done.stderr


def test_capped_instruction_sets_say_so():
    said = run(
        "from fusion_attention import machine; print(machine.describe()['instruction_sets'])",
        FUSION_ATTENTION_MAX_ISA="scalar",
    )
    assert "FUSION_ATTENTION_MAX_ISA" in said
