"""k-means as the limit of EM for small equal variances, and what an iteration of each costs.

1. One EM step of a mixture of N(mu_j, sigma^2 I) with equal weights, sigma fixed, against one step of Lloyd's algorithm from
   the same centres: as sigma goes to 0 the responsibilities become hard, max_i (1 - max_j p(j | i)) -> 0, and the new means
   go to Lloyd's. A distance d_1 to the nearest centre and d_2 to the next give odds exp(-(d_2^2 - d_1^2) / 2 sigma^2), so the
   gap closes faster than any power of sigma.
2. Seconds per iteration in n, K and d side by side: both are O(n K d), EM by a constant dearer.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxem
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
from experiments.lecture import one_kmeans_pass
from jaxem.program import forget_programs


class KmeansLimitConfig(Config):
    """configs/kmeans_limit.toml"""

    seed: int
    n_rows: Positive
    n_components: Positive
    sigmas: list[float]
    n: Sizes
    k: Sizes
    d: Sizes
    repeats: Positive


def lloyd_step(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """New centres by plain numpy; one without rows stays."""
    labels = ((x[:, None] - centres[None]) ** 2).sum(axis=-1).argmin(axis=1)
    return np.stack(
        [x[labels == j].mean(axis=0) if (labels == j).any() else centre for j, centre in enumerate(centres)]
    )


def em_step(x: np.ndarray, centres: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """New means by jaxem, and the responsibilities, of equal weights and one fixed variance."""
    k = len(centres)
    params = jaxem.GaussianParams(jnp.asarray(centres), jnp.full(k, sigma**2))
    mixture = jaxem.Mixture(jnp.full(k, -np.log(k)), params, jaxem.Spherical())
    means = jaxem.m_step(mixture, jaxem.e_step(mixture, x)).components.means
    return np.asarray(means), np.asarray(mixture.responsibilities(x))


def limit(config: KmeansLimitConfig, out: Path) -> Iterator[str]:
    """One step of EM goes to one of Lloyd's as sigma goes to 0."""
    rng = np.random.default_rng(config.seed)
    spots = rng.uniform(-8, 8, size=(config.n_components, 2))
    x = spots[rng.integers(config.n_components, size=config.n_rows)] + rng.normal(size=(config.n_rows, 2))
    centres = x[rng.choice(config.n_rows, config.n_components, replace=False)]
    expected, rows = lloyd_step(x, centres), []
    for sigma in config.sigmas:
        means, resp = em_step(x, centres, sigma)
        rows.append(
            (
                sigma,
                float(np.abs(means - expected).max()),
                float((1 - resp.max(axis=1)).max()),
                float((resp.max(axis=1) < 0.99).mean()),
            )
        )
    write_csv(
        out / "kmeans_limit.csv",
        ["sigma", "largest difference of a mean", "largest doubt", "share of rows in doubt"],
        rows,
    )
    figure, panel = plt.subplots(figsize=(5.4, 4.6))
    sigmas, gaps, _, doubt = (np.array(column) for column in zip(*rows, strict=True))
    panel.loglog(sigmas, np.maximum(gaps, 1e-16), label="largest difference of a mean from Lloyd's", **line_style(0))
    panel.loglog(
        sigmas, np.maximum(doubt, 1e-16), label="share of rows with p(j | i) < 0.99 for all j", **line_style(1)
    )
    panel.set(xlabel="sigma, in deviations of a cluster", title="one step from the same centres")
    figure.legend(loc="outside lower center")
    save_figure(figure, out / "kmeans_limit.png")
    yield (
        f"one EM step against one of Lloyd's: the means differ by {gaps[0]:.2g} at sigma = {sigmas[0]:g} and {gaps[-1]:.2g} at "
        f"sigma = {sigmas[-1]:g}, with {doubt[0]:.0%} and {doubt[-1]:.0%} of the rows in doubt: "
        f"{'true' if gaps[-1] < 1e-3 * gaps[0] else 'not shown'}"
    )


def em_seconds(x: np.ndarray, k: int, config: KmeansLimitConfig) -> float:
    """Seconds per turn of a fit: what ten turns more take, a tenth of it."""
    start = jaxem.starts(jax.random.key(config.seed), jaxem.Spherical(), x, k, 1, jaxem.RandomParameters())[0]
    forever = jaxem.GainBelow(-jnp.inf)

    def fit(turns: int) -> jax.Array:
        return jaxem.fit(start, x, stop=forever, max_iter=turns).objective

    few, many = (seconds(functools.partial(fit, turns), config.repeats) for turns in (2, 12))
    return max(many - few, 1e-9) / 10


def cost(config: KmeansLimitConfig, out: Path) -> Iterator[str]:
    """Seconds per iteration of both, along n, K and d."""
    axes = {"n": config.n, "k": config.k, "d": config.d}
    base = {name: values[len(values) // 2] for name, values in axes.items()}
    rng, rows = np.random.default_rng(config.seed), []
    for name, values in axes.items():
        for value in values:
            n, k, d = ({**base, name: value}[axis] for axis in ("n", "k", "d"))
            x = rng.normal(size=(n, d)).astype(np.float32)
            pair = em_seconds(x, k, config), seconds(one_kmeans_pass(jnp.asarray(x), k), config.repeats)
            rows.append((name, n, k, d, *pair))
            forget_programs()
    write_csv(out / "kmeans_limit_cost.csv", ["varied", "n", "k", "d", "EM, seconds", "k-means, seconds"], rows)
    figure, shown = panels(3, sharey=True)
    told = []
    for panel, (name, values) in zip(shown, axes.items(), strict=True):
        times = np.array([row[4:] for row in rows if row[0] == name], float)  # [values, 2]
        slopes = np.polyfit(np.log(values), np.log(times), 1)[0]
        for i, label in enumerate(("EM", "k-means")):
            panel.loglog(values, times[:, i], label=f"{label}, slope {slopes[i]:.2f}", **line_style(i))
        panel.set_xlabel({"n": "rows n", "k": "components K", "d": "features d"}[name])
        panel.legend()
        told.append(f"in {name.upper() if name == 'k' else name} EM {slopes[0]:.2f}, k-means {slopes[1]:.2f}")
    shown[0].set_ylabel("seconds per iteration")
    save_figure(figure, out / "kmeans_limit_cost.png")
    yield f"cost of one iteration, slopes on log-log axes: {'; '.join(told)}"
    dearer = float(np.median([row[4] / row[5] for row in rows]))
    yield f"both are O(nKd); an iteration of EM takes {dearer:.1f} times as long as one of k-means (median of {len(rows)} sizes)"


def kmeans_limit(config: KmeansLimitConfig, out: Path) -> Iterator[str]:
    """k-means as a limit of EM."""
    yield f"measured on {hardware()}"
    yield from limit(config, out)
    yield from cost(config, out)


if __name__ == "__main__":
    run(KmeansLimitConfig, kmeans_limit)
