"""How far does it go? Passes over files larger than memory, over two processes, and a search of the largest number of rows.

Rows of a mixture of K normal laws are drawn and written to Parquet in a temporary folder, one size at a time, and removed
afterwards, also after a failure. Each number comes from a fresh process:

    pass         what one more turn of a plain `fit` takes, called from the host, nothing configured: a long call less a
                 short one, median over repeats; of `Files`, and of the same rows in memory where they fit
    reading      the same `Files` iterated over without a computation, and the bytes of the file read without decoding
    floor        what no program can beat here: the floor of experiments/benchmark.py
    memory       the most memory that the process had, as the kernel tells, less what it had after its imports; compiling
                 is part of it
    processes    one and two processes, started as JAX's documentation says, each with its rows in memory and one thread
    search       `search` of `Files`, from the call to the answer; the log-likelihood of the mixture that was drawn from
                 stands beside the one found

The files have just been written, so they are read from the page cache as far as memory holds them. The simulation for many
machines is arithmetic: the seconds of a pass over a machine's share, as measured for the most rows, and those that messages of
the measured size take at the stated bandwidth and latency. What all machines yield is gathered by each, in two rounds: first
the sizes, then the contents; reading and adding it is measured too.
"""

import contextlib
import functools
import json
import math
import operator
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
import pydantic

import jaxem
import jaxem.plots
from experiments.benchmark import PassConfig, floor_of, machine
from experiments.common import Config, ConfigError, Positive, hardware, line_style, panels, run, save_figure, write_csv
from experiments.peers import median_of
from jaxem.threads import n_threads

PositiveFloat = Annotated[float, pydantic.Field(gt=0)]
GROUP = 2**18
"""rows of a row group"""
SHORT, LEAST, MOST, TOUCHED = 1, 2, 40, 2e7
"""turns of the short call; how many more the long call makes, at least and at most; and how many rows those should touch"""
SPARE = 1.1
"""room on the disk, in sizes of the numbers alone"""


class PaperConfig(Config):
    """A cluster on paper."""

    machines: list[Positive]
    rows_each: Positive
    bandwidth: PositiveFloat  # bytes a second into a machine
    latency: PositiveFloat  # seconds of a message


class LargeConfig(Config):
    """configs/large.toml"""

    seed: int
    d: Positive
    k: Positive
    separation: float
    rows: Annotated[list[Positive], pydantic.Field(min_length=1)]
    in_memory: Positive  # the most rows that are also passed over in memory
    processes: Positive  # rows
    search: Positive  # rows
    repeats: Positive
    paper: PaperConfig


# -- data ----------------------------------------------------------------------------------------------------------------


def truth(config: LargeConfig) -> jaxem.Mixture:
    """The mixture that is drawn from: K normal laws about `separation` deviations apart."""
    rng = np.random.default_rng(config.seed)
    means = rng.normal(size=(config.k, config.d)) * config.separation / np.sqrt(2 * config.d)
    variances = rng.uniform(0.5, 2.0, size=(config.k, config.d))
    weights = rng.dirichlet(np.full(config.k, 8.0))
    params = jaxem.GaussianParams(jnp.asarray(means), jnp.asarray(variances))
    return jaxem.Mixture(jnp.log(jnp.asarray(weights)), params, jaxem.Diagonal())


def start(config: LargeConfig) -> jaxem.Mixture:
    """Where the passes that are timed begin: half a deviation away from the truth."""
    mixture = truth(config)
    params = jaxem.GaussianParams(mixture.components.means + 0.5, mixture.components.covariances)
    return jaxem.Mixture(mixture.log_weights, params, mixture.family)


