"""Refits to replicas, the likelihood ratio test and selection by them: against closed forms, refits and R's mclust."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture

import jaxem
from jaxem import GaussianParams, Mixture, Spherical
from jaxem.replicas import replicas_of
from jaxem.rows import as_rows
from tests.cases import reference_mixture, slow_but_first
from tests.conftest import STATISTICAL, X64
from tests.test_inference import em_by_numpy, log_density_by_numpy

pytestmark = pytest.mark.skipif(not X64, reason="compared with float64's fits")

KEY = jax.random.key(0)
KINDS = ("weighted", "multinomial", "parametric")


def flat(parameters):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters)])


def of_error(n_replicates):
    """Relative standard error of a standard deviation over so many replicates, some tails allowed for."""
    return 1.5 / np.sqrt(2 * n_replicates)


@pytest.fixture(scope="module")
def pairs():
    """Rows [300, 1] drawn from two Gaussians on a line, their fit and its summary."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(size=120), 5.0 + 1.5 * rng.normal(size=180)][:, None]
    start = Mixture(jnp.log(jnp.array([0.4, 0.6])), GaussianParams(jnp.array([[0.0], [5.0]]), jnp.ones(2)), Spherical())
    mixture = jaxem.fit(start, x, accelerator=jaxem.hybrid()).mixture
    return x, mixture, jaxem.summary(mixture, x)


@pytest.fixture(scope="module")
def refits(pairs):
    """A bootstrap of each kind."""
    x, mixture, _ = pairs
    return {kind: jaxem.bootstrap(KEY, mixture, x, n_replicates=400, kind=kind) for kind in KINDS}


# -- the bootstrap -------------------------------------------------------------------------------------------------------

OF_MCLUST = {
    "weights": [0.0286, 0.0286],
    "means": [[0.0323, 0.462], [0.0293, 0.607]],
    "covariances": [[[0.0201, 0.268], [0.268, 4.35]], [[0.0144, 0.168], [0.168, 4.35]]],
}
"""standard errors of Old Faithful by 999 multinomial replicates of mclust 6 (MclustBootstrap, VVV, 2), long eruptions first"""


def test_errors_of_old_faithful_are_those_of_mclust():
    """Two standard deviations over replicates differ by chance: 5 standard errors of 999 and of 300 are 15 and 27 per cent."""
    x, mixture = jaxem.datasets.faithful(), reference_mixture("faithful", 2, "full")
    found = jaxem.bootstrap(KEY, mixture, x, n_replicates=300, kind="multinomial").standard_error
    ours = np.r_[flat(found.weights), flat(found.components)]
    ratio = ours / np.concatenate([np.ravel(values) for values in OF_MCLUST.values()])
    np.testing.assert_allclose(np.log(ratio), 0.0, atol=3 * np.hypot(of_error(300), of_error(999)))
    assert abs(np.mean(np.log(ratio))) < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_errors_of_the_information(kind, pairs, refits):
    """On rows that come from the family, within what so many replicates and rows of a sample can say."""
    found = refits[kind]
    assert found.failed == 0
    assert found.kind == kind
    robust = np.asarray(flat(pairs[2].robust_error if kind != "parametric" else pairs[2].standard_error))
    # the errors of so many rows are right to about 1 / sqrt of those that hold a component
    slack = STATISTICAL * of_error(400) + 1 / np.sqrt(120)
    np.testing.assert_allclose(np.log(flat(found.standard_error) / robust), 0.0, atol=slack)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_depends_on_the_key_and_its_number_alone(kind, pairs, refits):
    x, mixture, _ = pairs
    few = jaxem.bootstrap(KEY, mixture, x, n_replicates=50, kind=kind)
    for one, many in zip(jax.tree.leaves(few.replicates), jax.tree.leaves(refits[kind].replicates), strict=True):
        np.testing.assert_allclose(one, many[:50], rtol=1e-7, atol=1e-12)
    other = jaxem.bootstrap(jax.random.key(1), mixture, x, n_replicates=50, kind=kind)
    assert not np.any(np.isclose(other.replicates.log_weights[:, 0], few.replicates.log_weights[:, 0], rtol=1e-12))


