"""How fast: jaxem beside its peers on the same data from the same start, and beside what the machine can do at all.

One pass is one E-step and one M-step. The floor of a pass is what no program can beat on this machine, measured here in
the same run:

    max(flops / matmul rate, bytes of the data, read once / read rate) + n K exponentials / exp rate

with 4 n K d flops (two products) for Spherical and Diagonal, 4 n K d + 4 n d^2 for Tied, and 2 n K d (d + 1) for Full, where
symmetric work is counted once. GFLOP/s are those flops in the time measured.

jaxem's pass is what a plain `fit` (with lanes `fit_restarts`) takes for one more turn: a long call less a short one, by
four, called from the host, nothing configured. So is scikit-learn's. Times are medians after a warm-up, with
`block_until_ready`, compilation apart; CPU seconds count all cores. Variables that choose or slow numpy's BLAS are taken out
of the environment. scikit-learn runs with one BLAS thread and with all, and the better of the two is compared; "one thread"
is one thread on either side. Every peer's parameters after a few steps are compared with jaxem's: the table gives the
largest relative difference of log-likelihoods. A peer that is not installed is reported as missing.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pydantic

import jaxem
from experiments import peers
from experiments.common import Config, Positive, hardware, run, save_figure, write_csv
from experiments.roads import UNSET, blas
from jaxem.io import write_atomically
from jaxem.plots import COLOURS
from jaxem.rows import as_rows
from jaxem.threads import n_threads, run_all

Kind = Literal["Spherical", "Diagonal", "Tied", "Full"]


class PassConfig(Config):
    """One pass: the model, and how many restarts share it."""

    family: Kind
    n: Positive
    d: Positive
    k: Positive
    dtype: Literal["float32", "float64"] = "float32"
    lanes: Positive = 1
    peers: list[str]


class RestartsConfig(Config):
    """Many restarts of a small problem, from start to best."""

    n: Positive
    d: Positive
    k: Positive
    restarts: Positive
    tol: float
    peers: list[Literal["scikit-learn"]]


class MemoryConfig(Config):
    """Peak memory of a large problem."""

    n: Positive
    d: Positive
    k: Positive


class BenchmarkConfig(Config):
    """configs/benchmark.toml"""

    seed: int
    repeats: Positive
    steps: Positive
    passes: list[PassConfig]
    restarts: RestartsConfig
    memory: MemoryConfig | None = None
    fits: pydantic.NonNegativeInt
    processes: pydantic.NonNegativeInt


class Machine(NamedTuple):
    """What the machine can do, per second, in one dtype."""

    flops: float
    bytes: float
    exps: float


# -- measuring -----------------------------------------------------------------------------------------------------------


def timed(function: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Median and interquartile range of a call's seconds, and the seconds that its first call took more: compiling."""
    begun = time.perf_counter()
    jax.block_until_ready(function())
    first = time.perf_counter() - begun
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begun)
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return float(middle), float(high - low), max(0.0, first - float(middle))


def machine(dtype: str, repeats: int) -> Machine:
    """Rates of a large matrix product, of reading memory and of exponentials in cache: on a CPU on all threads at once."""
    on_cpu, rounds = jax.default_backend() == "cpu", 256
    m, size, long, small = (n_threads(), 2048, 2**25, (8, 4096)) if on_cpu else (1, 8192, 2**29, (1024, 4096))
    squares, longs, smalls = (
        [jnp.full(shape, 0, dtype) + i for i in range(m)] for shape in ((size, size), (long,), small)
    )

    def exponentials(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, rounds, lambda _, total: total + jnp.sum(jnp.exp(a + total * 1e-30)), a[0, 0])

    def rate(function: Callable[[jax.Array], jax.Array], arrays: list[jax.Array], work: float) -> float:
        compiled = jax.jit(function)
        calls = [functools.partial(lambda array: jax.block_until_ready(compiled(array)), array) for array in arrays]
        return m * work / timed(lambda: run_all(calls), repeats)[0]

    return Machine(
        rate(lambda a: jnp.matmul(a, a, precision="highest"), squares, 2.0 * size**3),
        rate(jnp.sum, longs, longs[0].nbytes),
        rate(exponentials, smalls, float(smalls[0].size * rounds)),
    )


