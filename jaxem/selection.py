"""Selection: which family and how many components, by what a fit is worth on rows that it has not seen.

    BIC = p log n - 2 l,  AIC = 2 p - 2 l,  ICL = BIC - 2 sum_i log max_j p(j | x_i):  smaller is better.
                                        (Schwarz 1978; Akaike 1974; Biernacki, Celeux and Govaert 2000)
    CV  = -2 sum_i w_i log p(x_i | a fit without row i), to first order in one row, or by folds         (Stone 1974; Smyth 2000)

or by likelihood ratio tests, from few components upwards: the first number that one more does not improve on.
"""

import contextlib
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

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
    warn_user,
)
from jaxem.comparison import best_fits, likelihood_ratio_test
from jaxem.criteria import criteria
from jaxem.display import Axes, candidate_card, picture, readable, selection_card
from jaxem.families.base import Family
from jaxem.influences import left_out
from jaxem.loop import Result
from jaxem.primitives import take
from jaxem.progress import bar
from jaxem.racing import Search, search, search_with_slots
from jaxem.replicas import Replicas
from jaxem.rows import as_blocks, as_rows, is_source
from jaxem.slots import with_slots
from jaxem.source import Source
from jaxem.stopping import Status, has_failed

SHARED = 2**14
"""numbers (rows x features x components) up to which `select` has one program for all numbers of components"""
CRITERIA = ("bic", "aic", "icl", "cv", "lrt")
FOLDS = 10
"""folds where rows cannot be left out one at a time"""
FRESH = 15
"""fresh starts of a refit without one fold, beside the estimate, which has seen the rows of the fold"""
LEVEL = 0.05
"""the p-value from which one more component is no improvement"""


@readable(candidate_card)
class Candidate(NamedTuple):
    """One line of a `Selection`: the fit of one family with one number of components. Smaller criteria are better.

    `cv` is known if it was asked for, and `p_value`, of this number of components against the next, if the test was made.
    """

    family: Family
    n_components: int
    log_likelihood: float
    n_parameters: int
    bic: float
    aic: float
    icl: float
    status: Status
    cv: float = math.nan
    p_value: float = math.nan


@readable(selection_card)
class Selection(NamedTuple):
    """What `select` found.

    Attributes:
        best: the `Search` of the chosen candidate.
        chosen: which of `candidates` that is.
        candidates: all that were tried, in order; degenerate ones are never chosen while there are others.
        passes: passes over the data made in all.
        n: the number of observations in BIC and ICL.
        criterion: what it was chosen by, as `select` was told.
    """

    best: Search
    chosen: int
    candidates: tuple[Candidate, ...]
    passes: int
    n: float = math.nan
    criterion: str = "bic"

    def plot(self, **options: Any) -> Axes:
        """`jaxem.plots.plot_selection`; returns the axes."""
        return picture("plot_selection", self, **options)


