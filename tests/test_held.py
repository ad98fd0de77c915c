"""What is held stays, bit by bit, and the rest is maximised exactly: against scipy, by gradients, and by hand."""

import dataclasses
import pickle
import re
import warnings
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import jaxem
from jaxem.em import m_step, stats_of
from jaxem.held import with_held
from jaxem.primitives import normalise
from tests.conftest import X64

NAN = np.nan
only_float64 = pytest.mark.skipif(not X64, reason="compares digits that float32 has not")
QUICK = {"accelerator": jaxem.hybrid()}
GAUSSIANS = ("spherical", "diagonal", "tied", "full", "tied-spherical", "tied-diagonal")


def rows(n=120, d=2, seed=0):
    """Two clusters that overlap a little, far from the origin."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = rng.normal(size=(n, d)) * np.linspace(1.0, 1.6, d) @ mix
    x[: n // 3] += 2.5
    return x + 10.0


def start_of(family, x, k=2, seed=1):
    return jaxem.starts(jax.random.key(seed), family, x, k, 1)[0]


def bits(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


# -- the M-step by gradients ---------------------------------------------------------------------------------------------


def _stationary(start, x, held, prior):
    """The largest entry of the proxy's gradient in the chart after an M-step, by row."""
    old = with_held(start, held)

    @jax.jit
    def gradients(old, x):
        joint = old.family.log_prob(old.components, x) + old.log_weights[None, :]
        resp = normalise(joint, axis=1)[1]
        new = m_step(old, stats_of(old, x, resp), prior)

        def proxy(free, like):
            at = like.constrain(free)
            bound = at.family.bound(at.components, old.components, x)
            return jnp.sum(resp * (bound + at.log_weights[None, :])) + (0.0 if prior is None else prior.log_prob(at))

        return new, jax.grad(proxy)(new.unconstrain(), new)

    new, slope = gradients(old, x)
    return old, new, float(jnp.max(jnp.abs(slope), initial=0.0)) / len(x)


def niw(x):
    d = x.shape[1]
    scatter = jnp.asarray(0.5 * np.eye(d) + 0.2)
    return jaxem.NormalInverseWishart(3.0, scatter, 7.0, jnp.asarray(x.mean(0) + 1.0)) + jaxem.Dirichlet(2.0)


HELD = {
    "a weight": {"weights": [False, True, False]},
    "a mean": {"means": [True, False, False]},
    "means": {"means": True},
    "covariances": {"covariances": True},
    "a covariance": {"covariances": [False, True, False]},
    "weights and a mean": {"weights": True, "means": [False, False, True]},
    "a mean and another's covariance": {
        "weights": [True, True, False], "means": [True, False, False], "covariances": [False, True, False]
    },
}  # fmt: skip


@only_float64
@pytest.mark.parametrize("what", HELD)
@pytest.mark.parametrize("name", GAUSSIANS)
def test_the_m_step_is_exact(name, what):
    """With a prior on means, covariances and weights; the held parameters keep their bits."""
    family: Any = jaxem.checks.as_family(name)
    held, x = cast(dict[str, Any], HELD[what]), rows(60)
    if family.shared and isinstance(held.get("covariances"), list):
        held = {**held, "covariances": True}
    start = start_of(family, x, 3)
    old, new, left = _stationary(start, x, held, niw(x))
    assert left < 1e-12
    check_kept(old, new, held)


def check_kept(old, new, held):
    for name, which in held.items():
        before, after = (one.log_weights if name == "weights" else getattr(one.components, name) for one in (old, new))
        chosen = ... if which is True else np.asarray(which)
        assert bits(before[chosen], after[chosen]), name
    assert abs(float(jnp.sum(new.weights)) - 1.0) < 1e-12


