"""Deconvolved: the truth behind known noise, against scipy, numpy and Full."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxem
from jaxem import Deconvolved, Full, GaussianParams, Mixture, Status, with_noise
from jaxem.families.deconvolved import FEW_VALUES, count_values
from tests.conftest import DTYPE, STATISTICAL, X64

KEY = jax.random.key(0)
TIGHT = {"stop": jaxem.GainBelow(-np.inf), "max_iter": 3000}
float64 = pytest.mark.skipif(not X64, reason="checks of float64 digits")


def covariances_of(rng, n, d, size=1.0):
    factors = rng.normal(size=(n, d, d + 1)) * np.sqrt(size / (d + 1))
    return factors @ np.swapaxes(factors, 1, 2)


def drawn(rng, covariances):
    return np.einsum("nij,nj->ni", np.linalg.cholesky(covariances), rng.normal(size=covariances.shape[:2]))


def stars(n=400, d=2, k=2, size=1.0, seed=0):
    """Values [n, d], covariances of their noise [n, d, d], and the truth [n, d]."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    truth = 4.0 * rng.normal(size=(k, d))[label] + drawn(rng, covariances_of(rng, k, d)[label])
    noise = covariances_of(rng, n, d, size) * rng.uniform(0.2, 2.0, (n, 1, 1))
    return truth + drawn(rng, noise), noise, truth


def start(d, k=2, seed=1, family=None):
    rng = np.random.default_rng(seed)
    params = GaussianParams(
        jnp.asarray(2.0 * rng.normal(size=(k, d))), jnp.asarray(covariances_of(rng, k, d) + np.eye(d))
    )
    return Mixture(jnp.log(jnp.asarray(rng.dirichlet(5 * np.ones(k)))), params, family or Deconvolved())


def with_holes(noise, share, seed=2):
    """Some values not observed: row 0 without any, row 1 with all."""
    seen = np.random.default_rng(seed).uniform(size=noise.shape[:2]) >= share
    seen[0], seen[1] = False, True
    holes = noise.copy()
    holes[:, range(noise.shape[1]), range(noise.shape[1])] = np.where(
        seen, np.diagonal(noise, axis1=1, axis2=2), np.inf
    )
    return holes, seen


def joint_by_scipy(mixture, values, noise, seen=None):
    """log p_j + log N(x; m_j, V_j + S) of the values that were observed, [n, k]."""
    weights, (means, covariances) = np.exp(mixture.log_weights), jax.tree.map(np.asarray, mixture.components)
    joint = np.zeros((len(values), len(weights)))
    for row, (x, s) in enumerate(zip(values, noise, strict=True)):
        i = np.arange(len(x)) if seen is None else np.flatnonzero(seen[row])
        for j, (m, v) in enumerate(zip(means, covariances, strict=True)):
            of = stats.multivariate_normal(m[i], (v + s)[np.ix_(i, i)]) if i.size else None
            joint[row, j] = np.log(weights[j]) + (of.logpdf(x[i]) if i.size else 0.0)
    return joint


# -- rows ----------------------------------------------------------------------------------------------------------------


def test_rows_hold_values_and_the_lower_triangle():
    x, noise, _ = stars(5, 3)
    rows = with_noise(x, noise)
    assert isinstance(rows, np.ndarray)
    np.testing.assert_array_equal(rows[:, :3], x)
    triangle = [noise[:, i, j] for i, j in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))]
    np.testing.assert_array_equal(rows[:, 3:], np.stack(triangle, axis=1))


