"""Priors on Gaussians and weights against the formulas of their papers, by numpy alone."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from tests.cases import GAUSSIANS, Case
from tests.conftest import DTYPE, X64

TOL = 1e-10 if X64 else 2e-4
N, D, K = 50, 3, 2
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, D)) @ np.array([[1, 0.3, 0], [0, 2, 0.5], [0, 0, 0.7]]) + RNG.integers(0, 2, (N, 1))).astype(
    DTYPE
)
W = np.where(np.arange(N) % 4 == 0, 0.0, 1.0 + np.arange(N) % 3).astype(DTYPE)


def moments(family, w=None):
    """A mixture, and by numpy the counts, means and scatter matrices `[k, d, d]` of its posteriors."""
    mixture = Case(family, K, D).mixture().astype(DTYPE)
    resp = np.asarray(mixture.responsibilities(X), float) * (np.ones(N) if w is None else w)[:, None]
    counts = resp.sum(axis=0)
    means = resp.T @ X / counts[:, None]
    diff = X[:, None, :] - means[None]
    return mixture, counts, means, np.einsum("nk,nki,nkj->kij", resp, diff, diff)


def stepped(mixture, prior, w=None):
    new = jaxem.m_step(mixture, jaxem.e_step(mixture, X, w), prior)
    return new, *(np.asarray(leaf, float) for leaf in new.components)


def in_form(family, matrices):
    """Matrices `[k, d, d]` as the family keeps them; Tied is the caller's."""
    if family == jaxem.Spherical():
        return np.trace(matrices, axis1=1, axis2=2) / D
    return np.diagonal(matrices, axis1=1, axis2=2) if family == jaxem.Diagonal() else matrices


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_mclusts_prior(family):
    """Fraley and Raftery (2007), section 3, VVV, EEE, VVI and VII, with mclust's defaults."""
    mixture, counts, means, within = moments(family)
    _, found_means, found = stepped(mixture, jaxem.fraley_raftery(family, X, K))
    nu, kappa, mean, s = D + 2, 0.01, X.mean(axis=0, dtype=float), np.cov(X.astype(float).T)
    np.testing.assert_allclose(
        found_means, (means * counts[:, None] + kappa * mean) / (counts + kappa)[:, None], rtol=TOL
    )
    apart = means - mean
    between = (kappa * counts / (kappa + counts))[:, None, None] * apart[:, :, None] * apart[:, None, :]
    total, trace = within + between, np.trace(within + between, axis1=1, axis2=2)
    scale, average = s / K ** (2 / D), np.trace(s) / D / K ** (2 / D)
    expected = {
        "Full": (scale + total) / (nu + counts + D + 2)[:, None, None],
        "Tied": (scale + total.sum(axis=0)) / (nu + N + D + 1 + K),
        "Diagonal": (average + np.diagonal(total, axis1=1, axis2=2)) / (nu + counts + 2 + 1)[:, None],
        "Spherical": (average + trace) / (nu + counts * D + 2 + D),
    }[type(family).__name__]
    np.testing.assert_allclose(found, expected, rtol=TOL, atol=TOL)


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize("strength", [None, 0.7])
def test_chen_and_tans_penalty(family, strength):
    """Sigma_k = (2 a S + W_k) / (2 a + N_k), with weights; a = 1 / n unless given."""
    mixture, counts, _, within = moments(family, W)
    _, _, found = stepped(mixture, jaxem.chen_tan(X, W, strength=strength), W)
    s = np.cov(X.astype(float).T, aweights=W, ddof=0)
    a = 1 / W.sum() if strength is None else strength
    if family == jaxem.Tied():
        expected = (2 * a * s + within.sum(axis=0)) / (2 * a + counts.sum())
    else:
        expected = in_form(family, (2 * a * s + within) / (2 * a + counts)[:, None, None])
    np.testing.assert_allclose(found, expected, rtol=TOL, atol=TOL)


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_no_variance_goes_below_the_floor(family):
    """S_k + (n / N_k) floor I, for Tied S + floor I: in every direction at least the floor, a constant column too."""
    mixture, counts, _, within = moments(family)
    prior = jaxem.variance_floor(X, 0.3)
    _, _, found = stepped(mixture, prior)
    eye = np.eye(D)
    if family == jaxem.Tied():
        expected = within.sum(axis=0) / N + 0.3 * eye
    else:
        expected = in_form(family, within / counts[:, None, None] + (N / counts * 0.3)[:, None, None] * eye)
    np.testing.assert_allclose(found, expected, rtol=TOL, atol=TOL)
    flat = X.copy()
    flat[:, 1] = 2.0
    result = jaxem.fit(mixture, flat, prior=jaxem.variance_floor(flat, 1e-3), max_iter=500)
    covariances = np.asarray(family.as_matrices(result.mixture.components.covariances, K, D), float)
    assert np.linalg.eigvalsh(covariances).min() > 0.99e-3
    assert np.isfinite(result.objective)  # a component may die out, but none is flat


