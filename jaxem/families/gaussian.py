"""Gaussian components: Spherical (the lecture's), Diagonal, Tied and Full covariances; TiedSpherical and TiedDiagonal.

    log N(x; mu, Sigma) = -1/2 (d log 2 pi + log |Sigma| + (x - mu)' inv(Sigma) (x - mu))

The second argument is a *variance* (a covariance matrix), never a standard deviation; Spherical means
Sigma_j = sigma_j^2 I and keeps sigma_j^2. The M-step, with counts N_j = sum_i r_ij and means mu_j = sum_i r_ij x_i / N_j:

    Full       Sigma_j   = S_j / N_j           S_j = sum_i r_ij (x_i - mu_j)(x_i - mu_j)'
    Diagonal   Sigma_j   = diag(S_j) / N_j
    Spherical  sigma_j^2 = tr(S_j) / (d N_j)
    Tied       Sigma     = sum_j S_j / sum_j N_j; TiedDiagonal has its diagonal, TiedSpherical the mean of that
                                                     (Bishop 2006, section 9.2; Celeux and Govaert 1995 for the last three)

Statistics are taken about the *current* means m_j: with delta_j = sum_i r_ij (x_i - m_j) / N_j, the new mean is
m_j + delta_j and S_j / N_j = sum_i r_ij (x_i - m_j)(x_i - m_j)' / N_j - delta_j delta_j'. The subtraction loses no digits
once delta is small against sigma, unlike that of raw moments E[x^2] - E[x]^2, and one pass serves both.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.distances import (
    FEW_FEATURES,
    PRODUCT_ERROR,
    at_once,
    distances,
    distances_by_products,
    first_moments_by_differences,
    first_moments_by_products,
)
from jaxem.families.base import Family
from jaxem.families.holdable import HoldsMeans
from jaxem.families.incomplete import ByFeature
from jaxem.families.movable import CANCELLATION, AboutMeans
from jaxem.linalg import make_proper
from jaxem.moments import weighted_moments
from jaxem.observed import LOG_2PI, pooled_moments
from jaxem.primitives import alive, all_lanes, compact, dot, epsilon, normalise, positive, tiny, weighted_sum
from jaxem.priors import NormalInverseWishart
from jaxem.stats import Stats

MIN_EIGENVALUE, FEW = 1e-4, 5
"""a component has collapsed if the smallest eigenvalue of its covariance, with the data scaled to unit variances, is below
the first and it holds fewer than FEW * (d + 1) rows: a spike on a few rows, not a tight cluster of many"""
FLAT = 8
"""units of rounding below which that eigenvalue is a collapse however many rows there are"""
NOT_PROPER = "covariances is not positive definite"


@compact
class GaussianParams(NamedTuple):
    """Means `[k, d]`; covariances `[k, d, d]` (Full), `[k, d]` (Diagonal) or `[k]` (Spherical), without the k where the
    family is tied."""

    means: Array
    covariances: Array


class GaussianStats(NamedTuple):
    """Weighted moments about the current means.

    Attributes:
        counts: `[k]`, the weight of what was summed for the means.
        degrees: `[k]`, that for the covariances. Rows add the same to both; a prior need not.
        first: `[k, d]`, sums of differences from the means.
        second: sums of their products, in the shape of the covariances; for one variance their sum over features.
    """

    counts: Array
    degrees: Array
    first: Array
    second: Array


class Prepared(NamedTuple):
    """What a pass works out once: the means, what distances are measured with, and the terms without x."""

    means: Array  # [k, d]
    precisions: Array
    constants: Array  # [k]
    products_suffice: Any  # [] of bool; None where there is no form by products


FirstMoments = Callable[[Array, Array, Array], Array]  # of columns [d, b] about means [k, d], weighted by resp [k, b]


class Gaussian(AboutMeans, ByFeature, HoldsMeans):
    """What the six share: means, and everything but the form of the covariances."""

    location = True
    conjugate = (NormalInverseWishart,)
    shared: ClassVar[bool] = False
    """Whether all components have one covariance."""
    by_matrices: ClassVar[bool] = False
    """Whether covariances are matrices."""

    # -- the form of the covariances ----------------------------------------------------------------------------------

    @abc.abstractmethod
    def covariance_shape(self, k: int, d: int) -> tuple[int, ...]:
        """Shape of the covariances of k components of d features."""

    def precisions(self, covariances: Array) -> Array:
        """What distances are measured with: inverse variances, or inv(L) of matrices Sigma = L L'."""
        return 1.0 / covariances

    @abc.abstractmethod
    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        """Squared distances (x - m)' inv(Sigma) (x - m), `[k, b]`, of columns `x` `[d, b]`, from differences."""

    def squares_by_products(self, means: Array, precisions: Array, x: Array, norms: Array) -> Array:
        """The same by products of matrices, given `|x|^2` `[b]`; by default there is no faster form."""
        del norms
        return self.squares(means, precisions, x)

    @abc.abstractmethod
    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: FirstMoments
    ) -> tuple[Array, Array]:
        """`first` and `second` of GaussianStats for columns `x` `[d, b]`, given `resp` and `squares` `[k, b]`."""

    def moments_by_products(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array
    ) -> tuple[Array, Array]:
        """The same where distances by products are precise; by default `first` alone is a product."""
        return self.moments(means, precisions, x, resp, squares, first_moments_by_products)

    @abc.abstractmethod
    def recentre(self, stats: GaussianStats, delta: Array) -> Array:
        """Covariances about the new means, `delta` `[k, d]` from where `stats` were taken; anything for those without
        degrees."""

    @abc.abstractmethod
    def scatter(self, matrix: Array, weights: Array) -> Array:
        """`second` of GaussianStats for a scatter matrix `[d, d]` that component j has `weights[j]` times."""

    @abc.abstractmethod
    def traces(self, precisions: Array, scatter: Array) -> Array:
        """tr(Lambda inv(Sigma)), `[k]` or `[]`, of a matrix Lambda `[d, d]`."""

    @abc.abstractmethod
    def inverse_wishart(self, degrees: float, scale: Array) -> tuple[float, Array]:
        """`degrees` and `scatter` of a NormalInverseWishart, for an inverse Wishart of `degrees` and `scale` `[d, d]`, or
        inverse gammas of the same on single variances."""

    @abc.abstractmethod
    def from_pooled(self, covariance: Array, k: int) -> Array:
        """The form of k covariances that best fits one matrix `[d, d]`."""

    @abc.abstractmethod
    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        """Covariances as matrices `[k, d, d]`."""

    def proper_variances(self, variances: Array) -> Array:
        """Pooled variances `[d]` that have a density: constant features get variance 1."""
        return jnp.where(variances > 0, variances, 1.0)

    def sizes(self, covariances: Array) -> Array:
        """What a change of each entry of the covariances is measured by, in their shape: the variances, or their geometric
        means."""
        return covariances

    @abc.abstractmethod
    def smallest_eigenvalue(self, covariances: Array, inverse_scale: Array, least: Array) -> Array:
        """Smallest eigenvalue, `[k]` or `[]`, of the covariances of x_j * inverse_scale_j. Where that is 0 the feature is
        scaled to variance 1, but if its variance is below `least` the answer is 0."""

    def unconstrain_covariances(self, covariances: Array) -> Array:
        """Coordinates `[q]` of the covariances: log variances, or of matrices the Cholesky factors with the diagonal logged."""
        return jnp.log(jnp.maximum(covariances, tiny(covariances.dtype))).ravel()

    def constrain_covariances(self, free: Array, k: int, d: int) -> Array:
        """Inverse of `unconstrain_covariances`."""
        return jnp.exp(free).reshape(self.covariance_shape(k, d))

    @abc.abstractmethod
    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        """Standard errors `[q]` of those coordinates from one row, of which component j has the share `weights[j]`."""

    # -- the contract -------------------------------------------------------------------------------------------------

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> GaussianParams:
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
        moments = pooled_moments if self.missing else weighted_moments
        _, mean, spread = moments(x, w, matrix=self.by_matrices)
        covariance = make_proper(spread) if self.by_matrices else jnp.diag(self.proper_variances(spread))
        means = jnp.broadcast_to(mean[None, :], (n_components, mean.shape[0]))
        return GaussianParams(means, self.from_pooled(covariance, n_components))

    def log_prob(self, params: GaussianParams, x: Array) -> Array:
        if self.missing:
            return self.see(params, x.T, 1)[0].T
        precisions = self.precisions(params.covariances)
        squares = self.squares(params.means, precisions, x.T)
        return (self._log_constants(params, precisions)[:, None] - 0.5 * squares).T

    def suff_stats(self, params: GaussianParams, x: Array, resp: Array) -> GaussianStats:
        if self.missing:
            return self.see(params, x.T, 1)[1](resp.T)
        precisions, columns, of_columns = self.precisions(params.covariances), x.T, resp.T
        squares = self.squares(params.means, precisions, columns)
        counts = jnp.sum(resp, axis=0)
        moments = self.moments(params.means, precisions, columns, of_columns, squares, first_moments_by_differences)
        return GaussianStats(counts, counts, *moments)

    def prepare(self, params: GaussianParams, log_weights: Array | None = None) -> Any:
        if self.missing:
            return self.prepare_seeing(params, log_weights)
        precisions = self.precisions(params.covariances)
        constants = self._log_constants(params, precisions) + (0.0 if log_weights is None else log_weights)
        has_products = self._has_products(params.means.shape[1])
        suffice = all_lanes(self.products_suffice(params.means, precisions)) if has_products else None
        return Prepared(params.means, precisions, constants, suffice)

    def block_stats(self, prepared: Any, x: Array, w: Array, norms: Array) -> Stats:
        if self.missing:
            return self.stats_of_runs(prepared, x, w, 1)
        means, precisions, constants, products_suffice = prepared

        def stats(squares: Array, moments: Callable[..., tuple[Array, Array]]) -> Stats:
            log_prob, resp = normalise(constants[:, None] - 0.5 * squares, axis=0)
            resp = resp * w[None, :]  # [k, b]
            counts = jnp.sum(resp, axis=1)
            both = moments(means, precisions, x, resp, squares)
            return Stats(weighted_sum(w, log_prob), counts, GaussianStats(counts, counts, *both))

        def by_differences() -> Stats:
            moments = functools.partial(self.moments, first_moments=first_moments_by_differences)
            return stats(self.squares(means, precisions, x), moments)

        def by_products() -> Stats:
            return stats(self.squares_by_products(means, precisions, x, norms), self.moments_by_products)

        if products_suffice is None:
            return by_differences()
        return jax.lax.cond(products_suffice, by_products, by_differences)

    def products_suffice(self, means: Array, precisions: Array) -> Array:
        """Whether distances by products are precise enough, `[]` of bool; not where anything is NaN."""
        d = means.shape[1]
        farthest = jnp.max(self.squares(means, precisions, jnp.zeros((d, 1), means.dtype)))
        return epsilon(means.dtype) * farthest / d <= PRODUCT_ERROR[jnp.finfo(means.dtype).bits]

    def m_step(self, params: GaussianParams, stats: GaussianStats) -> GaussianParams:
        counts, known = per_feature(stats.counts), alive(stats.degrees)
        delta = jnp.where(alive(counts), stats.first / positive(counts), 0.0)  # [k, d]
        covariances = self.recentre(stats, delta)
        if not self.shared:
            known = known.reshape(*known.shape, *(1,) * (covariances.ndim - known.ndim))
            covariances = jnp.where(known, covariances, params.covariances)
        return GaussianParams(params.means + delta, covariances)

    def log_prior(self, params: GaussianParams, prior: NormalInverseWishart) -> Array:
        """Log density `[]` of a NormalInverseWishart, up to a constant."""
        k, d = params.means.shape
        precisions = self.precisions(params.covariances)
        volumes = self.log_det(params.covariances, precisions, d)
        penalty = jnp.sum(prior.degrees * volumes + self.traces(precisions, prior.scatter))
        if prior.mean is not None and prior.shrinkage is not None:
            squares = self.squares(params.means, precisions, prior.mean[:, None])[:, 0]
            penalty += jnp.sum(jnp.broadcast_to(volumes, (k,)) + prior.shrinkage * squares)
        return -0.5 * penalty

    def imagined(
        self, params: GaussianParams, stats: GaussianStats, prior: NormalInverseWishart, still: Any = None
    ) -> GaussianStats:
        """What a NormalInverseWishart adds to `stats` of rows about `params`; the head of priors.py says why.

        Beside N rows of mean m_j + own, a row of weight kappa at m_j + move takes the mean to own + pull, with pull =
        kappa / (N + kappa) (move - own), and adds B. N rows that do the same are added here: nothing is as large as kappa.
        About the means of components that are `still` `[k]` the row itself adds kappa move move'.
        """
        k, n = params.means.shape[0], per_feature(stats.counts)  # [k, 1], or [k, d] where values are missing
        once = jnp.full(k, 1.0 / k if self.shared else 1.0, n.dtype)  # per covariance
        scatter = self.scatter(jnp.asarray(prior.scatter, n.dtype), once)
        nothing = jnp.zeros_like(stats.counts)
        degrees = prior.degrees * once.reshape(-1, *(1,) * (stats.degrees.ndim - 1)) * jnp.ones_like(stats.degrees)
        known = GaussianStats(nothing, degrees, jnp.zeros_like(params.means), scatter)
        if prior.mean is None or prior.shrinkage is None:
            return known
        lost = jnp.where(alive(n), 0.0, 1.0)  # a component without rows gets one at m
        rows, share = n + lost, prior.shrinkage / positive(n + prior.shrinkage)
        own, pull = (1.0 - lost) * stats.first / positive(n), n * share
        if still is not None:
            own, share = jnp.where(still[:, None], 0.0, own), jnp.where(still[:, None], 0.0, share)
            pull = jnp.where(still[:, None], prior.shrinkage, pull)
        apart = prior.mean[None, :] - params.means - own
        new, root = own + share * apart, jnp.sqrt(rows)
        squares = self.outer(root * new) - self.outer(root * own) + self.outer(jnp.sqrt(pull) * apart)
        row = GaussianStats(
            lost.reshape(stats.counts.shape), jnp.ones_like(stats.degrees), rows * share * apart, squares
        )
        return jax.tree.map(jnp.add, known, row)

    def unconstrain(self, params: GaussianParams) -> Array:
        return jnp.concatenate([params.means.ravel(), self.unconstrain_covariances(params.covariances)])

    def constrain(self, params: GaussianParams, free: Array) -> GaussianParams:
        k, d = params.means.shape
        return GaussianParams(free[: k * d].reshape(k, d), self.constrain_covariances(free[k * d :], k, d))

    def units(self, params: GaussianParams, weights: Array) -> Array:
        k, d = params.means.shape
        variances = self.variances(params.covariances, k, d)
        deviations = jnp.sqrt(jnp.where(variances > 0, variances, 1.0))
        of_means = deviations * jax.lax.rsqrt(weights)[:, None]
        return jnp.concatenate([of_means.ravel(), self.covariance_units(params.covariances, weights, d)])

    def sample(self, key: Array, params: GaussianParams, labels: Array) -> Array:
        k, d = params.means.shape
        noise = jax.random.normal(key, (labels.shape[0], d), params.means.dtype)
        factors = jnp.linalg.cholesky(self.as_matrices(params.covariances, k, d))  # [k, d, d]
        one = lambda j, y: jnp.where(labels[:, None] == j, dot("ij,nj->ni", factors[j], noise), y)  # noqa: E731
        return params.means[labels] + jax.lax.fori_loop(0, k, one, noise)

    def place(self, params: Any, x: Array, centres: Array, sample_weight: Any = None, *, narrow: Any = 0) -> Any:
        del x, sample_weight
        centres = jnp.where(centres == centres, centres, params.means)  # a row that misses values
        if isinstance(narrow, int) and not narrow:
            return params._replace(means=centres)
        # axis-parallel boxes, each a part of the volume; no correlation is carried over from all the data
        k, d = params.means.shape
        pooled = self.variances(params.covariances, k, d)[0]
        return GaussianParams(
            centres, self.from_pooled(jnp.diag(pooled * jnp.asarray(narrow, pooled.dtype) ** (-2.0 / d)), k)
        )

    def shift(self, params: GaussianParams, offset: Array) -> GaussianParams:
        return params._replace(means=params.means + offset[None, :])

    def degenerate(self, params: GaussianParams, counts: Array, variance: Array) -> Array:
        smallest = self.smallest_variance(params.covariances, variance)
        rows = jnp.sum(counts) if self.shared else counts  # a covariance that all share collapses as a whole
        d = params.means.shape[1]
        spike = (smallest < MIN_EIGENVALUE) & (rows < FEW * (d + 1))
        flat = smallest < FLAT * epsilon(variance.dtype)
        return spike | flat | (rows < d + 1 if self.by_matrices else False)  # a matrix of fewer rows is singular

    def is_bounded(self, params: GaussianParams, prior: NormalInverseWishart, variance: Array) -> Array:
        """Whether log-likelihood + log prior has an upper bound, `[]` of bool: whether `prior` has a scatter in every
        direction in which a covariance can collapse."""
        least = self.from_pooled(jnp.asarray(prior.scatter, variance.dtype), params.means.shape[0])
        return jnp.all(self.smallest_variance(least, variance) >= FLAT * epsilon(variance.dtype))

    def smallest_variance(self, covariances: Array, variance: Array) -> Array:
        """The smallest variance in any direction, `[k]` or `[]`, with the data scaled to unit variances."""
        inverse_scale = jnp.where(variance > 0, jax.lax.rsqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
        # a constant feature has no scale of its own: it counts as lost where its variance is nothing beside the others'
        least = jnp.maximum(FLAT * epsilon(variance.dtype) * jnp.max(variance), 2.0 * tiny(variance.dtype))
        return self.smallest_eigenvalue(covariances, inverse_scale, least)

    def step_size(self, old: GaussianParams, new: GaussianParams) -> Array:
        k, d = old.means.shape
        deviations = jnp.sqrt(self.variances(old.covariances, k, d))  # [k, d]
        means = jnp.abs(new.means - old.means) / deviations
        covariances = jnp.abs(new.covariances - old.covariances) / self.sizes(old.covariances)
        return jnp.maximum(jnp.max(means), jnp.max(covariances))

    def n_features(self, params: GaussianParams) -> int:
        return params.means.shape[-1]

    def table(self, params: GaussianParams) -> dict[str, Any]:
        return {"mean": params.means, "sd": jnp.sqrt(self.variances(params.covariances, *params.means.shape))}

    def check(self, params: GaussianParams) -> str | None:
        return None if np.all(params.covariances > 0) else NOT_PROPER

    def as_gaussians(self, params: GaussianParams) -> GaussianParams:
        """The same with covariances as matrices `[k, d, d]`."""
        return GaussianParams(params.means, self.as_matrices(params.covariances, *params.means.shape))

    def marginal(self, params: GaussianParams, columns: np.ndarray) -> tuple[Family, GaussianParams]:
        return self, GaussianParams(params.means[:, columns], self.of_columns(params.covariances, columns))

    def of_columns(self, covariances: Array, columns: np.ndarray) -> Array:
        """The covariances of some columns; by default there is a number for each."""
        return covariances[..., columns]

    def row_floats(self, n_components: int, n_features: int) -> int:
        if at_once(n_components, n_features) and not self._has_products(n_features):
            return n_components * n_features
        return max(n_components, n_features)

    def _has_products(self, d: int) -> bool:
        """Whether there is a form by products, and enough features for it to pay."""
        return d > FEW_FEATURES and type(self).squares_by_products is not Gaussian.squares_by_products

    def _log_constants(self, params: GaussianParams, precisions: Array) -> Array:
        """What does not depend on x in the log densities, `[k]`."""
        k, d = params.means.shape
        return jnp.broadcast_to(-0.5 * (d * LOG_2PI + self.log_det(params.covariances, precisions, d)), (k,))


class Isotropic(Gaussian):
    """What Spherical and TiedSpherical share: one variance for all features."""

    def log_det(self, covariances: Array, precisions: Array, d: int) -> Array:
        return d * jnp.log(covariances)

    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        return distances(means, x) * precisions.reshape(-1, 1)

    def squares_by_products(self, means: Array, precisions: Array, x: Array, norms: Array) -> Array:
        return distances_by_products(means, x, norms) * precisions.reshape(-1, 1)

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: FirstMoments
    ) -> tuple[Array, Array]:
        # a square that overflows belongs to a row that is not of the component: 0 times infinity is NaN
        second = jnp.sum(jnp.where(resp > 0, resp * squares, 0.0), axis=None if self.shared else 1) / precisions
        return first_moments(means, x, resp), second

    def of_columns(self, covariances: Array, columns: np.ndarray) -> Array:
        return covariances

    def row_floats(self, n_components: int, n_features: int) -> int:
        return n_components if self._has_products(n_features) else n_components * n_features

    def traces(self, precisions: Array, scatter: Array) -> Array:
        return jnp.trace(scatter) * precisions

    def inverse_wishart(self, degrees: float, scale: Array) -> tuple[float, Array]:
        d = scale.shape[0]
        return (degrees + 2.0) / d, jnp.eye(d, dtype=scale.dtype) * (jnp.trace(scale) / d**2)

    def proper_variances(self, variances: Array) -> Array:
        return jnp.where(jnp.any(variances > 0), variances, 1.0)  # constant features count in the mean over all

    def smallest_eigenvalue(self, covariances: Array, inverse_scale: Array, least: Array) -> Array:
        # a feature without variance is no direction to collapse in: sigma^2 is shared with the others
        shortest = jnp.min(jnp.where(inverse_scale > 0, inverse_scale, jnp.inf))
        return jnp.where(jnp.isfinite(shortest), covariances * shortest**2, jnp.where(covariances < least, 0.0, 1.0))


