"""MixtureModel: scikit-learn's checks, the answers of jaxem.search, likelihoods by the textbook, and what fails in one line."""

import dataclasses
import pickle
import warnings

import jax
import joblib
import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import jaxem
import jaxem.datasets
from jaxem.sklearn import MixtureModel
from tests import oracle
from tests.conftest import ROUNDING, STATISTICAL
from tests.sklearn_pair import only_once
from tests.test_sklearn_suite import RANDOM_STARTS

pytestmark = only_once
FAITHFUL = np.asarray(jaxem.datasets.faithful(), np.float64)
QUICK = {"init_params": "k-means++", "random_state": 0}


def coins(n=200, d=6, seed=0):
    """Rows of zeros and ones, of two kinds."""
    rng = np.random.default_rng(seed)
    return (rng.random((n, d)) < np.where(rng.random((n, 1)) < 0.4, 0.15, 0.8)).astype(float)


COINS = coins()


@pytest.fixture(scope="module")
def of_coins():
    """A model of `COINS`, found by a search; tests do not change it."""
    return MixtureModel("bernoulli", 2, random_state=0).fit(COINS)


@pytest.fixture(scope="module")
def of_geyser():
    """A model of `FAITHFUL`, from k-means++; tests do not change it."""
    return MixtureModel("full", 2, **QUICK).fit(FAITHFUL)


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model.mixture_)]


def assert_same(one, other, rtol=0.0):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


# -- scikit-learn's checks -----------------------------------------------------------------------------------------------


def slow(*options):
    return pytest.param(*options, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("spherical", {"init_params": "k-means++"}),
        slow("full", {}),
        slow(jaxem.Diagonal(), {}),
        slow("tied", {}),
        slow("full", {"n_components": 2}),
        slow("diagonal", {"n_components": 2, "init_params": "kmeans", "n_init": 2, "prior": jaxem.chen_tan}),
    ],
)
def test_check_estimator(family, options):
    expected = {"check_sample_weight_equivalence_on_dense_data": RANDOM_STARTS} if "n_components" in options else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(MixtureModel(family, **options), expected_failed_checks=expected)


def causes(error):
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def test_checks_of_a_family_of_zeros_and_ones_fail_by_their_data_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(MixtureModel("bernoulli"), on_fail=None)
    passed = {one["check_name"] for one in found if one["status"] == "passed"}
    assert {
        "check_no_attributes_set_in_init",
        "check_estimator_cloneable",
        "check_get_params_invariance",
        "check_set_params",
        "check_positive_only_tag_during_fit",
        "check_estimators_unfitted",
    } <= passed
    for one in found:
        if one["status"] == "failed":
            assert any("cannot occur under Bernoulli" in text for text in causes(one["exception"])), one


def test_tags_say_what_the_support_says():
    def positive_only(family):
        return MixtureModel(family).__sklearn_tags__().input_tags.positive_only

    assert positive_only("bernoulli")
    assert not positive_only("full")
    assert not positive_only("no such family")


# -- the answer ----------------------------------------------------------------------------------------------------------


