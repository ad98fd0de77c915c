"""Gaussian components: Spherical (the lecture's), Diagonal, Tied and Full covariances.

    log N(x; mu, Sigma) = -1/2 (d log 2 pi + log |Sigma| + (x - mu)' inv(Sigma) (x - mu))

The second argument is a *variance* (a covariance matrix), never a standard deviation; Spherical means
Sigma_j = sigma_j^2 I and keeps sigma_j^2. The M-step, with counts N_j = sum_i r_ij and means mu_j = sum_i r_ij x_i / N_j:

    Full       Sigma_j   = S_j / N_j           S_j = sum_i r_ij (x_i - mu_j)(x_i - mu_j)'
    Diagonal   Sigma_j   = diag(S_j) / N_j
    Spherical  sigma_j^2 = tr(S_j) / (d N_j)
    Tied       Sigma     = sum_j S_j / sum_j N_j
                                                     (Bishop 2006, section 9.2; Celeux and Govaert 1995 for the last three)

Statistics are taken about the *current* means m_j: with delta_j = sum_i r_ij (x_i - m_j) / N_j, the new mean is
m_j + delta_j and S_j / N_j = sum_i r_ij (x_i - m_j)(x_i - m_j)' / N_j - delta_j delta_j'. The subtraction loses no digits
once delta is small against sigma, unlike that of raw moments E[x^2] - E[x]^2, and one pass serves both.

Tied takes no k second moments: with posteriors p_ij of a row of weight w_i and its expected mean e_i = sum_j p_ij m_j,

    sum_ij w_i p_ij (x_i - m_j)(x_i - m_j)' = sum_i w_i (x_i - e_i)(x_i - e_i)' + sum_jl G_jl (m_j - m_l)(m_j - m_l)' / 2,

G_jl = sum_i w_i p_ij p_il: nothing is subtracted but numbers of one cluster, and the work is that of three products.

Squared distances have a slow form that is always right, from differences x - m, and a fast one, a matrix product:
|x - m|^2 = |x|^2 - 2 m'x + |m|^2 in units of the variance. The product's rounding error, in units of the variance and by
feature, is eps max_j m_j' inv(Sigma_j) m_j / d about the data's mean. It is taken where that is below `EXPANSION`, in all
lanes of a vmap, and there are more than `FEW_FEATURES` features.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import BlockStats, Family, alive, all_lanes, epsilon, normalise, tiny, weighted_sum
from jaxem.priors import NormalInverseWishart, of_kind
from jaxem.rows import sum_chunks
from jaxem.stats import Stats

HIGHEST = jax.lax.Precision.HIGHEST
LOG_2PI = math.log(2 * math.pi)
MIN_EIGENVALUE, FEW = 1e-4, 5
"""a component has collapsed if the smallest eigenvalue of its covariance, with the data scaled to unit variances, is below
the first and it holds fewer than FEW * (d + 1) rows: a spike on a few rows, not a tight cluster of many"""
FLAT = 8
"""units of rounding below which that eigenvalue is a collapse however many rows there are"""
SINGULAR = 64
"""units of rounding of a variance below which what is left of it, given the features before, is none: no density"""
LEAF = 16
"""features up to which matrices are factored column by column"""
SQUARINGS = 22
"""of a matrix, by which its largest eigenvalue is found"""
CANCELLATION = 8
"""units of rounding of delta^2 that a variance is raised by, so that cancelled digits cannot make it negative"""
EXPANSION = {64: 1e-12, 32: 1e-5}
"""relative error of a variance that distances by products may bring, by bits of the dtype"""
ASYMMETRY = 1e-4
"""difference of two entries that should be equal, relative to the deviations, that a file may have"""
NOT_PROPER = "covariances is not positive definite"
FEW_FEATURES = 8
"""features up to which differences are as fast; beyond, distances may be products, and a CPU that takes differences works
on one component at a time"""


class GaussianParams(NamedTuple):
    """Means `[k, d]`; covariances `[k, d, d]` (Full), `[d, d]` (Tied), `[k, d]` (Diagonal) or `[k]` (Spherical)."""

    means: Array
    covariances: Array


class GaussianStats(NamedTuple):
    """Weighted moments about the current means: `first` `[k, d]`; `second` in the shape of the covariances."""

    first: Array
    second: Array


Moments = Callable[[Array, Array, Array], Array]
"""first moments `[k, d]` of columns `[d, b]` about means `[k, d]`, weighted by responsibilities `[k, b]`"""


class _Gaussian(Family):
    """What the four share: means, and everything but the form of the covariances."""

    location: ClassVar[bool] = True
    shared: ClassVar[bool] = False
    """Whether all components have one covariance."""
    by_matrices: ClassVar[bool] = False
    """Whether covariances are matrices."""

    # -- the form of the covariances ----------------------------------------------------------------------------------

    @abc.abstractmethod
    def precisions(self, covariances: Array) -> Array:
        """What distances are measured with: inverse variances, or inv(L) of matrices Sigma = L L'."""

    @abc.abstractmethod
    def log_det(self, covariances: Array, precisions: Array, d: int) -> Array:
        """Log determinants, `[k]` or `[]`; NaN where there is no density."""

    @abc.abstractmethod
    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        """Squared distances (x - m)' inv(Sigma) (x - m), `[k, b]`, of columns `x` `[d, b]`, from differences."""

    def expanded_squares(self, means: Array, precisions: Array, x: Array, norms: Array) -> Array:
        """The same by products of matrices, given |x|^2 `[b]`; by default there is no faster form."""
        del norms
        return self.squares(means, precisions, x)

    @abc.abstractmethod
    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: Moments
    ) -> GaussianStats:
        """Moments about the means of columns `x` `[d, b]`, given `resp` and `squares` `[k, b]`; never raw ones."""

    @abc.abstractmethod
    def recentre(self, second: Array, counts: Array, delta: Array) -> Array:
        """Covariances about the new means, `delta` `[k, d]` from where `second` was taken; anything for those without rows."""

    @abc.abstractmethod
    def outer(self, moves: Array) -> Array:
        """v v' of each of `moves` `[k, d]`, in the form of k covariances: a matrix, its diagonal, or the mean of that."""

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

    def variances(self, covariances: Array, k: int, d: int) -> Array:
        """The variance of each component and feature, `[k, d]`."""
        return jnp.broadcast_to(covariances.reshape(k, -1), (k, d))

    def sizes(self, covariances: Array) -> Array:
        """What a change of each entry of the covariances is measured by, in their shape: the variances, or their geometric
        means."""
        return covariances

    @abc.abstractmethod
    def min_counts(self, d: int) -> int:
        """Rows below which a component is called collapsed."""

    @abc.abstractmethod
    def smallest_eigenvalue(self, covariances: Array, inverse_scale: Array, least: Array) -> Array:
        """Smallest eigenvalue, `[k]` or `[]`, of the covariances of x_j * inverse_scale_j. Where that is 0 the feature is
        scaled to variance 1, but if its variance is below `least` the answer is 0."""

    @abc.abstractmethod
    def unconstrain_covariances(self, covariances: Array) -> Array:
        """Coordinates `[q]` of the covariances: log variances, or their Cholesky factors with the diagonal logged."""

    @abc.abstractmethod
    def constrain_covariances(self, free: Array, k: int, d: int) -> Array:
        """Inverse of `unconstrain_covariances`."""

    @abc.abstractmethod
    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        """Standard errors `[q]` of those coordinates from one row, of which component j has the share `weights[j]`."""

    # -- the contract -------------------------------------------------------------------------------------------------

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> GaussianParams:
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
        anchor = x[jnp.argmax(w > 0)]

        def moved(x: Array, w: Array, shift: Array | float) -> Array:
            return jnp.where(w[:, None] > 0, x - anchor[None, :], 0.0) - shift

        def first(x: Array, w: Array) -> Array:
            return jnp.sum(w[:, None] * moved(x, w, 0.0), axis=0)

        shift = sum_chunks(first, x, w) / jnp.sum(w)  # [d]

        def second(x: Array, w: Array) -> Array:
            diff = moved(x, w, shift[None, :])
            weighted = w[:, None] * diff
            return _dot("nd,ne->de", weighted, diff) if self.by_matrices else jnp.sum(weighted * diff, axis=0)

        spread = sum_chunks(second, x, w) / jnp.sum(w)  # [d, d], or [d] where no more is wanted
        covariance = _proper(spread) if self.by_matrices else jnp.diag(self.proper_variances(spread))
        means = jnp.broadcast_to((anchor + shift)[None, :], (n_components, x.shape[1]))
        return GaussianParams(means, self.from_pooled(covariance, n_components))

    def log_prob(self, params: GaussianParams, x: Array) -> Array:
        precisions = self.precisions(params.covariances)
        squares = self.squares(params.means, precisions, x.T)
        return (self._log_constants(params, precisions)[:, None] - 0.5 * squares).T

    def suff_stats(self, params: GaussianParams, x: Array, resp: Array) -> GaussianStats:
        precisions, columns, of_columns = self.precisions(params.covariances), x.T, resp.T
        squares = self.squares(params.means, precisions, columns)
        return self.moments(params.means, precisions, columns, of_columns, squares, _first_moments)

    def block_stats(self, params: GaussianParams, log_weights: Array, x: Array, w: Array) -> Stats:
        return self.pass_stats(params, log_weights, lambda per_block: per_block(x, w, jnp.sum(x**2, axis=0)))

    def pass_stats(
        self, params: GaussianParams, log_weights: Array, over_blocks: Callable[[BlockStats], Stats]
    ) -> Stats:
        means, d = params.means, params.means.shape[1]
        precisions = self.precisions(params.covariances)
        constants = log_weights + self._log_constants(params, precisions)

        def by(squares_of: Callable[..., Array], first_moments: Moments) -> BlockStats:
            def stats(x: Array, w: Array, norms: Array) -> Stats:
                squares = squares_of(means, precisions, x, norms)
                log_prob, resp = normalise(constants[:, None] - 0.5 * squares, axis=0)
                resp = resp * w[None, :]  # [k, b]
                moments = self.moments(means, precisions, x, resp, squares, first_moments)
                return Stats(weighted_sum(w, log_prob), jnp.sum(resp, axis=1), moments)

            return stats

        by_differences = by(lambda means, precisions, x, _: self.squares(means, precisions, x), _first_moments)
        if not self._expands(d):
            return over_blocks(by_differences)
        by_products = by(self.expanded_squares, _expanded_first_moments)
        suffice = all_lanes(self.products_suffice(means, precisions))
        return jax.lax.cond(suffice, lambda: over_blocks(by_products), lambda: over_blocks(by_differences))

    def products_suffice(self, means: Array, precisions: Array) -> Array:
        """Whether distances by products are precise enough, `[]` of bool; not where anything is NaN."""
        d = means.shape[1]
        farthest = jnp.max(self.squares(means, precisions, jnp.zeros((d, 1), means.dtype)))
        return epsilon(means.dtype) * farthest / d <= EXPANSION[jnp.finfo(means.dtype).bits]

    def m_step(self, params: GaussianParams, counts: Array, stats: GaussianStats, prior: Any = None) -> GaussianParams:
        if prior is not None:
            knowledge = of_kind(prior, NormalInverseWishart, self)
            if knowledge:
                return self._penalised_m_step(params, counts, stats, knowledge)
        owned = alive(counts)  # [k]
        delta = jnp.where(owned[:, None], stats.first / _positive(counts)[:, None], 0.0)  # [k, d]
        covariances = self.recentre(stats.second, counts, delta)
        if not self.shared:
            owned = owned.reshape(-1, *(1,) * (covariances.ndim - 1))
            covariances = jnp.where(owned, covariances, params.covariances)
        return GaussianParams(params.means + delta, covariances)

    def _penalised_m_step(
        self, params: GaussianParams, counts: Array, stats: GaussianStats, knowledge: tuple[NormalInverseWishart, ...]
    ) -> GaussianParams:
        """The M-step with conjugate priors. With N_k, x_k, S_k those of the data, and Lambda, nu, kappa, m of the prior,

            mu_k = (N_k x_k + kappa m) / (N_k + kappa),
            Sigma_k = (Lambda + S_k + B_k) / (nu + N_k + [m is given]),  B_k = kappa N_k / (kappa + N_k) (x_k - m)(x_k - m)',

        and for Tied the sums over k of S_k, B_k and N_k + [m is given].            (Fraley and Raftery 2007, section 3)
        """
        k = counts.shape[0]
        owned = alive(counts)  # [k]
        delta = jnp.where(owned[:, None], stats.first / _positive(counts)[:, None], 0.0)  # [k, d]
        within = self.recentre(stats.second, counts, delta)
        degrees, scatter, about_means = _combined(knowledge, counts.dtype)
        moved, between, rows = delta, jnp.zeros((k, *within.shape[0 if self.shared else 1 :]), within.dtype), counts
        if about_means is not None:
            shrinkage, mean = about_means
            apart = params.means + delta - mean[None, :]
            moved = delta - (shrinkage / (counts + shrinkage))[:, None] * apart
            strength = shrinkage * counts / (shrinkage + counts)  # [k]
            between = self.outer(jnp.sqrt(strength)[:, None] * apart)
            rows = counts + 1.0
        if self.shared:
            total = jnp.sum(counts)
            summed = self.from_pooled(scatter, k) + total * within + jnp.sum(between, axis=0)
            return GaussianParams(params.means + moved, summed / (degrees + jnp.sum(rows)))
        column = (k, *(1,) * (within.ndim - 1))
        weight, owned, imagined = counts.reshape(column), owned.reshape(column), (degrees + rows).reshape(column)
        summed = self.from_pooled(scatter, k) + jnp.where(owned, weight * within, 0.0) + between
        known = alive(imagined)
        covariances = jnp.where(known, summed / jnp.where(known, imagined, 1.0), params.covariances)
        return GaussianParams(params.means + moved, covariances)

    def log_prior(self, params: GaussianParams, prior: NormalInverseWishart) -> Array:
        """Log density `[]` of a NormalInverseWishart, up to a constant."""
        k, d = params.means.shape
        precisions = self.precisions(params.covariances)
        log_det = self.log_det(params.covariances, precisions, d)
        penalty = jnp.sum(prior.degrees * log_det + self.traces(precisions, prior.scatter))
        if prior.mean is not None and prior.shrinkage is not None:
            squares = self.squares(params.means, precisions, prior.mean[:, None])[:, 0]
            penalty += jnp.sum(jnp.broadcast_to(log_det, (k,)) + prior.shrinkage * squares)
        return -0.5 * penalty

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
        return params.means[labels] + _dot("nij,nj->ni", factors[labels], noise)

    def place(
        self, params: GaussianParams, x: Array, centres: Array, sample_weight: Array | None = None
    ) -> GaussianParams:
        del x, sample_weight
        return params._replace(means=centres)

    def narrowed(self, params: GaussianParams) -> GaussianParams:
        # axis-parallel boxes of one k-th of the volume; no correlation is carried over from all the data
        k, d = params.means.shape
        pooled = self.variances(params.covariances, k, d)[0]
        return params._replace(covariances=self.from_pooled(jnp.diag(pooled * k ** (-2.0 / d)), k))

    def shift(self, params: GaussianParams, offset: Array) -> GaussianParams:
        return params._replace(means=params.means + offset[None, :])

    def degenerate(self, params: GaussianParams, counts: Array, variance: Array) -> Array:
        inverse_scale = jnp.where(variance > 0, jax.lax.rsqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
        # a constant feature has no scale of its own: it counts as lost where its variance is nothing beside the others'
        least = jnp.maximum(FLAT * epsilon(variance.dtype) * jnp.max(variance), tiny(variance.dtype))
        smallest = self.smallest_eigenvalue(params.covariances, inverse_scale, least)
        d = params.means.shape[1]
        spike = (smallest < MIN_EIGENVALUE) & (counts < FEW * (d + 1))
        flat = smallest < FLAT * epsilon(variance.dtype)
        return spike | flat | (counts < self.min_counts(d))

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

    def row_floats(self, n_components: int, n_features: int) -> int:
        if _at_once(n_features) and not self._expands(n_features):
            return n_components * n_features
        return max(n_components, n_features)

    def _expands(self, d: int) -> bool:
        """Whether there is a form by products, and enough features for it to pay."""
        return d > FEW_FEATURES and type(self).expanded_squares is not _Gaussian.expanded_squares

    def _log_constants(self, params: GaussianParams, precisions: Array) -> Array:
        """What does not depend on x in the log densities, `[k]`."""
        k, d = params.means.shape
        return jnp.broadcast_to(-0.5 * (d * LOG_2PI + self.log_det(params.covariances, precisions, d)), (k,))


@dataclasses.dataclass(frozen=True)
class Spherical(_Gaussian):
    """N(x; mu_j, sigma_j^2 I): one variance `[k]` for each component. The lecture's mixture."""

    def precisions(self, covariances: Array) -> Array:
        return 1.0 / covariances

    def log_det(self, covariances: Array, precisions: Array, d: int) -> Array:
        return d * jnp.log(covariances)

    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        return _distances(means, x) * precisions[:, None]

    def expanded_squares(self, means: Array, precisions: Array, x: Array, norms: Array) -> Array:
        return _expanded_distances(means, x, norms) * precisions[:, None]

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: Moments
    ) -> GaussianStats:
        # a square that overflows belongs to a row that is not of the component: 0 times infinity is NaN
        second = jnp.sum(jnp.where(resp > 0, resp * squares, 0.0), axis=1) / precisions
        return GaussianStats(first_moments(means, x, resp), second)

    def row_floats(self, n_components: int, n_features: int) -> int:
        return n_components if self._expands(n_features) else n_components * n_features

    def recentre(self, second: Array, counts: Array, delta: Array) -> Array:
        moved = jnp.sum(delta**2, axis=1)
        return (second / _positive(counts) - moved + _cancelled(moved)) / delta.shape[1]

    def outer(self, moves: Array) -> Array:
        return jnp.mean(moves**2, axis=1)

    def traces(self, precisions: Array, scatter: Array) -> Array:
        return jnp.trace(scatter) * precisions

    def inverse_wishart(self, degrees: float, scale: Array) -> tuple[float, Array]:
        d = scale.shape[0]
        return (degrees + 2.0) / d, jnp.eye(d, dtype=scale.dtype) * (jnp.trace(scale) / d**2)

    def proper_variances(self, variances: Array) -> Array:
        return jnp.where(jnp.any(variances > 0), variances, 1.0)  # constant features count in the mean over all

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return jnp.full(k, jnp.trace(covariance) / covariance.shape[0])

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return covariances[:, None, None] * jnp.eye(d, dtype=covariances.dtype)[None]

    def min_counts(self, d: int) -> int:
        return min(d + 1, 10)

    def smallest_eigenvalue(self, covariances: Array, inverse_scale: Array, least: Array) -> Array:
        # a feature without variance is no direction to collapse in: sigma^2 is shared with the others
        shortest = jnp.min(jnp.where(inverse_scale > 0, inverse_scale, jnp.inf))
        return jnp.where(jnp.isfinite(shortest), covariances * shortest**2, jnp.where(covariances < least, 0.0, 1.0))

    def unconstrain_covariances(self, covariances: Array) -> Array:
        return _log(covariances)

    def constrain_covariances(self, free: Array, k: int, d: int) -> Array:
        return jnp.exp(free)

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return jax.lax.rsqrt(0.5 * d * weights)


