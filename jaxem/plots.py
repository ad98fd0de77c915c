"""Pictures of a fit, by matplotlib: data and components, soft colours, the climb, the landscape of optima.

Every function draws on the `ax` it is given, or on a new one, and returns it. The colours are those of Okabe and Ito (2008),
which the colour-blind can tell apart. Each component also has its number and a line style, so that pictures can be read in
grey as well.

Gaussians and Student's t are ellipses. Other families are drawn by their density alone: in one column as lines, or bars where
only whole numbers occur, in two as contours, or rings where a column holds few whole numbers.

The ellipse of r deviations of N(mu, Sigma) in two features is  mu + r L (cos t, sin t)  with L L' the 2 x 2 block of Sigma.
Its shadow on each axis reaches r standard deviations from the mean.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

try:
    from matplotlib import patheffects
    from matplotlib import pyplot as plt
except ModuleNotFoundError as error:  # the extra is missing
    raise ModuleNotFoundError(
        f"{error.name} is not installed; jaxem.plots needs: pip install 'jaxem[plot]'", name=error.name
    ) from error

from jaxem.checks import as_mixture
from jaxem.display import as_moments, has_moments
from jaxem.families.student_t import StudentT
from jaxem.loop import Result
from jaxem.mixture import Mixture
from jaxem.queue import Landscape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jaxem.comparison import LikelihoodRatioTest
    from jaxem.inference import Summary

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
LINES = ("-", "--", "-.", ":")
DEVIATIONS = (1.0, 2.0)
"""the ellipses of a component, in standard deviations"""
MOST_POINTS = 5_000
"""rows that are drawn at most; of more rows an even sample"""
MOST_RINGS = 400
"""rings that a component has at most"""
MOST_BARS = 12
"""optima that are drawn at most; a note counts the others"""
GREY = "0.45"


def colours(k: int) -> np.ndarray:
    """A colour for each of k components, `[k, 3]`; beyond eight they are taken from a colour map."""
    from matplotlib.colors import to_rgb

    if k <= len(COLOURS):
        return np.array([to_rgb(colour) for colour in COLOURS[:k]])
    return np.asarray(plt.get_cmap("viridis")(np.linspace(0, 0.95, k)))[:, :3]


def plot_mixture(
    mixture: Mixture,
    x: ArrayLike | None = None,
    *,
    features: Sequence[int] = (0, 1),
    columns: Sequence[str] | None = None,
    summary: "Summary | None" = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Components as ellipses of one and two deviations over the data; in one dimension densities over a histogram.

    Args:
        mixture: of any family; a fitted `jaxem.sklearn.GaussianMixture` will do. Of families without ellipses contours are
            drawn, for which `x` is needed.
        x: `[n, d]`; of more than 5,000 rows an even sample is drawn.
        features: the two columns to draw, or one for its marginal density; of data with one column that.
        columns: names of the d columns.
        summary: of `jaxem.summary`: the intervals of the means are drawn as bars.
        ax: where to draw.

    Raises:
        ValueError: for features that are not there, without the `x` that a family needs, or for a summary without means.
        NotImplementedError: for two of many columns of a family without marginal densities.
    """
    mixture = as_mixture(mixture)
    if not _has_ellipses(mixture, x, features):
        if summary is not None:
            raise ValueError(f"summary of {mixture.family.shown_name} has no means to draw; leave it out, and print it")
        return _by_density(mixture, x, features, columns, ax, soft=False)
    means, covariances, shown = _moments(mixture, features)
    ax = _axes(ax)
    _label(ax, shown, columns)
    if len(shown) == 1:
        ax = _densities(mixture, means, covariances, x, shown[0], ax)
    else:
        if x is not None:
            data = _even_sample(np.asarray(x))[0]
            ax.scatter(data[:, shown[0]], data[:, shown[1]], s=_size(len(data)), c=GREY, alpha=0.6, linewidths=0)
        ax = _ellipses(mixture, means, covariances, ax, beside=summary is not None)
    return ax if summary is None else _intervals(summary, means, shown, ax)


def draws_intervals(mixture: Mixture) -> bool:
    """Whether `plot_mixture` can draw the intervals of a summary of this mixture."""
    return _has_ellipses(mixture, None, (0, 1))


