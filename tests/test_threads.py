"""Threads: the work is shared, the answer is that of one thread, and what fails in one thread ends all."""

import functools
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import loop, parts, rounds, threads
from jaxem.rows import as_rows
from tests.cases import SOME_GAUSSIANS, blobs, slow_but_first
from tests.conftest import DTYPE, ROUNDING, X64

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def forget_threads():
    yield
    threads.set_threads(None)


@pytest.fixture
def small_is_large(monkeypatch):
    """Rows are passed over in parts however few there are."""
    monkeypatch.setattr("jaxem.parts.SMALL", 0)


def same(found, right, tol=10 * ROUNDING):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        scale = np.max(np.abs(np.nan_to_num(np.asarray(b, float), posinf=0.0, neginf=0.0)), initial=1.0)
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol * scale)


# -- the crew ------------------------------------------------------------------------------------------------------------


def test_results_come_in_order_from_several_threads():
    threads.set_threads(3)
    who = threading.Barrier(3, timeout=20)  # broken unless three calls run at once

    def call(i):
        who.wait()
        return i

    assert threads.run_all([functools.partial(call, i) for i in range(6)]) == list(range(6))


def test_calls_inside_calls_share_the_threads():
    """However calls are nested, no more run at once than there are threads."""
    threads.set_threads(3)
    running, most, lock = 0, 0, threading.Lock()

    def leaf():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    threads.run_all([lambda: threads.run_all([leaf] * 4)] * 4)
    assert 1 < most <= 3


def test_an_exception_in_a_thread_ends_all():
    threads.set_threads(2)
    begun = []

    def bad():
        raise ZeroDivisionError

    def good():
        begun.append(1)
        time.sleep(0.05)

    with pytest.raises(ZeroDivisionError):
        threads.run_all([bad, *[good] * 50])
    assert len(begun) < 3
    assert threads._helping == 0
    assert threads.run_all([lambda: 1, lambda: 2]) == [1, 2]  # and the next call works


def test_settings_of_the_caller_hold_in_its_threads():
    threads.set_threads(2)
    both = threading.Barrier(2, timeout=20)

    def dtype():
        both.wait()
        return jnp.ones(1).dtype

    for wide in (True, False):
        with jax.enable_x64(wide):
            assert {str(one) for one in threads.run_all([dtype] * 2)} == {"float64" if wide else "float32"}


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "2", 10**6])
def test_a_wrong_number_of_threads(wrong):
    with pytest.raises((ValueError, TypeError), match="n = "):
        jaxem.set_threads(wrong)


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", "²"])
def test_a_wrong_variable(monkeypatch, wrong):
    monkeypatch.setenv("JAXEM_THREADS", wrong)
    with pytest.raises(ValueError, match=r"JAXEM_THREADS = .* give a number from 1 to"):
        threads.n_threads()


def test_how_many_threads_there_are(monkeypatch):
    monkeypatch.delenv("JAXEM_THREADS", raising=False)
    assert threads.n_threads() == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    monkeypatch.setenv("JAXEM_THREADS", "3")
    assert threads.n_threads() == 3
    jaxem.set_threads(2)
    assert threads.n_threads() == 2


def test_worker_processes_have_one_thread():
    """joblib's workers share the cores already."""
    code = "from joblib import Parallel, delayed\nfrom jaxem.threads import n_threads\n"
    code += "print(Parallel(2)(delayed(n_threads)() for _ in range(2)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[1, 1]", done.stderr


