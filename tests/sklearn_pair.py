"""scikit-learn's estimator and ours, side by side: what the tests of jaxem.sklearn share.

The estimator computes float64 in float64 whatever JAX's setting, so its tests run once, in float64.
"""

import warnings

import numpy as np
import pytest
import sklearn.mixture
from sklearn.exceptions import ConvergenceWarning

import jaxem.datasets
from jaxem.sklearn import FORMS, GaussianMixture
from tests.conftest import X64

Original = sklearn.mixture.GaussianMixture
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
FAITHFUL = np.asarray(jaxem.datasets.faithful(), np.float64)
by_form = pytest.mark.parametrize("form", FORMS)
only_once = pytest.mark.skipif(not X64, reason="the same in either mode: run once")


def clusters(n=240, d=3, seed=0):
    """Three clusters that overlap, of different shapes."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    return rng.normal(size=(n, d)) * np.array([1.0, 2.0, 0.5])[label, None] + np.array([0.0, 4.0, -3.0])[label, None]


def pair(*args, **options):
    """The original and ours."""
    return Original(*args, **options), GaussianMixture(*args, **options)


def fitted(model, x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, **options)


def assert_same_fit(theirs, ours, rtol=1e-9):
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    # of a start at single rows the original computes variances of reg_covar as differences of squares
    np.testing.assert_allclose(ours.lower_bounds_[:1], theirs.lower_bounds_[:1], rtol=max(rtol, 1e-6))
    np.testing.assert_allclose(ours.lower_bounds_[1:], theirs.lower_bounds_[1:], rtol=rtol)
    np.testing.assert_allclose(ours.lower_bound_, theirs.lower_bound_, rtol=rtol)
    for name in ATTRIBUTES:
        expected, found = getattr(theirs, name), getattr(ours, name)
        assert found.shape == expected.shape, name
        assert found.dtype == expected.dtype, name
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max(), err_msg=name)
