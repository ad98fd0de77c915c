"""Priors made from data: penalties that keep a covariance from collapsing, as values of `NormalInverseWishart`.

For data with total weight n and covariance S, in the notation of priors.py:

    chen_tan        nu = 2 a, Lambda = 2 a S, no m: scale-free, a = 1 / n by default         (Chen and Tan 2009)
    fraley_raftery  mclust's defaults                                                        (Fraley and Raftery 2007)
    variance_floor  nu = 0, Lambda = n floor I, no m: Sigma_k = S_k + (n / N_k) floor I, never below floor I
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.checks import as_components, as_data, as_family, as_weights
from jaxem.holes import moments_of_observed
from jaxem.moments import moments_of
from jaxem.observed import pooled_moments
from jaxem.primitives import is_traced
from jaxem.priors import NormalInverseWishart


def chen_tan(
    x: ArrayLike, sample_weight: ArrayLike | None = None, *, strength: Array | float | None = None
) -> NormalInverseWishart:
    """A penalty that keeps every covariance away from zero, whatever the scale of the data.

    It adds `-a (tr(S inv(Sigma)) + log |Sigma|)` for each covariance: with S the data's own, at most a covariance of `2 a`
    imagined rows. Estimates stay consistent (Chen and Tan 2009). A feature without variance is not helped: add
    `variance_floor`.

    Args:
        x: `[n, d]`.
        sample_weight: `[n]`.
        strength: a, positive; by default 1 / n.
    """
    n, _, covariance = _moments(x, sample_weight)
    a = 1.0 / n if strength is None else _positive("strength", strength)
    return NormalInverseWishart(2.0 * a, 2.0 * a * covariance)


def fraley_raftery(
    family: Any,
    x: ArrayLike,
    n_components: int,
    sample_weight: ArrayLike | None = None,
    *,
    shrinkage: Array | float = 0.01,
) -> NormalInverseWishart:
    """mclust's default prior for a Gaussian family: a weak pull to the data's mean and a scaled covariance.

    m is the data's mean, kappa 0.01; the inverse Wishart has d + 2 degrees and the scale S / k^(2 / d), for Spherical and
    Diagonal the average of its diagonal (Fraley and Raftery 2007, section 3).

    Args:
        family: `Spherical()`, `Diagonal()`, `Tied()` or `Full()`.
        x: `[n, d]`.
        n_components: k.
        sample_weight: `[n]`.
        shrinkage: kappa, positive.
    """
    family = as_family(family)
    if not hasattr(family, "inverse_wishart"):
        raise TypeError(f"family = {family!r} is no Gaussian one; give Spherical(), Diagonal(), Tied() or Full()")
    n, mean, covariance = _moments(x, sample_weight)
    k, d = as_components(n_components, np.shape(x)[0]), mean.shape[0]
    # as R's var: by n - 1, where the weights count rows
    sample = covariance * (n / jnp.maximum(n - 1.0, 1e-3 * n))
    degrees, scatter = family.inverse_wishart(d + 2.0, sample / k ** (2.0 / d))
    return NormalInverseWishart(degrees, scatter, _positive("shrinkage", shrinkage), mean)


def variance_floor(x: ArrayLike, floor: Array | float, sample_weight: ArrayLike | None = None) -> NormalInverseWishart:
    """A prior under which no variance, in any direction, can go below `floor`; for data with constant columns.

    Every covariance is raised by floor n / N_k (a Tied one by floor), which is an exact maximiser, unlike a constant added
    after the M-step.

    Args:
        x: `[n, d]`; only its shape and weights count.
        floor: a variance, in the data's units, positive.
        sample_weight: `[n]`.
    """
    n, mean, _ = _moments(x, sample_weight)
    eye = jnp.eye(mean.shape[0], dtype=mean.dtype)
    return NormalInverseWishart(0.0, n * _positive("floor", floor) * eye)


def _moments(x: ArrayLike, sample_weight: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Total weight `[]`, mean `[d]` and covariance `[d, d]` of the rows that count; NaN is a value that was not observed."""
    data = as_data(x, exact=True, holes=True)
    dtype = jax.dtypes.canonicalize_dtype(data.dtype)
    given = as_weights(sample_weight, data.shape[0], dtype)
    weights = jnp.ones(data.shape[0], dtype) if given is None else jnp.asarray(given)
    if is_traced(data, weights) or not np.isnan(data).any():
        return moments_of(data, weights)
    place, _ = moments_of_observed(np.asarray(data), np.asarray(weights))
    total, mean, covariance = pooled_moments(jnp.asarray(np.asarray(data) - place, dtype), weights, matrix=True)
    return total, mean + place.astype(dtype), covariance


def _positive(name: str, value: Any) -> Any:
    if isinstance(value, (int, float)) and not 0.0 < value < float("inf"):
        raise ValueError(f"{name} = {value}; give a positive finite number")
    return value