def flops_of(work: PassConfig) -> float:
    """Floating-point operations of a pass of one lane."""
    n, d, k = work.n, work.d, work.k
    return {"Tied": 4 * n * d * (k + d), "Full": 2 * n * k * d * (d + 1)}.get(work.family, 4 * n * k * d)


def floor_of(work: PassConfig, rates: Machine) -> float:
    """Seconds of a pass of one lane that nothing can beat; the data are read once for all lanes."""
    nbytes = work.n * work.d * np.dtype(work.dtype).itemsize / work.lanes
    return max(flops_of(work) / rates.flops, nbytes / rates.bytes) + work.n * work.k / rates.exps


def data_of(work: Any, seed: int, dtype: str = "float32") -> np.ndarray:
    """Rows `[n, d]` of k clusters in turn, which overlap where there are few features."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((work.n, work.d), np.float32)
    centres = 2 * rng.standard_normal((work.k, work.d), np.float32)
    x += centres[np.arange(work.n) % work.k]
    return x.astype(dtype)


def start_of(x: np.ndarray, work: PassConfig) -> peers.Start:
    """Means at the first rows, one of each cluster, unit covariances, equal weights: so no component dies."""
    k, d = work.k, work.d
    covariances = {
        "Spherical": np.ones(k),
        "Diagonal": np.ones((k, d)),
        "Tied": np.eye(d),
        "Full": np.stack([np.eye(d)] * k),
    }[work.family]
    return peers.Start(np.full(k, 1 / k, x.dtype), x[:k].copy(), covariances.astype(x.dtype))


def as_mixture(start: peers.Start, family: str) -> jaxem.Mixture:
    """A peer's parameters as a Mixture."""
    params = jaxem.GaussianParams(jnp.asarray(start.means), jnp.asarray(start.covariances))
    return jaxem.Mixture(jnp.log(jnp.asarray(start.weights)), params, getattr(jaxem, family)())


SHORT, LONG, MOST = 2, 4, 2000
"""turns of the short call, and how many more the long call makes, at least and at most; their difference is timed"""
NUMBERS = 4e8
"""numbers that those more turns touch, where a pass is short"""


class Pass(NamedTuple):
    """Seconds of a pass, for one lane of those that share it."""

    wall: float
    spread: float
    cpu: float
    compiling: float


def one_pass(work: PassConfig, x: np.ndarray, start: peers.Start, repeats: int) -> Pass:
    """jaxem's pass, as `fit` makes it, or `fit_restarts` of several lanes."""
    mixture, never = as_mixture(start, work.family), jaxem.GainBelow(-np.inf)
    rows = as_rows(mixture.family, x, None, work.k, lanes=work.lanes)
    climb: Callable[..., Any] = jaxem.fit
    if work.lanes > 1:
        nudges = jnp.linspace(1.0, 1.01, work.lanes, dtype=x.dtype)
        mixture = jax.vmap(lambda nudge: jax.tree.map(lambda leaf: leaf * nudge, mixture))(nudges)
        climb = jaxem.fit_restarts
    more = int(np.clip(NUMBERS / (work.n * work.d * work.k * work.lanes), LONG, MOST))
    counts = (SHORT, SHORT + more)
    begun = time.perf_counter()
    for turns in counts:
        made = jax.block_until_ready(climb(mixture, rows, stop=never, max_iter=turns)).n_iter
        if np.any(np.asarray(made) < turns):
            raise ValueError(
                f"a climb of {work.n} x {work.d}, K = {work.k} ended after {np.min(made)} of {turns} turns"
            )
    first = time.perf_counter() - begun
    lengths, spent = [], []
    for _ in range(repeats):
        clocks = []
        for turns in counts:
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(climb(mixture, rows, stop=never, max_iter=turns))
            clocks.append((time.perf_counter() - wall, time.process_time() - cpu))
        (short, of_short), (long, of_long) = clocks
        lengths.append((long - short) / more / work.lanes)
        spent.append((of_long - of_short) / more / work.lanes)
    low, middle, high = np.quantile(lengths, [0.25, 0.5, 0.75])
    compiling = max(0.0, first - sum(counts) * float(middle) * work.lanes)
    return Pass(float(middle), float(high - low), float(np.median(spent)), compiling)


