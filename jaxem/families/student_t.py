"""Student's t: Gaussian components with heavy tails, which outliers do not move.

    log t(x; mu, Sigma, nu) = log Gamma((nu + d) / 2) - log Gamma(nu / 2) - 1/2 (d log(nu pi) + log |Sigma|)
                              - (nu + d) / 2  log(1 + delta / nu),        delta = (x - mu)' inv(Sigma) (x - mu).

A row is Gaussian with covariance Sigma / tau given its latent scale tau ~ Gamma(nu / 2, rate nu / 2). Given the row, tau is
Gamma(a, rate b) with a = (nu + d) / 2 and b = (nu + delta) / 2. With u = E tau = a / b and v = E log tau = psi(a) - log b, the
M-step is (Liu and Rubin 1995; Peel and McLachlan 2000)

    mu = sum r u x / sum r u,    Sigma = sum r u (x - mu)(x - mu)' / sum r,
    log(nu / 2) - psi(nu / 2) = sum r (u - v) / sum r - 1,

and what it raises is the expected log density of row and scale, less that of the scale at the old parameters.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma, gammaln, polygamma

from jaxem.distances import first_moments_by_differences
from jaxem.families.base import Family
from jaxem.families.gaussian import GaussianParams, GaussianStats
from jaxem.families.holdable import Holdable, without_moves
from jaxem.families.incomplete import Seeing
from jaxem.families.matrices import Full
from jaxem.observed import LOG_2PI, bound_of_seen, moments_of_seen, see
from jaxem.primitives import alive, compact, epsilon, normalise, positive, weighted_sum
from jaxem.priors import NormalInverseWishart
from jaxem.stats import Stats

LEAST_DOF, MOST_DOF, FIRST_DOF = 0.5, 1e3, 10.0
"""degrees of freedom are estimated between the first two, and begin at the third: below the first the likelihood of a point
has no bound, above the second the density is that of a Gaussian"""
LARGE = 16.0
"""half the degrees of freedom from which Stirling's series is exact to rounding"""
NEWTON_STEPS = 8
"""steps that solve the equation of the degrees of freedom"""
RANGE = math.log(MOST_DOF / LEAST_DOF)
NORMAL = Full()
"""what a component is, given the latent scales"""


@compact
class StudentTParams(NamedTuple):
    """Means `[k, d]`, scales `[k, d, d]` (matrices, not covariances) and degrees of freedom `[k]`."""

    means: Array
    scales: Array
    dofs: Array


class StudentTStats(NamedTuple):
    """Moments of rows that count u times, whose `degrees` count them once; sum r (u - v) and sum r, `[k]`."""

    moments: GaussianStats
    excess: Array
    counts: Array


