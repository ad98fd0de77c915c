"""Stars measured with error bars: does `Deconvolved` find the truth behind the noise, and in how many passes?

Two groups of simulated stars have velocities `[n, 3]`. Each star is measured with noise of a covariance of its own, with
random axes and sizes; its variance is on average that of the groups themselves (`noise` = 1). `Deconvolved` knows the noise.
`Full` is fitted to the same values without it, as people do who ignore the noise. The error of a covariance is
|found - true| / |true|, in the Frobenius norm; that of a velocity is the root of the mean square. Plain EM and `hybrid` then
climb from the same starts to an EM step below `tol`; a pass is one E-step and M-step.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxem
from experiments.common import Config, Positive, hardware, panels, run, save_figure, write_csv
from jaxem.plots import LINES, ellipse

WEIGHTS = np.array([0.55, 0.45])
MEANS = np.array([[0.0, 0.0, 0.0], [2.5, -2.0, 1.0]])
COVARIANCES = np.array(
    [
        [[1.0, 0.6, 0.2], [0.6, 1.2, -0.1], [0.2, -0.1, 0.6]],
        [[0.7, -0.4, 0.0], [-0.4, 0.9, 0.3], [0.0, 0.3, 1.3]],
    ]
)
COLOURS = {"EM": "black", "hybrid": "#0072B2"}


class DeconvolutionConfig(Config):
    """configs/deconvolution.toml"""

    seed: int
    n: Positive
    noise: float
    repeats: Positive
    starts: Positive
    budget: Positive
    tol: float
    max_iter: Positive


class Stars(NamedTuple):
    """What is true of some stars, and what was measured."""

    truth: np.ndarray  # [n, d]
    values: np.ndarray  # [n, d]
    noise: np.ndarray  # [n, d, d]


def stars(rng: np.random.Generator, n: int, noise: float) -> Stars:
    """n stars whose noise has `noise` times the variance of their group, on average over stars and axes."""
    label = (rng.uniform(size=n) > WEIGHTS[0]).astype(int)
    truth = MEANS[label] + _normal(rng, COVARIANCES[label])
    axes = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    sizes = np.exp(rng.normal(size=(n, 1)) * 0.4 + rng.normal(size=(n, 3)) * 0.4) ** 2
    variance = np.trace(np.tensordot(WEIGHTS, COVARIANCES, 1)) / 3
    sizes *= noise * variance / sizes.mean()
    covariances = np.einsum("nij,nj,nkj->nik", axes, sizes, axes)
    return Stars(truth, truth + _normal(rng, covariances), covariances)


def _normal(rng: np.random.Generator, covariances: np.ndarray) -> np.ndarray:
    return np.einsum("nij,nj->ni", np.linalg.cholesky(covariances), rng.normal(size=covariances.shape[:2]))


def matched(mixture: jaxem.Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances, components in the order of the true ones that lie nearest."""
    means, covariances = (np.asarray(leaf, float) for leaf in mixture.components)
    orders = [list(order) for order in itertools.permutations(range(len(means)))]
    best = min(orders, key=lambda order: float(np.sum((means[order] - MEANS) ** 2)))
    return means[best], covariances[best]


def error_of(covariances: np.ndarray) -> float:
    """The largest error of a group's covariance."""
    apart = np.linalg.norm(covariances - COVARIANCES, axis=(1, 2)) / np.linalg.norm(COVARIANCES, axis=(1, 2))
    return float(apart.max())


def root_mean_square(away: np.ndarray) -> float:
    """Root of the mean square of a distance in one column."""
    return float(np.sqrt(np.mean(away**2)))


