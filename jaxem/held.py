"""What a user writes as `held=`, checked: names of parameters, which components, and perhaps values.

    held={"weights": True, "means": [True, False]}              as the start has them: all, or those of some components
    held={"means": [[0.0, 0.0], [nan, nan]]}                    at these values; NaN where a component's are free
    held={"weights": True, "parts": ({"means": True}, None)}    of a Product or a Union, one for each part

Names are "weights" and the fields of the family's parameters.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.families.base import Family
from jaxem.families.holdable import Holdable, parts_of, put_back
from jaxem.holding import Held, free_coordinates, free_weights, hold_at, with_free_weights
from jaxem.mixture import Mixture
from jaxem.primitives import is_traced

EXAMPLE = "{'means': True} or {'weights': [0.5, nan]}"
SUM = 1e-6
"""how far from one the sum of weights may be that are all held"""


def with_held(mixture: Any, held: Any) -> Any:
    """A start, or a batch of them, that holds what `held` says, with the values in it written in; None for what it holds
    already.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    if held is None:
        return mixture
    return _Reader(mixture, given=True).read(held)


def values_of(family: Family, k: int, d: int, dtype: Any, held: Any) -> Any:
    """A mixture that has the values of `held` in their places, for starts that are not made yet; None if nothing is held."""
    if held is None:
        return None
    rows = np.tile(np.asarray([[0.0], [1.0]], dtype), (1, d))
    components = jax.jit(lambda x: family.init(x, k))(rows)
    even = Mixture(jnp.full(k, -np.log(k), dtype), components, family)
    values = _Reader(even, given=False).read(held)
    return None if values.held is None else values


def as_start(start: Any, values: Any, variance: Any = None) -> Any:
    """A start, or a batch of them, with `values` from `values_of` in their places; as it is without."""
    if values is None:
        return start
    if start.log_weights.ndim > 1:
        return jax.vmap(lambda one: hold_at(one, values, variance))(start)
    return hold_at(start, values, variance)


class _Reader:
    """Reads `held` for a mixture, whose own values are `given` or only fill shapes."""

    def __init__(self, mixture: Any, given: bool) -> None:
        self.mixture, self.given = mixture, given
        self.lead, self.k = mixture.log_weights.ndim - 1, mixture.log_weights.shape[-1]
        shape = lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[self.lead :], jnp.result_type(leaf))  # noqa: E731
        self.shapes = jax.tree.map(shape, mixture.components)

    def read(self, held: Any) -> Any:
        """The mixture with `held` and its values."""
        mixture, family, k = self.mixture, self.mixture.family, self.k
        _check_names("held", held, ("weights", *(("parts",) if parts_of(family) else _names(family, self.shapes))))
        mask, weights = self._of(held, "held", "weights", mixture.weights, (k,))
        if parts_of(family):
            masks, components = self._of_parts(held.get("parts"))
        else:
            own = {name: value for name, value in held.items() if name != "weights"}
            masks, components = self._of_family("held", own, family, mixture.components, self.shapes)
        leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(masks)]
        static = Held(tuple(mask.tolist()), tuple(tuple(leaf) if isinstance(leaf, list) else leaf for leaf in leaves))
        if not static.any:
            return dataclasses.replace(mixture, held=None)
        new = dataclasses.replace(mixture, components=components, held=static)
        new = self._with_weights(new, held.get("weights", False), mask, weights)
        free_coordinates(dataclasses.replace(new, components=self.shapes))
        return new

    def _of_parts(self, parts: Any) -> tuple[Any, Any]:
        families, components = parts_of(self.mixture.family), self.mixture.components
        if parts is None:
            parts = [None] * len(families)
        if not isinstance(parts, (tuple, list)) or len(parts) != len(families):
            raise ValueError(
                f"held['parts'] = {parts!r}; give {len(families)} dicts, one for each part, or None for a part"
            )
        found = []
        for i, (one, family, *own) in enumerate(zip(parts, families, components, self.shapes, strict=True)):
            where, one = f"held['parts'][{i}]", {} if one is None else one
            if parts_of(family):
                raise ValueError(
                    f"{where} is a family of families inside another, whose parts cannot be held; give None"
                )
            _check_names(where, one, _names(family, own[1]))
            found.append(self._of_family(where, one, family, *own))
        return tuple(mask for mask, _ in found), tuple(values for _, values in found)

    def _of_family(self, where: str, held: Any, family: Family, components: Any, shapes: Any) -> tuple[Any, Any]:
        """Masks like `components`, and these with the values of `held` in them."""
        k = family.length(shapes)
        shared = _are_shared(family, shapes, k)
        masks = jax.tree.map(lambda one: np.zeros(() if one else k, bool), shared)
        for name, value in held.items():
            axes = () if getattr(shared, name) else (k,)
            mask, values = self._of(held, where, name, getattr(components, name), axes)
            masks, components = masks._replace(**{name: mask}), components._replace(**{name: values})
            along = family.companions.get(name) if isinstance(family, Holdable) else None
            if along is not None:
                masks, old = masks._replace(**{along: mask}), getattr(components, along)
                if np.asarray(value).dtype.kind != "b":  # values are meant at 0
                    old = put_back(mask, jnp.zeros_like(old), old, self.lead)
                components = components._replace(**{along: old})
        _check_exact(where, family, masks)
        first = jax.tree.map(lambda leaf: leaf[(0,) * self.lead], components) if self.lead else components
        _check_values(where, family, first, masks)
        return masks, components

    def _of(self, held: Any, where: str, name: str, own: Any, axes: tuple[int, ...]) -> tuple[np.ndarray, Any]:
        """Which components, of shape `axes`, `[k]` or `[]`, and the values of the whole parameter."""
        value, what, shape = held.get(name, False), f"{where}['{name}']", np.shape(own)[self.lead :]
        if is_traced(value):
            raise ValueError(f"{what} is traced, and NaN in it cannot be seen; write it into the mixture and give True")
        try:
            given = np.asarray(value)
        except ValueError:  # ragged
            given = np.asarray(None)
        if given.dtype.kind == "b":
            if given.shape not in ((), axes):
                wanted = f"{axes[0]} of bool, one for each component" if axes else "nothing else: components share it"
                raise ValueError(f"{what} has shape {given.shape}; give True, or {wanted}")
            if given.any() and not self.given and name != "weights":
                raise ValueError(
                    f"{what} = {value!r}, and no start has values yet; give these, with NaN where it is free"
                )
            return np.broadcast_to(given, axes), own
        if given.dtype.kind not in "iuf":
            raise ValueError(
                f"{what} = {value!r:.60}; give True, a bool for each component, or values, NaN where it is free"
            )
        if given.shape != shape:
            raise ValueError(f"{what} has shape {given.shape}; give {shape}, with NaN where it is free")
        unknown = np.isnan(given).reshape(*axes, -1)
        mixed = unknown.any(axis=-1) & ~unknown.all(axis=-1)
        if np.any(mixed):
            place = f"{what}[{int(np.argmax(mixed))}]" if axes else what
            raise ValueError(f"{place} holds numbers and NaN; give all of a component's {name}, or NaN alone")
        if np.isinf(given).any():
            raise ValueError(f"{what} holds values that are not finite; give numbers, and NaN where it is free")
        mask = ~unknown.all(axis=-1)
        return mask, put_back(mask, np.where(np.isnan(given), 0.0, given), jnp.asarray(own), self.lead)

    def _with_weights(self, mixture: Any, value: Any, mask: np.ndarray, weights: Any) -> Any:
        """The mixture with these weights held, the others scaled to what is left."""
        if not mask.any():
            return mixture
        log_weights = jnp.asarray(mixture.log_weights)
        if np.asarray(value).dtype.kind != "b":
            own = jnp.log(jnp.asarray(np.where(mask, np.asarray(value, np.float64), 1.0), log_weights.dtype))
            log_weights = put_back(mask, own, log_weights, self.lead)
        if not is_traced(weights):
            _check_weights(np.asarray(weights, np.float64).reshape(-1, self.k), mask)
        values = dataclasses.replace(mixture, log_weights=log_weights)
        free = free_weights(values)

        def one(mixture: Any) -> Any:
            return with_free_weights(mixture, jax.nn.log_softmax(mixture.log_weights[free]))

        if not mask.all():
            log_weights = jax.vmap(one)(values) if self.lead else one(values)
        return dataclasses.replace(mixture, log_weights=log_weights)


