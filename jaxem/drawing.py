"""How a mixture is drawn in one or two features: what is shown, its densities, and the marks on the axes.

A `Scene` is a mixture in the features that are shown, with the rows. Gaussians and Student's t are ellipses; that of r deviations
of N(mu, Sigma) is  mu + r L (cos t, sin t)  with L L' the 2 x 2 block of Sigma, and its shadow on each axis reaches r standard
deviations from the mean. Other families are drawn by their density alone: in one feature as lines, or marks where only whole
numbers occur; in two as contours, or rings where a feature has few whole numbers.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from jaxem.canvas import (
    GREY,
    colours,
    curve,
    dress,
    histogram,
    line_of,
    number,
    size_of,
    verbatim,
)
from jaxem.checks import as_mixture
from jaxem.display import as_moments, has_moments
from jaxem.families.student_t import StudentT
from jaxem.mixture import Mixture
from jaxem.rows import is_source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

F = TypeVar("F", bound=Callable[..., Any])

DEVIATIONS = (1.0, 2.0)
"""the ellipses of a component, in standard deviations"""
MOST_POINTS = 5_000
"""rows that are drawn at most; of more rows an even sample"""
MOST_RINGS = 400
"""rings that a component has at most"""
DRAWS = 20_000
"""draws by which the share of a density within a contour is known to about a third of a per cent"""


class Density(NamedTuple):
    """log p(x, j) `[m, k]` of rows `[m, f]` in the features that are shown, and draws `[n, f]` of x."""

    log_joint: Callable[[np.ndarray], np.ndarray]
    draw: Callable[[int], np.ndarray]

    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        """log p(x), `[m]`."""
        return np.asarray(logsumexp(self.log_joint(rows), axis=1))


class Scene(NamedTuple):
    """A mixture in the features that are shown, one or two, and the rows.

    Attributes:
        mixture: in all columns.
        features: the columns that are shown.
        names: of these.
        means, covariances: `[k, f]` and `[k, f, f]` in these, for families with ellipses; else None.
        rows: `[n, d]`, of all columns, at most `MOST_POINTS`; or None.
        which: `[n]`, which of the rows that were given these are.
        weights: `[n]`, their weights, or None.
    """

    mixture: Mixture
    features: list[int]
    names: list[str]
    means: np.ndarray | None
    covariances: np.ndarray | None
    rows: np.ndarray | None
    which: np.ndarray
    weights: np.ndarray | None

    @property
    def k(self) -> int:
        """Number of components."""
        return self.mixture.n_components

    @property
    def data(self) -> np.ndarray:
        """The rows in the features that are shown, `[n, f]`."""
        if self.rows is None:
            raise ValueError(f"x is None, and {self.mixture.family.shown_name} tells no place to draw; give the data")
        return self.rows[:, self.features]

    @property
    def whole(self) -> list[bool]:
        """Of each feature that is shown, whether only whole numbers occur; never of a family with ellipses."""
        if self.means is not None:
            return [False] * len(self.features)
        return [bool(np.all(column == np.round(column))) for column in map(observed, self.data.T)]

    def only(self, feature: int) -> "Scene":
        """The same in one of the features that are shown, the first or the second."""
        means, covariances = self.means, self.covariances
        if means is not None and covariances is not None:
            means, covariances = means[:, [feature]], covariances[:, feature, feature].reshape(-1, 1, 1)
        features, names = [self.features[feature]], [self.names[feature]]
        return self._replace(features=features, names=names, means=means, covariances=covariances)

    def responsibilities(self) -> np.ndarray:
        """p(j | x) of the rows, `[n, k]`."""
        return np.asarray(self.mixture.responsibilities(required_rows(self)), float)

    def density(self) -> Density:
        """The density in the features that are shown; in closed form, or a NotImplementedError."""
        weights = np.exp(np.asarray(self.mixture.log_weights, float))
        if self.means is not None and self.covariances is not None and not isinstance(self.mixture.family, StudentT):
            return of_gaussians(weights / weights.sum(), self.means, self.covariances)
        d = self.mixture.family.n_features(self.mixture.components)
        d = required_rows(self).shape[1] if d is None else d
        every = self.features == list(range(d))
        part = self.mixture if every else self.mixture.marginal(self.features)
        return Density(
            lambda rows: np.asarray(part.log_joint(rows), float),
            lambda n: np.asarray(part.sample(jax.random.key(0), n)[0], float),
        )


def of_gaussians(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Density:
    """The density of Gaussians `[k]`, by scipy; components of weight 0 have log density -inf."""
    laws = [multivariate_normal(mean, cov, allow_singular=True) for mean, cov in zip(means, covariances, strict=True)]
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)

    def log_joint(rows: np.ndarray) -> np.ndarray:
        return np.stack([law.logpdf(rows).reshape(len(rows)) for law in laws], axis=1) + log_weights

    def draw(n: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        counts = rng.multinomial(n, weights)
        drawn = [
            law.rvs(int(m), random_state=rng).reshape(int(m), -1) for law, m in zip(laws, counts, strict=True) if m
        ]
        return np.concatenate(drawn)

    return Density(log_joint, draw)


# -- what is shown -------------------------------------------------------------------------------------------------------


def mixture_of(value: Any) -> Mixture:
    """The mixture that a Mixture, Result, Search, Selection or fitted estimator stands for.

    Raises:
        ValueError: for a batch, of which there is more than one.
        TypeError: for anything else; it says what to give.
    """
    value = result_of(value)
    value = getattr(value, "mixture", value)
    unfitted = hasattr(value, "get_params") and not (hasattr(value, "mixture_") or hasattr(value, "means_"))
    if unfitted:  # fitted ones of scikit-learn's own have a remedy in `as_mixture`
        raise TypeError(f"mixture is a {type(value).__name__} that is not fitted; call its fit(X) first")
    mixture: Mixture = as_mixture(value)
    if mixture.log_weights.ndim != 1:
        shape = " x ".join(map(str, mixture.log_weights.shape[:-1]))
        raise ValueError(f"mixture is a batch of {shape}; give one of them, such as jaxem.best(results) or mixture[0]")
    return mixture


def in_own_precision(draw: F) -> F:
    """A picture of a mixture in float64, such as a fitted estimator's, computed in float64 whatever JAX's setting."""

    @functools.wraps(draw)
    def drawn(mixture: Any, *arguments: Any, **options: Any) -> Any:
        wide = mixture_of(mixture).log_weights.dtype == np.float64
        with jax.enable_x64(bool(wide or jax.config.jax_enable_x64)):  # type: ignore[attr-defined]
            return draw(mixture, *arguments, **options)

    return cast(F, drawn)


def result_of(value: Any) -> Any:
    """The best Result of a Selection or a Search; anything else as it is."""
    for _ in range(2):
        if hasattr(value, "candidates") or hasattr(value, "finalists"):
            value = value.best
    return value


def scene_of(
    value: Any, x: Any, features: Sequence[int], columns: Sequence[str] | None, sample_weight: Any = None
) -> Scene:
    """What is to be drawn of whatever stands for a mixture; a ValueError names what is wrong."""
    mixture, table = mixture_of(value), x
    rows, index, weights = None, np.zeros(0, int), None
    if x is not None:
        every = as_matrix(x)
        weights = _weights(sample_weight, len(every))
        rows, index = even_sample(every, weights)
        weights = None if weights is None else weights[index]
    means = covariances = None
    if has_moments(mixture.family):
        means, covariances = (np.asarray(leaf, float) for leaf in as_moments(mixture.family, mixture.components))
        d = means.shape[1]
    elif rows is not None:
        d = rows.shape[1]
    else:
        raise ValueError(f"x is None, and {mixture.family.shown_name} tells no place to draw; give the data")
    shown = shown_of(features, d)
    names = names_of(columns, table, d)
    if means is not None and covariances is not None:
        means, covariances = means[:, shown], covariances[:, shown][:, :, shown]
    return Scene(mixture, shown, [names[i] for i in shown], means, covariances, rows, index, weights)


def as_matrix(x: Any) -> np.ndarray:
    """Rows `[n, d]` in float64, NaN where a masked array has a mask."""
    if is_source(x):
        raise ValueError("x is a Source; give rows of it, such as x.sample(5_000)")
    every = np.ma.filled(x.astype(float), np.nan) if isinstance(x, np.ma.MaskedArray) else np.asarray(x, float)
    if every.ndim != 2:
        raise ValueError(f"x has shape {every.shape}; give [n, d], such as x[:, None] for one column")
    return every


def shown_of(features: Sequence[int], d: int) -> list[int]:
    """The features to draw, of d."""
    shown = [0] if d == 1 else [int(feature) for feature in features]
    if len(shown) not in (1, 2) or any(not -d <= feature < d for feature in shown):
        raise ValueError(f"features = {tuple(features)}; give one or two columns from 0 to {d - 1}")
    return [feature % d for feature in shown]


def names_of(columns: Sequence[str] | None, table: Any, d: int) -> list[str]:
    """The names of d columns: those given, those of a data frame, or x1, x2, ..."""
    if columns is None:
        columns = getattr(table, "columns", None)
    if columns is None:
        return [f"x{i + 1}" for i in range(d)]
    if len(columns) < d:
        raise ValueError(f"columns has {len(columns)} names for {d} columns; give one for each")
    return [verbatim(name) for name in columns]


def required_rows(scene: Scene) -> np.ndarray:
    """The rows, `[n, d]`, where a picture cannot do without."""
    if scene.rows is None:
        raise ValueError("x is None; give the rows to draw")
    return scene.rows


def _weights(sample_weight: Any, n: int) -> np.ndarray | None:
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, float)
    if weights.shape != (n,) or not np.all(weights >= 0) or not weights.sum() > 0:
        raise ValueError(f"sample_weight has shape {weights.shape}; give {n} non-negative numbers, not all of them 0")
    return weights


def even_sample(x: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` of the rows whose weight is not 0, evenly spaced, and their numbers."""
    index = np.arange(len(x)) if weights is None else np.flatnonzero(weights)
    if len(index) > MOST_POINTS:
        index = index[np.unique(np.linspace(0, len(index) - 1, MOST_POINTS).astype(int))]
    return x[index], index


