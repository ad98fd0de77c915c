"""Distances of columns from means and their first moments: from differences, or by matrix products where those are precise.

Squared distances have a slow form that is always right, from differences x - m, and a fast one, a matrix product:
|x - m|^2 = |x|^2 - 2 m'x + |m|^2 in units of the variance. The product's rounding error, in units of the variance and by
feature, is eps max_j m_j' inv(Sigma_j) m_j / d about the data's mean. It is taken where that is below `PRODUCT_ERROR`, in all
lanes of a vmap, and there are more than `FEW_FEATURES` features. Second moments of b rows by feature
are products too where their own error, eps sqrt(b) max m_j^2 / v_j, is below that: a sum of b squares loses sqrt(b) units.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.primitives import all_lanes, dot, epsilon

PRODUCT_ERROR = {64: 1e-12, 32: 1e-5}
"""relative error of a variance that distances by products may bring, by bits of the dtype"""
FEW_FEATURES = 8
"""features up to which differences are as fast; beyond, distances may be products, and a CPU that takes differences works
on one component at a time"""
LEAST_OF_RAW = 8
"""units of rounding of a raw second moment below which its part about the mean is noise"""
MOST_AT_ONCE = 2**14
"""components x features up to which a GPU works on all components at once; XLA compiles more for minutes (jax 0.11, H200)"""


def at_once(k: int, d: int) -> bool:
    """Whether differences from all k means are worked on at once, in an array `[k, d, b]`."""
    return d <= FEW_FEATURES or (jax.default_backend() != "cpu" and k * d <= MOST_AT_ONCE)


def over_components(of_one: Callable[..., Any], d: int) -> Callable[..., Any]:
    """`of_one(leaf of component, ...)` for all: at once, or with many features one after the other."""

    def over(*leaves: Array) -> Any:
        if at_once(leaves[0].shape[0], d):
            return jax.vmap(of_one)(*leaves)
        return jax.lax.map(lambda component: of_one(*component), leaves)

    return over


def first_moments_by_differences(means: Array, x: Array, resp: Array) -> Array:
    """sum_b resp_jb (x_b - m_j), `[k, d]`, from differences."""

    def of_one(mean: Array, resp: Array) -> Array:
        return dot("db,b->d", difference(mean, x), resp)

    return over_components(of_one, x.shape[0])(means, resp)


def first_moments_by_products(means: Array, x: Array, resp: Array) -> Array:
    """The same by a product of matrices."""
    return dot("kb,db->kd", resp, x) - jnp.sum(resp, axis=1)[:, None] * means


def moments_by_products(
    means: Array, precisions: Array, x: Array, resp: Array, by_differences: Callable[[], tuple[Array, Array]]
) -> tuple[Array, Array]:
    """The same, and sum_b resp_jb (x_b - m_j)^2 by feature, both `[k, d]`, by products of matrices where those are precise.

    `precisions` are inverse variances `[k, d]`.
    """
    unit = epsilon(means.dtype)

    def by_products() -> tuple[Array, Array]:
        first, raw = first_moments_by_products(means, x, resp), dot("kb,db->kd", resp, x**2)
        second = raw - means * (2.0 * first + jnp.sum(resp, axis=1)[:, None] * means)
        # a variance that falls to nothing in one step would be noise: err upwards, the next step takes differences
        return first, jnp.maximum(second, LEAST_OF_RAW * unit * raw)

    error = unit * math.sqrt(x.shape[1]) * jnp.max(means**2 * precisions)
    precise = error <= PRODUCT_ERROR[jnp.finfo(means.dtype).bits]
    return jax.lax.cond(all_lanes(precise), by_products, by_differences)


def distances(means: Array, x: Array) -> Array:
    """|x - m|^2, `[k, b]`, from differences."""
    if jax.default_backend() == "cpu":  # one fused loop
        return jnp.sum(jax.vmap(difference, (0, None))(means, x) ** 2, axis=1)
    return over_components(lambda mean: jnp.sum(difference(mean, x) ** 2, axis=0), x.shape[0])(means)


def distances_by_products(means: Array, x: Array, norms: Array) -> Array:
    """The same by a product of matrices, given |x|^2 `[b]`."""
    products = norms[None, :] - 2.0 * dot("kd,db->kb", means, x)
    return jnp.maximum(products + jnp.sum(means**2, axis=1)[:, None], 0.0)


def whitened_squares(means: Array, whiteners: Array, x: Array) -> Array:
    """|inv(L_j) (x - m_j)|^2, `[k, b]`, from differences."""

    def of_one(mean: Array, whitener: Array) -> Array:
        return jnp.sum(dot("ij,jb->ib", whitener, difference(mean, x)) ** 2, axis=0)

    return over_components(of_one, x.shape[0])(means, whiteners)


def difference(mean: Array, x: Array) -> Array:
    """Columns `x` `[d, b]` less a mean `[d]`."""
    # beware: XLA's CPU compiler (jax 0.10.2, YNN fusion) makes of a matrix product with a plainly broadcast operand, as
    # the derivative by the mean would be, a read of memory nobody wrote (tests/test_loop); x == x hides the broadcast
    return x - jnp.where(x == x, mean[:, None], jnp.nan)
