"""Ctrl-C is heard while a long call runs, and pieces change no number."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jaxem
from jaxem import lanes, loop
from tests.cases import blobs

START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it, and so would this
import jax, jaxem, numpy as np, sys, warnings
from jaxem import lanes, loop
from jaxem.program import Program
from jaxem.sklearn import GaussianMixture
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
x = rng.normal(size=(60_000, 6))
key, never = jax.random.key(0), jaxem.GainBelow(-np.inf)
starts = jaxem.starts(key, jaxem.Full(), x, 6, 16, jaxem.RandomParameters())
call = Program.__call__

def told(program, *args):
    result = call(program, *args)
    if program in (loop._fit, loop._settle, lanes.open_and_run, lanes.run, lanes._settle):
        print("piece", flush=True)
    return result

Program.__call__ = told
"""
LONG = {
    "fit": "jaxem.fit(starts[0], x, stop=never, max_iter=10**6)",
    "fit_restarts": "jaxem.fit_restarts(starts, x, stop=never, max_iter=10**5)",
    "search": "jaxem.search(key, jaxem.Full(), x, 6, stop=never, max_iter=10**6, budget=500)",
    "drop-in": "GaussianMixture(6, tol=0, max_iter=10**6, init_params='random_from_data', random_state=0).fit(x)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT of this kind")
@pytest.mark.parametrize("call", LONG)
def test_an_interrupt_is_heard_within_seconds(call):
    """Each of these calls takes minutes. The signal comes in its third piece, when nothing is left to be compiled."""
    command = [sys.executable, "-c", START + LONG[call]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert [child.stdout.readline() for _ in range(3)] == ["piece\n"] * 3
            sent = time.perf_counter()
            os.kill(child.pid, signal.SIGINT)
            error = child.communicate(timeout=60)[1]
        finally:
            child.kill()
    assert "KeyboardInterrupt" in error
    assert time.perf_counter() - sent < 5  # a piece takes a quarter of a second; the process has to end as well


def test_pieces_make_the_climb_of_one_program(monkeypatch):
    """fit and fit_restarts, in pieces of one turn, against one program under jit: the same turns and the same numbers."""
    x = blobs(60)
    starts = jaxem.starts(jax.random.key(0), jaxem.Diagonal(), x, 2, 5)
    options = {"stop": jaxem.GainBelow(1e-4), "max_iter": 40}
    whole = jax.jit(lambda starts: jaxem.fit_restarts(starts, x, **options))(starts)
    one = jax.jit(lambda start: jaxem.fit(start, x, **options))(starts[0])
    monkeypatch.setattr("jaxem.program.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("jaxem.program.PIECE_SECONDS", 0.0)
    pieces, alone = jaxem.fit_restarts(starts, x, **options), jaxem.fit(starts[0], x, **options)
    np.testing.assert_array_equal(pieces.n_iter, whole.n_iter)
    assert int(alone.n_iter) == int(one.n_iter) > 1
    tol = 1e-12 if x.dtype == np.float64 and jax.config.values["jax_enable_x64"] else 1e-5
    for found, right in ((pieces, whole), (alone, one)):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
            np.testing.assert_allclose(a, b, rtol=tol, atol=1e3 * tol)


def test_short_climbs_are_one_piece(monkeypatch):
    """Of small data one call of one program is enough, so nothing is compiled for a second."""
    calls = []

    plain = type(loop._fit).__call__

    def counted(self, *args):
        calls.append(self)
        return plain(self, *args)

    monkeypatch.setattr(type(loop._fit), "__call__", counted)
    x = blobs(200)
    starts = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 20)
    calls.clear()
    jaxem.fit(starts[0], x)
    assert calls == [loop._fit]
    calls.clear()
    jaxem.fit_restarts(starts, x)
    assert calls == [lanes.open_and_run]


def test_starts_drawn_in_pieces_are_the_same(monkeypatch):
    x = blobs(60)
    whole = jaxem.starts(jax.random.key(1), jaxem.Full(), x, 2, 7)
    monkeypatch.setattr("jaxem.queue.SECONDS_A_START", 1.5 / 2 / 256)  # two at a time
    for a, b in zip(
        jax.tree.leaves(whole), jax.tree.leaves(jaxem.starts(jax.random.key(1), jaxem.Full(), x, 2, 7)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
