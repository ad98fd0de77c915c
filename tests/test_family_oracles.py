"""The families beyond Gaussians and coins against plain numpy and scipy, from textbook formulas alone.

What follows shares no line with jaxem: densities come from scipy.stats, regressions from numpy's lstsq, roots from brentq.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

import jaxem
from jaxem import Categorical, Full, Mixture, Poisson, Product, Regression, StudentT, Uniform, Union
from tests import oracle
from tests.cases import (
    BEHIND,
    MIXED,
    NUMERICAL,
    OTHER_KINDS,
    OTHERS,
    RESPONSES,
    SEMI_SUPERVISED,
    Case,
    named,
    slow_but_first,
)
from tests.conftest import DTYPE, ROUNDING, STATISTICAL, X64

# -- priors as plain numbers ---------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What the priors say; by default nothing."""

    categories: np.ndarray = np.ones(())  # alpha: a number, [c] or [d, c]
    shape: np.ndarray = np.ones(())  # of Gamma: a number or [d]
    rate: np.ndarray = np.zeros(())
    degrees: float = 0.0  # of the inverse Wishart
    scatter: np.ndarray | None = None
    shrinkage: float = 0.0
    mean: np.ndarray | None = None
    shares: float = 1.0  # alpha of the weights

    def of_columns(self, columns):
        """What a group of columns gets."""
        i = list(columns)
        return self._replace(
            categories=self.categories[i] if self.categories.ndim == 2 else self.categories,
            shape=self.shape[i] if self.shape.ndim else self.shape,
            rate=self.rate[i] if self.rate.ndim else self.rate,
            scatter=None if self.scatter is None else self.scatter[np.ix_(i, i)],
            mean=None if self.mean is None else self.mean[i],
        )


def known(prior):
    said = Known()
    for part in () if prior is None else prior.parts():
        numbers = {name: None if v is None else np.asarray(v, float) for name, v in vars(part).items()}
        if isinstance(part, jaxem.DirichletProbs):
            said = said._replace(categories=numbers["alpha"])
        elif isinstance(part, jaxem.Gamma):
            said = said._replace(shape=numbers["shape"], rate=numbers["rate"])
        elif isinstance(part, jaxem.Dirichlet):
            said = said._replace(shares=float(numbers["alpha"]))
        else:
            said = said._replace(**(numbers | {"shrinkage": float(numbers["shrinkage"] or 0)}))
    return said


# -- one class for each family -------------------------------------------------------------------------------------------


class Textbook:
    """A family by its formulas; `p` are its parameters, with jaxem's names, in numpy."""

    def __init__(self, family):
        self.family = family

    def log_prob(self, p, x):
        """Log densities [n, k]."""
        raise NotImplementedError

    def m_step(self, p, r, x, prior):
        """The new parameters, given `r` [n, k], responsibilities times the weights of rows."""
        return p

    def bound(self, new, old, x):
        """What the M-step raises, [n, k]."""
        return self.log_prob(new, x)

    def log_prior(self, p, prior):
        return 0.0

    def moments(self, p):
        """Means [k, d] and variances [k, d] of the columns."""
        raise NotImplementedError


class OfCategories(Textbook):
    def log_prob(self, p, x):
        codes = x.astype(int)
        return np.array([[sum(np.log(q[m, c]) for m, c in enumerate(row)) for q in p.probs] for row in codes])

    def m_step(self, p, r, x, prior):
        probs = np.zeros_like(p.probs)
        for c in range(probs.shape[2]):
            probs[:, :, c] = r.T @ (x == c)
        probs += prior.categories - 1
        return p._replace(probs=probs / probs.sum(axis=2, keepdims=True))

    def log_prior(self, p, prior):
        return np.sum((prior.categories - 1) * np.log(p.probs))

    def moments(self, p):
        codes = np.arange(p.probs.shape[2])
        return p.probs @ codes, p.probs @ codes**2 - (p.probs @ codes) ** 2


class OfCounts(Textbook):
    def log_prob(self, p, x):
        return np.column_stack([stats.poisson.logpmf(x.astype(int), rates).sum(axis=1) for rates in p.rates])

    def m_step(self, p, r, x, prior):
        return p._replace(rates=(r.T @ x + prior.shape - 1) / (r.sum(axis=0)[:, None] + prior.rate))

    def log_prior(self, p, prior):
        return np.sum((prior.shape - 1) * np.log(p.rates) - prior.rate * p.rates)

    def moments(self, p):
        return p.rates, p.rates


def squares(x, mean, matrix):
    """Squared Mahalanobis distances [n]."""
    return np.sum((x - mean) * np.linalg.solve(matrix, (x - mean).T).T, axis=1)


def located(r, u, x, prior):
    """Means and matrices of rows that count `r * u` for them and `r` for the degrees, with a normal inverse Wishart prior."""
    means, matrices = [], []
    for j in range(r.shape[1]):
        w, kappa = r[:, j] * u[:, j], prior.shrinkage
        mean = w @ x / w.sum()
        scatter = (w[:, None] * (x - mean)).T @ (x - mean) + (0 if prior.scatter is None else prior.scatter)
        degrees = r[:, j].sum() + prior.degrees
        if prior.mean is not None:
            scatter += kappa * w.sum() / (kappa + w.sum()) * np.outer(mean - prior.mean, mean - prior.mean)
            mean = (w.sum() * mean + kappa * prior.mean) / (w.sum() + kappa)
            degrees += 1
        means.append(mean)
        matrices.append(scatter / degrees)
    return np.array(means), np.array(matrices)


