"""The lecture's page: the E-step, the M-step, and the proxy objective l-hat between them.

A mixture has the log-likelihood  l(theta) = sum_i log sum_j p_j p(x_i | theta_j),  which is hard to maximise because the
sum is inside the logarithm. For any responsibilities r_ij >= 0 with sum_j r_ij = 1, Jensen's inequality gives a lower
bound,

    elbo(theta, r) = sum_i sum_j r_ij log( p(x_i and j | theta) / r_ij )  <=  l(theta).

    E-step   r_ij = p(j | x_i, old theta) makes the bound touch l at the old theta. With this r it is the *proxy*,
             l-hat(theta) = sum_i sum_j p(j | i) log( p(x_i and j | theta) / p(j | i) ).
    M-step   theta = argmax l-hat. In the weights: p_j = sum_i r_ij / n. In the components: the family's closed form;
             for the lecture's N(x; mu_j, sigma_j^2 I)

                 mu_j = sum_i r_ij x_i / sum_i r_ij,   sigma_j^2 = sum_i r_ij |x_i - mu_j|^2 / (d sum_i r_ij).

So l(new) >= l-hat(new) >= l-hat(old) = l(old): the likelihood never falls (Dempster, Laird and Rubin 1977; Neal and
Hinton 1998). Rows may carry weights w_i: every sum over i becomes sum_i w_i. With a prior, log prior(theta) is added to
l and to l-hat alike, and the rows that the prior imagines are added to those of the M-step.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxem.checks import as_mixture
from jaxem.holding import family_of, free_weights, with_free_weights
from jaxem.mixture import Mixture
from jaxem.pointwise import log_joint
from jaxem.primitives import alive, normalise, positive, tiny, weighted_sum
from jaxem.priors import Prior
from jaxem.program import THOROUGH, Program
from jaxem.rows import Frame, Rows, as_rows, resp_blocks, sum_blocks, turn_work
from jaxem.source import Source, Stream
from jaxem.stats import Stats


def e_step(
    mixture: Mixture,
    x: ArrayLike | Rows | Source,
    sample_weight: ArrayLike | None = None,
    *,
    chunk_size: int | None = None,
) -> Stats:
    """One pass over the data: log-likelihood, counts and sufficient statistics under `mixture`.

    Args:
        mixture: the current theta.
        x: `[n, d]`, `Rows` made ready before, or a `Source`.
        sample_weight: `[n]`, non-negative; a row of weight 0 is absent, one of weight 3 stands for three.
        chunk_size: rows worked on at a time; computed from the shapes by default. No array `[n, k]` is made.

    Returns:
        Stats taken about `mixture`. Add the Stats of two sets of rows to get those of their union.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    mixture = as_mixture(mixture, x)
    options = dict[str, Any]({"like": mixture, "chunk_size": chunk_size})
    rows = as_rows(mixture.family, x, sample_weight, mixture.n_components, streams=True, **options)
    return rows.sum(_e_step, mixture) if isinstance(rows, Stream) else _e_step(mixture, rows)


@jax.jit
def m_step(mixture: Mixture, stats: Stats, prior: Prior | None = None) -> Mixture:
    """The mixture that maximises the proxy (plus the log prior), given `stats` taken about `mixture`; what it holds stays."""
    family, components = family_of(mixture), mixture.components
    if prior is not None:
        stats = stats + prior.imagined(family, components, stats)
    log_weights = with_free_weights(mixture, log_shares(stats.counts[free_weights(mixture)]))
    return dataclasses.replace(mixture, log_weights=log_weights, components=family.m_step(components, stats.components))


def objective(mixture: Mixture, stats: Stats, prior: Prior | None = None) -> Array:
    """What EM climbs, `[]`: the log-likelihood in `stats` (about `mixture`) plus the log prior."""
    return stats.log_likelihood if prior is None else stats.log_likelihood + prior.log_prob(mixture)


def log_shares(counts: Array) -> Array:
    """The weights' M-step: log of each count's share of the sum, `[k]`; -inf for a component without rows."""
    return jnp.where(alive(counts), jnp.log(positive(counts) / jnp.sum(counts)), -jnp.inf)


def pass_over(mixture: Mixture, rows: Rows, part: Any = None) -> Stats:
    """The E-step over ready rows, or over some of their blocks; the mixture is in their frame."""
    family = mixture.family
    prepared = family.prepare(mixture.components, mixture.log_weights)
    if rows.run > 1:
        return sum_blocks(lambda x, w, _: family.stats_of_runs(prepared, x, w, rows.run), rows, part=part)
    return sum_blocks(partial(family.block_stats, prepared), rows, part=part)


