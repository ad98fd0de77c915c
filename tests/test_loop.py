"""The climb: ascent, stopping, statuses, pieces, derivatives, accelerators, and what compiles again."""

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import jaxem
from jaxem import GainBelow, Status, StepBelow, loop
from tests.cases import CASES, FEW, GAUSSIANS, SOME_GAUSSIANS, Case, blobs, named
from tests.conftest import ROUNDING, X64

FOREVER = GainBelow(-jnp.inf)
FALL = 1e-12 if X64 else 1e-5


def start_of(family, x, k, seed=0):
    return jaxem.starts(jax.random.key(seed), family, x, k, 1)[0]


@pytest.mark.parametrize("case", **named(CASES, first=len(FEW)))
def test_result_is_true_of_its_mixture(case):
    x = case.data()
    result = jaxem.fit(case.mixture(), x, prior=case.prior, stop=FOREVER, max_iter=7)
    log_likelihood = jaxem.e_step(result.mixture, x).log_likelihood
    np.testing.assert_allclose(result.log_likelihood, log_likelihood, rtol=10 * ROUNDING)
    log_prior = 0.0 if case.prior is None else case.prior.log_prob(result.mixture)
    np.testing.assert_allclose(result.objective, log_likelihood + log_prior, rtol=10 * ROUNDING)
    assert int(result.n_iter) == 7
    assert int(result.status) in (Status.MAX_ITER, Status.DEGENERATE)
    assert result.trace.shape == (8,)
    assert result.trace[-1] == result.objective


def test_loop_is_m_step_after_e_step():
    case = Case(jaxem.Full(), 2, 2)
    mixture, x = case.mixture(), case.data()
    result = jaxem.fit(mixture, x, stop=FOREVER, max_iter=5)
    for i in range(5):
        stats = jaxem.e_step(mixture, x)
        np.testing.assert_allclose(result.trace[i], stats.log_likelihood, rtol=10 * ROUNDING)
        mixture = jaxem.m_step(mixture, stats)
    np.testing.assert_allclose(
        result.mixture.components.covariances, mixture.components.covariances, rtol=100 * ROUNDING, atol=ROUNDING
    )


@pytest.mark.parametrize("family", SOME_GAUSSIANS, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize(
    ("n", "d", "k"), [(25, 2, 3), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in [(12, 1, 2), (40, 3, 2)])]
)
def test_ascent_over_random_problems(family, n, d, k):
    """1,024 of each shape: 256 data sets for each family, from random starts, 40 steps each."""

    @jax.jit
    def climb(key):
        data_key, start_key = jax.random.split(key)
        x = jax.random.normal(data_key, (n, d)) * 10 ** jax.random.uniform(start_key, (1, d), minval=-2, maxval=2)
        start = jaxem.starts(start_key, family, x, k, 1, jaxem.RandomPoints())[0]
        result = jaxem.fit(start, x, stop=FOREVER, max_iter=40)
        return result.trace, result.status, result.objective

    traces, statuses, objectives = (
        np.asarray(leaf) for leaf in jax.vmap(climb)(jax.random.split(jax.random.key(n), 256))
    )
    rises = np.diff(traces, axis=1)
    allowed = FALL * (np.abs(traces[:, 1:]) + n)
    assert np.all(np.isnan(rises) | (rises >= -allowed))
    assert np.all(np.isfinite(objectives))
    assert set(statuses.tolist()) <= {Status.MAX_ITER, Status.DEGENERATE}


def test_gain_rule_is_the_lectures():
    """A climb stops at the first turn whose gain per row is below tol, and at no earlier one."""
    x = blobs(100)
    result = jaxem.fit(start_of(jaxem.Full(), x, 2), x, stop=GainBelow(1e-4))
    gains = np.diff(np.asarray(result.trace))[: int(result.n_iter)] / 100
    assert int(result.status) == Status.CONVERGED
    assert np.all(np.isnan(np.asarray(result.trace)[int(result.n_iter) + 1 :]))
    assert gains[-1] < 1e-4
    assert np.all(gains[:-1] >= 1e-4)


def test_step_rule_is_the_lectures():
    x = blobs(100)
    mixture = start_of(jaxem.Full(), x, 2)
    tol = 1e-2
    result = jaxem.fit(mixture, x, stop=StepBelow(tol))
    assert int(result.status) == Status.CONVERGED
    sizes = []
    for _ in range(int(result.n_iter) + 1):  # it stops where the next step would be small
        new = jaxem.m_step(mixture, jaxem.e_step(mixture, x))
        old, now = mixture.components, new.components
        sd = np.sqrt(np.diagonal(old.covariances, axis1=1, axis2=2))
        sizes.append(
            max(
                np.max(np.abs(now.means - old.means) / sd),
                np.max(np.abs(now.covariances - old.covariances) / (sd[:, :, None] * sd[:, None, :])),
                np.max(np.abs(new.weights - mixture.weights)),
            )
        )
        mixture = new
    assert sizes[-1] < tol
    assert min(sizes[:-1]) >= tol
    assert int(jaxem.fit(start_of(jaxem.Full(), x * 1000, 2), x * 1000, stop=StepBelow(tol)).n_iter) == len(sizes) - 1


