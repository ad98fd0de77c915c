"""Accelerators on maps with known fixed points, on the slowest problem in the literature, and on the reference fits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxem
from jaxem import Status, StepBelow
from jaxem.program import forget_programs
from tests.cases import REFERENCE_FAMILIES, Counts, Rates, reference_data, reference_fits, slow_but_first
from tests.conftest import X64

ACCELERATORS = {"squarem": jaxem.squarem(), "anderson": jaxem.anderson(), "hybrid": jaxem.hybrid()}
needs_x64 = pytest.mark.skipif(not X64, reason="digits of float64")


def iterate(accelerator, step, x, turns):
    """Anchors and |f| along a climb in which every proposal is taken."""
    state, sizes = accelerator.init(x), []

    @jax.jit
    def turn(x, state):
        f = step(x) - x
        updates, state = accelerator.update(f, state, x, value=0.0, accepted=True)
        return x + updates, state, jnp.linalg.norm(f)

    for _ in range(turns):
        x, state, size = turn(x, state)
        sizes.append(float(size))
    return np.asarray(x), np.array(sizes), state


@needs_x64
@pytest.mark.parametrize("name", ACCELERATORS)
def test_a_linear_map_with_a_known_fixed_point(name):
    """The rates are 0.99 to 0: plain steps need 1,800 turns for eight digits, accelerated ones 200."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    jacobian = basis @ np.diag([0.99, 0.9, 0.5, 0.2, 0.05, 0.0]) @ basis.T
    fixed = rng.normal(size=6)
    x, _, state = iterate(ACCELERATORS[name], lambda x: fixed + jnp.asarray(jacobian) @ (x - fixed), jnp.zeros(6), 200)
    np.testing.assert_allclose(x, fixed, atol=1e-8)
    assert state.ahead.shape == (6,)


@needs_x64
def test_anderson_solves_a_linear_map_of_p_coordinates_in_p_turns():
    """On a linear map Anderson acceleration is GMRES (Walker and Ni 2011), which needs as many turns as there are rates."""
    jacobian, fixed = jnp.diag(jnp.array([0.9, 0.5, 0.1])), jnp.array([1.0, -2.0, 3.0])
    x, _, _ = iterate(jaxem.anderson(4), lambda x: fixed + jacobian @ (x - fixed), jnp.zeros(3), 5)
    np.testing.assert_allclose(x, fixed, atol=1e-10)


@needs_x64
def test_squarem_takes_the_step_of_the_paper():
    """Varadhan and Roland's S3 by hand: x0 + 2 a r + a^2 v with a = |r| / |v|, within the bound."""
    step = lambda x: jnp.array([0.9 * x[0] + 1.0, 0.5 * x[1]])  # noqa: E731
    x0 = np.array([0.0, 4.0])
    x1, x2 = np.asarray(step(x0)), np.asarray(step(step(x0)))
    r, v = x1 - x0, x2 - 2 * x1 + x0
    accelerator = jaxem.squarem()
    state = accelerator.init(jnp.asarray(x0))._replace(bound=jnp.asarray(100.0))
    updates, state = accelerator.update(jnp.asarray(x1 - x0), state, jnp.asarray(x0), value=0.0, accepted=True)
    np.testing.assert_allclose(x0 + updates, x1, rtol=1e-14)
    updates, state = accelerator.update(jnp.asarray(x2 - x1), state, jnp.asarray(x1), value=0.0, accepted=True)
    a = np.linalg.norm(r) / np.linalg.norm(v)
    np.testing.assert_allclose(x1 + updates, x0 + 2 * a * r + a**2 * v, rtol=1e-12)
    # refused: the bound, which was not reached, stays; the next proposal is the plain step
    updates, state = accelerator.update(jnp.asarray(x2 - x1), state, jnp.asarray(x1), value=0.0, accepted=False)
    assert float(state.bound) == 100.0
    updates, _ = accelerator.update(jnp.ones(2), state, jnp.asarray(x2), value=0.0, accepted=True)
    np.testing.assert_allclose(updates, 1.0)


@pytest.mark.parametrize("name", ACCELERATORS)
def test_at_the_fixed_point_they_stay(name):
    accelerator, x = ACCELERATORS[name], jnp.array([1.0, 2.0])
    state = accelerator.init(x)
    for _ in range(4):
        updates, state = accelerator.update(jnp.zeros(2), state, x, value=0.0, accepted=True)
        np.testing.assert_array_equal(updates, 0.0)
    with pytest.raises(ValueError, match="params = None"):
        accelerator.update(jnp.zeros(2), state)


def test_bad_memory_and_one_value_for_one_setting():
    for memory in (0, -1, 2.5, True, "5"):
        with pytest.raises(ValueError, match="give a positive whole number"):
            jaxem.anderson(memory)
    assert jaxem.hybrid() is jaxem.hybrid()  # a new one would compile anew
    assert isinstance(jaxem.hybrid(), optax.GradientTransformationExtraArgs)


