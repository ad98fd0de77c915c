"""float64 data where JAX computes in float32: an offset costs no digit of the fit, and digits that are lost are told."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jaxem
from jaxem.rows import as_rows
from tests.cases import blobs

KEY = jax.random.key(0)
NOW = 1_700_000_000.0
"""seconds since 1970: float32 has steps of 128 there"""
TOLD = "steps of 1.3e\\+02.*jax_enable_x64"


def visits(n=600, spread=10.0):
    """Two bursts of visits, seconds apart, `[n, 1]` about 0, on a grid that float64 holds at NOW as well."""
    rng = np.random.default_rng(3)
    y = np.where(np.arange(n) % 3 == 0, rng.normal(0, 1, n), rng.normal(9, 2, n)) * spread
    return np.round(y * 256)[:, None] / 256


def single(y):
    """The log-likelihood of one Gaussian at its maximum, in closed form."""
    return -0.5 * len(y) * (math.log(2 * math.pi * y.var()) + 1)


def test_timestamps_are_centred_before_they_are_cast():
    """The steps of float32 are wider than a component: every way in must give the likelihood of the rows moved to 0."""
    y, family = visits(), jaxem.Full()

    def all_ways():
        starts = jaxem.starts(KEY, family, NOW + y, 2, 4)
        yield jaxem.search(KEY, family, NOW + y, 1).best
        yield jaxem.search(KEY, family, (NOW + np.round(y)).astype(np.int64), 2).best
        yield jaxem.search(KEY, family, NOW + y, 2).best
        yield jaxem.best(jaxem.fit_restarts(starts, NOW + y))
        yield jaxem.select(KEY, family, NOW + y, [1, 2]).best.best

    with jax.enable_x64(False), pytest.warns(UserWarning, match=TOLD):
        one, whole, *two = all_ways()
    np.testing.assert_allclose(one.log_likelihood, single(y), rtol=1e-6)
    with jax.enable_x64(True):
        right = float(jaxem.search(KEY, family, y, 2).best.log_likelihood)
        of_whole = float(jaxem.search(KEY, family, np.round(y), 2).best.log_likelihood)
    for found in two:
        np.testing.assert_allclose(found.log_likelihood, right, rtol=2e-6)
    np.testing.assert_allclose(whole.log_likelihood, of_whole, rtol=2e-6)
    np.testing.assert_allclose(np.asarray(two[0].mixture.components.means), NOW, rtol=1e-6)


def test_every_way_to_look_at_the_rows_is_right_or_tells():
    """e_step moves rows and means together. What float32 rounds is warned of once a call, at the caller's line."""
    y = visits()
    mixture = jaxem.Mixture(
        np.log(np.full(1, 1.0)), jaxem.GaussianParams(np.full((1, 1), NOW), np.full(1, 2500.0)), jaxem.Spherical()
    )
    expected = norm(0, 50).logpdf(y).sum()
    with jax.enable_x64(False):
        mixture = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), mixture)
        for call in (
            lambda: jaxem.e_step(mixture, NOW + y).log_likelihood,
            lambda: jaxem.fit(mixture, NOW + y, max_iter=0).log_likelihood,
            lambda: jax.jit(lambda w: jaxem.e_step(mixture, NOW + y, w).log_likelihood)(np.ones(len(y), np.float32)),
        ):
            with pytest.warns(UserWarning, match=TOLD) as told:
                found = call()
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            assert len(told) == 1
            assert "\n" not in str(told[0].message)
            assert told[0].filename == __file__
        for look in (mixture.predict, mixture.log_prob, mixture.responsibilities, jaxem.shard):
            with pytest.warns(UserWarning, match=TOLD):
                look(NOW + y)
        with pytest.warns(UserWarning, match=TOLD) as told:
            jaxem.select(KEY, [jaxem.Spherical(), jaxem.Full()], NOW + y, [1, 2])
        assert len(told) == 1


def test_priors_from_data_far_away_are_those_of_the_data():
    y, w = visits(), np.random.default_rng(0).integers(0, 3, 600)
    with jax.enable_x64(False):
        for weight in (None, w):
            variance = np.cov(y[:, 0], fweights=weight, ddof=0)
            far = jaxem.chen_tan(NOW + y, weight, strength=0.5)
            np.testing.assert_allclose(np.asarray(far.scatter)[0, 0], variance, rtol=1e-5)
            pull = jaxem.fraley_raftery(jaxem.Full(), NOW + y, 2, weight)
            np.testing.assert_allclose(np.asarray(pull.mean), NOW, rtol=1e-6)


def test_starts_of_rows_that_lie_far_away_differ():
    """Drawn among rows rounded to steps of 128, all centres would be one."""
    y = visits(spread=1.0)
    with jax.enable_x64(False), pytest.warns(UserWarning, match=TOLD):
        found = jaxem.search(KEY, jaxem.Full(), NOW + y, 2)
    with jax.enable_x64(True):
        right = float(jaxem.search(KEY, jaxem.Full(), y, 2).best.log_likelihood)
    np.testing.assert_allclose(found.best.log_likelihood, right, rtol=2e-6)


@pytest.mark.parametrize(
    "x", [blobs(50), blobs(50) + 300.0, (1990 + np.arange(40) % 30)[:, None], np.ones((5, 2)) * 1e9]
)
def test_no_warning_where_float32_will_do(x):
    """Kelvin, years, and a constant column, which has no digits to lose."""
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        as_rows(jaxem.Full(), x, None, 1)
        jaxem.chen_tan(x)
        jaxem.starts(KEY, jaxem.Full(), x, 1, 1)[0].predict(x)


@pytest.mark.parametrize(("x64", "below", "fine"), [(True, -500, -470), (False, -60, -40)])
def test_variances_too_small_for_the_dtype_are_told(x64, below, fine):
    """Squares of differences lose digits below 2**-970 in float64 (2**-103 in float32)."""
    x = jaxem.datasets.faithful()
    with jax.enable_x64(x64):
        with pytest.warns(UserWarning, match="square .* does not hold with all its digits; scale the data") as told:
            as_rows(jaxem.Full(), x * 2.0**below, None, 1)
        assert len(told) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            as_rows(jaxem.Full(), x * 2.0**fine, None, 1)


def test_values_too_large_for_float32_are_named():
    x = np.array([[1.0], [1e300], [2.0]])
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"x\[1, 0\] = 1e\+300 is too large for float32"):
        jaxem.starts(KEY, jaxem.Full(), x, 1, 1)
