"""docs/features.md, docs/setup.md, docs/differences.md: what they name exists; rows tested nowhere else."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import fusion_attention
import numpy as np
import pytest

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DOCS = ROOT / "docs"
NAMED = re.compile(r"`((?:[\w/]+)\.(?:py|cc))?::([\w.]+)`")


def rows(page):
    """The cells of every table row of a page, without its heads."""
    lines = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("|")]
    heads = {i + offset for i, line in enumerate(lines) if set(line) <= set("|- ") for offset in (-1, 0)}
    return [line.strip("| ").split(" | ") for i, line in enumerate(lines) if i not in heads]


def exists(file, name):
    text = (TESTS / file).read_text()
    if file.endswith(".py"):
        return re.search(rf"^def {name}\(", text, re.MULTILINE) is not None
    return re.search(rf"^TEST(_P|_F)?\({name.replace('.', ', ')}\)", text, re.MULTILINE) is not None


def proofs(text):
    """(file, test) of each `file::test`; `::test` means the file before."""
    found, file = [], None
    for given, name in NAMED.findall(text):
        file = given or file
        found.append((file, name))
    return found


@pytest.mark.parametrize(("file", "name"), sorted(set(proofs((DOCS / "features.md").read_text()))))
def test_every_named_test_exists(file, name):
    assert (TESTS / file).is_file(), f"{file} of docs/features.md"
    assert exists(file, name), f"docs/features.md names {file}::{name}"


def test_every_row_has_a_proof():
    table = rows("features.md")
    assert len(table) > 60
    for row, what, proof in table:
        assert proofs(proof), f"no test for {row}: {what}"


def test_every_ruling_has_a_line():
    numbers = [row[0] for row in rows("differences.md")]
    assert numbers == [str(n) for n in range(1, 40)]


# The set-up lines of the documents, as they stand there.
SET_UP = (
    "git clone https://gitee.com/ascend/AscendSpeed.git",
    "cd AscendSpeed",
    "python3 setup.py install",
    "python3 setup.py build",
    "python3 setup.py bdist_wheel",
    "export PYTHONPATH=/yourcodepath/acctransformer/train:$PYTHONPATH",
    "cd train",
    "python setup.py install",
    "bash build.sh",
    "pip install dist/flash_attention-23.12.11-py3-none-any.whl",
)


def test_every_line_of_the_set_up_is_mapped():
    mapped = {row[1]: row[2] for row in rows("setup.md")}
    for line in SET_UP:
        assert mapped[f"`{line}`"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["install"], "install"),
        (["build"], "install --no-deps --upgrade --target build/lib"),
        (["bdist_wheel", "-q"], "wheel --no-deps -w dist -q"),
    ],
)
def test_set_up_hands_on_to_pip(command, expected, tmp_path):
    pip = tmp_path / "pip"  # found before the real one: a regular package, no namespace
    pip.mkdir()
    (pip / "__init__.py").touch()
    says = "import os, sys; print(os.getcwd(), *sys.argv[1:]); sys.exit(7)"
    (pip / "__main__.py").write_text(says)
    found = [sys.executable, "-c", "import pip; print(pip.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    script = [sys.executable, str(ROOT / "setup.py")]
    run = {"env": environment, "cwd": str(tmp_path), "capture_output": True, "text": True}
    assert subprocess.run(found, **run).stdout.strip() == str(pip / "__init__.py")
    done = subprocess.run([*script, *command], **run)
    assert (done.stdout.split(), done.returncode) == ([str(ROOT), *expected.split(), str(ROOT)], 7)
    for unknown in ([], ["develop"]):
        done = subprocess.run([*script, *unknown], **run)
        assert done.returncode == 2 and "install | build | bdist_wheel" in done.stderr


# --- Rows of the parameter tables that no other file has ---


def operands(*shape):
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "words",
    [*({"inner_precise": n} for n in range(4)), {"gen_mask_parallel": False}, {"sync": True}],
    ids=str,
)
def test_words_without_effect(words):
    import fusion_attention.numpy as front

    q, k, v = operands(1, 2, 40, 16)
    fixed = {"keep_prob": 0.5, "seed": 3, "offset": 5, "scale": 0.25}
    plain = front.npu_fusion_attention(q, k, v, 2, "BNSD", **fixed)
    same(front.npu_fusion_attention(q, k, v, 2, "BNSD", **fixed, **words), plain)
    saved = dict(zip(("softmax_max", "softmax_sum", "attention_in"), (plain[1], plain[2], plain[0])))
    fixed["scale_value"] = fixed.pop("scale")
    gradient = front.npu_fusion_attention_grad(q, k, v, v, 2, "BNSD", **saved, **fixed)
    also = {"numels": 9, "softmax_in": q}
    ours = front.npu_fusion_attention_grad(q, k, v, v, 2, "BNSD", **saved, **fixed, **words, **also)
    same(ours[:3], gradient[:3])


@pytest.fixture
def ascendspeed():
    pytest.importorskip("torch")
    fusion_attention.enable("ascendspeed")
    yield importlib.import_module
    fusion_attention.disable()


def tensors():
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(x) for x in operands(1, 8, 32)]


def test_precise_mode_has_no_effect(ascendspeed):
    attend = ascendspeed("ascendspeed.te.ops").ascend_flash_attention
    outs = [attend(*tensors(), None, None, 0.3, 1.0, 2, "BSH", 1.0, 65536, 1, mode) for mode in (0, 1)]
    same(*([out.numpy()] for out in outs))


def test_scale_and_keep_prob_as_tensors(ascendspeed):
    import torch

    ops = ascendspeed("ascendspeed.ops")
    plain = ops.npu_flash_attention(*tensors(), 2, "BSH", scale=0.5, keep_prob=1.0)
    one = torch.ones(1)
    out = ops.npu_flash_attention(*tensors(), 2, "BSH", scale=0.5 * one, keep_prob=one)
    assert torch.equal(out[0], plain[0])
    q, k, v = tensors()
    saved = {"softmax_max": plain.softmax_max, "softmax_sum": plain.softmax_sum, "attention_in": plain[0]}
    gradient = ops.npu_flash_attention_grad
    ours = gradient(q, k, v, v, 2, "BSH", scale_value=0.5 * one, keep_prob=one, **saved)
    theirs = gradient(q, k, v, v, 2, "BSH", scale_value=0.5, keep_prob=1.0, **saved)
    assert torch.equal(ours.dq, theirs.dq) and ours.dq.abs().sum() > 0


def test_a_drop_mask_in_the_gradient(ascendspeed):
    import torch
    from fusion_attention.torch import _npu_dropout_gen_mask

    ops, (q, k, v) = ascendspeed("ascendspeed.ops"), tensors()
    score = ops.npu_flash_attention(q, k, v, 2, "BSH", keep_prob=0.5)
    saved = {"softmax_max": score.softmax_max, "softmax_sum": score.softmax_sum, "attention_in": score}
    drop = _npu_dropout_gen_mask(q, [1, 2, 8, 8], 0.5, score.seed, score.offset)

    def gradients(**bits):
        return ops.npu_flash_attention_grad(q, k, v, v, 2, "BSH", keep_prob=0.5, **saved, **bits)[:3]

    same(gradients(drop_mask=drop), gradients(seed=score.seed, offset=score.offset))
    other = gradients(seed=score.seed, offset=score.offset + 4)
    assert not any(torch.equal(a, b) for a, b in zip(gradients(drop_mask=drop), other))
    with pytest.raises(RuntimeError, match="^drop_mask: got"):
        gradients(drop_mask=drop[:4])


@pytest.mark.parametrize(
    "name",
    [
        "query_transpose",
        "key_transpose",
        "value_transpose",
        "dy_transpose",
        "is_transpose_attention",
        "is_flash",
    ],
)
def test_rows_that_name_no_argument(ascendspeed, name):
    ops = ascendspeed("ascendspeed.ops")
    q, k, v = tensors()
    for call in (
        lambda: ops.npu_flash_attention(q, k, v, 2, "BSH", **{name: True}),
        lambda: ops.npu_flash_attention_grad(q, k, v, v, 2, "BSH", **{name: True}),
    ):
        with pytest.raises(TypeError, match=name):
            call()
