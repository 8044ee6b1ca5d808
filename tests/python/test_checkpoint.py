"""torch.utils.checkpoint: what is computed again drops what was dropped the first time."""

import pytest

torch = pytest.importorskip("torch")
import fusion_attention  # noqa: E402
from fusion_attention import generator  # noqa: E402
from fusion_attention.torch import npu_fusion_attention, npu_fusion_attention_v3  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

FUNCTIONS = [npu_fusion_attention, npu_fusion_attention_v3]


def block(function, x):
    """Two draws of dropout, ours and torch's in turn."""
    for _ in range(2):
        x = function(x, x, x, 2, "BSND", scale=0.3, keep_prob=0.5)[0]
        x = torch.nn.functional.dropout(x, 0.25)
    return x


def results(function, how):
    """Output, gradient, and the generator's state at the end."""
    generator.manual_seed(5)
    torch.default_generator.manual_seed(5)
    x = torch.randn(1, 40, 2, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = block(function, x) if how is None else checkpoint(block, function, x, **how)
    npu_fusion_attention(x.detach(), x.detach(), x.detach(), 2, "BSND", keep_prob=0.5)  # another draw between
    out.square().sum().backward()
    return out.detach(), x.grad, generator.default.state()


def same(ours, theirs):
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert ours[2] == theirs[2], "the generator goes on where it stood"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_contexts_replay(function):
    plain = results(function, None)
    how = {"use_reentrant": False}
    assert not torch.equal(results(function, how)[1], plain[1])  # what the contexts are for
    same(results(function, how | {"context_fn": generator.checkpoint_contexts}), plain)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_at_the_device_level_nothing_is_asked_for(function, reentrant):
    before = torch.get_rng_state
    fusion_attention.enable("torch_npu", device=True)
    try:
        same(results(function, {"use_reentrant": reentrant}), results(function, None))
        state = torch.get_rng_state()
        first = generator.draw()
        torch.set_rng_state(state)
        assert generator.draw() == first
    finally:
        fusion_attention.disable()
    assert torch.get_rng_state is before


def test_a_graph_kept_is_computed_again_twice():
    generator.manual_seed(3)
    x = torch.randn(1, 40, 2, 16).requires_grad_()
    how = {"use_reentrant": False, "context_fn": generator.checkpoint_contexts}
    out = checkpoint(block, npu_fusion_attention, x, **how)
    gradients = [torch.autograd.grad(out.sum(), x, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*gradients)
