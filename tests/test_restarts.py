"""Many climbs at once: a lane gives what it gives alone, spoils no other, and the best find the known optima."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxem
from jaxem import GainBelow, Status, lanes
from jaxem.rows import as_rows
from tests.cases import (
    GAUSSIANS,
    REFERENCE_FAMILIES,
    Case,
    blobs,
    reference_data,
    reference_fits,
    slow_but_first,
)
from tests.conftest import ROUNDING, X64

KEY = jax.random.key(0)


@pytest.mark.parametrize("family", [*GAUSSIANS[::3], jaxem.Bernoulli()], ids=lambda family: type(family).__name__)
@pytest.mark.any_dtype
def test_a_restart_alone_gives_what_it_gives_in_a_batch(family):
    x = Case(family, 3, 2).data(150)
    starts = jaxem.starts(KEY, family, x, 3, 20)
    together = jaxem.fit_restarts(starts, x, stop=GainBelow(1e-7 if X64 else 1e-4), max_iter=300)
    for i in (0, 7, 19):
        alone = jaxem.fit(starts[i], x, stop=GainBelow(1e-7 if X64 else 1e-4), max_iter=300)
        if X64:
            assert int(alone.n_iter) == int(together.n_iter[i])
            assert int(alone.status) == int(together.status[i])
        for a, b in zip(jax.tree.leaves(alone.mixture), jax.tree.leaves(together.mixture[i]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9 if X64 else 2e-2, rtol=1e-9 if X64 else 2e-2)


@pytest.mark.parametrize(
    "initializer",
    [jaxem.KMeansPlusPlus(), jaxem.KMeans(), jaxem.RandomParameters(), jaxem.RandomPoints()],
    ids=lambda initializer: type(initializer).__name__,
)
@pytest.mark.any_dtype
def test_more_restarts_never_lose_one(initializer):
    x = blobs(50)
    few, many = (jaxem.starts(KEY, jaxem.Diagonal(), x, 3, r, initializer) for r in (5, 70))
    for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b[:5], rtol=10 * ROUNDING, atol=10 * ROUNDING)
    different = {float(value) for value in many.components.means[:, 0, 0]}
    assert len(different) > 5  # k-means ends in few places


def test_a_bad_lane_spoils_no_other():
    x = blobs(90)
    starts = jaxem.starts(KEY, jaxem.Full(), x, 2, 6)
    clean = jaxem.fit_restarts(starts, x)
    means, covariances = starts.components
    # lane 1 is NaN, lane 3 sits on one point, lane 4 has an infinite mean
    means = means.at[1].set(jnp.nan).at[3, 0].set(x[0]).at[4, 0, 0].set(jnp.inf)
    covariances = covariances.at[3, 0].set(1e-6 * jnp.eye(2))
    broken = jaxem.Mixture(starts.log_weights, jaxem.GaussianParams(means, covariances), starts.family)
    results = jaxem.fit_restarts(broken, x)
    assert [int(results.status[i]) for i in (1, 3, 4)] == [Status.NONFINITE, Status.DEGENERATE, Status.NONFINITE]
    for i in (0, 2, 5):
        chex.assert_trees_all_close(results.mixture[i], clean.mixture[i], rtol=100 * ROUNDING, atol=ROUNDING)
        assert results.status[i] == clean.status[i]
    assert int(jaxem.best(results).status) in (Status.CONVERGED, Status.PRECISION_LIMITED)
    seen = jaxem.landscape(results, tol=1e-2)
    assert (seen.degenerate, seen.failed, seen.counts.sum()) == (1, 2, 3)


@pytest.mark.any_dtype
def test_best_skips_collapsed_and_failed_lanes():
    x = blobs(40)
    results = jaxem.fit_restarts(jaxem.starts(KEY, jaxem.Spherical(), x, 2, 4), x, max_iter=5)
    status = jnp.asarray([Status.CONVERGED, Status.DEGENERATE, Status.MAX_ITER, Status.NONFINITE])
    objective = jnp.asarray([1.0, 9.0, 3.0, jnp.nan], results.objective.dtype)
    made = results._replace(status=status, objective=objective)
    assert float(jaxem.best(made).objective) == 3.0
    collapsed = made._replace(status=jnp.full(4, int(Status.DEGENERATE)))
    assert float(jaxem.best(collapsed).objective) == 9.0
    assert int(jaxem.best(collapsed).status) == Status.DEGENERATE


@pytest.mark.any_dtype
def test_landscape_groups_by_objective():
    x = blobs(40)
    results = jaxem.fit_restarts(jaxem.starts(KEY, jaxem.Spherical(), x, 2, 6), x, max_iter=5)
    values = jnp.asarray([1.0, 5.0, 4.9995, 1.0005, 5.0, 3.0], results.objective.dtype)
    made = results._replace(objective=values, log_likelihood=values, status=jnp.full(6, int(Status.CONVERGED)))
    seen = jaxem.landscape(made, tol=1e-3)
    np.testing.assert_array_equal(seen.counts, [3, 1, 2])
    np.testing.assert_array_equal(seen.best_restart, [1, 5, 3])


@pytest.mark.any_dtype
def test_thousands_of_restarts():
    x = blobs(200)
    starts = jaxem.starts(KEY, jaxem.Spherical(), x, 3, 3000)
    results = jaxem.fit_restarts(starts, x, stop=GainBelow(1e-4), max_iter=50)
    assert results.objective.shape == (3000,)
    assert results.trace.shape == (3000, 51)
    alone = jaxem.fit(starts[2999], x, stop=GainBelow(1e-4), max_iter=50)
    np.testing.assert_allclose(alone.objective, results.objective[2999], rtol=10 * ROUNDING)
    assert bool(jnp.all(results.status != Status.RUNNING))


@pytest.mark.any_dtype
def test_a_callback_gets_progress_and_changes_nothing():
    x = blobs(80)
    starts = jaxem.starts(KEY, jaxem.Diagonal(), x, 3, 100)
    heard = []
    options = {"stop": GainBelow(1e-5), "max_iter": 200}
    pieces = jaxem.fit_restarts(starts, x, callback=heard.append, **options)
    whole = jaxem.fit_restarts(starts, x, **options)
    chex.assert_trees_all_close(pieces.objective, whole.objective, rtol=10 * ROUNDING)
    np.testing.assert_array_equal(pieces.status, whole.status)
    assert [seen.finished for seen in heard] == sorted(seen.finished for seen in heard)
    assert heard[-1].finished == heard[-1].total == 100
    assert heard[-1].passes == int(jnp.sum(pieces.n_iter))
    np.testing.assert_allclose(heard[-1].best, jnp.max(pieces.objective), rtol=ROUNDING)


@pytest.mark.any_dtype
def test_idle_lanes_are_rare():
    """1,000 restarts of 1,000 x 2 with K = 5 keep at least 0.85 of the lane-turns useful."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(5, 2))
    x = (centres[rng.integers(0, 5, 1000)] + rng.normal(size=(1000, 2))).astype(np.float32)
    starts = jaxem.starts(KEY, jaxem.Spherical(), x, 5, 1000, jaxem.RandomPoints())
    heard = []
    results = jaxem.fit_restarts(starts, x, stop=GainBelow(1e-4), max_iter=100, callback=heard.append)
    last = heard[-1]
    assert last.useful == int(jnp.sum(results.n_iter)) + 1000  # a first E-step each
    assert last.efficiency == last.useful / last.executed
    assert 0.85 <= last.efficiency <= 1.0


