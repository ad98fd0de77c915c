"""The lecture's worked example and its true-or-false claims, measured.

1. The E-step and M-step of the worked example, digit by digit.
2. "The posterior is a soft assignment": rows of responsibilities sum to one and are no hard labels.
3. "EM does not converge to the same estimate irrespective of initial values": distinct optima from distinct starts.
4. The cost of one iteration of EM and of k-means in n, K and d: slopes on log-log axes (both O(n K d)) and the constant by
   which EM costs more. The page calls this claim true and then not true; both readings are reported. No verdict comes from
   a clock.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pydantic

import jaxem
import jaxem.plots
from experiments.common import (
    Config,
    Positive,
    Sizes,
    hardware,
    line_style,
    panels,
    run,
    save_figure,
    seconds,
    write_csv,
)


class LectureConfig(Config):
    """configs/lecture.toml"""

    seed: int
    restarts: Positive
    max_iter: Positive
    n: Sizes
    k: Sizes
    d: Sizes
    base: Annotated[list[Positive], pydantic.Field(min_length=3, max_length=3)]
    repeats: Positive


X = np.array([0.2, -0.9, -1.0, 1.2, 1.8])[:, None]


def worked_example(out: Path) -> Iterator[str]:
    """Claim 1."""
    params = jaxem.GaussianParams(jnp.array([[-3.0], [2.0]]), jnp.array([4.0, 4.0]))
    start = jaxem.Mixture(jnp.log(jnp.array([0.5, 0.5])), params, jaxem.Spherical())
    resp = np.asarray(start.responsibilities(X))
    stats = jaxem.e_step(start, X)
    new = jaxem.m_step(start, stats)
    after = jaxem.e_step(new, X).log_likelihood
    table = [
        *((f"p(1|{i + 1})", value) for i, value in enumerate(resp[:, 0])),
        ("n_1", stats.counts[0]),
        ("p_1", new.weights[0]),
        ("mu_1", new.components.means[0, 0]),
        ("sigma_1^2", new.components.covariances[0]),
        ("log-likelihood before", stats.log_likelihood),
        ("l-hat at the start", jaxem.proxy(start, start, X)),
        ("log-likelihood after", after),
    ]
    write_csv(
        out / "lecture_worked_example.csv", ["quantity", "value"], [(name, f"{float(v):.8f}") for name, v in table]
    )
    yield "worked example: " + ", ".join(f"{name} = {float(value):.5f}" for name, value in table)
    soft = np.mean((resp > 0.01) & (resp < 0.99))
    whole = np.allclose(resp.sum(axis=1), 1.0)
    yield (
        f"the posterior is a soft assignment: {soft:.0%} of its entries lie between 0.01 and 0.99 and rows "
        f"{'sum' if whole else 'do not sum'} to one: {verdict(bool(soft > 0) and whole)}"
    )


def verdict(holds: bool) -> str:
    """How the lecture puts it."""
    return "true" if holds else "not true"


def local_optima(config: LectureConfig, out: Path) -> Iterator[str]:
    """Claim 3."""
    x = jaxem.datasets.faithful()
    starts = jaxem.starts(jax.random.key(config.seed), jaxem.Full(), x, 3, config.restarts, jaxem.RandomParameters())
    results = jaxem.fit_restarts(starts, x, max_iter=config.max_iter)
    seen = jaxem.landscape(results)
    ended = np.isin(np.asarray(results.status), (jaxem.Status.CONVERGED, jaxem.Status.PRECISION_LIMITED)).mean()
    rows = [(f"{value:.5f}", count) for value, count in zip(seen.log_likelihood, seen.counts, strict=True)]
    write_csv(out / "lecture_optima.csv", ["log_likelihood", "restarts"], rows)
    draw_optima(x, results, seen, out / "lecture_optima.png")
    share = float(seen.counts[0] / config.restarts)
    error = math.sqrt(share * (1 - share) / config.restarts)  # of a share of so many starts
    yield (
        f"different starts end in different optima: {len(seen.counts)} of them from {config.restarts} random starts on Old "
        f"Faithful with K = 3 ({ended:.0%} converged), the best ({rows[0][0]}) from {share:.0%} +- {error:.0%}: "
        f"{verdict(len(rows) > 1)}"
    )


def draw_optima(x: np.ndarray, results: jaxem.Result, seen: jaxem.Landscape, path: Path) -> None:
    """The best optima side by side: rows in the soft colours of their responsibilities, ellipses of two deviations."""
    shown = seen.best_restart[:3]
    figure, axes = plt.subplots(1, len(shown), figsize=(7.4, 3.7), sharey=True, squeeze=False)
    for panel, i, count in zip(axes[0], shown.tolist(), seen.counts, strict=False):
        # components in the order of their means, so that a cluster has one colour throughout
        order = np.argsort(np.asarray(results.mixture.components.means)[i, :, 0])
        jaxem.plots.plot_responsibilities(results.mixture[i][order], x, ax=panel)
        below = float(seen.objective[0] - results.objective[i])
        told = f"log-likelihood {float(results.log_likelihood[i]):.1f}" if not below else f"{below:.1f} nats lower"
        panel.set_title(f"{told}\n{count} of {seen.counts.sum()} starts")
        panel.set(xlabel="", ylabel="", xticks=range(2, 6), yticks=range(40, 101, 20))
        panel.tick_params(labelsize=12)
    axes[0, 0].set_ylabel("minutes to the next", fontsize=13)
    figure.supxlabel("minutes of the eruption", fontsize=13)
    figure.suptitle("Where EM ends depends on where it starts", fontsize=15, fontweight="bold")
    save_figure(figure, path)


def one_em_pass(x: jax.Array, k: int, seed: int) -> Callable[[], Any]:
    """One E-step and M-step of the lecture's mixture, compiled, without arguments."""
    start = jaxem.starts(jax.random.key(seed), jaxem.Spherical(), x, k, 1, jaxem.RandomParameters())[0]
    step = jax.jit(lambda mixture, x: jaxem.m_step(mixture, jaxem.e_step(mixture, x)))
    return lambda: step(start, x)


