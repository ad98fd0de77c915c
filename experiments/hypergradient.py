"""Learning what a fit is given, by gradients of held-out log-likelihood through the fit, with optax.

`jaxem.fit` has derivatives by rows, weights and prior, by the implicit function theorem at the optimum. Two uses:

    prior     a mixture with many parameters is fitted to few rows. Adam learns how strong a Chen-Tan prior is, one number that a
              grid finds as well; and then degrees and diagonal scatter of an inverse Wishart law, too many numbers for a grid
    weights   some rows are corrupted, and a few others are known to be clean. Each row gets a weight, a sigmoid; Adam
              learns the weights by which the fit gives the clean rows the highest log-likelihood     (Ren et al. 2018)

Each fit begins where the last one ended: derivatives by the start are 0. Fresh rows that nothing was learned on are the judge.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pydantic
from jax import Array
from sklearn.metrics import roc_auc_score

import jaxem
from experiments.common import Config, Positive, Sizes, hardware, panels, run, save_figure, write_csv
from experiments.inference import drawn, true_mixture
from jaxem.plots import COLOURS, LINES

PositiveFloat = Annotated[float, pydantic.Field(gt=0)]


class HypergradientConfig(Config):
    """configs/hypergradient.toml"""

    seed: int
    n: Positive
    d: Positive
    held_out: Positive
    steps: Sizes
    rate: PositiveFloat
    grid: Positive
    clean: Positive
    corrupted: Positive
    known_clean: Positive
    weight_steps: Positive
    weight_rate: PositiveFloat
    fresh: Positive


Fit = Callable[[Array, jaxem.Mixture], jaxem.Mixture]
"""What is learned, and a start, to the fit."""


class Learned(NamedTuple):
    """Where Adam ended."""

    free: Array
    mixture: jaxem.Mixture  # the fit there
    path: np.ndarray  # [steps + 1, ...], what was learned so far
    heights: np.ndarray  # [steps + 1], held-out log-likelihood of a row


class Learner:
    """Adam on the mean log-likelihood of `held_out` by a fit."""

    def __init__(self, fit: Fit, held_out: np.ndarray, rate: float) -> None:
        self.optimiser = optax.adam(rate)

        def loss(free: Array, start: jaxem.Mixture) -> tuple[Array, jaxem.Mixture]:
            fitted = fit(free, start)
            return -jnp.mean(fitted.log_prob(held_out)), fitted

        self.look = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def seen(self, free: Array, start: jaxem.Mixture) -> tuple[float, jaxem.Mixture]:
        """Held-out log-likelihood of a row, and the fit."""
        (value, fitted), _ = self.look(free, start)
        return -float(value), fitted

    def learn(self, free: Array, start: jaxem.Mixture, steps: int) -> Learned:
        """Climb from `free`, the first fit from `start`."""
        state, path, heights = self.optimiser.init(free), [free], []
        for _ in range(steps):
            (value, start), slope = self.look(free, start)
            if not np.isfinite(np.asarray(slope)).all():
                raise ValueError("a fit has no isolated maximum, so there is no gradient")
            heights.append(-float(value))
            updates, state = self.optimiser.update(slope, state)
            free = optax.apply_updates(free, updates)
            path.append(free)
        last, mixture = self.seen(free, start)
        return Learned(free, mixture, np.array(path), np.array([*heights, last]))


class Problem(NamedTuple):
    """Rows to fit to, rows to learn on, rows to judge by."""

    x: np.ndarray
    held_out: np.ndarray
    fresh: np.ndarray


def few_rows(config: HypergradientConfig, rng: np.random.Generator) -> tuple[Problem, jaxem.Mixture]:
    """Few rows of two components in `d` columns of unlike scales, and the mixture that they come from."""
    d = config.d
    scale = np.linspace(0.5, 2.0, d)
    factors = (0.15 * rng.normal(size=(2, d, d)) + np.eye(d)) * scale[:, None]
    covariances = np.einsum("kij,klj->kil", factors, factors)
    means = np.stack([np.zeros(d), np.where(np.arange(d) < 2, 5.0, 0.0) * scale])
    truth = jaxem.Mixture(
        jnp.log(jnp.array([0.5, 0.5])), jaxem.GaussianParams(jnp.asarray(means), jnp.asarray(covariances)), jaxem.Full()
    )
    sizes = config.n, config.held_out, config.fresh
    keys = jax.random.split(jax.random.key(config.seed), 3)
    return Problem(*(np.asarray(truth.sample(key, n)[0]) for key, n in zip(keys, sizes, strict=True))), truth


def by_strength(x: np.ndarray) -> Fit:
    """Fits with a Chen-Tan prior; what is learned is the logarithm of its strength."""

    def fit(free: Array, start: jaxem.Mixture) -> jaxem.Mixture:
        prior = jaxem.chen_tan(x, strength=jnp.exp(free))
        return jaxem.fit(start, x, prior=prior, accelerator=jaxem.hybrid()).mixture

    return fit


def by_scatter(x: np.ndarray) -> Fit:
    """Fits with an inverse Wishart prior; what is learned is the logarithm of its degrees and of its scatter's diagonal."""

    def fit(free: Array, start: jaxem.Mixture) -> jaxem.Mixture:
        prior = jaxem.NormalInverseWishart(jnp.exp(free[0]), jnp.diag(jnp.exp(free[1:])))
        return jaxem.fit(start, x, prior=prior, accelerator=jaxem.hybrid()).mixture

    return fit