@needs_x64
@pytest.mark.parametrize("name", ACCELERATORS)
def test_hasselblad(name):
    """Deaths of London women (Hasselblad 1969): EM converges at the rate 0.9957, and needs thousands of passes."""
    x = np.arange(10.0)[:, None]
    deaths = np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1.0])
    start = jaxem.Mixture(jnp.log(jnp.array([0.3, 0.7])), Rates(jnp.array([[1.0], [2.5]])), Counts())
    slow = jaxem.fit(start, x, deaths, stop=StepBelow(1e-9), max_iter=20_000)
    fast = jaxem.fit(start, x, deaths, stop=StepBelow(1e-9), max_iter=20_000, accelerator=ACCELERATORS[name])
    assert int(fast.status) == Status.CONVERGED
    order = np.argsort(fast.mixture.components.rates[:, 0])
    np.testing.assert_allclose(fast.mixture.components.rates[order, 0], [1.256095320, 2.663404514], rtol=2e-6)
    np.testing.assert_allclose(fast.mixture.weights[order], [1 - 0.640114475, 0.640114475], rtol=2e-6)
    assert abs(float(fast.log_likelihood) + 1989.945860) < 1e-6
    assert int(fast.n_iter) * 10 < int(slow.n_iter)


def climbs(fit, accelerator, tol=1e-9):
    x, family = reference_data(fit["data"]), REFERENCE_FAMILIES[fit["cov"]]
    starts = jaxem.starts(jax.random.key(1), family, x, fit["K"], 16)
    return jaxem.fit_restarts(starts, x, stop=StepBelow(tol), max_iter=20_000, accelerator=accelerator)


@pytest.mark.slow
@needs_x64
def test_passes_over_the_reference_problems():
    """On 18 problems x 16 starts the hybrid makes fewer passes, never falls and ends in optima as high."""
    ratios, long, worse, lanes = [], [], 0, 0
    for fit in reference_fits():
        slow, fast = climbs(fit, None), climbs(fit, jaxem.hybrid())
        em, ours = np.asarray(slow.n_iter), np.asarray(fast.n_iter)
        assert (ours <= em + np.maximum(0.1 * em, 4)).all(), (fit, em, ours)
        trace = np.asarray(fast.trace)
        falls = np.nan_to_num(trace[:, :-1] - trace[:, 1:], nan=0.0)
        assert (falls <= 1e-11 * np.abs(np.asarray(fast.objective))[:, None]).all()
        ratios.extend(np.log(em / ours))
        long.extend(np.log(em / ours)[em > 100])
        worse += int(np.sum(np.asarray(fast.objective) < np.asarray(slow.objective) - 1e-4))
        lanes += em.size
        forget_programs()
    assert np.exp(np.mean(ratios)) > 2.8
    assert np.exp(np.mean(long)) > 4.0
    assert worse <= 0.03 * lanes


@pytest.mark.slow
@pytest.mark.skipif(X64, reason="float32: run with JAX_ENABLE_X64=0")
def test_passes_over_the_reference_problems_in_float32():
    """The same in float32, to a tolerance that EM too reaches in few passes; a fall within rounding does not count."""
    ratios, long = [], []
    for fit in reference_fits():
        x, family = np.float32(reference_data(fit["data"])), REFERENCE_FAMILIES[fit["cov"]]
        starts = jaxem.starts(jax.random.key(1), family, x, fit["K"], 16)
        slow, fast = (
            jaxem.fit_restarts(starts, x, stop=StepBelow(1e-4), max_iter=5000, accelerator=accelerator)
            for accelerator in (None, jaxem.hybrid())
        )
        em, ours = np.asarray(slow.n_iter), np.asarray(fast.n_iter)
        assert (ours <= em + np.maximum(0.1 * em, 4)).all(), (fit, em, ours)
        trace = np.asarray(fast.trace)
        falls = np.nan_to_num(trace[:, :-1] - trace[:, 1:], nan=0.0)
        assert (falls <= 1e-5 * (np.abs(np.asarray(fast.objective)) + len(x))[:, None]).all()
        ratios.extend(np.log(em / ours))
        long.extend(np.log(em / ours)[em > 100])
        forget_programs()
    print(
        f"passes of EM over the hybrid's: {np.exp(np.mean(ratios)):.2f}, {np.exp(np.mean(long)):.2f} where EM needs over 100"
    )
    assert np.exp(np.mean(ratios)) > 1.8
    assert np.exp(np.mean(long)) > 4.0