def plot_responsibilities(
    mixture: Mixture,
    x: ArrayLike,
    *,
    features: Sequence[int] = (0, 1),
    columns: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Rows in the soft colours of their posteriors, with the components' ellipses; the arguments are those of `plot_mixture`.

    The less sure a row's component, the smaller its dot, so that doubt shows in grey as well.
    """
    mixture = as_mixture(mixture)
    if not _has_ellipses(mixture, x, features):
        return _by_density(mixture, x, features, columns, ax, soft=True)
    means, covariances, shown = _moments(mixture, features)
    ax = _axes(ax)
    _label(ax, shown, columns)
    data, _ = _even_sample(np.asarray(x))
    resp = np.asarray(mixture.responsibilities(data), float)  # [n, k]
    soft = np.clip(resp @ colours(mixture.n_components), 0, 1)
    size = _size(len(data)) * (0.3 + 0.7 * resp.max(axis=1) ** 2)
    if len(shown) == 1:
        height = np.random.default_rng(0).uniform(-0.08, -0.02, len(data))
        ax = _densities(mixture, means, covariances, x, shown[0], ax)
        top = ax.get_ylim()[1]
        ax.scatter(data[:, shown[0]], height * top, s=size, c=soft, linewidths=0)
        ax.set_ylim(-0.1 * top, top)
        return ax
    ax.scatter(data[:, shown[0]], data[:, shown[1]], s=size, c=soft, linewidths=0)
    return _ellipses(mixture, means, covariances, ax)


def plot_trace(result: Result, *, ax: "Axes | None" = None) -> "Axes":
    """The objective along the climb, `result.trace`; of a batch a line for each climb, the best on top."""
    ax = _axes(ax)
    traces = np.atleast_2d(np.asarray(result.trace, float))
    finals = np.atleast_1d(np.asarray(result.objective, float))
    best = int(np.argmax(np.where(np.isfinite(finals), finals, -np.inf)))
    for i in [*(i for i in range(len(traces)) if i != best), best]:
        made = traces[i][np.isfinite(traces[i])]
        leading = i == best
        colour, width = (COLOURS[0], 2.0) if leading else (GREY, 0.7)
        ax.plot(made, color=colour, linewidth=width, alpha=1.0 if leading else 0.5, zorder=3 if leading else 2)
        if leading and made.size:
            ax.plot(made.size - 1, made[-1], "o", color=colour, markersize=5, zorder=4)
            ax.annotate(f"{made[-1]:.2f}", (made.size - 1, made[-1]), (-4, -12), textcoords="offset points", ha="right")
    tops = traces[np.isfinite(traces)]
    if tops.size > 4:  # the first turns rise so far that the others would look flat
        low = np.quantile(tops, 0.05)
        if np.max(tops) - low < 0.5 * np.ptp(tops):
            ax.set_ylim(low - 0.1 * (np.max(tops) - low), np.max(tops) + 0.1 * (np.max(tops) - low))
    ax.set_xlabel("turn of EM")
    ax.set_ylabel("log-likelihood")
    return _hide_frame(ax)


def plot_landscape(landscape: Landscape, *, ax: "Axes | None" = None) -> "Axes":
    """The distinct optima, best first, and how many climbs ended in each."""
    ax = _axes(ax)
    values, counts = np.asarray(landscape.objective, float)[:MOST_BARS], np.asarray(landscape.counts)[:MOST_BARS]
    places = np.arange(len(values))
    shades = [COLOURS[0], *["0.65"] * (len(values) - 1)][: len(values)]
    ax.barh(places, counts, color=shades, height=0.7)
    for place, value, count in zip(places, values, counts, strict=True):
        below = "" if place == 0 else f"  ({value - values[0]:.2f})"
        ax.annotate(f"{count}{below}", (count, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_yticks(places, [f"{value:.2f}" for value in values])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.35 * max(1, counts.max(initial=0)))
    ax.set_xlabel("climbs")
    ax.set_ylabel("log-likelihood")
    hidden = len(landscape.counts) - len(values)
    lost = landscape.degenerate + landscape.failed + landscape.saddles
    notes = [f"{hidden} more optima"] * (hidden > 0) + [f"{lost} collapsed or failed"] * (lost > 0)
    if notes:
        ax.text(0.98, 0.02, ", ".join(notes), transform=ax.transAxes, ha="right", va="bottom", fontsize=8, color=GREY)
    return _hide_frame(ax)


def ellipse(mean: np.ndarray, covariance: np.ndarray, deviations: float, points: int = 96) -> np.ndarray:
    """The ellipse `[2, points]` of so many deviations."""
    angle = np.linspace(0, 2 * math.pi, points)
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    return mean[:, None] + deviations * factor @ np.stack([np.cos(angle), np.sin(angle)])


def _moments(mixture: Mixture, features: Sequence[int]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Moments in the features to draw, and which these are."""
    means, covariances = (np.asarray(leaf, float) for leaf in as_moments(mixture.family, mixture.components))
    shown = _shown(features, means.shape[1])
    return means[:, shown], covariances[:, shown][:, :, shown], shown


def _shown(features: Sequence[int], d: int) -> list[int]:
    """The features to draw, of d."""
    shown = [0] if d == 1 else [int(feature) for feature in features]
    if len(shown) not in (1, 2) or any(not -d <= feature < d for feature in shown):
        raise ValueError(f"features = {tuple(features)}; give one or two columns from 0 to {d - 1}")
    return [feature % d for feature in shown]


def _has_ellipses(mixture: Mixture, x: ArrayLike | None, features: Sequence[int]) -> bool:
    """Whether components are drawn as ellipses, or as Gaussians in one column; there Student's t is drawn by its density."""
    alone = len(features) == 1 or mixture.family.n_features(mixture.components) == 1
    return has_moments(mixture.family) and not (alone and x is not None and isinstance(mixture.family, StudentT))


def _by_density(
    mixture: Mixture,
    x: ArrayLike | None,
    features: Sequence[int],
    columns: Sequence[str] | None,
    ax: "Axes | None",
    *,
    soft: bool,
) -> "Axes":
    """A mixture of any family: one feature by lines or bars, two by contours over the rows."""
    if x is None:
        raise ValueError(f"x is None, and {mixture.family.shown_name} tells no place to draw; give the data")
    data = _even_sample(np.asarray(x, float))[0]
    shown = _shown(features, data.shape[1])
    shade: Any = GREY
    if soft:
        shade = np.clip(np.asarray(mixture.responsibilities(data), float) @ colours(mixture.n_components), 0, 1)
    part = mixture if data.shape[1] == len(shown) and shown == sorted(shown) else mixture.marginal(shown)
    data, ax = data[:, shown], _axes(ax)
    seen = [_observed(column) for column in data.T]
    whole = [bool(np.all(column == np.round(column))) for column in seen]
    _label(ax, shown, columns)
    if len(shown) == 1:
        return _bars(part, seen[0], ax) if whole[0] else _lines(part, seen[0], ax)
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, data.shape) * np.asarray(whole)
    across, up = (data + jitter).T
    ax.scatter(across, up, s=_size(len(data)), c=shade, alpha=0.8, linewidths=0)
    axes = [
        _values(column) if is_whole else _grid(column, 15 if any(whole) else 120)
        for column, is_whole in zip(seen, whole, strict=True)
    ]
    mesh = np.meshgrid(*axes, indexing="ij")
    rings = any(whole) and mesh[0].size <= MOST_RINGS
    joint = np.asarray(part.log_joint(np.stack([axis.ravel() for axis in mesh], axis=1)), float)  # [g, k]
    for j, colour in enumerate(colours(part.n_components)):
        height = joint[:, j].reshape(mesh[0].shape)
        top = np.max(height)
        if np.isfinite(top):
            place = np.unravel_index(np.argmax(height), height.shape)
            at = mesh[0][place], mesh[1][place]
            if rings:  # their areas are in proportion to the probability
                area = 300 * np.exp(height - np.max(joint))
                ax.scatter(
                    mesh[0],
                    mesh[1],
                    s=area,
                    facecolors="none",
                    edgecolors=[colour],
                    linestyles=LINES[j % len(LINES)],
                    zorder=3,
                )
            elif min(height.shape) > 1 and np.ptp(height[np.isfinite(height)]) > 0:
                height = np.maximum(height, top - 50.0)
                levels = [top - 0.5 * deviations**2 for deviations in DEVIATIONS[::-1]]
                ax.contour(*mesh, height, levels=levels, colors=[colour], linestyles=[LINES[j % len(LINES)]], zorder=3)
            halo = [patheffects.withStroke(linewidth=3, foreground="white")]
            ax.annotate(
                str(j), at, ha="center", va="center", fontweight="bold", color=colour, zorder=4, path_effects=halo
            )
    return _hide_frame(ax)


