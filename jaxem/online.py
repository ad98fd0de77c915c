"""Online: EM over batches that come one after the other. A turn sees one batch, then makes an M-step.

EM climbs F(theta, r) = elbo(theta, r) by turns: over the responsibilities r, then over theta. Nothing says that all rows must
get new responsibilities before theta moves (Neal and Hinton 1998). The proxy is a sum over batches b, and so are its Stats:

    incremental   S_b = stats of batch b about theta,   S = sum_b S_b,   theta = m_step(S)

where a batch that comes again replaces its old S_b. Both halves raise F over the batches seen so far, so F never falls while
no new batch comes, and the fixed points are those of EM over all rows. With one batch it is EM. Where batches do not come
again their Stats fade (Cappe and Moulines 2009):

    stepwise      S = (1 - g) S + g S_b,   theta = m_step(S),   g = (t + offset)^-decay,   1/2 < decay <= 1

with Stats per unit of weight and t the weight of all rows so far in units of this batch's: 1, 2, 3, ... for equal batches.
Then sum g is infinite and sum g^2 is not (Robbins and Monro 1951): theta converges to a stationary point of the expected
log-likelihood of a row. No single step promises to raise anything.

Stats are taken about the mixture of their time. Before they are added, those of the past are moved to the present
(families/movable.py). `total.log_likelihood` is then F: the sum of log-likelihoods at the mixtures of their time, plus what the
proxy has risen by since. The rows lie in one frame, that of the first batch.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.checks import as_count, as_mixture, check_options
from jaxem.em import m_step, pass_over, to_frame
from jaxem.families.base import Family
from jaxem.families.movable import Movable
from jaxem.mixture import Mixture
from jaxem.moments import zeros_like_result
from jaxem.primitives import alive, compact, is_traced
from jaxem.priors import Prior
from jaxem.program import Program
from jaxem.rows import Frame, Rows, as_rows, turn_work
from jaxem.stats import Stats

DECAY, OFFSET = 0.6, 1.0
"""how fast old batches fade in stepwise EM, and by how many batches the count of batches is put forward, by default"""


@compact
class Kept(NamedTuple):
    """What incremental EM keeps of b = g h batches, in g groups of h, so that a turn adds up g + h Stats, not b.

    Each `log_likelihood` here is without the part of the proxy that moves with the parameters. Batches not seen are zeros.
    """

    stats: Stats  # [g, h, ...], of each batch
    about: Mixture  # [g, h, ...], what they were taken about
    weights: Array  # [g, h]
    sums: Stats  # [g, ...], of each group
    sums_about: Mixture  # [g, ...]


@compact
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Online:
    """EM over batches, under way: a pytree. `incremental_step` and `stepwise_step` give the next one.

    Attributes:
        here: the mixture, in the frame.
        total: Stats about `here` of what was seen, at the responsibilities of their time; of stepwise EM faded, and scaled to
            `weight`. Its log_likelihood is the bound F.
        weight: `[]`, the weight of the rows seen; a batch that came again counts once.
        n_steps: `[]` of int, batches taken so far.
        frame: that of the first batch.
        kept: the Stats of each batch; None of stepwise EM.
    """

    here: Mixture
    total: Stats
    weight: Array
    n_steps: Array
    frame: Frame
    kept: Kept | None = None

    @property
    def mixture(self) -> Mixture:
        """The mixture where the data lie."""
        return self.here.from_frame(self.frame)

    @property
    def n_batches(self) -> int:
        """How many batches there is room for; 0 of stepwise EM."""
        return 0 if self.kept is None else math.prod(self.kept.weights.shape)


def begin(
    mixture: Mixture, x: ArrayLike | Rows, sample_weight: ArrayLike | None = None, *, n_batches: int | None = None
) -> Online:
    """The state before the first batch, which is not yet taken.

    Args:
        mixture: the start.
        x: `[n, d]`, the first batch: its place becomes that of the frame.
        sample_weight: `[n]`, its weights.
        n_batches: of incremental EM, how many there are at most; None for stepwise EM.

    Raises:
        NotImplementedError: if the family's statistics cannot be moved.
        ValueError: the argument, the value found and the remedy, in one line.
    """
    mixture = as_mixture(mixture, x)
    as_movable(mixture.family)
    rows = as_rows(mixture.family, x, sample_weight, mixture.n_components, like=mixture)
    here = mixture.to_frame(rows.frame)
    nothing, zero = zeros_like_result(pass_over, here, rows), jnp.zeros_like(rows.frame.total_weight)
    state = Online(here, nothing, zero, jnp.int32(0), rows.frame)
    return state if n_batches is None else with_room(state, n_batches)


def incremental_step(
    state: Online,
    x: ArrayLike | Rows,
    batch: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    prior: Prior | None = None,
    chunk_size: int | None = None,
) -> Online:
    """One turn of incremental EM: an E-step over a batch, whose old Stats are replaced, and an M-step over all batches.

    Args:
        state: from `begin` with `n_batches`, or from the last turn.
        x: `[n, d]`, the batch.
        batch: its number, from 0; of a number that came before the rows are the same, or take the place of the old ones.
        sample_weight: `[n]`, non-negative.
        prior: as for `fit`; it counts once, whatever the number of batches.
        chunk_size: rows worked on at a time; computed from the shapes by default.

    Raises:
        IndexError: if there is no room for a batch of this number; where it is traced it is not looked at.
        ValueError: the argument, the value found and the remedy, in one line.
    """
    if state.kept is None:
        raise ValueError("state is one of stepwise EM; give begin n_batches=, or call stepwise_step")
    if not is_traced(batch) and not 0 <= int(np.asarray(batch)) < state.n_batches:
        raise IndexError(f"batch = {batch} is none of the {state.n_batches}; call with_room, or give begin n_batches=")
    rows, prior = _checked(state, x, sample_weight, prior, chunk_size)
    return cast(Online, _incremental(state, rows, jnp.asarray(batch, jnp.int32), prior))


def stepwise_step(
    state: Online,
    x: ArrayLike | Rows,
    sample_weight: ArrayLike | None = None,
    *,
    prior: Prior | None = None,
    decay: ArrayLike = DECAY,
    offset: ArrayLike = OFFSET,
    chunk_size: int | None = None,
) -> Online:
    """One turn of stepwise EM: an E-step over a batch of fresh rows, Stats of the past that fade, and an M-step.

    Args:
        state: from `begin` without `n_batches`, or from the last turn.
        x: `[n, d]`, the batch.
        sample_weight: `[n]`, non-negative.
        prior: as for `fit`; it counts once against all rows so far.
        decay: above 1/2, at most 1: how fast the share of a new batch falls. At 1 with offset 0 all rows count alike, seen when
            they were; the less, the sooner the first ones, which were seen by a poor mixture, are forgotten.
        offset: at least 0: a larger one lets the first batches move less.
        chunk_size: rows worked on at a time; computed from the shapes by default.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    if state.kept is not None:
        raise ValueError("state is one of incremental EM; leave n_batches out of begin, or call incremental_step")
    if not is_traced(decay) and not 0.5 < float(np.asarray(decay)) <= 1.0:
        raise ValueError(f"decay = {decay}; give a number above 1/2 and at most 1, or the steps do not settle")
    if not is_traced(offset) and not 0.0 <= float(np.asarray(offset)) < math.inf:
        raise ValueError(f"offset = {offset}; give a finite number of at least 0")
    rows, prior = _checked(state, x, sample_weight, prior, chunk_size)
    steps = (jnp.asarray(value, rows.weights.dtype) for value in (decay, offset))
    return cast(Online, _stepwise(state, rows, *steps, prior))


