"""What is written from the table of the inference operators stands in the repository as it is written."""

import inspect
from pathlib import Path

import fusion_attention.inference.numpy as front
import pytest
from fusion_attention.inference import decode, stubs

MAX = 2147483647
DOCS = Path(__file__).parents[2] / "docs"
DOCUMENTED = {
    "prompt_flash_attention": (
        "query, key, value, attn_mask=None, actual_seq_lengths=None, actual_seq_lengths_kv=None, "
        "pse_shift=None, deq_scale1=None, quant_scale1=None, deq_scale2=None, quant_scale2=None, "
        f"quant_offset2=None, num_heads=1, scale_value=1.0, pre_tokens={MAX}, next_tokens=0, "
        "input_layout='BSH', num_key_value_heads=0, sparse_mode=0, inner_precise=1"
    ),
    "npu_prompt_flash_attention": (
        "query, key, value, *, padding_mask=None, atten_mask=None, pse_shift=None, actual_seq_lengths=None, "
        "deq_scale1=None, quant_scale1=None, deq_scale2=None, quant_scale2=None, quant_offset2=None, "
        f"num_heads=1, scale_value=1.0, pre_tokens={MAX}, next_tokens=0, input_layout='BSH', "
        "num_key_value_heads=0, actual_seq_lengths_kv=None, sparse_mode=0"
    ),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_signatures_of_the_documents(name):
    import fusion_attention.inference.torch as tensors

    for home in (front, tensors):
        assert str(inspect.signature(getattr(home, name))) == f"({DOCUMENTED[name]})"


def test_types():
    assert stubs.FILE.read_text() == stubs.text()


def test_pages():
    names = {path.name for path in stubs.pages(DOCS)}
    assert names >= {"prompt_flash_attention.md", "fused_infer_attention.md"}
    for path in stubs.pages(DOCS):
        assert path.read_text() == stubs.page(path.read_text()), path.name


@pytest.mark.parametrize("function", decode.FUNCTIONS, ids=lambda function: function.name)
def test_docstrings_name_every_argument_and_its_source(function):
    said = getattr(front, function.name).__doc__
    for name, argument, _ in function.parameters():
        assert f"    {name} (" in said and argument.source.startswith("inference-ops ")
