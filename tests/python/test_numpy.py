"""The NumPy front: what is not a matter of numbers, which test_family_calls.py settles."""

from __future__ import annotations

import subprocess
import sys
import threading

import fusion_attention
import fusion_attention.numpy as front
import numpy as np
import pytest
from family_calls import draw
from family_draw import DTYPES, dense_shape
from family_options import compressed_mask
from fusion_attention import _shapes
from statement import Statement
from statement_mask import kept

LAYOUTS = ["BSH", "SBH", "BSND", "BNSD"]


def operands(
    layout="BSND", dtype="float32", rows=6, keys=9, heads=4, kv_heads=2, depth=8, value_depth=5, seed=0
):
    rng = np.random.default_rng(seed)
    shapes = ((heads, rows, depth), (kv_heads, keys, depth), (kv_heads, keys, value_depth))
    return tuple(
        rng.standard_normal(dense_shape(layout, 2, n, s, d)).astype(np.float32).astype(DTYPES[dtype])
        for n, s, d in shapes
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_seven_results(layout, dtype):
    query, key, value = operands(layout, dtype)
    out, top, total, reserved, seed, offset, numels = front.npu_fusion_attention(
        query, key, value, 4, layout, seed=7, offset=3
    )
    assert out.shape == dense_shape(layout, 2, 4, 6, 5) and out.dtype == query.dtype
    assert top.shape == total.shape == (2, 4, 6, 8) and top.dtype == total.dtype == np.float32
    assert reserved.shape == (0,) and reserved.dtype == query.dtype
    assert (seed, offset, numels) == (7, 3, 2 * 4 * 6 * 9)
    assert all(type(number) is int for number in (seed, offset, numels))
    assert all(result.flags.c_contiguous for result in (out, top, total))


@pytest.mark.parametrize("seed", range(40))
def test_symbolic_shapes_agree_with_the_library(seed):
    """What tracing believes about results, `_shapes`, is what C++ computes."""
    call, _, line = draw(seed, "v1")
    arguments = {k.replace("_tokens", "_tockens"): v for k, v in call.items()}
    out, top, *_, numels = front.npu_fusion_attention(**arguments)
    shapes = [call[name].shape for name in ("query", "key", "value")]
    heads, layout = call["head_num"], call["input_layout"]
    expected_out, expected_top = _shapes.results(*shapes, heads, layout)
    assert (out.shape, top.shape) == (tuple(expected_out), tuple(expected_top)), line
    ends = call.get("actual_seq_qlen"), call.get("actual_seq_kvlen")
    assert numels == _shapes.numels(*shapes[:2], heads, layout, *ends), line


def strided(x, how):
    """The same values under other strides."""
    if how == "reversed":
        return x[..., ::-1].copy()[..., ::-1]
    if how == "every other channel":
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), 7, x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if how == "transposed":
        return np.ascontiguousarray(np.swapaxes(x, 1, -1)).swapaxes(1, -1)
    if how == "between elements":
        raw = np.zeros((*x.shape[:-1], x.shape[-1] * x.itemsize + 1), np.uint8)
        raw[..., :-1] = np.ascontiguousarray(x).view(np.uint8)
        return np.lib.stride_tricks.as_strided(raw.view(np.uint8), (*raw.shape[:-1], raw.shape[-1]))[
            ..., :-1
        ].view(x.dtype)
    if how == "misaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)
        view = raw[1:].view(x.dtype).reshape(x.shape)
        view[...] = x
        return view
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how", ["reversed", "every other channel", "transposed", "between elements", "misaligned"]
)
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_any_strides(how, dtype):
    given = operands("BSND", dtype)
    mask = np.random.default_rng(1).random((2, 4, 6, 9)) < 0.3
    plain = front.npu_fusion_attention(*given, 4, "BSND", atten_mask=mask)
    other = [strided(x, how) for x in given]
    other_mask = strided(mask.view(np.uint8), how) if how != "misaligned" else mask
    for a, b in zip(given, other):
        assert np.array_equal(a, b)
    results = front.npu_fusion_attention(*other, 4, "BSND", atten_mask=other_mask)
    for a, b in zip(plain[:3], results[:3]):
        assert np.array_equal(a, b)
    saved = {"softmax_max": plain[1], "softmax_sum": plain[2], "attention_in": plain[0], "atten_mask": mask}
    dy = np.ones_like(plain[0])
    a = front.npu_fusion_attention_grad(*given, dy, 4, "BSND", **saved)
    saved |= {"atten_mask": other_mask, "attention_in": strided(plain[0], how)}
    b = front.npu_fusion_attention_grad(*other, strided(dy, how), 4, "BSND", **saved)
    for x, y in zip(a[:3], b[:3]):
        assert np.array_equal(x, y)


