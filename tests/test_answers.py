"""Right answers: what counts as an optimum, what has collapsed, and whether a search finds the best."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Reference

import jaxem
from jaxem import Status, rounds
from jaxem.families.gaussian import GaussianParams
from tests.cases import SOME_GAUSSIANS, blobs, slow_but_first
from tests.conftest import DTYPE, ROUNDING, X64

KEY = jax.random.key(0)


def em_of_groups(x, group, form, turns=500):
    """Log-likelihood of EM in plain numpy from hard groups; variances of one number ("spherical") or one matrix ("tied")."""
    n, d = x.shape
    resp = np.eye(group.max() + 1)[group]
    for _ in range(turns):
        size = resp.sum(0)
        means = resp.T @ x / size[:, None]
        apart = x[:, None] - means  # [n, k, d]
        if form == "spherical":
            variance = (resp * (apart**2).sum(2)).sum(0) / size / d
            log_prob = -0.5 * (apart**2).sum(2) / variance - 0.5 * d * np.log(2 * np.pi * variance)
        else:
            shared = np.einsum("nk,nki,nkj->ij", resp, apart, apart) / n
            squares = np.einsum("nki,ij,nkj->nk", apart, np.linalg.inv(shared), apart)
            log_prob = -0.5 * (squares + d * np.log(2 * np.pi) + np.linalg.slogdet(shared)[1])
        joint = np.log(size / n) + log_prob
        top = joint.max(1, keepdims=True)
        total = float((np.log(np.exp(joint - top).sum(1)) + top[:, 0]).sum())
        resp = np.exp(joint - top)
        resp /= resp.sum(1, keepdims=True)
    return total


# -- what has collapsed --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not X64, reason="optima to 1e-6 nats")
@pytest.mark.parametrize(("rows", "d", "k"), slow_but_first([(8, 12, 3), (3, 20, 2), (5, 7, 3)], 1))
def test_few_rows_in_many_columns_are_sound(rows, d, k):
    """Far groups of fewer rows than columns have spherical variances far from zero."""
    rng = np.random.default_rng(rows)
    group = np.repeat(np.arange(k), rows)
    x = rng.normal(0, 5, (k, d))[group] + rng.normal(0, 1, (rows * k, d))
    found = jaxem.search(KEY, jaxem.Spherical(), x, k)
    assert int(found.best.status) == Status.CONVERGED
    assert float(found.best.log_likelihood) >= em_of_groups(x, group, "spherical") - 1e-6


@pytest.mark.skipif(not X64, reason="optima to 1e-6 nats")
@pytest.mark.parametrize("d", slow_but_first([2, 1, 4], 1))
def test_one_row_is_a_sound_component_of_a_shared_covariance(d):
    """The likelihood of Tied is bounded: a cluster of a single row is an optimum as any other."""
    x = np.concatenate([np.random.default_rng(d).normal(size=(60, d)), np.full((1, d), 40.0)])
    found = jaxem.search(KEY, jaxem.Tied(), x, 2)
    right = em_of_groups(x, np.repeat([0, 1], [60, 1]), "tied")
    assert int(found.best.status) == Status.CONVERGED
    np.testing.assert_allclose(float(found.best.log_likelihood), right, rtol=1e-9)
    np.testing.assert_allclose(np.min(found.best.mixture.weights), 1 / 61, rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), slow_but_first([(8, 12), (20, 50), (3, 4), (2, 2)], 1))
def test_a_prior_that_bounds_the_objective_ends_the_question(n, d):
    """Fewer rows than columns with a floor: the maximum for one component is S + floor I, and is no collapse."""
    x = np.random.default_rng(n).normal(size=(n, d)) * np.linspace(0.5, 3, d)
    x = x.astype(DTYPE)
    prior = jaxem.variance_floor(x, 0.1)
    right = np.cov(x.T, bias=True) + 0.1 * np.eye(d)
    best = jaxem.search(KEY, jaxem.Full(), x, 1, prior=prior).best
    assert not Status(int(best.status)).failed
    np.testing.assert_allclose(best.mixture.components.covariances[0], right, rtol=0, atol=50 * ROUNDING * right.max())
    best = jaxem.search(KEY, jaxem.Diagonal(), x, 1, prior=prior).best
    np.testing.assert_allclose(best.mixture.components.covariances[0], np.diag(right), rtol=50 * ROUNDING)
    assert not Status(int(best.status)).failed


def test_a_prior_that_leaves_a_direction_open_ends_nothing():
    """Columns that depend on each other have no variance in one direction; a penalty by their own covariance has none."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)).astype(DTYPE)
    x = np.column_stack([x, x[:, 0] - 2 * x[:, 1]])
    start = jaxem.starts(KEY, jaxem.Full(), x, 1, 1)[0]
    assert int(jaxem.fit(start, x, prior=jaxem.chen_tan(x)).status) == Status.DEGENERATE
    assert not Status(int(jaxem.fit(start, x, prior=jaxem.variance_floor(x, 0.1)).status)).failed


