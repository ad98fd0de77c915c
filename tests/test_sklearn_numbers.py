"""scikit-learn's numbers to nine digits, and the right answer where scikit-learn's is wrong."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import jaxem
from jaxem.sklearn import FORMS, GaussianMixture, _RegCovar
from tests.cases import KINDS
from tests.sklearn_pair import (
    ATTRIBUTES,
    FAITHFUL,
    Original,
    assert_same_fit,
    by_form,
    clusters,
    fitted,
    only_once,
    pair,
)

pytestmark = only_once


# -- the same numbers --------------------------------------------------------------------------------------------------


@by_form
@pytest.mark.parametrize("init", ["kmeans", "random", "k-means++", "random_from_data"])
@pytest.mark.parametrize("n_init", [1, 3])
def test_starts_turns_and_parameters_are_scikit_learns(form, init, n_init):
    if form == "tied" and init in ("k-means++", "random_from_data"):
        pytest.skip("there scikit-learn starts from X'X of all rows over the number of components: see the next test")
    x = clusters()
    theirs, ours = pair(3, covariance_type=form, init_params=init, n_init=n_init, random_state=5)
    np.testing.assert_allclose(fitted(ours, x).score(x), fitted(theirs, x).score(x), rtol=1e-9)
    if n_init > 1 and not np.allclose(ours.means_, theirs.means_):
        # two restarts whose heights differ by rounding alone are one optimum, with its components in any order
        np.testing.assert_allclose(np.sort(ours.weights_), np.sort(theirs.weights_), rtol=1e-4)
        np.testing.assert_allclose(np.sort(ours.means_, axis=0), np.sort(theirs.means_, axis=0), rtol=1e-4)
        return
    assert_same_fit(theirs, ours)
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    for criterion in ("bic", "aic"):
        np.testing.assert_allclose(getattr(ours, criterion)(x), getattr(theirs, criterion)(x), rtol=1e-9)
    for drawn, expected in zip(ours.sample(50), theirs.sample(50), strict=True):
        np.testing.assert_allclose(drawn, expected, rtol=1e-9, atol=1e-9)


def test_a_tied_start_at_rows_is_no_worse_than_scikit_learns():
    x = clusters()
    theirs, ours = pair(3, covariance_type="tied", init_params="k-means++", random_state=1)
    assert fitted(ours, x).score(x) > fitted(theirs, x).score(x) + 0.1


@by_form
def test_given_starts(form):
    """Starts of which all or some parts are given, fits of no turn, and warm starts that go on from the last fit."""
    x = clusters()
    base = fitted(Original(3, covariance_type=form, random_state=2, max_iter=2), x)
    given = {"weights_init": base.weights_, "means_init": base.means_, "precisions_init": base.precisions_}
    for names in (list(given), ["weights_init"], ["means_init"], ["means_init", "precisions_init"]):
        some = {name: given[name] for name in names}
        theirs, ours = pair(3, covariance_type=form, random_state=2, **some)
        assert_same_fit(fitted(theirs, x), fitted(ours, x))
    theirs, ours = (fitted(model, x) for model in pair(3, covariance_type=form, random_state=2, max_iter=0))
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9)
    assert (ours.n_iter_, ours.converged_, ours.lower_bounds_) == (0, False, [])
    theirs, ours = pair(3, covariance_type=form, random_state=2, max_iter=2, warm_start=True, tol=1e-5)
    for _ in range(8):
        assert_same_fit(fitted(theirs, x), fitted(ours, x))


def test_what_verbose_prints(capsys):
    """Every line that scikit-learn prints, with any time in it."""
    x = clusters()
    for verbose in (1, 2):
        lines = []
        for model in pair(3, n_init=2, verbose=verbose, verbose_interval=3, random_state=0, init_params="random"):
            fitted(model, x)
            lines.append(re.sub(r"time lapse [0-9.]+s", "time", capsys.readouterr().out))
        assert lines[0] == lines[1]
        assert "Iteration 3" in lines[0]


@by_form
def test_reg_covar_is_the_maximiser_it_is_said_to_be(form):
    """The M-step's gradient of the proxy less reg_covar / 2 sum_j counts_j tr(inv Sigma_j) is zero, by autodiff."""
    with jax.enable_x64(True):
        x, reg_covar = jnp.asarray(clusters(60)) - jnp.asarray(clusters(60)).mean(axis=0)[None], 0.3
        family = FORMS[form]
        old = jax.tree.map(lambda leaf: leaf[0], jaxem.starts(jax.random.key(1), family, x, 3, 1))
        stats = jaxem.e_step(old, x)
        d, k = x.shape[1], 3
        prior = _RegCovar(jnp.asarray(reg_covar), jnp.zeros(d), jnp.eye(d))
        new = jaxem.m_step(old, stats, prior)

        def penalised(free):
            mixture = old.constrain(free)
            traces = jnp.trace(
                jnp.linalg.inv(family.as_matrices(mixture.components.covariances, k, d)), axis1=1, axis2=2
            )
            return jaxem.proxy(mixture, old, x) - 0.5 * reg_covar * jnp.sum(stats.counts * traces)

        at = new.unconstrain()
        slope, before = jax.grad(penalised)(at), jax.grad(penalised)(old.unconstrain())
        assert float(jnp.max(jnp.abs(slope))) < 1e-9 * max(1.0, float(jnp.max(jnp.abs(before))))


