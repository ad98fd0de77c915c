"""Where climbs start: the lecture's two initialisers to the letter, k-means against its own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans as PeerKMeans

import jaxem
from jaxem.init import kmeans, kmeans_plus_plus, random_rows
from jaxem.rounds import ARMS
from tests.cases import GAUSSIANS, KINDS, Case, blobs
from tests.conftest import DTYPE, ROUNDING

KEY = jax.random.key(3)
INITIALIZERS = (
    jaxem.KMeansPlusPlus(),
    jaxem.KMeans(),
    jaxem.RandomParameters(),
    jaxem.RandomPoints(),
    jaxem.recipes.Recipe(cells=1.0),
)


def three_blobs(n=150):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 9.0]])
    return centres[np.arange(n) % 3] + rng.normal(size=(n, 2)), centres


def assert_pooled(family, covariances, x, k):
    """Every component has the lecture's variance, that of all the data, or its analogue."""
    expected = KINDS[family].form.reduced(np.stack([np.cov(x.T, bias=True)] * k), np.full(k, 1 / k))
    np.testing.assert_allclose(covariances, expected, rtol=20 * ROUNDING, atol=20 * ROUNDING)


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_kmeans_start_is_the_lectures(family):
    """Centres of k-means, the variance of all the data for every cluster, proportions as weights."""
    x, _ = three_blobs()
    start = jaxem.starts(KEY, family, x, 3, 1, jaxem.KMeans())[0]
    means, covariances = (np.asarray(leaf, float) for leaf in start.components)
    labels = cdist(x, means).argmin(axis=1)
    for j in range(3):
        np.testing.assert_allclose(means[j], x[labels == j].mean(axis=0), rtol=20 * ROUNDING, atol=20 * ROUNDING)
        np.testing.assert_allclose(start.weights[j], np.mean(labels == j), rtol=10 * ROUNDING)
    assert_pooled(family, covariances, x, 3)


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_random_start_is_the_lectures(family):
    """Means at different rows, the pooled covariance, weights that vary from start to start."""
    x, _ = three_blobs()
    starts = jaxem.starts(KEY, family, x, 4, 30, jaxem.RandomParameters())
    means = np.asarray(starts.components.means, float)
    distance = np.abs(means[:, :, None] - x[None, None]).max(axis=-1)  # [r, k, n]
    assert distance.min(axis=-1).max() < 10 * ROUNDING
    rows = distance.argmin(axis=-1)
    assert all(len(set(row)) == 4 for row in rows.tolist())
    assert_pooled(family, starts.components.covariances[5], x, 4)
    np.testing.assert_allclose(jnp.sum(starts.weights, axis=1), 1.0, rtol=10 * ROUNDING)
    # Dirichlet(1, 1, 1, 1) has mean 1/4 and variance 3/80
    weights = np.asarray(starts.weights, float)
    assert np.all(np.abs(weights.mean(axis=0) - 0.25) < 5 * np.sqrt(3 / 80 / 30))
    assert weights.std() > 0.1


def test_a_constant_feature_counts_in_the_variance_of_all():
    """The lecture's variance, sum |x - mean|^2 / (n d), by numpy, of data with columns that do not vary."""
    x = np.column_stack([three_blobs()[0], np.full((150, 3), 7.0)])
    for family, expected in (
        (jaxem.Spherical(), np.var(x, axis=0).mean()),
        (jaxem.Diagonal(), [*np.var(x[:, :2], axis=0), 1, 1, 1]),
    ):
        start = jaxem.starts(KEY, family, x, 2, 1, jaxem.RandomParameters())
        np.testing.assert_allclose(start.components.covariances[0, 0], expected, rtol=20 * ROUNDING)


def test_kmeans_is_a_fixed_point_and_as_good_as_a_peer():
    x, _ = three_blobs()
    w = np.random.default_rng(1).uniform(0.2, 2, len(x))
    centres, counts = kmeans(KEY, jnp.asarray(x), 3, jnp.asarray(w, jnp.asarray(x).dtype))
    labels = cdist(x, np.asarray(centres, float)).argmin(axis=1)
    for j in range(3):
        expected = np.average(x[labels == j], axis=0, weights=w[labels == j])
        np.testing.assert_allclose(centres[j], expected, rtol=20 * ROUNDING, atol=20 * ROUNDING)
        np.testing.assert_allclose(counts[j], w[labels == j].sum(), rtol=10 * ROUNDING)
    inertia = np.sum(w * cdist(x, np.asarray(centres, float)).min(axis=1) ** 2)
    peer = PeerKMeans(3, n_init=5, random_state=0, tol=0).fit(x, sample_weight=w)
    np.testing.assert_allclose(inertia, peer.inertia_, rtol=20 * ROUNDING)


