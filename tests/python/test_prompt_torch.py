"""The prompt interfaces as torch operators: traced, compiled, under torch_npu's names."""

import fusion_attention
import pytest
import torch
from fusion_attention.inference import torch as front

OPERATORS = torch.ops.fusion_attention


def operands(dtype=torch.float16, layout="BNSD", rows=6):
    torch.manual_seed(3)
    shapes = {"BNSD": [(2, 4, rows, 16), (2, 2, 9, 16)], "BSH": [(2, rows, 64), (2, 9, 32)]}[
        layout[:4].strip("_")
    ]
    query, key = (torch.randn(shape).to(dtype) for shape in shapes)
    return query, key, torch.randn(shapes[1]).to(dtype)


WORDS = {"num_heads": 4, "num_key_value_heads": 2, "input_layout": "BNSD", "scale_value": 0.25}


@pytest.mark.parametrize("function", ["prompt_flash_attention", "npu_prompt_flash_attention"])
def test_the_operator_is_a_good_citizen(function):
    lengths = torch.tensor([4, 6])
    operator = getattr(OPERATORS, function).default
    words = {"num_heads": 4, "num_key_value_heads": 2, "input_layout": "BNSD", "actual_seq_lengths": lengths}
    torch.library.opcheck(operator, operands(), words)


@pytest.mark.parametrize("layout", ["BNSD", "BNSD_BSND", "BSH"])
@pytest.mark.parametrize("quantised", [False, True])
def test_compiled_without_a_break(layout, quantised):
    scale = torch.tensor([20.0]) if quantised else None

    def run(query, key, value, lengths):
        words = WORDS | {"input_layout": layout, "quant_scale2": scale}
        return front.npu_prompt_flash_attention(query, key, value, actual_seq_lengths=lengths, **words) + 1

    given = operands(layout=layout)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for lengths in ([3, 6], [0, 1]):
        again, eager = (f(*given, torch.tensor(lengths)) for f in (compiled, run))
        assert again.dtype == eager.dtype and torch.equal(again, eager)


def test_int8_operands_are_traced_as_float16():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 4, 6, 16, dtype=torch.int8)
        out = front.npu_prompt_flash_attention(x, x, x, num_heads=4, input_layout="BNSD")
    assert out.dtype == torch.float16 and out.shape == x.shape


def test_torch_npus_names():
    given, lengths = operands(), [3, 6]
    expected = front.npu_prompt_flash_attention(*given, actual_seq_lengths=lengths, **WORDS)
    fusion_attention.enable("torch_npu")
    try:
        import torch_npu

        for function in (torch_npu.npu_prompt_flash_attention, torch.ops.npu.npu_prompt_flash_attention):
            assert torch.equal(function(*given, actual_seq_lengths=lengths, **WORDS), expected)
    finally:
        fusion_attention.disable()


def test_any_strides():
    given = operands()
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in given]
    pse = torch.randn(1, 4, 9, 6).half()
    same = [x.clone() for x in given]
    assert torch.equal(
        front.npu_prompt_flash_attention(*turned, pse_shift=pse.transpose(2, 3), **WORDS),
        front.npu_prompt_flash_attention(*same, pse_shift=pse.transpose(2, 3).contiguous(), **WORDS),
    )
