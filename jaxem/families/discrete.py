"""Discrete components: Bernoulli, Categorical and Poisson, for yes and no, for kinds, and for counts.

All features are independent, and all three are exponential families (Bishop 2006, sections 2.4 and 9.3.3):

    log p(x | params_j) = eta_j . T(x) - A_j + h(x),

    Bernoulli    T = (x, 1 - x)         eta = (log probs, log(1 - probs))      A = 0             h = 0
    Categorical  T = [x = c]            eta = log probs                        A = 0             h = 0
    Poisson      T = x                  eta = log rates                        A = sum rates     h = -sum log x!

So a pass is two products of matrices, and the M-step sets the mean of T to that of the rows: probs and rates are
weighted means. A prior imagines rows: Beta ones and zeros, DirichletProbs values of each category, Gamma counts.

Without a prior a probability or a rate may reach 0. The logarithm of 0 is taken as that of the root of the smallest normal
number, so that 0 log 0 = 0 and a row that cannot occur has a very low density, not none.
"""

import abc
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family
from jaxem.families.incomplete import Incomplete
from jaxem.observed import seen_in
from jaxem.primitives import alive, compact, dot, epsilon, normalise, positive, tiny, weighted_sum
from jaxem.priors import Beta, DirichletProbs, Gamma
from jaxem.stats import Stats

MOST_CODE = 2**24
"""whole numbers from which float32 has gaps"""
LEAST_INFORMATION = 1e-3
"""information of a row that units take a coordinate to have at least: at the edge it has none"""


@compact
class BernoulliParams(NamedTuple):
    """Probabilities of a 1, `[k, d]`."""

    probs: Array


@compact
class CategoricalParams(NamedTuple):
    """Probabilities of each category, `[k, d, c]`; those of one component and feature sum to one."""

    probs: Array


@compact
class PoissonParams(NamedTuple):
    """Expected counts, `[k, d]`."""

    rates: Array


class Totals(NamedTuple):
    """Weight of the rows, `[k, d]`, and weighted sums of T(x), `[k, f]`."""

    counts: Array
    totals: Array


