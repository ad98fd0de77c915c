"""Values that were not observed: what does `missing=True` make of them, and what do filling in and leaving out make of them?

Values of a known table are taken out at random. `missing=True` fits what is left, exactly. Beside it stand what people do
otherwise: the mean of its column for a missing value, complete rows only, and scikit-learn's IterativeImputer, which
predicts each column from the others.

* Old Faithful, K = 2, Full. How far is each coordinate of an estimate, in the chart, from that of the complete table? The unit
  is the standard error of the incomplete fit, by `jaxem.information`. All four climb from the complete fit.
* Iris, K = 3, Tied. Each way searches anew. Its labels are compared with those of the complete fit by the adjusted Rand index.
  The mixture of the complete rows labels all rows, by what was observed of them; without a fit its index is 0. Filled-in
  values are compared with those that were taken out, in standard deviations of the columns.
* The time of one more turn of a plain `fit`: the difference between a long call and a short one, divided by the turns. The
  complete rows have the plain family and the same start; the two take turns on the clock.
"""

import dataclasses
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # makes the next import possible
from sklearn.impute import IterativeImputer
from sklearn.metrics import adjusted_rand_score

import jaxem
from experiments.common import Config, Positive, hardware, line_style, panels, run, save_figure, write_csv

METHODS = ("missing=True", "IterativeImputer", "complete rows", "mean of the column")
PLAIN: dict[str, Any] = {
    "Full": jaxem.Full(),
    "Tied": jaxem.Tied(),
    "StudentT": jaxem.StudentT(),
    "Diagonal": jaxem.Diagonal(),
    "Spherical": jaxem.Spherical(),
}


class MissingConfig(Config):
    """configs/missing.toml"""

    seed: int
    share: float
    draws: Positive
    shares: list[float]
    repeats: Positive
    budget: Positive
    rows: Positive
    columns: Positive
    components: Positive
    share_of_rows: float
    turns: list[Positive]
    calls: Positive


def without(rng: np.random.Generator, x: np.ndarray, share: float) -> np.ndarray:
    """`x` `[n, d]` without a share of its values, taken out at random."""
    return np.where(rng.random(x.shape) < share, np.nan, x)


def with_means(x: np.ndarray) -> np.ndarray:
    """`x` with the mean of its column in place of a missing value."""
    return np.where(np.isnan(x), np.nanmean(x, axis=0), x)


