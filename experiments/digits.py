"""Mixture models and digit classification: images of hand-written digits, turned and shifted until there are n = 100,000
rows, fitted by EM, the clusters as a classifier.

    python -m experiments.digits configs/digits.toml [--images FILE --labels FILE]

The images are MNIST's in idx format (plain or .gz) where files are given, else scikit-learn's 8 x 8 digits, enlarged. They
are split into training and held-out images first. Only the training part is enlarged to n, by turns of up to ten degrees
and shifts of up to one pixel, drawn from the config's seed. The lecture gives d = 676 for images of 784 pixels:
676 = 26 x 26 is the image without its one-pixel border (`crop = 26`); both are run.

Models: Spherical (the lecture's) and Diagonal on grey pixels from 0 to 1, Bernoulli on black and white (above one half), and
Full on the first principal components. Pixels that never vary have no variance: `variance_floor` keeps Diagonal finite,
`Beta(2, 2)` Bernoulli; both are priors, so EM climbs log-likelihood + log prior, and each log-likelihood told is without it.
The floor raises every variance by floor n / N_k, and a component pays for each pixel: a floor as large as a rarely inked
pixel's variance is worth merging the clusters for, which the runs with several floors show.

A cluster is named after labels of training images, by the matching with most hits (Hungarian; Kuhn 1955) or by the most
frequent label in it; accuracy and the adjusted Rand index are those of the held-out images.
"""

import gzip
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pydantic
from scipy.ndimage import affine_transform, zoom
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, confusion_matrix
from sklearn.mixture import GaussianMixture

import jaxem
from experiments.common import Config, ConfigError, Positive, hardware, panels, run, save_figure, write_csv

SIDE = 28
STARTING = 10_000
"""images that starts are drawn from"""


class DigitsConfig(Config):
    """configs/digits.toml"""

    seed: int
    images: str
    labels: str
    n: Positive
    held_out: Annotated[float, pydantic.Field(gt=0, lt=1)]
    k: Positive
    more_k: list[Positive]
    restarts: Positive
    few_restarts: Positive
    many_restarts: Positive
    max_iter: Positive
    principal: Positive
    floors: Annotated[list[float], pydantic.Field(min_length=1)]
    compared_iterations: Positive


class Images(NamedTuple):
    """Grey images from 0 to 1, `[n, 28, 28]`, and their labels `[n]`."""

    pixels: np.ndarray
    labels: np.ndarray


class Digits(NamedTuple):
    """What is fitted, `[n, d]`, and what is held out."""

    training: np.ndarray
    training_labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray


# -- the data ------------------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in idx format, plain or gzipped."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ConfigError(f"{path} is no idx file of bytes; give MNIST's, plain or .gz")
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    if len(content) - 4 - 4 * content[3] != int(np.prod(shape, dtype=object)):
        raise ConfigError(f"{path} is truncated: it has {len(content)} bytes for the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def originals(config: DigitsConfig) -> tuple[Images, str]:
    """The images as they were written, and where they come from."""
    if bool(config.images) != bool(config.labels):
        missing = "labels" if config.images else "images"
        raise ConfigError(f"{missing}: a file is missing; give both --images and --labels, or neither")
    if config.images:
        pixels, labels = read_idx(Path(config.images)), read_idx(Path(config.labels))
        if pixels.shape[1:] != (SIDE, SIDE) or labels.shape != pixels.shape[:1]:
            raise ConfigError(
                f"images: {config.images} has shape {pixels.shape}, labels {labels.shape}; give [n, 28, 28] and [n]"
            )
        return Images(pixels.astype(np.float32) / 255, labels.astype(int)), Path(config.images).name
    small = load_digits()
    grown = np.stack([zoom(image / 16, 3, order=1) for image in small.images])  # 24 x 24
    return Images(
        np.pad(grown, [(0, 0), (2, 2), (2, 2)]).astype(np.float32), small.target
    ), "scikit-learn's digits, enlarged"


def enlarged(images: Images, n: int, rng: np.random.Generator) -> Images:
    """n images: each original once, then turned and shifted ones, until there are enough."""
    source = np.concatenate([np.arange(len(images.labels)), rng.integers(len(images.labels), size=n)])[:n]
    pixels = images.pixels[source]
    centre = (SIDE - 1) / 2
    for i in range(len(images.labels), n):
        angle, shift = np.deg2rad(rng.uniform(-10, 10)), rng.integers(-1, 2, size=2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = centre - turn @ (np.array([centre, centre]) + shift)
        pixels[i] = affine_transform(pixels[i], turn, offset, order=1)
    return Images(pixels, images.labels[source])


def cropped(images: np.ndarray, side: int) -> np.ndarray:
    """Images without their border, as rows `[n, side * side]`."""
    border = (SIDE - side) // 2
    inner = images[:, border : SIDE - border, border : SIDE - border]
    return np.ascontiguousarray(inner).reshape(len(images), side * side)


def made(config: DigitsConfig) -> tuple[Images, Images, str]:
    """Training images, enlarged, and held-out ones, as they were."""
    images, source = originals(config)
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(images.labels))
    held = max(1, int(config.held_out * len(order)))
    parts = (Images(images.pixels[index], images.labels[index]) for index in (order[held:], order[:held]))
    training, held_out = parts
    biggest = max([config.k, *config.more_k])
    if biggest > min(config.n, STARTING, len(training.labels)):
        raise ConfigError(f"k: {biggest} clusters of {min(config.n, len(training.labels))} images; give fewer")
    return enlarged(training, config.n, rng), held_out, source


# -- a fit and its worth -------------------------------------------------------------------------------------------------


class Worth(NamedTuple):
    """What one fit came to; likelihoods per image, without the prior."""

    model: str
    d: int
    k: int
    restarts: int
    prior: str
    training: float
    held_out: float
    matched: float
    majority: float
    ari: float
    seconds: float
    passes: int
    status: str


def climbed(
    family: jaxem.Family,
    x: np.ndarray,
    k: int,
    restarts: int,
    config: DigitsConfig,
    prior: jaxem.Prior | None = None,
    starts: jaxem.Mixture | None = None,
) -> tuple[jaxem.Result, float]:
    """All restarts from random rows or given starts, accelerated, and the seconds they took, compiling among them."""
    begun = time.perf_counter()
    if starts is None:
        starts = jaxem.starts(jax.random.key(config.seed), family, x[:STARTING], k, restarts, jaxem.RandomPoints())
    options = {"max_iter": config.max_iter, "accelerator": jaxem.hybrid(), "prior": prior}
    results = jaxem.fit_restarts(starts, x, **options)
    jax.block_until_ready(results.objective)
    return results, time.perf_counter() - begun


def as_diagonal(spherical: jaxem.Mixture) -> jaxem.Mixture:
    """The same densities in the larger family: where Diagonal's climbs start.

    From random rows with the pooled variances all images would go to one component: a pixel that is hardly ever inked has
    hardly any variance, and whoever has ink there is far from all others.
    """
    means, variances = spherical.components
    params = jaxem.GaussianParams(means, jnp.broadcast_to(variances[..., None], means.shape))
    return jaxem.Mixture(spherical.log_weights, params, jaxem.Diagonal())


def named(clusters: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """For each cluster its label by the best matching (-1 if it has none) and by majority."""
    table = np.zeros((k, 10), int)
    np.add.at(table, (clusters, labels), 1)
    matched = np.full(k, -1)
    rows, columns = linear_sum_assignment(-table)
    matched[rows] = columns
    return matched, table.argmax(axis=1)


def worth(
    model: str, result: jaxem.Result, data: Digits, restarts: int, seconds: float, passes: int, prior: str = "none"
) -> Worth:
    """A fit's likelihoods and, as a classifier, its accuracy."""
    mixture, k = result.mixture, result.mixture.n_components
    names = named(np.asarray(mixture.predict(data.training)), data.training_labels, k)
    clusters = np.asarray(mixture.predict(data.held_out))
    matched, majority = (float(np.mean(name[clusters] == data.held_out_labels)) for name in names)
    return Worth(
        model=model,
        d=data.training.shape[1],
        k=k,
        restarts=restarts,
        prior=prior,
        training=float(result.log_likelihood) / len(data.training),
        held_out=float(np.mean(np.asarray(mixture.log_prob(data.held_out), float))),
        matched=matched,
        majority=majority,
        ari=float(adjusted_rand_score(data.held_out_labels, clusters)),
        seconds=seconds,
        passes=passes,
        status=jaxem.Status(int(result.status)).name,
    )


def told(one: Worth) -> str:
    """A line of it."""
    climbs = f"{one.restarts} {'restart' if one.restarts == 1 else 'restarts'}"
    prior = "" if one.prior == "none" else f", {one.prior}"
    status = "" if one.status in ("CONVERGED", "PRECISION_LIMITED") else f"; {one.status}"
    return (
        f"{one.model}, d = {one.d}, K = {one.k}, {climbs}{prior}: log-likelihood an image {one.training:.3f}, "
        f"held out {one.held_out:.3f}; accuracy {one.matched:.3f} matched, {one.majority:.3f} by majority; ARI {one.ari:.3f}; "
        f"{one.seconds:.1f} s, {one.passes} passes{status}"
    )


# -- the experiment ------------------------------------------------------------------------------------------------------


def digits(config: DigitsConfig, out: Path) -> Iterator[str]:
    """Mixture models and digit classification."""
    yield f"measured on {hardware()}"
    training, held_out, source = made(config)
    constant = int(np.sum(np.ptp(training.pixels[:STARTING].reshape(min(STARTING, config.n), -1), axis=0) == 0))
    yield (
        f"{source}: {config.n} training images, {len(held_out.labels)} held out; {constant} of {SIDE * SIDE} pixels are "
        f"constant in {min(STARTING, config.n)} of them"
    )
    found: list[Worth] = []

    def data_of(side: int) -> Digits:
        return Digits(cropped(training.pixels, side), training.labels, cropped(held_out.pixels, side), held_out.labels)

    def keep(one: Worth) -> str:
        found.append(one)  # what is finished is on disk, whatever comes
        write_csv(out / "digits.csv", Worth._fields, found)
        return told(one)

    def fitted(
        model: str,
        family: jaxem.Family,
        data: Digits,
        k: int,
        restarts: int,
        prior: jaxem.Prior | None = None,
        name: str = "none",
        starts: jaxem.Mixture | None = None,
    ) -> tuple[str, jaxem.Result]:
        results, seconds = climbed(family, data.training, k, restarts, config, prior, starts)
        passes = int(np.sum(np.asarray(results.n_iter) + 1))
        return keep(worth(model, jaxem.best(results), data, restarts, seconds, passes, name)), results

    grey = data_of(SIDE)
    line, results = fitted("Spherical", jaxem.Spherical(), grey, config.k, config.restarts)
    first, lecture = found[0], jaxem.best(results)
    yield line
    draw_means(lecture, out / "digits_means.png")
    draw_confusion(lecture, grey, out / "digits_confusion.png")
    small = data_of(26)
    yield fitted("Spherical", jaxem.Spherical(), small, config.k, config.restarts)[0]
    del small
    yield beside_sklearn(grey, config, out)
    few = config.few_restarts  # of what takes long
    wider = as_diagonal(results.mixture)[:few]
    for floor in config.floors:
        prior = jaxem.variance_floor(grey.training, floor)
        called = f"variance_floor {floor:g}"
        yield fitted("Diagonal", jaxem.Diagonal(), grey, config.k, min(few, config.restarts), prior, called, wider)[0]
    for k in (config.k, *config.more_k):
        restarts = config.restarts if k == config.k else few
        black = Digits(
            (grey.training > 0.5).astype(np.float32), grey.training_labels,
            (grey.held_out > 0.5).astype(np.float32), grey.held_out_labels,
        )  # fmt: skip
        yield fitted("Bernoulli", jaxem.Bernoulli(), black, k, restarts, jaxem.Beta(2.0, 2.0), "Beta(2, 2)")[0]
        del black
    for k in config.more_k:
        yield fitted("Spherical", jaxem.Spherical(), grey, k, few)[0]
    yield fitted("Full, PCA", jaxem.Full(), principal(grey, config.principal), config.k, few)[0]
    line, results = fitted("Spherical", jaxem.Spherical(), grey, config.k, config.many_restarts)
    yield line
    yield against_restarts(results, grey, config, out)
    yield f"accuracy {first.matched:.3f} ari {first.ari:.3f} log_likelihood_per_image {first.training:.1f}"


def principal(data: Digits, d: int) -> Digits:
    """The first d principal components of the training images, and the held-out ones in them."""
    mean = data.training.mean(axis=0, dtype=np.float64)
    centred = (data.training - mean).astype(np.float32)
    vectors = np.linalg.eigh(np.float64(centred.T @ centred) / len(centred))[1][:, ::-1][:, :d].astype(np.float32)
    return data._replace(training=centred @ vectors, held_out=(data.held_out - mean).astype(np.float32) @ vectors)


def beside_sklearn(data: Digits, config: DigitsConfig, out: Path) -> str:
    """The same iterations from the same start by scikit-learn: likelihood and time."""
    k, turns = config.k, config.compared_iterations
    start = jaxem.starts(
        jax.random.key(config.seed), jaxem.Spherical(), data.training[:STARTING], k, 1, jaxem.RandomPoints()
    )[0]
    means, variances = (np.asarray(leaf, float) for leaf in start.components)
    weights = np.asarray(start.weights, float)
    x = data.training.astype(np.float64)  # scikit-learn's raw moments lose digits in float32
    theirs = GaussianMixture(
        k, covariance_type="spherical", weights_init=weights / weights.sum(), means_init=means,
        precisions_init=1 / variances, reg_covar=0.0, tol=0.0, max_iter=turns,
    )  # fmt: skip
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(x)
    slow = (time.perf_counter() - begun) / (turns + 1)  # its last E-step labels the rows
    forever = jaxem.GainBelow(-jnp.inf)
    ours = jaxem.fit(start, data.training, stop=forever, max_iter=turns)
    jax.block_until_ready(ours.objective)  # compiled
    begun = time.perf_counter()
    jax.block_until_ready(jaxem.fit(start, data.training, stop=forever, max_iter=turns).objective)
    fast = (time.perf_counter() - begun) / (turns + 1)
    expected = float(theirs.score(x[: STARTING * 2]))
    reached = float(np.mean(np.asarray(ours.mixture.log_prob(data.training[: STARTING * 2]), float)))
    gap = abs(reached - expected) / abs(expected)
    write_csv(
        out / "digits_sklearn.csv",
        ["who", "iterations", "log-likelihood an image", "seconds an iteration"],
        [("jaxem, float32", turns, reached, fast), ("scikit-learn, float64", turns, expected, slow)],
    )
    return (
        f"beside scikit-learn from the same start, {turns} iterations: log-likelihood an image {reached:.4f} (jaxem, float32) "
        f"and {expected:.4f} (scikit-learn, float64), {gap:.1e} apart; {fast * 1e3:.0f} and {slow * 1e3:.0f} ms an iteration, "
        f"{slow / fast:.1f} times"
    )


def against_restarts(results: jaxem.Result, data: Digits, config: DigitsConfig, out: Path) -> str:
    """Accuracy of the best by likelihood of r restarts, over random orders, and the landscape of optima."""
    values = np.where(np.isin(np.asarray(results.status), (4, 5)), -np.inf, np.asarray(results.objective, float))
    accuracy = []
    for i in range(len(values)):
        mixture = results.mixture[i]
        matched = named(
            np.asarray(mixture.predict(data.training[:STARTING])), data.training_labels[:STARTING], config.k
        )[0]
        accuracy.append(np.mean(matched[np.asarray(mixture.predict(data.held_out))] == data.held_out_labels))
    rng = np.random.default_rng(config.seed)
    orders = np.array([rng.permutation(len(values)) for _ in range(300)])
    counts = np.arange(1, len(values) + 1)
    leader = np.array([[order[np.argmax(values[order[:r]])] for r in counts] for order in orders])
    curve = np.asarray(accuracy)[leader]
    write_csv(
        out / "digits_restarts.csv",
        ["restarts", "accuracy"],
        zip(counts.tolist(), curve.mean(axis=0).tolist(), strict=True),
    )
    figure, (left, right) = panels(2, columns=1)
    left.plot(counts, curve.mean(axis=0), color="#0072B2")
    left.fill_between(counts, *np.quantile(curve, [0.1, 0.9], axis=0), color="#0072B2", alpha=0.2, linewidth=0)
    left.set(
        xlabel="restarts, the likeliest kept", ylabel="accuracy, held-out images", title="accuracy against restarts"
    )
    jaxem.plots.plot_landscape(jaxem.landscape(results, tol=1.0), ax=right)
    right.set_title(f"landscape of optima, {len(values)} restarts")
    save_figure(figure, out / "digits_restarts.png")
    likelihood = float(np.corrcoef(values[np.isfinite(values)], np.asarray(accuracy)[np.isfinite(values)])[0, 1])
    return (
        f"1 restart against {len(values)}: accuracy {curve[:, 0].mean():.3f} and {curve[:, -1].mean():.3f}; over restarts "
        f"likelihood and accuracy correlate by {likelihood:.2f}"
    )


def draw_means(result: jaxem.Result, path: Path) -> None:
    """The mean images, by weight."""
    order = np.argsort(-np.asarray(result.mixture.log_weights))
    means, weights = np.asarray(result.mixture.components.means), np.asarray(result.mixture.weights)
    columns = min(10, len(order))
    figure, panels = plt.subplots(
        -(-len(order) // columns), columns, figsize=(1.1 * columns, 1.35 * -(-len(order) // columns)), squeeze=False
    )
    for panel in panels.flat:
        panel.axis("off")
    for panel, j in zip(panels.flat, order, strict=False):
        panel.imshow(means[j].reshape(SIDE, SIDE), cmap="gray_r")
        panel.set_title(f"{weights[j]:.2f}")
    save_figure(figure, path)


def draw_confusion(result: jaxem.Result, data: Digits, path: Path) -> None:
    """Held-out labels against clusters, matched."""
    k = result.mixture.n_components
    matched, majority = named(np.asarray(result.mixture.predict(data.training)), data.training_labels, k)
    name = np.where(matched >= 0, matched, majority)
    table = confusion_matrix(
        data.held_out_labels, name[np.asarray(result.mixture.predict(data.held_out))], labels=np.arange(10)
    )
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, panel = plt.subplots(figsize=(5.4, 5.0))
    panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(10, 10):
        if share[i, j] >= 0.01:
            panel.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=10,
                       color="white" if share[i, j] > 0.5 else "black")  # fmt: skip
    panel.set(xticks=range(10), yticks=range(10), xlabel="cluster, matched to a label", ylabel="label",
              title="held-out images, per cent of a label")  # fmt: skip
    save_figure(figure, path)


if __name__ == "__main__":
    run(DigitsConfig, digits, paths=("images", "labels"))
