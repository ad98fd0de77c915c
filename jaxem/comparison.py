"""Comparison: is a larger model better than chance would have it? The likelihood ratio test by the parametric bootstrap.

The statistic is twice the difference of the best log-likelihoods. For numbers of components its law under the smaller model
is no chi-squared law (a weight of 0 lies on the edge, where the other parameters mean nothing), so it is simulated: rows
are drawn from the smaller fit, and both models are fitted to each replica as they were to the data (McLachlan 1987).

Every data set, the observed one too, gets the same starts. The smaller model begins at the smaller fit and at fresh starts;
the larger one at what the smaller one found with the rows of one cell moved to a new component, and at fresh starts. All are
lanes of one queue.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.accelerate import hybrid
from jaxem.checks import as_count, as_family, as_key, check_from_host, warn_user
from jaxem.display import Axes, picture, readable, test_card
from jaxem.families.base import Family
from jaxem.lanes import Settings
from jaxem.loop import Result, as_options
from jaxem.mixture import Mixture
from jaxem.primitives import epsilon
from jaxem.priors import Prior
from jaxem.program import BRISK, Program
from jaxem.progress import watched
from jaxem.racing import Search, search
from jaxem.recipes import Recipe
from jaxem.replicas import Replicas, lanes_of, one_by_one, replicas_at_once, replicas_of
from jaxem.resampling import LANES, BootstrapProgress, climb_on, pieces_of
from jaxem.rows import Rows, as_rows
from jaxem.stopping import RemainingGainBelow, Status, has_failed

NULL_STARTS, STARTS = 3, 32
"""fresh starts of the smaller model, and starts of the larger one, of which every third is fresh"""
SHORT, PROMISING = 16, 4
"""turns that all starts of the larger model make, and how many of each data set then climb to the end"""
REMAINING = 1e-4
"""nats that a climb may leave to gain"""
MAX_ITER = 500
"""turns that a climb makes at most"""
MISSED = 0.01
"""nats by which a search may be above the climbs of the test before that is said"""


@readable(test_card)
class LikelihoodRatioTest(NamedTuple):
    """Twice the gain in log-likelihood by the larger model, and what it is where the smaller one is true.

    Attributes:
        statistic: of the data.
        replicates: `[r]`, of data drawn from the smaller fit; those where a model had no sound optimum are left out.
        p_value: (1 + replicates that are at least as large) / (1 + replicates).
        null: the smaller fit, a `Mixture`.
        alternative: the larger fit.
        failed: how many replicates are left out.
    """

    statistic: float
    replicates: np.ndarray
    p_value: float
    null: Mixture
    alternative: Mixture
    failed: int

    def plot(self, **options: Any) -> Axes:
        """`jaxem.plots.plot_test`; returns the axes."""
        return picture("plot_test", self, **options)


def likelihood_ratio_test(
    key: Array,
    family: Family | str,
    x: ArrayLike,
    n_components: int,
    alternative: Any = None,
    *,
    sample_weight: ArrayLike | None = None,
    n_replicates: int = 99,
    n_starts: int = STARTS,
    callback: Callable[[BootstrapProgress], None] | None = None,
    progress: bool = False,
) -> LikelihoodRatioTest:
    """Whether `n_components` are enough, against one more, by the parametric bootstrap.

    Args:
        key: a PRNG key, consumed.
        family: the kind of component, such as `Full()` or its name, "full".
        x: `[n, d]`.
        n_components: k of the smaller model.
        alternative: the larger model: a number of components, a family, or a pair of both; by default one component more.
        sample_weight: `[n]`, whole numbers: weights count rows.
        n_replicates: data sets to draw; the least p-value is 1 / (1 + n_replicates).
        n_starts: starts of the larger model on each data set.
        callback, progress: as for `bootstrap`.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
        RuntimeError: if a model has no sound optimum on the data.

    Example:
        >>> import jax, jaxem
        >>> found = jaxem.likelihood_ratio_test(jax.random.key(0), "full", jaxem.datasets.faithful(), 1)
        >>> print(found.p_value)
        0.01
    """
    check_from_host("likelihood_ratio_test", key, x, sample_weight, instead="call it from the host")
    key, null = as_key(key), (as_family(family), as_count("n_components", n_components))
    other = _alternative(*null, alternative)
    r, n_starts = as_count("n_replicates", n_replicates), as_count("n_starts", n_starts)
    if sample_weight is not None and np.any(np.asarray(sample_weight) != np.round(np.asarray(sample_weight))):
        raise ValueError("sample_weight holds parts of rows; the test draws rows: give whole numbers that count them")
    keys = jax.random.split(key, 4)
    found = [search(keys[i], model[0], x, model[1], sample_weight) for i, model in enumerate((null, other))]
    _check_found(found, alternative)
    rows = as_rows(null[0], x, sample_weight, other[1], like=found[0].best.mixture)
    rows = one_by_one(rows, found[0].best.mixture, other[1])
    models = Models(found[0].best.mixture, other[0], other[1], n_starts)
    values, own = np.full(r + 1, np.nan), None
    with watched("test", progress, callback) as hear:
        # number 0 is the observed rows, a replica like the others
        for index in pieces_of(r + 1, max(1, replicas_at_once(rows, "parametric") // 2)):
            replicas = replicas_of(keys[3], index, rows, "parametric", models.null)
            made = _compare(keys[2], index, replicas if index[0] else _with_observed(replicas), models)
            own = made if own is None else own
            values[index[index <= r]] = made.statistic[index <= r]
            if hear is not None:
                done = values[1 : index[-1] + 1]
                hear(BootstrapProgress(len(done), r, int(np.sum(np.isnan(done)))))
    return _verdict(values, cast(_Compared, own), found)


def _check_found(found: Sequence[Search], alternative: Any) -> None:
    """Raise if the smaller model has no sound optimum, or if the other is not larger."""
    mixture, status = found[0].best.mixture, Status(int(found[0].best.status))
    if status.failed:
        raise RuntimeError(
            f"{mixture.family.shown_name} with {mixture.n_components} components has no sound optimum on x "
            f"({status.name}): {status.meaning}"
        )
    small, large = (one.best.mixture.n_parameters for one in found)
    if large < small:
        raise ValueError(
            f"alternative = {alternative!r} has {large} parameters, the smaller model {small}; exchange them"
        )


def _with_observed(replicas: Replicas) -> Replicas:
    """The same replicas with the observed rows as the first."""
    observed = {name: getattr(replicas.rows, name) for name in replicas.own}
    own = {name: leaf.at[0].set(observed[name]) for name, leaf in replicas.own.items()}
    return dataclasses.replace(replicas, own=own)


class Models(NamedTuple):
    """What is compared: the smaller fit, and family, number of components and starts of the larger model."""

    null: Mixture
    family: Family
    k: int
    n_starts: int


class _Compared(NamedTuple):
    statistic: np.ndarray  # [g], NaN where a model has no sound optimum
    null: Result  # [g, ...], the best of each
    alternative: Result


def _alternative(family: Family, k: int, alternative: Any) -> tuple[Family, int]:
    """Family and number of components of the larger model."""
    if alternative is None:
        return family, k + 1
    if isinstance(alternative, tuple) and len(alternative) == 2:
        found = as_family(alternative[0]), as_count("alternative[1]", alternative[1])
    elif isinstance(alternative, (int, np.integer)) and not isinstance(alternative, bool):
        found = family, as_count("alternative", alternative)
    else:
        found = as_family(alternative), k
    if found == (family, k):
        raise ValueError(f"alternative = {alternative!r} is the smaller model itself; give another")
    if found[0] == family and found[1] < k:
        raise ValueError(
            f"alternative = {alternative!r} has fewer than the {k} components of the smaller model; give more"
        )
    return found


def _verdict(values: np.ndarray, own: _Compared, found: Sequence[Search]) -> LikelihoodRatioTest:
    """The test from the statistics of all data sets, the observed one first, and warnings about what it rests on."""
    statistic, replicates = float(values[0]), values[1:][np.isfinite(values[1:])]
    failed = len(values) - 1 - len(replicates)
    if not np.isfinite(statistic) or not replicates.size:
        raise RuntimeError(
            "a model has no sound optimum on x, or on any replica of it; compare models with fewer components"
        )
    fits = jax.tree.map(lambda leaf: leaf[0], (own.null, own.alternative))
    searched = 2.0 * float(found[1].best.log_likelihood - found[0].best.log_likelihood)
    if not has_failed(int(found[1].best.status)) and searched > statistic + 2 * MISSED:
        warn_user(
            f"a search finds a statistic of {searched:.4g}, the starts of the test {statistic:.4g}; the p-value compares "
            "like with like, and a larger n_starts brings both up"
        )
    if failed > 0.1 * (len(values) - 1):
        warn_user(f"{failed} of {len(values) - 1} replicates had no sound optimum and are left out of the p-value")
    slack = 1e6 * epsilon(fits[0].log_likelihood.dtype) * (1.0 + abs(float(fits[0].log_likelihood)))
    p_value = (1 + int(np.sum(replicates >= statistic - slack))) / (1 + replicates.size)
    return LikelihoodRatioTest(statistic, replicates, p_value, fits[0].mixture, fits[1].mixture, failed)


def _compare(key: Array, index: np.ndarray, replicas: Replicas, models: Models) -> _Compared:
    """Both models fitted to each replica."""
    g, null = len(index), models.null
    moved = models.k > null.n_components and null.family.interchangeable
    recipes = _recipes(models.n_starts, moved)
    smaller = best_fits(key, index, replicas, null, 1 if null.n_components == 1 else NULL_STARTS)
    starts = _starts(key, index, replicas, smaller.mixture, models.family, models.k, recipes)
    if models.n_starts > PROMISING:
        seen = _climbed(starts, g, replicas, None, SHORT)
        best = jax.tree.map(lambda leaf: leaf[np.arange(g)[:, None], _order(seen)[:, :PROMISING]], seen.mixture)
        starts = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), best)
    larger = _best_of_each(_climbed(starts, g, replicas, None))
    statistic = 2.0 * (np.asarray(larger.log_likelihood, np.float64) - np.asarray(smaller.log_likelihood, np.float64))
    if models.family == null.family and models.k > null.n_components:  # the larger model has the smaller one in it
        statistic = np.maximum(statistic, 0.0)
    failed = has_failed(np.asarray(smaller.status)) | has_failed(np.asarray(larger.status))
    return _Compared(np.where(failed, np.nan, statistic), smaller, larger)


def best_fits(
    key: Array, index: np.ndarray, replicas: Replicas, mixture: Mixture, n_fresh: int, prior: Prior | None = None
) -> Result:
    """The best fit of a mixture's model to each of the replicas of number `index` `[g]`, from itself and from fresh starts."""
    starts = _null_starts(key, index, replicas, mixture, _recipes(n_fresh, False))
    return _best_of_each(_climbed(starts, len(index), replicas, prior))


