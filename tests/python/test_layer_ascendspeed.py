"""The ascendspeed layer: ascend_flash_attention in its three orders, npu_flash_attention and its gradient."""

import copy
import importlib
import inspect
import pickle

import pytest

torch = pytest.importorskip("torch", reason="the layers are for torch, which is not installed")
import fusion_attention  # noqa: E402
from fusion_attention import generator  # noqa: E402
from fusion_attention.ascend import exclusive_tokens  # noqa: E402
from fusion_attention.torch import _npu_dropout_gen_mask, npu_fusion_attention_v2  # noqa: E402

B, N, S, D = 2, 2, 7, 16


@pytest.fixture(autouse=True)
def ascendspeed(monkeypatch):
    monkeypatch.setattr(exclusive_tokens, "_told", False)
    fusion_attention.enable("ascendspeed")
    yield
    fusion_attention.disable()


def attend(*args, **kwargs):
    return importlib.import_module("ascendspeed.te.ops").ascend_flash_attention(*args, **kwargs)


@pytest.fixture
def ops():
    return importlib.import_module("ascendspeed.ops")


def tensors(dtype=torch.float32, heads=(N, N, N), keys=S, seed=0):
    """BNSD query, key, value that require gradients, and the gradient of the output."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(B, heads[0], S, D), (B, heads[1], keys, D), (B, heads[2], keys, D), (B, heads[0], S, D)]
    *operands, dy = (torch.randn(shape, generator=g).to(dtype) for shape in shapes)
    return [x.requires_grad_() for x in operands], dy


def pack(x, layout):
    """BNSD as BSH or SBH."""
    return {"BSH": x.permute(0, 2, 1, 3).flatten(2), "SBH": x.permute(2, 0, 1, 3).flatten(2), "BNSD": x}[
        layout
    ]


def reference(query, key, value, keep, scale, bias=0.0, kept=1.0):
    """Dense float64: bias after the scale; `kept` is bits / keep_prob."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(group, 1) for x in (key, value))
    scores = (query.double() @ key.transpose(-1, -2) * scale + bias).masked_fill(~keep, float("-inf"))
    return (torch.softmax(scores, -1).nan_to_num(0.0) * kept) @ value


