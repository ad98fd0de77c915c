"""Processes: one table whose rows lie with several processes, started and joined as JAX's documentation says.

Each process calls `jax.distributed.initialize`, then the same functions with `from_processes` of its own rows. It passes over
these alone; what all passes yield is gathered and added in the order of the processes, so each process gets the same numbers
and takes the same decisions. Rows are numbered through all processes, so starts and samples are those of one process.

What goes wrong in one process is raised in all. If a process ends, the others raise a RuntimeError at their next pass.
"""

import atexit
import functools
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.typing import ArrayLike

from jaxem.rows import is_source
from jaxem.source import Overview, Source, batch_rows
from jaxem.threads import n_threads

T = TypeVar("T")


def from_processes(x: ArrayLike | Source, sample_weight: ArrayLike | None = None) -> Source:
    """A source of the rows of all processes, in the order of the processes.

    Args:
        x: this process's own rows `[n, d]`, or a `Source` of them. `Files` are the same in all processes, and each takes its
            share of the row groups.
        sample_weight: `[n]`, of its own rows, or None.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    if not is_source(x):
        return Processes(Held(np.asarray(x), None if sample_weight is None else np.asarray(sample_weight)))
    if sample_weight is not None:
        raise ValueError(
            "sample_weight was given with a Source, which yields the weights of its rows; give one of the two"
        )
    source: Any = x
    return Processes(source.share(jax.process_index(), jax.process_count()))


class Held(Source):
    """Rows in memory as a source."""

    def __init__(self, x: np.ndarray, sample_weight: np.ndarray | None = None) -> None:
        if x.ndim != 2:
            raise ValueError(f"x has {x.ndim} dimensions (shape {x.shape}); give [n, d]")
        if sample_weight is not None and sample_weight.shape != x.shape[:1]:
            raise ValueError(
                f"sample_weight has shape {sample_weight.shape}; give one weight for each of the {len(x)} rows"
            )
        self.x, self.sample_weight = x, sample_weight

    def __iter__(self) -> Iterator[Any]:
        step = batch_rows(self.x.shape[1])
        for i in range(0, len(self.x), step):
            rows = self.x[i : i + step]
            yield rows if self.sample_weight is None else (rows, self.sample_weight[i : i + step])

    def count(self) -> int:
        """How many rows there are."""
        return len(self.x)

    def place(self, row: int) -> str:
        """The number of a row in x."""
        return f"row {row} of x"


class Processes(Source):
    """The rows of all processes, of which this one passes over its own."""

    is_shared = True

    def __init__(self, own: Source) -> None:
        self.own, self.columns = own, own.columns
        threads = gather(n_threads())
        if len(set(threads)) > 1:  # sums of other parts differ by rounding, and then decisions may
            raise ValueError(f"the processes have {threads} threads; set JAXEM_THREADS to one number in all of them")
        counts = _gather_result(own.count)
        self.first, self.n = sum(counts[: jax.process_index()]), sum(counts)
        self.d = max(_gather_result(lambda: _width(own)))
        self.block = max(_gather_result(lambda: own.block_rows(max(self.d, 1))))

    def __iter__(self) -> Iterator[Any]:
        """The rows of this process."""
        return iter(self.own)

    def place(self, row: int) -> str:
        """Where one of its own rows is to be found."""
        return f"process {jax.process_index()}, {self.own.place(row - self.first)}"

    def overview(self) -> Overview:
        """Moments, sample and dtype of all rows; one pass, made once."""
        self.offer_few(self.n, self.d)
        return super().overview()

    def block_rows(self, d: int) -> int:
        """The most rows that a process works on at a time."""
        return self.block

    def fold(self, of_block: Callable[[int, np.ndarray, np.ndarray | None], T]) -> T:
        """The sum over the blocks of all processes, in their order."""
        mine = functools.partial(_at_number, self.first, of_block)
        found = [one for one in _gather_result(lambda: _fold(self.own, mine)) if one is not None]
        if not found:
            raise ValueError("no process has rows; give at least one")
        total: Any = found[0]
        for one in found[1:]:
            total = total + one
        return cast(T, total)

    def in_memory(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All rows of all processes."""
        parts = [part for part in _gather_result(lambda: _all_rows(self.own)) if part is not None]
        x = np.concatenate([part[0] for part in parts])
        if all(part[1] is None for part in parts):
            return x, None
        return x, np.concatenate([np.ones(len(x)) if w is None else w for x, w in parts])


def gather(own: T) -> list[T]:
    """The values of all processes, in their order; they must pickle."""
    if jax.process_count() == 1:
        return [own]
    content = np.frombuffer(pickle.dumps(own), np.uint8)
    try:
        sizes = np.asarray(multihost_utils.process_allgather(np.asarray([content.size], np.int32))).ravel()
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: content.size] = content
        every = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # Gloo's are ValueErrors
        _leave_at_exit()
        raise RuntimeError(
            f"a process has ended or cannot be reached, so process {jax.process_index()} ends too; begin again, from a "
            "checkpoint if there is one"
        ) from error
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(every, sizes, strict=True)]


@functools.cache
def _leave_at_exit() -> None:
    """End this process without JAX's farewell, which waits for minutes for a process that is gone."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(leave)


def of_first(find: Callable[[], T]) -> T:
    """`find()` of the first process, for all; what it raises there is raised in all."""
    return cast(T, _gather_result(lambda: find() if jax.process_index() == 0 else None)[0])


def _gather_result(find: Callable[[], T]) -> list[T]:
    """`find()` of all processes; what it raises in one is raised in all."""
    mine: Any = None
    error: Exception | None = None
    try:
        mine = find()
    except Exception as raised:
        error = raised
    every = gather((mine, None if error is None else str(error)))
    if error is not None:
        raise error
    for i, (_, text) in enumerate(every):
        if text is not None:
            raise ValueError(f"process {i} failed: {text}")
    return [found for found, _ in every]


def _fold(own: Source, of_block: Any) -> Any:
    """The sum over the blocks of one process; None if it has no rows."""
    return own.fold(of_block) if own.count() else None


def _width(own: Source) -> int:
    """How many columns a source has; 0 if it has no rows."""
    for block in own:
        return int(np.shape(block[0] if isinstance(block, tuple) else block)[1])
    return 0


def _all_rows(own: Source) -> Any:
    return own.in_memory() if own.count() else None


def _at_number(first: int, of_block: Callable[..., T], begin: int, x: np.ndarray, w: np.ndarray | None) -> T:
    return of_block(first + begin, x, w)