@dataclasses.dataclass(frozen=True)
class Diagonal(_Gaussian):
    """N(x; mu_j, diag(v_j)): a variance `[k, d]` for each component and feature."""

    def precisions(self, covariances: Array) -> Array:
        return 1.0 / covariances

    def log_det(self, covariances: Array, precisions: Array, d: int) -> Array:
        return jnp.sum(jnp.log(covariances), axis=1)

    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        def of_one(mean: Array, inverse: Array) -> Array:
            return jnp.sum(_difference(mean, x) ** 2 * inverse[:, None], axis=0)

        return _over_components(of_one, x.shape[0])(means, precisions)

    def expanded_squares(self, means: Array, precisions: Array, x: Array, norms: Array) -> Array:
        del norms
        scaled = precisions * means
        products = _dot("kd,db->kb", precisions, x**2) - 2.0 * _dot("kd,db->kb", scaled, x)
        return jnp.maximum(products + jnp.sum(scaled * means, axis=1)[:, None], 0.0)

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: Moments
    ) -> GaussianStats:
        def of_one(mean: Array, resp: Array) -> Array:
            return _dot("db,b->d", _difference(mean, x) ** 2, resp)

        second = _over_components(of_one, x.shape[0])(means, resp)
        return GaussianStats(first_moments(means, x, resp), second)

    def recentre(self, second: Array, counts: Array, delta: Array) -> Array:
        return second / _positive(counts)[:, None] - delta**2 + _cancelled(delta**2)

    def outer(self, moves: Array) -> Array:
        return moves**2

    def traces(self, precisions: Array, scatter: Array) -> Array:
        return jnp.sum(precisions * jnp.diagonal(scatter)[None, :], axis=1)

    def inverse_wishart(self, degrees: float, scale: Array) -> tuple[float, Array]:
        d = scale.shape[0]
        return degrees + 2.0, jnp.eye(d, dtype=scale.dtype) * (jnp.trace(scale) / d)

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return jnp.broadcast_to(jnp.diagonal(covariance)[None, :], (k, covariance.shape[0]))

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return covariances[:, :, None] * jnp.eye(d, dtype=covariances.dtype)[None]

    def min_counts(self, d: int) -> int:
        return min(d + 1, 10)

    def smallest_eigenvalue(self, covariances: Array, inverse_scale: Array, least: Array) -> Array:
        alone = jnp.where(covariances < least, 0.0, 1.0)
        varies = jnp.broadcast_to(inverse_scale[None, :] > 0, covariances.shape)
        return jnp.min(jnp.where(varies, covariances * inverse_scale[None, :] ** 2, alone), axis=1)

    def unconstrain_covariances(self, covariances: Array) -> Array:
        return _log(covariances).ravel()

    def constrain_covariances(self, free: Array, k: int, d: int) -> Array:
        return jnp.exp(free).reshape(k, d)

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return jnp.repeat(jax.lax.rsqrt(0.5 * weights), d)