class Discrete(Incomplete):
    """What the three share: a pass and its statistics, given T, eta, A and h.

    A missing value is left out, and each feature counts the rows that have it.
    """

    @abc.abstractmethod
    def features(self, x: Array) -> Array:
        """T(x), `[f, b]`, of columns `x` `[d, b]`; not asked for what is missing."""

    @abc.abstractmethod
    def natural(self, params: Any) -> Array:
        """eta, `[k, f]`."""

    def normalisers(self, params: Any) -> Array | None:
        """What each feature adds to A, `[k, d]`; None if nothing."""
        del params
        return None

    def base(self, x: Array) -> Array | float:
        """h(x), `[1, b]`, of columns `x` `[d, b]`, a missing value given as 0."""
        del x
        return 0.0

    @abc.abstractmethod
    def of_totals(self, stats: Totals) -> Any:
        """The parameters that maximise the proxy; anything for components without rows."""

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> Any:
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
        totals = jnp.sum(jnp.where(w[None, :] > 0, w[None, :] * self._features(x.T), 0.0), axis=1)  # [f]
        counts = jnp.broadcast_to(self._counts(w[None, :], x.T), (n_components, x.shape[1]))
        return self.of_totals(Totals(counts, jnp.broadcast_to(totals, (n_components, totals.shape[0]))))

    def log_prob(self, params: Any, x: Array) -> Array:
        return self._log_prob(params, self._features(x.T), x.T).T

    def suff_stats(self, params: Any, x: Array, resp: Array) -> Totals:
        return self._totals(resp.T, self._features(x.T), x.T)

    def block_stats(self, prepared: Any, x: Array, w: Array, norms: Array) -> Stats:
        del norms
        params, log_weights = prepared
        features = self._features(x)
        log_joint = self._log_prob(params, features, x)
        log_joint = log_joint if log_weights is None else log_joint + log_weights[:, None]
        log_prob, resp = normalise(log_joint, axis=0)
        resp = resp * w[None, :]  # [k, b]
        totals = self._totals(resp, features, x)
        return Stats(weighted_sum(w, log_prob), jnp.sum(resp, axis=1), totals)

    def m_step(self, params: Any, stats: Totals) -> Any:
        owned = alive(stats.counts)  # [k, d]

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(owned.reshape(*owned.shape, *(1,) * (new.ndim - 2)), new, old)

        return jax.tree.map(keep, self.of_totals(stats), params)

    def move_stats(self, old: Any, new: Any, stats: Totals) -> Totals:
        return stats

    def expected(self, params: Any, stats: Totals) -> Array:
        normalisers = self.normalisers(params)
        taken = 0.0 if normalisers is None else jnp.sum(stats.counts * normalisers)
        return jnp.sum(self.natural(params) * stats.totals) - taken

    def marginal(self, params: Any, columns: np.ndarray) -> tuple[Family, Any]:
        return self, jax.tree.map(lambda leaf: leaf[:, columns], params)

    def row_floats(self, n_components: int, n_features: int) -> int:
        one = jax.ShapeDtypeStruct((n_features, 1), jnp.float32)
        return max(n_components, jax.eval_shape(self.features, one).shape[0])

    def _log_prob(self, params: Any, features: Array, x: Array) -> Array:
        """Log densities `[k, b]` of columns."""
        products = dot("kf,fb->kb", self.natural(params), features)
        normalisers = self.normalisers(params)
        if normalisers is None:
            return products + self.base(x)
        if self.missing:
            return products + (self.base(jnp.where(x == x, x, 0.0)) - dot("kd,db->kb", normalisers, seen_in(x)))
        return products + (self.base(x) - jnp.sum(normalisers, axis=1, keepdims=True))

    def _features(self, x: Array) -> Array:
        """T(x), `[f, b]`, 0 for what is missing."""
        if not self.missing:
            return self.features(x)
        found = self.features(x)
        return jnp.where(found == found, found, 0.0)

    def _counts(self, resp: Array, x: Array) -> Array:
        """The weight of the rows that have each feature, `[k, d]`."""
        if self.missing:
            return dot("kb,db->kd", resp, seen_in(x))
        return jnp.broadcast_to(jnp.sum(resp, axis=1)[:, None], (resp.shape[0], x.shape[0]))

    def _totals(self, resp: Array, features: Array, x: Array) -> Totals:
        return Totals(self._counts(resp, x), dot("kb,fb->kf", resp, features))

    def impute(self, params: Any, resp: Array, x: Array, run: int = 1) -> Array:
        return jnp.where(x == x, x, dot("nk,kd->nd", resp, self.expected_values(params))) if self.missing else x

    def expected_values(self, params: Any) -> Array:
        """The expected value of each component and feature, `[k, d]`; by default the parameters."""
        return jax.tree.leaves(params)[0]


@dataclasses.dataclass(frozen=True, repr=False)
class Bernoulli(Discrete):
    """Independent coin tosses: `probs` `[k, d]` of a 1 for each component and feature; x holds zeros and ones.

    With `missing=True` NaN is a value that was not observed.
    """

    missing: bool = False

    conjugate = (Beta,)

    def features(self, x: Array) -> Array:
        # two sums, not one with the log odds: 43 + (-43) would lose what is between
        return jnp.concatenate([x, 1.0 - x])

    def natural(self, params: BernoulliParams) -> Array:
        return _log(jnp.concatenate([params.probs, 1.0 - params.probs], axis=1))

    def of_totals(self, stats: Totals) -> BernoulliParams:
        ones, zeros = jnp.split(stats.totals, 2, axis=1)
        return BernoulliParams(ones / positive(ones + zeros))

    def log_prior(self, params: BernoulliParams, prior: Beta) -> Array:
        return jnp.sum(self._tosses(params, prior) * self.natural(params))

    def imagined(self, params: BernoulliParams, stats: Totals, prior: Beta) -> Totals:
        tosses = self._tosses(params, prior)
        ones, zeros = jnp.split(tosses, 2, axis=1)
        return Totals(ones + zeros, tosses)

    def _tosses(self, params: BernoulliParams, prior: Beta) -> Array:
        """The numbers of imagined ones and zeros, `[k, 2 d]`."""
        probs = params.probs
        numbers = [jnp.asarray(value, probs.dtype) - 1.0 for value in (prior.alpha, prior.beta)]
        return jnp.concatenate([jnp.broadcast_to(number, probs.shape) for number in numbers], axis=1)

    def unconstrain(self, params: BernoulliParams) -> Array:
        probs = params.probs
        # 1 - eps / 2 is the largest number below 1: every probability has finite log odds
        return (_log(probs) - jnp.log(jnp.maximum(1.0 - probs, 0.5 * epsilon(probs.dtype)))).ravel()

    def constrain(self, params: BernoulliParams, free: Array) -> BernoulliParams:
        return BernoulliParams(jax.nn.sigmoid(free).reshape(params.probs.shape))

    def units(self, params: BernoulliParams, weights: Array) -> Array:
        information = weights[:, None] * params.probs * (1.0 - params.probs)
        return jax.lax.rsqrt(jnp.maximum(information, LEAST_INFORMATION)).ravel()

    def sample(self, key: Array, params: BernoulliParams, labels: Array) -> Array:
        return jax.random.bernoulli(key, params.probs[labels]).astype(params.probs.dtype)

    def support(self, x: Any) -> Any:
        return (x == 0) | (x == 1)

    def n_features(self, params: BernoulliParams) -> int:
        return params.probs.shape[-1]

    def check(self, params: BernoulliParams) -> str | None:
        possible = np.all((params.probs >= 0) & (params.probs <= 1))
        return None if possible else "probs holds values outside 0 and 1"