def log_normal_inverse_wishart(means, matrices, prior):
    total = 0.0
    for mean, matrix in zip(means, matrices, strict=True):
        log_det = np.linalg.slogdet(matrix)[1]
        total -= 0.5 * prior.degrees * log_det
        total -= 0.0 if prior.scatter is None else 0.5 * np.trace(np.linalg.solve(matrix, prior.scatter))
        if prior.mean is not None:
            total -= 0.5 * (log_det + prior.shrinkage * squares(mean[None], prior.mean, matrix)[0])
    return total


class OfNormals(Textbook):
    """Gaussians with full covariances."""

    def log_prob(self, p, x):
        normals = [stats.multivariate_normal(m, s) for m, s in zip(p.means, p.covariances, strict=True)]
        return np.column_stack([np.reshape(normal.logpdf(x), len(x)) for normal in normals])

    def m_step(self, p, r, x, prior):
        return p._replace(**dict(zip(("means", "covariances"), located(r, np.ones_like(r), x, prior), strict=True)))

    def log_prior(self, p, prior):
        return log_normal_inverse_wishart(p.means, p.covariances, prior)

    def moments(self, p):
        return p.means, np.array([np.diag(matrix) for matrix in p.covariances])


class OfNoisy(OfNormals):
    """Gaussians behind noise, row by row (Bovy, Hogg and Roweis 2011), on the values that were observed."""

    def rows(self, x, d):
        """Of each row: which values were observed, these, and the covariance of their noise."""
        for row in x:
            noise = np.zeros((d, d))
            noise[np.tril_indices(d)] = row[d:]
            noise = np.tril(noise) + np.tril(noise, -1).T
            seen = np.flatnonzero(np.diag(noise) >= 0)
            yield seen, row[seen], noise[np.ix_(seen, seen)]

    def log_prob(self, p, x):
        return np.array([
            [
                stats.multivariate_normal(m[i], v[np.ix_(i, i)] + s).logpdf(y) if i.size else 0.0
                for m, v in zip(p.means, p.covariances, strict=True)
            ]
            for i, y, s in self.rows(x, p.means.shape[1])
        ])  # fmt: skip

    def truths(self, p, x):
        """Means b [n, k, d] and covariances B [n, k, d, d] of the truth, given the row."""
        n, (k, d) = len(x), p.means.shape
        b, spread = np.zeros((n, k, d)), np.zeros((n, k, d, d))
        for row, (i, y, s) in enumerate(self.rows(x, d)):
            for j in range(k):
                v = p.covariances[j]
                gain = v[:, i] @ np.linalg.inv(v[np.ix_(i, i)] + s)
                b[row, j], spread[row, j] = p.means[j] + gain @ (y - p.means[j][i]), v - gain @ v[i]
        return b, spread

    def m_step(self, p, r, x, prior):
        b, spread = self.truths(p, x)
        means, matrices = [], []
        for j in range(r.shape[1]):  # rows that spread as they do: their own scatter is one more that is known
            own = np.einsum("n,nij->ij", r[:, j], spread[:, j])
            own += 0.0 if prior.scatter is None else prior.scatter
            found = located(r[:, j : j + 1], np.ones((len(x), 1)), b[:, j], prior._replace(scatter=own))
            means.append(found[0][0])
            matrices.append(found[1][0])
        return p._replace(means=np.array(means), covariances=np.array(matrices))

    def bound(self, new, old, x):
        b, spread = self.truths(old, x)

        def expected(p):
            each = []
            for j, (m, v) in enumerate(zip(p.means, p.covariances, strict=True)):
                inverse = np.linalg.inv(v)
                traces = np.einsum("ij,nji->n", inverse, spread[:, j])
                each.append(-0.5 * (np.linalg.slogdet(v)[1] + squares(b[:, j], m, v) + traces))
            return np.column_stack(each)

        return self.log_prob(old, x) + expected(new) - expected(old)


class OfPlainNormals(Textbook):
    """Diagonal and Spherical, without priors: tests/oracle.py has them."""

    def __init__(self, family):
        super().__init__(family)
        self.form = oracle.DIAGONAL if isinstance(family, jaxem.Diagonal) else oracle.SPHERICAL
        self.own = oracle.gaussian(self.form)

    def log_prob(self, p, x):
        return np.column_stack([self.own.log_prob(p._asdict(), j, x) for j in range(len(p.means))])

    def m_step(self, p, r, x, prior):
        return p._replace(**self.own.m_step(r, x, None))

    def moments(self, p):
        k, d = p.means.shape
        return p.means, np.array([np.diag(self.form.matrix(p.covariances, j, d)) for j in range(k)])