class _ByMatrices(_Gaussian):
    """What Full and Tied share: covariances are matrices, measured with inv(L)."""

    by_matrices: ClassVar[bool] = True

    def precisions(self, covariances: Array) -> Array:
        return _whitener(covariances)

    def log_det(self, covariances: Array, precisions: Array, d: int) -> Array:
        return _log_det(covariances, precisions)

    def outer(self, moves: Array) -> Array:
        return moves[:, :, None] * moves[:, None, :]

    def traces(self, precisions: Array, scatter: Array) -> Array:
        return jnp.sum(_dot("...ij,jk->...ik", precisions, scatter) * precisions, axis=(-2, -1))

    def inverse_wishart(self, degrees: float, scale: Array) -> tuple[float, Array]:
        return degrees + scale.shape[0] + 1.0, scale

    def variances(self, covariances: Array, k: int, d: int) -> Array:
        return jnp.broadcast_to(jnp.diagonal(covariances, axis1=-2, axis2=-1), (k, d))

    def sizes(self, covariances: Array) -> Array:
        deviations = jnp.sqrt(jnp.diagonal(covariances, axis1=-2, axis2=-1))
        return deviations[..., :, None] * deviations[..., None, :]

    def smallest_eigenvalue(self, covariances: Array, inverse_scale: Array, least: Array) -> Array:
        return _smallest_eigenvalue(covariances, inverse_scale, least)

    def check(self, params: GaussianParams) -> str | None:
        matrices = np.asarray(params.covariances)
        deviations = np.sqrt(np.maximum(np.diagonal(matrices, axis1=-2, axis2=-1), 0))
        unit = deviations[..., :, None] * deviations[..., None, :]
        symmetric = np.all(np.abs(matrices - np.swapaxes(matrices, -1, -2)) <= ASYMMETRY * unit)
        try:
            np.linalg.cholesky(matrices)
        except np.linalg.LinAlgError:
            return NOT_PROPER
        return None if symmetric else NOT_PROPER