@dataclasses.dataclass(frozen=True, repr=False)
class StudentT(Seeing, Holdable):
    """Student's t with a scale matrix `[k, d, d]` for each component and its degrees of freedom `[k]`.

    Robust where `Full` is not: a row far away counts little. `dof` fixes the degrees of freedom of all components; by
    default each component's are estimated, between 0.5 and 1,000. A prior on covariances speaks of the scales.
    With `missing=True` NaN is a value that was not observed.
    """

    dof: float | None = None
    missing: bool = False

    location = True
    conjugate = (NormalInverseWishart,)
    holdable = ("means", "scales", "dofs")
    spread = "scales"

    def __post_init__(self) -> None:
        if self.dof is not None:
            is_number = isinstance(self.dof, (int, float, np.number)) and not isinstance(self.dof, bool)
            if not is_number or not 0 < self.dof < 1e300:
                raise ValueError(f"dof = {self.dof!r}; give a positive number, or None to estimate it")
            object.__setattr__(self, "dof", float(self.dof))
        super().__post_init__()

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> StudentTParams:
        pooled = Full(self.missing).init(x, n_components, sample_weight)
        first = FIRST_DOF if self.dof is None else self.dof
        return StudentTParams(*pooled, jnp.full(n_components, first, pooled.means.dtype))

    @property
    def by_pattern(self) -> bool:
        return self.missing

    def impute(self, params: StudentTParams, resp: Array, x: Array, run: int = 1) -> Array:
        return Full(self.missing).impute(_normal(params), resp, x, run)

    def see(self, params: StudentTParams, x: Array, run: int) -> tuple[Array, Callable[[Array], StudentTStats]]:
        seen, dof = see(params.means, params.scales, x, run), params.dofs[:, None]
        sizes = range(x.shape[0] + 1)
        a, b = 0.5 * (dof + seen.counts[None, :]), 0.5 * (dof + seen.squares)

        def stats(resp: Array) -> StudentTStats:
            counted, counts = resp * a / b, jnp.sum(resp, axis=1)
            digammas = seen.of_counts([digamma(0.5 * (params.dofs + i)) for i in sizes])
            excess = jnp.sum(resp * (a / b + jnp.log(b) - digammas), axis=1)
            moments = GaussianStats(jnp.sum(counted, axis=1), counts, *moments_of_seen(seen, counted, resp))
            return StudentTStats(moments, excess, counts)

        ratio = seen.of_counts([_log_gamma_ratio(0.5 * params.dofs, i) for i in sizes])
        volumes = seen.log_dets + LOG_2PI * seen.counts[None, :]
        return ratio - 0.5 * volumes - a * jnp.log1p(seen.squares / dof), stats

    def log_prob(self, params: StudentTParams, x: Array) -> Array:
        if self.missing:
            return self.see(params, x.T, 1)[0].T
        return self._block(self.prepare(params), x.T)[0].T

    def suff_stats(self, params: StudentTParams, x: Array, resp: Array) -> StudentTStats:
        if self.missing:
            return self.see(params, x.T, 1)[1](resp.T)
        prepared = self.prepare(params)
        return self._stats(prepared, x.T, resp.T, self._block(prepared, x.T)[1])

    def prepare(self, params: StudentTParams, log_weights: Array | None = None) -> Any:
        if self.missing:
            return self.prepare_seeing(params, log_weights)
        normal = NORMAL.prepare(_normal(params), log_weights)
        d, dof = params.means.shape[1], params.dofs
        return normal._replace(constants=normal.constants + _log_gamma_ratio(0.5 * dof, d)), dof

    def block_stats(self, prepared: Any, x: Array, w: Array, norms: Array) -> Stats:
        del norms
        if self.missing:
            return self.stats_of_runs(prepared, x, w, 1)
        log_joint, squares = self._block(prepared, x)
        log_prob, resp = normalise(log_joint, axis=0)
        resp = resp * w[None, :]  # [k, b]
        return Stats(weighted_sum(w, log_prob), jnp.sum(resp, axis=1), self._stats(prepared, x, resp, squares))

    def m_step(self, params: StudentTParams, stats: StudentTStats) -> StudentTParams:
        normal = NORMAL.m_step(_normal(params), stats.moments)
        if self.dof is not None:
            return StudentTParams(*normal, params.dofs)
        owned = alive(stats.counts)
        dofs = _solve_dof(stats.excess / positive(stats.counts) - 1.0)
        return StudentTParams(*normal, jnp.where(owned, dofs, params.dofs))

    def m_step_held(self, params: StudentTParams, stats: StudentTStats, held: StudentTParams) -> StudentTParams:
        return self.m_step(params, stats._replace(moments=without_moves(stats.moments, np.asarray(held.means))))

    def imagined_held(self, params: StudentTParams, stats: Any, prior: Any, held: StudentTParams) -> StudentTStats:
        return self.imagined(params, stats, prior, held.means)

    def move_stats(self, old: StudentTParams, new: StudentTParams, stats: StudentTStats) -> StudentTStats:
        return stats._replace(moments=NORMAL.move_stats(_normal(old), _normal(new), stats.moments))

    def expected(self, params: StudentTParams, stats: StudentTStats) -> Array:
        # of a scale: its E (log tau - tau) is -excess, beside terms without parameters
        half = 0.5 * params.dofs
        of_scales = stats.counts * (half * jnp.log(half) - gammaln(half)) - half * stats.excess
        return NORMAL.expected(_normal(params), stats.moments) + jnp.sum(of_scales)

    def bound(self, new: StudentTParams, old: StudentTParams, x: Array) -> Array:
        dof, dof_new = old.dofs[:, None], new.dofs[:, None]
        seen = see(old.means, old.scales, x.T, 1) if self.missing else None
        d = jnp.full(x.shape[:1], x.shape[1], x.dtype)[None, :] if seen is None else seen.counts[None, :]
        squares = NORMAL.squares(old.means, NORMAL.precisions(old.scales), x.T) if seen is None else seen.squares
        a, b = 0.5 * (dof + d), 0.5 * (dof + squares)
        u, v = a / b, digamma(a) - jnp.log(b)
        entropy = a - jnp.log(b) + gammaln(a) + (1.0 - a) * digamma(a)
        if seen is None:
            there = NORMAL.prepare(_normal(new))
            of_row = there.constants[:, None] - 0.5 * u * NORMAL.squares(there.means, there.precisions, x.T)
        else:
            of_row = bound_of_seen(new.means, new.scales, old.means, seen, u)
        half = 0.5 * dof_new
        of_scale = half * jnp.log(half) - gammaln(half) + (half - 1.0) * v - half * u
        return (of_row + 0.5 * d * v + of_scale + entropy).T

    def unconstrain(self, params: StudentTParams) -> Array:
        free = NORMAL.unconstrain(_normal(params))
        if self.dof is not None:
            return free
        # a logit of the logarithm, so that both ends are far away and derivatives vanish there
        place = jnp.log(params.dofs / LEAST_DOF) / RANGE
        edge = epsilon(place.dtype)
        return jnp.concatenate([free, jax.scipy.special.logit(jnp.clip(place, edge, 1.0 - edge))])

    def constrain(self, params: StudentTParams, free: Array) -> StudentTParams:
        p = free.shape[0] - (params.dofs.shape[0] if self.dof is None else 0)
        normal = NORMAL.constrain(_normal(params), free[:p])
        dofs = params.dofs if self.dof is not None else LEAST_DOF * jnp.exp(RANGE * jax.nn.sigmoid(free[p:]))
        return StudentTParams(*normal, dofs)

    def units(self, params: StudentTParams, weights: Array) -> Array:
        units = NORMAL.units(_normal(params), weights)
        if self.dof is not None:
            return units
        place = jnp.log(params.dofs / LEAST_DOF) / RANGE
        stretch = jnp.maximum(RANGE * place * (1.0 - place), 0.1)  # log dofs have errors of about sqrt(2 / count)
        return jnp.concatenate([units, jnp.sqrt(2.0 / weights) / stretch])

    def sample(self, key: Array, params: StudentTParams, labels: Array) -> Array:
        row_key, scale_key = jax.random.split(key)
        half = 0.5 * params.dofs[labels]
        scale = jax.random.gamma(scale_key, half) / half
        centred = _normal(params)._replace(means=jnp.zeros_like(params.means))
        return params.means[labels] + NORMAL.sample(row_key, centred, labels) * jax.lax.rsqrt(scale)[:, None]

    def place(self, params: Any, x: Array, centres: Array, sample_weight: Any = None, *, narrow: Any = 0) -> Any:
        normal = NORMAL.place(_normal(params), x, centres, sample_weight, narrow=narrow)
        return StudentTParams(normal.means, normal.covariances, params.dofs)

    def shift(self, params: StudentTParams, offset: Array) -> StudentTParams:
        return params._replace(means=params.means + offset[None, :])

    def degenerate(self, params: StudentTParams, counts: Array, variance: Array) -> Array:
        return NORMAL.degenerate(_normal(params), counts, variance)

    def log_prior(self, params: StudentTParams, prior: NormalInverseWishart) -> Array:
        return NORMAL.log_prior(_normal(params), prior)

    def imagined(
        self, params: StudentTParams, stats: StudentTStats, prior: NormalInverseWishart, still: Any = None
    ) -> StudentTStats:
        nothing = jnp.zeros_like(stats.counts)
        return StudentTStats(NORMAL.imagined(_normal(params), stats.moments, prior, still), nothing, nothing)

    def is_bounded(self, params: StudentTParams, prior: NormalInverseWishart, variance: Array) -> Array:
        return NORMAL.is_bounded(_normal(params), prior, variance)

    def step_size(self, old: StudentTParams, new: StudentTParams) -> Array:
        of_dofs = jnp.max(jnp.abs(jnp.log(new.dofs / old.dofs))) / RANGE
        return jnp.maximum(NORMAL.step_size(_normal(old), _normal(new)), of_dofs)

    def marginal(self, params: StudentTParams, columns: np.ndarray) -> tuple[Family, StudentTParams]:
        return self, StudentTParams(*NORMAL.marginal(_normal(params), columns)[1], params.dofs)

    def conditional(
        self, params: StudentTParams, columns: np.ndarray, values: Array, others: np.ndarray
    ) -> tuple[Family, StudentTParams, Array]:
        _, given = self.marginal(params, columns)
        normal = NORMAL.conditional(_normal(params), columns, values, others)[1]
        squares = NORMAL.squares(given.means, NORMAL.precisions(given.scales), values[:, None])[:, 0]
        more = params.dofs + columns.size  # (Ding 2016)
        stretch = (params.dofs + squares) / more
        family = self if self.dof is None else StudentT(self.dof + columns.size, self.missing)
        scales = normal.covariances * stretch[:, None, None]
        return family, StudentTParams(normal.means, scales, more), self.log_prob(given, values[None, :])[0]

    def n_features(self, params: StudentTParams) -> int:
        return params.means.shape[-1]

    def as_gaussians(self, params: StudentTParams) -> GaussianParams:
        """Means `[k, d]` and scales `[k, d, d]`, as those of Full."""
        return _normal(params)

    def table(self, params: StudentTParams) -> dict[str, Any]:
        shown = NORMAL.table(_normal(params))
        return {"mean": shown["mean"], "scale": shown["sd"], "dof": params.dofs}

    def check(self, params: StudentTParams) -> str | None:
        if not np.all(params.dofs > 0):
            return "dofs holds values that are not positive"
        if self.dof is not None and not np.allclose(params.dofs, self.dof, rtol=1e-5):
            return f"dofs are not {self.dof:g}, that of the family"
        wrong = NORMAL.check(_normal(params))
        return None if wrong is None else wrong.replace("covariances", "scales")

    def row_floats(self, n_components: int, n_features: int) -> int:
        return Full(self.missing).row_floats(n_components, n_features)

    def _block(self, prepared: Any, x: Array) -> tuple[Array, Array]:
        """Log joint densities and squared distances, `[k, b]` each, of columns `x` `[d, b]`."""
        normal, dof = prepared
        squares = NORMAL.squares(normal.means, normal.precisions, x)
        tails = -0.5 * (dof + x.shape[0])[:, None] * jnp.log1p(squares / dof[:, None])
        return normal.constants[:, None] + tails, squares

    def _stats(self, prepared: Any, x: Array, resp: Array, squares: Array) -> StudentTStats:
        normal, dof = prepared
        a, b = 0.5 * (dof + x.shape[0])[:, None], 0.5 * (dof[:, None] + squares)
        u = a / b
        counted, counts = resp * u, jnp.sum(resp, axis=1)
        moments = NORMAL.moments(normal.means, normal.precisions, x, counted, squares, first_moments_by_differences)
        excess = jnp.sum(resp * (u + jnp.log(b)), axis=1) - counts * digamma(a[:, 0])
        return StudentTStats(GaussianStats(jnp.sum(counted, axis=1), counts, *moments), excess, counts)


