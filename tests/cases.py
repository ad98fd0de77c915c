"""The table that laws and oracles run over: families x shapes, with random parameters and data."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_iris

import jaxem
from jaxem import Bernoulli, BernoulliParams, Beta, Diagonal, Family, Full, GaussianParams, Mixture, Spherical, Tied

GAUSSIANS = (Spherical(), Diagonal(), Tied(), Full())
DATA = Path(__file__).parent / "data"


class Rates(NamedTuple):
    rates: jax.Array


@dataclasses.dataclass(frozen=True)
class Poisson(Family):
    """A family as a user would write it: the contract and nothing more."""

    def init(self, x, n_components, sample_weight=None):
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight
        mean = jnp.sum(w[:, None] * x, axis=0) / jnp.sum(w)
        return Rates(jnp.broadcast_to(mean[None, :], (n_components, x.shape[1])))

    def log_prob(self, params, x):
        log_rates = jnp.log(params.rates)
        of_entries = x[:, None, :] * log_rates[None] - params.rates[None] - jax.scipy.special.gammaln(x + 1)[:, None, :]
        return jnp.sum(of_entries, axis=2)

    def suff_stats(self, params, x, resp):
        return jnp.einsum("nk,nd->kd", resp, x, precision="highest")

    def m_step(self, params, counts, stats, prior=None):
        owned = counts > 0
        rates = stats / jnp.where(owned, counts, 1.0)[:, None]
        return Rates(jnp.where(owned[:, None], rates, params.rates))

    def unconstrain(self, params):
        return jnp.log(params.rates).ravel()

    def constrain(self, params, free):
        return Rates(jnp.exp(free).reshape(params.rates.shape))

    def sample(self, key, params, labels):
        return jax.random.poisson(key, params.rates[labels]).astype(params.rates.dtype)


class Case(NamedTuple):
    """A family at a shape; `p` is the number of free parameters, counted by hand."""

    family: Family
    k: int
    d: int
    p: int
    prior: jaxem.Prior | None = None

    @property
    def name(self):
        prior = f"-{'+'.join(type(part).__name__ for part in self.prior.parts())}" if self.prior else ""
        return f"{type(self.family).__name__}-k{self.k}-d{self.d}{prior}"

    def mixture(self, seed=0):
        """A mixture with random parameters."""
        rng, k, d = np.random.default_rng(seed), self.k, self.d
        log_weights = jnp.log(jnp.asarray(rng.dirichlet(3 * np.ones(k))))
        if isinstance(self.family, Bernoulli):
            return Mixture(log_weights, BernoulliParams(jnp.asarray(rng.uniform(0.1, 0.9, (k, d)))), self.family)
        if isinstance(self.family, Poisson):
            return Mixture(log_weights, Rates(jnp.asarray(rng.uniform(0.5, 6.0, (k, d)))), self.family)
        factors = rng.normal(size=(k, d, d)) * 0.4 * min(1.0, np.sqrt(3 / d)) + np.eye(d)  # well conditioned at any d
        matrices = factors @ np.swapaxes(factors, 1, 2)
        covariances = {
            "Spherical": np.trace(matrices, axis1=1, axis2=2) / d,
            "Diagonal": np.diagonal(matrices, axis1=1, axis2=2),
            "Tied": matrices[0],
            "Full": matrices,
        }[type(self.family).__name__]
        means = 2 * rng.normal(size=(k, d))
        return Mixture(log_weights, GaussianParams(jnp.asarray(means), jnp.asarray(covariances)), self.family)

    def data(self, n=60, seed=1):
        """Rows [n, d] of about the mixture's scale, not drawn from it."""
        rng = np.random.default_rng(seed)
        if isinstance(self.family, Bernoulli):
            return (rng.uniform(size=(n, self.d)) < rng.uniform(0.2, 0.8, self.d)).astype(float)
        if isinstance(self.family, Poisson):
            return rng.poisson(3.0, (n, self.d)).astype(float)
        return 2.5 * rng.normal(size=(n, self.d)) + rng.integers(0, 2, (n, 1))


