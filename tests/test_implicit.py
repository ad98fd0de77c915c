"""Derivatives through a fit are those of refits; where there is no isolated maximum they are NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import implicit
from tests.cases import FEW, OTHERS, Case, named, reference_data, reference_mixture
from tests.conftest import DTYPE, X64

LONG = {"stop": jaxem.GainBelow(-jnp.inf), "max_iter": 30_000}
QUICK = {"accelerator": jaxem.hybrid()}
only_float64 = pytest.mark.skipif(not X64, reason="differences of refits need float64's digits")
WITH_MAXIMUM = (
    Case(jaxem.Full(), 2, 2),
    Case(jaxem.Categorical(3), 2, 2, jaxem.DirichletProbs(2.0)),
    Case(jaxem.StudentT(), 1, 2),
    *FEW,
    *OTHERS,
)


def sketch(mixture, seed=3):
    """A number that moves with every parameter of a mixture."""
    parameters = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(mixture.unconstrain())])
    return jnp.sum(
        parameters * jnp.asarray(np.random.default_rng(seed).normal(size=parameters.shape), parameters.dtype)
    )


def clusters(case, n=200, seed=2):
    """Rows drawn from the mixture of a case, so that a maximum is near; of given columns random numbers."""
    mixture = case.mixture()
    try:
        return mixture, np.asarray(mixture.sample(jax.random.key(seed), n)[0])
    except NotImplementedError:
        return mixture, case.data(n, seed)


@only_float64
@pytest.mark.parametrize("case", **named(WITH_MAXIMUM, first=3))
def test_derivatives_are_those_of_refits(case):
    """By a weight, a value and the prior, forward and reverse; `unconstrain` sees every parameter."""
    start, x = clusters(case)
    found = jaxem.fit(start, x, prior=case.prior, **QUICK)
    if jaxem.Status(int(found.status)) != jaxem.Status.CONVERGED:
        pytest.skip("no maximum here")
    rng = np.random.default_rng(0)
    by_weight = jnp.asarray(rng.normal(size=len(x)))
    moves = case.family.location
    columns = moves(x.shape[1]) if callable(moves) else range(x.shape[1]) if moves is True else moves or ()
    by_value = np.zeros_like(x)
    by_value[:, list(columns)] = rng.normal(size=(len(x), len(columns)))

    def answer(options, t):
        moved = jax.tree.map(lambda leaf: leaf * (1.0 + 0.1 * t), case.prior)
        fitted = jaxem.fit(found.mixture, jnp.asarray(x) + t * by_value, 1.0 + t * by_weight, prior=moved, **options)
        return jnp.stack([sketch(fitted.mixture), fitted.log_likelihood, fitted.objective])

    slope = jax.jacrev(functools.partial(answer, QUICK))(0.0)
    if np.isnan(slope).any():  # then one of its parameters must be at a bound, or components coincide
        free = np.asarray(found.mixture.unconstrain())
        assert np.abs(free).max() > 12, free
        return
    h = 1e-4
    refit = jax.jit(functools.partial(answer, LONG))
    ahead, behind, far_ahead, far_behind = (np.asarray(refit(t)) for t in (h, -h, 2 * h, -2 * h))
    expected = (8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * h)
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    forward = jax.jvp(functools.partial(answer, QUICK), (0.0,), (1.0,))[1]
    np.testing.assert_allclose(forward, slope, rtol=1e-10)


@only_float64
def test_second_derivatives_batches_and_jit():
    x = jaxem.datasets.faithful()
    mixture = reference_mixture("faithful", 2, "spherical")
    ones = jnp.ones(len(x))

    def mean(w):
        return jaxem.fit(mixture, x, w, **QUICK).mixture.components.means[0, 1]

    slope = jax.jit(jax.grad(mean))
    np.testing.assert_allclose(slope(ones), jax.grad(mean)(ones), rtol=1e-9, atol=1e-14)
    many = jax.vmap(slope)(jnp.stack([ones, 1.1 * ones]))
    np.testing.assert_allclose(many[1], many[0] / 1.1, rtol=1e-7, atol=1e-12)  # the answer has no unit of weight
    # a climb that ends early has the derivatives of its optimum, not of where it ended
    near = mixture.constrain(mixture.unconstrain() + 0.02)
    early = lambda w: jaxem.fit(near, x, w, stop=jaxem.GainBelow(1e-3)).mixture.components.means[0, 1]  # noqa: E731
    assert abs(early(ones) - mean(ones)) > 1e-5
    np.testing.assert_allclose(jax.grad(early)(ones), slope(ones), rtol=1e-7, atol=1e-12)
    h, first = 1e-3, jnp.zeros(len(x)).at[0].set(1.0)
    bent = jax.jit(lambda w: jax.jvp(jax.grad(mean), (w,), (first,))[1])(ones)
    expected = (slope(ones + h * first) - slope(ones - h * first)) / (2 * h)
    np.testing.assert_allclose(bent, expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(jax.grad(lambda w: slope(w)[0])(ones), bent, atol=1e-10)


@only_float64
def test_a_row_of_weight_zero_has_the_derivative_of_its_own_row():
    x = np.concatenate([jaxem.datasets.faithful(), [[3.0, 60.0]]])
    mixture = reference_mixture("faithful", 2, "spherical")
    w = jnp.ones(len(x)).at[-1].set(0.0)
    fitted = lambda w: jaxem.fit(mixture, x, w, **QUICK)  # noqa: E731
    slope = jax.grad(lambda w: fitted(w).log_likelihood)(w)
    np.testing.assert_allclose(slope, fitted(w).mixture.log_prob(x), rtol=1e-7)
    ahead = jaxem.fit(mixture, x, w.at[-1].set(1e-4), **LONG).mixture.weights[0]
    twice = jaxem.fit(mixture, x, w.at[-1].set(2e-4), **LONG).mixture.weights[0]
    here = jaxem.fit(mixture, x, w, **LONG).mixture.weights[0]
    expected = (4 * ahead - twice - 3 * here) / 2e-4
    np.testing.assert_allclose(jax.grad(lambda w: fitted(w).mixture.weights[0])(w)[-1], expected, rtol=1e-5)


@only_float64
def test_restarts_and_searches_have_the_derivatives_of_their_optima():
    x, family, key = jaxem.datasets.faithful(), jaxem.Full(), jax.random.key(0)
    ones = jnp.ones(len(x))
    starts = jaxem.starts(key, family, x, 2, 3)
    of_restarts = jax.grad(lambda w: jaxem.fit_restarts(starts, x, w, **QUICK).log_likelihood[1])(ones)
    of_search = jax.grad(lambda w: jaxem.search(key, family, x, 2, w).best.log_likelihood)(ones)
    best = reference_mixture("faithful", 2, "full")
    for slope in (of_restarts, of_search):
        np.testing.assert_allclose(slope, best.log_prob(x), atol=1e-4)
    with pytest.raises(TypeError, match="cannot run inside jit"):
        jax.jit(lambda w: jaxem.search(key, family, x, 2, w).best.log_likelihood)(ones)


@only_float64
def test_products_with_the_information_do_what_the_matrix_does(monkeypatch):
    x = reference_data("iris")
    mixture = reference_mixture("iris", 3, "diag")
    slope = jax.grad(lambda w: sketch(jaxem.fit(mixture, x, w, **QUICK).mixture))
    by_matrix = slope(jnp.ones(len(x)))
    monkeypatch.setattr(implicit, "DENSE", 5)
    jax.clear_caches()
    jaxem.program.forget_programs()
    by_products = slope(jnp.ones(len(x)))
    jax.clear_caches()
    jaxem.program.forget_programs()
    np.testing.assert_allclose(by_products, by_matrix, rtol=1e-6, atol=1e-8 * np.abs(by_matrix).max())


def test_without_an_isolated_maximum_derivatives_are_nan():
    """Not converged, components that coincide, a probability of 0, a degree of freedom at its bound."""
    x = jnp.asarray(jaxem.datasets.faithful(), DTYPE)
    start = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 1)[0]
    slope = jax.grad(lambda w: jaxem.fit(start, x, w, max_iter=2).mixture.weights[0])(jnp.ones(len(x)))
    assert np.isnan(slope).all()
    by_start = jax.grad(lambda start: jaxem.fit(start, x, max_iter=2).log_likelihood)(start)
    assert np.isnan(by_start.log_weights).all()
    one = start[np.array([0, 0])]
    slope = jax.grad(lambda w: jaxem.fit(one, x, w).log_likelihood)(jnp.ones(len(x)))
    assert np.isnan(slope).all()
    bits = jnp.asarray(np.random.default_rng(0).integers(0, 2, (40, 2)), DTYPE).at[:, 0].set(1.0)
    coins = jaxem.starts(jax.random.key(0), jaxem.Bernoulli(), bits, 1, 1)[0]
    slope = jax.jacfwd(lambda w: jaxem.fit(coins, bits, w).mixture.components.probs)(jnp.ones(40))
    assert np.isnan(slope).all()


def test_derivatives_in_float32_and_by_the_start():
    x = jnp.asarray(jaxem.datasets.faithful(), DTYPE)
    start = jaxem.starts(jax.random.key(0), jaxem.Spherical(), x, 2, 1)[0]
    slope = jax.grad(lambda w: jaxem.fit(start, x, w, **QUICK).log_likelihood)(jnp.ones(len(x), DTYPE))
    assert slope.dtype == DTYPE
    np.testing.assert_allclose(slope, jaxem.fit(start, x, **QUICK).mixture.log_prob(x), rtol=3e-3 if not X64 else 1e-6)
    by_start = jax.grad(lambda start: jaxem.fit(start, x, **QUICK).log_likelihood)(start)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(by_start))


@only_float64
def test_memory_does_not_depend_on_the_number_of_turns():
    x = jaxem.datasets.faithful()
    start = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 1)[0]

    def bytes_of(max_iter):
        slope = jax.grad(lambda w: jaxem.fit(start, x, w, max_iter=max_iter).mixture.weights[0])
        return jax.jit(slope).lower(jnp.ones(len(x))).compile().memory_analysis().temp_size_in_bytes

    trace = 8 * (3000 - 300)  # the objective of each turn, of which a loop has a few copies
    assert bytes_of(3000) - bytes_of(300) <= 8 * trace


@only_float64
def test_rows_on_two_devices_have_the_same_derivatives():
    code = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
import jaxem
x = jaxem.datasets.faithful()
start = jaxem.starts(jax.random.key(0), jaxem.Spherical(), x, 2, 1)[0]
spread = jaxem.shard(x)
fitted = lambda x, w: jaxem.fit(start, x, w, accelerator=jaxem.hybrid()).mixture.weights[0]
slope = jax.grad(fitted, 1)  # the rows stay where they lie
here, there = np.asarray(slope(jnp.asarray(x), jnp.ones(len(x)))), np.asarray(slope(*spread))
assert np.abs(here - there).max() <= 1e-9 * np.abs(here).max(), np.abs(here - there).max() / np.abs(here).max()
"""
    from tests.test_structure import run

    done = run(code, JAX_ENABLE_X64="1")
    assert done.returncode == 0, done.stderr[-2000:]
