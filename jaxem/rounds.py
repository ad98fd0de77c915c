"""Rounds: what a search is made of. In a round several kinds of start (the arms) make a few turns; the promising go on, each
kind in its turn; and what may still lead climbs to the end (short runs: Biernacki, Celeux and Govaert 2003; successive
halving: Jamieson and Talwalkar 2016).

A climb is promising by its height and by how fast it still rises. Of the climbs in one optimum only the best goes on.
Later rounds begin at the best optima found, with one small cell of rows moved to another component (recipes.py): where
most of an optimum is right, that finds the rest. The rounds end when `PATIENCE` of them in a row find nothing better, or
when the budget is spent.

Climbs that collapsed leave before each ranking; else their unbounded likelihood would win. If all that were promising
collapse, others are called back.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family
from jaxem.held import as_start
from jaxem.init import shapes_of
from jaxem.lanes import Queue, Settings, compile_ahead, queue_of, run_through
from jaxem.loop import NO_LIMIT, Result
from jaxem.mixture import Mixture
from jaxem.parts import Passed, Sample
from jaxem.priors import Prior
from jaxem.program import BRISK, HASTY, Program
from jaxem.queue import map_starts, optimum_tol
from jaxem.recipes import Recipe
from jaxem.rows import Frame, Rows, on_one_device, turn_work
from jaxem.stopping import Status, StoppingRule, has_failed

ARMS: dict[str, Recipe] = {
    "k-means++": Recipe(),
    "cells": Recipe(cells=1.0),
    "narrow k-means++": Recipe(nearest=False, narrow=True),
    "random": Recipe(apart=False, nearest=False),
    "narrow random": Recipe(apart=False, nearest=False, narrow=True),
    "move": Recipe(cells=1.0, moved=1.0, swapped=0.5),
}
"""kinds of start that are raced, by default; a move begins at an optimum that was found before"""
MOVE, DOUBLED = "move", "cells"
"""the arm of rounds that begin at optima, and the one that gets two starts for each of the others"""
MOVED_FROM = (0, 0, 0, 1, 0, 2)
"""the optima that are moved from, in turn, by rank"""
STARTS = 16
"""starts of a round, at most"""
ROUND = 400
"""passes of a round, about"""
SHORT, LONG = 8, 48
"""turns that all starts of a round make, and those that the promising ones make then, at most"""
PROMISING = 0.5
"""part of the starts that is promising"""
CYCLE = 4
"""rounds of which one begins at new starts and the others at the optima found; the very first begins at new starts too"""
PATIENCE = 5
"""rounds in a row that find nothing better, after which a search ends"""
REACH = 8
"""turns that a climb is trusted to go on rising as fast as in the last"""
PIECE_TURNS = 64
"""turns of the last climbs between two looks at them"""
LARGE_TURN = 10**8
"""if a turn touches more numbers than this, rows are spread over all GPUs or TPUs and no lane stays idle"""


class SearchProgress(NamedTuple):
    """How far `search` is; its callback receives it.

    Attributes:
        passes: passes made so far.
        budget: passes that may be made; polishing the best may go beyond.
        best: the highest objective of a climb that has not collapsed, or -inf; on a sample, that of its rows.
        lanes: climbs still in the race.
    """

    passes: int
    budget: int
    best: float
    lanes: int

    @property
    def shown(self) -> tuple[int, int, str]:
        """What a bar shows."""
        return self.passes, self.budget, f"{self.lanes} climbs, best {self.best:.4f}"


class Race(NamedTuple):
    """What is fixed about a race."""

    family: Family
    k: int
    slots: int  # components that the programs have: those beyond k are absent, so that one program serves many k
    arms: tuple[str, ...]
    budget: float  # passes over all rows
    rows: Passed
    drawn_from: Rows  # what starts are made from
    prior: Prior | None
    stop: StoppingRule
    settings: Settings
    callback: Callable[[SearchProgress], None] | None
    values: Mixture | None = None  # of parameters that are held
    journal: Any = None  # remembers the climbs

    @property
    def starts(self) -> int:
        """Starts of a round that the budget is good for: a power of 2, and one of a single component."""
        return 1 if self.slots == 1 else starts_of(int(self.budget / self.share))

    @property
    def share(self) -> float:
        """The part of all rows that the climbs pass over."""
        return self.rows.share if isinstance(self.rows, Sample) else 1.0

    @property
    def is_large(self) -> bool:
        """Whether a turn is so much work that no lane may be idle; on a CPU none is then (lanes.py)."""
        if not isinstance(self.rows, Rows):
            return False
        return jax.default_backend() != "cpu" and turn_work(self.rows, self.slots, self.settings.width) > LARGE_TURN

    @property
    def of_round(self) -> int:
        """Passes over the rows of the race that a round makes, about."""
        return max(1, min(int(self.budget / self.share), ROUND))

    def report(self, passes: float, best: float, lanes: int) -> None:
        """Call the callback, if there is one."""
        if self.callback is not None:
            self.callback(SearchProgress(math.ceil(passes), math.ceil(self.budget), best, lanes))


class Found(NamedTuple):
    """The climbs of some rounds that were polished, best first, numpy throughout; and all passes made."""

    results: Result  # leaves [m, ...], where the data lie
    mixtures: Mixture  # leaves [m, ...], in the frame of the rows
    arms: tuple[str, ...]
    passes: float  # over all rows

    def joined(self, other: "Found") -> "Found":
        """These climbs and those of another round."""
        results, mixtures = jax.tree.map(
            lambda *leaves: np.concatenate(leaves), (self.results, self.mixtures), (other.results, other.mixtures)
        )
        names = self.arms + other.arms
        order = _order(Scores.of_results(results), np.arange(len(names)))
        results, mixtures = jax.tree.map(lambda leaf: leaf[order], (results, mixtures))
        return Found(results, mixtures, tuple(names[i] for i in order), self.passes + other.passes)

    @property
    def best(self) -> float:
        """The highest objective of a sound climb, or -inf."""
        scores = Scores.of_results(self.results)
        return float(np.max(scores.objective, where=scores.sound, initial=-np.inf))

    @property
    def optima(self) -> np.ndarray:
        """The distinct optima: of each the best climb, best first; none if no climb is sound."""
        scores = Scores.of_results(self.results)
        return _best_first(scores, np.flatnonzero(scores.sound)) if scores.sound.any() else np.zeros(0, int)


def run_rounds(key: Array, race: Race, passes: float) -> Found:
    """Rounds from new starts, then from the optima found, while the budget lasts; `passes` were made before."""
    found, fruitless, number = _run_round(key, 0, race, None, False, passes), 0, 1
    while race.k > 1 and found.passes + ROUND * race.share / 2 <= race.budget and fruitless < PATIENCE:
        moves = number % CYCLE != 1 and MOVE in race.arms and found.optima.size > 0
        one = _run_round(key, number, race, found, moves, passes + found.passes)
        better = one.best > found.best + optimum_tol(np.asarray([found.best]))
        fruitless = 0 if better else fruitless + 1
        found, number = found.joined(one), number + 1
    return found


def _run_round(key: Array, number: int, race: Race, before: Found | None, moves: bool, passes: float) -> Found:
    """One round: starts, of which the promising go on, and a few climb to the end; with `moves` from optima found before."""
    names, recipes, mixtures = _recipes(race, before if moves else None)
    known = -np.inf if before is None else before.best
    r = (
        1 if race.k == 1 and not race.family.holes else len(names)
    )  # where values are missing one component has optima, too
    names, arm_of, budget = names[:r], np.unique(names, return_inverse=True)[1], race.of_round
    field = Field(race, _open_queue(key, number, race, recipes, mixtures), known, passes)
    field = field.climb(np.arange(r), max(1, min(SHORT, budget // (2 * r))))
    lanes = _interleave_arms(_best_first(field.scores, np.arange(r)), arm_of)[: max(1, round(PROMISING * r))]
    field = field.climb(lanes, max(1, min(LONG, (budget - field.scores.passes) // len(lanes))))
    return field.found(lanes, names, moves)


class Field(NamedTuple):
    """Climbs that compete on the rows of a race: their queue, and what is known of them after the last rung."""

    race: Race
    queue: Queue
    known: float  # the best objective known before
    passes: float  # made before
    scores: Any = None
    results: Any = None

    @classmethod
    def start(cls, mixtures: Mixture, race: Race, passes: float) -> "Field":
        """Climbs from at most `STARTS` mixtures `[r, ...]` in the frame of the rows."""
        index = np.arange(STARTS)
        r = mixtures.log_weights.shape[0]
        padded = jax.tree.map(lambda leaf: np.asarray(leaf)[np.minimum(index, r - 1)], mixtures)
        return cls(race, _start(padded, index < r, race.rows.frame, np.int32(race.k), race.settings), -np.inf, passes)

    def order(self, lanes: np.ndarray) -> np.ndarray:
        """These climbs, best first."""
        return _order(self.scores, lanes)

    def climb(self, lanes: np.ndarray, n_steps: int) -> "Field":
        """After `n_steps` turns of the climbs of these numbers."""
        race, queue, known = self.race, self.queue, self.known
        if race.is_large and len(lanes) < queue.climb.shape[0]:  # no lane is idle
            queue = queue.with_width(len(lanes))
        # long work runs in pieces, with a callback after each
        told = race.callback is not None or race.journal is not None  # a journal's entries are the same with a callback
        piece = queue.climb.shape[0] if race.is_large or told else queue.order.shape[0]
        for begin in range(0, len(lanes), piece):
            limit = np.asarray(queue.states.n_iter) + n_steps
            rest = queue.rung(lanes[begin : begin + piece], limit)
            entry = None if race.journal is None else race.journal.entry()
            queue, results = run_through(rest, race.rows, race.prior, race.stop, race.settings, entry=entry)
            scores = Scores.of(queue, results)
            leader = np.max(scores.objective, where=scores.sound, initial=known)
            race.report(self.passes + race.share * scores.passes, float(leader), len(lanes))
        return self._replace(queue=queue, scores=scores, results=results)

    def found(self, lanes: np.ndarray, names: Sequence[str], moves: bool) -> Found:
        """After the leader of these climbs, and what may overtake it, have climbed to the end."""
        field, bar = self, self.known if moves else -np.inf
        while True:
            scores = field.scores
            leader = _order(scores, lanes)[0]
            bar = max(bar, scores.objective[leader] if scores.sound[leader] else -np.inf)
            running = lanes[scores.running[lanes] & scores.sound[lanes]]
            running = running[(scores.hope[running] > bar) | ((running == leader) & (not moves))]
            if running.size == 0:
                waiting = np.setdiff1d(np.flatnonzero(scores.running[: len(names)]), lanes)
                if scores.sound[lanes].any() or waiting.size == 0:
                    break
                # all that were promising have collapsed: call others back
                running = _order(scores, waiting)[: len(lanes)]
                lanes = np.concatenate([lanes, running])
            field = field.climb(running, PIECE_TURNS)
        scores, ended = field.scores, lanes[~field.scores.running[lanes]]
        last = _order(scores, ended if ended.size or moves else lanes)  # moves that came to no end found nothing
        mixtures: Any = field.queue.states.here.mixture
        results, mixtures = jax.tree.map(lambda leaf: np.asarray(leaf)[last], (field.results, mixtures))
        return Found(results, mixtures, tuple(names[lane] for lane in last), self.race.share * scores.passes)


def _recipes(race: Race, base: Found | None) -> tuple[list[str], Recipe, Mixture]:
    """The arm of each start, its recipe, and the mixture that it may be moved from, leaves `[r, ...]`."""
    r = race.starts
    if base is None:
        arms = [name for name in race.arms if name != MOVE] or ["k-means++"]
        turns = arms + [name for name in arms if name == DOUBLED]
        names = [turns[i % len(turns)] for i in range(r)]
        shapes = shapes_of(race.family, race.slots, race.drawn_from.blocks.shape[1], race.drawn_from.blocks.dtype)
        shapes = shapes if race.values is None else dataclasses.replace(shapes, held=race.values.held)
        mixtures = jax.tree.map(lambda leaf: np.zeros((r, *leaf.shape), leaf.dtype), shapes)
    else:
        names, optima = [MOVE] * r, base.optima
        chosen = optima[[MOVED_FROM[i % len(MOVED_FROM)] % optima.size for i in range(r)]]
        mixtures = jax.tree.map(lambda leaf: leaf[chosen], base.mixtures)
    recipes = jax.tree.map(lambda *values: np.asarray(values), *(ARMS[name] for name in names))
    return names, recipes, mixtures


def _open_queue(key: Array, number: int, race: Race, recipes: Recipe, mixtures: Mixture) -> Queue:
    """The queue of a round; if this is the first, and not kept, the program that runs it is compiled meanwhile."""
    rows = on_one_device(race.drawn_from)
    k = np.int32(race.k)
    opening = (key, np.int32(number), race.family, rows, race.slots, k, recipes, mixtures, race.settings, race.values)
    if number > 0 or jax.default_backend() != "cpu" or _open.exists(*opening):
        return _open(*opening)
    shapes = _open.small.eval_shape(*opening)
    compiling = compile_ahead(shapes, race.rows, race.prior, race.stop, race.settings)
    queue = _open(*opening)
    compiling.join()
    return queue


class Scores(NamedTuple):
    """What the host ranks climbs by, `[r]` each."""

    objective: np.ndarray
    hope: np.ndarray  # what the objective will be if the climb goes on for `REACH` turns as in its last
    status: np.ndarray  # as it would be if the climb ended here
    running: np.ndarray
    made: np.ndarray  # passes

    @classmethod
    def of(cls, queue: Queue, results: Result) -> "Scores":
        """The scores of all climbs of a queue whose lanes are empty."""
        states = queue.states
        objective, status, own, n_iter, gain = (  # numpy has nothing to compile
            np.asarray(leaf) for leaf in (results.objective, results.status, states.status, states.n_iter, states.gain)
        )
        running = own == Status.RUNNING
        rising = np.where(running & np.isfinite(gain), np.maximum(gain, 0.0), 0.0)
        return cls(objective, objective + REACH * rising, status, running, n_iter + 1)

    @classmethod
    def of_results(cls, results: Result) -> "Scores":
        """The scores of climbs that are over."""
        objective, status, n_iter = (np.asarray(leaf) for leaf in (results.objective, results.status, results.n_iter))
        return cls(objective, objective, status, np.zeros(status.shape, bool), n_iter + 1)

    @property
    def sound(self) -> np.ndarray:
        """Which are finite and have not collapsed."""
        return np.isfinite(self.objective) & ~has_failed(self.status)

    @property
    def passes(self) -> int:
        """Passes made by all lanes."""
        return int(np.sum(self.made))


def _order(scores: Scores, lanes: np.ndarray) -> np.ndarray:
    """Lanes best first by what they may become, sound ones before the others."""
    value = np.where(np.isfinite(scores.hope[lanes]), scores.hope[lanes], -np.inf)
    return lanes[np.lexsort((-value, ~scores.sound[lanes]))]


def _best_first(scores: Scores, lanes: np.ndarray) -> np.ndarray:
    """Sound lanes best first, of those in one optimum only the best; the best of all if none is sound."""
    order = _order(scores, lanes)
    sound = order[scores.sound[order]]
    if sound.size == 0:
        return order[:1]
    values = scores.objective[sound]
    first = [not np.any(np.abs(values[:i] - values[i]) <= optimum_tol(values)) for i in range(sound.size)]
    return sound[first]


def _interleave_arms(ranked: np.ndarray, arm_of: np.ndarray) -> np.ndarray:
    """Ranked lanes so that the arms take turns: the best of each, then the second of each, and so forth.

    After few turns likelihoods compare starts of one kind; between kinds they tell which kind begins lower.
    """
    arms = arm_of[ranked]
    place = np.array([np.sum(arms[:i] == arm) for i, arm in enumerate(arms)], int)  # within its arm
    return ranked[np.argsort(place, kind="stable")]


def starts_of(budget: int) -> int:
    """Starts of a round that a budget is good for: a power of 2."""
    return 2 ** math.floor(math.log2(min(STARTS, max(budget * STARTS / ROUND, 1.0))))


# -- programs ------------------------------------------------------------------------------------------------------------


def _open_round(
    key: Array,
    number: Array,
    family: Family,
    rows: Rows,
    slots: int,
    k: Array,
    recipes: Recipe,
    mixtures: Mixture,
    settings: Settings,
    values: Mixture | None,
) -> Queue:
    """All climbs of round `number` before their first pass, `[r, ...]`, each by its own of `recipes`, leaves `[r]`.

    They have k components, in the first of the `slots`, and hold `values`.
    """
    key = jax.random.fold_in(key, number)
    data, weight = rows.as_matrix()
    index = jnp.arange(mixtures.log_weights.shape[0])
    values = None if values is None else values.to_frame(rows.frame)

    def start(lane: tuple[Array, Recipe, Mixture]) -> Mixture:
        i, recipe, mixture = lane
        made = recipe(jax.random.fold_in(key, i), family, data, slots, weight, mixture, k).settle(rows.frame.centre)
        return as_start(made, values, rows.frame.variance)

    drawn = map_starts(start, (index, recipes, mixtures), data)
    present = jnp.arange(slots) < k
    return queue_of(drawn, index >= 0, rows.frame, settings, NO_LIMIT, resumes=True, framed=True, present=present)


def _start_climbs(mixtures: Mixture, real: Array, frame: Frame, k: Array, settings: Settings) -> Queue:
    present = jnp.arange(mixtures.n_components) < k
    return queue_of(mixtures, real, frame, settings, NO_LIMIT, resumes=True, framed=True, present=present)


_start = Program(_start_climbs, (4,), small=HASTY, large=HASTY, nan_is_data=True)
_open = Program(_open_round, (2, 4, 8), small=BRISK, large=BRISK, nan_is_data=True)
