"""Passes to a fixed point: plain EM, SQUAREM, Anderson's method and their hybrid, from the same starts.

A climb ends where an EM step would move nothing by more than `tol` (`StepBelow`); a pass is one E-step and M-step, those of
refused proposals among them. The speed-up is the ratio of passes, in geometric mean over starts; the figure shows the gap
to the end of each climb against passes.
"""

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxem
from experiments.common import Config, Positive, hardware, panels, run, save_figure, write_csv
from experiments.reference import Problem
from jaxem.plots import LINES

ACCELERATORS = {"EM": None, "squarem": jaxem.squarem(), "anderson": jaxem.anderson(), "hybrid": jaxem.hybrid()}
SLOW = 100
"""passes of EM from which a climb is called slow"""
COLOURS = {"EM": "black", "squarem": "#0072B2", "anderson": "#E69F00", "hybrid": "#D55E00"}


class AccelerationConfig(Config):
    """configs/acceleration.toml"""

    seed: int
    starts: Positive
    tol: float
    max_iter: Positive
    problems: list[Problem]


def acceleration(config: AccelerationConfig, out: Path) -> Iterator[str]:
    """Passes and seconds of EM and of each accelerator."""
    yield f"measured on {hardware()}, {config.starts} starts each, to an EM step below {config.tol:.0e}"
    rows: list[list[Any]] = []
    speedups: dict[str, list[float]] = {name: [] for name in ACCELERATORS}
    slow: dict[str, list[float]] = {name: [] for name in ACCELERATORS}
    longest, better, worse, most = 0.0, 0, 0, 0.0
    figure, axes = panels(len(config.problems))
    for panel, problem in zip(axes, config.problems, strict=True):
        x = problem.x
        starts = jaxem.starts(jax.random.key(config.seed), problem.family, x, problem.k, config.starts)
        stop, plain = jaxem.StepBelow(config.tol), None
        for name, accelerator in ACCELERATORS.items():
            climb = functools.partial(
                jaxem.fit_restarts, starts, x, stop=stop, max_iter=config.max_iter, accelerator=accelerator
            )
            jax.block_until_ready(climb())
            begun = time.perf_counter()
            results = jax.block_until_ready(climb())
            seconds = time.perf_counter() - begun
            plain = results if plain is None else plain
            passes, em = np.asarray(results.n_iter, float), np.asarray(plain.n_iter, float)
            ratio = em / np.maximum(passes, 1.0)
            speedups[name].extend(ratio)
            slow[name].extend(ratio[em > SLOW])
            difference = np.asarray(results.objective - plain.objective)
            if name == "hybrid":
                longest = max(longest, float(np.max(passes - em - np.maximum(0.1 * em, 4.0))))
                better, worse = better + int(np.sum(difference > 1e-4)), worse + int(np.sum(difference < -1e-4))
                trace = np.asarray(results.trace)
                falls = (
                    np.nan_to_num(trace[:, :-1] - trace[:, 1:], nan=0.0)
                    / np.abs(np.asarray(results.objective))[:, None]
                )
                most = max(most, float(np.max(falls)))
            rows.append(
                [problem.name, name, np.median(passes), passes.max(), np.exp(np.log(ratio).mean()), 1e3 * seconds]
            )
            draw(panel, np.asarray(results.trace), name)
        panel.set_title(problem.name)
        panel.set_xlabel("passes")
    axes[0].set_ylabel("nats below the end of the climb")
    axes[0].legend()
    save_figure(figure, out / "acceleration.png")
    header = ["problem", "method", "median passes", "most passes", "speed-up in passes", "ms of all starts"]
    write_csv(out / "acceleration.csv", header, rows)

    def mean(ratios: list[float]) -> float:
        return float(np.exp(np.mean(np.log(ratios)))) if ratios else float("nan")

    for name in list(ACCELERATORS)[1:]:
        yield f"{name}: {mean(speedups[name]):.2f} times fewer passes than EM, {mean(slow[name]):.2f} where EM needs over {SLOW}"
    total = {name: sum(row[5] for row in rows if row[1] == name) for name in ACCELERATORS}
    yield f"hybrid: {total['EM'] / total['hybrid']:.1f} times less time than EM, all starts of a problem at once"
    bound = "never" if longest <= 0 else f"at worst {longest:.0f} passes"
    yield f"hybrid: {bound} over EM + max(10 per cent, 4 passes); largest accepted fall {most:.0e} of the objective"
    n = len(speedups["hybrid"])
    yield f"hybrid: the same optimum as EM in {n - better - worse} of {n} climbs, a better one in {better}, a worse in {worse}"


def draw(panel: Any, traces: np.ndarray, name: str) -> None:
    """The gap of each climb to its own end."""
    for i, trace in enumerate(traces):
        climb = trace[~np.isnan(trace)]
        panel.semilogy(
            np.maximum(climb.max() - climb, 1e-12),
            color=COLOURS[name],
            linestyle=LINES[list(COLOURS).index(name)],
            alpha=0.5,
            lw=0.8,
            label=name if i == 0 else None,
        )


if __name__ == "__main__":
    run(AccelerationConfig, acceleration)