def _check_weights(weights: np.ndarray, mask: np.ndarray) -> None:
    """A ValueError if held weights `[r, k]` are no shares, or leave nothing for the others."""
    held, shown = weights[:, mask], f"held['weights'] = {weights[0, mask].tolist()}"
    if not np.all(held > 0):
        raise ValueError(f"{shown}; give positive shares, or leave the component out")
    total = held.sum(axis=1)
    if not mask.all() and np.any(total >= 1):
        raise ValueError(
            f"{shown} sum to {total.max():.6g} and leave nothing for the others; give shares of a sum below 1"
        )
    if mask.all() and np.any(np.abs(total - 1) > SUM):
        raise ValueError(f"{shown} sum to {total.max():.6g}; give shares that sum to 1, or NaN for one that is free")


def _names(family: Family, components: Any) -> tuple[str, ...]:
    """The names of the parameters that can be held."""
    if isinstance(family, Holdable):
        return family.holdable
    names: tuple[str, ...] = getattr(components, "_fields", ())
    return names if jax.eval_shape(family.unconstrain, components).shape[0] else ()


def _check_names(where: str, held: Any, names: tuple[str, ...]) -> None:
    if not isinstance(held, Mapping):
        raise TypeError(f"{where} is {held!r:.60}; give a dict from names to what is held, such as {EXAMPLE}")
    for name in held:
        if name not in names:
            close = difflib.get_close_matches(str(name), names, 1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"{where} names {name!r}, which cannot be held; choose from {', '.join(names) or 'nothing'}{meant}"
            )


def _check_exact(where: str, family: Family, masks: Any) -> None:
    """A ValueError if a family does not say how the rest is maximised where a part of its parameters is held."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(masks)]
    if not isinstance(family, Holdable) and any(not np.array_equal(leaves[0], leaf) for leaf in leaves[1:]):
        raise ValueError(
            f"{where} names some parameters of a {family.shown_name} component, which does not say how the others are maximised "
            "then; name all of them, or make it a jaxem.families.holdable.Holdable"
        )


def _check_values(where: str, family: Family, components: Any, masks: Any) -> None:
    """A ValueError if held values are none that a component can have."""
    found = functools.reduce(np.logical_or, jax.tree.leaves(masks))
    if is_traced(components) or not np.any(found):
        return
    some = np.flatnonzero(found) if np.ndim(found) else slice(None)
    wrong = family.check(family.subset(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), components), some)[1])
    name, _, what = (wrong or "").partition(" ")
    if wrong and np.any(getattr(masks, name, True)):
        raise ValueError(f"{where}['{name}'] {what}; give values that a {family.shown_name} component can have")


def _are_shared(family: Family, components: Any, k: int) -> Any:
    """Which leaves of parameters, given by their shapes, the components share, in a pytree of bool."""
    more = jax.eval_shape(lambda own: family.subset(own, np.zeros(k + 1, int))[1], components)
    return jax.tree.map(lambda old, new: old.shape == new.shape, components, more)