def observed(values: np.ndarray) -> np.ndarray:
    """The values `[m]` that are not missing, of some `[n]`."""
    return values[~np.isnan(values)]


def ellipse(mean: np.ndarray, covariance: np.ndarray, deviations: float, points: int = 96) -> np.ndarray:
    """The ellipse `[2, points]` of so many deviations."""
    angle = np.linspace(0, 2 * math.pi, points)
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    return mean[:, None] + deviations * factor @ np.stack([np.cos(angle), np.sin(angle)])


# -- one feature ---------------------------------------------------------------------------------------------------------


def draw_curves(
    scene: Scene, ax: "Axes", *, components: bool = True, sideways: bool = False, bold: float = 1.0
) -> "Axes":
    """The density of one feature and what each component adds to it, over a histogram; of whole numbers the shares."""
    whole = scene.whole[0]
    if scene.rows is not None:
        seen = ~np.isnan(scene.data[:, 0])
        column, weights = scene.data[seen, 0], None if scene.weights is None else scene.weights[seen]
        if whole:
            places = whole_numbers(column)
            shares = [np.average(column == value, weights=weights) for value in places]
            (ax.barh if sideways else ax.bar)(places, shares, 0.9, color="0.85", zorder=1)
        else:
            histogram(ax, column, weights, sideways=sideways)
    at = whole_numbers(observed(scene.data[:, 0])) if whole else grid_of(scene)
    parts = np.exp(scene.density().log_joint(at[:, None])).T  # [k, g]
    marker = "o" if whole else ""
    for j, (part, colour) in enumerate(zip(parts, colours(len(parts)), strict=True)):
        if not components or not np.any(np.isfinite(part)):
            continue
        curve(
            ax, at, part, line_of(j), marker=marker, color=colour, linewidth=1.6, markersize=4, zorder=3,
            sideways=sideways,
        )  # fmt: skip
        number(ax, j, (at[np.argmax(part)], part.max()), colour, above=3)
    curve(
        ax, at, parts.sum(axis=0), marker="" if components else marker, color="black", linewidth=bold, markersize=3,
        zorder=2, sideways=sideways,
    )  # fmt: skip
    ax.set(**{"xlim" if sideways else "ylim": (0, None)})
    label = "probability" if whole else "density"
    return dress(ax, *((label, scene.names[0]) if sideways else (scene.names[0], label)))


