"""The torch front: operators, autograd, strides, autocast. test_family_calls.py settles the numbers."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import fusion_attention.torch as front  # noqa: E402

OPERATORS = torch.ops.fusion_attention
LAYOUTS = ["BSH", "SBH", "BSND", "BNSD", "TND"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ENDS = [2, 6]  # TND


def shape_of(layout, heads, rows, depth):
    shapes = {
        "BSH": (2, rows, heads * depth),
        "SBH": (rows, 2, heads * depth),
        "BSND": (2, rows, heads, depth),
        "BNSD": (2, heads, rows, depth),
        "TND": (rows, heads, depth),
    }
    return shapes[layout]


def operands(layout="BSND", dtype=torch.float32, rows=6, keys=6, depth=8, value_depth=8, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((4, rows, depth), (2, keys, depth), (2, keys, value_depth))
    return [
        torch.randn(shape_of(layout, *size), generator=generator).to(dtype).requires_grad_(grad)
        for size in sizes
    ]


def lengths(layout, form=list):
    return {"actual_seq_qlen": form(ENDS), "actual_seq_kvlen": form(ENDS)} if layout == "TND" else {}


def words(layout, mask=None):
    """The arguments of torch.ops.fusion_attention.forward after the operands."""
    ends = torch.tensor(ENDS) if layout == "TND" else None
    return (True, 4, layout, 0.3, mask, 0, 2147483647, 2147483647, ends, ends)


def causal(rows=6, keys=6):
    return torch.triu(torch.ones(rows, keys, dtype=torch.bool), 1)


# --- The operators ---


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["forward", "inference", "backward"])
def test_opcheck(name, layout):
    given = operands(layout, grad=name == "forward")
    rest = words(layout, causal() if layout != "TND" else None)
    if name == "backward":
        out, top, total = OPERATORS.forward(*given, *rest)
        rest = (torch.randn_like(out), top, total, out, *rest)
    torch.library.opcheck(getattr(OPERATORS, name).default, (*given, *rest))


def test_opcheck_of_strided_operands_with_another_value_depth():
    query, key, value = operands("BNSD", value_depth=5)
    given = [x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (query, key, value)]
    torch.library.opcheck(OPERATORS.forward.default, (*given, *words("BNSD", causal())))


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_opcheck_of_every_tensor(name):
    given = operands("BSND", grad=name == "forward")
    seed = torch.tensor([3])
    more = {
        "keep_prob": 0.5,
        "pse": torch.randn(2, 1, 6, 6),
        "query_rope": torch.randn(2, 6, 4, 3),
        "key_rope": torch.randn(2, 6, 2, 3),
        "sink": torch.randn(4),
        "seed": seed,
        "offset": seed,
    }
    rest = words("BSND", causal())
    if name == "backward":
        out, top, total = OPERATORS.forward(*given, *rest, **more)
        rest = (torch.randn_like(out), top, total, out, *rest)
        more["pse_gradient"] = True
    else:
        more = {
            k: v.requires_grad_(v.is_floating_point()) if torch.is_tensor(v) else v for k, v in more.items()
        }
    torch.library.opcheck(getattr(OPERATORS, name).default, (*given, *rest), more)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fake_results_have_the_shapes_and_strides_of_the_real_ones(layout):
    from torch._subclasses.fake_tensor import FakeTensorMode

    given = operands(layout, torch.bfloat16, value_depth=5)
    real = front.npu_fusion_attention_v3(*given, 4, layout, **lengths(layout, torch.tensor))
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) for x in given]
        ends = {k: mode.from_tensor(v) for k, v in lengths(layout, torch.tensor).items()}
        fake = front.npu_fusion_attention_v3(*fakes, 4, layout, **ends)
    for a, b in zip(real, fake):
        assert (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)


# --- The functions ---


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results(layout, dtype):
    given = operands(layout, dtype, value_depth=5)
    out, top, total, reserved, seed, offset, numels = front.npu_fusion_attention(
        *given, 4, layout, seed=7, offset=3, **lengths(layout)
    )
    assert out.shape == shape_of(layout, 4, 6, 5) and out.dtype == dtype and out.is_contiguous()
    assert top.shape == total.shape == ((6, 4, 8) if layout == "TND" else (2, 4, 6, 8))
    assert top.dtype == total.dtype == torch.float32
    assert reserved.shape == (0,) and reserved.dtype == dtype
    assert (seed, offset) == (7, 3)
    assert numels == (4 * (4 + 16) if layout == "TND" else 2 * 4 * 6 * 6)
    *rest, seed, offset = front.npu_fusion_attention_v3(*given, 4, layout, **lengths(layout, torch.tensor))
    assert len(rest) == 4 and seed.shape == offset.shape == (1,) and seed.dtype == torch.int64
    for a, b in zip(rest, (out, top, total, reserved)):
        assert torch.equal(a, b)


def plain_attention(query, key, value, scale, hidden):
    """BNSD in float64, for autograd to differentiate."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, 1) for x in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(hidden, -math.inf)
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("wanted", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)])
def test_gradients_against_autograd_in_float64(wanted):
    given = operands("BNSD", rows=35, keys=40, depth=12, value_depth=7)
    hidden = torch.triu(torch.ones(35, 40, dtype=torch.bool), 6)
    for x, needed in zip(given, wanted):
        x.requires_grad_(bool(needed))
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in given]
    out, top, *_ = front.npu_fusion_attention(*given, 4, "BNSD", scale=0.4, atten_mask=hidden)
    expected = plain_attention(*exact, 0.4, hidden)
    assert out.requires_grad and not top.requires_grad
    dy = torch.randn_like(expected)
    out.backward(dy.float())
    expected.backward(dy)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    for x, y, needed in zip(given, exact, wanted):
        assert (x.grad is not None) == bool(needed)
        if needed:
            torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-4, atol=1e-5)