# -- where the original is wrong ---------------------------------------------------------------------------------------


def test_integers_score_as_their_floats():
    x = np.random.default_rng(0).integers(0, 20, size=(100, 2))
    model = GaussianMixture(2, random_state=0).fit(x)
    np.testing.assert_array_equal(model.score_samples(x), model.score_samples(x.astype(float)))


@by_form
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_float32_far_from_the_origin(form, offset):
    """The fit agrees with the original's in float64 on the same rows moved to the origin."""
    rng = np.random.default_rng(1)
    x = np.float32(rng.normal(size=(300, 2)) + np.array([[0, 0], [8, 0]])[rng.integers(0, 2, 300)] + offset)
    ours = GaussianMixture(2, covariance_type=form, random_state=0).fit(x)
    theirs = Original(2, covariance_type=form, random_state=0).fit(x.astype(np.float64) - offset)
    assert ours.covariances_.dtype == np.float32
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.means_ - np.float32(offset), theirs.means_, atol=2 * np.spacing(np.float32(offset)))


def test_a_failed_fit_leaves_the_old_model():
    model = GaussianMixture(2, random_state=0, reg_covar=0).fit(FAITHFUL)
    before = {name: np.copy(value) for name, value in vars(model).items()}
    with pytest.raises(ValueError, match="ill-defined"):
        fitted(model, np.ones((20, 3)))
    assert vars(model).keys() == before.keys()
    for name, value in vars(model).items():
        np.testing.assert_array_equal(value, before[name])
    assert model.predict(FAITHFUL[:2]).shape == (2,)


@by_form
def test_an_empty_component_takes_the_mean_and_no_weight(form):
    x = FAITHFUL + 100
    kept = KINDS[FORMS[form]].form
    unit = kept.reduced(np.stack([np.eye(2)] * 2), [0.5, 0.5])
    start = {"weights_init": [0.5, 0.5], "means_init": [x[0], [1e6, 1e6]], "precisions_init": unit}
    model = fitted(GaussianMixture(2, covariance_type=form, reg_covar=0, max_iter=1, **start), x)
    pooled = kept.reduced(np.stack([np.cov(x.T, bias=True)] * 2), [0.5, 0.5])
    assert model.weights_.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(model.means_[1], x.mean(axis=0), rtol=1e-12)
    found, expected = (kept.matrix(covariances, 1, 2) for covariances in (model.covariances_, pooled))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert not model.predict(x).any()


def spiked(seed=0):
    """Rows of a cloud, and five rows that are equal."""
    return np.concatenate([np.random.default_rng(seed).normal(size=(40, 2)), np.full((5, 2), 9.0)])