@only_float64
@pytest.mark.parametrize(
    ("family", "held", "prior"),
    [
        (jaxem.StudentT(), {"means": [True, False, False]}, True),
        (jaxem.StudentT(), {"means": True, "scales": [True, False, False], "dofs": [False, True, False]}, False),
        (jaxem.StudentT(4.0), {"scales": True}, True),
        (jaxem.Regression(1), {"levels": [True, False, False], "coefficients": [False, True, False]}, False),
        (jaxem.Regression(1), {"levels": [True, False, False], "coefficients": [True, False, False]}, False),
        (jaxem.Regression(1), {"variances": True, "weights": True}, False),
        (jaxem.Ellipsoidal("EVI"), {"means": [True, False, False]}, False),
        (jaxem.Ellipsoidal("VEV"), {"means": True}, False),
        (jaxem.Product((jaxem.Spherical(), (0,)), (jaxem.Diagonal(), (1,))), {"weights": [True, False, False]}, False),
    ],
)  # fmt: skip
def test_the_m_step_of_other_families_is_exact(family, held, prior):
    x = rows(60)
    old, new, left = _stationary(start_of(family, x, 3), x, held, niw(x) if prior else None)
    assert left < 1e-10
    check_kept(old, new, held)


@only_float64
def test_parts_are_held_and_have_their_priors():
    family = jaxem.Product((jaxem.Full(), (0, 1)), (jaxem.Categorical(3), (2,)))
    x = np.concatenate([rows(60), np.random.default_rng(0).integers(0, 3, (60, 1))], axis=1)
    prior = jaxem.NormalInverseWishart(3.0, jnp.eye(3), 5.0, jnp.full(3, 9.0)) + jaxem.DirichletProbs(2.0)
    held = {"parts": ({"means": [True, False]}, {"probs": [False, True]})}
    old, new, left = _stationary(start_of(family, x), x, held, prior)
    assert left < 1e-12
    assert bits(old.components[0].means[0], new.components[0].means[0])
    assert bits(old.components[1].probs[1], new.components[1].probs[1])
    # 1 weight, 2 + 6 of the Gaussians, 2 of the kinds
    assert new.n_parameters == 1 + 2 + 6 + 2
    union = jaxem.Union((jaxem.Full(), 1), (jaxem.StudentT(4.0), 1))
    old, new, left = _stationary(start_of(union, rows(60)), rows(60), {"parts": (None, {"means": True})}, None)
    assert left < 1e-12
    assert bits(old.components[1].means, new.components[1].means)
    assert new.n_parameters == 1 + 5 + 3


# -- fits by scipy -------------------------------------------------------------------------------------------------------


def lower(free):
    """A covariance matrix from three numbers."""
    factor = np.array([[np.exp(free[0]), 0.0], [free[1], np.exp(free[2])]])
    return factor @ factor.T


def normal(mean, covariance):
    return lambda x: scipy.stats.multivariate_normal(mean, covariance).logpdf(x)


class Problem(NamedTuple):
    """A fit with something held: how plain numpy writes it.

    Attributes:
        held: what is given to `fit`.
        unpack: of free numbers `[p]`, weights and log densities, a function of rows each.
        pack: of a fitted mixture, these numbers.
        p: counted by hand.
    """

    family: str | jaxem.Family
    held: dict
    unpack: object
    pack: object
    p: int
    prior: Any = None


def log_factor(matrix):
    factor = np.linalg.cholesky(matrix)
    return [np.log(factor[0, 0]), factor[1, 0], np.log(factor[1, 1])]


