"""Random family calls through NumPy and torch against the element-wise statement of the documents.

FUSION_ATTENTION_FAMILY_CALLS sets the number (the acceptance run uses 20,000); half of the seeds are fixed,
half are fresh. A failure prints the line of the call: `draw(seed, version)` gives it back.
"""

from __future__ import annotations

import os
import warnings

import ml_dtypes
import numpy as np
import pytest
from family_calls import draw
from family_draw import DTYPES
from statement import GRADIENT_OF, Statement
from statement_arithmetic import Answer
from statement_bias import is_slope

COUNT = int(os.environ.get("FUSION_ATTENTION_FAMILY_CALLS", "160"))
FRESH = int(os.environ["FUSION_ATTENTION_SEED"])  # conftest.py
FOUND = [71002015]  # all scores −∞ beside a sink, NaN in a value that dropout drops
SEEDS = [*FOUND, *range(COUNT // 2), *(FRESH + i for i in range(COUNT - COUNT // 2))]
VERSIONS = ("v1", "v2", "v3", "v2")  # version 2 has most options
ARRAYS = ("query", "key", "value")
DIFFERENTIABLE, GRADIENTS = tuple(GRADIENT_OF), tuple(GRADIENT_OF.values())
FLT_MAX = float(np.finfo(np.float32).max)
worst: dict[str, float] = {}


def ratio(name: str, got, answer: Answer, line: str) -> None:
    """Every element within its bound, NaN where NaN is documented; remembers the worst ratio per quantity."""
    got = np.asarray(got, np.float64).reshape(answer.value.shape)
    nan = np.isnan(answer.value)
    error = np.where(nan, np.where(np.isnan(got), 0, np.inf), np.abs(got - answer.value))
    bound = np.where(nan, 0, answer.bound)
    exceeds = ~(error <= bound)
    if exceeds.any():
        over = np.nan_to_num(np.where(exceeds, error - bound, -1), nan=np.inf)
        where = np.unravel_index(np.argmax(over), error.shape)
        raise AssertionError(
            f"{name}{list(map(int, where))}: got {got[where]:.9g}, documented {answer.value[where]:.9g} "
            f"± {bound[where]:.3g} ({exceeds.sum()} of {error.size} elements)\n  {line}"
        )
    largest = np.max(np.divide(error, bound, out=np.zeros_like(error), where=bound > 0), initial=0)
    worst[name] = max(worst.get(name, 0), float(largest))


def check_forward(statement: Statement, line: str, results) -> None:
    out, tops, totals = statement.forward()
    ratio("attention_out", results[0], out, line)
    for name, got, answers, empty in (
        ("softmax_max", results[1], tops, -FLT_MAX),
        ("softmax_sum", results[2], totals, 1.0),
    ):
        expected = statement.statistics(answers)
        copies = np.asarray(got, np.float64)
        flat = copies.reshape(-1, 8) if statement.packed else copies
        ratio(name, flat[: len(expected.value)], expected, line)
        assert (flat[len(expected.value) :] == empty).all(), f"{name} past the last sequence\n  {line}"
        assert np.array_equal(copies, copies[..., :1].repeat(8, -1), equal_nan=True), (
            f"{name}: copies\n  {line}"
        )
    assert np.asarray(results[3]).size == 0, line
    if len(results) == 7:
        assert results[6] == statement.numels, f"numels {results[6]}, not {statement.numels}\n  {line}"


def check_gradients(answers: dict[str, Answer | None], line: str, gradients: dict) -> None:
    for name, answer in answers.items():
        got = gradients.get(name)
        if answer is None:
            assert got is None, f"{name}: got a gradient, documented none\n  {line}"
        else:
            assert got is not None, f"{name}: got None\n  {line}"
            ratio(name, got, answer, line)


def replayed(call: dict, results, with_mask: bool) -> dict:
    """The call as its gradient sees it: bits of the returned seed, unless the mask is remembered."""
    seed, offset = (int(np.asarray(x).reshape(-1)[0]) for x in results[4:6])
    for name in ("seed", "offset"):
        given = call.get("keep_prob", 1.0) == 1 or call.get("seed") or call.get("offset")
        assert not given or {"seed": seed, "offset": offset}[name] == call.get(name, 0)
    mask = call.get("dropout_mask") if with_mask else None
    return {**call, "seed": seed, "offset": offset, "dropout_mask": mask}


def gradient_seed(call, dtype, shape):
    rng = np.random.default_rng(call["head_num"] + 17 * len(call["input_layout"]))
    return rng.standard_normal(shape).astype(np.float32).astype(DTYPES[dtype])


def spelled(call: dict, version: str) -> dict:
    """The same call in the spelling of its version: tokens in version 2, tockens in the others."""
    return {n if version == "v2" else n.replace("_tokens", "_tockens"): value for n, value in call.items()}


def function(front, version: str, gradient: bool = False):
    name = "npu_fusion_attention" + ("_grad" if gradient else "")
    return getattr(front, name if version == "v1" else f"{name}_{version}")


def quiet(run, *positional, **keywords):
    """The warning that mask and tokens disagree is tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(*positional, **keywords)


@pytest.mark.parametrize("seed", SEEDS)
def test_numpy(seed):
    import fusion_attention.numpy as front

    version = VERSIONS[seed % len(VERSIONS)]
    call, dtype, line = draw(seed, version)
    results = quiet(function(front, version), **spelled(call, version))
    check_forward(Statement(replayed(call, results, with_mask=True), dtype), line, results)
    dy = gradient_seed(call, dtype, results[0].shape)
    forward_only = (*ARRAYS, "scale", "dropout_mask", "seed", "offset")
    gradients = function(front, version, gradient=True)(
        *(call[name] for name in ARRAYS),
        dy,
        **spelled({name: x for name, x in call.items() if name not in forward_only}, version),
        scale_value=call["scale"],
        softmax_max=results[1],
        softmax_sum=results[2],
        attention_in=results[0],
        seed=results[4],
        offset=results[5],
    )
    names = GRADIENTS if version == "v2" else ("dq", "dk", "dv", "dpse", "dsink")
    again = Statement(replayed(call, results, with_mask=False), dtype)
    answers = again.backward(dy, *results[:3])
    if is_slope(call):  # the documented gradient of slopes is none; autograd gives the true one
        answers["dpse"] = None
    check_gradients(answers, line, dict(zip(names, gradients)))


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

    call, dtype, line = draw(seed, version)
    tensors = {k: to_torch(v) if isinstance(v, np.ndarray) else v for k, v in call.items()}
    inputs = [name for name in DIFFERENTIABLE if name in tensors]
    for name in inputs:
        tensors[name].requires_grad_()
    if version == "v3":  # lengths are tensors there
        for name in ("actual_seq_qlen", "actual_seq_kvlen"):
            if name in tensors:
                tensors[name] = torch.tensor(tensors[name])
    results = quiet(function(front, version), **spelled(tensors, version))
    dy = gradient_seed(call, dtype, tuple(results[0].shape))
    results[0].backward(to_torch(dy))
    arrays = [to_numpy(r) if isinstance(r, torch.Tensor) else r for r in results]
    statement = Statement(replayed(call, arrays, with_mask=True), dtype)
    check_forward(statement, line, arrays)
    gradients = {
        gradient: to_numpy(tensors[name].grad) for name, gradient in GRADIENT_OF.items() if name in inputs
    }
    check_gradients(statement.backward(dy, *arrays[:3]), line, gradients)


def test_zz_report(capsys):
    with capsys.disabled():
        said = ", ".join(f"{name} {value:.2f}" for name, value in sorted(worst.items()))
        print(f"\nfamily calls: {COUNT}, fresh seeds from {FRESH}; worst error / bound: {said}")
