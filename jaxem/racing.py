"""The best optimum for the fewest passes: `search` races diverse starts, `select` chooses the number of components.

Which optimum EM ends in depends on the start, and no way of starting is best for all data, so several kinds of start
(the arms) are raced: all make a few turns, the best quarter goes on, and so forth (successive halving: Jamieson and
Talwalkar 2016; for mixtures compare the short runs of Biernacki, Celeux and Govaert 2003). Lanes that collapsed leave
before any ranking, or the likelihood, which is unbounded there, would choose them. Of lanes in one optimum one goes on.
The last few are polished with the accelerator until the stopping rule is met.

The answer is that of the plain likelihood. Where every climb collapsed it has no maximum to offer: then the race is run
again under a penalty that keeps covariances away from zero (`chen_tan` and `variance_floor`), and that fit is given with
the status DEGENERATE.

    BIC = p log n - 2 l,  AIC = 2 p - 2 l,  ICL = BIC - 2 sum_i log max_j p(j | x_i):  smaller is better.
                                        (Schwarz 1978; Akaike 1974; Biernacki, Celeux and Govaert 2000)
"""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxem.accelerate import hybrid
from jaxem.compiling import HASTY, Compiled
from jaxem.display import readable, search_card, selection_card
from jaxem.em import as_rows, made_ready
from jaxem.families.base import Family
from jaxem.init import Recipe
from jaxem.loop import (
    MAX_ITER,
    MAX_TURNS,
    NOISE,
    Result,
    State,
    advance,
    as_options,
    as_result,
    begin,
    centred,
    computing,
    ended,
    turn_work,
)
from jaxem.priors import Prior, chen_tan, variance_floor
from jaxem.restarts import Landscape, best, draw, landscape, lane_count
from jaxem.rows import Rows, as_components, as_count, gathered, mesh_of
from jaxem.stopping import Status, StoppingRule, has_failed

BUDGET = 1000
"""passes that `search` may make, by default"""
ARMS: dict[str, Recipe] = {
    "k-means++": Recipe(),
    "lloyd": Recipe(n_lloyd=5),
    "narrow k-means++": Recipe(nearest=False, narrow=True),
    "random": Recipe(apart=False, nearest=False),
    "narrow random": Recipe(apart=False, nearest=False, narrow=True),
}
"""kinds of start that are raced, by default"""
OFTEN = ("k-means++", "lloyd", "narrow k-means++")
"""arms that get twice as many of the first `FEW_STARTS` as the others"""
FEW_STARTS = 16
FINALISTS = 8
"""lanes that are polished, at most"""
HALVING = 4
"""factor by which a rung has fewer lanes than the one before"""
FIRST, MIDDLE = 0.3, 0.25
"""shares of the budget for the first rung, and for each between it and the finalists"""
PASSES_A_START = 9
"""passes of the budget for each start"""
SAME = 1e-3
"""nats within which two lanes are taken to be in one optimum"""
PIECE = 8
"""turns of the finalists between two looks at the budget"""
TO_THE_END = 40
"""passes that polishing a lane may take, more or less"""
LARGE_TURN = 10**8
"""numbers a turn touches from which rows are spread over all devices, and lanes are never idle"""
FLOOR = 1e-6
"""of the data's largest variance: where every climb collapsed, the floor of variances of the fit that is offered"""


class SearchProgress(NamedTuple):
    """How far `search` is, as its callback sees it.

    Attributes:
        passes: passes made so far.
        budget: passes that may be made; polishing the best may go beyond.
        best: the highest objective of a lane that has not collapsed, or -inf.
        lanes: lanes still in the race.
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
        landscape: the distinct optima that the finalists ended in, with the number of them.
        finalists: a `Result` with leaves `[m, ...]`: all lanes that were polished, best first.
        arms: the kind of start that each finalist came from.
        passes: passes over the data made in all, the first E-step of every lane among them.
        penalised: the fit under a penalty, where every climb of the likelihood collapsed; else None.
    """

    best: Result
    landscape: Landscape
    finalists: Result
    arms: tuple[str, ...]
    passes: int
    penalised: Result | None


