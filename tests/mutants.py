"""Seeded bugs in the families and em.py, each a one-line change of the source: do the laws kill them all?

    python -m tests.mutants            prints each mutant and the first laws that kill it; exit code 1 if one survives

A mutant is a copy of the package under another name with one snippet replaced; the laws of `verify` of the copy judge a mixture
of the copy's own family, a group at a time until one fails. The laws live in the copy as well, unchanged.
"""

import dataclasses
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_ENABLE_X64", "1")

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem import kept
from jaxem.program import HASTY, forget_programs
from tests.cases import OTHERS


class Mutant(NamedTuple):
    """`before` in `file` becomes `after`; seen with a mixture of `family`."""

    what: str
    file: str
    before: str
    after: str
    family: str
    features: int = 3  # above 8 the pass takes products for distances
    prior: bool = False  # whether a Gaussian is judged with mclust's prior
    missing: bool = False  # whether it is judged on rows that miss values


MATRICES, TIED, DIAGONAL = "families/matrices.py", "families/tied.py", "families/diagonal.py"
GAUSSIAN, DISCRETE, EM = "families/gaussian.py", "families/discrete.py", "em.py"
STUDENT, ALGEBRA, FIXED = "families/student_t.py", "families/algebra.py", "families/fixed.py"
DECONVOLVED = "families/deconvolved.py"
REGRESSION, NUMERICAL = "families/regression.py", "families/numerical.py"
LINALG, DISTANCES, PRIMITIVES, PRIORS = "linalg.py", "distances.py", "primitives.py", "priors.py"
OBSERVED = "observed.py"
MUTANTS = (
    Mutant("unbiased variance, N_k - 1", MATRICES, "second = stats.second / positive(stats.degrees)[:, None, None]",
           "second = stats.second / (positive(stats.degrees) - 1.0)[:, None, None]", "Full"),
    Mutant("d forgotten in the spherical variance", GAUSSIAN, "rounding_margin(moved)) / delta.shape[1]",
           "rounding_margin(moved))", "Spherical"),
    Mutant("stale mean in the variance", DIAGONAL, "positive(per_feature(stats.degrees)) - moved + rounding_margin(moved)",
           "positive(per_feature(stats.degrees))", "Diagonal"),
    Mutant("a half missing in the density", GAUSSIAN, "_log_constants(params, precisions)[:, None] - 0.5 * squares",
           "_log_constants(params, precisions)[:, None] - 1.0 * squares", "Spherical"),
    Mutant("a half missing in the pass", GAUSSIAN, "normalise(constants[:, None] - 0.5 * squares",
           "normalise(constants[:, None] - 1.0 * squares", "Full"),
    Mutant("log determinant halved", LINALG, "-2.0 * jnp.sum(jnp.log(inverse)",
           "-1.0 * jnp.sum(jnp.log(inverse)",
           "Full"),
    Mutant("log determinant without d", GAUSSIAN, "return d * jnp.log(covariances)", "return jnp.log(covariances)",
           "Spherical"),
    Mutant("2 pi without d", GAUSSIAN, "(d * LOG_2PI + self.log_det", "(LOG_2PI + self.log_det", "Full"),
    Mutant("transposed Cholesky factor in the density", DISTANCES, 'dot("ij,jb->ib", whitener, difference(mean, x))',
           'dot("ji,jb->ib", whitener, difference(mean, x))', "Full"),
    Mutant("transposed Cholesky factor in the sampler", GAUSSIAN, 'dot("ij,nj->ni", factors[j], noise)',
           'dot("ji,nj->ni", factors[j], noise)', "Full"),
    Mutant("deviation for variance in the density", GAUSSIAN, "return distances(means, x) * precisions.reshape(-1, 1)",
           "return distances(means, x) * precisions.reshape(-1, 1) ** 2", "Spherical"),
    Mutant("a damped step of the means", GAUSSIAN, "GaussianParams(params.means + delta, covariances)",
           "GaussianParams(params.means + 0.9 * delta, covariances)", "Tied"),
    Mutant("tied moves weighted alike", TIED, "(stats.counts / total)[:, None] * delta, delta)",
           "delta / total.size / delta.shape[0], delta)", "Tied"),
    Mutant("variances averaged over features", DIAGONAL, 'return dot("db,b->d", difference(mean, x) ** 2, resp)',
           'return jnp.full(x.shape[0], jnp.mean(dot("db,b->d", difference(mean, x) ** 2, resp)))', "Diagonal"),
    Mutant("weights of rows squared", PRIMITIVES, "return jnp.sum(jnp.where(w > 0, w * values, 0.0))",
           "return jnp.sum(jnp.where(w > 0, w**2 * values, 0.0))", "Full"),
    Mutant("weights of rows ignored in the statistics", GAUSSIAN, "resp = resp * w[None, :]  # [k, b]",
           "resp = resp * (w > 0)[None, :]", "Diagonal"),
    Mutant("mixing weights left out of the E-step", EM,
           "prepare(mixture.components, mixture.log_weights)",
           "prepare(mixture.components, 0.0 * mixture.log_weights)", "Spherical"),
    Mutant("mixing weights not normalised", EM,
           "jnp.log(positive(counts) / jnp.sum(counts))", "jnp.log(positive(counts) / (jnp.sum(counts) + 1.0))", "Tied"),
    Mutant("mixing weights smoothed", EM, "positive(counts) / jnp.sum(counts)",
           "(counts + 1.0) / jnp.sum(counts + 1.0)", "Bernoulli"),
    Mutant("entropy with the wrong sign in the elbo", EM, "- jnp.log(jnp.where(used, resp, 1.0))",
           "+ jnp.log(jnp.where(used, resp, 1.0))", "Spherical"),
    Mutant("responsibilities sharpened", PRIMITIVES, "resp = joint * (1.0 / jnp.where(total > 0, total, 1.0))",
           "resp = joint**2 / jnp.sum(joint**2, axis=axis, keepdims=True)", "Diagonal"),
    Mutant("zeros counted as ones", DISCRETE, "jnp.concatenate([x, 1.0 - x])", "jnp.concatenate([x, x])", "Bernoulli"),
    Mutant("prior counted once too often", DISCRETE, "return Totals(ones + zeros, tosses)",
           "return Totals(ones + zeros, tosses + 1.0)", "Bernoulli"),
    Mutant("the normaliser of a Poisson twice", DISCRETE, "- jnp.sum(normalisers, axis=1, keepdims=True)",
           "- 2.0 * jnp.sum(normalisers, axis=1, keepdims=True)", "Poisson"),
    Mutant("the factorial of a Poisson left out", DISCRETE, "jnp.sum(jax.scipy.special.gammaln(x + 1.0)",
           "jnp.sum(0.0 * jax.scipy.special.gammaln(x + 1.0)", "Poisson"),
    Mutant("categories of a feature not normalised by their own rows", DISCRETE,
           "positive(jnp.sum(totals, axis=2, keepdims=True))", "positive(stats.counts)[:, :1, None] * 1.01", "Categorical"),
    Mutant("categories in a chart of the wrong order", DISCRETE, "before = jnp.cumsum(rest, axis=2) - rest",
           "before = jnp.cumsum(rest, axis=2)", "Categorical"),
    Mutant("degrees of freedom solved without the dimension", STUDENT,
           "_log_gamma_ratio(0.5 * dof, d))", "_log_gamma_ratio(0.5 * dof, d + 1))", "StudentT"),
    Mutant("rows far away count fully in the scale", STUDENT, "counted, counts = resp * u,", "counted, counts = resp,",
           "StudentT"),
    Mutant("an excess without its one", STUDENT, "/ positive(stats.counts) - 1.0)", "/ positive(stats.counts) - 0.9)",
           "StudentT"),
    Mutant("the truth taken for certain", DECONVOLVED, 'dot("kib,kjb->kij", weighted, seen.pull) - precisions',
           'dot("kib,kjb->kij", weighted, seen.pull) - 0.9 * precisions', "Deconvolved"),
    Mutant("a value that was not observed takes spread away", DECONVOLVED,
           "whitener = jnp.where(seen[None, None], inverse, 0.0)", "whitener = inverse", "Deconvolved"),
    Mutant("the pull of a row taken for its move", DECONVOLVED,
           'dot("kij,kj->ki", covariances, jnp.sum(weighted, axis=2))', "jnp.sum(weighted, axis=2)", "Deconvolved"),
    Mutant("a part of a Product shifted by the first columns", ALGEBRA, "own = params, self._rows(offset[None, :])",
           "own = params, [offset[None, : len(c)] for _, c in self.parts]", "Product"),
    Mutant("parts of a Product multiplied", ALGEBRA, "params, self._rows(x)), operator.add, 1)",
           "params, self._rows(x)), operator.mul, 1)", "Product"),
    Mutant("a box of the wrong volume", FIXED, "jnp.log(high - low)[None, :]", "jnp.log(high)[None, :]", "Union"),
    Mutant("labels from one", FIXED, "x[:, :1] == jnp.arange(k, dtype=x.dtype)[None, :]",
           "x[:, :1] == 1 + jnp.arange(k, dtype=x.dtype)[None, :]", "Labelled"),
    Mutant("residual variance without what the plane gained", REGRESSION, "jnp.maximum(stats.squares - gained, 0.0)",
           "jnp.maximum(stats.squares, 0.0)", "Regression"),
    Mutant("a plane that does not move with its covariates", REGRESSION, "origins=params.origins + offset[None, :-1])",
           "origins=params.origins)", "Regression"),
    Mutant("Newton's step the wrong way", NUMERICAL, "return slope, -jax.jacfwd(jax.grad(total))(free), squares",
           "return -slope, -jax.jacfwd(jax.grad(total))(free), squares", "Numerical"),
    Mutant("the chart loses a sign", GAUSSIAN, "return jnp.exp(free).reshape(self.covariance_shape(k, d))",
           "return jnp.exp(-free).reshape(self.covariance_shape(k, d))", "Diagonal"),
    Mutant("pairs of means counted twice", TIED, 'between = 0.5 * dot("jli', 'between = 1.0 * dot("jli', "Tied"),
    Mutant("cross term halved in distances by products", DISTANCES, '- 2.0 * dot("kd,db->kb", means, x)',
           '- dot("kd,db->kb", means, x)', "Spherical", 10),
    Mutant("cross term halved in scaled distances by products", DIAGONAL, '- 2.0 * dot("kd,db->kb", scaled, x)',
           '- dot("kd,db->kb", scaled, x)', "Diagonal", 10),
    Mutant("cross term halved in second moments by products", DISTANCES, "raw - means * (2.0 * first",
           "raw - means * (1.0 * first", "Diagonal", features=12),
    Mutant("first moments by products left about the origin", DISTANCES,
           'dot("kb,db->kd", resp, x) - jnp.sum(resp, axis=1)[:, None] * means', 'dot("kb,db->kd", resp, x)', "Tied", 10),
    Mutant("the prior's row at the mean left out of the covariance", GAUSSIAN, "jnp.ones_like(stats.degrees), rows",
           "jnp.zeros_like(stats.degrees), rows", "Full", prior=True),
    Mutant("the prior's pull of the means left out", GAUSSIAN, "rows * share * apart, squares",
           "0.0 * apart, squares",
           "Diagonal", prior=True),
    Mutant("the prior's scatter once for each component that shares a covariance", GAUSSIAN, "1.0 / k if self.shared",
           "1.0 if self.shared", "Tied", prior=True),
    Mutant("the pull of the prior not squared in the covariance", GAUSSIAN, "self.outer(root * new) - self.outer(root * own)",
           "0.0 * self.outer(root * new)", "Diagonal", prior=True),
    Mutant("the mean's move counted as rows, not as the prior counts it", GAUSSIAN,
           "return per_feature(stats.counts) / positive(per_feature(stats.degrees))",
           "return jnp.ones_like(per_feature(stats.counts))", "Spherical", prior=True),
    Mutant("a row of the whitener not divided", LINALG, "set(row / factors[..., j, j][..., None])", "set(row)", "Full"),
    Mutant("the spread of what is missing left out", OBSERVED, 'maps) + dot("kg,kgij->kij"', 'maps) + 0.0 * dot("kg,kgij->kij"',
           "Full", missing=True),
    Mutant("what is missing expected at the mean", OBSERVED, "shape), onto_missing, jnp.where", "shape), 0.0, jnp.where",
           "Tied", missing=True),
    Mutant("a feature counts rows that miss it", OBSERVED, 'return dot("kb,db->kd", resp, seen_in(x)),',
           'return dot("kb,db->kd", resp, jnp.ones_like(x)),', "Diagonal", missing=True),
    Mutant("2 pi counted for what is missing", MATRICES, "LOG_2PI * seen.counts[None, :]), stats",
           "LOG_2PI * x.shape[0]), stats", "Full", missing=True),
    Mutant("the volume of what is missing", OBSERVED, "+ jnp.log(variances), seen_in(x))",
           "+ jnp.log(variances), jnp.ones_like(x))", "Spherical", missing=True),
)  # fmt: skip