def with_room(state: Online, n_batches: int) -> Online:
    """The state with room for so many batches at least; those it has keep their numbers."""
    n = as_count("n_batches", n_batches)
    h = math.isqrt(n - 1) + 1
    g = -(-n // h)
    here, nothing = state.here, jax.tree.map(jnp.zeros_like, state.total)
    of_all = functools.partial(jax.tree.map, lambda leaf: jnp.broadcast_to(leaf, (g * h, *leaf.shape)))
    stats, about, weights = of_all(nothing), of_all(here), jnp.zeros(g * h, state.weight.dtype)
    if state.kept is not None:
        most = state.n_batches
        if n < most:
            raise ValueError(f"n_batches = {n} is less than the {most} there is room for; give more")
        flat = jax.tree.map(lambda leaf: leaf.reshape(most, *leaf.shape[2:]), state.kept[:3])
        stats, about, weights = jax.tree.map(lambda new, old: new.at[:most].set(old), (stats, about, weights), flat)
    stats, about, weights = jax.tree.map(lambda leaf: leaf.reshape(g, h, *leaf.shape[1:]), (stats, about, weights))
    sums = jax.vmap(lambda stats, about: _add_up(stats, about, here))(stats, about)
    sums_about = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (g, *leaf.shape)), here)
    return dataclasses.replace(state, kept=Kept(stats, about, weights, sums, sums_about))


def moved(stats: Stats, old: Mixture, new: Mixture) -> Stats:
    """Stats about `new` of the rows whose Stats about `old` are given, at the same responsibilities.

    The log-likelihood becomes the elbo of `new` at these: a lower bound of its log-likelihood.
    """
    return _bound(new, _move(_remainder(old, stats), old, new))


def as_movable(family: Family) -> Movable:
    """The family, or a NotImplementedError if its statistics cannot be moved."""
    if isinstance(family, Movable) and family.movable:
        return family
    if family.holes:
        raise NotImplementedError(f"{family!r} cannot be fitted batch by batch where values are missing; fit all rows")
    raise NotImplementedError(
        f"{family.shown_name} cannot be fitted batch by batch: its statistics hold at one set of parameters only; fit all "
        "rows, or derive the family from jaxem.Movable"
    )


# -- steps ---------------------------------------------------------------------------------------------------------------


