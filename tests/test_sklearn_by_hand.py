"""The drop-in at its edges: attributes set by hand, numpy's traps set, weighted criteria, many components."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.exceptions import NotFittedError

from jaxem.sklearn import FORMS, GaussianMixture
from tests.cases import PEAK
from tests.sklearn_pair import FAITHFUL, Original, fitted, only_once

pytestmark = only_once
WEIGHTS = np.array([0.15, 0.25, 0.6])
MEANS = np.array([[4.0, 1.0], [15.0, -2.0], [31.0, 0.5]])
MATRICES = np.array([[[2.0, 0.3], [0.3, 1.0]], [[0.5, 0.0], [0.0, 0.25]], [[7.0, -1.0], [-1.0, 2.0]]])
COVARIANCES = {
    "full": MATRICES,
    "tied": MATRICES[0],
    "diag": np.diagonal(MATRICES, axis1=1, axis2=2).copy(),
    "spherical": MATRICES[:, 0, 0].copy(),
}


def by_hand(kind, form):
    model = kind(3, covariance_type=form, random_state=1)
    model.weights_, model.means_, model.covariances_ = WEIGHTS, MEANS, COVARIANCES[form]
    return model


@pytest.mark.parametrize("form", FORMS)
def test_a_mixture_set_by_hand_is_sampled_as_by_scikit_learn_and_scored(form):
    """weights_, means_ and covariances_ are enough; the density is scipy's."""
    model = by_hand(GaussianMixture, form)
    for found, right in zip(model.sample(200), by_hand(Original, form).sample(200), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12)
    x = model.sample(50)[0]
    given = COVARIANCES[form]
    full = [given if form == "tied" else given[j] if form == "full" else np.eye(2) * given[j] for j in range(3)]
    joint = np.stack([multivariate_normal(MEANS[j], full[j]).logpdf(x) for j in range(3)], axis=1) + np.log(WEIGHTS)
    np.testing.assert_allclose(model.score_samples(x), logsumexp(joint, axis=1), rtol=1e-10)
    np.testing.assert_array_equal(model.predict(x), joint.argmax(axis=1))
    np.testing.assert_allclose(model.predict_proba(x), np.exp(joint - logsumexp(joint, axis=1)[:, None]), atol=1e-10)


def test_covariances_changed_after_a_fit_are_those_that_are_drawn_from():
    ours, theirs = (fitted(kind(2, random_state=0), FAITHFUL) for kind in (GaussianMixture, Original))
    for model in (ours, theirs):
        model.covariances_ = np.stack([np.eye(2), 9 * np.eye(2)])
    for found, right in zip(ours.sample(40), theirs.sample(40), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4)


@pytest.mark.parametrize("n", [2.5, 3.0, "3", None, True])
def test_the_number_of_samples_is_a_whole_number(n):
    with pytest.raises(ValueError, match=r"n_samples = .* is not a whole number; give an integer") as error:
        by_hand(GaussianMixture, "full").sample(n)
    assert "\n" not in str(error.value)


def test_attributes_that_do_not_fit_each_other_are_named():
    model = by_hand(GaussianMixture, "full")
    model.weights_ = WEIGHTS[:2]
    with pytest.raises(ValueError, match=r"weights_ has shape \(2,\) and means_ \(3, 2\)"):
        model.sample(3)
    model.weights_ = np.array([0.5, -0.1, 0.6])
    with pytest.raises(ValueError, match="not negative"):
        model.sample(3)
    del model.weights_
    with pytest.raises(NotFittedError, match="no weights_; call fit first"):
        model.sample(3)
    with pytest.raises(NotFittedError):
        GaussianMixture(2).sample(3)


@pytest.mark.parametrize("shape", [(272, 2), (271, 3), (272,), (3, 272), (272, 3, 1)])
def test_responsibilities_of_another_shape_are_told_in_one_line(shape):
    for init in (np.ones(shape), lambda *_: np.ones(shape)):
        with pytest.raises(ValueError, match="'init_params' should have the shape of") as error:
            GaussianMixture(3, init_params=init).fit(FAITHFUL)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["full", "diag"])
def test_every_method_works_where_numpy_raises(form):
    """Shares of 1e-300 vanish: that is no fault of the caller's settings."""
    x = np.concatenate([FAITHFUL, FAITHFUL + 500.0])
    with np.errstate(all="raise"):
        model = GaussianMixture(2, covariance_type=form, random_state=0).fit(x, sample_weight=np.full(len(x), 1e-3))
        shares = model.predict_proba(x)
        assert model.fit_predict(x).shape == (len(x),)
        for value in (model.score(x), model.bic(x), model.aic(x), *model.score_samples(x), *model.sample(5)[0].flat):
            assert np.isfinite(value)
        assert np.isfinite(model.score(x, sample_weight=np.ones(len(x))))
        searched = GaussianMixture(2, covariance_type=form, init_params="search", random_state=0).fit(x)
        assert searched.converged_
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert np.sum(shares < 1e-300) > 0


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_criteria_of_weighted_rows_are_those_of_repeated_rows(criterion):
    counts = np.random.default_rng(0).integers(0, 4, len(FAITHFUL))
    model, theirs = (fitted(kind(2, random_state=0), FAITHFUL) for kind in (GaussianMixture, Original))
    right = getattr(theirs, criterion)(np.repeat(FAITHFUL, counts, axis=0))
    np.testing.assert_allclose(getattr(model, criterion)(FAITHFUL, sample_weight=counts), right, rtol=1e-6)
    np.testing.assert_allclose(getattr(model, criterion)(FAITHFUL), getattr(theirs, criterion)(FAITHFUL), rtol=1e-6)
    with pytest.warns(UserWarning, match="sums to 1 for .* rows.*number of observations") as told:
        getattr(model, criterion)(FAITHFUL, sample_weight=counts / counts.sum())
    assert "\n" not in str(told[0].message)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # weights of mean one are no shares
        getattr(model, criterion)(FAITHFUL, sample_weight=np.linspace(0.5, 1.5, len(FAITHFUL)))


MEMORY = f"""{PEAK}
import numpy as np
from jaxem.sklearn import GaussianMixture
k = 400
x = np.random.default_rng(0).normal(size=(400_000, 1)) * 100
model = GaussianMixture.from_parameters(np.full(k, 1 / k), np.arange(k)[:, None] * 1.0, np.ones(k), "spherical")
model.predict(x[:70_000]); model.score_samples(x[:70_000])
before = peak()
labels = model.predict(x)
model.score(x); model.bic(x)
right = np.clip(np.round(x[:, 0]), 0, k - 1)
assert np.mean(labels == right) > 0.999
print(peak() - before)
"""


def test_predict_and_scores_make_no_array_of_rows_and_components():
    """400,000 x 400 numbers are 1.3 GB; a tenth of that is enough."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 130e6, done.stdout
