"""EM, accelerated EM and direct maximisation of the log-likelihood by gradients, from the same starts.

The gradient methods (optax's adam, sgd and lbfgs) climb l(theta) in the unconstrained chart of the mixture, mean
log-likelihood per row; gradient EM climbs l-hat(theta; theta_t) by a few steps of adam and then renews the
responsibilities. A pass is one look at all rows: an EM step, or one value with its gradient; lbfgs's line search is charged
for each value and gradient it asks for. What is compared is the gap to the best log-likelihood that any method reached from
the same start, over passes and over seconds (compiling apart, all starts in turn).
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxem
from experiments.common import Config, Positive, hardware, line_style, panels, run, save_figure, write_csv


class EmVsGradientConfig(Config):
    """configs/em_vs_gradient.toml"""

    seed: int
    n_components: Positive
    starts: Positive
    passes: Positive
    adam_rate: float
    sgd_rate: float
    inner_steps: Positive
    looks: Positive


Climb = Callable[[jaxem.Mixture, jax.Array], tuple[jax.Array, jax.Array]]
"""from a start and the rows: passes made, and the log-likelihood there, `[t]` each"""


def by_em(config: EmVsGradientConfig, accelerator: Any) -> Climb:
    """EM, plain or accelerated."""

    def climb(start: jaxem.Mixture, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        stop = jaxem.GainBelow(-jnp.inf)
        result = jaxem.fit(start, x, stop=stop, max_iter=config.passes - 1, accelerator=accelerator)
        return jnp.arange(1, config.passes + 1), result.trace

    return climb


def by_steps(config: EmVsGradientConfig, optimiser: optax.GradientTransformation) -> Climb:
    """A first-order method on the log-likelihood, one pass a step."""

    def climb(start: jaxem.Mixture, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(free: jax.Array) -> jax.Array:
            return -jaxem.e_step(start.constrain(free), x).log_likelihood / x.shape[0]

        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            free, state = carry
            value, slope = jax.value_and_grad(loss)(free)
            updates, state = optimiser.update(slope, state, free)
            return (optax.apply_updates(free, updates), state), value

        free = start.unconstrain()
        values = jax.lax.scan(step, (free, optimiser.init(free)), None, config.passes)[1]
        return jnp.arange(1, config.passes + 1), -values * x.shape[0]

    return climb


def by_lbfgs(config: EmVsGradientConfig) -> Climb:
    """optax's lbfgs with its zoom line search, charged by the evaluations it makes."""

    def climb(start: jaxem.Mixture, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(free: jax.Array) -> jax.Array:
            return -jaxem.e_step(start.constrain(free), x).log_likelihood / x.shape[0]

        optimiser = optax.lbfgs()

        def step(carry: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            free, state, made = carry
            value, slope = optax.value_and_grad_from_state(loss)(free, state=state)
            updates, state = optimiser.update(slope, state, free, value=value, grad=slope, value_fn=loss)
            found = optax.tree.get(state, "num_linesearch_steps")
            return (optax.apply_updates(free, updates), state, made + jnp.maximum(found, 1)), (made, value)

        free = start.unconstrain()
        carry = free, optimiser.init(free), jnp.asarray(1)
        made, values = jax.lax.scan(step, carry, None, max(2, config.passes // 2))[1]
        return made, -values * x.shape[0]

    return climb


def by_gradient_em(config: EmVsGradientConfig) -> Climb:
    """A few steps of adam on l-hat for each renewal of the responsibilities."""

    def climb(start: jaxem.Mixture, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        optimiser = optax.adam(config.adam_rate)

        def turn(carry: Any, _: None) -> tuple[Any, jax.Array]:
            free, state = carry
            old = start.constrain(free)
            value = jaxem.e_step(old, x).log_likelihood

            def inner(carry: Any, _: None) -> tuple[Any, None]:
                free, state = carry
                slope = jax.grad(lambda free: -jaxem.proxy(start.constrain(free), old, x) / x.shape[0])(free)
                updates, state = optimiser.update(slope, state, free)
                return (optax.apply_updates(free, updates), state), None

            return jax.lax.scan(inner, (free, state), None, config.inner_steps)[0], value

        free = start.unconstrain()
        turns = max(2, config.passes // config.inner_steps)
        values = jax.lax.scan(turn, (free, optimiser.init(free)), None, turns)[1]
        return 1 + config.inner_steps * jnp.arange(turns), values

    return climb


def methods(config: EmVsGradientConfig) -> dict[str, Climb]:
    """All that are compared."""
    return {
        "EM": by_em(config, None),
        "EM, hybrid": by_em(config, jaxem.hybrid()),
        "adam": by_steps(config, optax.adam(config.adam_rate)),
        "sgd": by_steps(config, optax.sgd(config.sgd_rate, momentum=0.9)),
        "lbfgs": by_lbfgs(config),
        "gradient EM": by_gradient_em(config),
    }


def em_vs_gradient(config: EmVsGradientConfig, out: Path) -> Iterator[str]:
    """Likelihood against passes and seconds."""
    yield f"measured on {hardware()}"
    x = jnp.asarray(jaxem.datasets.faithful())
    x = (x - x.mean(axis=0)[None]) / x.std(axis=0)[
        None
    ]  # a chart in natural units: gradient methods need it, EM does not
    starts = jaxem.starts(
        jax.random.key(config.seed), jaxem.Full(), x, config.n_components, config.starts, jaxem.RandomParameters()
    )
    made: dict[str, list[tuple[np.ndarray, np.ndarray, float]]] = {}
    for name, climb in methods(config).items():
        program = jax.jit(climb)
        made[name] = []
        for i in range(config.starts):
            start = starts[i]
            if i == 0:
                jax.block_until_ready(program(start, x))  # compiled
            begun = time.perf_counter()
            passes, values = jax.block_until_ready(program(start, x))
            spent = time.perf_counter() - begun
            # the best so far: a step of a gradient method may fall
            values = np.maximum.accumulate(np.nan_to_num(np.asarray(values, float), nan=-np.inf))
            made[name].append((np.asarray(passes), values, spent))
    best = [max(float(climbs[i][1][-1]) for climbs in made.values()) for i in range(config.starts)]
    looks = np.unique(np.round(np.geomspace(1, config.passes, config.looks))).astype(int)
    rows, curves, seconds = [], {}, {}
    for name, climbs in made.items():
        gaps = np.array(
            [[best[i] - at(passes, values, look) for look in looks] for i, (passes, values, _) in enumerate(climbs)]
        )
        curves[name] = np.median(gaps, axis=0)
        seconds[name] = float(np.median([spent / passes[-1] for passes, _, spent in climbs]))
        rows += [
            (name, int(look), float(look * seconds[name]), float(gap), float(worst))
            for look, gap, worst in zip(looks, curves[name], gaps.max(axis=0), strict=True)
        ]
    write_csv(out / "em_vs_gradient.csv", ["method", "passes", "seconds", "median gap in nats", "largest gap"], rows)
    draw(looks, curves, seconds, out / "em_vs_gradient.png")
    for name, curve in curves.items():
        yield (
            f"{name}: {curve[-1]:.3g} nats below the best of its start after {looks[-1]} passes (median of {config.starts}), "
            f"{seconds[name] * 1e3:.2f} ms a pass"
        )
    close = {
        name: int(looks[np.argmax(curve < 0.01)]) if (curve < 0.01).any() else None for name, curve in curves.items()
    }
    told = ", ".join(
        f"{name} {'more than ' + str(looks[-1]) if made is None else made}" for name, made in close.items()
    )
    yield f"passes until half of the climbs are within 0.01 nats: {told}"


def at(passes: np.ndarray, values: np.ndarray, look: int) -> float:
    """The best log-likelihood found in so many passes; that of the start before any."""
    return float(values[max(0, int(np.searchsorted(passes, look, side="right")) - 1)])


def draw(looks: np.ndarray, curves: dict[str, np.ndarray], seconds: dict[str, float], path: Path) -> None:
    """Median gap to the best against passes and against seconds."""
    figure, (left, right) = panels(2, sharey=True, high=4.4)
    for i, (name, curve) in enumerate(curves.items()):
        style: dict[str, Any] = {
            "label": name,
            **line_style(i),
            "markevery": max(1, len(looks) // 6),
        }
        gap = np.maximum(curve, 1e-9)
        left.loglog(looks, gap, **style)
        right.loglog(looks * seconds[name], gap, **style)
    left.set(xlabel="passes over the data", ylabel="nats below the best, median")
    right.set_xlabel("seconds")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save_figure(figure, path)


if __name__ == "__main__":
    run(EmVsGradientConfig, em_vs_gradient)
