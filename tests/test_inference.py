"""Errors of a fit, EM's rate and what single rows do: against finite differences, closed forms and refits in numpy."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxem
from jaxem import GaussianParams, Mixture, Spherical, inference
from tests.cases import FEW, MIXED, OTHERS, Case, named, reference_data, reference_mixture, slow_but_first
from tests.conftest import X64

pytestmark = pytest.mark.skipif(not X64, reason="finite differences need float64's digits")

Z = stats.norm.ppf(0.975)


# -- oracles -------------------------------------------------------------------------------------------------------------


def plain_objective(mixture, x, w=None, prior=None):
    """Log-likelihood + log prior as a function of points [m, p] of the chart, `[m]`."""
    x = jnp.asarray(x)
    w = jnp.ones(len(x)) if w is None else jnp.asarray(w)

    def at(free):
        there = mixture.constrain(free)
        value = jnp.sum(w * there.log_prob(x))
        return value if prior is None else value + prior.log_prob(there)

    return jax.jit(jax.vmap(at))


def hessian(function, at, h):
    """Second derivatives [p, p] by differences of sixth order, in the dtype of `at`; the function takes points [m, p]."""

    def second(h):
        p, steps = len(at), np.diag(h)
        four = [(a * steps[:, None, :] + b * steps[None, :, :]).reshape(-1, p) for a in (1, -1) for b in (1, -1)]
        up, one, two, down = (np.asarray(function(at + step)).reshape(p, p) for step in four)
        return (up - one - two + down) / (4 * np.outer(h, h))

    return (64 * second(h) - 20 * second(2 * h) + second(4 * h)) / 45


def gradient(function, at, h):
    """First derivatives [p, ...] by differences of sixth order, in the dtype of `at`; the function takes points [m, p]."""
    ways = [np.asarray(function(at + a * np.diag(h))) for a in (1, -1, 2, -2, 3, -3)]
    total = 45 * (ways[0] - ways[1]) - 9 * (ways[2] - ways[3]) + (ways[4] - ways[5])
    return total / (60 * h.reshape(-1, *[1] * (total.ndim - 1)))


def natural(mixture):
    """Weights and the components' numbers of a mixture, in one array."""
    return jnp.concatenate([mixture.weights, *(jnp.ravel(leaf) for leaf in jax.tree.leaves(mixture.components))])


def flat(parameters):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters)])


def steps_for(mixture, n, part=0.02):
    """Steps of finite differences: a part of what n rows leave unknown of each coordinate."""
    return part * np.asarray(mixture.units()) / np.sqrt(n)


def errors_by_hand(mixture, x, w=None, prior=None):
    """Standard errors and robust ones of the natural parameters, all from finite differences."""
    w = np.ones(len(x)) if w is None else w
    free, h = np.asarray(mixture.unconstrain()), steps_for(mixture, w.sum())
    covariance = np.linalg.inv(-hessian(plain_objective(mixture, x, w, prior), free, h))
    of_rows = gradient(jax.jit(jax.vmap(lambda at: mixture.constrain(at).log_prob(jnp.asarray(x)))), free, h).T
    total = w @ of_rows
    scatter = (w[:, None] * of_rows).T @ of_rows - np.outer(total, total) / w.sum()
    by_free = gradient(jax.jit(jax.vmap(lambda at: natural(mixture.constrain(at)))), free, h).T
    moves = by_free @ covariance
    return np.sqrt(np.sum(moves * by_free, axis=1)), np.sqrt(np.einsum("mp,pq,mq->m", moves, scatter, moves))


def em_by_numpy(x, w, theta, turns):
    """EM of two Gaussians on a line in plain numpy, for many weightings w [m, n] at once: (share, mean, mean, variance,
    variance) `[m, 5]` in extended precision."""
    theta = np.broadcast_to(np.asarray(theta, np.longdouble), (len(w), 5))
    for _ in range(turns):
        share, means, variances = theta[:, :1], theta[:, 1:3, None], theta[:, 3:, None]
        density = np.exp(-((x - means) ** 2) / (2 * variances)) / np.sqrt(variances)
        one, two = share * density[:, 0], (1 - share) * density[:, 1]
        resp = w[:, None] * np.stack([one / (one + two), two / (one + two)], axis=1)
        counts = resp.sum(2)
        means = (resp * x).sum(2) / counts
        variances = (resp * (x - means[:, :, None]) ** 2).sum(2) / counts
        theta = np.concatenate([counts[:, :1] / counts.sum(1, keepdims=True), means, variances], axis=1)
    return theta