def data(family, d):
    """Rows [60, d] with correlated features of different scales, or bits."""
    rng = np.random.default_rng(0)
    if family == "Bernoulli":
        return (rng.uniform(size=(60, 3)) < [0.2, 0.5, 0.7]).astype(float)
    if d > 3:
        return rng.normal(size=(60, d)) @ (np.eye(d) + 0.1 * rng.normal(size=(d, d)))
    return rng.normal(size=(60, 3)) @ np.array([[1.0, 0.8, 0.1], [0.0, 0.7, 0.3], [0.0, 0.0, 1.5]]) + [0.0, 1.0, -2.0]


def judged(copy, family, d, *, with_prior=False, missing=False):
    """A mixture of the copy's own family, rows for it, and a prior."""
    if family not in ("Bernoulli", "Spherical", "Diagonal", "Tied", "Full"):
        cases = [case for case in OTHERS if family in (type(case.family).__name__, *inner(case.family))]
        case = max(
            cases, key=lambda case: len(getattr(case.family, "families", ()))
        )  # the first of those with most parts
        mixture = case.mixture()
        own = copied(copy, case.family)
        prior = None if case.prior is None else getattr(copy, type(case.prior).__name__)(**vars(case.prior))
        return copy.Mixture(mixture.log_weights, components_of(copy, mixture.components), own), case.data(), prior
    x, rng = data(family, d), np.random.default_rng(1)
    kind = getattr(copy, family)(*([True] if missing else []))
    prior = copy.Beta(2.0, 3.0) if family == "Bernoulli" else None
    if with_prior:
        prior = copy.fraley_raftery(kind, x, 2, shrinkage=0.7)
    if family == "Bernoulli":
        components = copy.BernoulliParams(jnp.asarray(rng.uniform(0.2, 0.8, (2, 3))))
    else:
        covariance = np.cov(x.T, bias=True)
        forms = {"Spherical": np.array([1.0, 2.0]), "Diagonal": np.stack([np.diag(covariance)] * 2),
                 "Tied": covariance, "Full": np.stack([covariance] * 2)}  # fmt: skip
        components = copy.GaussianParams(jnp.asarray(x[:2]), jnp.asarray(forms[family]))
    if missing:
        x = np.where(rng.uniform(size=x.shape) < 0.3, np.nan, x)
    return copy.Mixture(jnp.log(jnp.asarray([0.3, 0.7])), components, kind), x, prior