def test_a_tolerance_finer_than_rounding_says_so():
    x = blobs(100)
    result = jaxem.fit(start_of(jaxem.Full(), x, 2), x, stop=GainBelow(1e-30))
    assert int(result.status) == Status.PRECISION_LIMITED


def test_nan_is_never_convergence():
    x = blobs(50)
    mixture = start_of(jaxem.Spherical(), x, 2)
    broken = jaxem.Mixture(
        mixture.log_weights, mixture.components._replace(means=mixture.components.means * jnp.nan), mixture.family
    )
    result = jaxem.fit(broken, x)
    assert int(result.status) == Status.NONFINITE
    assert int(result.n_iter) == 0
    assert float(result.log_likelihood) == -np.inf
    # inside jit the values of x cannot be checked: the status tells
    result = jax.jit(jaxem.fit)(mixture, jnp.asarray(x).at[3, 1].set(jnp.nan))
    assert int(result.status) == Status.NONFINITE
    np.testing.assert_array_equal(result.mixture.components.covariances, mixture.components.covariances)


@pytest.mark.parametrize("family", SOME_GAUSSIANS, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize("trouble", ["constant feature", "duplicated points", "two distinct points", "one row each"])
def test_collapse_is_degenerate_and_finite(family, trouble):
    rng = np.random.default_rng(0)
    x = {
        "constant feature": np.column_stack([rng.normal(size=30), np.full(30, 3.0)]),
        "duplicated points": np.repeat(rng.normal(size=(5, 2)), 6, axis=0),
        "two distinct points": np.repeat([[0.0, 0.0], [1.0, 2.0]], 15, axis=0),
        "one row each": rng.normal(size=(3, 2)),
    }[trouble]
    results = jaxem.fit_restarts(jaxem.starts(jax.random.key(0), family, x, 3, 8), x)
    for leaf in jax.tree.leaves((results.mixture.components, results.log_likelihood, results.objective)):
        assert bool(jnp.all(jnp.isfinite(leaf)))
    assert not bool(jnp.any(results.status == Status.NONFINITE))
    sound = {("constant feature", jaxem.Spherical()), *(("duplicated points", family) for family in GAUSSIANS)}
    if (trouble, family) not in sound:
        assert int(jaxem.best(results).status) == Status.DEGENERATE


def test_degeneracy_does_not_depend_on_the_scale_of_weights():
    x = blobs(100)
    mixture = start_of(jaxem.Full(), x, 2)
    for scale in (1e-6, 1.0, 1e6):
        assert int(jaxem.fit(mixture, x, np.full(100, scale)).status) == Status.CONVERGED


@pytest.mark.any_dtype
def test_pieces_make_the_same_climb():
    case = Case(jaxem.Diagonal(), 3, 2)
    mixture, x = case.mixture(), case.data()
    rows = loop.rows_to_fit(mixture, x, None)
    whole = jaxem.fit(mixture, x, stop=GainBelow(1e-6))
    state = loop.begin(mixture.to_frame(rows.frame), loop.MAX_ITER)
    while int(state.status) == Status.RUNNING:
        state = jaxem.advance(state, rows, 3, stop=GainBelow(1e-6))
    result = loop.finish(state, rows.frame)
    assert int(result.n_iter) == int(whole.n_iter)
    np.testing.assert_allclose(result.objective, whole.objective, rtol=ROUNDING)
    again = jaxem.advance(state, rows, 3, stop=GainBelow(1e-6))
    chex.assert_trees_all_equal(state, again)  # a stopped lane does not move


@pytest.mark.any_dtype
def test_rate_and_remaining_gain_estimate_the_truth():
    """From near the best optimum: on a plateau far from any the estimate may be wrong."""
    x = blobs(300, separation=2.5)
    best = jaxem.search(jax.random.key(0), jaxem.Diagonal(), x, 2).best.mixture
    moved = best.components._replace(means=best.components.means + 0.5)
    mixture = jaxem.Mixture(best.log_weights, moved, best.family)
    result = jaxem.fit(mixture, x, stop=GainBelow(1e-6 if X64 else 1e-4), max_iter=20_000)
    assert int(result.status) == Status.CONVERGED
    if X64:
        final = jaxem.fit(result.mixture, x, stop=GainBelow(1e-14), max_iter=20_000)
        left = float(final.objective - result.objective)
        assert 0.5 < float(result.remaining_gain) / left < 2.0
        assert 0.0 < float(result.rate) < 1.0


@pytest.mark.any_dtype
def test_fit_under_vmap_and_jit():
    x = blobs(60)
    starts = jaxem.starts(jax.random.key(0), jaxem.Diagonal(), x, 2, 4)
    options = {"stop": FOREVER, "max_iter": 10}
    lanes = jaxem.fit_restarts(starts, x, **options)
    mapped = jax.jit(jax.vmap(lambda start: jaxem.fit(start, x, **options)))(starts)
    np.testing.assert_allclose(mapped.objective, lanes.objective, rtol=10 * ROUNDING)
    np.testing.assert_allclose(mapped.trace, lanes.trace, rtol=10 * ROUNDING)
    boots = jax.vmap(lambda w: jaxem.fit(starts[0], x, w, **options))
    assert boots(jnp.ones((3, 60))).objective.shape == (3,)


@pytest.mark.any_dtype
def test_same_shapes_compile_nothing_new():
    x = blobs(64)
    mixture = start_of(jaxem.Full(), x, 2)
    jaxem.fit(mixture, x, stop=GainBelow(1e-3))
    before = len(loop._fit.made)
    assert before > 0
    for tol in (1e-4, 1e-5, jnp.asarray(1e-6), np.float64(1e-7)):
        jaxem.fit(mixture, x + 1.0, stop=GainBelow(tol))
        jaxem.fit(jaxem.m_step(mixture, jaxem.e_step(mixture, x)), x, stop=GainBelow(tol))
    assert len(loop._fit.made) == before

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(mixture, x, tol):
        return jaxem.fit(mixture, x, stop=GainBelow(tol)).objective

    for tol in (1e-3, 1e-5, 1e-7):
        run(mixture, x, tol)


# -- accelerators --------------------------------------------------------------------------------------------------------


@pytest.mark.any_dtype
def test_identity_is_plain_em():
    x = blobs(80, separation=3.0)
    mixture = start_of(jaxem.Full(), x, 2)
    plain = jaxem.fit(mixture, x, stop=FOREVER, max_iter=12)
    through_chart = jaxem.fit(mixture, x, stop=FOREVER, max_iter=12, accelerator=optax.identity())
    np.testing.assert_allclose(through_chart.trace, plain.trace, rtol=100 * ROUNDING)


@pytest.mark.parametrize("factor", [1.6, 30.0, -4.0, float("nan")])
def test_a_bad_accelerator_cannot_lower_the_objective(factor):
    """Over-relaxation may help, overshoot, go backwards or be NaN: after a refused step comes a plain one."""
    x = blobs(120, separation=2.5)
    mixture = start_of(jaxem.Diagonal(), x, 2)
    tol = 1e-9 if X64 else 1e-5
    result = jaxem.fit(
        mixture, x, stop=GainBelow(tol), max_iter=5000, accelerator=optax.with_extra_args_support(optax.scale(factor))
    )
    rises = np.diff(np.asarray(result.trace)[: int(result.n_iter) + 1])
    assert np.all(rises >= -FALL * (abs(float(result.objective)) + 120))
    plain = jaxem.fit(mixture, x, stop=GainBelow(tol), max_iter=5000)
    np.testing.assert_allclose(result.objective, plain.objective, rtol=1e-6 if X64 else 1e-4)
    assert int(result.status) in (Status.CONVERGED, Status.PRECISION_LIMITED)
    if factor == 1.6:
        assert int(result.n_iter) < int(plain.n_iter)


# -- settings of JAX -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "tensorfloat32"])
def test_answers_do_not_depend_on_the_matmul_precision(precision):
    x = blobs(60)
    mixture = start_of(jaxem.Full(), x, 2)
    expected = jaxem.fit(mixture, x, stop=FOREVER, max_iter=10)
    with jax.default_matmul_precision(precision):
        found = jaxem.fit(mixture, x, stop=FOREVER, max_iter=10)
    chex.assert_trees_all_equal(found.mixture, expected.mixture)


def test_runs_under_debug_nans():
    x = blobs(60)
    jax.config.update("jax_debug_nans", True)
    try:
        starts = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 3)
        assert int(jaxem.best(jaxem.fit_restarts(starts, x)).status) == Status.CONVERGED
        assert int(jaxem.fit(starts[0], x).status) == Status.CONVERGED
    finally:
        jax.config.update("jax_debug_nans", False)