def deconvolution(config: DeconvolutionConfig, out: Path) -> Iterator[str]:
    """The truth behind noise, and passes to it."""
    yield f"measured on {hardware()}, {config.repeats} sets of {config.n} stars"
    rows, ratios, falls = list[list[Any]](), list[float](), list[float]()
    shown: list[np.ndarray] = []
    climbs: dict[str, np.ndarray] = {}
    for repeat in range(config.repeats):
        seen = stars(np.random.default_rng([config.seed, repeat]), config.n, config.noise)
        x, key = jaxem.with_noise(seen.values, seen.noise), jax.random.key(repeat)
        found = jaxem.search(key, jaxem.Deconvolved(), x, 2, budget=config.budget).best.mixture
        naive = jaxem.search(key, jaxem.Full(), seen.values, 2, budget=config.budget).best.mixture
        errors = [error_of(matched(one)[1]) for one in (found, naive)]
        left = [root_mean_square(one - seen.truth) for one in (seen.values, np.asarray(found.denoise(x)))]
        first = jaxem.starts(key, jaxem.Deconvolved(), x, 2, config.starts)
        ends = {
            name: jaxem.fit_restarts(
                first, x, stop=jaxem.StepBelow(config.tol), max_iter=config.max_iter, accelerator=accelerator
            )
            for name, accelerator in (("EM", None), ("hybrid", jaxem.hybrid()))
        }
        passes = {name: np.asarray(of.n_iter, float) for name, of in ends.items()}
        ratios += list(passes["EM"] / passes["hybrid"])
        falls += list(np.asarray(ends["EM"].objective - ends["hybrid"].objective))
        rows.append([repeat, *errors, *left, np.median(passes["EM"]), np.median(passes["hybrid"])])
        if repeat == 0:
            shown = [seen.values, matched(found)[1], matched(naive)[1]]
            climbs = {name: np.asarray(of.trace) for name, of in ends.items()}
    draw(shown, climbs, out / "deconvolution.png")
    header = ["set", "error of Deconvolved", "error of Full", "error of values", "error of denoise", "passes of EM"]
    write_csv(out / "deconvolution.csv", [*header, "passes of hybrid"], rows)
    table = np.asarray(rows, float)
    middle, most = np.median(table, axis=0), table.max(axis=0)
    yield f"error of the worse covariance: Deconvolved {middle[1]:.1%} (at most {most[1]:.1%}), Full {middle[2]:.0%}"
    yield f"error of a velocity: as measured {middle[3]:.2f}, by denoise {middle[4]:.2f}"
    yield (
        f"passes to an EM step below {config.tol:.0e}: EM {middle[5]:.0f}, hybrid {middle[6]:.0f}, "
        f"{np.exp(np.mean(np.log(ratios))):.1f} times fewer (at least {min(ratios):.1f}); "
        f"hybrid ends at most {max(0.0, max(falls)):.0e} nats below EM"
    )


def draw(shown: list[np.ndarray], climbs: dict[str, np.ndarray], path: Path) -> None:
    """Two columns with the ellipses of the truth and of both fits, and how the climbs approach their ends."""
    figure, (left, right) = panels(2)
    values, found, naive = shown
    left.scatter(*values[:3000, :2].T, s=2, color="0.8", linewidths=0)
    lines = (
        ("truth", COVARIANCES, "black", "-"),
        ("Deconvolved", found, "#0072B2", "--"),
        ("Full", naive, "#D55E00", ":"),
    )
    for name, covariances, colour, style in lines:
        for j, (mean, covariance) in enumerate(zip(MEANS, covariances, strict=True)):
            label = name if j == 0 else None
            left.plot(*ellipse(mean[:2], covariance[:2, :2], 2.0), color=colour, ls=style, lw=2, label=label)
    left.set(xlabel="velocity 1", ylabel="velocity 2", title="two deviations, about the true means")
    left.legend()
    for name, traces in climbs.items():
        for i, trace in enumerate(traces):
            climb = trace[~np.isnan(trace)]
            gap = np.maximum(climb.max() - climb, 1e-9)
            line = LINES[list(COLOURS).index(name)]
            right.semilogy(gap, line, color=COLOURS[name], alpha=0.6, lw=1, label=name if i == 0 else None)
    right.set(xlabel="passes", ylabel="nats below the end", title="the same starts")
    right.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(DeconvolutionConfig, deconvolution)
