"""Facts of the decoding operators: signatures, one meaning of stored keys, the documents' own examples."""

from __future__ import annotations

import inspect
import math

import fusion_attention
import ml_dtypes
import numpy as np
import pytest
from family_options import compressed_mask
from fusion_attention.inference.numpy import npu_fused_infer_attention_score as attend
from test_family_calls import to_torch

MOST = 2147483647
_INTEGER = (
    "dequant_scale1=None, quant_scale1=None, dequant_scale2=None, quant_scale2=None, quant_offset2=None"
)
DOCUMENTED = {
    "incre_flash_attention": "query, key, value, attn_mask=None, actual_seq_lengths=None, pse_shift=None, "
    f"{_INTEGER}, antiquant_scale=None, antiquant_offset=None, block_table=None, num_heads=1, "
    "input_layout='BSH', scale_value=1.0, num_key_value_heads=0, block_size=0, inner_precise=1, "
    "kv_padding_size=None",
    "npu_incre_flash_attention": "query, key, value, *, padding_mask=None, atten_mask=None, pse_shift=None, "
    f"actual_seq_lengths=None, antiquant_scale=None, antiquant_offset=None, block_table=None, {_INTEGER}, "
    "kv_padding_size=None, num_heads=1, scale_value=1.0, input_layout='BSH', num_key_value_heads=0, "
    "block_size=0, inner_precise=1",
    "npu_fused_infer_attention_score": "query, key, value, *, pse_shift=None, atten_mask=None, "
    f"actual_seq_lengths=None, actual_seq_lengths_kv=None, {_INTEGER}, antiquant_scale=None, "
    "antiquant_offset=None, key_antiquant_scale=None, key_antiquant_offset=None, value_antiquant_scale=None, "
    "value_antiquant_offset=None, block_table=None, query_padding_size=None, kv_padding_size=None, "
    "key_shared_prefix=None, value_shared_prefix=None, actual_shared_prefix_len=None, query_rope=None, "
    "key_rope=None, key_rope_antiquant_scale=None, num_heads=1, scale=1.0, pre_tokens=2147483647, "
    "next_tokens=2147483647, input_layout='BSH', num_key_value_heads=0, sparse_mode=0, inner_precise=0, "
    "block_size=0, antiquant_mode=0, key_antiquant_mode=0, value_antiquant_mode=0, softmax_lse_flag=False",
    "npu_fused_infer_attention_score_v2": "query, key, value, *, query_rope=None, key_rope=None, "
    "pse_shift=None, atten_mask=None, actual_seq_qlen=None, actual_seq_kvlen=None, block_table=None, "
    "dequant_scale_query=None, dequant_scale_key=None, dequant_offset_key=None, dequant_scale_value=None, "
    "dequant_offset_value=None, dequant_scale_key_rope=None, quant_scale_out=None, quant_offset_out=None, "
    "quant_scale_p=None, learnable_sink=None, num_query_heads=1, num_key_value_heads=0, softmax_scale=1.0, "
    "pre_tokens=2147483647, next_tokens=2147483647, input_layout='BSH', sparse_mode=0, block_size=0, "
    "query_quant_mode=0, key_quant_mode=0, value_quant_mode=0, inner_precise=0, return_softmax_lse=False, "
    "query_dtype=None, key_dtype=None, value_dtype=None, query_rope_dtype=None, key_rope_dtype=None, "
    "key_shared_prefix_dtype=None, value_shared_prefix_dtype=None, dequant_scale_query_dtype=None, "
    "dequant_scale_key_dtype=None, dequant_scale_value_dtype=None, dequant_scale_key_rope_dtype=None, "
    "out_dtype=None",
}


@pytest.mark.parametrize("front", ["numpy", "torch"])
@pytest.mark.parametrize("name", DOCUMENTED)
def test_signatures_of_the_documents(front, name):
    module = pytest.importorskip(f"fusion_attention.inference.{front}")
    function = getattr(module, name)
    assert str(inspect.signature(function)) == f"({DOCUMENTED[name]})"
    for argument in inspect.signature(function).parameters:
        assert f"    {argument} (" in function.__doc__


def normal(seed, *shape, dtype=np.float16):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def call(**words):
    """B = 2, N = 4 on Nkv = 2, D = 32, 40 keys."""
    operands = {
        "query": normal(0, 2, 4, 1, 32),
        "key": normal(1, 2, 2, 40, 32),
        "value": normal(2, 2, 2, 40, 32),
    }
    rest = {"num_heads": 4, "num_key_value_heads": 2, "input_layout": "BNSD", "scale": 32**-0.5}
    return operands | rest | words