def test_a_maximum_is_one_for_scipy_too():
    """BFGS on the negative log-likelihood, from where EM stopped, finds nothing higher."""
    if not X64:
        pytest.skip("needs gradients to 1e-7")
    x = blobs(100, separation=3.0)
    result = jaxem.fit(start_of(jaxem.Full(), x, 2), x, stop=GainBelow(1e-14), max_iter=20_000)
    loss = jax.jit(jax.value_and_grad(lambda free: -jaxem.e_step(result.mixture.constrain(free), x).log_likelihood))
    found = scipy.optimize.minimize(loss, np.asarray(result.mixture.unconstrain()), jac=True)
    assert -found.fun <= float(result.log_likelihood) + 1e-7


def test_derivatives_by_means_survive_the_compiler():
    """A product with a broadcast operand is miscompiled by XLA's CPU backend (jax 0.10.2) unless fenced off."""
    case = Case(jaxem.Full(), 2, 16)
    mixture, x = case.mixture(), jnp.asarray(case.data(300))
    params = mixture.components

    def total(means):
        return jnp.sum(mixture.family.log_prob(params._replace(means=means), x))

    forward = jax.jit(lambda move: jax.jvp(total, (params.means,), (move,))[1])
    assert float(forward(jnp.zeros_like(params.means))) == 0.0
    move = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16)), x.dtype)
    np.testing.assert_allclose(forward(move), jnp.sum(jax.grad(total)(params.means) * move), rtol=100 * ROUNDING)