class OfStudents(Textbook):
    def log_prob(self, p, x):
        each = [stats.multivariate_t(m, s, df=nu) for m, s, nu in zip(*p, strict=True)]
        return np.column_stack([np.reshape(t.logpdf(x), len(x)) for t in each])

    def scales_of_rows(self, p, x):
        """The latent scales' posteriors Gamma(a, rate b), [n, k] each."""
        deltas = np.column_stack([squares(x, m, s) for m, s, _ in zip(*p, strict=True)])
        return (p.dofs + x.shape[1]) / 2 + 0 * deltas, (p.dofs + deltas) / 2

    def m_step(self, p, r, x, prior):
        a, b = self.scales_of_rows(p, x)
        u, v = a / b, special.psi(a) - np.log(b)
        means, scales = located(r, u, x, prior)
        dofs = p.dofs.copy()
        if self.family.dof is None:
            for j, right in enumerate(np.sum(r * (u - v), axis=0) / r.sum(axis=0) - 1):

                def slope(nu, right=right):
                    return np.log(nu / 2) - special.psi(nu / 2) - right

                low, high = 0.5, 1000.0
                inside = slope(low) > 0 > slope(high)
                dofs[j] = optimize.brentq(slope, low, high, xtol=1e-13) if inside else low if slope(low) <= 0 else high
        return p._replace(means=means, scales=scales, dofs=dofs)

    def bound(self, new, old, x):
        """E log p(x, tau | new) - E log p(tau | x, old), tau by its posterior under the old parameters."""
        a, b = self.scales_of_rows(old, x)
        u, v = a / b, special.psi(a) - np.log(b)
        d, h = x.shape[1], new.dofs / 2
        deltas = np.column_stack([squares(x, m, s) for m, s, _ in zip(*new, strict=True)])
        log_dets = np.linalg.slogdet(new.scales)[1]
        of_row = 0.5 * (d * (v - np.log(2 * np.pi)) - log_dets - u * deltas)
        of_scale = h * np.log(h) - special.gammaln(h) + (h - 1) * v - h * u
        return of_row + of_scale + stats.gamma(a, scale=1 / b).entropy()

    def log_prior(self, p, prior):
        return log_normal_inverse_wishart(p.means, p.scales, prior)

    def moments(self, p):
        inflated = p.dofs / (p.dofs - 2)  # of more than 2 degrees of freedom
        return p.means, np.array([f * np.diag(s) for f, s in zip(inflated, p.scales, strict=True)])


class OfBoxes(Textbook):
    def log_prob(self, p, x):
        boxes = zip(p.lows, p.highs, strict=True)
        return np.column_stack([stats.uniform.logpdf(x, low, high - low).sum(axis=1) for low, high in boxes])

    def moments(self, p):
        return (p.lows + p.highs) / 2, (p.highs - p.lows) ** 2 / 12


class OfLabels(Textbook):
    def log_prob(self, p, x):
        possible = (x == np.arange(len(p.nothing))[None]) | (x == -1)
        return np.where(possible, 0.0, -np.inf)


class OfPlanes(Textbook):
    def log_prob(self, p, x):
        z, y = x[:, :-1], x[:, -1]
        planes = [a + (z - o) @ b for a, b, _, o in zip(*p, strict=True)]
        return np.column_stack([stats.norm.logpdf(y, m, np.sqrt(s)) for m, s in zip(planes, p.variances, strict=True)])

    def m_step(self, p, r, x, prior):
        new = type(p)(*(leaf.copy() for leaf in p))
        design = np.column_stack([np.ones(len(x)), x[:, :-1]])
        for j, root in enumerate(np.sqrt(r).T):
            plane = np.linalg.lstsq(root[:, None] * design, root * x[:, -1], rcond=None)[0]
            new.origins[j] = np.average(x[:, :-1], axis=0, weights=r[:, j])  # where the level is meant
            new.levels[j] = plane[0] + new.origins[j] @ plane[1:]
            new.coefficients[j] = plane[1:]
            new.variances[j] = np.average((x[:, -1] - design @ plane) ** 2, weights=r[:, j])
        return new


class OfDensity(Textbook):
    """NUMERICAL of tests/cases.py, columns that are independent and normal; the slopes are worked out by hand."""

    def log_prob(self, p, x):
        d = x.shape[1]
        return np.column_stack([stats.norm.logpdf(x, q[:d], np.exp(q[d:])).sum(axis=1) for q in p.free])

    def m_step(self, p, r, x, prior):
        d = x.shape[1]
        free = p.free.copy()
        for j, q in enumerate(p.free):
            e, s = x - q[:d], np.exp(-2 * q[d:])  # log density: -log 2 pi / 2 - log deviation - e^2 s / 2
            slopes = np.column_stack([e * s, e**2 * s - 1])
            curvature = np.block(
                [
                    [np.diag(s * r[:, j].sum()), np.diag(2 * s * (r[:, j] @ e))],
                    [np.diag(2 * s * (r[:, j] @ e)), np.diag(2 * s * (r[:, j] @ e**2))],
                ]
            )
            if np.linalg.eigvalsh(curvature)[0] <= 0:
                curvature = slopes.T @ (r[:, j, None] * slopes)
            free[j] = q + np.linalg.solve(curvature, r[:, j] @ slopes)
        return p._replace(free=free)

    def moments(self, p):
        mean, log_deviation = np.split(p.free, 2, axis=1)
        return mean, np.exp(2 * log_deviation)


