"""The drop-in: scikit-learn's numbers, scikit-learn's tests, and the right answer where scikit-learn's is wrong.

The estimator computes float64 in float64 whatever JAX's setting, so nothing here depends on the suite's.
"""

import inspect
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import pandas
import polars
import pyarrow
import pytest
import scipy.sparse
import scipy.stats
import sklearn
import sklearn.mixture
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture.tests import test_gaussian_mixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import jaxem
import jaxem.datasets
import jaxem.io
from jaxem.sklearn import FORMS, REGULARISED, GaussianMixture, _Added, from_sklearn, to_sklearn
from tests.conftest import X64
from tests.sklearn_suite import LEFT_OUT

Original = sklearn.mixture.GaussianMixture
pytestmark = pytest.mark.skipif(not X64, reason="the same in either mode: run once")
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
FAITHFUL = np.asarray(jaxem.datasets.faithful(), np.float64)
by_form = pytest.mark.parametrize("form", FORMS)


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


# -- the same numbers ----------------------------------------------------------------------------------------------------


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
        # two restarts that are as high but for rounding are one optimum: the same but for the order of components
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
    """All given, some given, none of the turns made, and one more each time from where the last fit stopped."""
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
    """Line by line what scikit-learn prints, but for the time."""
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
        old = jaxem.starts(jax.random.key(1), family, x, 3, 1)[0]
        stats = jaxem.e_step(old, x)
        added = _Added(jnp.asarray(reg_covar), jnp.zeros(()))
        d, k = x.shape[1], 3
        new = jaxem.Mixture(
            old.log_weights, REGULARISED[form].m_step(old.components, stats.counts, stats.components, added), family
        )

        def penalised(free):
            mixture = old.constrain(free)
            traces = jnp.trace(
                jnp.linalg.inv(family.as_matrices(mixture.components.covariances, k, d)), axis1=1, axis2=2
            )
            return jaxem.proxy(mixture, old, x) - 0.5 * reg_covar * jnp.sum(stats.counts * traces)

        at = jaxem.Mixture(jaxem.m_step(old, stats).log_weights, new.components, family).unconstrain()
        slope, before = jax.grad(penalised)(at), jax.grad(penalised)(old.unconstrain())
        assert float(jnp.max(jnp.abs(slope))) < 1e-9 * max(1.0, float(jnp.max(jnp.abs(before))))


# -- scikit-learn's own tests --------------------------------------------------------------------------------------------


def run_suite(seeds):
    environment = {**os.environ, "SKLEARN_TESTS_GLOBAL_RANDOM_SEED": seeds, "SKLEARN_RUN_FLOAT32_TESTS": "1"}
    command = [sys.executable, "-m", "tests.sklearn_suite"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_scikit_learns_tests_pass():
    told = run_suite("42")
    assert {*LEFT_OUT} <= {*re.findall(r"def (test_\w+)", inspect.getsource(test_gaussian_mixture))}
    # all others, 62 of which build the class, but for those that ask for another array library or its settings
    assert int(re.search(r"(\d+) passed", told).group(1)) >= 72


@pytest.mark.slow
def test_scikit_learns_tests_pass_at_ten_seeds():
    run_suite("0-9")


RANDOM_STARTS = "starts are drawn by row: a row twice is not a row of weight 2 (tested from given starts instead)"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_components": 2, "covariance_type": "tied"},
        {"n_components": 2, "covariance_type": "diag", "n_init": 3},
        {"n_components": 3, "covariance_type": "spherical", "init_params": "k-means++"},
        {"n_components": 2, "init_params": "random", "reg_covar": 1e-3},
        pytest.param({"n_components": 2, "init_params": "search"}, marks=pytest.mark.slow),
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()) or "default",
)
def test_check_estimator(options):
    expected = {"check_sample_weight_equivalence_on_dense_data": RANDOM_STARTS} if options else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(GaussianMixture(**options), expected_failed_checks=expected)


def test_it_is_our_own():
    assert not any(kind.__module__.startswith("sklearn.mixture") for kind in GaussianMixture.__mro__)
    names = [name for name in sys.modules if name.startswith("sklearn.mixture")]
    code = f"import sys, jaxem.sklearn; print([n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- where the original is wrong -----------------------------------------------------------------------------------------


