"""Where to start: an initialiser makes a Mixture from data, from responsibilities or from chosen centres.

The lecture's two:
    RandomParameters  means at random rows, the pooled covariance for all, weights drawn uniformly (Dirichlet(1)).
    KMeans            centres by k-means, the variance of *all* the data, sum |x - mean|^2 / (n d) for Spherical, as every
                      cluster's variance, and the proportions of the clusters as weights.
and
    KMeansPlusPlus    rows far from each other (greedy k-means++: Arthur and Vassilvitskii 2007; Celebi et al. 2013), each
                      row then given to the nearest, and one M-step.
    RandomPoints      the same from k random rows.
    FromResponsibilities, FromMixture     whatever is given.

All are pure functions of (key, family, x, n_components, sample_weight), pytrees themselves, and run under jit and vmap.
Rows are compared by distance where the family says they lie (`coordinates`). Components of a background get a small weight
and no rows of their own; a component that rows are known to come from (`possible`) begins at one of these.
Rows are drawn by inverting the cumulative sum of the weights with one uniform number: a row of weight 0 is never drawn,
and it does not change the draw, except through rounding of that sum.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem import kept
from jaxem.em import log_shares
from jaxem.families.base import Family
from jaxem.mixture import Mixture
from jaxem.moments import sum_chunks
from jaxem.primitives import alive, dot, positive, select
from jaxem.rows import Rows, block_size, ready, resp_blocks, sum_blocks

T = TypeVar("T")
SHARE = 0.1
"""part of a row that all components share evenly, so that no component starts without spread"""
BEHIND = 0.05
"""weight that the components of a background have at a start, in all"""


class Initializer(Protocol):
    """A callable pytree that makes one start."""

    def __call__(self, key: Array, family: Family, x: Array, n_components: int, sample_weight: Array) -> Mixture:
        """A Mixture from a key, data `[n, d]` and weights `[n]`."""


@dataclass_transform(frozen_default=True)
def _pytree(*static: str) -> Callable[[type[T]], type[T]]:
    def register(cls: type[T]) -> type[T]:
        made: Any = dataclasses.dataclass(frozen=True)(cls)
        data = [field.name for field in dataclasses.fields(made) if field.name not in static]
        return jax.tree_util.register_dataclass(made, data_fields=data, meta_fields=list(static))

    return register


@_pytree()
class RandomParameters:
    """The lecture's random start: means at random rows, pooled covariance, weights from Dirichlet(1)."""

    def __call__(self, key: Array, family: Family, x: Array, n_components: int, sample_weight: Array) -> Mixture:
        row_key, weight_key = jax.random.split(key)
        ground = Ground.of(row_key, family, x, n_components, sample_weight)
        centres = x[random_rows(row_key, x, sample_weight, ground.located.size, seeds=ground.seeds)]
        pooled = family.init(x, n_components, sample_weight)
        log_weights = jax.random.loggamma(weight_key, jnp.ones(ground.located.size, x.dtype))
        components = family.place(pooled, x, centres[ground.places], sample_weight)
        return Mixture(ground.log_weights(jax.nn.log_softmax(log_weights)), components, family)


@_pytree("n_iter")
class KMeans:
    """The lecture's k-means start: centres, the variance of all the data for every cluster, proportions as weights.

    Attributes:
        n_iter: steps of Lloyd's algorithm at most.
    """

    n_iter: int = 100

    def __call__(self, key: Array, family: Family, x: Array, n_components: int, sample_weight: Array) -> Mixture:
        ground = Ground.of(key, family, x, n_components, sample_weight)
        z, k = ground.z, ground.located.size
        centres, counts = kmeans(key, z, k, sample_weight, n_iter=self.n_iter, seeds=ground.seeds)
        pooled = family.init(x, n_components, sample_weight)
        # a cluster that lost all rows (fewer distinct rows than clusters) keeps a row's worth of weight
        counts = jnp.maximum(counts, jnp.sum(sample_weight) / jnp.sum(sample_weight > 0))
        if z is not x:  # the row that lies nearest to each centre
            counted = sample_weight > 0

            def nearest(centre: Array) -> Array:
                return jnp.argmin(jnp.where(counted, jnp.sum((z - centre[None, :]) ** 2, axis=1), jnp.inf))

            centres = x[jax.lax.map(nearest, centres)]
        components = family.place(pooled, x, centres[ground.places], sample_weight)
        return Mixture(ground.log_weights(jnp.log(counts / jnp.sum(counts))), components, family)


