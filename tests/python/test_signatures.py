"""Names, orders and defaults against the documents' own lines, and the generated types against the table."""

from __future__ import annotations

import inspect

import pytest

V1 = (
    "query, key, value, head_num, input_layout, pse=None, padding_mask=None, atten_mask=None, "
    "scale=1.0, keep_prob=1.0, pre_tockens=2147483647, next_tockens=2147483647, inner_precise=0, "
    "prefix=None, actual_seq_qlen=None, actual_seq_kvlen=None, sparse_mode=0, gen_mask_parallel=True,"
    " sync=False, softmax_layout='', sink=None"
)
DOCUMENTED = {
    "npu_fusion_attention": f"{V1}, dropout_mask=None, seed=0, offset=0",
    "npu_fusion_attention_v2": (
        "query, key, value, head_num, input_layout, *, pse=None, padding_mask=None, atten_mask=None, "
        "query_rope=None, key_rope=None, scale=1.0, keep_prob=1.0, pre_tokens=2147483647, "
        "next_tokens=2147483647, inner_precise=0, prefix=None, actual_seq_qlen=None, "
        "actual_seq_kvlen=None, sparse_mode=0, gen_mask_parallel=True, sync=False, pse_type=1, "
        "q_start_idx=None, kv_start_idx=None, softmax_layout='', sink=None, dropout_mask=None, seed=0, "
        "offset=0"
    ),
    "npu_fusion_attention_v3": V1,
    "npu_fusion_attention_grad": (
        "query, key, value, dy, head_num, input_layout, *, pse=None, padding_mask=None, atten_mask=None, "
        "softmax_max=None, softmax_sum=None, softmax_in=None, attention_in=None, scale_value=1.0, "
        "keep_prob=1.0, pre_tockens=2147483647, next_tockens=2147483647, inner_precise=0, seed=0, "
        "offset=0, numels=0, prefix=None, actual_seq_qlen=None, actual_seq_kvlen=None, sparse_mode=0, "
        "gen_mask_parallel=True, sync=False, softmax_layout='', sink=None"
    ),
    "npu_fusion_attention_grad_v2": (
        "query, key, value, dy, head_num, input_layout, *, pse=None, padding_mask=None, atten_mask=None, "
        "softmax_max=None, softmax_sum=None, softmax_in=None, attention_in=None, query_rope=None, "
        "key_rope=None, scale_value=1.0, keep_prob=1.0, pre_tokens=2147483647, next_tokens=2147483647, "
        "inner_precise=0, seed=0, offset=0, numels=0, prefix=None, actual_seq_qlen=None, "
        "actual_seq_kvlen=None, sparse_mode=0, gen_mask_parallel=True, sync=False, pse_type=1, "
        "q_start_idx=None, kv_start_idx=None, softmax_layout='', sink=None"
    ),
    "npu_fusion_attention_grad_v3": (
        "query, key, value, dy, head_num, input_layout, *, pse=None, padding_mask=None, atten_mask=None, "
        "softmax_max=None, softmax_sum=None, softmax_in=None, attention_in=None, scale_value=1.0, "
        "keep_prob=1.0, pre_tockens=2147483647, next_tockens=2147483647, inner_precise=0, seed=None, "
        "offset=None, prefix=None, actual_seq_qlen=None, actual_seq_kvlen=None, sparse_mode=0, "
        "gen_mask_parallel=True, sync=False, softmax_layout='', sink=None"
    ),
}


@pytest.mark.parametrize("front", ["numpy", "torch"])
@pytest.mark.parametrize("name", DOCUMENTED)
def test_signature(front, name):
    if front == "torch":
        pytest.importorskip("torch")
    import fusion_attention

    function = getattr(getattr(fusion_attention, front), name)
    assert str(inspect.signature(function)) == f"({DOCUMENTED[name]})"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstring_names_every_argument(name):
    import fusion_attention.numpy as front

    function = getattr(front, name)
    for argument in inspect.signature(function).parameters:
        assert f"    {argument} (" in function.__doc__
    for word in ("Returns:", "Raises:", "RuntimeError", "mode 4", "default"):
        assert word in function.__doc__


def test_generated_types_are_current():
    from fusion_attention import _stubs

    assert _stubs.FILE.read_text() == _stubs.text(), "run: python -m fusion_attention._stubs"
    if _stubs.PAGE.parent.is_dir():  # not where the package is installed
        assert _stubs.PAGE.read_text() == _stubs.page(), "run: python -m fusion_attention._stubs"
