"""Settings of the suite: float64 unless JAX_ENABLE_X64=0, quick compiling, no silent rank promotion, three tolerances."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")
# compiling is nearly all of the suite's time; `XLA_FLAGS= pytest` runs it with XLA's own optimisation and its own checks
QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_disable_hlo_passes=hlo-verifier"
)
os.environ.setdefault("XLA_FLAGS", QUICK)

# workers and the next run share compiled programs, and the commands that tests start share theirs
CACHE = Path(__file__).parents[1] / ".pytest_cache"
os.environ.setdefault("JAXEM_CACHE", str(CACHE / "jaxem"))

import jax  # noqa: E402 - after the settings it reads
import pytest  # noqa: E402

from jaxem import kept, program  # noqa: E402

kept.place = lambda: None  # tests patch the package: what they compile must not outlive them
jax.config.update("jax_compilation_cache_dir", str(CACHE / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(100_000, 20, 20)  # a trace makes very many objects that live on: looked through often, they cost time
if os.environ["XLA_FLAGS"] == QUICK:  # the options that the package chooses for small data, before any program has them
    program.BRISK["xla_backend_optimization_level"] = 0

X64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
DTYPE = "float64" if X64 else "float32"

EXACT = 0.0
ROUNDING = 1e-10 if X64 else 2e-5  # relative
STATISTICAL = 5.0  # standard errors


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Neighbours go to one worker, which has their programs; `pytest -n 2 --dist ...` chooses otherwise."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"jax mode: {DTYPE} (JAX_ENABLE_X64={int(X64)}), backend {jax.default_backend()}")


def resident():
    """Bytes of memory that this process holds; infinite where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else float("inf")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs are kept for the next file until there are gigabytes of them."""
    yield
    if resident() > 2 * 2**30:
        program.forget_programs()


@pytest.fixture(scope="session")
def faithful():
    """Old Faithful, six climbs and the best of them."""
    import jaxem
    from tests.cases import fitted

    x = jaxem.datasets.faithful()
    results = fitted(x)
    return x, results, jaxem.best(results)