GRADIENTS = {
    "npu_fusion_attention": ("npu_fusion_attention_grad", 5),
    "npu_fusion_attention_v2": ("npu_fusion_attention_grad_v2", 7),
    "npu_fusion_attention_v3": ("npu_fusion_attention_grad_v3", 5),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_functions_agree_with_autograd(name, layout):
    given = operands(layout, grad=True, value_depth=5)
    ends = lengths(layout, torch.tensor if name.endswith("v3") else list)
    out, top, total, reserved, *numbers = getattr(front, name)(*given, 4, layout, scale=0.3, **ends)
    dy = torch.randn_like(out)
    expected = torch.autograd.grad(out, given, dy)
    gradient, count = GRADIENTS[name]
    names = ("seed", "offset", "numels")
    results = getattr(front, gradient)(
        *(x.detach() for x in given), dy, 4, layout, scale_value=0.3, softmax_max=top, softmax_sum=total,
        softmax_in=reserved, attention_in=out.detach(), **ends, **dict(zip(names, numbers)),
    )  # fmt: skip
    assert len(results) == count and all(r is None for r in results[3:])
    for a, b, x in zip(results, expected, given):
        assert torch.equal(a, b) and a.is_contiguous() and a.shape == x.shape


def test_statistics_expanded_from_one_copy():
    """Upstream's callers expand [..., 1] by eight."""
    given = operands()
    out, top, total, *_ = front.npu_fusion_attention(*given, 4, "BSND")
    dy = torch.randn_like(out)
    saved = {"attention_in": out, "softmax_max": top, "softmax_sum": total}
    a = front.npu_fusion_attention_grad(*given, dy, 4, "BSND", **saved)
    saved |= {name: saved[name][..., :1].expand(*top.shape) for name in ("softmax_max", "softmax_sum")}
    b = front.npu_fusion_attention_grad(*given, dy, 4, "BSND", **saved)
    assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3]))


def test_statistics_layout_of_packed_sequences():
    """Head-major per sequence by default, [T, N] on request; the gradients agree on either."""
    given = operands("TND")
    plain = front.npu_fusion_attention(*given, 4, "TND", **lengths("TND"))
    natural = front.npu_fusion_attention(*given, 4, "TND", softmax_layout="TND", **lengths("TND"))
    for a, b in zip(plain[1:3], natural[1:3]):
        start = 0
        for end in ENDS:
            by_head = a.reshape(-1, 8)[start * 4 : end * 4].reshape(4, end - start, 8)
            assert torch.equal(by_head.transpose(0, 1), b[start:end])
            start = end
    assert not torch.equal(plain[1], natural[1])
    dy = torch.randn_like(plain[0])
    gradients = [
        front.npu_fusion_attention_grad(
            *given,
            dy,
            4,
            "TND",
            softmax_max=r[1],
            softmax_sum=r[2],
            attention_in=r[0],
            softmax_layout=s,
            **lengths("TND"),
        )
        for r, s in ((plain, ""), (natural, "TND"))
    ]
    assert all(torch.equal(a, b) for a, b in zip(gradients[0][:3], gradients[1][:3]))