# -- the climbs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SOME_GAUSSIANS)
@pytest.mark.parametrize("accelerator", [None, jaxem.hybrid()], ids=["em", "hybrid"])
def test_a_pass_in_parts_makes_the_climb_of_one_program(family, accelerator, monkeypatch):
    """The same number of turns and the same numbers, weights and a prior included; twice the same bits."""
    x = blobs(203)
    w = np.random.default_rng(1).integers(0, 3, 203).astype(DTYPE)
    prior = jaxem.variance_floor(x, 1e-3)
    start = jaxem.starts(KEY, family, x, 3, 1, sample_weight=w)[0]
    options = {
        "max_iter": 12,
        "stop": jaxem.GainBelow(-np.inf),
        "accelerator": accelerator,
        "chunk_size": 32,
        "prior": prior,
    }
    one = jaxem.fit(start, x, w, **options)
    monkeypatch.setattr("jaxem.parts.SMALL", 0)
    looks = []

    def look(*args):
        looks.append(parts.n_parts(args[1], 3))
        return parts.pass_in_parts(*args)

    monkeypatch.setattr(loop, "pass_in_parts", look)
    threads.set_threads(3)
    three = jaxem.fit(start, x, w, **options)
    assert looks == [3] * 13
    assert int(three.n_iter) == int(one.n_iter) == 12
    same(three, one, 1e4 * ROUNDING)
    again = jaxem.fit(start, x, w, **options)
    assert all(
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(three), strict=True)
    )


@pytest.mark.parametrize("r", [1, 7, 20])
def test_lanes_in_parts_make_the_climbs_of_one_program(r, monkeypatch):
    """More climbs than lanes, as many and fewer: each as in one program, and the callback counts the same."""
    x, family = blobs(150), jaxem.Diagonal()
    starts = jaxem.starts(KEY, family, x, 3, r, jaxem.RandomParameters())
    options = {"max_iter": 60, "stop": jaxem.GainBelow(1e-5), "chunk_size": 32}
    threads.set_threads(1)
    one = jaxem.fit_restarts(starts, x, **options)
    threads.set_threads(2)
    monkeypatch.setattr("jaxem.parts.SMALL", 0)
    heard = []
    two = jaxem.fit_restarts(starts, x, callback=heard.append, **options)
    if X64:  # in float32 rounding decides when a climb stops
        np.testing.assert_array_equal(two.n_iter, one.n_iter)
        np.testing.assert_array_equal(two.status, one.status)
        same(two.trace, one.trace)
    same(two.objective, one.objective)
    assert heard[-1].finished == heard[-1].total == r
    assert heard[-1].passes == int(np.sum(two.n_iter))
    assert heard[-1].useful == int(np.sum(two.n_iter)) + r
    assert heard[-1].best == pytest.approx(float(np.max(one.objective)), rel=1e-6)


def test_lanes_without_a_climb_are_left_out(small_is_large):
    """The last climbs of a queue do not pay for empty lanes."""
    x, family = blobs(150), jaxem.Spherical()
    start = jaxem.starts(KEY, family, x, 2, 1)
    starts = jax.tree.map(lambda leaf: jnp.repeat(leaf, 8, axis=0), start)
    best = jaxem.fit(start[0], x, stop=jaxem.GainBelow(1e-9)).mixture
    # seven climbs begin at the end
    starts = jax.tree.map(lambda leaf, end: leaf.at[1:].set(end), starts, best)
    heard = []
    threads.set_threads(2)
    result = jaxem.fit_restarts(starts, x, stop=jaxem.GainBelow(1e-9), chunk_size=16, callback=heard.append)
    assert int(result.n_iter[0]) > 4 * int(result.n_iter[1])
    assert heard[-1].executed < 1.5 * heard[-1].useful + 16


@pytest.mark.parametrize("r", [5, 16, 31])
def test_each_thread_has_a_queue_of_its_own(r, monkeypatch):
    """Restarts of small data: the Results in their order, whatever r is divided by; all counted by the callback."""
    monkeypatch.setattr("jaxem.lanes.SHARED", 0)
    x = blobs(90)
    starts = jaxem.starts(KEY, jaxem.Full(), x, 3, r)
    options = {"max_iter": 50, "stop": jaxem.GainBelow(1e-6)}
    threads.set_threads(1)
    one = jaxem.fit_restarts(starts, x, **options)
    threads.set_threads(3)
    heard = []
    three = jaxem.fit_restarts(starts, x, callback=heard.append, **options)
    if X64:
        np.testing.assert_array_equal(three.n_iter, one.n_iter)
        np.testing.assert_array_equal(three.status, one.status)
        same(three.mixture.components, one.mixture.components, 1e4 * ROUNDING)
    same(three.objective, one.objective)
    assert heard[-1].finished == heard[-1].total == r
    assert heard[-1].passes == int(np.sum(three.n_iter))