@dataclasses.dataclass(frozen=True)
class Full(_ByMatrices):
    """N(x; mu_j, Sigma_j): a covariance matrix `[k, d, d]` for each component."""

    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        return _whitened_squares(means, precisions, x)

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: Moments
    ) -> GaussianStats:
        def of_one(mean: Array, resp: Array) -> GaussianStats:
            diff = _difference(mean, x)
            weighted = resp[None, :] * diff
            return GaussianStats(jnp.sum(weighted, axis=1), _dot("ib,jb->ij", weighted, diff))

        return _over_components(of_one, x.shape[0])(means, resp)

    def recentre(self, second: Array, counts: Array, delta: Array) -> Array:
        return _recentred(second / _positive(counts)[:, None, None], self.outer(delta))

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return jnp.broadcast_to(covariance[None], (k, *covariance.shape))

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return covariances

    def min_counts(self, d: int) -> int:
        return d + 1

    def unconstrain_covariances(self, covariances: Array) -> Array:
        return jax.vmap(_log_cholesky)(covariances).ravel()

    def constrain_covariances(self, free: Array, k: int, d: int) -> Array:
        return jax.vmap(lambda row: _from_log_cholesky(row, d))(free.reshape(k, -1))

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return (jax.vmap(_log_cholesky_units)(covariances) * jax.lax.rsqrt(weights)[:, None]).ravel()