def test_components_keep_their_places(refits):
    """Their means are 15 standard errors apart, so a refit whose labels are swapped would be seen."""
    for found in refits.values():
        means = np.asarray(found.replicates.components.means)[:, :, 0]
        assert (means[:, 0] < means[:, 1]).all()
        np.testing.assert_allclose(
            flat(found.standard_error)[:2], np.std(np.exp(found.replicates.log_weights), axis=0, ddof=1), rtol=1e-9
        )


def test_intervals_are_quantiles_and_nest(refits):
    found = refits["weighted"]
    means = np.asarray(found.replicates.components.means)
    for level in (0.5, 0.95):
        lower, upper = found.interval(level)
        for end, at in ((lower, 0.5 - level / 2), (upper, 0.5 + level / 2)):
            np.testing.assert_allclose(end.components.means, np.quantile(means, at, axis=0), rtol=1e-12)
    (narrow, wide) = found.interval(0.5), found.interval(0.95)
    assert (flat(wide[0]) < flat(narrow[0])).all()
    assert (flat(narrow[0]) < flat(narrow[1])).all()
    assert (flat(narrow[1]) < flat(wide[1])).all()
    assert "400 refits, 0 failed" in str(found)


# -- replicas ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["weighted", "multinomial"])
def test_weights_of_replicas_have_the_known_means_and_variances(kind, pairs):
    """Of Dirichlet(w) times W: mean w_i, variance w_i (W - w_i) / (W + 1); of n draws: w_i (W - w_i) / n."""
    _, mixture, _ = pairs
    w = np.tile([0.0, 1.0, 1.0, 2.0, 4.0], 8)
    rows, total, r = as_rows(Spherical(), np.zeros((40, 1)), w, 2), w.sum(), 4000
    drawn = np.asarray(replicas_of(KEY, np.arange(r), rows, kind, mixture).own["weights"]).reshape(r, -1)
    order = np.asarray(rows.weights).ravel()
    np.testing.assert_array_equal(np.sort(order[order > 0]), np.sort(w[w > 0]))
    assert (drawn[:, order == 0] == 0).all()
    np.testing.assert_allclose(drawn.sum(1), total, rtol=1e-9)
    w = order[order > 0]
    variance = w * (total - w) / (total + 1 if kind == "weighted" else total)
    mean_off = (drawn[:, order > 0].mean(0) - w) / np.sqrt(variance / r)
    assert np.abs(mean_off).max() < STATISTICAL
    ratio = drawn[:, order > 0].var(0, ddof=1) / variance
    fourth = 3 + 6 / w  # of a Gamma(w), an upper bound of both
    assert (np.abs(ratio - 1) < STATISTICAL * np.sqrt((fourth - 1) / r)).all()
    if kind == "multinomial":
        np.testing.assert_array_equal(drawn, np.round(drawn))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_count_rows(kind):
    """Rows of weight 3 have the errors of three times as many rows."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(size=60), 6.0 + rng.normal(size=60)][:, None]
    start = Mixture(jnp.log(jnp.array([0.5, 0.5])), GaussianParams(jnp.array([[0.0], [6.0]]), jnp.ones(2)), Spherical())
    w = np.full(120, 3.0)
    mixture = jaxem.fit(start, x, w, accelerator=jaxem.hybrid()).mixture
    counted = jaxem.bootstrap(KEY, mixture, x, w, n_replicates=200, kind=kind)
    expected = flat(jaxem.summary(mixture, x, w).robust_error)
    ratio = flat(counted.standard_error) / expected
    np.testing.assert_allclose(np.log(ratio), 0.0, atol=STATISTICAL * of_error(200) + 1 / np.sqrt(180))


def test_parametric_replicas_keep_what_is_given():
    """Covariates of a regression; the errors are those of least squares."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(size=80), np.zeros(80)])
    x[:, 1] = 1.0 + 2.0 * x[:, 0] + 0.3 * rng.normal(size=80)
    start = jaxem.starts(KEY, jaxem.Regression(1), x, 1, 1)[0]
    mixture = jaxem.fit(start, x).mixture
    rows = as_rows(jaxem.Regression(1), x, None, 1, like=mixture)
    own = replicas_of(KEY, np.arange(3), rows, "parametric", mixture).own
    kept = np.asarray(rows.weights) > 0
    columns = np.asarray(own["blocks"]).transpose(0, 1, 3, 2)[:, kept]
    given = np.asarray(rows.blocks).transpose(0, 2, 1)[kept]
    np.testing.assert_array_equal(columns[:, :, 0], np.broadcast_to(given[:, 0], (3, 80)))
    assert (columns[0, :, 1] != columns[1, :, 1]).all()
    found = jaxem.bootstrap(KEY, mixture, x, n_replicates=300, kind="parametric")
    design = np.column_stack([np.ones(80), x[:, 0]])
    noise = np.linalg.lstsq(design, x[:, 1])[1][0] / 80
    expected = np.sqrt(noise * np.linalg.inv(design.T @ design)[1, 1])
    ratio = float(found.standard_error.components.coefficients[0, 0]) / expected
    assert abs(ratio - 1) < STATISTICAL * of_error(300) + 1 / 80


