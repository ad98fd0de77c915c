"""The best optimum for the fewest passes: `search` races diverse starts, `select` chooses the number of components.

Which optimum EM ends in depends on the start, and no way of starting is best for all data. So a search goes in rounds. In
a round several kinds of start (the arms) make a few turns; the promising go on, each kind in its turn; and what may still
lead climbs to the end (short runs: Biernacki, Celeux and Govaert 2003; successive halving: Jamieson and Talwalkar 2016).
A climb is promising by its height and by how fast it still rises. Of the climbs in one optimum only the best goes on.
Later rounds begin at the best optima found, with one small cell of rows moved to another component (recipes.py): where
most of an optimum is right, that finds the rest. The search ends when `PATIENCE` rounds in a row find nothing better, or
when the budget is spent.

Climbs that collapsed leave before each ranking; else their unbounded likelihood would win. If all that were promising
collapse, others are called back. If every climb of the likelihood collapses, there is no maximum to give. For a Gaussian
family `search` then races again under a penalty that keeps covariances away from zero (`chen_tan` and `variance_floor`),
and gives that fit the status DEGENERATE.

    BIC = p log n - 2 l,  AIC = 2 p - 2 l,  ICL = BIC - 2 sum_i log max_j p(j | x_i):  smaller is better.
                                        (Schwarz 1978; Akaike 1974; Biernacki, Celeux and Govaert 2000)
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.accelerate import hybrid
from jaxem.checks import (
    already_told,
    as_components,
    as_count,
    as_data,
    as_family,
    as_key,
    as_sample_size,
    as_several,
    as_weights,
    check_callback,
    check_from_host,
)
from jaxem.collapse import collapse_of
from jaxem.devices import mesh_of
from jaxem.display import readable, search_card, selection_card
from jaxem.families.base import Family
from jaxem.loop import MAX_ITER, MAX_TURNS, NO_LIMIT, Result, as_options
from jaxem.mixture import Mixture
from jaxem.penalties import chen_tan, variance_floor
from jaxem.priors import NormalInverseWishart, Prior
from jaxem.program import BRISK, Program
from jaxem.queue import (
    Landscape,
    Queue,
    Settings,
    best,
    landscape,
    lane_count,
    map_starts,
    optimum_tol,
    queue_of,
    run,
    run_through,
)
from jaxem.reasons import Collapse
from jaxem.recipes import Recipe
from jaxem.rows import Rows, as_rows, on_one_device, turn_work
from jaxem.stopping import Status, StoppingRule, has_failed

WORK, LEAST_BUDGET, MOST_BUDGET = 3e9, 300, 4000
"""numbers that the passes of a search may touch, by default, and the fewest and most passes that this may mean"""
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
"""if a turn touches more numbers than this, rows are spread over all devices and no lane stays idle"""
FLOOR = 1e-6
"""smallest variance in a penalised fit, as a part of the data's largest variance"""


class SearchProgress(NamedTuple):
    """How far `search` is; its callback receives it.

    Attributes:
        passes: passes made so far.
        budget: passes that may be made; polishing the best may go beyond.
        best: the highest objective of a climb that has not collapsed, or -inf.
        lanes: climbs still in the race.
    """

    passes: int
    budget: int
    best: float
    lanes: int


@readable(search_card)
class Search(NamedTuple):
    """What `search` found.

    Attributes:
        best: a `Result`, the best optimum; its status says whether it is one.
        landscape: the distinct optima of the likelihood that finalists ended in, and how many ended in each. With
            `penalised`, the finalists and arms are those of the penalised race, the landscape that of the race before.
        finalists: a `Result` with leaves `[m, ...]`: all lanes that were polished, best first.
        arms: the kind of start that each finalist came from.
        passes: passes over the data made in all, the first E-step of every lane among them.
        penalised: the fit under a penalty, where every climb of the likelihood collapsed; else None.
        collapse: why, if every climb failed, by the best of them; else None.
    """

    best: Result
    landscape: Landscape
    finalists: Result
    arms: tuple[str, ...]
    passes: int
    penalised: Result | None
    collapse: Collapse | None = None


