"""torch.compile(fullgraph=True): forward and backward, dense and packed, without a graph break."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import fusion_attention.torch as front  # noqa: E402
from fusion_attention import generator  # noqa: E402

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


def random_version_3(query, key, value):
    """Two calls: each draws a pair of its own."""
    first = front.npu_fusion_attention_v3(query, key, value, 4, "BSND", scale=0.3, keep_prob=0.5)
    second = front.npu_fusion_attention_v3(query, key, value, 4, "BSND", scale=0.3, keep_prob=0.5)
    return (first[0] + second[0], *first[1:], *second[1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_draws_at_every_run(backend):
    given = operands(2, 7, 4, 8)
    compiled = torch.compile(random_version_3, fullgraph=True, backend=backend)
    for seed in (3, 4):
        results, gradients = [], []
        for function in (random_version_3, compiled):
            generator.manual_seed(seed)
            results.append(function(*given))
            gradients.append(torch.autograd.grad(results[-1][0].square().sum(), given))
        for a, b in zip((*results[0], *gradients[0]), (*results[1], *gradients[1])):
            assert torch.equal(a, b)
        assert [x.tolist() for x in results[1][4:6] + results[1][9:]] == [[seed], [0], [seed], [12]]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_dropout_of_version_1_with_a_seed():
    def function(query, key, value):
        return front.npu_fusion_attention(query, key, value, 4, "BSND", keep_prob=0.5, seed=5, offset=8)

    check(function, operands(2, 7, 4, 8), "aot_eager")


def test_dropout_of_version_1_without_a_seed_breaks_the_graph():
    def function(query, key, value):
        return front.npu_fusion_attention(query, key, value, 4, "BSND", keep_prob=0.5)

    given, compiled = operands(2, 7, 4, 8), torch.compile(function, backend="aot_eager")
    for _ in range(2):
        state = generator.default.state()
        expected = function(*given)
        generator.default.set_state(state)
        results = compiled(*given)
        assert torch.equal(expected[0], results[0]) and expected[4:] == results[4:]
    with pytest.raises(torch._dynamo.exc.Unsupported, match="version 3 returns them as tensors"):
        torch.compile(function, backend="eager", fullgraph=True)(*given)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_gradient(backend):
    def function(query, key, value, pse, sink, query_rope, key_rope):
        return front.npu_fusion_attention_v2(
            query,
            key,
            value,
            4,
            "BSND",
            pse=pse,
            sink=sink,
            query_rope=query_rope,
            key_rope=key_rope,
            atten_mask=MASK,
            sparse_mode=3,
        )

    pse, sink = torch.randn(1, 4, 1, 7, requires_grad=True), torch.randn(4, requires_grad=True)
    check(function, [*operands(2, 7, 4, 8), pse, sink, *operands(2, 7, 4, 3, count=2)], backend)