def test_one_collapsed_restart_does_not_spoil_the_others():
    x = spiked()
    on_spike = np.zeros((45, 2))
    on_spike[:, 0], on_spike[40:] = 1, [0, 1]
    halves = np.eye(2)[(x[:, 0] > 0.1).astype(int)]
    draws = iter([on_spike, halves, on_spike])
    options = {"n_init": 3, "reg_covar": 0, "tol": 1e-9, "max_iter": 500}
    model = GaussianMixture(2, init_params=lambda x, k, random_state: next(draws), **options)
    found = fitted(model, x)
    assert found.restart_statuses_[0] == found.restart_statuses_[2] == "DEGENERATE"
    alone = fitted(GaussianMixture(2, init_params=halves, **options), x)
    assert found.restart_statuses_[1] == alone.restart_statuses_[0]
    np.testing.assert_allclose(found.means_, alone.means_, rtol=1e-9)


@by_form
def test_collapse_at_the_start_raises_as_scikit_learn_does(form):
    x = np.repeat([[0.0, 0.0], [1.0, 1.0]], 5, axis=0)
    for model in pair(2, covariance_type=form, reg_covar=0, n_init=2, random_state=0):
        with pytest.raises(
            ValueError, match="Fitting the mixture model failed because some components have ill-defined"
        ):
            model.fit(x)
    single = GaussianMixture(2, covariance_type=form, reg_covar=0, random_state=0)
    with pytest.raises(ValueError, match="passing float64 data instead of float32"):
        single.fit(np.float32(x))


def test_collapse_on_the_way_keeps_the_last_valid_parameters():
    x = spiked()
    start = {"weights_init": [0.5, 0.5], "means_init": [[0, 0], [9, 9]], "precisions_init": [np.eye(2)] * 2}
    model = GaussianMixture(2, reg_covar=0, **start)
    with pytest.warns(ConvergenceWarning, match="component 1 collapsed in iteration"):
        model.fit(x)
    assert not model.converged_
    assert model.restart_statuses_ == ("DEGENERATE",)
    for name in ATTRIBUTES:
        assert np.isfinite(getattr(model, name)).all(), name
    assert np.isfinite(model.score(x))
    shared = GaussianMixture(2, covariance_type="tied", reg_covar=0, **{**start, "precisions_init": np.eye(2)})
    with pytest.warns(ConvergenceWarning, match="covariance of all components collapsed"):
        shared.fit(np.repeat([[0.0, 0.0], [9.0, 9.0]], 5, axis=0))


def test_masked_values_are_not_data():
    masked = np.ma.masked_array(FAITHFUL, mask=FAITHFUL > 90)
    model = GaussianMixture(2, random_state=0)
    with pytest.raises(ValueError, match="mask"):
        model.fit(masked)
    with pytest.raises(ValueError, match="mask"):
        model.fit(FAITHFUL).predict(masked)
    np.testing.assert_allclose(model.fit(np.ma.masked_array(FAITHFUL)).means_, model.fit(FAITHFUL).means_)


def test_a_row_too_far_away_is_named():
    model = GaussianMixture(2, random_state=0).fit(FAITHFUL)
    for ask in (model.predict_proba, model.predict):
        with pytest.raises(ValueError, match="too large"):
            ask([[3, 60], [1e200, 0]])
    assert model.predict_proba([[1e150, 0]]).sum() == 1
    assert model.score_samples([[1e200, 0], [1e308, -1e308]]).tolist() == [-np.inf, -np.inf]
    with pytest.raises(ValueError, match="too large"):
        model.fit(FAITHFUL * 1e200)


def test_reg_covar_that_blurs_the_data_is_warned_of():
    with pytest.warns(UserWarning, match="reg_covar = 1e-06 is no small part of the variance of feature 0"):
        GaussianMixture(2, random_state=0).fit(FAITHFUL * 1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(2, random_state=0, reg_covar=1e-16).fit(FAITHFUL * 1e-4)
        GaussianMixture(2, random_state=0).fit(np.column_stack([FAITHFUL, np.ones(len(FAITHFUL))]))


@by_form
def test_a_variance_of_reg_covar_alone(form):
    model = GaussianMixture(2, covariance_type=form, reg_covar=0.1, random_state=0).fit(np.float32([[9999], [0]]))
    np.testing.assert_allclose(model.covariances_, 0.1, rtol=1e-6)