def _climbed(starts: Mixture, g: int, replicas: Replicas, prior: Prior | None, max_iter: int = MAX_ITER) -> Result:
    """Climbs from starts `[g s, ...]`, as leaves `[g, s, ...]`."""
    s = starts.log_weights.shape[0] // g
    of_climb: Any = np.repeat(np.arange(g), s)
    stop, prior = as_options(starts.family, replicas.rows, RemainingGainBelow(REMAINING), prior, hybrid())
    settings = Settings(LANES, max_iter, hybrid())
    results = climb_on(starts, Replicas(replicas.rows, replicas.own, of_climb), prior, stop, settings)
    results = results._replace(trace=results.trace[:, :1])
    by_replica: Result = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(g, s, *leaf.shape[1:]), results)
    return by_replica


def _best_of_each(results: Result) -> Result:
    """The best climb of each replica, from leaves `[g, s, ...]`; a failed one only if all failed."""
    place = _order(results)[:, 0]
    found: Result = jax.tree.map(lambda leaf: leaf[np.arange(len(place)), place], results)
    return found


def _order(results: Result) -> np.ndarray:
    """The climbs of each replica, best first, `[g, s]`; those that failed come last."""
    objective: Any = results.objective
    value = np.where(np.isfinite(objective), objective, -np.inf)
    order: np.ndarray = np.lexsort((-value, has_failed(results.status) | (value == -np.inf)), axis=1)
    return order


