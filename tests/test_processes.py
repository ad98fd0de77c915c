"""Processes: rows that lie with several processes give the numbers of one, and no process waits for one that is gone."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.any_dtype
N = 70_001

PROGRAM = """
import json, os, signal, sys, threading
rank, count, port, what, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", count, rank)
import jaxem
x = np.load(os.path.join(folder, "x.npy"))
w = np.load(os.path.join(folder, "w.npy"))
cuts = np.linspace(0, len(x), count + 1).astype(int)
if what == "empty":  # the last process has no rows
    cuts[-2] = len(x)
mine = slice(cuts[rank], cuts[rank + 1])
if what == "nan" and rank == count - 1:
    x[mine.start + 5, 1] = np.nan
data = jaxem.from_processes(x[mine], w[mine])
if what == "files":
    data = jaxem.from_processes(jaxem.Files(os.path.join(folder, "parts"), ["a", "b"], "w"))
if what == "die" and rank == 1:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
start = jaxem.starts(jax.random.key(0), "full", data, 3, 1)[0]
stats = jaxem.e_step(start, data)
turns = 10**6 if what == "die" else 8
checkpoint = os.path.join(folder, f"run{count}") if what == "checkpoint" else None
fit = jaxem.fit(start, data, max_iter=turns, stop=jaxem.GainBelow(-np.inf), checkpoint=checkpoint)
found = [stats.log_likelihood, *jax.tree.leaves(start), *jax.tree.leaves(fit.mixture), fit.log_likelihood]
if what == "search":
    search = jaxem.search(jax.random.key(1), "full", data, 3, budget=40)
    found += [search.best.log_likelihood, np.asarray(search.passes)]
print(json.dumps([np.asarray(leaf).tolist() for leaf in found]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    x = np.array([[0.0, 0], [6, 0], [0, 6]])[rng.integers(0, 3, N)] + rng.normal(size=(N, 2))
    w = rng.integers(1, 3, N).astype(float)
    np.save(place / "x.npy", x)
    np.save(place / "w.npy", w)
    (place / "parts").mkdir()
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "w": w}), place / "parts" / "0.parquet", row_group_size=9_000)
    return place


def run(count, what, folder, timeout=100):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAXEM_THREADS": "1"}
    made = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(count), str(port), what, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(count)
    ]
    try:
        return [(*process.communicate(timeout=timeout), process.returncode) for process in made]
    finally:
        for process in made:
            process.kill()


def numbers(found):
    out, error, code = found
    assert code == 0, error[-2000:]
    return [np.asarray(leaf) for leaf in json.loads(out.splitlines()[-1])]


@pytest.fixture(scope="module")
def alone(folder):
    [found] = run(1, "search", folder)
    return numbers(found)


@pytest.mark.parametrize(("count", "what"), [(2, "search"), (3, "files"), (2, "empty")])
def test_several_processes_are_one(count, what, folder, alone):
    """One pass, a start, a fit and a search; the processes agree to the last bit."""
    every = [numbers(one) for one in run(count, what, folder)]
    for one in every[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(one, every[0], strict=True))
    for one, expected in zip(every[0], alone, strict=False):
        np.testing.assert_allclose(one, expected, rtol=1e-10, atol=1e-10)


def test_what_is_wrong_in_one_process_is_raised_in_all(folder):
    first, second = run(2, "nan", folder)
    assert first[2] != 0
    assert second[2] != 0
    assert "ValueError: process 1 failed: process 1, row 5 of x: column 1 holds nan" in first[1]
    assert "row 5 of x: column 1 holds nan" in second[1]


def test_a_process_whose_peer_died_ends_with_a_line(folder):
    first, second = run(2, "die", folder, timeout=60)
    assert second[2] == -9
    assert first[2] == 1
    assert first[1].strip().splitlines()[-1].startswith("RuntimeError: a process has ended or cannot be reached")


def test_the_first_process_alone_writes_a_checkpoint(folder):
    before = [numbers(one) for one in run(2, "checkpoint", folder)]
    assert (folder / "run2").exists()
    again = [numbers(one) for one in run(2, "checkpoint", folder)]
    for one, other in zip(before, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
