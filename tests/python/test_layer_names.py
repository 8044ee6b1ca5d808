"""The torch_npu layer with the names only: what can be imported, and the two operators beside attention."""

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the torch_npu layer is for torch, which is not installed")
import fusion_attention  # noqa: E402


@pytest.fixture
def torch_npu():
    fusion_attention.enable("torch_npu")
    yield importlib.import_module("torch_npu")
    fusion_attention.disable()


def test_module_can_be_found_and_is_as_new_as_torch(torch_npu):
    spec = importlib.util.find_spec("torch_npu")
    assert spec is not None and torch_npu.__spec__ is not None and spec.origin == torch_npu.__file__
    version = torch.__version__.partition("+")[0]
    assert torch_npu.__version__ == version
    for name in ("torch_npu", "torch-npu", "Torch.NPU"):
        assert importlib.metadata.version(name) == version
    assert importlib.metadata.packages_distributions()["torch_npu"] == ["torch-npu"]


def test_no_distribution_stays_behind(torch_npu):
    fusion_attention.disable()
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torch_npu")
    assert importlib.util.find_spec("torch_npu") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torch_npu")


def test_no_device_is_claimed(torch_npu):
    assert torch.npu is torch_npu.npu and sys.modules["torch.npu"] is torch.npu
    assert torch.npu.is_available() is False and torch.npu.device_count() == 0
    with pytest.raises(RuntimeError, match="expected one of|Expected one of"):
        torch.zeros(1, device="npu")
    with pytest.raises(RuntimeError, match=r"torch.npu.current_device: got .*, allowed is .*device=True"):
        torch.npu.current_device()


def test_seeding_the_npu_leaves_torch_alone(torch_npu):
    before = torch.get_rng_state()
    torch.npu.manual_seed(5)
    torch.npu.manual_seed_all(6)
    assert torch.equal(before, torch.get_rng_state()) and torch.npu.initial_seed() == 6


def test_unknown_member_says_what_there_is(torch_npu):
    with pytest.raises(AttributeError, match="npu_moe_gating_top_k.*serves .*npu, .*npu_fusion_attention"):
        _ = torch_npu.npu_moe_gating_top_k


def test_every_operator_exists_in_both_places(torch_npu):
    for name in torch_npu.__all__:
        if name != "npu":
            assert callable(getattr(torch_npu, name)) and callable(getattr(torch.ops.npu, name)), name


@pytest.mark.parametrize("approximate", [0, 1])
@pytest.mark.parametrize("activate_left", [False, True])
@pytest.mark.parametrize("dim", [-1, 1])
def test_geglu(torch_npu, approximate, activate_left, dim):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    a, b = x.chunk(2, dim)
    a, b = (b, a) if activate_left else (a, b)
    if approximate:
        gelu = 0.5 * b * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (b + 0.044715 * b**3)))
    else:
        gelu = 0.5 * b * (1 + torch.erf(b / 2**0.5))
    out, kept = torch_npu.npu_geglu(x, dim=dim, approximate=approximate, activate_left=activate_left)
    torch.testing.assert_close(out, a * gelu)
    torch.testing.assert_close(kept, gelu)
    assert torch.autograd.gradcheck(lambda t: torch_npu.npu_geglu(t, dim, approximate, activate_left), (x,))
    torch.testing.assert_close(torch.ops.npu.npu_geglu(x, dim, approximate, activate_left)[0], out)
    torch.testing.assert_close(
        torch_npu.npu_geglu(self=x, dim=dim, approximate=approximate)[0].shape, out.shape
    )


@pytest.mark.parametrize("axes", [1, 2])
def test_rms_norm(torch_npu, axes):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    gamma = torch.randn(x.shape[-axes:], dtype=torch.float64, requires_grad=True)
    y, rstd = torch_npu.npu_rms_norm(x, gamma, epsilon=1e-5)
    torch.testing.assert_close(y, torch.nn.functional.rms_norm(x, gamma.shape, gamma, 1e-5))
    assert rstd.shape == (*x.shape[:-axes], *[1] * axes)
    torch.testing.assert_close(rstd, (x.square().mean(tuple(range(-axes, 0)), keepdim=True) + 1e-5).rsqrt())
    assert torch.autograd.gradcheck(lambda a, b: torch_npu.npu_rms_norm(a, b, 1e-5), (x, gamma))
    torch.testing.assert_close(torch.ops.npu.npu_rms_norm(x, gamma, 1e-5)[0], y)


