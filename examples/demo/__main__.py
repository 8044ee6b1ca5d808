"""Runs code written for the Ascend NPU on this CPU and shows that it is right and how fast it is.

scripts/demo [TEXTFILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import fusion_attention

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "textfile", nargs="?", type=Path, help="embed this text; default: the repository's documents"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out", help="folder for the pictures; default: out/"
    )
    options = parser.parse_args()
    if options.textfile is not None and not options.textfile.is_file():
        parser.error(f"textfile: got {options.textfile}, allowed is a readable text file")

    start = time.perf_counter()
    # Before transformers is imported: it asks once whether there is an NPU.
    fusion_attention.enable("torch_npu", "mindspeed", device=True)
    import document_example
    import embedding
    import torch
    import training
    import transformers
    from report import Summary

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    files = [options.textfile] if options.textfile else _documents()
    kind = "text" if options.textfile else "documents"
    print(
        f"fusion_attention {fusion_attention.__version__}, {fusion_attention.thread_count()} threads; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; torch_npu and mindspeed layers on"
    )
    summary = Summary()
    embedding.run(files, kind, options.out, summary)
    training.run(files, options.out, summary)
    document_example.run(options.out, summary)
    print()
    summary.print()
    print(f"\npictures of the masks: {options.out}/mask_*.png; {time.perf_counter() - start:.0f} s in all")
    return int(summary.failed)


def _documents() -> list[Path]:
    """The repository's own documents, without what lies in ignored folders."""
    folders = (ROOT, *(ROOT / name for name in ("docs", "bench", "examples", "tests")))
    return sorted(
        {
            file
            for folder in folders
            for file in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