def test_parametric_replicas_of_counts_have_the_errors_of_counts():
    x = np.random.default_rng(0).poisson(3.0, (50, 1)).astype(float)
    mixture = Mixture(jnp.zeros(1), jaxem.PoissonParams(jnp.array([[x.mean()]])), jaxem.Poisson())
    found = jaxem.bootstrap(KEY, mixture, x, n_replicates=400, kind="parametric")
    ratio = float(found.standard_error.components.rates[0, 0]) / np.sqrt(x.mean() / 50)
    assert abs(ratio - 1) < STATISTICAL / np.sqrt(2 * 400)
    # means of 50 counts are whole numbers of fiftieths
    np.testing.assert_allclose(np.asarray(found.replicates.components.rates) * 50 % 1 % (1 - 1e-6), 0.0, atol=1e-6)


def test_refits_that_collapse_are_counted_and_left_out():
    """Three rows hold a component: where two of them are not drawn it has none, or one."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(size=30), 20.0, 20.5, 21.5][:, None]
    start = Mixture(
        jnp.log(jnp.array([0.9, 0.1])), GaussianParams(jnp.array([[0.0], [20.0]]), jnp.ones(2)), Spherical()
    )
    mixture = jaxem.fit(start, x).mixture
    found = jaxem.bootstrap(KEY, mixture, x, n_replicates=60, kind="multinomial")
    assert found.status.shape == (60,)
    bad = np.array([jaxem.Status(int(one)).failed for one in found.status])
    assert 0 < found.failed == bad.sum() < 60
    assert found.replicates.log_weights.shape == (60 - found.failed, 2)
    assert np.isfinite(flat(found.standard_error)).all()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"kind": "jackknife"}, r"^kind = 'jackknife'; choose from weighted, multinomial, parametric$"),
        ({"n_replicates": 1}, r"^n_replicates = 1"),
        ({"n_replicates": 2.5}, r"^n_replicates = 2.5"),
        ({"max_iter": -1}, r"^max_iter = -1"),
        ({"sample_weight": -np.ones(300)}, r"^sample_weight\[0\] = -1"),
    ],
)
def test_bad_options_of_a_bootstrap_are_refused_in_one_line(wrong, line, pairs):
    x, mixture, _ = pairs
    with pytest.raises((ValueError, TypeError), match=line) as told:
        jaxem.bootstrap(KEY, mixture, x, **wrong)
    assert "\n" not in str(told.value)


def test_bad_levels_and_mixtures_are_refused_or_said(pairs, refits):
    x, mixture, _ = pairs
    for level in (0.0, 1.0, 95, True, "0.95", float("nan")):
        with pytest.raises(ValueError, match=r"^level = "):
            refits["weighted"].interval(level)
    with pytest.raises(TypeError, match=r"^mixture is "):
        jaxem.bootstrap(KEY, Spherical(), x)
    with pytest.raises(ValueError, match="give one mixture"):
        jaxem.bootstrap(KEY, refits["weighted"].replicates, x)
    with pytest.raises(ValueError, match=r"^[^\n]*1[^\n]*$"):
        jaxem.bootstrap(KEY, mixture, np.c_[x, x])
    with pytest.warns(UserWarning, match="is no maximum for these data"):
        jaxem.bootstrap(KEY, mixture, x + 0.5, n_replicates=50)


# -- the likelihood ratio test -------------------------------------------------------------------------------------------

FEW_STARTS = {"n_replicates": 24, "n_starts": 4}


def p_value_of(test):
    return (1 + np.sum(test.replicates >= test.statistic)) / (1 + len(test.replicates))


@pytest.fixture(scope="module")
def of_eruptions():
    """Old Faithful's eruptions [272, 1], and the test of one Gaussian against two."""
    x = jaxem.datasets.faithful()[:, :1]
    return x, jaxem.likelihood_ratio_test(KEY, "spherical", x, 1, **FEW_STARTS)


