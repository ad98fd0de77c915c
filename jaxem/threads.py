"""Threads: work from the host on all cores that this process may use, with nothing to configure.

XLA runs a pass on one core. Programs release Python's lock and run side by side, so parts of the rows, or some of the
restarts, go to a thread each. What is one thread's part depends on the number of threads alone, and results are put
together in the order of the parts: the answer is the same each time, however fast each thread was.

All calls share the threads that there are: a call inside another, or beside one in a thread of the user's, takes those
that are left. Worker processes (of multiprocessing, joblib and the like) have one thread each.
"""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from jaxem.checks import as_count
from jaxem.primitives import cores
from jaxem.program import under_scopes

S = TypeVar("S")
T = TypeVar("T")
VARIABLE = "JAXEM_THREADS"
"""the variable of the environment that says how many threads there are"""
MOST = 1024
"""the most threads that may be asked for"""

_chosen: int | None = None
_pool: concurrent.futures.ThreadPoolExecutor | None = None
_lock = threading.Lock()
_helping = 0


def set_threads(n: int | None) -> None:
    """Use `n` threads on a CPU; with None as many as there are cores, or as JAXEM_THREADS says, which is the default.

    Raises:
        ValueError: if n is below 1.

    Example:
        >>> import jaxem
        >>> jaxem.set_threads(1)
        >>> jaxem.set_threads(None)
    """
    global _chosen
    _chosen = None if n is None else as_count("n", n, most=MOST)


def n_threads() -> int:
    """Threads that a call may use."""
    if _chosen is not None:
        return _chosen
    asked = os.environ.get(VARIABLE, "")
    if asked:
        if not asked.isascii() or not asked.isdigit() or not 1 <= int(asked) <= MOST:
            raise ValueError(f"{VARIABLE} = {asked!r}; give a number from 1 to {MOST}, or leave it unset for all cores")
        return int(asked)
    return cores() if multiprocessing.current_process().name == "MainProcess" else 1


def run_all(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all calls, in their order; threads that are free help the caller.

    If a call raises, no other begins, and that exception is raised here when those under way are over; so is Ctrl-C.
    """
    results: list[Any] = [None] * len(calls)
    following, over = itertools.count(), threading.Event()

    def work() -> None:
        while not over.is_set() and (i := next(following)) < len(calls):
            try:
                results[i] = calls[i]()
            except BaseException:
                over.set()
                raise

    with _helpers(len(calls) - 1) as (pool, count):
        helping = [pool.submit(under_scopes(work)) for _ in range(count)]
        try:
            work()
        finally:
            concurrent.futures.wait(helping)
    for one in helping:
        one.result()
    return results


def fold_all(items: Iterable[S], of_item: Callable[[S], T]) -> T | None:
    """The sum of `of_item` over items, added in their order; None if there are none.

    The caller alone reads the items, ahead of the threads that are free; where these have enough to do, it works too. At most
    two items for each thread wait, and about as many results.
    """
    total: Any = None
    made: collections.deque[concurrent.futures.Future[T]] = collections.deque()

    def add_finished(wait: bool) -> None:
        nonlocal total
        while made and (wait or made[0].done()):
            one = made.popleft().result()
            total = one if total is None else total + one

    with _helpers(MOST) as (pool, count):
        try:
            for item in items:
                add_finished(wait=len(made) > 4 * (count + 1))
                if sum(not one.done() for one in made) < 2 * count:
                    made.append(pool.submit(under_scopes(functools.partial(of_item, item))))
                else:
                    mine: concurrent.futures.Future[T] = concurrent.futures.Future()
                    mine.set_result(of_item(item))
                    made.append(mine)
            add_finished(wait=True)
        finally:
            for one in made:
                one.cancel()
            concurrent.futures.wait(made)
    return total


@contextlib.contextmanager
def _helpers(wanted: int) -> Iterator[tuple[Any, int]]:
    """A pool, and how many of its threads, at most those wanted, are the caller's for a while."""
    global _pool, _helping
    with _lock:
        count = max(0, min(wanted, n_threads() - 1 - _helping))
        _helping += count
        if count and _pool is None:
            _pool = concurrent.futures.ThreadPoolExecutor(MOST, "jaxem")  # a thread begins when it is needed
        pool = _pool
    try:
        yield pool, count
    finally:
        with _lock:
            _helping -= count