def test_default_is_the_search_from_the_same_key(of_coins):
    key = jax.random.key(np.random.RandomState(0).randint(2**31 - 1))
    found = jaxem.search(key, jaxem.Bernoulli(), COINS, 2)
    for mine, its in zip(leaves(of_coins), jax.tree.leaves(found.best.mixture), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert of_coins.log_likelihood_ == float(found.best.log_likelihood)
    assert of_coins.n_iter_ == int(found.best.n_iter)
    assert of_coins.status_ is jaxem.Status(int(found.best.status))
    assert of_coins.converged_


def test_restarts_keep_the_best():
    model = MixtureModel("full", 4, n_init=4, **QUICK).fit(FAITHFUL)
    key = jax.random.key(np.random.RandomState(0).randint(2**31 - 1))
    begun = jaxem.starts(key, "full", FAITHFUL, 4, 4)
    ended = np.asarray(jaxem.fit_restarts(begun, FAITHFUL, accelerator=jaxem.hybrid()).log_likelihood)
    assert ended.max() > ended[0] + 1  # else any of them would do
    assert model.log_likelihood_ == pytest.approx(ended.max(), rel=ROUNDING)


def test_bernoulli_by_the_textbook(of_coins):
    weights, params = of_coins.weights_, {"probs": of_coins.components_.probs}
    joint = oracle.log_joint(oracle.BERNOULLI, weights, params, COINS)
    log_prob = logsumexp(joint, axis=1)
    np.testing.assert_allclose(of_coins.score_samples(COINS), log_prob, rtol=ROUNDING)
    np.testing.assert_allclose(of_coins.predict_proba(COINS), np.exp(joint - log_prob[:, None]), rtol=1e-8)
    np.testing.assert_array_equal(of_coins.predict(COINS), joint.argmax(axis=1))
    assert of_coins.log_likelihood_ == pytest.approx(log_prob.sum(), rel=ROUNDING)
    assert of_coins.score(COINS) == pytest.approx(log_prob.mean(), rel=ROUNDING)
    assert of_coins.bic(COINS) == pytest.approx(-2 * log_prob.sum() + 13 * np.log(len(COINS)), rel=ROUNDING)
    assert of_coins.aic(COINS) == pytest.approx(-2 * log_prob.sum() + 2 * 13, rel=ROUNDING)
    w = np.arange(len(COINS)) % 3.0
    assert of_coins.score(COINS, sample_weight=w) == pytest.approx(np.average(log_prob, weights=w), rel=ROUNDING)
    # at the maximum one more step of EM, by the textbook, changes nothing
    resp, _ = oracle.e_step(oracle.BERNOULLI, weights, params, COINS, np.ones(len(COINS)))
    again, stepped = oracle.m_step(oracle.BERNOULLI, resp, COINS, np.ones(len(COINS)))
    np.testing.assert_allclose(again, weights, atol=1e-4)
    np.testing.assert_allclose(stepped["probs"], params["probs"], atol=1e-4)


def test_gaussians_by_scipy(of_geyser):
    params = of_geyser.components_
    joint = np.column_stack(
        [
            np.log(weight) + multivariate_normal(mean, matrix).logpdf(FAITHFUL)
            for weight, mean, matrix in zip(of_geyser.weights_, params.means, params.covariances, strict=True)
        ]
    )
    np.testing.assert_allclose(of_geyser.score_samples(FAITHFUL), logsumexp(joint, axis=1), rtol=1e-9)
    assert of_geyser.log_likelihood_ == pytest.approx(-1130.264, abs=1e-3)  # R's mclust, VVV with two components


@pytest.mark.parametrize(("family", "x"), [("full", FAITHFUL), ("bernoulli", COINS)])
def test_a_row_of_weight_2_is_two_rows_and_one_of_weight_0_none(family, x, of_geyser, of_coins):
    start = of_geyser if family == "full" else of_coins
    weight = np.arange(len(x)) % 3  # 0, 1 and 2
    options = {"init_params": start.mixture_, "tol": 1e-13}
    weighed = MixtureModel(family, 2, **options).fit(x, sample_weight=weight)
    copied = MixtureModel(family, 2, **options).fit(np.repeat(x, weight, axis=0))
    assert_same(weighed, copied, 1e-5)
    assert weighed.log_likelihood_ == pytest.approx(copied.log_likelihood_, rel=1e-9)
    assert np.abs(weighed.weights_ - start.weights_).max() > 1e-3  # they do count


def test_weights_count_against_a_prior():
    """In closed form: one component is (ones + alpha - 1) / (n + alpha + beta - 2), where each row counts three."""
    model = MixtureModel("bernoulli", prior=jaxem.Beta(3.0, 2.0), **QUICK).fit(COINS, sample_weight=np.full(200, 3))
    expected = (3 * COINS.sum(axis=0) + 2.0) / (600 + 3.0)
    np.testing.assert_allclose(model.components_.probs[0], expected, rtol=1e-9)


def test_a_prior_may_be_made_from_the_data():
    """In closed form, of one component: the covariance of the data, raised by the floor."""
    floored = MixtureModel("full", prior=lambda x, w: jaxem.variance_floor(x, 0.5, w), **QUICK).fit(FAITHFUL)
    expected = np.cov(FAITHFUL.T, bias=True) + 0.5 * np.eye(2)
    np.testing.assert_allclose(floored.components_.covariances[0], expected, rtol=1e-9)
    made = MixtureModel("full", prior=jaxem.chen_tan, **QUICK).fit(FAITHFUL)  # the data's own is its mode
    np.testing.assert_allclose(made.components_.covariances[0], expected - 0.5 * np.eye(2), rtol=1e-9)


def test_a_row_that_no_component_can_produce_has_the_weights(of_geyser):
    x = np.array([[1e200, 1e200], FAITHFUL[0]])
    shares = of_geyser.predict_proba(x)
    np.testing.assert_allclose(shares[0], of_geyser.weights_, rtol=ROUNDING)
    assert shares[1].max() > 0.99
    assert of_geyser.score_samples(x)[0] == -np.inf
    assert of_geyser.predict(x)[0] == of_geyser.weights_.argmax()


def test_sample(of_coins):
    x, labels = of_coins.sample(4000)
    again, _ = of_coins.sample(4000)
    np.testing.assert_array_equal(x, again)
    expected = np.random.RandomState(0).multinomial(4000, of_coins.weights_)
    np.testing.assert_array_equal(labels, np.repeat([0, 1], expected))  # as scikit-learn draws them
    for j, p in enumerate(of_coins.components_.probs):
        drawn = x[labels == j]
        assert np.all(np.abs(drawn.mean(axis=0) - p) < STATISTICAL * np.sqrt(p * (1 - p) / len(drawn)) + 1e-12)
    for wrong in (0, 2.5, True):
        with pytest.raises(ValueError, match="n_samples"):
            of_coins.sample(wrong)


@dataclasses.dataclass(frozen=True)
class Silent(jaxem.Bernoulli):
    """A family whose rows cannot be drawn."""

    def sample(self, key, params, labels):
        raise NotImplementedError("give sample= to draw rows")


def test_a_family_that_cannot_draw_says_so_itself(of_coins):
    silent = MixtureModel.from_mixture(dataclasses.replace(of_coins.mixture_, family=Silent()))
    with pytest.raises(NotImplementedError, match=r"^give sample= to draw rows$"):
        silent.sample(3)


# -- at home in scikit-learn ---------------------------------------------------------------------------------------------


def test_labels_and_y(of_geyser):
    labels = MixtureModel("full", 2, **QUICK).fit_predict(FAITHFUL, y=np.full(len(FAITHFUL), "ignored"))
    np.testing.assert_array_equal(labels, of_geyser.predict(FAITHFUL))
    np.testing.assert_array_equal(labels, of_geyser.predict_proba(FAITHFUL).argmax(axis=1))
    np.testing.assert_array_equal(np.sort(np.unique(labels)), [0, 1])


def test_copies(of_coins, tmp_path):
    family = jaxem.Bernoulli()
    copy = clone(MixtureModel(family, 3, prior=jaxem.Beta(2.0, 2.0)))
    assert copy.family == family
    assert copy.get_params()["n_components"] == 3
    assert not hasattr(copy, "mixture_")
    assert not hasattr(copy, "weights_")
    joblib.dump(of_coins, tmp_path / "model")
    for kept in (pickle.loads(pickle.dumps(of_coins)), joblib.load(tmp_path / "model")):
        assert_same(kept, of_coins)
        assert kept.status_ is of_coins.status_
        np.testing.assert_array_equal(kept.score_samples(COINS), of_coins.score_samples(COINS))
        assert kept.mixture_.family == of_coins.mixture_.family
    changed = copy.set_params(family="full", n_init=2)
    assert (changed.family, changed.n_init) == ("full", 2)


def test_threads_of_joblib(of_geyser):
    models = joblib.Parallel(2, prefer="threads")(
        joblib.delayed(MixtureModel("full", 2, **QUICK).fit)(FAITHFUL) for _ in range(3)
    )
    for model in models:
        assert_same(model, of_geyser)


def test_grid_search():
    """Scores of a grid are those of fits by hand on the same folds, and the better family is found."""
    folds = KFold(2)
    grid = {"family": [jaxem.Full(), jaxem.Bernoulli()], "n_components": [1]}
    more = {"family": ["bernoulli"], "n_components": [1, 2]}
    searched = GridSearchCV(MixtureModel(**QUICK), [grid, more], cv=folds).fit(COINS)
    results = searched.cv_results_
    assert np.isfinite(results["mean_test_score"]).all()
    assert results["param_family"][0] == jaxem.Full()
    by_hand = []
    for train, test in folds.split(COINS):
        p = COINS[train].mean(axis=0)  # one component of coins
        by_hand.append(np.mean(np.sum(np.log(np.where(COINS[test] == 1, p, 1 - p)), axis=1)))
    np.testing.assert_allclose(results["mean_test_score"][[1, 2]], np.mean(by_hand), rtol=1e-8)
    assert searched.best_params_ == {"family": "bernoulli", "n_components": 2}
    assert searched.score(COINS) == pytest.approx(searched.best_estimator_.log_likelihood_ / len(COINS), rel=ROUNDING)


def test_pipeline(of_geyser):
    scaler = StandardScaler().fit(FAITHFUL)
    pipeline = make_pipeline(StandardScaler(), MixtureModel("full", 2, **QUICK)).fit(FAITHFUL)
    # the density of scaled rows is that of the rows times the scales
    log_scale = np.log(scaler.scale_).sum()
    np.testing.assert_allclose(
        np.sort(pipeline.score_samples(FAITHFUL)), np.sort(of_geyser.score_samples(FAITHFUL) + log_scale), rtol=1e-4
    )
    pipeline.fit(FAITHFUL, mixturemodel__sample_weight=(FAITHFUL[:, 0] > 3).astype(float))
    assert pipeline[-1].components_.means[:, 0].min() * scaler.scale_[0] + scaler.mean_[0] > 3


def test_names_of_columns():
    table = pd.DataFrame(FAITHFUL, columns=["eruption", "waiting"])
    model = MixtureModel("full", 2, **QUICK).fit(table)
    assert model.feature_names_in_.tolist() == ["eruption", "waiting"]
    assert model.n_features_in_ == 2
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table[["waiting", "eruption"]])
    table["both"] = table.eruption + table.waiting
    with pytest.raises(ValueError, match=r"eruption \+ waiting - both = 0"):
        MixtureModel("full", **QUICK).fit(table)


