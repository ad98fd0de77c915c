"""Ready rows: numpy and JAX make the same ones, padded to few sizes, so that few programs serve many shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import loop
from jaxem.devices import mesh_of
from jaxem.rows import Rows, as_rows, bucket, ready, ready_on_host
from tests.cases import GAUSSIANS, Case, blobs
from tests.conftest import ROUNDING, X64

DTYPE = np.float64 if X64 else np.float32


def test_buckets_are_few_and_never_too_small():
    sizes = [bucket(n) for n in range(1, 300_000)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert all(bucket(size) == size for size in set(sizes))
    assert len({bucket(n) for n in range(100, 300)}) == 4
    assert len({bucket(n) for n in range(1000, 1200)}) == 2
    largest = {4096: 1.5, 65536: 1.25}  # how much padding is added at most
    for n in range(33, 300_000, 7):
        factor = next((f for bound, f in largest.items() if n <= bound), 1.0625)
        assert bucket(n) < factor * n + 1


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (50, 3), (333, 2), (1000, 40)])
def test_numpy_and_jax_make_the_same_rows(n, d, weighted, centred):
    """Every row with weight at its place, the others replaced; centre, variance and norms, against plain numpy."""
    rng = np.random.default_rng(n)
    x = (rng.normal(size=(n, d)) + 5.0).astype(DTYPE)
    w = rng.integers(0, 3, n).astype(DTYPE) if weighted else None
    if weighted:
        w[n // 2] = 2.0
        x[w == 0] = 1e100 if X64 else 1e30
    counted = np.ones(n, bool) if w is None else w > 0
    weight = np.ones(n) if w is None else w.astype(float)
    mean = np.average(x.astype(float), axis=0, weights=weight)
    expected = x - (mean if centred else 0.0)
    for rows in (
        ready(jnp.asarray(x), None if w is None else jnp.asarray(w), centred=centred, block=128),
        ready_on_host(x, w, centred=centred, block=128),
        ready_on_host(x, w, centred=centred, block=128, mesh=mesh_of(jax.devices())),
    ):
        matrix, weights = (np.asarray(leaf) for leaf in rows.as_matrix())
        np.testing.assert_allclose(matrix[:n][counted], expected[counted], rtol=ROUNDING, atol=20 * ROUNDING)
        np.testing.assert_array_equal(weights, np.pad(weight, (0, len(weights) - n)))
        assert np.all(np.abs(matrix) < 1e29)  # what has no weight is a row that counts
        np.testing.assert_allclose(rows.frame.centre, mean if centred else np.zeros(d), rtol=ROUNDING, atol=ROUNDING)
        variance = np.average((x.astype(float) - mean) ** 2, axis=0, weights=weight)
        np.testing.assert_allclose(rows.frame.variance, variance, rtol=50 * ROUNDING, atol=ROUNDING)
        norms = np.asarray(rows.norms).reshape(-1)
        np.testing.assert_allclose(norms, np.sum(matrix**2, axis=1), rtol=10 * ROUNDING, atol=ROUNDING)


def test_the_mean_of_many_float32_rows_keeps_its_digits():
    """A running sum in float32 would stop growing at 2**24 ones."""
    x = np.full((2**18, 1), 1000.1, np.float32)
    x[::2] += 1.0
    rows = ready_on_host(x, None, centred=True, block=4096)
    np.testing.assert_allclose(rows.frame.centre, x.astype(float).mean(), rtol=1e-7)
    np.testing.assert_allclose(rows.frame.variance, x.astype(float).var(), rtol=1e-6)


def test_ready_rows_serve_starts_and_fits():
    x = blobs(70).astype(DTYPE)
    rows = as_rows(jaxem.Full(), x, None, 2)
    assert isinstance(rows, Rows)
    one = jaxem.starts(jax.random.key(0), jaxem.Full(), rows, 2, 3)
    other = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 3)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=100 * ROUNDING, atol=ROUNDING)
    results = [jaxem.fit_restarts(starts, data, max_iter=20).objective for starts, data in ((one, rows), (other, x))]
    np.testing.assert_allclose(*results, rtol=100 * ROUNDING)
    with pytest.raises(ValueError, match="carry their own"):
        jaxem.fit_restarts(one, rows, np.ones(70))


def test_many_numbers_of_rows_share_few_programs():
    x = blobs(400).astype(DTYPE)
    mixture = Case(jaxem.Spherical(), 2, 2).mixture().astype(DTYPE)
    loop._fit.made.clear()
    jaxem.pointwise._map_rows.made.clear()
    for n in range(200, 400, 5):
        jaxem.fit(mixture, x[:n], max_iter=5)
        assert mixture.predict(x[:n]).shape == (n,)
        assert mixture.log_joint(x[:n]).shape == (n, 2)
    assert len(loop._fit.made) == 3  # 256, 384 and 512 rows
    assert len(jaxem.pointwise._map_rows.made) == 6  # of each function


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_padding_changes_nothing(family):
    """33 rows in a bucket of 48: what numpy or JAX makes ready, eagerly or traced, gives the same fit."""
    x = blobs(33).astype(DTYPE)
    mixture = Case(family, 2, 2).mixture().astype(DTYPE)
    options = {"stop": jaxem.GainBelow(-jnp.inf), "max_iter": 8}
    padded = jaxem.fit(mixture, x, **options)
    exact = jax.jit(lambda x: jaxem.fit(mixture, x, **options))(x)
    for a, b in zip(jax.tree.leaves(padded.mixture), jax.tree.leaves(exact.mixture), strict=True):
        np.testing.assert_allclose(a, b, rtol=1000 * ROUNDING, atol=100 * ROUNDING)


def test_predict_is_the_likeliest_component():
    x = blobs(3000).astype(DTYPE)
    mixture = Case(jaxem.Full(), 3, 2).mixture().astype(DTYPE)
    expected = np.asarray(mixture.responsibilities(x)).argmax(axis=1)
    np.testing.assert_array_equal(mixture.predict(x), expected)
    np.testing.assert_array_equal(mixture.predict(x, chunk_size=100), expected)
    np.testing.assert_array_equal(jax.jit(lambda x: mixture.predict(x))(x), expected)


def test_per_row_functions_over_several_chunks(monkeypatch):
    monkeypatch.setattr("jaxem.rows.CHUNK", 64)
    x = blobs(333).astype(DTYPE)
    mixture = Case(jaxem.Tied(), 3, 2).mixture().astype(DTYPE)
    traced = jax.jit(lambda x: mixture.log_prob(x))(x)
    np.testing.assert_allclose(mixture.log_prob(x), traced, rtol=100 * ROUNDING)