@dataclasses.dataclass(frozen=True)
class Tied(_ByMatrices):
    """N(x; mu_j, Sigma): one covariance matrix `[d, d]` shared by all components."""

    shared: ClassVar[bool] = True

    def subset(self, params: GaussianParams, index: Any) -> tuple[Family, GaussianParams]:
        return self, params._replace(means=params.means[index])

    def squares(self, means: Array, precisions: Array, x: Array) -> Array:
        return _whitened_squares(means, jnp.broadcast_to(precisions[None], (means.shape[0], *precisions.shape)), x)

    def expanded_squares(self, means: Array, precisions: Array, x: Array, norms: Array) -> Array:
        del norms
        white = _dot("ij,jb->ib", precisions, x)
        return _expanded_distances(_dot("ij,kj->ki", precisions, means), white, jnp.sum(white**2, axis=0))

    def moments(
        self, means: Array, precisions: Array, x: Array, resp: Array, squares: Array, first_moments: Moments
    ) -> GaussianStats:
        w = jnp.sum(resp, axis=0)  # [b]
        posterior = resp * (1.0 / jnp.where(w > 0, w, 1.0))[None, :]
        # about one of the means: an offset common to all rows costs no digit
        residual = _difference(means[0], x) - _dot("kd,kb->db", means - means[:1], posterior)
        shared = _dot("jb,lb->jl", resp, posterior)  # [k, k]
        apart = means[:, None, :] - means[None, :, :]  # [k, k, d]
        between = 0.5 * _dot("jli,jlm->im", shared[:, :, None] * apart, apart)
        second = _dot("ib,jb->ij", w[None, :] * residual, residual) + between
        return GaussianStats(first_moments(means, x, resp), second)

    def recentre(self, second: Array, counts: Array, delta: Array) -> Array:
        total = jnp.sum(counts)
        return _recentred(second / total, _dot("ki,kj->ij", (counts / total)[:, None] * delta, delta))

    def from_pooled(self, covariance: Array, k: int) -> Array:
        return covariance

    def as_matrices(self, covariances: Array, k: int, d: int) -> Array:
        return jnp.broadcast_to(covariances[None], (k, d, d))

    def min_counts(self, d: int) -> int:
        return min(d + 1, 10)

    def unconstrain_covariances(self, covariances: Array) -> Array:
        return _log_cholesky(covariances)

    def constrain_covariances(self, free: Array, k: int, d: int) -> Array:
        return _from_log_cholesky(free, d)

    def covariance_units(self, covariances: Array, weights: Array, d: int) -> Array:
        return _log_cholesky_units(covariances)


