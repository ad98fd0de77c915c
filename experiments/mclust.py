"""jaxem against R's mclust, fit by fit, on the data of mclust's examples and of others that R ships.

mclust fits each K once, from hierarchical clustering (Scrucca et al. 2016), with the models that are jaxem's forms: VII, VVI,
EEE and VVV, or V and E of one column. `jaxem.search` fits the same rows from several seeds. Both are judged by jaxem: the
parameters that mclust found are put into a Mixture, and its log-likelihood and status are those of `jaxem.fit` without a turn.
Only sound fits of mclust are compared. Where mclust is higher its fit is climbed on, which shows whether an optimum is there.

Needs R with mclust. Where they are missing one line says so, and nothing is written.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxem
from experiments.common import Config, Positive, hardware, run, save_figure, write_csv
from experiments.reference import FAMILIES, Covariance
from jaxem.program import forget_programs

SAME = 0.01
"""nats within which two fits are equal"""
GROUPS = {"K <= 6": range(1, 7), "K >= 7": range(7, 10**6)}
VERDICTS = ["mclust above all", "mclust above some", "equal", "jaxem above", "mclust unsound", "mclust without a fit"]
"""all searches, or some of them, end more than `SAME` nats below mclust; none does; the best one is above; no comparison"""
PROGRAM = Path(__file__).with_suffix(".R")
COLOURS = {"spherical": "#0072B2", "diag": "#D55E00", "tied": "#009E73", "full": "#CC79A7"}


class MclustConfig(Config):
    """configs/mclust.toml; `data` are R's expressions by name."""

    seeds: Positive
    k: list[Positive]
    covariances: list[Covariance]
    data: dict[str, str]


class Asked(NamedTuple):
    """What R answers: rows `[n, d]`, and by form and K a table `[K, 2 + d + d * d]`, missing where mclust has no fit."""

    x: np.ndarray
    fits: dict[tuple[Covariance, int], np.ndarray]


class Theirs(NamedTuple):
    """A fit of mclust as jaxem sees it; `reported` is the log-likelihood that mclust gives."""

    mixture: jaxem.Mixture
    status: jaxem.Status
    log_likelihood: float
    reported: float


class Pair(NamedTuple):
    """One problem: mclust's fit, None if it has none, and where jaxem's searches ended, -inf unless sound."""

    data: str
    k: int
    covariance: Covariance
    theirs: Theirs | None
    ours: list[float]
    climbed_on: str = ""

    @property
    def name(self) -> str:
        """What lines call it."""
        return f"{self.data}, K = {self.k}, {self.covariance}"

    @property
    def compared(self) -> bool:
        """Whether mclust has a sound fit."""
        return self.theirs is not None and not self.theirs.status.failed

    @property
    def gaps(self) -> list[float]:
        """Nats by which each search is above mclust; NaN if mclust has no sound fit."""
        return [value - self.theirs.log_likelihood if self.theirs and self.compared else np.nan for value in self.ours]

    @property
    def lost(self) -> list[int]:
        """Seeds of the searches that mclust is higher than."""
        return [seed for seed, gap in enumerate(self.gaps) if gap < -SAME]

    @property
    def verdict(self) -> str:
        """Who is higher, one of VERDICTS; jaxem by its best search, if mclust is higher than none."""
        if not self.compared:
            return "mclust without a fit" if self.theirs is None else "mclust unsound"
        if self.lost:
            return "mclust above all" if len(self.lost) == len(self.ours) else "mclust above some"
        return "jaxem above" if max(self.gaps) > SAME else "equal"


def version() -> str | None:
    """mclust's version, or None if R or mclust is missing."""
    if shutil.which("Rscript") is None:
        return None
    command = ["Rscript", "-e", 'cat(as.character(packageVersion("mclust")))']
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def ask(expression: str, config: MclustConfig) -> Asked:
    """Let R read the data and mclust fit them; ValueError with R's last words if it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        words = [folder, expression, ",".join(map(str, config.k)), ",".join(config.covariances)]
        done = subprocess.run(["Rscript", "--vanilla", str(PROGRAM), *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise ValueError(f"R cannot give {expression}: {' '.join(done.stderr.split()) or 'it says nothing'}")

        def read(name: str) -> np.ndarray:
            return np.loadtxt(Path(folder) / name, delimiter=",", ndmin=2)

        wanted = [(form, k) for form in config.covariances for k in config.k]
        there = [(form, k) for form, k in wanted if (Path(folder) / f"{form}-{k}.csv").exists()]
        return Asked(read("x.csv"), {(form, k): read(f"{form}-{k}.csv") for form, k in there})


def theirs(fit: np.ndarray, x: np.ndarray, covariance: Covariance) -> Theirs:
    """mclust's parameters in a Mixture, and what jaxem says there."""
    d = x.shape[1]
    log_likelihood, weights, means, sigma = np.split(fit, [1, 2, 2 + d], axis=1)
    full = sigma.reshape(-1, d, d)
    variances = {"spherical": full[:, 0, 0], "diag": np.einsum("kii->ki", full), "tied": full[0], "full": full}
    with np.errstate(divide="ignore"):  # a component that died has weight 0
        log_weights = np.log(weights[:, 0])
    parameters = jaxem.GaussianParams(jnp.asarray(means), jnp.asarray(variances[covariance]))
    mixture = jaxem.Mixture(jnp.asarray(log_weights), parameters, FAMILIES[covariance])
    seen = jaxem.fit(mixture, x, max_iter=0)
    return Theirs(mixture, jaxem.Status(int(seen.status)), float(seen.log_likelihood), float(log_likelihood[0, 0]))


