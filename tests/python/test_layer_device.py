""" "npu" means the CPU: every way of naming the device, new threads, and nothing left after disable()."""

import copy
import importlib
import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch", reason="the torch_npu layer is for torch, which is not installed")
import fusion_attention  # noqa: E402
from fusion_attention import generator  # noqa: E402


@pytest.fixture
def npu():
    fusion_attention.enable("torch_npu", device=True)
    yield torch.npu
    fusion_attention.disable()


WAYS = {
    "factory": lambda: torch.zeros(2, device="npu"),
    "factory with an index": lambda: torch.empty(2, device="npu:0"),
    "factory with a number": lambda: torch.ones(2, device=0),
    "factory with a device": lambda: torch.rand(2, device=torch.device("npu")),
    "tensor": lambda: torch.tensor([1.0, 2.0], device="npu"),
    "as_tensor": lambda: torch.as_tensor([1.0, 2.0], device="npu:0"),
    "like": lambda: torch.zeros_like(torch.ones(2), device="npu"),
    "new": lambda: torch.ones(2).new_zeros(2, device="npu"),
    "to, positional": lambda: torch.ones(2).to("npu"),
    "to, keyword": lambda: torch.ones(2).to(device="npu:0", dtype=torch.float16),
    "to, number": lambda: torch.ones(2).to(0),
    "to, device and dtype": lambda: torch.ones(2).to("npu", torch.bfloat16, non_blocking=True),
    "npu()": lambda: torch.ones(2).npu(),
    "npu(0)": lambda: torch.ones(2).npu(0, non_blocking=True),
    "npu of a device": lambda: torch.ones(2).npu("npu:0"),
    "module.to": lambda: torch.nn.Linear(2, 2).to("npu").weight,
    "module.to, number": lambda: torch.nn.Linear(2, 2).to(0).weight,
    "module.npu": lambda: torch.nn.Linear(2, 2).npu().weight,
    "module constructor": lambda: torch.nn.Linear(2, 2, device="npu").weight,
    "to_empty": lambda: torch.nn.Linear(2, 2, device="meta").to_empty(device="npu").weight,
    "current_device": lambda: torch.zeros(2, device=torch.npu.current_device()),
    "device with a number": lambda: torch.zeros(2, device=torch.device(0)),
    "device in two parts": lambda: torch.zeros(2, device=torch.device("npu", 0)),
    "device by keyword": lambda: torch.zeros(2, device=torch.device(type="npu", index=0)),
    "generator": lambda: torch.rand(2, generator=torch.Generator("npu"), device="npu"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_name_of_the_device(npu, way):
    tensor = WAYS[way]()
    assert tensor.device == torch.device("cpu") and tensor.is_npu and tensor.device.index is None


def test_context_and_default_device(npu):
    with torch.device("npu"):
        assert torch.zeros(2).device.type == "cpu"
    torch.set_default_device("npu:0")
    try:
        assert torch.zeros(2).device.type == "cpu"
        fusion_attention.disable()
        assert torch.zeros(2).device.type == "cpu", (
            "disable() must keep the default device, which is below our mode"
        )
        with pytest.raises(RuntimeError):
            torch.zeros(2, device="npu")
    finally:
        torch.set_default_device(None)


def test_meta_tensors_are_not_npu(npu):
    assert not torch.zeros(2, device="meta").is_npu


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.zeros(1, device="npu:1"),
        lambda: torch.zeros(1, device=1),
        lambda: torch.device("npu", 1),
        lambda: torch.ones(1).npu(1),
        lambda: torch.ones(1).to(1),
        lambda: torch.npu.set_device("npu:1"),
    ],
)
def test_there_is_one_device(npu, call):
    with pytest.raises(RuntimeError, match="got .*1.*, allowed is .*the only device"):
        call()


def test_other_strings_and_numbers_are_left_alone(npu):
    assert torch.equal(
        torch.einsum("npu,npu->n", torch.ones(2, 3, 4), torch.ones(2, 3, 4)), torch.full((2,), 12.0)
    )
    assert (
        torch.zeros(0, 1).shape == (0, 1)
        and torch.arange(3).sum(0) == 3
        and torch.device("meta").type == "meta"
    )
    assert torch.ones(2).to(torch.float16).dtype == torch.float16