class Race(NamedTuple):
    """What is fixed about a race."""

    family: Family
    k: int
    arms: tuple[str, ...]
    budget: int
    rows: Rows
    prior: Prior | None
    stop: StoppingRule
    settings: Settings
    callback: Callable[[SearchProgress], None] | None

    @property
    def starts(self) -> int:
        """Starts of a round that the budget is good for: a power of 2, and one of a single component."""
        return 1 if self.k == 1 else _starts_of(self.budget)

    @property
    def is_large(self) -> bool:
        """Whether a turn is so much work that no lane may be idle."""
        return turn_work(self.rows, self.k, self.settings.width) > LARGE_TURN

    def report(self, passes: int, best: float, lanes: int) -> None:
        """Call the callback, if there is one."""
        if self.callback is not None:
            self.callback(SearchProgress(passes, self.budget, best, lanes))


def search(
    key: Array,
    family: Family | str,
    x: ArrayLike | Rows,
    n_components: int,
    sample_weight: ArrayLike | None = None,
    *,
    budget: int | None = None,
    arms: Sequence[str] | None = None,
    prior: Prior | None = None,
    stop: StoppingRule | None = None,
    max_iter: int = MAX_ITER,
    accelerator: Any = hybrid(),
    chunk_size: int | None = None,
    callback: Callable[[SearchProgress], None] | None = None,
) -> Search:
    """The best optimum that a budget of passes finds: diverse starts, raced, the last ones polished.

    Args:
        key: a PRNG key, consumed.
        family: the kind of component, such as `Full()` or its name, "full".
        x: `[n, d]`, or `Rows` made ready before.
        n_components: k, at most n.
        sample_weight: `[n]`, non-negative.
        budget: passes over the data to make, at least 1; by default 300 to 4,000, the more the less a pass costs, and fewer
            if five rounds in a row find nothing better. Those that make starts are not counted. The best of a round is
            polished to the end even if that goes beyond. A second race, under a penalty, may make as many again.
        arms: kinds of start, of `jaxem.racing.ARMS`; all by default.
        prior: with one, log-likelihood + log prior is climbed and ranked.
        stop, max_iter, chunk_size: as for `fit`.
        accelerator: as for `fit`; by default `hybrid()`.
        callback: called with `SearchProgress` between pieces; an exception raised in it, or Ctrl-C, ends the search.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    check_from_host("search", key, x, sample_weight, prior)
    check_callback(callback)
    key, family = as_key(key), as_family(family)
    given = None if budget is None else as_count("budget", budget)
    max_iter = as_count("max_iter", max_iter, least=0, most=MAX_TURNS)
    k = as_count("n_components", n_components, most=10**18)
    names = _arm_names(arms)
    rows = _rows_to_race(family, x, sample_weight, k, lane_count(STARTS), chunk_size)
    rows.check_components(k)
    stop, prior = as_options(family, rows, stop, prior, accelerator)
    budget = default_budget(turn_work(rows, k)) if given is None else given
    settings = Settings(lane_count(1 if k == 1 else _starts_of(budget)), max_iter, accelerator)
    race = Race(family, k, names, budget, rows, prior, stop, settings, callback)
    found = _run_race(key, race, 0)
    if not has_failed(int(found.best.status)):
        return found
    found = found._replace(collapse=collapse_of(found.best.mixture, x, sample_weight))
    bounded = NormalInverseWishart in family.conjugate and np.isfinite(np.asarray(rows.frame.variance)).all()
    return _under_penalty(key, race, found) if bounded else found


def _under_penalty(key: Array, race: Race, found: Search) -> Search:
    """What to give where every climb of the likelihood failed: the best fit of a second race, under a penalty."""
    penalty = _penalty(on_one_device(race.rows))
    penalty = penalty if race.prior is None else race.prior + penalty
    offered = _run_race(key, race._replace(prior=penalty), found.passes)
    if has_failed(int(offered.best.status)):
        return found._replace(passes=offered.passes)
    degenerate = jnp.full_like(offered.best.status, int(Status.DEGENERATE))
    return offered._replace(
        best=offered.best._replace(status=degenerate),
        penalised=offered.best,
        landscape=found.landscape,
        collapse=found.collapse,
    )


class Candidate(NamedTuple):
    """One line of a `Selection`: the fit of one family with one number of components. Smaller criteria are better."""

    family: Family
    n_components: int
    log_likelihood: float
    n_parameters: int
    bic: float
    aic: float
    icl: float
    status: Status


@readable(selection_card)
class Selection(NamedTuple):
    """What `select` found.

    Attributes:
        best: the `Search` of the chosen candidate.
        chosen: which of `candidates` that is.
        candidates: all that were tried, in order; degenerate ones are never chosen while there are others.
        passes: passes over the data made in all.
        n: the number of observations in BIC and ICL.
    """

    best: Search
    chosen: int
    candidates: tuple[Candidate, ...]
    passes: int
    n: float = math.nan


def select(
    key: Array,
    families: Family | str | Iterable[Family | str],
    x: ArrayLike,
    n_components: int | Iterable[int],
    sample_weight: ArrayLike | None = None,
    *,
    criterion: str = "bic",
    n: float | None = None,
    callback: Callable[[Candidate], None] | None = None,
    **options: Any,
) -> Selection:
    """`search` for each family and number of components, and the choice between them by an information criterion.

    Args:
        key: a PRNG key, consumed.
        families: one family or its name, or several.
        x: `[n, d]`.
        n_components: one number, or several.
        sample_weight: `[n]`, non-negative.
        criterion: "bic", "aic" or "icl"; the least is chosen.
        n: the number of observations in BIC and ICL; by default the sum of the weights, with a warning where these do not
            look like counts (relative frequencies, for example). The log-likelihood stays the weighted sum.
        callback: called with each `Candidate` as it is done.
        options: as for `search`: `budget`, `arms`, `prior`, `stop`, `max_iter`, `accelerator`, `chunk_size`.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    check_from_host("select", key, x, sample_weight)
    check_callback(callback)
    key = as_key(key)
    families = tuple(as_family(one) for one in as_several(families))
    counts = as_several(n_components)
    if criterion not in ("bic", "aic", "icl"):
        raise ValueError(f"criterion = {criterion!r}; choose bic, aic or icl")
    if not families or not counts:
        raise ValueError("families or n_components is empty; give at least one of each")
    data = as_data(x, exact=True)
    weights = as_weights(sample_weight, data.shape[0], jax.dtypes.canonicalize_dtype(data.dtype))
    n = as_sample_size(n, weights, data.shape[0])
    for k in counts:
        as_components(k, data.shape[0] if weights is None else int(np.count_nonzero(weights)))
    found: list[Search] = []
    candidates: list[Candidate] = []
    for i, (family, k) in enumerate((family, k) for family in families for k in counts):
        with already_told() if i else contextlib.nullcontext():
            found.append(search(jax.random.fold_in(key, i), family, data, k, weights, **options))
        with already_told():
            candidates.append(_candidate(found[-1].best, data, weights, n))
        if callback is not None:
            callback(candidates[-1])
    chosen = min(range(len(candidates)), key=lambda i: (candidates[i].status.failed, getattr(candidates[i], criterion)))
    return Selection(found[chosen], chosen, tuple(candidates), sum(one.passes for one in found), n)


