"""torch.autograd.gradcheck in float64: the documented gradients are derivatives of the documented output.

The kernels hold float32 sums, too coarse for differences of outputs. They are held to the statement within a
bound (test_family_calls.py), and the statement, which is float64 throughout, to the derivative here.
"""

from __future__ import annotations

import numpy as np
import pytest
from family_options import compressed_mask
from statement import GRADIENT_OF, Statement

torch = pytest.importorskip("torch")
from torch.autograd.gradcheck import GradcheckError  # noqa: E402


class Documented(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, *tensors):
        call = {**call, **{name: x.detach().numpy() for name, x in zip(call["names"], tensors)}}
        statement = Statement(call, "float32")  # the dtype tells the bound alone
        out, tops, totals = statement.forward()
        ctx.statement, ctx.names = statement, call["names"]
        ctx.saved = out.value, *(statement.statistics(x).value for x in (tops, totals))
        return torch.from_numpy(out.value.copy())

    @staticmethod
    def backward(ctx, dy):
        answers = ctx.statement.backward(dy.numpy(), *ctx.saved)
        found = (answers[GRADIENT_OF[name]].value for name in ctx.names)
        return None, *(torch.from_numpy(np.ascontiguousarray(x)) for x in found)


def call_of(layout="BNSD", rows=5, keys=6, heads=(4, 2), depth=3, value_depth=2, **options):
    """Shapes of one call and its options; arrays are drawn by the test."""
    shapes = {
        name: {"BNSD": (2, n, s, d), "BSH": (2, s, n * d), "TND": (s, n, d)}[layout]
        for name, n, s, d in (
            ("query", heads[0], rows, depth),
            ("key", heads[1], keys, depth),
            ("value", heads[1], keys, value_depth),
        )
    }
    return shapes, {"head_num": heads[0], "input_layout": layout, "scale": 0.6, **options}


HIDDEN = np.random.default_rng(3).random((5, 6)) < 0.4
HIDDEN[2] = True  # a row that sees nothing
DROPOUT = {"keep_prob": 0.6, "seed": 11, "offset": 4}
LISTS = {"actual_seq_qlen": [2, 5], "actual_seq_kvlen": [4, 6]}
SLOPES = {"q_start_idx": [3], "kv_start_idx": [1]}
CASES = {
    "plain": (call_of(), {}),
    "BSH, dense mask": (call_of("BSH", atten_mask=HIDDEN), {}),
    "causal": (call_of(atten_mask=compressed_mask(2048), sparse_mode=2), {}),
    "prefix": (call_of(atten_mask=compressed_mask(3072), sparse_mode=6, prefix=[2, 4]), {}),
    "dropout": (call_of(atten_mask=HIDDEN, **DROPOUT), {}),
    "sink": (call_of(atten_mask=HIDDEN), {"sink": (4,)}),
    "pse 0": (call_of(pse_type=0), {"pse": (1, 4, 5, 6)}),
    "pse 1, of rows": (call_of(pse_type=1, **DROPOUT), {"pse": (2, 1, 1, 6)}),
    "slopes": (call_of(pse_type=2, **SLOPES), {"pse": (2, 4)}),
    "slopes of roots": (call_of(pse_type=3), {"pse": (4,)}),
    "rope": (call_of(), {"query_rope": (2, 4, 5, 2), "key_rope": (2, 2, 6, 2)}),
    "packed": (call_of("TND", **LISTS, **DROPOUT), {"sink": (4,)}),
    "packed, bottom right": (
        call_of("TND", atten_mask=compressed_mask(2048), sparse_mode=3, **LISTS),
        {"pse": (4 * (2 * 4 + 3 * 2),)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_derivatives(case):
    (shapes, call), more = CASES[case]
    rng = np.random.default_rng(len(case))
    shapes = {**shapes, **more}
    tensors = [torch.from_numpy(rng.standard_normal(s)).requires_grad_() for s in shapes.values()]
    function = lambda *x: Documented.apply({**call, "names": [*shapes]}, *x)  # noqa: E731
    torch.autograd.gradcheck(function, tensors, atol=1e-7, rtol=1e-6)


def test_a_wrong_gradient_is_seen(monkeypatch):
    backward = Statement.backward

    def wrong(self, *given):
        answers = backward(self, *given)
        answers["dk"].value *= 1 + 1e-3
        return answers

    monkeypatch.setattr(Statement, "backward", wrong)
    with pytest.raises(GradcheckError):
        test_gradients_are_derivatives("plain")
