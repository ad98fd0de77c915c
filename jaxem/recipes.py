"""Starts whose kind is data: what a search races, all in one program.

A Recipe draws centres, rows far from each other or random ones, and either places components there, or gives each row to
the nearest centre and makes one M-step. More centres than components cut the data into small cells; the cells of one
component are then chosen at random. Where there are more clusters than components such a start can begin at any grouping
of them (split and merge: Ueda, Nakano, Ghahramani and Hinton 2000).

A recipe can also begin at a mixture and move one cell to one component (a *move*), which may first give its rows to the
others (a *swap*: Zhao, Hautamaki and Fraenti 2012). So a search leaves a local optimum without losing what is right in it.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.families.base import Family
from jaxem.init import SHARE, draw_rows, kmeans_plus_plus, m_step_from, random_rows
from jaxem.mixture import Mixture, log_joint
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
    ) -> Mixture:
        k, most = n_components, max(CELLS * n_components, LEAST_CELLS)
        row_key, centre_key, count_key, cell_key, move_key = jax.random.split(key, 5)
        if x.shape[0] > 2 * MOST_ROWS:
            index = draw_rows(row_key, sample_weight, sample_weight, MOST_ROWS)
            x, sample_weight = x[index], jnp.ones(MOST_ROWS, x.dtype)
        more = jnp.round(jnp.asarray(self.cells) * (most - k)).astype(int)
        n_cells = k + jax.random.randint(count_key, (), 0, more + 1)
        centres = jax.lax.cond(
            self.apart,
            lambda: kmeans_plus_plus(centre_key, x, most, sample_weight, n_cells),
            lambda: random_rows(centre_key, x, sample_weight, most, n_cells),
        )

        def place_components() -> Mixture:
            pooled = family.init(x, k, sample_weight)
            narrow, wide = (family.place(pooled, x, centres[:k], sample_weight, narrow=yes) for yes in (True, False))
            return Mixture(jnp.full(k, -math.log(k), x.dtype), select(jnp.asarray(self.narrow), narrow, wide), family)

        def group_cells() -> Mixture:
            owner = _owners(cell_key, k, most, n_cells)  # [most], the component of each cell
            chosen, component, is_moved, is_swapped = self._draw_move(move_key, n_cells, k, mixture is not None)

            def resp_of(x: Array) -> Array:
                distances = jnp.sum((x.T[None] - centres[:, :, None]) ** 2, axis=1)  # [most, b]
                cell = jnp.argmin(jnp.where(jnp.arange(most)[:, None] < n_cells, distances, jnp.inf), axis=0)
                member = jax.nn.one_hot(owner[cell], k, dtype=x.dtype)
                fresh = (1.0 - SHARE) * member + SHARE / k
                if mixture is None:
                    return fresh
                joint = log_joint(mixture, x)
                joint = jnp.where(is_swapped & (jnp.arange(k) == component)[None, :], -jnp.inf, joint)
                resp = normalise(joint, axis=1)[1]
                moved = jnp.where((cell == chosen)[:, None], jax.nn.one_hot(component, k, dtype=x.dtype)[None, :], resp)
                return jnp.where(is_moved, moved, fresh)

            return m_step_from(family, x, sample_weight, k, resp_of)

        return jax.lax.cond(self.nearest, group_cells, place_components)

    def _draw_move(self, key: Array, n_cells: Array, k: int, possible: bool) -> tuple[Array, Array, Array, Array]:
        """Which cell goes to which component, and whether it does and whether that component loses its rows first."""
        cell_key, component_key, move_key, swap_key = jax.random.split(key, 4)
        moves = possible & (jax.random.uniform(move_key) < self.moved)
        swaps = jax.random.uniform(swap_key) < self.swapped
        cell = jax.random.randint(cell_key, (), 0, n_cells)
        return cell, jax.random.randint(component_key, (), 0, k), moves, swaps


def _owners(key: Array, k: int, most: int, n_cells: Array) -> Array:
    """A random component for each of `most` cells, `[most]`; of the first `n_cells` each component owns one at least."""
    order_key, owner_key = jax.random.split(key)
    index = jnp.arange(most)
    chance = jnp.where(index < n_cells, jax.random.uniform(order_key, (most,)), 2.0)
    place = jnp.argsort(jnp.argsort(chance))  # of each cell in a random order
    return jnp.where(place < k, place, jax.random.randint(owner_key, (most,), 0, k))
