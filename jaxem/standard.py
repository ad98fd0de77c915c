"""Standard: rows on the host with every column scaled to mean 0 and variance 1, for judgements that must not lose a digit.

The columns are first put into the box [-1, 1], so that no square overflows or vanishes whatever their units. All sums are in
float64 and go over chunks of rows.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

CHUNK = 2**20
"""numbers that are worked on at a time"""
SORTED = 2**12
"""rows that are sorted at a time to count those that differ"""


class Standard(NamedTuple):
    """Rows that count; z = (x - centre) / unit has mean 0 and variance 1, or is 0 in a column that is constant."""

    x: np.ndarray  # [n, d]
    w: np.ndarray  # [n], positive
    numbers: np.ndarray  # [n], of these rows where they come from
    centre: np.ndarray  # [d]
    unit: np.ndarray  # [d], 1 where the column is constant
    varies: np.ndarray  # [d] of bool

    def part(self, which: np.ndarray) -> "Standard":
        """Some of the rows, on the same scale."""
        return self._replace(x=self.x[which], w=self.w[which], numbers=self.numbers[which])

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows, a slice at a time, and their z `[b, d]`."""
        n, d = self.x.shape
        step = max(1, CHUNK // d)
        for begin in range(0, n, step):
            rows = slice(begin, min(begin + step, n))
            yield rows, (self.x[rows].astype(np.float64) - self.centre) / self.unit

    def moments(
        self, resp: Callable[[slice, np.ndarray], np.ndarray], k: int, *, matrix: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts `[k]`, means `[k, d]` and variances `[k, d]` (or matrices `[k, d, d]`) of z, in two passes.

        `resp` gives p(j | z) `[b, k]` for a slice of the rows and their z; a component without rows has moments 0.
        """
        d = self.x.shape[1]
        counts, means = np.zeros(k), np.zeros((k, d))
        for rows, z in self.chunks():
            p = resp(rows, z) * self.w[rows, None]
            counts += p.sum(axis=0)
            means += p.T @ z
        share = np.where(counts > 0, counts, 1.0)
        means /= share[:, None]
        second = np.zeros((k, d, d) if matrix else (k, d))
        for rows, z in self.chunks():
            p = resp(rows, z) * self.w[rows, None]
            for j in range(k):
                away = z - means[j]
                second[j] += (p[:, j, None] * away).T @ away if matrix else p[:, j] @ away**2
        return counts, means, second / share.reshape(k, *[1] * (second.ndim - 1))

    def distinct(self, most: int) -> int:
        """How many rows differ, counted up to `most` + 1."""
        rest, found = self.x, 0
        while len(rest):
            new = np.unique(rest[:SORTED], axis=0)
            found += len(new)
            if found > most:
                return most + 1
            for row in new:
                rest = rest[np.any(rest != row, axis=1)]
        return found


def standardise(x: np.ndarray, w: np.ndarray) -> Standard:
    """The rows of `x` `[n, d]` whose weights `w` `[n]` are positive; at least one is."""
    index = np.flatnonzero(w > 0)
    x, w = (x, w) if index.size == len(w) else (x[index], w[index])
    low, high = (np.asarray(leaf, np.float64) for leaf in (x.min(axis=0), x.max(axis=0)))
    half = high / 2 - low / 2  # halves: the difference itself may overflow
    varies = half > 2 * np.finfo(x.dtype).eps * np.maximum(np.abs(low), np.abs(high))
    box = Standard(x, w, index, low / 2 + high / 2, np.where(varies, half, 1.0), varies)
    _, mean, variance = box.moments(lambda rows, z: np.ones((len(z), 1)), 1, matrix=False)
    centre = box.centre + np.where(varies, box.unit * mean[0], 0.0)
    return box._replace(centre=centre, unit=np.where(varies, box.unit * np.sqrt(variance[0]), 1.0))
