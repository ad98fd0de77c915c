"""The Python door: names of families, wrong types told in one line with the remedy, n in BIC, estimators in plots and pages."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.checks import as_family
from jaxem.names import FAMILY_NAMES
from jaxem.rows import as_rows
from tests.cases import blobs
from tests.sklearn_pair import only_once

X = blobs(60)
KEY = jax.random.key(0)
FULL = jaxem.Full()
START = jaxem.starts(KEY, FULL, X, 2, 3)


@pytest.mark.parametrize("name", [*FAMILY_NAMES, "Full", " TIED "])
def test_families_by_name_are_those_by_value(name):
    of_class, *arguments = FAMILY_NAMES[name.strip().lower()]
    family = getattr(jaxem, of_class)(*arguments)
    assert as_family(name) == family
    if name not in ("vev", "bernoulli", "poisson", " TIED "):  # a family is a value: some stand for all
        return
    x = {"bernoulli": (X > 0).astype(float), "poisson": np.abs(np.round(X))}.get(name, X)
    found, right = jaxem.starts(KEY, name, x, 2, 2), jaxem.starts(KEY, family, x, 2, 2)
    assert found.family == family
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_search_and_select_take_names():
    assert jaxem.search(KEY, "spherical", X, 2, budget=30).best.mixture.family == jaxem.Spherical()
    chosen = jaxem.select(KEY, ["spherical", jaxem.Diagonal()], X, 1, budget=10)
    assert [type(one.family).__name__ for one in chosen.candidates] == ["Spherical", "Diagonal"]
    one = jaxem.select(KEY, "tied", X, np.int64(1), budget=10)
    assert [one.n_components for one in one.candidates] == [1]


CLASSES: Any = [jaxem.Full, jaxem.Tied]
WRONG = {
    "a misspelt family": (lambda: jaxem.search(KEY, "ful", X, 2), "family = 'ful' is unknown; choose from .*did you mean 'full'"),
    "a family without brackets": (lambda: jaxem.search(KEY, jaxem.Full, X, 2), r"family = Full is a class; write Full\(\)"),
    "no family": (lambda: jaxem.starts(KEY, None, X, 2, 1), r"family is None; give a family such as jaxem.Full\(\)"),
    "families misspelt": (lambda: jaxem.select(KEY, "diagnal", X, 2), "did you mean 'diagonal'"),
    "classes": (lambda: jaxem.select(KEY, CLASSES, X, 2), r"write Full\(\)"),
    "no mixture": (
        lambda: jaxem.fit(X, 3),
        r"mixture is an array of shape \(60, 2\): .*write jaxem.search\(jax.random.key\(0\), jaxem.Full\(\), x, 3\)",
    ),
    "a list": (lambda: jaxem.fit(X.tolist(), 3), "mixture is a list: data come after a mixture"),
    "restarts of data": (lambda: jaxem.fit_restarts(X, 3), r"jaxem.search\(jax.random.key\(0\), jaxem.Full\(\), x, 3\)"),
    "e_step of data": (lambda: jaxem.e_step(X, X), "data come after a mixture"),
    "a number": (lambda: jaxem.fit(3, X), "mixture is 3; give a jaxem.Mixture"),
    "a result": (lambda: jaxem.fit(jaxem.fit(START[0], X), X), "mixture is a Result; give its .mixture"),
    "verify a search": (lambda: jaxem.verify(jaxem.search(KEY, FULL, X, 1, budget=9), X), "give its .best.mixture"),
    "a number for a key": (lambda: jaxem.search(0, FULL, X, 2), r"key = 0 is a number; write jax.random.key\(0\)"),
    "a key of numpy": (lambda: jaxem.starts(np.int64(7), FULL, X, 2, 1), r"key = 7 is a number; write jax.random.key\(7\)"),
    "several keys": (lambda: jaxem.select(jax.random.split(KEY), FULL, X, 2), r"of shape \(2,\); give one of them"),
    "no key": (lambda: jaxem.search(None, FULL, X, 2), "key is None; give a PRNG key"),
    "arguments in another order": (lambda: jaxem.search(X, FULL, KEY, 2), r"key is an array of shape \(60, 2\)"),
    "a key to sample": (lambda: START[0].sample(3, 5), r"key = 3 is a number; write jax.random.key\(3\)"),
    "a float for k": (lambda: jaxem.search(KEY, FULL, X, 3.0), "n_components = 3.0 is not a whole number"),
    "a text for k": (lambda: jaxem.search(KEY, FULL, X, "3"), "n_components = '3' is not a whole number"),
    "a float for k of select": (lambda: jaxem.select(KEY, FULL, X, 3.0), "n_components = 3.0 is not a whole number"),
    "a text for k of select": (lambda: jaxem.select(KEY, FULL, X, "12"), "n_components = '12' is not a whole number"),
    "a rule that is a number": (lambda: jaxem.fit(START[0], X, stop=1e-3), r"stop is 0.001; .*jaxem.GainBelow\(0.001\)"),
    "a rule that is a class": (lambda: jaxem.fit(START[0], X, stop=jaxem.GainBelow), "stop is the class GainBelow; give"),
    "a prior that is a class": (lambda: jaxem.fit(START[0], X, prior=jaxem.Dirichlet), "prior is the class Dirichlet; give"),
    "a prior that is a function": (lambda: jaxem.search(KEY, FULL, X, 2, prior=jaxem.chen_tan), "prior is the function chen_tan"),
    "an accelerator's name": (lambda: jaxem.fit(START[0], X, accelerator="squarem"), r"is 'squarem'; write jaxem.squarem\(\)"),
    "an accelerator's maker": (lambda: jaxem.fit(START[0], X, accelerator=jaxem.hybrid), r"write jaxem.hybrid\(\)"),
    "a start's name": (lambda: jaxem.starts(KEY, FULL, X, 2, 1, "kmeans"), "initializer is 'kmeans'; give a kind of start"),
    "a start's class": (lambda: jaxem.starts(KEY, FULL, X, 2, 1, jaxem.KMeans), r"KMeans is a class; write KMeans\(\)"),
    "a start that is a function": (lambda: jaxem.starts(KEY, FULL, X, 2, 1, lambda *_: START[0]), "is a plain function"),
    "weights of text": (lambda: jaxem.search(KEY, FULL, X, 2, "abc"), "sample_weight has shape"),
    "weights that are ragged": (lambda: jaxem.search(KEY, FULL, X, 2, [[1], [1, 2]]), "sample_weight is ragged"),
    "no callback": (lambda: jaxem.search(KEY, FULL, X, 2, callback=3), "callback is 3; give a function"),
    "other columns": (
        lambda: jaxem.fit(START[0], as_rows(FULL, np.ones((60, 3)) * X[:, :1], None, 2)),
        "x is ready Rows of 3 columns, the mixture has 2",
    ),
    "another n": (lambda: jaxem.select(KEY, FULL, X, 1, n=-3), "n = -3; give the number of observations"),
    "a text for n": (lambda: jaxem.select(KEY, FULL, X, 1, n="all"), "n = 'all'; give the number of observations"),
    "jit of search": (
        lambda: jax.jit(lambda x: jaxem.search(KEY, FULL, x, 2).best.objective)(X),
        "search decides from the host and cannot run inside jit.*jaxem.starts and jaxem.fit_restarts",
    ),
    "jit of search's key": (lambda: jax.jit(lambda key: jaxem.search(key, FULL, X, 2).best.objective)(KEY), "search decides"),
    "search in a trace of something else": (
        lambda: jax.jit(lambda a: a + jaxem.search(KEY, FULL, X, 2).best.objective)(1.0),
        "search decides from the host",
    ),
    "jit of select": (lambda: jax.jit(lambda x: jaxem.select(KEY, FULL, x, 2).chosen)(X), "select decides from the host"),
    "jit of a callback": (
        lambda: jax.jit(lambda x: jaxem.fit_restarts(START, x, callback=print).objective)(X),
        "fit_restarts with a callback decides from the host",
    ),
    "jit of verify": (lambda: jax.jit(lambda x: jaxem.verify(START[0], x).ok)(X), "verify decides from the host"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_line(what):
    call, message = WRONG[what]
    with pytest.raises((TypeError, ValueError), match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_raw_keys_work_as_before():
    found = jaxem.starts(jax.random.PRNGKey(3), FULL, X, 2, 2)
    right = jaxem.starts(jax.random.key(3), FULL, X, 2, 2)
    np.testing.assert_array_equal(found.components.means, right.components.means)


def test_starts_and_restarts_work_under_jit_with_names():
    def best(x):
        return jnp.max(jaxem.fit_restarts(jaxem.starts(KEY, "full", x, 2, 3), x, max_iter=5).objective)

    inside, outside = jax.jit(best)(jnp.asarray(X)), best(X)
    np.testing.assert_allclose(inside, outside, rtol=1e-5)


def test_constants_inside_jit_are_predicted():
    mixture = START[0]
    inside = jax.jit(lambda a: mixture.log_prob(X) + a)(0.0)
    np.testing.assert_allclose(inside, mixture.log_prob(X), rtol=1e-5)


# -- the n of an information criterion ----------------------------------------------------------------------------------


def bic_of_one(x, w, n):
    """BIC of one Spherical component by numpy: the likelihood weighted by w, and n."""
    d = x.shape[1]
    mean = np.average(x, axis=0, weights=w)
    variance = np.average(np.sum((x - mean) ** 2, axis=1), weights=w) / d
    log_likelihood = -0.5 * w.sum() * d * (np.log(2 * np.pi * variance) + 1)
    return (d + 1) * np.log(n) - 2 * log_likelihood


@pytest.mark.parametrize(
    ("w", "tells"),
    [
        (None, False),
        (np.arange(60) % 4, False),  # counts
        (np.linspace(0.5, 1.5, 60), False),  # mean one
        (np.linspace(0.5, 1.5, 60) / 60, True),  # relative frequencies
        (np.linspace(0.5, 1.5, 60) * 1000.3, True),  # what each row stands for in a population
    ],
    ids=["none", "counts", "mean one", "shares", "expansion"],
)
def test_select_says_its_n_and_warns_where_weights_are_no_counts(w, tells):
    weights = np.ones(60) if w is None else w
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = jaxem.select(KEY, "spherical", X, 1, w, budget=10)
    assert len(told) == tells
    if tells:
        assert "number of observations n; give n=" in str(told[0].message)
        assert told[0].filename == __file__
    assert found.n == pytest.approx(weights.sum())
    assert f"n = {found.n:.10g} observations in BIC" in str(found)
    np.testing.assert_allclose(found.candidates[0].bic, bic_of_one(X, weights, weights.sum()), rtol=1e-4)


def test_n_says_otherwise_and_nothing_is_warned_of():
    shares = np.full(60, 1 / 60)
    found = jaxem.select(KEY, "spherical", X, 1, shares, n=60, budget=10)
    assert found.n == 60.0
    np.testing.assert_allclose(found.candidates[0].bic, bic_of_one(X, shares, 60), rtol=1e-4)


# -- estimators ----------------------------------------------------------------------------------------------------------


@only_once
def test_plots_pages_and_laws_take_an_estimator():
    from matplotlib import pyplot as plt

    from jaxem.html import report
    from jaxem.plots import plot_mixture, plot_responsibilities
    from jaxem.sklearn import GaussianMixture

    model = GaussianMixture(2, covariance_type="spherical", random_state=0).fit(X)
    for of_model, of_mixture in (
        (plot_mixture(model, X), plot_mixture(model.mixture_, X)),
        (plot_responsibilities(model, X), plot_responsibilities(model.mixture_, X)),
    ):
        assert len(of_model.lines) == len(of_mixture.lines) > 0
        for a, b in zip(of_model.lines, of_mixture.lines, strict=True):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())
        plt.close("all")
    page = report(model, X)
    assert f"{model.score(X) * len(X):,.4f}" in page
    assert f"took {model.n_iter_} passes" in page
    assert jaxem.verify(model, X).ok
    assert f"{float(jaxem.e_step(model, X).log_likelihood):,.4f}" in report(model.mixture_, X)