def bits(seed, offset, keep_prob, keys=S):
    """The dropout factors of a call, from its seed and offset."""
    packed = _npu_dropout_gen_mask(torch.ones(1), [B, N, S, keys], 1 - keep_prob, seed, offset)
    e = torch.arange(B * N * S * keys)
    return ((packed[e // 8] >> (e % 8)) & 1).reshape(B, N, S, keys).double() / keep_prob


def same(ours, theirs):
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=2e-6)


def same_gradients(out, expected, operands, dy):
    ours = torch.autograd.grad(out, operands, dy, retain_graph=True)
    for a, b in zip(ours, torch.autograd.grad(expected, operands, dy.double()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


CAUSAL = torch.ones(S, S, dtype=torch.bool).triu(1)

# --- ascend_flash_attention ---


@pytest.mark.parametrize("layout", ["BNSD", "BSH", "SBH"])
@pytest.mark.parametrize("alibi", [None, (B, N, S), (B, N, 1, S), (1, N, S, S), (B, 1, S, S)], ids=str)
def test_the_13_arguments(layout, alibi):
    operands, dy = tensors()
    bias = None if alibi is None else torch.randn(alibi, requires_grad=True)
    packed = [pack(x, layout) for x in operands]
    out = attend(*packed, CAUSAL.half(), bias, 0.3, 0.5, N, layout, 1.0, 65536, 1, 0)
    wide = 0.0 if bias is None else bias.double().unsqueeze(2) if bias.dim() == 3 else bias.double()
    expected = pack(reference(*operands, ~CAUSAL, 0.15, wide), layout)
    same(out, expected)
    wanted = operands if bias is None else [*operands, bias]
    same_gradients(out, expected, wanted, pack(dy, layout))


def test_defaults_are_full_attention_in_bnsd():
    operands, _ = tensors()
    everything = torch.ones(S, S, dtype=torch.bool)
    heads_one = [x[:, :1] for x in operands]
    same(attend(*heads_one), reference(*heads_one, everything, 1.0))
    out = attend(*operands, head_num=N, next_tokens=1, scale_value=0.5)
    same(out, reference(*operands, everything, 0.5))


@pytest.mark.parametrize(("layout", "name"), [(0, "BNSD"), (1, "BSH"), (2, "SBH")])
def test_the_14_arguments(layout, name, recwarn):
    operands, dy = tensors()
    packed = [pack(x, name) for x in operands]
    mask = CAUSAL.T.float()  # as the document writes it: the past hidden
    out = attend(*packed, mask, None, None, 0.3, N, layout, 1.0, 65536, 1, 0, -1)
    expected = pack(reference(*operands, ~CAUSAL, 0.3), name)
    same(out, expected)
    same_gradients(out, expected, operands, pack(dy, name))
    told = [w for w in recwarn if "rows and columns exchanged" in str(w.message)]
    assert len(told) == 1 and told[0].filename == __file__


def test_a_drop_mask_is_used_as_it_is():
    operands, dy = tensors()
    drop = _npu_dropout_gen_mask(torch.ones(1), [B, N, S, S], 0.25, 5, 7)
    out = attend(*operands, None, None, drop, 0.3, N, 0, 0.75, 65536, 1, 0, -1)
    everything = torch.ones(S, S, dtype=torch.bool)
    expected = reference(*operands, everything, 0.3, kept=bits(5, 7, 0.75))
    same(out, expected)
    same_gradients(out, expected, operands, dy)


def test_dropout_draws_and_replays():
    operands, dy = tensors()
    generator.manual_seed(11)
    out = attend(*operands, None, None, 0.3, 1.0, N, "BNSD", 0.5)
    expected = reference(*operands, torch.ones(S, S, dtype=torch.bool), 0.3, kept=bits(11, 0, 0.5))
    same(out, expected)
    same_gradients(out, expected, operands, dy)


@pytest.mark.parametrize("older", [False, True], ids=["17", "15"])
def test_the_fusion_order_is_the_fusion_function(older):
    operands, _ = tensors()
    mask = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
    tail = (True, False) if older else (None, 2, True, False)
    literal = CAUSAL if older else mask
    out = attend(*operands, N, "BNSD", None, None, literal, 0.3, 1.0, 65536, 0, 0, *tail)
    assert len(out) == 7
    expected = npu_fusion_attention_v2(
        *operands, N, "BNSD", atten_mask=mask, sparse_mode=2, scale=0.3, pre_tokens=65536, next_tokens=0
    )
    for a, b in zip(out[:3], expected[:3]):
        assert torch.equal(a, b)
    assert len(attend(*operands, N, "BNSD")) == 7


def test_half_types_and_rows_that_see_nothing():
    for dtype in (torch.float16, torch.bfloat16):
        operands, dy = tensors(dtype)
        mask = CAUSAL.clone()
        mask[3] = True
        out = attend(*operands, mask.to(torch.uint8), None, 0.3, 1.0, N, "BNSD", 1.0, 65536, 1)
        assert out.dtype == dtype and (out[:, :, 3] == 0).all()
        expected = reference(*operands, ~mask, 0.3)
        torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2)
        out.backward(dy)
        assert (operands[0].grad[:, :, 3] == 0).all()


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({3: torch.zeros(S, S, dtype=torch.int64)}, RuntimeError, "atten_mask: got torch.int64"),
        ({3: "mask"}, TypeError, "atten_mask: got str"),
        ({3: torch.zeros(S, S + 1)}, RuntimeError, "atten_mask: got"),
        ({4: torch.zeros(B, N, S + 1)}, RuntimeError, "alibi_mask: got"),
        ({4: torch.zeros(B, N, S).half()}, RuntimeError, "alibi_mask: got"),
        ({5: "0.3"}, TypeError, "scale_value: got str"),
        ({5: float("nan")}, RuntimeError, "scale_value: got nan"),
        ({6: "1"}, TypeError, "q_scale: got str"),
        ({7: 3}, RuntimeError, "head_num: got 3"),
        ({8: "TND"}, RuntimeError, "query: got"),
        ({8: "BND"}, RuntimeError, 'io_layout: got "BND"'),
        ({8: 4}, TypeError, "io_layout: got int"),
        ({9: 0.0}, RuntimeError, "keep_prob: got 0"),
        ({10: 1.5}, TypeError, "pre_tokens: got float"),
        ({11: -7}, RuntimeError, "next_tokens: got -7 with pre_tokens 65536"),
        ({10: 0, 11: 1}, RuntimeError, "next_tokens: got 1 with pre_tokens 0"),
        ({12: 2}, RuntimeError, "precise_mode: got 2, allowed is 0 or 1"),
    ],
)  # fmt: skip
def test_refusals_of_the_13_arguments(change, error, sentence):
    operands, _ = tensors()
    arguments = [*operands, CAUSAL, None, 0.3, 1.0, N, "BNSD", 1.0, 65536, 1, 0]
    attend(*arguments)
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(error, match=sentence):
        attend(*arguments)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({8: 3}, RuntimeError, "io_layout: got 3, allowed is 0 \\(BNSD\\), 1 \\(BSH\\) or 2 \\(SBH\\)"),
        ({8: "BNSD"}, TypeError, "io_layout: got str"),
        ({13: 1}, RuntimeError, "groups: got 1, allowed is -1"),
        ({5: torch.zeros(3, dtype=torch.uint8)}, RuntimeError, "drop_mask: got 3 bytes"),
        ({5: torch.zeros(40)}, RuntimeError, "drop_mask: got"),
    ],
)
def test_refusals_of_the_14_arguments(change, error, sentence):
    operands, _ = tensors()
    arguments = [*operands, CAUSAL, None, None, 0.3, N, 0, 1.0, 65536, 1, 0, -1]
    attend(*arguments)
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(error, match=sentence):
        attend(*arguments)
    with pytest.raises(TypeError):
        attend(*arguments[:13])