def by_weights(x: np.ndarray, prior: jaxem.Prior) -> Fit:
    """Fits with weights; what is learned are their logits, one a row."""

    def fit(free: Array, start: jaxem.Mixture) -> jaxem.Mixture:
        return jaxem.fit(start, x, jax.nn.sigmoid(free), prior=prior, accelerator=jaxem.hybrid()).mixture

    return fit


def spoilt(config: HypergradientConfig, rng: np.random.Generator) -> tuple[Problem, np.ndarray]:
    """Clean rows, and rows with noise four times as wide as a component; which ones are corrupted."""
    n = config.clean + config.corrupted
    corrupted = np.arange(n) >= config.clean
    x = drawn("normal", rng, (n,))
    x[corrupted] += 4.0 * rng.normal(size=(config.corrupted, 2))
    return Problem(x, drawn("normal", rng, (config.known_clean,)), drawn("normal", rng, (config.fresh,))), corrupted


def height(mixture: jaxem.Mixture, x: np.ndarray) -> float:
    """The mean log-likelihood of a row."""
    return float(np.mean(np.asarray(mixture.log_prob(x))))


def hypergradient(config: HypergradientConfig, out: Path) -> Iterator[str]:
    """Learn a prior and weights of rows by gradients through the fit."""
    yield f"measured on {hardware()}"
    rng = np.random.default_rng(config.seed)
    rows: list[tuple[str, str, float, float]] = []

    def judged(study: str, name: str, mixture: jaxem.Mixture, problem: Problem) -> str:
        rows.append((study, name, height(mixture, problem.held_out), height(mixture, problem.fresh)))
        return f"{name} {rows[-1][2]:.3f} ({rows[-1][3]:.3f} on fresh rows)"

    few, truth = few_rows(config, rng)
    first = jnp.log(jnp.asarray(1.0 / config.n))
    one = Learner(by_strength(few.x), few.held_out, config.rate)
    start = one.seen(first, truth)[1]
    strength = one.learn(first, start, config.steps[0])
    grid = np.linspace(float(first), np.log(config.n), config.grid)
    on_grid = [one.seen(jnp.asarray(free), start) for free in grid]
    curve = np.array([value for value, _ in on_grid])
    best = int(np.argmax(curve))
    parts = [
        judged("prior", "default 1 / n", start, few),
        judged("prior", f"best of a grid of {config.grid}", on_grid[best][1], few),
        judged("prior", f"strength by {config.steps[0]} gradients", strength.mixture, few),
    ]
    yield f"strength of the prior: grid {np.exp(grid[best]):.2f}, gradients {float(jnp.exp(strength.free)):.2f}"
    spread = jnp.var(few.x, axis=0)
    own = jnp.log(2.0) + strength.free + jnp.concatenate([jnp.zeros(1), jnp.log(spread)])
    more = Learner(by_scatter(few.x), few.held_out, config.rate)
    scatter = more.learn(own, strength.mixture, config.steps[1])
    parts.append(judged("prior", f"degrees and scatter, {config.d + 1} numbers", scatter.mixture, few))
    parts.append(judged("prior", "the truth", truth, few))
    yield f"held-out log-likelihood of a row: {', '.join(parts)}"

    mixed, corrupted = spoilt(config, rng)
    prior = jaxem.chen_tan(mixed.x)  # so that no component can collapse as rows lose their weight
    rows_of = Learner(by_weights(mixed.x, prior), mixed.held_out, config.weight_rate)
    before = rows_of.seen(jnp.zeros(len(mixed.x)), true_mixture())[1]
    weights = rows_of.learn(jnp.zeros(len(mixed.x)), before, config.weight_steps)
    learned = np.asarray(jax.nn.sigmoid(weights.free))
    auc = float(roc_auc_score(corrupted, -learned))
    both = np.concatenate([mixed.x, mixed.held_out])
    none, every = np.zeros(len(mixed.held_out)), np.ones(len(mixed.held_out))
    given = {
        "by the validation rows alone": np.append(0.0 * learned, every),
        "by learned weights and the validation rows": np.append(learned, every),
        "by the clean rows": np.append(~corrupted, none),
        "by the clean and the validation rows": np.append(~corrupted, every),
    }
    fits = {
        name: jaxem.fit(true_mixture(), both, use, prior=prior, accelerator=jaxem.hybrid()).mixture
        for name, use in given.items()
    }
    fits = {"by all rows alike": before, "by learned weights": weights.mixture, **fits}
    parts = [judged("weights", name, mixture, mixed) for name, mixture in fits.items()]
    yield (
        f"weights of {len(corrupted)} rows, {config.corrupted} of them corrupted, by {config.weight_steps} gradients: "
        f"AUC {auc:.3f}; mean weight {learned[~corrupted].mean():.2f} of clean rows, "
        f"{learned[corrupted].mean():.2f} of corrupted ones"
    )
    yield f"log-likelihood of a clean validation row: {', '.join(parts)}"
    write_csv(out / "hypergradient.csv", ["learned", "fit", "held-out rows", "fresh rows"], rows)
    by_row = zip(corrupted.astype(int).tolist(), learned.tolist(), strict=True)
    write_csv(out / "hypergradient_weights.csv", ["corrupted", "weight"], by_row)
    draw((np.exp(grid), curve), strength, scatter, learned, corrupted, out / "hypergradient.png")
    of_fresh = {name: fresh for _, name, _, fresh in rows}
    gain = of_fresh["by learned weights"] - of_fresh["by all rows alike"]
    most = of_fresh["by the clean rows"] - of_fresh["by all rows alike"]
    yield (
        f"gradients end {strength.heights[-1] - curve.max():+.1e} nats a row from the grid's best; learned weights gain "
        f"{gain:.3f} nats a fresh row of the {most:.3f} that is lost to corrupted rows"
    )