def test_broadcast_operands():
    query, key, value = operands()
    shared = [np.broadcast_to(x[:1], x.shape) for x in (key, value)]
    whole = [x.copy() for x in shared]
    for a, b in zip(
        front.npu_fusion_attention(query, *shared, 4, "BSND"),
        front.npu_fusion_attention(query, *whole, 4, "BSND"),
    ):
        assert np.array_equal(a, b)


def test_read_only_operands_are_read():
    given = operands()
    for x in given:
        x.flags.writeable = False
    front.npu_fusion_attention(*given, 4, "BSND")


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("keys", [0, 3])
def test_empty(rows, keys):
    given = operands(rows=rows, keys=keys)
    out, top, total, *_ = front.npu_fusion_attention(*given, 4, "BSND")
    if keys == 0:
        assert (out == 0).all() and (top == -np.finfo(np.float32).max).all() and (total == 1).all()
    gradients = front.npu_fusion_attention_grad(
        *given, np.ones_like(out), 4, "BSND", softmax_max=top, softmax_sum=total, attention_in=out
    )
    assert [g.shape for g in gradients[:3]] == [x.shape for x in given]
    if keys == 0 or rows == 0:
        assert all((g == 0).all() for g in gradients[:3])


def test_gradients_use_the_given_statistics():
    """Two halves of the keys, with statistics and output of the whole, add up to it (ring attention)."""
    query, key, value = operands(keys=10)
    out, top, total, *_ = front.npu_fusion_attention(query, key, value, 4, "BSND", scale=0.3)
    dy = np.random.default_rng(5).standard_normal(out.shape).astype(np.float32)

    def gradients(a, b):
        return front.npu_fusion_attention_grad(
            query, key[:, a:b], value[:, a:b], dy, 4, "BSND", scale_value=0.3,
            softmax_max=top, softmax_sum=total, attention_in=out,
        )  # fmt: skip

    whole, left, right = gradients(0, 10), gradients(0, 4), gradients(4, 10)
    np.testing.assert_allclose(left[0] + right[0], whole[0], rtol=1e-4, atol=1e-6)
    for i in (1, 2):
        np.testing.assert_allclose(np.concatenate([left[i], right[i]], 1), whole[i], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("npu_fusion_attention_grad", 5),
        ("npu_fusion_attention_grad_v2", 7),
        ("npu_fusion_attention_grad_v3", 5),
    ],
)
def test_gradient_results(name, count):
    given = operands()
    out, top, total, *_ = front.npu_fusion_attention(*given, 4, "BSND")
    saved = {"softmax_max": top, "softmax_sum": total, "attention_in": out}
    results = getattr(front, name)(*given, np.ones_like(out), 4, "BSND", **saved)
    assert len(results) == count
    assert [r.shape for r in results[:3]] == [x.shape for x in given]
    assert all(r is None for r in results[3:])


def test_version_3_returns_arrays():
    *_, seed, offset = front.npu_fusion_attention_v3(*operands(), 4, "BSND")
    assert seed.shape == offset.shape == (1,)