STRIDES = {
    "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels apart": lambda x: torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0],
    "channels outermost": lambda x: x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
    "inside a larger one": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 1), value=math.nan)[
        ..., 1:-1, 3:-2
    ],
}


@pytest.mark.parametrize("how", STRIDES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(how, dtype):
    given = operands("BSND", dtype)
    other = [STRIDES[how](x) for x in given]
    assert all(torch.equal(a, b) for a, b in zip(given, other))
    results = []
    for xs in (given, other):
        leaves = [x.detach().requires_grad_() for x in xs]
        out, top, total, *_ = front.npu_fusion_attention(*leaves, 4, "BSND", atten_mask=causal())
        dy = torch.arange(out.numel()).reshape(out.shape).to(dtype) / out.numel()
        results.append(
            (out, top, total, *torch.autograd.grad(out, leaves, dy if xs is given else STRIDES[how](dy)))
        )
    for a, b in zip(*results):
        assert torch.equal(a, b)


def test_stride_zero():
    query, key, value = operands()
    shared = [x[:1].expand_as(x).requires_grad_() for x in (key, value)]
    mask = causal().expand(2, 1, 6, 6)
    out, *_ = front.npu_fusion_attention(query, *shared, 4, "BSND", atten_mask=mask)
    whole = front.npu_fusion_attention(
        query, *(x.detach().contiguous() for x in shared), 4, "BSND", atten_mask=causal()
    )
    assert torch.equal(out, whole[0])
    out.sum().backward()  # dy has stride 0 on every axis
    assert shared[0].grad.shape == key.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    given = operands(dtype=dtype, grad=True)
    expected = front.npu_fusion_attention(*given, 4, "BSND")
    with torch.autocast("cpu", torch.bfloat16):
        results = front.npu_fusion_attention(*given, 4, "BSND")
        results[0].sum().backward()
    assert results[0].dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(expected[:3], results[:3]))
    assert all(x.grad.dtype == dtype for x in given)


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, torch.tensor, lambda n: torch.tensor(n, dtype=torch.int32)]
)
@pytest.mark.parametrize("name", GRADIENTS)
def test_lengths_in_every_form(name, form):
    given = operands("TND")
    expected = front.npu_fusion_attention(*given, 4, "TND", **lengths("TND"))
    results = getattr(front, name)(*given, 4, "TND", **lengths("TND", form))
    assert all(torch.equal(a, b) for a, b in zip(expected[:4], results[:4]))
    if name != "npu_fusion_attention_v3":
        assert results[6] == expected[6]