def _values(column: np.ndarray) -> np.ndarray:
    """The whole numbers from the smallest to the largest of a column, at most 200."""
    return np.unique(np.round(np.linspace(column.min(), column.max(), 200)))


def _grid(column: np.ndarray, points: int) -> np.ndarray:
    spread = 0.15 * (np.ptp(column) or 1.0)
    return np.linspace(column.min() - spread, column.max() + spread, points)


def _bars(mixture: Mixture, column: np.ndarray, ax: "Axes") -> "Axes":
    """The share of each value, and what each component adds to its probability."""
    values = _values(column)
    ax.bar(values, [np.mean(column == value) for value in values], width=0.9, color="0.85", zorder=1)
    _of_components(mixture, values, ax, marker="o")
    ax.set_ylabel("probability")
    return _hide_frame(ax)


def _lines(mixture: Mixture, column: np.ndarray, ax: "Axes") -> "Axes":
    """A histogram, and what each component adds to the density."""
    ax.hist(column, bins="auto" if np.ptp(column) > 0 else 1, density=True, color="0.85", zorder=1)
    grid = np.linspace(column.min(), column.max(), 400) if np.ptp(column) > 0 else _grid(column, 400)
    _of_components(mixture, grid, ax)
    ax.set_ylabel("density")
    return _hide_frame(ax)


