"""The same code lowers for CPU, GPU and TPU, in float32: nothing in the core is bound to a platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from tests.cases import GAUSSIANS, blobs

PLATFORMS = ("cpu", "cuda", "tpu")
FAMILIES = (
    jaxem.Full(),
    jaxem.Bernoulli(),
    *(pytest.param(family, marks=pytest.mark.slow) for family in GAUSSIANS if family != jaxem.Full()),
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_lowers_everywhere(family):
    x = blobs(64).astype(np.float32)
    x = (x > 2).astype(np.float32) if isinstance(family, jaxem.Bernoulli) else x
    x = jnp.asarray(x)
    starts = jaxem.starts(jax.random.key(0), family, x, 2, 3)
    start = starts[0]
    stats = jaxem.e_step(start, x)
    functions = {
        "e_step": (jaxem.e_step, (start, x)),
        "m_step": (jaxem.m_step, (start, stats)),
        "fit": (lambda mixture, x: tuple(jaxem.fit(mixture, x, max_iter=20))[1:], (start, x)),
        "fit_restarts": (lambda mixtures, x: tuple(jaxem.fit_restarts(mixtures, x, max_iter=20))[1:], (starts, x)),
    }
    for name, (function, arguments) in functions.items():
        leaves, tree = jax.tree.flatten(arguments)

        def flat(*leaves, function=function, tree=tree):
            return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

        exported = jax.export.export(jax.jit(flat), platforms=PLATFORMS)(*leaves)
        assert exported.platforms == PLATFORMS, name
        assert not any(aval.dtype == jnp.float64 for aval in exported.out_avals), name
        here = jax.jit(flat)(*leaves)
        for a, b in zip(exported.call(*leaves), here, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_program_for_any_number_of_rows():
    """What a mixture says of rows is exported once, with a symbolic n, and called with several."""
    x = blobs(100).astype(np.float32)
    mixture = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 1)[0]
    (n,) = jax.export.symbolic_shape("n")
    rows = jax.ShapeDtypeStruct((n, x.shape[1]), jnp.float32)
    for says in (mixture.log_prob, mixture.responsibilities, mixture.predict):
        exported = jax.export.export(jax.jit(says), platforms=("cpu",))(rows)
        for some in (x[:1], x):
            np.testing.assert_allclose(exported.call(some), says(some), rtol=1e-4, atol=1e-5)
