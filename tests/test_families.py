"""Families beyond Gaussians and coins: their laws, what they find, what they refuse."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

import jaxem
from jaxem import (
    Categorical,
    Diagonal,
    Full,
    Labelled,
    Mixture,
    Product,
    Regression,
    Spherical,
    StudentT,
    Uniform,
    Union,
    laws,
)
from tests.cases import BEHIND, NUMERICAL, OTHERS, RESPONSES, SEMI_SUPERVISED, blobs, named
from tests.conftest import ROUNDING, X64

KEY = jax.random.key(0)
FLOAT = jnp.zeros(()).dtype
DEATHS = np.arange(10.0)[:, None], np.array([162.0, 267, 271, 185, 111, 61, 27, 8, 3, 1])
"""deaths of women of 80 and more on a day, and the days with so many (Hasselblad 1969)"""


@pytest.mark.skipif(not X64, reason="verify computes in float64 in either mode")
@pytest.mark.parametrize("case", **named(OTHERS, first=4))
def test_laws_hold(case):
    report = laws.verify(case.mixture(), case.data(), prior=case.prior)
    assert report.ok, f"\n{report}"
    always = {"additive", "tight", "fisher", "ascent", "maximum", "chart", "block", "equivariant"}
    exact = {"stationary", "maximal", "unbeaten", "rate"} if case.family.exact else set()
    drawn = set() if case.family.n_given else {"sample", "normalised"}
    step = {"step"} if isinstance(case.family, Full) and case.prior is None else set()
    assert {law.name for law in report.laws} == always | exact | drawn | step


# -- what is known of the answer -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not X64, reason="a plateau of 2,000 EM steps, flatter than float32 can see")
def test_two_poissons_of_deaths():
    """The maximum and its rates are known; EM needs 2,000 steps to get there, the accelerator few."""
    x, days = DEATHS
    start = Mixture(jnp.log(jnp.array([0.3, 0.7])), jaxem.PoissonParams(jnp.array([[1.0], [2.5]])), jaxem.Poisson())
    result = jaxem.fit(start, x, days, accelerator=jaxem.hybrid(), stop=jaxem.RemainingGainBelow(1e-13))
    np.testing.assert_allclose(result.log_likelihood, -1989.945860, atol=1e-6)
    rates, weights = result.mixture.components.rates[:, 0], result.mixture.weights
    np.testing.assert_allclose(rates, [1.256095320, 2.663404514], rtol=1e-5)
    np.testing.assert_allclose(weights, [0.359885549, 0.640114451], rtol=1e-4)
    assert int(result.n_iter) < 100
    plain = jaxem.fit(start, x, days, max_iter=1000, stop=jaxem.GainBelow(0.0))
    assert float(plain.log_likelihood) < float(result.log_likelihood) - 1e-7


def _contaminated(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 2))
    x[150:, 0] += 6.0
    far = rng.uniform(-60, 60, (15, 2))
    return np.concatenate([x, far]), np.repeat([0, 1], 150)


@pytest.mark.any_dtype
def test_student_t_is_robust_where_full_is_not():
    x, truth = _contaminated()
    robust, plain = (jaxem.search(KEY, family, x, 2).best.mixture for family in (StudentT(), Full()))
    errors = []
    for mixture in (robust, plain):
        found = np.asarray(mixture.predict(x[:300]))
        errors.append(min(np.mean(found != truth), np.mean(found == truth)))
    assert errors[0] < 0.02
    assert errors[1] > 0.2
    assert np.min(np.asarray(robust.components.dofs)) < 2  # one takes all that is far away


@pytest.mark.skipif(not X64, reason="a gradient of zero, in float64")
def test_student_t_ends_where_the_gradient_is_zero_dof_included():
    x, _ = _contaminated()
    mixture = jaxem.search(KEY, StudentT(), x, 2, stop=jaxem.RemainingGainBelow(1e-12)).best.mixture
    gradient = jax.grad(lambda at: mixture.constrain(at).log_prob(x).sum())(mixture.unconstrain())
    # in units of one row's standard errors, over all rows
    assert float(jnp.max(jnp.abs(gradient * mixture.units()))) < 1e-6 * len(x)


def test_student_t_of_gaussian_rows_is_full():
    """With 10^7 degrees of freedom a step of Student's t is that of a Gaussian; by plain EM on the same start."""
    x = blobs(200)
    full = jaxem.starts(KEY, Full(), x, 2, 1)[0]
    fixed = StudentT(1e7)
    params = jaxem.StudentTParams(full.components.means, full.components.covariances, jnp.full(2, 1e7, FLOAT))
    one, other = (jaxem.fit(m, x, max_iter=5) for m in (full, Mixture(full.log_weights, params, fixed)))
    np.testing.assert_allclose(one.log_likelihood, other.log_likelihood, rtol=max(1e-6, ROUNDING))
    np.testing.assert_allclose(
        one.mixture.components.covariances, other.mixture.components.scales, rtol=1e-4, atol=1e-4
    )


