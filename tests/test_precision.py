"""Accuracy where digits are easily lost: float32, far from the origin, and with clusters far apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import em
from jaxem.distances import PRODUCT_ERROR
from jaxem.rows import as_rows
from tests import oracle
from tests.cases import GAUSSIANS, KINDS, Case, blobs
from tests.conftest import X64

NAMES = {"ids": lambda family: type(family).__name__}
JUDGED = GAUSSIANS[-1:] if X64 else GAUSSIANS
"""float32 rows are computed in float32 in either mode: all families are tried where JAX has 32 bits, one beside"""


def truth(family, x, k=2):
    """EM in numpy float64 from the true halves, on centred data."""
    x = x - x.mean(axis=0)
    resp = np.zeros((len(x), k))
    resp[np.arange(len(x)), np.minimum(np.arange(len(x)) * k // len(x), k - 1)] = 1.0
    for _ in range(60):
        weights, params = oracle.m_step(KINDS[family].oracle, resp, x, np.ones(len(x)))
        resp, _ = oracle.e_step(KINDS[family].oracle, weights, params, x, np.ones(len(x)))
    return resp, params


@pytest.mark.parametrize("family", JUDGED, **NAMES)
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4, 1e6])
def test_float32_far_from_the_origin(family, offset):
    """Two blobs six deviations apart, rows exact in float32: covariances are within 1e-2 of float64's."""
    step = 2.0**-4  # the spacing of float32 at 1e6
    x = blobs(300, step=step)
    _, params = truth(family, x)
    rows = (x + offset).astype(np.float32)
    np.testing.assert_array_equal(rows.astype(float), x + offset)
    starts = jaxem.starts(jax.random.key(0), family, rows, 2, 8)
    result = jaxem.best(jaxem.fit_restarts(starts, rows))
    means, covariances = (np.asarray(leaf, float) for leaf in result.mixture.components)
    order = np.argsort(-means[:, 0])  # the truth's first half is the blob further out
    found = covariances if isinstance(family, jaxem.Tied) else covariances[order]
    np.testing.assert_allclose(found, params["covariances"], atol=1e-2)
    np.testing.assert_allclose(means[order] - x.mean(axis=0) - offset, params["means"], atol=max(2e-2, offset * 1e-7))