def test_the_statistic_is_that_of_independent_searches(of_eruptions):
    """One Gaussian in closed form, two by scikit-learn."""
    x, found = of_eruptions
    one = stats.norm.logpdf(x, x.mean(), x.std()).sum()
    model = GaussianMixture(2, covariance_type="spherical", n_init=5, tol=1e-9, reg_covar=0.0, random_state=0).fit(x)
    np.testing.assert_allclose(found.statistic, 2 * (model.score(x) * len(x) - one), atol=1e-3)
    for mixture, value in ((found.null, one), (found.alternative, one + 0.5 * found.statistic)):
        np.testing.assert_allclose(mixture.log_prob(x).sum(), value, atol=1e-6)


def test_two_eruptions_are_told_from_one(of_eruptions):
    """No replicate comes near, so the p-value is the least that there is."""
    _, found = of_eruptions
    assert found.failed == 24 - len(found.replicates)
    assert found.p_value == 1 / (1 + len(found.replicates))
    assert len(found.replicates) >= 22
    assert (found.replicates >= 0).all()
    assert found.replicates.max() < 30 < found.statistic
    assert "Likelihood ratio test of 1 x Spherical against 2 x Spherical" in str(found)


def test_the_larger_model_may_be_named_in_three_ways(of_eruptions):
    x, found = of_eruptions
    for alternative in (2, (Spherical(), 2)):
        again = jaxem.likelihood_ratio_test(KEY, Spherical(), x, 1, alternative, **FEW_STARTS)
        assert again.statistic == found.statistic
        np.testing.assert_array_equal(again.replicates, found.replicates)


def test_a_family_against_a_larger_one_has_the_p_value_of_wilks():
    """One variance against two, which is a regular problem: the statistic has a closed form and is nearly chi-squared."""
    x = np.random.default_rng(2).normal(size=(60, 2)) * [1.0, 1.25]
    found = jaxem.likelihood_ratio_test(KEY, "spherical", x, 1, "diag", n_replicates=99, n_starts=1)
    v = x.var(0)
    np.testing.assert_allclose(found.statistic, 60 * (2 * np.log(v.mean()) - np.log(v).sum()), atol=1e-6)
    expected = stats.chi2.sf(found.statistic, 1)
    assert abs(found.p_value - expected) < STATISTICAL * np.sqrt(expected * (1 - expected) / 99)
    assert found.p_value == p_value_of(found)
    assert stats.kstest(found.replicates, stats.chi2(1).cdf).pvalue > 1e-5
    assert (found.alternative.family, found.alternative.n_components) == (jaxem.Diagonal(), 1)


