"""How many passes over the data does EM need if it makes an M-step after each batch, not after each pass?

Rows of one mixture are cut into batches. From the same starts climb: EM and EM with the hybrid, which see all rows before each
M-step; incremental EM (Neal and Hinton 1998), which keeps the Stats of each batch and replaces them when it comes again; and
stepwise EM (Cappe and Moulines 2009), whose old Stats fade. After so many passes the log-likelihood of all rows is measured, in a
pass that does not count, against the best optimum known. A climb that never comes within a target counts as infinitely long.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import pydantic

import jaxem
import jaxem.plots
from experiments.common import Config, Positive, hardware, line_style, panels, run, save_figure, write_csv

Decay = Annotated[float, pydantic.Field(gt=0.5, le=1.0)]


class OnlineConfig(Config):
    """configs/online.toml"""

    seed: int
    n: Positive
    d: Positive
    k: Positive
    separations: list[float]
    batches: list[Positive]
    decays: list[Decay]
    starts: Positive
    passes: Positive
    targets: list[float]


def drawn(config: OnlineConfig, separation: float, rng: np.random.Generator) -> np.ndarray:
    """Rows `[n, d]` of k clusters of different shapes, about `separation` deviations apart."""
    means = rng.normal(size=(config.k, config.d)) * separation / np.sqrt(2 * config.d)
    factors = rng.normal(size=(config.k, config.d, config.d)) * 0.35 + np.eye(config.d)
    label = rng.choice(config.k, config.n, p=rng.dirichlet(np.full(config.k, 8.0)))
    return means[label] + np.einsum("nij,nj->ni", factors[label], rng.normal(size=(config.n, config.d)))


@functools.partial(jax.jit, static_argnames="decay")
def one_pass(state: jaxem.online.Online, batches: jax.Array, decay: float | None) -> jaxem.online.Online:
    """The state after a turn for each of the `batches` `[b, n, d]`: of incremental EM without a `decay`, else of stepwise EM."""

    def turn(state: Any, of_batch: Any) -> tuple[Any, None]:
        number, x = of_batch
        if decay is None:
            return jaxem.online.incremental_step(state, x, number), None
        return jaxem.online.stepwise_step(state, x, decay=decay), None

    return jax.lax.scan(turn, state, (np.arange(len(batches)), batches))[0]


def online_climb(start: jaxem.Mixture, x: np.ndarray, b: int, decay: float | None, passes: int) -> np.ndarray:
    """The log-likelihood of all rows after 0, 1, ... passes of b batches, `[passes + 1]`."""
    batches = jax.numpy.asarray(x[: len(x) // b * b].reshape(b, -1, x.shape[1]))
    state = jaxem.online.begin(start, x, n_batches=b if decay is None else None)
    heights = [float(jaxem.e_step(start, x).log_likelihood)]
    for _ in range(passes):
        state = one_pass(state, batches, decay)
        heights.append(float(jaxem.e_step(state.mixture, x).log_likelihood))
    return np.array(heights)


def batch_climb(start: jaxem.Mixture, x: np.ndarray, accelerator: Any, passes: int) -> np.ndarray:
    """The same of EM over all rows, with or without an accelerator."""
    never = jaxem.GainBelow(-np.inf)
    return np.asarray(jaxem.fit(start, x, stop=never, max_iter=passes, accelerator=accelerator).trace)


def passes_to(gaps: np.ndarray, target: float) -> float:
    """After how many passes a climb with these gaps is within the target for good."""
    beyond = np.flatnonzero(~(gaps <= target))
    first = 0 if not beyond.size else int(beyond[-1]) + 1
    return float(first) if first < len(gaps) else np.inf


def online(config: OnlineConfig, out: Path) -> Iterator[str]:
    """Passes over the data that EM over batches needs, beside EM over all rows."""
    yield f"measured on {hardware()}"
    rng = np.random.default_rng(config.seed)
    rows, curves = [], {}
    for separation in config.separations:
        x = drawn(config, separation, rng)
        n = len(x) // max(config.batches) * max(config.batches)
        x = x[:n]
        best = jaxem.search(jax.random.key(config.seed), jaxem.Full(), x, config.k).best
        starts = jaxem.starts(jax.random.key(1), jaxem.Full(), x, config.k, config.starts)
        climbs: dict[str, list[np.ndarray]] = {}
        for start in (starts[i] for i in range(config.starts)):
            climbs.setdefault("EM", []).append(batch_climb(start, x, None, config.passes))
            climbs.setdefault("EM, hybrid", []).append(batch_climb(start, x, jaxem.hybrid(), config.passes))
            for b in config.batches:
                climb = functools.partial(online_climb, start, x, b, passes=config.passes)
                climbs.setdefault(f"incremental, {b} batches", []).append(climb(decay=None))
                for decay in config.decays:
                    climbs.setdefault(f"stepwise {decay}, {b} batches", []).append(climb(decay=decay))
        top = max(float(best.log_likelihood), max(np.nanmax(trace) for traces in climbs.values() for trace in traces))
        gaps = {name: (top - np.array(traces)) / n for name, traces in climbs.items()}
        curves[separation] = gaps
        for name, of_starts in gaps.items():
            for target in config.targets:
                needed = [passes_to(one, target) for one in of_starts]
                rows.append((separation, name, target, np.median(needed), np.mean(np.isfinite(needed))))
        for target in config.targets:
            told = ", ".join(f"{row[1]} {row[3]:g}" for row in rows if (row[0], row[2]) == (separation, target))
            yield f"{separation:g} deviations apart, median passes to {target:g} nats a row: {told}"
    header = [
        "deviations apart",
        "method",
        "nats a row from the optimum",
        "median passes",
        "share of starts that get there",
    ]
    write_csv(out / "online.csv", header, rows)
    draw(config, curves, out / "online.png")
    yield told_in_short(config, rows)


def told_in_short(config: OnlineConfig, rows: list[Any]) -> str:
    """The conclusion: what incremental EM saves at the middle target."""
    target, b = config.targets[len(config.targets) // 2], config.batches[-1]
    median = {(row[0], row[1]): row[3] for row in rows if row[2] == target}
    told = (
        f"{median[s, f'incremental, {b} batches']:g} passes for {median[s, 'EM']:g} of EM and {median[s, 'EM, hybrid']:g} of "
        f"the hybrid at {s:g} deviations"
        for s in config.separations
    )
    return f"to {target:g} nats a row incremental EM in {b} batches needs {', '.join(told)}"


def draw(config: OnlineConfig, curves: dict[float, dict[str, np.ndarray]], path: Path) -> None:
    """The median gap over starts, after each pass."""
    figure, axes = panels(len(curves), sharey=True, high=4.6)
    for panel, (separation, gaps) in zip(axes, curves.items(), strict=True):
        for i, (name, of_starts) in enumerate(gaps.items()):
            median = np.maximum(np.median(of_starts, axis=0), 1e-10)
            every = max(1, config.passes // 6)
            panel.loglog(np.arange(config.passes + 1) + 1, median, label=name, markevery=every, **line_style(i))
        panel.set(title=f"{separation:g} deviations apart", xlabel="1 + passes over the data")
        for target in config.targets:
            panel.axhline(target, color="0.85", linewidth=0.8, zorder=0)
    axes[0].set_ylabel("nats a row below the best, median")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")
    save_figure(figure, path)


if __name__ == "__main__":
    run(OnlineConfig, online)