def _of_components(mixture: Mixture, at: np.ndarray, ax: "Axes", marker: str = "") -> None:
    parts = np.exp(np.asarray(mixture.log_joint(at[:, None]), float)).T  # [k, g]
    for j, (part, colour) in enumerate(zip(parts, colours(len(parts)), strict=True)):
        ax.plot(at, part, LINES[j % len(LINES)], marker=marker, color=colour, linewidth=1.6, markersize=4, zorder=3)
        ax.annotate(str(j), (at[np.argmax(part)], part.max()), (0, 3), textcoords="offset points", ha="center",
                    color=colour, fontweight="bold")  # fmt: skip
    ax.plot(at, parts.sum(axis=0), color="black", linewidth=1.0, zorder=2)
    ax.set_ylim(bottom=0)


def _ellipses(
    mixture: Mixture, means: np.ndarray, covariances: np.ndarray, ax: "Axes", *, beside: bool = False
) -> "Axes":
    """Ellipses with their numbers at the means, or `beside` them."""
    k = len(means)
    weights, palette = np.exp(np.asarray(mixture.log_weights, float)), colours(k)
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for j in range(k):
        line = LINES[j % len(LINES)]
        for deviations in DEVIATIONS:
            width = 1.0 + 1.6 * math.sqrt(weights[j]) if deviations == DEVIATIONS[-1] else 0.9
            ax.plot(*ellipse(means[j], covariances[j], deviations), line, color=palette[j], linewidth=width, zorder=3)
        ax.annotate(
            str(j), means[j], (9 * beside, 9 * beside), textcoords="offset points", ha="center", va="center", fontsize=10,
            fontweight="bold", color=palette[j], zorder=4, path_effects=halo,
        )  # fmt: skip
    return _hide_frame(ax)


def _intervals(summary: "Summary", means: np.ndarray, shown: list[int], ax: "Axes") -> "Axes":
    """The intervals of the means: a cross at each of two features, a bar under the curves of one."""
    ends = [np.asarray(one.components.means, float)[:, shown] for one in (summary.lower, summary.upper)]
    if ends[0].shape != means.shape:
        raise ValueError(f"summary is of {len(ends[0])} components, the mixture has {len(means)}; give its own")
    foot = ax.get_ylim()[1]
    for j, colour in enumerate(colours(len(means))):
        low, high = (end[j] for end in ends)
        style: dict[str, Any] = {"color": colour, "linewidth": 2.5, "solid_capstyle": "butt", "zorder": 5}
        if len(shown) == 1:
            ax.plot([low[0], high[0]], [-0.03 * foot * (1 + j % 2)] * 2, **style)
            continue
        ax.plot([low[0], high[0]], [means[j, 1]] * 2, **style)
        ax.plot([means[j, 0]] * 2, [low[1], high[1]], **style)
    if len(shown) == 1:
        ax.set_ylim(-0.08 * foot, foot)
    return ax