@pytest.mark.parametrize("family", JUDGED, **NAMES)
@pytest.mark.parametrize("d", [2, 12])
def test_float32_with_clusters_far_apart(family, d):
    """Clusters 1,000 deviations apart have variances within 1e-4, relative."""
    x = blobs(400, separation=1000.0, d=d)
    _, params = truth(family, x)
    rows = x.astype(np.float32)
    result = jaxem.best(jaxem.fit_restarts(jaxem.starts(jax.random.key(0), family, rows, 2, 8), rows))
    assert int(result.status) in (jaxem.Status.CONVERGED, jaxem.Status.PRECISION_LIMITED)
    means, covariances = (np.asarray(leaf, float) for leaf in result.mixture.components)
    order = np.argsort(-means[:, 0])
    matrices = family.as_matrices(jnp.asarray(covariances), 2, d)[order]
    expected = family.as_matrices(jnp.asarray(params["covariances"]), 2, d)
    found, expected = (np.diagonal(np.asarray(m, float), axis1=1, axis2=2) for m in (matrices, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("family", JUDGED, **NAMES)
def test_a_start_far_from_the_data_recovers(family):
    """From means 10,000 deviations away the first step cancels all digits of float32, and nothing becomes NaN."""
    x = blobs(200).astype(np.float32)
    resp, _ = truth(family, x.astype(float))
    start = jaxem.starts(jax.random.key(0), family, x, 2, 1, jaxem.FromResponsibilities(jnp.asarray(resp)))
    start = start[0]
    moved = jaxem.Mixture(
        start.log_weights, start.components._replace(means=start.components.means + jnp.float32(1e4)), family
    )
    result = jaxem.fit(moved, x, stop=jaxem.GainBelow(-jnp.inf), max_iter=100)
    assert np.isfinite(float(result.log_likelihood))
    assert bool(jnp.all(jnp.isfinite(result.mixture.components.covariances)))


def test_float32_pair_of_points_with_their_own_components():
    """Two pairs 9,999 apart, half a unit within: variances 1/16, where raw moments in float32 give 112."""
    x = np.array([[9999.0], [9999.5], [0.0], [0.5]], np.float32)
    halves = jaxem.FromResponsibilities(jnp.repeat(jnp.eye(2), 2, axis=0))
    start = jaxem.starts(jax.random.key(0), jaxem.Spherical(), x, 2, 1, halves)
    np.testing.assert_allclose(start.components.covariances, 0.0625, rtol=1e-6)


@pytest.mark.parametrize("family", JUDGED, **NAMES)
def test_log_prob_far_from_the_origin(family):
    """Differences are taken before anything is squared: float32 log densities at 1e6 are those at 0."""
    x = blobs(50, step=2.0**-4)
    params = oracle.m_step(KINDS[family].oracle, truth(family, x)[0], x, np.ones(50))[1]
    means = np.round(params["means"] * 16) / 16
    near = jaxem.GaussianParams(jnp.asarray(means, jnp.float32), jnp.asarray(params["covariances"], jnp.float32))
    far = near._replace(means=jnp.asarray(means + 1e6, jnp.float32))
    a = family.log_prob(near, jnp.asarray(x, jnp.float32))
    b = family.log_prob(far, jnp.asarray(x + 1e6, jnp.float32))
    np.testing.assert_array_equal(a, b)


WIDE = [jaxem.Spherical(), jaxem.Diagonal(), jaxem.Tied()]


def two_clusters(family, distance, dtype, d=12, n=4000):
    """Rows of two unit clusters `distance` apart, and the mixture of the true halves by numpy in float64."""
    x = blobs(n, separation=distance, d=d)
    resp = np.zeros((n, 2))
    resp[: n // 2, 0] = resp[n // 2 :, 1] = 1.0
    weights, params = oracle.m_step(KINDS[family].oracle, resp, x - x.mean(axis=0), np.ones(n))
    leaves = (np.log(weights), params["means"] + x.mean(axis=0), params["covariances"])
    log_weights, means, covariances = (jnp.asarray(leaf, dtype) for leaf in leaves)
    return x.astype(dtype), jaxem.Mixture(log_weights, jaxem.GaussianParams(means, covariances), family), params


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.skipif(not X64, reason="x64"))])
@pytest.mark.parametrize("family", WIDE, **NAMES)
def test_distances_by_products_up_to_the_border(family, dtype):
    """Just inside and just outside the bound of the error, the variances of an EM step are right: the fast form is taken
    only where it may be, and far outside, where it would be wrong, it is not."""
    eps = float(np.finfo(dtype).eps)
    # by feature and in variances, eps (distance / 2)^2 / d is the bound
    border = 2 * np.sqrt(PRODUCT_ERROR[np.finfo(dtype).bits] / eps * 12)
    for distance, products in (
        (0.5 * border, True),
        (0.9 * border, True),
        (1.1 * border, False),
        (100 * border, False),
    ):
        x, mixture, params = two_clusters(family, distance, dtype)
        centred = mixture.shift(-jnp.asarray(x.mean(axis=0))).components
        suffice = family.products_suffice(centred.means, family.precisions(centred.covariances))
        assert bool(suffice) == products, distance
        new = jaxem.m_step(mixture, jaxem.e_step(mixture, x)).components
        found, expected = (np.asarray(leaf, float) for leaf in (new.covariances, params["covariances"]))
        scale = np.sqrt(np.abs(np.diagonal(expected))) if expected.ndim == 2 and expected.shape[0] == 12 else None
        error = np.abs(found - expected) / (np.outer(scale, scale) if scale is not None else expected)
        assert error.max() < (3e-5 if dtype == "float32" else 3e-12), (distance, error.max())


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.skipif(not X64, reason="x64"))])
def test_second_moments_by_products_up_to_their_border(dtype, monkeypatch):
    """Of Diagonal: they are products just inside the bound of one variance and not just outside, and an EM step gives the
    variances of numpy's on both sides."""
    made, family = [], jaxem.Diagonal()

    def told(take, yes, no):
        return cond(take, yes, lambda: (jax.debug.callback(lambda: made.append(True)), no())[1])

    cond = jax.lax.cond
    b = as_rows(family, two_clusters(family, 1.0, dtype)[0], None, 2).blocks.shape[2]
    border = 2 * np.sqrt(PRODUCT_ERROR[np.finfo(dtype).bits] / float(np.finfo(dtype).eps) / np.sqrt(b))
    for distance, products in ((0.5 * border, True), (0.9 * border, True), (1.2 * border, False)):
        x, mixture, params = two_clusters(family, distance, dtype)
        exact, centred = np.asarray(x, float), np.asarray(x, float).mean(axis=0)
        resp, _ = oracle.e_step(KINDS[family].oracle, np.ones(2) / 2, params, exact - centred, np.ones(len(x)))
        expected = oracle.m_step(KINDS[family].oracle, resp, exact - centred, np.ones(len(x)))[1]["covariances"]
        rows, start = as_rows(family, x, None, 2), mixture.to_frame(as_rows(family, x, None, 2).frame)
        made.clear()
        monkeypatch.setattr(jax.lax, "cond", told)
        stats = jax.jit(lambda mixture, rows: em.pass_over(mixture, rows))(start, rows)
        monkeypatch.undo()
        jax.effects_barrier()
        assert bool(made) != products, distance
        error = np.abs(np.asarray(em.m_step(start, stats).components.covariances, float) - expected) / expected
        assert error.max() < (3e-5 if dtype == "float32" else 3e-12), (distance, error.max())


