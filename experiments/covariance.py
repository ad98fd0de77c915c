"""The lecture's closing note, general covariance matrices: Spherical, Diagonal, Tied and Full where each is right and wrong.

Data are drawn from a mixture of each form (three components in two dimensions), and every form is fitted to each by
`search`. How often does BIC (Schwarz 1978) choose the form that the data came from, as n grows? What does a wrong form cost,
in nats a row on fresh rows? A panel shows what the relative sizes of the sigmas do: of two spherical components the one
with the smaller sigma owns the rows near its mean and the other all that are far, so the border between them is a circle
(with equal sigmas a line), whatever the means.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
import jaxem.plots
from experiments.common import Config, Positive, hardware, line_style, panels, run, save_figure, write_csv

FORMS: dict[str, jaxem.Family] = {
    "Spherical": jaxem.Spherical(),
    "Diagonal": jaxem.Diagonal(),
    "Tied": jaxem.Tied(),
    "Full": jaxem.Full(),
}
MEANS = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 4.5]])
WEIGHTS = np.array([0.4, 0.35, 0.25])


class CovarianceConfig(Config):
    """configs/covariance.toml"""

    seed: int
    n: list[Positive]
    repeats: Positive
    budget: Positive
    fresh: Positive


def turned(long: float, short: float, angle: float) -> np.ndarray:
    """A covariance of two deviations along axes turned by an angle."""
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return axes @ np.diag([long**2, short**2]) @ axes.T


TRUTH = {
    "Spherical": np.stack([s**2 * np.eye(2) for s in (0.6, 1.0, 1.4)]),
    "Diagonal": np.stack([np.diag([1.5, 0.3]), np.diag([0.3, 1.4]), np.diag([1.0, 0.5])]),
    "Tied": np.stack([turned(1.3, 0.5, 0.7)] * 3),
    "Full": np.stack([turned(1.4, 0.4, 0.6), turned(1.2, 0.5, 2.2), turned(0.8, 0.6, 1.2)]),
}


def drawn(form: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows `[n, 2]` of a mixture of this form."""
    label = rng.choice(3, n, p=WEIGHTS)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(TRUTH[form])[label], rng.normal(size=(n, 2)))
    return MEANS[label] + noise


def true_density(form: str, x: np.ndarray) -> np.ndarray:
    """The log density of rows under what they came from."""
    params = jaxem.GaussianParams(jnp.asarray(MEANS), jnp.asarray(TRUTH[form]))
    return np.asarray(jaxem.Mixture(jnp.log(jnp.asarray(WEIGHTS)), params, jaxem.Full()).log_prob(x))


def covariance(config: CovarianceConfig, out: Path) -> Iterator[str]:
    """Which form of covariances is right, and how often BIC knows."""
    yield f"measured on {hardware()}"
    rng = np.random.default_rng(config.seed)
    chosen: dict[tuple[str, int], list[str]] = {}
    losses: dict[tuple[str, str, int], list[float]] = {}
    for n in config.n:
        for truth in FORMS:
            fresh = drawn(truth, config.fresh, rng)
            ceiling = true_density(truth, fresh).mean()
            for repeat in range(config.repeats):
                x = drawn(truth, n, rng)
                bics = {}
                for name, family in FORMS.items():
                    found = jaxem.search(jax.random.key(repeat), family, x, 3, budget=config.budget).best
                    failed = jaxem.Status(int(found.status)).failed
                    of_fit = jaxem.criteria.criteria(float(found.log_likelihood), found.mixture.n_parameters, n)
                    bics[name] = np.inf if failed else of_fit.bic
                    loss = ceiling - float(np.mean(np.asarray(found.mixture.log_prob(fresh))))
                    losses.setdefault((truth, name, n), []).append(loss)
                chosen.setdefault((truth, n), []).append(min(bics, key=lambda name: bics[name]))
    rows = [
        (truth, name, n, chosen[truth, n].count(name) / config.repeats, float(np.mean(losses[truth, name, n])))
        for truth, n in chosen
        for name in FORMS
    ]
    write_csv(out / "covariance.csv", ["data", "fitted", "n", "chosen by BIC", "loss in nats a row"], rows)
    draw(config, rows, out / "covariance.png")
    draw_sigmas(out / "covariance_sigmas.png")
    for n in config.n:
        told = ", ".join(f"{truth} {chosen[truth, n].count(truth) / config.repeats:.0%}" for truth in FORMS)
        yield f"BIC picks the form the data came from, n = {n}: {told}"
    last = config.n[-1]
    told = "; ".join(
        f"{truth} data fitted by {name} {loss:.3f}" for truth, (loss, name) in dearest(losses, last).items()
    )
    right = np.mean([chosen[truth, last].count(truth) / config.repeats for truth in FORMS])
    yield f"the dearest mistakes at n = {last}, nats a fresh row: {told}"
    yield f"BIC picks the right form in {right:.0%} of data sets of {last} rows"