def search(
    key: Array,
    family: Family,
    x: ArrayLike | Rows,
    n_components: int,
    sample_weight: ArrayLike | None = None,
    *,
    budget: int = BUDGET,
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
        family: the kind of component, such as `Full()`.
        x: `[n, d]`, or `Rows` made ready before.
        n_components: k, at most n.
        sample_weight: `[n]`, non-negative.
        budget: passes over the data to make, at least 1. Those of the k-means in some starts are not counted. The winner is
            polished to the end even if that goes beyond.
        arms: kinds of start, of `jaxem.racing.ARMS`; all by default.
        prior: with one, log-likelihood + log prior is climbed and ranked.
        stop, max_iter, chunk_size: as for `fit`.
        accelerator: as for `fit`; by default `hybrid()`.
        callback: called with `SearchProgress` between pieces; an exception raised in it, or Ctrl-C, ends the search.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    budget = as_count("budget", budget)
    max_iter = as_count("max_iter", max_iter, least=0, most=MAX_TURNS)
    names = _named_arms(arms)
    starts = _starts_of(budget)
    rows, k = _rows_to_race(family, x, sample_weight, n_components, min(starts, lane_count(starts)), chunk_size)
    stop, prior = as_options(rows, stop, prior, accelerator)
    course = Course(family, k, names, budget, max_iter, accelerator)
    with computing(rows):
        found = _raced(key, rows, prior, stop, course, callback, 0)
        if (
            has_failed(int(found.best.status))
            and hasattr(family, "log_prior")
            and bool(jnp.all(jnp.isfinite(rows.variance)))
        ):
            penalty = _penalty(gathered(rows))
            penalty = penalty if prior is None else prior + penalty
            offered = _raced(key, rows, penalty, stop, course, callback, found.passes)
            if not has_failed(int(offered.best.status)):
                degenerate = jnp.full_like(offered.best.status, int(Status.DEGENERATE))
                found = offered._replace(
                    best=offered.best._replace(status=degenerate), penalised=offered.best, landscape=found.landscape
                )
    return found


class Candidate(NamedTuple):
    """One line of a `Selection`: what a family and a number of components came to. Of the criteria less is better."""

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
    """

    best: Search
    chosen: int
    candidates: tuple[Candidate, ...]
    passes: int


def select(
    key: Array,
    families: Family | Iterable[Family],
    x: ArrayLike,
    n_components: int | Iterable[int],
    sample_weight: ArrayLike | None = None,
    *,
    criterion: str = "bic",
    callback: Callable[[Candidate], None] | None = None,
    **options: Any,
) -> Selection:
    """`search` for each family and number of components, and the choice between them by an information criterion.

    Args:
        key: a PRNG key, consumed.
        families: one family, or several.
        x: `[n, d]`.
        n_components: one number, or several.
        sample_weight: `[n]`; n in BIC is its sum.
        criterion: "bic", "aic" or "icl"; the least is chosen.
        callback: called with each `Candidate` as it is done.
        options: as for `search`: `budget`, `arms`, `prior`, `stop`, `max_iter`, `chunk_size`.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    families = (families,) if isinstance(families, Family) else tuple(families)
    counts = (n_components,) if isinstance(n_components, (int, np.integer)) else tuple(n_components)
    if criterion not in ("bic", "aic", "icl"):
        raise ValueError(f"criterion = {criterion!r}; choose bic, aic or icl")
    if not families or not counts:
        raise ValueError("families or n_components is empty; give at least one of each")
    data, weights = as_rows(families[0], x, sample_weight)
    for k in counts:
        as_components(k, data.shape[0])
    found: list[Search] = []
    candidates: list[Candidate] = []
    for i, (family, k) in enumerate((family, k) for family in families for k in counts):
        found.append(search(jax.random.fold_in(key, i), family, data, k, weights, **options))
        candidates.append(_candidate(found[-1].best, data, weights))
        if callback is not None:
            callback(candidates[-1])
    chosen = min(range(len(candidates)), key=lambda i: (candidates[i].status.failed, getattr(candidates[i], criterion)))
    return Selection(found[chosen], chosen, tuple(candidates), sum(one.passes for one in found))


class Criteria(NamedTuple):
    """The information criteria of a fit; of each less is better."""

    bic: float
    aic: float
    icl: float


def criteria(log_likelihood: float, n_parameters: int, n: float, doubt: float = math.nan) -> Criteria:
    """BIC, AIC and ICL of a fit to n rows (or weights that sum to n).

    `doubt` is -sum_i log max_j p(j | x_i), which ICL alone needs; without it that is NaN.
    """
    bic = n_parameters * math.log(n) - 2.0 * log_likelihood
    return Criteria(bic, 2.0 * n_parameters - 2.0 * log_likelihood, bic + 2.0 * doubt)


def _candidate(result: Result, data: Array | np.ndarray, weights: Any) -> Candidate:
    mixture, log_likelihood = result.mixture, float(result.log_likelihood)
    w = np.ones(data.shape[0]) if weights is None else np.asarray(weights, np.float64)
    p, n = mixture.n_parameters, float(w.sum())
    certainty = np.asarray(mixture.log_confidence(data), np.float64)
    doubt = -float(np.sum(np.where(w > 0, w * certainty, 0.0)))
    of_fit = criteria(log_likelihood, p, n, doubt)
    return Candidate(mixture.family, mixture.n_components, log_likelihood, p, *of_fit, Status(int(result.status)))


class Course(NamedTuple):
    """What is fixed about a race; static."""

    family: Family
    k: int
    arms: tuple[str, ...]
    budget: int
    max_iter: int
    accelerator: Any


def _raced(
    key: Array,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    course: Course,
    callback: Callable[[SearchProgress], None] | None,
    passes: int,
) -> Search:
    """One race from new starts; `passes` were made before it."""
    r = _starts_of(course.budget)
    counts = _shared_out(r, course.arms)
    arm_of = np.repeat(np.arange(len(course.arms)), counts)
    arms = jax.tree.map(lambda *values: np.asarray(values)[arm_of], *(ARMS[name] for name in course.arms))
    width = lane_count(r)
    work = turn_work(rows, course.k, width)
    opening = (key, course.family, gathered(rows), course.k, arms, course.max_iter, course.accelerator)
    local_prior = _centred(prior, course.family, rows)
    compiling = _compile_ahead(opening, width, rows, local_prior, stop, course, work)
    states = _open(*opening, work=0)
    if compiling is not None:
        compiling.join()

    def run(states: State, lanes: np.ndarray, n_steps: int) -> tuple[State, Scores]:
        """`n_steps` turns of the lanes of these numbers, `width` at a time."""
        large = work > LARGE_TURN
        at_once = min(width, len(lanes)) if large else width
        per_call = at_once if large or callback is not None else r  # what takes long is done, and told, in pieces
        for first in range(0, len(lanes), per_call):
            piece = lanes[first : first + per_call]
            groups = np.full((-(-r // at_once), at_once), r)
            groups.flat[: len(piece)] = piece
            n_groups = np.int32(-(-len(piece) // at_once))
            states, scores = _run(
                states, groups, n_groups, rows, local_prior, stop, np.int32(n_steps), course.accelerator, work=work
            )
            scores = Scores(*(np.asarray(score) for score in scores))
            if callback is not None:
                callback(_progress(scores, passes, course.budget, len(lanes)))
        return states, scores

    lanes = np.arange(r)
    for n_lanes, n_steps in _rungs(course.budget):
        lanes = lanes[:n_lanes]
        states, scores = run(states, lanes, n_steps)
        lanes = _in_turns(_ranked(scores, lanes), arm_of)
    lanes = lanes[:FINALISTS]
    while True:
        # as many go on as the budget may bring to an end; the leader in any case
        left = course.budget - scores.passes
        ranked = _ranked(scores, lanes)
        running = ranked[scores.running[ranked]]
        running = running[: max(1, left // TO_THE_END)] if left > 0 else running[running == ranked[0]]
        if running.size == 0:
            break
        states, scores = run(states, running, min(PIECE, max(1, left // running.size)) if left > 0 else PIECE)
    lanes = _ranked(scores, lanes)
    # by numpy, which has nothing to compile
    ends = jax.tree.map(lambda leaf: np.asarray(leaf)[lanes], states._replace(query=None, memory=None))
    shifted = jax.tree.map(np.asarray, rows.centre)
    results = jax.tree.map(jax.device_put, as_result(ends, scores.status[lanes], shifted))
    names = tuple(course.arms[arm_of[lane]] for lane in lanes)
    return Search(best(results), landscape(results), results, names, passes + scores.passes, None)


def _shared_out(r: int, arms: tuple[str, ...]) -> tuple[int, ...]:
    """How many of r starts each arm gets: the same, but where starts are few more for those that are good more often."""
    few = [*arms, *(name for name in arms if name in OFTEN)]
    order = [(few if i < FEW_STARTS else arms)[i % len(few if i < FEW_STARTS else arms)] for i in range(r)]
    return tuple(order.count(name) for name in arms)


class Scores(NamedTuple):
    """What the host ranks lanes by; leaves `[r]`."""

    objective: Any
    status: Any  # as it would be if the climb ended here
    running: Any
    made: Any  # passes

    @property
    def sound(self) -> np.ndarray:
        """Which are finite and have not collapsed."""
        return np.isfinite(self.objective) & ~has_failed(self.status)

    @property
    def passes(self) -> int:
        """Passes made by all lanes."""
        return int(np.sum(self.made))


def _ranked(scores: Scores, lanes: np.ndarray) -> np.ndarray:
    """Sound lanes best first, of those in one optimum only the best; the best of all if none is sound."""
    value = np.where(np.isfinite(scores.objective[lanes]), scores.objective[lanes], -np.inf)
    order = lanes[np.argsort(-value, kind="stable")]
    sound = order[scores.sound[order]]
    if sound.size == 0:
        return order[:1]
    values = scores.objective[sound]
    tol = max(SAME, 100 * NOISE * float(np.finfo(values.dtype).eps) * float(np.max(np.abs(values))))
    return sound[np.concatenate([[True], -np.diff(values) > tol])]


def _in_turns(ranked: np.ndarray, arm_of: np.ndarray) -> np.ndarray:
    """Ranked lanes so that the arms take turns: the best of each, then the second of each, and so forth.

    After few turns likelihoods compare starts of one kind; between kinds they tell which kind begins lower.
    """
    arms = arm_of[ranked]
    place = np.array([np.sum(arms[:i] == arm) for i, arm in enumerate(arms)], int)  # within its arm
    return ranked[np.argsort(place, kind="stable")]


def _rungs(budget: int) -> list[tuple[int, int]]:
    """Lanes and turns of each rung before the finalists are polished."""
    rungs: list[tuple[int, int]] = []
    lanes, share = _starts_of(budget), FIRST
    while lanes > FINALISTS or not rungs:
        rungs.append((lanes, max(2, round(share * budget / lanes)) if budget > 1 else 1))
        lanes, share = lanes // HALVING, MIDDLE
    return rungs


def _starts_of(budget: int) -> int:
    """Starts that a budget is good for: a power of `HALVING`."""
    return HALVING ** max(0, math.floor(math.log(max(budget / PASSES_A_START, 1.0), HALVING)))


def _progress(scores: Scores, passes: int, budget: int, lanes: int) -> SearchProgress:
    objective = np.where(scores.sound, scores.objective, -np.inf)
    return SearchProgress(passes + scores.passes, budget, float(np.max(objective)), lanes)


# -- programs ------------------------------------------------------------------------------------------------------------


def _open_race(key: Array, family: Family, rows: Rows, k: int, arms: Recipe, max_iter: int, accelerator: Any) -> State:
    """The states of all lanes before their first pass, `[r, ...]`, each from `arms` of its own, leaves `[r]`."""
    mixtures = draw(key, family, rows, k, jnp.arange(jnp.shape(arms.apart)[0]), arms)
    return jax.vmap(lambda mixture: begin(centred(mixture, rows), rows, max_iter, accelerator))(mixtures)


def _on_all_devices(states: State, rows: Rows) -> State:
    """Where rows are spread over devices each keeps all lanes, or XLA would choose, and choose differently each time."""
    if rows.mesh is None:
        return states
    return jax.lax.with_sharding_constraint(states, NamedSharding(rows.mesh, PartitionSpec()))


def _run_lanes(
    states: State,
    groups: Array,
    n_groups: Array,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    n_steps: Array,
    accelerator: Any,
) -> tuple[State, Scores]:
    """Up to `n_steps` turns of the lanes in the first `n_groups` rows of `groups` `[g, w]`; those out of bounds are idle."""
    r = states.status.shape[0]

    def run_group(g: Array, states: State) -> State:
        index = groups[g]
        lanes = jax.tree.map(lambda leaf: leaf[jnp.minimum(index, r - 1)], states)
        status = jnp.where(index < r, lanes.status, int(Status.MAX_ITER)).astype(lanes.status.dtype)
        lanes = lanes._replace(status=status)
        lanes = advance(lanes, rows, n_steps, stop=stop, prior=prior, accelerator=accelerator)
        return jax.tree.map(lambda leaf, lane: leaf.at[index].set(lane, mode="drop"), states, lanes)

    states = _on_all_devices(jax.lax.fori_loop(0, n_groups, run_group, states), rows)
    status = jax.vmap(lambda state: ended(state, rows))(states)
    return states, Scores(states.objective, status, states.status == Status.RUNNING, states.n_iter + 1)


_SEEN: set[Any] = set()
"""what `_run` was compiled ahead for"""
_open = Compiled(_open_race, static_argnums=(1, 3, 5, 6), small=HASTY)
_run = Compiled(_run_lanes, static_argnums=(7,))


def _compile_ahead(
    opening: tuple[Any, ...],
    width: int,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    course: Course,
    work: int,
) -> threading.Thread | None:
    """Compile `_run` in the background while `_open` is compiled; nothing if that was done before."""
    if (course, rows.blocks.shape) in _SEEN or jax.default_backend() != "cpu" or rows.mesh is not None:
        return None
    _SEEN.add((course, rows.blocks.shape))
    states = jax.eval_shape(_open.small, *opening)
    r = states.status.shape[0]
    groups = np.full((-(-r // width), width), r)
    arguments = (states, groups, np.int32(1), rows, prior, stop, np.int32(1), course.accelerator)
    return _run.compile_ahead(*arguments, work=work)


def _centred(prior: Prior | None, family: Family, rows: Rows) -> Prior | None:
    return prior if prior is None or not family.location else prior.shift(-rows.centre)


# -- the edge ------------------------------------------------------------------------------------------------------------


def _named_arms(arms: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(ARMS) if arms is None else (arms,) if isinstance(arms, str) else tuple(arms)
    for name in names:
        if name not in ARMS:
            raise ValueError(f"arms names {name!r}, which is no kind of start; choose from {', '.join(ARMS)}")
    if not names:
        raise ValueError(f"arms is empty; choose from {', '.join(ARMS)}")
    return names


def _rows_to_race(
    family: Family, x: ArrayLike | Rows, sample_weight: ArrayLike | None, n_components: int, lanes: int, chunk_size: Any
) -> tuple[Rows, int]:
    """Ready rows, spread over the devices there are if there is much to do, and the checked number of components."""
    if isinstance(x, Rows):
        if sample_weight is not None:
            raise ValueError("sample_weight was given with ready Rows, which carry their own; give one of the two")
        return x, as_components(n_components, x.weights.size)
    data, weights = as_rows(family, x, sample_weight)
    k = as_components(n_components, data.shape[0])
    large = data.size * k * lanes > LARGE_TURN and len(jax.local_devices()) > 1
    mesh = mesh_of(jax.local_devices()) if large and isinstance(data, np.ndarray) else None
    return made_ready(family, data, weights, lanes * k, chunk_size=chunk_size, mesh=mesh), k


def _penalty(rows: Rows) -> Prior:
    """What keeps every covariance away from zero, for the rows as they are given."""
    data, weight = rows.as_matrix()
    data = data + rows.centre[None, :]
    largest = float(jnp.max(rows.variance))
    unit = largest if largest > 0 else 1.0
    return chen_tan(data, weight) + variance_floor(data, FLOOR * unit, weight)
