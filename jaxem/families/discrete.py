"""Discrete components: Bernoulli, for black-and-white data.

    log p(x | probs_j) = sum_d x_d log probs_jd + (1 - x_d) log(1 - probs_jd),   x_d in {0, 1}     (Bishop 2006, 9.3.3)

M-step: probs_jd = sum_i r_ij x_id / N_j, and with a Beta(alpha, beta) prior
(sum_i r_ij x_id + alpha - 1) / (N_j + alpha + beta - 2). Without a prior a probability may reach 0 or 1; the logarithm of
0 is taken as that of the smallest normal number, so that 0 log 0 = 0 and a row that cannot occur is only all but
impossible.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family, alive, epsilon, normalise, tiny, weighted_sum
from jaxem.priors import Beta, of_kind
from jaxem.stats import Stats

HIGHEST = jax.lax.Precision.HIGHEST


class BernoulliParams(NamedTuple):
    """Probabilities of a 1, `[k, d]`."""

    probs: Array


class BernoulliStats(NamedTuple):
    """Effective number of ones, `[k, d]`."""

    ones: Array


@dataclasses.dataclass(frozen=True)
class Bernoulli(Family):
    """Independent coin tosses: `probs` `[k, d]` of a 1 for each component and feature; x holds zeros and ones."""

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> BernoulliParams:
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
        ones = jnp.sum(jnp.where(w[:, None] > 0, w[:, None] * x, 0.0), axis=0) / jnp.sum(w)  # [d]
        return BernoulliParams(jnp.broadcast_to(ones[None, :], (n_components, x.shape[1])))

    def log_prob(self, params: BernoulliParams, x: Array) -> Array:
        return _log_prob(params, x.T).T

    def suff_stats(self, params: BernoulliParams, x: Array, resp: Array) -> BernoulliStats:
        return BernoulliStats(jnp.einsum("nk,nd->kd", resp, x, precision=HIGHEST))

    def block_stats(self, params: BernoulliParams, log_weights: Array, x: Array, w: Array) -> Stats:
        log_prob, resp = normalise(_log_prob(params, x) + log_weights[:, None], axis=0)
        resp = resp * w[None, :]  # [k, b]
        ones = BernoulliStats(jnp.einsum("kb,db->kd", resp, x, precision=HIGHEST))
        return Stats(weighted_sum(w, log_prob), jnp.sum(resp, axis=1), ones)

    def m_step(
        self, params: BernoulliParams, counts: Array, stats: BernoulliStats, prior: Any = None
    ) -> BernoulliParams:
        ones, total = stats.ones, counts[:, None]
        for part in () if prior is None else of_kind(prior, Beta, self):
            alpha, beta = (
                jnp.broadcast_to(jnp.asarray(value, ones.dtype), ones.shape) for value in (part.alpha, part.beta)
            )
            ones, total = ones + alpha - 1.0, total + alpha + beta - 2.0
        total = jnp.broadcast_to(total, ones.shape)
        known = alive(total)
        # rounding may carry a sum of responsibilities past their count
        probs = jnp.clip(ones / jnp.where(known, total, 1.0), 0.0, 1.0)
        return BernoulliParams(jnp.where(known, probs, params.probs))

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


def _log_prob(params: BernoulliParams, x: Array) -> Array:
    """Log densities `[k, b]` of columns `x` `[d, b]`."""
    least = tiny(x.dtype)
    ones = jnp.log(jnp.maximum(params.probs, least))  # [k, d]
    zeros = jnp.log(jnp.maximum(1.0 - params.probs, least))
    # two products, not one with the log odds: 88 + (-88) would lose what is between
    log_ones = jnp.einsum("kd,db->kb", ones, x, precision=HIGHEST)
    return log_ones + jnp.einsum("kd,db->kb", zeros, 1.0 - x, precision=HIGHEST)