class OfColumns(Textbook):
    """Product."""

    def parts(self):
        return [(textbook(family), list(columns)) for family, columns in self.family.parts]

    def log_prob(self, p, x):
        return sum(part.log_prob(q, x[:, i]) for (part, i), q in zip(self.parts(), p, strict=True))

    def m_step(self, p, r, x, prior):
        each = zip(self.parts(), p, strict=True)
        return tuple(part.m_step(q, r, x[:, i], prior.of_columns(i)) for (part, i), q in each)

    def bound(self, new, old, x):
        return sum(part.bound(q, o, x[:, i]) for (part, i), q, o in zip(self.parts(), new, old, strict=True))

    def log_prior(self, p, prior):
        return sum(part.log_prior(q, prior.of_columns(i)) for (part, i), q in zip(self.parts(), p, strict=True))

    def moments(self, p):
        d, k = 1 + max(m for _, i in self.parts() for m in i), len(jax.tree.leaves(p)[0])
        both = np.zeros((2, k, d))
        for (part, i), q in zip(self.parts(), p, strict=True):
            both[:, :, i] = part.moments(q)
        return both


class OfComponents(Textbook):
    """Union."""

    def parts(self):
        return [textbook(family) for family, _ in self.family.parts]

    def log_prob(self, p, x):
        return np.column_stack([part.log_prob(q, x) for part, q in zip(self.parts(), p, strict=True)])

    def m_step(self, p, r, x, prior):
        ends = np.cumsum([len(jax.tree.leaves(q)[0]) for q in p])
        each = zip(self.parts(), p, np.split(r, ends[:-1], axis=1), strict=True)
        return tuple(part.m_step(q, of_part, x, prior) for part, q, of_part in each)

    def bound(self, new, old, x):
        return np.column_stack([part.bound(q, o, x) for part, q, o in zip(self.parts(), new, old, strict=True)])

    def log_prior(self, p, prior):
        return sum(part.log_prior(q, prior) for part, q in zip(self.parts(), p, strict=True))

    def moments(self, p):
        return np.concatenate([np.array(part.moments(q)) for part, q in zip(self.parts(), p, strict=True)], axis=1)


TEXTBOOKS = {
    Full: OfNormals,
    jaxem.Deconvolved: OfNoisy,
    jaxem.Diagonal: OfPlainNormals,
    jaxem.Spherical: OfPlainNormals,
    Categorical: OfCategories,
    Poisson: OfCounts,
    StudentT: OfStudents,
    Uniform: OfBoxes,
    jaxem.Labelled: OfLabels,
    Regression: OfPlanes,
    jaxem.Numerical: OfDensity,
    Product: OfColumns,
    Union: OfComponents,
}


def textbook(family):
    return TEXTBOOKS[type(family)](family)


# -- mixtures in numpy ---------------------------------------------------------------------------------------------------


def in_numpy(mixture):
    """Weights and parameters in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), (jnp.exp(mixture.log_weights), mixture.components))


def log_joint(mixture, x):
    weights, params = in_numpy(mixture)
    with np.errstate(divide="ignore"):  # the logarithm of a weight of zero
        return np.log(weights) + textbook(mixture.family).log_prob(params, x)


def e_step(mixture, x):
    """log p(x) [n] and responsibilities [n, k]."""
    joint = log_joint(mixture, x)
    log_prob = special.logsumexp(joint, axis=1)
    return log_prob, np.exp(joint - log_prob[:, None])


def m_step(mixture, r, x, prior):
    """Weights and parameters."""
    counts = r.sum(axis=0) + prior.shares - 1
    return counts / counts.sum(), textbook(mixture.family).m_step(in_numpy(mixture)[1], r, x, prior)


def intercepts(params):
    """Of every regression among the parameters."""
    if isinstance(params, jaxem.RegressionParams):
        return [params.levels - (params.coefficients * params.origins).sum(1)]
    return [] if hasattr(params, "_fields") else [value for part in params for value in intercepts(part)]


LEAST = 1e-3 if X64 else 1.0
"""in float32 to rounding of the rows' own scale, about one"""


