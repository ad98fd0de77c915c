"""Deconvolved: Gaussian components of a truth that was measured with noise of known covariance.

A row is x_i = v_i + e_i with the truth v_i ~ N(m_j, V_j) in component j and the noise e_i ~ N(0, S_i), where S_i is known and
may differ from row to row. With T = V_j + S_i (Bovy, Hogg and Roweis 2011):

    log p(x_i | j) = log N(x_i; m_j, T),
    given x_i the truth is N(b_ij, B_ij),   b_ij = m_j + V_j inv(T) (x_i - m_j),   B_ij = V_j - V_j inv(T) V_j,
    m_j = sum_i q_ij b_ij / N_j,            V_j = sum_i q_ij [(b_ij - m_j)(b_ij - m_j)' + B_ij] / N_j.

The mixture is that of the truth. Statistics are moments of b about the current means, as those of Full are of x; with
u = inv(T) (x - m) they need only sums of u and of u u' - inv(T):

    first = V sum q u,    second = N V + V [sum q (u u' - inv(T))] V.

A value that was not observed has noise of infinite variance. It is left out exactly: with D the diagonal matrix of ones where a
value was observed, T becomes D T D + I - D and inv(T) becomes D inv(D T D + I - D) D.

`with_noise` puts values and noise into rows `[n, c]`, c = d (d + 3) / 2: d values, then the lower triangle of S_i by rows. A
value that was not observed has variance -1 and covariances 0 there, and any finite value.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.families.base import Family
from jaxem.families.gaussian import GaussianParams, GaussianStats
from jaxem.families.matrices import Full
from jaxem.linalg import SINGULAR, cholesky_factors
from jaxem.observed import LOG_2PI
from jaxem.primitives import dot, epsilon, is_traced, normalise, weighted_sum
from jaxem.priors import NormalInverseWishart
from jaxem.stats import Stats

UNSEEN = -1.0
"""variance, in a row, of the noise of a value that was not observed"""
FEW_VALUES = 6
"""values up to which the covariances of rows are factored by a loop in Python, with the rows as the last axis: 1.2 to 3 times
faster there (2 cores, float64)"""
SLACK = 1e-6
"""how far noise may be from symmetric and positive semidefinite, relative to its variances"""
FULL = Full()


class Prepared(NamedTuple):
    """What a pass works out once."""

    means: Array  # [k, d]
    covariances: Array  # [k, d, d]
    log_weights: Array | float  # [k]


class Seen(NamedTuple):
    """What a block of rows tells under each component."""

    log_prob: Array  # [k, b]
    pull: Array  # u = inv(T) (x - m), [k, d, b]
    whitener: Array  # inv(L) D, where L L' = T, [k, d, d, b]; inv(T) is whitener' whitener


def leading(n_columns: int) -> tuple[int, ...]:
    """The columns of a row that hold values."""
    return tuple(range(count_values(n_columns)))


def count_values(n_columns: int) -> int:
    """d of a row of d (d + 3) / 2 columns; a ValueError if there is no such d."""
    d = (math.isqrt(9 + 8 * n_columns) - 3) // 2
    if d < 1 or d * (d + 3) // 2 != n_columns:
        raise ValueError(f"x {_no_width(n_columns)}")
    return d


@dataclasses.dataclass(frozen=True, repr=False)
class Deconvolved(Full):
    """N(v; m_j, V_j) of a truth v behind noise of known covariance: rows come from `jaxem.with_noise(x, noise)`.

    Means `[k, d]` and covariances `[k, d, d]` are those of the truth; `log_prob` and `responsibilities` are those of noisy
    rows, and `mixture.denoise(rows)` gives the means of the truth given the rows. `mixture.marginal((0, 1, ...))` is the
    mixture of the truth, of `Full` components. `sample` draws the truth, as rows without noise. A prior speaks of the truth.
    (Bovy, Hogg and Roweis 2011)
    """

    missing: bool = dataclasses.field(default=False, init=False, repr=False)  # noise of infinite variance says it

    @property
    def location(self) -> Callable[[int], tuple[int, ...]]:  # type: ignore[override]
        """The values move; the noise does not."""
        return leading

    # -- rows ----------------------------------------------------------------------------------------------------------

    def log_prob(self, params: GaussianParams, x: Array) -> Array:
        return _look(self.prepare(params), x.T).log_prob.T

    def suff_stats(self, params: GaussianParams, x: Array, resp: Array) -> GaussianStats:
        prepared = self.prepare(params)
        return _stats(prepared, _look(prepared, x.T), resp.T)

    def prepare(self, params: GaussianParams, log_weights: Array | None = None) -> Any:
        return Prepared(params.means, params.covariances, 0.0 if log_weights is None else log_weights)

    def block_stats(self, prepared: Any, x: Array, w: Array, norms: Array) -> Stats:
        del norms
        seen = _look(prepared, x)
        log_joint = seen.log_prob + jnp.reshape(prepared.log_weights, (-1, 1))
        log_prob, resp = normalise(log_joint, axis=0)
        resp = resp * w[None, :]  # [k, b]
        return Stats(weighted_sum(w, log_prob), jnp.sum(resp, axis=1), _stats(prepared, seen, resp))

    def bound(self, new: GaussianParams, old: GaussianParams, x: Array) -> Array:
        # log p(x; old) + E log N(truth; new) - E log N(truth; old), the expectations under old, given x
        seen = _look(self.prepare(old), x.T)
        moved = dot("kij,kjb->kib", old.covariances, seen.pull)  # b - m
        rooted = dot("kabn,kbc->kacn", seen.whitener, old.covariances)  # V - rooted' rooted = B
        left = old.covariances[..., None] - dot("kabn,kacn->kbcn", rooted, rooted)

        def expected(params: GaussianParams) -> Array:
            precisions = self.precisions(params.covariances)
            away = moved + (old.means - params.means)[:, :, None]
            squares = jnp.sum(dot("kij,kjb->kib", precisions, away) ** 2, axis=1)
            spread = dot("kab,kbcn,kac->kn", precisions, left, precisions)
            volumes = self.log_det(params.covariances, precisions, params.means.shape[1])
            return -0.5 * (volumes[:, None] + squares + spread)

        return (seen.log_prob + expected(new) - expected(old)).T

    def denoise(self, params: GaussianParams, x: Array, resp: Array) -> Array:
        seen = _look(self.prepare(params), x.T)
        truths = params.means[:, :, None] + dot("kij,kjb->kib", params.covariances, seen.pull)
        return dot("bk,kib->bi", resp, truths)

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> GaussianParams:
        values, shares = _filled(x, sample_weight)
        pooled = super().init(values, n_components, sample_weight)
        # a filled value has no spread
        scale = jax.lax.rsqrt(jnp.where(shares > 0, shares, 1.0))
        return pooled._replace(covariances=pooled.covariances * (scale[:, None] * scale[None, :])[None])

    def coordinates(self, x: Array, sample_weight: Array) -> Array:
        """The values `[n, d]`, with means in place of those that were not observed."""
        return _filled(x, sample_weight)[0]

    def place(self, params: Any, x: Array, centres: Array, sample_weight: Any = None, *, narrow: Any = 0) -> Any:
        values, noise = _parts(centres.T)
        seen = jnp.diagonal(noise).T >= 0  # [d, k]
        return super().place(params, x, jnp.where(seen, values, params.means.T).T, sample_weight, narrow=narrow)

    def sample(self, key: Array, params: GaussianParams, labels: Array) -> Array:
        """Rows `[n, c]` of the truth, their noise 0; `with_noise` can give the values `[:, :d]` another."""
        truths = super().sample(key, params, labels)
        return jnp.pad(truths, ((0, 0), (0, self.n_features(params) - truths.shape[1])))

    def n_features(self, params: GaussianParams) -> int:
        d = params.means.shape[-1]
        return d * (d + 3) // 2

    def row_floats(self, n_components: int, n_features: int) -> int:
        return n_components * count_values(n_features) ** 2

    def complaint(self, x: Any, n_components: int) -> str | None:
        del n_components
        try:
            d = count_values(x.shape[1])
        except ValueError:
            return _no_width(x.shape[1])
        xp: Any = np if isinstance(x, np.ndarray) else jnp  # what is on a device stays there
        rows, columns = np.tril_indices(d)
        noise, values = x[:, d:], rows == columns
        variances = noise[:, values]
        wrong = (variances < 0) & (variances != UNSEEN)
        if bool(wrong.any()):
            i, j = np.argwhere(np.asarray(wrong))[0]
            return (
                f"has noise of variance {variances[i, j]:g} for x[{i}, {j}]; give rows from jaxem.with_noise(x, noise)"
            )
        deviations = xp.sqrt(xp.maximum(variances, 0.0))
        most = deviations[:, rows[~values]] * deviations[:, columns[~values]] * (1 + SLACK)
        beyond = (xp.abs(noise[:, ~values]) > most).any(axis=1)
        if bool(beyond.any()):
            row = np.flatnonzero(np.asarray(beyond))[0]
            return (
                f"has noise in row {row} that is not positive semidefinite; give rows from jaxem.with_noise(x, noise)"
            )
        return None

    def objection(self, x: Any) -> str | None:
        d = count_values(x.shape[1])
        variances = np.asarray(x)[:, d:][:, np.equal(*np.tril_indices(d))]
        never = np.flatnonzero(np.all(variances < 0, axis=0))
        if never.size:
            return (
                f"column {never[0]} of x is never observed: its noise has infinite variance in all rows; leave it out"
            )
        return None

    # -- the truth -----------------------------------------------------------------------------------------------------

    def shift(self, params: GaussianParams, offset: Array) -> GaussianParams:
        return super().shift(params, offset[: params.means.shape[1]])

    def degenerate(self, params: GaussianParams, counts: Array, variance: Array) -> Array:
        return super().degenerate(params, counts, variance[: params.means.shape[1]])

    def log_prior(self, params: GaussianParams, prior: NormalInverseWishart) -> Array:
        return super().log_prior(params, _of_values(prior, params))

    def imagined(
        self, params: GaussianParams, stats: GaussianStats, prior: NormalInverseWishart, still: Any = None
    ) -> GaussianStats:
        return super().imagined(params, stats, _of_values(prior, params), still)

    def is_bounded(self, params: GaussianParams, prior: NormalInverseWishart, variance: Array) -> Array:
        return super().is_bounded(params, _of_values(prior, params), variance[: params.means.shape[1]])

    def marginal(self, params: GaussianParams, columns: np.ndarray) -> tuple[Family, GaussianParams]:
        """The truth in some columns: components of `Full`."""
        d = params.means.shape[1]
        if np.any(columns >= d):
            raise ValueError(f"columns holds {columns.max()}, and the truth has the columns 0 to {d - 1}; give these")
        return FULL.marginal(params, columns)

    def conditional(
        self, params: GaussianParams, columns: np.ndarray, values: Array, others: np.ndarray
    ) -> tuple[Family, GaussianParams, Array]:
        """The truth in the other columns where the truth in some has `values`: components of `Full`."""
        self.marginal(params, columns)
        others = others[others < params.means.shape[1]]
        if not others.size:
            raise ValueError("columns names all columns of the truth; leave at least one whose density is wanted")
        return FULL.conditional(params, columns, values, others)


def with_noise(x: ArrayLike, noise: ArrayLike) -> Any:
    """Values and the known covariance of their noise, as rows `[n, d (d + 3) / 2]` for `Deconvolved`.

    A row holds its d values and then the lower triangle of its noise's covariance. Arrays of numpy give one of numpy, those of
    JAX one of JAX; it works in jit, where values are not checked.

    Args:
        x: `[n, d]`, the values as they were measured.
        noise: variances `[n, d]`, or `[d]` for all rows; covariances `[n, d, d]`, or `[d, d]` for all rows. Variances have the
            units of x squared; 0 is a value without noise. A value of infinite variance was not observed and may be NaN.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.

    Example:
        >>> import numpy as np, jaxem
        >>> jaxem.with_noise(np.array([[1.0, 2.0]]), np.array([[0.5, 0.1]]))
        array([[1. , 2. , 0.5, 0. , 0.1]])
    """
    values, covariances = _as_arrays(x, noise)
    n, d = values.shape
    traced, xp = is_traced(values, covariances), np if isinstance(values, np.ndarray) else jnp
    diagonal, nothing = np.eye(d, dtype=bool)[None], xp.zeros((), covariances.dtype)
    if covariances.ndim == 2:  # variances
        covariances = xp.where(diagonal, covariances[:, :, None], nothing)
    covariances = xp.broadcast_to(covariances, (n, d, d))
    seen = xp.diagonal(covariances, axis1=1, axis2=2) != np.inf  # [n, d]
    covariances = xp.where(seen[:, :, None] & seen[:, None, :], covariances, nothing)
    if not traced:
        _check_values(np.asarray(values), np.asarray(seen))
        _check_noise(np.asarray(covariances))
    # the column's mean stands where a value was not observed, so that a place and a spread are those of what was
    zero = xp.zeros((), values.dtype)
    known = xp.where(seen, values, zero)
    counts = xp.maximum(xp.sum(seen, axis=0), 1).astype(values.dtype)
    first = xp.take_along_axis(known, xp.argmax(seen, axis=0)[None, :], axis=0)  # differences from it keep digits
    means = first + (xp.sum(xp.where(seen, known - first, zero), axis=0) / counts)[None, :]
    marked = xp.where(diagonal & ~seen[:, :, None], xp.asarray(UNSEEN, covariances.dtype), covariances)
    rows, columns = np.tril_indices(d)
    triangle = marked[:, rows, columns].astype(values.dtype)
    return xp.concatenate([xp.where(seen, known, means), triangle], axis=1)


# -- steps ---------------------------------------------------------------------------------------------------------------


def _parts(x: Array) -> tuple[Array, Array]:
    """Values `[d, b]` and covariances of noise `[d, d, b]` of columns `x` `[c, b]`."""
    d = count_values(x.shape[0])
    rows, columns = np.tril_indices(d)
    index = np.zeros((d, d), int)
    index[rows, columns] = index[columns, rows] = d + np.arange(rows.size)
    return x[:d], x[index]


def _look(prepared: Prepared, x: Array) -> Seen:
    """The block of rows `x` `[c, b]` under each component."""
    values, noise = _parts(x)
    d = values.shape[0]
    if prepared.means.shape[1] != d:
        raise ValueError(f"x has {x.shape[0]} columns, for {d} values, and the mixture {prepared.means.shape[1]}")
    seen = noise[np.arange(d), np.arange(d)] >= 0  # [d, b]
    both = (seen[:, None] & seen[None, :])[None]
    identity = jnp.eye(d, dtype=x.dtype)[None, :, :, None]
    total = jnp.where(both, prepared.covariances[..., None] + noise[None], identity)  # [k, d, d, b]
    away = jnp.where(seen[None], values[None] - prepared.means[..., None], 0.0)  # [k, d, b]
    inverse = _whiten(total)
    white = jnp.sum(inverse * away[:, None], axis=2)
    own = inverse[:, np.arange(d), np.arange(d)]  # [k, d, b], of deviations given the values before
    proper = jnp.all(own**2 * total[:, np.arange(d), np.arange(d)] * SINGULAR * epsilon(x.dtype) < 1.0, axis=1)
    constants = jnp.sum(jnp.log(own), axis=1) - 0.5 * LOG_2PI * jnp.sum(seen, axis=0)[None].astype(x.dtype)
    log_prob = jnp.where(proper, constants - 0.5 * jnp.sum(white**2, axis=1), jnp.nan)
    whitener = jnp.where(seen[None, None], inverse, 0.0)
    return Seen(log_prob, jnp.sum(whitener * white[:, :, None], axis=1), whitener)


def _whiten(matrices: Array) -> Array:
    """inv(L) of matrices L L' `[k, d, d, b]`; NaN where they are not positive definite."""
    d = matrices.shape[1]
    if d > FEW_VALUES or jax.default_backend() != "cpu":
        return jnp.moveaxis(cholesky_factors(jnp.moveaxis(matrices, 3, 1))[1], 1, 3)
    identity = jnp.broadcast_to(jnp.eye(d, dtype=matrices.dtype)[None, :, :, None], matrices.shape)
    columns, rows = list[Array](), list[Array]()  # of L and of its inverse, [k, d, b] each
    for j in range(d):
        column, row = matrices[:, :, j], identity[:, j]
        for before, done in zip(columns, rows, strict=True):
            column = column - before * before[:, j : j + 1]
            row = row - before[:, j : j + 1] * done
        scale = 1.0 / jnp.sqrt(column[:, j : j + 1])
        columns.append(column * scale)
        rows.append(row * scale)
    return jnp.stack(rows, axis=1)


