"""Parts: one pass that the host drives: over rows in memory by several threads, over a sample of them, or over a Stream.

Statistics add, so a thread adds up those of its blocks, and the sums of all threads are added in the order of the blocks.
This pays where a pass takes milliseconds; below that the whole loop is one program (loop.py, lanes.py). A Stream is always
passed over in this way.
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
from jaxem.rows import Frame, Rows, bucket, turn_work
from jaxem.source import Stream
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
    share: float  # the part of all rows that these are

    @classmethod
    def of(cls, every: Rows | Stream, size: int, *, whole: bool) -> "Sample":
        """At least `size` rows that count, if there are so many in memory; with `whole` they weigh as much as all rows, as a
        prior of these wants it."""
        rows = every.sampled if isinstance(every, Stream) else every
        weights = np.asarray(rows.weights)
        counted = np.cumsum(np.count_nonzero(weights, axis=1))
        blocks = min(int(np.searchsorted(counted, size)) + 1, len(counted))
        total = np.sum(weights[:blocks], dtype=np.float64)
        scale = float(np.asarray(every.frame.total_weight)) / float(total) if whole else 1.0
        n: Any = np.int32(counted[blocks - 1])
        all_rows = bucket(every.n_rows) if isinstance(every, Stream) else rows.weights.size
        share = blocks * rows.weights.shape[1] / all_rows
        frame = every.frame._replace(total_weight=(scale * total).astype(weights.dtype), n=n)
        return cls(rows, blocks, jax.tree.map(jax.device_put, frame), scale, share)

    @property
    def size(self) -> int:
        """Numbers in these rows."""
        return int(self.rows.size * self.n_blocks / self.rows.blocks.shape[0])

    def copy(self) -> Rows:
        """These rows alone."""
        rows, first = self.rows, slice(self.n_blocks)
        leaves = rows.blocks[first], rows.weights[first], rows.norms[first]
        return Rows(*leaves, self.frame, run=rows.run)


Passed = Rows | Sample | Stream
"""what the host can drive passes over"""


def n_parts(rows: Rows | Sample, k: int, lanes: int = 1) -> int:
    """The parts that passes under so many lanes of mixtures are made in; 1 where the loop had better be one program."""
    whole, blocks = rows[:2] if isinstance(rows, Sample) else (rows, rows.blocks.shape[0])
    if jax.default_backend() != "cpu" or whole.mesh is not None or is_traced(whole) or is_staging():
        return 1
    if turn_work(rows, k, lanes) <= SMALL or len(whole.blocks.sharding.device_set) > 1:
        return 1
    return min(n_threads(), blocks)


def is_by_parts(rows: Passed, k: int, lanes: int = 1) -> bool:
    """Whether the host drives passes under so many lanes of mixtures."""
    return not isinstance(rows, Rows) or n_parts(rows, k, lanes) > 1


def pass_in_parts(mixture: Mixture, rows: Passed, which: np.ndarray | None = None) -> Stats:
    """The Stats of all rows; the mixture is in their frame.

    Of lanes of mixtures, leaves `[w, ...]`, `which` names those that are looked at; those of the others are zero.
    """
    width = mixture.log_weights.shape[0]
    if isinstance(rows, Stream):
        stats = rows.sum(_stats_of_block, mixture, which)
        return _join((stats,), which, width, np.asarray(1, rows.dtype))
    parts = n_parts(rows, mixture.n_components, 1 if which is None else len(which))
    rows, blocks, scale = rows[:2] + rows[3:4] if isinstance(rows, Sample) else (rows, rows.blocks.shape[0], 1.0)
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
    return _join((*made, *run_all(calls)), which, width, np.asarray(scale, rows.weights.dtype))


def _stats_of_block(mixture: Mixture, which: Any, rows: Rows) -> Stats:
    return _part(mixture, which, rows, np.int32(0), np.int32(rows.blocks.shape[0]))


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