# -- steps --------------------------------------------------------------------------------------------------------------


def _dot(subscripts: str, *operands: Array) -> Array:
    # HIGHEST: by default a GPU may multiply in TF32 and a TPU in bfloat16, which destroys covariances
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


def _at_once(d: int) -> bool:
    """Whether differences from all means are worked on at once, in an array `[k, d, b]`."""
    return d <= FEW_FEATURES or jax.default_backend() != "cpu"


def _over_components(of_one: Callable[..., Any], d: int) -> Callable[..., Any]:
    """`of_one(leaf of component, ...)` for all: at once, or on a CPU with many features one after the other."""
    if _at_once(d):
        return jax.vmap(of_one)
    return lambda *leaves: jax.lax.map(lambda component: of_one(*component), leaves)


def _first_moments(means: Array, x: Array, resp: Array) -> Array:
    """sum_b resp_jb (x_b - m_j), `[k, d]`, from differences."""

    def of_one(mean: Array, resp: Array) -> Array:
        return _dot("db,b->d", _difference(mean, x), resp)

    return _over_components(of_one, x.shape[0])(means, resp)


def _expanded_first_moments(means: Array, x: Array, resp: Array) -> Array:
    """The same by a product of matrices."""
    return _dot("kb,db->kd", resp, x) - jnp.sum(resp, axis=1)[:, None] * means


def _distances(means: Array, x: Array) -> Array:
    """|x - m|^2, `[k, b]`, from differences."""
    return jnp.sum(jax.vmap(_difference, (0, None))(means, x) ** 2, axis=1)


def _expanded_distances(means: Array, x: Array, norms: Array) -> Array:
    """The same by a product of matrices, given |x|^2 `[b]`."""
    products = norms[None, :] - 2.0 * _dot("kd,db->kb", means, x)
    return jnp.maximum(products + jnp.sum(means**2, axis=1)[:, None], 0.0)


def _whitened_squares(means: Array, whiteners: Array, x: Array) -> Array:
    """|inv(L_j) (x - m_j)|^2, `[k, b]`, from differences."""

    def of_one(mean: Array, whitener: Array) -> Array:
        return jnp.sum(_dot("ij,jb->ib", whitener, _difference(mean, x)) ** 2, axis=0)

    return _over_components(of_one, x.shape[0])(means, whiteners)


def _difference(mean: Array, x: Array) -> Array:
    """Columns `x` `[d, b]` less a mean `[d]`."""
    # beware: XLA's CPU compiler (jax 0.10.2, YNN fusion) makes of a matrix product with a plainly broadcast operand, as
    # the derivative by the mean would be, a read of memory nobody wrote (tests/test_loop); x == x hides the broadcast
    return x - jnp.where(x == x, mean[:, None], jnp.nan)


def _positive(counts: Array) -> Array:
    return jnp.where(alive(counts), counts, 1.0)


