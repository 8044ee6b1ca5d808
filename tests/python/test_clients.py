"""Real clients on the layer: transformers, diffusers, accelerate, Trainer, MindSpeed, sentence-transformers.

Each script under clients/ runs in a process of its own, since clients ask once whether there is an NPU.
"""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "clients"


def results(script: str) -> dict:
    found, error = run(script)
    assert not error, f"{script}: {error}"
    return found


@lru_cache(None)
def run(script: str) -> tuple[dict, str]:
    """What the script printed, or the end of what it complained about; either is kept, it runs once."""
    environment = {key: value for key, value in os.environ.items() if key != "FUSION_ATTENTION_ASCEND"}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, FOLDER / f"{script}.py"], capture_output=True, text=True, env=environment, cwd=FOLDER
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    if done.returncode or not lines:
        return {}, done.stderr[-3000:] or f"exit code {done.returncode}"
    return json.loads(lines[0].removeprefix("RESULTS ")), ""


def need(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(
            module, reason=f"{module} is not installed: pip install 'fusion_attention[transformers]'"
        )


# Logits: distance to eager over eager's own to float64 (2.5e-7 in float32, 4.3e-3 in bfloat16). Gradients:
# largest difference relative to the largest entry of each parameter's, twice what eager itself is away from
# float64 (6.6e-7). Generate: tokens that differ.
CASES = ("no padding", "right padding", "left padding", "packed positions", "packed lengths")
LLAMA = {
    **{f"{dtype} {case}": 1.5 for dtype in ("float32", "bfloat16") for case in CASES},
    "compiled": 0.0,
    **{f"gradients {case}": 1.3e-6 for case in ("no padding", "right padding", "left padding")},
    **{f"generate {cache} {side} padding": 0.0 for cache in ("dynamic", "static") for side in ("no", "left")},
}


@pytest.mark.parametrize("case", LLAMA)
def test_llama_through_the_ascend_path(case):
    need("torch", "transformers")
    assert results("llama_ascend_path")[case] <= LLAMA[case]


def test_llama_really_called_the_operator():
    need("torch", "transformers")
    assert results("llama_ascend_path")["calls"] >= 80


# Largest difference relative to the largest output; bf16 models, so a few units of 2^-8.
DIFFUSERS = {
    "flux": 6.2e-3,
    "flux gradients": 2e-2,
    "wan": 4.2e-3,
    "qwen image with a mask": 5e-3,
    "unet": 1.2e-2,
}


@pytest.mark.parametrize("case", DIFFUSERS)
def test_diffusers_with_the_names_only(case):
    need("torch", "diffusers")
    assert results("diffusers_native_npu")[case] <= DIFFUSERS[case]


def test_diffusers_really_called_the_operator():
    need("torch", "diffusers")
    seen = results("diffusers_native_npu")
    assert seen["calls"] >= 8 and seen["device count"] == 0


# Largest difference of output and gradients to the undivided call, relative to its largest entry; fp32.
RING = ("SBH causal", "SBH full", "BNSD causal", "TND causal")


@pytest.mark.parametrize("case", RING)
def test_ring_attention_over_two_processes(case):
    need("torch")
    assert results("ring_over_gloo")[case] <= 1.2e-6


def test_clients_that_choose_the_npu_by_themselves():
    need("torch", "transformers", "accelerate", "sentence_transformers")
    seen = results("accelerate_and_friends")
    assert seen["accelerate device"] == seen["device_map"] == seen["sentence_transformers device"] == "cpu"
    assert seen["accelerate loss is finite"] and seen["accelerate gradients"]
    for options in ({}, {"bf16": True}, {"use_cpu": True}):
        assert 0 < seen[f"trainer {options}"] < 10 and seen[f"trainer checkpoint {options}"]
    assert seen["encoder difference"] <= 1e-6