def _checked(
    state: Online, x: ArrayLike | Rows, sample_weight: ArrayLike | None, prior: Prior | None, chunk_size: int | None
) -> tuple[Rows, Prior | None]:
    """A batch, ready but in its own frame, and the prior in the dtype of the state."""
    here = state.here
    rows = as_rows(here.family, x, sample_weight, here.n_components, like=here, chunk_size=chunk_size)
    dtype = here.log_weights.dtype
    if rows.blocks.dtype != dtype:
        raise ValueError(f"x has dtype {rows.blocks.dtype}, the batches before had {dtype}; cast it to that")
    check_options(prior, None, None)
    if prior is not None:
        prior.check(here.family)
    return rows, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), prior)


def _in_frame(rows: Rows, frame: Frame) -> Rows:
    """The same rows about another centre."""
    blocks = rows.blocks + (rows.frame.centre - frame.centre)[None, :, None]
    return dataclasses.replace(rows, blocks=blocks, norms=jnp.sum(blocks**2, axis=1))


def _incremental_turn(state: Online, rows: Rows, batch: Array, prior: Prior | None) -> Online:
    here, kept = state.here, cast(Kept, state.kept)
    own = _remainder(here, pass_over(here, _in_frame(rows, state.frame)))
    i, j = jnp.divmod(batch, kept.weights.shape[1])

    def put(whole: Any, one: Any, at: Any) -> Any:
        return jax.tree.map(lambda whole, one: whole.at[at].set(one), whole, one)

    stats, about = put(kept.stats, own, (i, j)), put(kept.about, here, (i, j))
    weights = kept.weights.at[i, j].set(rows.frame.total_weight)
    own_stats, own_about = jax.tree.map(lambda leaf: leaf[i], (stats, about))
    group = _add_up(own_stats, own_about, here)
    kept = Kept(stats, about, weights, put(kept.sums, group, i), put(kept.sums_about, here, i))
    # added anew in each turn, none taken away: what was large once leaves no rounding behind
    total = _add_up(kept.sums, kept.sums_about, here)
    return _maximised(dataclasses.replace(state, weight=jnp.sum(weights), kept=kept), total, prior)


def _stepwise_turn(state: Online, rows: Rows, decay: Array, offset: Array, prior: Prior | None) -> Online:
    here, own = state.here, rows.frame.total_weight
    new = _remainder(here, pass_over(here, _in_frame(rows, state.frame)))
    old, weight = _remainder(here, state.total), state.weight + own
    first = state.weight == 0
    share = jnp.where(first, 1.0, (weight / own + offset) ** -decay)
    of_old = jnp.where(first, 0.0, (1.0 - share) * (weight / jnp.where(first, 1.0, state.weight)))
    total = jax.tree.map(lambda old, new: of_old * old + share * (weight / own) * new, old, new)
    return _maximised(dataclasses.replace(state, weight=weight), total, prior)


def _maximised(state: Online, total: Stats, prior: Prior | None) -> Online:
    """The state after the M-step, given the `total` about the mixture before it."""
    here = m_step(state.here, total, to_frame(prior, state.frame))
    total = _bound(here, _move(total, state.here, here))
    return dataclasses.replace(state, here=here, total=total, n_steps=state.n_steps + 1)


def _move(stats: Stats, old: Mixture, new: Mixture) -> Stats:
    components = cast(Movable, old.family).move_stats(old.components, new.components, stats.components)
    return dataclasses.replace(stats, components=components)


def _add_up(stats: Stats, about: Mixture, here: Mixture) -> Stats:
    """The sum about `here` of Stats `[b, ...]`, each about its own mixture."""
    each = jax.vmap(lambda stats, about: _move(stats, about, here))(stats, about)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), each)


def _remainder(mixture: Mixture, stats: Stats) -> Stats:
    """Stats whose log-likelihood is without what the proxy has from the parameters: the rest does not move with these."""
    return dataclasses.replace(stats, log_likelihood=stats.log_likelihood - _expected(mixture, stats))


def _bound(mixture: Mixture, stats: Stats) -> Stats:
    """The inverse of `_remainder`, at any mixture: the log-likelihood becomes the elbo."""
    return dataclasses.replace(stats, log_likelihood=stats.log_likelihood + _expected(mixture, stats))


def _expected(mixture: Mixture, stats: Stats) -> Array:
    """sum_ij r_ij log p(x_i, j) of Stats about `mixture`, but for a constant, `[]`."""
    owned = alive(stats.counts)
    of_weights = jnp.where(owned, stats.counts * jnp.where(owned, mixture.log_weights, 0.0), 0.0)
    return jnp.sum(of_weights) + cast(Movable, mixture.family).expected(mixture.components, stats.components)


_incremental = Program(_incremental_turn, work=lambda state, rows, *_: turn_work(rows, state.here.n_components))
_stepwise = Program(_stepwise_turn, work=lambda state, rows, *_: turn_work(rows, state.here.n_components))
