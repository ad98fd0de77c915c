"""Settings of the suite: float64 unless JAX_ENABLE_X64=0, no silent rank promotion, three tolerances by name."""

import os
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")
# compiling is nearly all of the suite's time; `XLA_FLAGS= pytest` runs it with XLA's own optimisation
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

# ... and programs are shared between workers, with the commands that tests start, and with the next run
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402 - after the settings it reads
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

X64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
DTYPE = "float64" if X64 else "float32"

EXACT = 0.0
ROUNDING = 1e-10 if X64 else 2e-5  # relative
STATISTICAL = 5.0  # standard errors


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"jax mode: {DTYPE} (JAX_ENABLE_X64={int(X64)}), backend {jax.default_backend()}")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs of a file's tests go with the file: gigabytes of them slow a process down."""
    yield
    jax.clear_caches()