def test_a_token_band_that_leaves_the_last_row_one_key():
    operands, _ = tensors()
    keep = torch.zeros(S, S, dtype=torch.bool)
    keep[-1, 0] = True
    out = attend(*operands, ~keep, None, 0.3, 1.0, N, "BNSD", 1.0, 65536, 2 - S)
    same(out, reference(*operands, keep, 0.3))
    with pytest.raises(RuntimeError, match="next_tokens: got"):
        attend(*operands, ~keep, None, 0.3, 1.0, N, "BNSD", 1.0, 65536, 1 - S)


# --- npu_flash_attention ---


def test_signatures(ops):
    forward = list(inspect.signature(ops.npu_flash_attention).parameters)
    assert " ".join(forward[:14]) == (
        "query key value head_num input_layout pse padding_mask atten_mask scale keep_prob pre_tockens "
        "next_tockens gen_mask_parallel sync"
    )
    backward = list(inspect.signature(ops.npu_flash_attention_grad).parameters)
    assert " ".join(backward[:19]) == (
        "query key value dy head_num input_layout pse padding_mask atten_mask softmax_max softmax_sum "
        "softmax_in attention_in scale_value keep_prob pre_tockens next_tockens gen_mask_parallel sync"
    )
    module = importlib.import_module("ascendspeed.ops.FlashAttention")
    assert module.FlashAttention is ops.FlashAttention and issubclass(ops.FlashAttention, torch.nn.Module)
    with pytest.raises(TypeError):
        ops.FlashAttention(N)


@pytest.mark.parametrize("layout", ["BSH", "SBH", "bsh"])
@pytest.mark.parametrize("heads", [(2, 2, 2), (2, 1, 1)])
def test_forward_and_backward(ops, layout, heads):
    operands, dy = tensors(heads=heads)
    packed = [pack(x, layout.upper()) for x in operands]
    bias = torch.randn(1, N, S, S, requires_grad=True)
    score = ops.npu_flash_attention(*packed, N, layout, bias, None, CAUSAL.half(), 0.3, 1.0, 65536, 0)
    expected = pack(reference(*operands, ~CAUSAL, 0.3, 0.3 * bias.double()), layout.upper())
    assert isinstance(score, list) and len(score) == 1
    same(score[0], expected)
    same_gradients(score[0], expected, [*operands, bias], pack(dy, layout.upper()))