def test_every_shape_of_noise():
    x = np.arange(8.0).reshape(4, 2)
    variances, shared = np.arange(1.0, 9.0).reshape(4, 2), np.array([[2.0, 0.5], [0.5, 1.0]])
    matrices = np.zeros((4, 2, 2))
    matrices[:, [0, 1], [0, 1]] = variances
    np.testing.assert_array_equal(with_noise(x, variances), with_noise(x, matrices))
    np.testing.assert_array_equal(with_noise(x, shared), with_noise(x, np.broadcast_to(shared, (4, 2, 2))))
    np.testing.assert_array_equal(with_noise(x, variances[0]), with_noise(x, np.broadcast_to(variances[0], (4, 2))))
    one = np.arange(3.0)[:, None]
    np.testing.assert_array_equal(with_noise(one, np.full((3, 1), 0.5)), with_noise(one, [[0.5]]))
    assert with_noise(x.astype(np.float32), variances).dtype == np.float32
    assert with_noise(x.astype(int), variances.astype(int)).dtype == np.float64
    on_device = with_noise(jnp.asarray(x), variances)
    assert isinstance(on_device, jax.Array)
    np.testing.assert_allclose(on_device, with_noise(x, variances), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(with_noise)(x, variances), with_noise(x, variances), rtol=1e-6)


def test_what_was_not_observed_is_finite():
    x = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, 9.0]])
    rows = with_noise(x, np.array([[0.1, np.inf], [0.1, 0.2], [np.inf, 0.2]]))
    expected = [[1, 7, 0.1, 0, -1], [3, 5, 0.1, 0, 0.2], [2, 9, -1, 0, 0.2]]  # means of what was observed
    np.testing.assert_allclose(rows, expected, rtol=1e-15)