def agree(found, expected, factor=1.0, atol=None):
    """To rounding of the largest number of each array."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        largest = np.max(np.abs(other), initial=LEAST, where=np.isfinite(other))
        np.testing.assert_allclose(one, other, rtol=0, atol=factor * ROUNDING * largest if atol is None else atol)


def tolerance(family):
    """A Newton step by autodiff to 1e-7, all else to 1e-10; the ridge of a regression is 1e-4 in float32."""
    kinds = (family, *getattr(family, "families", ()))
    if not X64 and any(isinstance(kind, Regression) for kind in kinds):
        return 10
    return 1000 if isinstance(family, jaxem.Numerical) else 1


# -- cases ---------------------------------------------------------------------------------------------------------------


TILTED = 3.0 * np.random.default_rng(7).normal(size=(30, 9)) + 2.0
"""rows that priors are made from"""
NARROW = Union((Full(), 1), (Uniform((-2.0, -1.0), (3.0, 2.5)), 1), (StudentT(), 1))
"""many rows lie outside the box"""
TWO_PRODUCTS = Union(
    (Product((Full(), (2, 0)), (Categorical(3), (1,)), (Poisson(), (3,))), 1),
    (Product((StudentT(), (0, 2)), (Categorical(3), (1,)), (Poisson(), (3,))), None),
)
WIDE = Product((Full(), tuple(range(9))), (Poisson(), (9,)))


class Composed(NamedTuple):
    """A case whose family tests/cases.py does not have."""

    name: str
    family: jaxem.Family
    k: int
    draw: object  # (rng) -> parameters
    like: Case  # has such rows
    prior: jaxem.Prior | None = None

    def mixture(self, seed=0):
        rng = np.random.default_rng(seed)
        log_weights = jnp.log(jnp.asarray(rng.dirichlet(3 * np.ones(self.k))))
        return Mixture(log_weights, self.draw(rng), self.family)

    def data(self, n=60, seed=1):
        return self.like.data(n, seed)


def _of(family, rng, k, d):
    return OTHER_KINDS[family].params(rng, k, d)


def _product(first, rng, k):
    return _of(first, rng, k, 2), _of(Categorical(3), rng, k, 1), _of(Poisson(), rng, k, 1)


def _narrow(rng):
    box = jaxem.UniformParams(jnp.asarray([[-2.0, -1.0]]), jnp.asarray([[3.0, 2.5]]))
    return _of(Full(), rng, 1, 2), box, _of(StudentT(), rng, 1, 2)


MORE = (
    Composed("narrow box", NARROW, 3, _narrow, Case(StudentT(), 3, 2)),
    Composed(
        "two products",
        TWO_PRODUCTS,
        3,
        lambda rng: (_product(Full(), rng, 1), _product(StudentT(), rng, 2)),
        Case(MIXED, 3, 4),
        jaxem.Gamma(np.array([9.0, 9.0, 9.0, 3.0]), 0.7) + jaxem.DirichletProbs(np.array([1.5, 2.0, 3.0])),
    ),
    Case(
        MIXED, 2, 4, jaxem.fraley_raftery(Full(), TILTED[:, :4], 2) + jaxem.Gamma(3.0, np.array([9.0, 9.0, 9.0, 0.4]))
    ),
    Case(StudentT(), 2, 9),
    Case(StudentT(), 2, 2, jaxem.fraley_raftery(Full(), TILTED[:, :2], 2) + jaxem.Dirichlet(1.5)),
    Case(Categorical(3), 2, 2, jaxem.DirichletProbs(np.array([[1.0, 2.0, 3.0], [4.0, 1.5, 1.0]]))),
    Case(Poisson(), 2, 2, jaxem.Gamma(np.array([1.5, 4.0]), np.array([0.0, 2.0])) + jaxem.Dirichlet(3.0)),
    Case(StudentT(), 1, 1),
    Case(StudentT(4.0), 2, 3, jaxem.chen_tan(TILTED[:, :3], strength=0.5)),
    Case(Poisson(), 1, 1),
    Case(Regression(2), 1, 3),
    Case(NUMERICAL, 3, 2),
    Case(Uniform(-30.0, 30.0), 2, 1),
    Case(StudentT(), 3, 3),
)
STEPS = (*OTHERS, *MORE)


def rows(case, n=60):
    """Data and weights of which about a quarter are zero, as jaxem has them."""
    rng = np.random.default_rng(5)
    w = rng.uniform(0.1, 2, n) * (rng.uniform(size=n) < 0.75)
    return np.asarray(case.data(n)).astype(DTYPE), w.astype(DTYPE)


def at_work(case):
    """The mixture, and rows and weights: for jaxem, and in float64 for numpy."""
    x, w = rows(case)
    return case.mixture(), x, w, x.astype(float), w.astype(float)


# -- the pass and the M-step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", **named(STEPS, first=29))
def test_one_step(case):
    """Log-likelihood, counts, weights, parameters, and the prior's own density."""
    mixture, x, w, x64, w64 = at_work(case)
    prior = known(case.prior)
    log_prob, resp = e_step(mixture, x64)
    weights, expected = m_step(mixture, resp * w64[:, None], x64, prior)
    found = jaxem.e_step(mixture, x, w)
    new = jaxem.m_step(mixture, found, case.prior)
    assert np.sum(w == 0) > 5
    agree(found.log_likelihood, w64 @ log_prob)
    agree(found.counts, w64 @ resp)
    agree(new.weights, weights)
    agree(new.components, expected, tolerance(case.family))
    for one, other in zip(intercepts(new.components), intercepts(expected), strict=True):
        agree(one, other, tolerance(case.family))
    if case.prior is not None:
        log_prior = textbook(case.family).log_prior(in_numpy(mixture)[1], prior)
        log_prior += (prior.shares - 1) * np.sum(np.log(in_numpy(mixture)[0]))
        agree(case.prior.log_prob(mixture), log_prior)
        agree(jaxem.objective(mixture, found, case.prior), w64 @ log_prob + log_prior)


@pytest.mark.parametrize("case", **named(STEPS, first=8))
def test_rows_of_a_mixture(case):
    """log_joint, log_prob, responsibilities and predict."""
    mixture, x, _, x64, _ = at_work(case)
    joint = log_joint(mixture, x64)
    log_prob, resp = e_step(mixture, x64)
    agree(mixture.log_joint(x), joint)
    agree(mixture.log_prob(x), log_prob)
    np.testing.assert_allclose(mixture.responsibilities(x), resp, rtol=0, atol=10 * ROUNDING)
    first, *others = np.sort(resp, axis=1).T[::-1]
    clear = first - (others[0] if others else 0) > 100 * ROUNDING
    assert np.mean(clear) > 0.9 or isinstance(case.family, Uniform)
    np.testing.assert_array_equal(mixture.predict(x)[clear], np.argmax(resp, axis=1)[clear])