def test_a_callback_that_raises_ends_the_threads(monkeypatch):
    monkeypatch.setattr("jaxem.lanes.SHARED", 0)
    monkeypatch.setattr("jaxem.program.FIRST_SECONDS", 0.0)
    threads.set_threads(2)
    x = blobs(90)
    starts = jaxem.starts(KEY, jaxem.Full(), x, 3, 16)

    def stop(seen):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jaxem.fit_restarts(starts, x, stop=jaxem.GainBelow(-np.inf), max_iter=10**5, callback=stop)
    assert threads._helping == 0


def test_nothing_changes_under_a_trace(small_is_large, monkeypatch):
    """jit and vmap see one program, and so does a derivative under jit; that of a plain call has numbers for threads."""
    monkeypatch.setattr(parts, "run_all", None)  # would raise
    x = blobs(100)
    starts = jaxem.starts(KEY, jaxem.Spherical(), x, 2, 3)
    options = {"max_iter": 5, "chunk_size": 16}
    jax.jit(lambda start: jaxem.fit(start, x, **options))(starts[0])
    jax.vmap(lambda start: jaxem.fit(start, x, **options))(starts)
    along = lambda x: jax.jvp(lambda x: jaxem.fit(starts[0], x, **options).objective, (x,), (x,))  # noqa: E731
    jax.jit(along)(jnp.asarray(x))
    jax.jit(lambda starts: jaxem.fit_restarts(starts, x, **options))(starts)


def test_bad_input_is_the_same_error(small_is_large):
    x = blobs(100)
    start = jaxem.starts(KEY, jaxem.Full(), x, 2, 1)[0]
    bad = x.copy()
    bad[3, 0] = np.nan
    for wrong, message in ((bad, "nan"), (x[:, :1], "columns"), (x[:1], "n_components")):
        errors = []
        for n in (1, 2):
            threads.set_threads(n)
            with pytest.raises(ValueError, match=message) as error:
                jaxem.fit(start, wrong)
            errors.append(str(error.value))
        assert errors[0] == errors[1]