def log_density_by_numpy(x, theta):
    """Log densities [m, n] of rows under two Gaussians on a line, parameters [m, 5]."""
    share, means, variances = theta[:, :1], theta[:, 1:3, None], theta[:, 3:, None]
    density = np.exp(-((x - means) ** 2) / (2 * variances)) / np.sqrt(2 * np.pi * variances)
    return np.log(share * density[:, 0] + (1 - share) * density[:, 1])


def as_mixture(theta):
    share, *numbers = np.asarray(theta, float)
    components = GaussianParams(jnp.array(numbers[:2])[:, None], jnp.array(numbers[2:]))
    return Mixture(jnp.log(jnp.array([share, 1 - share])), components, Spherical())


def in_chart(theta):
    """Coordinates [m, p] of numpy's fits [m, 5]."""
    return np.asarray(jnp.stack([as_mixture(one).unconstrain() for one in theta]))


# -- the data that most tests share --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eruptions():
    """Lengths of Old Faithful's eruptions [272] and the maximum that numpy finds for two Gaussians."""
    x = jaxem.datasets.faithful()[:, 0]
    theta = em_by_numpy(x, np.ones((1, len(x))), [0.35, 2.0, 4.3, 0.05, 0.2], 300)[0]
    return x, theta


@pytest.fixture(scope="module")
def told(eruptions):
    """The summary of that maximum."""
    x, theta = eruptions
    return jaxem.summary(as_mixture(theta), x[:, None])


@pytest.fixture(scope="module")
def faithful():
    """Old Faithful [272, 2], its best two Gaussians and their summary."""
    x, mixture = jaxem.datasets.faithful(), reference_mixture("faithful", 2, "full")
    return x, mixture, jaxem.summary(mixture, x)


# -- errors --------------------------------------------------------------------------------------------------------------


def test_errors_of_old_faithful_are_the_known_ones(told):
    estimate, error, robust = (
        np.delete(flat(one), 1) for one in (told.estimate, told.standard_error, told.robust_error)
    )
    np.testing.assert_allclose(estimate, [0.34840463, 2.01860782, 4.27334342, 0.05551762, 0.19102419], atol=1e-8)
    np.testing.assert_allclose(error, [0.02918899, 0.02607418, 0.03410978, 0.01088151, 0.02370014], atol=1e-6)
    np.testing.assert_allclose(robust, [0.0294, 0.0319, 0.0376, 0.0150, 0.0302], atol=6e-5)
    assert told.cautions == ()
    np.testing.assert_allclose(told.counts, 272 * np.array(told.estimate.weights), rtol=1e-9)


def test_errors_of_old_faithful_are_those_of_a_hessian_in_extended_precision(eruptions, told):
    """In natural parameters, which have the same errors at a maximum; the sandwich too."""
    x, theta = eruptions
    h = 2e-3 * np.sqrt(theta * [0.65, 1, 1, 1, 1]).astype(np.longdouble)
    log_likelihood = lambda at: log_density_by_numpy(x, at).sum(1)  # noqa: E731
    covariance = np.linalg.inv(-hessian(log_likelihood, theta, h).astype(float))
    of_rows = gradient(lambda at: log_density_by_numpy(x, at), theta, h).astype(float)
    robust = np.sqrt(np.diagonal(covariance @ of_rows @ of_rows.T @ covariance))
    np.testing.assert_allclose(np.delete(flat(told.standard_error), 1), np.sqrt(np.diagonal(covariance)), rtol=1e-8)
    np.testing.assert_allclose(np.delete(flat(told.robust_error), 1), robust, rtol=1e-8)


CURVED = (
    Case(jaxem.Full(), 2, 2),
    Case(jaxem.Categorical(3), 2, 2, jaxem.DirichletProbs(2.0)),
    Case(jaxem.StudentT(), 2, 2),
    Case(jaxem.Regression(2), 2, 3),
    Case(MIXED, 2, 4),
    *FEW,
    *(case for case in OTHERS if case.n_parameters),
)