def chart_map(like: Mixture, rows: Rows, prior: Prior | None = None) -> Callable[[Array], Array]:
    """EM's map M in the chart, `[p] -> [p]`, for mixtures of one shape and family, in the frame of the rows."""

    def em(free: Array) -> Array:
        old = like.constrain(free)
        return m_step(old, pass_over(old, rows), prior).unconstrain()

    return em


def stats_of(mixture: Mixture, x: Array, resp: Array) -> Stats:
    """The Stats of given responsibilities: `x` `[n, d]`, `resp` `[n, k]` times the sample weight; no log-likelihood."""
    components = mixture.family.suff_stats(mixture.components, x, resp)
    return Stats(jnp.zeros((), x.dtype), jnp.sum(resp, axis=0), components)


def proxy(
    new: Mixture,
    old: Mixture,
    x: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    prior: Prior | None = None,
    chunk_size: int | None = None,
) -> Array:
    """The lecture's l-hat, `[]`: the elbo of `new` at the responsibilities of `old`, plus the log prior of `new`.

    proxy(theta, theta) is the objective of theta, and its gradient there is that of the objective. The arguments are
    those of `e_step`; no array `[n, k]` is made.
    """
    new, old = as_mixture(new), as_mixture(old)
    rows = as_rows(new.family, x, sample_weight, new.n_components, like=new, chunk_size=chunk_size, centred=False)
    return _proxy(new, old, rows, prior)


def elbo(
    mixture: Mixture,
    x: ArrayLike,
    resp: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    prior: Prior | None = None,
    chunk_size: int | None = None,
) -> Array:
    """sum_i w_i sum_j r_ij log( p(x_i and j) / r_ij ), `[]`, for any responsibilities `resp` `[n, k]`; 0 log 0 = 0.

    A lower bound of the log-likelihood (with `prior`, of the objective) where rows of `resp` sum to one.
    """
    k = (mixture := as_mixture(mixture)).n_components
    own = dict[str, Any]({"centred": False, "in_order": True})
    rows = as_rows(mixture.family, x, sample_weight, k, like=mixture, chunk_size=chunk_size, **own)
    return _elbo(mixture, rows, resp_blocks(resp, x, rows, k), prior)


def to_frame(prior: Prior | None, frame: Frame) -> Prior | None:
    """The prior where the rows of a frame lie."""
    return None if prior is None else prior.shift(-frame.centre)


# -- programs ------------------------------------------------------------------------------------------------------------


def _e_step_of(mixture: Mixture, rows: Rows) -> Stats:
    return pass_over(mixture.to_frame(rows.frame), rows)


def _proxy_of(new: Mixture, old: Mixture, rows: Rows, prior: Prior | None) -> Array:
    new, old, prior = new.to_frame(rows.frame), old.to_frame(rows.frame), to_frame(prior, rows.frame)

    def of_block(block: Array, w: Array, _: Array) -> Array:
        bound = new.family.bound(new.components, old.components, block.T) + new.log_weights[None, :]
        return _elbo_of_block(bound, normalise(log_joint(old, block.T), axis=1)[1], w)

    total = sum_blocks(of_block, rows)
    return total if prior is None else total + prior.log_prob(new)


def _elbo_of(mixture: Mixture, rows: Rows, resp: Array, prior: Prior | None) -> Array:
    mixture, prior = mixture.to_frame(rows.frame), to_frame(prior, rows.frame)
    total = sum_blocks(lambda block, w, _, r: _elbo_of_block(log_joint(mixture, block.T), r, w), rows, resp)
    return total if prior is None else total + prior.log_prob(mixture)


def _elbo_of_block(joint: Array, resp: Array, w: Array) -> Array:
    """sum_i w_i sum_j r_ij (log p(x_i, j) - log r_ij), `[]`, given log p(x_i, j) and r_ij `[b, k]`."""
    used = resp >= tiny(resp.dtype)  # 0 log 0 = 0; XLA takes what is below the smallest normal number for 0 as well
    log_ratio = jnp.where(used, joint, 0.0) - jnp.log(jnp.where(used, resp, 1.0))
    return weighted_sum(w, jnp.sum(jnp.where(used, resp * log_ratio, 0.0), axis=1))


_e_step = Program(_e_step_of, work=lambda mixture, rows: turn_work(rows, mixture.n_components), small=THOROUGH)
_proxy = Program(_proxy_of, work=lambda new, _, rows, __: turn_work(rows, new.n_components), small=THOROUGH)
_elbo = Program(_elbo_of, work=lambda mixture, rows, *_: turn_work(rows, mixture.n_components), small=THOROUGH)