class Criteria(NamedTuple):
    """The information criteria of a fit; smaller is better."""

    bic: float
    aic: float
    icl: float


def criteria(log_likelihood: float, n_parameters: int, n: float, doubt: float = math.nan) -> Criteria:
    """BIC, AIC and ICL of a fit to n rows (or weights that sum to n).

    `doubt` is -sum_i log max_j p(j | x_i), which ICL alone needs; without it that is NaN.
    """
    bic = n_parameters * math.log(n) - 2.0 * log_likelihood
    return Criteria(bic, 2.0 * n_parameters - 2.0 * log_likelihood, bic + 2.0 * doubt)


def _candidate(result: Result, data: Array | np.ndarray, weights: Any, n: float) -> Candidate:
    mixture, log_likelihood = result.mixture, float(result.log_likelihood)
    w = np.ones(data.shape[0]) if weights is None else np.asarray(weights, np.float64)
    p = mixture.n_parameters
    certainty = np.asarray(mixture.log_confidence(data), np.float64)
    doubt = -float(np.sum(np.where(w > 0, w * certainty, 0.0)))
    of_fit = criteria(log_likelihood, p, n, doubt)
    return Candidate(mixture.family, mixture.n_components, log_likelihood, p, *of_fit, Status(int(result.status)))


class Found(NamedTuple):
    """The climbs of some rounds that were polished, best first, numpy throughout; and all passes made."""

    results: Result  # leaves [m, ...], where the data lie
    mixtures: Mixture  # leaves [m, ...], in the frame of the rows
    arms: tuple[str, ...]
    passes: int

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