def test_generator_is_still_a_type(npu):
    made = torch.Generator("npu").manual_seed(3)
    plain = torch.Generator().manual_seed(3)
    assert isinstance(made, torch.Generator) and isinstance(torch.default_generator, torch.Generator)
    assert not isinstance(3, torch.Generator)
    assert torch.equal(torch.rand(3, generator=made, device="npu"), torch.rand(3, generator=plain))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(npu, dtype):
    weight = torch.randn(4, 4)
    with torch.autocast("npu", dtype=dtype):
        assert torch.is_autocast_enabled("npu") and torch.get_autocast_dtype("npu") == dtype
        assert (weight @ weight).dtype == dtype
    with torch.amp.autocast(device_type="npu:0", dtype=dtype):
        assert (weight @ weight).dtype == dtype
    with torch.npu.amp.autocast(dtype=dtype):
        assert (weight @ weight).dtype == dtype
    assert not torch.is_autocast_enabled("npu") and torch.amp.is_autocast_available("npu")
    assert (weight @ weight).dtype == torch.float32


def test_gradient_scaling(npu):
    for scaler in (torch.npu.amp.GradScaler(init_scale=8.0), torch.amp.GradScaler("npu", init_scale=8.0)):
        weight = torch.nn.Parameter(torch.ones(2, device="npu"))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        scaler.scale(weight.sum()).backward()
        assert weight.grad.tolist() == [8.0, 8.0]
        scaler.step(optimizer)
        scaler.update()
        assert weight.tolist() == [0.0, 0.0]


def test_compile_without_a_graph_break(npu):
    def f(x):
        return torch.zeros(2, device="npu") + x.to("npu:0") + torch.ones_like(x, device="npu:0")

    assert torch.compile(f, fullgraph=True, backend="aot_eager")(torch.ones(2)).tolist() == [2.0, 2.0]


def test_checkpoints_of_an_npu_load(npu):
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(3.0)}, buffer)
    buffer.seek(0)
    assert torch.load(buffer, map_location="npu")["w"].tolist() == [0, 1, 2]
    buffer.seek(0)
    assert torch.load(buffer, map_location=torch.device("npu:0"))["w"].device.type == "cpu"
    buffer.seek(0)
    # A checkpoint written on an NPU carries the device's name in every storage.
    marker = [(1, lambda storage: "npu:0", lambda storage, location: None)]
    saved = io.BytesIO()
    torch.serialization._package_registry[:0] = marker
    try:
        torch.save(torch.arange(3.0), saved)
    finally:
        torch.serialization._package_registry.remove(marker[0])
    saved.seek(0)
    assert torch.load(saved).tolist() == [0, 1, 2]


class Worker(threading.Thread):
    """Overrides run(), as many clients do."""

    def run(self):
        self.made = torch.zeros(2, device="npu").device


def test_new_threads_know_the_npu(npu):
    worker = Worker()
    worker.start()
    worker.join()
    assert worker.made == torch.device("cpu")
    with ThreadPoolExecutor(2) as pool:
        assert [t.device.type for t in pool.map(lambda n: torch.ones(n, device="npu"), [1, 2, 3])] == [
            "cpu"
        ] * 3
        fusion_attention.disable()
        future = pool.submit(lambda: torch.zeros(2, device="npu"))
        assert isinstance(future.exception(), RuntimeError), (
            "a mode left on a thread must do nothing after disable()"
        )


def test_members_of_torch_npu(npu):
    assert npu.is_available() and npu.device_count() == 1 and npu.current_device() == 0
    assert npu.get_device_name()[:10] == "Ascend910B" and npu.is_bf16_supported() and npu.is_initialized()
    npu.set_device("npu:0")
    npu.set_device(torch.device("npu"))
    for call in (
        npu.synchronize,
        npu.empty_cache,
        npu.init,
        npu.reset_peak_memory_stats,
        npu.set_compile_mode,
    ):
        assert call() is None
    with npu.device(0):
        pass
    free, total = npu.mem_get_info()
    assert 0 < free < total
    assert 2**20 < npu.memory_allocated() <= npu.max_memory_allocated() + 2**24
    with pytest.raises(NotImplementedError, match="allowed are eager calls"):
        npu.NPUGraph()
    with pytest.raises(NotImplementedError, match="allowed are eager calls"), npu.graph(None):
        pass
    for name in ("npu", "npu.random", "npu.amp"):
        assert importlib.import_module(f"torch.{name}") is importlib.import_module(f"torch_npu.{name}")


