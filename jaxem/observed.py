"""Gaussian rows of which some values were not observed: what is seen of them, and what it tells of the rest.

Under N(mu, Sigma) the observed values x_o of a row have N(mu_o, Sigma_oo), and given these the missing ones have

    mean        mu_m + Sigma_mo inv(Sigma_oo) (x_o - mu_o),
    covariance  C = Sigma_mm - Sigma_mo inv(Sigma_oo) Sigma_om                 (Little and Rubin 2019, section 11.2).

Sigma_oo is factored in place: A has the entries of Sigma where both columns were observed, 1 on the diagonal elsewhere. With
delta = x - mu, 0 where x is missing, the row's expected difference from mu is H delta. H and C depend on the pattern of missing
values alone, so they are worked out once for a run of c rows that have the same, and the moments of a run are moved as a whole:

    sum r E[(x - mu)(x - mu)'] = H (sum r delta delta') H' + C sum r.

Where features are independent a missing value is left out, and each feature counts the rows that have it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.distances import difference, over_components
from jaxem.linalg import log_det, whitener
from jaxem.primitives import dot, tiny

LOG_2PI = math.log(2 * math.pi)


def seen_in(x: Array) -> Array:
    """Where `x` was observed, 1 or 0 in its shape and dtype."""
    return (x == x).astype(x.dtype)


def filled(x: Array, sample_weight: Array) -> Array:
    """Rows `[n, d]` with the mean of its column in place of a missing value."""
    return jnp.where(x == x, x, _mean_of_seen(x, _mass(x, sample_weight))[None, :])


def pooled_moments(x: Array, w: Array, *, matrix: bool) -> tuple[Array, Array, Array]:
    """`weighted_moments` of what was observed: mean `[d]`, and the covariance `[d, d]` or the variances `[d]`.

    Variances are those of the values in each column. Correlations count a missing value as the mean, so that the matrix is
    positive semidefinite; they are a start, no estimate.
    """
    mass = _mass(x, w)
    mean = _mean_of_seen(x, mass)
    root, total = jnp.sqrt(mass) * jnp.where(x == x, x - mean[None, :], 0.0), jnp.sum(mass, axis=0)
    inverse = jax.lax.rsqrt(jnp.where(total > 0, total, 1.0))
    if not matrix:
        return jnp.sum(w), mean, jnp.sum(root**2, axis=0) * inverse**2
    scaled = root * inverse[None, :]
    return jnp.sum(w), mean, dot("nd,ne->de", scaled, scaled)


def _mass(x: Array, w: Array) -> Array:
    """The weight of each observed value, `[n, d]`."""
    return jnp.where(x == x, w[:, None], 0.0)


def _mean_of_seen(x: Array, mass: Array) -> Array:
    """Mean `[d]` of the observed values; 0 where there is none."""
    total = jnp.sum(mass, axis=0)
    anchor = jnp.take_along_axis(x, jnp.argmax(mass > 0, axis=0)[None, :], axis=0)  # no digit is lost to an offset
    moved = jnp.where(mass > 0, x - anchor, 0.0)
    mean = anchor[0] + jnp.sum(mass * moved, axis=0) / jnp.where(total > 0, total, 1.0)
    return jnp.where(total > 0, mean, 0.0)


def leaves_of_observed(
    x: Array, weights: Array, moved: np.ndarray, block: int, gathered: Callable[[Array], Array]
) -> tuple[Any, ...]:
    """Blocks, weights and norms of rows `[n, d]`, and their place: centre and variance of the observed values of each column,
    total weight and number of rows that count.

    `moved` `[d]` says which columns are centred; `gathered` puts the devices' arrays `[...]` into one, `[devices, ...]`.
    """
    n, d = x.shape

    def total(local: Array) -> Array:
        return jnp.sum(gathered(local), axis=0)

    mass = _mass(x, weights)
    of_column = jnp.maximum(total(jnp.sum(mass, axis=0)), tiny(x.dtype))

    def average(values: Array) -> Array:
        return total(jnp.sum(jnp.where(mass > 0, mass * values, 0.0), axis=0)) / of_column

    mean = average(x)
    mean = mean + average(x - mean[None, :])  # what the first sum lost to an offset
    centre, variance = jnp.where(jnp.asarray(moved), mean, 0.0), average((x - mean[None, :]) ** 2)
    # a row of weight 0 is replaced if its square may overflow; else it stays, so that its weight has its own derivative
    far = jnp.finfo(x.dtype).max.astype(x.dtype) ** 0.25
    x = jnp.where((mass > 0) | ~(jnp.abs(x - mean[None, :]) >= far), x - centre[None, :], 0.0)
    place = centre, variance, total(jnp.sum(weights)), total(jnp.sum(weights > 0))
    m = -(-n // block)
    b = -(-n // m)
    x = jnp.concatenate([x, jnp.zeros((m * b - n, d), x.dtype)])
    weights = jnp.pad(weights, (0, m * b - n)).reshape(m, b)
    return x.reshape(m, b, d).transpose(0, 2, 1), weights, jnp.zeros_like(weights), place


# -- independent features ------------------------------------------------------------------------------------------------


def log_prob_of_features(means: Array, variances: Array, x: Array) -> Array:
    """Log densities `[k, b]` of columns `x` `[d, b]`, given means and variances `[k, d]`."""

    def of_one(mean: Array, variance: Array) -> Array:
        return jnp.sum(_differences(mean, x) ** 2 / variance[:, None], axis=0)

    volumes = dot("kd,db->kb", LOG_2PI + jnp.log(variances), seen_in(x))
    return -0.5 * (volumes + over_components(of_one, x.shape[0])(means, variances))


def moments_of_features(means: Array, x: Array, resp: Array) -> tuple[Array, Array, Array]:
    """Counts, first and second moments about the means, `[k, d]` each, of what was observed of columns `x` `[d, b]`."""

    def of_one(mean: Array, resp: Array) -> tuple[Array, Array]:
        diff = _differences(mean, x)
        return dot("db,b->d", diff, resp), dot("db,b->d", diff**2, resp)

    return dot("kb,db->kd", resp, seen_in(x)), *over_components(of_one, x.shape[0])(means, resp)


def _differences(mean: Array, x: Array) -> Array:
    return jnp.where(x == x, difference(mean, x), 0.0)


# -- matrices ------------------------------------------------------------------------------------------------------------


class Patterns(NamedTuple):
    """What covariances tell of g patterns of missing values."""

    seen: Array  # [g, d] of bool
    whiteners: Array  # [k, g, d, d], inv(L) of A = L L'
    log_dets: Array  # [k, g], of Sigma_oo
    maps: Array  # [k, g, d, d], H
    spreads: Array  # [k, g, d, d], C, 0 where anything was observed


class Seen(NamedTuple):
    """What was seen of a block of rows under k components."""

    patterns: Patterns
    differences: Array  # [k, g, d, c]
    squares: Array  # [k, b], delta_o' inv(Sigma_oo) delta_o
    log_dets: Array  # [k, b]
    counts: Array  # [b], how many values

    def of_counts(self, values: list[Array]) -> Array:
        """What rows have, `[k, b]`, where those with i observed values have `values[i]` `[k]`."""
        of_patterns = jnp.stack(values, axis=1)[:, jnp.sum(self.patterns.seen, axis=1)]
        return jnp.repeat(of_patterns, self.differences.shape[3], axis=1)


def see(means: Array, covariances: Array, x: Array, run: int) -> Seen:
    """What was seen of columns `x` `[d, b]`, of which `run` after each other miss the same; `covariances` `[k, d, d]`, or
    `[d, d]` for all."""
    k, (d, b) = means.shape[0], x.shape
    in_runs = x.reshape(d, b // run, run)
    patterns = patterns_of(covariances, (in_runs[:, :, 0] == in_runs[:, :, 0]).T)
    if covariances.ndim == 2:
        shared = (jnp.broadcast_to(leaf, (k, *leaf.shape[1:])) for leaf in patterns[1:])
        patterns = Patterns(patterns.seen, *shared)
    there = jax.vmap(_differences, (0, None))(means, x).reshape(k, d, b // run, run).transpose(0, 2, 1, 3)
    squares = jnp.sum(dot("kgij,kgjc->kgic", patterns.whiteners, there) ** 2, axis=2).reshape(k, b)
    counts = jnp.repeat(jnp.sum(patterns.seen, axis=1).astype(x.dtype), run)
    return Seen(patterns, there, squares, jnp.repeat(patterns.log_dets, run, axis=1), counts)


def patterns_of(covariances: Array, seen: Array) -> Patterns:
    """What `covariances` `[k, d, d]`, or one `[d, d]`, tell of patterns `seen` `[g, d]`."""
    covariances = covariances.reshape(-1, 1, *covariances.shape[-2:])  # [k, 1, d, d]
    identity = jnp.eye(seen.shape[1], dtype=covariances.dtype)
    both, missing = seen[:, :, None] & seen[:, None, :], ~seen
    neither = missing[:, :, None] & missing[:, None, :]
    shape = (covariances.shape[0], *both.shape)
    every = jnp.broadcast_to(covariances, shape)
    here = jnp.where(_like(both, shape), every, 0.0) + jnp.where(_like(missing[:, :, None], shape), identity, 0.0)
    whiteners = whitener(here)
    of_seen = jnp.where(_like(seen[:, None, :], shape), whiteners, 0.0)
    rooted = dot("kgil,kglm->kgim", of_seen, every)  # inv(L) Sigma_o.
    onto_missing = dot("kgil,kgij->kglj", rooted, of_seen)  # Sigma_.o inv(Sigma_oo)
    maps = jnp.where(_like(missing[:, :, None], shape), onto_missing, jnp.where(_like(both, shape), identity, 0.0))
    rooted = jnp.where(_like(missing[:, None, :], shape), rooted, 0.0)
    spreads = jnp.where(_like(neither, shape), every, 0.0) - dot("kgil,kgim->kglm", rooted, rooted)
    return Patterns(seen, whiteners, log_det(here, whiteners), maps, spreads)


def _like(yes: Array, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(yes[None], shape)


def moments_of_seen(seen: Seen, counted: Array, resp: Array) -> tuple[Array, Array]:
    """First and second moments about the means, `[k, d]` and `[k, d, d]`: expected ones given what was observed.

    A row counts `counted` `[k, b]` times for what was observed, and `resp` `[k, b]` times for the spread of the rest.
    """
    k, g, _, c = seen.differences.shape
    weighted = counted.reshape(k, g, 1, c) * seen.differences
    products = dot("kgic,kgjc->kgij", weighted, seen.differences)
    maps, spreads = seen.patterns.maps, seen.patterns.spreads
    first = dot("kgij,kgj->ki", maps, jnp.sum(weighted, axis=3))
    second = dot("kgij,kgjm->kgim", maps, products)
    second = dot("kgim,kgjm->kij", second, maps) + dot("kg,kgij->kij", jnp.sum(resp.reshape(k, g, c), axis=2), spreads)
    return first, second


def expected_rows(means: Array, seen: Seen) -> Array:
    """The rows with expected values in place of missing ones, `[k, d, b]`."""
    there = dot("kgij,kgjc->kigc", seen.patterns.maps, seen.differences)
    return means[:, :, None] + there.reshape(*means.shape, -1)


def bound_of_seen(new: Array, new_covariances: Array, means: Array, seen: Seen, scale: Array | float = 1.0) -> Array:
    """The expected log density, `[k, b]`, of complete rows under new means and covariances, and the entropy of what is missing.

    The expectation is that given what was seen under `means`: at equal parameters this is the log density of what was
    observed. `scale` `[k, b]` divides the covariances of the rows.
    """
    k, d = means.shape
    white = jnp.broadcast_to(whitener(new_covariances), (k, d, d))
    volumes = jnp.broadcast_to(log_det(new_covariances, whitener(new_covariances)), (k,))
    moved = expected_rows(means, seen) - new[:, :, None]
    squares = scale * jnp.sum(dot("kij,kjb->kib", white, moved) ** 2, axis=1)
    spreads, missing = seen.patterns.spreads, ~seen.patterns.seen
    rooted = dot("kij,kgjl->kgil", white, spreads)
    traces = jnp.sum(rooted * jnp.broadcast_to(white[:, None], rooted.shape), axis=(2, 3))  # tr(C inv(Sigma))
    neither = _like(missing[:, :, None] & missing[:, None, :], spreads.shape)
    rest = jnp.where(neither, spreads, jnp.eye(d, dtype=spreads.dtype))
    entropies = log_det(rest, whitener(rest)) + jnp.sum(missing, axis=1).astype(spreads.dtype)[None, :]
    of_patterns = jnp.repeat(traces - entropies, squares.shape[1] // missing.shape[0], axis=1)
    return -0.5 * (seen.counts[None, :] * LOG_2PI + volumes[:, None] + squares + of_patterns)