def compare(name: str, asked: Asked, k: int, covariance: Covariance, seeds: int) -> Pair:
    """One problem, fitted by both."""
    fit = asked.fits.get((covariance, k))
    seen = None if fit is None else theirs(fit, asked.x, covariance)
    ours = []
    for seed in range(seeds):
        best = jaxem.search(jax.random.key(seed), FAMILIES[covariance], asked.x, k).best
        ours.append(-np.inf if jaxem.Status(int(best.status)).failed else float(best.log_likelihood))
    pair = Pair(name, k, covariance, seen, ours)
    if seen is not None and pair.lost:
        further = jaxem.fit(seen.mixture, asked.x, accelerator=jaxem.hybrid())
        climbed_on = f"{jaxem.Status(int(further.status)).name} at {float(further.log_likelihood):.4f}"
        pair = pair._replace(climbed_on=climbed_on)
    return pair


def mclust(config: MclustConfig, out: Path) -> Iterator[str]:
    """Who finds the higher log-likelihood, R's mclust or search, fit by fit."""
    there = version()
    if there is None:
        yield "R or its package mclust is missing, so nothing is compared; install both and see that Rscript is on the PATH"
        return
    yield f"measured on {hardware()}, mclust {there}"
    pairs: list[Pair] = []
    for name, expression in config.data.items():
        try:
            asked = ask(expression, config)
        except ValueError as error:
            yield f"{name} is left out: {error}"
            continue
        # of one column Diagonal and Full are Spherical
        forms = [form for form in config.covariances if asked.x.shape[1] > 1 or form in ("spherical", "tied")]
        for k in (k for k in config.k if k <= len(asked.x)):
            for form in forms:
                pairs.append(compare(name, asked, k, form, config.seeds))
                if pairs[-1].lost:
                    yield told(pairs[-1], config.seeds)
        write_csv(out / "mclust.csv", header(config), [row(pair) for pair in pairs])  # an interrupted run keeps it
        forget_programs()
    draw(pairs, out / "mclust.png")
    yield from table(pairs)
    sound, lost = sum(pair.compared for pair in pairs), sum(bool(pair.lost) for pair in pairs)
    every = sum(pair.verdict == "mclust above all" for pair in pairs)
    yield (
        f"of {sound} sound fits, mclust is more than {SAME} nats above some of {config.seeds} searches in {lost}, "
        f"and above all of them in {every}"
    )


def told(pair: Pair, seeds: int) -> str:
    """A line on a problem where mclust is higher."""
    return (
        f"{pair.name}: mclust is higher than {len(pair.lost)} of {seeds} searches (seeds {', '.join(map(str, pair.lost))}), "
        f"by {-min(pair.gaps):.3f} nats at most; its fit climbed on: {pair.climbed_on}"
    )


def header(config: MclustConfig) -> list[str]:
    """Names of the columns of the CSV."""
    mine = [f"jaxem, seed {seed}" for seed in range(config.seeds)]
    return ["data", "K", "covariance", "verdict", "mclust", "mclust says", "status", *mine, "seeds below", "climbed on"]


def row(pair: Pair) -> list[object]:
    """The line of a problem in the CSV; -inf is a search that ended at no sound optimum."""
    seen = pair.theirs
    given = [seen.log_likelihood, seen.reported, seen.status.name] if seen else ["", "", ""]
    below = " ".join(map(str, pair.lost))
    return [pair.data, pair.k, pair.covariance, pair.verdict, *given, *pair.ours, below, pair.climbed_on]


def table(pairs: list[Pair]) -> Iterator[str]:
    """A line a group of K: who is above how often, and where there is no sound fit."""
    yield "  ".join([f"{'group':<7}", "fits", *VERDICTS, "jaxem unsound"])
    for group, members in GROUPS.items():
        mine = [pair for pair in pairs if pair.k in members]
        if mine:
            counts = [f"{sum(pair.verdict == name for pair in mine):>{len(name)}}" for name in VERDICTS]
            unsound = sum(max(pair.ours) == -np.inf for pair in mine)
            yield "  ".join([f"{group:<7}", f"{len(mine):>4}", *counts, f"{unsound:>13}"])


def draw(pairs: list[Pair], path: Path) -> None:
    """Nats by which each search is above mclust, against K."""
    figure, panel = plt.subplots(figsize=(6.5, 3.8))
    for i, (form, colour) in enumerate(COLOURS.items()):
        points = [(pair.k, gap) for pair in pairs if pair.covariance == form for gap in pair.gaps if np.isfinite(gap)]
        if points:
            k, gaps = np.array(points).T
            panel.plot(k + 0.15 * (i - 1.5), gaps, ".", color=colour, markersize=4, label=form)
    panel.axhspan(-SAME, SAME, color="0.85", zorder=0)
    panel.set_yscale("symlog", linthresh=SAME)
    panel.set(xlabel="K", ylabel="search above mclust, nats")
    if panel.has_data():
        panel.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    run(MclustConfig, mclust)