@pytest.mark.filterwarnings("ignore:a search finds")  # with so few starts
def test_one_gaussian_is_enough_for_one_gaussian():
    """The third of these data sets has no sound optimum of two components that a search would take; the test has."""
    values = []
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(90, 1))
        found = jaxem.likelihood_ratio_test(jax.random.key(seed), "spherical", x, 1, n_replicates=59, n_starts=4)
        assert found.statistic >= 0
        assert (found.replicates >= 0).all()
        slack = 1e-6  # two that are equal but for rounding count as equal
        assert found.p_value == (1 + np.sum(found.replicates >= found.statistic - slack)) / (1 + len(found.replicates))
        values.append(found.p_value)
    assert sum(value > 0.02 for value in values) >= 2, values


@pytest.mark.filterwarnings("ignore:a search finds")
def test_a_test_of_counts_is_that_of_repeated_rows():
    """The statistic, and what it is under the smaller model: replicas have as many rows as the weights count."""
    x, w = np.random.default_rng(0).normal(size=(60, 1)), np.arange(60) % 4
    counted = jaxem.likelihood_ratio_test(KEY, "spherical", x, 1, sample_weight=w, **FEW_STARTS)
    repeated = jaxem.likelihood_ratio_test(KEY, "spherical", np.repeat(x, w, axis=0), 1, **FEW_STARTS)
    np.testing.assert_allclose(counted.statistic, repeated.statistic, atol=1e-3)
    assert abs(np.mean(counted.replicates) / np.mean(repeated.replicates) - 1) < STATISTICAL / np.sqrt(24)
    assert np.mean(counted.replicates) < 10  # as many draws as rows, each of their weight, would have 12 and more


@pytest.mark.parametrize(
    ("k", "options", "line"),
    [
        (2, {"alternative": 2}, "^alternative = 2 is the smaller model itself; give another$"),
        (2, {"alternative": "spherical"}, "^alternative = .* is the smaller model itself; give another$"),
        (2, {"alternative": (Spherical(), 2)}, "^alternative = .* is the smaller model itself; give another$"),
        (2, {"alternative": 1}, "^alternative = 1 has fewer than the 2 components of the smaller model; give more$"),
        (1, {"alternative": True}, "True"),
        (1, {"sample_weight": np.full(6, 0.5)}, "^sample_weight holds parts of rows; .* give whole numbers"),
        (1, {"sample_weight": -np.ones(6)}, r"^sample_weight\[0\] = -1.0; "),
        (7, {}, "^n_components = 7 exceeds the 6 rows"),
        (1, {"n_replicates": 0}, "^n_replicates = 0"),
        (1, {"n_starts": 0}, "^n_starts = 0"),
    ],
)
def test_bad_tests_are_refused_in_one_line(k, options, line):
    with pytest.raises((ValueError, TypeError), match=line) as told:
        jaxem.likelihood_ratio_test(KEY, "spherical", np.arange(6.0)[:, None] ** 2, k, **options)
    assert "\n" not in str(told.value)


# -- selection -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs():
    """Rows [90, 1] of two Gaussians."""
    rng = np.random.default_rng(1)
    return np.r_[rng.normal(size=45), 6.0 + rng.normal(size=45)][:, None]


@pytest.fixture(scope="module")
def by_cv(blobs):
    return jaxem.select(KEY, "spherical", blobs, (1, 2), criterion="cv")


