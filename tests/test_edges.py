"""Bad input to the Python functions: one line that names the argument, what was found and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from tests.cases import Case, blobs

KEY = jax.random.key(0)
X = blobs(20)
MIXTURE = Case(jaxem.Full(), 2, 2).mixture()


def hole(value):
    x = X.copy()
    x[3, 1] = value
    return x


BAD_X = {
    "NaN": (hole(np.nan), r"x\[3, 1\] = nan"),
    "inf": (hole(-np.inf), r"x\[3, 1\] = -inf"),
    "one dimension": (X[:, 0], r"x has 1 dimensions .*reshape"),
    "three dimensions": (X[None], "x has 3 dimensions"),
    "no rows": (X[:0], r"shape \(0, 2\)"),
    "no columns": (X[:, :0], r"shape \(20, 0\)"),
    "text": (np.array([["a", "b"]] * 20), "dtype"),
    "objects": (np.array([[None, 1]] * 20, object), "dtype"),
    "complex": (X.astype(complex), "complex"),
    "masked": (np.ma.masked_greater(X, 2.0), "mask"),
    "too few rows": (X[:1], "n_components = 2 exceeds the 1 rows"),
}


def one_line(error):
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(("x", "message"), BAD_X.values(), ids=BAD_X)
def test_bad_data(x, message):
    for call in (
        lambda: jaxem.starts(KEY, jaxem.Full(), x, 2, 3),
        lambda: jaxem.fit(MIXTURE, x),
        lambda: jaxem.fit_restarts(jax.tree.map(lambda leaf: leaf[None], MIXTURE), x),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        one_line(error)


@pytest.mark.parametrize("call", ["e_step", "log_prob", "responsibilities", "verify", "proxy"])
def test_bad_data_elsewhere(call):
    functions = {
        "e_step": lambda x: jaxem.e_step(MIXTURE, x),
        "log_prob": MIXTURE.log_prob,
        "responsibilities": MIXTURE.responsibilities,
        "verify": lambda x: jaxem.verify(MIXTURE, x),
        "proxy": lambda x: jaxem.proxy(MIXTURE, MIXTURE, x),
    }
    with pytest.raises(ValueError, match=r"x\[3, 1\] = nan"):
        functions[call](hole(np.nan))
    with pytest.raises(ValueError, match="x has 3 columns, the mixture 2"):
        functions[call](np.ones((5, 3)))


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "n_components = 0 is too small"),
        (-3, "n_components = -3 is too small"),
        (2.5, "n_components = 2.5 is not a whole number"),
        ("3", "not a whole number"),
        (True, "not a whole number"),
        (None, "not a whole number"),
        (10**12, "exceeds the 20 rows"),
        (21, "exceeds the 20 rows"),
    ],
)
def test_bad_number_of_components(k, message):
    with pytest.raises(ValueError, match=message) as error:
        jaxem.starts(KEY, jaxem.Full(), X, k, 3)
    one_line(error)


@pytest.mark.parametrize("r", [0, -1, 1.5, 10**12])
def test_bad_number_of_restarts(r):
    with pytest.raises(ValueError, match="n_restarts"):
        jaxem.starts(KEY, jaxem.Full(), X, 2, r)


@pytest.mark.parametrize("max_iter", [-1, 1.5, 10**12])
def test_bad_number_of_turns(max_iter):
    with pytest.raises(ValueError, match="max_iter"):
        jaxem.fit(MIXTURE, X, max_iter=max_iter)


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5])
def test_bad_chunk_size(chunk_size):
    with pytest.raises(ValueError, match="chunk_size"):
        jaxem.e_step(MIXTURE, X, chunk_size=chunk_size)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.r_[-1.0, np.ones(19)], r"sample_weight\[0\] = -1.0"),
        (np.r_[np.ones(19), np.nan], r"sample_weight\[19\] = nan"),
        (np.r_[np.ones(19), np.inf], r"sample_weight\[19\] = inf"),
        (np.zeros(20), "zero everywhere"),
        (np.ones(19), r"shape \(19,\).*20 rows"),
        (np.ones((20, 1)), "shape"),
        (2.0, "shape"),
        (["a"] * 20, "dtype"),
    ],
    ids=["negative", "NaN", "inf", "all zero", "short", "2-D", "scalar", "text"],
)
def test_bad_weights(weights, message):
    for call in (
        lambda: jaxem.starts(KEY, jaxem.Full(), X, 2, 3, sample_weight=weights),
        lambda: jaxem.fit(MIXTURE, X, weights),
        lambda: jaxem.e_step(MIXTURE, X, weights),
        lambda: jaxem.elbo(MIXTURE, X, np.full((20, 2), 0.5), weights),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        one_line(error)


def test_a_batch_is_no_single_mixture_and_the_error_says_what_to_call():
    starts = jaxem.starts(KEY, jaxem.Full(), X, 2, 3)
    with pytest.raises(ValueError, match="fit_restarts many"):
        jaxem.fit(starts, X)
    with pytest.raises(ValueError, match="or use fit"):
        jaxem.fit_restarts(MIXTURE, X)


def test_values_outside_the_support():
    with pytest.raises(ValueError, match=r"x\[0, 0\] = .* cannot occur under Bernoulli"):
        jaxem.starts(KEY, jaxem.Bernoulli(), X + 0.5, 2, 3)


def test_a_prior_for_another_family():
    with pytest.raises(TypeError, match="says nothing about a Full component"):
        jaxem.fit(MIXTURE, X, prior=jaxem.Beta())


def test_responsibilities_of_another_shape():
    with pytest.raises(ValueError, match=r"resp has shape \(20, 3\)"):
        jaxem.elbo(MIXTURE, X, np.ones((20, 3)))
    with pytest.raises(ValueError, match="resp has shape"):
        jaxem.starts(KEY, jaxem.Full(), X, 2, 1, jaxem.FromResponsibilities(jnp.ones((20, 3))))


def test_constants_inside_jit_are_checked_too():
    with pytest.raises(ValueError, match=r"x\[3, 1\] = nan"):
        jax.jit(lambda mixture: jaxem.fit(mixture, hole(np.nan)).objective)(MIXTURE)
    assert bool(jnp.isfinite(jax.jit(lambda mixture: jaxem.fit(mixture, X).objective)(MIXTURE)))


def test_out_of_memory_names_chunk_size():
    """No machine can hold a block of 2**40 rows and components: XLA refuses it, and the message names the remedy."""
    x = np.zeros((2**20, 1))
    means = jnp.zeros((2**20, 1))
    mixture = jaxem.Mixture(
        jnp.full(2**20, -20 * np.log(2)), jaxem.GaussianParams(means, jnp.ones(2**20)), jaxem.Spherical()
    )
    with pytest.raises(MemoryError, match="chunk_size"):
        jaxem.e_step(mixture, x, chunk_size=2**20)
