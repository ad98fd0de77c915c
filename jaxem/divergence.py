"""Divergence: how far one mixture is from another, by sampling; for mixtures there is no closed form."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxem.checks import as_count, as_key, as_mixture
from jaxem.display import divergence_card, readable
from jaxem.mixture import Mixture
from jaxem.pointwise import log_joint
from jaxem.primitives import normalise


@readable(divergence_card)
class Divergence(NamedTuple):
    """An estimate `[]` of a divergence, in nats, and its standard error `[]`."""

    value: Array
    standard_error: Array


def kl_divergence(p: Mixture, q: Mixture, key: Array, n_samples: int = 10_000) -> Divergence:
    """The Kullback-Leibler divergence of q from p, E_p log p(x) / q(x), by rows drawn from p.

    It has no closed form for mixtures. It is infinite where p draws rows that q cannot, and so is its error then.

    Args:
        p, q: mixtures of the same columns, of whatever families.
        key: a PRNG key, consumed.
        n_samples: rows to draw, at least 2.
    """
    p, q, n = as_mixture(p), as_mixture(q), as_count("n_samples", n_samples, least=2)
    x = p.sample(as_key(key), n)[0]
    possible = jnp.all(jnp.broadcast_to(jnp.asarray(q.family.support(x)), x.shape), axis=1)
    ratio = p.log_prob(x) - jnp.where(possible, normalise(log_joint(q, x), axis=1)[0], -jnp.inf)
    error = jnp.std(ratio, ddof=1) / math.sqrt(n)
    return Divergence(jnp.mean(ratio), jnp.where(jnp.all(jnp.isfinite(ratio)), error, jnp.inf))
