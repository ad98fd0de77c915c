"""Charts of what was found, beside the rows: the climb, the optima, the choice of a model, tests, and intervals of parameters.

Their public functions belong to `jaxem.plots`. They look at attributes only.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxem.canvas import (
    COLOURS,
    GREY,
    LARGE,
    SMALL,
    MaxNLocator,
    axes_or_new,
    colours,
    dress,
    halo,
    label_ends,
    line_of,
    marker_of,
    note,
    pyplot,
    title,
    verbatim,
)
from jaxem.display import SYMMETRIC, count_of
from jaxem.drawing import names_of, result_of
from jaxem.queue import landscape as landscape_of_results
from jaxem.stopping import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxem.comparison import LikelihoodRatioTest
    from jaxem.inference import Summary
    from jaxem.loop import Result
    from jaxem.queue import Landscape
    from jaxem.racing import Search
    from jaxem.resampling import Bootstrap
    from jaxem.selection import Candidate, Selection

MOST_BARS = 12
"""optima that are drawn at most; a note counts the others"""
BESIDE = 0.3
"""the part of the picture of the optima that the bars of climbs take"""
MOST_PANELS = 12
"""parameters, each with a panel for all components, whose intervals are drawn"""
LEVEL = 0.05
"""the p-value from which a test is taken to reject"""
CRITERIA = {
    "bic": "BIC",
    "aic": "AIC",
    "icl": "ICL",
    "cv": "-2 log density of rows held out",
    "lrt": "p-value of one more",
}
"""what can be drawn of a selection, and the names of it"""


# -- the climb and the optima --------------------------------------------------------------------------------------------


def plot_trace(result: "Result | Search | Selection", *, ax: "Axes | None" = None) -> "Axes":
    """The objective along the climb, `result.trace`; of a batch a line for each climb, the best on top.

    A Search or a Selection stands for its best climb.
    """
    one: Any = result_of(result)
    if not hasattr(one, "trace"):
        raise TypeError(f"result is a {type(result).__name__}; give a Result, such as one of jaxem.fit, or a Search")
    ax = axes_or_new(ax)
    traces = np.atleast_2d(np.asarray(one.trace, float))
    finals = np.atleast_1d(np.asarray(one.objective, float))
    best = int(np.argmax(np.where(np.isfinite(finals), finals, -np.inf)))
    for i in [*(i for i in range(len(traces)) if i != best), best]:
        made = traces[i][np.isfinite(traces[i])]
        leading = i == best
        colour, width = (COLOURS[0], 2.0) if leading else (GREY, 0.7)
        ax.plot(made, color=colour, linewidth=width, alpha=1.0 if leading else 0.5, zorder=3 if leading else 2)
        if leading and made.size:
            ax.plot(made.size - 1, made[-1], "o", color=colour, markersize=5, zorder=4)
            ax.annotate(f"{made[-1]:.2f}", (made.size - 1, made[-1]), (-4, -14), textcoords="offset points", ha="right",
                        fontsize=LARGE, zorder=4, path_effects=halo())  # fmt: skip
            start = made[0]
    tops = traces[np.isfinite(traces)]
    if tops.size > 4:  # the first turns rise so far that the others would look flat
        low = np.quantile(tops, 0.05)
        if np.max(tops) - low < 0.5 * np.ptp(tops):
            ax.set_ylim(low - 0.1 * (np.max(tops) - low), np.max(tops) + 0.1 * (np.max(tops) - low))
            note(ax, [f"it begins below the picture, at {start:.2f}"] if start < ax.get_ylim()[0] else [])
    return dress(ax, "turn of EM", "log-likelihood", whole="x")


def plot_landscape(
    landscape: "Landscape | Search | Selection | Result",
    *,
    counts: bool | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """The distinct optima, best first: how many nats each lies below the best, and how many climbs ended in it.

    Args:
        landscape: of `jaxem.landscape`; a Search stands for its own, a batch of results for theirs.
        counts: whether to draw bars of the climbs, at the right. By default they are drawn where they tell how often random
            starts end in an optimum: not of a Search, whose finalists were picked, nor where each optimum was met once.
        ax: where to draw.
    """
    seen, picked = _landscape_of(landscape)
    values, climbs = np.asarray(seen.objective, float), np.asarray(seen.counts, int)
    if counts is None:
        counts = not picked and bool(np.any(climbs > 1))
    gaps, hidden = (values.max(initial=-np.inf) - values)[:MOST_BARS], max(0, len(values) - MOST_BARS)
    ax = axes_or_new(ax)
    places = np.arange(len(gaps))
    ax.hlines(places, 0, gaps, color="0.65", linewidth=2.0, zorder=2)
    ax.plot(gaps, places, "o", color=COLOURS[0], markersize=6, zorder=3, clip_on=False)
    for place, gap in zip(places, gaps, strict=True):
        told = "best" if place == 0 else f"{gap:.2f}" if gap < 100 else f"{gap:.0f}"
        ax.annotate(told, (gap, place), (7, 0), textcoords="offset points", va="center", fontsize=SMALL)
    ax.set_yticks(places, [f"{value:.2f}" for value in values[: len(gaps)]], fontsize=SMALL)
    ax.set_ylim(max(len(gaps), 2) - 0.4, -0.6)
    reach = 1.25 * max(gaps.max(initial=0.0), 1e-3 if len(gaps) > 1 else 1.0)
    ax.set_xlim(0, reach / (1.0 - BESIDE) if counts else reach)
    lost = seen.degenerate + seen.failed + seen.saddles
    notes = [count_of(hidden, "more optimum", "more optima")] * (hidden > 0) + [f"{lost} collapsed or failed"] * (
        lost > 0
    )
    title(ax, ", ".join(notes))
    dress(ax, "nats below the best", "log-likelihood")
    if len(gaps) < 2:
        ax.set_xticks([0])
    if counts and len(gaps) > 1:
        ax.set_xticks([tick for tick in MaxNLocator(4).tick_values(0, reach) if tick <= reach])
    if counts:
        ax.spines["bottom"].set_bounds(0, reach)
        ax.xaxis.set_label_coords(0.5 * (1.0 - BESIDE), -0.12)
        _counts_beside(climbs[: len(gaps)], places, ax)
    return ax


def _counts_beside(climbs: np.ndarray, places: np.ndarray, ax: "Axes") -> None:
    side = ax.inset_axes((1.03 - BESIDE, 0.0, BESIDE - 0.03, 1.0), sharey=ax)
    side.barh(places, climbs, color="0.75", height=0.6)
    for place, count in zip(places, climbs.tolist(), strict=True):
        side.annotate(str(count), (count, place), (3, 0), textcoords="offset points", va="center", fontsize=SMALL)
    side.tick_params(labelleft=False, left=False)
    side.set_xlim(0, 1.3 * climbs.max(initial=1))
    dress(side, whole="x")
    side.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    side.set_xlabel("climbs", fontsize=LARGE)
    side.xaxis.set_label_coords(0.5, -0.12)


def _landscape_of(value: Any) -> tuple["Landscape", bool]:
    """The landscape that something stands for, and whether its climbs were picked."""
    value = value.best if hasattr(value, "candidates") else value
    if hasattr(value, "landscape"):
        return value.landscape, True
    if hasattr(value, "trace") and np.ndim(value.status) == 1:
        return landscape_of_results(value), False
    if not (hasattr(value, "counts") and hasattr(value, "best_restart")):
        raise TypeError(
            f"landscape is a {type(value).__name__}; give one of jaxem.landscape(results), a batch of results, or a Search"
        )
    return value, False


# -- the choice of a model -----------------------------------------------------------------------------------------------


def plot_selection(selection: "Selection", *, criterion: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """A criterion against the number of components, with a line for each family; the one chosen has a ring.

    Less is better, but for "lrt": the p-value of a test of each number of components against the next, with a line at 5 per
    cent. Candidates that did not converge are hollow; those that are degenerate, which are never chosen, are crosses at the edge.

    Args:
        selection: of `jaxem.select`.
        criterion: "bic", "aic", "icl", "cv" or "lrt"; by default what the selection was made by.
        ax: where to draw.
    """
    if not hasattr(selection, "candidates"):
        raise TypeError(f"selection is a {type(selection).__name__}; give a Selection, such as one of jaxem.select")
    criterion = selection.criterion if criterion is None else criterion
    if criterion not in CRITERIA:
        raise ValueError(f"criterion = {criterion!r}; choose {', '.join(CRITERIA)}")
    field = "p_value" if criterion == "lrt" else criterion
    value = {i: float(getattr(one, field)) for i, one in enumerate(selection.candidates)}
    if not np.isfinite(list(value.values())).any() and criterion in ("cv", "lrt"):
        raise ValueError(
            f'criterion = "{criterion}" was not computed; select with criterion="{criterion}", or draw "bic"'
        )
    ax = axes_or_new(ax)
    families = list(dict.fromkeys(one.family for one in selection.candidates))
    sound = [v for i, v in value.items() if np.isfinite(v) and not selection.candidates[i].status.failed]
    _limits(sound, criterion, ax)
    ends = []
    for j, family in enumerate(families):
        own = [i for i, one in enumerate(selection.candidates) if one.family == family]
        ends += _line_of_family(selection.candidates, own, value, j, ax)
    _mark_chosen(selection, value, ax)
    dress(ax, "components", CRITERIA[criterion], whole="x")
    counts = [one.n_components for one in selection.candidates]
    ax.set_xlim(min(counts) - 0.4, max(counts) + 0.4)
    label_ends(ax, ends if len(families) > 1 else [])
    if len(families) == 1:
        title(ax, verbatim(families[0].shown_name))
    return ax


def _limits(sound: list[float], criterion: str, ax: "Axes") -> None:
    """The range of what can be chosen; the criteria of degenerate fits have no meaning and would hide it."""
    if criterion == "lrt":
        ax.set_ylim(-0.03, 1.03)
        ax.axhline(LEVEL, color=GREY, linewidth=1.0, linestyle=":")
        ax.annotate("5 per cent", (0.99, LEVEL), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                    fontsize=SMALL, color=GREY, ha="right")  # fmt: skip
    elif sound:
        spread = max(sound) - min(sound) or 1.0
        ax.set_ylim(min(sound) - 0.08 * spread, max(sound) + 0.08 * spread)


def _line_of_family(
    candidates: Sequence["Candidate"], own: list[int], value: dict[int, float], j: int, ax: "Axes"
) -> list[tuple[float, float, str, Any]]:
    """A family's line through its sound fits, with marks for the others; and its end, where its name goes."""
    own = sorted(own, key=lambda i: candidates[i].n_components)
    colour, marker = COLOURS[j % len(COLOURS)] if j % len(COLOURS) != 6 else "#B8A900", marker_of(j)
    sound = [i for i in own if not candidates[i].status.failed and np.isfinite(value[i])]
    count = {i: candidates[i].n_components for i in own}
    name = verbatim(candidates[own[0]].family.shown_name)
    ax.plot([count[i] for i in sound], [value[i] for i in sound], line_of(j), color=colour, linewidth=1.5, zorder=3,
            label=name)  # fmt: skip
    low, high = ax.get_ylim()
    for i in own:
        status = candidates[i].status
        if status.failed:
            height = np.clip(value[i], low, high) if np.isfinite(value[i]) else high
            ax.plot(count[i], height, "x", color=colour, markersize=7, markeredgewidth=1.6, clip_on=False, zorder=5)
        elif i in sound:
            hollow = status == Status.MAX_ITER
            ax.plot(count[i], value[i], marker, color=colour, markersize=5.5, zorder=4,
                    markerfacecolor="white" if hollow else colour)  # fmt: skip
    return [(float(count[sound[-1]]), value[sound[-1]], name, colour)] if sound else []