def greedy(x, rng):
    """Greedy k-means++ of three rows by plain numpy."""
    centres = [x[rng.integers(len(x))]]
    nearest = ((x - centres[0]) ** 2).sum(axis=1)
    for _ in range(2):
        candidates = x[rng.choice(len(x), 3, p=nearest / nearest.sum())]
        reached = np.minimum(nearest, ((x[None] - candidates[:, None]) ** 2).sum(axis=2))
        best = reached.sum(axis=1).argmin()
        centres.append(candidates[best])
        nearest = reached[best]
    return np.array(centres)


def test_kmeans_plus_plus_takes_rows_far_apart():
    """Rows of the data, and one in each of three clusters as often as plain numpy's."""
    x, centres = three_blobs()
    n, rows, rng = 2000, jnp.asarray(x), np.random.default_rng(0)
    draw = jax.jit(jax.vmap(lambda key: rows[kmeans_plus_plus(key, rows, 3, jnp.ones(len(x), rows.dtype))]))
    found = np.asarray(draw(jax.random.split(KEY, n)), float)
    distance = np.abs(found[:20, :, None] - x[None]).max(axis=-1)
    assert distance.min(axis=-1).max() < 10 * ROUNDING
    theirs = [greedy(x, rng) for _ in range(n)]
    ours, expected = (
        np.mean([len(set(cdist(one, centres).argmin(axis=1).tolist())) == 3 for one in some])
        for some in (found, theirs)
    )
    assert abs(ours - expected) <= 5 * np.sqrt(2 * expected * (1 - expected) / n)


def test_rows_are_drawn_in_proportion_to_their_weight():
    x = jnp.arange(4.0)[:, None]
    w = jnp.asarray([1.0, 0.0, 3.0, 4.0])
    draws = jax.vmap(lambda key: x[random_rows(key, x, w, 1)][0, 0])(jax.random.split(KEY, 4000))
    for value, share in enumerate([1 / 8, 0, 3 / 8, 4 / 8]):
        error = np.sqrt(share * (1 - share) / 4000)
        assert abs(float(jnp.mean(draws == value)) - share) <= 5 * error


def test_rows_of_weight_zero_are_never_drawn():
    """Not even where rounding makes the cumulative sum of the weights rise at them: float32, half of 5,000 rows absent."""
    rng = np.random.default_rng(0)
    x = jnp.arange(5000, dtype=jnp.float32)[:, None]
    w = jnp.asarray(rng.uniform(size=5000) * (rng.uniform(size=5000) < 0.5), jnp.float32)
    draws = jax.jit(jax.vmap(lambda key: x[random_rows(key, x, w, 50)][:, 0]))(jax.random.split(KEY, 400))
    assert bool(jnp.all(w[draws.astype(int)] > 0))
    assert all(len(set(row)) == 50 for row in np.asarray(draws).tolist())


def test_from_responsibilities_is_one_m_step():
    case = Case(jaxem.Full(), 3, 2)
    x = case.data(40)
    resp = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    starts = jaxem.starts(KEY, case.family, x, 3, 2, jaxem.FromResponsibilities(jnp.asarray(resp)))
    counts = resp.sum(axis=0)
    means = (resp.T @ x) / counts[:, None]
    np.testing.assert_allclose(starts.weights[1], counts / 40, rtol=20 * ROUNDING)
    np.testing.assert_allclose(starts.components.means[1], means, rtol=20 * ROUNDING, atol=10 * ROUNDING)
    diff = x - means[2]
    expected = (resp[:, 2, None] * diff).T @ diff / counts[2]
    np.testing.assert_allclose(starts.components.covariances[1, 2], expected, rtol=50 * ROUNDING, atol=50 * ROUNDING)