def test_grad_modes():
    given = operands(grad=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not front.npu_fusion_attention(*given, 4, "BSND")[0].requires_grad
    with torch.inference_mode():
        inside = operands()
        front.npu_fusion_attention(*inside, 4, "BSND")


def test_second_and_forward_mode_derivatives_are_refused():
    given = operands(grad=True)
    out = front.npu_fusion_attention(*given, 4, "BSND")[0]
    (dq,) = torch.autograd.grad(out.sum(), given[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        dq.sum().backward()
    from torch.autograd import forward_ad

    with forward_ad.dual_level(), pytest.raises(NotImplementedError):
        dual = forward_ad.make_dual(given[0].detach(), torch.ones_like(given[0]))
        front.npu_fusion_attention(dual, *(x.detach() for x in given[1:]), 4, "BSND")


def test_unused_output_gets_no_gradient():
    given = operands(grad=True)
    top = front.npu_fusion_attention(*given, 4, "BSND")[1]
    assert not top.requires_grad


def test_numbers_of_python_and_numpy_types():
    given = operands()
    expected = front.npu_fusion_attention(*given, 4, "BSND", scale=0.5)[0]
    results = front.npu_fusion_attention(
        *given, np.int64(4), "BSND", scale=np.float32(0.5), keep_prob=1, sync=0
    )
    assert torch.equal(expected, results[0])
    assert torch.equal(
        front.npu_fusion_attention(*given, torch.tensor(4), "BSND", scale=torch.tensor(0.5))[0], expected
    )


BROKEN = {
    "query": (RuntimeError, {"query": None}),
    "key": (RuntimeError, {"key": torch.zeros(2, 6, 2, 8, dtype=torch.float16)}),
    "value": (TypeError, {"value": [1.0]}),
    "head_num": (RuntimeError, {"head_num": 3}),
    "input_layout": (RuntimeError, {"input_layout": "BDSN"}),
    "scale": (TypeError, {"scale": "1"}),
    "atten_mask": (RuntimeError, {"atten_mask": torch.zeros(6, 5, dtype=torch.bool)}),
    "sparse_mode": (RuntimeError, {"sparse_mode": 9}),
    "pre_tockens": (TypeError, {"pre_tockens": 1.5}),
    "next_tockens": (RuntimeError, {"next_tockens": -7, "atten_mask": causal()}),
    "actual_seq_qlen": (RuntimeError, {"actual_seq_qlen": torch.tensor([[2, 6]])}),
    "actual_seq_kvlen": (RuntimeError, {"actual_seq_kvlen": torch.tensor([2.0])}),
    "softmax_layout": (RuntimeError, {"softmax_layout": "TND"}),
    "keep_prob": (RuntimeError, {"keep_prob": 1.5}),
    "pse": (RuntimeError, {"pse": torch.zeros(2, 4, 5, 6)}),
    "sink": (RuntimeError, {"sink": torch.zeros(3)}),
    "padding_mask": (RuntimeError, {"padding_mask": torch.zeros(6, 6)}),
    "dropout_mask": (RuntimeError, {"dropout_mask": torch.zeros(16, dtype=torch.uint8)}),
    "seed": (TypeError, {"seed": 0.5}),
}


@pytest.mark.parametrize("argument", BROKEN)
@pytest.mark.parametrize("grad", [False, True])
def test_refusals(argument, grad):
    call = dict(zip(("query", "key", "value"), operands(grad=grad)), head_num=4, input_layout="BSND")
    kind, change = BROKEN[argument]
    with pytest.raises(kind, match=f"^{argument}: got .*, allowed is ") as caught:
        front.npu_fusion_attention(**{**call, **change})
    assert "\n" not in str(caught.value) and caught.type is kind


@pytest.mark.parametrize("argument", ["attention_in", "softmax_max", "softmax_sum"])
@pytest.mark.parametrize("name", [gradient for gradient, _ in GRADIENTS.values()])
def test_gradients_need_what_was_saved(name, argument):
    given = operands()
    out, top, total, *_ = front.npu_fusion_attention(*given, 4, "BSND")
    saved = {"attention_in": out, "softmax_max": top, "softmax_sum": total, argument: None}
    with pytest.raises(RuntimeError, match=f"^{argument}: got None"):
        getattr(front, name)(*given, out, 4, "BSND", **saved)


def test_other_devices_are_refused_in_one_sentence():
    sparse = torch.eye(6).to_sparse()
    with pytest.raises(RuntimeError, match="^atten_mask: got layout torch.sparse_coo"):
        front.npu_fusion_attention(*operands(), 4, "BSND", atten_mask=sparse)


def test_source_is_inspectable():
    """Tracebacks and help() show the function that the table made."""
    assert "def npu_fusion_attention(query, key" in inspect.getsource(front.npu_fusion_attention)


def test_explanation_shows_the_mask():
    seen = front.examine(*operands(), 4, "BSND", atten_mask=causal()).visible()
    assert torch.equal(torch.frombuffer(bytearray(seen), dtype=torch.uint8).reshape(6, 6) == 0, causal())


def test_whoever_listens_at_the_dispatcher_hears_the_call():
    from torch.utils._python_dispatch import TorchDispatchMode

    x, seen = torch.randn(1, 8, 2, 16), []

    class Listener(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Listener():
        front.npu_fusion_attention(x, x, x, 2, "BSND")
    assert "fusion_attention.inference.default" in seen
    with torch.profiler.profile() as profile:
        front.npu_fusion_attention(x, x, x, 2, "BSND")
    assert any(event.key == "fusion_attention::inference" for event in profile.key_averages())


def test_a_tensor_whose_sign_is_pending():
    x = torch.randn(1, 8, 2, 16)
    pending = torch.complex(x, x).conj().imag  # its memory holds x, it means -x
    assert pending.is_neg()
    out = front.npu_fusion_attention(x, x, pending, 2, "BSND")[0]
    assert torch.equal(out, -front.npu_fusion_attention(x, x, x, 2, "BSND")[0])