@pytest.mark.parametrize("case", **named(CURVED, first=5))
def test_information_is_minus_the_hessian_and_scores_are_gradients(case):
    """In the chart where the data lie, with weights, with the case's prior; under jit, where no maximum is asked for."""
    mixture, x = case.mixture(), np.asarray(case.data(), float)
    w = np.random.default_rng(3).integers(0, 4, len(x)) * 0.5
    part = 0.004 if case.family == jaxem.Deconvolved() else 0.008  # its units are those of rows without noise
    free, h = np.asarray(mixture.unconstrain()), steps_for(mixture, w.sum(), part)
    found = np.asarray(jax.jit(jaxem.information)(mixture, x, w, case.prior))
    expected = -hessian(plain_objective(mixture, x, w, case.prior), free, h)
    scale = 1 / np.sqrt(np.abs(np.diagonal(expected)))
    np.testing.assert_allclose(scale[:, None] * found * scale, scale[:, None] * expected * scale, atol=2e-6)
    of_rows = gradient(jax.jit(jax.vmap(lambda at: mixture.constrain(at).log_prob(jnp.asarray(x)))), free, h).T
    values = np.asarray(jaxem.scores(mixture, x, w))
    unit = np.asarray(mixture.units())
    np.testing.assert_allclose(values * unit, w[:, None] * of_rows * unit, rtol=1e-6, atol=1e-7)
    slope = gradient(plain_objective(mixture, x, w), free, h)
    np.testing.assert_allclose(values.sum(0) * unit, slope * unit, atol=1e-7 * len(x))


def test_errors_and_the_sandwich_are_those_of_differences_by_hand(faithful):
    x, mixture, found = faithful
    error, robust = errors_by_hand(mixture, x)
    np.testing.assert_allclose(flat(found.standard_error), error, rtol=1e-6)
    np.testing.assert_allclose(flat(found.robust_error), robust, rtol=1e-6)


def test_a_prior_counts_in_the_errors(eruptions):
    x, theta = eruptions
    prior = jaxem.chen_tan(x[:, None], strength=3.0) + jaxem.Dirichlet(4.0)
    w = np.random.default_rng(0).uniform(0.5, 1.5, len(x))
    mixture = tight_fit(as_mixture(theta), x[:, None], w, prior)
    found = jaxem.summary(mixture, x[:, None], w, prior=prior)
    error, robust = errors_by_hand(mixture, x[:, None], w, prior)
    np.testing.assert_allclose(flat(found.standard_error), error, rtol=1e-6)
    np.testing.assert_allclose(flat(found.robust_error), robust, rtol=1e-6)
    with pytest.warns(UserWarning, match="is no maximum"):
        jaxem.summary(mixture, x[:, None], w)


def tight_fit(mixture, x, w=None, prior=None):
    return jaxem.fit(mixture, x, w, prior=prior, stop=jaxem.GainBelow(-jnp.inf), max_iter=2000).mixture


# -- the rate of EM ------------------------------------------------------------------------------------------------------

RATED = slow_but_first(
    (("faithful", 3, "full"), ("iris", 2, "full"), ("iris", 3, "diag"), ("iris", 3, "tied"), ("faithful", 2, "spherical"),
     ("acidity", 3, "full"), ("galaxies", 4, "full"), ("galaxies", 6, "tied")), first=1
)  # fmt: skip


@pytest.mark.parametrize(("data", "k", "form"), RATED)
def test_the_jacobian_of_em_is_what_the_informations_make_of_it(data, k, form):
    """J = I - inv(I_complete) I_observed, J from differences of EM steps; its largest eigenvalue is the rate."""
    x, mixture = reference_data(data), jax.tree.map(jnp.asarray, reference_mixture(data, k, form))
    free, h = np.asarray(mixture.unconstrain()), steps_for(mixture, len(x), 0.02)
    resp = jnp.asarray(mixture.responsibilities(x))
    complete = -hessian(
        jax.jit(jax.vmap(lambda at: jnp.sum(resp * mixture.constrain(at).log_joint(jnp.asarray(x))))), free, 2 * h
    )

    def step(at):
        there = mixture.constrain(at)
        return jaxem.m_step(there, jaxem.e_step(there, jnp.asarray(x))).unconstrain()

    unit = np.asarray(mixture.units())
    by_steps = gradient(jax.jit(jax.vmap(step)), free, h).T / unit[:, None] * unit
    left = np.linalg.solve(complete, np.asarray(jaxem.information(mixture, x))) / unit[:, None] * unit
    np.testing.assert_allclose(np.eye(len(free)) - left, by_steps, atol=1e-6)
    largest = np.max(np.linalg.eigvals(by_steps).real)
    np.testing.assert_allclose(jaxem.em_rate(mixture, x), largest, atol=1e-6)


def test_the_rate_of_old_faithful_is_the_known_one_by_powers_too(monkeypatch):
    x, mixture = reference_data("faithful"), reference_mixture("faithful", 3, "full")
    assert abs(jaxem.em_rate(mixture, x) - 0.836595) < 1e-5
    monkeypatch.setattr(inference, "DENSE", 5)
    assert abs(jaxem.em_rate(mixture, x) - 0.836595) < 1e-5


# -- many parameters -----------------------------------------------------------------------------------------------------