def _cancelled(moved: Array) -> Array:
    # subtracting delta^2 from a second moment leaves an error of a few units of rounding of delta^2: err upwards
    return CANCELLATION * epsilon(moved.dtype) * moved


def _recentred(second: Array, moved: Array) -> Array:
    """Covariance matrices `[..., d, d]` from moments about the old mean and the outer product of the mean's move."""
    identity = jnp.broadcast_to(jnp.eye(moved.shape[-1], dtype=moved.dtype), moved.shape)
    covariances = second - moved + identity * _cancelled(moved)
    return 0.5 * (covariances + jnp.swapaxes(covariances, -1, -2))


def _whitener(covariances: Array) -> Array:
    """inv(L) for Sigma = L L' `[..., d, d]`; NaN where Sigma is not positive definite."""
    return _factors(covariances)[1]


def _smallest_eigenvalue(covariances: Array, inverse_scale: Array, least: Array) -> Array:
    """Smallest eigenvalue `[...]` of S Sigma S, S = diag(inverse_scale), to 1e-6; 0 if it is singular to rounding.

    It is 1 / lambda of the inverse B, and lambda = lim tr(B^(2^m))^(1 / 2^m): squarings, each scaled to trace 1, and no
    LAPACK (see `_factors`); m of them leave a relative error of log(d) / 2^m.
    """
    whiteners, variances = _whitener(covariances), jnp.diagonal(covariances, axis1=-2, axis2=-1)
    constant = jnp.broadcast_to(inverse_scale == 0, variances.shape)
    own = jax.lax.rsqrt(jnp.maximum(variances, least))
    scale = jnp.where(constant, own, jnp.broadcast_to(inverse_scale, variances.shape))
    rooted = whiteners / scale[..., None, :]
    inverse = _dot("...ji,...jk->...ik", rooted, rooted)

    def square(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, log_largest = carry
        trace = jnp.trace(power, axis1=-2, axis2=-1)
        power = power / trace[..., None, None]
        return _dot("...ij,...jk->...ik", power, power), log_largest + jnp.log(trace) * 0.5**i

    log_largest = jax.lax.fori_loop(0, SQUARINGS, square, (inverse, jnp.zeros(inverse.shape[:-2], inverse.dtype)))[1]
    lost = jnp.any(constant & (variances < least), axis=-1)
    singular = jnp.isnan(_log_det(covariances, whiteners)) | lost | ~jnp.isfinite(log_largest)
    return jnp.where(singular, 0.0, jnp.exp(-log_largest))


def _combined(
    knowledge: tuple[NormalInverseWishart, ...], dtype: Any
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Degrees and scatter of several priors at once, and what one of them says of the means."""
    degrees = functools.reduce(jnp.add, [jnp.asarray(part.degrees, dtype) for part in knowledge])
    scatter = functools.reduce(jnp.add, [jnp.asarray(part.scatter, dtype) for part in knowledge])
    means = [part for part in knowledge if part.mean is not None]
    if len(means) > 1:
        raise ValueError(f"prior speaks of the means {len(means)} times; add priors of which at most one does")
    about_means = [(jnp.asarray(part.shrinkage, dtype), jnp.asarray(part.mean, dtype)) for part in means]
    return degrees, scatter, about_means[0] if about_means else None


def _log_det(covariances: Array, whiteners: Array) -> Array:
    """log |Sigma| of `[..., d, d]`, given inv(L); NaN where Sigma is not positive definite, to rounding."""
    inverse = jnp.diagonal(whiteners, axis1=-2, axis2=-1)  # [..., d], of deviations given the features before
    given = jnp.diagonal(covariances, axis1=-2, axis2=-1)
    proper = jnp.all(inverse**2 * given * SINGULAR * epsilon(given.dtype) < 1.0, axis=-1)
    return jnp.where(proper, -2.0 * jnp.sum(jnp.log(inverse), axis=-1), jnp.nan)


@jax.custom_jvp
def _factors(matrices: Array) -> tuple[Array, Array]:
    """L and inv(L) of symmetric `[..., d, d]` = L L'; NaN where they are not positive definite.

    Beware: on a CPU LAPACK is not used in a pass. Its batched calls wait for XLA's threads on one of them, so that two
    devices can wait for each other for ever; its triangular solver starts threads of OpenBLAS, which spin for many passes.
    """
    if jax.default_backend() != "cpu":
        factors = jnp.linalg.cholesky(matrices)
        identity = jnp.broadcast_to(jnp.eye(matrices.shape[-1], dtype=matrices.dtype), matrices.shape)
        return factors, jax.lax.linalg.triangular_solve(factors, identity, left_side=True, lower=True)
    return _factors_by_halves(matrices)


@_factors.defjvp
def _factors_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    factors, inverses = _factors(*primals)
    # dL = L low(inv(L) dSigma inv(L)'), low: the lower triangle with half the diagonal (Murray 2016, equation 8)
    white = _dot("...ij,...jk,...lk->...il", inverses, tangents[0], inverses)
    moved = _dot("...ij,...jk->...ik", factors, jnp.tril(white) - 0.5 * _diagonal_part(white))
    return (factors, inverses), (moved, -_dot("...ij,...jk,...kl->...il", inverses, moved, inverses))


def _diagonal_part(matrices: Array) -> Array:
    return matrices * jnp.broadcast_to(jnp.eye(matrices.shape[-1], dtype=matrices.dtype), matrices.shape)


def _factors_by_halves(matrices: Array) -> tuple[Array, Array]:
    """`_factors` by halves down to `LEAF`, then column by column (Golub and Van Loan 2013, 4.2 and 3.1)."""
    d = matrices.shape[-1]
    if d <= LEAF:
        return _factors_by_columns(matrices)
    h = d // 2
    top, inverse_top = _factors_by_halves(matrices[..., :h, :h])
    across = _dot("...ij,...kj->...ik", matrices[..., h:, :h], inverse_top)
    rest = matrices[..., h:, h:] - _dot("...ij,...kj->...ik", across, across)
    bottom, inverse_bottom = _factors_by_halves(rest)
    below = -_dot("...ij,...jk,...kl->...il", inverse_bottom, across, inverse_top)
    zeros = jnp.zeros((*matrices.shape[:-2], h, d - h), matrices.dtype)
    return _of_quarters(top, zeros, across, bottom), _of_quarters(inverse_top, zeros, below, inverse_bottom)


def _of_quarters(top: Array, zeros: Array, below: Array, bottom: Array) -> Array:
    upper, lower = jnp.concatenate([top, zeros], axis=-1), jnp.concatenate([below, bottom], axis=-1)
    return jnp.concatenate([upper, lower], axis=-2)


def _factors_by_columns(matrices: Array) -> tuple[Array, Array]:
    d = matrices.shape[-1]
    index = jnp.arange(d)
    identity = jnp.broadcast_to(jnp.eye(d, dtype=matrices.dtype), matrices.shape)

    def add_column(j: Array, factors: Array) -> Array:
        column = matrices[..., :, j] - _dot("...ik,...k->...i", factors, factors[..., j, :])
        column = column / jnp.sqrt(column[..., j])[..., None]
        return factors.at[..., :, j].set(jnp.where(jnp.broadcast_to(index >= j, column.shape), column, 0.0))

    def add_row(i: Array, inverse: Array) -> Array:
        row = identity[..., i, :] - _dot("...j,...jk->...k", factors[..., i, :], inverse)
        return inverse.at[..., i, :].set(row / factors[..., i, i][..., None])

    factors = jax.lax.fori_loop(0, d, add_column, jnp.zeros_like(matrices))
    return factors, jax.lax.fori_loop(0, d, add_row, jnp.zeros_like(matrices))


def _log(variances: Array) -> Array:
    return jnp.log(jnp.maximum(variances, tiny(variances.dtype)))


def _log_cholesky(covariance: Array) -> Array:
    """The lower Cholesky factor of a `[d, d]` matrix, diagonal logged, `[d (d + 1) / 2]` (Pinheiro and Bates 1996)."""
    factor = _factors(covariance)[0]
    deviations = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), tiny(covariance.dtype)))
    # a matrix that is not positive definite still has coordinates: those of its diagonal
    factor = jnp.where(jnp.all(jnp.isfinite(factor)), factor, jnp.diag(deviations))
    rows, columns = jnp.tril_indices(covariance.shape[0])
    entries = factor[rows, columns]
    return jnp.where(rows == columns, jnp.log(jnp.where(rows == columns, entries, 1.0)), entries)


def _log_cholesky_units(covariance: Array) -> Array:
    """Standard errors of `_log_cholesky`'s coordinates from one row: 1 / sqrt(2) of a logarithm, else L_ii."""
    rows, columns = jnp.tril_indices(covariance.shape[0])
    own = jnp.diagonal(_factors(covariance)[0])  # [d]
    own = jnp.where(own > 0, own, jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), tiny(covariance.dtype))))
    return jnp.where(rows == columns, math.sqrt(0.5), own[rows])