def grid_of(scene: Scene, points: int = 400) -> np.ndarray:
    """Places `[g]` along the one feature, closer where a component is narrow."""
    near: list[np.ndarray] = []
    if scene.means is not None and scene.covariances is not None:
        deviations = np.sqrt(scene.covariances[:, 0, 0])
        near = [m + s * np.linspace(-4, 4, 80) for m, s in zip(scene.means[:, 0], deviations, strict=True)]
    if scene.rows is None:
        low, high = min(one[0] for one in near), max(one[-1] for one in near)
    else:
        column = observed(scene.data[:, 0])
        # of a family with ends, such as a uniform one, the density is shown where rows are
        spread = 0.15 * np.ptp(column) if near else 0.0
        low, high = column.min() - spread, column.max() + spread
        if high == low:
            low, high = low - 0.15, high + 0.15
    grid = np.unique(np.concatenate([np.linspace(low, high, points), *near]))
    return grid[(grid >= low) & (grid <= high)]


def whole_numbers(column: np.ndarray) -> np.ndarray:
    """The whole numbers from the smallest to the largest of a column, at most 200."""
    return np.unique(np.round(np.linspace(column.min(), column.max(), 200)))


# -- two features --------------------------------------------------------------------------------------------------------


def places_of(scene: Scene) -> np.ndarray:
    """Where the rows are drawn, `[n, 2]`: whole numbers are spread a little, which would lie on each other."""
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, scene.data.shape) * np.asarray(scene.whole)
    return np.asarray(scene.data + jitter)


