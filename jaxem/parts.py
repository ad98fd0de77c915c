"""Parts: one pass made by several threads, each over its own blocks of the rows.

Statistics add, so a thread adds up those of its blocks, and the sums of all threads are added in the order of the blocks.
This pays where a pass takes milliseconds; below that the whole loop is one program (loop.py, lanes.py).
"""

import functools
import itertools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.em import pass_over
from jaxem.mixture import Mixture
from jaxem.primitives import is_traced
from jaxem.program import SMALL, Program, is_staging
from jaxem.rows import Frame, Rows, turn_work
from jaxem.stats import Stats
from jaxem.threads import n_threads, run_all

_compiled: set[Any] = set()
"""what the program of a part has been compiled for"""


class Sample(NamedTuple):
    """Blocks that stand for all rows, of rows that lie in a random order."""

    rows: Rows
    n_blocks: int  # the first so many
    frame: Frame
    scale: float  # by which their Stats are multiplied: 1, or as much as makes them weigh what all rows do

    @classmethod
    def of(cls, rows: Rows, size: int, *, whole: bool) -> "Sample":
        """At least `size` rows that count; with `whole` they weigh as much as all rows, as a prior of these wants it."""
        weights = np.asarray(rows.weights)
        counted = np.cumsum(np.count_nonzero(weights, axis=1))
        blocks = min(int(np.searchsorted(counted, size)) + 1, len(counted))
        total = np.sum(weights[:blocks], dtype=np.float64)
        scale = float(np.asarray(rows.frame.total_weight)) / float(total) if whole else 1.0
        n: Any = np.int32(counted[blocks - 1])
        frame = rows.frame._replace(total_weight=(scale * total).astype(weights.dtype), n=n)
        return cls(rows, blocks, jax.tree.map(jax.device_put, frame), scale)

    @property
    def share(self) -> float:
        """The part of all rows that these are."""
        return self.n_blocks / self.rows.blocks.shape[0]

    def copy(self) -> Rows:
        """These rows alone."""
        rows, first = self.rows, slice(self.n_blocks)
        return Rows(rows.blocks[first], rows.weights[first], rows.norms[first], self.frame)


def n_parts(rows: Rows | Sample, k: int, lanes: int = 1) -> int:
    """The parts that passes under so many lanes of mixtures are made in; 1 where the loop had better be one program."""
    rows, blocks, share = (*rows[:2], rows.share) if isinstance(rows, Sample) else (rows, rows.blocks.shape[0], 1.0)
    if jax.default_backend() != "cpu" or rows.mesh is not None or is_traced(rows) or is_staging():
        return 1
    if share * turn_work(rows, k, lanes) <= SMALL or len(rows.blocks.sharding.device_set) > 1:
        return 1
    return min(n_threads(), blocks)


def pass_in_parts(mixture: Mixture, rows: Rows | Sample, parts: int, which: np.ndarray | None = None) -> Stats:
    """The Stats of all rows; the mixture is in their frame.

    Of lanes of mixtures, leaves `[w, ...]`, `which` names those that are looked at; those of the others are zero.
    """
    rows, blocks, scale = rows[:2] + rows[3:] if isinstance(rows, Sample) else (rows, rows.blocks.shape[0], 1.0)
    bounds = [np.int32(i * blocks // parts) for i in range(parts + 1)]
    calls = [functools.partial(_part, mixture, which, rows, first, end) for first, end in itertools.pairwise(bounds)]
    shape = (
        rows.blocks.shape,
        rows.blocks.dtype,
        mixture.family,
        mixture.log_weights.shape,
        None if which is None else len(which),
    )
    made: list[Stats] = [] if shape in _compiled else [calls.pop(0)()]  # else each thread would compile the program
    _compiled.add(shape)
    return _join((*made, *run_all(calls)), which, mixture.log_weights.shape[0], np.asarray(scale, rows.weights.dtype))


def _stats_of_part(mixture: Mixture, which: Any, rows: Rows, first: Any, end: Any) -> Stats:
    look = functools.partial(pass_over, rows=rows, part=(first, end))
    if which is None:
        return look(mixture)
    return jax.vmap(look)(jax.tree.map(lambda leaf: leaf[which], mixture))


def _stats_of_all(parts: tuple[Stats, ...], which: Any, width: int, scale: Array) -> Stats:
    total = jax.tree.map(lambda leaf: scale * leaf, functools.reduce(operator.add, parts))
    if which is None:
        return total
    return jax.tree.map(lambda leaf: jnp.zeros((width, *leaf.shape[1:]), leaf.dtype).at[which].set(leaf), total)


def _work(mixture: Mixture, which: Any, rows: Rows, *_: Any) -> int:
    return turn_work(rows, mixture.n_components, 1 if which is None else len(which))


_part = Program(_stats_of_part, work=_work)
_join = Program(_stats_of_all, (2,))