@pytest.mark.parametrize("case", **named([case for case in STEPS if case.prior is None], first=5))
def test_proxy(case):
    """l-hat of the new mixture; for Student's t that of rows and their latent scales. At the old one it is l."""
    mixture, x, w, x64, w64 = at_work(case)
    new = jaxem.m_step(mixture, jaxem.e_step(mixture, x, w))
    log_prob, resp = e_step(mixture, x64)
    (weights, params), (_, old) = in_numpy(new), in_numpy(mixture)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log(weights) + textbook(case.family).bound(params, old, x64) - np.log(resp)
    expected = np.sum(w64[:, None] * np.where(resp > 0, resp * np.where(resp > 0, gain, 0), 0))
    agree(jaxem.proxy(new, mixture, x, w), expected)
    agree(jaxem.proxy(mixture, mixture, x, w), w64 @ log_prob)
    assert expected > w64 @ log_prob - 1e-9 or isinstance(case.family, jaxem.Numerical)


@pytest.mark.parametrize(("dof", "rows_of", "bound"), [(999.9, "light", 1000.0), (0.6, "heavy", 0.5)])
def test_degrees_of_freedom_stay_within_bounds(dof, rows_of, bound):
    """Rows with lighter tails than a normal's end at 1,000, rows with absurd ones at a half; the rest is the textbook's."""
    rng = np.random.default_rng(0)
    x = (
        rng.uniform(-1, 1, (60, 2))
        if rows_of == "light"
        else rng.normal(size=(60, 2)) * np.exp(9 * rng.normal(size=(60, 1)))
    )
    x = x.astype(DTYPE)
    params = jaxem.StudentTParams(jnp.zeros((1, 2)), 0.3 * jnp.eye(2)[None], jnp.full(1, dof))
    mixture = Mixture(jnp.zeros(1), params, StudentT())
    new = jaxem.m_step(mixture, jaxem.e_step(mixture, x)).components
    expected = m_step(mixture, np.ones((60, 1)), x.astype(float), Known())[1]
    assert expected.dofs[0] == bound
    agree(new.dofs, expected.dofs)
    if X64:  # of absurd rows float32 keeps the degrees of freedom alone
        agree(new, expected)