def same_summary(one, other, rtol):
    for name in ("estimate", "standard_error", "robust_error", "lower", "upper"):
        np.testing.assert_allclose(flat(getattr(one, name)), flat(getattr(other, name)), rtol=rtol, err_msg=name)
    np.testing.assert_allclose(one.counts, other.counts, rtol=rtol)


def test_solves_say_what_the_matrix_says(told, eruptions, monkeypatch):
    x, theta = eruptions
    monkeypatch.setattr(inference, "DENSE", 2)
    same_summary(jaxem.summary(as_mixture(theta), x[:, None]), told, 1e-7)
    some = jaxem.summary(as_mixture(theta), x[:, None], only="means")
    np.testing.assert_allclose(some.standard_error.components.means, told.standard_error.components.means, rtol=1e-7)
    assert np.isnan(some.standard_error.weights).all()


@pytest.mark.parametrize("dense", [2000, 0])
def test_a_parameter_that_is_fixed_has_an_error_of_zero(dense, monkeypatch):
    """The weight of the only component, and degrees of freedom that are given: by the matrix and by solves."""
    monkeypatch.setattr(inference, "DENSE", dense)
    x = np.random.default_rng(0).standard_t(5, (80, 1))
    start = jaxem.starts(jax.random.key(0), jaxem.StudentT(5.0), x, 1, 1)[0]
    found = jaxem.summary(tight_fit(start, x), x)
    assert found.cautions == ()
    assert found.standard_error.weights == found.robust_error.weights == 0.0
    assert found.lower.components.dofs == found.upper.components.dofs == 5.0
    assert np.isfinite(flat(found.standard_error)).all()


def test_a_mixture_without_parameters_has_nothing_to_know():
    x = np.random.default_rng(0).uniform(size=(20, 2))
    mixture = one_of(jaxem.Uniform(0.0, 1.0), jaxem.UniformParams(jnp.zeros((1, 2)), jnp.ones((1, 2))))
    assert jaxem.information(mixture, x).shape == (0, 0)
    assert jaxem.scores(mixture, x).shape == jaxem.influence(mixture, x).shape == (20, 0)
    assert jaxem.em_rate(mixture, x) == 0
    np.testing.assert_array_equal(jaxem.leave_one_out(mixture, x), np.zeros(20))
    found = jaxem.summary(mixture, x)
    assert (flat(found.standard_error) == 0).all()
    np.testing.assert_array_equal(flat(found.lower), flat(found.estimate))


# -- summaries -----------------------------------------------------------------------------------------------------------


def test_intervals_lie_in_the_ranges_of_parameters(faithful):
    x, mixture, _ = faithful
    few = x[::20]  # where a symmetric interval would leave the range
    for level in (0.95, 0.9999999):
        found = summary_of_few(tight_fit(mixture, few), few, level)
        for end in (found.lower, found.upper):
            assert ((end.weights > 0) & (end.weights < 1)).all()
            assert (np.diagonal(end.components.covariances, axis1=1, axis2=2) > 0).all()
        for low, middle, high in zip(*(flat(one) for one in found[3:5]), flat(found.estimate), strict=False):
            assert low <= high, (low, middle, high)
        assert (flat(found.lower) < flat(found.estimate)).all()
        assert (flat(found.estimate) < flat(found.upper)).all()


def summary_of_few(mixture, x, level):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "component . holds")
        return jaxem.summary(mixture, x, level=level)


def one_of(family, components):
    return Mixture(jnp.zeros(1), components, family)