def test_dirichlet_is_imagined_rows():
    mixture, counts, _, _ = moments(jaxem.Full())
    new, _, _ = stepped(mixture, jaxem.Dirichlet(3.0))
    np.testing.assert_allclose(new.weights, (counts + 2) / (N + 2 * K), rtol=TOL)
    prior = jaxem.Dirichlet(3.0)
    np.testing.assert_allclose(prior.log_prob(new), 2 * np.log(np.asarray(new.weights, float)).sum(), rtol=TOL)
    dead = jaxem.Mixture(jnp.array([0.0, -jnp.inf], DTYPE), new.components, new.family)
    assert np.isfinite(prior.log_prob(dead))


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize("shrinkage", [1e-3, 1.0, 1e4, 1e8, 1e16])
def test_a_strong_pull_of_the_means_costs_no_digit(family, shrinkage):
    """Means (N x + kappa m) / (N + kappa) and covariances with B_k, by numpy in float64, for any kappa, far from m."""
    mixture, counts, means, within = moments(family)
    m, degrees = np.array([30.0, -50.0, 80.0]), 5.0
    prior = jaxem.NormalInverseWishart(degrees, jnp.eye(D, dtype=DTYPE), shrinkage, jnp.asarray(m, DTYPE))
    _, found_means, found = stepped(mixture, prior)
    mean = m + (counts / (counts + shrinkage))[:, None] * (means - m)
    np.testing.assert_allclose(found_means, mean, rtol=TOL)
    apart = means - m
    strength = counts * (shrinkage / (counts + shrinkage))
    total = within + np.eye(D) + strength[:, None, None] * apart[:, :, None] * apart[:, None, :]
    if family == jaxem.Tied():
        expected = (total.sum(axis=0) - (K - 1) * np.eye(D)) / (degrees + N + K)
    else:
        expected = in_form(family, total / (degrees + counts + 1)[:, None, None])
    np.testing.assert_allclose(found, expected, rtol=100 * TOL, atol=10 * TOL * np.max(expected))


def test_a_density_by_hand():
    """-1/2 (nu log |S| + tr(L inv(S))) - 1/2 (log |S| + kappa (mu - m)' inv(S) (mu - m)), over the components."""
    mixture = Case(jaxem.Full(), K, D).mixture().astype(DTYPE)
    means, covariances = (np.asarray(leaf, float) for leaf in mixture.components)
    scatter, m = np.diag([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 2.0])
    prior = jaxem.NormalInverseWishart(4.0, jnp.asarray(scatter, DTYPE), 0.2, jnp.asarray(m, DTYPE))
    expected = 0.0
    for mu, sigma in zip(means, covariances, strict=True):
        inverse, log_det = np.linalg.inv(sigma), np.linalg.slogdet(sigma)[1]
        expected -= 0.5 * (4.0 * log_det + np.trace(scatter @ inverse) + log_det + 0.2 * (mu - m) @ inverse @ (mu - m))
    np.testing.assert_allclose(prior.log_prob(mixture), expected, rtol=TOL)
    both = prior + jaxem.Dirichlet(2.0)
    np.testing.assert_allclose(
        both.log_prob(mixture), expected + np.log(np.asarray(mixture.weights, float)).sum(), rtol=TOL
    )
    # the knowledge moves with the data
    offset = jnp.asarray([1.0, 2.0, -3.0], DTYPE)
    np.testing.assert_allclose(both.shift(offset).log_prob(mixture.shift(offset)), both.log_prob(mixture), rtol=TOL)


def test_what_a_prior_refuses():
    mixture, *_ = moments(jaxem.Full())
    twice = jaxem.fraley_raftery(jaxem.Full(), X, K) + jaxem.fraley_raftery(jaxem.Full(), X, K)
    with pytest.raises(ValueError, match="prior speaks of the means 2 times"):
        stepped(mixture, twice)
    with pytest.raises(TypeError, match="says nothing about a Full component"):
        stepped(mixture, jaxem.chen_tan(X) + jaxem.Beta())
    with pytest.raises(TypeError, match="is no Gaussian one"):
        jaxem.fraley_raftery(jaxem.Bernoulli(), X, K)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"strength = {bad}; give a positive finite number"):
            jaxem.chen_tan(X, strength=bad)
        with pytest.raises(ValueError, match=f"floor = {bad}"):
            jaxem.variance_floor(X, bad)
        with pytest.raises(ValueError, match=f"shrinkage = {bad}"):
            jaxem.fraley_raftery(jaxem.Full(), X, K, shrinkage=bad)
    with pytest.raises(ValueError, match=r"alpha = 0\.5 gives no maximum inside"):
        jaxem.Dirichlet(0.5)
