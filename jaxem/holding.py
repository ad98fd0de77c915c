"""Holding: what it means for a mixture that some of its parameters are held.

`Mixture.held` says which: static, so that programs know it. Held parameters have no coordinates in the chart, every step leaves
them as they are, and the others are maximised exactly:

    weights     p_j = (1 - sum of the held weights) N_j / sum of the free N_j
    components  the M-step of the family over the rest (families/holdable.py), also with what a prior imagines

So the number of parameters, information criteria, errors, accelerators and derivatives follow by themselves. The file
held.py makes a `Held` of what a user writes.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem import kept
from jaxem.families.base import Family
from jaxem.families.holdable import HeldFamily, parts_of, put_back

STEP = 0.01
"""how far apart two points of a chart are that tell which coordinates a parameter has"""
EVERY = slice(None)


class Held(NamedTuple):
    """Which parameters are held; hashable.

    Attributes:
        weights: of each component.
        leaves: of each leaf of the family's parameters: of each component, or one bool if the components share it.
    """

    weights: tuple[bool, ...]
    leaves: tuple[bool | tuple[bool, ...], ...]

    def of_components(self, components: Any) -> Any:
        """The same as a pytree of the kind of `components`, arrays of bool by numpy."""
        structure = jax.tree.structure(components)
        return jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in self.leaves])

    @property
    def any(self) -> bool:
        """Whether anything is held."""
        return any(map(np.any, (self.weights, *self.leaves)))

    @property
    def is_even(self) -> bool:
        """Whether no component is treated unlike another."""
        return all(len(set(np.atleast_1d(leaf).tolist())) == 1 for leaf in (self.weights, *self.leaves))

    def subset(self, index: Any) -> "Held":
        """That of the components in `index`."""
        pick = lambda leaf: tuple(np.asarray(leaf)[index].tolist())  # noqa: E731
        leaves = (leaf if isinstance(leaf, bool) else pick(leaf) for leaf in self.leaves)
        return Held(pick(self.weights), tuple(leaves))


def after_picking(held: Held | None, index: Any, weights: bool) -> Held | None:
    """`held` after components were picked, with that of the `weights` or without. None where it cannot be known: if the
    numbers are traced and components differ, or in a Union."""
    if held is None or any(not isinstance(leaf, bool) and len(leaf) < len(held.weights) for leaf in held.leaves):
        return None
    if isinstance(index, jax.core.Tracer):
        if not held.is_even or index.shape != (len(held.weights),):
            return None
        picked = held
    else:
        picked = held.subset(np.asarray(index) if not isinstance(index, slice) else index)
    picked = picked if weights else picked._replace(weights=(False,) * len(picked.weights))
    return picked if picked.any else None


# -- the chart -----------------------------------------------------------------------------------------------------------


def free_weights(mixture: Any) -> Any:
    """The numbers `[f]` of the components whose weights are free; a slice if all are."""
    if mixture.held is None or not any(mixture.held.weights):
        return EVERY
    return np.flatnonzero(~np.asarray(mixture.held.weights))


def with_free_weights(mixture: Any, log_shares: Array) -> Array:
    """Log weights `[k]` of a mixture whose free ones share what the held ones leave, by `log_shares` `[f]`."""
    free = free_weights(mixture)
    if free is EVERY:
        return log_shares
    held = np.flatnonzero(mixture.held.weights)
    log_weights = jnp.asarray(mixture.log_weights)
    return log_weights.at[free].set(log_shares + jnp.log1p(-jnp.sum(jnp.exp(log_weights[held]))))


def free_coordinates(mixture: Any) -> Any:
    """The numbers `[q]` of the family's coordinates that belong to free parameters; a slice if all do."""
    if mixture.held is None or not any(map(np.any, mixture.held.leaves)):
        return EVERY
    leaves, structure = jax.tree.flatten(mixture.components)
    shapes = tuple((np.shape(leaf), np.dtype(jnp.result_type(leaf))) for leaf in leaves)
    found = _free_coordinates(mixture.family, structure, shapes, mixture.held.leaves)
    if found is None:
        raise ValueError("held names a parameter that has no coordinates of its own; hold others, or all parameters")
    return found


