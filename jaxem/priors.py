"""Priors: what is known of the parameters before the data. A prior makes EM climb log-likelihood + log prior.

A conjugate prior is worth imagined rows. So a prior is a pytree with two methods: its log density over mixtures, up to
a constant, and the statistics of the rows it imagines, which are added before the M-step. The M-step itself is the
same. Priors add: `chen_tan(x) + Dirichlet(2.0)`.

    Beta           on probabilities:   sum_kj (alpha - 1) log probs_kj + (beta - 1) log(1 - probs_kj)
    DirichletProbs on probabilities:   sum_kjc (alpha - 1) log probs_kjc
    Gamma          on rates:           sum_kj (shape - 1) log rates_kj - rate rates_kj
    Dirichlet      on the weights:     (alpha - 1) sum_k log p_k                       (Gelman et al. 2013, 2.4 and 3.4)
    NormalInverseWishart   on Gaussians, once for each covariance Sigma, and if a mean m is given for each component,

        -1/2 (nu log |Sigma| + tr(Lambda inv(Sigma)))  and  -1/2 (log |Sigma_k| + kappa (mu_k - m)' inv(Sigma_k) (mu_k - m)).

    It imagines a scatter Lambda of nu degrees, and at m a row that counts kappa for the mean and 1 for the covariance:

        mu_k = (N_k x_k + kappa m) / (N_k + kappa),   x_k and S_k the mean and scatter of the rows of component k,
        Sigma_k = (Lambda + S_k + B_k) / (nu + N_k + [m is given]),  B_k = kappa N_k / (kappa + N_k) (x_k - m)(x_k - m)',

    and for Tied the sums over k of S_k, B_k and N_k + [m is given].                (Fraley and Raftery 2007, section 3)

The file penalties.py makes such priors from data.
"""

import dataclasses
import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.primitives import tiny
from jaxem.stats import Stats


class Prior:
    """What is known of the parameters: a log density over mixtures and the rows that it is worth."""

    def log_prob(self, mixture: Any) -> Array:
        """Log prior `[]` of a mixture, without the terms that do not depend on it."""
        raise NotImplementedError(f"{type(self).__name__}.log_prob is not defined")

    def imagined(self, family: Any, params: Any, stats: Stats) -> Stats:
        """The statistics that this prior adds to `stats` before the M-step, taken about `params`; zeros by default.

        With them the M-step maximises proxy + log prior.
        """
        del family, params
        return jax.tree.map(jnp.zeros_like, stats)

    def shift(self, offset: Array) -> "Prior":
        """The same knowledge about data moved by `offset` `[d]`; a prior without a location stays as it is."""
        del offset
        return self

    def bounds(self, mixture: Any, variance: Array) -> Array | bool:
        """Whether the objective has an upper bound with this prior, `[]` of bool, for data of variances `[d]`: then no
        component can collapse. By default it is not known to have one.
        """
        del mixture, variance
        return False

    def parts(self) -> tuple["Prior", ...]:
        """The priors that this one is the sum of."""
        return (self,)

    def check(self, family: Any) -> None:
        """Raise a TypeError if this prior speaks of parameters that the family does not have; by default any will do."""

    def __add__(self, other: "Prior") -> "Prior":
        """Both pieces of knowledge at once."""
        return Sum((*self.parts(), *other.parts())) if isinstance(other, Prior) else NotImplemented