def predicted(x: np.ndarray) -> np.ndarray:
    """`x` with scikit-learn's IterativeImputer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after ten rounds it takes what it has
        return np.asarray(IterativeImputer(random_state=0).fit_transform(x))


def complete(x: np.ndarray) -> np.ndarray:
    """The rows of which nothing is missing."""
    return x[~np.isnan(x).any(axis=1)]


def taking_holes(mixture: jaxem.Mixture) -> jaxem.Mixture:
    """The same mixture, of a family that takes missing values."""
    return dataclasses.replace(mixture, family=dataclasses.replace(mixture.family, missing=True))  # type: ignore[type-var]


# -- Old Faithful --------------------------------------------------------------------------------------------------------


def distances(config: MissingConfig) -> dict[str, np.ndarray]:
    """How far estimates are from the complete one, in standard errors, `[draws, p]`; NaN for a fit that failed."""
    x = np.asarray(jaxem.datasets.faithful(), float)
    best = jaxem.search(jax.random.key(config.seed), jaxem.Full(), x, 2, budget=config.budget).best.mixture
    best = climbed(best, x).mixture
    away: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    for draw in range(config.draws):
        holed = without(np.random.default_rng([config.seed, draw]), x, config.share)
        start = taking_holes(best)
        unit = standard_errors(climbed(start, holed).mixture, holed)
        fits = {
            "missing=True": (start, holed),
            "IterativeImputer": (best, predicted(holed)),
            "complete rows": (best, complete(holed)),
            "mean of the column": (best, with_means(holed)),
        }
        for name, (mixture, rows) in fits.items():
            found = climbed(mixture, rows)
            apart = np.asarray((in_chart(found.mixture) - in_chart(best)) / unit)
            away[name].append(np.full_like(apart, np.nan) if has_failed(found) else apart)
    return {name: np.array(rows) for name, rows in away.items()}


def climbed(mixture: jaxem.Mixture, x: np.ndarray) -> jaxem.Result:
    """The maximum that is reached from a mixture."""
    return jaxem.fit(mixture, x, accelerator=jaxem.hybrid(), stop=jaxem.RemainingGainBelow(1e-10))


@jax.jit
def in_chart(mixture: jaxem.Mixture) -> jax.Array:
    """The coordinates of a mixture, `[p]`."""
    return mixture.unconstrain()


def standard_errors(mixture: jaxem.Mixture, x: np.ndarray) -> np.ndarray:
    """Those of the coordinates of the chart, `[p]`."""
    information = np.asarray(jaxem.information(mixture, x))
    return np.asarray(np.sqrt(np.diagonal(np.linalg.inv(information))))


def has_failed(result: jaxem.Result) -> bool:
    """Whether a climb ended without an estimate."""
    return jaxem.Status(int(result.status)).failed


# -- Iris ----------------------------------------------------------------------------------------------------------------


def agreement(config: MissingConfig) -> list[list[Any]]:
    """Share, repeat, method, adjusted Rand index of its labels, and error of its values (None if it fills none in)."""
    x = load_iris().data
    key, spread = jax.random.key(config.seed), x.std(axis=0)

    def searched(family: Any, rows: np.ndarray) -> jaxem.Result:
        return jaxem.search(key, family, rows, 3, budget=config.budget).best

    labels = np.asarray(searched(jaxem.Tied(), x).mixture.predict(x))
    found = list[list[Any]]()
    for share, repeat in itertools.product(config.shares, range(config.repeats)):
        holed = without(np.random.default_rng([config.seed, round(1000 * share), repeat]), x, share)
        rows = complete(holed)
        fits: dict[str, Callable[[], jaxem.Result]] = {
            "missing=True": lambda holed=holed: searched(jaxem.Tied(missing=True), holed),  # type: ignore[misc]
            "IterativeImputer": lambda holed=holed: searched(jaxem.Tied(), predicted(holed)),  # type: ignore[misc]
            "complete rows": lambda rows=rows: searched(jaxem.Tied(), rows),  # type: ignore[misc]
            "mean of the column": lambda holed=holed: searched(jaxem.Tied(), with_means(holed)),  # type: ignore[misc]
        }
        for name, fit in fits.items():
            # a matrix of all columns needs more rows than columns and components
            best = None if name == "complete rows" and len(rows) <= x.shape[1] + 3 else fit()
            filled: np.ndarray | None = {"IterativeImputer": predicted, "mean of the column": with_means}.get(
                name, lambda _: None
            )(holed)
            score = 0.0
            if best is not None and not has_failed(best):
                mixture = best.mixture if filled is not None else taking_holes(best.mixture)
                score = float(adjusted_rand_score(labels, mixture.predict(holed if filled is None else filled)))
                if name == "missing=True":
                    filled = np.asarray(mixture.impute(holed))
            gone = np.isnan(holed)
            error = None if filled is None else float(np.sqrt(np.mean(((filled - x) / spread)[gone] ** 2)))
            found.append([share, repeat, name, score, error])
    return found


# -- the cost of a pass --------------------------------------------------------------------------------------------------


def costs(config: MissingConfig) -> Iterator[list[Any]]:
    """Family, and milliseconds of one more turn, of complete rows and of rows with missing values."""
    rng = np.random.default_rng(config.seed)
    shape = config.components, config.columns
    means = 3.0 * rng.normal(size=shape)
    x = means[rng.integers(shape[0], size=config.rows)] + rng.normal(size=(config.rows, shape[1]))
    holed = without(rng, x, config.share_of_rows)
    for name, family in PLAIN.items():
        start = jaxem.starts(jax.random.key(config.seed), family, x[: 500 * shape[0]], shape[0], 1)[0]
        pairs = (start, x), (taking_holes(start), holed)
        for turns in config.turns:
            for mixture, rows in pairs:
                clocked(mixture, rows, turns)  # compiles
        times = [[clocked_turn(mixture, rows, config.turns) for mixture, rows in pairs] for _ in range(config.calls)]
        yield [name, *(1000 * statistics.median(of) for of in zip(*times, strict=True))]


def clocked_turn(mixture: jaxem.Mixture, x: np.ndarray, turns: list[int]) -> float:
    """Seconds of one more turn."""
    short, long = turns
    return (clocked(mixture, x, long) - clocked(mixture, x, short)) / (long - short)


def clocked(mixture: jaxem.Mixture, x: np.ndarray, turns: int) -> float:
    """Seconds of a plain fit of so many turns."""
    begun = time.perf_counter()
    found = jax.block_until_ready(jaxem.fit(mixture, x, stop=jaxem.GainBelow(-jnp.inf), max_iter=turns))
    took = time.perf_counter() - begun
    if int(found.n_iter) != turns:
        raise ValueError(f"{mixture.family!r} ended after {int(found.n_iter)} of {turns} turns; take other data")
    return took


# -- all of it -----------------------------------------------------------------------------------------------------------


def missing(config: MissingConfig, out: Path) -> Iterator[str]:
    """Estimates, labels and values from tables with missing values, and what a pass over them costs."""
    yield f"measured on {hardware()}"
    away = distances(config)
    rows = [[name, draw, *of_draw] for name, of in away.items() for draw, of_draw in enumerate(of)]
    width = next(iter(away.values())).shape[1]
    write_csv(out / "missing_estimates.csv", ["method", "draw", *(f"coordinate {j}" for j in range(width))], rows)
    yield f"Old Faithful, {config.share:.0%} missing, {config.draws} draws: standard errors from the complete estimate"
    for name, of in away.items():
        far = np.abs(of)
        failed = int(np.isnan(far).any(axis=1).sum())
        within = np.mean(far <= 2)  # a fit that failed is not within
        worst = np.nanmax(np.nanmedian(far, axis=0))
        whole = np.mean((far <= 2).all(axis=1))
        yield (
            f"  {name:20} median {np.nanmedian(far):.2f}, within two {within:.1%}, all coordinates of a draw {whole:.0%}; "
            f"the worst coordinate has a median of {worst:.2f}; {failed} failed"
        )
    found = agreement(config)
    write_csv(out / "missing_labels.csv", ["share", "repeat", "method", "adjusted Rand index", "error"], found)
    yield f"iris, {config.repeats} draws: median adjusted Rand index (root-mean-square error of values)"
    for share in config.shares:
        cells = [
            f"{name} {index:.2f}{'' if error is None else f' ({error:.2f})'}"
            for name, index, error in medians(found, share)
        ]
        yield f"  {share:4.0%} missing: " + ", ".join(cells)
    times = list(costs(config))
    table = [[*row, row[2] / row[1]] for row in times]
    write_csv(out / "missing_cost.csv", ["family", "complete ms", "missing ms", "ratio"], table)
    draw(away, found, table, config, out / "missing.png")
    yield f"one more turn over {config.rows} x {config.columns}, K = {config.components}, {config.share_of_rows:.0%} missing"
    for name, plain, holed, ratio in table:
        yield f"  {name:10} {plain:6.1f} ms complete, {holed:6.1f} ms with missing values, {ratio:.2f} times"


def medians(found: list[list[Any]], share: float) -> Iterator[tuple[str, float, float | None]]:
    """Method, index and error at a share of missing values."""
    for name in METHODS:
        own = [row for row in found if row[0] == share and row[2] == name]
        errors = [row[4] for row in own if row[4] is not None]
        yield name, statistics.median(row[3] for row in own), statistics.median(errors) if errors else None


def draw(
    away: dict[str, np.ndarray], found: list[list[Any]], table: list[list[Any]], config: MissingConfig, path: Path
) -> None:
    """Distances from the complete estimate, labels that agree, errors of values, and times of a turn."""
    figure, (left, right, lower, cost) = panels(4)
    styles = {name: line_style(i) for i, name in enumerate(METHODS)}
    for name, of in away.items():
        far = np.sort(np.abs(of).ravel())
        left.plot(far, np.arange(1, far.size + 1) / far.size, label=name, **styles[name] | {"marker": ""})
    left.axvline(2.0, color="0.6", lw=1, ls=":")
    left.set(
        xscale="log",
        xlim=(1e-2, 30),
        xlabel="standard errors from complete",
        ylabel="share of coordinates",
    )
    left.set_title(f"Old Faithful, {config.share:.0%} missing")
    left.legend()
    for name in METHODS:
        rows = [next(row for row in medians(found, share) if row[0] == name) for share in config.shares]
        right.plot(config.shares, [row[1] for row in rows], **styles[name])
        if rows[0][2] is not None:
            lower.plot(config.shares, [row[2] for row in rows], **styles[name])
    right.set(xlabel="share of values missing", ylabel="adjusted Rand index", title="iris: labels")
    lower.set(xlabel="share of values missing", ylabel="error, in deviations", title="iris: filled in")
    lower.set_ylim(bottom=0)
    places = np.arange(len(table))
    cost.bar(places - 0.2, [row[1] for row in table], 0.4, color="0.7", label="complete rows")
    cost.bar(places + 0.2, [row[2] for row in table], 0.4, color="#0072B2", label="missing=True")
    for place, row in zip(places, table, strict=True):
        cost.text(place + 0.2, row[2], f"{row[3]:.1f}x", ha="center", va="bottom")
    cost.set_xticks(places, [row[0] for row in table])
    cost.set(
        ylabel="ms of one more turn", title=f"{config.rows:,} x {config.columns}, {config.share_of_rows:.0%} missing"
    )
    cost.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(MissingConfig, missing)