HERE = np.array([12.0, 12.0])
WIDE = np.array([[1.2, 0.3], [0.3, 2.0]])
PROBLEMS = {
    "Full: a mean and a weight": Problem(
        "full",
        {"means": [HERE, [NAN, NAN]], "weights": [0.4, NAN]},
        lambda f: ([0.4, 0.6], [normal(HERE, lower(f[2:5])), normal(f[:2], lower(f[5:]))]),
        lambda m, c: [*c.means[1], *log_factor(c.covariances[0]), *log_factor(c.covariances[1])],
        8,
    ),
    "Full: a mean under a prior that has another": Problem(
        "full",
        {"means": [HERE, [NAN, NAN]], "weights": [0.5, 0.5]},
        lambda f: ([0.5, 0.5], [normal(HERE, lower(f[2:5])), normal(f[:2], lower(f[5:]))]),
        lambda m, c: [*c.means[1], *log_factor(c.covariances[0]), *log_factor(c.covariances[1])],
        8,
        lambda f: -0.5 * sum(
            3.0 * np.linalg.slogdet(s)[1] + np.trace(np.linalg.inv(s))
            + np.linalg.slogdet(s)[1] + 6.0 * (m - 11.0) @ np.linalg.inv(s) @ (m - 11.0)
            for m, s in ((HERE, lower(f[2:5])), (f[:2], lower(f[5:])))
        ),
    ),
    "Tied: a mean": Problem(
        "tied",
        {"means": [HERE, [NAN, NAN]]},
        lambda f: ([1 / (1 + np.exp(f[0])), 1 / (1 + np.exp(-f[0]))], [normal(HERE, lower(f[3:])), normal(f[1:3], lower(f[3:]))]),
        lambda m, c: [np.log(m[1] / m[0]), *c.means[1], *log_factor(c.covariances)],
        6,
    ),
    "Tied: the covariance": Problem(
        "tied",
        {"covariances": WIDE},
        lambda f: ([1 / (1 + np.exp(f[0])), 1 / (1 + np.exp(-f[0]))], [normal(f[1:3], WIDE), normal(f[3:], WIDE)]),
        lambda m, c: [np.log(m[1] / m[0]), *c.means.ravel()],
        5,
    ),
    "Spherical: equal proportions": Problem(
        "spherical",
        {"weights": [0.5, 0.5]},
        lambda f: ([0.5, 0.5], [normal(f[:2], np.exp(f[4]) * np.eye(2)), normal(f[2:4], np.exp(f[5]) * np.eye(2))]),
        lambda m, c: [*c.means.ravel(), *np.log(c.covariances)],
        6,
    ),
    "Diagonal: a covariance and the other's mean": Problem(
        "diagonal",
        {"covariances": [[1.0, 2.0], [NAN, NAN]], "means": [[NAN, NAN], [10.0, 10.0]]},
        lambda f: (
            [1 / (1 + np.exp(f[0])), 1 / (1 + np.exp(-f[0]))],
            [normal(f[1:3], np.diag([1.0, 2.0])), normal([10.0, 10.0], np.diag(np.exp(f[3:])))],
        ),
        lambda m, c: [np.log(m[1] / m[0]), *c.means[0], *np.log(c.covariances[1])],
        5,
    ),
    "Student: a mean and the other's degrees of freedom": Problem(
        jaxem.StudentT(),
        {"means": [HERE, [NAN, NAN]], "dofs": [5.0, 8.0], "weights": [0.4, 0.6]},
        lambda f: (
            [0.4, 0.6],
            [
                scipy.stats.multivariate_t(HERE, lower(f[2:5]), 5.0).logpdf,
                scipy.stats.multivariate_t(f[:2], lower(f[5:]), 8.0).logpdf,
            ],
        ),
        lambda m, c: [*c.means[1], *log_factor(c.scales[0]), *log_factor(c.scales[1])],
        8,
    ),
    "Regression: a slope and the other's intercept": Problem(
        jaxem.Regression(1),
        {"coefficients": [[0.5], [NAN]], "levels": [NAN, 4.0]},
        lambda f: (
            [1 / (1 + np.exp(f[0])), 1 / (1 + np.exp(-f[0]))],
            [
                lambda x: scipy.stats.norm(f[1] + 0.5 * x[:, 0], np.exp(f[3])).logpdf(x[:, 1]),
                lambda x: scipy.stats.norm(4.0 + f[2] * x[:, 0], np.exp(f[4])).logpdf(x[:, 1]),
            ],
        ),
        lambda m, c: [np.log(m[1] / m[0]), c.intercepts[0], c.coefficients[1, 0], *0.5 * np.log(c.variances)],
        5,
    ),
}  # fmt: skip


