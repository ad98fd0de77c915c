"""How many restarts are enough, and what they cost: the best log-likelihood against the number of restarts, and restarts
at once (lanes of one loop) against a Python loop over the same compiled fit.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import ScalarFormatter

import jaxem
from experiments.common import Config, Positive, hardware, run, save_figure, write_csv
from jaxem.init import Initializer


class RestartsConfig(Config):
    """configs/restarts.toml"""

    seed: int
    n_components: Positive
    restarts: Positive
    max_iter: Positive
    looped: Positive


INITIALIZERS: dict[str, Initializer] = {
    "random parameters": jaxem.RandomParameters(),
    "random points": jaxem.RandomPoints(),
    "k-means": jaxem.KMeans(),
    "k-means++": jaxem.KMeansPlusPlus(),
}


def best_so_far(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Expected best of the first r restarts, over 200 random orders."""
    orders = np.array([rng.permutation(values) for _ in range(200)])
    return np.maximum.accumulate(orders, axis=1).mean(axis=0)


def restarts(config: RestartsConfig, out: Path) -> Iterator[str]:
    """Best log-likelihood against the number of restarts; lanes against a Python loop."""
    yield f"measured on {hardware()}"
    x, key, family = jaxem.datasets.faithful(), jax.random.key(config.seed), jaxem.Full()
    rng = np.random.default_rng(config.seed)
    counts = np.arange(1, config.restarts + 1)
    curves, tops = {}, {}
    for name, initializer in INITIALIZERS.items():
        starts = jaxem.starts(key, family, x, config.n_components, config.restarts, initializer)
        results = jaxem.fit_restarts(starts, x, max_iter=config.max_iter)
        sound = np.asarray(results.status) != jaxem.Status.DEGENERATE
        values = np.where(sound, np.asarray(results.objective, float), -np.inf)
        values = np.where(np.isfinite(values), values, np.min(values[np.isfinite(values)]))
        curves[name], tops[name] = best_so_far(values, rng), values.max()
    write_csv(
        out / "restarts.csv",
        ["restarts", *curves],
        zip(counts.tolist(), *(c.tolist() for c in curves.values()), strict=True),
    )

    top = max(tops.values())
    figure, panel = plt.subplots()
    for name, curve in curves.items():
        panel.plot(counts, top - curve, label=name)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_yscale("symlog", linthresh=1e-2)
    panel.set_xlabel("restarts")
    panel.set_ylabel("nats below the best found")
    panel.set_title(f"Old Faithful, K = {config.n_components}, full covariances")
    panel.legend()
    save_figure(figure, out / "restarts.png")
    for name, curve in curves.items():
        gaps = f"{top - curve[0]:.2f} nats below the best on average, all {config.restarts} {top - curve[-1]:.3f}"
        yield f"{name}: one restart is {gaps}"

    starts = jaxem.starts(key, family, x, config.n_components, config.looped)

    def lanes() -> jax.Array:
        return jax.block_until_ready(jaxem.fit_restarts(starts, x, max_iter=config.max_iter).objective)

    def loop() -> None:
        for i in range(config.looped):
            start = starts[i]
            jax.block_until_ready(jaxem.fit(start, x, max_iter=config.max_iter).objective)

    times = {}
    for name, function in {"lanes": lanes, "python loop": loop}.items():
        function()  # compiles
        begun = time.perf_counter()
        function()
        times[name] = time.perf_counter() - begun
    write_csv(
        out / "restarts_time.csv", ["how", "restarts", "seconds"], [(n, config.looped, t) for n, t in times.items()]
    )
    yield (
        f"{config.looped} restarts: {times['lanes']:.3f} s as lanes of one loop, {times['python loop']:.3f} s one after the "
        f"other: {times['python loop'] / times['lanes']:.1f} times faster at once"
    )


if __name__ == "__main__":
    run(RestartsConfig, restarts)