@dataclasses.dataclass(frozen=True, repr=False)
class Categorical(Discrete):
    """Independent kinds: `probs` `[k, d, c]` for each component and feature; x holds codes 0, 1, ..., c - 1.

    A latent class model, where features may be of any number. For features with other numbers of categories see `Product`.
    With `missing=True` NaN is a value that was not observed.
    """

    n_categories: int
    missing: bool = False

    conjugate = (DirichletProbs,)

    def __post_init__(self) -> None:
        c = self.n_categories
        if isinstance(c, bool) or not isinstance(c, (int, np.integer)) or not 2 <= c <= MOST_CODE:
            raise ValueError(f"n_categories = {c!r}; give a whole number from 2 to {MOST_CODE}")
        object.__setattr__(self, "n_categories", int(c))
        super().__post_init__()

    def features(self, x: Array) -> Array:
        codes = jnp.arange(self.n_categories, dtype=x.dtype)
        return (x[:, None, :] == codes[None, :, None]).astype(x.dtype).reshape(-1, x.shape[1])  # [d c, b]

    def natural(self, params: CategoricalParams) -> Array:
        return _log(params.probs).reshape(params.probs.shape[0], -1)

    def of_totals(self, stats: Totals) -> CategoricalParams:
        totals = stats.totals.reshape(*stats.counts.shape, self.n_categories)
        return CategoricalParams(totals / positive(jnp.sum(totals, axis=2, keepdims=True)))

    def log_prior(self, params: CategoricalParams, prior: DirichletProbs) -> Array:
        return jnp.sum(self._imagined_values(params, prior) * _log(params.probs))

    def imagined(self, params: CategoricalParams, stats: Totals, prior: DirichletProbs) -> Totals:
        values = self._imagined_values(params, prior)
        return Totals(jnp.sum(values, axis=2), values.reshape(values.shape[0], -1))

    def _imagined_values(self, params: CategoricalParams, prior: DirichletProbs) -> Array:
        return jnp.broadcast_to(jnp.asarray(prior.alpha, params.probs.dtype) - 1.0, params.probs.shape)

    def unconstrain(self, params: CategoricalParams) -> Array:
        # log odds of each category against all later ones: their information is diagonal, also at the edge
        return (_log(params.probs) - _log(_later(params.probs)))[..., :-1].ravel()

    def constrain(self, params: CategoricalParams, free: Array) -> CategoricalParams:
        k, d, c = params.probs.shape
        odds = free.reshape(k, d, c - 1)
        one, rest = (
            jnp.concatenate([log, 0.0 * log[..., :1]], axis=2) for log in map(jax.nn.log_sigmoid, (odds, -odds))
        )
        before = jnp.cumsum(rest, axis=2) - rest
        return CategoricalParams(jnp.exp(one + before))

    def units(self, params: CategoricalParams, weights: Array) -> Array:
        probs, later = params.probs[..., :-1], _later(params.probs)[..., :-1]
        information = weights[:, None, None] * probs * later / jnp.maximum(probs + later, LEAST_INFORMATION)
        return jax.lax.rsqrt(jnp.maximum(information, LEAST_INFORMATION)).ravel()

    def sample(self, key: Array, params: CategoricalParams, labels: Array) -> Array:
        codes = jax.random.categorical(key, _log(params.probs)[labels], axis=2)
        return codes.astype(params.probs.dtype)

    def impute(self, params: CategoricalParams, resp: Array, x: Array, run: int = 1) -> Array:
        if not self.missing:
            return x
        likeliest = jnp.argmax(dot("nk,kdc->ndc", resp, params.probs), axis=2)  # a mean of codes is none
        return jnp.where(x == x, x, likeliest.astype(x.dtype))

    def support(self, x: Any) -> Any:
        return (x == x.round()) & (x >= 0) & (x < self.n_categories)

    def coordinates(self, x: Array, sample_weight: Array) -> Array:
        del sample_weight
        return self.features(x.T).T * 0.5**0.5  # rows that differ in one column are at a distance of 1

    def n_features(self, params: CategoricalParams) -> int:
        return params.probs.shape[-2]

    def check(self, params: CategoricalParams) -> str | None:
        if np.any((params.probs < 0) | (params.probs > 1)):
            return "probs holds values outside 0 and 1"
        return None if np.all(np.abs(params.probs.sum(axis=-1) - 1) < 1e-4) else "probs do not sum to one"


