"""incre_flash_attention on MindSpore tensors, from Python and inside graphs: one row over stored keys."""

import os

import fusion_attention
import fusion_attention.inference.numpy as front
import fusion_attention.mindspore
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

SEED = int(os.environ["FUSION_ATTENTION_SEED"])
BFLOAT16 = Tensor([0], ms.bfloat16).asnumpy().dtype
B, N, KV_HEADS, S, D, PAGE = 2, 4, 2, 48, 16, 16
NUMBERS = {"num_heads": N, "scale_value": 0.25, "input_layout": "BNSD", "num_key_value_heads": KV_HEADS}
LENGTHS = np.array([41, 7], np.int64)


@pytest.fixture(autouse=True)
def layer():
    fusion_attention.enable("mindspore")
    yield
    fusion_attention.disable()


class Attend(nn.Cell):
    """As a client writes it; words that are numbers or lists belong to the cell, tensors are arguments."""

    def __init__(self, lengths=None, block_size=0, layout="BNSD"):
        super().__init__()
        self.lengths, self.block_size, self.layout = lengths, block_size, layout

    def construct(
        self, query, key, value, attn_mask=None, lengths=None, pse_shift=None, quant_scale2=None,
        antiquant_scale=None, antiquant_offset=None, block_table=None, kv_padding_size=None,
    ):  # fmt: skip
        return ops.incre_flash_attention(
            query, key, value, attn_mask, self.lengths if lengths is None else lengths, pse_shift,
            quant_scale2=quant_scale2, antiquant_scale=antiquant_scale, antiquant_offset=antiquant_offset,
            block_table=block_table, num_heads=N, input_layout=self.layout, scale_value=0.25,
            num_key_value_heads=KV_HEADS, block_size=self.block_size, kv_padding_size=kv_padding_size,
        )  # fmt: skip


ORDER = ("query", "key", "value", "attn_mask", "lengths", "pse_shift", "quant_scale2", "antiquant_scale",
         "antiquant_offset", "block_table", "kv_padding_size")  # fmt: skip


def drawn(dtype=np.float16):
    rng = np.random.default_rng(SEED)
    shapes = {"query": (B, N, 1, D), "key": (B, KV_HEADS, S, D), "value": (B, KV_HEADS, S, D)}
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return rng, {name: x.astype(dtype) for name, x in given.items()}


