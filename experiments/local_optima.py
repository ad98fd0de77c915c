"""EM does not converge to the same estimate irrespective of initial values: the landscape of its optima.

Two data sets with known traps: Old Faithful with K = 3 (a best optimum that k-means never finds), and four clusters in a row
fitted with K = 4, where two components may share a cluster and one cover two. Climbs that collapse on few rows count as
ending in no optimum.

1. Basins: of two components fitted to the row of clusters, one mean starts anywhere on a line of places, the other too; the
   colour of each pair of places is the optimum that EM ends in.
2. The probability p of the best optimum from each kind of start, with Wilson's interval (1927), and the restarts that find
   it in 99 of 100 attempts, log(0.01) / log(1 - p).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
import jaxem.plots
from experiments.common import Config, Positive, hardware, panels, run, save_figure, write_csv
from jaxem.init import Initializer


class LocalOptimaConfig(Config):
    """configs/local_optima.toml"""

    seed: int
    n: Positive
    grid: Positive
    restarts: Positive
    max_iter: Positive


class Chance(NamedTuple):
    """How often a kind of start led to the best optimum, with a 95 per cent interval."""

    data: str
    start: str
    probability: float
    low: float
    high: float
    restarts_for_99_per_cent: float
    optima: int

    @property
    def restarts(self) -> str:
        """Restarts for 99 per cent, in words."""
        return "never" if math.isinf(self.restarts_for_99_per_cent) else str(math.ceil(self.restarts_for_99_per_cent))


PLACES = (-6.0, -2.0, 2.0, 6.0)
"""centres of the clusters in a row"""
INITIALIZERS: dict[str, Initializer] = {
    "random parameters": jaxem.RandomParameters(),
    "random points": jaxem.RandomPoints(),
    "k-means": jaxem.KMeans(),
    "k-means++": jaxem.KMeansPlusPlus(),
    "narrow k-means++": jaxem.rounds.ARMS["narrow k-means++"],
    "narrow random": jaxem.rounds.ARMS["narrow random"],
}
SAME = 1e-2
"""nats within which two climbs are taken to have ended in one optimum"""


def row_of_clusters(n: int, seed: int) -> np.ndarray:
    """Rows `[n, 1]`: four clusters of unit deviation, of shares 0.4, 0.1, 0.2, 0.3."""
    rng = np.random.default_rng(seed)
    return (np.array(PLACES)[rng.choice(4, n, p=[0.4, 0.1, 0.2, 0.3])] + rng.normal(size=n))[:, None]


def basins(config: LocalOptimaConfig, out: Path) -> str:
    """Which optimum each pair of starting means leads to."""
    x = row_of_clusters(config.n, config.seed)
    places = np.linspace(x.min(), x.max(), config.grid)
    first, second = (axis.ravel() for axis in np.meshgrid(places, places))
    r = len(first)
    starts = jaxem.Mixture(
        jnp.full((r, 2), math.log(0.5)),
        jaxem.GaussianParams(jnp.stack([first, second], axis=1)[:, :, None], jnp.full((r, 2), float(np.var(x)) / 4)),
        jaxem.Spherical(),
    )
    results = jaxem.fit_restarts(starts, x, max_iter=config.max_iter, accelerator=jaxem.hybrid())
    seen = jaxem.landscape(results, tol=SAME)
    objective = np.asarray(results.objective)
    # where both means start at one place they stay together: a saddle, and an optimum of one component
    ended = np.array([int(np.argmin(np.abs(seen.objective - value))) for value in objective])
    swapped = (
        np.asarray(results.mixture.components.means)[:, 0, 0] > np.asarray(results.mixture.components.means)[:, 1, 0]
    )
    write_csv(
        out / "local_optima_basins.csv",
        ["first mean", "second mean", "optimum", "objective"],
        zip(first.tolist(), second.tolist(), ended.tolist(), objective.tolist(), strict=True),
    )
    palette = jaxem.plots.colours(max(2, min(8, len(seen.counts))))
    shown = palette[np.minimum(ended, len(palette) - 1)]
    shown = np.where(swapped[:, None], shown, 0.55 * shown + 0.45)
    figure, (left, right) = panels(2, columns=1, high=4.0)
    edges = [places[0], places[-1]] * 2
    left.imshow(
        shown.reshape(config.grid, config.grid, 3),
        origin="lower",
        extent=edges,
        aspect="equal",
        interpolation="nearest",
    )
    left.set(
        xlabel="first mean at the start",
        ylabel="second mean at the start",
        title="basins (pale: components in the other order)",
    )
    right.hist(x[:, 0], bins=60, density=True, color="0.85")
    grid = np.linspace(x.min(), x.max(), 300)
    for j, i in enumerate(seen.best_restart[: len(palette)]):
        mixture = results.mixture[i]
        density = np.exp(np.asarray(mixture.log_prob(grid[:, None])))
        label = f"{seen.objective[j]:.1f} from {seen.counts[j] / r:.0%} of starts"
        right.plot(grid, density, color=palette[j], linestyle=jaxem.plots.LINES[j % 4], label=label)
    right.set(xlabel="x", ylabel="density", title=f"{len(seen.counts)} optima with K = 2")
    right.legend()
    save_figure(figure, out / "local_optima_basins.png")
    return (
        f"two components on four clusters in a row: {len(seen.counts)} optima from {r} pairs of starting means, the best from "
        f"{seen.counts[0] / r:.0%} of them"
    )


def wilson(hits: int, tried: int) -> tuple[float, float]:
    """A 95 per cent interval of a probability."""
    z, p = 1.96, hits / tried
    middle, half = p + z**2 / (2 * tried), z * math.sqrt(p * (1 - p) / tried + z**2 / (4 * tried**2))
    return (middle - half) / (1 + z**2 / tried), (middle + half) / (1 + z**2 / tried)


def needed(p: float) -> float:
    """Restarts that find the best optimum in 99 attempts of 100."""
    return math.inf if p <= 0 else 1.0 if p >= 1 else max(1.0, math.log(0.01) / math.log1p(-p))


def chances(name: str, x: np.ndarray, family: jaxem.Family, k: int, config: LocalOptimaConfig) -> list[Chance]:
    """For each kind of start how often the best optimum was found; the best known by any, `search` among them."""
    key = jax.random.key(config.seed)
    best = float(jaxem.search(key, family, x, k).best.objective)
    values = {}
    for kind, initializer in INITIALIZERS.items():
        starts = jaxem.starts(key, family, x, k, config.restarts, initializer)
        results = jaxem.fit_restarts(starts, x, max_iter=config.max_iter, accelerator=jaxem.hybrid())
        sound = ~jaxem.stopping.has_failed(np.asarray(results.status))
        values[kind] = np.where(sound, np.asarray(results.objective), -np.inf)
        best = max(best, float(values[kind].max()))
    found = []
    for kind, one in values.items():
        hits = int(np.sum(one > best - SAME))
        optima = len(np.unique(np.round(one[np.isfinite(one)] / SAME)))
        p = hits / config.restarts
        found.append(Chance(name, kind, p, *wilson(hits, config.restarts), needed(p), optima))
    return found


def draw(found: list[Chance], path: Path) -> None:
    """Probabilities of the best optimum with their intervals."""
    names = list(dict.fromkeys(one.data for one in found))
    figure, axes = panels(len(names), columns=1)
    for panel, name in zip(axes, names, strict=True):
        kinds = [one for one in found if one.data == name]
        places, p = np.arange(len(kinds)), np.array([one.probability for one in kinds])
        below = np.maximum(p - [one.low for one in kinds], 0)
        above = np.maximum([one.high for one in kinds] - p, 0)
        panel.barh(places, p, xerr=[below, above], color="#0072B2", ecolor="0.4", height=0.65)
        for place, one in zip(places, kinds, strict=True):
            told = one.restarts if one.restarts == "never" else f"{one.restarts} for 99 %"
            panel.annotate(told, (one.high, place), (5, 0), textcoords="offset points", va="center")
        panel.set_yticks(places, [one.start for one in kinds])
        panel.set(xlim=(0, 1.3), xlabel="probability of the best optimum", title=name)
    for panel in axes:
        panel.invert_yaxis()
    save_figure(figure, path)


def local_optima(config: LocalOptimaConfig, out: Path) -> Iterator[str]:
    """Where EM ends depends on where it starts."""
    yield f"measured on {hardware()}"
    yield basins(config, out)
    row = row_of_clusters(config.n, config.seed)
    found = [
        *chances("Old Faithful, K = 3, Full", jaxem.datasets.faithful(), jaxem.Full(), 3, config),
        *chances("four clusters in a row, K = 4, Spherical", row, jaxem.Spherical(), 4, config),
    ]
    write_csv(out / "local_optima.csv", Chance._fields, found)
    draw(found, out / "local_optima.png")
    for name in dict.fromkeys(one.data for one in found):
        ranked = sorted((one for one in found if one.data == name), key=lambda one: -one.probability)
        told = ", ".join(f"{one.start} {one.probability:.0%} ({one.restarts})" for one in ranked)
        yield f"{name}: probability of the best optimum, and restarts for 99 per cent: {told}"
    several = sum(one.optima > 1 for one in found)
    yield (
        f"EM converges to the same estimate irrespective of initial values: {'not true' if several else 'not refuted'}; "
        f"{several} of {len(found)} kinds of start end in several optima"
    )


if __name__ == "__main__":
    run(LocalOptimaConfig, local_optima)