def test_lengths_in_every_form():
    x = np.random.default_rng(0).standard_normal((9, 2, 8)).astype(np.float32)
    forms = ([4, 9], (4, 9), np.array([4, 9]), np.array([4, 9], np.int32), [np.int64(4), 9])
    first = front.npu_fusion_attention(x, x, x, 2, "TND", actual_seq_qlen=[4, 9], actual_seq_kvlen=[4, 9])
    assert first[6] == 2 * (16 + 25)
    for ends in forms:
        results = front.npu_fusion_attention(x, x, x, 2, "TND", actual_seq_qlen=ends, actual_seq_kvlen=ends)
        assert np.array_equal(first[0], results[0])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("query", [1.0]),
        ("atten_mask", "mask"),
        ("head_num", 4.0),
        ("head_num", "4"),
        ("input_layout", b"BSND"),
        ("scale", "1"),
        ("scale", None),
        ("sparse_mode", 1.5),
        ("pre_tockens", None),
        ("actual_seq_qlen", 5),
        ("actual_seq_qlen", "59"),
        ("actual_seq_qlen", [1.5]),
        ("softmax_layout", 0),
        ("gen_mask_parallel", "yes"),
        ("seed", 0.5),
    ],
)
def test_wrong_python_types(argument, value):
    call = dict(zip(("query", "key", "value"), operands()), head_num=4, input_layout="BSND")
    with pytest.raises(TypeError, match=f"^{argument}: got "):
        front.npu_fusion_attention(**{**call, argument: value})


def test_foreign_byte_order_is_refused():
    query, key, value = operands()
    with pytest.raises(RuntimeError, match="query: got dtype >f4"):
        front.npu_fusion_attention(query.astype(">f4"), key, value, 4, "BSND")


def test_dispatch_by_type():
    query, key, value = operands()
    a = fusion_attention.npu_fusion_attention(query, key, value, 4, "BSND")
    b = front.npu_fusion_attention(query, key, value, 4, "BSND")
    assert np.array_equal(a[0], b[0])


def test_notes_are_warned_once_per_process():
    script = """
import warnings, numpy as np, fusion_attention.numpy as front
x = np.ones((1, 4, 1, 8), np.float32)
nothing = np.zeros((4, 4), bool)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        front.npu_fusion_attention(x, x, x, 1, "BSND", sparse_mode=2)
        front.npu_fusion_attention(x, x, x, 1, "BSND", atten_mask=nothing, next_tockens=0)
print(sorted(str(w.message).split()[0] for w in caught))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['atten_mask', 'sparse_mode']"


def test_many_threads_at_once():
    given = operands(rows=70, keys=90)
    expected = front.npu_fusion_attention(*given, 4, "BSND")[0]
    wrong = []

    def work():
        for _ in range(10):
            if not np.array_equal(front.npu_fusion_attention(*given, 4, "BSND")[0], expected):
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("seed", range(60))
def test_examined_masks_against_the_documents(seed):
    """Which keys each row sees, as `explain` and the pictures show it."""
    call, dtype, line = draw(seed)
    explanation = front.examine(**call)
    statement = Statement(call, dtype)
    lengths = statement.q_lens, statement.kv_lens
    for place, (rows, keys) in enumerate(zip(*lengths)):
        keep = kept(call, place, *lengths)
        for head in (0, call["head_num"] - 1):
            seen = np.frombuffer(explanation.visible(place, head), np.uint8).reshape(rows, keys)
            assert np.array_equal(seen != 0, keep[head]), f"sequence {place}, head {head}\n  {line}"


def test_explain_prints(capsys):
    query, key, value = operands()
    fusion_attention.explain(query, key, value, 4, "BSND", atten_mask=compressed_mask(2048), sparse_mode=3)
    said = capsys.readouterr().out
    assert "fwd fp32 b2 h4/2 q6 k9 d8/5" in said
    assert "kernel" in said and "passed over" in said
