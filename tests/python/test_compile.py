"""torch.compile(fullgraph=True): forward and backward, dense and packed, without a graph break."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import fusion_attention.torch as front  # noqa: E402

BACKENDS = ["eager", "aot_eager", "inductor"]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def operands(*shape, count=3, grad=True):
    return [torch.randn(shape, requires_grad=grad) for _ in range(count)]


def check(function, given, backend, dynamic=None, compiled=None):
    """Results and gradients of the compiled function equal those of the plain one, bit for bit."""
    compiled = compiled or torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)
    expected, results = function(*given), compiled(*given)
    assert len(expected) == len(results)
    for a, b in zip(expected, results):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b and type(a) is type(b)
        if isinstance(a, torch.Tensor):
            assert a.stride() == b.stride()
    leaves = [x for x in given if x.requires_grad]
    if leaves:
        dy = torch.randn_like(expected[0])
        for a, b in zip(
            torch.autograd.grad(expected[0], leaves, dy), torch.autograd.grad(results[0], leaves, dy)
        ):
            assert torch.equal(a, b)
    return compiled


MASK = torch.triu(torch.ones(2048, 2048, dtype=torch.bool), 1)


def version_1(query, key, value):
    return front.npu_fusion_attention(query, key, value, 4, "BSND", atten_mask=MASK, sparse_mode=3, scale=0.3)


def version_1_with_seed(query, key, value):
    return front.npu_fusion_attention(query, key, value, 4, "BSND", scale=0.3, seed=5, offset=8)


def version_2(query, key, value):
    return front.npu_fusion_attention_v2(query, key, value, 4, "BNSD", scale=0.3)


def version_3(query, key, value):
    return front.npu_fusion_attention_v3(
        query, key, value, 4, "BSND", atten_mask=MASK, sparse_mode=2, scale=0.3
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [version_1, version_1_with_seed, version_3])
def test_dense(function, backend, dynamic):
    check(function, operands(2, 7, 4, 8), backend, dynamic)


@pytest.mark.parametrize("grad", [True, False])
def test_version_2_with_and_without_gradients(grad):
    check(version_2, operands(2, 4, 7, 8, grad=grad), "aot_eager")


def packed_lists(query, key, value):
    return front.npu_fusion_attention(
        query,
        key,
        value,
        4,
        "TND",
        actual_seq_qlen=[3, 9],
        actual_seq_kvlen=(3, 9),
        sparse_mode=3,
        atten_mask=MASK,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_with_lists(backend):
    check(packed_lists, operands(9, 4, 8), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_with_tensors_needs_one_graph_for_all_lengths(backend):
    def function(query, key, value, ends):
        return front.npu_fusion_attention_v3(
            query,
            key,
            value,
            4,
            "TND",
            actual_seq_qlen=ends,
            actual_seq_kvlen=ends,
            atten_mask=MASK,
            sparse_mode=2,
        )

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    given = operands(9, 4, 8)
    for ends in ([3, 9], [1, 9], [9, 9], [0, 4]):
        check(function, [*given, torch.tensor(ends)], backend, compiled=compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_packed_lists_as_arguments():
    """Lists of another content are another graph or a symbolic one, never a wrong answer."""

    def function(query, key, value, ends):
        return front.npu_fusion_attention(
            query, key, value, 4, "TND", actual_seq_qlen=ends, actual_seq_kvlen=ends
        )

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    given = operands(9, 4, 8, grad=False)
    for ends in ([3, 9], [1, 9], [2, 7], [4, 8]):
        for a, b in zip(function(*given, ends), compiled(*given, ends)):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_sizes_that_change():
    def function(query, key, value):
        return front.npu_fusion_attention(
            query, key, value, query.size(2), "BSND", scale=query.size(3) ** -0.5
        )

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (5, 6, 40):
        check(function, operands(2, rows, 4, 8), "aot_eager", compiled=compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_gradient_function():
    def function(query, key, value, dy, top, total, out):
        return front.npu_fusion_attention_grad_v3(
            query, key, value, dy, 4, "BSND", softmax_max=top, softmax_sum=total, attention_in=out
        )

    given = operands(2, 7, 4, 8, grad=False)
    out, top, total, *_ = front.npu_fusion_attention_v3(*given, 4, "BSND")
    check(function, [*given, torch.randn_like(out), top, total, out], "aot_eager")


def test_inside_a_model_under_autocast():
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)

        def forward(self, x):
            query, key, value = self.qkv(x).unflatten(-1, (3, 4, 8)).unbind(2)  # views of one buffer
            y = front.npu_fusion_attention(
                query, key, value, 4, "BSND", atten_mask=MASK, sparse_mode=3, scale=0.35
            )[0]
            return self.out(y.flatten(2))

    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 11, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    losses = []
    for module in (model, compiled):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        y.float().square().sum().backward()
        losses.append([y, *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*losses):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