def gaussian_left_out(x, fold):
    """sum_i log p(x_i) by a Gaussian with mean and variance of the rows of other folds."""
    total = 0.0
    for f in np.unique(fold):
        seen, held_out = x[fold != f], x[fold == f]
        total += stats.norm.logpdf(held_out, seen.mean(), seen.std()).sum()
    return total


def test_cv_is_the_log_density_of_rows_left_out(blobs, by_cv):
    """Of refits without a row each, in closed form for one Gaussian and by numpy for two; the least is chosen."""
    x, (one, two) = blobs[:, 0], by_cv.candidates
    refitted = -2 * gaussian_left_out(x, np.arange(90))
    assert abs(one.cv - refitted) < 0.1 * abs(refitted + 2 * one.log_likelihood)
    theta = em_by_numpy(x, 1.0 - np.eye(90), [0.5, 0.0, 6.0, 1.0, 1.0], 60)
    refitted = -2 * float(np.trace(log_density_by_numpy(x, theta)))
    assert abs(two.cv - refitted) < 0.1 * abs(refitted + 2 * two.log_likelihood)
    assert by_cv.chosen == 1
    assert two.cv < one.cv
    assert np.isnan(two.p_value)


def test_cv_picks_the_right_family():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) * [1.0, 2.0]
    found = jaxem.select(KEY, ("spherical", "diag"), x, 1, criterion="cv")
    assert found.candidates[found.chosen].family == jaxem.Diagonal()


def test_cv_by_folds_is_near_that_of_refits_by_hand(blobs):
    """One Gaussian, in closed form: the value lies among those of other random folds."""
    x = blobs[:, 0]
    found = jaxem.select(KEY, "spherical", blobs, 1, criterion="cv", folds=5).candidates[0].cv
    rng = np.random.default_rng(0)
    by_hand = [-2 * gaussian_left_out(x, rng.permutation(np.arange(90) % 5)) for _ in range(200)]
    assert abs(found - np.mean(by_hand)) < STATISTICAL * np.std(by_hand)
    each = jaxem.select(KEY, "spherical", blobs, 1, criterion="cv", folds=90).candidates[0].cv
    np.testing.assert_allclose(each, -2 * gaussian_left_out(x, np.arange(90)), rtol=1e-9)


def test_cv_is_nan_where_a_fold_collapses_and_that_is_not_chosen():
    """Three rows far away, in two folds of random halves: one has at most one of them."""
    x = np.r_[np.random.default_rng(0).normal(size=87), 60.0, 60.7, 61.1][:, None]
    found = jaxem.select(KEY, "spherical", x, (2, 1), criterion="cv", folds=2)
    two, one = found.candidates
    assert np.isnan(two.cv)
    assert np.isfinite(one.cv)
    assert found.chosen == 1


@pytest.mark.filterwarnings("ignore:a search finds")
@pytest.mark.parametrize("enough", slow_but_first((1, 2)))
def test_tests_stop_at_the_first_number_that_is_enough(enough, blobs):
    x = blobs if enough == 2 else blobs - 6.0 * (blobs > 3)
    found = jaxem.select(KEY, "spherical", x, (3, 1, 2), criterion="lrt", n_replicates=24)
    assert [c.n_components for c in found.candidates] == [1, 2, 3]
    values = np.array([c.p_value for c in found.candidates])
    assert (values[: enough - 1] < 0.05).all()
    assert values[enough - 1] > 0.05
    assert np.isnan(values[enough:]).all()
    assert found.chosen == enough - 1
    assert found.best.best.mixture.n_components == enough


