"""The mindspeed layer: its functions, the builders beneath them, and a genuine mindspeed that loads ours."""

import importlib
import inspect
import sys

import pytest

torch = pytest.importorskip("torch", reason="the layers are for torch, which is not installed")
import fusion_attention  # noqa: E402
from fusion_attention.torch import npu_fusion_attention_grad_v2, npu_fusion_attention_v2  # noqa: E402

INT_MAX = 2147483647
MASK = torch.ones(2048, 2048, dtype=torch.bool).triu(1)


@pytest.fixture
def module():
    fusion_attention.enable("mindspeed")
    yield importlib.import_module("mindspeed.ops.fusion_attention_v2")
    fusion_attention.disable()


def tensors():
    torch.manual_seed(0)
    return [torch.randn(2, 4, 7, 16).requires_grad_() for _ in range(3)]


def test_signatures_of_the_document(module):
    assert module.__all__ == ["npu_fusion_attention"]
    forward = inspect.signature(module.npu_fusion_attention)
    assert str(forward.replace(return_annotation=forward.empty)).count("=") == 17
    expected = {"scale": 1.0, "keep_prob": 1.0, "pre_tokens": INT_MAX, "next_tokens": INT_MAX}
    expected |= {
        "inner_precise": 0,
        "sparse_mode": 0,
        "gen_mask_parallel": True,
        "sync": False,
        "pse_type": 1,
    }
    none = ["pse", "padding_mask", "atten_mask", "prefix", "actual_seq_qlen", "actual_seq_kvlen"]
    none += ["q_start_idx", "kv_start_idx"]
    saved = ["softmax_max", "softmax_sum", "softmax_in", "attention_in"]
    backward = inspect.signature(module.npu_fusion_attention_grad)
    for signature, defaults in (
        (forward, {**expected, **dict.fromkeys(none)}),
        (backward, {**expected, **dict.fromkeys(none + saved), "seed": 1234, "offset": 0, "numels": 0}),
    ):
        keywords = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
        assert keywords == defaults
    positional = [p.name for p in backward.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["query", "key", "value", "grad_outputs", "head_num", "input_layout"]


CALLS = {
    "causal": {"atten_mask": MASK, "sparse_mode": 2},
    "slopes": {"pse": torch.ones(4), "pse_type": 3, "q_start_idx": [3], "kv_start_idx": [1]},
    "pse": {"pse": torch.linspace(-1, 1, 28).reshape(1, 4, 1, 7)},
    "band": {"atten_mask": MASK, "sparse_mode": 4, "pre_tokens": 2, "next_tokens": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_functions_and_builders_are_torch_npus_v2(module, name):
    options = CALLS[name]
    operands = tensors()
    expected = npu_fusion_attention_v2(*operands, 4, "BNSD", scale=0.3, **options)
    out, top, total, *rest = module.npu_fusion_attention(*operands, 4, "BNSD", scale=0.3, **options)
    assert torch.equal(out, expected[0]) and torch.equal(top, expected[1]) and len(rest) == 4
    dy = torch.randn_like(out)
    saved = {"softmax_max": top, "softmax_sum": total, "attention_in": out.detach()}
    plain = [x.detach() for x in operands]
    found = module.npu_fusion_attention_grad(*plain, dy, 4, "BNSD", scale=0.3, **saved, **options)
    wanted = npu_fusion_attention_grad_v2(*plain, dy, 4, "BNSD", scale_value=0.3, **saved, **options)
    assert len(found) == 4 and all(
        (a is None and b is None) or torch.equal(a, b) for a, b in zip(found, wanted)
    )
    for a, b in zip(found[:3], torch.autograd.grad(out, operands, dy)):
        torch.testing.assert_close(a, b)
    loaded = importlib.import_module("mindspeed.op_builder").FusionAttentionV2OpBuilder().load()
    given = {"keep_prob": 1.0, "pre_tokens": INT_MAX, "next_tokens": INT_MAX, "sparse_mode": 0, "pse_type": 1}
    given |= options
    tail = (
        *(given["keep_prob"], given["pre_tokens"], given["next_tokens"], 0),
        *(None, None, None, given["sparse_mode"], True, False),
        *(given["pse_type"], given.get("q_start_idx"), given.get("kv_start_idx")),
    )
    scores = (given.get("pse"), None, given.get("atten_mask"))
    positional = loaded.npu_fusion_attention_v2(*plain, 4, "BNSD", *scores, 0.3, *tail)
    assert torch.equal(positional[0], out)
    seeds = (0, 0, 0)
    tail = (*tail[:4], *seeds, *tail[4:])
    positional = loaded.npu_fusion_attention_grad_v2(
        *plain, dy, 4, "BNSD", *scores, top, total, None, out.detach(), 0.3, *tail
    )
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(positional, found))


def test_dropout_is_the_documents_and_not_mindspeeds(module):
    """The genuine one drops nothing at this keep_prob (training-ops 6.4); ruling 8 follows the documents."""
    from fusion_attention import generator

    operands, dy = tensors(), torch.randn(2, 4, 7, 16)
    generator.manual_seed(5)
    out, top, total, _, seed, offset, numels = module.npu_fusion_attention(
        *operands, 4, "BNSD", scale=0.3, keep_prob=0.5
    )
    assert (seed, offset, numels) == (5, 0, 2 * 4 * 7 * 7)
    assert not torch.equal(out, module.npu_fusion_attention(*operands, 4, "BNSD", scale=0.3)[0])
    found = module.npu_fusion_attention_grad(
        *(x.detach() for x in operands), dy, 4, "BNSD",
        softmax_max=top, softmax_sum=total, attention_in=out.detach(),
        scale=0.3, keep_prob=0.5, seed=seed, offset=offset, numels=numels,
    )  # fmt: skip
    for a, b in zip(found[:3], torch.autograd.grad(out, operands, dy)):
        torch.testing.assert_close(a, b)


def test_refusals_in_the_words_of_the_document(module):
    operands = [x.detach() for x in tensors()]
    out, top, total, *_ = module.npu_fusion_attention(*operands, 4, "BNSD")
    saved = {"softmax_max": top, "softmax_sum": total, "attention_in": out}
    for error, sentence, call in (
        (RuntimeError, "head_num: got 3", lambda: module.npu_fusion_attention(*operands, 3, "BNSD")),
        (TypeError, "sink", lambda: module.npu_fusion_attention(*operands, 4, "BNSD", sink=None)),
        (TypeError, "positional", lambda: module.npu_fusion_attention(*operands, 4, "BNSD", None)),
        (RuntimeError, "grad_outputs: got", lambda: module.npu_fusion_attention_grad(
            *operands, out[0], 4, "BNSD", **saved)),
        (RuntimeError, "scale: got nan", lambda: module.npu_fusion_attention_grad(
            *operands, out, 4, "BNSD", scale=float("nan"), **saved)),
        (RuntimeError, "attention_in: got None", lambda: module.npu_fusion_attention_grad(
            *operands, out, 4, "BNSD", **{**saved, "attention_in": None})),
    ):  # fmt: skip
        with pytest.raises(error, match=sentence):
            call()
    builders = importlib.import_module("mindspeed.op_builder")
    loaded = builders.FusionAttentionV2OpBuilder().load()
    with pytest.raises(
        TypeError, match="npu_fusion_attention_v2: got 1 arguments after input_layout, allowed are 17"
    ):
        loaded.npu_fusion_attention_v2(*operands, 4, "BNSD", None)
    with pytest.raises(RuntimeError, match='MindSpeedOpBuilder: got "gmm", allowed are fusion_attention_v2'):
        importlib.import_module("mindspeed.op_builder.builder").MindSpeedOpBuilder("gmm").load()


GENUINE = """
import torch_npu


class MindSpeedOpBuilder:
    def __init__(self, name):
        self.name = name

    def load(self, verbose=True):
        return f"compiled {self.name}"
"""


@pytest.fixture
def genuine(tmp_path, monkeypatch):
    """A package that is laid out as mindspeed and would compile its operators."""
    folder = tmp_path / "mindspeed" / "op_builder"
    folder.mkdir(parents=True)
    (tmp_path / "mindspeed" / "__init__.py").write_text("genuine = True\n")
    (folder / "__init__.py").write_text("")
    (folder / "builder.py").write_text(GENUINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    fusion_attention.disable()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mindspeed"]:
        del sys.modules[name]


def test_a_genuine_mindspeed_loads_our_operators(genuine):
    fusion_attention.enable("mindspeed", "torch_npu")  # in any order
    builder = importlib.import_module("mindspeed.op_builder.builder").MindSpeedOpBuilder
    assert importlib.import_module("mindspeed").genuine
    loaded = builder("fusion_attention_v2").load()
    assert callable(loaded.npu_fusion_attention_v2) and callable(loaded.npu_fusion_attention_grad_v2)
    assert callable(builder("npu_ring_attention_update").load(verbose=False).npu_ring_attention_update)
    assert builder("gmm").load() == "compiled gmm"
    assert callable(importlib.import_module("npu_fusion_attention"))
    fusion_attention.disable()
    assert builder("fusion_attention_v2").load() == "compiled fusion_attention_v2"


def test_a_genuine_mindspeed_that_cannot_be_imported_is_refused(genuine):
    with pytest.raises(
        RuntimeError, match="beside a genuine mindspeed whose op_builder fails to import"
    ) as refusal:
        fusion_attention.enable("mindspeed")  # it needs torch_npu
    assert "\n" not in str(refusal.value)
    assert not any(name.startswith("npu_fusion") for name in sys.modules)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("npu_fusion_attention")


# --- npu_fused_attention_score ---


@pytest.fixture
def score():
    fusion_attention.enable("torch_npu")
    yield importlib.import_module("torch_npu").npu_fused_attention_score
    fusion_attention.disable()


@pytest.mark.parametrize("shape", [(2, 4, 7, 7), (2, 1, 7, 7), (2, 1, 1, 7)])
def test_fused_attention_score(score, shape):
    operands = tensors()
    mask = torch.randn(shape)
    mask[..., 4:] = -10000.0
    out = score(*operands, mask, 0.3, 1)
    q, k, v = (x.double() for x in operands)
    weights = torch.softmax(q @ k.transpose(-1, -2) * 0.3 + mask.double(), -1)
    expected = (weights @ v).permute(0, 2, 1, 3).reshape(2 * 7, 4 * 16)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    dy = torch.randn_like(expected)
    ours = torch.autograd.grad(out, operands, dy.float())
    for a, b in zip(ours, torch.autograd.grad(expected, operands, dy)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.ops.npu.npu_fused_attention_score(*operands, mask, 0.3, 1.0), out)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({3: None}, RuntimeError, "attention_mask: got None"),
        ({3: torch.zeros(2, 4, 7, 8)}, RuntimeError, "attention_mask: got"),
        ({0: torch.ones(2, 7, 16)}, RuntimeError, "query_layer: got rank 3"),
        ({0: 1}, TypeError, "query_layer: got int"),
        ({1: torch.ones(2, 4, 7, 8)}, RuntimeError, "key_layer: got"),
        ({5: 0.0}, RuntimeError, "keep_prob: got 0"),
        ({6: True}, RuntimeError, "query_transpose: got True, allowed is False"),
    ],
)
def test_refusals_of_fused_attention_score(score, change, error, sentence):
    arguments = [*tensors(), torch.zeros(2, 1, 1, 7), 0.3, 1.0, False]
    score(*arguments)
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(error, match=sentence):
        score(*arguments)
