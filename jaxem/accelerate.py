"""Accelerators: optax transformations of EM's displacement that say where to look next. They know nothing of mixtures.

A fixed-point map M, here one EM step in the chart, is seen through f = M(x) - x at one anchor x after the other. The
plain step is x + f. Near the fixed point f is linear in the error, f = (I - J)(x* - x), and the eigenvalues of J, in
[0, 1) for EM, are its rates. An accelerator guesses inv(I - J) f from what it saw.

    squarem    two plain steps with r = f(x0), v = f(x1) - r, then the jump x0 + 2 a r + a^2 v with a = |r| / |v|, at most a
               bound that grows by 4 whenever it is reached and falls by 4 when that jump is refused; then a plain step.
                                                                          (Varadhan and Roland 2008, scheme S3)
    anderson   x + f - (DX + DF) g, g = argmin |f - DF g|, over the last m differences DX of anchors and DF of f.
                                                     (Anderson 1965; Walker and Ni 2011; Henderson and Varadhan 2019)
    hybrid     squarem far away and anderson near: the first crosses plateaus, where the second is drawn to saddles; the
               second ends the climb in a few steps, where the first goes on at its pace.

All are called once per turn with one f, without branches, and are told by `accepted` whether the last proposal was taken.
If it was refused the anchor is the old one, the next query the plain step whatever is proposed, and they forget what they
have seen, but for the bound. Each state has `ahead`, the estimate of inv(I - J) f, from which the loop reads the rate and
what is left to gain.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

GROWTH = 4.0
"""by which SQUAREM's bound grows and falls"""
MEMORY = 5
"""differences that Anderson's method looks back on"""
NEW = 0.2
"""part of a difference that must not lie in those after it, or it is left out: what is nearly known only adds noise"""
NEAR = 1e-2
"""root mean square of f, in units of the coordinates, from which the hybrid takes Anderson's steps"""
QUICK = 0.2
"""factor by which a plain step shrinks f, so that nothing is gained by anything but another plain step"""
PAUSE = 2
"""turns that the hybrid stays with SQUAREM after a refusal"""
BASE, SECOND, JUMPED = 0, 1, 2


class SquaremState(NamedTuple):
    """Where in its cycle SQUAREM is. `base`, `step` and `ahead` are `[p]`."""

    phase: Array  # BASE: at x0; SECOND: at x1; JUMPED: at the jump
    base: Array  # x0
    step: Array  # r
    bound: Array  # on a
    reached: Array  # whether the last jump reached it
    length: Array  # a, as last estimated
    ahead: Array


class AndersonState(NamedTuple):
    """What Anderson's method remembers, newest first."""

    moves: Array  # [m, p], DX
    changes: Array  # [m, p], DF
    used: Array  # rows of them in use
    anchor: Array  # [p], the last
    displacement: Array  # [p], f there
    started: Array
    ahead: Array


class HybridState(NamedTuple):
    """Both, and which of them is in charge."""

    far: SquaremState
    close: AndersonState
    is_near: Array
    was_plain: Array  # whether the last proposal was the plain step
    size: Array  # |f| at the last anchor
    pause: Array  # turns until Anderson's steps may be taken again
    ahead: Array


@functools.cache  # the same value for the same settings: a static argument that compiles once
def squarem() -> optax.GradientTransformationExtraArgs:
    """SQUAREM, scheme S3, monotone by the loop's safeguard. Of use where EM needs many passes; safe everywhere.

    A cycle is three passes. It gives the rate for free: a tends to 1 / (1 - rate).
    """

    def init(params: Array) -> SquaremState:
        zeros, one = jnp.zeros_like(params), jnp.ones((), params.dtype)
        return SquaremState(jnp.int32(BASE), zeros, zeros, one, jnp.bool_(False), one, zeros)

    def update(
        updates: Array, state: SquaremState, params: Array | None = None, *, accepted: Array | bool = True, **extra: Any
    ) -> tuple[Array, SquaremState]:
        del extra
        f, x = updates, _needed(params)
        accepted = jnp.asarray(accepted)
        jumped, second = state.phase == JUMPED, (state.phase == SECOND) & accepted
        grown, shrunk = state.bound * GROWTH, jnp.maximum(1.0, state.bound / GROWTH)
        bound = jnp.where(jumped & state.reached, jnp.where(accepted, grown, shrunk), state.bound)

        r, v = state.step, f - state.step
        change = _norm(v)
        estimate = jnp.where(change > 0, _norm(r) / jnp.where(change > 0, change, 1.0), 1.0)
        a = jnp.clip(estimate, 1.0, bound)
        jump = second & (a > 1.0)
        reached = second & (a >= bound)
        bound = jnp.where(reached & ~jump, bound * GROWTH, bound)  # at 1 a jump would be the plain step
        length = jnp.where(second, jnp.maximum(estimate, 1.0), state.length)

        proposed = jnp.where(jump, state.base + 2.0 * a * r + a**2 * v - x, f)
        at_base = accepted & (state.phase == BASE)
        phase = jnp.where(jump, JUMPED, jnp.where(at_base, SECOND, BASE)).astype(jnp.int32)
        base, step = jnp.where(at_base, x, state.base), jnp.where(at_base, f, state.step)
        return proposed, SquaremState(phase, base, step, bound, jump & reached, length, length * f)

    return optax.GradientTransformationExtraArgs(init, update)


