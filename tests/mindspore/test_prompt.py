"""prompt_flash_attention on MindSpore tensors, called from Python and inside graphs."""

import fusion_attention
import fusion_attention.inference.numpy as front
import fusion_attention.mindspore
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

BFLOAT16 = Tensor([0], ms.bfloat16).asnumpy().dtype
WORDS = {
    "num_heads": 4,
    "scale_value": 0.25,
    "input_layout": "BNSD",
    "num_key_value_heads": 2,
}


def arrays(dtype=np.float16, batches=2):
    rng = np.random.default_rng(5)
    shapes = (batches, 4, 6, 16), (batches, 2, 9, 16), (batches, 2, 9, 16)
    return [rng.standard_normal(shape).astype(np.float32).astype(dtype) for shape in shapes]


def tensors(given):
    return [Tensor.from_numpy(np.ascontiguousarray(x)) for x in given]


class Attend(nn.Cell):
    """As a client writes it: the name is looked up when the cell runs or is compiled."""

    def __init__(self, **words):
        super().__init__()
        self.words = words
        self.lengths = words.pop("actual_seq_lengths", None)

    def construct(self, query, key, value, attn_mask=None):
        return ops.prompt_flash_attention(
            query, key, value, attn_mask, self.lengths, num_heads=4, scale_value=0.25,
            input_layout="BNSD", num_key_value_heads=2, sparse_mode=1 if attn_mask is not None else 0,
        )  # fmt: skip


@pytest.fixture
def layer():
    fusion_attention.enable("mindspore")
    yield
    fusion_attention.disable()


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_numpy_in_both_modes(layer, mode, dtype, masked):
    given = arrays(dtype)
    mask = np.random.default_rng(1).random((2, 1, 6, 9)) < 0.3 if masked else None
    expected = front.prompt_flash_attention(*given, mask, [4, 6], **WORDS, sparse_mode=1 if masked else 0)
    cell = Attend(actual_seq_lengths=[4, 6])
    out = cell(*tensors(given), *([Tensor(mask)] if masked else []))
    assert out.dtype == (ms.float16 if dtype == np.float16 else ms.bfloat16)
    np.testing.assert_array_equal(out.float().asnumpy(), expected.astype(np.float32))


def test_int8_output_in_both_modes(layer, mode):
    given = arrays()
    scale = np.array([20], np.float32)
    expected = front.prompt_flash_attention(*given, quant_scale2=scale, **WORDS)

    class Quantised(nn.Cell):
        def construct(self, query, key, value, quant_scale2):
            return ops.prompt_flash_attention(
                query, key, value, quant_scale2=quant_scale2, num_heads=4, scale_value=0.25,
                input_layout="BNSD", num_key_value_heads=2,
            )  # fmt: skip

    out = Quantised()(*tensors(given), Tensor(scale))
    assert out.dtype == ms.int8
    np.testing.assert_array_equal(out.asnumpy(), expected)


@pytest.mark.parametrize("kind", [np.float32, np.uint64])
def test_int8_operands_in_both_modes(layer, mode, kind):
    given = fusion_attention.quantize_for_prompt(*arrays(np.float32), scale_value=0.25)
    first, second = (x if kind == np.float32 else x.view(np.uint32).astype(kind) for x in given[3:6:2])
    scales = {"deq_scale1": first, "quant_scale1": given.quant_scale1, "deq_scale2": second}
    expected = front.prompt_flash_attention(*given[:3], **scales, **WORDS)

    class Integer(nn.Cell):
        def construct(self, query, key, value, deq_scale1, quant_scale1, deq_scale2):
            return ops.prompt_flash_attention(
                query, key, value, deq_scale1=deq_scale1, quant_scale1=quant_scale1, deq_scale2=deq_scale2,
                num_heads=4, scale_value=0.25, input_layout="BNSD", num_key_value_heads=2,
            )  # fmt: skip

    out = Integer()(*tensors(given[:3]), *(Tensor(x) for x in scales.values()))
    assert out.dtype == ms.float16 and np.abs(expected).max() > 0.5
    np.testing.assert_array_equal(out.asnumpy(), expected)


def test_inside_jit(layer):
    given = arrays()

    @ms.jit
    def run(query, key, value):
        return ops.prompt_flash_attention(
            query,
            key,
            value,
            num_heads=4,
            scale_value=0.25,
            input_layout="BNSD",
            num_key_value_heads=2,
        )

    expected = front.prompt_flash_attention(*given, **WORDS)
    np.testing.assert_array_equal(run(*tensors(given)).asnumpy(), expected)


def test_lengths_as_a_tensor():
    given = arrays()
    expected = front.prompt_flash_attention(*given, None, [4, 0], [9, 3], **WORDS)
    lengths = [Tensor([4, 0], ms.int64), Tensor([9, 3], ms.int64)]
    out = fusion_attention.mindspore.prompt_flash_attention(*tensors(given), None, *lengths, **WORDS)
    np.testing.assert_array_equal(out.asnumpy(), expected)


def test_strided_operands():
    given = arrays()
    turned = [Tensor(x.swapaxes(1, 2).copy()).swapaxes(1, 2) for x in given]
    expected = front.prompt_flash_attention(*given, **WORDS)
    np.testing.assert_array_equal(
        fusion_attention.mindspore.prompt_flash_attention(*turned, **WORDS).asnumpy(), expected
    )


@pytest.mark.parametrize(
    ("error", "argument", "words"),
    [
        (RuntimeError, "num_key_value_heads", {"num_key_value_heads": 3}),
        (ValueError, "input_layout", {"input_layout": "BSND"}),
        (TypeError, "sparse_mode", {"sparse_mode": 1.5}),
    ],
)
def test_refused_before_anything_is_dispatched(layer, mode, error, argument, words):
    class Static(nn.Cell):
        def __init__(self, words):
            super().__init__()
            self.layout = words.get("input_layout", "BNSD")
            self.kv_heads = words.get("num_key_value_heads", 2)
            self.mode = words.get("sparse_mode", 0)

        def construct(self, query, key, value):
            return ops.prompt_flash_attention(
                query, key, value, num_heads=4, input_layout=self.layout, num_key_value_heads=self.kv_heads,
                sparse_mode=self.mode,
            )  # fmt: skip

    with pytest.raises(error, match=f"{argument}: got"):
        Static(words)(*tensors(arrays()))


def test_the_layer_is_reversible():
    homes = [ops, ops.function, ops.function.nn_func, ops.functional]
    before = [home.prompt_flash_attention for home in homes]
    fusion_attention.enable("mindspore")
    served = fusion_attention.mindspore.prompt_flash_attention
    assert all(home.prompt_flash_attention is served for home in homes)
    fusion_attention.disable()
    assert [home.prompt_flash_attention for home in homes] == before