@_pytree()
class KMeansPlusPlus:
    """Greedy k-means++ rows as centres, each row to the nearest, one M-step."""

    def __call__(self, key: Array, family: Family, x: Array, n_components: int, sample_weight: Array) -> Mixture:
        ground = Ground.of(key, family, x, n_components, sample_weight)
        index = kmeans_plus_plus(key, ground.z, ground.located.size, sample_weight, seeds=ground.seeds)
        return _start_from_rows(family, x, sample_weight, ground, index)


@_pytree()
class RandomPoints:
    """Random rows as centres, each row to the nearest, one M-step."""

    def __call__(self, key: Array, family: Family, x: Array, n_components: int, sample_weight: Array) -> Mixture:
        ground = Ground.of(key, family, x, n_components, sample_weight)
        index = random_rows(key, x, sample_weight, ground.located.size, seeds=ground.seeds)
        return _start_from_rows(family, x, sample_weight, ground, index)


@_pytree()
class FromResponsibilities:
    """The M-step from given responsibilities.

    Attributes:
        resp: `[n, k]`, non-negative, rows summing to one (one-hot for hard labels).
    """

    resp: Array

    def __call__(self, key: Array, family: Family, x: Array, n_components: int, sample_weight: Array) -> Mixture:
        del key
        resp = jnp.asarray(self.resp, x.dtype)
        if resp.shape != (x.shape[0], n_components):
            raise ValueError(f"resp has shape {resp.shape}; give [n, k] = {(x.shape[0], n_components)}")
        return m_step_from(family, x, sample_weight, n_components, lambda _, __, of_chunk: of_chunk, resp)

    def padded(self, x: Any, k: int, rows: Rows) -> "FromResponsibilities":
        """The same for `rows` made ready, and padded, from x."""
        return FromResponsibilities(resp_blocks(self.resp, x, rows, k).reshape(-1, k))


@_pytree()
class FromMixture:
    """A given mixture, the same for every restart.

    Attributes:
        mixture: the start.
    """

    mixture: Mixture

    def __call__(self, key: Array, family: Family, x: Array, n_components: int, sample_weight: Array) -> Mixture:
        del key, sample_weight
        if self.mixture.family != family or self.mixture.log_weights.shape != (n_components,):
            found = f"{self.mixture.log_weights.shape} of {type(self.mixture.family).__name__}"
            raise ValueError(f"mixture is {found}; give one of {n_components} components of {type(family).__name__}")
        d = family.n_features(self.mixture.components)
        if d is not None and d != x.shape[1]:
            raise ValueError(f"mixture has {d} columns, x {x.shape[1]}; give a mixture of the same columns")
        return self.mixture.astype(x.dtype)


EQUIVARIANT = (RandomParameters, KMeans, KMeansPlusPlus, RandomPoints, FromResponsibilities)
"""kinds of start that move with the data: of x + offset they make the start of x, moved by offset"""


# -- steps ---------------------------------------------------------------------------------------------------------------