def test_seeds_reach_the_dropout_generator(npu):
    torch.manual_seed(11)
    assert npu.initial_seed() == 11
    npu.manual_seed(2)
    first = torch.rand(2, device="npu")
    assert [generator.default.draw() for _ in range(3)] == [(2, 0), (2, 12), (2, 24)]
    state = npu.get_rng_state()
    assert state.dtype == torch.uint8 and generator.default.draw() == (2, 36)
    npu.set_rng_state(state)
    assert generator.default.draw() == (2, 36)
    npu.manual_seed_all(2)
    assert torch.equal(first, torch.rand(2, device="npu"))
    states = npu.random.get_rng_state_all()
    generator.default.draw()
    npu.random.set_rng_state_all(states)
    assert generator.default.offset == 0
    assert torch.get_device_module("npu") is npu and torch.get_device_module("cpu") is torch.cpu
    with torch.random.fork_rng(device_type="npu"):
        npu.manual_seed(9)
    assert npu.initial_seed() == 2
    npu.seed()
    npu.seed_all()
    with pytest.raises(RuntimeError, match="allowed are 16"):
        npu.set_rng_state(torch.zeros(3, dtype=torch.uint8))


def test_generator_covers_64_bits():
    state = generator.PhiloxState()
    state.manual_seed(-1)
    assert state.seed == 2**64 - 1
    state.manual_seed(2**64 - 1)
    other = generator.PhiloxState()
    state.draw(4)
    other.set_state(state.state())
    assert (other.seed, other.offset) == (2**64 - 1, 4)
    with pytest.raises(RuntimeError, match="seed: got"):
        state.manual_seed(2**64)


def owners():
    """Everything that the layer changes anything in, and what torch keeps beside it."""
    return [
        torch,
        torch.Tensor,
        torch.nn.Module,
        torch.amp,
        torch.amp.autocast_mode,
        torch.amp.autocast_mode.autocast,
        torch.random,
        torch.serialization,
        torch.overrides,
        torch.library,
        threading,
        threading.Thread,
    ]


def snapshot():
    state = {(owner.__name__, name): id(value) for owner in owners() for name, value in vars(owner).items()}
    ours = ("torch_npu", "torch.npu", "mindspeed", "npu_fusion_attention")
    modules = {name for name in sys.modules if name in ours or name.startswith(tuple(f"{o}." for o in ours))}
    registry = copy.copy(torch.serialization._package_registry)
    operators = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("npu::")}
    stack = torch.overrides._get_current_function_mode_stack()
    return state, modules, registry, list(sys.meta_path), operators, stack


@pytest.mark.parametrize("device", [False, True])
def test_no_patch_survives_disabling(device):
    fusion_attention.enable(
        "torch_npu", "mindspeed", device=device
    )  # whatever torch itself loads lazily, is loaded
    fusion_attention.disable()
    before = snapshot()
    assert not before[1] and not before[4]
    for _ in range(2):
        fusion_attention.enable("torch_npu", "mindspeed", device=device)
        importlib.import_module("torch_npu.testing.testcase")
        importlib.import_module("npu_fusion_attention")
        importlib.import_module("mindspeed.ops.fusion_attention_v2")
        torch.ops.npu.npu_rms_norm(torch.ones(2, 2), torch.ones(2))
        during = snapshot()
        assert during[1] and during[4] and len(during[3]) == len(before[3]) + 2
        assert (during[0] != before[0]) and (len(during[5]) == len(before[5]) + device)
        fusion_attention.disable()
        after = snapshot()
        assert {key for key in before[0] if before[0][key] != after[0].get(key)} == set()
        assert set(after[0]) - set(before[0]) == set()
        assert after[1:] == before[1:]


def test_disable_below_another_mode():
    fusion_attention.enable("torch_npu", device=True)
    with torch.device("meta"):
        fusion_attention.disable()
        assert torch.zeros(2).device.type == "meta"
    assert torch.overrides._get_current_function_mode_stack() == []
