"""Saddles: components that coincide, and directions in which the objective still rises.

EM climbs to a fixed point, which need not be a maximum. Components that start equal stay equal: their statistics are the
same in every turn. A fixed point is a maximum if no direction leads up, that is if the Hessian of the objective has no
positive eigenvalue. Its largest one is found by Lanczos' method, from products of the Hessian with vectors alone
(Golub and Van Loan 2013, section 10.1).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.mixture import Mixture
from jaxem.primitives import epsilon

COINCIDENCE = 0.4
"""components coincide if a step from one to the other is smaller than eps to this power"""
PRODUCTS = 32
"""products with the Hessian that find its largest eigenvalue, at most"""


def components_coincide(mixture: Mixture, present: Array) -> Array:
    """Whether two components that are `present` `[k]` have the same parameters, to rounding, `[]` of bool. EM never parts
    them.
    """
    family, k = mixture.family, mixture.n_components
    if k == 1:
        return jnp.bool_(False)

    def apart(i: Array, j: Array) -> Array:
        return jnp.where(present[i] & present[j], family.apart(mixture.components, i, j), jnp.inf)

    def nearest(shift: Array) -> Array:
        index = jnp.arange(k)
        return jnp.min(jax.vmap(apart)(index, (index + shift) % k))

    tol = epsilon(mixture.log_weights.dtype) ** COINCIDENCE
    return jnp.any(jax.lax.map(nearest, jnp.arange(1, k // 2 + 1)) < tol)


def largest_curvature(
    objective: Callable[[Array], Array], free: Array, units: Array, seed: Array
) -> tuple[Array, Array]:
    """The largest eigenvalue of the Hessian of `objective` at `free` `[p]`, and the length of its gradient, `[]` each.

    Both are in coordinates of these `units` `[p]`. `seed` `[p]` is any vector that leans towards the eigenvector.
    """
    p, m = free.shape[0], min(PRODUCTS, free.shape[0])
    slope = jax.grad(lambda scaled: objective(free + units * scaled))
    gradient, along = jax.linearize(slope, jnp.zeros_like(free))

    def step(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        basis, images, vector = carry  # [m, p] each, [p]
        for _ in range(2):
            vector = vector - (basis @ vector) @ basis
        length = jnp.linalg.norm(vector)
        # a space that is spent adds nothing
        unit = jnp.where(length > epsilon(vector.dtype), vector / jnp.where(length > 0, length, 1.0), 0.0)
        image = along(unit)
        return basis.at[j].set(unit), images.at[j].set(image), image

    zeros = jnp.zeros((m, p), free.dtype)
    basis, images, _ = jax.lax.fori_loop(0, m, step, (zeros, zeros, seed / jnp.linalg.norm(seed)))
    inner = basis @ images.T
    # rows that were not reached have eigenvalue 0; put them below
    reached = jnp.sum(basis**2, axis=1) > 0.5
    inner = 0.5 * (inner + inner.T) - jnp.diag(jnp.where(reached, 0.0, jnp.max(jnp.abs(inner)) + 1.0))
    return jnp.linalg.eigvalsh(inner)[-1], jnp.linalg.norm(gradient)
