"""Starts whose kind is data: what a search races, all in one program.

A Recipe draws centres, rows far from each other or random ones, and either places components there, or gives each row to
the nearest centre and makes one M-step. More centres than components cut the data into small cells; the cells of one
component are then chosen at random. Where there are more clusters than components such a start can begin at any grouping
of them (split and merge: Ueda, Nakano, Ghahramani and Hinton 2000).

A recipe can also begin at a mixture and move one cell to one component (a *move*), which may first give its rows to the
others (a *swap*: Zhao, Hautamaki and Fraenti 2012). So a search leaves a local optimum without losing what is right in it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.families.base import Family
from jaxem.init import SHARE, Ground, in_background, kmeans_plus_plus, m_step_from, random_rows, rows_at
from jaxem.mixture import Mixture
from jaxem.pointwise import log_joint
from jaxem.primitives import normalise, select

CELLS, LEAST_CELLS = 4, 8
"""cells for each component, at most, and in all, at least"""
MOST_ROWS = 2**12
"""rows that a start is made from where there are more than twice as many: a sample is drawn"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recipe:
    """A start by numbers, so that all arms of a search share one program.

    Attributes:
        apart: whether the centres are rows of greedy k-means++, far from each other; else they are random rows.
        nearest: whether each row goes to the nearest centre and one M-step is made; else all components have equal weights.
        narrow: where no M-step is made, whether components have the spread of one of k clusters side by side; else they
            have that of all the data.
        cells: where an M-step is made, the part of the cells that there may be beyond one for each component; their number
            is drawn up to it.
        moved: the chance that the start is `mixture` with one cell moved.
        swapped: the chance that the component which gets that cell first loses its rows to the others.
    """

    apart: Array | bool = True
    nearest: Array | bool = True
    narrow: Array | bool = False
    cells: Array | float = 0.0
    moved: Array | float = 0.0
    swapped: Array | float = 0.0

    def __call__(
        self,
        key: Array,
        family: Family,
        x: Array,
        n_components: int,
        sample_weight: Array,
        mixture: Mixture | None = None,
        count: Array | int | None = None,
    ) -> Mixture:
        """A start of `n_components` components, of which the first `count`, by default all, have weight."""
        k, n_behind = n_components, int(in_background(family, n_components).sum())
        most = max(CELLS * (k - n_behind), LEAST_CELLS)
        count = jnp.asarray(k if count is None else count)
        present, count = jnp.arange(k) < count, count - n_behind  # the latter of those that get rows of their own
        row_key, centre_key, number_key = jax.random.split(key, 3)
        # every random number but those of rows: many small draws would make most of the program
        numbers = jax.random.uniform(number_key, (5 + 2 * most,), x.dtype)
        x, sample_weight = _drawn(row_key, family, x, sample_weight, count)
        more = jnp.round(jnp.asarray(self.cells) * (jnp.maximum(CELLS * count, LEAST_CELLS) - count)).astype(int)
        n_cells = count + whole(numbers[0], more + 1)
        ground = Ground.of(centre_key, family, x, k, sample_weight)
        z, seeds, located = ground.z, ground.seeds, ground.located.size
        index = jax.lax.cond(
            self.apart,
            lambda: kmeans_plus_plus(centre_key, z, most, sample_weight, n_cells, seeds),
            lambda: random_rows(centre_key, x, sample_weight, most, n_cells, seeds),
        )

        def place_components() -> Mixture:
            pooled = family.init(x, k, sample_weight)
            centres = x[index[ground.places]]
            narrow, wide = (family.place(pooled, x, centres, sample_weight, narrow=among) for among in (count, 0))
            log_weights = ground.log_weights(jnp.where(present[:located], -jnp.log(count.astype(x.dtype)), -jnp.inf))
            return Mixture(log_weights, select(jnp.asarray(self.narrow), narrow, wide), family)

        def group_cells() -> Mixture:
            centres = z[index]
            owner = _owners(numbers[5 : 5 + most], numbers[5 + most :], count, n_cells, seeds)  # [most], of each cell
            chosen, component = whole(numbers[1], n_cells), whole(numbers[2], count)  # of a move
            component = jnp.asarray(ground.located)[component]
            is_moved = (mixture is not None) & (numbers[3] < self.moved)
            is_swapped = numbers[4] < self.swapped

            def resp_of(x: Array, z: Array) -> Array:
                distances = jnp.sum((z.T[None] - centres[:, :, None]) ** 2, axis=1)  # [most, b]
                cell = jnp.argmin(jnp.where(jnp.arange(most)[:, None] < n_cells, distances, jnp.inf), axis=0)
                member = jax.nn.one_hot(owner[cell], located, dtype=x.dtype)
                even = jnp.where(present[:located], SHARE / count.astype(x.dtype), 0.0)
                fresh = ground.resp((1.0 - SHARE) * member + even[None, :])
                if mixture is None:
                    return fresh
                moved = _move_resp(mixture, x, cell == chosen, component, is_swapped)
                return jnp.where(is_moved, moved, fresh)

            return m_step_from(family, x, sample_weight, k, resp_of, z=z)

        return jax.lax.cond(self.nearest, group_cells, place_components)


def _drawn(key: Array, family: Family, x: Array, sample_weight: Array, count: Array) -> tuple[Array, Array]:
    """The rows that a start is made from, a sample of many, and their weights.

    Where values are missing one component may have several optima: then the weights differ from start to start.
    """
    if x.shape[0] > 2 * MOST_ROWS:
        levels = jax.random.uniform(key, (MOST_ROWS,), x.dtype)
        x, sample_weight = x[rows_at(levels, sample_weight, sample_weight)], jnp.ones(MOST_ROWS, x.dtype)
    if family.holes is not False:
        jolts = jax.random.exponential(jax.random.fold_in(key, 1), sample_weight.shape, x.dtype)
        sample_weight = jnp.where(count == 1, jolts * sample_weight, sample_weight)
    return x, sample_weight


def _move_resp(mixture: Mixture, x: Array, chosen: Array, component: Array, is_swapped: Array) -> Array:
    """Responsibilities `[b, k]` of a mixture after the `chosen` rows `[b]` went to a component, which perhaps lost its own."""
    joint = log_joint(mixture, x)
    own = jnp.arange(joint.shape[1]) == component
    resp = normalise(jnp.where(is_swapped & own[None, :], -jnp.inf, joint), axis=1)[1]
    return jnp.where(chosen[:, None], own.astype(x.dtype)[None, :], resp)


def whole(number: Array, below: Array) -> Array:
    """A whole number `[...]` from 0, drawn evenly below `below`, from one that is uniform in [0, 1)."""
    return jnp.minimum((number * below).astype(int), below - 1)


def _owners(order: Array, draws: Array, k: Array, n_cells: Array, seeds: Array | None) -> Array:
    """A random component for each cell, `[c]`; of the first `n_cells` each component owns one at least.

    `order` and `draws` are uniform in [0, 1), `[c]` each. With `seeds` component j owns cell j.
    """
    index = jnp.arange(order.shape[0])
    chance = jnp.where(index < n_cells, order, 2.0)
    sooner = chance[None, :] < chance[:, None]
    sooner |= (chance[None, :] == chance[:, None]) & (index[None, :] < index[:, None])
    place = jnp.sum(sooner, axis=1) if seeds is None else index  # of each cell in a random order
    return jnp.where(place < k, place, whole(draws, k))