def test_the_result_is_its_tensor(ops):
    operands, dy = tensors()
    packed = [pack(x, "BSH") for x in operands]
    score = ops.npu_flash_attention(*packed, N, "BSH", scale=0.3)
    out = score[0]
    (unpacked,) = score
    assert unpacked is out and score.shape == (B, S, N * D) and score.dtype == out.dtype and score.dim() == 3
    assert torch.equal(torch.relu(score), out.relu()) and torch.equal(torch.stack([score + 0.0])[0], out)
    assert torch.equal(torch.nn.Identity()(score).permute(1, 0, 2), out.permute(1, 0, 2))
    weight = torch.randn(N * D, 3)
    for ours, theirs in (
        (score @ weight, out @ weight),
        (weight.T @ score.transpose(1, 2), weight.T @ out.transpose(1, 2)),
        (torch.nn.functional.linear(score, weight.T), out @ weight),
        (2 * score - score / 2 + 1, 2 * out - out / 2 + 1),
        (1 - score, 1 - out),
        (score + score, out + out),
        (out + score, out + out),
        (-score, -out),
        (abs(score) ** 2, out.abs() ** 2),
        (torch.cat(score), out),
        (torch.cat([score, out]), torch.cat([out, out])),
    ):
        assert torch.equal(ours, theirs)
    assert (score > 0).dtype == torch.bool
    total = score
    total += out
    assert torch.equal(total, 2 * out)
    assert score.softmax_max.shape == score.softmax_sum.shape == (B, N, S, 8)
    score.sum().backward()
    ones = [x.grad.clone() for x in operands]
    for x in operands:
        x.grad = None
    ops.npu_flash_attention(*packed_again(operands), N, "BSH", scale=0.3).backward()
    for x, expected in zip(operands, ones):
        torch.testing.assert_close(x.grad, expected)
        x.grad = None
    ops.npu_flash_attention(*packed_again(operands), N, "BSH", scale=0.3).backward(pack(dy, "BSH"))
    assert not torch.equal(operands[0].grad, ones[0])
    for copied in (copy.copy(score), pickle.loads(pickle.dumps(copy.copy(detached(score))))):
        assert torch.equal(copied[0], out) and torch.equal(copied.softmax_sum, score.softmax_sum)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = score.nothing_of_the_kind


def detached(score):
    return type(score)(score[0].detach(), score.softmax_max, score.softmax_sum, score.seed, score.offset)


def packed_again(operands):
    return [pack(x, "BSH") for x in operands]


def gradient_case(ops, layout="BSH", bias=None, keep_prob=1.0, mask=CAUSAL, heads=(N, N, N), keys=S):
    operands, dy = tensors(heads=heads, keys=keys)
    packed = [pack(x, layout).detach() for x in operands]
    score = ops.npu_flash_attention(*packed, N, layout, bias, None, mask, 0.3, keep_prob)
    kept = bits(score.seed, score.offset, keep_prob, keys) if keep_prob < 1 else 1.0
    wide = 0.0 if bias is None else 0.3 * bias.double()
    keep = torch.ones(S, keys, dtype=torch.bool) if mask is None else ~mask
    expected = reference(*operands, keep, 0.3, wide, kept)
    wanted = torch.autograd.grad(expected, [*operands] + ([bias] if bias is not None else []), dy.double())
    wanted = [pack(g, layout) for g in wanted[:3]] + list(wanted[3:])
    return packed, pack(dy, layout), score, wanted