# -- starts --------------------------------------------------------------------------------------------------------------


def _of_replica(replicas: Replicas, i: Array) -> tuple[Array, Array]:
    """The rows `[n, d]` of one replica, in the frame, and their weights `[n]`."""
    shared, own = lanes_of(replicas, i[None])
    rows = Rows(**{**vars(shared), **{name: leaf[0] for name, leaf in own.items()}})
    return rows.as_matrix()


def _null_starts_of(key: Array, index: Array, replicas: Replicas, null: Mixture, recipes: Recipe) -> Mixture:
    """Starts `[g s, ...]` of the smaller model: the smaller fit, and one by each recipe `[s - 1]`."""
    first = jax.tree.map(lambda leaf: leaf[None], null.to_frame(replicas.frame))

    def of_one(at: tuple[Array, Array]) -> Mixture:
        i, place = at
        fresh = _by_recipes(jax.random.fold_in(key, i), recipes, replicas, place, null.family, null.n_components, None)
        return jax.tree.map(lambda *two: jnp.concatenate(two), first, fresh)

    return _joined(jax.lax.map(of_one, (index, jnp.arange(index.shape[0]))), replicas)


def _starts_of(
    key: Array, index: Array, replicas: Replicas, nulls: Mixture, family: Family, k: int, recipes: Recipe
) -> Mixture:
    """Starts `[g s, ...]` of the larger model by recipes `[s]`, given what the smaller one found on each replica, `[g, ...]`."""

    def of_one(at: tuple[Array, Array, Mixture]) -> Mixture:
        i, place, null = at
        known = _with_room(null.to_frame(replicas.frame), k)
        return _by_recipes(jax.random.fold_in(key, i), recipes, replicas, place, family, k, known)

    return _joined(jax.lax.map(of_one, (index, jnp.arange(index.shape[0]), nulls)), replicas)