def draw(
    grid: tuple[np.ndarray, np.ndarray],
    strength: Learned,
    scatter: Learned,
    weights: np.ndarray,
    corrupted: np.ndarray,
    path: Path,
) -> None:
    """The grid with the way of Adam on it, held-out log-likelihood by steps, and the learned weights."""
    figure, (of_strength, of_steps, of_rows) = panels(3, columns=1)
    of_strength.semilogx(*grid, color=COLOURS[0], label="grid")
    places = np.exp(strength.path)
    of_strength.semilogx(places, strength.heights, "o", color=COLOURS[5], markersize=3, label="Adam")
    of_strength.semilogx(places[-1], strength.heights[-1], "k*", markersize=11, label="its end")
    of_strength.set(xlabel="strength of the prior", ylabel="held out, nats a row", title="one number")
    for i, (name, learned) in enumerate({"strength": strength, "then degrees and scatter": scatter}.items()):
        before = 0 if i == 0 else len(strength.heights) - 1
        steps = before + np.arange(len(learned.heights))
        of_steps.plot(steps, learned.heights, color=COLOURS[i], linestyle=LINES[i], linewidth=2, label=name)
    of_steps.set(xlabel="steps of Adam", ylabel="held out, nats a row", title="more numbers")
    bins = np.linspace(0, 1, 26)
    of_rows.hist(weights[~corrupted], bins, color="0.75", edgecolor="black", linewidth=0.5, label="clean")
    of_rows.hist(weights[corrupted], bins, histtype="step", hatch="///", color="black", label="corrupted")
    of_rows.set(xlabel="learned weight", ylabel="rows", title="weights of rows")
    for panel in (of_strength, of_steps, of_rows):
        panel.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(HypergradientConfig, hypergradient)