def test_tests_compare_numbers_of_components_of_one_family():
    with pytest.raises(ValueError, match=r'^criterion = "lrt" compares .* of one family, and 2 are given$'):
        jaxem.select(KEY, ("spherical", "full"), np.arange(9.0)[:, None], (1, 2), criterion="lrt")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"criterion": "loo"}, "^criterion = 'loo'; choose bic, aic, icl, cv or lrt$"),
        ({"criterion": "cv", "folds": 1}, "^folds = 1"),
        ({"criterion": "cv", "folds": 91}, "^folds = 91"),
        ({"criterion": "lrt", "n_replicates": 0}, "^n_replicates = 0"),
    ],
)
def test_bad_options_of_a_selection_are_refused_in_one_line(options, line, blobs):
    with pytest.raises((ValueError, TypeError), match=line) as told:
        jaxem.select(KEY, "spherical", blobs, (1, 2), **options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", ["weighted", "multinomial", "parametric"])
def test_float32_rows_have_float32_refits(kind):
    """With 64 bits on, as the suite has them."""
    x = np.random.default_rng(0).normal(size=(40, 1)).astype(np.float32)
    mixture = jaxem.fit(jaxem.starts(KEY, Spherical(), x, 1, 1)[0], x).mixture
    found = jaxem.bootstrap(KEY, mixture, x, n_replicates=9, kind=kind)
    assert found.standard_error.components.means.dtype == np.float32
    assert found.failed == 0


def test_parts_of_rows_are_not_drawn():
    """Kinds that draw rows refuse weights that count parts of them; random weights take any, and as many as they are."""
    x, w = np.random.default_rng(0).normal(size=(40, 1)), np.full(40, 1.1)
    mixture = jaxem.fit(jaxem.starts(KEY, Spherical(), x, 1, 1)[0], x, w).mixture
    for kind in ("multinomial", "parametric"):
        with pytest.raises(
            ValueError, match=f'sample_weight holds parts of rows, and kind = "{kind}" draws whole ones'
        ):
            jaxem.bootstrap(KEY, mixture, x, w, n_replicates=9, kind=kind)
    many = np.full(40, 2.0**24)
    errors = [
        float(jaxem.bootstrap(KEY, mixture, x, one, n_replicates=200).standard_error.components.means[0, 0])
        for one in (np.ones(40), many)
    ]
    assert 2.0**11 < errors[0] / errors[1] < 2.0**13


def test_a_smaller_model_is_no_alternative_whatever_its_family():
    x = np.random.default_rng(0).normal(size=(40, 2))
    line = r"alternative = 'spherical' has 3 parameters, the smaller model 5; exchange them"
    with pytest.raises(ValueError, match=line):
        jaxem.likelihood_ratio_test(KEY, "full", x, 1, "spherical", n_replicates=2)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"criterion": "bic", "folds": 5}, "folds = 5 has no meaning for criterion = 'bic'"),
        ({"criterion": "lrt", "prior": jaxem.Dirichlet(2.0)}, 'prior cannot go with criterion = "lrt"'),
    ],
)
def test_options_without_a_meaning_are_refused(options, line):
    with pytest.raises(ValueError, match=line):
        jaxem.select(KEY, "spherical", np.arange(6.0)[:, None], (1, 2), **options)


@pytest.mark.parametrize("of", [jaxem.summary, jaxem.information, jaxem.influence])
def test_relative_frequencies_are_told(of):
    """Errors take weights for counts of rows; those that sum to 1 would make them sqrt(n) times too large in silence."""
    x = np.random.default_rng(0).normal(size=(40, 1))
    mixture = jaxem.fit(jaxem.starts(KEY, Spherical(), x, 1, 1)[0], x).mixture
    with pytest.warns(UserWarning, match="sample_weight sums to 1 for 40 rows: errors take this for the number"):
        of(mixture, x, np.full(40, 1 / 40))


def test_scores_of_rows_without_weight_are_zero():
    x, w = np.array([[0.0], [1.0], [1e200]]), np.array([1.0, 1.0, 0.0])
    mixture = jaxem.Mixture(jnp.zeros(1), GaussianParams(jnp.full((1, 1), 0.5), jnp.full(1, 0.25)), Spherical())
    found = np.asarray(jaxem.scores(mixture, x, w))
    assert (found[2] == 0).all()
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-12)