@pytest.mark.parametrize("r", slow_but_first([1, 17, 2, 15, 16, 33], first=2))
@pytest.mark.any_dtype
def test_every_restart_is_climbed_once(r, monkeypatch):
    """Lanes are 4 wide, and r is a multiple of 4 or not: restart i ends where it ends alone."""
    monkeypatch.setattr("jaxem.lanes.WIDTH", 4)
    x = blobs(60)
    starts = jaxem.starts(KEY, jaxem.Diagonal(), x, 2, r, jaxem.RandomPoints())
    options = {"stop": GainBelow(1e-4), "max_iter": 60}
    results = jaxem.fit_restarts(starts, x, **options)
    alone = jax.vmap(lambda start: jaxem.fit(start, x, **options))(starts)
    np.testing.assert_allclose(results.objective, alone.objective, rtol=100 * ROUNDING)
    np.testing.assert_allclose(results.trace, alone.trace, rtol=100 * ROUNDING)
    if X64:
        np.testing.assert_array_equal(results.n_iter, alone.n_iter)
        np.testing.assert_array_equal(results.status, alone.status)


@pytest.mark.any_dtype
def test_ready_rows_with_a_callback_give_what_x_gives():
    x = blobs(90)
    rows = as_rows(jaxem.Full(), x, None, 2)
    heard: list[jaxem.RestartsProgress] = []
    options = {"stop": GainBelow(1e-5), "max_iter": 100}
    one = jaxem.fit_restarts(jaxem.starts(KEY, jaxem.Full(), rows, 2, 20), rows, callback=heard.append, **options)
    two = jaxem.fit_restarts(jaxem.starts(KEY, jaxem.Full(), x, 2, 20), x, **options)
    np.testing.assert_allclose(one.objective, two.objective, rtol=1000 * ROUNDING)
    assert heard[-1].finished == 20


