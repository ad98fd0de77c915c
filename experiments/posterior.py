"""What does the normal approximation miss? Intervals of `jaxem.summary` against a posterior, drawn by NUTS with blackjax.

The density that is sampled is that of the free coordinates u of the chart (log ratios of the weights, means, Cholesky
factors with logged diagonals),

    log pi(u) = log-likelihood(constrain(u)) + log prior(constrain(u)) + constant,

with respect to du. There is no Jacobian in it: the prior is a density of the coordinates, the one that `jaxem.fit` climbs
with. So the optimum is the mode, and minus the Hessian there is `jaxem.information`. As laws of natural parameters such
priors read otherwise: Dirichlet(2), stated so, makes the weights uniform.

The prior is Dirichlet(2) with mclust's (`fraley_raftery`), which is proper in these coordinates. The information serves as mass
matrix, chains begin at draws from the normal approximation at the optimum (Hoffman and Gelman 2014; Vehtari et al. 2021).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from blackjax.diagnostics import effective_sample_size, potential_scale_reduction
from jax import Array

import jaxem
from experiments.common import Config, Positive, hardware, panels, run, save_figure, write_csv
from experiments.inference import KINDS, LEVEL, distinct
from jaxem.plots import COLOURS

NAMES = (
    *("p_0", "m_00", "m_01", "m_10", "m_11"),
    *(f"S_{j}{place}" for j in (0, 1) for place in ("00", "10", "11")),
)
"""weight, means and covariances, the first index that of the component"""


class PosteriorConfig(Config):
    """configs/posterior.toml"""

    seed: int
    n: list[Annotated[int, pydantic.Field(gt=20, le=272)]]
    chains: Annotated[int, pydantic.Field(gt=1)]
    warmup: Positive
    draws: Annotated[int, pydantic.Field(gt=1)]
    step_size: Annotated[float, pydantic.Field(gt=0)]


class Draws(NamedTuple):
    """What the chains gave."""

    free: Array  # [chains, draws, p]
    divergent: Array  # [chains, draws]
    accepted: Array  # [chains, draws]
    steps: Array  # [chains, draws], of leapfrog


class Compared(NamedTuple):
    """Posterior and normal approximation, parameter by parameter."""

    n: int
    estimate: np.ndarray  # [11]
    error: np.ndarray
    summary: np.ndarray  # [2, 11], ends of the intervals
    posterior: np.ndarray  # [2, 11], quantiles
    mass: np.ndarray  # [11], of the posterior in the intervals of summary
    plain: np.ndarray  # [11], in estimate +- 1.96 errors

    @property
    def ratio(self) -> np.ndarray:
        """Widths of the posterior's intervals by those of summary's."""
        ratio: np.ndarray = np.diff(self.posterior, axis=0)[0] / np.diff(self.summary, axis=0)[0]
        return ratio


def log_density(like: jaxem.Mixture, x: np.ndarray, prior: jaxem.Prior) -> Callable[[Array], Array]:
    """log pi of free coordinates, up to a constant."""

    def of(free: Array) -> Array:
        mixture = like.constrain(free)
        return jnp.sum(mixture.log_prob(x)) + prior.log_prob(mixture)

    return of


def sampled(density: Callable[[Array], Array], mode: Array, covariance: Array, config: PosteriorConfig) -> Draws:
    """Chains of NUTS with this inverse of the mass matrix."""
    kernel = blackjax.nuts(density, config.step_size, covariance)
    key, own = jax.random.split(jax.random.key(config.seed))
    starts = jax.random.multivariate_normal(own, mode, covariance, (config.chains,))

    def chain(key: Array, start: Array) -> Draws:
        def step(state: blackjax.mcmc.hmc.HMCState, key: Array) -> tuple[blackjax.mcmc.hmc.HMCState, Draws]:
            state, info = kernel.step(key, state)
            seen = state.position, info.is_divergent, info.acceptance_rate, info.num_integration_steps
            return state, Draws(*seen)

        return jax.lax.scan(step, kernel.init(start), jax.random.split(key, config.warmup + config.draws))[1]

    made = jax.jit(jax.vmap(chain))(jax.random.split(key, config.chains), starts)
    return jax.tree.map(lambda leaf: leaf[:, config.warmup :], made)


def compared(mixture: jaxem.Mixture, x: np.ndarray, prior: jaxem.Prior, values: np.ndarray) -> Compared:
    """The intervals of summary, and draws of the distinct parameters `[m, 11]`."""
    summary = jaxem.summary(mixture, x, level=LEVEL, prior=prior)
    estimate, error = distinct(summary.estimate), distinct(summary.standard_error)
    ends = np.stack([distinct(summary.lower), distinct(summary.upper)])
    quantiles = np.quantile(values, [0.5 - 0.5 * LEVEL, 0.5 + 0.5 * LEVEL], axis=0)
    inside = np.mean((ends[0] <= values) & (values <= ends[1]), axis=0)
    plain = np.mean(np.abs(values - estimate) <= 1.959964 * error, axis=0)
    return Compared(len(x), estimate, error, ends, quantiles, inside, plain)


def posterior(config: PosteriorConfig, out: Path) -> Iterator[str]:
    """Intervals of the normal approximation against those of the posterior."""
    yield f"measured on {hardware()}, blackjax {blackjax.__version__}"
    faithful = np.asarray(jaxem.datasets.faithful())
    order = np.random.default_rng(config.seed).permutation(len(faithful))
    found = []
    for n in config.n:
        x = faithful[order[:n]]
        prior = jaxem.fraley_raftery(jaxem.Full(), x, 2) + jaxem.Dirichlet(2.0)
        start = jaxem.starts(jax.random.key(config.seed), jaxem.Full(), x, 2, 1, jaxem.KMeans())[0]
        start = jaxem.sorted_components(start, by="mean")
        mixture = jaxem.fit(start, x, prior=prior, accelerator=jaxem.hybrid()).mixture
        covariance = jnp.linalg.inv(jaxem.information(mixture, x, prior=prior))
        draws = sampled(log_density(mixture, x, prior), mixture.unconstrain(), covariance, config)
        mixtures = jax.vmap(jax.vmap(mixture.constrain))(draws.free)
        values = distinct(mixtures)
        rhat = float(np.max(potential_scale_reduction(values)))
        size = float(np.min(effective_sample_size(values)))
        switched = float(np.mean(values[..., 1] > values[..., 3]))
        yield (
            f"n = {n}: {config.chains} chains of {config.draws} draws, R-hat at most {rhat:.4f}, "
            f"effective draws at least {size:.0f}, {int(np.sum(draws.divergent))} divergences, "
            f"acceptance {float(np.mean(draws.accepted)):.2f}, "
            f"{float(np.mean(draws.steps)):.1f} steps a draw, labels switched in {switched:.1%}"
        )
        one = compared(mixture, x, prior, values.reshape(-1, len(KINDS)))
        found.append(one)
        kinds = "; ".join(
            f"{kind} {one.ratio[kind == KINDS].min():.2f} to {one.ratio[kind == KINDS].max():.2f}, "
            f"{one.mass[kind == KINDS].min():.1%} to {one.mass[kind == KINDS].max():.1%}"
            for kind in dict.fromkeys(KINDS)
        )
        yield f"n = {n}: width of the posterior's interval by that of summary, and posterior mass in summary's: {kinds}"
    header = (
        *("n", "parameter", "estimate", "standard error", "summary lower", "summary upper", "posterior lower"),
        *("posterior upper", "width ratio", "mass in summary's", "mass in estimate +- 1.96 errors"),
    )
    rows = [
        (one.n, *row)
        for one in found
        for row in zip(
            NAMES, one.estimate, one.error, *one.summary, *one.posterior, one.ratio, one.mass, one.plain, strict=True
        )
    ]
    write_csv(out / "posterior.csv", header, rows)
    draw(found, out / "posterior.png")
    told = ", ".join(
        f"{one.mass.mean():.1%} at n = {one.n} (least {one.mass.min():.1%}; estimate +- 1.96 errors {one.plain.mean():.1%}, "
        f"least {one.plain.min():.1%})"
        for one in found
    )
    yield f"95 per cent intervals of summary hold, in the mean over parameters, {told} of the posterior"


def draw(found: list[Compared], path: Path) -> None:
    """Both intervals of each parameter, in standard errors from the estimate."""
    figure, axes = panels(len(found), columns=1)
    places = np.arange(len(NAMES))
    for panel, one in zip(axes, found, strict=True):
        for i, (name, ends) in enumerate({"summary": one.summary, "posterior": one.posterior}.items()):
            low, high = (ends - one.estimate) / one.error
            style = {"linewidth": 5.0, "color": "0.7"} if i == 0 else {"linewidth": 1.8, "color": COLOURS[0]}
            panel.vlines(places + 0.3 * i - 0.15, low, high, label=name, **style)
        for z in (-1.96, 0.0, 1.96):
            panel.axhline(z, color="0.4", linewidth=0.8, linestyle=":" if z else "-", zorder=0)
        panel.set_xticks(places, [f"${name[:2]}{{{name[2:]}}}$" for name in NAMES])
        panel.set_ylabel("standard errors")
        panel.set_title(f"Old Faithful, {one.n} rows")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save_figure(figure, path)


if __name__ == "__main__":
    run(PosteriorConfig, posterior)