def _run_race(key: Array, race: Race, passes: int) -> Search:
    """Rounds from new starts, then from the optima found, while the budget lasts; `passes` were made before."""
    found, fruitless, number = _run_round(key, 0, race, None, False, passes), 0, 1
    while race.k > 1 and found.passes + ROUND // 2 <= race.budget and fruitless < PATIENCE:
        moves = number % CYCLE != 1 and MOVE in race.arms and found.optima.size > 0
        one = _run_round(key, number, race, found, moves, passes + found.passes)
        better = one.best > found.best + optimum_tol(np.asarray([found.best]))
        fruitless = 0 if better else fruitless + 1
        found, number = found.joined(one), number + 1
    finalists = jax.tree.map(jax.device_put, found.results)
    return Search(best(finalists), landscape(finalists), finalists, found.arms, passes + found.passes, None)


def _run_round(key: Array, number: int, race: Race, before: Found | None, moves: bool, passes: int) -> Found:
    """One round: starts, of which the promising go on, and a few climb to the end; with `moves` from optima found before."""
    names, recipes, mixtures = _recipes(race, before if moves else None)
    known = -np.inf if before is None else before.best
    queue = _open_queue(key, number, race, recipes, mixtures)
    arm_of, r, budget = np.unique(names, return_inverse=True)[1], len(names), min(race.budget, ROUND)

    def rung(queue: Queue, lanes: np.ndarray, n_steps: int) -> tuple[Queue, Scores, Result]:
        """`n_steps` turns of the climbs of these numbers."""
        if race.is_large and len(lanes) < queue.climb.shape[0]:  # no lane is idle
            queue = queue.with_width(len(lanes))
        # long work runs in pieces, with a callback after each
        piece = queue.climb.shape[0] if race.is_large or race.callback is not None else r
        for begin in range(0, len(lanes), piece):
            limit = np.asarray(queue.states.n_iter) + n_steps
            rest = queue.rung(lanes[begin : begin + piece], limit)
            queue, results = run_through(rest, race.rows, race.prior, race.stop, race.settings)
            scores = Scores.of(queue, results)
            leader = np.max(scores.objective, where=scores.sound, initial=known)
            race.report(passes + scores.passes, float(leader), len(lanes))
        return queue, scores, results

    queue, scores, results = rung(queue, np.arange(r), max(1, min(SHORT, budget // (2 * r))))
    lanes = _interleave_arms(_best_first(scores, np.arange(r)), arm_of)[: max(1, round(PROMISING * r))]
    queue, scores, results = rung(queue, lanes, max(1, min(LONG, (budget - scores.passes) // len(lanes))))
    bar = known if moves else -np.inf
    while True:
        # the leader climbs to the end, and what may overtake it
        leader = _order(scores, lanes)[0]
        bar = max(bar, scores.objective[leader] if scores.sound[leader] else -np.inf)
        running = lanes[scores.running[lanes] & scores.sound[lanes]]
        running = running[(scores.hope[running] > bar) | ((running == leader) & (not moves))]
        if running.size == 0:
            waiting = np.setdiff1d(np.flatnonzero(scores.running), lanes)
            if scores.sound[lanes].any() or waiting.size == 0:
                break
            # all that were promising have collapsed: call others back
            running = _order(scores, waiting)[: len(lanes)]
            lanes = np.concatenate([lanes, running])
        queue, scores, results = rung(queue, running, PIECE_TURNS)
    ended = lanes[~scores.running[lanes]]
    kept = _order(scores, ended if ended.size or moves else lanes)  # moves that came to no end found nothing
    of_lanes: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[kept], (results, queue.states.here.mixture))
    return Found(of_lanes[0], of_lanes[1], tuple(names[lane] for lane in kept), scores.passes)


def _recipes(race: Race, base: Found | None) -> tuple[list[str], Recipe, Mixture]:
    """The arm of each start, its recipe, and the mixture that it may be moved from, leaves `[r, ...]`."""
    r = race.starts
    if base is None:
        arms = [name for name in race.arms if name != MOVE] or ["k-means++"]
        turns = arms + [name for name in arms if name == DOUBLED]
        names = [turns[i % len(turns)] for i in range(r)]
        shapes = _shapes(race.family, race.k, race.rows.blocks.shape[1], race.rows.blocks.dtype)
        mixtures = jax.tree.map(lambda leaf: np.zeros((r, *leaf.shape), leaf.dtype), shapes)
    else:
        names, optima = [MOVE] * r, base.optima
        chosen = optima[[MOVED_FROM[i % len(MOVED_FROM)] % optima.size for i in range(r)]]
        mixtures = jax.tree.map(lambda leaf: leaf[chosen], base.mixtures)
    recipes = jax.tree.map(lambda *values: np.asarray(values), *(ARMS[name] for name in names))
    return names, recipes, mixtures


@functools.lru_cache
def _shapes(family: Family, k: int, d: int, dtype: Any) -> Mixture:
    """The shapes and dtypes of a mixture; nothing is computed."""

    def mixture(x: Array) -> Mixture:
        return Mixture(jnp.zeros(k, dtype), family.init(x, k), family)

    return jax.eval_shape(mixture, jax.ShapeDtypeStruct((2, d), dtype))


def _open_queue(key: Array, number: int, race: Race, recipes: Recipe, mixtures: Mixture) -> Queue:
    """The queue of a round; in the first the program that runs it is compiled meanwhile."""
    rows = on_one_device(race.rows)
    opening = (key, np.int32(number), race.family, rows, race.k, recipes, mixtures, race.settings)
    if number > 0 or jax.default_backend() != "cpu" or race.rows.mesh is not None:
        return _open(*opening)
    options = (race.rows, race.prior, race.stop, np.int32(NO_LIMIT), race.settings)
    compiling = run.compile_ahead(_open.small.eval_shape(*opening), *options)
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


def _starts_of(budget: int) -> int:
    """Starts of a round that a budget is good for: a power of 2."""
    return 2 ** math.floor(math.log2(min(STARTS, max(budget * STARTS / ROUND, 1.0))))


def default_budget(work: int) -> int:
    """Passes that a search makes by default if each touches `work` numbers: many where they are cheap."""
    return int(np.clip(WORK / work, LEAST_BUDGET, MOST_BUDGET))


# -- programs ------------------------------------------------------------------------------------------------------------


def _open_round(
    key: Array,
    number: Array,
    family: Family,
    rows: Rows,
    k: int,
    recipes: Recipe,
    mixtures: Mixture,
    settings: Settings,
) -> Queue:
    """All climbs of round `number` before their first pass, `[r, ...]`, each by its own of `recipes`, leaves `[r]`."""
    key = jax.random.fold_in(key, number)
    data, weight = rows.as_matrix()
    index = jnp.arange(mixtures.log_weights.shape[0])

    def start(lane: tuple[Array, Recipe, Mixture]) -> Mixture:
        i, recipe, mixture = lane
        return recipe(jax.random.fold_in(key, i), family, data, k, weight, mixture)

    drawn = map_starts(start, (index, recipes, mixtures), data)
    return queue_of(drawn, index >= 0, rows, settings, NO_LIMIT, resumes=True, framed=True)


_open = Program(_open_round, (2, 4, 7), small=BRISK, large=BRISK, nan_is_data=True)


# -- the edge ------------------------------------------------------------------------------------------------------------


def _arm_names(arms: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(ARMS) if arms is None else (arms,) if isinstance(arms, str) else tuple(arms)
    for name in names:
        if name not in ARMS:
            raise ValueError(f"arms names {name!r}, which is no kind of start; choose from {', '.join(ARMS)}")
    if not names:
        raise ValueError(f"arms is empty; choose from {', '.join(ARMS)}")
    return names


def _rows_to_race(
    family: Family, x: ArrayLike | Rows, sample_weight: ArrayLike | None, k: int, lanes: int, chunk_size: Any
) -> Rows:
    """Ready rows, spread over the devices there are if there is much to do."""
    several = len(jax.local_devices()) > 1 and not isinstance(x, (Rows, jax.Array))
    large = several and np.asarray(x).size * k * lanes > LARGE_TURN
    mesh = mesh_of(jax.local_devices()) if large else None
    return as_rows(family, x, sample_weight, k, lanes=lanes, chunk_size=chunk_size, mesh=mesh)


def _penalty(rows: Rows) -> Prior:
    """What keeps every covariance away from zero, for the rows as they are given."""
    data, weight = rows.as_matrix()  # in their frame, where no digit is lost; neither prior speaks of the place
    largest = float(jnp.max(rows.frame.variance))
    unit = largest if largest > 0 else 1.0
    return chen_tan(data, weight) + variance_floor(data, FLOOR * unit, weight)