def inner(family):
    """Names of the families inside a family."""
    return [
        type(one).__name__ for one in getattr(family, "families", ()) if type(one).__name__ in ("Labelled", "Uniform")
    ]


def copied(copy, family):
    """The same family, of the copy's classes."""
    kind = getattr(copy, type(family).__name__)
    if hasattr(family, "families"):
        return kind(*((copied(copy, part), of) for part, of in family.parts))
    settings = [getattr(family, field.name) for field in dataclasses.fields(family) if field.init]
    return kind(*settings)


def components_of(copy, params):
    """The same parameters, of the copy's classes."""
    if type(params) is tuple:
        return tuple(components_of(copy, own) for own in params)
    return getattr(copy, type(params).__name__)(*params)


def killers(mutant=None):
    """Names of the laws that fail for a mutant (for the unchanged package if None)."""
    family, d = ("Full", 3) if mutant is None else (mutant.family, mutant.features)
    with tempfile.TemporaryDirectory() as folder:
        number = "unchanged" if mutant is None else str(MUTANTS.index(mutant))
        name = f"jaxem_mutant_{number}"
        target = Path(folder) / name
        shutil.copytree(Path(jaxem.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            path = target / mutant.file
            source = path.read_text()
            assert source.count(mutant.before) == 1, f"{mutant.what}: {mutant.before!r} is not in {mutant.file} once"
            path.write_text(source.replace(mutant.before, mutant.after))
        for path in target.rglob("*.py"):
            path.write_text(path.read_text().replace("jaxem.", f"{name}."))
        sys.path.insert(0, folder)
        try:
            copy = importlib.import_module(name)
            laws = importlib.import_module(f"{name}.laws")
        finally:
            sys.path.remove(folder)
        asked = {} if mutant is None else {"with_prior": mutant.prior, "missing": mutant.missing}
        found = broken(laws, *judged(copy, family, d, **asked))
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[module]
    return found


def broken(laws, mixture, x, prior):
    """Names of the first laws that fail, of the laws in groups: those first that kill most and take least to compile."""
    draws, density, mixture, x, chance, coordinates, prior = laws.Trial.draw(mixture, x, prior, 0).arguments

    def group(number, mixture, x, chance, prior):
        theta, other = laws._displace_twice(mixture, x, chance, prior)
        key, k = jax.random.wrap_key_data(chance.key), 1 if mixture.family.interchangeable else mixture.n_components
        if number == 0:
            found = laws.of_derivatives(theta, x, chance.weight, chance, coordinates, prior)
            return {law: residual for law, residual in found.items() if law in ("fisher", "stationary")}
        if number == 1:
            bounds = laws.of_bounds(theta, x, chance.weight, chance.noise[2], [mixture, other], prior)
            return bounds | laws.of_stats(theta, x, chance.weight, prior)
        return {
            **laws.of_derivatives(theta, x, chance.weight, chance, coordinates, prior),
            **laws.of_maximum(mixture, x, chance.directions[0], prior),
            **(laws.of_draws(theta, key, coordinates) if draws else {}),
            **(laws.of_density(mixture.family, x, k, key) if density else {}),
        }

    for number in range(3):
        program = jax.jit(group, static_argnums=0).lower(number, mixture, x, chance, prior)
        residuals = program.compile(compiler_options=dict(HASTY))(mixture, x, chance, prior)
        failed = [law for law in laws.TOLERANCES if law in residuals and not residuals[law] <= laws.TOLERANCES[law]]
        if failed:
            return failed
    return []


def main():
    """Print who kills whom."""
    os.environ[kept.VARIABLE] = ""  # a mutant has the name of what it was
    survivors = 0
    print(f"unchanged: {killers() or 'no law fails'}")
    for mutant in MUTANTS:
        laws = killers(mutant)
        survivors += not laws
        print(f"{'killed by ' + ', '.join(laws) if laws else 'SURVIVES'}: {mutant.what} ({mutant.family})", flush=True)
        forget_programs()
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} mutants killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
