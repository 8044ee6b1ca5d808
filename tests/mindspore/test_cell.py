"""The acctransformer cell on MindSpore's own tensors, in both modes: values, gradients, errors, memory."""

from __future__ import annotations

import os

import fusion_attention
import fusion_attention.cell.numpy as front
import mindspore as ms
import numpy as np
import pytest
from fusion_attention.cell import FlashAttention
from mindspore import Tensor, nn, ops

SEED = int(os.environ["FUSION_ATTENTION_SEED"])
MASK = np.triu(np.ones((1, 128, 128), np.float16), k=1)


def operands(dtype="float32", batches=2, heads=2, rows=300, depth=32):
    rng = np.random.default_rng(SEED)
    shape = batches, heads, rows, depth
    return [
        Tensor(rng.standard_normal(shape).astype(np.float32)).astype(getattr(ms, dtype)) for _ in range(4)
    ]


def plain(cell, query, key, value, mask=None, alibi=None):
    """The document, in MindSpore's own operators and float32. A small mask only without blocks after it."""
    rows, keys = query.shape[2], key.shape[2]
    y = ops.matmul(query, key.swapaxes(2, 3)) / query.shape[3] ** 0.5
    if alibi is not None:
        y = y + alibi.astype(ms.float32)
    i, j = np.arange(rows)[:, None], np.arange(keys)[None]
    blocks = cell._words.prev_block_num, cell._words.next_block_num
    hidden = (j // 128 < i // 128 - blocks[0]) | (j // 128 > i // 128 + blocks[1])
    if mask is not None and mask.shape[1] == rows:
        y = y - 10000.0 * mask.astype(ms.float32).expand_dims(1)
    elif mask is not None:
        hidden |= (i // 128 == j // 128) & (j > i)
    y = y + Tensor(np.where(hidden, -np.inf, 0).astype(np.float32))
    return ops.matmul(ops.softmax(y, -1), value)


class Weighted(nn.Cell):
    """A scalar of an attention's output, so that it can be differentiated."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def construct(self, query, key, value, mask, alibi, dy):
        out = self.attention(query, key, value, mask, alibi)
        return (out.astype(ms.float32) * dy.astype(ms.float32)).sum()


class Plain(nn.Cell):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def construct(self, query, key, value, mask, alibi):
        return plain(self.cell, query, key, value, mask, alibi)


def test_is_a_cell():
    assert issubclass(FlashAttention, nn.Cell)
    assert FlashAttention.__doc__.startswith("Attention over blocks of keys")


TOLERANCE = {"float32": 2e-4, "float16": 1e-2, "bfloat16": 8e-2}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("masks", ["none", "small", "full", "fractional", "alibi", "small alibi"])
def test_values_and_gradients(mode, dtype, masks):
    *tensors, dy = operands(dtype)
    rng, kind = np.random.default_rng(SEED), getattr(ms, dtype)
    full = {
        "full": np.triu(np.ones((1, 300, 300)), k=1),
        "fractional": rng.choice([0, 1e-4, 1], (2, 300, 300)),
    }
    mask = full.get(masks, MASK if "small" in masks else None)
    mask = None if mask is None else Tensor(mask.astype(np.float32)).astype(kind)
    alibi = None
    if "alibi" in masks:
        alibi = Tensor(rng.standard_normal((2, 2, 1, 300)).astype(np.float32)).astype(kind)
    cell = FlashAttention(32, prev_block_num=1, next_block_num=0, alibi=alibi is not None)
    places = (0, 1, 2)
    out = cell(*tensors, mask, alibi)
    gradients = ms.grad(Weighted(cell), places)(*tensors, mask, alibi, dy)
    wide = [tensor.astype(ms.float32) for tensor in tensors]
    expected = Plain(cell)(*wide, mask, alibi)
    expected_gradients = ms.grad(Weighted(Plain(cell)), places)(*wide, mask, alibi, dy)
    for got, wanted in zip((out, *gradients), (expected, *expected_gradients)):
        assert got.dtype == kind and got.shape == wanted.shape
        np.testing.assert_allclose(
            got.astype(ms.float32).asnumpy(), wanted.asnumpy(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_both_modes_are_numpy_bitwise(mode, dtype):
    *tensors, dy = operands(dtype)
    cell = FlashAttention(32, prev_block_num=1, next_block_num=0)
    mask = Tensor(MASK)
    got = cell(*tensors, mask), *ms.grad(Weighted(cell), (0, 1, 2))(*tensors, mask, None, dy)
    given = *(tensor.asnumpy() for tensor in tensors), MASK, None
    results = front.forward(cell._words, given)
    expected = results[0], *front.backward(cell._words, given, 0, dy.asnumpy(), results)
    for one, other in zip(got, expected):
        np.testing.assert_array_equal(one.asnumpy(), other)


def test_jit_in_pynative():
    *tensors, _ = operands()
    cell = FlashAttention(32, next_block_num=0)

    @ms.jit
    def step(query, key, value, mask):
        return cell(query, key, value, mask) * 2

    given = *tensors, Tensor(MASK)
    np.testing.assert_array_equal(step(*given).asnumpy(), 2 * cell(*given).asnumpy())


def test_transposed_tensors(mode):
    query, key, value, _ = (tensor.swapaxes(1, 2) for tensor in operands())
    cell = FlashAttention(32, next_block_num=0)
    turned = (tensor.swapaxes(1, 2) for tensor in (query, key, value))
    straight = (Tensor(tensor.asnumpy().swapaxes(1, 2).copy()) for tensor in (query, key, value))
    np.testing.assert_array_equal(cell(*turned).asnumpy(), cell(*straight).asnumpy())


def test_dropout_follows_set_seed(mode):
    *tensors, dy = operands()
    cell = FlashAttention(32, dropout_rate=0.5)
    gradient = ms.value_and_grad(Weighted(cell), (0, 1, 2))

    def run():
        ms.set_seed(11)
        value, gradients = gradient(*tensors, None, None, dy)
        return [x.asnumpy() for x in (value, *gradients)]

    first, second = run(), run()
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one, other)
    assert (cell(*tensors).asnumpy() != cell(*tensors).asnumpy()).any()


def test_gradient_has_the_dropout_of_its_forward(mode):
    """The output is linear in value: value · dL/dvalue is L, if both drop the same."""
    *tensors, dy = operands()
    cell = FlashAttention(32, dropout_rate=0.5)
    value, gradient = ms.value_and_grad(Weighted(cell), 2)(*tensors, None, None, dy)
    np.testing.assert_allclose((gradient * tensors[2]).sum().asnumpy(), value.asnumpy(), rtol=1e-3, atol=0.05)


def test_pynative_copies_nothing(monkeypatch):
    *tensors, _ = operands()
    seen = []
    compute = front.forward

    def watch(words, given, *rest):
        seen.extend(array.ctypes.data for array in given[:3])
        results = compute(words, given, *rest)
        seen.append(results[0].ctypes.data)
        return results

    monkeypatch.setattr(front, "forward", watch)
    out = FlashAttention(32)(*tensors)
    assert seen == [tensor.data_ptr() for tensor in (*tensors, out)]


def tensor(*shape, dtype=ms.float32):
    return Tensor(np.zeros(shape, np.float32)).astype(dtype)


Q = (2, 4, 6, 8)
WRONG = [
    ((tensor(2, 4, 6, 7), tensor(*Q), tensor(*Q)), ValueError, "query"),
    ((tensor(*Q), tensor(2, 2, 6, 8), tensor(*Q)), ValueError, "key"),
    ((tensor(*Q), tensor(*Q, dtype=ms.float16), tensor(*Q)), TypeError, "key"),
    ((tensor(*Q), tensor(*Q), np.zeros(Q, np.float32)), TypeError, "value"),
    ((tensor(*Q), tensor(*Q), tensor(*Q), tensor(1, 6, 5)), ValueError, "attention_mask"),
    ((tensor(*Q), tensor(*Q), tensor(*Q), tensor(1)), ValueError, "attention_mask"),
    ((tensor(*Q), tensor(*Q), tensor(*Q), None, tensor(2, 4, 1, 6)), ValueError, "alibi_mask"),
]


@pytest.mark.parametrize("given, error, argument", WRONG)
def test_wrong_calls(mode, given, error, argument):
    with pytest.raises(error, match=f"{argument}: got "):
        FlashAttention(8)(*given).asnumpy()


@pytest.mark.parametrize(
    "given, sentence",
    [
        ((tensor(2, 4, 16, 8), tensor(2, 4, 16, 8), tensor(2, 4, 16, 8)), "query: got dtype float32"),
        (tuple(tensor(2, 4, 16, 144, dtype=ms.float16) for _ in range(3)), "query: got D = 144"),
        (tuple(tensor(2, 4, 16, 8, dtype=ms.bfloat16) for _ in range(3)), "query: got dtype bfloat16"),
    ],
)
def test_strict_mode_refuses_what_the_document_does_not_support(mode, given, sentence):
    cell = FlashAttention(given[0].shape[3])
    cell(*given).asnumpy()
    with fusion_attention.strict():
        with pytest.raises(
            ValueError, match=f"^{sentence}, allowed is .* by the document of flash_attention"
        ):
            cell(*given).asnumpy()
        halves = tuple(tensor(2, 4, 16, 128, dtype=ms.float16) for _ in range(3))
        assert FlashAttention(128)(*halves).shape == (2, 4, 16, 128)


def test_numpy_arrays(mode):
    query, key, value, _ = (tensor.asnumpy() for tensor in operands())
    cell = FlashAttention(32, next_block_num=0)
    expected = cell(*map(Tensor, (query, key, value, MASK))).asnumpy()
    np.testing.assert_array_equal(cell(query, key, value, MASK), expected)


def test_the_documents_import_paths():
    fusion_attention.enable("flash_attention")
    try:
        from accspeed.nn.layer.flash_attention import FlashAttention as second
        from acctransformer.flash_attention.nn.layer.flash_attention import FlashAttention as third
        from flash_attention.nn.layer.flash_attention import FlashAttention as first
    finally:
        fusion_attention.disable()
    assert first is second is third is FlashAttention