def test_a_product_of_diagonals_is_diagonal():
    x = np.random.default_rng(0).normal(size=(80, 3)) + np.repeat([0.0, 4.0], 40)[:, None]
    whole = jaxem.starts(KEY, Diagonal(), x, 2, 1)[0]
    means, covariances = whole.components
    parts = tuple(jaxem.GaussianParams(means[:, c], covariances[:, c]) for c in (np.array([2, 0]), np.array([1])))
    product = Mixture(whole.log_weights, parts, Product((Diagonal(), (2, 0)), (Diagonal(), (1,))))
    one, other = (jaxem.fit(m, x, max_iter=8) for m in (whole, product))
    np.testing.assert_allclose(one.log_likelihood, other.log_likelihood, rtol=10 * ROUNDING)
    np.testing.assert_allclose(
        one.mixture.components.means[:, [2, 0]], other.mixture.components[0].means, rtol=1e3 * ROUNDING, atol=1e-5
    )


def test_one_regression_is_least_squares():
    """Weighted, far from the origin, by numpy."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 2)) * [1.0, 5.0] + [100.0, -40.0]
    y = 3.0 + z @ [2.0, -1.0] + rng.normal(size=60)
    w = rng.uniform(0.2, 2.0, 60)
    x = np.column_stack([z, y])
    mixture = jaxem.starts(KEY, Regression(2), x, 1, 1, sample_weight=w)[0]
    mixture = jaxem.fit(mixture, x, w).mixture
    root = np.sqrt(w)[:, None]
    design = np.column_stack([np.ones(60), z])
    expected = np.linalg.lstsq(root * design, root[:, 0] * y, rcond=None)[0]
    np.testing.assert_allclose(mixture.components.coefficients[0], expected[1:], rtol=1e3 * ROUNDING)
    np.testing.assert_allclose(mixture.components.intercepts[0], expected[0], rtol=1e5 * ROUNDING)
    np.testing.assert_allclose(
        mixture.components.variances[0], np.average((y - design @ expected) ** 2, weights=w), rtol=1e3 * ROUNDING
    )


@pytest.mark.any_dtype
def test_two_crossing_lines_are_found():
    rng = np.random.default_rng(1)
    z, line = rng.uniform(-3, 3, 200), rng.integers(0, 2, 200)
    y = np.where(line == 0, 1.0 + 2.0 * z, -2.0 * z) + 0.3 * rng.normal(size=200)
    x = np.column_stack([z, y])
    found = jaxem.search(KEY, Regression(1), x, 2).best
    truth = jaxem.RegressionParams(*map(jnp.asarray, ([1.0, 0.0], [[2.0], [-2.0]], [0.09, 0.09], [[0.0], [0.0]])))
    best = jaxem.fit(Mixture(jnp.log(jnp.array([0.5, 0.5])), truth, Regression(1)), x, accelerator=jaxem.hybrid())
    np.testing.assert_allclose(found.log_likelihood, best.log_likelihood, rtol=10 * ROUNDING, atol=2e-3)
    np.testing.assert_allclose(np.sort(found.mixture.components.coefficients[:, 0]), [-2, 2], atol=0.1)


@pytest.mark.any_dtype
def test_labels_hold_components_apart_and_give_them_their_numbers():
    """Two clusters that overlap, and a label for a few rows of each; component j is that of label j, from every seed."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 150)
    x = rng.normal(size=(300, 2)) + np.where(truth == 1, 3.0, 0.0)[:, None]
    label = np.where(rng.uniform(size=300) < 0.1, truth, -1.0)
    rows = np.column_stack([x, label])
    for seed in range(3):
        found = jaxem.search(jax.random.key(seed), SEMI_SUPERVISED, rows, 2).best.mixture
        np.testing.assert_array_equal(np.argmin(np.asarray(found.components[0].means)[:, 0]), 0)
        unlabelled = np.column_stack([x, np.full(300, -1.0)])
        assert np.mean(np.asarray(found.predict(unlabelled)) == truth) > 0.95
        known = label >= 0
        np.testing.assert_array_equal(np.asarray(found.predict(rows))[known], truth[known])
    for initializer in (jaxem.KMeans(), jaxem.KMeansPlusPlus(), jaxem.RandomPoints(), jaxem.RandomParameters()):
        starts = jaxem.starts(KEY, SEMI_SUPERVISED, rows, 2, 4, initializer)
        best = jaxem.best(jaxem.fit_restarts(starts, rows)).mixture
        assert np.mean(np.asarray(best.predict(rows)) == truth) > 0.95, initializer