def _normal(params: StudentTParams) -> GaussianParams:
    return GaussianParams(params.means, params.scales)


def _log_gamma_ratio(y: Array, d: int) -> Array:
    """log Gamma(y + d / 2) - log Gamma(y) - d / 2 log y, `[k]`, without a difference of large numbers."""
    begin = 0.5 * (d % 2)
    steps = begin + jnp.arange(d // 2, dtype=y.dtype)
    whole = jnp.sum(jnp.log1p(steps[:, None] / y[None, :]), axis=0)
    if not d % 2:
        return whole
    # half a step: Stirling's series for large y
    inverse = 1.0 / jnp.maximum(y, LARGE)
    series = -inverse * (1 / 8 - inverse**2 * (1 / 192 - inverse**2 * (1 / 640 - inverse**2 * 17 / 14336)))
    near = jnp.minimum(y, LARGE)
    direct = gammaln(near + 0.5) - gammaln(near) - 0.5 * jnp.log(near)
    return whole + jnp.where(y > LARGE, series, direct)


def _solve_dof(excess: Array) -> Array:
    """nu of log(nu / 2) - psi(nu / 2) = `excess` `[k]`, between its bounds.

    Newton's method on the reciprocals of both sides, which are nearly linear in nu.
    """
    target = jnp.clip(excess, 0.5 / MOST_DOF, 4.0 / LEAST_DOF)

    def step(_: Any, dof: Array) -> Array:
        half = 0.5 * dof
        value, slope = jnp.log(half) - digamma(half), 1.0 / dof - 0.5 * polygamma(1, half)
        return dof + value * (1.0 - value / target) / slope

    return jnp.clip(jax.lax.fori_loop(0, NEWTON_STEPS, step, 1.5 / target), LEAST_DOF, MOST_DOF)