def test_the_interval_of_a_function_of_one_coordinate_is_that_coordinates_transformed():
    """A variance by its log, a rate by its log, a probability by its log odds; the errors have closed forms."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) * 2.0 + 1.0
    mean = x.mean(0)
    v, of_log = np.mean((x - mean) ** 2), Z * np.sqrt(2 / x.size)
    found = jaxem.summary(one_of(Spherical(), GaussianParams(jnp.array([mean]), jnp.array([v]))), x)
    np.testing.assert_allclose(found.standard_error.components.covariances, v * np.sqrt(2 / x.size), rtol=1e-9)
    np.testing.assert_allclose(found.standard_error.components.means[0], np.sqrt(v / 40), rtol=1e-9)
    np.testing.assert_allclose(found.lower.components.covariances, v * np.exp(-of_log), rtol=1e-9)
    np.testing.assert_allclose(found.upper.components.covariances, v * np.exp(of_log), rtol=1e-9)
    x = rng.poisson(0.4, (30, 2)).astype(float)
    rates = x.mean(0)
    found = jaxem.summary(one_of(jaxem.Poisson(), jaxem.PoissonParams(jnp.array([rates]))), x)
    np.testing.assert_allclose(found.standard_error.components.rates[0], np.sqrt(rates / 30), rtol=1e-9)
    np.testing.assert_allclose(found.upper.components.rates[0], rates * np.exp(Z / np.sqrt(30 * rates)), rtol=1e-9)
    x = (np.arange(20)[:, None] < [1, 7]).astype(float)
    probs = np.array([1, 7]) / 20
    found = jaxem.summary(one_of(jaxem.Bernoulli(), jaxem.BernoulliParams(jnp.array([probs]))), x)
    np.testing.assert_allclose(found.standard_error.components.probs[0], np.sqrt(probs * (1 - probs) / 20), rtol=1e-9)
    odds, of_odds = special.logit(probs), Z / np.sqrt(20 * probs * (1 - probs))
    np.testing.assert_allclose(found.lower.components.probs[0], special.expit(odds - of_odds), rtol=1e-9)
    np.testing.assert_allclose(found.upper.components.probs[0], special.expit(odds + of_odds), rtol=1e-9)


def test_the_interval_of_a_mixtures_variance_comes_from_its_log_error(told):
    variance, error = (np.asarray(one.components.covariances) for one in (told.estimate, told.standard_error))
    np.testing.assert_allclose(told.lower.components.covariances, variance * np.exp(-Z * error / variance), rtol=1e-8)
    np.testing.assert_allclose(told.upper.components.covariances, variance * np.exp(Z * error / variance), rtol=1e-8)
    share, error = float(told.estimate.weights[0]), float(told.standard_error.weights[0])
    ends = special.expit(special.logit(share) + Z * error / (share * (1 - share)) * np.array([-1, 1]))
    np.testing.assert_allclose([told.lower.weights[0], told.upper.weights[0]], ends, rtol=1e-8)
    np.testing.assert_allclose([told.lower.weights[1], told.upper.weights[1]], 1 - ends[::-1], rtol=1e-8)


def test_weights_count_rows(eruptions):
    x, theta = eruptions
    w = np.random.default_rng(0).integers(0, 4, len(x))
    mixture = as_mixture(em_by_numpy(x, w[None], theta, 300)[0])
    counted = jaxem.summary(mixture, x[:, None], w.astype(float))
    same_summary(counted, jaxem.summary(mixture, np.repeat(x, w)[:, None]), 1e-9)
    one = jaxem.influence(mixture, x[:, None], w.astype(float))
    other = jaxem.influence(mixture, np.repeat(x, w)[:, None])
    np.testing.assert_allclose(np.repeat(one, w, axis=0), other, rtol=1e-6, atol=1e-12)
    one = jaxem.leave_one_out(mixture, x[:, None], w.astype(float))
    other = jaxem.leave_one_out(mixture, np.repeat(x, w)[:, None])
    np.testing.assert_allclose(np.repeat(one, w), other, rtol=1e-9)


def test_errors_move_with_the_units_of_the_data(faithful):
    """x to a x + b, with another a for each column: means' errors by a, covariances' by a a'."""
    x, mixture, found = faithful
    a, b = np.array([[60.0, 1e-3]]), np.array([[-1e4, 2.0]])
    of_pairs = (a.T * a)[None]
    means, covariances = mixture.components
    moved = Mixture(mixture.log_weights, GaussianParams(means * a + b, covariances * of_pairs), mixture.family)
    other = jaxem.summary(moved, x * a + b)
    for name in ("standard_error", "robust_error"):
        one, two = getattr(found, name), getattr(other, name)
        np.testing.assert_allclose(two.weights, one.weights, rtol=1e-6)
        np.testing.assert_allclose(two.components.means, one.components.means * a, rtol=1e-6)
        np.testing.assert_allclose(two.components.covariances, one.components.covariances * of_pairs, rtol=1e-6)
    for name in ("lower", "upper"):
        one, two = getattr(found, name), getattr(other, name)
        np.testing.assert_allclose(two.weights, one.weights, rtol=1e-6)
        np.testing.assert_allclose(two.components.means, one.components.means * a + b, rtol=1e-6)
        np.testing.assert_allclose(two.components.covariances, one.components.covariances * of_pairs, rtol=1e-6)


@pytest.mark.parametrize(("data", "k", "form"), slow_but_first((("faithful", 2, "full"), ("iris", 3, "diag"))))
def test_the_order_of_components_does_not_matter(data, k, form):
    x, mixture, order = reference_data(data), reference_mixture(data, k, form), np.roll(np.arange(k), 1)
    found, other = jaxem.summary(mixture, x), jaxem.summary(mixture[order], x)
    turned = found._replace(
        counts=found.counts[order],
        **{name: jax.tree.map(lambda leaf: leaf[order], getattr(found, name)) for name in found._fields[:5]},
    )
    same_summary(other, turned, 1e-6)


