"""The estimator in company: seeds, pipelines, threads, pickles, and conversions to and from other models."""

import pickle
import subprocess
import sys
import threading

import jax
import joblib
import numpy as np
import pytest
import scipy.stats
import sklearn.mixture
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jaxem.datasets
import jaxem.io
from jaxem.sklearn import GaussianMixture, from_sklearn, to_sklearn
from tests.sklearn_pair import FAITHFUL, Original, by_form, clusters, fitted, only_once

pytestmark = only_once


def test_random_states():
    """An int gives the same fit in another process; a RandomState is consumed as scikit-learn consumes it."""
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
    found = GridSearchCV(GaussianMixture(random_state=0), {"n_components": [1, 3]}, cv=3, n_jobs=2).fit(x)
    expected = GridSearchCV(Original(random_state=0), {"n_components": [1, 3]}, cv=3).fit(x)
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
