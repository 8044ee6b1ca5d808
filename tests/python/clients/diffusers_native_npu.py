"""Runs tiny diffusers models through the backend _native_npu with the names alone; prints one JSON line."""

import json

import fusion_attention
import torch

fusion_attention.enable("torch_npu")

import diffusers.models.attention_dispatch as dispatch  # noqa: E402
from diffusers import FluxTransformer2DModel, QwenImageTransformer2DModel, UNet2DConditionModel  # noqa: E402
from diffusers import WanTransformer3DModel as WanModel  # noqa: E402

results: dict[str, float] = {"calls": 0}
operator = dispatch.npu_fusion_attention


def counted(*args, **kwargs):
    results["calls"] += 1
    return operator(*args, **kwargs)


dispatch.npu_fusion_attention = counted


def compare(name: str, model: torch.nn.Module, inputs: dict, backward: bool = False) -> None:
    outputs, gradients = [], []
    for backend in ("native", "_native_npu"):
        model.set_attention_backend(backend)
        model.zero_grad()
        out = model(**inputs, return_dict=False)[0]
        outputs.append(out.detach().double())
        if backward:
            out.float().square().mean().backward()
            gradients.append([p.grad.double() for p in model.parameters() if p.grad is not None])
    results[name] = relative(*outputs)
    if backward:
        errors = [float((a - b).norm() / (a.norm() + 1e-12)) for a, b in zip(*gradients, strict=True)]
        results[f"{name} gradients"] = max(errors)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


def flux() -> None:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    ).bfloat16()
    inputs = {
        "hidden_states": torch.randn(1, 16, 4).bfloat16(),
        "encoder_hidden_states": torch.randn(1, 12, 32).bfloat16(),
        "pooled_projections": torch.randn(1, 32).bfloat16(),
        "timestep": torch.tensor([1.0]).bfloat16(),
        "img_ids": torch.randn(16, 3),
        "txt_ids": torch.randn(12, 3),
    }
    compare("flux", model, inputs, backward=True)


def wan() -> None:
    torch.manual_seed(0)
    model = WanModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).bfloat16()
    inputs = {
        "hidden_states": torch.randn(1, 4, 2, 16, 16).bfloat16(),
        "timestep": torch.tensor([7]),
        "encoder_hidden_states": torch.randn(1, 12, 16).bfloat16(),
    }
    compare("wan", model, inputs)


def qwen_image() -> None:
    torch.manual_seed(0)
    model = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    ).bfloat16()
    mask = torch.ones(1, 7)
    mask[:, 5:] = 0
    inputs = {
        "hidden_states": torch.randn(1, 16, 16).bfloat16(),
        "encoder_hidden_states": torch.randn(1, 7, 16).bfloat16(),
        "encoder_hidden_states_mask": mask.bool(),
        "timestep": torch.tensor([1.0]).bfloat16(),
        "img_shapes": [(1, 4, 4)],
    }
    compare("qwen image with a mask", model, inputs)


def unet() -> None:
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
    ).bfloat16()
    inputs = (torch.randn(1, 4, 16, 16).bfloat16(), 1, torch.randn(1, 4, 8).bfloat16())
    with torch.no_grad():
        plain = model(*inputs).sample.double()  # its feed-forward already calls npu_geglu
        model.enable_npu_flash_attention()
        ascend = model(*inputs).sample.double()
    results["unet"] = relative(plain, ascend)


flux()
wan()
qwen_image()
unet()
results["device count"] = float(torch.npu.device_count())
print("RESULTS " + json.dumps(results))