def plot_test(test: "LikelihoodRatioTest", *, ax: "Axes | None" = None) -> "Axes":
    """What the statistic of a likelihood ratio test is where the smaller model is true, and where the data lie."""
    ax = _axes(ax)
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
    )
    small, large = (f"{one.n_components} x {one.family.shown_name}" for one in (test.null, test.alternative))
    ax.set_xlabel("twice the gain in log-likelihood")
    ax.set_ylabel("replicates")
    ax.set_title(f"{small} against {large}", fontsize=10)
    return _hide_frame(ax)


def _densities(
    mixture: Mixture, means: np.ndarray, covariances: np.ndarray, x: ArrayLike | None, feature: int, ax: "Axes"
) -> "Axes":
    """The density of one feature and what each component adds to it, over a histogram."""
    weights, deviations = np.exp(np.asarray(mixture.log_weights, float)), np.sqrt(covariances[:, 0, 0])
    low, high = np.min(means[:, 0] - 4 * deviations), np.max(means[:, 0] + 4 * deviations)
    if x is not None:
        data = _observed(np.asarray(x, float)[:, feature])
        spread = np.ptp(data)
        low, high = data.min() - 0.15 * spread, data.max() + 0.15 * spread
        ax.hist(data, bins="auto" if spread > 0 else 1, density=True, color="0.85", zorder=1)
    # finer where a component is narrow
    near = [mean + deviation * np.linspace(-4, 4, 80) for mean, deviation in zip(means[:, 0], deviations, strict=True)]
    grid = np.unique(np.concatenate([np.linspace(low, high, 400), *near]))
    grid = grid[(grid >= low) & (grid <= high)]
    z = (grid[None, :] - means[:, :1]) / deviations[:, None]  # [k, g]
    parts = weights[:, None] * np.exp(-0.5 * z**2) / (deviations[:, None] * math.sqrt(2 * math.pi))
    palette = colours(len(means))
    for j, part in enumerate(parts):
        ax.plot(grid, part, LINES[j % len(LINES)], color=palette[j], linewidth=1.6, zorder=3)
        ax.annotate(str(j), (grid[np.argmax(part)], part.max()), (0, 3), textcoords="offset points", ha="center",
                    color=palette[j], fontweight="bold")  # fmt: skip
    ax.plot(grid, parts.sum(axis=0), color="black", linewidth=1.0, zorder=2)
    ax.set_ylabel("density")
    ax.set_ylim(bottom=0)
    return _hide_frame(ax)


def _axes(ax: "Axes | None") -> "Axes":
    return plt.subplots(figsize=(5.2, 4.2), layout="constrained")[1] if ax is None else ax


def _label(ax: "Axes", shown: list[int], columns: Sequence[str] | None) -> None:
    names = [columns[feature] if columns is not None else f"x{feature + 1}" for feature in shown]
    ax.set_xlabel(_verbatim(names[0]))
    if len(names) == 2:
        ax.set_ylabel(_verbatim(names[1]))


def _verbatim(name: str) -> str:
    """A name for matplotlib to print as it is, although a dollar sign begins a formula there."""
    return str(name).replace("$", r"\$")


def _hide_frame(ax: "Axes") -> "Axes":
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _observed(values: np.ndarray) -> np.ndarray:
    """The values `[m]` that are not missing, of some `[n]`."""
    return values[~np.isnan(values)]


def _even_sample(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` rows, evenly spaced, and their numbers."""
    index = np.arange(len(x))
    if len(x) > MOST_POINTS:
        index = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).astype(int))
    return x[index], index


def _size(n: int) -> float:
    return float(np.clip(3000 / max(n, 1), 2, 16))
