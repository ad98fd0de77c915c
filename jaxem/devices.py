"""Devices: rows that lie on several devices, each of which passes over its own."""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxem.checks import as_data, as_weights
from jaxem.primitives import is_traced

ROWS = "rows"
"""name of the axis of a mesh along which rows lie"""


def shard(x: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[Array, Array]:
    """Spread rows evenly over all devices: `x` `[n, d]` and weights `[n]`, padded with rows of weight 0.

    Every function that takes x uses such rows where they lie: each device passes over its own, and only statistics travel.

    Args:
        x: `[n, d]`.
        sample_weight: `[n]`, non-negative; ones if left out.

    Returns:
        The rows `[m, d]` and their weights `[m]`, m the next multiple of the number of devices.

    Example:
        >>> import jax, jaxem
        >>> x, w = jaxem.shard(jaxem.datasets.faithful())
        >>> starts = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 4, sample_weight=w)
        >>> print(f"{jaxem.best(jaxem.fit_restarts(starts, x, w)).log_likelihood:.2f}")
        -1130.26
    """
    data = np.asarray(as_data(x))
    weights = as_weights(sample_weight, data.shape[0], data.dtype)
    weights = np.ones(data.shape[0], data.dtype) if weights is None else np.asarray(weights)
    mesh = mesh_of(jax.devices())
    padding = -data.shape[0] % mesh.size
    data = np.concatenate([data, np.broadcast_to(data[:1], (padding, data.shape[1]))])
    spread = NamedSharding(mesh, PartitionSpec(ROWS))
    return jax.device_put(data, spread), jax.device_put(np.pad(weights, (0, padding)), spread)


def mesh_of(devices: Any) -> Mesh:
    """A mesh of one axis for rows."""
    return Mesh(np.asarray(devices), (ROWS,), axis_types=(AxisType.Auto,))


def mesh_under(x: Any) -> Mesh | None:
    """The devices over which the rows of `x` `[n, d]` are spread, in their order.

    None for one device, if traced, and where the rows cannot lie evenly: then XLA moves them as it sees fit.
    """
    if not isinstance(x, jax.Array) or is_traced(x) or len(x.sharding.device_set) == 1:
        return None
    if x.is_fully_replicated or x.shape[0] % len(x.sharding.device_set):
        return None
    places = x.sharding.devices_indices_map(x.shape)
    return mesh_of(sorted(places, key=lambda device: (places[device][0].start or 0, device.id)))
