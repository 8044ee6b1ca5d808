"""draw_mask against the statement of the documents, as text and as PNG; explain and the command line."""

from __future__ import annotations

import subprocess
import sys

import fusion_attention
import numpy as np
import pytest
from family_calls import draw
from statement import Statement
from test_family_calls import spelled


def masks_and_small(seed):
    """The masks of a random call, and the first that is small enough to be drawn pair by pair."""
    masks = list(Statement(draw(seed)[0], "float32")._masks())
    return masks, next(
        (i for i, m in enumerate(masks) if 0 < m.shape[1] <= 32 and 0 < m.shape[2] <= 64), None
    )


@pytest.mark.parametrize("seed", [seed for seed in range(120) if masks_and_small(seed)[1] is not None])
def test_text_is_the_mask(seed):
    call, _, line = draw(seed)
    masks, index = masks_and_small(seed)
    drawn = fusion_attention.draw_mask(**spelled(call, old=True), sequence=index, head=0).splitlines()[1:]
    assert [[c == "█" for c in row] for row in drawn] == masks[index][0].tolist(), line


def test_png(tmp_path):
    pytest.importorskip("matplotlib")
    x = np.zeros((1, 2, 100, 8), np.float32)
    mask = np.triu(np.ones((2048, 2048), bool), 1)
    file = tmp_path / "mask.png"
    text = fusion_attention.draw_mask(x, x, x, 2, "BNSD", atten_mask=mask, sparse_mode=2, file=file)
    assert file.read_bytes().startswith(b"\x89PNG") and "▒" in text


def test_explain_says_why(capsys):
    x = np.zeros((1, 2, 100, 8), np.float32)
    fusion_attention.explain(x, x, x, 2, "BNSD")
    said = capsys.readouterr().out
    for word in ("fwd fp32 b1 h2/2 q100 k100 d8/8", "kernel", "tiles", "workspace", "forward_scalar_fp32:"):
        assert word in said


def test_command_line_tells_the_machine():
    done = subprocess.run(
        [sys.executable, "-m", "fusion_attention"], capture_output=True, text=True, check=True
    )
    for word in ("cpu", "threads", "isa      scalar", "kernels"):
        assert word in done.stdout
