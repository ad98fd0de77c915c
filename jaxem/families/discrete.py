"""Discrete components: Bernoulli, for black-and-white data.

    log p(x | probs_j) = sum_d x_d log probs_jd + (1 - x_d) log(1 - probs_jd),   x_d in {0, 1}     (Bishop 2006, 9.3.3)

M-step: probs_jd = sum_i r_ij x_id / N_j. A Beta(alpha, beta) prior imagines alpha - 1 ones and beta - 1 zeros. Without a
prior a probability may reach 0 or 1. The logarithm of 0 is taken as that of the smallest normal number, so that
0 log 0 = 0 and a row that cannot occur has a very low density, not none.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family
from jaxem.primitives import alive, dot, epsilon, normalise, positive, tiny, weighted_sum
from jaxem.priors import Beta
from jaxem.stats import Stats


class BernoulliParams(NamedTuple):
    """Probabilities of a 1, `[k, d]`."""

    probs: Array


class BernoulliStats(NamedTuple):
    """Effective number of tosses and of ones, `[k, d]` each."""

    counts: Array
    ones: Array


@dataclasses.dataclass(frozen=True)
class Bernoulli(Family):
    """Independent coin tosses: `probs` `[k, d]` of a 1 for each component and feature; x holds zeros and ones."""

    conjugate: ClassVar[tuple[type, ...]] = (Beta,)

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> BernoulliParams:
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
        ones = jnp.sum(jnp.where(w[:, None] > 0, w[:, None] * x, 0.0), axis=0) / jnp.sum(w)  # [d]
        return BernoulliParams(jnp.broadcast_to(ones[None, :], (n_components, x.shape[1])))

    def log_prob(self, params: BernoulliParams, x: Array) -> Array:
        return _log_prob(params, x.T).T

    def suff_stats(self, params: BernoulliParams, x: Array, resp: Array) -> BernoulliStats:
        return _stats(jnp.sum(resp, axis=0), dot("nk,nd->kd", resp, x))

    def block_stats(self, prepared: Any, x: Array, w: Array, norms: Array) -> Stats:
        del norms
        params, log_weights = prepared
        log_joint = _log_prob(params, x)
        log_joint = log_joint if log_weights is None else log_joint + log_weights[:, None]
        log_prob, resp = normalise(log_joint, axis=0)
        resp = resp * w[None, :]  # [k, b]
        counts = jnp.sum(resp, axis=1)
        return Stats(weighted_sum(w, log_prob), counts, _stats(counts, dot("kb,db->kd", resp, x)))

    def m_step(self, params: BernoulliParams, stats: BernoulliStats) -> BernoulliParams:
        # rounding may carry a sum of responsibilities past their count
        probs = jnp.clip(stats.ones / positive(stats.counts), 0.0, 1.0)
        return BernoulliParams(jnp.where(alive(stats.counts), probs, params.probs))

    def unconstrain(self, params: BernoulliParams) -> Array:
        probs = params.probs
        # 1 - eps / 2 is the largest number below 1: every probability has finite log odds
        zeros = jnp.log(jnp.maximum(1.0 - probs, 0.5 * epsilon(probs.dtype)))
        return (jnp.log(jnp.maximum(probs, tiny(probs.dtype))) - zeros).ravel()

    def constrain(self, params: BernoulliParams, free: Array) -> BernoulliParams:
        return BernoulliParams(jax.nn.sigmoid(free).reshape(params.probs.shape))

    def sample(self, key: Array, params: BernoulliParams, labels: Array) -> Array:
        return jax.random.bernoulli(key, params.probs[labels]).astype(params.probs.dtype)

    def support(self, x: Any) -> Any:
        return (x == 0) | (x == 1)

    def n_features(self, params: BernoulliParams) -> int:
        return params.probs.shape[-1]

    def check(self, params: BernoulliParams) -> str | None:
        possible = np.all((params.probs >= 0) & (params.probs <= 1))
        return None if possible else "probs holds values outside 0 and 1"


def _stats(counts: Array, ones: Array) -> BernoulliStats:
    """Statistics with one count for all features: `counts` `[k]`, `ones` `[k, d]`."""
    return BernoulliStats(jnp.broadcast_to(counts[:, None], ones.shape), ones)


def _log_prob(params: BernoulliParams, x: Array) -> Array:
    """Log densities `[k, b]` of columns `x` `[d, b]`."""
    least = tiny(x.dtype)
    ones = jnp.log(jnp.maximum(params.probs, least))  # [k, d]
    zeros = jnp.log(jnp.maximum(1.0 - params.probs, least))
    # two products, not one with the log odds: 88 + (-88) would lose what is between
    return dot("kd,db->kb", ones, x) + dot("kd,db->kb", zeros, 1.0 - x)