def test_dtypes(of_geyser):
    single = MixtureModel("full", 2, **QUICK).fit(FAITHFUL.astype(np.float32))
    answers = [single.predict_proba(FAITHFUL.astype(np.float32)), single.sample(3)[0], single.weights_]
    assert {one.dtype for one in [*leaves(single), *answers]} == {np.dtype(np.float32)}
    np.testing.assert_allclose(np.sort(single.weights_), np.sort(of_geyser.weights_), atol=2e-3)
    whole = MixtureModel("bernoulli", **QUICK).fit(COINS.astype(np.int8))
    assert {one.dtype for one in leaves(whole)} == {np.dtype(np.float64)}
    with jax.enable_x64(False):  # whatever JAX's setting
        assert_same(MixtureModel("full", 2, **QUICK).fit(FAITHFUL), of_geyser)
        assert of_geyser.sample(3)[0].dtype == np.float64
        assert of_geyser.score_samples(FAITHFUL).dtype == np.float64


def test_a_mixture_becomes_a_model(of_coins, tmp_path):
    jaxem.io.save(of_coins.mixture_, tmp_path / "coins")
    model = MixtureModel.from_mixture(jaxem.io.load(tmp_path / "coins"))
    np.testing.assert_array_equal(model.predict_proba(COINS), of_coins.predict_proba(COINS))
    assert model.n_features_in_ == 6
    with pytest.raises(ValueError, match="features"):
        model.predict(COINS[:, :5])