def paged(rng, given):
    """The same keys in pages out of order; entries behind a sequence's last page are -1."""
    pages = rng.permutation(B * S // PAGE).astype(np.int32).reshape(B, S // PAGE)
    pools = {}
    for name in ("key", "value"):
        rows = given[name].swapaxes(1, 2).reshape(B, S // PAGE, PAGE, KV_HEADS * D)
        pools[name] = np.empty((B * S // PAGE, PAGE, KV_HEADS * D), given[name].dtype)
        pools[name][pages] = rows
    table = np.where(np.arange(S // PAGE) * PAGE < LENGTHS[:, None], pages, -1).astype(np.int32)
    return given | pools | {"block_table": table}


def quantised(rng, given):
    """int8 keys and values with a scale and an offset per channel, stacked, in query's dtype."""
    stored = {name: rng.integers(-128, 128, given[name].shape, np.int8) for name in ("key", "value")}
    scale = rng.uniform(0.005, 0.02, (2, KV_HEADS, 1, D)).astype(np.float32)
    offset = rng.integers(-20, 20, scale.shape).astype(np.float32)
    dtype = given["query"].dtype
    return given | stored | {"antiquant_scale": scale.astype(dtype), "antiquant_offset": offset.astype(dtype)}


def plain(given):
    """The document in float64: one row, the first Lk keys, or as kv_padding_size says."""
    query, key, value = (given[name].astype(np.float64) for name in ("query", "key", "value"))
    if "antiquant_scale" in given:
        scale, offset = (given[f"antiquant_{name}"].astype(np.float64) for name in ("scale", "offset"))
        key, value = ((x + offset[i]) * scale[i] for i, x in enumerate((key, value)))
    key, value = (np.repeat(x, N // KV_HEADS, axis=1) for x in (key, value))
    y = 0.25 * query @ key.swapaxes(2, 3) + given.get("pse_shift", np.zeros(1)).astype(np.float64)
    first = S - LENGTHS - given["kv_padding_size"] if "kv_padding_size" in given else np.zeros(B)
    j = np.arange(S) - first[:, None]
    hidden = (j < 0) | (j >= LENGTHS[:, None])
    if "attn_mask" in given:
        hidden |= given["attn_mask"]
    p = np.exp(np.where(hidden[:, None, None], -np.inf, y - y.max(-1, keepdims=True)))
    return p / p.sum(-1, keepdims=True) @ value


def wrapped(given):
    """MindSpore's tensors in the cell's order."""
    return [Tensor(given[name]) if name in given else None for name in ORDER]


CASES = ("lengths", "lengths tensor", "mask", "pse", "padding", "pages", "int8", "int8 pages", "int8 output")


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_is_the_document(mode, dtype, case):
    rng, given = drawn(dtype)
    if "int8" in case and case != "int8 output":
        given = quantised(rng, given)
    if case == "mask":
        given["attn_mask"] = rng.random((B, S)) < 0.3
    if case == "pse":
        given["pse_shift"] = rng.standard_normal((1, N, 1, S)).astype(np.float32).astype(dtype)
    if case == "padding":
        given["kv_padding_size"] = np.array([5])
    expected = plain(given)
    if "pages" in case:
        given = paged(rng, given)
    if case == "int8 output":
        given["quant_scale2"] = np.array([30], np.float32)
        expected = np.clip(np.rint(30 * expected), -128, 127)
    if case in ("lengths tensor", "padding"):
        given["lengths"] = LENGTHS
    cell = Attend(LENGTHS.tolist(), PAGE if "pages" in case else 0, "BSH" if "pages" in case else "BNSD")
    if "pages" in case:
        given["query"] = given["query"].reshape(B, 1, N * D)
        expected = expected.reshape(B, 1, N * D)
        if "antiquant_scale" in given:
            given |= {name: given[name].reshape(2, KV_HEADS * D) for name in given if "antiquant" in name}
    out = cell(*wrapped(given))
    kind = ms.int8 if case == "int8 output" else ms.float16 if dtype == np.float16 else ms.bfloat16
    assert out.dtype == kind and out.shape == expected.shape
    got = out.astype(ms.float32).asnumpy()
    tolerance = 1 if case == "int8 output" else 4e-3 if dtype == np.float16 else 3e-2
    np.testing.assert_allclose(got, expected, atol=tolerance, rtol=0)
    words = {"actual_seq_lengths" if name == "lengths" else name: x for name, x in given.items()}
    words = NUMBERS | {"actual_seq_lengths": LENGTHS} | words
    words |= {"input_layout": cell.layout, "block_size": cell.block_size}
    np.testing.assert_array_equal(got, front.incre_flash_attention(**words).astype(np.float32))


def test_inside_jit():
    _, given = drawn()

    @ms.jit
    def run(query, key, value):
        out = ops.incre_flash_attention(
            query, key, value, actual_seq_lengths=[41, 7], num_heads=N, input_layout="BNSD", scale_value=0.25,
            num_key_value_heads=KV_HEADS,
        )  # fmt: skip
        return out * 2

    out = run(*map(Tensor, given.values())).asnumpy()
    np.testing.assert_allclose(out, 2 * plain(given), atol=8e-3)


def test_key_and_value_in_tuples(mode):
    """MindSpore's document has them in a tuple or list of one."""
    _, given = drawn()

    class Tupled(nn.Cell):
        def construct(self, query, key, value):
            return ops.incre_flash_attention(
                query, (key,), [value], num_heads=N, input_layout="BNSD", num_key_value_heads=KV_HEADS,
            )  # fmt: skip

    tensors = [Tensor(x) for x in given.values()]
    expected = front.incre_flash_attention(*given.values(), **NUMBERS | {"scale_value": 1.0})
    np.testing.assert_array_equal(Tupled()(*tensors).asnumpy(), expected)
    with pytest.raises(RuntimeError, match="key: got 2 tensors, allowed is 1"):
        fusion_attention.mindspore.incre_flash_attention(tensors[0], (tensors[1],) * 2, tensors[2], **NUMBERS)


def test_a_new_table_and_new_lengths_in_one_graph(mode):
    """What a tensor says is read when the graph runs, not when it is compiled."""
    rng, given = drawn()
    words = paged(rng, given)
    words["query"] = words["query"].reshape(B, 1, N * D)
    cell = Attend(None, PAGE, "BSH")
    whole = words["block_table"][:1].repeat(B, 0)
    outs = []
    for lengths in ([41, 7], [12, 30]):
        words |= {"lengths": np.array(lengths, np.int64), "block_table": whole}
        outs.append(cell(*wrapped(words)).asnumpy())
        call = {"actual_seq_lengths" if name == "lengths" else name: x for name, x in words.items()}
        call = NUMBERS | {"input_layout": "BSH", "block_size": PAGE} | call
        np.testing.assert_array_equal(outs[-1], front.incre_flash_attention(**call))
    assert (outs[0] != outs[1]).any()


@pytest.mark.parametrize("entry", [-1, B * S // PAGE])
def test_a_page_that_is_none_is_refused_in_both_modes(mode, entry):
    rng, given = drawn()
    words = paged(rng, given)
    words["query"] = words["query"].reshape(B, 1, N * D)
    words["block_table"][0, 1] = entry
    with pytest.raises(RuntimeError, match="block_table"):
        Attend(LENGTHS.tolist(), PAGE, "BSH")(*wrapped(words)).asnumpy()


@pytest.mark.parametrize("lengths", [[S + 1, 1], [-1, 1], [1]])
def test_lengths_of_a_tensor_are_checked_in_both_modes(mode, lengths):
    _, given = drawn()
    given["lengths"] = np.array(lengths, np.int64)
    cell = Attend()
    if len(lengths) == 1:  # one for all
        assert cell(*wrapped(given)).asnumpy().shape == given["query"].shape
        return
    with pytest.raises(RuntimeError, match="actual_seq_lengths"):
        cell(*wrapped(given)).asnumpy()


@pytest.mark.parametrize(
    ("error", "argument", "words"),
    [
        (RuntimeError, "num_key_value_heads", {"num_key_value_heads": 3}),
        (RuntimeError, "input_layout", {"input_layout": "SBH"}),
        (TypeError, "block_size", {"block_size": 1.5}),
    ],
)
def test_refused_before_anything_is_dispatched(mode, error, argument, words):
    class Static(nn.Cell):
        def __init__(self):
            super().__init__()
            self.layout = words.get("input_layout", "BNSD")
            self.kv_heads = words.get("num_key_value_heads", KV_HEADS)
            self.block_size = words.get("block_size", 0)

        def construct(self, query, key, value):
            return ops.incre_flash_attention(
                query, key, value, num_heads=N, input_layout=self.layout, num_key_value_heads=self.kv_heads,
                block_size=self.block_size,
            )  # fmt: skip

    _, given = drawn()
    with pytest.raises(error, match=f"{argument}: got"):
        Static()(*map(Tensor, given.values()))


def test_the_layer_is_reversible():
    homes = [ops, ops.function, ops.function.nn_func, ops.functional]
    served = fusion_attention.mindspore.incre_flash_attention
    assert all(home.incre_flash_attention is served for home in homes)
    fusion_attention.disable()
    stock = {home.incre_flash_attention for home in homes}
    assert len(stock) == 1 and served not in stock