def drawn(config: LargeConfig, n: int) -> Iterator[np.ndarray]:
    """Columns `[d, b]` of n rows in groups, each from a seed of its own."""
    mixture = truth(config)
    means, deviations = (np.asarray(leaf).T for leaf in (mixture.components.means, mixture.components.covariances**0.5))
    for group in range(math.ceil(n / GROUP)):
        rng = np.random.default_rng((config.seed, group))
        size = min(GROUP, n - group * GROUP)
        label = rng.choice(config.k, size, p=np.asarray(mixture.weights))
        columns = rng.standard_normal((config.d, size))
        columns *= deviations[:, label]
        columns += means[:, label]
        yield columns


def check_room(config: LargeConfig) -> None:
    """Raise a ConfigError if the disk cannot hold the largest file."""
    most, folder = max(*config.rows, config.search), tempfile.gettempdir()
    needed, free = SPARE * 8 * most * config.d, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{most:,} rows need {needed / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB free; name another folder "
            "by TMPDIR, or fewer rows in the config"
        )


@contextlib.contextmanager
def as_parquet(config: LargeConfig, n: int) -> Iterator[Path]:
    """A Parquet file of n rows, there as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="jaxem-large-") as folder:
        path = Path(folder) / f"{n}.parquet"
        names = [f"x{j}" for j in range(config.d)]
        schema = pyarrow.schema([(name, pyarrow.float64()) for name in names])
        # random digits have neither repeats nor patterns
        options = dict[str, Any]({"use_dictionary": False, "compression": "none"})
        with path.open("wb") as file, pyarrow.parquet.ParquetWriter(file, schema, **options) as writer:
            for columns in drawn(config, n):
                writer.write_table(pyarrow.table(list(columns), schema=schema), row_group_size=GROUP)
            file.flush()
            os.fsync(file.fileno())  # else it is written to the disk while passes are timed
        yield path


# -- in fresh processes --------------------------------------------------------------------------------------------------


def peak() -> float:
    """The most memory that this process has had, in MB; NaN where the kernel does not tell."""
    with contextlib.suppress(OSError):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1]) / 1e6
    return math.nan


def pass_seconds(config: LargeConfig, x: Any, n: int) -> float:
    """Seconds of a pass of `fit` over x: a long call less a short one, once where the rows are too many for memory."""
    more = int(np.clip(TOUCHED / n, LEAST, MOST))

    def climb(turns: int) -> float:
        begun = time.perf_counter()
        found = jax.block_until_ready(jaxem.fit(start(config), x, stop=jaxem.GainBelow(-np.inf), max_iter=turns))
        if int(found.n_iter) < turns:
            raise ValueError(f"a climb on {n:,} rows ended after {int(found.n_iter)} of {turns} turns")
        return time.perf_counter() - begun

    climb(SHORT)  # compiles
    repeats = config.repeats if n <= config.in_memory else 1
    return float(np.median([-climb(SHORT) + climb(SHORT + more) for _ in range(repeats)])) / more


def over_files(config: LargeConfig, path: str) -> dict[str, float]:
    """A pass over a file, and the reading alone."""
    x: Any = jaxem.Files(path)
    n = pyarrow.parquet.ParquetFile(path).metadata.num_rows
    found = {"pass": pass_seconds(config, x, n), "peak": peak()}
    repeats = config.repeats if n <= config.in_memory else 1
    found["reading"] = median_of(lambda: [None for _ in x], repeats)
    found["bytes"] = median_of(lambda: _read_bytes(path), repeats)
    return found


def _read_bytes(path: str) -> None:
    held = bytearray(2**20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(held):
            pass


def in_memory(config: LargeConfig, path: str) -> dict[str, float]:
    """A pass over the same rows in memory; the peak includes them."""
    n = pyarrow.parquet.ParquetFile(path).metadata.num_rows
    x, begin = np.empty((n, config.d)), 0
    for rows in jaxem.Files(path):
        x[begin : begin + len(rows)] = rows
        begin += len(rows)
    return {"pass": pass_seconds(config, x, n), "peak": peak()}


def in_processes(config: LargeConfig, address: str, count: str, index: str) -> dict[str, float]:
    """A pass over the rows of several processes, of which this is one."""
    if int(count) > 1:
        jax.distributed.initialize(address, int(count), int(index))
    n = config.processes
    x = np.concatenate(list(drawn(config, n)), axis=1).T
    mine = slice(n * int(index) // int(count), n * (int(index) + 1) // int(count))
    source: Any = jaxem.from_processes(np.ascontiguousarray(x[mine]))
    height = float(jaxem.e_step(start(config), source).log_likelihood)
    seconds = pass_seconds(config, source, n)
    return {"pass": seconds, "peak": peak(), "log_likelihood": height}


def search_of(config: LargeConfig, path: str) -> dict[str, float]:
    """A search of a file, from the call to the answer."""
    x: Any = jaxem.Files(path)
    begun = time.perf_counter()
    found = jaxem.search(jax.random.key(config.seed), jaxem.Diagonal(), x, config.k)
    height = float(found.best.log_likelihood)
    seconds, most = time.perf_counter() - begun, peak()
    told = {"seconds": seconds, "peak": most, "passes": found.passes, "log_likelihood": height}
    return told | {
        "status": int(found.best.status),
        "turns": int(found.best.n_iter),
        "truth": float(jaxem.e_step(truth(config), x).log_likelihood),
    }


PARTS = {part.__name__: part for part in (over_files, in_memory, in_processes, search_of)}
PROGRAM = "import sys; from experiments import large; large.work_here(*sys.argv[1:])"


def work_here(part: str, config: str, *arguments: str) -> None:
    """What a fresh process does: a part of the experiment, whose numbers it prints as JSON."""
    for name in jaxem.__all__:
        getattr(jaxem, name)
    imported = peak()
    found = PARTS[part](LargeConfig.model_validate_json(config), *arguments)
    print(json.dumps(found | {"above": found["peak"] - imported}))


def fresh(
    part: str, config: LargeConfig, of_each: Sequence[Sequence[str]], **environment: str
) -> list[dict[str, float]]:
    """What fresh processes find, one for each list of arguments, side by side. Nothing compiled is kept for them."""
    inherited = {**os.environ, "JAX_ENABLE_X64": "1", "JAXEM_CACHE": "", **environment}
    command = [sys.executable, "-c", PROGRAM, part, config.model_dump_json()]
    pipes = dict[str, Any]({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": inherited})
    started = [subprocess.Popen([*command, *arguments], **pipes) for arguments in of_each]
    try:
        told = [one.communicate() for one in started]
    finally:
        for one in started:
            one.kill()  # does nothing to one that has ended
            one.wait()
    for one, (_, errors) in zip(started, told, strict=True):
        if one.returncode:
            last = (errors.strip().splitlines() or [f"exit code {one.returncode}"])[-1]
            raise ValueError(f"the process for {part} failed: {last}")
    return [json.loads(printed.splitlines()[-1]) for printed, _ in told]


def free_address() -> str:
    """An address on this machine that is free."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