def select(
    key: Array,
    families: Family | str | Iterable[Family | str],
    x: ArrayLike | Source,
    n_components: int | Iterable[int],
    sample_weight: ArrayLike | None = None,
    *,
    criterion: str = "bic",
    n: float | None = None,
    folds: int | None = None,
    n_replicates: int = 99,
    callback: Callable[[Candidate], None] | None = None,
    progress: bool = False,
    **options: Any,
) -> Selection:
    """`search` for each family and number of components, and the choice between them by an information criterion.

    Args:
        key: a PRNG key, consumed.
        families: one family or its name, or several.
        x: `[n, d]`, or a `Source`.
        n_components: one number, or several.
        sample_weight: `[n]`, non-negative.
        criterion: "bic", "aic" or "icl", the least of which is chosen; "cv", the log density of rows held out; "lrt", for one
            family: the first number of components that the next does not improve on, by tests at 5 per cent.
        n: the number of observations in BIC and ICL; by default the sum of the weights, with a warning where these do not
            look like counts (relative frequencies, for example). The log-likelihood stays the weighted sum.
        folds: of "cv", refits from the estimate and from 15 fresh starts; by default `leave_one_out`, or 10 folds if that fails.
        n_replicates: of "lrt", the replicates of each test.
        callback: called with each `Candidate` as it is done.
        progress: whether to show a bar in a terminal or a notebook.
        options: as for `search`: `budget`, `arms`, `prior`, `stop`, `max_iter`, `accelerator`, `chunk_size`.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    check_from_host("select", key, x, sample_weight)
    check_callback(callback)
    key = as_key(key)
    families = tuple(as_family(one) for one in as_several(families))
    counts = as_several(n_components)
    data, weights, n, n_counted, size = _data(x, sample_weight, n, criterion, any(family.holes for family in families))
    options = _search_options(options)
    counts = _checked(criterion, families, counts, folds, n_counted, options["prior"])
    shared = max(counts) if size * max(counts) <= SHARED and options["prior"] is None else 0
    found, candidates = list[Search](), list[Candidate]()
    with bar("select", progress) as update:
        for i, (family, k) in enumerate((family, k) for family in families for k in counts):
            update(i, len(families) * len(counts), f"{family.shown_name}, k = {k}")
            slots = max(k, shared) if family.interchangeable else k
            with already_told() if i else contextlib.nullcontext():
                found.append(search_with_slots(jax.random.fold_in(key, i), family, data, k, weights, slots, **options))
            with already_told():
                candidates.append(_candidate(found[-1].best, data, weights, n, slots))
            if callback is not None:
                callback(candidates[-1])
    if criterion == "cv":
        candidates = _with_cv(key, candidates, found, data, weights, folds, options["prior"])
    candidates, chosen = _choice(key, criterion, families[0], data, weights, candidates, n_replicates)
    return Selection(found[chosen], chosen, tuple(candidates), sum(one.passes for one in found), n, criterion)


def _data(x: Any, sample_weight: Any, n: Any, criterion: str, holes: bool) -> tuple[Any, Any, float, int, float]:
    """Checked rows, or a Source, and weights; the n of BIC, the number of rows that count, and the numbers in all."""
    if is_source(x):
        if sample_weight is not None:
            raise ValueError(
                "sample_weight was given with a Source, which yields the weights of its rows; give one of the two"
            )
        if criterion in ("cv", "lrt"):
            raise ValueError(
                f'criterion = {criterion!r} needs rows in memory; use "bic", "aic" or "icl", or x.sample(100_000)'
            )
        moments = x.overview().moments
        return x, None, as_sample_size(moments.total if n is None else n, None, moments.n), moments.n, math.inf
    data = as_data(x, exact=True, holes=holes)
    weights = as_weights(sample_weight, data.shape[0], jax.dtypes.canonicalize_dtype(data.dtype))
    n_counted = data.shape[0] if weights is None else int(np.count_nonzero(weights))
    return data, weights, as_sample_size(n, weights, data.shape[0]), n_counted, data.size


def _checked(
    criterion: str, families: Sequence[Family], counts: Sequence[int], folds: Any, n_counted: int, prior: Any
) -> tuple[int, ...]:
    """The numbers of components, in the order in which they are tried; a ValueError for what cannot be chosen by or from."""
    if criterion not in CRITERIA:
        raise ValueError(f"criterion = {criterion!r}; choose {', '.join(CRITERIA[:-1])} or {CRITERIA[-1]}")
    if not families or not counts:
        raise ValueError("families or n_components is empty; give at least one of each")
    if folds is not None:
        as_count("folds", folds, least=2, most=n_counted)
        if criterion != "cv":
            raise ValueError(f'folds = {folds} has no meaning for criterion = {criterion!r}; leave it out, or use "cv"')
    for k in counts:
        as_components(k, n_counted)
    if criterion != "lrt":
        return tuple(counts)
    if len(families) > 1:
        raise ValueError(
            f'criterion = "lrt" compares numbers of components of one family, and {len(families)} are given'
        )
    if prior is not None:
        raise ValueError('prior cannot go with criterion = "lrt", which compares likelihoods; leave one of them out')
    return tuple(sorted(set(counts)))


def _choice(
    key: Array, criterion: str, family: Family, data: Any, weights: Any, candidates: list[Candidate], n_replicates: int
) -> tuple[list[Candidate], int]:
    """The candidates, with what tests found if these choose, and which of them is chosen."""
    if criterion == "lrt":
        return _by_tests(key, family, data, weights, candidates, n_replicates)
    order = lambda i: (candidates[i].status.failed, _as_last(getattr(candidates[i], criterion)))  # noqa: E731
    return candidates, min(range(len(candidates)), key=order)


def _as_last(value: float) -> float:
    """A number to sort by, for which NaN comes last."""
    return math.inf if math.isnan(value) else value


def _by_tests(
    key: Array, family: Family, data: Any, weights: Any, candidates: list[Candidate], n_replicates: int
) -> tuple[list[Candidate], int]:
    """Candidates with the p-values of the tests that were made, from few components upwards, and which is chosen."""
    for i, (one, following) in enumerate(itertools.pairwise(candidates)):
        if following.status.failed:
            return candidates, i
        test = likelihood_ratio_test(
            jax.random.fold_in(key, len(candidates) + i), family, data, one.n_components, following.n_components,
            sample_weight=weights, n_replicates=n_replicates,
        )  # fmt: skip
        candidates[i] = one._replace(p_value=test.p_value)
        if test.p_value > LEVEL:
            return candidates, i
    return candidates, len(candidates) - 1


def _with_cv(
    key: Array, candidates: list[Candidate], found: list[Search], data: Any, weights: Any, folds: int | None, prior: Any
) -> list[Candidate]:
    """The candidates with -2 sum_i w_i log p(x_i | a fit without it), all by one method; NaN where a fit has no sound optimum."""
    w = np.ones(data.shape[0]) if weights is None else np.asarray(weights, np.float64)
    sound = [i for i, one in enumerate(found) if not has_failed(int(one.best.status))]
    values: list[float] = [] if folds else [_one_by_one(found[i].best, data, weights, w, prior) for i in sound]
    if not values or np.isnan(values).any():
        n_folds = min(folds or FOLDS, int(np.count_nonzero(w)))
        if not folds:
            warn_user(f"rows of some candidate cannot be left out one at a time; all are judged by {n_folds} folds")
        own = jax.random.fold_in(key, len(candidates))
        values = [_by_folds(jax.random.fold_in(own, i), found[i].best, data, w, n_folds, prior) for i in sound]
    if np.isnan(values).all():
        warn_user(
            'criterion = "cv" is known for no candidate: a fit without some rows collapses in each; use fewer components'
        )
    cv = dict(zip(sound, values, strict=True))
    return [one._replace(cv=-2.0 * cv.get(i, math.nan)) for i, one in enumerate(candidates)]


def _one_by_one(result: Result, data: Any, weights: Any, w: np.ndarray, prior: Any) -> float:
    """sum_i w_i log p(x_i | a fit without it), to first order; NaN where that is not to be trusted."""
    with warnings.catch_warnings(), already_told():
        warnings.simplefilter("ignore", UserWarning)  # of weights that are no counts `select` has warned already
        found, cautions = left_out(result.mixture, data, weights, prior)
    values = np.asarray(found, np.float64)
    known = np.isfinite(values[w > 0]).all() and not cautions
    return float(np.sum(np.where(w > 0, w * values, 0.0))) if known else math.nan


def _by_folds(key: Array, result: Result, data: Any, w: np.ndarray, folds: int, prior: Any) -> float:
    """The same by refits without the rows of one fold, from the estimate and from fresh starts; rows are dealt out at random."""
    mixture = result.mixture
    deal_key, start_key = jax.random.split(key)
    counted = np.flatnonzero(w > 0)
    fold = np.full(len(w), -1)
    fold[counted[np.asarray(jax.random.permutation(deal_key, len(counted)))]] = np.arange(len(counted)) % folds
    rows = as_rows(
        mixture.family, data, w.astype(mixture.log_weights.dtype), mixture.n_components, like=mixture, in_order=True
    )
    seen = np.stack([np.where(fold == f, 0.0, w) for f in range(folds)]).astype(rows.weights.dtype)
    own = {"weights": np.stack([np.asarray(as_blocks(one, rows)) for one in seen])}
    replicas = Replicas(rows, own, np.arange(folds))  # type: ignore[arg-type]
    made = best_fits(start_key, np.arange(folds), replicas, mixture, FRESH, prior)
    if np.any(has_failed(np.asarray(made.status))):
        return math.nan
    total = 0.0
    for f in range(folds):
        own_rows = fold == f
        total += float(np.sum(w[own_rows] * np.asarray(take(made.mixture, f).log_prob(data[own_rows]), np.float64)))
    return total


def _search_options(options: dict[str, Any]) -> dict[str, Any]:
    """All options of a search, given some."""
    known = cast(dict[str, Any], search.__kwdefaults__).items()
    defaults = {name: value for name, value in known if name not in ("checkpoint", "progress")}
    for name in options:
        if name not in defaults:
            raise TypeError(f"select() got an unexpected keyword argument {name!r}")
    return {**defaults, **options}


def _certainty(mixture: Any, begin: int, data: Any, weights: Any) -> float:
    """sum_i w_i log max_j p(j | x_i) over rows, the first of which has the number `begin`."""
    del begin
    w = np.ones(data.shape[0]) if weights is None else np.asarray(weights, np.float64)
    certainty = np.asarray(mixture.log_confidence(data), np.float64)
    return float(np.sum(np.where(w > 0, w * certainty, 0.0)))


def _candidate(result: Result, data: Any, weights: Any, n: float, slots: int) -> Candidate:
    mixture, log_likelihood = result.mixture, float(result.log_likelihood)
    p = mixture.n_parameters
    if is_source(data):
        doubt = -float(data.fold(functools.partial(_certainty, mixture)))
    else:
        doubt = -_certainty(with_slots(mixture, slots), 0, data, weights)
    of_fit = criteria(log_likelihood, p, n, doubt)
    return Candidate(mixture.family, mixture.n_components, log_likelihood, p, *of_fit, Status(int(result.status)))