def _mark_chosen(selection: "Selection", value: dict[int, float], ax: "Axes") -> None:
    one, at = selection.candidates[selection.chosen], value[selection.chosen]
    told = f"chosen: {one.n_components}"
    if np.isfinite(at):
        ax.plot(one.n_components, np.clip(at, *ax.get_ylim()), "o", markersize=14, markerfacecolor="none",
                markeredgecolor="black", markeredgewidth=1.4, zorder=6, clip_on=False)  # fmt: skip
    else:
        ax.axvline(one.n_components, color="black", linewidth=1.2, zorder=1)
    statuses = [candidate.status for candidate in selection.candidates]
    notes = [
        told if len({c.family for c in selection.candidates}) == 1 else f"{told} x {verbatim(one.family.shown_name)}"
    ]
    notes += ["x: degenerate"] * any(status.failed for status in statuses)
    notes += ["hollow: not converged"] * any(status == Status.MAX_ITER for status in statuses)
    note(ax, notes, top=True)


def plot_test(test: "LikelihoodRatioTest", *, ax: "Axes | None" = None) -> "Axes":
    """What the statistic of a likelihood ratio test is where the smaller model is true, and where the data lie."""
    if not hasattr(test, "replicates") or not hasattr(test, "p_value"):
        raise TypeError(f"test is a {type(test).__name__}; give one of jaxem.likelihood_ratio_test")
    ax = axes_or_new(ax)
    values = np.asarray(test.replicates, float)
    ax.hist(values, bins="auto" if np.ptp(values) > 0 else 1, color="0.8", edgecolor="white", zorder=1)
    ax.axvline(test.statistic, color=COLOURS[5], linewidth=2.0, zorder=3)
    side = "left" if test.statistic < 0.6 * ax.get_xlim()[1] else "right"
    ax.annotate(
        f"the data: {test.statistic:.2f}\np = {test.p_value:.3g}",
        (test.statistic, 0.95),
        (6 if side == "left" else -6, 0),
        color=COLOURS[5],
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        ha=side,
        fontsize=LARGE,
    )
    small, large = (f"{one.n_components} x {one.family.shown_name}" for one in (test.null, test.alternative))
    title(ax, f"{small} against {large}")
    return dress(ax, "twice the gain in log-likelihood", "replicates", whole="y")