# -- on paper ------------------------------------------------------------------------------------------------------------


def message_of(config: LargeConfig) -> tuple[int, bytes]:
    """Bytes of the numbers of Stats, and the message that a process sends in a turn."""
    x = np.zeros((config.k, config.d)) + np.arange(config.k)[:, None]
    stats = jax.tree.map(np.asarray, jaxem.e_step(start(config), x))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(stats)), pickle.dumps((stats, None))


def gathering_seconds(paper: PaperConfig, machines: int, message: int) -> float:
    """Seconds until each machine has a message of each: log2(machines) steps for the sizes, as many for the contents."""
    steps = math.ceil(math.log2(machines)) if machines > 1 else 0
    return 2 * steps * paper.latency + (machines - 1) * (message + 4) / paper.bandwidth


def adding_seconds(machines: int, message: bytes) -> float:
    """Seconds that this machine needs to read and add so many messages, measured."""

    def add() -> Any:
        every = (pickle.loads(message)[0] for _ in range(machines))
        return functools.reduce(operator.add, every)

    add()
    return median_of(add, 5)


# -- the experiment ------------------------------------------------------------------------------------------------------

HEADER = ["what", "rows", "seconds", "rows per second", "peak MB above imports", "peak MB of the process", "note"]
STREAM, MEMORY, READING, BYTES, SEARCH = (
    "a pass over Files",
    "a pass in memory",
    "reading Files",
    "reading the bytes",
    "a search of Files",
)