class Ground(NamedTuple):
    """What a start of k components goes by."""

    z: Array  # [n, e], where the rows lie
    located: np.ndarray  # [l], the components that get rows of their own: all but those of a background
    places: np.ndarray  # [k], where each component stands in `located`; 0 for those of a background
    seeds: Array | None  # [l], a row that no other component can have produced, or -1; None if no family part is so

    @classmethod
    def of(cls, key: Array, family: Family, x: Array, k: int, sample_weight: Array) -> "Ground":
        """That of rows `x` `[n, d]`."""
        behind = in_background(family, k)
        located, places = np.flatnonzero(~behind), np.where(behind, 0, np.cumsum(~behind) - 1)
        z = family.coordinates(x, sample_weight)
        if z is not x:
            z = jnp.where(sample_weight[:, None] > 0, z, z[jnp.argmax(sample_weight > 0)])
        possible = family.possible(x, k)
        if possible is None:
            return cls(z, located, places, None)
        known = jnp.where((jnp.sum(possible, axis=1) == 1)[:, None], possible, False)[:, located].T  # [l, n]
        levels = jax.random.uniform(jax.random.fold_in(key, 1), (located.size, 1), x.dtype)
        mass = jnp.where(known, sample_weight[None, :], 0.0)
        seeds = jax.lax.map(lambda of: rows_at(of[0], of[1], sample_weight)[0], (levels, mass))
        return cls(z, located, places, jnp.where(jnp.any(mass > 0, axis=1), seeds, -1))

    def log_weights(self, located: Array) -> Array:
        """Log weights `[k]`, given those `[l]` of the located components."""
        k, n_behind = self.places.size, self.places.size - self.located.size
        if not n_behind:
            return located
        behind = jnp.full(k, math.log(BEHIND / n_behind), located.dtype)
        return behind.at[self.located].set(located + math.log1p(-BEHIND))

    def resp(self, located: Array) -> Array:
        """Responsibilities `[b, k]`, given those `[b, l]` of the located components."""
        k, n_behind = self.places.size, self.places.size - self.located.size
        if not n_behind:
            return located
        behind = jnp.full((located.shape[0], k), BEHIND / n_behind, located.dtype)
        return behind.at[:, self.located].set((1.0 - BEHIND) * located)


def in_background(family: Family, k: int) -> np.ndarray:
    """Which of k components are background, `[k]` of bool: none if all are."""
    behind = family.background(k)
    return behind & ~behind.all()


def possible_resp(family: Family, x: Array, resp: Array) -> Array:
    """Responsibilities `[b, k]` of rows `x` `[b, d]` without the components that cannot have produced a row."""
    possible = family.possible(x, resp.shape[1])
    if possible is None:
        return resp
    kept = jnp.where(possible, resp, 0.0)
    kept = jnp.where(jnp.any(kept > 0, axis=1, keepdims=True), kept, possible.astype(resp.dtype))
    total = jnp.sum(kept, axis=1, keepdims=True)
    return kept / jnp.where(total > 0, total, 1.0)