@dataclasses.dataclass(frozen=True, repr=False)
class Poisson(Discrete):
    """Independent counts: `rates` `[k, d]`, the expected count for each component and feature; x holds 0, 1, 2, ...

    With `missing=True` NaN is a value that was not observed.
    """

    missing: bool = False

    conjugate = (Gamma,)

    def features(self, x: Array) -> Array:
        return x

    def natural(self, params: PoissonParams) -> Array:
        return _log(params.rates)

    def normalisers(self, params: PoissonParams) -> Array:
        return params.rates

    def base(self, x: Array) -> Array:
        return -jnp.sum(jax.scipy.special.gammaln(x + 1.0), axis=0, keepdims=True)

    def of_totals(self, stats: Totals) -> PoissonParams:
        return PoissonParams(stats.totals / positive(stats.counts))

    def log_prior(self, params: PoissonParams, prior: Gamma) -> Array:
        rows = self.imagined(params, None, prior)
        return jnp.sum(rows.totals * _log(params.rates) - rows.counts * params.rates)

    def imagined(self, params: PoissonParams, stats: Any, prior: Gamma) -> Totals:
        shape, rate = (jnp.asarray(value, params.rates.dtype) for value in (prior.shape, prior.rate))
        return Totals(*(jnp.broadcast_to(value, params.rates.shape) for value in (rate, shape - 1.0)))

    def unconstrain(self, params: PoissonParams) -> Array:
        return _log(params.rates).ravel()

    def constrain(self, params: PoissonParams, free: Array) -> PoissonParams:
        return PoissonParams(jnp.exp(free).reshape(params.rates.shape))

    def units(self, params: PoissonParams, weights: Array) -> Array:
        return jax.lax.rsqrt(jnp.maximum(weights[:, None] * params.rates, LEAST_INFORMATION)).ravel()

    def sample(self, key: Array, params: PoissonParams, labels: Array) -> Array:
        return jax.random.poisson(key, params.rates[labels]).astype(params.rates.dtype)

    def support(self, x: Any) -> Any:
        return (x == x.round()) & (x >= 0)

    def coordinates(self, x: Array, sample_weight: Array) -> Array:
        return 2.0 * jnp.sqrt(super().coordinates(x, sample_weight) + 0.375)  # of about unit variance (Anscombe 1948)

    def n_features(self, params: PoissonParams) -> int:
        return params.rates.shape[-1]

    def check(self, params: PoissonParams) -> str | None:
        return None if np.all(params.rates >= 0) else "rates holds negative values"


def _later(probs: Array) -> Array:
    """The probability of all later categories, `[k, d, c]`."""
    nothing = jnp.zeros_like(probs[..., :1])  # sums, no differences: a small one keeps its digits
    return jnp.flip(jnp.cumsum(jnp.concatenate([nothing, jnp.flip(probs[..., 1:], 2)], axis=2), axis=2), 2)


def _log(values: Array) -> Array:
    # the square of the least number does not underflow: derivatives stay finite
    return jnp.log(jnp.maximum(values, math.sqrt(tiny(values.dtype))))