def _from_log_cholesky(free: Array, d: int) -> Array:
    rows, columns = jnp.tril_indices(d)
    entries = jnp.where(rows == columns, jnp.exp(jnp.where(rows == columns, free, 0.0)), free)
    factor = jnp.zeros((d, d), free.dtype).at[rows, columns].set(entries)
    return _dot("ij,kj->ik", factor, factor)


def _proper(covariance: Array) -> Array:
    """A pooled covariance `[d, d]` that has a density: constant features get variance 1, collinear ones a little noise.

    Only a start is made proper like this; what the data cannot determine ends as a DEGENERATE status, not as a guess.
    """
    variances = jnp.diagonal(covariance)
    constant = jnp.diag(jnp.where(variances > 0, 0.0, 1.0)).astype(covariance.dtype)
    noise = jnp.diag(max(1e-6, 16 * SINGULAR * epsilon(covariance.dtype)) * variances)
    covariance = covariance + constant
    proper = jnp.isfinite(_log_det(covariance, _whitener(covariance)))
    return covariance + jnp.where(proper, 0.0, noise)


def as_moments(family: Family, params: Any) -> tuple[Array, Array]:
    """Means `[k, d]` and covariances as matrices `[k, d, d]`, for what looks at Gaussians from outside.

    Raises:
        ValueError: for a family without them.
    """
    if not isinstance(family, _Gaussian):
        raise ValueError(f"mixture has family {type(family).__name__}, which has no covariances; give Gaussians")
    k, d = params.means.shape
    return params.means, family.as_matrices(params.covariances, k, d)
