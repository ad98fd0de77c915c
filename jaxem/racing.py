"""The best optimum for the fewest passes: `search` races diverse starts, `select` chooses the number of components.

Which optimum EM ends in depends on the start, and no way of starting is best for all data, so several kinds of start
(the arms) are raced: all make a few turns, the best quarter goes on, and so forth (successive halving: Jamieson and
Talwalkar 2016; for mixtures compare the short runs of Biernacki, Celeux and Govaert 2003). Climbs that collapsed
leave before each ranking; else their unbounded likelihood would win. Of the climbs in one optimum only the best goes on.
The last few are polished while the budget lasts; the best of them climbs until the stopping rule is met.

The race climbs the likelihood (with a prior: the objective). If every climb collapses, there is no maximum to give. For a
Gaussian family `search` then races again under a penalty that keeps covariances away from zero (`chen_tan` and
`variance_floor`), and gives that fit the status DEGENERATE.

    BIC = p log n - 2 l,  AIC = 2 p - 2 l,  ICL = BIC - 2 sum_i log max_j p(j | x_i):  smaller is better.
                                        (Schwarz 1978; Akaike 1974; Biernacki, Celeux and Govaert 2000)
"""

import contextlib
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
from jaxem.devices import mesh_of
from jaxem.display import readable, search_card, selection_card
from jaxem.families.base import Family
from jaxem.init import Recipe
from jaxem.loop import MAX_ITER, MAX_TURNS, NO_LIMIT, Result, as_options
from jaxem.priors import NormalInverseWishart, Prior, chen_tan, variance_floor
from jaxem.program import HASTY, Program
from jaxem.queue import (
    Landscape,
    Queue,
    Settings,
    best,
    draw,
    landscape,
    lane_count,
    optimum_tol,
    queue_of,
    run,
    run_through,
)
from jaxem.rows import Rows, as_rows, on_one_device, turn_work
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
FAVOURED_ARMS = ("k-means++", "lloyd", "narrow k-means++")
"""arms that get twice as many of the first `FEW_STARTS` as the others"""
FEW_STARTS = 16
FINALISTS = 8
"""lanes that are polished, at most"""
HALVING = 4
"""factor by which a rung has fewer lanes than the one before"""
FIRST_SHARE, MIDDLE_SHARE = 0.3, 0.25
"""shares of the budget for the first rung, and for each between it and the finalists"""
PASSES_A_START = 9
"""passes of the budget that each start needs: it sets the number of starts"""
PIECE_TURNS = 8
"""turns of the finalists between two looks at the budget"""
PASSES_TO_POLISH = 40
"""rough number of passes to polish one climb"""
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
    """

    best: Result
    landscape: Landscape
    finalists: Result
    arms: tuple[str, ...]
    passes: int
    penalised: Result | None


def search(
    key: Array,
    family: Family | str,
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
        family: the kind of component, such as `Full()` or its name, "full".
        x: `[n, d]`, or `Rows` made ready before.
        n_components: k, at most n.
        sample_weight: `[n]`, non-negative.
        budget: passes over the data to make, at least 1. Those of the k-means in some starts are not counted. The winner is
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
    budget = as_count("budget", budget)
    max_iter = as_count("max_iter", max_iter, least=0, most=MAX_TURNS)
    k = as_count("n_components", n_components, most=10**18)
    names = _arm_names(arms)
    rows = _rows_to_race(family, x, sample_weight, k, lane_count(_starts_of(budget)), chunk_size)
    rows.check_components(k)
    stop, prior = as_options(family, rows, stop, prior, accelerator)
    race = Race(family, k, names, budget, max_iter, accelerator)
    found = _run_race(key, rows, prior, stop, race, callback, 0)
    bounded = NormalInverseWishart in family.conjugate and np.isfinite(np.asarray(rows.frame.variance)).all()
    if has_failed(int(found.best.status)) and bounded:
        penalty = _penalty(on_one_device(rows))
        penalty = penalty if prior is None else prior + penalty
        offered = _run_race(key, rows, penalty, stop, race, callback, found.passes)
        if not has_failed(int(offered.best.status)):
            degenerate = jnp.full_like(offered.best.status, int(Status.DEGENERATE))
            found = offered._replace(
                best=offered.best._replace(status=degenerate), penalised=offered.best, landscape=found.landscape
            )
        else:
            found = found._replace(passes=offered.passes)
    return found


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


class Race(NamedTuple):
    """What is fixed about a race."""

    family: Family
    k: int
    arms: tuple[str, ...]
    budget: int
    max_iter: int
    accelerator: Any


def _run_race(
    key: Array,
    rows: Rows,
    prior: Prior | None,
    stop: StoppingRule,
    race: Race,
    callback: Callable[[SearchProgress], None] | None,
    passes: int,
) -> Search:
    """One race from new starts; `passes` were made before it."""
    r = _starts_of(race.budget)
    arm_of = np.repeat(np.arange(len(race.arms)), _starts_per_arm(r, race.arms))
    arms = jax.tree.map(lambda *values: np.asarray(values)[arm_of], *(ARMS[name] for name in race.arms))
    settings = Settings(lane_count(r), race.max_iter, race.accelerator)
    opening = (key, race.family, on_one_device(rows), race.k, arms, settings)
    options = (rows, prior, stop, np.int32(NO_LIMIT), settings)
    if jax.default_backend() == "cpu" and rows.mesh is None:
        compiling = run.compile_ahead(_open.small.eval_shape(*opening), *options)
        queue = _open(*opening)
        compiling.join()
    else:
        queue = _open(*opening)
    large = turn_work(rows, race.k, settings.width) > LARGE_TURN

    def rung(queue: Queue, lanes: np.ndarray, n_steps: int) -> tuple[Queue, Scores, Result]:
        """`n_steps` turns of the climbs of these numbers."""
        if large and len(lanes) < queue.climb.shape[0]:  # no lane is idle
            queue = queue.with_width(len(lanes))
        # long work runs in pieces, with a callback after each
        piece = queue.climb.shape[0] if large or callback is not None else r
        for begin in range(0, len(lanes), piece):
            limit = np.asarray(queue.states.n_iter) + n_steps
            queue, results = run_through(queue.rung(lanes[begin : begin + piece], limit), rows, prior, stop, settings)
            scores = Scores.of(queue, results)
            if callback is not None:
                callback(_progress(scores, passes, race.budget, len(lanes)))
        return queue, scores, results

    lanes = np.arange(r)
    for n_lanes, n_steps in _rungs(race.budget):
        lanes = lanes[:n_lanes]
        queue, scores, results = rung(queue, lanes, n_steps)
        lanes = _interleave_arms(_best_first(scores, lanes), arm_of)
    lanes = lanes[:FINALISTS]
    while True:
        # as many go on as the budget may bring to an end; the leader in any case
        left = race.budget - scores.passes
        ranked = _best_first(scores, lanes)
        running = ranked[scores.running[ranked]]
        running = running[: max(1, left // PASSES_TO_POLISH)] if left > 0 else running[running == ranked[0]]
        if running.size == 0:
            break
        n_steps = min(PIECE_TURNS, max(1, left // running.size)) if left > 0 else PIECE_TURNS
        queue, scores, results = rung(queue, running, n_steps)
    lanes = _best_first(scores, lanes)
    # by numpy, which has nothing to compile
    finalists = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[lanes]), results)
    names = tuple(race.arms[arm_of[lane]] for lane in lanes)
    return Search(best(finalists), landscape(finalists), finalists, names, passes + scores.passes, None)


def _starts_per_arm(r: int, arms: tuple[str, ...]) -> tuple[int, ...]:
    """How many of r starts each arm gets: equal numbers, but `FAVOURED_ARMS` get twice as many of the first `FEW_STARTS`."""
    few = [*arms, *(name for name in arms if name in FAVOURED_ARMS)]
    order = [(few if i < FEW_STARTS else arms)[i % len(few if i < FEW_STARTS else arms)] for i in range(r)]
    return tuple(order.count(name) for name in arms)


class Scores(NamedTuple):
    """What the host ranks climbs by, `[r]` each."""

    objective: np.ndarray
    status: np.ndarray  # as it would be if the climb ended here
    running: np.ndarray
    made: np.ndarray  # passes

    @classmethod
    def of(cls, queue: Queue, results: Result) -> "Scores":
        """The scores of all climbs of a queue whose lanes are empty."""
        objective, status, own, n_iter = (  # numpy has nothing to compile
            np.asarray(leaf) for leaf in (results.objective, results.status, queue.states.status, queue.states.n_iter)
        )
        return cls(objective, status, own == Status.RUNNING, n_iter + 1)

    @property
    def sound(self) -> np.ndarray:
        """Which are finite and have not collapsed."""
        return np.isfinite(self.objective) & ~has_failed(self.status)

    @property
    def passes(self) -> int:
        """Passes made by all lanes."""
        return int(np.sum(self.made))


def _best_first(scores: Scores, lanes: np.ndarray) -> np.ndarray:
    """Sound lanes best first, of those in one optimum only the best; the best of all if none is sound."""
    value = np.where(np.isfinite(scores.objective[lanes]), scores.objective[lanes], -np.inf)
    order = lanes[np.argsort(-value, kind="stable")]
    sound = order[scores.sound[order]]
    if sound.size == 0:
        return order[:1]
    values = scores.objective[sound]
    return sound[np.concatenate([[True], -np.diff(values) > optimum_tol(values)])]


def _interleave_arms(ranked: np.ndarray, arm_of: np.ndarray) -> np.ndarray:
    """Ranked lanes so that the arms take turns: the best of each, then the second of each, and so forth.

    After few turns likelihoods compare starts of one kind; between kinds they tell which kind begins lower.
    """
    arms = arm_of[ranked]
    place = np.array([np.sum(arms[:i] == arm) for i, arm in enumerate(arms)], int)  # within its arm
    return ranked[np.argsort(place, kind="stable")]


def _rungs(budget: int) -> list[tuple[int, int]]:
    """Lanes and turns of each rung before the finalists are polished."""
    rungs: list[tuple[int, int]] = []
    lanes, share = _starts_of(budget), FIRST_SHARE
    while lanes > FINALISTS or not rungs:
        rungs.append((lanes, max(2, round(share * budget / lanes)) if budget > 1 else 1))
        lanes, share = lanes // HALVING, MIDDLE_SHARE
    return rungs


def _starts_of(budget: int) -> int:
    """Starts that a budget is good for: a power of `HALVING`."""
    return HALVING ** max(0, math.floor(math.log(max(budget / PASSES_A_START, 1.0), HALVING)))


def _progress(scores: Scores, passes: int, budget: int, lanes: int) -> SearchProgress:
    objective = np.where(scores.sound, scores.objective, -np.inf)
    return SearchProgress(passes + scores.passes, budget, float(np.max(objective)), lanes)


# -- programs ------------------------------------------------------------------------------------------------------------


def _open_race(key: Array, family: Family, rows: Rows, k: int, arms: Recipe, settings: Settings) -> Queue:
    """All climbs before their first pass, `[r, ...]`, each from `arms` of its own, leaves `[r]`."""
    index = jnp.arange(jnp.shape(arms.apart)[0])
    mixtures = draw(key, family, rows, k, index, arms, framed=True)
    return queue_of(mixtures, index >= 0, rows, settings, NO_LIMIT, resumes=True, framed=True)


_open = Program(_open_race, (1, 3, 5), small=HASTY, large=HASTY, nan_is_data=True)


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