def draw_dots(scene: Scene, ax: "Axes", *, colour: Any = GREY, size: Any = None, alpha: float = 0.6) -> None:
    """The rows as dots."""
    at = places_of(scene)
    ax.scatter(
        at[:, 0], at[:, 1], s=size_of(len(at)) if size is None else size, c=colour, alpha=alpha, linewidths=0, zorder=2
    )


def draw_components(scene: Scene, ax: "Axes", *, beside: bool = False, plain: bool = False) -> "Axes":
    """Ellipses, contours or rings of the components, with their numbers at the means, or `beside` them, or without, `plain`."""
    if scene.means is None or scene.covariances is None:
        joint = scene.density().log_joint
        meshes = mesh_of(scene)
        heights = joint(np.stack([mesh.ravel() for mesh in meshes], axis=1))  # [g, k]
        for j, colour in enumerate(colours(scene.k)):
            at = _hill(ax, meshes, heights[:, j], np.max(heights), j, colour, rings=any(scene.whole))
            if at is not None and not plain:
                number(ax, j, at, colour)
        return dress(ax, *scene.names)
    weights = np.exp(np.asarray(scene.mixture.log_weights, float))
    for j, colour in enumerate(colours(scene.k)):
        for deviations in DEVIATIONS:
            width = 1.0 + 1.6 * math.sqrt(weights[j]) if deviations == DEVIATIONS[-1] else 0.9
            line = ellipse(scene.means[j], scene.covariances[j], deviations)
            ax.plot(*line, line_of(j), color=colour, linewidth=width, zorder=3)
        if not plain:
            number(ax, j, scene.means[j], colour, above=9.0 * beside, beside=9.0 * beside)
    return dress(ax, *scene.names)


def _hill(
    ax: "Axes", meshes: list[np.ndarray], column: np.ndarray, top_of_all: float, j: int, colour: Any, *, rings: bool
) -> tuple[float, float] | None:
    """One component over a mesh by its log density: contours as high as one and two deviations of a Gaussian would be, or rings
    whose areas are in proportion to the probability. Returns where it is highest."""
    height = column.reshape(meshes[0].shape)
    top = np.max(height)
    if not np.isfinite(top):
        return None
    if rings and height.size <= MOST_RINGS:
        draw_rings(ax, meshes, np.exp(height - top_of_all), edgecolors=[colour], linestyles=line_of(j))
    elif min(height.shape) > 1 and np.ptp(height[np.isfinite(height)]) > 0:
        levels = [top - 0.5 * deviations**2 for deviations in DEVIATIONS[::-1]]
        ax.contour(
            *meshes, np.maximum(height, top - 50.0), levels=levels, colors=[colour], linestyles=[line_of(j)], zorder=3
        )
    place = np.unravel_index(np.argmax(height), height.shape)
    return float(meshes[0][place]), float(meshes[1][place])


def draw_rings(ax: "Axes", meshes: Sequence[np.ndarray], share: np.ndarray, **style: Any) -> None:
    """Rings whose areas are in proportion to `share`, at most 1; the largest just fits between its neighbours."""
    inches = min(ax.get_window_extent().width / meshes[0].shape[0], ax.get_window_extent().height / meshes[0].shape[1])
    largest = min(300.0, (0.9 * 72 * inches / ax.figure.dpi) ** 2)
    ax.scatter(meshes[0], meshes[1], s=largest * share, facecolors="none", zorder=3, **style)


def mesh_of(scene: Scene) -> list[np.ndarray]:
    """A mesh of places over the rows in two features, a pair of `[a, b]`."""
    whole = scene.whole
    axes = []
    for column, is_whole in zip(map(observed, scene.data.T), whole, strict=True):
        spread = 0.15 * (np.ptp(column) or 1.0)
        wide = np.linspace(column.min() - spread, column.max() + spread, 15 if any(whole) else 120)
        axes.append(whole_numbers(column) if is_whole else wide)
    return list(np.meshgrid(*axes, indexing="ij"))


def mesh_around(rows: np.ndarray, margin: float, points: int = 160) -> list[np.ndarray]:
    """A mesh over the middle of some rows `[n, 2]`, without the furthest, and a margin, as a part of their spread."""
    low, high = np.quantile(rows, [0.002, 0.998], axis=0)
    spread = margin * np.where(high > low, high - low, 1.0)
    axes = [np.linspace(a - s, b + s, points) for a, b, s in zip(low, high, spread, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def levels_of(density: Density, rows: np.ndarray, masses: Sequence[float], weights: Any = None) -> np.ndarray:
    """The log densities above which the shares `masses` of the mixture lie, by the quantiles of the density at `rows` of it."""
    heights = density.log_prob(rows)
    find = functools.partial(np.quantile, heights, 1.0 - np.asarray(masses))
    return np.asarray(find() if weights is None else find(weights=weights, method="inverted_cdf"))