def test_integers_score_as_their_floats():
    x = np.random.default_rng(0).integers(0, 20, size=(100, 2))
    model = GaussianMixture(2, random_state=0).fit(x)
    np.testing.assert_array_equal(model.score_samples(x), model.score_samples(x.astype(float)))


@by_form
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_float32_far_from_the_origin(form, offset):
    """Against the original in float64 on the same numbers, moved back."""
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
    unit = {"full": [np.eye(2)] * 2, "tied": np.eye(2), "diag": np.ones((2, 2)), "spherical": np.ones(2)}[form]
    start = {"weights_init": [0.5, 0.5], "means_init": [x[0], [1e6, 1e6]], "precisions_init": unit}
    model = fitted(GaussianMixture(2, covariance_type=form, reg_covar=0, max_iter=1, **start), x)
    pooled = np.cov(x.T, bias=True)
    expected = {"full": pooled, "tied": pooled, "diag": np.diag(pooled), "spherical": np.trace(pooled) / 2}[form]
    assert model.weights_.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(model.means_[1], x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(model.covariances_ if form == "tied" else model.covariances_[1], expected, rtol=1e-9)
    assert not model.predict(x).any()


def spiked(seed=0):
    """A cloud, and five rows that are the same."""
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


# -- beyond the original -------------------------------------------------------------------------------------------------


@by_form
def test_a_row_of_weight_two_stands_for_two(form):
    """From given responsibilities, against plain repetition; rows of weight 0 are absent, whatever they hold."""
    x, weight = clusters(90), np.tile([1, 2, 0, 3, 1], 18)
    resp = np.eye(3)[np.random.default_rng(0).integers(0, 3, 90)] + 0.2
    weighted = fitted(GaussianMixture(3, covariance_type=form, init_params=resp), x, sample_weight=weight)
    again = np.repeat(np.arange(90), weight)
    repeated = fitted(GaussianMixture(3, covariance_type=form, init_params=resp[again]), x[again])
    assert_same_fit(repeated, weighted)
    np.testing.assert_allclose(weighted.score(x, sample_weight=weight), weighted.score(x[again]), rtol=1e-12)
    wild = np.where(weight[:, None] == 0, 1e200, x)
    ignoring = fitted(GaussianMixture(3, covariance_type=form, init_params=resp), wild, sample_weight=weight)
    assert_same_fit(weighted, ignoring)


def test_weights_of_rows_reach_the_starts():
    x = clusters(90)
    weight = (np.arange(90) % 3 > 0).astype(float)
    for init in ("kmeans", "k-means++", "random", "random_from_data"):
        model = fitted(GaussianMixture(2, init_params=init, random_state=0, max_iter=0), x, sample_weight=weight)
        assert np.isfinite(model.means_).all()
        wild = np.where(weight[:, None] == 0, 50.0, x)
        same = fitted(GaussianMixture(2, init_params=init, random_state=0, max_iter=0), wild, sample_weight=weight)
        if init == "random":
            np.testing.assert_allclose(same.means_, model.means_, rtol=1e-9)
        assert np.abs(same.means_).max() < 20


def test_starts_of_ones_own():
    halves = (FAITHFUL[:, 0] > 3).astype(int)
    given = GaussianMixture(2, init_params=np.eye(2)[halves]).fit(FAITHFUL)
    drawn = GaussianMixture(2, init_params=lambda x, k, random_state: np.eye(k)[halves], n_init=2).fit(FAITHFUL)
    np.testing.assert_array_equal(given.means_, drawn.means_)
    assert len(drawn.restart_lower_bounds_) == 2
    for bad, message in (
        (np.ones((3, 2)), "should have the shape of"),
        (-np.ones((272, 2)), "responsibilities below zero"),
        (np.full((272, 2), np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            GaussianMixture(2, init_params=bad).fit(FAITHFUL)
    with pytest.raises(ValueError, match="makes its own starts"):
        GaussianMixture(2, init_params="search", means_init=FAITHFUL[:2]).fit(FAITHFUL)
    for name in ("means_init", "weights_init"):
        masked = np.ma.masked_array(
            FAITHFUL[:2] if name == "means_init" else [0.5, 0.5],
            mask=[True, False] if name == "weights_init" else [[True, False]] * 2,
        )
        with pytest.raises(ValueError, match="mask"):
            GaussianMixture(2, **{name: masked}).fit(FAITHFUL)


def test_search_finds_the_best_optimum():
    """Old Faithful, K = 3: scikit-learn's default ends 14 nats below the best known."""
    for form, best in (("full", -1114.439873), ("tied", -1126.315928)):
        model = GaussianMixture(3, covariance_type=form, init_params="search", random_state=0).fit(FAITHFUL)
        assert abs(model.score(FAITHFUL) * 272 - best) < 1e-5
        assert model.converged_
        assert model.lower_bound_ == max(model.restart_lower_bounds_)
        np.testing.assert_allclose(model.lower_bound_ * 272, best, atol=1e-5)
    again = GaussianMixture(3, covariance_type="tied", init_params="search", random_state=0).fit(FAITHFUL)
    np.testing.assert_array_equal(again.means_, model.means_)


def test_search_where_the_likelihood_has_no_maximum():
    x = np.column_stack([clusters(60), np.ones(60)])
    with pytest.warns(ConvergenceWarning, match="the likelihood has no maximum"):
        model = GaussianMixture(2, init_params="search", random_state=0).fit(x)
    assert not model.converged_
    assert np.isfinite(model.predict_proba(x)).all()


def test_chunks_change_nothing():
    x = clusters(300)
    whole, chunked = (GaussianMixture(3, random_state=0, chunk_size=size).fit(x) for size in (None, 7))
    np.testing.assert_allclose(chunked.means_, whole.means_, rtol=1e-9)
    np.testing.assert_allclose(chunked.predict_proba(x), whole.predict_proba(x), rtol=1e-7, atol=1e-12)


# -- input of every kind -------------------------------------------------------------------------------------------------

WHOLE = np.random.default_rng(4).integers(0, 9, size=(80, 2))


def kinds(tmp_path):
    reference = WHOLE.astype(np.float64)
    yield "int64", WHOLE
    yield "uint8", WHOLE.astype(np.uint8)
    yield "float16", WHOLE.astype(np.float16)
    yield "big-endian", WHOLE.astype(">f8")
    yield "big-endian int", WHOLE.astype(">i4")
    yield "fortran", np.asfortranarray(reference)
    yield "backwards", reference[::-1][::-1]
    yield "strided", np.repeat(reference, 2, axis=1)[:, ::2]
    frozen = reference.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    np.save(tmp_path / "x.npy", reference)
    yield "memmap", np.load(tmp_path / "x.npy", mmap_mode="r")
    yield "lists", WHOLE.tolist()
    yield "object", reference.astype(object)
    yield "pandas", pandas.DataFrame(WHOLE, columns=["a", "b"])
    yield "pandas nullable", pandas.DataFrame(WHOLE, columns=["a", "b"]).astype({"a": "Int64", "b": "Float64"})
    yield "polars", polars.DataFrame({"a": WHOLE[:, 0], "b": WHOLE[:, 1]})
    yield "pyarrow", pyarrow.table({"a": WHOLE[:, 0], "b": WHOLE[:, 1]})


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.filterwarnings("ignore:X has feature names")
def test_input_of_every_kind(tmp_path):
    expected = GaussianMixture(2, random_state=0).fit(WHOLE.astype(np.float64))
    scores = expected.score_samples(WHOLE.astype(np.float64))
    for name, x in kinds(tmp_path):
        before = np.array(x, np.float64, copy=True)
        model = GaussianMixture(2, random_state=0).fit(x)
        assert model.means_.dtype == np.float64, name
        np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(model.score_samples(x), scores, rtol=1e-9, err_msg=name)
        np.testing.assert_array_equal(np.array(x, np.float64), before, err_msg=name)
    for table in (pandas.DataFrame(WHOLE, columns=["a", "b"]), polars.DataFrame({"a": WHOLE[:, 0], "b": WHOLE[:, 1]})):
        model = GaussianMixture(2, random_state=0).fit(table)
        assert model.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(pandas.DataFrame(WHOLE, columns=["a", "c"]))


def test_booleans_and_single_precision():
    flags = np.random.default_rng(0).random((60, 3)) < [0.2, 0.5, 0.8]
    model = GaussianMixture(2, random_state=0).fit(flags)
    np.testing.assert_allclose(model.means_, GaussianMixture(2, random_state=0).fit(flags.astype(float)).means_)
    single = GaussianMixture(2, random_state=0).fit(np.asarray(FAITHFUL, ">f4"))
    assert {getattr(single, name).dtype for name in ATTRIBUTES} == {np.dtype(np.float32)}
    assert single.predict_proba(np.float32(FAITHFUL)).dtype == np.float32
    assert single.score_samples(FAITHFUL).dtype == np.float64
    assert np.isfinite(single.score_samples([[1e30, 0.0]])).all()  # float64 that float32 cannot hold the square of


BAD_DATA = {
    "NaN": np.where(FAITHFUL > 90, np.nan, FAITHFUL),
    "inf": np.where(FAITHFUL > 90, np.inf, FAITHFUL),
    "complex": FAITHFUL.astype(complex),
    "strings": [["a", "b"], ["c", "d"]],
    "1-D": FAITHFUL[:, 0],
    "3-D": FAITHFUL[None],
    "no rows": FAITHFUL[:0],
    "no columns": FAITHFUL[:, :0],
    "sparse": scipy.sparse.csr_matrix(FAITHFUL),
    "n < K": FAITHFUL[:2],
    "ragged": [[1.0, 2.0], [3.0]],
    "None": [[1.0, None], [2.0, 3.0]],
    "pandas NA": pandas.DataFrame({"a": pandas.array([1, None, 3], "Int64"), "b": [1.0, 2.0, 3.0]}),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_gives_scikit_learns_error(kind):
    told = []
    for model in pair(3):
        with pytest.raises((ValueError, TypeError)) as raised:
            model.fit(BAD_DATA[kind])
        told.append((type(raised.value), str(raised.value)))
    assert told[0] == told[1]


BAD_OPTIONS = (
    {"n_components": 0}, {"n_components": 1.5}, {"n_components": "2"}, {"tol": -1.0}, {"tol": np.nan}, {"reg_covar": -1e-6},
    {"max_iter": -1}, {"n_init": 0}, {"covariance_type": "round"}, {"init_params": "nowhere"}, {"random_state": "seed"},
    {"warm_start": 3.5}, {"verbose": "yes"}, {"verbose_interval": 0}, {"weights_init": [0.5, 0.6]}, {"weights_init": [2.0, -1.0]},
    {"weights_init": [1.0]}, {"weights_init": [np.nan, 1.0]}, {"means_init": [[1.0, 2.0]]}, {"means_init": [[np.inf, 0], [0, 0]]},
    {"precisions_init": [np.eye(2)]}, {"precisions_init": [-np.eye(2)] * 2}, {"precisions_init": [[[1, 2], [0, 1]]] * 2},
    {"covariance_type": "diag", "precisions_init": [[1, 0], [1, 1]]}, {"covariance_type": "tied", "precisions_init": -np.eye(2)},
    {"covariance_type": "spherical", "precisions_init": [1.0]}, {"chunk_size": 0},
)  # fmt: skip


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_bad_options_name_the_parameter(options):
    """In the type and the words of the original, where it has the parameter and refuses the value."""
    options = {"n_components": 2, **options}
    with pytest.raises(ValueError) as ours:  # noqa: PT011 - what it says is compared below
        GaussianMixture(**options).fit(FAITHFUL)
    name = next(name for name in options if name != "n_components" or len(options) == 1)
    named = {"weights_init": "weights", "means_init": "means", "precisions_init": "precision"}.get([*options][-1], name)
    assert named in str(ours.value) or [*options][-1] in str(ours.value)
    if "chunk_size" in options or "init_params" in options:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = refusal(Original(**options))
    assert type(ours.value) is type(theirs)
    if "NaN" not in str(theirs) and "infinity" not in str(theirs):  # ours says in what
        # a set of choices is listed in any order
        assert sorted(re.findall(r"[\w.-]+", str(ours.value))) == sorted(re.findall(r"[\w.-]+", str(theirs)))


def refusal(model):
    """What fitting raises."""
    try:
        model.fit(FAITHFUL)
    except ValueError as error:
        return error
    return None


def test_warm_starts_from_other_data():
    """Another dtype goes on in it; what cannot be a start is named, not met inside."""
    model = GaussianMixture(2, warm_start=True, random_state=0).fit(np.float32(FAITHFUL))
    assert model.fit(FAITHFUL).means_.dtype == np.float64
    assert model.fit(np.float32(FAITHFUL)).means_.dtype == np.float32
    model.fit(np.round(FAITHFUL).astype(int))
    for change in ({"covariance_type": "tied"}, {"covariance_type": "diag"}, {"n_components": 3}):
        with pytest.raises(ValueError, match="warm_start goes on from"):
            clone_with_parameters(model, **change).fit(FAITHFUL)


def clone_with_parameters(model, **change):
    copy = pickle.loads(pickle.dumps(model))
    return copy.set_params(**change)


def test_attributes_may_be_set_by_hand():
    """They are arrays to write to, and as in scikit-learn precisions_cholesky_ is what predicts."""
    ours, theirs = GaussianMixture(2, random_state=0).fit(FAITHFUL), Original(2, random_state=0).fit(FAITHFUL)
    for model in (ours, theirs):
        model.means_ += 0.5
        model.precisions_cholesky_ = model.precisions_cholesky_ * 1.5
    np.testing.assert_allclose(ours.score_samples(FAITHFUL), theirs.score_samples(FAITHFUL), rtol=1e-9)
    for model in (ours, theirs):
        model.covariances_[0] *= 7
    np.testing.assert_allclose(ours.score_samples(FAITHFUL), theirs.score_samples(FAITHFUL), rtol=1e-9)


def test_callables_get_a_copy():
    x, resp = FAITHFUL.copy(), np.eye(2)[(FAITHFUL[:, 0] > 3).astype(int)]
    GaussianMixture(2, init_params=lambda x, k, random_state: (x.fill(0), resp)[1]).fit(x)
    np.testing.assert_array_equal(x, FAITHFUL)


def test_equal_weights_are_no_weights():
    for init in ("kmeans", "k-means++", "random", "random_from_data"):
        plain, weighted = (
            fitted(GaussianMixture(3, init_params=init, random_state=1), FAITHFUL, sample_weight=w)
            for w in (None, np.full(272, 0.25))
        )
        np.testing.assert_allclose(weighted.means_, plain.means_, rtol=1e-9)


def test_bad_weights_of_rows():
    model = GaussianMixture(2, random_state=0)
    for bad, message in (
        (np.zeros(272), "zero"), (-np.ones(272), "[Nn]egative"), (np.full(272, np.nan), "NaN"), (np.ones(3), "shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model.fit(FAITHFUL, sample_weight=bad)
    with pytest.raises(ValueError, match="fewer than n_components"):
        model.fit(FAITHFUL, sample_weight=np.eye(1, 272)[0])
    plain = model.fit(np.float32(FAITHFUL)).means_
    for scale in (1e-300, 1e300):  # weights count by their ratios
        np.testing.assert_allclose(
            model.fit(np.float32(FAITHFUL), sample_weight=np.full(272, scale)).means_, plain, rtol=1e-6
        )
    with pytest.raises(ValueError, match=r"means_init.*too large for float32"):
        GaussianMixture(2, means_init=np.full((2, 2), 1e300)).fit(np.float32(FAITHFUL))


def test_other_data_than_it_was_fitted_on():
    model = GaussianMixture(2, random_state=0, warm_start=True).fit(FAITHFUL)
    for ask in (model.predict, model.score, model.predict_proba, model.score_samples, model.bic):
        with pytest.raises(ValueError, match="X has 3 features, but GaussianMixture is expecting 2"):
            ask(np.ones((4, 3)))
    with pytest.raises(ValueError, match="warm_start"):
        model.set_params(n_components=3).fit(FAITHFUL)


# -- in company ----------------------------------------------------------------------------------------------------------


def test_random_states():
    """Ints give the same in another process, a RandomState is consumed as scikit-learn consumes it."""
    code = (
        "import jaxem.datasets; from jaxem.sklearn import GaussianMixture as G; x = jaxem.datasets.faithful();"
        "print(G(3, n_init=2, init_params='random', random_state=11, max_iter=400).fit(x).means_.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = GaussianMixture(3, n_init=2, init_params="random", random_state=11, max_iter=400).fit(FAITHFUL)
    np.testing.assert_allclose(np.array(eval(done.stdout)), here.means_, rtol=1e-6)
    after = []
    for kind in (Original, GaussianMixture):
        state = np.random.RandomState(3)
        fitted(kind(3, n_init=2, random_state=state), FAITHFUL).sample(5)
        after.append(state.uniform())
    assert after[0] == after[1]


def test_pipelines_searches_copies_and_pickles(tmp_path):
    x = clusters()
    model = GaussianMixture(3, random_state=0).fit(x)
    path = tmp_path / "model.joblib"
    joblib.dump(model, path)
    for copy in (pickle.loads(pickle.dumps(model)), joblib.load(path)):
        np.testing.assert_array_equal(copy.predict_proba(x), model.predict_proba(x))
    assert not hasattr(clone(model), "means_")
    scaled = make_pipeline(StandardScaler(), GaussianMixture(3, random_state=0)).fit(x)
    assert scaled.predict(x).shape == (240,)
    found = GridSearchCV(GaussianMixture(random_state=0), {"n_components": [1, 2, 3]}, cv=3, n_jobs=2).fit(x)
    expected = GridSearchCV(Original(random_state=0), {"n_components": [1, 2, 3]}, cv=3).fit(x)
    assert found.best_params_ == expected.best_params_
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], rtol=1e-9)


def test_threads_give_the_serial_answer():
    sets = [clusters(seed=seed) for seed in range(6)]
    serial = [GaussianMixture(3, random_state=0).fit(x).means_ for x in sets]
    found = [None] * 6

    def work(i):
        found[i] = GaussianMixture(3, random_state=0).fit(np.float64(sets[i])).means_

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, serial)


@by_form
def test_conversions(form, tmp_path):
    x = clusters()
    model = GaussianMixture(3, covariance_type=form, random_state=0).fit(x)
    scores = model.score_samples(x)
    built = GaussianMixture.from_parameters(model.weights_, model.means_, model.covariances_, form)
    jaxem.io.save(model.mixture_, tmp_path / "model")
    with jax.enable_x64(True):
        loaded = GaussianMixture.from_mixture(jaxem.io.load(tmp_path / "model"))
    theirs = to_sklearn(model)
    assert type(theirs) is Original
    for other in (built, loaded, theirs, from_sklearn(theirs), to_sklearn(model.mixture_)):
        np.testing.assert_allclose(other.score_samples(x), scores, rtol=1e-9)
        np.testing.assert_allclose(other.precisions_, model.precisions_, rtol=1e-9, atol=1e-12)
    assert from_sklearn(theirs).get_params() == model.get_params()
    by_hand = GaussianMixture(3, covariance_type=form)
    by_hand.weights_, by_hand.means_ = model.weights_, model.means_
    by_hand.precisions_cholesky_ = model.precisions_cholesky_
    np.testing.assert_allclose(by_hand.score_samples(x), scores, rtol=1e-9)


def test_parameters_of_no_mixture():
    good = ([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [np.eye(2)] * 2)
    for i, bad, message in (
        (0, [0.5, 0.6], "normalized"), (0, [1.0], "shape"), (1, [[np.nan, 0], [0, 0]], "NaN"),
        (2, [np.eye(2)], "shape"), (2, [-np.eye(2)] * 2, "positive-definite"), (2, [[[1, 2], [0, 1]]] * 2, "symmetric"),
    ):  # fmt: skip
        parameters = [*good[:i], bad, *good[i + 1 :]]
        with pytest.raises(ValueError, match=message):
            GaussianMixture.from_parameters(*parameters)
    with pytest.raises(ValueError, match="covariance_type"):
        GaussianMixture.from_parameters(*good, "round")
    for bad in (["full"], None):
        with pytest.raises(ValueError, match="covariance_type"):
            GaussianMixture.from_parameters(*good, bad)
    with pytest.raises(ValueError, match="symmetric"):
        GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1e-9, 5e-10], [-5e-10, 1e-9]]])
    with pytest.raises(ValueError, match="ill-defined"):
        GaussianMixture.from_parameters([1.0], [[0.0]], [1e-320], "spherical")
    for other in (sklearn.mixture.BayesianGaussianMixture(), "model"):
        with pytest.raises(TypeError, match=r"give a fitted sklearn\.mixture\.GaussianMixture"):
            from_sklearn(other)
    model = GaussianMixture.from_parameters(*good)
    expected = [scipy.stats.multivariate_normal([m, m]).logpdf([0.2, 0.1]) for m in (0, 1)]
    np.testing.assert_allclose(model.score_samples([[0.2, 0.1]]), np.logaddexp(*expected) - np.log(2))


def test_a_missing_extra_is_named():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "try: import jaxem.sklearn\n"
        "except ModuleNotFoundError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'jaxem[sklearn]'" in done.stdout