def test_held_means_come_back_with_their_bits():
    """Far from the centre of the data too, where taking the centre off and adding it again would lose them."""
    x = np.random.default_rng(0).normal(size=(60, 2)) + np.array([7.3, -901.7])
    x[:30] += 4.0
    values = np.array([[0.1, 1 / 3], [NAN, NAN]], x.dtype)
    starts = jaxem.starts(jax.random.key(0), "spherical", x, 2, 3)
    held = {"means": values}
    found = [
        jaxem.fit(starts[0], x, held=held, max_iter=5).mixture,
        jaxem.fit_restarts(starts, x, held=held, max_iter=5).mixture[1],
        jaxem.search(jax.random.key(0), "spherical", x, 2, held=held, budget=16).best.mixture,
    ]
    for mixture in found:
        means = np.asarray(mixture.components.means[0])
        assert bits(means, values[0].astype(means.dtype))


@only_float64
@pytest.mark.parametrize("name", PROBLEMS)
def test_fits_are_those_of_scipy(name):
    """Direct maximisation of the log-likelihood in plain numpy, from 10 per cent away; and what is held has its bits."""
    problem, x = PROBLEMS[name], rows()
    prior = None if problem.prior is None else jaxem.NormalInverseWishart(3.0, jnp.eye(2), 6.0, jnp.full(2, 11.0))
    start = start_of(problem.family, x)
    options = {"held": problem.held, "stop": jaxem.RemainingGainBelow(1e-12), "prior": prior}
    found = jaxem.fit(start, x, **options, **QUICK)
    assert not jaxem.Status(int(found.status)).failed
    assert found.mixture.n_parameters == problem.p

    def height(free):
        weights, densities = problem.unpack(np.asarray(free))
        joint = np.stack([np.log(w) + one(x) for w, one in zip(weights, densities, strict=True)], axis=1)
        total = scipy.special.logsumexp(joint, axis=1).sum()
        return total + (0.0 if problem.prior is None else problem.prior(np.array(free)))

    packed: Any = problem.pack(found.mixture.weights, found.mixture.components)
    fitted = np.asarray(packed, float)
    best = fitted * (1.0 + 0.1 * np.cos(np.arange(problem.p)) / (1.0 + np.abs(fitted)))
    for _ in range(2):
        best = scipy.optimize.minimize(lambda f: -height(f), best, jac="3-point", options={"gtol": 1e-7}).x
    assert float(found.objective) == pytest.approx(height(fitted), rel=1e-12)
    assert float(found.objective) == pytest.approx(height(best), rel=1e-11)
    np.testing.assert_allclose(fitted, best, rtol=1e-6, atol=1e-6)
    for field, values in problem.held.items():
        if field != "weights":
            kept, values = np.asarray(getattr(found.mixture.components, field)), np.asarray(values, float)
            assert bits(kept[~np.isnan(values)], values[~np.isnan(values)])
    trace = np.asarray(found.trace)
    trace = trace[~np.isnan(trace)]
    assert np.all(np.diff(trace) >= -1e-12 * (np.abs(trace[1:]) + len(x)))


