"""Collapse: why the likelihood has no maximum near a mixture.

A Gaussian component has collapsed if its covariance, or the one that the EM step gives it, is singular or nearly so: by the
rule of `Family.degenerate`. The density then has no upper bound. A component may also lose all its rows, and two may
coincide. Here it is judged which of this has happened; `reasons.py` finds out why and says so.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.checks import already_told, as_mixture, as_supported, as_weights
from jaxem.families.deconvolved import Deconvolved
from jaxem.families.gaussian import FEW, FLAT, MIN_EIGENVALUE, Gaussian
from jaxem.holes import moments_of_observed
from jaxem.linalg import SINGULAR
from jaxem.mixture import Mixture
from jaxem.reasons import Collapse, Reasons, is_spherical
from jaxem.rows import Rows, as_rows
from jaxem.saddles import COINCIDENCE
from jaxem.standard import Standard, standardise


def collapse_of(mixture: Mixture, x: ArrayLike | Rows, sample_weight: ArrayLike | None = None) -> Collapse | None:
    """Why the likelihood has no maximum near a mixture; None if no component has collapsed, lost its rows or coincides.

    The mixture is judged, and the EM step of the likelihood from it; a prior is not asked. `Search.collapse` holds the
    reason where every climb of a search failed.

    Args:
        mixture: of any family, such as `result.mixture` of a fit whose status is DEGENERATE or SADDLE.
        x: `[n, d]`, the data it was fitted to, or Rows made ready before.
        sample_weight: `[n]`, non-negative.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.

    Example:
        >>> import jax, numpy as np, jaxem
        >>> x = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]])
        >>> start = jaxem.starts(jax.random.key(0), "full", x, 1, 1)[0]
        >>> print(jaxem.collapse_of(start, x).text(["inside", "outside"]))
        columns depend on each other (inside + outside = 1 in all 6 rows): leave one of them out, or use Diagonal()
    """
    mixture = as_mixture(mixture, x)
    if mixture.log_weights.ndim != 1:
        shape = mixture.log_weights.shape
        raise ValueError(f"mixture has log_weights of shape {shape}; give one mixture, such as mixture[0]")
    dtype = np.dtype(mixture.log_weights.dtype)
    with jax.enable_x64(dtype.itemsize == 8), already_told(), np.errstate(all="ignore"):
        data = standardise(*_rows_of(mixture, x, sample_weight))
        plain = isinstance(mixture.family, Gaussian) and not isinstance(mixture.family, Deconvolved)
        judge = _judge_gaussians if plain else _judge_others
        return judge(mixture, data, dtype)


def _rows_of(mixture: Mixture, x: Any, sample_weight: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """The rows `[n, d]` and their weights `[n]`, on the host."""
    if isinstance(x, Rows):
        rows = as_rows(mixture.family, x, sample_weight, mixture.n_components, like=mixture)
        matrix, weights = (np.asarray(leaf) for leaf in rows.as_matrix())
        return _complete(matrix + np.asarray(rows.frame.centre), weights), weights.astype(np.float64)
    data = as_supported(
        mixture.family, x, mixture.n_components, mixture.family.n_features(mixture.components), exact=True
    )
    given = as_weights(sample_weight, data.shape[0], np.float64)
    weights = np.ones(data.shape[0]) if given is None else np.asarray(given, np.float64)
    return _complete(np.asarray(data), weights), weights


def _complete(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows with the mean of its column in place of a missing value: near enough to find a reason."""
    missing = np.isnan(x)
    return np.where(missing, moments_of_observed(x, weights)[0].astype(x.dtype), x) if missing.any() else x


def _judge_gaussians(mixture: Mixture, data: Standard, dtype: np.dtype) -> Collapse | None:
    family: Any = mixture.family
    k, eps, (n, d) = mixture.n_components, float(np.finfo(dtype).eps), data.x.shape
    why = Reasons(data, family, k, eps)
    out = why.out_of_range(dtype)
    if out is not None:
        return out
    if not all(np.isfinite(leaf).all() for leaf in mixture.components):
        return why.of_all_rows()
    posterior, own = _in_units(mixture, data, eps)
    owner = np.zeros(n, int)

    def resp(rows: slice, z: np.ndarray) -> np.ndarray:
        p = posterior(z)
        owner[rows] = np.argmax(p, axis=1)
        return p

    counts, _, second = data.moments(resp, k, matrix=family.by_matrices)
    lost = ~(counts > np.finfo(dtype).tiny / eps)
    counts *= max(1.0, n / data.w.sum())  # in rows: weights that sum to less than one a row are scaled up
    if family.shared:
        counts, second = counts.sum(keepdims=True), np.average(second, axis=0, weights=counts)[None]
    if is_spherical(family):  # one variance for all columns of x
        second = np.mean(second * data.unit**2, axis=1, keepdims=True) / data.unit**2
    smallest = np.minimum(*(_smallest_variance(one, data.varies, SINGULAR * eps) for one in (own, second)))
    collapsed = (smallest < FLAT * eps) | ((smallest < MIN_EIGENVALUE) & (counts < FEW * (d + 1)))
    collapsed |= family.by_matrices and counts < d + 1
    # a column without variance is no direction to collapse in where another shares its variance
    collapsed |= not (data.varies.any() if is_spherical(family) else data.varies.all())
    collapsed &= family.shared or ~lost
    if collapsed.any():
        of_all = why.of_all_rows()
        if of_all is not None or family.shared:
            return of_all or why.of_shared(owner)
        return why.of_component(int(np.lexsort((counts, smallest, ~collapsed))[0]), owner)
    if lost.any():
        return why.of_lost(np.flatnonzero(lost))
    return why.of_coinciding(_coinciding(mixture), owner)