def check_gradients(found, wanted):
    assert isinstance(found, list) and len(found) == 14
    assert all(found[i] is None for i in (3, 4, *range(6, 14)))
    named = [found.dq, found.dk, found.dv] + ([found.dpse] if len(wanted) > 3 else [])
    assert found[0] is found.dq and found[1] is found.dk and found[2] is found.dv and found[5] is found.dpse
    for ours, theirs in zip(named, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["BSH", "SBH", "BNSD"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("heads", [(2, 2, 2), (2, 1, 1)])
def test_gradient_from_statistics_and_from_the_softmax(ops, layout, biased, heads):
    bias = torch.randn(B, N, 1, S, requires_grad=True) if biased else None
    packed, dy, score, wanted = gradient_case(ops, layout, bias, heads=heads)
    bias = bias.detach() if biased else None
    start = (*packed, dy, N, layout, bias, None, CAUSAL.half())
    found = ops.npu_flash_attention_grad(
        *start, score.softmax_max, score.softmax_sum, None, score, torch.tensor([0.3]), torch.tensor([1.0])
    )
    check_gradients(found, wanted)
    q, k = (unpack(x, layout, n).double() for x, n in zip(packed[:2], heads))
    scores = 0.3 * (q @ k.repeat_interleave(N // k.shape[1], 1).transpose(-1, -2))
    scores = (scores + (0.3 * bias if biased else 0)).masked_fill(CAUSAL, float("-inf"))
    softmax = torch.softmax(scores, -1).float()
    check_gradients(ops.npu_flash_attention_grad(*start, None, None, softmax, score[0], 0.3), wanted)
    assert found.dpse is None or found.dpse.shape == bias.shape


def unpack(x, layout, heads):
    if layout == "BNSD":
        return x
    x = x.unflatten(2, (heads, D))
    return x.permute(0, 2, 1, 3) if layout == "BSH" else x.permute(1, 2, 0, 3)


def test_a_global_softmax_is_honoured(ops):
    """Half of the weight of every row lies on keys of another rank."""
    packed, dy, score, _ = gradient_case(ops, mask=None)
    q, k = (unpack(x, "BSH", N) for x in packed[:2])
    softmax = torch.softmax(0.3 * (q @ k.transpose(-1, -2)), -1) / 2
    halves = ops.npu_flash_attention_grad(
        *packed, dy, N, "BSH", softmax_in=softmax, attention_in=score, scale_value=0.3
    )
    doubled = ops.npu_flash_attention_grad(
        *packed, dy, N, "BSH",
        softmax_max=score.softmax_max, softmax_sum=2 * score.softmax_sum, attention_in=score, scale_value=0.3,
    )  # fmt: skip
    for ours, theirs in zip(halves[:3], doubled[:3]):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_rows_that_see_nothing_in_the_softmax(ops):
    mask = CAUSAL.clone()
    mask[2] = True
    packed, dy, score, wanted = gradient_case(ops, mask=mask)
    softmax = torch.zeros(B, N, S, S)
    found = ops.npu_flash_attention_grad(
        *packed, dy, N, "BSH", atten_mask=mask, softmax_in=softmax, attention_in=score, scale_value=0.3
    )
    assert all((x == 0).all() for x in found[:3])
    statistics = {"softmax_max": score.softmax_max, "softmax_sum": score.softmax_sum}
    check_gradients(
        ops.npu_flash_attention_grad(
            *packed, dy, N, "BSH", atten_mask=mask, **statistics, attention_in=score, scale_value=0.3
        ),
        wanted,
    )


def test_gradient_replays_dropout_when_told(ops):
    packed, dy, score, wanted = gradient_case(ops, keep_prob=0.5)
    saved = {"softmax_max": score.softmax_max, "softmax_sum": score.softmax_sum, "attention_in": score}
    options = {"atten_mask": CAUSAL, "scale_value": 0.3, "keep_prob": 0.5, **saved}
    found = ops.npu_flash_attention_grad(
        *packed, dy, N, "BSH", **options, seed=score.seed, offset=score.offset
    )
    check_gradients(found, wanted)
    for seeds in ({}, {"seed": score.seed}, {"offset": score.offset}):
        with pytest.raises(RuntimeError, match="keep_prob: got 0.5 without seed and offset"):
            ops.npu_flash_attention_grad(*packed, dy, N, "BSH", **options, **seeds)


def test_a_drop_mask_by_keyword(ops):
    operands, dy = tensors()
    drop = _npu_dropout_gen_mask(torch.ones(1), [B, N, S, S], 0.5, 9, 4)
    score = ops.npu_flash_attention(
        *packed_again(operands), N, "BSH", scale=0.3, keep_prob=0.5, drop_mask=drop
    )
    everything = torch.ones(S, S, dtype=torch.bool)
    expected = pack(reference(*operands, everything, 0.3, kept=bits(9, 4, 0.5)), "BSH")
    same(score[0], expected)
    same_gradients(score[0], expected, operands, pack(dy, "BSH"))


def test_the_module_drops_the_documents_self(ops):
    operands, dy = tensors()
    arguments = (*packed_again(operands), N, "BSH", None, None, CAUSAL, 0.3, 1.0, 65536, 0, True, False)
    flash = ops.FlashAttention()
    plain = flash(*arguments)
    assert not list(flash.parameters())
    for leading in (flash, None, object()):
        assert torch.equal(flash(leading, *arguments)[0], plain[0])
    query = operands[0]
    score = flash(flash, *arguments)
    score.backward(pack(dy, "BSH"))
    expected = pack(reference(*operands, ~CAUSAL, 0.3), "BSH")
    wanted = torch.autograd.grad(expected, query, pack(dy, "BSH").double())[0]
    torch.testing.assert_close(query.grad, wanted.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"query": None}, RuntimeError, "query: got None"),
        ({"value": 3}, TypeError, "value: got int"),
        ({"input_layout": "TND"}, RuntimeError, 'input_layout: got "TND", allowed is BSH, SBH, BSND or BNSD'),
        ({"input_layout": 1}, TypeError, "input_layout: got int"),
        ({"head_num": 3}, RuntimeError, "head_num: got 3"),
        ({"head_num": 0}, RuntimeError, "head_num: got 0"),
        ({"padding_mask": torch.ones(1)}, RuntimeError, "padding_mask: got"),
        ({"atten_mask": torch.ones(S, S).double()}, RuntimeError, "atten_mask: got torch.float64"),
        ({"atten_mask": torch.ones(S, S + 1)}, RuntimeError, "atten_mask: got"),
        ({"pse": torch.ones(S, S, dtype=torch.int32)}, RuntimeError, "pse: got"),
        ({"keep_prob": 1.5}, RuntimeError, "keep_prob: got 1.5"),
        ({"keep_prob": torch.ones(2)}, TypeError, "keep_prob: got Tensor"),
        ({"sync": "no"}, TypeError, "sync: got str"),
        ({"query_transpose": True}, TypeError, "query_transpose"),
        ({"is_flash": True}, TypeError, "is_flash"),
        ({"real_shift": 1.0}, TypeError, "real_shift"),
    ],
)
def test_refusals_of_npu_flash_attention(ops, change, error, sentence):
    operands, _ = tensors()
    call = dict(zip(("query", "key", "value"), packed_again(operands)), head_num=N, input_layout="BSH")
    for function in (ops.npu_flash_attention, ops.FlashAttention()):
        with pytest.raises(error, match=sentence):
            function(**{**call, **change})
    out = ops.npu_flash_attention(**call)
    call["query"] = call["query"].detach()
    saved = {"softmax_max": out.softmax_max, "softmax_sum": out.softmax_sum, "attention_in": out}
    with pytest.raises(error, match=sentence):
        ops.npu_flash_attention_grad(**{**call, "dy": out[0], **saved, **change, "seed": 0, "offset": 0})


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"dy": None}, RuntimeError, "dy: got None"),
        ({"dy": torch.ones(B, S, 1)}, RuntimeError, "dy: got"),
        ({"attention_in": None}, RuntimeError, "attention_in: got None"),
        ({"softmax_max": None}, RuntimeError, "softmax_max: got None without softmax_in"),
        ({"softmax_sum": None}, RuntimeError, "softmax_sum: got None without softmax_in"),
        ({"softmax_sum": torch.ones(B, N, S)}, RuntimeError, "softmax_sum: got"),
        ({"softmax_max": None, "softmax_in": torch.ones(B, N, S)}, RuntimeError, "softmax_in: got"),
        ({"softmax_max": None, "softmax_in": [1.0]}, TypeError, "softmax_in: got list"),
        ({"softmax_max": None, "softmax_in": torch.ones(1), "head_num": 5}, RuntimeError, "head_num"),
        ({"scale_value": "1"}, TypeError, "scale_value: got str"),
        ({"scale_value": float("inf")}, RuntimeError, "scale_value: got inf"),
        ({"pre_tockens": 0.5}, TypeError, "pre_tockens: got float"),
        ({"atten_mask": CAUSAL, "pre_tockens": -1, "next_tockens": -1}, RuntimeError, "pre_tockens: got -1"),
    ],
)  # fmt: skip
def test_refusals_of_the_gradient(ops, change, error, sentence):
    packed, dy, score, _ = gradient_case(ops)
    call = dict(zip(("query", "key", "value"), packed), dy=dy, head_num=N, input_layout="BSH")
    call |= {"softmax_max": score.softmax_max, "softmax_sum": score.softmax_sum, "attention_in": score}
    ops.npu_flash_attention_grad(**call)
    with pytest.raises(error, match=sentence):
        ops.npu_flash_attention_grad(**{**call, **change})
