"""Runs the parts of the demo on small inputs and prints what their summaries say as one JSON line."""

import json
import sys
import tempfile
from pathlib import Path

import fusion_attention

fusion_attention.enable("torch_npu", "mindspeed", device=True)

DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo"
sys.path.insert(0, str(DEMO))

import document_example  # noqa: E402
import embedding  # noqa: E402
import training  # noqa: E402
from report import Summary  # noqa: E402

SIZES = "batch_size, head_num, seq_size, head_dim = 1, 32, 2048, 128"
TEXT = "The first paragraph is short.\n\nThe second paragraph is a little longer.\n* an item of a list\n\nNo."

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    text = folder / "text.txt"
    text.write_text(TEXT)
    source = document_example.SCRIPT.read_text()
    document_example.SCRIPT = folder / "example.py"
    document_example.SCRIPT.write_text(source.replace(SIZES, SIZES.replace("32, 2048, 128", "4, 200, 64")))
    document_example.HEADS = (0, 3)
    training.LENGTH, training.ROUNDS, embedding.ROUNDS = 64, 1, 1
    summary = Summary()
    embedding.run([text], "text", folder, summary)
    training.run([text], folder, summary)
    document_example.run(folder, summary)
    summary.print()
    pictures = sorted(path.name for path in folder.glob("*.png") if path.read_bytes().startswith(b"\x89PNG"))
    paragraphs = embedding.read_paragraphs([text])

rows = {row[0]: row[3] for row in summary.rows}
result = {"rows": rows, "failed": summary.failed, "pictures": pictures, "paragraphs": paragraphs}
result["shrunk"] = SIZES in source
print("RESULTS " + json.dumps(result))