def test_float32_in_gives_float32_out(told, eruptions):
    x, theta = eruptions
    mixture = as_mixture(theta).astype(jnp.float32)
    found = jaxem.summary(mixture, x[:, None].astype(np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(found[:5])} == {np.dtype("float32")}
    for name in ("standard_error", "robust_error", "lower", "upper"):
        np.testing.assert_allclose(flat(getattr(found, name)), flat(getattr(told, name)), rtol=1e-4, err_msg=name)
    assert jaxem.information(mixture, x[:, None].astype(np.float32)).dtype == np.float32
    assert jaxem.em_rate(mixture, x[:, None].astype(np.float32)).dtype == np.float32


def test_only_what_is_asked_for_has_errors(told, eruptions):
    x, theta = eruptions
    found = jaxem.summary(as_mixture(theta), x[:, None], only=["weights", "covariances"])
    for name in ("standard_error", "robust_error", "lower", "upper"):
        one, whole = getattr(found, name), getattr(told, name)
        assert np.isnan(one.components.means).all()
        np.testing.assert_allclose(one.weights, whole.weights, rtol=1e-12)
        np.testing.assert_allclose(one.components.covariances, whole.components.covariances, rtol=1e-12)
    np.testing.assert_array_equal(found.estimate.components.means, told.estimate.components.means)
    with pytest.raises(ValueError, match=r"^only holds 'mean'; choose from weights, means, covariances$"):
        jaxem.summary(as_mixture(theta), x[:, None], only="mean")


def test_a_printed_summary_names_every_parameter(faithful):
    lines = str(faithful[2]).splitlines()
    names = ["weights[0]", "weights[1]", *(f"means[{i}, {j}]" for i in (0, 1) for j in (0, 1))]
    names += [f"covariances[{i}, {a}, {b}]" for i in (0, 1) for a, b in ((0, 0), (0, 1), (1, 1))]
    assert [re.split(r"\s{2,}", line)[0] for line in lines] == ["parameter", *names]
    assert lines[1].split()[1] == "0.6441"


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, True, "0.95", float("nan"), None])
def test_a_level_is_a_probability(level, eruptions):
    x, theta = eruptions
    with pytest.raises(ValueError, match=r"^level = .*; give a probability between 0 and 1, such as 0.95$"):
        jaxem.summary(as_mixture(theta), x[:, None], level=level)


def test_a_higher_level_gives_longer_intervals(told, eruptions):
    x, theta = eruptions
    found = jaxem.summary(as_mixture(theta), x[:, None], level=0.5)
    z = stats.norm.ppf(0.75)
    variance, error = (np.asarray(one.components.covariances) for one in (told.estimate, told.standard_error))
    np.testing.assert_allclose(found.upper.components.covariances, variance * np.exp(z * error / variance), rtol=1e-8)
    assert found.level == 0.5


# -- no quiet numbers ----------------------------------------------------------------------------------------------------


def test_what_is_no_maximum_is_said(eruptions, faithful):
    """A start, a fit to other data, and two components that were never told apart."""
    x, theta = eruptions
    start = as_mixture([0.5, 1.5, 4.0, 0.3, 0.3])
    for function in (jaxem.information, jaxem.summary, jaxem.em_rate, jaxem.influence, jaxem.leave_one_out):
        with pytest.warns(UserWarning, match="is no maximum for these data"):
            function(start, x[:, None])
    with pytest.warns(UserWarning, match="is no maximum for these data"):
        found = jaxem.summary(as_mixture(theta), x[:, None] + 0.3)
    assert any("no maximum" in one for one in found.cautions)
    assert "beware" in str(found)


def test_a_saddle_has_no_errors(eruptions):
    """Two equal components: nothing tells them apart, and on these data apart is better."""
    x, _ = eruptions
    one = as_mixture([0.5, x.mean(), x.mean(), x.var(), x.var()])
    with pytest.warns(UserWarning, match="a direction leads up"):
        found = jaxem.summary(one, x[:, None])
    assert np.isnan(flat(found.standard_error)).all()
    assert np.isnan(flat(found.lower)).all()
    with pytest.warns(UserWarning, match="a direction leads up"):
        assert np.isnan(jaxem.leave_one_out(one, x[:, None])).all()