@pytest.mark.skipif(not X64, reason="float64 by plain numpy")
def test_blocks_hold_the_rows_whatever_the_sizes():
    """Rows of many shapes, block sizes and weights, in an order and without: what lies in the blocks, by plain numpy."""
    rng = np.random.default_rng(0)
    for n, d, chunk in (
        (1, 1, 1),
        (33, 3, 7),
        (257, 2, 12),
        (1000, 1, 1000),
        (70, 900, 5),
        (5000, 8, 512),
        (9000, 40, 4096),
    ):
        x = rng.normal(3.0, 1.0, (n, d))
        w = rng.integers(0, 3, n).astype(float)
        w[n // 2] = 1.0
        for order in (None, rng.permutation(n)):
            rows = as_rows(jaxem.Full(), x, w, 1, chunk_size=chunk, order=order)
            data, weights = (np.asarray(leaf) for leaf in rows.as_matrix())
            place = np.arange(n) if order is None else order
            np.testing.assert_array_equal(weights[:n], w[place])
            assert not weights[n:].any()
            counted = w[place] > 0
            mean = np.average(x, axis=0, weights=w)
            np.testing.assert_allclose(data[:n][counted], (x - mean)[place][counted], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(rows.norms.ravel(), np.sum(data**2, axis=1), rtol=1e-12)
            np.testing.assert_allclose(rows.frame.variance, np.average((x - mean) ** 2, axis=0, weights=w), rtol=1e-10)
            assert np.isfinite(data).all()


# -- samples -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_are_many(monkeypatch):
    """Data of more than 1,000 rows are searched on samples."""
    monkeypatch.setattr("jaxem.racing.LARGE", 1000)
    monkeypatch.setattr("jaxem.racing.SAMPLE", 500)
    monkeypatch.setattr("jaxem.racing.MOST_ROWS", 250)


def with_rare(n, share, rng, d=2):
    """Three broad clusters and a rare one, well apart, sorted by cluster."""
    rare = max(1, round(share * n))
    x = rng.normal(size=(n, d)).astype(DTYPE)
    x[: n // 3] += 12.0
    x[n // 3 : n // 2] -= 12.0
    x[-rare:] = 0.5 * x[-rare:] + np.array([25.0, -25.0], DTYPE)
    return x, rare


@pytest.mark.parametrize("seed", slow_but_first(range(3), 2))
def test_a_search_on_samples_finds_what_a_search_on_all_rows_finds(few_are_many, seed, monkeypatch):
    """Sorted rows, one cluster of 2 per cent, counted weights; the likelihood is that of all rows."""
    x, rare = with_rare(4000, 0.02, np.random.default_rng(seed))
    w = np.random.default_rng(9).integers(0, 3, len(x)).astype(DTYPE)
    heard = []
    found = jaxem.search(jax.random.key(seed), "full", x, 4, w, chunk_size=128, budget=1000, callback=heard.append)
    assert {seen.budget for seen in heard} == {1000}
    assert [seen.passes for seen in heard] == sorted(seen.passes for seen in heard)
    assert heard[-1].passes == found.passes
    log_likelihood = jaxem.e_step(found.best.mixture, x, w).log_likelihood
    np.testing.assert_allclose(found.best.log_likelihood, log_likelihood, rtol=10 * ROUNDING)
    assert len(found.arms) <= 2
    monkeypatch.setattr("jaxem.racing.LARGE", 10**9)
    whole = jaxem.search(jax.random.key(seed), "full", x, 4, w)
    assert abs(float(whole.best.log_likelihood - log_likelihood)) < (1e-3 if X64 else 0.5)
    assert np.min(np.abs(found.best.mixture.weights - np.sum(w[-rare:]) / np.sum(w))) < 1e-3
    assert found.passes < 0.75 * whole.passes


def test_a_prior_weighs_the_same_on_a_sample(few_are_many, monkeypatch):
    """Strong priors: the optimum under a prior is that of all rows, and a sample's Stats weigh as much."""
    x, _ = with_rare(4000, 0.05, np.random.default_rng(3))
    prior = jaxem.Dirichlet(200.0) + jaxem.variance_floor(x, 0.5)
    found = jaxem.search(KEY, "diag", x, 4, prior=prior, chunk_size=128)
    monkeypatch.setattr("jaxem.racing.LARGE", 10**9)
    whole = jaxem.search(KEY, "diag", x, 4, prior=prior)
    assert abs(float(found.best.objective - whole.best.objective)) < (1e-3 if X64 else 0.5)
    rows = as_rows(jaxem.Diagonal(), x, None, 4, chunk_size=100, order=np.random.default_rng(0).permutation(4000))
    for whole_weight, expected in ((True, 4000.0), (False, 500.0)):
        sample = parts.Sample.of(rows, 500, whole=whole_weight)
        assert sample.n_blocks == 5
        assert float(sample.frame.total_weight) == pytest.approx(expected, rel=1e-5)
        stats = parts.pass_in_parts(found.best.mixture.to_frame(rows.frame), sample)
        assert float(jnp.sum(stats.counts)) == pytest.approx(expected, rel=1e-5)
        assert int(sample.frame.n) == 500


def test_rows_of_weight_zero_are_no_part_of_a_sample():
    """Where nine rows in ten are absent the sample is ten times as long."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 2)).astype(DTYPE)
    w = (rng.uniform(size=10_000) < 0.1).astype(DTYPE)
    rows = as_rows(jaxem.Full(), x, w, 2, chunk_size=100)
    sample = parts.Sample.of(rows, 200, whole=False)
    assert 200 <= int(sample.frame.n) <= 230
    assert sample.share == pytest.approx(sample.n_blocks / rows.blocks.shape[0])
    assert sample.copy().weights.shape[0] == sample.n_blocks


def test_a_sample_without_an_optimum_is_left(few_are_many, monkeypatch):
    """If every climb on the sample fails, the search is made on all rows."""
    found = []
    plain = rounds.run_rounds

    def spoilt(key, race, passes):
        found.append(race.share)
        one = plain(key, race, passes)
        if race.share == 1.0:
            return one
        status = np.full_like(one.results.status, int(jaxem.Status.DEGENERATE))
        return one._replace(results=one.results._replace(status=status))

    monkeypatch.setattr("jaxem.racing.run_rounds", spoilt)
    x, _ = with_rare(4000, 0.05, np.random.default_rng(4))
    best = jaxem.search(KEY, "diag", x, 4, chunk_size=128).best
    assert len(found) == 2
    assert found[0] < found[1] == 1.0
    assert int(best.status) == jaxem.Status.CONVERGED


def test_large_rows_in_other_hands_are_searched_as_they_are(few_are_many):
    """Ready Rows have an order that nobody knows: the rounds are made on all of them."""
    x, _ = with_rare(3000, 0.05, np.random.default_rng(5))
    rows = as_rows(jaxem.Diagonal(), x, None, 3)
    found = jaxem.search(KEY, "diag", rows, 3, budget=100)
    assert len(found.arms) > 2 or found.passes <= 150
    np.testing.assert_allclose(
        found.best.log_likelihood, jaxem.e_step(found.best.mixture, x).log_likelihood, rtol=10 * ROUNDING
    )


def test_arrays_of_jax_are_sampled_in_a_random_order_too(few_are_many):
    """Sorted rows and weights, both JAX's: every cluster is in the sample."""
    x, _ = with_rare(4000, 0.05, np.random.default_rng(6))
    w = np.where(np.arange(4000) % 2, 1.0, 2.0).astype(DTYPE)
    given = jaxem.search(KEY, "diag", jnp.asarray(x), 4, jnp.asarray(w), chunk_size=128)
    host = jaxem.search(KEY, "diag", x, 4, w, chunk_size=128)
    np.testing.assert_allclose(given.best.log_likelihood, host.best.log_likelihood, rtol=ROUNDING)
    assert given.passes == host.passes


def test_contenders_are_called_back(monkeypatch):
    """The two that lead collapse on the rows of the race; the third, which was no leader, is climbed then."""
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.normal(size=(200, 1)), np.full((9, 1), 0.25), np.full((9, 1), -0.5)]).astype(DTYPE)
    rows = as_rows(jaxem.Full(), x, None, 2)
    prior, stop = None, jaxem.GainBelow(1e-9)
    settings = jaxem.lanes.Settings(2, 500, None)
    race = rounds.Race(jaxem.Full(), 2, 2, ("random",), 100, rows, rows, prior, stop, settings, None)
    spread = np.var(x)

    def start(mean, variance):
        params = jaxem.GaussianParams(
            jnp.asarray([[mean], [0.0]], x.dtype), jnp.asarray([[[variance]], [[spread]]], x.dtype)
        )
        return jaxem.Mixture(jnp.log(jnp.asarray([0.1, 0.9], x.dtype)), params, jaxem.Full()).to_frame(rows.frame)

    mixtures = jax.tree.map(lambda *leaves: np.stack(leaves), start(0.25, 1e-9), start(-0.5, 1e-9), start(2.0, 1.0))
    names = ["first", "second", "third"]
    field = rounds.Field.start(mixtures, race, 0.0).climb(np.arange(2), 8)
    assert not field.scores.sound[:2].any()
    found = field.found(np.arange(2), names, moves=False)
    assert found.arms[0] == "third"
    assert np.isfinite(found.best)
    assert found.passes == np.sum(found.results.n_iter + 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_rare_cluster_of_large_data_is_found(seed):
    """0.2 per cent of 200,000 rows, well apart, in eight columns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200_000, 8)).astype(np.float32)
    x[:80_000] += 4.0
    x[-400:] = 0.5 * x[-400:] - 10.0
    found = jaxem.search(jax.random.key(seed), "full", x, 3)
    assert np.min(np.abs(np.asarray(found.best.mixture.weights) - 0.002)) < 1e-4