ONE_THREAD = "scikit-learn, one thread"


def passes(config: BenchmarkConfig, rates: dict[str, Machine]) -> Iterator[dict[str, Any]]:
    """A row for every pass and library."""
    for work in config.passes:
        x = data_of(work, config.seed, work.dtype)
        start = start_of(x, work)
        name = f"{work.n:,} x {work.d}, K = {work.k}, {work.family} {work.dtype}"
        name += f", {work.lanes} restarts" if work.lanes > 1 else ""
        with jax.enable_x64(work.dtype == "float64"):
            best = one_pass(work, x, start, config.repeats)
            with threads(1):
                alone = one_pass(work, x, start, config.repeats)
            ours = jaxem.fit(as_mixture(start, work.family), x, stop=jaxem.GainBelow(-np.inf), max_iter=config.steps)
        floor = floor_of(work, rates[work.dtype])
        yield {
            "work": name,
            "library": "jaxem",
            "ms": 1e3 * best.wall,
            "spread_ms": 1e3 * best.spread,
            "cpu_ms": 1e3 * best.cpu,
            "compile_s": best.compiling,
            "gflops": flops_of(work) / best.wall / 1e9,
            "times_floor": best.wall / floor,
        }
        yield {"work": name, "library": "jaxem, one thread", "ms": 1e3 * alone.wall, "cpu_ms": 1e3 * alone.cpu}
        for peer in work.peers:
            yield {
                "work": name,
                "library": peer,
                **_peer(peer, config, work, x, start, best.wall, float(ours.log_likelihood)),
            }
            if peer == "scikit-learn" and peers.installed(peer):
                seconds = peers.sklearn(
                    x, start, work.family, config.steps, min(config.repeats, 3), thread=True
                ).seconds
                faster = seconds / alone.wall
                yield {"work": name, "library": ONE_THREAD, "ms": 1e3 * seconds, "jaxem_is_faster_by": faster}


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """jaxem with so many threads."""
    jaxem.set_threads(n)
    try:
        yield
    finally:
        jaxem.set_threads(None)


DIAGONAL = "as diagonal"


def _peer(
    peer: str, config: BenchmarkConfig, work: PassConfig, x: np.ndarray, start: peers.Start, ours: float, reached: float
) -> dict[str, Any]:
    if not peers.installed(peer):
        return {"note": "missing"}
    try:
        seconds, end = peers.PEERS[peer](x, start, work.family, config.steps, min(config.repeats, 3))
    except peers.UnsupportedError:
        return {"note": "has no such model"}
    except Exception as error:  # a peer's fault is a result, not the end of the benchmark
        return {"note": f"failed: {' '.join(str(error).split())[:80]}"}
    found: dict[str, Any] = {
        "ms": 1e3 * seconds,
        "jaxem_is_faster_by": seconds / ours,
        "gflops": flops_of(work) / seconds / 1e9,
    }
    if np.isfinite(end.means).all():
        theirs = float(jaxem.e_step(as_mixture(end, work.family), x).log_likelihood)
        found["difference"] = abs(theirs - reached) / abs(reached)
    else:
        found["note"] = DIAGONAL
    return found


# -- whole runs ----------------------------------------------------------------------------------------------------------


RESTARTS = """
import json, sys, time
import jax, numpy as np
import jaxem
x = np.load({path!r})
heard, seconds = [], []
for _ in range({repeats} + 1):
    begun = time.perf_counter()
    starts = jaxem.starts(jax.random.key(0), jaxem.Spherical(), x, {k}, {restarts}, jaxem.RandomPoints())
    results = jaxem.fit_restarts(starts, x, stop=jaxem.GainBelow({tol}))
    best = float(jaxem.best(results).log_likelihood)
    seconds.append(time.perf_counter() - begun)
jaxem.fit_restarts(starts, x, stop=jaxem.GainBelow({tol}), callback=heard.append)
print(json.dumps([seconds[0], float(np.median(seconds[1:])), best, heard[-1].efficiency]))
"""


