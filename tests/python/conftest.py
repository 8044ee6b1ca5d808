"""What holds for the whole run, before any test is imported."""

import os
import time

# One fresh seed, workers of pytest-xdist included: they must collect the same tests.
os.environ.setdefault("FUSION_ATTENTION_SEED", str(time.time_ns() % 10**9))
# What an earlier build of this library left in torch's caches names operators by their old schemas.
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
# NumPy's small products in float64: threads that wait for each other cost a hundred times what they do.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
