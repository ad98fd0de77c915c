"""Pictures of a fit, by matplotlib: data and components, doubt, densities, the climb, the optima, the choice of a model.

Every function draws on the `ax` it is given, or on a new one, and returns it. Where a mixture is wanted, a Result, a Search, a
Selection or a fitted estimator will do. `charts.py` has the pictures without rows, `drawing.py` what is drawn of a mixture,
`canvas.py` colours and labels.
"""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from jaxem.canvas import (
    COLOURS,
    GREY,
    LARGE,
    LINES,
    MARKERS,
    SMALL,
    axes_or_new,
    colours,
    dress,
    line_of,
    marker_of,
    pyplot,
    size_of,
    title,
)
from jaxem.charts import plot_intervals, plot_landscape, plot_selection, plot_test, plot_trace
from jaxem.display import as_moments, count_of, has_moments
from jaxem.drawing import (
    DRAWS,
    MOST_POINTS,
    Scene,
    as_matrix,
    draw_components,
    draw_curves,
    draw_dots,
    draw_rings,
    ellipse,
    in_own_precision,
    levels_of,
    mesh_around,
    mesh_of,
    places_of,
    required_rows,
    scene_of,
)
from jaxem.mixture import Mixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxem.inference import Summary

__all__ = [
    "COLOURS",
    "LINES",
    "MARKERS",
    "MOST_POINTS",
    "colours",
    "draws_intervals",
    "ellipse",
    "plot_classification",
    "plot_density",
    "plot_intervals",
    "plot_landscape",
    "plot_mixture",
    "plot_pairs",
    "plot_responsibilities",
    "plot_selection",
    "plot_test",
    "plot_trace",
    "plot_uncertainty",
]

MASSES = (0.5, 0.75, 0.95)
"""the shares of a mixture that the contours of its density hold"""
MOST_PAIRED = 6
"""features of a grid of pairs, unless some are named"""
MOST_LISTED = 6
"""components whose correlations are listed in a panel"""
DOUBTFUL = 0.95
"""the quantile of the uncertainty from which rows are drawn darkest"""


# -- a mixture and its rows ----------------------------------------------------------------------------------------------


