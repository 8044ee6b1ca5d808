"""The interface documents' own examples, run as they stand; results against dense float64 arithmetic."""

import runpy
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the examples are torch scripts, torch is not installed")
import fusion_attention  # noqa: E402
from fusion_attention.ascend import exclusive_tokens  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def layers(monkeypatch):
    monkeypatch.setattr(exclusive_tokens, "_told", False)
    fusion_attention.enable("torch_npu", "mindspeed", "ascendspeed", device=True)
    torch.manual_seed(0)
    yield
    fusion_attention.disable()


def run(name):
    """The names that the script leaves behind, and the sentences it was told."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return names, [str(warning.message) for warning in told if warning.category is UserWarning]


def check(operands, results, dy, keep, scale, limit):
    """Output and gradients of some heads [B, S, D] each; `limit` is relative to the largest entry."""
    query, key, value = (x.detach().double().requires_grad_() for x in operands)
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~keep, float("-inf"))
    out = torch.softmax(scores, -1) @ value
    expected = (out, *torch.autograd.grad(out, (query, key, value), dy.double()))
    for name, ours, theirs in zip(("out", "dq", "dk", "dv"), results, expected):
        if ours is not None:
            error = (ours.double() - theirs).abs().max() / theirs.abs().max()
            assert error <= limit, f"{name}: {error:.2e} is above {limit:.0e}"


@pytest.mark.parametrize(
    ("name", "limit"), [("ascend_flash_attention.py", 2e-5), ("fusion_attention_v2.py", 4e-3)]
)
def test_the_examples_of_2048_tokens_are_causal(name, limit):
    seen, told = run(name)
    assert [sentence for sentence in told if "rows and columns exchanged" in sentence] == [
        "atten_mask: read with rows and columns exchanged: "
        "only so does it agree with pre_tokens and next_tokens"
    ]
    operands = [seen[word] for word in ("query", "key", "value")]
    assert seen["result"].shape == operands[0].shape == (1, 32, 2048, 128)
    assert seen["result"].dtype == operands[0].dtype
    keep = torch.ones(2048, 2048, dtype=torch.bool).tril()
    for head in (0, 17, 31):
        results = [seen["result"], *(x.grad for x in operands)]
        check(
            [x[:, head] for x in operands],
            [x[:, head] for x in results],
            seen["attention_score_grad"][:, head],
            keep,
            seen["scale_value"],
            limit,
        )


def test_the_gradients_of_ascend_flash_attention_are_where_its_example_looks():
    seen, _ = run("ascend_flash_attention.py")
    for word in ("query", "key", "value"):
        assert (seen[f"{word}_grad"] == seen[word].grad.numpy()).all()


def test_the_usage_of_npu_flash_attention():
    seen, told = run("npu_flash_attention.py")
    assert not told
    n, d = seen["head_num"], seen["head_dim"]
    keep = torch.ones(seen["seq_size"], seen["seq_size"], dtype=torch.bool).tril()
    assert torch.equal(seen["bound_score"][0], seen["score"][0])
    for head in range(n):
        at = slice(head * d, (head + 1) * d)
        operands = [seen[word][..., at] for word in ("query", "key", "value")]
        single = [x[..., at] for x in (seen["score"][0], *seen["grad"][:3])]
        check(operands, single, seen["dy"][..., at], keep, seen["scale"], 4e-3)
        ones = torch.ones_like(operands[0])
        bound = [seen["bound_score"][0][..., at], seen["query_grad"][..., at], None, None]
        check(operands, bound, ones, keep, seen["scale"], 4e-3)