@pytest.mark.any_dtype
def test_derivatives_know_what_is_held():
    """By the rows, and by the values that are held: those of refits."""
    if not X64:
        pytest.skip("differences of refits need float64's digits")
    x = rows()
    start = with_held(start_of("full", x), {"means": [HERE, [NAN, NAN]], "weights": [0.4, NAN]})
    rng = np.random.default_rng(0)
    by_value, by_mean = jnp.asarray(rng.normal(size=x.shape)), jnp.asarray([0.3, -0.2])

    def answer(t, **options):
        means = start.components.means.at[0].add(t * by_mean)
        log_weights = jnp.log(jnp.stack([0.4 + 0.1 * t, 0.6 - 0.1 * t]))
        moved = dataclasses.replace(start, log_weights=log_weights, components=start.components._replace(means=means))
        fitted = jaxem.fit(
            moved, jnp.asarray(x) + t * by_value, stop=jaxem.RemainingGainBelow(1e-13), **QUICK, **options
        )
        return jnp.concatenate([fitted.mixture.components.covariances.ravel(), fitted.mixture.components.means.ravel()])

    slope, h = jax.jacfwd(answer)(0.0), 1e-4
    refit = jax.jit(answer)
    expected = (8 * (refit(h) - refit(-h)) - (refit(2 * h) - refit(-2 * h))) / (12 * h)
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jacrev(answer)(0.0), slope, rtol=1e-9, atol=1e-9)


# -- everywhere ----------------------------------------------------------------------------------------------------------


def test_held_through_jit_vmap_batches_pickles_and_order():
    x = rows()
    batch = jaxem.starts(jax.random.key(1), "full", x, 2, 3)
    held = {"means": [True, False], "weights": [0.25, NAN]}
    one = jaxem.fit(batch[0], x, held=held)
    many = jaxem.fit_restarts(batch, x, held=held)
    inside = jax.jit(lambda start, x: jaxem.fit(start, x, held=held))(batch[0], x)
    mapped = jax.vmap(lambda start: jaxem.fit(start, x, held=held))(batch)
    for found in (one, many[0], inside, mapped[0]):
        assert found.mixture.held == one.mixture.held
        assert bits(found.mixture.components.means[0], batch.components.means[0, 0])
        assert bits(found.mixture.log_weights[0], jnp.log(jnp.asarray(0.25, x.dtype if X64 else jnp.float32)))
        assert float(found.objective) == pytest.approx(float(one.objective), rel=1e-9 if X64 else 1e-5)
    assert bits(many.mixture.components.means[:, 0], batch.components.means[:, 0])
    assert one.mixture.n_parameters == 2 + 3 + 3
    again = pickle.loads(pickle.dumps(one.mixture))
    assert again.held == one.mixture.held
    assert jax.tree.structure(again) == jax.tree.structure(one.mixture)
    # the next fit goes on holding, and lets go if it is told to
    assert bits(jaxem.fit(one.mixture, x).mixture.components.means[0], batch.components.means[0, 0])
    free = jaxem.fit(one.mixture, x, held={})
    assert free.mixture.held is None
    assert float(free.objective) > float(one.objective)
    assert free.mixture.n_parameters == 11
    # order and picking
    turned = jaxem.sorted_components(one.mixture, by=[1.0, 0.0])
    assert turned.held.weights == (False, True)
    assert turned.held.leaves[0] == (False, True)
    assert turned.n_parameters == 8
    assert one.mixture[0].n_parameters == 3
    assert one.mixture[1].n_parameters == 5
    with pytest.raises(ValueError, match="order must be known"):
        jax.jit(jaxem.sorted_components)(one.mixture)


@only_float64
def test_accelerated_and_plain_climbs_agree_and_errors_follow():
    x = rows()
    start = start_of("full", x)
    held = {"means": [HERE, [NAN, NAN]]}
    plain = jaxem.fit(start, x, held=held, stop=jaxem.GainBelow(1e-15))
    quick = jaxem.fit(start, x, held=held, **QUICK)
    assert float(plain.objective) == pytest.approx(float(quick.objective), rel=1e-9)
    found = jaxem.summary(quick.mixture, x)
    assert np.all(np.asarray(found.standard_error.components.means)[0] == 0)
    assert np.all(np.asarray(found.standard_error.components.means)[1] > 0)
    assert jaxem.information(quick.mixture, x).shape == (9, 9)
    assert 0 < float(jaxem.em_rate(quick.mixture, x)) < 1