@functools.cache
def anderson(memory: int = MEMORY) -> optax.GradientTransformationExtraArgs:
    """Anderson's method of type II, which forgets all when a step is refused. Of use close to the fixed point.

    Args:
        memory: differences looked back on, at least 1.
    """
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
        raise ValueError(f"memory = {memory!r}; give a positive whole number")

    def init(params: Array) -> AndersonState:
        rows, zeros = jnp.zeros((memory, *params.shape), params.dtype), jnp.zeros_like(params)
        return AndersonState(rows, rows, jnp.int32(0), zeros, zeros, jnp.bool_(False), zeros)

    def update(
        updates: Array,
        state: AndersonState,
        params: Array | None = None,
        *,
        accepted: Array | bool = True,
        **extra: Any,
    ) -> tuple[Array, AndersonState]:
        del extra
        f, x = updates, _needed(params)
        accepted = jnp.asarray(accepted)
        learnt = accepted & state.started

        def pushed(new: Array, rows: Array) -> Array:
            return jnp.where(learnt, jnp.concatenate([new[None], rows[:-1]]), rows)

        moves = pushed(x - state.anchor, state.moves)
        changes = pushed(f - state.displacement, state.changes)
        count = jnp.where(accepted, jnp.minimum(state.used + learnt, memory), 0).astype(jnp.int32)
        proposed = _mixed(f, moves, changes, count)
        return proposed, AndersonState(moves, changes, count, x, f, jnp.bool_(True), proposed)

    return optax.GradientTransformationExtraArgs(init, update)


@functools.cache
def hybrid(memory: int = MEMORY) -> optax.GradientTransformationExtraArgs:
    """SQUAREM far from the optimum, Anderson's method near it, plain EM where that is quick. What `search` uses.

    Args:
        memory: differences that Anderson's method looks back on, at least 1.
    """
    far_away, close_by = squarem(), anderson(memory)

    def init(params: Array) -> HybridState:
        far, infinite = far_away.init(params), jnp.full((), jnp.inf, params.dtype)
        no = jnp.bool_(False)
        return HybridState(far, close_by.init(params), no, no, infinite, jnp.int32(0), far.ahead)

    def update(
        updates: Array, state: HybridState, params: Array | None = None, *, accepted: Array | bool = True, **extra: Any
    ) -> tuple[Array, HybridState]:
        f, x = updates, _needed(params)
        accepted = jnp.asarray(accepted)
        size = _norm(f)
        fresh = far_away.init(x)._replace(bound=state.far.bound)
        before = jax.tree.map(lambda new, old: jnp.where(state.is_near, new, old), fresh, state.far)
        by_jumps, far = far_away.update(f, before, x, accepted=accepted, **extra)
        by_mixing, close = close_by.update(f, state.close, x, accepted=accepted, **extra)

        pause = jnp.where(state.is_near & ~accepted, PAUSE, jnp.maximum(state.pause - 1, 0)).astype(jnp.int32)
        shrinks = accepted & (size < state.size)
        arrived = shrinks & (size < NEAR * jnp.sqrt(float(f.shape[0]))) & (pause == 0)
        is_near = (state.is_near & accepted) | arrived
        jumps = far.phase == JUMPED
        quick = accepted & state.was_plain & (size < QUICK * state.size) & ~jumps
        proposed = jnp.where(quick, f, jnp.where(is_near, by_mixing, by_jumps))
        was_plain = ~accepted | quick | ~(is_near | jumps)
        ahead = jnp.where(close.used > 0, close.ahead, far.ahead)
        return proposed, HybridState(far, close, is_near & ~quick, was_plain, size, pause, ahead)

    return optax.GradientTransformationExtraArgs(init, update)


def _mixed(f: Array, moves: Array, changes: Array, count: Array) -> Array:
    """f - (DX + DF) g with g = argmin |f - DF g|, by orthogonalising the differences, newest first (Gram and Schmidt,
    twice), and leaving out those that are nearly combinations of newer ones.
    """

    def add(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, images = carry  # orthonormal combinations of the changes, and the same of the moves
        change, move = changes[j], moves[j]
        length = _norm(change)
        for _ in range(2):
            along = basis @ change
            change, move = change - along @ basis, move - along @ images
        left = _norm(change)
        useful = (j < count) & (left > NEW * length)
        inverse = jnp.where(useful, 1.0 / jnp.where(useful, left, 1.0), 0.0)
        return basis.at[j].set(change * inverse), images.at[j].set(move * inverse)

    nothing = jnp.zeros_like(changes)
    basis, images = jax.lax.fori_loop(0, changes.shape[0], add, (nothing, nothing))
    return f - (basis @ f) @ (basis + images)


def _norm(a: Array) -> Array:
    return jnp.sqrt(jnp.sum(a**2))


def _needed(params: Array | None) -> Array:
    if params is None:
        raise ValueError("params = None; give update the anchor, as optax.apply_updates would move it")
    return params