@dataclasses.dataclass(frozen=True, repr=False)
class Spherical(Isotropic):
    """N(x; mu_j, sigma_j^2 I): one variance `[k]` for each component. The lecture's mixture.

    With `missing=True` NaN is a value that was not observed.
    """

    missing: bool = False

    def of_features(self, counts: Array, first: Array, second: Array) -> GaussianStats:
        return GaussianStats(counts, jnp.mean(counts, axis=1), first, jnp.sum(second, axis=1))

    def covariance_shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k,)

    def recentre(self, stats: GaussianStats, delta: Array) -> Array:
        moved = jnp.sum(move_ratio(stats) * delta**2, axis=1)
        return (stats.second / positive(stats.degrees) - moved + rounding_margin(moved)) / delta.shape[1]

    def scatter(self, matrix: Array, weights: Array) -> Array:
        return weights * jnp.trace(matrix)

    def outer(self, moves: Array) -> Array:
        return jnp.sum(moves**2, axis=1)

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return jnp.full(k, jnp.trace(covariance) / covariance.shape[0])

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return covariances[:, None, None] * jnp.eye(d, dtype=covariances.dtype)[None]

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return jax.lax.rsqrt(0.5 * d * weights)


# -- steps --------------------------------------------------------------------------------------------------------------


def per_feature(counts: Array) -> Array:
    """Counts `[k, 1]`, or `[k, d]` where each feature has its own, of counts `[k]` or `[k, d]`."""
    return counts if counts.ndim == 2 else counts[:, None]


def move_ratio(stats: GaussianStats) -> Array:
    """What the move of a mean counts for in its variances, `[k, 1]` or `[k, d]`: 1 for statistics of complete rows alone."""
    return per_feature(stats.counts) / positive(per_feature(stats.degrees))


def rounding_margin(moved: Array) -> Array:
    # subtracting delta^2 from a second moment leaves an error of a few units of rounding of delta^2: err upwards
    return CANCELLATION * epsilon(moved.dtype) * moved