# -- what does not end well ----------------------------------------------------------------------------------------------

DEPENDENT = np.column_stack([FAITHFUL, FAITHFUL.sum(axis=1)])


@pytest.mark.parametrize(
    ("options", "x", "kind", "words"),
    [
        ({"family": "ful"}, FAITHFUL, ValueError, "did you mean 'full'"),
        ({"family": jaxem.Full}, FAITHFUL, TypeError, "write Full()"),
        ({"n_components": 0}, FAITHFUL, ValueError, "n_components"),
        ({"n_components": 300}, FAITHFUL, ValueError, "300"),
        ({"n_init": 0}, FAITHFUL, ValueError, "n_init"),
        ({"init_params": "k-mean"}, FAITHFUL, ValueError, "k-means++"),
        ({"init_params": 3}, FAITHFUL, ValueError, "init_params has type int"),
        ({"prior": 3}, FAITHFUL, TypeError, "prior is 3"),
        ({"family": "bernoulli"}, FAITHFUL, ValueError, "x[0, 0] = 3.6 cannot occur under Bernoulli"),
        ({"family": "bernoulli"}, -COINS, ValueError, "Negative values in data"),
        ({}, DEPENDENT, ValueError, "columns depend on each other (column 0 + column 1 - column 2 = 0"),
        ({}, np.where(FAITHFUL > 90, np.nan, FAITHFUL), ValueError, "NaN"),
        ({"warm_start": True, "n_components": 3}, FAITHFUL, ValueError, "set warm_start=False"),
        ({"warm_start": True}, DEPENDENT, ValueError, "set warm_start=False"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, (str, dict)) else "",
)
def test_a_fit_that_fails_says_why_and_leaves_the_old_model(options, x, kind, words, of_geyser):
    model = pickle.loads(pickle.dumps(of_geyser)).set_params(**options)
    before = dict(vars(model))
    with pytest.raises(kind) as failed:
        model.fit(x)
    first = str(failed.value).splitlines()[0]
    assert words in first
    if "NaN" not in words:  # those words are scikit-learn's
        assert str(failed.value) == first
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(model.predict(FAITHFUL), of_geyser.predict(FAITHFUL))


def test_without_a_fit_there_is_no_model():
    for use in (MixtureModel().predict, MixtureModel().score, lambda _: MixtureModel().sample()):
        with pytest.raises(NotFittedError):
            use(FAITHFUL)


@pytest.mark.parametrize("weight", [-np.ones(272), np.zeros(272), np.ones(3)])
def test_weights_that_cannot_be_used(weight):
    with pytest.raises(ValueError, match=r"[Ww]eight"):
        MixtureModel("full", **QUICK).fit(FAITHFUL, sample_weight=weight)


def test_not_converged_is_warned_of(capsys):
    model = MixtureModel("full", 2, max_iter=2, verbose=1, **QUICK)
    with pytest.warns(ConvergenceWarning, match="raise max_iter") as warned:
        model.fit(FAITHFUL)
    assert warned[0].filename == __file__
    assert "passes" in capsys.readouterr().out
    assert not model.converged_
    assert model.status_ is jaxem.Status.MAX_ITER
    assert model.n_iter_ == 2
    reached = model.log_likelihood_
    model.set_params(warm_start=True, max_iter=2000).fit(FAITHFUL)
    assert model.converged_
    assert model.log_likelihood_ > reached
    went_on = model.log_likelihood_
    model.fit(FAITHFUL)  # from the end there is little left to gain
    assert model.n_iter_ < 5
    assert model.log_likelihood_ >= went_on * (1 + ROUNDING)


def test_a_search_without_a_maximum_gives_a_penalised_fit():
    model = MixtureModel("full", random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"penalised fit.*columns depend on each other.*set family='diagonal'"):
        model.fit(DEPENDENT)
    assert not model.converged_
    assert model.status_ is jaxem.Status.DEGENERATE
    assert np.isfinite(model.score(DEPENDENT))
