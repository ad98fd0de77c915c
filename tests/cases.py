"""What the tests know of families, and the table that laws and oracles run over: families x shapes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_iris

import jaxem
from jaxem import (
    Bernoulli,
    BernoulliParams,
    Beta,
    Categorical,
    CategoricalParams,
    Diagonal,
    Family,
    Full,
    GaussianParams,
    Labelled,
    LabelledParams,
    Mixture,
    Numerical,
    NumericalParams,
    PoissonParams,
    Product,
    Regression,
    RegressionParams,
    Spherical,
    StudentT,
    StudentTParams,
    Tied,
    Uniform,
    UniformParams,
    Union,
)
from jaxem.families.deconvolved import count_values
from tests import oracle
from tests.oracle import Form, Oracle

GAUSSIANS = (Spherical(), Diagonal(), Tied(), Full())
DATA = Path(__file__).parent / "data"
PEAK = """
import resource, sys
def peak():
    try:  # of this program alone: what ru_maxrss tells includes the process that started it
        return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
"""
"""source of `peak()`, the bytes that a program has held at most"""


class Rates(NamedTuple):
    rates: jax.Array


class Totals(NamedTuple):
    counts: jax.Array  # [k]
    totals: jax.Array  # [k, d]


@dataclasses.dataclass(frozen=True)
class Counts(Family):
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
        return Totals(jnp.sum(resp, axis=0), jnp.einsum("nk,nd->kd", resp, x, precision="highest"))

    def m_step(self, params, stats):
        owned = stats.counts > 0
        rates = stats.totals / jnp.where(owned, stats.counts, 1.0)[:, None]
        return Rates(jnp.where(owned[:, None], rates, params.rates))

    def unconstrain(self, params):
        return jnp.log(params.rates).ravel()

    def constrain(self, params, free):
        return Rates(jnp.exp(free).reshape(params.rates.shape))

    def sample(self, key, params, labels):
        return jax.random.poisson(key, params.rates[labels]).astype(params.rates.dtype)


class Kind(NamedTuple):
    """What the tests know of a family: a new family is one record in `KINDS`."""

    family: Family
    params: Callable  # (rng, k, d) -> random parameters
    data: Callable  # (rng, n, d) -> rows of about their scale, not drawn from them
    n_parameters: Callable  # (k, d) -> free parameters of k components, counted by hand
    oracle: Oracle | None = None  # else tests/test_family_oracles.py has one
    form: Form | None = None  # of the covariances, where there are any
    name: str = ""  # of that form in scikit-learn and in the reference fits


def _gaussian(name, family, form, n_covariances):
    def params(rng, k, d):
        factors = rng.normal(size=(k, d, d)) * 0.4 * min(1.0, np.sqrt(3 / d)) + np.eye(d)  # well conditioned at any d
        covariances = form.reduced(factors @ np.swapaxes(factors, 1, 2), np.full(k, 1 / k))
        return GaussianParams(jnp.asarray(2 * rng.normal(size=(k, d))), jnp.asarray(covariances))

    def data(rng, n, d):
        return 2.5 * rng.normal(size=(n, d)) + rng.integers(0, 2, (n, 1))

    return Kind(
        family, params, data, lambda k, d: k * d + n_covariances(k, d), oracle.gaussian(form), form=form, name=name
    )


KINDS = {
    kind.family: kind
    for kind in (
        _gaussian("spherical", Spherical(), oracle.SPHERICAL, lambda k, d: k),
        _gaussian("diag", Diagonal(), oracle.DIAGONAL, lambda k, d: k * d),
        _gaussian("tied", Tied(), oracle.TIED, lambda k, d: d * (d + 1) // 2),
        _gaussian("full", Full(), oracle.FULL, lambda k, d: k * d * (d + 1) // 2),
        Kind(
            Bernoulli(),
            lambda rng, k, d: BernoulliParams(jnp.asarray(rng.uniform(0.1, 0.9, (k, d)))),
            lambda rng, n, d: (rng.uniform(size=(n, d)) < rng.uniform(0.2, 0.8, d)).astype(float),
            lambda k, d: k * d,
            oracle.BERNOULLI,
        ),
        Kind(
            Counts(),
            lambda rng, k, d: Rates(jnp.asarray(rng.uniform(0.5, 6.0, (k, d)))),
            lambda rng, n, d: rng.poisson(3.0, (n, d)).astype(float),
            lambda k, d: k * d,
            oracle.POISSON,
        ),
    )
}


def _numbers(rng, n, d):
    return KINDS[Full()].data(rng, n, d)


def _counts(rng, n, d):
    return rng.poisson(3.0, (n, d)).astype(float)


def _codes(c):
    return lambda rng, n, d: rng.integers(0, c, (n, d)).astype(float)


def _known(rng, n, k):
    """A label for every third row, the others -1."""
    return np.where(rng.uniform(size=n) < 1 / 3, rng.integers(0, k, n), -1.0)[:, None]


def _student_t(family):
    def params(rng, k, d):
        dofs = jnp.asarray(rng.uniform(2.0, 9.0, k)) if family.dof is None else jnp.full(k, family.dof)
        normal = KINDS[Full()].params(rng, k, d)
        return StudentTParams(normal.means, normal.covariances, dofs)

    def data(rng, n, d):
        return rng.standard_t(3, (n, d)) * 2 + rng.integers(0, 2, (n, 1))

    return Kind(family, params, data, lambda k, d: k * (d + d * (d + 1) // 2 + (family.dof is None)))


def _noisy(rng, n, c):
    """Values of about their scale, with noise of their own for each row; a tenth was not observed."""
    d = count_values(c)
    factors = rng.normal(size=(n, d, d)) * rng.uniform(0.0, 1.0, (n, 1, 1))
    noise = factors @ np.swapaxes(factors, 1, 2)
    noise[(rng.uniform(size=(n, d)) < 0.1)[:, None] & np.eye(d, dtype=bool)] = np.inf
    return jaxem.with_noise(KINDS[Full()].data(rng, n, d), noise)


def _categories(c):
    return Kind(
        Categorical(c),
        lambda rng, k, d: CategoricalParams(jnp.asarray(rng.dirichlet(2 * np.ones(c), (k, d)))),
        _codes(c),
        lambda k, d: k * d * (c - 1),
    )


def _regression(c):
    def params(rng, k, d):
        levels, coefficients, origins = rng.normal(size=k), rng.normal(size=(k, c)), rng.normal(size=(k, c))
        return RegressionParams(*map(jnp.asarray, (levels, coefficients, rng.uniform(0.5, 2, k), origins)))

    return Kind(Regression(c), params, _numbers, lambda k, d: k * (c + 2))


def _gaussian_log_prob(params, row):
    mean, log_deviation = jnp.split(params, 2)
    squares = ((row - mean) * jnp.exp(-log_deviation)) ** 2
    return jnp.sum(-0.5 * (jnp.log(2 * jnp.pi) + squares) - log_deviation)


def _gaussian_init(x, sample_weight):
    share = (sample_weight / jnp.sum(sample_weight))[:, None]
    mean = jnp.sum(share * x, axis=0)
    return jnp.concatenate([mean, 0.5 * jnp.log(jnp.sum(share * (x - mean[None, :]) ** 2, axis=0))])


def _gaussian_sample(key, params):
    mean, log_deviation = jnp.split(params, 2)
    return mean + jnp.exp(log_deviation) * jax.random.normal(key, mean.shape)


NUMERICAL = Numerical(_gaussian_log_prob, _gaussian_init, _gaussian_sample)
"""Diagonal, by its density alone"""
MIXED = Product((Full(), (0, 2)), (Categorical(3), (1,)), (jaxem.Poisson(), (3,)))
SEMI_SUPERVISED = Product((Diagonal(), (0, 1)), (Labelled(), (2,)))
BEHIND = Union((Full(), 2), (Uniform((-30.0, -30.0), (30.0, 30.0)), 1))
KINDS_OF_TWO = Union((Spherical(), 1), (StudentT(4.0), None))
RESPONSES = Product((Diagonal(), (0,)), (Regression(1), (0, 1)), (Regression(2), (0, 1, 2)))


def _with(*kinds):
    """The parameters of parts, one kind after the other."""
    return lambda rng, k, d: tuple(OTHER_KINDS[family].params(rng, count or k, width) for family, count, width in kinds)


_box = lambda rng, k, d: UniformParams(jnp.full((k, d), -30.0), jnp.full((k, d), 30.0))  # noqa: E731
OTHER_KINDS: dict[Family, Kind] = KINDS | {
    kind.family: kind
    for kind in (
        _categories(3),
        Kind(
            jaxem.Deconvolved(),
            lambda rng, k, c: KINDS[Full()].params(rng, k, count_values(c)),
            _noisy,
            lambda k, c: KINDS[Full()].n_parameters(k, count_values(c)),
        ),
        Kind(
            jaxem.Poisson(),
            lambda rng, k, d: PoissonParams(jnp.asarray(rng.uniform(0.5, 6.0, (k, d)))),
            _counts,
            lambda k, d: k * d,
        ),
        _student_t(StudentT()),
        _student_t(StudentT(4.0)),
        _regression(0),
        _regression(1),
        _regression(2),
        Kind(Labelled(), lambda rng, k, d: LabelledParams(jnp.zeros((k, 0))), lambda rng, n, d: _known(rng, n, 2),
             lambda k, d: 0),
        Kind(Uniform(-30.0, 30.0), _box, _numbers, lambda k, d: 0),
        Kind(BEHIND.families[1], _box, _numbers, lambda k, d: 0),
        Kind(NUMERICAL, lambda rng, k, d: NumericalParams(0.5 * jnp.asarray(rng.normal(size=(k, 2 * d)))), _numbers,
             lambda k, d: 2 * k * d),
        Kind(MIXED, _with((Full(), 0, 2), (Categorical(3), 0, 1), (jaxem.Poisson(), 0, 1)),
             lambda rng, n, d: np.column_stack([_numbers(rng, n, 2)[:, :1], _codes(3)(rng, n, 1),
                                                _numbers(rng, n, 1), _counts(rng, n, 1)]),
             lambda k, d: k * (2 + 3 + 2 + 1)),
        Kind(SEMI_SUPERVISED, _with((Diagonal(), 0, 2), (Labelled(), 0, 1)),
             lambda rng, n, d: np.column_stack([_numbers(rng, n, 2), _known(rng, n, 2)]), lambda k, d: 4 * k),
        Kind(BEHIND, _with((Full(), 2, 2), (BEHIND.families[1], 1, 2)), _numbers, lambda k, d: 10),
        Kind(KINDS_OF_TWO, lambda rng, k, d: (KINDS[Spherical()].params(rng, 1, d),
                                              OTHER_KINDS[StudentT(4.0)].params(rng, k - 1, d)), _numbers,
             lambda k, d: d + 1 + (k - 1) * (d + d * (d + 1) // 2)),
        Kind(RESPONSES, _with((Diagonal(), 0, 1), (Regression(1), 0, 2), (Regression(2), 0, 3)), _numbers,
             lambda k, d: k * (2 + 3 + 4)),
    )
}  # fmt: skip
"""the other families, which have oracles of their own"""
REFERENCE_FAMILIES = {kind.name: kind.family for kind in KINDS.values() if kind.name}


class Case(NamedTuple):
    """A family at a shape, with a prior or without."""

    family: Family
    k: int
    d: int
    prior: jaxem.Prior | None = None

    @property
    def name(self):
        prior = f"-{'+'.join(type(part).__name__ for part in self.prior.parts())}" if self.prior else ""
        inner = "-".join(type(part).__name__ for part in getattr(self.family, "families", ()))
        return f"{type(self.family).__name__}{inner}-k{self.k}-d{self.d}{prior}"

    @property
    def kind(self):
        return OTHER_KINDS[self.family]

    @property
    def n_parameters(self):
        """Free parameters of the mixture, counted by hand."""
        return self.kind.n_parameters(self.k, self.d) + self.k - 1

    def mixture(self, seed=0):
        """A mixture with random parameters."""
        rng = np.random.default_rng(seed)
        log_weights = jnp.log(jnp.asarray(rng.dirichlet(3 * np.ones(self.k))))
        return Mixture(log_weights, self.kind.params(rng, self.k, self.d), self.family)

    def data(self, n=60, seed=1):
        """Rows [n, d] of about the mixture's scale, not drawn from it."""
        return self.kind.data(np.random.default_rng(seed), n, self.d)


