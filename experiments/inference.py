"""How sure is jaxem, and is it right? Coverage of intervals, errors against the true spread, p-values under the null.

Sets of rows are drawn from a mixture of two components in two columns, and Full is fitted to each from the truth, so that
components keep their places and the optimum is the one near it. The noise of the components is normal, or it is not: then
what the fits estimate is the best fit to a very large sample (White 1982). Three kinds of errors and of 95 per cent intervals:

    standard    by the observed information, intervals that stay in the parameters' range
    robust      by the sandwich, the estimate +- 1.96 errors
    bootstrap   standard deviation and quantiles over refits to the rows with random weights

The true spread is the standard deviation of the estimates over the sets. The p-values are those of one Gaussian against two of
the same variance, where one is true. Neither the statistic nor its law depends on place and scale there: with r replicates a
p-value is at most j / (r + 1) with just that probability, but for ties.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import scipy.stats
from jax import Array

import jaxem
from experiments.common import Config, Positive, hardware, line_style, panels, run, save_figure, write_csv

LEVEL = 0.95
KINDS = np.array(["weights", *["means"] * 4, *["covariances"] * 6])
"""the kind of each number that `distinct` gives"""
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "student": lambda rng, shape: rng.standard_t(8, shape) * np.sqrt(6 / 8),
    "skewed": lambda rng, shape: 0.5 * rng.gamma(4.0, size=shape) - 2.0,
}
"""noise of mean 0 and variance 1"""
TOGETHER = 20
"""sets that are fitted at once"""
MARKERS = ("o", "s", "^")
METHODS = ("standard", "robust", "bootstrap")


class Study(Config):
    """Sets of n rows of one law; the first few of them are bootstrapped too."""

    law: Literal["normal", "student", "skewed"]
    n: Positive
    sets: Annotated[int, pydantic.Field(gt=1)]
    bootstraps: Annotated[int, pydantic.Field(ge=0)]


class InferenceConfig(Config):
    """configs/inference.toml"""

    seed: int
    studies: list[Study]
    replicates: Annotated[int, pydantic.Field(gt=1)]
    large: Positive
    tests: Positive
    test_n: Positive
    test_replicates: Positive
    test_starts: Positive
    timed_replicates: Annotated[int, pydantic.Field(gt=1)]


class Measured(NamedTuple):
    """What one study found of each of the eleven distinct parameters."""

    study: Study
    used: dict[str, int]  # method -> sets
    covered: dict[str, np.ndarray]  # method -> [sets, 11] of bool
    ratio: dict[str, np.ndarray]  # method -> [11], median error / true spread


def true_mixture() -> jaxem.Mixture:
    """Two components, clearly but not fully separated."""
    covariances = jnp.array([[[1.0, 0.3], [0.3, 0.8]], [[0.7, -0.3], [-0.3, 1.2]]])
    components = jaxem.GaussianParams(jnp.array([[0.0, 0.0], [3.0, 1.0]]), covariances)
    return jaxem.Mixture(jnp.log(jnp.array([0.4, 0.6])), components, jaxem.Full())


def drawn(law: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Rows `[*shape, 2]` with the weights, means and covariances of the true mixture and noise of this law."""
    truth = true_mixture()
    label = (rng.uniform(size=shape) < truth.weights[1]).astype(int)
    factors = np.linalg.cholesky(np.asarray(truth.components.covariances))
    noise = NOISE[law](rng, (*shape, 2))
    return np.asarray(truth.components.means)[label] + np.einsum("...ij,...j->...i", factors[label], noise)


def distinct(of: Any) -> np.ndarray:
    """The free natural parameters of a Full mixture of two components in two columns, or of numbers in its shape, `[..., 11]`."""
    weights, means, covariances = (np.asarray(leaf) for leaf in (of.weights, *of.components))
    batch = weights.shape[:-1]
    below = covariances[..., *np.tril_indices(2)]
    return np.concatenate([weights[..., :1], means.reshape(*batch, 4), below.reshape(*batch, 6)], axis=-1)


@jax.jit
def fitted(start: jaxem.Mixture, x: Array) -> tuple[jaxem.Mixture, Array]:
    """The fit to each of the sets `[s, n, 2]`, and its status."""
    fits = jax.vmap(lambda rows: jaxem.fit(start, rows, accelerator=jaxem.hybrid()))(x)
    return fits.mixture, fits.status


def apart(batch: tuple[jaxem.Mixture, Array]) -> Iterator[tuple[jaxem.Mixture, Array]]:
    """Fits one by one, on the host."""
    mixtures, status = jax.device_get(batch)
    return ((mixtures[i], status[i]) for i in range(len(status)))


