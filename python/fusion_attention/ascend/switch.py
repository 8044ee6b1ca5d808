"""The switch: which layers are on, and at which level. Off by default; everything it does can be undone."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import warnings

from fusion_attention.ascend.layers import LAYERS, Layer
from fusion_attention.ascend.patches import Patches

ENVIRONMENT = "FUSION_ATTENTION_ASCEND"

_lock = threading.RLock()
_enabled: dict[str, Patches] = {}
_device: Patches | None = None


def enable(*layers: str, device: bool = False) -> None:
    """Serves the modules that Ascend code imports, on this CPU, until `disable()`.

    Args:
        layers: names of layers; "torch_npu" when none is given. "mindspeed" serves its attention operators
            and the callable module `npu_fusion_attention` (docs/mindspeed.md), "ascendspeed"
            `ascendspeed.ops` and `ascendspeed.te.ops` (docs/ascendspeed.md), "flash_attention" the
            acctransformer cell as `flash_attention`, `accspeed` and `acctransformer` have it, "mindspore"
            replaces `prompt_flash_attention` in the installed MindSpore's four modules that have it.
        device: False, the default, serves names only: `torch.npu.is_available()` is False and nobody's choice
            of device changes. True makes "npu" mean the CPU everywhere: see docs/torch_npu.md.

    Raises:
        ValueError: any other name.
        RuntimeError: a genuine package of that name can be imported, or the layer is on at the other level,
            or "mindspore" is not installed.
            Beside a genuine mindspeed its builders load our operators instead of compiling their own.
    """
    global _device
    wanted = layers or ("torch_npu",)
    _check_names(wanted)
    if device or any(LAYERS[name].torch for name in wanted):
        # torch first: its entry points may enable a layer as the environment asks, and must be through.
        import torch  # noqa: F401

    with _lock:
        if not device and _device is not None:
            raise RuntimeError(
                "device: got False, allowed is True until fusion_attention.disable() is called"
            )
        new = {name: _genuine_packages(name) for name in wanted if name not in _enabled}
        # torch_npu first: a genuine mindspeed imports it.
        for name in sorted(new, key=list(LAYERS).index):
            _enabled[name] = _serve(LAYERS[name], new[name])
        if device and _device is None:
            from fusion_attention.ascend import device as npu_means_cpu

            _device = npu_means_cpu.install()
    if "torch_npu" in wanted:
        _warn_about_cached_answers(device)


def disable() -> None:
    """Turns every layer off and puts everything back that `enable` changed."""
    global _device
    with _lock:
        if _device is not None:
            _device.undo()
            _device = None
        while _enabled:
            _enabled.popitem()[1].undo()


def device_level() -> bool:
    """Whether "npu" means the CPU at the moment."""
    return _device is not None


def enable_from_environment() -> None:
    """What the environment variable FUSION_ATTENTION_ASCEND asks for: a level, or level:layer,layer."""
    wanted = os.environ.get(ENVIRONMENT, "")
    if not wanted:
        return
    level, _, layers = wanted.partition(":")
    if level not in ("names", "device"):
        raise ValueError(f'{ENVIRONMENT}: got "{wanted}", allowed is names or device')
    enable(*(layers or "torch_npu").split(","), device=level == "device")


def _check_names(layers: tuple[str, ...]) -> None:
    allowed = ", ".join(LAYERS)
    for layer in layers:
        if not isinstance(layer, str):
            raise TypeError(f"layers: got {type(layer).__name__}, allowed are the strings {allowed}")
        if layer not in LAYERS:
            raise ValueError(f'layers: got "{layer}", allowed are {allowed}')


def _genuine_packages(name: str) -> set[str]:
    """Packages of the layer that are there already; refused unless the layer can live beside them.

    Refused, too, where the layer changes a package that is not there.
    """
    from fusion_attention.ascend.finder import genuine

    layer = LAYERS[name]
    if layer.changes and importlib.util.find_spec(layer.changes) is None:
        raise RuntimeError(
            f'layers: got "{name}" without {layer.changes}, allowed is only where it is installed'
        )
    found = {package for package in layer.packages if genuine(package)}
    for package in sorted(found - set(layer.packages[:1] if layer.beside_genuine else ())):
        raise RuntimeError(f'layers: got "{name}" beside a genuine {package}, allowed is only without one')
    return found


def _serve(layer: Layer, found: set[str]) -> Patches:
    """Makes the packages importable, except those found, and takes the layer's further steps."""
    from fusion_attention.ascend.finder import Finder

    patches = Patches()
    finder = Finder([name for name in layer.packages if name not in found], _distributions(layer))
    patches.insert_first(sys.meta_path, finder)
    patches.on_undo(finder.drop_modules)
    try:
        for action in (layer.start, layer.beside_genuine if found else ""):
            if action:
                Layer.run(action, patches)
    except BaseException:
        patches.undo()
        raise
    return patches


def _distributions(layer: Layer) -> list[tuple[str, str, str]]:
    if not layer.distribution:
        return []
    import torch

    return [(layer.distribution, torch.__version__.partition("+")[0], layer.packages[0])]


def _warn_about_cached_answers(device: bool) -> None:
    """Clients ask once whether there is an NPU and keep the answer, also one given too early."""
    late = []
    imports = sys.modules.get("diffusers.utils.import_utils")
    if getattr(imports, "_torch_npu_available", None) is False:
        late.append("diffusers")
    for client, module, question in (
        ("transformers", "transformers.utils.import_utils", "is_torch_npu_available"),
        ("accelerate", "accelerate.utils.imports", "is_npu_available"),
    ):
        cache_info = getattr(getattr(sys.modules.get(module), question, None), "cache_info", None)
        if device and cache_info is not None and cache_info().currsize:
            late.append(client)
    if late:
        warnings.warn(
            f"{' and '.join(late)} asked for an NPU before the torch_npu layer was enabled "
            "and may keep the answer no; enable the layer before importing them",
            stacklevel=3,
        )