@pytest.mark.parametrize(
    "rule", [jaxem.RemainingGainBelow, jaxem.AitkenBelow, jaxem.RelativeGainBelow, jaxem.TotalGainBelow, StepBelow]
)
def test_tolerances_are_numbers_and_rules_stop(rule):
    for tol in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"tol = {tol}; give a number of at least 0"):
            rule(tol)
    with pytest.raises(ValueError, match="tol = nan; give a number"):
        GainBelow(float("nan"))
    x = jaxem.datasets.faithful()
    start = start_of(jaxem.Full(), x, 3, seed=4)
    loose, tight = (jaxem.fit(start, x, stop=rule(tol)) for tol in ((1e-2, 1e-4) if X64 else (1e-1, 1e-2)))
    assert {int(loose.status), int(tight.status)} <= {Status.CONVERGED, Status.PRECISION_LIMITED}
    assert int(loose.n_iter) <= int(tight.n_iter)
    assert not X64 or int(loose.n_iter) < int(tight.n_iter)


@pytest.mark.skipif(not X64, reason="digits of float64")
def test_rules_are_what_they_say():
    """Each rule stops where numpy, given the trace of plain EM, says that it must."""
    x = jaxem.datasets.faithful()
    start = start_of(jaxem.Full(), x, 3, seed=4)
    trace = np.asarray(jaxem.fit(start, x, stop=GainBelow(-np.inf), max_iter=200).trace)
    gains = np.diff(trace)
    ratio = gains[1:] / gains[:-1]
    left = np.where((ratio >= 0) & (ratio < 1), gains[1:] * ratio / (1 - ratio), np.inf)
    expected = {
        jaxem.TotalGainBelow(1e-3): 1 + np.flatnonzero(gains < 1e-3)[0],
        jaxem.RelativeGainBelow(1e-6): 1 + np.flatnonzero(gains < 1e-6 * (1 + np.abs(trace[1:])))[0],
        jaxem.AitkenBelow(1e-3): 2 + np.flatnonzero(left < 1e-3)[0],
    }
    for rule, turns in expected.items():
        assert int(jaxem.fit(start, x, stop=rule).n_iter) == turns, rule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OnSome:
    """A rule that holds where the objective is at one of `levels`."""

    levels: jax.Array
    patience: ClassVar[int] = 2

    def __call__(self, progress):
        near = jnp.any(jnp.abs(progress.objective - self.levels) < 1e-9 * jnp.abs(progress.objective))
        return jnp.where(near, Status.CONVERGED, Status.RUNNING)


def test_a_rule_with_patience_is_met_that_often_in_a_row():
    """The rule holds at turns 3, 5 and 6: the climb ends at the second turn in a row, not at the second in all."""
    case = Case(jaxem.Spherical(), 2, 3)
    x, start = case.data(), case.mixture()
    trace = jaxem.fit(start, x, stop=FOREVER, max_iter=9).trace
    result = jaxem.fit(start, x, stop=OnSome(trace[jnp.array([3, 5, 6])]), max_iter=9)
    assert (int(result.status), int(result.n_iter)) == (Status.CONVERGED, 6)


def test_what_remains_must_be_little_twice():
    """Two gains are known after turn 2: however much may remain, turn 3 is the first at which the rule holds twice."""
    case = Case(jaxem.Spherical(), 2, 3)
    result = jaxem.fit(case.mixture(), case.data(), stop=jaxem.RemainingGainBelow(1e9, step=1e9))
    assert (int(result.status), int(result.n_iter)) == (Status.CONVERGED, 3)
