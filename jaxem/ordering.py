"""Ordering: the components of a mixture in a stable order, so that labels agree from run to run.

The likelihood does not depend on the order of the components, so a fit gives them in the order of its start. Two fits that
end in one optimum then call the same component by different numbers. Sorted by something of their own they agree.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxem.checks import as_mixture
from jaxem.holding import after_picking
from jaxem.mixture import Mixture


def sorted_components(mixture: Mixture, by: str | ArrayLike | Callable[[Mixture], Any] = "weight") -> Mixture:
    """The same mixture with its components in another order; its density does not change.

    Args:
        mixture: a mixture of any family, or a batch of them, leaves `[r, k, ...]`, each sorted by itself.
        by: "weight" puts the heaviest component first. "mean" sorts by the means, the first column first, ascending; of a
            family without means by its first parameter. Or numbers `[k]`, sorted ascending (of a batch `[r, k]`), or rows of
            numbers `[k, m]`, by their first column and so on. Or a function of one mixture that gives such numbers, as in
            `by=lambda one: -one.weights`. Equal ones keep their order.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
        TypeError: likewise.

    Example:
        >>> import jax, jaxem
        >>> found = jaxem.search(jax.random.key(0), "full", jaxem.datasets.faithful(), 2).best.mixture
        >>> print(jaxem.sorted_components(found, by="mean").components.means.round(1).tolist())
        [[2.0, 54.5], [4.3, 80.0]]
    """
    mixture = as_mixture(mixture)
    if mixture.log_weights.ndim > 1:
        if isinstance(by, str) or callable(by):
            return jax.vmap(lambda one: sorted_components(one, by))(mixture)
        numbers = _as_numbers(by)
        if numbers.shape[:2] != mixture.log_weights.shape:
            raise ValueError(f"by has shape {numbers.shape}; give [r, k] = {mixture.log_weights.shape} for this batch")
        return jax.vmap(sorted_components)(mixture, numbers)
    if isinstance(by, str) and by not in ("weight", "mean"):
        raise ValueError(f"by = {by!r}; choose weight or mean, or give numbers [k] or a function of the mixture")
    if isinstance(by, str):
        numbers = -mixture.log_weights if by == "weight" else _places(mixture)
    else:
        numbers = _as_numbers(by(mixture) if callable(by) else by)
    k = mixture.n_components
    if not mixture.family.interchangeable:
        raise ValueError(
            f"components of {mixture.family.shown_name} have fixed places; only those of one kind can be put in order"
        )
    if numbers.ndim not in (1, 2) or numbers.shape[0] != k:
        raise ValueError(f"by gives numbers of shape {numbers.shape}; give [k] = ({k},), or [k, m]")
    columns = numbers.reshape(k, -1)
    order = jnp.lexsort(columns.T[::-1])  # its last key counts first
    family, components = mixture.family.subset(mixture.components, order)
    held = after_picking(mixture.held, order, weights=True)
    if held is None and mixture.held is not None:
        raise ValueError(
            "mixture holds parameters of some components, whose order must be known; sort it outside jit, one at a time"
        )
    return Mixture(mixture.log_weights[order], components, family, held)


def _places(mixture: Mixture) -> Any:
    """The means `[k, d]`, or what else comes first among the parameters that the components do not share, `[k, m]`."""
    k, components = mixture.n_components, mixture.components
    leaves = jax.tree.leaves(getattr(components, "means", components))
    of_components = [leaf for leaf in leaves if leaf.ndim and leaf.shape[0] == k]
    if not of_components:
        raise ValueError(
            f"by = 'mean', but {type(mixture.family).__name__} has no parameters [k, ...]; choose by='weight'"
        )
    return of_components[0].reshape(k, -1)


def _as_numbers(by: Any) -> Any:
    numbers = by if isinstance(by, jax.Array) else np.asarray(by)
    if numbers.dtype.kind not in "biuf":
        raise TypeError(
            f"by is of dtype {numbers.dtype}; give 'weight', 'mean', numbers [k] or a function of the mixture"
        )
    return jnp.asarray(numbers)