@functools.lru_cache
def _free_coordinates(family: Family, structure: Any, shapes: Any, leaves: Any) -> np.ndarray | None:
    """By two mixtures: with the held parameters of the second in the first, the held coordinates are those of the second.
    None where others move too."""

    def find() -> np.ndarray | None:
        like = jax.tree.unflatten(structure, [np.zeros(*shape) for shape in shapes])
        held = Held((), leaves).of_components(like)

        def look(free: Array) -> Array:
            one, other = family.constrain(like, 0.0 * free), family.constrain(like, free)
            return family.unconstrain(jax.tree.map(put_back, held, other, one))

        with jax.ensure_compile_time_eval(), jax.debug_nans(False):
            p = jax.eval_shape(family.unconstrain, like).shape[0]
            dtype = jax.tree.leaves(jax.eval_shape(family.unconstrain, like))[0].dtype
            free = STEP * (1.0 + np.arange(p) % 7 / 7) * np.where(np.arange(p) % 2, 1.0, -1.0)
            seen = np.asarray(jax.jit(look)(jnp.asarray(free, dtype)))
        moved = np.abs(seen) > STEP / 3
        return np.flatnonzero(~moved) if np.allclose(seen, np.where(moved, free, 0.0), atol=STEP / 10) else None

    return cast("np.ndarray | None", kept.fact(["coordinates", family, structure, shapes, leaves], find))


def with_coordinates(mixture: Any, free: Array) -> Any:
    """The components of a mixture at the free ones of the family's coordinates, `free` `[q]`."""
    index, family, components = free_coordinates(mixture), mixture.family, mixture.components
    if index is EVERY:
        return family.constrain(components, free)
    whole = family.unconstrain(components).at[index].set(free)
    return jax.tree.map(
        put_back, mixture.held.of_components(components), components, family.constrain(components, whole)
    )


# -- the M-step ----------------------------------------------------------------------------------------------------------


def family_of(mixture: Any) -> Any:
    """The family of a mixture, as its M-step sees it."""
    if mixture.held is None:
        return mixture.family
    return HeldFamily(mixture.family, mixture.held.of_components(mixture.components))


def may_collapse(mixture: Any) -> Any:
    """Which components have a spread that is free, and may collapse: `[k]` of bool, or True for all."""
    spread = getattr(mixture.family, "spread", "")
    if mixture.held is None or not spread or parts_of(mixture.family):
        return True
    return ~getattr(mixture.held.of_components(mixture.components), spread)


# -- values that are held ------------------------------------------------------------------------------------------------


def restore(mixture: Any, values: Any) -> Any:
    """A mixture, or a batch of them, with the held parameters of `values`, bit by bit; of one mixture or as many."""
    held, lead = values.held, mixture.log_weights.ndim - 1
    if held is None:
        return mixture
    keep = functools.partial(put_back, lead=lead)
    mask = held.of_components(mixture.components)
    components = jax.tree.map(keep, mask, values.components, mixture.components)
    log_weights = keep(np.asarray(held.weights), values.log_weights, mixture.log_weights)
    return dataclasses.replace(mixture, log_weights=log_weights, components=components, held=held)


def restored(result: Any, values: Any) -> Any:
    """A Result whose mixture has the held parameters of `values`, bit by bit."""
    return result if values.held is None else result._replace(mixture=restore(result.mixture, values))


def hold_at(start: Any, values: Any, variance: Array | None = None) -> Any:
    """A start with the held parameters of `values` written in; its other weights share what the held ones leave.

    Its components are first put in such an order that each held mean takes the nearest one that is left.
    """
    start = _nearest_first(start, values, variance)
    whole = restore(start, values)
    free = free_weights(whole)
    if free is EVERY:
        return whole
    log_weights = with_free_weights(whole, jax.nn.log_softmax(jnp.asarray(start.log_weights)[free]))
    return dataclasses.replace(whole, log_weights=log_weights)


def _nearest_first(start: Any, values: Any, variance: Array | None) -> Any:
    components, family = start.components, start.family
    if not hasattr(components, "means") or not family.interchangeable or parts_of(family):
        return start
    still = np.flatnonzero(values.held.of_components(components).means)
    if not still.size:
        return start
    means, order = jnp.asarray(components.means), jnp.arange(start.n_components)
    scale = jnp.ones(means.shape[1]) if variance is None else jnp.where(variance > 0, variance, 1.0)
    for place, j in enumerate(still):
        away = (means[order] - jnp.asarray(values.components.means, means.dtype)[j][None, :]) ** 2 / scale[None, :]
        taken = np.isin(np.arange(start.n_components), still[:place])
        i = jnp.argmin(jnp.where(taken, jnp.inf, jnp.sum(away, axis=1)))
        order = order.at[jnp.stack([jnp.asarray(j), i])].set(order[jnp.stack([i, jnp.asarray(j)])])
    components = family.subset(components, order)[1]
    return dataclasses.replace(start, log_weights=jnp.asarray(start.log_weights)[order], components=components)