def _stats(prepared: Prepared, seen: Seen, resp: Array) -> GaussianStats:
    """Moments of the truth about the means, `resp` `[k, b]`."""
    covariances, counts = prepared.covariances, jnp.sum(resp, axis=1)
    weighted = resp[:, None, :] * seen.pull
    precisions = dot("kabn,kacn->kbc", resp[:, None, None, :] * seen.whitener, seen.whitener)
    change = dot("kib,kjb->kij", weighted, seen.pull) - precisions
    second = counts[:, None, None] * covariances + dot("kab,kbc,kcd->kad", covariances, change, covariances)
    return GaussianStats(counts, counts, dot("kij,kj->ki", covariances, jnp.sum(weighted, axis=2)), second)


def _filled(x: Array, sample_weight: Array | None) -> tuple[Array, Array]:
    """Values `[n, d]` with means where they were not observed, and the share of the weight that was observed, `[d]`."""
    values, noise = _parts(x.T)
    w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
    d = values.shape[0]
    seen = (noise[np.arange(d), np.arange(d)] >= 0) & (w > 0)[None, :]  # [d, n]
    mass = jnp.where(seen, w[None, :], 0.0)
    total = jnp.sum(mass, axis=1)
    first = jnp.take_along_axis(values, jnp.argmax(seen, axis=1)[:, None], axis=1)  # differences from it keep digits
    shift = jnp.sum(mass * jnp.where(seen, values - first, 0.0), axis=1) / jnp.where(total > 0, total, 1.0)
    kept = seen | (w <= 0)[None, :]
    return jnp.where(kept, values, first + shift[:, None]).T, total / jnp.sum(w)


