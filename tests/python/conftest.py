"""One fresh seed for the whole run, workers of pytest-xdist included: they must collect the same tests."""

import os
import time

os.environ.setdefault("FUSION_ATTENTION_SEED", str(time.time_ns() % 10**9))
# What an earlier build of this library left in torch's caches names operators by their old schemas.
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