def test_a_component_without_rows_is_no_optimum():
    """A floor on variances pays for a component that nothing belongs to; with far clusters that is not what a fit is for."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(mean, 1, (16, 24)) for mean in (0.0, 1.5)]).astype(DTYPE)
    prior = jaxem.variance_floor(x, 0.2)
    best = jaxem.search(KEY, jaxem.Full(), x, 2, prior=prior).best
    start = jaxem.starts(KEY, jaxem.Full(), x, 1, 1)[0]
    assert float(jaxem.fit(start, x, prior=prior).objective) > float(best.objective) + 10  # with one component: it pays
    labels = np.asarray(best.mixture.predict(x))
    assert not Status(int(best.status)).failed
    assert len({*labels[:16]}) == len({*labels[16:]}) == 1
    assert labels[0] != labels[16]


@pytest.mark.parametrize("family", SOME_GAUSSIANS, ids=lambda family: type(family).__name__)
def test_a_spike_is_degenerate_however_many_rows_it_has(family):
    x = np.concatenate([np.full((150, 2), 255.0), blobs(200)]).astype(DTYPE)
    resp = np.repeat(np.eye(2), [150, 200], axis=0)
    start = jaxem.starts(KEY, family, x, 2, 1, jaxem.FromResponsibilities(resp))[0]
    status = int(jaxem.fit(start, x, max_iter=200).status)
    assert (status == Status.DEGENERATE) == (not family.shared)


@pytest.mark.skipif(not X64, reason="optima to 1e-3 nats")
@pytest.mark.parametrize("seed", slow_but_first(range(3), 1))
def test_spikes_do_not_hide_a_sound_optimum(seed):
    """Ages of which half are rounded to tens: many climbs end in a spike on one value, others do not."""
    rng = np.random.default_rng(5)
    ages = rng.normal(40, 15, 1000)
    ages = np.where(rng.uniform(size=1000) < 0.45, ages.round(-1), ages)[:, None]
    best = jaxem.search(jax.random.key(seed), jaxem.Full(), ages, 2).best
    climbs = jaxem.fit_restarts(
        jaxem.starts(KEY, jaxem.Full(), ages, 2, 32, jaxem.RandomParameters()), ages, accelerator=jaxem.hybrid()
    )
    sound = [i for i, status in enumerate(climbs.status) if not Status(int(status)).failed]
    assert 0 < len(sound) < 32
    assert not Status(int(best.status)).failed
    # what one start in some hundred reaches is not promised, what two of 32 reach is
    assert float(best.log_likelihood) > np.sort(np.asarray(climbs.log_likelihood)[sound])[-2] - 1e-3


# -- saddles -------------------------------------------------------------------------------------------------------------


def coinciding(x, family, k=2):
    """A mixture of k components that all are the fit of one."""
    pooled = family.init(jnp.asarray(x, DTYPE), k)
    return jaxem.Mixture(jnp.full(k, -np.log(k), DTYPE), pooled, family)


@pytest.mark.parametrize(
    "family",
    slow_but_first([jaxem.Spherical(), jaxem.Bernoulli(), jaxem.Full(), jaxem.Tied()], 2),
    ids=lambda family: type(family).__name__,
)
def test_components_that_coincide_are_a_saddle(family):
    rng = np.random.default_rng(7)
    x = rng.normal(np.repeat([0.0, 6.0], 60)[:, None], 1.0, (120, 2))
    x = ((x > 3) if family == jaxem.Bernoulli() else x).astype(DTYPE)
    result = jaxem.fit(coinciding(x, family), x)
    assert int(result.status) == Status.SADDLE
    assert Status.SADDLE.failed
    report = jaxem.verify(result.mixture, x)
    assert not report.ok
    assert [law.name for law in report.laws if not law.ok] == ["maximum"]
    seen = jaxem.landscape(jax.tree.map(lambda leaf: leaf[None], result))
    assert (seen.saddles, len(seen.counts)) == (1, 0)
    best = jaxem.search(KEY, family, x, 2).best
    assert not Status(int(best.status)).failed
    assert float(best.log_likelihood) > float(result.log_likelihood) + 10.0
    assert jaxem.verify(best.mixture, x).ok


def test_two_of_three_components_that_coincide_are_a_saddle():
    x = blobs(120).astype(DTYPE)
    two = jaxem.search(KEY, jaxem.Full(), x, 2).best.mixture
    three = two[jnp.asarray([0, 1, 1])]
    three = jaxem.Mixture(jax.nn.log_softmax(three.log_weights), three.components, three.family)
    assert int(jaxem.fit(three, x).status) == Status.SADDLE
    assert int(jaxem.fit(two, x).status) != Status.SADDLE


@pytest.mark.skipif(not X64, reason="second derivatives of float64")
def test_a_saddle_of_distinct_components_is_told():
    """Two clusters each for two components that both straddle them: a fixed point by symmetry, which EM leaves if it can."""
    z = np.random.default_rng(0).normal(size=(30, 2)) * [0.5, 1.0] + [4.0, 0.0]
    x = np.concatenate([z * signs for signs in itertools.product([1, -1], repeat=2)])
    means = jnp.asarray([[0.0, 1.0], [0.0, -1.0]])
    start = jaxem.Mixture(jnp.log(jnp.full(2, 0.5)), GaussianParams(means, jnp.full(2, 8.0)), jaxem.Spherical())
    result = jaxem.fit(start, x)
    curvature = next(law for law in jaxem.verify(result.mixture, x).laws if law.name == "maximum")
    # by finite differences of the mean log-likelihood along the direction that parts the clusters
    h = 1e-3

    def moved(t):
        shift = jnp.asarray([[t, 0.0], [-t, 0.0]])
        there = result.mixture.components._replace(means=result.mixture.components.means + shift)
        return float(jaxem.Mixture(result.mixture.log_weights, there, jaxem.Spherical()).log_prob(x).mean())

    bend = (moved(h) + moved(-h) - 2 * moved(0.0)) / h**2
    assert (bend > 0) == (not curvature.ok)
    assert not curvature.ok
    assert jaxem.verify(jaxem.search(KEY, jaxem.Spherical(), x, 2).best.mixture, x).ok


@pytest.mark.skipif(not X64, reason="a spike is one in either, but these values are of float64")
def test_many_equal_values_are_never_called_an_optimum():
    """400 zeros beside a cluster: a spike, from every seed; never two equal components with the likelihood of one."""
    rng = np.random.default_rng(7)
    x = np.concatenate([np.zeros(400), rng.normal(3.0, 0.7, 600)])[:, None]
    for seed in range(2):
        assert int(jaxem.search(jax.random.key(seed), jaxem.Full(), x, 2).best.status) == Status.DEGENERATE


# -- the best optimum ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not X64, reason="optima to 1e-3 nats")
@pytest.mark.parametrize("seed", slow_but_first(range(3), 1))
def test_a_small_tight_cluster_in_a_wide_field_is_found(seed):
    """Few plain starts end there, and slowly; the right value is scikit-learn's from the parameters the rows come from."""
    rng = np.random.default_rng(11)
    x = np.concatenate([rng.normal(0, 1, (2100, 2)), rng.normal([-0.7, 0.9], 0.08, (80, 2))])
    told = {
        "weights_init": [0.96, 0.04],
        "means_init": [[0, 0], [-0.7, 0.9]],
        "precisions_init": [np.eye(2), 150 * np.eye(2)],
    }
    right = Reference(2, tol=1e-12, max_iter=5000, reg_covar=1e-12, **told).fit(x).score(x) * len(x)
    found = jaxem.search(jax.random.key(seed), jaxem.Full(), x, 2)
    assert float(found.best.log_likelihood) > right - 1e-3