def child(program: str, *arguments: str, **environment: str) -> Any:
    """What a fresh Python process prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        raise ValueError(f"a child process failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def restarts(config: BenchmarkConfig) -> Iterator[dict[str, Any]]:
    """Restarts to the same likelihood: jaxem, cold and warm, and scikit-learn's n_init."""
    work = config.restarts
    rng = np.random.default_rng(config.seed)
    centres = 3 * rng.normal(size=(work.k, work.d))
    x = (centres[rng.integers(0, work.k, work.n)] + rng.normal(size=(work.n, work.d))).astype(np.float32)
    name = f"{work.restarts} restarts, {work.n:,} x {work.d}, K = {work.k}, Spherical float32"
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "x.npy")
        np.save(path, x)
        program = RESTARTS.format(path=path, repeats=config.repeats, k=work.k, restarts=work.restarts, tol=work.tol)
        cold, warm, best, efficiency = child(program, JAXEM_CACHE="")
    yield {"work": name, "library": "jaxem, cold", "ms": 1e3 * cold, "note": f"log-likelihood {best:.3f}"}
    yield {"work": name, "library": "jaxem, warm", "ms": 1e3 * warm, "note": f"lane efficiency {efficiency:.2f}"}
    if not work.peers:
        return
    if not peers.installed("scikit-learn"):
        yield {"work": name, "library": "scikit-learn", "note": "missing"}
        return
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        work.k,
        covariance_type="spherical",
        n_init=work.restarts,
        tol=work.tol,
        max_iter=2000,
        init_params="random_from_data",
        random_state=config.seed,
        reg_covar=0.0,
    )
    taken = {}
    for count in (1, None):
        begun = time.perf_counter()
        with peers.blas_threads(count):
            model.fit(x)
        taken[count or os.cpu_count() or 1] = time.perf_counter() - begun
    best_count = min(taken, key=lambda count: taken[count])
    seconds = taken[best_count]
    reached = float(model.score(x)) * work.n
    note = f"log-likelihood {reached:.3f}; BLAS threads: {best_count}; jaxem cold is {seconds / cold:.1f} times faster"
    yield {
        "work": name,
        "library": "scikit-learn",
        "ms": 1e3 * seconds,
        "jaxem_is_faster_by": seconds / warm,
        "note": note,
    }


PEAK = """
import json, resource
try:  # of this program alone: what ru_maxrss tells includes the process that started it
    peak = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
except OSError:
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps((peak - data) / 1e6))
"""
"""prints the peak memory of a process in MB above `data` bytes"""

MEMORY = """
import sys
import jax, numpy as np
import jaxem
x = np.random.default_rng(0).standard_normal(({n}, {d}), np.float32)
what = sys.argv[1]
key = jax.random.key(0)
if what == "init":
    jax.block_until_ready(jaxem.starts(key, jaxem.Spherical(), x, {k}, 1))
else:
    params = jaxem.GaussianParams(jax.numpy.asarray(x[:{k}]), jax.numpy.ones({k}, x.dtype))
    mixture = jaxem.Mixture(jax.numpy.full({k}, -np.log({k}), x.dtype), params, jaxem.Spherical())
    if what == "fit":
        jax.block_until_ready(jaxem.fit(mixture, x, stop=jaxem.GainBelow(-np.inf), max_iter=3))
    elif what == "predict":
        jax.block_until_ready(mixture.predict(x))
    else:
        jax.block_until_ready(mixture.log_prob(x))
data = x.nbytes
"""


def memory(config: BenchmarkConfig) -> Iterator[dict[str, Any]]:
    """Peak memory of a process, above the data."""
    work = config.memory
    if work is None:
        return
    for what in ("init", "fit", "score", "predict"):
        above = child(MEMORY.format(n=work.n, d=work.d, k=work.k) + PEAK, what)
        name = f"{what}, {work.n:,} x {work.d}, K = {work.k}, Spherical float32"
        yield {"work": name, "library": "jaxem", "note": f"peak memory {above:.0f} MB above the data"}