def one_kmeans_pass(x: jax.Array, k: int) -> Callable[[], Any]:
    """One step of Lloyd's algorithm in the plainest JAX: distances by one product, labels, new centres."""

    @jax.jit
    def step(x: jax.Array, centres: jax.Array) -> jax.Array:
        product = jnp.matmul(x, centres.T, precision="highest")
        labels = jnp.argmin(jnp.sum(centres**2, axis=1)[None, :] - 2 * product, axis=1)
        member = jax.nn.one_hot(labels, k, dtype=x.dtype)
        return jnp.matmul(member.T, x, precision="highest") / jnp.maximum(member.sum(axis=0), 1)[:, None]

    centres = x[:k]
    return lambda: step(x, centres)


def cost(config: LectureConfig, out: Path) -> Iterator[str]:
    """Claim 4."""
    base = dict(zip(("n", "k", "d"), config.base, strict=True))
    axes = {"n": config.n, "k": config.k, "d": config.d}
    rng = np.random.default_rng(config.seed)
    rows = []
    for name, values in axes.items():
        for value in values:
            n, k, d = ({**base, name: value}[axis] for axis in ("n", "k", "d"))
            x = jnp.asarray(rng.normal(size=(n, d)), jnp.float32)
            em = seconds(one_em_pass(x, k, config.seed), config.repeats)
            kmeans = seconds(one_kmeans_pass(x, k), config.repeats)
            rows.append((name, n, k, d, em, kmeans))
    write_csv(out / "lecture_cost.csv", ["varied", "n", "k", "d", "em_seconds", "kmeans_seconds"], rows)

    figure, shown = panels(3, sharey=True)
    slopes: dict[str, tuple[float, ...]] = {}
    for panel, (name, values) in zip(shown, axes.items(), strict=True):
        measured = tuple(np.array([row[i] for row in rows if row[0] == name]) for i in (4, 5))
        logs = np.log(np.asarray(values, float))
        slopes[name] = tuple(float(np.polyfit(logs, np.log(times), 1)[0]) for times in measured)
        for i, (times, label) in enumerate(zip(measured, ("EM", "k-means"), strict=True)):
            panel.loglog(values, times, label=f"{label}, slope {slopes[name][i]:.2f}", **line_style(i))
        panel.set_xlabel({"n": "rows n", "k": "components K", "d": "features d"}[name])
        panel.legend()
    shown[0].set_ylabel("seconds per iteration")
    figure.suptitle(f"One iteration, spherical float32,\naround n, K, d = {tuple(base.values())}")
    save_figure(figure, out / "lecture_cost.png")

    factor = float(np.median([row[4] / row[5] for row in rows]))
    listed = "; ".join(f"in {name} EM {em:.2f}, k-means {km:.2f}" for name, (em, km) in slopes.items())
    yield f"cost of one iteration, slopes on log-log axes: {listed}"
    # the order follows from the formulas, not from a clock: a busy machine would decide otherwise from run to run
    yield (
        "EM and k-means cost the same, read as an order, O(nKd): true; both meet each row, component and feature a fixed number "
        "of times, where the slopes would be 1"
    )
    yield f"read as a time: one iteration of EM took {factor:.1f} times as long as one of k-means in this run, on this machine"


def lecture(config: LectureConfig, out: Path) -> Iterator[str]:
    """The lecture's worked example and claims."""
    yield f"measured on {hardware()}"
    yield from itertools.chain(worked_example(out), local_optima(config, out), cost(config, out))


if __name__ == "__main__":
    run(LectureConfig, lecture)
