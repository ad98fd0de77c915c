"""Holdable: families whose M-step stays exact where some of the parameters are held.

A parameter that is held stays as it is, and the M-step maximises over the others. Where parameters have maxima of their own,
that is the ordinary M-step with the held ones put back. Where the best value of one depends on another, a family says here
what to do: about a held mean m_j a covariance is the scatter about m_j,

    Sigma_j = sum_i r_ij (x_i - m_j)(x_i - m_j)' / N_j,

which is what statistics about the current means hold already.

What is held is told by a pytree of the kind of the parameters, whose leaves are arrays of bool by numpy: `[k]` for a parameter
of each component, `[]` for one that components share.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.families.base import Family, Params


class Holdable(Family):
    """A family that has more than one parameter and knows its M-step where some are held."""

    holdable: ClassVar[tuple[str, ...]] = ()
    """the fields of its parameters that can be held"""
    spread: ClassVar[str] = ""
    """the field without which no component collapses"""
    companions: ClassVar[dict[str, str]] = {}
    """fields that are no free parameters, and are held along with others"""

    def m_step_held(self, params: Params, stats: Any, held: Any) -> Params:
        """`m_step` over the parameters that are not `held`; the caller puts those back. By default `m_step` itself."""
        del held
        return self.m_step(params, stats)

    def imagined_held(self, params: Params, stats: Any, prior: Any, held: Any) -> Any:
        """`imagined` for `m_step_held`; by default the same."""
        del held
        return self.imagined(params, stats, prior)


class HoldsMeans(Holdable):
    """What Gaussians share: statistics are sums about the current means, which are the held ones."""

    holdable: ClassVar[tuple[str, ...]] = ("means", "covariances")
    spread = "covariances"

    def m_step_held(self, params: Params, stats: Any, held: Any) -> Params:
        return self.m_step(params, without_moves(stats, held.means))

    def imagined_held(self, params: Params, stats: Any, prior: Any, held: Any) -> Any:
        return self.imagined(params, stats, prior, held.means)  # type: ignore[call-arg]


class HeldFamily:
    """A family as the M-step and priors see it where some of its parameters are held."""

    def __init__(self, family: Family, held: Any) -> None:
        self.family, self.held = family, held

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def imagined(self, params: Any, stats: Any, prior: Any) -> Any:
        """`Holdable.imagined_held`."""
        if isinstance(self.family, Holdable):
            return self.family.imagined_held(params, stats, prior, self.held)
        return self.family.imagined(params, stats, prior)

    def m_step(self, params: Any, stats: Any) -> Any:
        """`Holdable.m_step_held`, with what is held."""
        if isinstance(self.family, Holdable):
            new = self.family.m_step_held(params, stats, self.held)
        else:
            new = self.family.m_step(params, stats)
        return jax.tree.map(put_back, self.held, params, new)


def without_moves(stats: Any, still: np.ndarray) -> Any:
    """Moments about means of which those that are `still` `[k]` stay where they are."""
    return stats._replace(first=jnp.where(still[:, None], 0.0, stats.first))


def parts_of(family: Any) -> tuple[Family, ...]:
    """The families that a family of families is made of; none for others."""
    found: tuple[Family, ...] = getattr(family, "families", ())
    return found


def put_back(held: Any, old: Any, new: Any, lead: int = 0) -> Any:
    """One leaf `new` with the `held` entries of `old`. `held` is `[]` or `[k]` of bool; before the components `new` may have
    `lead` axes more, which `old` need not have."""
    if not np.any(held):
        return new
    old = jnp.broadcast_to(jnp.asarray(old, new.dtype), new.shape)
    if np.all(held):
        return old
    return jnp.where(held.reshape(*(1,) * lead, -1, *(1,) * (new.ndim - lead - 1)), old, new)
