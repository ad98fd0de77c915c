"""Moments of a set of rows: total weight, mean and covariance, precise however far the rows lie from the origin."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.primitives import dot, is_traced

CHUNK = 2**16
"""rows worked on at a time"""


def weighted_moments(x: Array, w: Array, *, matrix: bool = True) -> tuple[Array, Array, Array]:
    """Total weight `[]`, mean `[d]` and covariance `[d, d]` of rows `x` `[n, d]` with weights `w` `[n]`.

    Differences are taken from a row that counts, then from the mean: an offset common to all rows costs no digit. Rows of
    weight 0 may hold anything. With `matrix=False` only the variances `[d]` are computed.
    """
    total, anchor = jnp.sum(w), x[jnp.argmax(w > 0)]

    def moved(x: Array, w: Array, shift: Array | float) -> Array:
        return jnp.where(w[:, None] > 0, x - anchor[None, :], 0.0) - shift

    def first(x: Array, w: Array) -> Array:
        return jnp.sum(w[:, None] * moved(x, w, 0.0), axis=0)

    shift = sum_chunks(first, x, w) / total  # [d]

    def second(x: Array, w: Array) -> Array:
        diff = moved(x, w, shift[None, :])
        weighted = w[:, None] * diff
        return dot("nd,ne->de", weighted, diff) if matrix else jnp.sum(weighted * diff, axis=0)

    return total, anchor + shift, sum_chunks(second, x, w) / total


def moments_of(x: Array | np.ndarray, w: Array | np.ndarray) -> tuple[Array, Array, Array]:
    """`weighted_moments` in JAX's float of rows `[n, d]`, on the host perhaps in a wider one: differences are taken there."""
    dtype, place = jax.dtypes.canonicalize_dtype(x.dtype), None
    if isinstance(x, np.ndarray) and x.dtype.itemsize > np.dtype(dtype).itemsize:
        place = np.median(x, axis=0)  # rows of weight 0 may hold anything
        x = x - place
    if not is_traced(x, w):  # an argument, not a constant
        x, w = jnp.asarray(x, dtype), jnp.asarray(w)
    total, mean, covariance = _weighted_moments(jnp.asarray(x, dtype), w)
    return total, mean if place is None else mean + place.astype(dtype), covariance


_weighted_moments = jax.jit(weighted_moments)


def sum_chunks(per_chunk: Callable[..., Any], *of_rows: Array, size: int = CHUNK) -> Any:
    """Add up `per_chunk(x [c, d], ...)` over chunks of arrays `[n, ...]` as they are, one in memory at a time."""
    n = of_rows[0].shape[0]
    whole = n // size
    if whole == 0 or n == size:
        return per_chunk(*of_rows)
    rest = (leaf[whole * size :] for leaf in of_rows)
    first = per_chunk(*rest) if n % size else zeros_like_result(per_chunk, *(leaf[:size] for leaf in of_rows))

    def add(total: Any, i: Array) -> tuple[Any, None]:
        chunk = (jax.lax.dynamic_slice_in_dim(leaf, i * size, size) for leaf in of_rows)
        return jax.tree.map(operator.add, total, per_chunk(*chunk)), None

    return jax.lax.scan(add, first, jnp.arange(whole))[0]


def zeros_like_result(function: Callable[..., Any], *args: Any) -> Any:
    """Zeros in the shapes and dtypes of `function(*args)`, which is not computed."""
    shapes = jax.eval_shape(function, *args)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