def dearest(losses: dict[tuple[str, str, int], list[float]], n: int) -> dict[str, tuple[float, str]]:
    """For each kind of data the form that costs most, and how much."""
    return {truth: max((float(np.mean(losses[truth, name, n])), name) for name in FORMS) for truth in FORMS}


def draw(config: CovarianceConfig, rows: list[tuple[str, str, int, float, float]], path: Path) -> None:
    """The data with their components, and how often BIC chooses which form."""
    figure, axes = panels(2 * len(FORMS))
    rng = np.random.default_rng(config.seed)
    for top, below, truth in zip(axes[::2], axes[1::2], FORMS, strict=True):
        params = jaxem.GaussianParams(jnp.asarray(MEANS), jnp.asarray(TRUTH[truth]))
        mixture = jaxem.Mixture(jnp.log(jnp.asarray(WEIGHTS)), params, jaxem.Full())
        jaxem.plots.plot_responsibilities(mixture, drawn(truth, 400, rng), ax=top)
        top.set(title=f"data: {truth}", xlabel="", ylabel="", aspect="equal")
        for i, name in enumerate(FORMS):
            share = [row[3] for row in rows if row[:2] == (truth, name)]
            width = 2.8 if name == truth else 1.2
            below.semilogx(config.n, share, label=name, linewidth=width, **line_style(i))
        below.set(xlabel="rows", ylabel="share chosen by BIC", ylim=(-0.05, 1.05))
    axes[1].legend()
    save_figure(figure, path)


def draw_sigmas(path: Path) -> None:
    """What the relative sizes of the sigmas do to the border between two components."""
    figure, axes = panels(4)
    grid = np.linspace(-6, 6, 240)
    across, up = np.meshgrid(grid, grid)
    x = np.stack([across.ravel(), up.ravel()], axis=1)
    for panel, ratio in zip(axes, (1.0, 1.2, 2.0, 4.0), strict=True):
        params = jaxem.GaussianParams(jnp.array([[-1.5, 0.0], [1.5, 0.0]]), jnp.array([1.0, ratio**2]))
        mixture = jaxem.Mixture(jnp.log(jnp.array([0.5, 0.5])), params, jaxem.Spherical())
        resp = np.asarray(mixture.responsibilities(x)).reshape(*across.shape, 2)
        panel.imshow(np.clip(resp @ jaxem.plots.colours(2), 0, 1), origin="lower", extent=(-6, 6, -6, 6), alpha=0.55)
        panel.contour(across, up, resp[..., 0], levels=[0.5], colors="black", linewidths=1)
        jaxem.plots.plot_mixture(mixture, ax=panel)
        panel.set(title=f"sigma_1 / sigma_0 = {ratio:g}", xlabel="", ylabel="", xlim=(-6, 6), ylim=(-6, 6))
    save_figure(figure, path)


if __name__ == "__main__":
    run(CovarianceConfig, covariance)