# -- how sure ------------------------------------------------------------------------------------------------------------


def plot_intervals(
    errors: "Summary | Bootstrap",
    *,
    level: float = 0.95,
    columns: Sequence[str] | None = None,
    figure: "Figure | None" = None,
) -> np.ndarray:
    """Estimates and intervals, a panel for each parameter with a line for each component, as an array `[p]` of axes.

    Args:
        errors: of `jaxem.summary` or `jaxem.bootstrap`.
        level: of the intervals of a bootstrap; a summary has its own.
        columns: names of the d columns.
        figure: where to draw.
    """
    if not hasattr(errors, "standard_error"):
        raise TypeError(f"errors is a {type(errors).__name__}; give one of jaxem.summary or jaxem.bootstrap")
    bounds: Any = errors
    lower, upper = bounds.interval(level) if hasattr(errors, "interval") else (bounds.lower, bounds.upper)
    panels = list(_parameters(errors, lower, upper, columns))
    shown = panels[:MOST_PANELS]
    wide = min(2, len(shown))
    deep = -(-len(shown) // wide)
    k = len(errors.estimate.weights)
    if figure is None:
        figure = pyplot.figure(figsize=(2.7 * wide, deep * (0.75 + 0.22 * k)), layout="constrained")
    axes = np.ravel(figure.subplots(deep, wide, squeeze=False))
    for ax, panel in zip(axes, shown, strict=False):
        _panel(*panel, k, ax)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    if len(panels) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(panels)} parameters", fontsize=SMALL, color=GREY)
    return np.asarray(axes[: len(shown)])