def _of_values(prior: NormalInverseWishart, params: GaussianParams) -> NormalInverseWishart:
    """What a prior made from rows `[n, c]` says of the values; that of values as it is."""
    d = params.means.shape[1]
    mean = None if prior.mean is None else prior.mean[:d]
    return dataclasses.replace(prior, scatter=jnp.asarray(prior.scatter)[:d, :d], mean=mean)


# -- checks --------------------------------------------------------------------------------------------------------------


def _no_width(c: int) -> str:
    return (
        f"has {c} columns, which is d (d + 3) / 2 for no number d of values; give rows from jaxem.with_noise(x, noise)"
    )


def _as_arrays(x: ArrayLike, noise: ArrayLike) -> tuple[Any, Any]:
    """Values `[n, d]`, and variances `[n or 1, d]` or covariances `[n or 1, d, d]`, of one kind of array."""
    arrays = dict[str, Any]()
    for name, given in (("x", x), ("noise", noise)):
        try:
            found: Any = given if isinstance(given, jax.Array) else np.asarray(given)
        except ValueError:
            raise ValueError(f"{name} is ragged; give rows of one length") from None
        if not isinstance(found, jax.Array) and found.dtype.kind not in "biuf":
            raise ValueError(f"{name} has dtype {found.dtype}; give real numbers")
        arrays[name] = found
    values, found = arrays["x"], arrays["noise"]
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"x has shape {values.shape}; give [n, d], for one feature x.reshape(-1, 1)")
    n, d = values.shape
    if found.shape == (d, d) and n == d and d > 1:
        raise ValueError(
            f"noise has shape {(d, d)} for {d} rows, variances of each or covariances of all; give [n, d, d] = {(n, d, d)}"
        )
    if found.shape in ((d,), (d, d)) and found.shape != (n, d):
        found = found[None]
    elif found.shape not in ((n, d), (n, d, d)):
        raise ValueError(
            f"noise has shape {found.shape}; give variances [n, d] = {(n, d)} or covariances [n, d, d] = {(n, d, d)}, or "
            "those of all rows without n"
        )
    if isinstance(values, jax.Array) or isinstance(found, jax.Array):
        values, found = jnp.asarray(values), jnp.asarray(found)
    kind = values.dtype if values.dtype.kind == "f" and values.dtype.itemsize > 2 else float
    kind = np.float32 if values.dtype.kind == "f" and values.dtype.itemsize <= 2 else kind
    kind = np.dtype(kind) if isinstance(values, np.ndarray) else jax.dtypes.canonicalize_dtype(kind)
    return values.astype(kind), found.astype(float) if found.dtype.kind in "biu" else found


