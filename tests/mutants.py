"""Seeded bugs in the families and em.py, each a one-line change of the source: do the laws kill them all?

    python -m tests.mutants            prints each mutant and the laws that kill it; exit code 1 if one survives

A mutant is a copy of the package under another name with one snippet replaced; `verify` of the copy judges a mixture of
the copy's own family. The laws live in the copy as well, unchanged.
"""

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_ENABLE_X64", "1")

import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem import kept
from jaxem.program import forget_programs


class Mutant(NamedTuple):
    """`before` in `file` becomes `after`; seen with a mixture of `family`."""

    what: str
    file: str
    before: str
    after: str
    family: str
    features: int = 3  # above 8 the pass takes products for distances
    prior: bool = False  # whether a Gaussian is judged with mclust's prior


GAUSSIAN, DISCRETE, EM = "families/gaussian.py", "families/discrete.py", "em.py"
LINALG, DISTANCES, PRIMITIVES, PRIORS = "linalg.py", "distances.py", "primitives.py", "priors.py"
MUTANTS = (
    Mutant("unbiased variance, N_k - 1", GAUSSIAN, "second = stats.second / positive(stats.degrees)[:, None, None]",
           "second = stats.second / (positive(stats.degrees) - 1.0)[:, None, None]", "Full"),
    Mutant("d forgotten in the spherical variance", GAUSSIAN, "_rounding_margin(moved)) / delta.shape[1]",
           "_rounding_margin(moved))", "Spherical"),
    Mutant("stale mean in the variance", GAUSSIAN, "positive(stats.degrees)[:, None] - moved + _rounding_margin(moved)",
           "positive(stats.degrees)[:, None]", "Diagonal"),
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
    Mutant("deviation for variance in the density", GAUSSIAN, "return distances(means, x) * precisions[:, None]",
           "return distances(means, x) * precisions[:, None] ** 2", "Spherical"),
    Mutant("a damped step of the means", GAUSSIAN, "GaussianParams(params.means + delta, covariances)",
           "GaussianParams(params.means + 0.9 * delta, covariances)", "Tied"),
    Mutant("tied moves weighted alike", GAUSSIAN, "(stats.counts / total)[:, None] * delta, delta)",
           "delta / total.size / delta.shape[0], delta)", "Tied"),
    Mutant("variances averaged over features", GAUSSIAN, 'return dot("db,b->d", difference(mean, x) ** 2, resp)',
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
    Mutant("zeros counted as ones", DISCRETE, 'zeros, 1.0 - x)', 'zeros, x)',
           "Bernoulli"),
    Mutant("prior counted once too often", PRIORS, "counts=ones + zeros", "counts=ones + zeros + 1.0",
           "Bernoulli"),
    Mutant("the chart loses a sign", GAUSSIAN, "return jnp.exp(free).reshape(k, d)", "return jnp.exp(-free).reshape(k, d)",
           "Diagonal"),
    Mutant("pairs of means counted twice", GAUSSIAN, "between = 0.5 * dot", "between = 1.0 * dot", "Tied"),
    Mutant("cross term halved in distances by products", DISTANCES, '- 2.0 * dot("kd,db->kb", means, x)',
           '- dot("kd,db->kb", means, x)', "Spherical", 10),
    Mutant("cross term halved in scaled distances by products", GAUSSIAN, '- 2.0 * dot("kd,db->kb", scaled, x)',
           '- dot("kd,db->kb", scaled, x)', "Diagonal", 10),
    Mutant("first moments by products left about the origin", DISTANCES,
           'dot("kb,db->kd", resp, x) - jnp.sum(resp, axis=1)[:, None] * means', 'dot("kb,db->kd", resp, x)', "Tied", 10),
    Mutant("the prior's row at the mean left out of the covariance", GAUSSIAN, "GaussianStats(lost, jnp.ones_like(n)",
           "GaussianStats(lost, jnp.zeros_like(n)", "Full", prior=True),
    Mutant("the prior's pull of the means left out", GAUSSIAN, "rows[:, None] * share[:, None] * apart, squares)",
           "0.0 * apart, squares)",
           "Diagonal", prior=True),
    Mutant("the prior's scatter once for each component that shares a covariance", GAUSSIAN, "1.0 / k if self.shared",
           "1.0 if self.shared", "Tied", prior=True),
    Mutant("the pull of the prior not squared in the covariance", GAUSSIAN, "self.outer(root * new) - self.outer(root * own)",
           "0.0 * self.outer(root * new)", "Diagonal", prior=True),
    Mutant("the mean's move counted as rows, not as the prior counts it", GAUSSIAN,
           "return stats.counts / positive(stats.degrees)", "return jnp.ones_like(stats.counts)", "Spherical", prior=True),
    Mutant("a row of the whitener not divided", LINALG, "set(row / factors[..., j, j][..., None])", "set(row)", "Full"),
)  # fmt: skip


def data(family, d):
    """Rows [60, d] with correlated features of different scales, or bits."""
    rng = np.random.default_rng(0)
    if family == "Bernoulli":
        return (rng.uniform(size=(60, 3)) < [0.2, 0.5, 0.7]).astype(float)
    if d > 3:
        return rng.normal(size=(60, d)) @ (np.eye(d) + 0.1 * rng.normal(size=(d, d)))
    return rng.normal(size=(60, 3)) @ np.array([[1.0, 0.8, 0.1], [0.0, 0.7, 0.3], [0.0, 0.0, 1.5]]) + [0.0, 1.0, -2.0]


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
            path.write_text(path.read_text().replace("jaxem.", f"{name}.").replace('"forward_only"', f'"{name}"'))
        sys.path.insert(0, folder)
        try:
            copy = importlib.import_module(name)
            verify, kind = copy.verify, getattr(copy, family)()
            importlib.import_module(f"{name}.laws")
        finally:
            sys.path.remove(folder)
        x = data(family, d)
        prior = copy.Beta(2.0, 3.0) if family == "Bernoulli" else None
        if mutant is not None and mutant.prior:
            prior = copy.fraley_raftery(kind, x, 2, shrinkage=0.7)
        rng = np.random.default_rng(1)
        log_weights = jnp.log(jnp.asarray([0.3, 0.7]))
        if family == "Bernoulli":
            components = copy.BernoulliParams(jnp.asarray(rng.uniform(0.2, 0.8, (2, 3))))
        else:
            covariance = np.cov(x.T, bias=True)
            forms = {"Spherical": np.array([1.0, 2.0]), "Diagonal": np.stack([np.diag(covariance)] * 2),
                     "Tied": covariance, "Full": np.stack([covariance] * 2)}  # fmt: skip
            components = copy.GaussianParams(jnp.asarray(x[:2]), jnp.asarray(forms[family]))
        report = verify(copy.Mixture(log_weights, components, kind), x, prior=prior)
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[module]
    return [law.name for law in report.laws if not law.ok]


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