_KNOWN = 4.0 * np.random.default_rng(3).normal(size=(40, 3)) + 1.0
"""rows that priors are made from; the cases have others"""
FEW = (
    Case(Spherical(), 3, 2),
    Case(Diagonal(), 2, 1),
    Case(Tied(), 2, 2),  # as many components as features
    Case(Full(), 2, 3),
    Case(Full(), 1, 1),
    Case(Bernoulli(), 2, 3, Beta(2.0, 3.0)),
    Case(Counts(), 2, 2),
    Case(Tied(), 3, 9),  # above 8 features: distances by products, one component at a time
    Case(Full(), 2, 3, jaxem.chen_tan(_KNOWN, strength=0.7) + jaxem.Dirichlet(1.5)),
)
"""what is tried by default where a case takes seconds to compile"""
CASES = (
    *FEW,
    Case(Spherical(), 1, 1),
    Case(Diagonal(), 1, 3),
    Case(Spherical(), 2, 10),
    Case(Diagonal(), 2, 10),
    Case(Full(), 2, 9),
    Case(Full(), 2, 2, jaxem.fraley_raftery(Full(), _KNOWN[:, :2], 2)),
    Case(Tied(), 2, 3, jaxem.fraley_raftery(Tied(), _KNOWN, 2)),
    Case(Diagonal(), 3, 2, jaxem.fraley_raftery(Diagonal(), _KNOWN[:, :2], 3)),
    Case(Spherical(), 2, 3, jaxem.fraley_raftery(Spherical(), _KNOWN, 2) + jaxem.variance_floor(_KNOWN, 0.1)),
    Case(Bernoulli(), 2, 3, Beta(2.0, 3.0) + jaxem.Dirichlet(3.0)),
)
OTHERS = (
    Case(Categorical(3), 2, 2, jaxem.DirichletProbs(2.0)),
    Case(jaxem.Poisson(), 2, 2, jaxem.Gamma(2.0, 0.5)),
    Case(StudentT(), 2, 2),
    Case(jaxem.Deconvolved(), 2, 5),
    Case(SEMI_SUPERVISED, 2, 3),
    Case(BEHIND, 3, 2),
    Case(Regression(2), 2, 3),
    Case(NUMERICAL, 2, 1),
    Case(MIXED, 2, 4),
    Case(jaxem.Deconvolved(), 1, 2),
    Case(StudentT(4.0), 1, 1),
    Case(KINDS_OF_TWO, 3, 1),
    Case(RESPONSES, 2, 3),
    Case(Categorical(3), 1, 1),
    Case(jaxem.Poisson(), 3, 1),
    Case(Regression(0), 2, 1),
    Case(Regression(1), 1, 2),
    Case(Uniform(-30.0, 30.0), 1, 2),
    Case(NUMERICAL, 1, 2),
    Case(StudentT(), 2, 1, jaxem.chen_tan(_KNOWN[:, :1], strength=0.5)),
    Case(jaxem.Deconvolved(), 2, 2, jaxem.chen_tan(_KNOWN[:, :1], strength=0.5)),
    Case(jaxem.Deconvolved(), 2, 9, jaxem.fraley_raftery(Full(), _KNOWN, 2) + jaxem.Dirichlet(1.5)),
    Case(MIXED, 1, 4, jaxem.chen_tan(4.0 * np.random.default_rng(4).normal(size=(40, 4))) + jaxem.Gamma()),
    Case(BEHIND, 3, 2, jaxem.fraley_raftery(Full(), _KNOWN[:, :2], 2) + jaxem.Dirichlet(2.0)),
)
"""the other families; the first few by default"""
ORACLES = tuple(case for case in CASES if case.prior is None or isinstance(case.prior, Beta))
"""cases that plain numpy computes too"""
MORE_CASES = (
    Case(Spherical(), 2, 4),
    Case(Diagonal(), 3, 3),
    Case(Tied(), 3, 1),
    Case(Tied(), 1, 2),
    Case(Full(), 3, 2),
    Case(Bernoulli(), 3, 4),
    Case(Bernoulli(), 1, 1),
    Case(Counts(), 1, 1),
    Case(Tied(), 3, 1, jaxem.chen_tan(_KNOWN[:, :1])),
    Case(Diagonal(), 2, 3, jaxem.variance_floor(_KNOWN, 0.5) + jaxem.chen_tan(_KNOWN)),
    Case(Spherical(), 3, 1, jaxem.fraley_raftery(Spherical(), _KNOWN[:, :1], 3)),
)
"""more shapes, for -m slow"""