@in_own_precision
def plot_mixture(
    mixture: Any,
    x: ArrayLike | None = None,
    *,
    features: Sequence[int] = (0, 1),
    columns: Sequence[str] | None = None,
    summary: "Summary | None" = None,
    sample_weight: ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Components as ellipses of one and two deviations over the data; in one dimension densities over a histogram.

    Args:
        mixture: of any family; a Result, Search, Selection or fitted estimator will do. Of families without ellipses contours
            are drawn, for which `x` is needed.
        x: `[n, d]`; of more than 5,000 rows an even sample is drawn.
        features: the two columns to draw, or one for its marginal density; of data with one column that.
        columns: names of the d columns; by default those of a data frame.
        summary: of `jaxem.summary`: the intervals of the means are drawn as bars.
        sample_weight: `[n]`: a histogram is weighted, and rows of weight 0 are left out.
        ax: where to draw.

    Raises:
        TypeError: if `mixture` stands for none.
        ValueError: for a batch, features that are not there, without the `x` that a family needs, or for a summary without means.
        NotImplementedError: for two of many columns of a family without marginal densities.
    """
    scene = scene_of(mixture, x, features, columns, sample_weight)
    return _fit(scene, summary, ax, soft=False)


@in_own_precision
def plot_responsibilities(
    mixture: Any,
    x: ArrayLike,
    *,
    features: Sequence[int] = (0, 1),
    columns: Sequence[str] | None = None,
    summary: "Summary | None" = None,
    sample_weight: ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Rows in the soft colours of their posteriors, with the components' ellipses; the arguments are those of `plot_mixture`.

    The less sure a row's component, the smaller its dot, so that doubt shows in grey as well.
    """
    return _fit(scene_of(mixture, x, features, columns, sample_weight), summary, ax, soft=True)


def _fit(scene: Scene, summary: "Summary | None", ax: "Axes | None", *, soft: bool) -> "Axes":
    """The rows, in grey or in soft colours, and the components, with the intervals of their means."""
    if summary is not None and (scene.means is None or len(scene.means) != len(summary.estimate.weights)):
        _refuse(scene, summary)
    colour: Any = GREY
    size: Any = None
    if soft:
        resp = scene.responsibilities()  # [n, k]
        colour = np.clip(resp @ colours(scene.k), 0, 1)
        size = size_of(len(resp)) * (0.3 + 0.7 * resp.max(axis=1) ** 2)
    if len(scene.features) == 1:
        ax = draw_curves(scene, axes_or_new(ax))
        if soft:
            _strip(scene, ax, c=colour, s=size, linewidths=0)
    else:
        scene.density() if scene.means is None else None  # what has no density leaves no empty axes behind
        ax = axes_or_new(ax)
        if scene.rows is not None:
            draw_dots(scene, ax, colour=colour, size=size, alpha=0.9 if soft else 0.6)
        draw_components(scene, ax, beside=summary is not None)
    return ax if summary is None else _bars_of_means(summary, scene, ax)


def _strip(scene: Scene, ax: "Axes", **style: Any) -> None:
    """The rows as dots under the curves of one feature."""
    top = ax.get_ylim()[1]
    height = np.random.default_rng(0).uniform(-0.08, -0.02, len(scene.data)) * top
    ax.scatter(scene.data[:, 0], height, **style)
    ax.set_ylim(-0.1 * top, top)


def draws_intervals(mixture: Mixture) -> bool:
    """Whether `plot_mixture` can draw the intervals of a summary of this mixture."""
    return has_moments(mixture.family)


def _refuse(scene: Scene, summary: "Summary") -> None:
    if scene.means is None:
        raise ValueError(
            f"summary of {scene.mixture.family.shown_name} has no means to draw; leave it out, or use plot_intervals"
        )
    raise ValueError(
        f"summary is of {count_of(len(summary.estimate.weights), 'component')}, the mixture has {scene.k}; give its own"
    )


def _bars_of_means(summary: "Summary", scene: Scene, ax: "Axes") -> "Axes":
    """The intervals of the means: a cross at each of two features, a bar under the curves of one."""
    lower, upper = (
        np.asarray(one.components.means, float)[:, scene.features] for one in (summary.lower, summary.upper)
    )
    means, low_end, foot = np.asarray(scene.means), *ax.get_ylim()
    for j, (low, high, colour) in enumerate(zip(lower, upper, colours(scene.k), strict=True)):
        style: dict[str, Any] = {"color": colour, "linewidth": 2.5, "solid_capstyle": "butt", "zorder": 5}
        if len(scene.features) == 1:
            ax.plot([low[0], high[0]], [-0.03 * foot * (1 + j % 2)] * 2, **style)
            continue
        ax.plot([low[0], high[0]], [means[j, 1]] * 2, **style)
        ax.plot([means[j, 0]] * 2, [low[1], high[1]], **style)
    if len(scene.features) == 1:
        ax.set_ylim(min(low_end, -0.08 * foot), foot)
    return ax


@in_own_precision
def plot_uncertainty(
    mixture: Any,
    x: ArrayLike,
    *,
    features: Sequence[int] = (0, 1),
    columns: Sequence[str] | None = None,
    sample_weight: ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """How unsure the component of each row is, 1 - max_j p(j | x): the larger and darker a dot, the more unsure the row.

    The 5 per cent most uncertain rows, by weight, are black. In one feature the uncertainty is the height of each row, and of
    data with one column its curve is drawn. The arguments are those of `plot_mixture`. As in mclust (Scrucca et al. 2016).
    """
    scene = scene_of(mixture, x, features, columns, sample_weight)
    required_rows(scene)
    doubt = 1.0 - scene.responsibilities().max(axis=1)
    weights = np.ones(len(doubt)) if scene.weights is None else scene.weights
    bound = float(np.quantile(doubt, DOUBTFUL, weights=weights, method="inverted_cdf"))
    darkest = (doubt >= bound) & (doubt > 1e-6)
    order = np.argsort(doubt, kind="stable")  # the most uncertain on top
    shade = np.where(darkest, "black", "0.65").tolist()
    size = 2.0 + 60.0 * doubt
    ax = axes_or_new(ax)
    if len(scene.features) == 1:
        return _doubt_in_one(scene, doubt, np.where(darkest, 14.0, 7.0), shade, ax)
    at = places_of(scene)
    _components_if_known(scene, ax)
    ax.scatter(at[order, 0], at[order, 1], s=size[order], c=[shade[i] for i in order], linewidths=0, zorder=4)
    share = np.sum(weights[darkest]) / np.sum(weights)
    told = (
        f"black: the {share:.0%} of rows that are\nmost unsure, {doubt[darkest].min():.2g} and more"
        if darkest.any()
        else ""
    )
    title(ax, told or "every row is sure of its component")
    return ax


def _components_if_known(scene: Scene, ax: "Axes") -> None:
    """The components, where a family has densities of the features that are shown; the rows say enough without."""
    dress(ax, *scene.names)
    with contextlib.suppress(NotImplementedError):
        draw_components(scene, ax)


def _doubt_in_one(scene: Scene, doubt: np.ndarray, size: np.ndarray, shade: list[str], ax: "Axes") -> "Axes":
    column = scene.data[:, 0]
    if required_rows(scene).shape[1] == 1:
        spread = 0.05 * (np.nanmax(column) - np.nanmin(column))
        at = np.linspace(np.nanmin(column) - spread, np.nanmax(column) + spread, 500)
        at = np.unique(column[~np.isnan(column)]) if scene.whole[0] else at
        resp = np.asarray(scene.mixture.responsibilities(at[:, None]), float)
        ax.plot(at, 1.0 - resp.max(axis=1), color=COLOURS[0], linewidth=1.6, zorder=3)
    ax.scatter(column, doubt, s=size, c=shade, linewidths=0, zorder=4)
    ax.set_ylim(-0.02, max(0.52, 1.05 * (1 - 1 / scene.k)))
    return dress(ax, scene.names[0], "uncertainty")


@in_own_precision
def plot_classification(
    mixture: Any,
    x: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    features: Sequence[int] = (0, 1),
    columns: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Each row with the marker and the colour of its likeliest component, and the components' ellipses.

    With true `labels` `[n]`, of any kind, rows in the wrong cluster have a ring, and the title counts them. Labels and components
    are matched so that as many rows as possible agree. The other arguments are those of `plot_mixture`.
    """
    scene = scene_of(mixture, x, features, columns)
    found = np.asarray(scene.mixture.predict(as_matrix(x)))
    wrong = None if labels is None else misclassified(found, labels, scene.k)
    own = found[scene.which]
    ax = axes_or_new(ax)
    if len(scene.features) == 1:
        draw_curves(scene, ax)
        top = ax.get_ylim()[1]
        at = np.stack([scene.data[:, 0], -0.05 * top * (1 + own)], axis=1)  # a lane for each component
        ax.set_ylim(-0.05 * top * (scene.k + 1), top)
    else:
        at = places_of(scene)
        _components_if_known(scene, ax)
    size = 2.2 * size_of(len(at))
    for j, colour in enumerate(colours(scene.k)):
        rows = own == j
        ax.scatter(
            at[rows, 0], at[rows, 1], s=size, marker=marker_of(j), color=colour, alpha=0.75, linewidths=0, zorder=2
        )
    if wrong is not None:
        rows = wrong[scene.which]
        ax.scatter(
            at[rows, 0], at[rows, 1], s=5 * size + 25, facecolors="none", edgecolors="black", linewidths=1.0, zorder=5
        )
        title(ax, f"{wrong.sum()} of {len(wrong)} rows misclassified ({wrong.mean():.1%})")
    return ax


def misclassified(found: np.ndarray, labels: Any, k: int) -> np.ndarray:
    """Which rows, `[n]` of bool, are not in the component that their label is matched with, by the Hungarian algorithm."""
    given = np.asarray(labels)
    if given.shape != found.shape:
        raise ValueError(f"labels has shape {given.shape}; give one for each of the {len(found)} rows")
    values, code = np.unique(given, return_inverse=True)
    table = np.zeros((k, len(values)))
    np.add.at(table, (found, code), 1)
    partner = np.full(k, -1)
    components, matched = linear_sum_assignment(-table)
    partner[components] = matched
    return np.asarray(partner[found] != code)


@in_own_precision
def plot_density(
    mixture: Any,
    x: ArrayLike | None = None,
    *,
    features: Sequence[int] = (0, 1),
    columns: Sequence[str] | None = None,
    masses: Sequence[float] = MASSES,
    marginals: bool = True,
    sample_weight: ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Contours of the density that hold the shares `masses` of the mixture, with the density of each feature along the axes.

    The levels are quantiles of the density at 20,000 draws from the mixture, or at the rows of `x` for a family that cannot draw.
    In one feature the density is drawn over a histogram. Where only whole numbers occur, rings have areas in proportion to
    their probability. The other arguments are those of `plot_mixture`.

    Args:
        masses: shares between 0 and 1.
        marginals: whether to draw the density of each feature along the axes.
    """
    if not masses or not all(0 < mass < 1 for mass in masses):
        raise ValueError(f"masses = {tuple(masses)}; give shares between 0 and 1, such as (0.5, 0.95)")
    scene = scene_of(mixture, x, features, columns, sample_weight)
    if len(scene.features) == 1:
        return draw_curves(scene, axes_or_new(ax), components=False, bold=2.0)
    scene.density()
    ax = axes_or_new(ax)
    if scene.rows is not None:
        draw_dots(scene, ax, alpha=0.4)
    _density_in_two(scene, masses, ax)
    if marginals:
        _along_axes(scene, ax)
    return dress(ax, *scene.names)


def _density_in_two(scene: Scene, masses: Sequence[float], ax: "Axes", *, named: bool = True) -> None:
    density = scene.density()
    if scene.rows is not None and any(scene.whole):
        meshes = mesh_of(scene)
        shares = np.exp(density.log_prob(np.stack([mesh.ravel() for mesh in meshes], axis=1)))
        draw_rings(ax, meshes, shares.reshape(meshes[0].shape) / shares.max(), edgecolors=[COLOURS[0]])
        return
    weights = None
    try:
        rows = density.draw(DRAWS)
    except NotImplementedError:
        rows, weights = scene.data, scene.weights
    levels = levels_of(density, rows, masses, weights)
    meshes = mesh_around(rows, 0.0 if scene.means is None else 0.15)  # others may have ends
    height = density.log_prob(np.stack([mesh.ravel() for mesh in meshes], axis=1)).reshape(meshes[0].shape)
    order = np.argsort(levels)
    ascending, first = np.unique(levels[order], return_index=True)
    shown = [masses[i] for i in order[first]]
    styles = [line_of(len(shown) - 1 - i) for i in range(len(shown))]
    floor = ascending[0] - 50.0
    drawn = ax.contour(
        *meshes, np.maximum(height, floor), levels=ascending, colors=[COLOURS[0]], linestyles=styles, zorder=3
    )
    if named:
        names = {level: f"{mass:.0%}" for level, mass in zip(ascending, shown, strict=True)}
        ax.clabel(drawn, fmt=names, fontsize=SMALL)


def _along_axes(scene: Scene, ax: "Axes") -> None:
    """The density of each feature, above and to the right of the axes, where the family knows it."""
    with contextlib.suppress(NotImplementedError):
        _along(scene, ax)


def _along(scene: Scene, ax: "Axes") -> None:
    scene.only(0).density()
    places = ((0.0, 1.02, 1.0, 0.2), (1.02, 0.0, 0.2, 1.0))
    for feature, place in enumerate(places):
        shared: dict[str, Any] = {"sharex" if feature == 0 else "sharey": ax}
        side = ax.inset_axes(place, **shared)
        limits = ax.get_xlim(), ax.get_ylim()
        draw_curves(scene.only(feature), side, components=False, sideways=feature == 1)
        ax.set(xlim=limits[0], ylim=limits[1])
        side.set_axis_off()


@in_own_precision
def plot_pairs(
    mixture: Any,
    x: ArrayLike,
    *,
    features: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
    sample_weight: ArrayLike | None = None,
    figure: "Figure | None" = None,
) -> np.ndarray:
    """A grid of m features against each other, as an array `[m, m]` of axes.

    Below the diagonal are the rows in soft colours with the components, on it the densities of single features, above it the
    correlations within each component, or contours of the density for families without them.

    Args:
        features: the columns to draw, at least one; by default all of up to 6, else the first 6, which a note says.
        figure: where to draw.

    The other arguments are those of `plot_mixture`.
    """
    scene = scene_of(mixture, x, (0,), columns, sample_weight)
    rows = required_rows(scene)
    d = rows.shape[1] if scene.means is None else _n_features(scene)
    chosen = list(range(min(d, MOST_PAIRED))) if features is None else [int(feature) for feature in features]
    if not chosen or any(not -d <= feature < d for feature in chosen):
        raise ValueError(f"features = {tuple(chosen)}; give columns from 0 to {d - 1}")
    m = len(chosen)
    if figure is None:
        side = max(3.0, 1.7 * m)
        figure = pyplot.figure(figsize=(side, side), layout="constrained")
    axes: Any = figure.subplots(m, m, squeeze=False)
    for i, j in np.ndindex(m, m):
        pair = scene_of(mixture, x, (chosen[j], chosen[i]) if i != j else (chosen[i],), columns, sample_weight)
        _pair(pair, axes[i, j], "diagonal" if i == j else "below" if i > j else "above")
        if i != m - 1:
            axes[i, j].set_xlabel("")
        if j or i == j:
            axes[i, j].set_ylabel("")
        axes[i, j].tick_params(labelsize=SMALL, labelbottom=i == m - 1, labelleft=j == 0 and i > 0)
    if features is None and d > MOST_PAIRED:
        figure.suptitle(f"the first {m} of {d} features; features= names others", fontsize=SMALL, color=GREY)
    return np.asarray(axes)


def _n_features(scene: Scene) -> int:
    """The features of a family with ellipses; those behind noise have more columns."""
    return int(as_moments(scene.mixture.family, scene.mixture.components)[0].shape[1])


def _pair(scene: Scene, ax: "Axes", place: str) -> None:
    """One panel of a grid of pairs."""
    if place == "diagonal":
        draw_curves(scene, ax, components=scene.k <= MOST_LISTED)
        ax.set_yticks([])
    elif place == "below":
        resp = scene.responsibilities()
        soft = np.clip(resp @ colours(scene.k), 0, 1)
        draw_dots(scene, ax, colour=soft, size=0.5 * size_of(len(resp)), alpha=0.9)
        draw_components(scene, ax, plain=scene.k > 2)
    elif scene.covariances is not None and scene.k <= MOST_LISTED:
        ax.set_axis_off()
        for j, (covariance, colour) in enumerate(zip(scene.covariances, colours(scene.k), strict=True)):
            r = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
            height = 0.5 - 0.17 * (j - 0.5 * (scene.k - 1))
            ax.text(0.5, height, f"{j}: {r:+.2f}", transform=ax.transAxes, ha="center", va="center", color=colour,
                    fontsize=LARGE, fontweight="bold")  # fmt: skip
    else:
        _density_in_two(scene, MASSES, ax, named=False)
        dress(ax)
