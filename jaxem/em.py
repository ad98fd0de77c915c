"""The lecture's page: the E-step, the M-step, and the proxy objective l-hat between them.

A mixture has the log-likelihood  l(theta) = sum_i log sum_j p_j p(x_i | theta_j),  hard to maximise for the sum inside
the logarithm. For any responsibilities r_ij >= 0 with sum_j r_ij = 1, Jensen's inequality gives a lower bound,

    elbo(theta, r) = sum_i sum_j r_ij log( p(x_i and j | theta) / r_ij )  <=  l(theta).

    E-step   r_ij = p(j | x_i, old theta) makes the bound touch l at the old theta. With this r it is the *proxy*,
             l-hat(theta) = sum_i sum_j p(j | i) log( p(x_i and j | theta) / p(j | i) ).
    M-step   theta = argmax l-hat. In the weights: p_j = sum_i r_ij / n. In the components: the family's closed form;
             for the lecture's N(x; mu_j, sigma_j^2 I)

                 mu_j = sum_i r_ij x_i / sum_i r_ij,   sigma_j^2 = sum_i r_ij |x_i - mu_j|^2 / (d sum_i r_ij).

So l(new) >= l-hat(new) >= l-hat(old) = l(old): the likelihood never falls (Dempster, Laird and Rubin 1977; Neal and
Hinton 1998). Rows may carry weights w_i: every sum over i becomes sum_i w_i. With a prior, log prior(theta) is added to
l and to l-hat alike.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxem.families.base import Family, alive, normalise, tiny, weighted_sum
from jaxem.mixture import Mixture, as_supported, log_joint
from jaxem.priors import Prior
from jaxem.rows import (
    Rows,
    as_weights,
    block_size,
    blocked,
    bucket,
    mesh_under,
    naming_memory,
    ready,
    ready_on_host,
    settled,
    sum_blocks,
)
from jaxem.stats import Stats


def e_step(
    mixture: Mixture, x: ArrayLike | Rows, sample_weight: ArrayLike | None = None, *, chunk_size: int | None = None
) -> Stats:
    """One pass over the data: log-likelihood, counts and sufficient statistics under `mixture`.

    Args:
        mixture: the current theta.
        x: `[n, d]`, or `Rows` made ready before.
        sample_weight: `[n]`, non-negative; a row of weight 0 is absent, one of weight 3 stands for three.
        chunk_size: rows worked on at a time; computed from the shapes by default. No array `[n, k]` is made.

    Returns:
        Stats about `mixture`; those of two sets of rows add.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    rows = as_ready(mixture, x, sample_weight, chunk_size=chunk_size)
    with naming_memory():
        return settled(_e_step(mixture, rows), rows.weights.shape[-1] * mixture.n_components)


@jax.jit
def m_step(mixture: Mixture, stats: Stats, prior: Prior | None = None) -> Mixture:
    """The mixture that maximises the proxy (plus the log prior), given `stats` taken about `mixture`."""
    log_weights = log_shares(stats.counts if prior is None else stats.counts + prior.pseudo_counts())
    components = mixture.family.m_step(mixture.components, stats.counts, stats.components, prior)
    return Mixture(log_weights, components, mixture.family)


def objective(mixture: Mixture, stats: Stats, prior: Prior | None = None) -> Array:
    """What EM climbs, `[]`: the log-likelihood in `stats` (about `mixture`) plus the log prior."""
    return stats.log_likelihood if prior is None else stats.log_likelihood + prior.log_prob(mixture)


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
    rows = as_ready(new, x, sample_weight, chunk_size=chunk_size, centred=False)
    with naming_memory():
        return settled(_proxy(new, old, rows, prior), rows.weights.shape[-1] * new.n_components)


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
    shape = (np.shape(x)[0], mixture.n_components) if np.ndim(x) == 2 else None
    if shape is not None and np.shape(resp) != shape:
        raise ValueError(f"resp has shape {np.shape(resp)}; give one row for each of x, {shape}")
    rows = as_ready(mixture, x, sample_weight, chunk_size=chunk_size, centred=False)
    resp = resp if isinstance(resp, jax.Array) else np.asarray(resp)
    with naming_memory():
        resp = blocked(resp.astype(rows.blocks.dtype), rows)
        return settled(_elbo(mixture, rows, resp, prior), resp.size)


def log_shares(counts: Array) -> Array:
    """The weights' M-step: log of each count's share of the sum, `[k]`; -inf for a component without rows."""
    owned = alive(counts)
    return jnp.where(owned, jnp.log(jnp.where(owned, counts, 1.0) / jnp.sum(counts)), -jnp.inf)