@pytest.mark.any_dtype
def test_a_component_begins_at_a_row_of_its_label():
    """Where one cluster has all labels but a few, so that rows drawn at random would hardly ever fit them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    label = np.full(200, -1.0)
    label[[3, 7]], label[[11, 12, 13]], label[42] = 0, 1, 2
    family = Product((Spherical(), (0, 1)), (Labelled(), (2,)))
    rows = np.column_stack([x, label])
    starts = jaxem.starts(KEY, family, rows, 3, 12, jaxem.RandomParameters())
    means = np.asarray(starts.components[0].means, float)  # [12, 3, 2]
    nearest = np.argmin(((means[:, :, None] - x[None, None]) ** 2).sum(axis=-1), axis=-1)
    np.testing.assert_array_equal(label[nearest], np.tile([0.0, 1.0, 2.0], (12, 1)))
    assert len(set(nearest[:, 0].tolist())) == 2  # drawn, not the first


@pytest.mark.any_dtype
def test_a_background_takes_the_outliers():
    x, truth = _contaminated()
    family = Union((Full(), 2), (Uniform((-70, -70), (70, 70)), 1))
    found = jaxem.search(KEY, family, x, 3).best
    resp = np.asarray(found.mixture.responsibilities(x))
    far = np.abs(x).max(axis=1) > 20
    assert np.all(resp[far, 2] > 0.99)
    np.testing.assert_allclose(found.mixture.weights[2], 15 / 315, atol=0.02)
    labels = np.argmax(resp[:300, :2], axis=1)
    assert min(np.mean(labels != truth), np.mean(labels == truth)) < 0.02
    np.testing.assert_allclose(np.linalg.det(found.mixture.components[0].covariances), 1.0, atol=0.5)


@pytest.mark.any_dtype
def test_a_box_stays_where_it_was_put():
    """Rows far from the origin, whose columns a fit centres: the bounds are those that were given."""
    x = _contaminated()[0] + 100.0
    box = Uniform((30.0, 30.0), (170.0, 170.0))
    family = Product((Union((Spherical(), 2), (box, 1)), (0, 1)), (Labelled(), (2,)))
    rows = np.column_stack([x, np.full(len(x), -1.0)])
    for mixture in (
        jaxem.search(KEY, Union((Spherical(), 2), (box, 1)), x, 3, budget=100).best.mixture.components[1],
        jaxem.starts(KEY, family, rows, 3, 1)[0].components[0][1],
        jaxem.starts(KEY, family, rows, 3, 1, jaxem.KMeans())[0].components[0][1],
    ):
        np.testing.assert_allclose(mixture.lows, [[30.0, 30.0]], rtol=10 * ROUNDING)
        np.testing.assert_allclose(mixture.highs, [[170.0, 170.0]], rtol=10 * ROUNDING)


def test_a_row_of_weight_zero_is_no_centre():
    x, w = np.array([[1e6], [3], [4], [5], [30], [31], [29]]), np.array([0.0, 1, 1, 1, 1, 1, 1])
    for seed in range(4):
        start = jaxem.starts(jax.random.key(seed), jaxem.Poisson(), x, 2, 1, jaxem.KMeans(), sample_weight=w)
        assert float(jnp.max(start.components.rates)) < 40


def test_a_prior_of_a_product_speaks_of_each_parts_columns():
    alpha = jnp.asarray([[2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    of_part = jaxem.DirichletProbs(alpha).of_columns(np.array([2, 0]), 3)
    np.testing.assert_array_equal(of_part.alpha, [[6, 7], [2, 3]])
    own = jaxem.DirichletProbs(alpha[:2]).of_columns(np.array([2, 0]), 3)
    np.testing.assert_array_equal(own.alpha, alpha[:2])
    normal = jaxem.NormalInverseWishart(2.0, jnp.diag(jnp.arange(1.0, 4.0)), 1.0, jnp.arange(3.0))
    some = normal.of_columns(np.array([2, 1]), 3)
    np.testing.assert_array_equal(jax.tree.leaves(some)[1], np.diag([3.0, 2.0]))
    np.testing.assert_array_equal(jax.tree.leaves(some)[3], [2, 1])


@pytest.mark.any_dtype
def test_parts_with_numbers_of_one_name_are_all_shown():
    rng = np.random.default_rng(0)
    for family, x in (
        (Product((Categorical(2), (0,)), (jaxem.Bernoulli(), (1,))), rng.integers(0, 2, (20, 2)) * 1.0),
        (Product((Regression(1), (0, 1)), (Full(), (2,))), rng.normal(size=(20, 3))),
        (Product((Diagonal(), (1,)), (Full(), (0, 2))), rng.normal(size=(20, 3))),
    ):
        mixture = jaxem.starts(KEY, family, x, 2, 1)[0]
        shown = family.table(mixture.components)
        given = sum(leaf.size for part, of in zip(family.families, mixture.components, strict=True)
                    for leaf in part.table(of).values())  # fmt: skip
        assert sum(np.count_nonzero(~np.isnan(values)) for values in shown.values()) == given
        assert str(mixture)


@pytest.mark.any_dtype
def test_numbers_and_kinds_in_one_row():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 100)
    x = np.column_stack([rng.normal(size=200) + 2.5 * truth, rng.uniform(size=200) < np.where(truth, 0.9, 0.2)]) * 1.0
    mixed = Product((Diagonal(), (0,)), (Categorical(2), (1,)))
    found = jaxem.search(KEY, mixed, x, 2).best.mixture
    alone = jaxem.search(KEY, Diagonal(), x[:, :1], 2).best.mixture
    errors = []
    for mixture, rows in ((found, x), (alone, x[:, :1])):
        wrong = np.mean(np.asarray(mixture.predict(rows)) != truth)
        errors.append(min(wrong, 1 - wrong))
    assert errors[0] < errors[1]


# -- any density ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not X64, reason="passes are compared at a tolerance that float32 cannot hold")
def test_numerical_ends_where_diagonal_does_in_hardly_more_passes():
    x = blobs(200, separation=3.5) / 2.0
    stop = jaxem.GainBelow(1e-11)
    start = jaxem.starts(KEY, Diagonal(), x, 2, 1)[0]
    free = jnp.concatenate([start.components.means, 0.5 * jnp.log(start.components.covariances)], axis=1)
    numerical = Mixture(start.log_weights, jaxem.NumericalParams(free), NUMERICAL)
    exact, found = (jaxem.fit(mixture, x, stop=stop, max_iter=5000) for mixture in (start, numerical))
    np.testing.assert_allclose(found.log_likelihood, exact.log_likelihood, rtol=1e-8)
    assert int(found.n_iter) <= 1.3 * int(exact.n_iter)
    assert jaxem.Status(int(found.status)) == jaxem.Status.CONVERGED
    trace = np.asarray(found.trace)[: int(found.n_iter) + 1]
    assert np.all(np.diff(trace) >= -1e-9)


def gamma_log_prob(params, row):
    shape, rate = jnp.exp(params[0]), jnp.exp(params[1])
    return shape * params[1] - jax.scipy.special.gammaln(shape) + (shape - 1) * jnp.log(row[0]) - rate * row[0]


def gamma_init(x, sample_weight):
    share = sample_weight / jnp.sum(sample_weight)
    mean = jnp.sum(share * x[:, 0])
    shape = mean**2 / jnp.sum(share * (x[:, 0] - mean) ** 2)
    return jnp.log(jnp.stack([shape, shape / mean]))


GAMMA = jaxem.Numerical(gamma_log_prob, gamma_init)


@pytest.mark.skipif(not X64, reason="compared to eight digits")
def test_numerical_gamma_ends_where_scipy_maximises():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.gamma(9.0, 0.3, 150), rng.gamma(3.0, 4.0, 150)])[:, None]

    def negative(theta):
        weight = 1 / (1 + np.exp(-theta[0]))
        one, other = (stats.gamma(np.exp(a), scale=np.exp(-b)).pdf(x[:, 0]) for a, b in (theta[1:3], theta[3:5]))
        return -np.sum(np.log(weight * one + (1 - weight) * other))

    begin = np.array([0.0, np.log(9.0), np.log(3.0), np.log(3.0), np.log(0.25)])
    best = optimize.minimize(negative, begin, method="BFGS", options={"gtol": 1e-7})
    found = jaxem.search(KEY, GAMMA, x, 2).best
    np.testing.assert_allclose(found.log_likelihood, -best.fun, rtol=1e-8)


def test_a_step_that_fell_is_halved():
    """From far away Newton's steps overshoot: the climb goes up all the same, and to the maximum of one component."""
    x = np.random.default_rng(0).gamma(2.0, 3.0, 200)[:, None]
    start = Mixture(jnp.zeros(1, FLOAT), jaxem.NumericalParams(jnp.asarray([[3.5, -4.0]], FLOAT)), GAMMA)
    result = jaxem.fit(start, x, stop=jaxem.GainBelow(1e-7), max_iter=500)
    trace = np.asarray(result.trace)[: int(result.n_iter) + 1]
    assert np.all(np.diff(trace) >= -ROUNDING * np.abs(trace[1:]))
    assert not np.all(np.diff(trace) > 0)  # some step was refused
    shape, _, scale = stats.gamma.fit(x[:, 0], floc=0)
    expected = stats.gamma(shape, scale=scale).logpdf(x[:, 0]).sum()
    np.testing.assert_allclose(result.log_likelihood, expected, rtol=1e-5)


