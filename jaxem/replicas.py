"""Replicas: data sets that differ in their weights, or in their rows too, for climbs that run in the lanes of one queue.

A bootstrap refits one mixture to many data sets of one shape. What they share is kept once: the frame, and the rows if only
weights differ. Replica i depends on (key, i) alone.

    weighted      w_i times a Gamma(w_i) / w_i, scaled to the sum of the weights: Dirichlet weights     (Newton and Raftery 1994)
    multinomial   how often each row is drawn, with replacement                                               (Efron 1979)
    parametric    rows drawn from the mixture                                                            (McLachlan 1987)
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.mixture import Mixture
from jaxem.program import Program
from jaxem.rows import Frame, Rows, as_rows

KINDS = ("weighted", "multinomial", "parametric")
MOST_NUMBERS = 2**24
"""numbers that the replicas of one call hold, about"""
MOST_DRAWS = 2**26
"""rows that one replica draws, at most"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replicas:
    """Rows, and what each of g replicas has instead.

    Attributes:
        rows: `Rows` whose frame all replicas share.
        own: by name the leaves of Rows that differ, `[g, ...]`.
        of_climb: `[r]` of int, the replica that each climb runs on.
    """

    rows: Rows
    own: dict[str, Array]
    of_climb: Array

    @property
    def frame(self) -> Frame:
        """Where all replicas lie."""
        return self.rows.frame

    @property
    def mesh(self) -> None:
        """No devices to be spread over."""
        return None

    def of(self, climbs: np.ndarray) -> "Replicas":
        """The same replicas for some of the climbs, in their order."""
        return dataclasses.replace(self, of_climb=np.asarray(self.of_climb)[climbs])


def lanes_of(rows: Rows | Replicas, climb: Array) -> tuple[Rows, dict[str, Array]]:
    """The rows that lanes with these climbs `[w]` share, and the leaves that each lane has of its own, `[w, ...]`."""
    if isinstance(rows, Rows):
        return rows, {}
    replica = rows.of_climb[jnp.minimum(climb, rows.of_climb.shape[0] - 1)]
    return rows.rows, jax.tree.map(lambda leaf: leaf[replica], rows.own)


def replicas_at_once(rows: Rows, kind: str) -> int:
    """How many replicas fit in memory."""
    size = rows.blocks.size if kind == "parametric" else rows.weights.size
    return max(1, MOST_NUMBERS // size)


def replicas_of(key: Array, index: np.ndarray, rows: Rows, kind: str, mixture: Mixture) -> Replicas:
    """Replicas of number `index` `[g]`, one for each climb; the mixture lies where the data lie."""
    own = _draw(key, index, rows, mixture, kind, 0 if kind == "weighted" else _whole_rows(rows, kind))
    of_climb: Any = np.arange(len(index))
    return Replicas(rows, own, of_climb)


def one_by_one(rows: Rows, mixture: Mixture, k: int, chunk_size: int | None = None) -> Rows:
    """The same rows with a place for each that whole weights count: drawn rows need places of their own."""
    matrix, weights = (np.asarray(leaf) for leaf in rows.as_matrix())
    _whole_rows(rows, "parametric")
    if (weights <= 1).all():
        return rows
    x = np.repeat(matrix + np.asarray(rows.frame.centre), weights.astype(np.int64), axis=0)
    return as_rows(mixture.family, x, None, k, like=mixture, chunk_size=chunk_size)


def _whole_rows(rows: Rows, kind: str) -> int:
    """How many rows to draw: what the weights, which must be whole, add up to."""
    weights = np.asarray(rows.weights, np.float64)
    if (weights != np.round(weights)).any():
        raise ValueError(
            f'sample_weight holds parts of rows, and kind = "{kind}" draws whole ones; use kind="weighted"'
        )
    n = round(float(weights.sum()))
    if n > MOST_DRAWS:
        raise ValueError(f'sample_weight counts {n:.3g} rows, too many to draw; use kind="weighted"')
    return n


def _drawn(key: Array, index: Array, rows: Rows, mixture: Mixture, kind: str, n: int) -> dict[str, Array]:
    one = {"weighted": _weighted, "multinomial": _multinomial, "parametric": _parametric}[kind]
    return jax.lax.map(lambda i: one(jax.random.fold_in(key, i), rows, mixture, n), index)


def _weighted(key: Array, rows: Rows, mixture: Mixture, n: int) -> dict[str, Array]:
    del mixture, n
    weights = rows.weights

    def gamma() -> Array:
        return jnp.exp(jax.random.loggamma(key, jnp.where(weights > 0, weights, 1.0), dtype=weights.dtype))

    # a Gamma(1) is exponential, which costs a twentieth
    ones = jnp.all((weights == 0) | (weights == 1))
    drawn = jax.lax.cond(ones, lambda: jax.random.exponential(key, weights.shape, weights.dtype), gamma)
    drawn = jnp.where(weights > 0, drawn, 0.0)
    return {"weights": drawn * (rows.frame.total_weight / jnp.sum(drawn))}


def _multinomial(key: Array, rows: Rows, mixture: Mixture, n: int) -> dict[str, Array]:
    del mixture
    weights = rows.weights.ravel()
    # whole numbers: float32 would not reach every one of many rows
    drawn = jax.random.randint(key, (n,), 0, n, jnp.int32)
    place = jnp.searchsorted(jnp.cumsum(weights.astype(jnp.int32)), drawn, side="right")
    counts = jnp.zeros(weights.size, weights.dtype).at[place].add(1.0)
    return {"weights": counts.reshape(rows.weights.shape)}


def _parametric(key: Array, rows: Rows, mixture: Mixture, n: int) -> dict[str, Array]:
    """As many rows as there are places for, of which the first n count. Rows are drawn where the data lie.

    Where the data give columns, or miss values, so do the rows drawn in their places.
    """
    family, (m, d, b) = mixture.family, rows.blocks.shape
    label_key, row_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, mixture.log_weights, shape=(m * b,))
    given = rows.as_matrix()[0][:, : family.n_given] + rows.frame.centre[None, : family.n_given]
    drawn = family.complete(row_key, mixture.components, labels, given)
    x = jnp.concatenate([given, drawn], axis=1) - rows.frame.centre[None, :]
    if family.holes is not False:
        x = jnp.where(jnp.isnan(rows.as_matrix()[0]), jnp.nan, x)
    counts = (rows.weights > 0).ravel() if family.n_given or family.holes else jnp.arange(m * b) < n
    n_counted = jnp.sum(counts)
    weights = jnp.where(counts, rows.frame.total_weight / n_counted, 0.0).astype(x.dtype)
    return {
        "blocks": x.reshape(m, b, d).transpose(0, 2, 1),
        "weights": weights.reshape(m, b),
        "norms": jnp.sum(x**2, axis=1).reshape(m, b),
    }


_draw = Program(_drawn, (4, 5), work=lambda key, index, rows, *_: rows.blocks.size)
