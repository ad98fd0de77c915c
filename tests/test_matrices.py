"""Factors, determinants and eigenvalues of covariances without LAPACK agree with numpy's, which are LAPACK's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxem import linalg
from jaxem.moments import sum_chunks
from tests.conftest import ROUNDING, X64


def matrices(d, ridge=0.05, seed=0):
    """Three positive definite matrices [3, d, d], float64."""
    factors = np.random.default_rng(seed).normal(size=(3, d, d))
    return factors @ factors.transpose(0, 2, 1) / d + ridge * np.eye(d)


@pytest.mark.parametrize("d", [1, 2, 5, 16, 17, 40])
def test_factors_are_numpys(d):
    """They agree below and above the size that is factored column by column, alone and in a batch."""
    sigma = matrices(d)
    factors, inverses = jax.jit(linalg.cholesky_factors)(jnp.asarray(sigma))
    expected = np.linalg.cholesky(sigma)
    np.testing.assert_allclose(factors, expected, rtol=0, atol=20 * ROUNDING)
    np.testing.assert_allclose(inverses, np.linalg.inv(expected), rtol=0, atol=200 * ROUNDING)
    np.testing.assert_array_equal(np.triu(factors, 1), 0)
    np.testing.assert_array_equal(np.triu(inverses, 1), 0)
    for one, of_batch in zip(linalg.cholesky_factors(jnp.asarray(sigma[1])), (factors, inverses), strict=True):
        np.testing.assert_allclose(one, of_batch[1], rtol=0, atol=200 * ROUNDING)
    log_det = linalg.log_det(jnp.asarray(sigma), inverses)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(sigma)[1], rtol=0, atol=20 * d * ROUNDING)


@pytest.mark.skipif(not X64, reason="derivatives to 1e-8")
@pytest.mark.parametrize("d", [1, 3, 20])
def test_derivatives_of_factors_are_those_of_jaxs_cholesky(d):
    sigma, move = jnp.asarray(matrices(d)), jnp.asarray(matrices(d, seed=1))

    def ours(sigma):
        return linalg.cholesky_factors(sigma)

    def theirs(sigma):
        factors = jnp.linalg.cholesky(sigma)
        return factors, jnp.linalg.inv(factors)

    for a, b in zip(jax.jvp(ours, (sigma,), (move,))[1], jax.jvp(theirs, (sigma,), (move,))[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)

    def loss(of):
        return lambda sigma: sum(jnp.sum(jnp.sin(leaf)) for leaf in of(0.5 * (sigma + sigma.transpose(0, 2, 1))))

    np.testing.assert_allclose(jax.grad(loss(ours))(sigma), jax.grad(loss(theirs))(sigma), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("d", [2, 20])
def test_what_is_not_positive_definite_has_no_density(d):
    for bad in (np.diag([1.0] * (d - 1) + [-1.0]), np.ones((d, d)), np.zeros((d, d)), np.full((d, d), np.nan)):
        inverse = linalg.cholesky_factors(jnp.asarray(bad))[1]
        assert bool(jnp.isnan(linalg.log_det(jnp.asarray(bad), inverse)))
        assert float(linalg.smallest_eigenvalue(jnp.asarray(bad), jnp.ones(d), jnp.asarray(1e-30))) == 0.0


@pytest.mark.parametrize("d", [1, 2, 5, 20])
@pytest.mark.parametrize("ridge", [1.0, 1e-3])
def test_smallest_eigenvalue_is_numpys(d, ridge):
    sigma, scale = matrices(d, ridge), np.random.default_rng(1).uniform(0.1, 10, d)
    found = jax.jit(linalg.smallest_eigenvalue)(jnp.asarray(sigma), jnp.asarray(scale), jnp.asarray(1e-30))
    expected = np.linalg.eigvalsh(sigma * np.outer(scale, scale))
    # the eigenvalue of a matrix with rounded entries is off by that of the largest
    atol = 10 * ROUNDING * expected[:, -1].max()
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-6, atol=atol if not X64 else 0)
    # constant features are scaled to variance 1, or lost
    correlation = sigma / np.sqrt(np.einsum("...i,...j->...ij", *2 * (np.diagonal(sigma, axis1=-2, axis2=-1),)))
    found = linalg.smallest_eigenvalue(jnp.asarray(sigma), jnp.zeros(d), jnp.asarray(1e-30))
    np.testing.assert_allclose(found, np.linalg.eigvalsh(correlation)[..., 0], rtol=1e-5 if X64 else 1e-3)
    assert np.all(np.asarray(linalg.smallest_eigenvalue(jnp.asarray(sigma), jnp.zeros(d), jnp.asarray(1e9))) == 0.0)


def test_equal_eigenvalues_are_found_too():
    """Where squaring gains nothing, the bound of the error is met: 2 log(d) / 2^m."""
    found = linalg.smallest_eigenvalue(jnp.asarray(1e-3 * np.eye(7)), jnp.ones(7), jnp.asarray(1e-30))
    np.testing.assert_allclose(found, 1e-3, rtol=2 * np.log(7) / 2**linalg.SQUARINGS + ROUNDING)


@pytest.mark.parametrize("n", [1, 9, 10, 11, 35])
def test_sums_over_chunks(n):
    x, w = np.random.default_rng(0).normal(size=(n, 3)), np.arange(n) + 1.0
    total = jax.jit(lambda x, w: sum_chunks(lambda x, w: (w @ x, jnp.sum(w)), x, w, size=10))(x, w)
    np.testing.assert_allclose(total[0], w @ x, rtol=0, atol=200 * n * ROUNDING)
    np.testing.assert_allclose(total[1], np.sum(w), rtol=ROUNDING)