def _cauchy(params, row):
    return -jnp.log1p((row[0] - params[0]) ** 2) - jnp.log(jnp.pi)


CAUCHY = jaxem.Numerical(_cauchy, lambda x, sample_weight: jnp.zeros(1))


def test_where_the_curvature_is_negative_a_step_leads_up_all_the_same():
    """Between two heaps the log density of a Cauchy is convex: Newton's step would lead down, and there is no maximum."""
    x = np.repeat([5.0, -5.0, 8.0], [50, 50, 10])[:, None]
    start = Mixture(jnp.zeros(1, FLOAT), jaxem.NumericalParams(jnp.full((1, 1), 0.5, FLOAT)), CAUCHY)
    result = jaxem.fit(start, x)
    expected = -optimize.minimize(lambda at: -stats.cauchy.logpdf(x[:, 0], at[0]).sum(), [4.0]).fun
    np.testing.assert_allclose(result.log_likelihood, expected, rtol=1e-6)
    assert np.isfinite(start.log_prob(x[:1])).all()  # init is not asked about rows of a fitted mixture


def test_a_step_that_is_not_a_number_ends_the_climb():
    def log_prob(params, row):
        return -((row[0] - params[0]) ** 2) + 0.0 * jnp.sqrt(params[0] - params[0])

    family = jaxem.Numerical(log_prob, lambda x, sample_weight: jnp.zeros(1))
    start = Mixture(jnp.zeros(1, FLOAT), jaxem.NumericalParams(jnp.ones((1, 1), FLOAT)), family)
    result = jaxem.fit(start, np.ones((5, 1)), max_iter=500)
    assert jaxem.Status(int(result.status)) == jaxem.Status.NONFINITE
    assert int(result.n_iter) < 3


