"""Stats: what one pass over data under a mixture yields. Stats add.

For a mixture theta and rows x_i of weight w_i, with responsibilities r_ij = p(j | x_i, theta),

    log_likelihood = sum_i w_i log p(x_i | theta),   counts_j = sum_i w_i r_ij,

and `components` holds the family's sufficient statistics sum_i w_i r_ij T(x_i). All three are sums over rows, so the
Stats of two sets of rows, taken about the same mixture, add up to the Stats of their union: over blocks, files,
devices and time.
"""

import dataclasses
import operator
from typing import Any

import jax
from jax import Array

from jaxem.primitives import compact


@compact
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stats:
    """Sufficient statistics of a set of rows under one mixture.

    Attributes:
        log_likelihood: `[]`, the weighted sum over rows of log p(x).
        counts: `[k]`, effective number of rows of each component.
        components: pytree, the family's own statistics.
    """

    log_likelihood: Array
    counts: Array
    components: Any

    def __add__(self, other: "Stats") -> "Stats":
        return jax.tree.map(operator.add, self, other)