def _judge_others(mixture: Mixture, data: Standard, dtype: np.dtype) -> Collapse | None:
    """The reasons that make sense for any family."""
    family, k = mixture.family, mixture.n_components
    why = Reasons(data, family, k, float(np.finfo(dtype).eps))
    resp = np.asarray(mixture.responsibilities(data.x), np.float64)
    owner, counts = np.argmax(resp, axis=1), data.w @ resp
    lost = ~(counts > np.finfo(dtype).tiny / np.finfo(dtype).eps)
    in_rows = jnp.asarray(counts * max(1.0, len(data.w) / data.w.sum()), dtype)
    variance = jnp.asarray(np.where(data.varies, data.unit, 0.0) ** 2, dtype)
    collapsed = np.broadcast_to(np.asarray(family.degenerate(mixture.components, in_rows, variance)), (k,)) & ~lost
    if isinstance(family, Deconvolved):  # a climb ends before the step that has no density
        weighted = jnp.asarray(resp * data.w[:, None], dtype)
        after = family.m_step(
            mixture.components, family.suff_stats(mixture.components, jnp.asarray(data.x, dtype), weighted)
        )
        collapsed = (collapsed | np.asarray(family.degenerate(after, in_rows, variance))) & ~lost
    coinciding = _coinciding(mixture)
    few = why.of_few_distinct(k - 1) if lost.any() or collapsed.any() or coinciding else None
    if few is not None:
        return few
    if collapsed.any():
        return why.of_component(int(np.argmax(collapsed)), owner)
    return why.of_lost(np.flatnonzero(lost)) if lost.any() else why.of_coinciding(coinciding, owner)


def _in_units(mixture: Mixture, data: Standard, eps: float) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """p(j | z) `[b, k]` as a function of z `[b, d]`; and the covariances of z, `[k or 1, d]` or matrices."""
    means, covariances = (np.asarray(leaf, np.float64) for leaf in mixture.components)
    log_weights = np.asarray(mixture.log_weights, np.float64)
    family: Any = mixture.family
    (k, d), unit = means.shape, data.unit
    # a mean is rounded in the dtype of the mixture; beside a spike that is far away
    rounding = (8 * eps * np.max(1 + np.abs(means / unit), axis=1)) ** 2
    means = (means - data.centre) / unit
    if family.by_matrices:
        covariances = covariances.reshape(-1, d, d) / unit / unit[:, None]
        axes = [np.linalg.eigh(matrix) for matrix in covariances]
    else:
        covariances = covariances.reshape(1 if family.shared else k, -1) / unit**2

    def posterior(z: np.ndarray) -> np.ndarray:
        joint = np.zeros((len(z), k))
        for j in range(k) if k > 1 else ():
            away = z - means[j]
            variances = covariances[min(j, len(covariances) - 1)]
            if variances.ndim == 2:
                variances, vectors = axes[min(j, len(axes) - 1)]
                away = away @ vectors
            variances = np.maximum(variances, rounding[j])
            joint[:, j] = log_weights[j] - 0.5 * np.sum(away**2 / variances + np.log(variances), axis=1)
        joint = np.exp(joint - joint.max(axis=1, keepdims=True))
        return joint / joint.sum(axis=1, keepdims=True)

    return posterior, covariances


def _smallest_variance(covariances: np.ndarray, varies: np.ndarray, singular: float) -> np.ndarray:
    """The smallest variance of z in any direction in which the data vary, `[k or 1]`; 0 for a singular matrix."""
    if covariances.ndim == 2:
        return np.min(covariances[:, varies], axis=1, initial=np.inf)
    smallest = np.zeros(len(covariances))
    for j, matrix in enumerate(covariances[:, varies][:, :, varies]):
        deviations = np.sqrt(np.maximum(np.diagonal(matrix), np.finfo(np.float64).tiny))
        try:  # the variance of each column given those before it, by the rule of linalg.py
            given = np.diagonal(np.linalg.cholesky(matrix / deviations / deviations[:, None])) ** 2
        except np.linalg.LinAlgError:
            continue
        if np.all(given > singular):
            smallest[j] = np.linalg.eigvalsh(matrix)[0] if matrix.size else np.inf
    return smallest


def _coinciding(mixture: Mixture) -> list[int]:
    """Components with the same parameters, to rounding; those of the first such group."""
    k, dtype = mixture.n_components, mixture.log_weights.dtype
    components = jax.tree.map(jnp.asarray, mixture.components)
    if k == 1:
        return []

    def apart(pair: tuple[Array, Array]) -> Array:
        i, j = pair
        return jnp.minimum(mixture.family.apart(components, i, j), mixture.family.apart(components, j, i))

    i, j = np.triu_indices(k, 1)
    close = np.asarray(jax.lax.map(apart, (jnp.asarray(i), jnp.asarray(j)))) < np.finfo(dtype).eps ** COINCIDENCE
    first = i[close][:1]
    return sorted({int(one) for one in (*first, *j[close & (i == first)])}) if first.size else []
