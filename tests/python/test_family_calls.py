"""Random family calls through NumPy and torch against the element-wise statement of the documents.

FUSION_ATTENTION_FAMILY_CALLS sets the number (the acceptance run uses 1,000); half of the seeds are fixed,
half are fresh. A failure prints the line of the call: `draw(seed)` gives it back.
"""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest
from family_calls import DTYPES, draw
from statement import Answer, Statement

COUNT = int(os.environ.get("FUSION_ATTENTION_FAMILY_CALLS", "160"))
FRESH = int(os.environ["FUSION_ATTENTION_SEED"])  # conftest.py
SEEDS = [*range(COUNT // 2), *(FRESH + i for i in range(COUNT - COUNT // 2))]
ARRAYS = ("query", "key", "value")
worst: dict[str, float] = {}


def ratio(name: str, got, answer: Answer, line: str) -> None:
    """Every element within its bound; remembers the worst ratio per quantity."""
    got = np.asarray(got, np.float64).reshape(answer.value.shape)
    error = np.abs(got - answer.value)
    exceeds = ~(error <= answer.bound)
    if exceeds.any():
        where = np.unravel_index(np.argmax(np.where(exceeds, error - answer.bound, -1)), error.shape)
        raise AssertionError(
            f"{name}{list(map(int, where))}: got {got[where]:.9g}, documented {answer.value[where]:.9g} "
            f"± {answer.bound[where]:.3g} ({exceeds.sum()} of {error.size} elements)\n  {line}"
        )
    largest = np.max(
        np.divide(error, answer.bound, out=np.zeros_like(error), where=answer.bound > 0), initial=0
    )
    worst[name] = max(worst.get(name, 0), float(largest))


def check(call, dtype, line, results, gradients, dy):
    statement = Statement(call, dtype)
    out, tops, totals = statement.forward()
    ratio("attention_out", results[0], out, line)
    for name, got, answers, empty in (
        ("softmax_max", results[1], tops, -np.finfo(np.float32).max),
        ("softmax_sum", results[2], totals, 1.0),
    ):
        expected = statement.statistics(answers, None)
        flat = (
            np.asarray(got, np.float64).reshape(-1, 8)
            if call["input_layout"] == "TND"
            else np.asarray(got, np.float64)
        )
        ratio(name, flat[: len(expected.value)], expected, line)
        assert (flat[len(expected.value) :] == empty).all(), f"{name} past the last sequence\n  {line}"
        copies = np.asarray(got, np.float64)
        assert (copies == copies[..., :1]).all(), f"{name}: the eight copies differ\n  {line}"
    answers = statement.backward(dy, results[0], results[1], results[2])
    for name, got, answer in zip(("dq", "dk", "dv"), gradients, answers):
        ratio(name, got, answer, line)


def gradient_seed(call, dtype, shape):
    rng = np.random.default_rng(call["head_num"] + 17 * len(call["input_layout"]))
    return rng.standard_normal(shape).astype(np.float32).astype(DTYPES[dtype])


def spelled(call: dict, old: bool) -> dict:
    """The same call in the spelling of v1 (tockens) or v2 (tokens)."""
    return {name.replace("_tokens", "_tockens") if old else name: value for name, value in call.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_numpy(seed):
    import fusion_attention.numpy as front

    call, dtype, line = draw(seed)
    results = front.npu_fusion_attention(**spelled(call, old=True))
    dy = gradient_seed(call, dtype, results[0].shape)
    keywords = spelled({k: v for k, v in call.items() if k not in (*ARRAYS, "scale")}, old=True)
    gradients = front.npu_fusion_attention_grad(
        *(call[name] for name in ARRAYS),
        dy,
        **keywords,
        scale_value=call["scale"],
        softmax_max=results[1],
        softmax_sum=results[2],
        attention_in=results[0],
    )
    check(call, dtype, line, results, gradients[:3], dy)


def to_torch(x):
    import torch

    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.ascontiguousarray(x).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(x))


def to_numpy(x):
    return x.detach().double().numpy()


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
@pytest.mark.parametrize("seed", SEEDS[:: max(1, len(SEEDS) // max(1, COUNT // 3))])
def test_torch(seed, version):
    torch = pytest.importorskip("torch")
    import fusion_attention.torch as front

    call, dtype, line = draw(seed)
    tensors = {k: to_torch(v) if isinstance(v, np.ndarray) else v for k, v in call.items()}
    for name in ARRAYS:
        tensors[name].requires_grad_()
    if version == "v3":  # lengths are tensors there
        for name in ("actual_seq_qlen", "actual_seq_kvlen"):
            if name in tensors:
                tensors[name] = torch.tensor([int(n) for n in tensors[name]])
    function = getattr(front, {"v1": "npu_fusion_attention"}.get(version, f"npu_fusion_attention_{version}"))
    results = function(**spelled(tensors, old=version != "v2"))
    dy = gradient_seed(call, dtype, tuple(results[0].shape))
    results[0].backward(to_torch(dy))
    gradients = [to_numpy(tensors[name].grad) for name in ARRAYS]
    check(call, dtype, line, [to_numpy(r) for r in results[:3]], gradients, np.asarray(dy, np.float64))


def test_zz_report(capsys):
    with capsys.disabled():
        said = ", ".join(f"{name} {value:.2f}" for name, value in sorted(worst.items()))
        print(f"\nfamily calls: {COUNT}, fresh seeds from {FRESH}; worst error / bound: {said}")