def test_from_mixture_is_that_mixture():
    case = Case(jaxem.Diagonal(), 2, 2)
    mixture, x = case.mixture(), case.data(30) + 1e3
    starts = jaxem.starts(KEY, case.family, x, 2, 3, jaxem.FromMixture(mixture))
    for a, b in zip(jax.tree.leaves(starts), jax.tree.leaves(mixture), strict=True):
        np.testing.assert_array_equal(a[2], b)


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=lambda initializer: type(initializer).__name__)
@pytest.mark.parametrize(
    "family",
    [jaxem.Full(), pytest.param(jaxem.Bernoulli(), marks=pytest.mark.slow)],
    ids=lambda family: type(family).__name__,
)
def test_every_start_is_a_mixture(initializer, family):
    """Parameters and likelihood are finite, also with constant features, repeated rows and one row per component."""
    rng = np.random.default_rng(0)
    for x in (
        np.repeat((rng.uniform(size=(2, 3)) < 0.5).astype(float), 5, axis=0),
        np.column_stack([np.ones(10), rng.uniform(size=10) < 0.5, rng.uniform(size=10) < 0.3]).astype(float),
    ):
        starts = jax.jit(lambda key, x=x: jaxem.starts(key, family, x, 4, 6, initializer))(KEY)
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(starts))
        values = jax.vmap(lambda start, x=x: jaxem.e_step(start, x).log_likelihood)(starts)
        assert bool(jnp.all(jnp.isfinite(values)))


@pytest.mark.any_dtype
def test_recipes_may_differ_from_start_to_start():
    """Leaves `[r]` give each start its own recipe, with the numbers that it has alone."""
    rows = jnp.asarray(three_blobs()[0], DTYPE)
    recipes = [ARMS[name] for name in ("k-means++", "cells", "narrow random")]
    together = jax.tree.map(lambda *leaves: jnp.asarray(leaves), *recipes)

    @jax.jit
    def start(recipe, i):
        return recipe(jax.random.fold_in(KEY, i), jaxem.Full(), rows, 3, jnp.ones_like(rows[:, 0]))

    mixed = jax.jit(lambda: jax.lax.map(lambda at: start(*at), (together, jnp.arange(3))))()
    for i, recipe in enumerate(recipes):
        for leaf, of_all in zip(jax.tree.leaves(start(recipe, i)), jax.tree.leaves(mixed), strict=True):
            np.testing.assert_allclose(of_all[i], leaf, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.any_dtype
def test_a_move_leaves_a_local_optimum():
    """Two components share one of three far clusters, the third has the other two: EM stays there, some moves do not."""
    x, _ = three_blobs()
    labels = np.arange(len(x)) % 3
    resp = np.zeros((len(x), 3))
    resp[labels > 0, 0] = 1.0
    left = x[:, 0] < np.median(x[labels == 0, 0])
    resp[(labels == 0) & left, 1] = resp[(labels == 0) & ~left, 2] = 1.0
    given = jaxem.FromResponsibilities(resp)
    stuck = jaxem.fit(jaxem.starts(KEY, jaxem.Spherical(), x, 3, 1, given)[0], x).mixture
    right = jaxem.fit(
        jaxem.starts(KEY, jaxem.Spherical(), x, 3, 1, jaxem.FromResponsibilities(np.eye(3)[labels]))[0], x
    )

    @jax.jit
    def move(i):
        ones = jnp.ones(len(x), stuck.log_weights.dtype)
        return ARMS["move"](jax.random.fold_in(KEY, i), jaxem.Spherical(), jnp.asarray(x, ones.dtype), 3, ones, stuck)

    reached = jaxem.fit_restarts(jax.lax.map(move, jnp.arange(32)), x).objective
    assert float(jaxem.fit(stuck, x).objective) < float(right.objective) - 10.0
    assert float(jnp.max(reached)) == pytest.approx(float(right.objective), rel=1e-6)


def test_random_rows_have_distinct_values():
    """Of 120 equal rows and 8 others no value is drawn twice while there are others."""
    x = jnp.asarray(np.concatenate([np.zeros((120, 1)), np.arange(1.0, 9.0)[:, None]]), DTYPE)
    draw = jax.jit(lambda i: x[random_rows(jax.random.fold_in(KEY, i), x, jnp.ones(128, DTYPE), 9)])
    for i in range(20):
        assert len(np.unique(np.asarray(draw(i)))) == 9


@pytest.mark.filterwarnings("ignore:column .* lies near")
def test_starts_do_not_depend_on_an_offset():
    """Rows and offset are exact in float32, so differences of rows are exact, and a start is the same anywhere."""
    x = blobs(100)
    for initializer in INITIALIZERS:
        near = jaxem.starts(KEY, jaxem.Full(), x, 3, 4, initializer)
        far = jaxem.starts(KEY, jaxem.Full(), x + 2.0**16, 3, 4, initializer)
        np.testing.assert_allclose(far.components.covariances, near.components.covariances, rtol=2e-2, atol=2e-2)