def test_two_equal_components_have_no_errors_of_their_own():
    """On rows of short tails, where one Gaussian is as good as two: the difference has no information."""
    x = stats.norm.ppf((np.arange(60) + 0.5) / 60)
    x = np.sign(x) * np.abs(x) ** 0.8
    one = as_mixture([0.4, x.mean(), x.mean(), x.var(), x.var()])
    with pytest.warns(UserWarning, match=r"singular in|a direction leads up"):
        found = jaxem.summary(one, x[:, None])
    assert np.isnan(found.standard_error.weights).all()


def test_a_component_on_one_row_is_said_to_have_collapsed():
    x = np.r_[np.random.default_rng(0).normal(size=60), 9.0]
    theta = em_by_numpy(x, np.ones((1, 61)), [1 / 61, 9.0, x[:60].mean(), 1e-10, x[:60].var()], 1)[0]
    theta[3] = 1e-14
    with pytest.warns(UserWarning) as said:  # noqa: PT030 - each warning is looked at
        found = jaxem.summary(as_mixture(theta), x[:, None])
    assert any("component 0 has collapsed" in str(one.message) for one in said)
    assert any("component 0 has collapsed" in one for one in found.cautions)


def test_more_parameters_than_rows_are_said():
    x = np.random.default_rng(0).normal(size=(8, 3))
    mean = x.mean(0)
    mixture = one_of(jaxem.Full(), GaussianParams(jnp.array([mean]), jnp.array([(x - mean).T @ (x - mean) / 8])))
    with pytest.warns(UserWarning) as said:  # noqa: PT030
        found = jaxem.summary(mixture, x)
    assert any("there are 9 parameters for 8 rows" in str(one.message) for one in said)
    assert any("there are 9 parameters for 8 rows" in one for one in found.cautions)


def test_an_empty_component_has_no_errors_and_the_others_keep_theirs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    v = np.mean((x - x.mean(0)) ** 2)
    components = GaussianParams(jnp.array([x.mean(0), [40.0, 40.0]]), jnp.array([v, 1.0]))
    mixture = Mixture(jnp.array([0.0, -jnp.inf]), components, Spherical())
    with pytest.warns(UserWarning) as said:  # noqa: PT030
        found = jaxem.summary(mixture, x)
    assert any("component 1" in str(one.message) or "singular" in str(one.message) for one in said)
    error = found.standard_error.components
    assert np.isnan(error.means[1]).all()
    assert np.isnan(error.covariances[1])
    np.testing.assert_allclose(error.means[0], np.sqrt(v / 50), rtol=1e-6)
    np.testing.assert_allclose(error.covariances[0], v * np.sqrt(2 / 100), rtol=1e-6)


def test_a_probability_at_its_bound_has_no_error_and_the_others_keep_theirs():
    x = (np.random.default_rng(0).uniform(size=(40, 3)) < [0.3, 0.6, 2.0]).astype(float)
    probs = x.mean(0)
    with pytest.warns(UserWarning, match="probs sit at their bounds"):
        found = jaxem.summary(one_of(jaxem.Bernoulli(), jaxem.BernoulliParams(jnp.array([probs]))), x)
    expected = np.where(probs == 1, np.nan, np.sqrt(probs * (1 - probs) / 40))
    np.testing.assert_allclose(found.standard_error.components.probs[0], expected, rtol=1e-6)
    assert np.isnan([found.lower.components.probs[0, 2], found.upper.components.probs[0, 2]]).all()
    with pytest.warns(UserWarning, match="singular in 1 of 3 directions"):
        found = jaxem.summary(one_of(jaxem.Bernoulli(), jaxem.BernoulliParams(jnp.array([1 - probs]))), 1 - x)
    np.testing.assert_allclose(found.standard_error.components.probs[0], expected, rtol=1e-6)
    codes = np.r_[np.zeros(12), np.ones(28)][:, None]
    probs = jnp.array([[[0.3, 0.7, 0.0]]])
    with pytest.warns(UserWarning, match="singular in"):
        found = jaxem.summary(one_of(jaxem.Categorical(3), jaxem.CategoricalParams(probs)), codes)
    error = found.standard_error.components.probs[0, 0]
    assert np.isnan(error[2])
    np.testing.assert_allclose(error[:2], np.sqrt(0.3 * 0.7 / 40), rtol=1e-6)


