"""Which family is right? Five kinds of data on which the right one beats Full, in the log-likelihood of fresh rows.

Counts (two Poissons), latent classes (answers to ten questions), mixed rows (numbers and kinds), heavy tails with outliers
(Student's t, and Full with a background), and animals measured in five lengths that all grow with size (like Campbell and
Mahon's crabs: components of one shape, each with an orientation of its own). Each family is searched for on the same rows.
A density does not compare with a probability. So Full sees whole numbers with uniform noise from -1/2 to 1/2 added, in the rows
that it is fitted to and in the fresh ones: its mean log density there is at most the logarithm of the probability that it gives
the numbers (Theis, van den Oord and Bethge 2016).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxem
import jaxem.plots
from experiments.common import Config, Positive, hardware, run, save_figure, write_csv

Rows = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


class FamiliesConfig(Config):
    """configs/families.toml"""

    seed: int
    n: Positive
    fresh: Positive
    repeats: Positive
    budget: Positive


class Setting(NamedTuple):
    """Data of one kind, and the families that are fitted to them."""

    name: str
    rows: Rows  # (rng, n) -> rows [n, d] and the component [n] of each
    k: int
    right: str
    families: dict[str, jaxem.Family]
    extra: dict[str, int]  # components that a family has beside the k
    whole: tuple[int, ...] = ()  # columns of whole numbers


def counts(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two counts a row, low ones and high ones."""
    label = rng.integers(0, 2, n)
    return rng.poisson(np.array([[1.0, 4.0], [6.0, 1.5]])[label]).astype(float), label


def answers(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten questions with three answers, three classes of people."""
    label = rng.integers(0, 3, n)
    chances = np.random.default_rng(7).dirichlet(np.full(3, 0.5), (3, 10))
    draws = rng.uniform(size=(n, 10, 1))
    return np.sum(draws > np.cumsum(chances[label], axis=2), axis=2).clip(0, 2).astype(float), label


def mixed(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers and a kind; the clusters overlap in the numbers, and the kind tells them apart."""
    label = rng.integers(0, 2, n)
    numbers = rng.normal(size=(n, 2)) + np.where(label == 1, 1.5, 0.0)[:, None]
    kind = np.where(rng.uniform(size=n) < 0.85, 2 * label, 1)
    return np.column_stack([numbers, kind]), label


def tails(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two clusters with heavy tails, and one row in twenty anywhere."""
    label = rng.integers(0, 2, n)
    x = rng.standard_t(3, (n, 2)) + np.where(label == 1, 6.0, 0.0)[:, None] * [1.0, 0.3]
    far = rng.uniform(size=n) < 0.05
    x[far] = rng.uniform(-30, 30, (int(far.sum()), 2))
    return np.clip(x, -100, 100), label


def animals(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Five lengths that grow with size, four groups that differ in proportion."""
    label = rng.integers(0, 4, n)
    directions = np.array([[8, 6, 15, 17, 7], [7, 7, 15, 17, 7], [8, 6.5, 15, 18, 6], [7.5, 6.5, 16, 17, 8]])
    size = rng.normal(2.0, 0.45, n)
    return size[:, None] * directions[label] + rng.normal(size=(n, 5)) * 0.35, label


def settings() -> tuple[Setting, ...]:
    """The five kinds of data."""
    full, box = jaxem.Full(), jaxem.Uniform((-100.0, -100.0), (100.0, 100.0))
    of_mixed = jaxem.Product((jaxem.Full(), (0, 1)), (jaxem.Categorical(3), (2,)))
    behind = jaxem.Union((full, 2), (box, 1))
    return (
        Setting("counts", counts, 2, "Poisson", {"Poisson": jaxem.Poisson(), "Full": full}, {}, (0, 1)),
        Setting("answers", answers, 3, "Categorical", {"Categorical": jaxem.Categorical(3), "Full": full}, {}, tuple(range(10))),
        Setting("mixed rows", mixed, 2, "Full x Categorical", {"Full x Categorical": of_mixed, "Full": full}, {}, (2,)),
        Setting(
            "heavy tails", tails, 2, "StudentT",
            {"StudentT": jaxem.StudentT(), "Full + Uniform": behind, "Full": full}, {"Full + Uniform": 1},
        ),
        Setting("animals", animals, 4, "EEV", {"EEV": jaxem.Ellipsoidal("EEV"), "Full": full}, {}),
    )  # fmt: skip


def families(config: FamiliesConfig, out: Path) -> Iterator[str]:
    """Where the right family beats Full."""
    yield f"measured on {hardware()}"
    rows: list[tuple[str, str, float, float]] = []
    for setting in settings():
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in setting.families}
        for repeat in range(config.repeats):
            rng = np.random.default_rng([config.seed, repeat])
            (x, _), (fresh, truth) = setting.rows(rng, config.n), setting.rows(rng, config.fresh)
            for name, family in setting.families.items():
                k = setting.k + setting.extra.get(name, 0)
                seen, judged = (smooth(rng, rows, setting.whole) if name == "Full" else rows for rows in (x, fresh))
                best = jaxem.search(jax.random.key(repeat), family, seen, k, budget=config.budget).best
                height = float(np.mean(np.asarray(best.mixture.log_prob(judged))))
                agreement = agree(np.asarray(best.mixture.predict(judged)), truth)
                found[name].append((height, agreement))
                if repeat == 0 and name == setting.right:
                    draw(setting, best.mixture, x, out / f"families_{setting.name.replace(' ', '_')}.png")
        means = {name: np.mean(values, axis=0) for name, values in found.items()}
        rows += [(setting.name, name, float(mean[0]), float(mean[1])) for name, mean in means.items()]
        better = means[setting.right] - means["Full"]
        yield (
            f"{setting.name}: {setting.right} beats Full by {better[0]:.3f} nats a fresh row; "
            f"rows in the right cluster {means[setting.right][1]:.1%}, Full {means['Full'][1]:.1%}"
        )
    write_csv(
        out / "families.csv", ["data", "family", "log-likelihood of a fresh row", "rows in the right cluster"], rows
    )


def smooth(rng: np.random.Generator, x: np.ndarray, whole: tuple[int, ...]) -> np.ndarray:
    """Rows with noise in the columns of whole numbers."""
    smoothed = x.copy()
    smoothed[:, list(whole)] += rng.uniform(-0.5, 0.5, (len(x), len(whole)))
    return smoothed


def agree(found: np.ndarray, truth: np.ndarray) -> float:
    """The share of rows in the right cluster, clusters matched as well as they can be."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((found.max() + 1, truth.max() + 1))
    np.add.at(table, (found, truth), 1)
    return float(table[linear_sum_assignment(-table)].sum() / len(truth))


def draw(setting: Setting, mixture: jaxem.Mixture, x: np.ndarray, path: Path) -> None:
    """The rows with the components of the right family, in their first two columns."""
    figure, ax = plt.subplots()
    jaxem.plots.plot_responsibilities(mixture, x, ax=ax)
    if setting.name == "heavy tails":
        ax.set(xlim=(-12, 18), ylim=(-12, 14))
    ax.set_title(f"{setting.name}: {setting.right}")
    save_figure(figure, path)


if __name__ == "__main__":
    run(FamiliesConfig, families)