def test_a_divergence_may_be_infinite():
    one, other = (
        Mixture(jnp.zeros(1), Uniform(0.0, high).init(jnp.zeros((1, 1)), 1), Uniform(0.0, high)) for high in (2.0, 1.0)
    )
    found = jaxem.kl_divergence(one, other, KEY, 100)
    assert np.isposinf(found.value)
    assert np.isposinf(found.standard_error)
    np.testing.assert_allclose(jaxem.kl_divergence(other, one, KEY, 100).value, np.log(2.0), rtol=10 * ROUNDING)


@pytest.mark.any_dtype
def test_a_distribution_of_numpyro_is_one_line():
    distributions = importlib.import_module("numpyro.distributions")  # it has no types

    def log_prob(params, row):
        return distributions.Gumbel(params[0], jnp.exp(params[1])).log_prob(row[0])

    def init(x, sample_weight):
        mean = jnp.average(x[:, 0], weights=sample_weight)
        return jnp.stack([mean, 0.5 * jnp.log(jnp.average((x[:, 0] - mean) ** 2, weights=sample_weight))])

    x = np.random.default_rng(0).gumbel(2.0, 1.5, 300)[:, None]
    found = jaxem.search(KEY, jaxem.Numerical(log_prob, init), x, 1).best
    expected = stats.gumbel_r(*stats.gumbel_r.fit(x[:, 0])).logpdf(x[:, 0]).sum()
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-5)


