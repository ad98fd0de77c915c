"""The pass and the M-step: blocks, weights, dtypes, and everything that must not change the answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.rows import ready
from tests.cases import CASES, GAUSSIANS, Case, blobs, named
from tests.conftest import ROUNDING, X64


def close(a, b, factor=1.0):
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        largest = float(np.max(np.abs(np.where(np.isfinite(v), v, 0)))) if np.size(v) else 1.0
        np.testing.assert_allclose(u, v, rtol=0, atol=factor * ROUNDING * max(largest, 1e-3))


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("chunk_size", [7, 1000])
def test_chunked_is_whole(case, chunk_size):
    mixture, x = case.mixture(), case.data(60)
    w = np.random.default_rng(0).uniform(0, 2, 60)
    close(jaxem.e_step(mixture, x, w, chunk_size=chunk_size), jaxem.e_step(mixture, x, w), 5)
    np.testing.assert_allclose(
        mixture.log_joint(x, chunk_size=chunk_size), mixture.log_joint(x), rtol=5 * ROUNDING, atol=ROUNDING
    )


@pytest.mark.parametrize("case", **named(CASES))
def test_integer_weights_repeat_rows(case):
    mixture, x = case.mixture(), case.data(30)
    w = np.random.default_rng(1).integers(0, 4, 30)
    repeated = jaxem.e_step(mixture, np.repeat(x, w, axis=0))
    close(jaxem.e_step(mixture, x, w), repeated, 5)


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize("far", [1e9, 1e200 if X64 else 1e30])
def test_weight_zero_is_absent(family, far):
    """Rows of weight 0 change nothing, however far away: neither the pass nor a fit nor its starts."""
    x = blobs(80)
    wild = np.concatenate([x[:40], np.full((3, 2), far), x[40:]])
    w = np.concatenate([np.ones(40), np.zeros(3), np.ones(40)])
    mixture = Case(family, 2, 2).mixture()
    close(jaxem.e_step(mixture, wild, w), jaxem.e_step(mixture, x), 5)
    if far > 1e9:
        return
    options = {"stop": jaxem.GainBelow(-jnp.inf), "max_iter": 20}
    close(jaxem.fit(mixture, wild, w, **options).mixture, jaxem.fit(mixture, x, **options).mixture, 100)
    if family != jaxem.Full():
        return
    for initializer in (jaxem.KMeansPlusPlus(), jaxem.KMeans(), jaxem.RandomParameters(), jaxem.RandomPoints()):
        one = jaxem.starts(jax.random.key(0), family, wild, 2, 5, initializer, w)
        other = jaxem.starts(jax.random.key(0), family, x, 2, 5, initializer)
        close(one, other, 100)


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_fit_with_integer_weights_is_fit_of_repeated_rows(family):
    x = blobs(60)
    w = np.random.default_rng(1).integers(0, 4, 60)
    mixture = Case(family, 2, 2).mixture()
    options = {"stop": jaxem.GainBelow(-jnp.inf), "max_iter": 30}
    one, other = jaxem.fit(mixture, x, w, **options), jaxem.fit(mixture, np.repeat(x, w, axis=0), **options)
    close(one.mixture, other.mixture, 100)
    assert one.status == other.status


def test_stats_add():
    case = CASES[0]
    mixture, x = case.mixture(), case.data(50)
    close(jaxem.e_step(mixture, x[:13]) + jaxem.e_step(mixture, x[13:]), jaxem.e_step(mixture, x), 5)


def test_ready_rows_are_the_raw_rows():
    case = Case(jaxem.Full(), 2, 3)
    mixture, x = case.mixture(), jnp.asarray(case.data(50))
    rows = ready(x, None, centred=True, block=20)
    close(jaxem.e_step(mixture, rows), jaxem.e_step(mixture, x), 5)
    close(jaxem.fit(mixture, rows).mixture, jaxem.fit(mixture, x).mixture, 1000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64] if X64 else [np.float32])
@pytest.mark.parametrize("case", **named((CASES[0], CASES[-2])))
@pytest.mark.any_dtype
def test_dtype_in_is_dtype_out(case, dtype):
    mixture = case.mixture().astype(dtype)
    x = case.data().astype(dtype)
    result = jaxem.fit(mixture, x, max_iter=3, prior=case.prior)
    for leaf in jax.tree.leaves((result.mixture, result.trace, result.objective, result.rate)):
        assert leaf.dtype == dtype
    assert mixture.responsibilities(x).dtype == dtype
    assert mixture.sample(jax.random.key(0), 5)[0].dtype == dtype
    starts = jaxem.starts(jax.random.key(0), case.family, x, case.k, 3)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(starts))


@pytest.mark.parametrize("kind", ["int", "bool", "float16", "fortran", "negative strides", "big-endian", "list"])
def test_data_of_every_kind(kind):
    base = (blobs(40) > 2).astype(int) if kind == "bool" else np.round(blobs(40)).astype(int)
    x = {
        "int": base,
        "bool": base.astype(bool),
        "float16": base.astype(np.float16),
        "fortran": np.asfortranarray(base.astype(float)),
        "negative strides": base.astype(float)[::-1][::-1],
        "big-endian": base.astype(">f8"),
        "list": base.tolist(),
    }[kind]
    mixture = Case(jaxem.Diagonal(), 2, 2).mixture()
    expected = jaxem.e_step(mixture, base.astype(float))
    close(jaxem.e_step(mixture, x), expected, 5)


def test_dead_component_stays_and_harms_nothing():
    for case in CASES:
        if case.k == 1:
            continue
        mixture, x = case.mixture(), case.data()
        log_weights = jnp.log(jnp.asarray([0.0] + [1.0 / (case.k - 1)] * (case.k - 1)))
        mixture = jaxem.Mixture(log_weights, mixture.components, case.family)
        new = jaxem.m_step(mixture, jaxem.e_step(mixture, x))
        assert float(new.weights[0]) == 0.0
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(new.components))
        assert bool(jnp.isfinite(jaxem.e_step(new, x).log_likelihood))
        np.testing.assert_allclose(jnp.sum(new.responsibilities(x), axis=1), 1.0, rtol=ROUNDING)


def test_row_no_component_can_produce():
    mixture = Case(jaxem.Spherical(), 3, 2).mixture()
    far = np.full((1, 2), 1e200 if X64 else 1e30)
    np.testing.assert_allclose(mixture.responsibilities(far)[0], mixture.weights, rtol=ROUNDING)
    assert mixture.log_prob(far)[0] == -np.inf


def test_equal_families_share_programs():
    assert jaxem.Full() == jaxem.Full()
    assert hash(jaxem.Full()) == hash(jaxem.Full())
    assert jaxem.Full() != jaxem.Tied()

    class Plain(jaxem.Spherical):
        pass

    assert Plain() == Plain() != jaxem.Spherical()


def test_bernoulli_with_a_certain_feature():
    """Probabilities of 0 and 1 are found exactly, without NaN and without a prior."""
    x = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1], [1, 0, 1]], float)
    start = jaxem.starts(jax.random.key(0), jaxem.Bernoulli(), x, 1, 1)[0]
    result = jaxem.fit(start, x)
    np.testing.assert_allclose(result.mixture.components.probs[0], [1, 0, 0.75], rtol=ROUNDING)
    np.testing.assert_allclose(result.log_likelihood, 3 * np.log(0.75) + np.log(0.25), rtol=ROUNDING)


def test_beta_prior_is_imagined_rows():
    """Beta(1 + a, 1 + b): the maximum is that of a more ones and b more zeros (one component)."""
    case = Case(jaxem.Bernoulli(), 1, 3)
    x = case.data(20)
    extra = np.concatenate([x, np.ones((2, 3)), np.zeros((5, 3))])
    one = jaxem.m_step(case.mixture(), jaxem.e_step(case.mixture(), x), jaxem.Beta(3.0, 6.0))
    np.testing.assert_allclose(one.components.probs[0], extra.mean(axis=0), rtol=ROUNDING)


def test_sample_follows_the_mixture():
    """Means and covariances of 20,000 draws within five standard errors; features uncorrelated with others' scale."""
    mixture = Case(jaxem.Full(), 2, 3).mixture()
    rows, labels = (np.asarray(leaf, float) for leaf in mixture.sample(jax.random.key(0), 20_000))
    for j in range(2):
        mine = rows[labels == j]
        mean, covariance = (np.asarray(leaf[j], float) for leaf in mixture.components)
        share = float(mixture.weights[j])
        assert abs(len(mine) / 20_000 - share) < 5 * np.sqrt(share * (1 - share) / 20_000)
        assert np.all(np.abs(mine.mean(axis=0) - mean) < 5 * np.sqrt(np.diag(covariance) / len(mine)))
        products = (mine - mean)[:, :, None] * (mine - mean)[:, None, :]
        assert np.all(np.abs(products.mean(axis=0) - covariance) < 5 * products.std(axis=0) / np.sqrt(len(mine)))
