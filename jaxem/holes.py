"""Holes: rows of which some values were not observed, made ready for passes. NaN marks such a value.

A family with `missing=True` takes the likelihood of what was observed; a row without anything adds 0. Centres and
variances are those of the values that were observed in each column.

Matrices want the rows that miss the same columns side by side: what is then known of the missing values depends on the
pattern alone, and is worked out once for a *run* of such rows. Short runs mean many patterns to work out, long ones much
padding; `run_length` weighs the two.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

PATTERN_COST = 16
"""what a pattern costs beside a row, in units of the columns (measured: 128 rows of 8 columns, 2 cores, float64)"""
MAX_RUN = 512
"""the longest run"""
SEGMENT = 2**14
"""rows that are grouped by pattern at a time where they lie in a random order, so that the first are a sample still"""


def check_observed(x: np.ndarray, counts: np.ndarray | None) -> None:
    """A ValueError if a column of `x` `[n, d]` has no value in any row that `counts` `[n]`."""
    seen = ~np.isnan(x)
    empty = np.flatnonzero(~seen.any(axis=0))
    if empty.size:
        raise ValueError(f"column {empty[0]} of x is NaN in all {len(x)} rows; leave it out")
    empty = empty if counts is None else np.flatnonzero(~seen[counts].any(axis=0))
    if empty.size:
        raise ValueError(
            f"column {empty[0]} of x is NaN in all {int(counts.sum())} rows that have a weight; leave the column out or "  # type: ignore[union-attr]
            "weight other rows"
        )


def moments_of_observed(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance `[d]`, in float64, of the observed values of each column of rows `[n, d]` with weights `[n]`."""
    seen = np.where(w[:, None] > 0, ~np.isnan(x), False)
    anchor = x[np.argmax(seen, axis=0), np.arange(x.shape[1])].astype(np.float64)
    mass = np.where(seen, w[:, None], 0.0).astype(np.float64)
    total = np.maximum(mass.sum(axis=0), np.finfo(np.float64).tiny)

    def average(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.sum(np.where(seen, mass * values, 0.0), axis=0) / total)

    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        mean = anchor + average(x - anchor)
        return mean, average((x - mean) ** 2)


def patterns_of(x: np.ndarray) -> np.ndarray:
    """A number for each row of `x` `[n, d]`, the same for rows that miss the same columns; 0 where nothing is missing."""
    missing = np.packbits(np.isnan(x), axis=1)
    if not missing.any():
        return np.zeros(len(x), np.int64)
    one = np.ascontiguousarray(missing).view(np.dtype((np.void, missing.shape[1]))).ravel()
    return np.unique(one, return_inverse=True)[1].reshape(-1)


def run_length(patterns: np.ndarray, n_columns: int, most: int) -> int:
    """Rows in a run, a power of 2 up to `most`, that make a pass over rows of these patterns cheapest."""
    segments = [np.bincount(patterns[begin : begin + SEGMENT]) for begin in range(0, len(patterns), SEGMENT)]
    counts = np.concatenate([found[found > 0] for found in segments])

    def cost(run: int) -> float:
        runs = float(np.sum(-(-counts // run)))
        return runs * (run + PATTERN_COST * n_columns)

    return min((2**i for i in range(int(np.log2(most)) + 1)), key=cost)


def in_runs(patterns: np.ndarray, run: int, segment: int | None = None) -> np.ndarray:
    """Which row `[p]` takes each place so that all rows of a run have one pattern; -1 - i is a copy of row i of weight 0.

    With `segment` rows are moved only within so many.
    """
    size = segment or max(1, len(patterns))
    return np.concatenate(list(_grouped(patterns, run, size)))


def expand(order: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`order` `[n]` of rows at `places` `[p]`, copies as they are marked there."""
    return np.where(places < 0, -1 - order[np.where(places < 0, -1 - places, 0)], order[np.maximum(places, 0)])


def _grouped(patterns: np.ndarray, run: int, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(patterns), size):
        own = patterns[begin : begin + size]
        order = begin + np.argsort(own, kind="stable")
        counts = np.bincount(own)
        counts = counts[counts > 0]
        padded = -(-counts // run) * run
        starts = np.cumsum(padded) - padded
        places = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(len(own))
        first = order[np.cumsum(counts) - counts]
        filled: Any = np.repeat(-1 - first, padded)
        filled[places] = order
        yield filled


def cut_in_runs(
    x: np.ndarray,
    sample_weight: np.ndarray | None,
    moved: np.ndarray,
    block: int,
    bucket: Callable[[int], int],
    *,
    by_pattern: bool,
    mesh: Any,
    dtype: Any,
    order: np.ndarray | None,
) -> tuple[tuple[np.ndarray, ...], tuple[Any, ...], int]:
    """Rows `[n, d]` of which some values are NaN, centred and cut: blocks, weights and norms; centre, variance and total
    weight; and how many rows after each other miss the same.

    `moved` `[d]` says which columns are centred, `bucket` to how many rows some are padded. With `by_pattern` rows that miss
    the same lie together. They are spread over the devices of `mesh`, if there is one.
    """
    n, d = x.shape
    weights = np.ones(n, dtype) if sample_weight is None else np.asarray(sample_weight, dtype)
    counts = weights > 0
    check_observed(x, None if counts.all() else counts)
    mean, variance = moments_of_observed(x, weights)
    centre = np.where(moved, mean, 0.0).astype(dtype).astype(x.dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        x = (x - centre).astype(dtype)
    x[~counts] = np.where(np.isnan(x[~counts]), np.nan, 0.0)  # what they hold beside NaN does not matter
    order, run = np.arange(n) if order is None else order, 1
    if by_pattern:
        patterns = patterns_of(x[order])
        run = run_length(patterns, d, min(block, MAX_RUN))
        block = max(run, block - block % run)
        order = expand(order, in_runs(patterns, run, SEGMENT if n > SEGMENT else None))
    devices, size = 1 if mesh is None else mesh.size, bucket(len(order))
    m = devices * -(-size // (devices * block))
    b = -(-size // (m * run)) * run
    rows, kept = np.zeros((m * b, d), dtype), np.zeros(m * b, dtype)
    rows[: len(order)] = x[np.where(order < 0, -1 - order, order)]
    kept[: len(order)] = np.where(order < 0, 0, weights[np.maximum(order, 0)])
    blocks = np.ascontiguousarray(rows.reshape(m, b, d).transpose(0, 2, 1))
    of_rows = blocks, kept.reshape(m, b), np.zeros((m, b), dtype)
    return of_rows, (centre, variance, np.sum(weights, dtype=np.float64)), run