# -- the pass, without the edge ------------------------------------------------------------------------------------------


def pass_over(mixture: Mixture, rows: Rows) -> Stats:
    """The E-step over ready rows: `mixture` moved to where the rows are centred, block after block summed."""
    if mixture.family.location:
        mixture = mixture.shift(-rows.centre)
    over_blocks = functools.partial(sum_blocks, rows=rows)
    return mixture.family.pass_stats(mixture.components, mixture.log_weights, over_blocks)


def as_rows(
    family: Any, x: ArrayLike, sample_weight: ArrayLike | None, mixture: Mixture | None = None
) -> tuple[Array | np.ndarray, Array | np.ndarray | None]:
    """The edge: `x` and `sample_weight` as checked arrays of one dtype, that of the mixture if it is wider."""
    expected = None if mixture is None else family.n_features(mixture.components)
    data = as_supported(family, x, n_features=expected)
    if mixture is not None:
        data = data.astype(jnp.promote_types(data.dtype, mixture.log_weights.dtype))
    return data, as_weights(sample_weight, data.shape[0], data.dtype)


def as_ready(
    mixture: Mixture,
    x: ArrayLike | Rows,
    sample_weight: ArrayLike | None,
    *,
    lanes: int = 1,
    chunk_size: int | None = None,
    centred: bool | None = None,
) -> Rows:
    """Checked and ready rows, in the wider dtype of data and mixture, for passes of so many `lanes` at once."""
    if isinstance(x, Rows):
        if sample_weight is not None:
            raise ValueError("sample_weight was given with ready Rows, which carry their own; give one of the two")
        return x
    data, weights = as_rows(mixture.family, x, sample_weight, mixture)
    return made_ready(
        mixture.family, data, weights, lanes * mixture.n_components, chunk_size=chunk_size, centred=centred
    )


def made_ready(
    family: Family,
    data: Array | np.ndarray,
    weights: Array | np.ndarray | None,
    k: int,
    *,
    chunk_size: int | None = None,
    centred: bool | None = None,
    mesh: Mesh | None = None,
) -> Rows:
    """Rows of checked arrays: by numpy if they are on the host (spread over `mesh` if given), else where they are."""
    n, d = data.shape
    centred = family.location if centred is None else centred
    if isinstance(data, np.ndarray) and (weights is None or isinstance(weights, np.ndarray)):
        block = block_size((bucket(n), d), family.row_floats(k, d), data.dtype, chunk_size=chunk_size)
        return ready_on_host(data, weights, centred=centred, block=block, mesh=mesh)
    mesh = mesh_under(data)
    local = n if mesh is None else n // mesh.size
    block = block_size((local, d), family.row_floats(k, d), data.dtype, chunk_size=chunk_size)
    return _ready(data, weights, centred, block, mesh)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _ready(data: Array, weights: Array | None, centred: bool, block: int, mesh: Mesh | None) -> Rows:
    return ready(data, weights, centred=centred, block=block, mesh=mesh)


@jax.jit
def _e_step(mixture: Mixture, rows: Rows) -> Stats:
    return pass_over(mixture.astype(rows.blocks.dtype), rows)


@jax.jit
def _proxy(new: Mixture, old: Mixture, rows: Rows, prior: Prior | None) -> Array:
    def of_block(block: Array, w: Array, _: Array) -> Array:
        bound = new.family.bound(new.components, old.components, block.T) + new.log_weights[None, :]
        return _bound(bound, normalise(log_joint(old, block.T), axis=1)[1], w)

    total = sum_blocks(of_block, rows)
    return total if prior is None else total + prior.log_prob(new)


@jax.jit
def _elbo(mixture: Mixture, rows: Rows, resp: Array, prior: Prior | None) -> Array:
    total = sum_blocks(lambda block, w, _, r: _bound(log_joint(mixture, block.T), r, w), rows, resp)
    return total if prior is None else total + prior.log_prob(mixture)


def _bound(log_joint: Array, resp: Array, w: Array) -> Array:
    """sum_i w_i sum_j r_ij (log p(x_i, j) - log r_ij), `[]`, of a block of rows."""
    used = resp >= tiny(resp.dtype)  # 0 log 0 = 0; XLA takes what is below the smallest normal number for 0 as well
    log_ratio = jnp.where(used, log_joint, 0.0) - jnp.log(jnp.where(used, resp, 1.0))
    return weighted_sum(w, jnp.sum(jnp.where(used, resp * log_ratio, 0.0), axis=1))
