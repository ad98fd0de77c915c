"""The lecture's worked example, digit by digit, and its formulas against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from tests import oracle
from tests.cases import ORACLES, named
from tests.conftest import ROUNDING, X64

X = np.array([0.2, -0.9, -1.0, 1.2, 1.8])[:, None]
DIGITS = 5e-9 if X64 else 1e-5


@pytest.fixture(scope="module")
def start():
    params = jaxem.GaussianParams(jnp.array([[-3.0], [2.0]]), jnp.array([4.0, 4.0]))
    return jaxem.Mixture(jnp.log(jnp.array([0.5, 0.5])), params, jaxem.Spherical())


def test_worked_example(start):
    posterior = [0.29421497, 0.62245933, 0.65135486, 0.10669059, 0.05340333]
    np.testing.assert_allclose(start.responsibilities(X)[:, 0], posterior, atol=DIGITS)

    stats = jaxem.e_step(start, X)
    np.testing.assert_allclose(stats.counts[0], 1.72812309, atol=DIGITS)
    np.testing.assert_allclose(stats.log_likelihood, -11.64848777, rtol=DIGITS)
    np.testing.assert_allclose(jaxem.proxy(start, start, X), -11.64848777, rtol=DIGITS)

    new = jaxem.m_step(start, stats)
    np.testing.assert_allclose(new.weights[0], 0.34562462, atol=DIGITS)
    np.testing.assert_allclose(new.components.means[0, 0], -0.53732895, atol=DIGITS)
    np.testing.assert_allclose(new.components.covariances[0], 0.57578591, atol=DIGITS)
    np.testing.assert_allclose(jaxem.e_step(new, X).log_likelihood, -7.42202519, rtol=DIGITS)


def test_variance_not_deviation(start):
    """N(x; mu, 4) has variance 4: its log density at the mean is -log(2 pi 4) / 2."""
    at_mean = start.family.log_prob(start.components, jnp.array([[-3.0]]))[0, 0]
    np.testing.assert_allclose(at_mean, -0.5 * np.log(2 * np.pi * 4), rtol=ROUNDING)


@pytest.mark.parametrize("case", **named(ORACLES))
def test_steps_agree_with_numpy(case):
    mixture, x = case.mixture(), case.data(40)
    w = np.random.default_rng(2).integers(0, 4, len(x)).astype(float)
    params = {name: np.asarray(leaf, float) for name, leaf in mixture.components._asdict().items()}
    resp, log_likelihood = oracle.e_step(case.kind.oracle, np.asarray(mixture.weights, float), params, x, w)
    weights, expected = oracle.m_step(case.kind.oracle, resp, x, w, case.prior)

    stats = jaxem.e_step(mixture, x, w)
    new = jaxem.m_step(mixture, stats, case.prior)
    np.testing.assert_allclose(stats.log_likelihood, log_likelihood, rtol=ROUNDING)
    np.testing.assert_allclose(mixture.responsibilities(x), resp, atol=ROUNDING)
    np.testing.assert_allclose(new.weights, weights, rtol=ROUNDING)
    for name, leaf in new.components._asdict().items():
        np.testing.assert_allclose(leaf, expected[name], rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("case", **named(ORACLES))
def test_elbo_agrees_with_numpy(case):
    mixture, x = case.mixture(), case.data(30)
    rng = np.random.default_rng(3)
    resp = rng.dirichlet(np.ones(case.k), len(x))
    resp[0] = np.eye(case.k)[0]  # 0 log 0 = 0
    w = rng.uniform(0, 2, len(x))
    params = {name: np.asarray(leaf, float) for name, leaf in mixture.components._asdict().items()}
    joint = oracle.log_joint(case.kind.oracle, np.asarray(mixture.weights, float), params, x)
    expected = sum(
        w[i] * resp[i, j] * (joint[i, j] - np.log(resp[i, j]))
        for i in range(len(x))
        for j in range(case.k)
        if resp[i, j] > 0
    )
    np.testing.assert_allclose(jaxem.elbo(mixture, x, resp, w), expected, rtol=ROUNDING)


def test_stationary_by_hand(start):
    """ "Verify by taking derivatives and setting them equal to zero": in the natural parameters, without laws.py."""
    new = jaxem.m_step(start, jaxem.e_step(start, X))

    def proxy(logits, means, variances):
        components = jaxem.GaussianParams(means, variances)
        return jaxem.proxy(jaxem.Mixture(jax.nn.log_softmax(logits), components, start.family), start, X)

    slopes = jax.grad(proxy, argnums=(0, 1, 2))(new.log_weights, *new.components)
    for slope in slopes:
        np.testing.assert_allclose(slope, 0, atol=1e-13 if X64 else 1e-4)
