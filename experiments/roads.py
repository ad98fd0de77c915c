"""Whole roads: from the call that a user writes to the answer, jaxem beside scikit-learn on the same data.

Each road runs in processes of its own, with nothing configured: the first keeps its compiled programs in a new folder
(*cold*), the second finds them there (*kept*), and calls again (*warm*, the median of the later calls). Seconds of a process
count from its start to its end, imports included; CPU seconds count all cores. scikit-learn runs with one BLAS thread and
with all, and the better is compared. Variables that choose or slow numpy's BLAS are taken out of its environment; the
kernel that is left is printed.

Roads: `default` is `GaussianMixture(K).fit(X)`, `restarts` the same with `n_init=10`, in both libraries; `search` is
`jaxem.search` with its defaults beside scikit-learn's default fit; `select` is `jaxem.select` of 1 to K components and four
families beside a grid of fits with `n_init=10` and the least BIC. The log-likelihood that each reaches stands beside it, or for
`select` minus half the least BIC.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import Config, ConfigError, Positive, hardware, run, save_figure, write_csv
from jaxem.plots import COLOURS

UNSET = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "NVPL_BLAS_DEBUG_CPU_TYPE",
    "XLA_FLAGS",
    "JAX_ENABLE_X64",
    "JAXEM_THREADS",
)
"""what is taken out of the environment of both"""
BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
HEADER = (
    *("road", "n", "d", "K", "jaxem cold wall", "jaxem cold CPU", "jaxem kept wall", "jaxem kept CPU"),
    *("jaxem warm wall", "jaxem warm CPU", "jaxem log-likelihood", "peer threads", "peer process wall"),
    *("peer process CPU", "peer warm wall", "peer warm CPU", "peer log-likelihood"),
)
"""columns of the CSV; seconds"""
PROGRAM = """
import json, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
path, road, k, repeats, peer = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "peer"
x = np.load(path)
if peer:
    from sklearn.mixture import GaussianMixture
elif road in ("search", "select"):
    import jax, jaxem
else:
    from jaxem.sklearn import GaussianMixture

def call(seed):
    if road == "search" and not peer:
        return float(jaxem.search(jax.random.key(seed), "full", x, k).best.log_likelihood)
    if road == "select" and not peer:
        families = ("spherical", "diagonal", "tied", "full")
        found = jaxem.select(jax.random.key(seed), families, x, range(1, k + 1))
        return -found.candidates[found.chosen].bic / 2
    if road == "select":
        grid = [(kind, j) for kind in ("spherical", "diag", "tied", "full") for j in range(1, k + 1)]
        models = [GaussianMixture(j, covariance_type=kind, n_init=10, random_state=seed).fit(x) for kind, j in grid]
        return -min(float(model.bic(x)) for model in models) / 2
    model = GaussianMixture(k, n_init=10 if road == "restarts" else 1, random_state=seed).fit(x)
    return float(model.score(x)) * len(x)

found = [call(0)]
walls, cpus = [], []
for seed in range(repeats):
    wall, cpu = time.perf_counter(), time.process_time()
    found.append(call(seed))
    walls.append(time.perf_counter() - wall)
    cpus.append(time.process_time() - cpu)
print(json.dumps([walls, cpus, found]))
"""


class Road(Config):
    """One way to an answer, on data of one size."""

    road: Literal["default", "restarts", "search", "select"]
    n: Positive
    d: Positive
    k: Positive
    repeats: Positive = 3


class RoadsConfig(Config):
    """configs/roads.toml"""

    seed: int
    roads: list[Road]


class Process(NamedTuple):
    """What a process took, in seconds, and what its later calls took and reached."""

    wall: float
    cpu: float
    warm_wall: float
    warm_cpu: float
    log_likelihood: float


def data_of(road: Road, seed: int) -> np.ndarray:
    """Clusters that touch, of different spread, `[n, d]`."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(road.k, road.d))
    label = rng.integers(0, road.k, road.n)
    return centres[label] + rng.uniform(0.5, 1.5, (road.k, 1))[label] * rng.normal(size=(road.n, road.d))


def process(path: Path, road: Road, kind: str, repeats: int, **environment: str) -> Process:
    """A fresh process that goes the road once, and then `repeats` times."""
    clean = {name: value for name, value in os.environ.items() if name not in UNSET}
    command = [sys.executable, "-c", PROGRAM, str(path), road.road, str(road.k), str(repeats), kind]
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**clean, **environment})
    wall, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise ValueError(f"a process of road {road.road} failed: {done.stderr.strip().splitlines()[-1]}")
    walls, cpus, found = json.loads(done.stdout.splitlines()[-1])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    warm_wall, warm_cpu = (statistics.median(times) if times else math.nan for times in (walls, cpus))
    return Process(wall - sum(walls), cpu - sum(cpus), warm_wall, warm_cpu, statistics.median(found))