def _panel(name: str, estimate: np.ndarray, low: np.ndarray, high: np.ndarray, k: int, ax: "Axes") -> None:
    """The estimates and intervals of one parameter, a line for each of k components, or one for all."""
    for j, colour in enumerate(colours(len(estimate))):
        ax.plot([low[j], high[j]], [j, j], color=colour, linewidth=2.5, solid_capstyle="butt")
        ax.plot(estimate[j], j, marker_of(j), color=colour, markersize=6)
    names = ["all"] if len(estimate) < k else [str(j) for j in range(k)]
    ax.set_yticks(range(len(estimate)), names, fontsize=SMALL)
    ax.set_ylim(len(estimate) - 0.5, -0.5)
    title(ax, name)
    dress(ax)


def _parameters(
    errors: Any, lower: Any, upper: Any, columns: Sequence[str] | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """For each parameter its name, and the estimates and ends `[k]`; of one that all components share `[1]`."""
    k, estimate = len(errors.estimate.weights), errors.estimate

    def of_columns(names: Sequence[str] | None, size: int) -> list[str]:
        # parts of a product have columns of their own
        return names_of(names if names is not None and len(names) == size else None, None, size)

    leaves = [jax.tree_util.tree_flatten_with_path(one)[0] for one in (estimate, lower, upper)]
    for several, own in zip(zip(*leaves, strict=True), [True, *_leads(errors, k)], strict=True):
        name = jax.tree_util.keystr(several[0][0], simple=True, separator=".").removeprefix("components.")
        of = [np.asarray(leaf, float) for _, leaf in several]
        if not np.issubdtype(np.asarray(several[0][1]).dtype, np.floating) or np.array_equal(of[1], of[2]):
            continue  # numbers of categories, bounds of a box: nothing was estimated
        of = of if own else [one[None] for one in of]
        rest = of[0].shape[1:]
        symmetric = name in SYMMETRIC and len(rest) == 2
        for index in np.ndindex(rest):
            if symmetric and index[0] > index[1]:
                continue
            words = [
                of_columns(columns, size)[i] if axis == 0 or symmetric else str(i)
                for axis, (i, size) in enumerate(zip(index, rest, strict=True))
            ]
            place = (slice(None), *index)
            yield f"{name}, {' '.join(words)}" if words else name, of[0][place], of[1][place], of[2][place]


def _leads(errors: Any, k: int) -> list[bool]:
    """Of each array of the parameters, whether it leads with the components."""
    leaves = [np.shape(leaf) for leaf in jax.tree.leaves(errors.estimate.components)]
    if k > 1:
        one = jax.tree.leaves(errors.family.subset(errors.estimate.components, np.array([0]))[1])
        if len(one) == len(leaves):
            return [
                shape[:1] == (k,) and np.shape(of_one)[:1] == (1,) for shape, of_one in zip(leaves, one, strict=True)
            ]
    return [shape[:1] == (k,) for shape in leaves]
