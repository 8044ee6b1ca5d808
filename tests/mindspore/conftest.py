"""One fresh seed for the whole run, and both of MindSpore's modes."""

import os
import time

import mindspore as ms
import pytest

os.environ.setdefault("FUSION_ATTENTION_SEED", str(time.time_ns() % 10**9))


@pytest.fixture(params=["PyNative", "Graph"])
def mode(request):
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "Graph" else ms.PYNATIVE_MODE)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(autouse=True)
def _notes(monkeypatch, tmp_path):
    """The compiler leaves its notes on a refused graph where it runs."""
    monkeypatch.chdir(tmp_path)
