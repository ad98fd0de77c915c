"""jaxem against R's mclust, fit by fit, on the data of mclust's examples and of others that R ships.

mclust fits each K once, from hierarchical clustering (Scrucca et al. 2016), with the models VII, VVI, EEE and VVV, or V and E
of one column; some data are fitted with the other ten of its fourteen models too. `jaxem.search` fits the same rows from
several seeds. Both are judged by jaxem: the parameters that mclust found are put into a Mixture, and its log-likelihood and
status are those of `jaxem.fit` without a turn. Only sound fits of mclust are compared. Where mclust is higher its fit is
climbed on, which shows whether an optimum is there.

Needs R with mclust. Where they are missing one line says so, and nothing is written.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxem
from experiments.common import Config, Positive, hardware, run, save_figure, write_csv
from jaxem.checks import as_family
from jaxem.program import forget_programs

SAME = 0.01
"""nats within which two fits are equal"""
GROUPS = {"K <= 6": range(1, 7), "K >= 7": range(7, 10**6)}
VERDICTS = ["mclust above all", "mclust above some", "equal", "jaxem above", "mclust unsound", "mclust without a fit"]
"""all searches, or some of them, end more than `SAME` nats below mclust; none does; the best one is above; no comparison"""
PROGRAM = Path(__file__).with_suffix(".R")
COLOURS = {"spherical": "#0072B2", "diag": "#D55E00", "tied": "#009E73", "full": "#CC79A7"}
OTHERS = "0.5"
"""the colour of the other models"""
Form = Literal[
    "spherical", "diag", "tied", "full", "eii", "eei", "vei", "evi", "vee", "eve", "vve", "eev", "vev", "evv"
]


class More(Config):
    """More models for some of the data."""

    data: list[str]
    k: list[Positive]
    covariances: list[Form]


class MclustConfig(Config):
    """configs/mclust.toml; `data` are R's expressions by name."""

    seeds: Positive
    k: list[Positive]
    covariances: list[Form]
    data: dict[str, str]
    more: More

    def problems(self, name: str) -> list[tuple[Form, int]]:
        """The models and K for the data of a name."""
        asked = [(form, k) for k in self.k for form in self.covariances]
        if name in self.more.data:
            asked += [(form, k) for k in self.more.k for form in self.more.covariances]
        return asked


class Asked(NamedTuple):
    """What R answers: rows `[n, d]`, and by form and K a table `[K, 2 + d + d * d]`, missing where mclust has no fit."""

    x: np.ndarray
    fits: dict[tuple[Form, int], np.ndarray]


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
    covariance: Form
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


def family_of(form: Form) -> jaxem.Family:
    """The family of a model."""
    return as_family(form)


def ask(expression: str, problems: list[tuple[Form, int]]) -> Asked:
    """Let R read the data and mclust fit them; ValueError with R's last words if it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        words = [folder, expression, ",".join(f"{form}-{k}" for form, k in problems)]
        done = subprocess.run(["Rscript", "--vanilla", str(PROGRAM), *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise ValueError(f"R cannot give {expression}: {' '.join(done.stderr.split()) or 'it says nothing'}")

        def read(name: str) -> np.ndarray:
            return np.loadtxt(Path(folder) / name, delimiter=",", ndmin=2)

        there = [(form, k) for form, k in problems if (Path(folder) / f"{form}-{k}.csv").exists()]
        return Asked(read("x.csv"), {(form, k): read(f"{form}-{k}.csv") for form, k in there})


def theirs(fit: np.ndarray, x: np.ndarray, covariance: Form) -> Theirs:
    """mclust's parameters in a Mixture, and what jaxem says there."""
    d = x.shape[1]
    log_likelihood, weights, means, sigma = np.split(fit, [1, 2, 2 + d], axis=1)
    full = sigma.reshape(-1, d, d)
    with np.errstate(divide="ignore"):  # a component that died has weight 0
        log_weights = np.log(weights[:, 0])
    family = family_of(covariance)
    parameters: Any
    if isinstance(family, jaxem.Ellipsoidal):
        parameters = family.from_covariances(jnp.asarray(means), jnp.asarray(full))
    else:
        diagonals = np.einsum("kii->ki", full)
        variances = {"spherical": diagonals[:, 0], "diag": diagonals, "tied": full[0], "full": full}
        variances |= {"eii": diagonals[0, 0], "eei": diagonals[0]}
        parameters = jaxem.GaussianParams(jnp.asarray(means), jnp.asarray(variances[covariance]))
    mixture = jaxem.Mixture(jnp.asarray(log_weights), parameters, family)
    seen = jaxem.fit(mixture, x, max_iter=0)
    return Theirs(mixture, jaxem.Status(int(seen.status)), float(seen.log_likelihood), float(log_likelihood[0, 0]))


def compare(name: str, asked: Asked, k: int, covariance: Form, seeds: int) -> Pair:
    """One problem, fitted by both."""
    fit = asked.fits.get((covariance, k))
    seen = None if fit is None else theirs(fit, asked.x, covariance)
    ours = []
    for seed in range(seeds):
        best = jaxem.search(jax.random.key(seed), family_of(covariance), asked.x, k).best
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
            asked = ask(expression, config.problems(name))
        except ValueError as error:
            yield f"{name} is left out: {error}"
            continue
        for form, k in config.problems(name):
            # of one column Diagonal and Full are Spherical
            if k <= len(asked.x) and (asked.x.shape[1] > 1 or form in ("spherical", "tied")):
                pairs.append(compare(name, asked, k, form, config.seeds))
                if pairs[-1].lost:
                    yield told(pairs[-1], config.seeds)
        write_csv(out / "mclust.csv", header(config), [row(pair) for pair in pairs])  # an interrupted run keeps it
        forget_programs()
    draw(pairs, out / "mclust.png")
    yield from table(pairs)
    yield from by_model(pairs)
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


def by_model(pairs: list[Pair]) -> Iterator[str]:
    """A line a model: the least and the largest gap of all searches, in nats, where mclust has a sound fit."""
    for form in dict.fromkeys(pair.covariance for pair in pairs):
        mine = [pair for pair in pairs if pair.covariance == form]
        gaps = [gap for pair in mine if pair.compared for gap in pair.gaps]
        reach = f"search above mclust by {min(gaps):.4f} to {max(gaps):.4f} nats" if gaps else "nothing to compare"
        yield f"{form:<9} {len(mine):>3} fits, {sum(pair.compared for pair in mine):>3} sound: {reach}"


def draw(pairs: list[Pair], path: Path) -> None:
    """Nats by which each search is above mclust, against K."""
    figure, panel = plt.subplots()
    for i, (form, colour) in enumerate((COLOURS | {"others": OTHERS}).items()):
        of_form = [pair for pair in pairs if COLOURS.get(pair.covariance, OTHERS) == colour]
        points = [(pair.k, gap) for pair in of_form for gap in pair.gaps if np.isfinite(gap)]
        if points:
            k, gaps = np.array(points).T
            panel.plot(k + 0.15 * (i - 2), gaps, jaxem.plots.MARKERS[i], color=colour, markersize=4, label=form)
    panel.axhspan(-SAME, SAME, color="0.85", zorder=0)
    panel.set_yscale("symlog", linthresh=SAME)
    panel.set(xlabel="K", ylabel="search above mclust, nats")
    if panel.has_data():
        panel.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(MclustConfig, mclust)
