"""Accuracy where the original loses it: far from the origin, and with clusters far apart, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from tests import oracle
from tests.cases import GAUSSIANS, blobs

NAMES = {"ids": lambda family: type(family).__name__}


def truth(family, x, k=2):
    """EM in numpy float64 from the true halves, on centred data."""
    x = x - x.mean(axis=0)
    resp = np.zeros((len(x), k))
    resp[np.arange(len(x)), np.minimum(np.arange(len(x)) * k // len(x), k - 1)] = 1.0
    for _ in range(60):
        weights, params = oracle.m_step(type(family).__name__, resp, x, np.ones(len(x)))
        resp, _ = oracle.e_step(type(family).__name__, weights, params, x, np.ones(len(x)))
    return resp, params


@pytest.mark.parametrize("family", GAUSSIANS, **NAMES)
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4, 1e6])
def test_float32_far_from_the_origin(family, offset):
    """Rows exactly representable, two blobs six deviations apart: covariances within 1e-2 of float64's."""
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


@pytest.mark.parametrize("family", GAUSSIANS, **NAMES)
@pytest.mark.parametrize("d", [2, 12])
def test_float32_with_clusters_far_apart(family, d):
    """Separation of 1,000 deviations: variances within 1e-4, relative."""
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


@pytest.mark.parametrize("family", GAUSSIANS, **NAMES)
def test_a_start_far_from_the_data_recovers(family):
    """Means 10,000 deviations away, where the first step cancels all digits of float32: no NaN, the same answer."""
    x = blobs(200).astype(np.float32)
    resp, _ = truth(family, x.astype(float))
    start = jaxem.starts(jax.random.key(0), family, x, 2, 1, jaxem.FromResponsibilities(jnp.asarray(resp)))
    start = jax.tree.map(lambda leaf: leaf[0], start)
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


@pytest.mark.parametrize("family", GAUSSIANS, **NAMES)
def test_log_prob_far_from_the_origin(family):
    """Differences are taken before anything is squared: float32 log densities at 1e6 are those at 0."""
    x = blobs(50, step=2.0**-4)
    params = oracle.m_step(type(family).__name__, truth(family, x)[0], x, np.ones(50))[1]
    means = np.round(params["means"] * 16) / 16
    near = jaxem.GaussianParams(jnp.asarray(means, jnp.float32), jnp.asarray(params["covariances"], jnp.float32))
    far = near._replace(means=jnp.asarray(means + 1e6, jnp.float32))
    a = family.log_prob(near, jnp.asarray(x, jnp.float32))
    b = family.log_prob(far, jnp.asarray(x + 1e6, jnp.float32))
    np.testing.assert_array_equal(a, b)
