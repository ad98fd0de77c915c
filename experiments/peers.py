"""Other libraries' EM, each behind one function: from data and a start, the time of one iteration and where it leads.

A peer is asked for the time of one iteration and for the parameters after `steps` of them from the given start. What it
does not offer it says by `UnsupportedError`; one that is not installed is found by `importlib`.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class UnsupportedError(Exception):
    """The peer has no such model."""


class Start(NamedTuple):
    """Where all begin: weights `[k]`, means `[k, d]` and covariances in jaxem's form of the family."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


class Outcome(NamedTuple):
    """Seconds of one iteration, and the parameters after `steps`."""

    seconds: float
    end: Start


NAMES = {"Spherical": "spherical", "Diagonal": "diag", "Tied": "tied", "Full": "full"}


def median_of(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def sklearn(x: np.ndarray, start: Start, family: str, steps: int, repeats: int, *, thread: bool = False) -> Outcome:
    """scikit-learn: the difference of fits of 6 and of 2 iterations, with one BLAS thread or, unless `thread`, with all if
    that is faster.
    """
    from sklearn.mixture import GaussianMixture

    precisions = np.linalg.inv(start.covariances) if start.covariances.ndim > 1 + (family == "Diagonal") else None
    precisions = 1.0 / start.covariances if family in ("Spherical", "Diagonal") else precisions

    def fit(max_iter: int) -> Any:
        model = GaussianMixture(
            len(start.weights),
            covariance_type=NAMES[family],
            tol=0.0,
            reg_covar=0.0,
            max_iter=max_iter,
            weights_init=start.weights,
            means_init=start.means,
            precisions_init=precisions,
            init_params="random_from_data",
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(x)

    def of_turn() -> float:
        return (median_of(lambda: fit(6), 1) - median_of(lambda: fit(2), 1)) / 4

    fit(1)
    taken = []
    for count in (1,) if thread else (1, None):
        with blas_threads(count):
            taken.append(float(np.median([of_turn() for _ in range(repeats)])))
    seconds, end = min(taken), fit(steps)
    return Outcome(seconds, Start(end.weights_, end.means_, end.covariances_))


def blas_threads(count: int | None) -> Any:
    """A scope in which numpy's BLAS and OpenMP have `count` threads, by default all."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(count)


def gmmx(x: np.ndarray, start: Start, family: str, steps: int, repeats: int) -> Outcome:
    """gmmx: E- and M-step under one jit; it has no spherical models, diagonal ones stand for them."""
    if family == "Tied" or x.dtype != np.float32:
        raise UnsupportedError
    with jax.enable_x64(False):
        return _gmmx(x, start, family, steps, repeats)


def _gmmx(x: np.ndarray, start: Start, family: str, steps: int, repeats: int) -> Outcome:
    from gmmx import EMFitter, GaussianMixtureModelJax

    covariances = start.covariances
    if family == "Spherical":
        covariances = np.repeat(covariances[:, None], start.means.shape[1], axis=1)
    model = GaussianMixtureModelJax.from_squeezed(
        means=start.means,
        covariances=covariances,
        weights=start.weights,
        covariance_type="full" if family == "Full" else "diag",
    )
    fitter, data = EMFitter(reg_covar=0.0), jnp.asarray(x)
    step = jax.jit(lambda model, data: fitter.m_step(data, model, fitter.e_step(data, model)[1]))
    jax.block_until_ready(step(model, data))
    seconds = median_of(lambda: jax.block_until_ready(step(model, data)), repeats)
    if family == "Spherical":
        return Outcome(seconds, Start(*(np.full_like(leaf, np.nan) for leaf in start)))
    for _ in range(steps):
        model = step(model, data)
    squeezed = (np.squeeze(np.asarray(leaf)) for leaf in (model.weights, model.means, model.covariances.values))
    return Outcome(seconds, Start(*squeezed))


def torchgmm(x: np.ndarray, start: Start, family: str, steps: int, repeats: int) -> Outcome:
    """torchgmm: its model and aggregators, as its training step uses them, without the trainer around them."""
    import torch
    from torchgmm.bayes.core import cholesky_precision
    from torchgmm.bayes.gmm.metrics import CovarianceAggregator, MeanAggregator, PriorAggregator
    from torchgmm.bayes.gmm.model import GaussianMixtureModel, GaussianMixtureModelConfig

    (k, d), kind = start.means.shape, NAMES[family]
    model = GaussianMixtureModel(GaussianMixtureModelConfig(num_components=k, num_features=d, covariance_type=kind))
    data = torch.from_numpy(x)

    def put(weights: Any, means: Any, covariances: Any) -> None:
        model.component_probs.copy_(torch.as_tensor(weights))
        model.means.copy_(torch.as_tensor(means))
        model.precisions_cholesky.copy_(cholesky_precision(torch.as_tensor(covariances), kind))

    def step() -> Any:
        prior, mean = PriorAggregator(k), MeanAggregator(k, d)
        covariance = CovarianceAggregator(k, d, kind, reg=0.0)
        log_resp, _ = model.forward(data)
        resp = log_resp.exp()
        prior.update(resp)
        mean.update(data, resp)
        means = mean.compute()
        covariance.update(data, resp, means)
        covariances = covariance.compute()
        put(prior.compute(), means, covariances)
        return covariances

    with torch.no_grad():
        put(*start)
        step()
        seconds = median_of(step, repeats)
        put(*start)
        for _ in range(steps):
            covariances = step()
        return Outcome(seconds, Start(model.component_probs.numpy(), model.means.numpy(), covariances.numpy()))


def pomegranate(x: np.ndarray, start: Start, family: str, steps: int, repeats: int) -> Outcome:
    """pomegranate: `summarize` and `from_summaries`, its own two halves of an iteration."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    if family not in ("Diagonal", "Full"):
        raise UnsupportedError
    kind, data = NAMES[family], torch.from_numpy(x)

    def model() -> Any:
        parts = [
            Normal(torch.tensor(mean), torch.tensor(covariance), covariance_type=kind)
            for mean, covariance in zip(start.means, start.covariances, strict=True)
        ]
        return GeneralMixtureModel(parts, priors=torch.tensor(start.weights))

    def step(mixture: Any) -> None:
        mixture.summarize(data)
        mixture.from_summaries()

    timed = model()
    step(timed)
    seconds = median_of(lambda: step(timed), repeats)
    end = model()
    for _ in range(steps):
        step(end)
    means, covariances = (np.stack([getattr(p, name).numpy() for p in end.distributions]) for name in ("means", "covs"))
    return Outcome(seconds, Start(end.priors.numpy(), means, covariances))


PEERS: dict[str, Callable[..., Outcome]] = {
    "scikit-learn": sklearn,
    "gmmx": gmmx,
    "torchgmm": torchgmm,
    "pomegranate": pomegranate,
}


def installed(name: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec({"scikit-learn": "sklearn"}.get(name, name)) is not None