CASES = (
    Case(Spherical(), 3, 2, 3 * 2 + 3 + 2),
    Case(Spherical(), 1, 1, 1 + 1),
    Case(Diagonal(), 2, 1, 2 + 2 + 1),
    Case(Diagonal(), 1, 3, 3 + 3),
    Case(Tied(), 2, 2, 2 * 2 + 3 + 1),  # as many components as features
    Case(Full(), 2, 3, 2 * (3 + 6) + 1),
    Case(Full(), 1, 1, 1 + 1),
    Case(Bernoulli(), 2, 3, 2 * 3 + 1, Beta(2.0, 3.0)),
    Case(Poisson(), 2, 2, 2 * 2 + 1),
    # above 8 features: distances by products, one component at a time
    Case(Spherical(), 2, 10, 2 * 10 + 2 + 1),
    Case(Diagonal(), 2, 10, 2 * 20 + 1),
    Case(Tied(), 3, 9, 3 * 9 + 45 + 2),
    Case(Full(), 2, 9, 2 * (9 + 45) + 1),
)
_KNOWN = 4.0 * np.random.default_rng(3).normal(size=(40, 3)) + 1.0
"""rows that priors are made from; not those of the cases"""
PRIOR_CASES = (
    Case(Full(), 2, 3, 2 * (3 + 6) + 1, jaxem.chen_tan(_KNOWN, strength=0.7) + jaxem.Dirichlet(1.5)),
    Case(Full(), 2, 2, 2 * (2 + 3) + 1, jaxem.fraley_raftery(Full(), _KNOWN[:, :2], 2)),
    Case(Tied(), 2, 3, 2 * 3 + 6 + 1, jaxem.fraley_raftery(Tied(), _KNOWN, 2)),
    Case(Diagonal(), 3, 2, 3 * 4 + 2, jaxem.fraley_raftery(Diagonal(), _KNOWN[:, :2], 3)),
    Case(
        Spherical(),
        2,
        3,
        2 * 3 + 2 + 1,
        jaxem.fraley_raftery(Spherical(), _KNOWN, 2) + jaxem.variance_floor(_KNOWN, 0.1),
    ),
    Case(Bernoulli(), 2, 3, 2 * 3 + 1, Beta(2.0, 3.0) + jaxem.Dirichlet(3.0)),
)
CASES = CASES + PRIOR_CASES
MORE_CASES = (
    Case(Spherical(), 2, 4, 2 * 4 + 2 + 1),
    Case(Diagonal(), 3, 3, 3 * 6 + 2),
    Case(Tied(), 3, 1, 3 + 1 + 2),
    Case(Tied(), 1, 2, 2 + 3),
    Case(Full(), 3, 2, 3 * (2 + 3) + 2),
    Case(Bernoulli(), 3, 4, 3 * 4 + 2),
    Case(Bernoulli(), 1, 1, 1),
    Case(Poisson(), 1, 1, 1),
    Case(Tied(), 3, 1, 3 + 1 + 2, jaxem.chen_tan(_KNOWN[:, :1])),
    Case(Diagonal(), 2, 3, 2 * 6 + 1, jaxem.variance_floor(_KNOWN, 0.5) + jaxem.chen_tan(_KNOWN)),
    Case(Spherical(), 3, 1, 3 + 3 + 2, jaxem.fraley_raftery(Spherical(), _KNOWN[:, :1], 3)),
)
"""more shapes, for -m slow"""
ORACLES = tuple(case for case in CASES if not isinstance(case.family, Poisson) and case not in PRIOR_CASES)


def named(cases):
    """Arguments of pytest.mark.parametrize for a table of cases."""
    return {"argvalues": cases, "ids": [case.name for case in cases]}


def reference_fits():
    """The best known maxima of small real data: tests/data/reference_fits.json."""
    return json.loads((DATA / "reference_fits.json").read_text())["fits"]


def reference_data(name):
    """Data [n, d] of a reference fit."""
    if name == "iris":
        return load_iris().data
    if name == "galaxies":
        return np.loadtxt(DATA / "galaxies.csv", skiprows=1)[:, None] / 1000
    if name == "acidity":
        return np.loadtxt(DATA / "acidity.csv", skiprows=1)[:, None]
    return {"faithful": jaxem.datasets.faithful()}[name]


REFERENCE_FAMILIES = {"full": Full(), "tied": Tied(), "diag": Diagonal(), "spherical": Spherical()}


def blobs(n=400, separation=6.0, d=2, seed=0, step=2.0**-6):
    """Two blobs of unit variance `separation` apart, rows on a grid that float32 holds exactly up to 2**17 away."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    x[: n // 2, 0] += separation
    return np.round(x / step) * step