SHAPES = """
import json, sys, time
import numpy as np, jax, jaxem
def resident():
    try:
        return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1e3
    except OSError:  # told by Linux alone
        return float("nan")
x = np.random.default_rng(0).normal(size=(4 * {fits}, 2)).astype(np.float32)
def run(n):
    params = jaxem.GaussianParams(jax.numpy.asarray(x[:3]), jax.numpy.ones(3, x.dtype))
    mixture = jaxem.Mixture(jax.numpy.full(3, -np.log(3), x.dtype), params, jaxem.Spherical())
    jaxem.fit(mixture, x[:n], max_iter=50).log_likelihood.block_until_ready()
begun = time.perf_counter()
for i in range({fits}):
    run({fits} + (i if sys.argv[1] == "many" else 0))
seconds, before = time.perf_counter() - begun, resident()
for i in range({fits}):
    run({fits} + (i if sys.argv[1] == "many" else 0))
print(json.dumps([seconds, resident() - before]))
"""

IMPORT = """
import json, time
import jax
begun = time.perf_counter()
import jaxem
for name in jaxem.__all__: getattr(jaxem, name)
print(json.dumps(time.perf_counter() - begun))
"""


def starting_up(config: BenchmarkConfig) -> Iterator[dict[str, Any]]:
    """Whole processes: import, `jaxem fit` on the bundled data, and fits of many shapes."""
    if config.fits:
        (one, _), (many, grown) = (child(SHAPES.format(fits=config.fits), which) for which in ("one", "many"))
        yield {"work": f"{config.fits} fits of one number of rows", "library": "jaxem", "ms": 1e3 * one}
        note = f"{many / one:.1f} times as long as one number; once more they take {grown:.0f} MB more memory"
        yield {
            "work": f"{config.fits} fits of as many numbers of rows",
            "library": "jaxem",
            "ms": 1e3 * many,
            "note": note,
        }
    if not config.processes:
        return
    adds = float(np.median([child(IMPORT) for _ in range(config.processes)]))
    yield {"work": "import jaxem, every name, after jax", "library": "jaxem", "ms": 1e3 * adds}
    with tempfile.TemporaryDirectory() as folder:
        for what, options, cache in (
            ("jaxem fit, first time", [], "cold"),
            ("jaxem fit, programs kept", [], "warm"),
            ("jaxem fit --no-verify, first time", ["--no-verify"], "cold"),
            ("jaxem fit --no-verify, programs kept", ["--no-verify"], "warm"),
        ):
            times = []
            for i in range(config.processes + (cache == "warm")):
                place = Path(folder) / (f"{what}-{i}" if cache == "cold" else cache)
                command = [sys.executable, "-m", "jaxem.cli", "fit", *options]
                begun = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, env={**os.environ, "JAXEM_CACHE": str(place)})
                times.append(time.perf_counter() - begun)
            times = times[cache == "warm" :]
            spread = 1e3 * float(np.ptp(times))
            yield {"work": what, "library": "jaxem", "ms": 1e3 * float(np.median(times)), "spread_ms": spread}


# -- the report ----------------------------------------------------------------------------------------------------------


COLUMNS = {
    "work": "work",
    "library": "library",
    "ms": "ms",
    "spread_ms": "spread",
    "cpu_ms": "CPU ms",
    "jaxem_is_faster_by": "jaxem is faster by",
    "gflops": "GFLOP/s",
    "times_floor": "times the floor",
    "compile_s": "compile, s",
    "difference": "difference",
    "note": "note",
}


def as_summary(rows: Sequence[dict[str, Any]]) -> str:
    """What the README shows, from rows as measured or as read from the CSV: passes beside the peers, and the whole runs."""
    passes = [row for row in rows if row.get("gflops")]
    libraries = ["scikit-learn", ONE_THREAD, *(peer for peer in peers.PEERS if peer != "scikit-learn")]
    lines = ["| one pass (E-step and M-step) | jaxem, ms | " + " | ".join(libraries) + " | times the floor |"]
    lines.append("|---" * (3 + len(libraries)) + "|")
    for work in dict.fromkeys(row["work"] for row in passes):
        of = {row["library"]: row for row in rows if row["work"] == work}
        faster = (
            f"{float(of[peer]['jaxem_is_faster_by']):.2g} x{' (diagonal)' if of[peer].get('note') == DIAGONAL else ''}"
            if peer in of and of[peer].get("jaxem_is_faster_by")
            else ""
            for peer in libraries
        )
        ours = of["jaxem"]
        lines.append(
            f"| {work} | {_cell(float(ours['ms']))} | {' | '.join(faster)} | {float(ours['times_floor']):.1f} |"
        )
    lines += ["", "| whole runs | seconds | |", "|---|---|---|"]
    for row in rows:
        is_pass = row["work"] in {row["work"] for row in passes}
        if not is_pass and row.get("note") != "missing" and (row.get("ms") or row.get("note")):
            seconds = f"{float(row['ms']) / 1e3:.2g}" if row.get("ms") else ""
            library = "" if row["library"] == "jaxem" else f", {row['library']}"
            lines.append(f"| {row['work']}{library} | {seconds} | {row.get('note', '')} |")
    return "\n".join(lines) + "\n"