@pytest.mark.parametrize("sure", [True, False])
def test_newton_where_the_proxy_bends_down_and_else_its_slopes(sure):
    """The Hessian where it is negative definite, else the outer products of the slopes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 1)).astype(DTYPE)
    free = np.array([[0.2, 0.1], [-0.3, 0.4]]) if sure else np.array([[3.0, 0.1], [-4.0, 0.4]])
    mixture = Mixture(jnp.log(jnp.asarray([0.5, 0.5])), jaxem.NumericalParams(jnp.asarray(free)), NUMERICAL)
    resp = e_step(mixture, x.astype(float))[1]
    for j in range(2):
        e = x[:, 0] - free[j, 0]
        assert (resp[:, j] @ e**2 * resp[:, j].sum() > 2 * (resp[:, j] @ e) ** 2) == sure
    new = jaxem.m_step(mixture, jaxem.e_step(mixture, x)).components
    agree(new, m_step(mixture, resp, x.astype(float), Known())[1], 1000)


@pytest.mark.parametrize(
    ("case", "columns"),
    argvalues=slow_but_first(
        [
            (Case(StudentT(), 2, 3), (2, 0)),
            (Case(MIXED, 2, 4), (0, 1)),
            (MORE[0], (1,)),
            (Case(Poisson(), 2, 2), (0,)),
        ]
    ),
)
def test_marginal_times_conditional(case, columns):
    """p(x) is p(some columns) p(the others | those): all three densities by scipy, at the parameters that jaxem finds."""
    mixture, x, _, x64, _ = at_work(case)
    columns = list(columns)
    others = [i for i in range(x.shape[1]) if i not in columns]
    whole = e_step(mixture, x64)[0]
    of_columns = e_step(mixture.marginal(columns), x64[:, columns])[0]
    for row, row64, all_of_it, some in zip(x[:5], x64[:5], whole, of_columns, strict=False):
        rest = e_step(mixture.conditional(columns, row[columns]), row64[None, others])[0]
        agree(some + rest[0], all_of_it)


# -- drawn rows ----------------------------------------------------------------------------------------------------------

DRAWN = 20_000
SAMPLED = [
    case
    for case in STEPS
    if case.prior is None
    and case.family not in (RESPONSES, jaxem.Deconvolved())  # a row without noise holds columns of zeros
    and not isinstance(case.family, Regression)
    and case.k > 1
]


@pytest.mark.parametrize("case", **named(SAMPLED, first=5))
def test_moments_of_drawn_rows(case):
    """Shares of components; means of columns, of each component and of all; variances where tails are not heavy."""
    mixture = case.mixture()
    x, labels = (np.asarray(leaf, float) for leaf in mixture.sample(jax.random.key(1), DRAWN))
    weights, params = in_numpy(mixture)
    parts = case.family.parts if isinstance(case.family, Product) else ()
    label_column = next((min(i) for family, i in parts if isinstance(family, jaxem.Labelled)), None)
    if label_column is not None:  # the others have moments
        x, of_labels = np.delete(x, label_column, axis=1), x[:, label_column]
        assert set(np.unique(of_labels[of_labels != labels])) <= {-1.0}
        means, variances = (np.asarray(m) for m in textbook(parts[0][0]).moments(params[0]))
    else:
        means, variances = (np.asarray(m) for m in textbook(case.family).moments(params))
    assert np.all(np.abs(np.bincount(labels.astype(int)) / DRAWN - weights) < STATISTICAL * np.sqrt(weights / DRAWN))
    mean = weights @ means
    variance = weights @ (variances + means**2) - mean**2
    assert np.all(np.abs(x.mean(axis=0) - mean) < STATISTICAL * np.sqrt(variance / DRAWN))
    for j in range(case.k):
        own = x[labels == j]
        assert np.all(np.abs(own.mean(axis=0) - means[j]) < STATISTICAL * np.sqrt(variances[j] / len(own)))
        if "Student" not in case.name and "narrow" not in case.name and "two" not in case.name:
            apart = (own - means[j]) ** 2
            error = apart.std(axis=0) / np.sqrt(len(own))
            assert np.all(np.abs(apart.mean(axis=0) - variances[j]) < STATISTICAL * error)


@pytest.mark.parametrize("dof", [None, 4.0])
def test_drawn_rows_of_student_t(dof):
    """Squared distances over d are F(d, nu), whose own distribution function they make uniform; directions are even."""
    mixture = Case(StudentT(dof), 2, 3).mixture()
    x, labels = (np.asarray(leaf, float) for leaf in mixture.sample(jax.random.key(2), DRAWN))
    _, params = in_numpy(mixture)
    for j in range(2):
        own = x[labels == j]
        uniform = stats.f.cdf(squares(own, params.means[j], params.scales[j]) / 3, 3, params.dofs[j])
        for power in (1, 2, 8):
            error = np.sqrt((1 / (2 * power + 1) - 1 / (power + 1) ** 2) / len(own))
            assert abs(np.mean(uniform**power) - 1 / (power + 1)) < STATISTICAL * error
        white = np.linalg.solve(np.linalg.cholesky(params.scales[j]), (own - params.means[j]).T).T
        white /= np.linalg.norm(white, axis=1, keepdims=True)
        products = white[:, :, None] * white[:, None, :]
        assert np.all(np.abs(products.mean(0) - np.eye(3) / 3) < STATISTICAL * products.std(0) / np.sqrt(len(own)))


def test_drawn_responses():
    """Column 0 is normal, 1 a plane over it, 2 a plane over both: three jointly normal columns."""
    mixture = Case(RESPONSES, 2, 3).mixture()
    x, labels = (np.asarray(leaf, float) for leaf in mixture.sample(jax.random.key(3), DRAWN))
    _, (normal, first, second) = in_numpy(mixture)
    for j in range(2):
        own = x[labels == j]
        mean, covariance = normal.means[j], np.diag(normal.covariances[j])
        for plane in (first, second):
            b = plane.coefficients[j]
            across = covariance @ b
            covariance = np.block([[covariance, across[:, None]], [across, b @ across + plane.variances[j]]])
            mean = np.append(mean, plane.levels[j] + b @ (mean - plane.origins[j]))
        assert np.all(np.abs(own.mean(axis=0) - mean) < STATISTICAL * np.sqrt(np.diag(covariance) / len(own)))
        products = (own - mean)[:, :, None] * (own - mean)[:, None, :]
        error = products.std(axis=0) / np.sqrt(len(own))
        assert np.all(np.abs(products.mean(axis=0) - covariance) < STATISTICAL * error)


# -- what must hold whatever the formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", **named(OTHERS, first=6))
def test_weights_are_copies(case):
    """A row of weight 3 is three rows, one of weight 0 none."""
    mixture, x = case.mixture(), case.data(40).astype(DTYPE)
    w = np.random.default_rng(1).integers(0, 4, 40)
    one, other = jaxem.e_step(mixture, x, w), jaxem.e_step(mixture, np.repeat(x, w, axis=0))
    agree(one.log_likelihood, other.log_likelihood)
    agree(one.counts, other.counts)
    new, again = (jaxem.m_step(mixture, found, case.prior) for found in (one, other))
    agree(new.components, jax.tree.map(np.asarray, again.components), tolerance(case.family))


@pytest.mark.parametrize("case", **named([case for case in STEPS if case.k > 1 and case.prior is None], first=6))
def test_components_without_rows_stay(case):
    """A component of weight zero keeps its parameters, and those of the others are those of a mixture without it."""
    mixture, x, w, x64, w64 = at_work(case)
    if case.family == SEMI_SUPERVISED:  # a row that is labelled so can come from no other component
        x, x64 = (np.where(value == case.k - 1, -1.0, value).astype(value.dtype) for value in (x, x64))
    weights = np.append(np.full(case.k - 1, 1 / (case.k - 1)), 0.0)
    mixture = Mixture(jnp.log(jnp.asarray(weights)), mixture.components, case.family)
    found = jaxem.e_step(mixture, x, w)
    new = jaxem.m_step(mixture, found)
    log_prob, resp = e_step(mixture, x64)
    np.testing.assert_array_equal(resp[:, -1], 0)
    agree(found.log_likelihood, w64 @ log_prob)
    old = textbook(case.family)
    some = resp.copy()
    some[:, -1] = 1.0  # only so that numpy divides by something: these parameters are not looked at
    expected = old.m_step(in_numpy(mixture)[1], some * w64[:, None], x64, Known())
    assert float(new.weights[-1]) == 0
    for one, before, other in zip(*map(jax.tree.leaves, (new.components, mixture.components, expected)), strict=True):
        last = len(one) - 1
        if isinstance(case.family, Union):  # a part's last component is the mixture's only in the last part
            assert np.all(np.isfinite(one))
            continue
        np.testing.assert_array_equal(one[last], before[last])
        agree(one[:last], other[:last], tolerance(case.family))
    if isinstance(case.family, Union):
        for one, before in zip(*map(jax.tree.leaves, (new.components[-1], mixture.components[-1])), strict=True):
            np.testing.assert_array_equal(one[-1], before[-1])


def _moved(family, params, by):
    """The family and its parameters where all rows have been moved by `by` [d]."""
    if isinstance(family, Product):
        moved = [_moved(part, q, by[list(i)]) for (part, i), q in zip(family.parts, params, strict=True)]
        groups = [(new, i) for (new, _), (_, i) in zip(moved, family.parts, strict=True)]
        return Product(*groups), tuple(q for _, q in moved)
    if isinstance(family, Union):
        moved = [_moved(part, q, by) for (part, _), q in zip(family.parts, params, strict=True)]
        parts = [(new, count) for (new, _), (_, count) in zip(moved, family.parts, strict=True)]
        return Union(*parts), tuple(q for _, q in moved)
    if isinstance(family, Uniform):
        low, high = (tuple(np.asarray(bound) + by) for bound in (family.low, family.high))
        return Uniform(low, high), params._replace(lows=params.lows + by, highs=params.highs + by)
    if isinstance(family, Regression):
        return family, params._replace(levels=params.levels + by[-1], origins=params.origins + by[:-1])
    return family, params._replace(means=params.means + by) if hasattr(params, "means") else params


NUMBERS_AND_KINDS = Product((Full(), (0, 2)), (Categorical(3), (1,)))
FAR = [
    Case(StudentT(), 2, 2),
    Case(Regression(2), 2, 3),
    Composed(
        "numbers and kinds",
        NUMBERS_AND_KINDS,
        2,
        lambda rng: _product(Full(), rng, 2)[:2],
        Case(MIXED, 2, 4),
    ),
    Case(BEHIND, 3, 2),
    Case(StudentT(), 2, 9),
    Case(RESPONSES, 2, 3),
]


@pytest.mark.skipif(not X64, reason="float32 has no digits left there")
@pytest.mark.parametrize("case", **named(FAR, first=4))
def test_far_from_the_origin(case):
    """A million away the step is the step here, moved."""
    x = case.data(60)[:, : 3 if "kinds" in case.name else None]
    w = rows(case)[1]
    by = np.full(x.shape[1], 1e6)
    if "kinds" in case.name:
        by[1] = 0.0
    x = np.round(x * 2.0**10) / 2.0**10  # moved without rounding
    near = case.mixture()
    far = Mixture(near.log_weights, *_moved(case.family, in_numpy(near)[1], by)[::-1])
    one, other = jaxem.e_step(near, x, w), jaxem.e_step(far, x + by, w)
    np.testing.assert_allclose(other.log_likelihood, one.log_likelihood, rtol=1e-8)
    here, there = jaxem.m_step(near, one), jaxem.m_step(far, other)
    agree(there.weights, here.weights, atol=1e-8)
    back = _moved(there.family, in_numpy(there)[1], -by)[1]
    agree(back, jax.tree.map(np.asarray, here.components), atol=1e-8)


@pytest.mark.skipif(not X64, reason="float32 has no digits left there")
def test_regression_far_from_its_origin():
    """Covariates a million from the origin at which the level is meant: the plane is numpy's about the centred rows."""
    case = Case(Regression(2), 1, 3)
    x = np.round(case.data(60) * 2.0**10) / 2.0**10 + 1e6
    start = jaxem.starts(jax.random.key(0), Regression(2), x, 1, 1)[0]
    new = jaxem.fit(start, x, max_iter=3).mixture.components
    centred = x - x.mean(axis=0)
    plane = np.linalg.lstsq(centred[:, :-1], centred[:, -1], rcond=None)[0]
    np.testing.assert_allclose(new.coefficients[0], plane, rtol=1e-8)
    np.testing.assert_allclose(new.variances[0], np.mean((centred[:, -1] - centred[:, :-1] @ plane) ** 2), rtol=1e-8)
    np.testing.assert_allclose(
        new.intercepts[0], x[:, -1].mean() - plane @ x[:, :-1].mean(axis=0), atol=1e-2, rtol=1e-8
    )


@pytest.mark.parametrize(
    ("family", "params", "x", "expected"),
    slow_but_first(
        [
            (
                Categorical(3),
                jaxem.CategoricalParams(jnp.asarray([[[0.5, 0.5, 0.0]], [[0.25, 0.25, 0.5]]])),
                [[0.0], [1.0], [2.0]],
                [np.log(0.375), np.log(0.375), np.log(0.25)],
            ),
            (
                Poisson(),
                jaxem.PoissonParams(jnp.asarray([[0.0], [2.0]])),
                [[0.0], [3.0]],
                [np.log(0.5 + 0.5 * np.exp(-2)), np.log(0.5 * np.exp(-2) * 8 / 6)],
            ),
        ],
        2,
    ),
    ids=["Categorical", "Poisson"],
)
def test_what_one_component_cannot_produce(family, params, x, expected):
    """Probabilities and rates of zero: the row is the other component's."""
    mixture = Mixture(jnp.log(jnp.asarray([0.5, 0.5])), params, family)
    agree(mixture.log_prob(np.asarray(x, DTYPE)), np.asarray(expected))
    new = jaxem.m_step(mixture, jaxem.e_step(mixture, np.asarray(x, DTYPE)))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(new))