def in_pages(key, size, order):
    """[B, Nkv, S, D] as a pool in the order of `order`, and its table."""
    batches, heads, keys, depth = key.shape
    pages = (
        key.reshape(batches, heads, keys // size, size, depth).swapaxes(1, 2).reshape(-1, heads, size, depth)
    )
    pool = np.empty_like(pages)
    pool[order] = pages
    return pool, np.asarray(order, np.int32).reshape(batches, -1)


@pytest.mark.parametrize("size", [1, 4, 8, 20])
def test_pages_are_the_plain_call_bit_for_bit(size):
    plain = call(actual_seq_lengths_kv=[37, 12])
    order = np.random.default_rng(3).permutation(2 * 40 // size)
    (key, table), (value, _) = (in_pages(plain[name], size, order) for name in ("key", "value"))
    words = {"block_table": table, "block_size": size}
    out, _ = attend(**plain | words | {"key": key, "value": value})
    expected, _ = attend(**plain)
    np.testing.assert_array_equal(out, expected)
    flat = {name: x.swapaxes(1, 2).reshape(len(x), size, -1) for name, x in (("key", key), ("value", value))}
    np.testing.assert_array_equal(attend(**plain | words | flat)[0], expected)


def test_a_prefix_is_the_plain_call_bit_for_bit():
    plain = call()
    words = {"key": plain["key"][:, :, 16:], "value": plain["value"][:, :, 16:]}
    for name in ("key", "value"):
        plain[name][1, :, :16] = plain[name][0, :, :16]
        words[f"{name}_shared_prefix"] = plain[name][:1, :, :16]
    np.testing.assert_array_equal(attend(**plain | words)[0], attend(**plain)[0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_int8_and_int4_are_the_plain_call_on_what_they_mean(dtype):
    numbers = np.random.default_rng(4).integers(-8, 8, (2, 2, 2, 40, 32)).astype(np.int8)
    scale = np.random.default_rng(5).uniform(0.1, 0.3, (2, 2, 1, 32)).astype(dtype)
    meant = (numbers.astype(np.float32) * scale[:, None].astype(np.float32)).astype(dtype)
    plain = call(query=normal(0, 2, 4, 1, 32).astype(dtype), key=meant[0], value=meant[1])
    expected, _ = attend(**plain)
    stacked = plain | {"key": numbers[0], "value": numbers[1], "antiquant_scale": scale}
    np.testing.assert_array_equal(attend(**stacked)[0], expected)
    nibbles = (numbers.astype(np.uint32) & 15).reshape(2, 2, 2, 40, 4, 8)
    packed = (nibbles << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)
    apart = {"key_antiquant_scale": scale[0], "value_antiquant_scale": scale[1]}
    np.testing.assert_array_equal(
        attend(**plain | apart | {"key": packed[0], "value": packed[1]})[0], expected
    )


def test_the_logarithms_merge_two_halves():
    """The ring formula of the document: halves of the keys and their softmax_lse give the whole."""
    plain = call(query=normal(0, 2, 4, 1, 32).astype(np.float32))
    plain |= {name: plain[name].astype(np.float32) for name in ("key", "value")}
    halves = [
        attend(**plain | {name: plain[name][:, :, part] for name in ("key", "value")}, softmax_lse_flag=True)
        for part in (slice(0, 16), slice(16, 40))
    ]
    top = np.maximum(halves[0][1], halves[1][1])
    weights = [np.exp(lse - top) for _, lse in halves]
    merged = sum(w * out for w, (out, _) in zip(weights, halves)) / sum(weights)
    np.testing.assert_allclose(merged, attend(**plain)[0], rtol=2e-5, atol=2e-6)


def test_one_row_ignores_mode_tokens_and_its_length():
    plain, _ = attend(**call())
    words = {"sparse_mode": 2, "atten_mask": compressed_mask(2048), "pre_tokens": 0, "next_tokens": 0}
    np.testing.assert_array_equal(attend(**call(**words, actual_seq_lengths=[0, 0]))[0], plain)
    np.testing.assert_array_equal(attend(**call(sparse_mode=3))[0], plain)


def test_what_the_documents_ignore():
    """Padding without lengths, that of one row, a page size without pages, stacked scales beside others."""
    rows = call(query=normal(6, 2, 4, 3, 32))
    for name in ("query_padding_size", "kv_padding_size"):
        np.testing.assert_array_equal(attend(**rows, **{name: np.array([1])})[0], attend(**rows)[0])
    words = {"query_padding_size": np.array([1]), "actual_seq_lengths": [1], "block_size": 7}
    np.testing.assert_array_equal(attend(**call(**words))[0], attend(**call())[0])
    numbers = np.random.default_rng(7).integers(-9, 9, (2, 2, 40, 32)).astype(np.int8)
    scale = np.full(1, 0.25, np.float16)
    words = {"key": numbers, "value": numbers, "key_antiquant_scale": scale, "value_antiquant_scale": scale}
    stacked = {"antiquant_scale": np.ones(2, np.float16), "antiquant_offset": np.ones(2, np.float16)}
    np.testing.assert_array_equal(attend(**call(**words, **stacked))[0], attend(**call(**words))[0])


@pytest.mark.parametrize("front", ["numpy", "torch"])
@pytest.mark.parametrize("layout", ["BSND", "BNSD", "BSH", "TND", "NTD"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_an_int8_query_is_the_call_on_what_it_means(dtype, layout, front):
    """Absorbed MLA over pages: dequantised by token and head, then as any query of the rope's dtype."""
    module = pytest.importorskip(f"fusion_attention.inference.{front}")
    sizes = {"B": 2, "S": 3, "N": 4, "T": 6}
    leading = [sizes[axis] for axis in layout.replace("H", "N").rstrip("D")]
    rng = np.random.default_rng(8)
    query = rng.integers(-128, 128, (*leading, 32)).astype(np.int8)
    scale = rng.uniform(0.002, 0.02, leading).astype(np.float32)
    meant = (query.astype(np.float32) * scale[..., None]).astype(dtype)
    rope = normal(9, *leading, 8).astype(dtype)
    if layout == "BSH":
        query, meant, rope = (x.reshape(2, 3, -1) for x in (query, meant, rope))
    pool = rng.integers(-128, 128, (6, 4, 32)).astype(np.int8)
    words = {"num_query_heads": 4, "num_key_value_heads": 1, "input_layout": layout, "softmax_scale": 0.2}
    words |= {"block_table": np.array([[5, 1, 0], [2, 4, 3]], np.int32), "block_size": 4}
    words |= {"actual_seq_kvlen": [11, 6], "key_rope": normal(10, 6, 4, 8).astype(dtype), "query_rope": rope}
    words |= {f"dequant_scale_{name}": np.full(1, 0.01, np.float32) for name in ("key", "value")}
    words |= {"return_softmax_lse": True}
    if "T" in layout:
        words["actual_seq_qlen"] = [3, 6]

    def results(query, **more):
        arrays = {"query": query, "key": pool, "value": pool} | words | more
        if front == "torch":
            arrays = {name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in arrays.items()}
        found = module.npu_fused_infer_attention_score_v2(**arrays)
        return [np.asarray(x.float() if front == "torch" else x, np.float32) for x in found], found[0].dtype

    expected, type_of_floats = results(meant)
    number = {np.float16: 5, ml_dtypes.bfloat16: 15}[dtype]
    for given, out_dtype in (
        (scale, None),
        (scale[..., None], number),
        (scale, type_of_floats),
        (scale, dtype),
    ):
        also = {"query_quant_mode": 3, "out_dtype": out_dtype}
        found, type_of_result = results(query, dequant_scale_query=given, **also)
        assert type_of_result == type_of_floats
        for one, other in zip(found, expected):
            np.testing.assert_array_equal(one, other)
    strided = np.repeat(query, 2, -1)[..., ::2], np.repeat(scale, 2, 0)[::2]
    found, _ = results(strided[0], dequant_scale_query=strided[1], query_quant_mode=3)
    np.testing.assert_array_equal(found[0], expected[0])


def test_a_sink_of_a_row_that_sees_nothing_is_its_logarithm():
    from fusion_attention.inference.numpy import npu_fused_infer_attention_score_v2

    words = call(actual_seq_lengths_kv=[0, 5])
    for first, second in (
        ("num_heads", "num_query_heads"),
        ("scale", "softmax_scale"),
        ("actual_seq_lengths_kv", "actual_seq_kvlen"),
    ):
        words[second] = words.pop(first)
    sink = np.array([1, -2, 0.5, 3], np.float32)
    out, lse = npu_fused_infer_attention_score_v2(**words, learnable_sink=sink, return_softmax_lse=True)
    assert (out[0] == 0).all()
    np.testing.assert_allclose(lse[0, :, 0, 0], sink, rtol=1e-6)


# --- torch ---

LAYOUTS = [
    "BSH",
    "BSND",
    "BNSD",
    "BNSD_BSND",
    "BSH_NBSD",
    "BSND_NBSD",
    "BNSD_NBSD",
    "TND",
    "TND_NTD",
    "NTD_TND",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tracing_knows_the_shapes(layout):
    torch = pytest.importorskip("torch")
    from fusion_attention.inference.torch import npu_fused_infer_attention_score as front

    sizes = {"B": 2, "S": 3, "N": 4, "D": 16, "T": 6, "H": 64}
    tensors = [torch.randn([sizes[axis] for axis in layout.partition("_")[0]]) for _ in range(3)]
    words = {"num_heads": 4, "input_layout": layout, "softmax_lse_flag": True}
    if "T" in layout:
        words |= {"actual_seq_lengths": [2, 6], "actual_seq_lengths_kv": [3, 6]}
    out, lse = front(*tensors, **words)
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) for x in tensors]
        for real, fake in zip((out, lse), front(*fakes, **words)):
            assert (fake.shape, fake.dtype) == (real.shape, real.dtype)


def test_tracing_knows_the_dtype_of_an_int8_query():
    torch = pytest.importorskip("torch")
    from fusion_attention.inference.torch import npu_fused_infer_attention_score_v2 as front

    stored = torch.ones(1, 1, 2, 16, dtype=torch.int8)
    rope = torch.ones(1, 1, 2, 8, dtype=torch.bfloat16)
    words = {f"dequant_scale_{name}": torch.ones(1) for name in ("key", "value")}
    words |= {"dequant_scale_query": torch.ones(1, 1, 2), "query_rope": rope, "key_rope": rope}

    def call(query, words):
        return front(query, query, query, **words, query_quant_mode=3, input_layout="BNSD")[0]

    with torch._subclasses.FakeTensorMode() as mode:
        fakes = {name: mode.from_tensor(x) for name, x in words.items()}
        fake = call(mode.from_tensor(stored), fakes)
    assert (fake.dtype, fake.shape) == (torch.bfloat16, call(stored, words).shape)


def test_compiled_with_pages_and_lengths_that_change():
    torch = pytest.importorskip("torch")
    from fusion_attention.inference.torch import npu_fused_infer_attention_score as front

    pools = torch.randn(2, 6, 2, 4, 16, dtype=torch.bfloat16)
    query = torch.randn(2, 4, 1, 16, dtype=torch.bfloat16)
    table = torch.tensor([[4, 0, 5], [1, 3, 2]], dtype=torch.int32)

    def step(lengths):
        words = {"num_heads": 4, "num_key_value_heads": 2, "input_layout": "BNSD", "scale": 0.25}
        return front(query, *pools, **words, block_table=table, block_size=4, actual_seq_lengths_kv=lengths)[
            0
        ]

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    for lengths in ([3, 9], [4, 10], [12, 1]):
        given = torch.tensor(lengths)
        assert torch.equal(compiled(given), step(given))
        assert torch.equal(step(lengths), step(given))


@pytest.fixture
def torch_npu():
    pytest.importorskip("torch")
    fusion_attention.enable("torch_npu")
    import torch_npu

    yield torch_npu
    fusion_attention.disable()


def test_the_examples_of_the_document(torch_npu):
    """Examples 1, 2, 4, 7 and 8 of npu_fused_infer_attention_score's page, against dense arithmetic."""
    import torch

    torch.manual_seed(0)
    scale = 1 / math.sqrt(128.0)

    def close(out, q, k, v, scale=scale, limit=2e-3):
        group = q.shape[1] // k.shape[1]
        k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
        expected = torch.softmax(q.double() @ k.transpose(-1, -2) * scale, -1) @ v
        assert (out.double() - expected).abs().max() <= limit * max(1, expected.abs().max())

    q, k, v = (torch.randn(1, 8, n, 128, dtype=torch.float16) for n in (164, 1024, 1024))
    words = {
        "num_heads": 8,
        "input_layout": "BNSD",
        "scale": scale,
        "pre_tokens": 65535,
        "next_tokens": 65535,
    }
    lengths = {"actual_seq_lengths": [164], "actual_seq_lengths_kv": [1024]}
    out, lse = torch_npu.npu_fused_infer_attention_score(q, k, v, **words, **lengths)
    assert lse.shape == (0,)
    close(out, q, k, v)
    again, _ = torch.ops.npu.npu_fused_infer_attention_score(q, k, v, **words, **lengths)
    assert torch.equal(out, again)

    row = torch.randn(1, 1, 1024, dtype=torch.float16)
    pools = torch.randn(2, 16, 128, 256, dtype=torch.float16)
    table = torch.arange(16, dtype=torch.int32).unsqueeze(0)
    paged = {"block_table": table, "block_size": 128, "actual_seq_lengths_kv": [2048]}
    out, _ = torch_npu.npu_fused_infer_attention_score(
        row, *pools, num_heads=8, num_key_value_heads=2, input_layout="BSH", scale=scale, **paged
    )
    assert out.shape == (1, 1, 1024)
    close(out.view(1, 8, 1, 128), row.view(1, 8, 1, 128), *pools.view(2, 1, 2048, 2, 128).transpose(2, 3))

    latent = [torch.randn(1, n, s, 512, dtype=torch.float16) for n, s in ((16, 1), (1, 2048), (1, 2048))]
    ropes = [torch.randn(1, n, s, 64, dtype=torch.float16) for n, s in ((16, 1), (1, 2048))]
    mla = 1 / math.sqrt(576)
    out, _ = torch_npu.npu_fused_infer_attention_score(
        *latent, query_rope=ropes[0], key_rope=ropes[1], num_heads=16, num_key_value_heads=1,
        input_layout="BNSD", scale=mla, sparse_mode=0,
    )  # fmt: skip
    joined = [torch.cat(both, -1) for both in zip(latent, ropes)]
    close(out, *joined, latent[2], scale=mla)

    stored = torch.randint(-128, 127, (2, 1, 2, 2048, 128), dtype=torch.int8)
    scales = torch.ones(1, 2, 1, 128, dtype=torch.bfloat16) * 0.01
    row = torch.randn(1, 8, 1, 128, dtype=torch.bfloat16)
    out, _ = torch_npu.npu_fused_infer_attention_score(
        row, *stored, key_antiquant_scale=scales, value_antiquant_scale=scales, key_antiquant_mode=0,
        value_antiquant_mode=0, num_heads=8, num_key_value_heads=2, input_layout="BNSD", scale=scale,
    )  # fmt: skip
    assert out.dtype == torch.bfloat16
    close(out, row, *((stored.float() * scales[0].float()).bfloat16()), limit=2e-2)

    prefix = torch.randn(2, 1, 8, 32, 128, dtype=torch.float16)
    out, _ = torch_npu.npu_fused_infer_attention_score(
        q, k, v, key_shared_prefix=prefix[0], value_shared_prefix=prefix[1], **words
    )
    close(out, q, torch.cat((prefix[0], k), 2), torch.cat((prefix[1], v), 2))


def test_the_example_of_incre(torch_npu):
    import torch

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 1, 40 * 128, dtype=torch.float16) for _ in range(3))
    out = torch_npu.npu_incre_flash_attention(
        q, k, v, num_heads=40, input_layout="BSH", scale_value=128**-0.5
    )
    assert torch.equal(out, v)  # one key has all the weight
    assert torch.equal(torch.ops.npu.npu_incre_flash_attention(q, k, v, num_heads=40), v)


def test_rows_behind_the_last_packed_tree_are_zero(monkeypatch):
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 7, dtype))
    out, lse = attend(
        normal(0, 7, 2, 16),
        normal(1, 9, 2, 16),
        normal(2, 9, 2, 16),
        query_rope=normal(3, 7, 2, 8),
        key_rope=normal(4, 9, 2, 8),
        atten_mask=np.zeros(2 * 2 + 3 * 3, bool),
        actual_seq_lengths=[2, 5],
        actual_seq_lengths_kv=[4, 8],
        num_heads=2,
        num_key_value_heads=2,
        input_layout="TND",
        sparse_mode=9,
        softmax_lse_flag=True,
    )
    assert (out[:5] != 7).all() and (out[5:] == 0).all()
    assert np.isfinite(lse[:5]).all() and np.isposinf(lse[5:]).all()


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_mindspores_key_and_value_may_stand_in_a_tuple_of_one(framework):
    from fusion_attention.mindspore import incre_flash_attention

    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, 3, rows, 16)).astype(np.float16) for rows in (1, 5, 5))
    if framework == "torch":
        import torch

        query, key, value = map(torch.from_numpy, (query, key, value))
    words = {"num_heads": 3, "input_layout": "BNSD"}
    plain = incre_flash_attention(query, key, value, **words)
    np.testing.assert_array_equal(incre_flash_attention(query, (key,), [value], **words), plain)
    for given in ((), (key, key)):
        with pytest.raises(RuntimeError, match=f"^key: got {len(given)} tensors, allowed is 1"):
            incre_flash_attention(query, given, value, **words)
    with pytest.raises(TypeError, match="^value: got "):
        incre_flash_attention(query, key, (3,), **words)