@pytest.mark.skipif(not X64, reason="optima to 1e-2 nats")
@pytest.mark.parametrize(
    ("seed", "family", "k"), slow_but_first([(5, jaxem.Full(), 2), (3, jaxem.Spherical(), 2), (4, jaxem.Tied(), 3)], 1)
)
def test_fewer_components_than_clusters(seed, family, k):
    """Six clusters: the best grouping of them, among 200 climbs from far and from random rows, is found from three seeds."""
    rng = np.random.default_rng(seed)
    centres = 4.0 * rng.normal(size=(6, 2))
    x = centres[rng.integers(0, 6, 600)] + rng.normal(size=(600, 2)) * rng.uniform(0.5, 1.5, (600, 1))
    best = -np.inf
    for initializer in (jaxem.KMeansPlusPlus(), jaxem.RandomPoints()):
        climbs = jaxem.fit_restarts(jaxem.starts(KEY, family, x, k, 100, initializer), x, accelerator=jaxem.hybrid())
        best = max(best, float(jaxem.best(climbs).log_likelihood))
    for i in range(3):
        assert float(jaxem.search(jax.random.key(i), family, x, k).best.log_likelihood) > best - 1e-2


def test_a_budget_is_kept_and_one_component_costs_one_start():
    x = blobs(100).astype(DTYPE)
    assert jaxem.search(KEY, jaxem.Diagonal(), x, 1).passes <= 6
    for budget in (1, 30, 400):
        assert jaxem.search(KEY, jaxem.Diagonal(), x, 3, budget=budget).passes < budget + 200
    cheap = jaxem.search(KEY, jaxem.Diagonal(), x, 3, budget=5000)
    assert cheap.passes < 5000  # rounds that find nothing better end a search


def test_every_finalist_came_to_its_end(monkeypatch):
    """A climb that was given up on the way is none of the optima of a landscape, however early that was."""
    monkeypatch.setattr(rounds, "LONG", 1)
    monkeypatch.setattr(rounds, "REACH", 0)
    found = jaxem.search(KEY, jaxem.Full(), jaxem.datasets.faithful().astype(DTYPE), 3)
    status, turns = np.asarray(found.finalists.status), np.asarray(found.finalists.n_iter)
    assert not np.any((status == Status.MAX_ITER) & (turns < jaxem.loop.MAX_ITER))


def test_arms_that_are_not_asked_for_do_not_start():
    x = blobs(100).astype(DTYPE)
    found = jaxem.search(KEY, jaxem.Full(), x, 2, arms=("random", "cells"))
    assert set(found.arms) <= {"random", "cells"}
    assert set(jaxem.search(KEY, jaxem.Full(), x, 2, arms="move").arms) <= {"k-means++", "move"}
