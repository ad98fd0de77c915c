"""Slots: components that only fill a shape, so that mixtures of several numbers of components share one program.

An absent component has weight 0 and parameters like those of another. It takes no responsibility, so the M-step leaves it as
it is, and a climb whose State names the components that are present keeps it at weight 0 (loop.py).
"""

from typing import Any

import jax
import numpy as np

from jaxem.loop import Result
from jaxem.mixture import Mixture
from jaxem.primitives import take


def with_slots(mixture: Mixture, slots: int) -> Mixture:
    """The same mixture with absent components, copies of weight 0 of the first, so that there are `slots` in all."""
    k = mixture.n_components
    index = np.where(np.arange(slots) < k, np.arange(slots), 0)
    family, components = mixture.family.subset(jax.tree.map(np.asarray, mixture.components), index)
    log_weights: Any = np.where(np.arange(slots) < k, np.asarray(mixture.log_weights)[index], -np.inf)
    return Mixture(log_weights.astype(mixture.log_weights.dtype), components, family)


def without_absent(results: Result, k: int) -> Result:
    """Results `[m, ...]` whose mixtures have the first k components only, all in numpy."""
    mixture = results.mixture
    if mixture.n_components == k:
        return results
    every = [mixture.family.subset(take(mixture.components, i), np.arange(k))[1] for i in range(len(mixture))]
    components = jax.tree.map(lambda *leaves: np.stack(leaves), *every)
    return results._replace(mixture=Mixture(mixture.log_weights[:, :k], components, mixture.family))
