"""Part 3: the interface document's own example, run as a script, checked head by head against float64."""

from __future__ import annotations

import runpy
import time
import warnings
from pathlib import Path

import torch
from report import Summary, draw_mask, progress

SCRIPT = Path(__file__).parents[1] / "fusion_attention_v2.py"
HEADS = (0, 5, 17, 31)  # checked whole, every row of them
UNIT = (
    2.0**-11
)  # half a unit in the last place of float16: of the results, and of P as fed to the second product
SLACK = 2.0  # for the rescaling of partial sums and the exponential


def run(out: Path, summary: Summary) -> None:
    print(f"\n3. {SCRIPT.name}: the document's example at its own size, 1 x 32 x 2048 x 128, float16")
    torch.manual_seed(0)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = runpy.run_path(str(SCRIPT))
    seconds = time.perf_counter() - start
    for warning in caught:
        if "atten_mask" in str(warning.message):
            print(f"   the library says: {warning.message}")
    keep = _keep(names)
    worst: dict[str, float] = {}
    for head in progress("float64 reference", HEADS, len(HEADS)):
        for name, ratio in _check(names, head, keep).items():
            worst[name] = max(worst.get(name, 0.0), ratio)
    for name, ratio in worst.items():
        summary.check(f"document's example, {name}, worst error over its bound", ratio, 1.0)
    summary.note("document's example, inputs, forward and backward", f"{seconds:.2f} s")
    draw_mask(~names["atten_mask"], out / "mask_document_as_written.png", "the document's mask, as written")
    draw_mask(keep, out / "mask_document_as_meant.png", "as meant: transposed, within the tokens")


def _keep(names: dict) -> torch.Tensor:
    """The document's tokens in its own words: exclusive bounds, so that next_tokens = 1 is causal."""
    rows = torch.arange(names["seq_size"])
    distance = rows[None, :] - rows[:, None]
    return (distance < names["next_tokens"]) & (-distance < names["pre_tokens"])


def _check(names: dict, head: int, keep: torch.Tensor) -> dict[str, float]:
    """Worst |error| / bound of a head's output and gradients; the bound follows from the numbers' sizes."""
    q, k, v = (names[name].detach()[0, head].double() for name in ("query", "key", "value"))
    dy = names["dx"][0, head].double()
    out = names["result"].detach()[0, head].double()
    dq, dk, dv = (names[name].grad[0, head].double() for name in ("query", "key", "value"))
    scale = names["scale_value"] * names["q_scale"]

    p = torch.softmax((q @ k.T * scale).masked_fill(~keep, float("-inf")), -1)
    expected = p @ v
    delta = (dy * expected).sum(-1, keepdim=True)
    ds = p * (dy @ v.T - delta)

    depth = q.shape[-1] * 2.0**-24  # of a product of that many terms added in float32
    score = scale * depth * float((q.abs() @ k.abs().T).max())
    weight = SLACK * (UNIT + 2 * score)  # relative error of a weight p
    size = p * (
        dy.abs() @ v.abs().T + (dy * expected).abs().sum(-1, keepdim=True)
    )  # terms that ds is a sum of
    pairs = {
        "output": (out, expected, weight * (p @ v.abs())),
        "query gradient": (dq, ds @ k * scale, weight * scale * (size @ k.abs())),
        "key gradient": (dk, ds.T @ q * scale, weight * scale * (size.T @ q.abs())),
        "value gradient": (dv, p.T @ dy, weight * (p.T @ dy.abs())),
    }
    return {
        name: float(((found - exact).abs() / (UNIT * exact.abs() + bound + 2.0**-24)).max())
        for name, (found, exact, bound) in pairs.items()
    }