@pytest.mark.any_dtype
def test_pieces_of_one_turn_make_the_same_climb(monkeypatch):
    monkeypatch.setattr("jaxem.program.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("jaxem.program.PIECE_SECONDS", 0.0)
    x = blobs(50)
    starts = jaxem.starts(KEY, jaxem.Spherical(), x, 2, 20, jaxem.RandomPoints())
    options = {"stop": GainBelow(1e-3), "max_iter": 10}
    heard = []
    pieces = jaxem.fit_restarts(starts, x, callback=heard.append, **options)
    whole = jax.jit(lambda starts: jaxem.fit_restarts(starts, x, **options))(starts)  # one program
    assert len(heard) > 5
    np.testing.assert_array_equal(pieces.status, whole.status)
    np.testing.assert_allclose(pieces.trace, whole.trace, rtol=100 * ROUNDING)
    assert [seen.finished for seen in heard] == sorted(seen.finished for seen in heard)


def test_an_accelerator_in_the_queue_begins_anew_with_every_restart(monkeypatch):
    monkeypatch.setattr("jaxem.lanes.WIDTH", 3)
    x = blobs(80, separation=2.5)
    starts = jaxem.starts(KEY, jaxem.Diagonal(), x, 2, 8, jaxem.RandomPoints())
    options = {"stop": GainBelow(1e-5), "max_iter": 200, "accelerator": optax.with_extra_args_support(optax.trace(0.5))}
    results = jaxem.fit_restarts(starts, x, **options)
    alone = jax.vmap(lambda start: jaxem.fit(start, x, **options))(starts)
    np.testing.assert_allclose(results.objective, alone.objective, rtol=1e-6 if X64 else 1e-3)


@pytest.mark.any_dtype
def test_an_interrupted_fit_stops():
    x = blobs(80)
    starts = jaxem.starts(KEY, jaxem.Diagonal(), x, 3, 10)

    def interrupt(lanes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jaxem.fit_restarts(starts, x, callback=interrupt)


@pytest.mark.any_dtype
def test_restarts_compile_once():
    x = blobs(64)
    starts = jaxem.starts(KEY, jaxem.Full(), x, 2, 8)
    jaxem.fit_restarts(starts, x, stop=GainBelow(1e-3))
    before = len(lanes.open_and_run.made)
    assert before > 0
    for seed, tol in enumerate((1e-4, 1e-6)):
        jaxem.fit_restarts(jaxem.starts(jax.random.key(seed), jaxem.Full(), x, 2, 8), x + 1, stop=GainBelow(tol))
    assert len(lanes.open_and_run.made) == before


@pytest.mark.skipif(not X64, reason="1e-6 nats need float64")
@pytest.mark.parametrize(
    "fit", slow_but_first(reference_fits()), ids=lambda fit: f"{fit['data']}-{fit['K']}-{fit['cov']}"
)
def test_reference_fits(fit):
    """The best of 64 restarts from k-means++ is the best known maximum, and no degenerate one."""
    x, family = reference_data(fit["data"]), REFERENCE_FAMILIES[fit["cov"]]
    starts = jaxem.starts(KEY, family, x, fit["K"], 64, jaxem.KMeansPlusPlus())
    results = jaxem.fit_restarts(starts, x, stop=GainBelow(1e-13), max_iter=20_000)
    result = jaxem.best(results)
    assert int(result.status) == Status.CONVERGED
    assert abs(float(result.log_likelihood) - fit["loglik"]) < 1e-6

    # the rule of the file, by numpy
    weights, (means, covariances) = np.asarray(result.mixture.weights), result.mixture.components
    scale = np.sqrt(x.var(axis=0))
    matrices = np.asarray(family.as_matrices(covariances, fit["K"], x.shape[1])) / np.outer(scale, scale)
    assert np.linalg.eigvalsh(matrices).min() >= 1e-4
    assert weights.min() * len(x) >= x.shape[1] + 1

    order, expected = np.argsort(means[:, 0]), np.argsort(np.asarray(fit["means"])[:, 0])
    np.testing.assert_allclose(weights[order], np.asarray(fit["weights"])[expected], atol=1e-4)
    np.testing.assert_allclose(np.asarray(means)[order], np.asarray(fit["means"])[expected], rtol=1e-3)