@needs_x64
@pytest.mark.parametrize("accelerator", [None, jaxem.hybrid()], ids=["em", "hybrid"])
@pytest.mark.parametrize("fits", slow_but_first([reference_fits()[9:10], reference_fits()[5:10]]), ids=len)
def test_what_is_left_to_gain(fits, accelerator):
    """In nine climbs of ten the estimate is within a factor of 2 of the rise of a climb that goes on to the end."""
    close, all_of_them = 0, 0
    for fit in fits:
        x, family = reference_data(fit["data"]), REFERENCE_FAMILIES[fit["cov"]]
        starts = jaxem.starts(jax.random.key(2), family, x, fit["K"], 16)
        early = jaxem.fit_restarts(
            starts, x, stop=jaxem.RemainingGainBelow(1e-6), max_iter=20_000, accelerator=accelerator
        )
        late = jaxem.fit_restarts(early.mixture, x, stop=StepBelow(1e-11), max_iter=20_000, accelerator=jaxem.hybrid())
        noise = 1e-12 * np.abs(np.asarray(late.objective))
        left = np.maximum(np.asarray(late.objective - early.objective), 0.0) + noise
        factor = left / (np.asarray(early.remaining_gain) + noise)
        close += int(np.sum((factor > 0.5) & (factor < 2.0)))
        all_of_them += factor.size
    assert close >= 0.9 * all_of_them


@needs_x64
def test_a_saddle_does_not_end_the_climb():
    """Means close to each other: gains are tiny and grow. The rule waits, and the climb leaves the plateau."""
    x = jaxem.datasets.faithful()
    centre, cov = x.mean(axis=0), jnp.asarray(np.cov(x.T, bias=True))
    means = jnp.asarray(np.stack([centre, centre + 0.1 * x.std(axis=0)]))
    start = jaxem.Mixture(jnp.log(jnp.array([0.5, 0.5])), jaxem.GaussianParams(means, cov), jaxem.Tied())
    for accelerator in (None, jaxem.hybrid()):
        result = jaxem.fit(start, x, stop=jaxem.RemainingGainBelow(1e-8), max_iter=20_000, accelerator=accelerator)
        assert int(result.status) == Status.CONVERGED
        assert abs(float(result.log_likelihood) + 1140.186759) < 1e-6


@pytest.mark.parametrize("name", ACCELERATORS)
@pytest.mark.any_dtype
def test_an_accelerated_lane_is_the_same_alone_and_in_a_batch(name):
    x = jaxem.datasets.faithful() if X64 else np.float32(jaxem.datasets.faithful())
    starts = jaxem.starts(jax.random.key(0), jaxem.Diagonal(), x, 3, 10)
    options = {"stop": StepBelow(1e-6 if X64 else 1e-2), "accelerator": ACCELERATORS[name]}
    together = jaxem.fit_restarts(starts, x, **options)
    alone = jaxem.fit(starts[7], x, **options)
    assert int(together.status[7]) == int(alone.status)
    np.testing.assert_allclose(alone.objective, together.objective[7], rtol=1e-9 if X64 else 1e-4)


def test_units_make_a_climb_independent_of_the_units_of_the_data():
    """A feature in other units, even by 2^20, gives the same climb."""
    x = np.asarray(jaxem.datasets.faithful(), np.float64 if X64 else np.float32)
    scale = np.array([2.0**20, 2.0**-10], x.dtype)
    start = jaxem.starts(jax.random.key(3), jaxem.Full(), x, 3, 1)[0]
    means, covariances = start.components
    scaled = jaxem.GaussianParams(means * scale[None, :], covariances * np.outer(scale, scale)[None])
    options = {"stop": StepBelow(1e-4), "accelerator": jaxem.hybrid(), "max_iter": 12}
    one = jaxem.fit(start, x, **options)
    other = jaxem.fit(jaxem.Mixture(start.log_weights, scaled, start.family), x * scale, **options)
    shift = len(x) * np.log(scale).sum()
    np.testing.assert_allclose(one.trace[:10], other.trace[:10] + shift, rtol=1e-9 if X64 else 1e-3)


@pytest.mark.any_dtype
def test_any_transformation_of_optax_is_an_accelerator():
    """optax.identity is plain EM; a scaling is over-relaxation; neither looks ahead, and the result says so by NaN."""
    x = jaxem.datasets.faithful() if X64 else np.float32(jaxem.datasets.faithful())
    start = jaxem.starts(jax.random.key(3), jaxem.Diagonal(), x, 2, 1)[0]
    tol = StepBelow(1e-6 if X64 else 1e-3)
    plain = jaxem.fit(start, x, stop=tol)
    for own in (optax.identity(), optax.scale(1.3)):
        result = jaxem.fit(start, x, stop=tol, accelerator=own)
        assert int(result.status) == Status.CONVERGED
        np.testing.assert_allclose(result.log_likelihood, plain.log_likelihood, rtol=1e-9 if X64 else 1e-5)
        assert np.isnan(result.remaining_gain)
