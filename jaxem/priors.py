"""Priors: what is known of the parameters before the data. A prior makes EM climb log-likelihood + log prior.

A prior is a pytree. It has a log density over mixtures, up to a constant, and the family's `m_step` knows how to
maximise proxy + log prior in closed form with it. A prior on probabilities (Bernoulli, conjugate: Beta) adds

    log p(probs) = sum_kj (alpha - 1) log probs_kj + (beta - 1) log(1 - probs_kj)            (Gelman et al. 2013, 2.4)
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


class Prior:
    """A log density over mixtures, up to a constant."""

    def log_prob(self, mixture: Any) -> Array:
        """Log prior `[]` of a mixture, without the terms that do not depend on it."""
        raise NotImplementedError(f"{type(self).__name__}.log_prob is not defined")

    def shift(self, offset: Array) -> "Prior":
        """The same knowledge about data moved by `offset` `[d]`; a prior that knows of no place is left as it is."""
        del offset
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beta(Prior):
    """Conjugate prior on every probability of a Bernoulli mixture.

    `alpha - 1` is worth as many imagined ones, `beta - 1` as many imagined zeros, in every component and feature.
    With both above 1 no probability can reach 0 or 1.

    Attributes:
        alpha: positive, a number or `[d]`; at least 1 for the maximum to be inside.
        beta: likewise.
    """

    alpha: Array | float = 2.0
    beta: Array | float = 2.0

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if isinstance(value, (int, float)) and not 1.0 <= value < float("inf"):
                raise ValueError(f"{name} = {value} gives no maximum inside; give a finite number of at least 1")

    def log_prob(self, mixture: Any) -> Array:
        """Log prior `[]` of a Bernoulli mixture."""
        probs = mixture.components.probs  # [k, d]
        tiny = float(jnp.finfo(probs.dtype).tiny)
        ones = jnp.asarray(self.alpha, probs.dtype) - 1.0
        zeros = jnp.asarray(self.beta, probs.dtype) - 1.0
        return jnp.sum(
            jnp.broadcast_to(ones, probs.shape) * jnp.log(jnp.maximum(probs, tiny))
            + jnp.broadcast_to(zeros, probs.shape) * jnp.log(jnp.maximum(1.0 - probs, tiny))
        )