def named(cases, first=None):
    """Arguments of pytest.mark.parametrize for a table of cases; those after the `first` few only with -m slow."""
    values = cases if first is None else slow_but_first(cases, first)
    return {"argvalues": values, "ids": [case.name for case in cases]}


def slow_but_first(values, first=1):
    """Arguments of pytest.mark.parametrize: the first few by default, the others with -m slow."""
    return [
        *values[:first],
        *(
            pytest.param(*(value if type(value) is tuple else (value,)), marks=pytest.mark.slow)
            for value in values[first:]
        ),
    ]


SOME_GAUSSIANS = slow_but_first((Full(), Spherical(), Diagonal(), Tied()), first=2)
"""for tests that take seconds for each: two forms that differ most by default, all with -m slow"""


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


def reference_mixture(data, k, form):
    """The mixture of a reference fit, in float64."""
    fit = next(fit for fit in reference_fits() if (fit["data"], fit["K"], fit["cov"]) == (data, k, form))
    weights, means, covariances = (np.asarray(fit[name]) for name in ("weights", "means", "cov_params"))
    return Mixture(np.log(weights), GaussianParams(means, covariances), REFERENCE_FAMILIES[form])


def blobs(n=400, separation=6.0, d=2, seed=0, step=2.0**-6):
    """Two blobs of unit variance `separation` apart, rows on a grid that float32 holds exactly up to 2**17 away."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    x[: n // 2, 0] += separation
    return np.round(x / step) * step


def fitted(x, family=None, k=2):
    """Six climbs from the drawn starts, of families and data that pictures and reports are tried on."""
    starts = jaxem.starts(jax.random.key(0), family or Full(), x, k, 6)
    return jaxem.fit_restarts(starts, x, max_iter=60)