def test_degrees_of_freedom_at_their_bound_have_no_error():
    """On short tails; location and scale have the errors that they have where those degrees are given."""
    x = np.linspace(-2.0, 3.0, 100)[:, None]
    start = jaxem.starts(jax.random.key(0), jaxem.StudentT(), x, 1, 1)[0]
    mixture = jaxem.fit(start, x, accelerator=jaxem.hybrid()).mixture
    assert mixture.components.dofs[0] > 999
    with pytest.warns(UserWarning, match="dofs sit at their bounds"):
        found = jaxem.summary(mixture, x)
    assert np.isnan(found.standard_error.components.dofs).all()
    assert np.isnan(found.lower.components.dofs).all()
    given = Mixture(mixture.log_weights, mixture.components, jaxem.StudentT(1000.0))
    expected = jaxem.summary(given, x)
    for name in ("standard_error", "robust_error", "lower", "upper"):
        for one, two in zip(*(getattr(s, name).components[:2] for s in (found, expected)), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6)


def test_other_columns_and_impossible_rows_are_refused_or_said(eruptions, faithful):
    _, theta = eruptions
    for function in (jaxem.information, jaxem.scores, jaxem.summary, jaxem.em_rate, jaxem.influence):
        with pytest.raises(ValueError, match=r"^[^\n]*1[^\n]*$"):
            function(as_mixture(theta), faithful[0])
    inside = np.random.default_rng(0).uniform(size=(20, 1))
    box = jaxem.UniformParams(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    family = jaxem.Union((Spherical(), 1), (jaxem.Uniform(0.0, 1.0), 1))
    normal = GaussianParams(jnp.array([[0.5]]), jnp.array([0.01]))
    alone = Mixture(jnp.array([-jnp.inf, 0.0]), (normal, box), family)
    with pytest.warns(UserWarning) as said:  # noqa: PT030
        found = jaxem.summary(alone, np.r_[inside, [[1.5]]])
    assert any("impossible" in str(one.message) for one in said)
    assert np.isnan(flat(found.standard_error)).all()


# -- rows ----------------------------------------------------------------------------------------------------------------


def test_influence_is_the_slope_of_refits_by_a_rows_weight(eruptions):
    x, theta = eruptions
    some, h = [0, 1, 57, 200], 1e-3
    w = np.ones((4, 4, len(x)))
    for i, row in enumerate(some):
        w[i, :, row] += h * np.array([1, -1, 2, -2])
    fits = in_chart(em_by_numpy(x, w.reshape(16, -1), theta, 120)).reshape(4, 4, -1)
    expected = (8 * (fits[:, 0] - fits[:, 1]) - (fits[:, 2] - fits[:, 3])) / (12 * h)
    found = jaxem.influence(as_mixture(theta), x[:, None])
    assert found.shape == (len(x), 5)
    np.testing.assert_allclose(found[np.array(some)], expected, rtol=1e-6, atol=1e-9)
    # weights that all grow move nothing
    np.testing.assert_allclose(found.sum(0), 0.0, atol=1e-8)


@pytest.fixture(scope="module")
def left_out(eruptions):
    """Log densities of the rows by refits in numpy without one of one, and without one of two copies, of each row."""
    x, theta = eruptions
    without = []
    for removed in (1.0, 0.5):
        w = 1.0 - removed * np.eye(len(x))
        without.append(np.diagonal(log_density_by_numpy(x, em_by_numpy(x, w, theta, 40))).astype(float))
    return without


def test_leave_one_out_is_near_real_refits(eruptions, left_out):
    """Ten times as near as what the fit itself says; and to second order: of half the weight a quarter of the error."""
    x, theta = eruptions
    plain = np.asarray(as_mixture(theta).log_prob(x[:, None]))
    found = np.asarray(jaxem.leave_one_out(as_mixture(theta), x[:, None]))
    halved = np.asarray(jaxem.leave_one_out(as_mixture(theta), x[:, None], np.full(len(x), 2.0)))
    error, of_half = np.abs(found - left_out[0]), np.abs(halved - left_out[1])
    assert error.mean() < 0.1 * np.abs(plain - left_out[0]).mean()
    assert abs(found.sum() - left_out[0].sum()) < 0.1 * abs(plain.sum() - left_out[0].sum())
    assert (found < plain + 1e-12).all()
    large = error > np.quantile(error, 0.9)
    np.testing.assert_allclose(of_half[large].sum() / error[large].sum(), 0.25, atol=0.03)


def test_a_row_of_weight_zero_is_not_left_out(eruptions):
    x, theta = eruptions
    more, w = np.r_[x, 3.0][:, None], np.r_[np.ones(len(x)), 0.0]
    found = jaxem.leave_one_out(as_mixture(theta), more, w)
    np.testing.assert_allclose(found[-1], as_mixture(theta).log_prob(more)[-1], rtol=1e-12)
    np.testing.assert_allclose(found[:-1], jaxem.leave_one_out(as_mixture(theta), x[:, None]), rtol=1e-9)