def measured(study: Study, replicates: int, start: jaxem.Mixture, rng: np.random.Generator) -> Measured:
    """Coverage of what `start` says, and errors against the true spread, on fresh sets."""
    x = drawn(study.law, rng, (study.sets, study.n))
    fits = [fit for i in range(0, study.sets, TOGETHER) for fit in apart(fitted(start, x[i : i + TOGETHER]))]
    truth = distinct(start)
    found: dict[str, list[tuple[np.ndarray, ...]]] = {method: [] for method in METHODS}  # of (error, lower, upper)
    estimates = []
    z = scipy.stats.norm.ppf(0.5 + 0.5 * LEVEL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sets without errors are counted instead
        for i, (fit, status) in enumerate(fits):
            if jaxem.Status(int(status)).failed:
                continue
            summary = jaxem.summary(fit, x[i], level=LEVEL)
            estimate, error, robust = map(distinct, (summary.estimate, summary.standard_error, summary.robust_error))
            if not np.isfinite(error).all():
                continue
            estimates.append(estimate)
            found["standard"].append((error, distinct(summary.lower), distinct(summary.upper)))
            found["robust"].append((robust, estimate - z * robust, estimate + z * robust))
            if len(found["bootstrap"]) < study.bootstraps:
                refits = jaxem.bootstrap(jax.random.key(i), fit, x[i], n_replicates=replicates)
                ends = map(distinct, refits.interval(LEVEL))
                found["bootstrap"].append((distinct(refits.standard_error), *ends))
    spread = np.std(estimates, axis=0, ddof=1)
    columns = {method: [np.array(column) for column in zip(*of, strict=True)] for method, of in found.items() if of}
    return Measured(
        study,
        {method: len(of) for method, of in found.items()},
        {method: (lower <= truth) & (truth <= upper) for method, (_, lower, upper) in columns.items()},
        {method: np.median(error, axis=0) / spread for method, (error, *_) in columns.items()},
    )


def share(covered: np.ndarray) -> tuple[float, float]:
    """The share of parameters that are covered and its standard error over sets, `covered` `[sets, p]`."""
    by_set = covered.mean(axis=1)
    return float(by_set.mean()), float(by_set.std(ddof=1) / np.sqrt(len(by_set)))


def inference(config: InferenceConfig, out: Path) -> Iterator[str]:
    """Coverage of intervals, errors against the true spread, p-values under the null."""
    yield f"measured on {hardware()}"
    rng = np.random.default_rng(config.seed)
    best = {"normal": true_mixture()}
    studies, rows = [], []
    for study in config.studies:
        if study.law not in best:
            x = drawn(study.law, rng, (config.large,))
            best[study.law] = jaxem.fit(true_mixture(), x, accelerator=jaxem.hybrid()).mixture
        found = measured(study, config.replicates, best[study.law], rng)
        studies.append(found)
        for method, covered in found.covered.items():
            for kind in ("all", *dict.fromkeys(KINDS)):
                of_kind = np.full(len(KINDS), True) if kind == "all" else kind == KINDS
                ratio = float(np.exp(np.mean(np.log(found.ratio[method][of_kind]))))
                at = (study.law, study.n, method, found.used[method], kind)
                rows.append((*at, *share(covered[:, of_kind]), ratio))
        yield told(found)
    header = ["law", "n", "errors", "sets", "parameters", "coverage", "standard error of it", "error / true spread"]
    write_csv(out / "inference.csv", header, rows)
    yield timed(config.timed_replicates)
    p_values = tested(config, rng)
    write_csv(out / "inference_p_values.csv", ["p-value"], [[p] for p in p_values])
    draw(studies, p_values, out / "inference.png")
    test = scipy.stats.kstest(p_values, "uniform")
    low = ", ".join(f"{np.mean(p_values <= level + 1e-9):.1%} at most {level:g}" for level in (0.05, 0.1, 0.5))
    yield (
        f"p-values of {len(p_values)} sets of {config.test_n} rows under the null: {low}; Kolmogorov-Smirnov distance "
        f"{test.statistic:.3f} from uniform, p = {test.pvalue:.2f} (they come in steps of {1 / (1 + config.test_replicates):.3g})"
    )
    last = [found for found in studies if found.study.law == "normal"]
    if last:
        most = max(last, key=lambda found: found.used["standard"])
        mean, error = share(most.covered["standard"])
        verdict = "within" if 0.935 <= mean <= 0.965 else "outside"
        yield (
            f"at n = {most.study.n} the intervals of summary cover {mean:.1%} +- {error:.1%} of all parameters, "
            f"{verdict} 93.5 to 96.5 per cent"
        )


def told(found: Measured) -> str:
    """One line of a study: coverage and error / spread by each kind of errors."""
    parts = []
    for method, covered in found.covered.items():
        by_kind = ", ".join(f"{kind} {covered[:, kind == KINDS].mean():.1%}" for kind in dict.fromkeys(KINDS))
        mean, error = share(covered)
        ratio = float(np.exp(np.mean(np.log(found.ratio[method]))))
        parts.append(f"{method} {mean:.1%} +- {error:.1%} ({by_kind}; error / spread {ratio:.2f})")
    lost = found.study.sets - found.used["standard"]
    return (
        f"{found.study.law}, n = {found.study.n}, {found.used['standard']} sets ({lost} without errors, "
        f"{found.used['bootstrap']} bootstrapped): {'; '.join(parts)}"
    )


def timed(replicates: int) -> str:
    """CPU seconds of a bootstrap of Old Faithful, the first time and once it is compiled."""
    x = jaxem.datasets.faithful()
    fit = jaxem.search(jax.random.key(0), jaxem.Full(), x, 2).best.mixture
    seconds = []
    for kind in ("weighted", "multinomial", "weighted", "multinomial"):
        begun = time.process_time()
        jaxem.bootstrap(jax.random.key(1), fit, x, n_replicates=replicates, kind=kind)
        seconds.append(time.process_time() - begun)
    return (
        f"{replicates} refits of Old Faithful, K = 2, Full: weighted {seconds[0]:.1f} CPU s with compiling and {seconds[2]:.2f} "
        f"without, multinomial {seconds[1]:.1f} and {seconds[3]:.2f}"
    )


def tested(config: InferenceConfig, rng: np.random.Generator) -> np.ndarray:
    """P-values of one Gaussian against two of the same variance on sets of one Gaussian."""
    p_values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few starts: like is compared with like
        for i in range(config.tests):
            x, key = rng.normal(size=(config.test_n, 1)), jax.random.key(i)
            replicates, starts = config.test_replicates, config.test_starts
            found = jaxem.likelihood_ratio_test(
                key, jaxem.TiedSpherical(), x, 1, n_replicates=replicates, n_starts=starts
            )
            p_values.append(found.p_value)
    return np.array(p_values)


def draw(studies: list[Measured], p_values: np.ndarray, path: Path) -> None:
    """Coverage against n; errors against the true spread under each law; a histogram of the p-values."""
    figure, (of_n, of_law, of_p) = panels(3, columns=1)
    normal = sorted((found for found in studies if found.study.law == "normal"), key=lambda found: found.study.n)
    for i, method in enumerate(METHODS):
        style: dict[str, Any] = {**line_style(i), "label": method}
        there = [found for found in normal if method in found.covered]
        mean, error = np.array([share(found.covered[method]) for found in there]).reshape(-1, 2).T
        of_n.errorbar([found.study.n for found in there], mean, 1.96 * error, capsize=2, **style)
        known = [found for found in studies if method in found.ratio and found.used["bootstrap"]]
        for kind, moved in (("weights", -0.2), ("means", 0.0), ("covariances", 0.2)):
            height = [np.exp(np.mean(np.log(found.ratio[method][kind == KINDS]))) for found in known]
            places = np.arange(len(known)) + moved + 0.05 * (i - 1)
            style |= {"linestyle": "", "label": method if kind == "means" else None}
            of_law.plot(places, height, **style)
        names = [f"{found.study.law}\nn = {found.study.n}" for found in known]
        of_law.set_xticks(np.arange(len(names)), names)
    of_n.axhspan(0.935, 0.965, color="0.9")
    of_n.axhline(LEVEL, color="0.4", linewidth=0.8)
    of_n.set(xscale="log", xlabel="rows", ylabel="share of parameters covered", title="95 per cent intervals, normal")
    of_law.axhline(1.0, color="0.4", linewidth=0.8)
    of_law.set(ylabel="error / true spread", title="weights, means, covariances (left to right)")
    bins = 10
    of_p.hist(p_values - 1e-9, bins=bins, range=(0, 1), color="0.7", edgecolor="black")
    expected = len(p_values) / bins
    of_p.axhline(expected, color="black", linewidth=0.8)
    for ends in (-1.96, 1.96):
        of_p.axhline(expected + ends * np.sqrt(expected * (1 - 1 / bins)), color="black", linewidth=0.8, linestyle=":")
    of_p.set(xlabel="p-value", ylabel="sets", title="one Gaussian against two, one is true")
    for panel in (of_n, of_law):
        panel.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(InferenceConfig, inference)
