"""The best log-likelihood that passes buy: restarts, halving and scikit-learn at equal passes.

Synthetic sets (overlapping and separated clusters of random shapes, sizes and weights), for which the best optimum known is
the best that any method here found, and real data, for which it is given. A budget counts passes over the data, an E-step
and an M-step each; those of k-means in a start are not charged, neither to jaxem nor to scikit-learn.

    search      jaxem.search: diverse starts raced, the last polished
    restarts    jaxem: k-means++ starts climbed to the end one after the other, accelerated
    sklearn     GaussianMixture, a k-means start after the other, tol = 1e-5
    mclust      R's, if R and mclust are installed: one fit from hierarchical clustering
"""

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import jaxem
from experiments.common import Config, Positive, hardware, line_style, run, save_figure, write_csv
from experiments.reference import FAMILIES, Covariance, Problem
from jaxem.program import forget_programs
from jaxem.stopping import has_failed


class Clusters(Config):
    """Synthetic clusters; `separation` is that of the centres, in deviations."""

    n: Positive
    d: Positive
    k: Positive
    separation: float
    seed: int


class OptimaConfig(Config):
    """configs/optima.toml"""

    seeds: Positive
    budgets: list[Positive]
    synthetic: list[Clusters]
    real: list[Problem]


class Work(NamedTuple):
    """One problem: rows, components, covariances, and the best log-likelihood known so far."""

    name: str
    x: np.ndarray
    k: int
    covariance: Covariance
    best: float


def clusters(setting: Clusters) -> np.ndarray:
    """Rows `[n, d]` of clusters with random centres, covariances and weights."""
    rng = np.random.default_rng(setting.seed)
    centres = setting.separation * rng.normal(size=(setting.k, setting.d))
    shapes = 0.4 * rng.normal(size=(setting.k, setting.d, setting.d)) + np.eye(setting.d)
    label = rng.choice(setting.k, setting.n, p=rng.dirichlet(np.full(setting.k, 5.0)))
    return centres[label] + np.einsum("nij,nj->ni", shapes[label], rng.normal(size=(setting.n, setting.d)))


def by_search(work: Work, budget: int, seed: int) -> tuple[float, int]:
    """Log-likelihood and passes of `jaxem.search`."""
    found = jaxem.search(jax.random.key(seed), FAMILIES[work.covariance], work.x, work.k, budget=budget)
    return (-np.inf if has_failed(int(found.best.status)) else float(found.best.log_likelihood)), found.passes


def by_restarts(work: Work, budget: int, seed: int) -> tuple[float, int]:
    """The best of k-means++ restarts that the budget brings to their end, the first in any case."""
    family = FAMILIES[work.covariance]
    starts = jaxem.starts(jax.random.key(seed), family, work.x, work.k, max(1, budget // 10))
    results = jaxem.fit_restarts(starts, work.x, accelerator=jaxem.hybrid())
    spent = np.cumsum(np.asarray(results.n_iter) + 1)
    ended = np.arange(len(spent)) < max(1, int(np.sum(spent <= budget)))
    sound = ended & ~has_failed(np.asarray(results.status))
    return float(np.max(np.where(sound, np.asarray(results.objective), -np.inf))), int(spent[ended][-1])


def by_sklearn(work: Work, budget: int, seed: int) -> tuple[float, int]:
    """The best of scikit-learn's k-means restarts that the budget brings to their end, the first in any case."""
    best, spent = -np.inf, 0
    for i in range(budget):
        model = GaussianMixture(
            work.k, covariance_type=work.covariance, tol=1e-5, max_iter=1000, random_state=10_000 * seed + i
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(work.x)
        if spent and spent + model.n_iter_ > budget:
            break
        spent += model.n_iter_
        best = max(best, float(model.score(work.x)) * len(work.x))
    return best, spent


METHODS = {"search": by_search, "restarts": by_restarts, "sklearn": by_sklearn}
MCLUST = """
suppressMessages(library(mclust))
x <- as.matrix(read.csv("{path}", header = FALSE))
model <- list(full = "VVV", tied = "EEE", diag = "VVI", spherical = "VII")${covariance}
if (ncol(x) == 1) model <- "V"
cat(sprintf("%.10f", Mclust(x, G = {k}, modelNames = model, verbose = FALSE)$loglik))
"""


def by_mclust(work: Work) -> float:
    """mclust's log-likelihood; NaN where R or mclust is missing or it does not fit."""
    if shutil.which("Rscript") is None:
        return float("nan")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        np.savetxt(path, work.x, delimiter=",")
        program = MCLUST.format(path=path, covariance=work.covariance, k=work.k)
        done = subprocess.run(["Rscript", "-e", program], capture_output=True, text=True)
    try:
        return float(done.stdout)
    except ValueError:
        return float("nan")


def optima(config: OptimaConfig, out: Path) -> Iterator[str]:
    """Gap to the best optimum known against passes, method by method."""
    yield f"measured on {hardware()}"
    works = [
        Work(f"d = {one.d}, K = {one.k}, {one.separation:g} apart, {one.seed}", clusters(one), one.k, "full", -np.inf)
        for one in config.synthetic
    ] + [Work(one.name, np.asarray(one.x), one.k, one.covariance, one.best) for one in config.real]
    found: dict[tuple[str, int, str], list[tuple[float, int]]] = {}
    rows: list[list[object]] = []
    for work in works:
        for budget in config.budgets:
            for name, method in METHODS.items():
                found[name, budget, work.name] = [method(work, budget, seed) for seed in range(config.seeds)]
        forget_programs()
    best = {
        work.name: max([work.best, *(value for key in found if key[2] == work.name for value, _ in found[key])])
        for work in works
    }
    gaps: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for (name, budget, problem), values in found.items():
        gap = float(np.mean([best[problem] - value for value, _ in values]))
        passes = float(np.mean([spent for _, spent in values]))
        rows.append([problem, name, budget, passes, gap])
        gaps.setdefault((name, budget), []).append((passes, gap))
    for work in works:
        value = by_mclust(work)
        if np.isfinite(value):
            rows.append([work.name, "mclust", "", "", best[work.name] - value])
    write_csv(out / "optima.csv", ["problem", "method", "budget", "passes", "gap in nats"], rows)
    draw(config, gaps, out / "optima.png")
    for budget in config.budgets:
        means = {name: np.mean(gaps[name, budget], axis=0) for name in METHODS}
        told = ", ".join(f"{name} {gap:.2f} ({passes:.0f} passes)" for name, (passes, gap) in means.items())
        yield f"mean gap to the best known at {budget} passes, {len(works)} problems x {config.seeds} seeds: {told}"
    missing = "R or mclust is missing" if shutil.which("Rscript") is None else "mclust is in the CSV"
    last = config.budgets[-1]
    ratio = np.mean([g for _, g in gaps["search", last]]) / np.mean([g for _, g in gaps["sklearn", last]])
    yield f"search ends {ratio:.2f} times as far from the best known as scikit-learn's restarts at {last} passes; {missing}"


def draw(config: OptimaConfig, gaps: dict[tuple[str, int], list[tuple[float, float]]], path: Path) -> None:
    """Mean gap against mean passes, one line a method."""
    figure, panel = plt.subplots()
    for i, name in enumerate(METHODS):
        points = np.array([np.mean(gaps[name, budget], axis=0) for budget in config.budgets])
        panel.loglog(points[:, 0], np.maximum(points[:, 1], 1e-6), label=name, **line_style(i))
    panel.set_xlabel("passes over the data")
    panel.set_ylabel("mean gap to the best known, nats")
    panel.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(OptimaConfig, optima)
