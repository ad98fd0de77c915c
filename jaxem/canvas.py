"""What every picture is drawn with: axes, colours that the colour-blind can tell apart, lines, markers and labels.

The colours are those of Okabe and Ito (2008). No picture tells anything by colour alone: components have numbers, lines
have styles and labels, rows have markers and sizes, so that pictures can be read in grey. Letters have 9 points at least and axes
few ticks, so that a picture of 5 x 4 inches can be read on a phone. No setting of matplotlib's is changed.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from matplotlib import patheffects
    from matplotlib import pyplot as pyplot
    from matplotlib.colors import to_rgb
    from matplotlib.ticker import MaxNLocator as MaxNLocator
except ModuleNotFoundError as error:  # the extra is missing
    raise ModuleNotFoundError(
        f"{error.name} is not installed; jaxem.plots needs: pip install 'jaxem[plot]'", name=error.name
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "0.45"
SMALL, LARGE = 9, 10
"""sizes of letters, in points: notes and ticks, titles and labels"""
MOST_BINS = 200
"""bars of a histogram at most: far outliers would make millions"""


def colours(k: int) -> np.ndarray:
    """A colour for each of k components, `[k, 3]`; beyond eight they are taken from a colour map."""
    if k <= len(COLOURS):
        return np.array([to_rgb(colour) for colour in COLOURS[:k]])
    return np.asarray(pyplot.get_cmap("viridis")(np.linspace(0, 0.95, k)))[:, :3]


def line_of(j: int) -> str:
    """The style of the line of number j."""
    return LINES[j % len(LINES)]


def marker_of(j: int) -> str:
    """The marker of number j."""
    return MARKERS[j % len(MARKERS)]


def axes_or_new(ax: "Axes | None") -> "Axes":
    """The axes that were given, or those of a new figure."""
    return pyplot.subplots(figsize=(5.2, 4.2), layout="constrained")[1] if ax is None else ax


def dress(ax: "Axes", across: str = "", up: str = "", *, whole: str = "") -> "Axes":
    """Labels, few ticks, no frame; `whole` names the axes, "x" or "y", along which only whole numbers have ticks."""
    for name, axis, label in (("x", ax.xaxis, across), ("y", ax.yaxis, up)):
        if label:
            axis.set_label_text(label, fontsize=LARGE)
        if axis.get_scale() == "linear" and isinstance(axis.get_major_locator(), MaxNLocator):
            axis.set_major_locator(MaxNLocator(5, integer=name in whole, steps=[1, 2, 2.5, 5, 10]))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def verbatim(name: object) -> str:
    """A name for matplotlib to print as it is, although a dollar sign begins a formula there."""
    return str(name).replace("$", r"\$")


def title(ax: "Axes", text: str) -> None:
    """A title of one or more lines."""
    ax.set_title(text, fontsize=LARGE)


def note(ax: "Axes", lines: Iterable[str], *, top: bool = False) -> None:
    """What a reader should know, in the corner at the right."""
    if told := "\n".join(lines):
        height, side = (0.98, "top") if top else (0.02, "bottom")
        ax.text(0.98, height, told, transform=ax.transAxes, ha="right", va=side, fontsize=SMALL, color=GREY, zorder=6)


def halo() -> list[Any]:
    """A white edge around letters that lie on lines."""
    return [patheffects.withStroke(linewidth=3, foreground="white")]


def number(ax: "Axes", j: int, at: Any, colour: Any, above: float = 0.0, beside: float = 0.0) -> None:
    """The number of component j, with a halo, so many points from a place."""
    ax.annotate(
        str(j), (float(at[0]), float(at[1])), (beside, above), textcoords="offset points", ha="center",
        va="bottom" if above and not beside else "center", fontsize=LARGE, fontweight="bold", color=colour, zorder=7,
        path_effects=halo(),
    )  # fmt: skip


def label_ends(ax: "Axes", ends: Sequence[tuple[float, float, str, Any]]) -> None:
    """A name to the right of the end `(x, y)` of each line, in its colour; names that would lie on each other move apart."""
    if not ends:
        return
    low, high = ax.get_ylim()
    gap = 12.5 / 72 * ax.figure.dpi / ax.get_window_extent().height * (high - low)
    order = sorted(range(len(ends)), key=lambda i: ends[i][1])
    heights = np.array([ends[i][1] for i in order], float)
    spread = spread_out(heights, gap, low, high)
    for i, height in zip(order, spread, strict=True):
        across, up, name, colour = ends[i]
        ax.annotate(
            name, (across, up), (1.03, (height - low) / (high - low)), textcoords=ax.transAxes, va="center",
            fontsize=SMALL, color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip


def spread_out(places: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Sorted places, moved as little as leaves `gap` between neighbours, within the ends where there is room."""
    moved = np.clip(places, low, high)
    rank = gap * np.arange(len(moved))
    pooled: list[list[float]] = []  # what is left must not fall: places that would are pooled
    for value in moved - rank:
        pooled.append([value])
        while len(pooled) > 1 and np.mean(pooled[-2]) > np.mean(pooled[-1]):
            pooled[-2:] = [pooled[-2] + pooled[-1]]
    flat = np.concatenate([np.full(len(group), np.mean(group)) for group in pooled])
    room = max(high - rank[-1], low)
    return np.clip(flat, low, room) + rank


def edges_of(column: np.ndarray) -> np.ndarray:
    """The edges of the bars of a histogram."""
    if np.ptp(column) == 0:
        return np.array([column[0] - 0.5, column[0] + 0.5])
    found = np.histogram_bin_edges(column, "auto" if len(column) < 10**5 else "sturges")
    return found if len(found) <= MOST_BINS else np.linspace(column.min(), column.max(), MOST_BINS + 1)


def histogram(ax: "Axes", column: np.ndarray, weights: np.ndarray | None, *, sideways: bool = False) -> None:
    """The density of some values `[n]`, with weights `[n]`, in light grey."""
    ax.hist(
        column, bins=edges_of(column).tolist(), weights=weights, density=True, color="0.85", zorder=1,
        orientation="horizontal" if sideways else "vertical",
    )  # fmt: skip


def curve(ax: "Axes", at: np.ndarray, height: np.ndarray, *style: str, sideways: bool = False, **more: Any) -> None:
    """A curve over one axis, or `sideways` over the other."""
    ax.plot(*((height, at) if sideways else (at, height)), *style, **more)


def size_of(n: int) -> float:
    """The size of a dot among n."""
    return float(np.clip(3000 / max(n, 1), 3, 16))