@only_float64
@pytest.mark.slow
def test_the_laws_hold_where_something_is_held():
    x = rows()
    found = jaxem.fit(start_of("full", x), x, held={"means": [HERE, [NAN, NAN]], "weights": [0.4, NAN]}, **QUICK)
    assert jaxem.verify(found.mixture, x).ok


@only_float64
def test_a_spread_that_is_held_does_not_collapse():
    """A spike on two rows would be DEGENERATE if its covariance were free."""
    x = np.concatenate([rows(), np.full((2, 2), 30.0)])
    held = {"means": [[30.0, 30.0], [NAN, NAN]], "covariances": [1e-6 * np.eye(2), np.full((2, 2), NAN)]}
    assert jaxem.Status(int(jaxem.fit(start_of("full", x), x, held=held).status)) == jaxem.Status.CONVERGED


def test_checkpoints_know_what_is_held(tmp_path):
    x, start = rows(), start_of("full", rows())
    file = tmp_path / "climb"
    first = jaxem.fit(start, x, held={"means": [True, False]}, checkpoint=file)
    again = jaxem.fit(start, x, held={"means": [True, False]}, checkpoint=file)
    assert all(map(bits, jax.tree.leaves(first.mixture), jax.tree.leaves(again.mixture)))
    with pytest.raises(ValueError, match="was made with other options"):
        jaxem.fit(start, x, held={"means": True}, checkpoint=file)


@only_float64
def test_search_holds_values_in_their_places():
    """The component near a held mean takes it, and of a search with equal proportions no other start is higher."""
    x = jaxem.datasets.faithful()
    held = {"means": [[NAN, NAN], [2.0, 54.0]], "weights": True}
    found = jaxem.search(jax.random.key(0), "full", x, 2, held=held, budget=200)
    best = found.best.mixture
    assert bits(best.components.means[1], [2.0, 54.0])
    assert bits(best.log_weights, jnp.full(2, -np.log(2)))
    assert best.n_parameters == 2 + 3 + 3
    np.testing.assert_allclose(best.components.means[0], [4.29, 79.97], rtol=1e-2)
    climbs = jaxem.fit_restarts(
        jaxem.starts(jax.random.key(1), "full", x, 2, 8), x, held={**held, "weights": [0.5, 0.5]}, **QUICK
    )
    assert float(found.best.log_likelihood) >= float(jnp.nanmax(climbs.log_likelihood)) - 1e-6
    with pytest.raises(ValueError, match="no start has values yet"):
        jaxem.search(jax.random.key(0), "full", x, 2, held={"means": True})


# -- estimators ----------------------------------------------------------------------------------------------------------


def log_likelihood(model, x):
    return float(np.sum(model.score_samples(x)))


@pytest.mark.any_dtype
def test_the_drop_in_holds_its_inits():
    from jaxem.sklearn import GaussianMixture

    x = np.asarray(jaxem.datasets.faithful(), float)
    means, precisions = np.array([[2.0, 55.0], [4.3, 80.0]]), np.linalg.inv([[0.1, 0.5], [0.5, 35.0]])
    held = {"means": True, "weights": True}
    options = {"tol": 1e-10, "max_iter": 500, "reg_covar": 0.0, "random_state": 0}
    model = GaussianMixture(2, means_init=means, held=held, **options).fit(x)
    assert bits(model.means_, means)
    assert bits(model.weights_, [0.5, 0.5])
    # at the optimum each covariance is the scatter about the held mean
    resp = model.predict_proba(x)
    for j in range(2):
        away = x - means[j]
        np.testing.assert_allclose(
            model.covariances_[j], (resp[:, j, None] * away).T @ away / resp[:, j].sum(), rtol=1e-6
        )
    assert model.bic(x) == pytest.approx(6 * np.log(len(x)) - 2 * log_likelihood(model, x), rel=1e-12)
    assert jaxem.Status[model.restart_statuses_[0]] == jaxem.Status.CONVERGED
    tied = GaussianMixture(
        2, covariance_type="tied", precisions_init=precisions, held={"covariances": True}, **options
    ).fit(x)
    np.testing.assert_allclose(tied.covariances_, [[0.1, 0.5], [0.5, 35.0]], rtol=1e-12)
    assert tied.mixture_.n_parameters == 5
    some = GaussianMixture(2, held={"weights": [NAN, 0.3]}, init_params="search", random_state=0).fit(x)
    assert some.weights_[1] == 0.3
    assert some.mixture_.n_parameters == 10
    batches = GaussianMixture(2, held={"means": [means[0], [NAN, NAN]]}, random_state=0)
    for _ in range(3):
        batches.partial_fit(x)
    assert bits(batches.means_[0], means[0])
    with pytest.raises(ValueError, match=re.escape("held['means'] = True, but means_init is None")):
        GaussianMixture(2, held={"means": True}).fit(x)