def as_row(what: str, n: int, seconds: float, found: Any = None, note: str = "", passes: float = 1) -> dict[str, Any]:
    """A line of the table."""
    peaks = ("", "") if found is None else (round(found["above"]), round(found["peak"]))
    return dict(zip(HEADER, (what, n, seconds, passes * n / seconds, *peaks, note), strict=True))


def sizes(config: LargeConfig, flops: Any) -> Iterator[dict[str, Any]]:
    """Passes and the search: one file at a time."""
    for n in sorted({*config.rows, config.search}):
        with as_parquet(config, n) as path:
            if n in config.rows:
                work = PassConfig(family="Diagonal", n=n, d=config.d, k=config.k, dtype="float64", peers=[])
                floor = floor_of(work, flops)
                (files,) = fresh("over_files", config, [[str(path)]])
                share = files["reading"] / files["pass"]
                note = f"{files['pass'] / floor:.1f} times the floor; reading alone takes {share:.0%} of it"
                if n <= config.in_memory:
                    (memory,) = fresh("in_memory", config, [[str(path)]])
                    note += f"; {memory['pass'] / files['pass']:.0%} of the speed in memory"
                    yield as_row(MEMORY, n, memory["pass"], memory, f"{memory['pass'] / floor:.1f} times the floor")
                yield as_row(STREAM, n, files["pass"], files, note)
                yield as_row(READING, n, files["reading"])
                rate = path.stat().st_size / files["bytes"] / 1e9
                yield as_row(BYTES, n, files["bytes"], None, f"{path.stat().st_size / 1e6:,.0f} MB at {rate:.1f} GB/s")
            if n == config.search:
                (found,) = fresh("search_of", config, [[str(path)]])
                note = (
                    f"{found['passes']:g} passes, {found['turns']:g} turns of the best on all rows, "
                    f"{jaxem.Status(int(found['status'])).name}, log-likelihood {found['log_likelihood']:.2f}, that of the "
                    f"mixture drawn from {found['truth']:.2f}"
                )
                yield as_row(SEARCH, n, found["seconds"], found, note, found["passes"])


def processes(config: LargeConfig) -> Iterator[dict[str, Any]]:
    """One process and two, with a thread each."""
    n, alone = config.processes, None
    for count in (1, 2):
        address = free_address()
        every = [[address, str(count), str(i)] for i in range(count)]
        found = fresh("in_processes", config, every, JAXEM_THREADS="1")
        note = ""
        if alone is not None:
            apart = abs(found[0]["log_likelihood"] / alone["log_likelihood"] - 1)
            faster = alone["pass"] / found[0]["pass"]
            note = f"{faster:.2f} times as fast as one; log-likelihoods differ by {apart:.0e}, relatively"
        alone = found[0]
        what = f"a pass of {count} process{'es' * (count > 1)}, one thread each"
        yield as_row(what, n, found[0]["pass"], None, note)