# -- marginals, conditionals, divergence ---------------------------------------------------------------------------------

SPLIT = [
    case
    for case in OTHERS
    if case.d >= 2 and case.k > 1 and case.family not in (NUMERICAL, Regression(2), RESPONSES, jaxem.Deconvolved())
]


@pytest.mark.parametrize("case", **named(SPLIT))
def test_a_joint_density_is_marginal_times_conditional(case):
    mixture, x = case.mixture(), case.data(4)
    given, other = (0,), tuple(range(1, case.d))
    for row in np.asarray(x, FLOAT):
        joint = mixture.log_prob(row[None])[0]
        marginal = mixture.marginal(given).log_prob(row[None, list(given)])[0]
        conditional = mixture.conditional(given, row[list(given)]).log_prob(row[None, list(other)])[0]
        np.testing.assert_allclose(marginal + conditional, joint, rtol=100 * ROUNDING, atol=100 * ROUNDING)


@pytest.mark.parametrize("family", [Full(), jaxem.Tied(), Diagonal(), Spherical(), StudentT()], ids=repr)
def test_a_marginal_is_an_integral(family):
    """By the trapezoidal rule in u, where the other column is 10 tan u: it converges fast, also for heavy tails."""
    mixture = jaxem.fit(jaxem.starts(KEY, family, blobs(100), 2, 1)[0], blobs(100), max_iter=20).mixture
    u = np.linspace(-np.pi / 2, np.pi / 2, 4002)[1:-1]
    rows = np.column_stack([np.full_like(u, 1.3), 10.0 * np.tan(u)])
    density = np.exp(np.asarray(mixture.log_prob(rows), float)) * 10.0 / np.cos(u) ** 2
    integral = np.sum(density) * (u[1] - u[0])
    np.testing.assert_allclose(np.exp(mixture.marginal(0).log_prob([[1.3]])[0]), integral, rtol=max(1e-9, 5 * ROUNDING))


