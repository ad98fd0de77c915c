"""Pointwise: what a mixture says of single rows: log p(x), p(j | x), labels, and what is missing or behind noise.

Rows are worked on a block at a time. Those in the host's memory are padded to few sizes, and threads share their chunks; those
that are spread over devices stay there.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxem.checks import as_sample_size, as_supported, as_weights, check_from_host
from jaxem.criteria import Criteria, criteria
from jaxem.devices import mesh_under
from jaxem.holes import MAX_RUN, in_runs, patterns_of, run_length
from jaxem.primitives import is_traced, normalise
from jaxem.program import THOROUGH, Program, is_staging
from jaxem.rows import block_size, bucket, map_host_rows, map_rows, map_spread_rows


def over_rows(per_row: Callable[..., Array], mixture: Any, x: ArrayLike, chunk_size: int | None) -> Array:
    """`per_row(mixture, rows [b, d]) -> [b, ...]` of all rows `x` `[n, d]`, checked."""
    family, k = mixture.family, mixture.n_components
    data = as_supported(family, x, k, family.n_features(mixture.components))
    data = data.astype(jnp.promote_types(data.dtype, mixture.log_weights.dtype))
    if jax.export.is_symbolic_dim(data.shape[0]):  # an exported program for any number of rows has no blocks
        return per_row(mixture, data)
    d, mesh = data.shape[1], mesh_under(data)
    host = data if isinstance(data, np.ndarray) and not (is_traced(mixture) or is_staging()) else None
    # rows on the host are padded to few sizes; so is the block, which is static
    n = data.shape[0] if host is None else bucket(data.shape[0])
    block = block_size((n, d), family.row_floats(k, d), data.dtype, chunk_size=chunk_size)
    if host is None:
        return _map_rows(per_row, block, 1, mesh, mixture, data)
    if not (family.by_pattern and np.isnan(host).any()):
        return map_host_rows(lambda chunk: _map_rows(per_row, block, 1, None, mixture, chunk), host)
    # rows that miss the same values lie together, and come back in their order
    patterns = patterns_of(host)
    run = run_length(patterns, d, min(block, MAX_RUN))
    places = in_runs(patterns, run)
    together = host[np.where(places < 0, -1 - places, places)]
    found = map_host_rows(lambda chunk: _map_rows(per_row, block, run, None, mixture, chunk), together)
    in_order = np.empty((len(host), *found.shape[1:]), found.dtype)
    in_order[places[places >= 0]] = np.asarray(found)[places >= 0]
    return jax.device_put(in_order)


def criteria_of(mixture: Any, x: ArrayLike, sample_weight: ArrayLike | None) -> Criteria:
    """BIC and AIC of a mixture on rows `[n, d]`."""
    check_from_host("bic or aic", mixture, x, sample_weight, instead="compute it from log_prob there")
    values = np.asarray(over_rows(log_prob, mixture, x, None), np.float64)
    w = (
        np.ones(len(values))
        if sample_weight is None
        else np.asarray(as_weights(sample_weight, len(values), np.float64))
    )
    n = as_sample_size(None, sample_weight, len(values))
    return criteria(float(np.sum(np.where(w > 0, w * values, 0.0))), mixture.n_parameters, n)


def log_joint(mixture: Any, x: Array, run: int = 1) -> Array:
    """log p_j + log p(x_i | params_j), `[b, k]`, of rows `[b, d]`, of which `run` after each other miss the same values."""
    family, components = mixture.family, mixture.components
    own = family.log_prob(components, x) if run == 1 else family.log_prob_of_runs(components, x, run)
    joint: Array = own + mixture.log_weights[None, :]
    return joint


def log_prob(mixture: Any, rows: Array, run: int = 1) -> Array:
    """log p(x_i), `[b]`."""
    return normalise(log_joint(mixture, rows, run), axis=1)[0]


def log_confidence(mixture: Any, rows: Array, run: int = 1) -> Array:
    """log max_j p(j | x_i), `[b]`."""
    return jnp.log(jnp.max(responsibilities(mixture, rows, run), axis=1))


def responsibilities(mixture: Any, rows: Array, run: int = 1) -> Array:
    """p(j | x_i), `[b, k]`; the weights for a row that no component can produce."""
    found, resp = normalise(log_joint(mixture, rows, run), axis=1)
    return jnp.where(found[:, None] == -jnp.inf, mixture.weights[None, :], resp)


def predict(mixture: Any, rows: Array, run: int = 1) -> Array:
    """The likeliest component, `[b]` of int."""
    return jnp.argmax(responsibilities(mixture, rows, run), axis=1)


def impute(mixture: Any, rows: Array, run: int = 1) -> Array:
    """Rows `[b, d]` with expected values in place of missing ones."""
    filled: Array = mixture.family.impute(mixture.components, responsibilities(mixture, rows, run), rows, run)
    return filled


def denoise(mixture: Any, rows: Array, run: int = 1) -> Array:
    """The means of the truth behind the rows, `[b, d]`."""
    truth: Array = mixture.family.denoise(mixture.components, rows, responsibilities(mixture, rows, run))
    return truth


def _over_blocks(
    per_row: Callable[..., Array], block: int, run: int, mesh: Mesh | None, mixture: Any, x: Array
) -> Array:
    def over(x: Array) -> Array:
        return map_rows(functools.partial(per_row, mixture, run=run), x, block, run)

    return over(x) if mesh is None else map_spread_rows(over, x, mesh)


_map_rows = Program(
    _over_blocks,
    (0, 1, 2, 3),
    work=lambda _, block, __, ___, mixture, *_x: block * mixture.n_components,
    small=THOROUGH,
)