def measure(road: Road, seed: int) -> tuple[Any, ...]:
    """The row of one road."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, data_of(road, seed))
        cold, warm = (
            process(path, road, "jaxem", repeats, JAXEM_CACHE=str(Path(folder) / "programs"))
            for repeats in (0, road.repeats)
        )
        peers = {
            "1": process(path, road, "peer", road.repeats, **dict.fromkeys(BLAS, "1")),
            "all": process(path, road, "peer", road.repeats, **dict.fromkeys(BLAS, str(os.cpu_count()))),
        }
    threads, peer = min(peers.items(), key=lambda item: item[1].warm_wall)
    ours = (cold.wall, cold.cpu, warm.wall, warm.cpu, warm.warm_wall, warm.warm_cpu, warm.log_likelihood)
    theirs = (peer.wall, peer.cpu, peer.warm_wall, peer.warm_cpu, peer.log_likelihood)
    return (road.road, road.n, road.d, road.k, *ours, threads, *theirs)


def blas() -> str:
    """The BLAS kernel that scikit-learn gets."""
    code = "import numpy, json; from threadpoolctl import threadpool_info; import numpy.linalg\n"
    code += "print(json.dumps([f\"{one.get('internal_api')} {one.get('architecture')}\" for one in threadpool_info()]))"
    clean = {name: value for name, value in os.environ.items() if name not in UNSET}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)
    return ", ".join(json.loads(done.stdout)) if done.returncode == 0 else "unknown"


def draw(rows: list[tuple[Any, ...]], path: Path) -> None:
    """Wall seconds of each road: cold, kept, warm, and scikit-learn's process and warm call."""
    figure, axes = plt.subplots(figsize=(7.2, 1.4 + 0.5 * len(rows)))
    place = np.arange(len(rows))[::-1]
    marks = [
        ("o", COLOURS[0], 4, "jaxem, cold"),
        ("s", COLOURS[0], 6, "jaxem, kept"),
        ("D", COLOURS[0], 8, "jaxem, warm"),
    ]
    marks += [("s", COLOURS[5], 12, "scikit-learn, process"), ("D", COLOURS[5], 14, "scikit-learn, warm")]
    for marker, colour, column, label in marks:
        fill = "none" if label.startswith("jaxem") else "full"
        axes.plot([row[column] for row in rows], place, marker, color=colour, label=label, fillstyle=fill)
    axes.set_yticks(place, [f"{row[0]}, {row[1]:,} x {row[2]}, K = {row[3]}" for row in rows])
    axes.set_xscale("log")
    axes.set_xlabel("wall seconds")
    figure.legend(loc="outside lower center", ncols=2)
    save_figure(figure, path)


def experiment(config: RoadsConfig, out: Path) -> Iterator[str]:
    """How long it takes from a call to its answer, cold, with kept programs and warm, beside scikit-learn."""
    if not config.roads:
        raise ConfigError("roads is empty; name at least one")
    import sklearn

    yield f"measured on {hardware()}; scikit-learn {sklearn.__version__}, BLAS {blas()}"
    head = f"{'road':9} {'data':22} {'cold':>13} {'kept':>13} {'warm':>13} {'scikit-learn':>22}   log-likelihoods"
    yield head + "\n" + " " * 33 + "wall CPU s    wall CPU s    wall CPU s    process; warm wall CPU s"
    rows = []
    for road in config.roads:
        row = measure(road, config.seed)
        rows.append(row)
        write_csv(out / "roads.csv", HEADER, rows)
        size = f"{road.n:,} x {road.d}, K = {road.k}"
        ours = " ".join(f"{row[i]:6.2f} {row[i + 1]:6.2f}" for i in (4, 6, 8))
        theirs = f"{row[12]:6.2f}; {row[14]:6.2f} {row[15]:6.2f} ({row[11]})"
        yield f"{road.road:9} {size:22} {ours} {theirs}   {row[10]:.1f} {row[16]:.1f}"
    draw(rows, out / "roads.png")
    slower = sum(row[8] > 1.05 * row[14] for row in rows)
    higher = sum(row[10] > row[16] + 0.01 for row in rows)
    yield f"warm, jaxem is slower than scikit-learn in {slower} of {len(rows)} roads, and ends higher in {higher}"


if __name__ == "__main__":
    run(RoadsConfig, experiment)