def random_rows(
    key: Array, x: Array, sample_weight: Array, k: int, count: Array | None = None, seeds: Array | None = None
) -> Array:
    """k rows `[k]` of `x` `[n, d]`, drawn in proportion to `sample_weight` `[n]`, distinct while there are distinct ones:
    EM never parts components that start at equal values. With `count` `[]` only so many are drawn, and the rest is row 0.
    `seeds` `[l]`, where they are not -1, take the first places.
    """
    levels = jax.random.uniform(key, (k, 1), x.dtype)

    def draw(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        mass, index = carry
        row = rows_at(levels[j], mass, sample_weight)[0]
        same = (x == x[row][None, :]) | (jnp.isnan(x) & jnp.isnan(x[row])[None, :])
        return jnp.where(jnp.all(same, axis=1), 0.0, mass), index.at[j].set(row)

    index = jax.lax.fori_loop(0, k if count is None else count, draw, (sample_weight, jnp.zeros(k, int)))[1]
    return index if seeds is None else jnp.where(_padded(seeds, k) >= 0, _padded(seeds, k), index)


def kmeans_plus_plus(
    key: Array, x: Array, k: int, sample_weight: Array, count: Array | None = None, seeds: Array | None = None
) -> Array:
    """k rows `[k]` far from each other: each the best of 2 + log k drawn in proportion to squared distance.

    With `count` `[]` only so many are drawn, and the others repeat the first. `seeds` `[l]`, where they are not -1, take the
    first places, and the others are drawn far from them.
    """
    n_trials = 2 + int(math.log(k))
    levels, columns = jax.random.uniform(key, (k, n_trials), x.dtype), x.T  # [d, n]
    first = rows_at(levels[0], sample_weight, sample_weight)[0]

    def add(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        index, nearest = carry  # [k], [n] squared distance to the nearest centre so far
        drawn = rows_at(levels[j], sample_weight * nearest, sample_weight)  # [t]
        reached = jnp.minimum(nearest[None, :], _squared_distances(columns, x[drawn]))  # [t, n]
        best = jnp.argmin(jnp.sum(sample_weight[None, :] * reached, axis=1))
        new = index.at[j].set(drawn[best]), reached[best]
        return new if fixed is None else select(fixed[j], carry, new)

    begun, fixed = (jnp.broadcast_to(first, (k,)), _squared_distances(columns, x[first][None, :])[0]), None
    if seeds is not None:
        places = _padded(seeds, k)
        fixed = jnp.where(jnp.any(places >= 0), places >= 0, jnp.arange(k) == 0)
        index = jnp.where(places >= 0, places, begun[0])
        apart = jnp.where(fixed[:, None], _squared_distances(columns, x[index]), jnp.inf)
        begun = index, jnp.min(apart, axis=0)
    return jax.lax.fori_loop(0 if seeds is not None else 1, k if count is None else count, add, begun)[0]


def _padded(seeds: Array, k: int) -> Array:
    return jnp.pad(seeds, (0, k - seeds.shape[0]), constant_values=-1)


def kmeans(
    key: Array, x: Array, k: int, sample_weight: Array, *, n_iter: int = 100, seeds: Array | None = None
) -> tuple[Array, Array]:
    """Lloyd's algorithm from k-means++ centres: centres `[k, d]` and the weight of each cluster `[k]`."""
    return lloyd(x, sample_weight, x[kmeans_plus_plus(key, x, k, sample_weight, seeds=seeds)], n_iter)


def lloyd(x: Array, sample_weight: Array, centres: Array, n_iter: Array | int) -> tuple[Array, Array]:
    """Lloyd's algorithm (1982) from `centres` `[k, d]`: those it ends with and the weight of each cluster `[k]`.

    Stops when no centre moves, or after `n_iter` steps. A cluster that loses all its rows keeps its centre.
    """
    k = centres.shape[0]
    rows = ready(x, sample_weight, centred=False, block=_block(x, k))

    def step(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        centres, _, _, i = carry

        def of_block(block: Array, w: Array, _: Array) -> tuple[Array, Array]:
            diff = block[None] - centres[:, :, None]  # [k, d, b]
            member = _one_hot(jnp.sum(diff**2, axis=1)) * w[None, :]  # [k, b]
            return jnp.sum(member, axis=1), dot("kb,kdb->kd", member, diff)

        counts, moved = sum_blocks(of_block, rows)
        shift = jnp.where(alive(counts)[:, None], moved / positive(counts)[:, None], 0.0)
        return centres + shift, counts, jnp.any(centres + shift != centres), i + 1

    def moving(carry: tuple[Array, Array, Array, Array]) -> Array:
        return carry[2] & (carry[3] < n_iter)

    start = (centres, jnp.zeros(k, x.dtype), jnp.bool_(True), jnp.int32(0))
    centres, counts, _, _ = jax.lax.while_loop(moving, step, start)
    return centres, counts


def _block(x: Array, k: int) -> int:
    """Rows that are worked on at a time, in arrays `[k, d, b]`."""
    return block_size(x.shape, k * x.shape[1], x.dtype)


def _start_from_rows(family: Family, x: Array, sample_weight: Array, ground: Ground, index: Array) -> Mixture:
    """One M-step after each row went to the nearest of the rows `index` `[l]`; all components share a part `SHARE` of it."""
    k, centres = ground.places.size, ground.z[index]
    if k == 1:
        return Mixture(jnp.zeros(1, x.dtype), family.init(x, 1, sample_weight), family)

    def resp_of(z: Array) -> Array:
        member = _one_hot(_squared_distances(z.T, centres))  # [l, b]
        return ground.resp(((1.0 - SHARE) * member + SHARE / index.size).T)

    return m_step_from(family, x, sample_weight, k, lambda _, z: resp_of(z), z=ground.z)


def m_step_from(
    family: Family,
    x: Array,
    sample_weight: Array,
    k: int,
    resp_of: Callable[..., Array],
    *more: Array,
    z: Array | None = None,
) -> Mixture:
    """The M-step of responsibilities `resp_of(x [b, d], z [b, e], ...) -> [b, k]`, twice; z are the rows' coordinates, by
    default x.

    The first is taken about the pooled fit and tells where the means are, the second about those means, so that no
    digit of a small variance is lost to a mean far from the pooled one. Where the M-step gives no density (a constant
    feature), the start is the pooled fit, moved to the mean of each component's rows.
    """
    own_z = z is not None and z is not x

    def weighted_resp(x: Array, w: Array, *of_rows: Array) -> Array:
        resp = resp_of(x, *of_rows) if own_z else resp_of(x, x, *of_rows)
        return possible_resp(family, x, resp) * w[:, None]

    if own_z:
        more = (cast(Array, z), *more)
    block = _block(x, k)
    anchor = x[jnp.argmax(sample_weight > 0)]
    pooled = family.init(x, k, sample_weight)

    def weigh(x: Array, w: Array, *of_rows: Array) -> tuple[Array, Array]:
        x = jnp.where(w[:, None] > 0, x, anchor[None, :])
        resp = weighted_resp(x, w, *of_rows)
        moved = x - anchor[None, :]  # NaN where a value is missing
        return jnp.sum(resp, axis=0), dot("bk,bd->kd", resp, jnp.where(moved == moved, moved, 0.0))

    def look(components: Any) -> tuple[Array, Any]:
        def of_chunk(x: Array, w: Array, *of_rows: Array) -> tuple[Array, Any]:
            # the square of 1e200 is infinite, and 0 times that is NaN
            x = jnp.where(w[:, None] > 0, x, anchor[None, :])
            return family.proxy_stats(components, x, weighted_resp(x, w, *of_rows))

        return sum_chunks(of_chunk, x, sample_weight, *more, size=block)

    found = jax.lax.fori_loop(0, 2, lambda _, components: family.maximise(components, look), pooled)
    rows = jnp.where(sample_weight[:k, None] > 0, x[:k], anchor[None, :])
    log_prob = family.log_prob(found, rows)
    if family.background(k).any() or family.possible(rows, k) is not None:  # some have no density at some rows
        log_prob = jnp.where(family.log_prob(pooled, rows) == -jnp.inf, 0.0, log_prob)
    proper = jnp.all(jnp.isfinite(log_prob))
    size, total = sum_chunks(weigh, x, sample_weight, *more, size=block)
    placed = family.place(pooled, x, anchor[None, :] + total / positive(size)[:, None], sample_weight)
    return Mixture(log_shares(size), select(proper, found, placed), family)


def rows_at(levels: Array, mass: Array, fallback: Array) -> Array:
    """The rows `[t]` at `levels` `[t]`, in [0, 1), of the cumulative `mass` `[n]`, or `fallback` where all mass is zero.

    At uniform levels rows are drawn in proportion to their mass. The cumulative sum is inverted in two steps, first over
    blocks of rows and then within a block.
    """
    n = mass.shape[0]
    b = 2 ** math.ceil(math.log2(n) / 2)
    mass = jnp.where(jnp.sum(mass) > 0, mass, fallback)
    blocks = jnp.pad(mass, (0, -n % b)).reshape(-1, b)
    in_blocks = jnp.sum(blocks, axis=1)
    ends = jnp.cumsum(in_blocks)
    level = levels * ends[-1]
    # rounding may put a level past the last row that has mass
    block = jnp.minimum(jnp.sum(ends[None, :] <= level[:, None], axis=1), _last(in_blocks > 0))
    rest = level - jnp.where(block > 0, ends[block - 1], 0.0)
    place = jnp.sum(jnp.cumsum(blocks[block], axis=1) <= rest[:, None], axis=1)
    return block * b + jnp.minimum(place, jax.vmap(_last)(blocks[block] > 0))


def _last(holds: Array) -> Array:
    """The last place `[]` where `holds` `[n]`."""
    return jnp.max(jnp.where(holds, jnp.arange(holds.shape[0]), 0))


def _squared_distances(columns: Array, centres: Array) -> Array:
    return jnp.sum((columns[None] - centres[:, :, None]) ** 2, axis=1)  # [t, n] of [d, n] and [t, d]


def _one_hot(distances: Array) -> Array:
    return jax.nn.one_hot(jnp.argmin(distances, axis=0), distances.shape[0], axis=0, dtype=distances.dtype)  # [k, b]


@functools.lru_cache
def shapes_of(family: Family, k: int, d: int, dtype: Any) -> Mixture:
    """The shapes and dtypes of a mixture; nothing is computed."""

    def mixture(x: Array) -> Mixture:
        return Mixture(jnp.zeros(k, dtype), family.init(x, k), family)

    def find() -> Mixture:
        return jax.eval_shape(mixture, jax.ShapeDtypeStruct((2, d), dtype))

    return cast(Mixture, kept.fact(["shapes", family, k, d, np.dtype(dtype)], find))
