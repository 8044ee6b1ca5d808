"""The `torch.backends` entry point: runs at every `import torch`, does nothing unless the environment asks.

A package of its own, so that an `import torch` that does not concern us imports nothing of fusion_attention.
"""

import os


def autoload() -> None:
    if os.environ.get("FUSION_ATTENTION_ASCEND"):
        from fusion_attention.ascend.switch import enable_from_environment

        enable_from_environment()