@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_how_many_values_a_row_has(d):
    assert count_values(d * (d + 3) // 2) == d
    if d > 1:
        with pytest.raises(ValueError, match=r"for no number d of values; give rows from jaxem.with_noise"):
            count_values(d * (d + 3) // 2 - 1)


ONES = np.ones((4, 2))
WRONG = [
    (ONES, -ONES, "noise has the variance -1 for x[0, 0]"),
    (ONES, np.where(np.arange(8).reshape(4, 2) == 3, np.nan, 1.0), "noise has the variance of x[1, 1] nan"),
    (ONES, [[1.0, 2.0], [2.0, 1.0]], "noise[0] is not positive semidefinite"),
    (ONES, [[1.0, 0.5], [0.2, 1.0]], "noise[0] is not symmetric: 0.5 and 0.2 at [0, 1] and [1, 0]"),
    (ONES, np.ones((3, 2)), "noise has shape (3, 2); give variances [n, d] = (4, 2)"),
    (ONES, 1.0, "noise has shape ()"),
    (ONES[:2], np.eye(2), "noise has shape (2, 2) for 2 rows, variances of each or covariances of all; give [n, d, d]"),
    (np.ones(4), np.ones(4), "x has shape (4,); give [n, d]"),
    (
        np.where(np.arange(8).reshape(4, 2) == 3, np.nan, 1.0),
        ONES,
        "x[1, 1] = nan; drop row 1, or give this value a noise",
    ),
    (ONES, [[1.0, 0.0], [0.0]] * 2, "noise is ragged"),
    ([["a", "b"]], [[1.0, 1.0]], "x has dtype <U1; give real numbers"),
]


@pytest.mark.parametrize(("x", "noise", "message"), WRONG, ids=[message[:30] for *_, message in WRONG])
def test_wrong_input_is_told(x, noise, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        with_noise(x, noise)
    assert "\n" not in str(caught.value)


def test_wrong_rows_are_told():
    x, _, _ = stars(40)
    for rows, message in (
        (
            np.ones((40, 4)),
            "x has 4 columns, which is d (d + 3) / 2 for no number d of values; give rows from jaxem.with_noise",
        ),
        (np.c_[x, -0.5 * np.ones(40), x], "x has noise of variance -0.5 for x[0, 0]; give rows from jaxem.with_noise"),
        (np.c_[x, np.tile([1.0, 2.0, 1.0], (40, 1))], "x has noise in row 0 that is not positive semidefinite"),
        (with_noise(x, np.tile([0.1, np.inf], (40, 1))), "column 1 of x is never observed"),
    ):
        for given in (rows, jnp.asarray(rows)):
            with pytest.raises(ValueError, match=re.escape(message)) as caught:
                jaxem.search(KEY, "deconvolved", given, 2)
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="columns"):
        start(2).log_prob(x)
    with pytest.raises(NotImplementedError, match="Full knows of no noise; fit Deconvolved"):
        start(2, family=Full()).denoise(x)


# -- the likelihood and the step -----------------------------------------------------------------------------------------


@float64
@pytest.mark.parametrize("d", [1, 2, 3, 5, FEW_VALUES + 2])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_log_likelihood_by_scipy(d, share):
    """Row by row, on the values that were observed; a row without any adds 0."""
    x, noise, _ = stars(60, d)
    holes, seen = with_holes(noise, share) if share else (noise, np.ones((60, d), bool))
    mixture, rows = start(d), with_noise(np.where(seen, x, np.nan), holes)
    joint = joint_by_scipy(mixture, x, noise, seen)
    expected = special.logsumexp(joint, axis=1)
    np.testing.assert_allclose(mixture.log_prob(rows), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mixture.responsibilities(rows), np.exp(joint - expected[:, None]), atol=1e-10)
    np.testing.assert_allclose(jaxem.e_step(mixture, rows).log_likelihood, expected.sum(), rtol=1e-10)
    if share:
        assert mixture.log_prob(rows)[0] == pytest.approx(0.0, abs=1e-12)


def step_by_numpy(mixture, values, noise, w):
    """Weights, means, covariances: Bovy, Hogg and Roweis (2011), equations 16 to 18, as loops."""
    joint = joint_by_scipy(mixture, values, noise)
    q = np.exp(joint - special.logsumexp(joint, axis=1, keepdims=True)) * w[:, None]
    means, covariances = jax.tree.map(np.asarray, mixture.components)
    new_means, new_covariances = np.zeros_like(means), np.zeros_like(covariances)
    for j, (m, v) in enumerate(zip(means, covariances, strict=True)):
        gains = [v @ np.linalg.inv(v + s) for s in noise]
        b = np.array([m + gain @ (x - m) for gain, x in zip(gains, values, strict=True)])
        new_means[j] = q[:, j] @ b / q[:, j].sum()
        for i, gain in enumerate(gains):
            new_covariances[j] += q[i, j] * (np.outer(b[i] - new_means[j], b[i] - new_means[j]) + v - gain @ v)
        new_covariances[j] /= q[:, j].sum()
    return q.sum(axis=0) / q.sum(), new_means, new_covariances


@float64
@pytest.mark.parametrize("d", [1, 3, FEW_VALUES + 1])
def test_one_step_by_numpy(d):
    x, noise, _ = stars(80, d)
    mixture, w = start(d), np.random.default_rng(3).uniform(0.0, 2.0, 80)
    new = jaxem.m_step(mixture, jaxem.e_step(mixture, with_noise(x, noise), w))
    weights, means, covariances = step_by_numpy(mixture, x, noise, w)
    np.testing.assert_allclose(new.weights, weights, rtol=1e-10)
    np.testing.assert_allclose(new.components.means, means, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(new.components.covariances, covariances, rtol=1e-10, atol=1e-10)


@float64
def test_the_gradient_of_the_brute_force_likelihood_vanishes_at_the_fit():
    """In units of standard errors of a row, over n: relative to the sum of the rows' own slopes."""
    x, noise, _ = stars(200)
    holes, seen = with_holes(noise, 0.2)
    found = jaxem.fit(start(2), with_noise(x, holes), accelerator=jaxem.hybrid(), **TIGHT).mixture

    def of_rows(free):
        mixture = found.constrain(free)
        means, covariances = mixture.components
        both = jnp.asarray(seen[:, :, None] & seen[:, None, :])

        def of_component(m, v):
            total = jnp.where(both, v[None] + noise, jnp.eye(2)[None])
            away = jnp.where(seen, x - m[None, :], 0.0)
            squares = jnp.sum(away * jnp.linalg.solve(total, away[..., None])[..., 0], axis=1)
            return -0.5 * (squares + jnp.linalg.slogdet(total)[1] + seen.sum(axis=1) * np.log(2 * np.pi))

        return jax.nn.logsumexp(jax.vmap(of_component)(means, covariances).T + mixture.log_weights[None, :], axis=1)

    free = found.unconstrain()
    np.testing.assert_allclose(found.log_prob(with_noise(x, holes)), of_rows(free), rtol=1e-10, atol=1e-10)
    slopes = np.asarray(jax.jacrev(of_rows)(free))
    assert np.all(np.abs(slopes.sum(axis=0)) < 1e-6 * np.abs(slopes).sum(axis=0))


@float64
@pytest.mark.parametrize("seed", range(20))
def test_the_likelihood_never_falls(seed):
    """From random mixtures, with values that were not observed, rows without any, noise of zero and huge noise."""
    rng = np.random.default_rng(seed)
    d, k = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    x, noise, _ = stars(90, d, k, size=10.0 ** rng.uniform(-2, 2), seed=seed)
    noise[rng.uniform(size=90) < 0.2] *= 0.0
    rows = with_noise(x, with_holes(noise, rng.uniform(0.05, 0.6), seed)[0])
    trace = np.asarray(jaxem.fit(start(d, k, seed), rows, max_iter=60, stop=jaxem.GainBelow(-np.inf)).trace)
    trace = trace[~np.isnan(trace)]
    assert trace.size > 10
    assert np.all(np.diff(trace) >= -1e-12 * np.abs(trace[:-1]))


# -- beside Full ---------------------------------------------------------------------------------------------------------


@float64
@pytest.mark.parametrize("d", [1, 3, FEW_VALUES + 1])
def test_no_noise_is_full(d):
    x, _, _ = stars(150, d)
    rows = with_noise(x, np.zeros(d))
    mixture, full = start(d), start(d, family=Full())
    np.testing.assert_allclose(mixture.log_prob(rows), full.log_prob(x), rtol=1e-12, atol=1e-12)
    one, other = (jaxem.m_step(m, jaxem.e_step(m, data)) for m, data in ((mixture, rows), (full, x)))
    ends = [jaxem.fit(m, data, **(TIGHT | {"max_iter": 100})).mixture for m, data in ((mixture, rows), (full, x))]
    for a, b in ((one, other), ends):
        for found, expected in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    one, other = (jaxem.starts(KEY, f, data, 2, 3) for f, data in ((Deconvolved(), rows), (Full(), x)))
    for found, expected in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@float64
def test_noise_that_all_rows_share_is_taken_off():
    x, _, _ = stars(600, 2)
    shared = np.array([[0.05, 0.02], [0.02, 0.04]])
    first = start(2)
    found = jaxem.fit(first, with_noise(x, shared), accelerator=jaxem.hybrid(), **TIGHT).mixture
    of_values = first.components._replace(covariances=first.components.covariances + shared[None])
    full = jaxem.fit(Mixture(first.log_weights, of_values, Full()), x, accelerator=jaxem.hybrid(), **TIGHT).mixture
    expected = np.asarray(full.components.covariances) - shared
    assert np.linalg.eigvalsh(expected).min() > 1e-3
    np.testing.assert_allclose(found.components.covariances, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.components.means, full.components.means, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found.log_prob(with_noise(x, shared)), full.log_prob(x), rtol=1e-7, atol=1e-7)


@float64
def test_a_value_not_observed_is_left_out():
    """It has the likelihood of the mixture of the other columns, whatever stands there; huge noise tends to it."""
    x, noise, _ = stars(50, 3)
    holes = noise.copy()
    holes[:, 1, 1] = np.inf
    mixture = start(3)
    others = Mixture(mixture.log_weights, Full().marginal(mixture.components, np.array([0, 2]))[1], Deconvolved())
    expected = others.log_prob(with_noise(x[:, [0, 2]], noise[:, [0, 2]][:, :, [0, 2]]))
    rows = with_noise(x, holes)
    np.testing.assert_allclose(mixture.log_prob(rows), expected, rtol=1e-12, atol=1e-12)
    rows[:, 1] = 1e9
    np.testing.assert_allclose(mixture.log_prob(rows), expected, rtol=1e-12, atol=1e-12)
    huge = noise.copy()
    huge[:, 1, 1] = 1e12
    resp = mixture.responsibilities(with_noise(x, huge))
    np.testing.assert_allclose(resp, mixture.responsibilities(rows), atol=1e-5)


@pytest.mark.any_dtype
def test_the_truth_is_denoised_and_drawn():
    x, noise, truth = stars(2000, 3, size=1.5)
    rows = with_noise(x, noise)
    found = jaxem.search(KEY, Deconvolved(), rows, 2, budget=32).best.mixture
    denoised = np.asarray(found.denoise(rows, chunk_size=300))
    assert denoised.shape == (2000, 3)
    assert np.mean((denoised - truth) ** 2) < 0.5 * np.mean((x - truth) ** 2)
    np.testing.assert_allclose(found.denoise(with_noise(truth, np.zeros(3))), truth, atol=1e-3)
    drawn, labels = found.sample(KEY, 20_000)
    assert drawn.shape == (20_000, 9)
    assert not np.any(drawn[:, 3:])
    for j in range(2):
        own, m, v = np.asarray(drawn)[labels == j, :3], *(np.asarray(leaf[j]) for leaf in found.components)
        assert np.all(np.abs(own.mean(0) - m) < STATISTICAL * np.sqrt(np.diag(v) / len(own)))
        error = np.sqrt((v**2 + np.outer(np.diag(v), np.diag(v))) / len(own))
        assert np.all(np.abs(np.cov(own.T) - v) < STATISTICAL * error)
    plain = found.marginal((0, 1, 2))
    assert plain.family == Full()
    np.testing.assert_allclose(
        plain.log_prob(truth), found.log_prob(with_noise(truth, np.zeros(3))), rtol=1e-4, atol=1e-4
    )
    assert found.conditional(0, [0.0]).components.means.shape == (2, 2)
    with pytest.raises(ValueError, match="the truth has the columns 0 to 2"):
        found.marginal(3)


# -- with everything else ------------------------------------------------------------------------------------------------


@float64
@pytest.mark.parametrize("d", [2, FEW_VALUES + 1])
def test_blocks_weights_and_offsets_change_nothing(d):
    """Rows of weight 0 may hold anything finite, three copies are a weight of three, and a million is an offset."""
    x, noise, _ = stars(700, d)
    rows, mixture = with_noise(x, with_holes(noise, 0.2)[0]), start(d)
    w = np.random.default_rng(0).integers(0, 4, 700)
    wild = np.where(w[:, None] == 0, 5.0, rows)
    wild[w == 0, d:] = np.eye(d)[np.tril_indices(d)]
    expected = jaxem.m_step(mixture, jaxem.e_step(mixture, np.repeat(rows, w, axis=0)))
    offset = np.r_[np.full(d, 2.0**20), np.zeros(rows.shape[1] - d)]
    far = jaxem.e_step(mixture.shift(offset), rows + offset, w)
    ways = {
        "weights": (mixture, jaxem.e_step(mixture, wild, w)),
        "blocks": (mixture, jaxem.e_step(mixture, rows, w, chunk_size=64)),
        "far": (mixture, far),
    }
    for name, (about, seen) in ways.items():
        found = jaxem.m_step(about, seen)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            tol = 1e-7 if name == "far" else 1e-11  # digits of the values
            np.testing.assert_allclose(one, other, rtol=tol, atol=tol * np.abs(other).max())


def test_float32_stays_float32():
    x, noise, _ = stars(200)
    rows = with_noise(x.astype(np.float32), noise.astype(np.float32))
    assert rows.dtype == np.float32
    mixture = start(2).astype(jnp.float32)
    found = jaxem.fit(mixture, rows, max_iter=5)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.mixture)} == {np.dtype(np.float32)}
    assert found.mixture.denoise(rows).dtype == found.mixture.log_prob(rows).dtype == np.float32
    wide = jaxem.fit(start(2), with_noise(x, noise), max_iter=5).mixture
    np.testing.assert_allclose(found.mixture.components.covariances, wide.components.covariances, rtol=1e-3, atol=1e-3)


def test_fit_under_jit_and_vmap():
    x, noise, _ = stars(150)
    rows = jnp.asarray(with_noise(x.astype(DTYPE), noise.astype(DTYPE)))
    options = {"max_iter": 20, "stop": jaxem.GainBelow(-jnp.inf)}
    alone = jaxem.fit(start(2).astype(DTYPE), rows, **options)
    climb = jax.jit(lambda m, x, s: jaxem.fit(m, with_noise(x, s), **options))
    traced = climb(start(2).astype(DTYPE), x.astype(DTYPE), noise.astype(DTYPE))
    pair = jnp.stack([rows, 0.5 * rows])
    batch = jax.vmap(lambda r: jaxem.fit(start(2).astype(DTYPE), r, **options))(pair)
    tol = 1e-9 if X64 else 1e-3
    for found in (traced.mixture, batch.mixture[0]):
        np.testing.assert_allclose(found.components.means, alone.mixture.components.means, rtol=tol, atol=tol)
        np.testing.assert_allclose(
            found.components.covariances, alone.mixture.components.covariances, rtol=tol, atol=tol
        )


@pytest.mark.any_dtype
@float64
def test_starts_search_priors_and_errors():
    x, noise, _ = stars(300, size=0.5)
    rows = with_noise(x, with_holes(noise, 0.1)[0])
    for initializer in (jaxem.RandomParameters(), jaxem.KMeans(), jaxem.KMeansPlusPlus(), jaxem.RandomPoints()):
        found = jaxem.fit_restarts(
            jaxem.starts(KEY, Deconvolved(), rows, 2, 2, initializer), rows, accelerator=jaxem.hybrid()
        )
        assert not any(Status(int(status)).failed for status in found.status)
    best = jaxem.search(KEY, Deconvolved(), rows, 2).best
    assert float(best.log_likelihood) >= float(found.log_likelihood.max()) - 1e-6
    told = jaxem.summary(best.mixture, rows)
    assert np.all(np.isfinite(told.standard_error.components.covariances))
    information = np.asarray(jaxem.information(best.mixture, rows))
    assert np.linalg.eigvalsh(information).min() > 0
    for prior in (jaxem.chen_tan(x), jaxem.chen_tan(rows), jaxem.fraley_raftery(Full(), x, 2)):
        climbed = jaxem.fit(best.mixture, rows, prior=prior)
        assert Status(int(climbed.status)) == Status.CONVERGED
        assert float(climbed.log_likelihood) <= float(best.log_likelihood) + 1e-8


@pytest.mark.any_dtype
@float64
def test_a_collapse_is_told():
    """Columns that depend on each other, without noise, are the collapse of Full; so is the fit under a penalty."""
    x, noise, _ = stars(60)
    x[:, 1] = 2.0 * x[:, 0]
    found, full = (jaxem.search(KEY, f, r, 1) for f, r in ((Deconvolved(), with_noise(x, np.zeros(2))), (Full(), x)))
    assert Status(int(found.best.status)) == Status(int(full.best.status)) == Status.DEGENERATE
    assert found.collapse is not None
    assert Status(int(found.penalised.status)) == Status.CONVERGED
    np.testing.assert_allclose(found.penalised.log_likelihood, full.penalised.log_likelihood, rtol=1e-6)
    with_error_bars = jaxem.search(KEY, Deconvolved(), with_noise(x, noise), 1).best
    assert Status(int(with_error_bars.status)) == Status.CONVERGED


@pytest.mark.any_dtype
@float64
def test_a_part_of_a_product():
    rng = np.random.default_rng(0)
    x, noise, _ = stars(200)
    kind = rng.integers(0, 3, 200)
    family = jaxem.Product((Deconvolved(), (0, 1, 2, 3, 4)), (jaxem.Categorical(3), (5,)))
    assert family.location == (0, 1)
    rows = np.column_stack([with_noise(x, noise), kind])
    mixture = jaxem.starts(KEY, family, rows, 2, 1)[0]
    assert jaxem.verify(mixture, rows).ok