def test_a_regression_given_its_covariates_predicts():
    case = next(case for case in OTHERS if case.family == Regression(2))
    mixture = case.mixture()
    at = mixture.conditional((0, 1), [0.5, -1.0])
    expected = mixture.components.intercepts + mixture.components.coefficients @ jnp.array([0.5, -1.0])
    np.testing.assert_allclose(at.components.means[:, 0], expected, rtol=100 * ROUNDING)
    np.testing.assert_allclose(at.weights, mixture.weights, rtol=10 * ROUNDING)


def test_divergence_of_gaussians_is_the_closed_form():
    one = Mixture(jnp.zeros(1), jaxem.GaussianParams(jnp.zeros((1, 2)), jnp.ones(1)), Spherical())
    other = Mixture(jnp.zeros(1), jaxem.GaussianParams(jnp.ones((1, 2)), 2 * jnp.ones((1, 2))), Diagonal())
    found = jaxem.kl_divergence(one, other, KEY, 20_000)
    expected = 0.5 * (1 - 2 + 2 * np.log(2) + 1)
    assert abs(float(found.value) - expected) < 5 * float(found.standard_error)
    assert 0.003 < float(found.standard_error) < 0.012


# -- everywhere ----------------------------------------------------------------------------------------------------------


@pytest.mark.any_dtype
def test_a_selection_among_families_takes_the_right_one():
    x = np.random.default_rng(0).poisson(np.repeat([2.0, 15.0], 100))[:, None] * 1.0
    found = jaxem.select(KEY, [jaxem.Poisson(), Spherical()], x, [1, 2])
    chosen = found.candidates[found.chosen]
    assert (chosen.family, chosen.n_components) == (jaxem.Poisson(), 2)


def test_a_component_of_a_union_is_a_mixture():
    mixture = next(case for case in OTHERS if case.family == BEHIND).mixture()
    x = np.zeros((3, 2), FLOAT)
    np.testing.assert_allclose(mixture[2].log_prob(x), -np.log(60.0 * 60.0), rtol=10 * ROUNDING)
    np.testing.assert_allclose(mixture[:2].log_prob(x), mixture[np.array([0, 1])].log_prob(x), rtol=10 * ROUNDING)
    assert isinstance(mixture[1].family, Union)


# -- bad input -----------------------------------------------------------------------------------------------------------