def test_rms_norm_keeps_the_dtype_and_a_float32_rstd(torch_npu):
    y, rstd = torch_npu.npu_rms_norm(torch.ones(2, 8, dtype=torch.bfloat16), torch.ones(8))
    assert y.dtype == torch.bfloat16 and rstd.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda m: m.npu_geglu(torch.ones(3)),
            RuntimeError,
            "input: got 3 along axis -1, allowed is an even number",
        ),
        (lambda m: m.npu_geglu(torch.ones(4), approximate=2), RuntimeError, "approximate: got 2"),
        (lambda m: m.npu_geglu(torch.ones(4), dim=1), RuntimeError, "dim: got 1"),
        (lambda m: m.npu_geglu([1.0, 2.0]), TypeError, "input: got list"),
        (lambda m: m.npu_geglu(torch.ones(4), self=torch.ones(4)), TypeError, "got both"),
        (lambda m: m.npu_rms_norm(torch.ones(2, 4), torch.ones(3)), RuntimeError, r"gamma: got shape \(3,\)"),
        (lambda m: m.npu_rms_norm(torch.ones(4), None), TypeError, "gamma: got NoneType"),
    ],
)
def test_refusals(torch_npu, call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(torch_npu)


def test_attention_through_torch_ops(torch_npu):
    torch.manual_seed(0)
    q, k = torch.randn(2, 5, 4, 16), torch.randn(2, 7, 2, 16)
    mask = torch.triu(torch.ones(2048, 2048, dtype=torch.bool), 1)
    options = {"atten_mask": mask, "scale": 0.25, "sparse_mode": 3}
    expected = torch_npu.npu_fusion_attention(q, k, k, 4, "BSND", **options)
    for name in ("npu_fusion_attention", "npu_fusion_attention_v2", "npu_fusion_attention_v3"):
        result = getattr(torch.ops.npu, name)(q, k, k, 4, "BSND", **options)
        torch.testing.assert_close(result[0], expected[0], rtol=0, atol=0)
        torch.testing.assert_close(result[1], expected[1], rtol=0, atol=0)
    assert [type(item) for item in expected[4:]] == [int, int, int] and len(expected) == 7


@pytest.mark.parametrize("name", ["npu_fusion_attention", "npu_fusion_attention_v3"])
def test_torch_ops_compile_without_a_graph_break(torch_npu, name):
    def loss(q, k, v):
        return getattr(torch.ops.npu, name)(q, k, v, 2, "BNSD", scale=0.5)[0].square().sum()

    torch.manual_seed(0)
    tensors = [torch.randn(1, 2, 6, 8, requires_grad=True) for _ in range(3)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    eager = torch.autograd.grad(loss(*tensors), tensors)
    for a, b in zip(torch.autograd.grad(compiled(*tensors), tensors), eager, strict=True):
        torch.testing.assert_close(a, b)


def test_attention_is_not_autocast_inside(torch_npu):
    torch.manual_seed(0)
    q = torch.randn(1, 2, 6, 8)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    plain = torch_npu.npu_fusion_attention(q, q, q, 2, "BNSD", atten_mask=mask)[0]
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            for function in (torch_npu.npu_fusion_attention, torch.ops.npu.npu_fusion_attention):
                result = function(q, q, q, 2, "BNSD", atten_mask=mask)[0]
                assert result.dtype == torch.float32 and torch.equal(result, plain)


def test_op_plugins_test_helpers(torch_npu):
    testcase = importlib.import_module("torch_npu.testing.testcase")
    common = importlib.import_module("torch_npu.testing.common_utils")
    case = testcase.TestCase()
    half = torch.tensor([1.0], dtype=torch.float16)
    case.assertRtolEqual(torch.ones(2), torch.ones(2) + 5e-5)
    case.assertRtolEqual(half, half + 9e-4)
    with pytest.raises(AssertionError, match="relative error"):
        case.assertRtolEqual(torch.ones(2), torch.ones(2) + 2e-4)
    with pytest.raises(AssertionError, match="shapes differ"):
        case.assertRtolEqual(torch.ones(2), torch.ones(3))
    with pytest.raises(AssertionError, match="NaN"):
        case.assertRtolEqual(torch.tensor([float("nan")]), torch.ones(1))
    marked = common.SupportedDevices(["Ascend910B"])(len)
    assert marked is len


def test_enabling_is_possible_before_torch_is_imported():
    code = (
        "import fusion_attention as f; f.enable('torch_npu'); import torch; print(torch.npu.is_available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