def _check_values(values: np.ndarray, seen: np.ndarray) -> None:
    bad = np.argwhere(seen & ~np.isfinite(values))
    if bad.size:
        i, j = bad[0]
        raise ValueError(
            f"x[{i}, {j}] = {values[i, j]}; drop row {i}, or give this value a noise of variance inf if it was not observed"
        )


def _check_noise(covariances: np.ndarray) -> None:
    """A ValueError unless covariances `[n, d, d]` are finite, symmetric and positive semidefinite."""
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    bad = np.argwhere(~np.isfinite(covariances))
    if bad.size:
        i, j, m = bad[0]
        where = f"variance of x[{i}, {j}]" if j == m else f"covariance of x[{i}, {j}] and x[{i}, {m}]"
        raise ValueError(
            f"noise has the {where} {covariances[i, j, m]}; give a number, or inf for a value not observed"
        )
    bad = np.argwhere(variances < 0)
    if bad.size:
        i, j = bad[0]
        raise ValueError(f"noise has the variance {variances[i, j]:g} for x[{i}, {j}]; give variances of at least 0")
    across = covariances * (1 - np.eye(covariances.shape[1]))
    if not across.any():
        return
    deviations = np.sqrt(variances.astype(np.float64))
    unit = np.where(deviations > 0, deviations, 1.0)
    scaled = covariances / unit[:, :, None] / unit[:, None, :]
    bad = np.argwhere(np.abs(scaled - np.swapaxes(scaled, 1, 2)) > SLACK)
    if bad.size:
        i, j, m = bad[0]
        pair = f"{covariances[i, j, m]:g} and {covariances[i, m, j]:g}"
        raise ValueError(f"noise[{i}] is not symmetric: {pair} at [{j}, {m}] and [{m}, {j}]; give covariances, S = S'")
    least = np.linalg.eigvalsh(scaled)[:, 0]
    if least.min() < -SLACK:
        i = int(np.argmin(least))
        raise ValueError(
            f"noise[{i}] is not positive semidefinite: its correlations have the eigenvalue {least[i]:.3g}; give a covariance "
            "matrix"
        )