TWO = Product((Full(), (0, 1)), (Labelled(), (2,)))
BAD = [
    (lambda: jaxem.search(KEY, Categorical(3), [[0.5], [1.0]], 1), r"x\[0, 0\] = 0.5 cannot occur under Categorical"),
    (lambda: jaxem.search(KEY, Categorical(3), [[0.0], [3.0]], 1), r"x\[1, 0\] = 3.0 cannot occur"),
    (lambda: jaxem.search(KEY, jaxem.Poisson(), [[1.0], [-1.0]], 1), r"x\[1, 0\] = -1.0 cannot occur under Poisson"),
    (lambda: jaxem.search(KEY, jaxem.Poisson(), [[1.5], [1.0]], 1), "1.5 cannot occur"),
    (lambda: Categorical(1), "n_categories = 1"),
    (lambda: Categorical(2.5), "n_categories = 2.5"),
    (lambda: StudentT(-1.0), "dof = -1.0"),
    (lambda: Uniform(1.0, 1.0), "not below high"),
    (lambda: Uniform((0.0, 0.0), (1.0, 1.0, 1.0)), "low has 2 numbers, high 3"),
    (lambda: Product((Full(), (0, 1)), (Diagonal(), (1,))), "column 1 is that of"),
    (lambda: Product((Full(), (0, 2))), "column 1 belongs to no part"),
    (lambda: Product((Full(), (0, 0))), "names a column twice"),
    (lambda: Product((Labelled(), (0, 1))), "which takes 1"),
    (lambda: Union((Full(), 0)), "count = 0"),
    (lambda: Union((Full(), None), (Diagonal(), None)), "None for two parts"),
    (lambda: Regression(-1), "n_covariates = -1"),
    (lambda: jaxem.search(KEY, TWO, np.zeros((4, 2)), 2), "x has 2 columns, .* takes 3"),
    (lambda: jaxem.search(KEY, TWO, np.eye(4, 3) * 5, 2), "label 5 for 2 components"),
    (lambda: jaxem.search(KEY, Union((Full(), 2), (Uniform(0, 1), 1)), np.eye(5, 2), 2), "n_components = 2 does not fit"),
    (lambda: jaxem.search(KEY, Uniform(0.0, 1.0), [[0.5], [2.0]], 1), "cannot occur under Uniform"),
    (lambda: jaxem.search(KEY, jaxem.Numerical(lambda p, row: row, gamma_init), [[1.0], [2.0]], 1), "give a number"),
    (lambda: jaxem.search(KEY, GAMMA, [[-1.0], [2.0]], 1), r"log_prob is NaN at \[-1.0\]"),
    (lambda: jaxem.fit(next(c for c in OTHERS if c.family == BEHIND).mixture(), np.eye(5, 2), prior=jaxem.Beta()),
     "says nothing about a Union"),
    (lambda: jaxem.starts(KEY, Regression(3), np.eye(5, 3), 2, 1), "takes 4"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_said_in_one_line(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def _nasty(rng, most_rows, most_components):
    """A family, rows and a number of components that ask for trouble."""
    k, n = int(rng.integers(1, most_components + 1)), int(rng.integers(4, most_rows))
    numbers = np.round(rng.standard_cauchy((n, 2)) * 10 ** rng.uniform(-2, 4), int(rng.integers(0, 6)))
    numbers[:, int(rng.integers(2))] *= rng.integers(0, 2)
    codes = np.minimum(rng.integers(0, 3, (n, 2)), rng.integers(0, 3)) * 1.0
    counts = rng.poisson(10 ** rng.uniform(-3, 3), (n, 2)) * 1.0
    label = np.where(rng.uniform(size=n) < rng.uniform(), rng.integers(0, k, n) * rng.integers(0, 2), -1.0)
    if rng.uniform() < 0.3:
        label[label != 0] = -1
    return [
        (Categorical(3), codes, k),
        (jaxem.Poisson(), counts, k),
        (StudentT(), numbers, k),
        (TWO, np.column_stack([numbers, label]), k),
        (Product((Diagonal(), (0, 1)), (Categorical(3), (2, 3))), np.column_stack([numbers, codes]), k),
        (Union((Spherical(), None), (Uniform(-3, 3), 1)), numbers, k + 1),
        (Regression(1), numbers, k),
        (Product((jaxem.Poisson(), (0,)), (Regression(1), (0, 1))), np.column_stack([counts[:, 0], numbers[:, 0]]), k),
    ][int(rng.integers(8))]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_nasty_data_end_in_a_status_or_in_one_line(part):
    _fit_nasty(np.random.default_rng(part), 500, 40, 3)


def test_some_nasty_data_end_in_a_status_or_in_one_line():
    """Up to 32 rows are one shape, and numbers of components are few: more data with fewer programs."""
    _fit_nasty(np.random.default_rng(99), 10, 33, 2)


def _fit_nasty(rng, times, most_rows, most_components):
    for _ in range(times):
        family, x, k = _nasty(rng, most_rows, most_components)
        w = rng.uniform(size=len(x)) * (rng.uniform(size=len(x)) < 0.9)
        try:
            starts = jaxem.starts(jax.random.key(int(rng.integers(2**31))), family, x, k, 2, sample_weight=w)
            results = jaxem.fit_restarts(starts, x, w, max_iter=60)
        except ValueError as error:
            said = str(error)
            assert "\n" not in said
            continue
        for leaf in jax.tree.leaves(results.mixture):
            assert not np.isnan(np.asarray(leaf)).any(), (family, x, k)
        assert not np.any(np.asarray(results.status) == jaxem.Status.OBJECTIVE_FELL), (
            family,
            x.tolist(),
            w.tolist(),
            k,
        )
