"""float32 against float64 against scikit-learn, as the data move away from the origin and clusters move apart.

Two clusters of unit deviation, `apart` deviations from each other and `offset` from the origin, rounded to float32 first: all
methods see the same numbers, and the truth is EM in float64 on the rows moved back to the origin, which is exact in float64.
Each makes the same number of EM steps from the same start, the clusters themselves; what is compared is the largest error of
a variance, relative to it.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import jaxem
from experiments.common import Config, Positive, hardware, line_style, panels, run, save_figure, write_csv


class PrecisionConfig(Config):
    """configs/precision.toml"""

    seed: int
    n: Positive
    d: Positive
    steps: Positive
    offsets: list[float]
    separations: list[float]


FORMS: dict[str, jaxem.Family] = {
    "full": jaxem.Full(),
    "tied": jaxem.Tied(),
    "diag": jaxem.Diagonal(),
    "spherical": jaxem.Spherical(),
}
METHODS = ("jaxem float32", "jaxem float64", "scikit-learn float32", "scikit-learn float64")


def clusters(config: PrecisionConfig, offset: float, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows `[n, d]` in float32 and their labels."""
    rng = np.random.default_rng(config.seed)
    label = rng.integers(2, size=config.n)
    x = rng.normal(size=(config.n, config.d))
    x[:, 0] += apart * label
    return (x + offset).astype(np.float32), label


def by_jaxem(x: np.ndarray, label: np.ndarray, form: str, steps: int) -> np.ndarray:
    """Variances after so many EM steps from the clusters themselves."""
    resp = jaxem.FromResponsibilities(jnp.asarray(np.eye(2)[label], x.dtype))
    start = jaxem.starts(jax.random.key(0), FORMS[form], x, 2, 1, resp)[0]
    stop = jaxem.GainBelow(-jnp.inf)
    return np.asarray(jaxem.fit(start, x, stop=stop, max_iter=steps).mixture.components.covariances, float)


def by_sklearn(x: np.ndarray, label: np.ndarray, form: str, steps: int) -> np.ndarray:
    """The same by scikit-learn; NaN where it fails."""
    start = np.stack([x[label == j].mean(axis=0, dtype=float) for j in (0, 1)])
    spread = [np.cov(x[label == j].astype(float).T, bias=True).reshape(x.shape[1], -1) for j in (0, 1)]
    share = np.bincount(label) / len(label)
    precisions = {
        "full": np.linalg.inv(spread),
        "tied": np.linalg.inv(np.tensordot(share, spread, 1)),
        "diag": np.array([1 / np.diag(one) for one in spread]),
        "spherical": np.array([1 / np.diag(one).mean() for one in spread]),
    }[form]
    model = GaussianMixture(
        2, covariance_type=form, means_init=start, weights_init=share, precisions_init=precisions, reg_covar=0.0, tol=0.0,
        max_iter=steps,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            return np.asarray(model.fit(x).covariances_, float)
        except ValueError:
            return np.full_like(precisions, np.nan)


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest error of a covariance, relative to the variances."""
    matrices = truth if truth.ndim > 1 and truth.shape[-1] == truth.shape[-2] else None
    scale = np.abs(truth)
    if matrices is not None and truth.ndim >= 2:
        deviations = np.sqrt(np.diagonal(truth, axis1=-2, axis2=-1))
        scale = deviations[..., :, None] * deviations[..., None, :]
    off = np.max(np.abs(found - truth) / scale)
    return float(off) if np.isfinite(off) else float("inf")


def precision(config: PrecisionConfig, out: Path) -> Iterator[str]:
    """What is left of the digits."""
    yield f"measured on {hardware()}"
    rows: list[tuple[str, float, float, str, str, float]] = []
    settings = [("offset", offset, 6.0) for offset in config.offsets] + [
        ("apart", 0.0, apart) for apart in config.separations
    ]
    for varied, offset, apart in settings:
        x, label = clusters(config, offset, apart)
        for form in FORMS:
            truth = by_jaxem(x.astype(float) - offset, label, form, config.steps)
            found = {
                "jaxem float32": by_jaxem(x, label, form, config.steps),
                "jaxem float64": by_jaxem(x.astype(float), label, form, config.steps),
                "scikit-learn float32": by_sklearn(x, label, form, config.steps),
                "scikit-learn float64": by_sklearn(x.astype(float), label, form, config.steps),
            }
            rows += [(varied, offset, apart, form, name, error(value, truth)) for name, value in found.items()]
    write_csv(
        out / "precision.csv", ["varied", "offset", "apart", "covariances", "method", "largest relative error"], rows
    )
    draw(config, rows, out / "precision.png")
    for name in METHODS:
        far = max(row[5] for row in rows if row[4] == name and row[0] == "offset")
        apart = max(row[5] for row in rows if row[4] == name and row[0] == "apart")
        yield (
            f"{name}: largest error of a variance {far:.1e} up to {max(config.offsets):g} from the origin, {apart:.1e} up to "
            f"{max(config.separations):g} deviations apart"
        )
    ours = max(row[5] for row in rows if row[4] == "jaxem float32")
    yield f"in float32 jaxem keeps every variance to {ours:.0e} wherever the data lie"


def draw(config: PrecisionConfig, rows: list[tuple[str, float, float, str, str, float]], path: Path) -> None:
    """Error against offset and separation, the worst of the four forms."""
    figure, (left, right) = panels(2, sharey=True, high=4.2)
    axes = (
        ("offset", config.offsets, "offset, deviations"),
        ("apart", config.separations, "deviations apart"),
    )
    for panel, (varied, values, name) in zip((left, right), axes, strict=True):
        for i, method in enumerate(METHODS):
            at = 1 if varied == "offset" else 2
            worst = [
                max(row[5] for row in rows if (row[0], row[at], row[4]) == (varied, value, method)) for value in values
            ]
            panel.plot(values, np.clip(worst, 1e-16, 1e8), label=method, **line_style(i))
        panel.set(xscale="symlog" if varied == "offset" else "log", yscale="log", xlabel=name)
        panel.axhline(1, color="0.7", linewidth=0.8)
    left.set_ylabel("largest error of a variance, relative")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save_figure(figure, path)


if __name__ == "__main__":
    run(PrecisionConfig, precision)
