"""The older argument order of the documents' example, and the callable module."""

import importlib

import pytest

torch = pytest.importorskip("torch", reason="the layers are for torch, which is not installed")
import fusion_attention  # noqa: E402
from fusion_attention.ascend import exclusive_tokens  # noqa: E402


@pytest.fixture(autouse=True)
def mindspeed(monkeypatch):
    monkeypatch.setattr(exclusive_tokens, "_told", False)
    fusion_attention.enable("mindspeed")
    yield
    fusion_attention.disable()


def tensors(rows=7, keys=7, heads=2):
    torch.manual_seed(0)
    shapes = [(1, heads, rows, 16), (1, heads, keys, 16), (1, heads, keys, 16)]
    return [torch.randn(shape, dtype=torch.float64).float().requires_grad_() for shape in shapes]


def reference(query, key, value, keep, scale):
    scores = (query.double() @ key.double().transpose(-1, -2) * scale).masked_fill(~keep, float("-inf"))
    return torch.softmax(scores, -1).nan_to_num(0.0) @ value.double()


def band(rows, keys, pre, following):
    distance = torch.arange(keys)[None] - torch.arange(rows)[:, None]
    return (distance < following) & (-distance < pre)


def call(*args, **kwargs):
    return importlib.import_module("npu_fusion_attention")(*args, **kwargs)


@pytest.mark.parametrize(("pre", "following"), [(65536, 1), (3, 1), (3, 2), (65536, 65536), (1, 1)])
@pytest.mark.parametrize("written", ["row by key", "key by row"])
@pytest.mark.filterwarnings("ignore:atten_mask")
def test_mask_and_its_transpose_mean_the_same_band(pre, following, written):
    query, key, value = tensors()
    keep = band(7, 7, pre, following)
    mask = ~keep if written == "row by key" else ~keep.T
    result = call(query, key, value, mask[None, None], None, 0.3, 0.5, 2, "BNSD", 1.0, pre, following)
    assert isinstance(result, torch.Tensor)
    expected = reference(query, key, value, keep, 0.15)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)
    gradient = torch.randn_like(expected)
    ours = torch.autograd.grad(result, (query, key, value), gradient.float())
    for a, b in zip(ours, torch.autograd.grad(expected, (query, key, value), gradient), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-5)


def test_the_transposed_reading_is_told_once(recwarn):
    query, key, value = tensors()
    mask = torch.ones(7, 7, dtype=torch.bool).tril(-1)
    for _ in range(2):
        call(query, key, value, mask, None, 1.0, 1.0, 2, "BNSD", 1.0, 65536, 1)
    assert len([w for w in recwarn if "rows and columns exchanged" in str(w.message)]) == 1


@pytest.mark.filterwarnings("ignore:atten_mask")
@pytest.mark.parametrize(("pre", "following"), [(65536, 1), (3, 2), (1, 65536)])
def test_a_mask_that_fits_neither_way_is_cut_by_the_band(pre, following):
    query, key, value = tensors()
    mask = torch.zeros(7, 7, dtype=torch.bool)
    mask[:, 2] = True
    result = call(query, key, value, mask, None, 0.3, 1.0, 2, "BNSD", 1.0, pre, following)
    expected = reference(query, key, value, ~mask & band(7, 7, pre, following), 0.3)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_literal_reading_that_fits_is_never_transposed(recwarn):
    query, key, value = tensors()
    keep = band(7, 7, 3, 3)
    keep[5, 4] = False  # its transpose fits the band as well
    result = call(query, key, value, ~keep, None, 0.3, 1.0, 2, "BNSD", 1.0, 3, 3)
    torch.testing.assert_close(result.double(), reference(query, key, value, keep, 0.3), rtol=1e-5, atol=1e-6)
    assert not [w for w in recwarn if "exchanged" in str(w.message)]


def test_unequal_lengths_no_mask_and_float_masks():
    query, key, value = tensors(5, 9)
    full = call(query, key, value, None, None, 0.3, 1.0, 2, "BNSD", 1.0, 65536, 1)
    everything = torch.ones(5, 9, dtype=torch.bool)
    torch.testing.assert_close(
        full.double(), reference(query, key, value, everything, 0.3), rtol=1e-5, atol=1e-6
    )
    keep = band(5, 9, 65536, 2)
    for mask in (~keep, (~keep).half(), (~keep).to(torch.uint8)):
        result = call(query, key, value, mask, None, 0.3, 1.0, 2, "BNSD", 1.0, 65536, 2)
        torch.testing.assert_close(
            result.double(), reference(query, key, value, keep, 0.3), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("layout", ["BSH", "SBH", "bsh"])
def test_other_layouts_of_the_document(layout):
    query, key, value = tensors()
    order = (2, 0, 1, 3) if layout == "SBH" else (0, 2, 1, 3)
    packed = [t.permute(order).flatten(2) for t in (query, key, value)]
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    result = call(*packed, mask, None, 0.3, 1.0, 2, layout, 1.0, 65536, 1)
    expected = reference(query, key, value, ~mask, 0.3).permute(order).flatten(2)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


def test_keyword_calls_are_literal_v2():
    query, key, value = tensors()
    mask = torch.ones(7, 7, dtype=torch.bool).tril(-1)
    result = call(query, key, value, head_num=2, input_layout="BNSD", atten_mask=mask, scale=0.3)
    assert len(result) == 7
    torch.testing.assert_close(
        result[0].double(), reference(query, key, value, ~mask, 0.3), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(call(query, key, value, 2, "BNSD", atten_mask=mask, scale=0.3)[0], result[0])


def test_pse_of_the_older_order_is_added_after_the_scale():
    query, key, value = tensors()
    pse = torch.randn(1, 2, 7, 7)
    result = call(query, key, value, None, pse, 0.3, 1.0, 2, "BNSD", 1.0, 65536, 1)
    scores = query.double() @ key.double().transpose(-1, -2) * 0.3 + pse.double()
    torch.testing.assert_close(
        result.double(), torch.softmax(scores, -1) @ value.double(), rtol=1e-5, atol=1e-6
    )