def on_paper(config: LargeConfig, rate: float) -> Iterator[dict[str, Any]]:
    """What a turn takes on many machines that pass over so many rows a second."""
    paper, (numbers, message) = config.paper, message_of(config)
    passing = paper.rows_each / rate
    for machines in paper.machines:
        gathering, adding = gathering_seconds(paper, machines, len(message)), adding_seconds(machines, message)
        turn, megabytes = passing + gathering + adding, (machines - 1) * len(message) / 1e6
        note = (
            f"{paper.rows_each:,} rows each; Stats of {numbers:,} bytes, sent as {len(message):,}; each machine gets "
            f"{megabytes:.2f} MB in {1e3 * gathering:.1f} ms at {8 * paper.bandwidth / 1e9:g} Gbit/s and adds them in "
            f"{1e3 * adding:.1f} ms, {(gathering + adding) / turn:.2%} of the turn"
        )
        yield as_row(f"on paper, a turn on {machines:,} machines", machines * paper.rows_each, turn, None, note)


def large(config: LargeConfig, out: Path) -> Iterator[str]:
    """Passes over files, over processes, and a search, up to rows that no memory holds."""
    check_room(config)
    rates = machine("float64", config.repeats)
    flops, nbytes, exps = (rate / 1e9 for rate in rates)
    yield (
        f"measured on {hardware()}, {n_threads()} threads; {flops:.0f} GFLOP/s in a product, {nbytes:.1f} GB/s read, "
        f"{exps:.2f} G exponentials/s; {config.d} columns of float64, K = {config.k}, Diagonal"
    )
    rows: list[dict[str, Any]] = []

    def parts() -> Iterator[dict[str, Any]]:
        yield from processes(config)
        yield from sizes(config, rates)
        widest = max((row for row in rows if row["what"] == STREAM), key=lambda row: row["rows"])
        yield from on_paper(config, widest["rows per second"])

    for row in parts():
        rows.append(row)
        yield as_line(row)
        # after every row: what was measured is kept if the run is cut short
        write_csv(out / "large.csv", HEADER, [[_cell(row[column]) for column in HEADER] for row in rows])
        draw(rows, out / "large.png")
    yield told_in_short(rows)


def as_line(row: dict[str, Any]) -> str:
    """What is printed of a line of the table."""
    what, n, seconds, rate, above, most, note = row.values()
    told = f"{what}, {n:,} rows: {seconds:.3g} s, {rate / 1e6:.2f} M rows/s"
    if most != "":
        told += f", peak memory {above} MB above imports, {most} in all"
    return told + (f"; {note}" if note else "")


def _cell(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def told_in_short(rows: Sequence[dict[str, Any]]) -> str:
    """The conclusion."""
    streams = [row for row in rows if row["what"] == STREAM]
    memory = {row["rows"]: row["seconds"] for row in rows if row["what"] == MEMORY}
    shares = [memory[row["rows"]] / row["seconds"] for row in streams if row["rows"] in memory]
    peaks = [row["peak MB above imports"] for row in streams]
    searched = next(row for row in rows if row["what"] == SEARCH)
    told = f"a pass over Files takes from {streams[0]['rows']:,} to {streams[-1]['rows']:,} rows {min(peaks)} to {max(peaks)} MB"
    if shares:
        told += f", and runs at {min(shares):.0%} to {max(shares):.0%} of the speed in memory"
    return (
        f"{told}; a search of {searched['rows']:,} rows takes {searched['seconds']:.0f} s and "
        f"{searched['peak MB of the process']} MB in all"
    )


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds of a pass and memory, by the number of rows."""
    figure, (left, right) = panels(2, high=4.4)
    for i, what in enumerate((STREAM, MEMORY, READING, BYTES, SEARCH)):
        mine = [row for row in rows if row["what"] == what]
        sizes = [row["rows"] for row in mine]
        style = {**line_style(i), "label": what}
        if what != SEARCH:
            left.loglog(sizes, [row["seconds"] for row in mine], **style)
        if what in (STREAM, MEMORY, SEARCH):
            right.loglog(sizes, [row["peak MB above imports"] for row in mine], **style)
    left.set(xlabel="rows", ylabel="seconds")
    right.set(xlabel="rows", ylabel="peak MB above imports")
    shown = {
        name: line for panel in (right, left) for line, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center")
    save_figure(figure, path)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that files are removed
    run(LargeConfig, large)