class _Conjugate(Prior):
    """A prior for the families that name it in `conjugate`, and that know its density and what it imagines."""

    def log_prob(self, mixture: Any) -> Array:
        self.check(mixture.family)
        return mixture.family.log_prior(mixture.components, self)

    def imagined(self, family: Any, params: Any, stats: Stats) -> Stats:
        self.check(family)
        nothing = jnp.zeros_like(stats.log_likelihood), jnp.zeros_like(stats.counts)
        return Stats(*nothing, family.imagined(params, stats.components, self))

    def bounds(self, mixture: Any, variance: Array) -> Array | bool:
        return mixture.family.is_bounded(mixture.components, self, variance)

    def of_columns(self, index: Any, d: int) -> "_Conjugate":
        """What this says of some of d columns: of numbers for each column those of `index`, of a matrix its rows and columns."""

        def own(value: Any) -> Any:
            shape = jnp.shape(value)
            if not shape or shape[0] != d:
                return value
            return value[index][:, index] if shape == (d, d) else value[index]

        return jax.tree.map(own, self)

    def check(self, family: Any) -> None:
        if not isinstance(self, family.conjugate):
            known = [kind.__name__ for kind in family.conjugate]
            raise TypeError(
                f"prior = {type(self).__name__}(...) says nothing about a {type(family).__name__} component; "
                f"give {' or '.join([*known, Dirichlet.__name__])}"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Prior):
    """Several priors at once; their logarithms add."""

    terms: tuple[Prior, ...]

    def log_prob(self, mixture: Any) -> Array:
        return functools.reduce(jnp.add, [term.log_prob(mixture) for term in self.terms])

    def imagined(self, family: Any, params: Any, stats: Stats) -> Stats:
        self.check(family)
        return functools.reduce(operator.add, [term.imagined(family, params, stats) for term in self.terms])

    def shift(self, offset: Array) -> Prior:
        return Sum(tuple(term.shift(offset) for term in self.terms))

    def bounds(self, mixture: Any, variance: Array) -> Array | bool:
        return functools.reduce(operator.or_, [term.bounds(mixture, variance) for term in self.terms])

    def parts(self) -> tuple[Prior, ...]:
        return self.terms

    def check(self, family: Any) -> None:
        for term in self.terms:
            term.check(family)
        of_means = [term for term in self.terms if getattr(term, "mean", None) is not None]
        if len(of_means) > 1:
            raise ValueError(f"prior speaks of the means {len(of_means)} times; add priors of which at most one does")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beta(_Conjugate):
    """Conjugate prior on every probability of a Bernoulli mixture.

    `alpha - 1` is worth as many imagined ones, `beta - 1` as many imagined zeros, in every component and feature.
    With both above 1 no probability can reach 0 or 1.

    Attributes:
        alpha: at least 1, a number or `[d]`.
        beta: likewise.
    """

    alpha: Array | float = 2.0
    beta: Array | float = 2.0

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            _check_at_least_one(name, value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DirichletProbs(_Conjugate):
    """Conjugate prior on the probabilities of a Categorical mixture.

    `alpha - 1` is worth as many imagined values of each category, in every component and feature. Above 1 no probability
    can reach 0.

    Attributes:
        alpha: at least 1, a number, `[c]` or `[d, c]`.
    """

    alpha: Array | float = 2.0

    def __post_init__(self) -> None:
        _check_at_least_one("alpha", self.alpha)

    def of_columns(self, index: Any, d: int) -> "DirichletProbs":
        whole = jnp.ndim(self.alpha) == 2 and jnp.shape(self.alpha)[0] == d
        return DirichletProbs(jnp.asarray(self.alpha)[index]) if whole else self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gamma(_Conjugate):
    """Conjugate prior on the rates of a Poisson mixture.

    Worth `rate` imagined rows whose values sum to `shape - 1`, in every component and feature. With `shape` above 1 no rate
    can reach 0.

    Attributes:
        shape: at least 1, a number or `[d]`.
        rate: at least 0, likewise.
    """

    shape: Array | float = 2.0
    rate: Array | float = 1.0

    def __post_init__(self) -> None:
        _check_at_least_one("shape", self.shape)
        if isinstance(self.rate, (int, float)) and not 0.0 <= self.rate < float("inf"):
            raise ValueError(f"rate = {self.rate} is no number of rows; give a finite number of at least 0")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dirichlet(Prior):
    """Conjugate prior on the weights, the same for all: `alpha - 1` imagined rows in every component.

    With alpha above 1 no component can die out.

    Attributes:
        alpha: at least 1.
    """

    alpha: Array | float = 2.0

    def __post_init__(self) -> None:
        _check_at_least_one("alpha", self.alpha)

    def log_prob(self, mixture: Any) -> Array:
        dtype = mixture.log_weights.dtype
        least = math.log(tiny(dtype))
        return (jnp.asarray(self.alpha, dtype) - 1.0) * jnp.sum(jnp.maximum(mixture.log_weights, least))

    def imagined(self, family: Any, params: Any, stats: Stats) -> Stats:
        nothing = super().imagined(family, params, stats)
        return dataclasses.replace(
            nothing, counts=nothing.counts + (jnp.asarray(self.alpha, nothing.counts.dtype) - 1.0)
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NormalInverseWishart(_Conjugate):
    """Conjugate prior on Gaussian components; the head of priors.py has its density.

    Attributes:
        degrees: nu, `[]`: how many rows the scatter counts for; 0 and more.
        scatter: Lambda, `[d, d]`, positive semidefinite.
        shrinkage: kappa, `[]`: how many rows `mean` counts for; None to say nothing of the means.
        mean: m, `[d]`, or None.
    """

    degrees: Array | float
    scatter: Array
    shrinkage: Array | float | None = None
    mean: Array | None = None

    def shift(self, offset: Array) -> Prior:
        return self if self.mean is None else dataclasses.replace(self, mean=self.mean + offset[: self.mean.shape[0]])


def _check_at_least_one(name: str, value: Any) -> None:
    if isinstance(value, (int, float)) and not 1.0 <= value < float("inf"):
        raise ValueError(f"{name} = {value} gives no maximum inside; give a finite number of at least 1")