def _by_recipes(
    key: Array, recipes: Recipe, replicas: Replicas, place: Array, family: Family, k: int, known: Mixture | None
) -> Mixture:
    x, w = _of_replica(replicas, place)

    def of_start(at: tuple[Array, Recipe]) -> Mixture:
        j, recipe = at
        return recipe(jax.random.fold_in(key, j), family, x, k, w, known)

    return jax.lax.map(of_start, (jnp.arange(recipes.cells.shape[0]), recipes))  # type: ignore[union-attr]


def _with_room(mixture: Mixture, k: int) -> Mixture:
    """The mixture with further components, of weight 0, so that it has k."""
    index = jnp.minimum(jnp.arange(k), mixture.n_components - 1)
    log_weights = jnp.where(jnp.arange(k) < mixture.n_components, mixture.log_weights[index], -jnp.inf)
    return Mixture(log_weights, mixture.family.subset(mixture.components, index)[1], mixture.family)


def _recipes(s: int, moved: bool) -> Recipe:
    """s kinds of start: if `moved`, two of three begin at the known fit; the others are fresh, far apart or random in turn."""
    j = np.arange(s)
    moves = (j % 3 != 2) & moved
    zeros: Any = np.zeros(s)
    fresh = np.cumsum(~moves)
    return Recipe(moves | (fresh % 2 == 1), np.ones(s, bool), np.zeros(s, bool), 1.0 * moves, 1.0 * moves, zeros)  # type: ignore[arg-type]


def _joined(starts: Mixture, replicas: Replicas) -> Mixture:
    """Starts `[g, s, ...]` in the frame as a batch `[g s, ...]` where the data lie."""
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), starts)
    return jax.vmap(lambda one: one.settle(replicas.frame.centre).from_frame(replicas.frame))(flat)


_null_starts = Program(_null_starts_of, small=BRISK, large=BRISK, nan_is_data=True)
_starts = Program(_starts_of, (4, 5), small=BRISK, large=BRISK, nan_is_data=True)