def test_a_variance_that_falls_to_nothing_in_one_step():
    """Products cannot tell a variance that is nothing beside the squared mean; the climb finds it with the next step."""
    x = blobs(400, separation=4.0, d=12)
    x[:200, 3], x[200:, 3] = 1.0, x[200:, 3] / 2**10
    start = two_clusters(jaxem.Diagonal(), 4.0, "float32", n=400)[1]
    result = jaxem.fit(start, jnp.asarray(x, jnp.float32), max_iter=30)
    assert int(result.status) == jaxem.Status.DEGENERATE
    assert float(jnp.min(result.mixture.components.covariances)) < 1e-9


@pytest.mark.parametrize("family", WIDE, **NAMES)
def test_lanes_on_both_sides_of_the_border_agree_with_lanes_alone(family):
    """One lane beyond the border makes all take differences, and each lane agrees with the same lane alone."""
    dtype = "float32"
    x, far, _ = two_clusters(family, 200.0, dtype)
    near = Case(family, 2, 12).mixture().astype(dtype)
    near = jaxem.Mixture(
        near.log_weights, near.components._replace(covariances=far.components.covariances * 1e4), family
    )
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), far, near)
    rows = as_rows(family, x, None, 4)
    together = jax.jit(jax.vmap(lambda mixture: jaxem.e_step(mixture, rows)))(both)
    for i, mixture in enumerate((far, near)):
        alone = jaxem.e_step(mixture, rows)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            scale = max(float(jnp.max(jnp.abs(a))), 1e-3)
            np.testing.assert_allclose(a, b[i], rtol=0, atol=1e-4 * scale)


def test_a_branch_stays_a_branch_under_vmap():
    """The choice of form is one scalar for all lanes: XLA sees a conditional, not a select of two computed passes."""
    rows = as_rows(jaxem.Spherical(), blobs(100, d=12), None, 4)
    mixture = Case(jaxem.Spherical(), 2, 12).mixture()
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), mixture)
    text = str(jax.make_jaxpr(jax.vmap(lambda mixture: jaxem.e_step(mixture, rows)))(both))
    assert "cond[" in text
