"""Regression: a mixture of linear regressions, the last column given the others.

    log p(y | z, params_j) = log N(y; a_j + b_j . (z - o_j), s_j),     x = (z, y), z the `n_covariates` first columns

The M-step is weighted least squares (DeSarbo and Cron 1988; flexmix calls it FLXMRglm). Statistics are taken about the
current plane, as those of a Gaussian about its current mean: with u = (1, z - o_j) and e = y - a_j - b_j . (z - o_j),

    G = sum r u u',  g = sum r u e,  q = sum r e^2;   (a, b) moves by delta = inv(G) g,   s = (q - g . delta) / sum r.

Near the optimum delta is small, and nothing is lost in the difference. Where covariates depend on each other G is singular:
a small ridge keeps delta finite, and since it holds delta back, not the plane, fixed points stay where they are.

The origin o_j is the mean of the covariates of the component's rows, as the last M-step saw it; it only says where the level
a_j is meant, so that no digit is lost where covariates lie far from 0. The covariates are given: their own density is not
modelled, and no rows can be drawn. In a `Product` other parts may model them, or further responses be regressed on them.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family
from jaxem.families.gaussian import (
    FEW,
    FLAT,
    MIN_EIGENVALUE,
    GaussianParams,
    Spherical,
)
from jaxem.families.holdable import Holdable
from jaxem.families.movable import Movable
from jaxem.linalg import whitener
from jaxem.observed import LOG_2PI
from jaxem.primitives import alive, compact, dot, epsilon, positive, tiny

RIDGE = 8
"""units of rounding of each variance that are added to it"""


@compact
class RegressionParams(NamedTuple):
    """Planes: levels `[k]` at the origins `[k, c]` of the covariates, coefficients `[k, c]`, variances of residuals `[k]`.

    `intercepts` are the levels at covariates of 0. Derivatives through a fit are taken at fixed origins.
    """

    levels: Array
    coefficients: Array
    variances: Array
    origins: Array

    @property
    def intercepts(self) -> Array:
        """The response `[k]` where all covariates are 0."""
        return self.levels - dot("kc,kc->k", self.coefficients, self.origins)


class RegressionStats(NamedTuple):
    """G `[k, c + 1, c + 1]`, g `[k, c + 1]`, q `[k]` and the counts `[k]`."""

    gram: Array
    slope: Array
    squares: Array
    counts: Array


@dataclasses.dataclass(frozen=True)
class Regression(Movable, Holdable):
    """A plane and a variance for each component: the last of `n_covariates + 1` columns, given the others.

    With `n_covariates` 0 it is a Gaussian of one column. Several responses: a `Product` in which each has its own Regression
    on the same covariates.
    """

    n_covariates: int

    location = True
    holdable = ("levels", "coefficients", "variances")
    spread = "variances"
    companions: ClassVar[dict[str, str]] = {"levels": "origins"}

    def __post_init__(self) -> None:
        c = self.n_covariates
        if isinstance(c, bool) or not isinstance(c, (int, np.integer)) or c < 0:
            raise ValueError(f"n_covariates = {c!r}; give the number of columns before the response")
        object.__setattr__(self, "n_covariates", int(c))

    @property
    def n_given(self) -> int:
        return self.n_covariates

    @property
    def n_columns(self) -> int:
        return self.n_covariates + 1

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> RegressionParams:
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
        k, anchor = n_components, x[jnp.argmax(w > 0)]
        x = jnp.where(w[:, None] > 0, x, anchor[None, :])
        flat = jnp.zeros((1, self.n_covariates), x.dtype)
        found = RegressionParams(anchor[None, -1], flat, jnp.ones(1, x.dtype), anchor[None, :-1])
        for _ in range(3):  # about the anchor, then about the plane: no digit is lost to an offset
            found = self.m_step(found, self.suff_stats(found, x, w[:, None]))
        proper = jnp.where(found.variances > 0, found.variances, 1.0)
        found = found._replace(variances=proper)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (k, *leaf.shape[1:])), found)

    def log_prob(self, params: RegressionParams, x: Array) -> Array:
        variances = params.variances[None, :]
        return -0.5 * (LOG_2PI + jnp.log(variances) + self._residuals(params, x) ** 2 / variances)

    def suff_stats(self, params: RegressionParams, x: Array, resp: Array) -> RegressionStats:
        def of_component(params: RegressionParams, resp: Array) -> RegressionStats:
            u = jnp.concatenate([jnp.ones_like(x[:, :1]), x[:, :-1] - params.origins[None, :]], axis=1)  # [n, c + 1]
            residuals = self._residuals(jax.tree.map(lambda leaf: leaf[None], params), x)[:, 0]
            weighted = resp * residuals
            gram = dot("ni,nj->ij", resp[:, None] * u, u)
            return RegressionStats(gram, dot("n,ni->i", weighted, u), jnp.sum(weighted * residuals), jnp.sum(resp))

        return jax.vmap(of_component, (0, 1))(params, resp)

    def m_step(self, params: RegressionParams, stats: RegressionStats) -> RegressionParams:
        owned, counts = alive(stats.counts), positive(stats.counts)
        scale = jnp.sqrt(jnp.diagonal(stats.gram, axis1=1, axis2=2))  # [k, c + 1]
        inverse = jnp.where(scale > 0, 1.0 / jnp.where(scale > 0, scale, 1.0), 0.0)
        ridge = (1.0 + RIDGE * epsilon(scale.dtype)) * jnp.eye(scale.shape[1], dtype=scale.dtype)
        scaled = stats.gram * inverse[:, :, None] * inverse[:, None, :]
        white = whitener(jnp.where(jnp.eye(scale.shape[1], dtype=bool)[None], ridge[None], scaled))
        solved = dot("kji,kj->ki", white, dot("kij,kj->ki", white, inverse * stats.slope))
        delta = jnp.where(owned[:, None], inverse * solved, 0.0)  # [k, c + 1]
        gained = jnp.sum(delta * (2.0 * stats.slope - dot("kij,kj->ki", stats.gram, delta)), axis=1)
        variances = jnp.maximum(stats.squares - gained, 0.0) / counts
        coefficients = params.coefficients + delta[:, 1:]
        moved = jnp.where(owned[:, None], stats.gram[:, 0, 1:] / counts[:, None], 0.0)  # of the origins
        levels = params.levels + delta[:, 0] + jnp.sum(coefficients * moved, axis=1)
        variances = jnp.where(owned, variances, params.variances)
        return RegressionParams(levels, coefficients, variances, params.origins + moved)

    def m_step_held(self, params: RegressionParams, stats: RegressionStats, held: RegressionParams) -> RegressionParams:
        """Least squares over the free directions of u alone; the plane of a held level turns about its origin."""
        slopes = np.broadcast_to(np.asarray(held.coefficients)[:, None], params.coefficients.shape)
        free = ~np.concatenate([np.asarray(held.levels)[:, None], slopes], axis=1)  # [k, c + 1]
        gram = jnp.where(free[:, :, None] & free[:, None, :], stats.gram, 0.0)
        return self.m_step(params, stats._replace(gram=gram, slope=jnp.where(free, stats.slope, 0.0)))

    def move_stats(self, old: RegressionParams, new: RegressionParams, stats: RegressionStats) -> RegressionStats:
        moved, steeper = new.origins - old.origins, new.coefficients - old.coefficients
        higher = new.levels - old.levels - dot("kc,kc->k", new.coefficients, moved)
        c = jnp.concatenate([higher[:, None], steeper], axis=1)  # the new residual is e - c . u
        slope = stats.slope - dot("kij,kj->ki", stats.gram, c)
        squares = stats.squares - jnp.sum(c * (stats.slope + slope), axis=1)
        # u about the new origins is u less `moved` times its first entry, which is 1
        by = jnp.concatenate([jnp.zeros_like(higher)[:, None], moved], axis=1)
        half = stats.gram - by[:, :, None] * stats.gram[:, :1, :]
        gram = half - half[:, :, :1] * by[:, None, :]
        return RegressionStats(gram, slope - by * slope[:, :1], squares, stats.counts)

    def expected(self, params: RegressionParams, stats: RegressionStats) -> Array:
        return -0.5 * jnp.sum(stats.counts * jnp.log(params.variances) + stats.squares / params.variances)

    def unconstrain(self, params: RegressionParams) -> Array:
        log_variances = jnp.log(jnp.maximum(params.variances, tiny(params.variances.dtype)))
        # intercepts, not levels: the same coordinates wherever the origins are
        return jnp.concatenate([params.intercepts, params.coefficients.ravel(), log_variances])

    def constrain(self, params: RegressionParams, free: Array) -> RegressionParams:
        k, c = params.coefficients.shape
        coefficients, variances = free[k : k + k * c].reshape(k, c), jnp.exp(free[k + k * c :])
        levels = free[:k] + dot("kc,kc->k", coefficients, params.origins)
        return RegressionParams(levels, coefficients, variances, params.origins)

    def sample(self, key: Array, params: RegressionParams, labels: Array) -> Array:
        if self.n_covariates:
            raise NotImplementedError("Regression draws no rows: its covariates are given, and have no density")
        return self.complete(key, params, labels, jnp.zeros((labels.shape[0], 0), params.levels.dtype))

    def complete(self, key: Array, params: RegressionParams, labels: Array, given: Array) -> Array:
        own = jax.tree.map(lambda leaf: leaf[labels], params)
        noise = jax.random.normal(key, labels.shape, params.levels.dtype)
        plane = own.levels + jnp.sum((given - own.origins) * own.coefficients, axis=1)
        return (plane + jnp.sqrt(own.variances) * noise)[:, None]

    def shift(self, params: RegressionParams, offset: Array) -> RegressionParams:
        return params._replace(levels=params.levels + offset[-1], origins=params.origins + offset[None, :-1])

    def degenerate(self, params: RegressionParams, counts: Array, variance: Array) -> Array:
        scaled = params.variances / jnp.where(variance[-1] > 0, variance[-1], 1.0)
        few = counts < FEW * (self.n_covariates + 2)
        return ((scaled < MIN_EIGENVALUE) & few) | (scaled < FLAT * epsilon(scaled.dtype))

    def step_size(self, old: RegressionParams, new: RegressionParams) -> Array:
        # coefficients have the units of their columns; at the same rows they count by what they add to the others
        deviation = jnp.sqrt(old.variances)
        size = jnp.maximum(jnp.max(jnp.abs(old.coefficients), axis=0, initial=0.0), tiny(deviation.dtype))
        steps = (
            jnp.max(jnp.abs(new.intercepts - old.intercepts) / deviation),
            jnp.max(jnp.abs(new.coefficients - old.coefficients) / size[None, :], initial=0.0),
            jnp.max(jnp.abs(new.variances - old.variances) / old.variances),
        )
        return jnp.max(jnp.stack(steps))

    def units(self, params: RegressionParams, weights: Array) -> Array:
        deviation = jnp.sqrt(jnp.where(params.variances > 0, params.variances, 1.0) / weights)
        # those of coefficients depend on the spread of the covariates, which parameters do not tell
        of_coefficients = jnp.broadcast_to(jax.lax.rsqrt(weights)[:, None], params.coefficients.shape)
        return jnp.concatenate([deviation, of_coefficients.ravel(), jnp.sqrt(2.0 / weights)])

    def conditional(
        self, params: RegressionParams, columns: np.ndarray, values: Array, others: np.ndarray
    ) -> tuple[Family, GaussianParams, Array]:
        """The response given all covariates: Gaussians of one column. The covariates have no density: it counts as 1."""
        if others.tolist() != [self.n_covariates]:
            raise NotImplementedError(f"Regression is given all {self.n_covariates} covariates, or has no conditional")
        z = jnp.zeros_like(values).at[columns].set(values)
        row = jnp.concatenate([z, jnp.zeros(1, z.dtype)])[None, :]
        means = -self._residuals(params, row)[0]
        return Spherical(), GaussianParams(means[:, None], params.variances), jnp.zeros_like(means)

    def n_features(self, params: RegressionParams) -> int:
        return params.coefficients.shape[-1] + 1

    def table(self, params: RegressionParams) -> dict[str, Any]:
        return {
            "intercept": params.intercepts,
            "coefficients": params.coefficients,
            "sd": jnp.sqrt(params.variances),
        }

    def check(self, params: RegressionParams) -> str | None:
        return None if np.all(params.variances > 0) else "variances holds values that are not positive"

    def row_floats(self, n_components: int, n_features: int) -> int:
        return max(n_components, n_features**2)

    def _residuals(self, params: RegressionParams, x: Array) -> Array:
        """y - a_j - b_j . (z - o_j) of rows `[n, c + 1]`, `[n, k]`."""
        away = x[:, None, :-1] - params.origins[None]  # [n, k, c]
        return x[:, -1:] - params.levels[None, :] - jnp.sum(away * params.coefficients[None], axis=2)