def as_markdown(rows: Sequence[dict[str, Any]], opening: Sequence[str]) -> str:
    """The table, with what it was measured on."""
    lines = [*opening, "", "| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n\n" + as_summary(rows)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 1e3 else f"{value:.0f}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Milliseconds of a pass, library beside library."""
    timed_rows = [row for row in rows if "gflops" in row]
    works = list(dict.fromkeys(row["work"] for row in timed_rows))
    libraries = list(dict.fromkeys(row["library"] for row in timed_rows))
    figure, panel = plt.subplots(figsize=(7.2, 0.9 + 0.6 * len(works)))
    for i, library in enumerate(libraries):
        mine = [(works.index(row["work"]), row["ms"]) for row in timed_rows if row["library"] == library]
        places = [place + (i - (len(libraries) - 1) / 2) * 0.8 / len(libraries) for place, _ in mine]
        shade = COLOURS[i % len(COLOURS)]
        panel.barh(
            places,
            [ms for _, ms in mine],
            0.8 / len(libraries),
            label=library,
            color=shade,
            hatch=("", "//", "..", "xx")[i % 4],
            edgecolor="white",
        )
    panel.set_yticks(range(len(works)), works)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlabel("milliseconds of one pass, per restart")
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path)


def benchmark(config: BenchmarkConfig, out: Path) -> Iterator[str]:
    """jaxem beside its peers and beside the machine's floor."""
    opening = [f"measured on {hardware()}, {n_threads()} threads, scikit-learn's BLAS: {blas()}"]
    yield opening[0]
    rates: dict[str, Machine] = {}
    for dtype in dict.fromkeys(work.dtype for work in config.passes):
        with jax.enable_x64(dtype == "float64"):
            rates[dtype] = machine(dtype, config.repeats)
        flops, nbytes, exps = (rate / 1e9 for rate in rates[dtype])
        opening.append(
            f"{dtype}: {flops:.0f} GFLOP/s in a product, {nbytes:.1f} GB/s read, {exps:.2f} G exponentials/s"
        )
        yield opening[-1]
    rows: list[dict[str, Any]] = []
    for part in (passes(config, rates), restarts(config), memory(config), starting_up(config)):
        for row in part:
            rows.append(row)
            told = {COLUMNS[key]: _cell(value) for key, value in row.items() if key not in ("work", "library")}
            yield f"{row['work']}: {row['library']}: " + ", ".join(f"{key} {value}" for key, value in told.items())
            # after every row: what was measured is kept if the run is cut short
            write_csv(
                out / "benchmark.csv", list(COLUMNS), [[row.get(column, "") for column in COLUMNS] for row in rows]
            )
            write_atomically(out / "benchmark.md", as_markdown(rows, opening).encode(), overwrite=True)
    draw(rows, out / "benchmark.png")
    ours = [row for row in rows if "times_floor" in row]
    yield f"jaxem's passes take {min(r['times_floor'] for r in ours):.1f} to {max(r['times_floor'] for r in ours):.1f} floors"


if __name__ == "__main__":
    if any(name in os.environ for name in UNSET):  # numpy has read them already
        clean = {name: value for name, value in os.environ.items() if name not in UNSET}
        os.execve(sys.executable, [sys.executable, "-m", "experiments.benchmark", *sys.argv[1:]], clean)
    run(BenchmarkConfig, benchmark)
