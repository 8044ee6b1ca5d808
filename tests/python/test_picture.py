"""draw_mask against the statement of the documents, as text and as PNG; explain and the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fusion_attention
import numpy as np
import pytest
from family_calls import draw
from fusion_attention import _mask_pictures
from statement import Statement
from statement_mask import kept
from test_family_calls import spelled


def masks_and_small(seed):
    """The masks of a random call, and the first that is small enough to be drawn pair by pair."""
    call = draw(seed, "v1")[0]
    statement = Statement(call, "float32")
    lengths = statement.q_lens, statement.kv_lens
    masks = [kept(call, index, *lengths) for index in range(len(statement.q_lens))]
    return masks, next(
        (i for i, m in enumerate(masks) if 0 < m.shape[1] <= 32 and 0 < m.shape[2] <= 64), None
    )


@pytest.mark.parametrize("seed", [seed for seed in range(120) if masks_and_small(seed)[1] is not None])
def test_text_is_the_mask(seed):
    call, _, line = draw(seed, "v1")
    masks, index = masks_and_small(seed)
    drawn = fusion_attention.draw_mask(**spelled(call, "v1"), sequence=index, head=0).splitlines()[1:]
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


def test_pictures_of_the_documentation_are_current():
    drawn = {f"{example.name}.txt": _mask_pictures.draw(example) for example in _mask_pictures.EXAMPLES}
    kept = {file.name: file.read_text() for file in (Path(__file__).parents[2] / "docs" / "masks").iterdir()}
    assert kept == drawn, "run: python -m fusion_attention._mask_pictures"


def test_every_sparse_mode_is_drawn():
    shown = {example.words.get("sparse_mode", 0) for example in _mask_pictures.EXAMPLES if example.mask}
    assert shown == set(range(9))


def test_pictures_as_png(tmp_path):
    pytest.importorskip("matplotlib")
    packed = _mask_pictures.EXAMPLES[-1]
    _mask_pictures.draw(packed, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"mode8-{i}.png" for i in range(3)]
