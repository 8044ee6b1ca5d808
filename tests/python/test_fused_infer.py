"""Random calls of the decoding operators, NumPy and torch, against the documents' numbers.

FUSION_ATTENTION_INFER_CALLS sets the number; half of the seeds are fixed, half are fresh. A failure prints
the line of the call: `draw(seed, which)` gives it back.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from fused_infer_draw import draw, spelled
from statement_fused_infer import FusedInfer
from test_family_calls import quiet, ratio, to_torch, worst

COUNT = int(os.environ.get("FUSION_ATTENTION_INFER_CALLS", "240"))
FRESH = int(os.environ["FUSION_ATTENTION_SEED"])  # conftest.py
SEEDS = [*range(COUNT // 2), *(FRESH + i for i in range(COUNT - COUNT // 2))]
KINDS = ("v1", "v2", "incre", "v1")
NAMES = {
    "incre": "npu_incre_flash_attention",
    "mindspore": "incre_flash_attention",
    "v1": "npu_fused_infer_attention_score",
    "v2": "npu_fused_infer_attention_score_v2",
}


def check(call: dict, dtype: str, line: str, which: str, results) -> None:
    out, lse = FusedInfer(call, dtype).answer()
    first = results if which == "incre" else results[0]
    assert np.asarray(first).shape == out.value.shape, line
    ratio("attention_out", first, out, line)
    if which == "incre":
        return
    if not call.get("softmax_lse_flag"):
        assert np.asarray(results[1]).shape == (0,), line
        return
    nothing = np.isinf(lse.value)
    got = np.asarray(results[1], np.float64)
    assert got.shape == lse.value.shape, line
    assert np.array_equal(np.isposinf(got), nothing), f"+inf of softmax_lse\n  {line}"
    lse.value[nothing] = 0
    ratio("softmax_lse", np.where(nothing, 0, got), lse, line)


@pytest.mark.parametrize("seed", SEEDS)
def test_numpy(seed):
    import fusion_attention.inference.numpy as front

    which = KINDS[seed % len(KINDS)]
    call, dtype, line = draw(seed, which)
    check(call, dtype, line, which, quiet(getattr(front, NAMES[which]), **spelled(call, which)))


@pytest.mark.parametrize("seed", SEEDS[::4])
def test_torch(seed):
    torch = pytest.importorskip("torch")
    import fusion_attention.inference.torch as front

    which = KINDS[seed // 4 % len(KINDS)]
    call, dtype, line = draw(seed, which)
    words = {name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in call.items()}
    results = quiet(getattr(front, NAMES[which]), **spelled(words, which))
    arrays = [x.float().numpy() for x in ((results,) if isinstance(results, torch.Tensor) else results)]
    check(call, dtype, line, which, arrays[0] if which == "incre" else arrays)


def test_mindspore_spelling():
    import fusion_attention.inference.numpy as front

    call, dtype, line = draw(3, "incre")
    names = {"actual_seq_lengths_kv": "actual_seq_lengths", "scale": "scale_value", "atten_mask": "attn_mask"}
    words = {names.get(name, name): word for name, word in call.items()}
    check(call, dtype, line, "incre", quiet(front.incre_flash_attention, **words))


def test_zz_report(capsys):
    with capsys.disabled():
        said = ", ".join(f"{name} {value:.2f}" for name, value in sorted(worst.items()))
        print(f"\ninference calls: {COUNT}, fresh seeds from {FRESH}; worst error / bound: {said}")