@pytest.mark.any_dtype
def test_the_model_of_any_family_holds():
    from jaxem.sklearn import MixtureModel

    x = np.asarray(jaxem.datasets.faithful(), float)
    held = {"weights": [0.4, NAN], "means": [[2.0, 55.0], [NAN, NAN]]}
    model = MixtureModel("tied", 2, init_params="k-means++", held=held, random_state=0).fit(x)
    assert bits(model.components_.means[0], [2.0, 55.0])
    assert model.weights_[0] == pytest.approx(0.4, rel=1e-15)
    assert model.mixture_.n_parameters == 2 + 3
    model.set_params(held=None, warm_start=True).fit(x)
    assert model.mixture_.n_parameters == 8
    from_mixture = MixtureModel("tied", 2, init_params=model.mixture_, held={"means": True}).fit(x)
    assert bits(from_mixture.components_.means, model.components_.means)


# -- bad input -----------------------------------------------------------------------------------------------------------

BAD = {
    "names 'mean', which cannot be held; choose from weights, means, covariances; did you mean 'means'?": {
        "mean": True
    },
    "held['means'] has shape (1,); give True, or 2 of bool": {"means": [True]},
    "held['means'] has shape (2,); give (2, 2), with NaN": {"means": [1.0, NAN]},
    "held['means'][0] holds numbers and NaN": {"means": [[1.0, NAN], [NAN, NAN]]},
    "held['means'] holds values that are not finite": {"means": [[1.0, np.inf], [NAN, NAN]]},
    "held['means'] = 'a'; give True": {"means": "a"},
    "sum to 1 and leave nothing for the others": {"weights": [1.0, NAN]},
    "sum to 1.1; give shares that sum to 1": {"weights": [0.5, 0.6]},
    "held['weights'] = [-0.5]; give positive shares": {"weights": [-0.5, NAN]},
    "held['covariances'] is not positive definite": {"covariances": [[[1, 2], [2, 1]], [[NAN, NAN], [NAN, NAN]]]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_told_in_one_line(message):
    x = rows()
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        jaxem.fit(start_of("full", x), x, held=BAD[message])
    assert "\n" not in str(error.value)


def test_what_cannot_be_held_says_so():
    x = rows()
    for family, held, message in (
        (jaxem.Ellipsoidal("VEV"), {"covariances": True}, "choose from weights, means"),
        (jaxem.Product((jaxem.Full(), (0, 1))), {"means": True}, "choose from weights, parts"),
        (jaxem.Product((jaxem.Full(), (0, 1))), {"parts": {"means": True}}, "give 1 dicts, one for each part"),
        (jaxem.Tied(), {"covariances": [True, False]}, "components share it"),
        (jaxem.Regression(1), {"origins": True}, "choose from weights, levels, coefficients, variances"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxem.fit(start_of(family, x), x, held=held)
    with pytest.raises(TypeError, match="give a dict"):
        jaxem.fit(start_of("full", x), x, held=["means"])
    with warnings.catch_warnings(), pytest.raises(ValueError, match="is traced"):
        jax.jit(lambda m: jaxem.fit(start_of("full", x), x, held={"means": m}))(np.zeros((2, 2)))
