"""How fast: jaxem beside its peers on the same data from the same start, and beside what the machine can do at all.

One pass is one E-step and one M-step. The floor of a pass is what no program can beat on this machine, measured here in
the same run:

    max(flops / matmul rate, bytes of the data, read once / read rate) + n K exponentials / exp rate

with 4 n K d flops (two products) for Spherical and Diagonal, 4 n K d + 4 n d^2 for Tied, and 2 n K d (d + 1) for Full, where
symmetric work is counted once. GFLOP/s are those flops in the time measured. Times are medians after a warm-up, with
`block_until_ready`, compilation apart. Every peer's parameters after a few steps are compared with jaxem's: the table gives
the largest relative difference of log-likelihoods. A peer that is not installed is reported as missing.
"""

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
from jax.sharding import NamedSharding, PartitionSpec

import jaxem
from experiments import peers
from experiments.common import Config, Positive, hardware, run, save_figure, write_csv
from jaxem.devices import ROWS, mesh_of
from jaxem.io import write_atomically
from jaxem.primitives import cores
from jaxem.rows import as_rows

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
    memory: MemoryConfig
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
    """Rates of a large matrix product, of reading memory and of exponentials in cache, on all devices."""
    devices = jax.devices()
    spread = NamedSharding(mesh_of(devices), PartitionSpec(ROWS))
    m, size, rounds = len(devices), 2048, 256
    square = jax.device_put(np.ones((m, size, size), dtype), spread)
    long = jax.device_put(np.ones((m, 2**25), dtype), spread)
    small = jax.device_put(np.zeros((m, 8, 4096), dtype), spread)

    def on_each(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        local, along = (lambda a: function(a[0])[None]), PartitionSpec(ROWS)
        return jax.jit(jax.shard_map(local, mesh=spread.mesh, in_specs=along, out_specs=along, check_vma=False))

    def exponentials(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, rounds, lambda _, total: total + jnp.sum(jnp.exp(a + total * 1e-30)), a[0, 0])

    product, total = on_each(lambda a: jnp.matmul(a, a, precision="highest")), on_each(jnp.sum)
    exponential = on_each(exponentials)
    seconds = (
        timed(lambda: product(square), repeats)[0] / (2 * m * size**3),
        timed(lambda: total(long), repeats)[0] / long.nbytes,
        timed(lambda: exponential(small), repeats)[0] / (small.size * rounds),
    )
    return Machine(*(1.0 / each for each in seconds))


def flops_of(work: PassConfig) -> float:
    """Floating-point operations of a pass of one lane."""
    n, d, k = work.n, work.d, work.k
    return {"Tied": 4 * n * d * (k + d), "Full": 2 * n * k * d * (d + 1)}.get(work.family, 4 * n * k * d)


def floor_of(work: PassConfig, rates: Machine) -> float:
    """Seconds of a pass of one lane that nothing can beat; the data are read once for all lanes."""
    nbytes = work.n * work.d * np.dtype(work.dtype).itemsize / work.lanes
    return max(flops_of(work) / rates.flops, nbytes / rates.bytes) + work.n * work.k / rates.exps


def data_of(work: Any, seed: int, dtype: str = "float32") -> np.ndarray:
    """Rows `[n, d]` of overlapping clusters."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((work.n, work.d), np.float32)
    x += rng.integers(0, 3, (work.n, 1)).astype(np.float32)
    return x.astype(dtype)


def start_of(x: np.ndarray, work: PassConfig) -> peers.Start:
    """Means at the first rows, unit covariances, equal weights."""
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


def one_pass(work: PassConfig, x: np.ndarray, start: peers.Start, repeats: int) -> tuple[float, float, float]:
    """Median, spread and compilation of jaxem's pass, for one lane of those that share it."""
    mixture, mesh = as_mixture(start, work.family), mesh_of(jax.devices())
    rows = as_rows(mixture.family, x, None, work.k, lanes=work.lanes, mesh=mesh)

    def step(mixture: jaxem.Mixture, rows: Any) -> jaxem.Mixture:
        return jaxem.m_step(mixture, jaxem.e_step(mixture, rows))

    if work.lanes > 1:
        nudges = jnp.linspace(1.0, 1.01, work.lanes, dtype=x.dtype)
        mixture = jax.vmap(lambda nudge: jax.tree.map(lambda leaf: leaf * nudge, mixture))(nudges)
        step = jax.vmap(step, (0, None))
    compiled = jax.jit(step)
    middle, spread, compiling = timed(lambda: compiled(mixture, rows), repeats)
    return middle / work.lanes, spread / work.lanes, compiling


def passes(config: BenchmarkConfig, rates: dict[str, Machine]) -> Iterator[dict[str, Any]]:
    """A row for every pass and library."""
    for work in config.passes:
        x = data_of(work, config.seed, work.dtype)
        start = start_of(x, work)
        name = f"{work.n:,} x {work.d}, K = {work.k}, {work.family} {work.dtype}"
        name += f", {work.lanes} restarts" if work.lanes > 1 else ""
        with jax.enable_x64(work.dtype == "float64"):
            middle, spread, compiling = one_pass(work, x, start, config.repeats)
            ours = jaxem.fit(as_mixture(start, work.family), x, stop=jaxem.GainBelow(-np.inf), max_iter=config.steps)
        floor = floor_of(work, rates[work.dtype])
        yield {
            "work": name,
            "library": "jaxem",
            "ms": 1e3 * middle,
            "spread_ms": 1e3 * spread,
            "compile_s": compiling,
            "gflops": flops_of(work) / middle / 1e9,
            "times_floor": middle / floor,
        }
        for peer in work.peers:
            yield {
                "work": name,
                "library": peer,
                **_peer(peer, config, work, x, start, middle, float(ours.log_likelihood)),
            }


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
        found["note"] = "as diagonal"
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
        cold, warm, best, efficiency = child(program)
    yield {"work": name, "library": "jaxem, cold", "ms": 1e3 * cold, "note": f"log-likelihood {best:.3f}"}
    yield {"work": name, "library": "jaxem, warm", "ms": 1e3 * warm, "note": f"lane efficiency {efficiency:.2f}"}
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
    begun = time.perf_counter()
    model.fit(x)
    seconds = time.perf_counter() - begun
    reached = float(model.score(x)) * work.n
    note = f"log-likelihood {reached:.3f}; jaxem cold is {seconds / cold:.0f} times faster"
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
    lines = ["| one pass (E-step and M-step) | jaxem, ms | " + " | ".join(peers.PEERS) + " | times the floor |"]
    lines.append("|---" * (3 + len(peers.PEERS)) + "|")
    for work in dict.fromkeys(row["work"] for row in passes):
        of = {row["library"]: row for row in passes if row["work"] == work}
        faster = (
            f"{float(of[peer]['jaxem_is_faster_by']):.2g} x{' (diagonal)' if of[peer].get('note') else ''}"
            if peer in of
            else ""
            for peer in peers.PEERS
        )
        ours = of["jaxem"]
        lines.append(
            f"| {work} | {_cell(float(ours['ms']))} | {' | '.join(faster)} | {float(ours['times_floor']):.1f} |"
        )
    lines += ["", "| whole runs | seconds | |", "|---|---|---|"]
    for row in rows:
        if not row.get("gflops") and row.get("note") != "missing" and (row.get("ms") or row.get("note")):
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
    figure, panel = plt.subplots(figsize=(8, 0.6 + 0.6 * len(works)))
    for i, library in enumerate(libraries):
        mine = [(works.index(row["work"]), row["ms"]) for row in timed_rows if row["library"] == library]
        places = [place + (i - (len(libraries) - 1) / 2) * 0.8 / len(libraries) for place, _ in mine]
        panel.barh(places, [ms for _, ms in mine], 0.8 / len(libraries), label=library)
    panel.set_yticks(range(len(works)), works, fontsize=8)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlabel("milliseconds of one pass (E-step and M-step), per restart")
    panel.legend(frameon=False)
    save_figure(figure, path)


def benchmark(config: BenchmarkConfig, out: Path) -> Iterator[str]:
    """jaxem beside its peers and beside the machine's floor."""
    jax.config.update("jax_num_cpu_devices", cores())  # a CPU pass uses every core
    opening = [f"measured on {hardware()}, {len(jax.devices())} devices"]
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
    run(BenchmarkConfig, benchmark)
