"""EM in plain numpy and scipy, written from the textbook and sharing no line with jaxem: obvious, in float64.

A family is here a pair of functions; parameters are a dict of arrays with jaxem's names.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats


class Oracle(NamedTuple):
    """One family by the textbook."""

    log_prob: Callable  # (params, j, x [n, d]) -> log density of each row under component j, [n]
    m_step: Callable  # (resp [n, k], times the weights of rows, x [n, d], prior) -> params


class Form(NamedTuple):
    """How a family of Gaussians keeps its covariances."""

    matrix: Callable  # (covariances, j, d) -> the matrix [d, d] of component j
    reduced: Callable  # (matrices [k, d, d], shares [k] of the rows) -> what the M-step makes of these matrices
    closed_under: Callable  # (rng, d) -> a random matrix [d, d]: times a row, it gives a row of the same family


def log_joint(oracle, weights, params, x):
    columns = [np.log(weight) + oracle.log_prob(params, j, x) for j, weight in enumerate(weights)]
    return np.column_stack(columns)


def e_step(oracle, weights, params, x, w):
    log_joints = log_joint(oracle, weights, params, x)
    top = log_joints.max(axis=1, keepdims=True)  # exp of less than -745 is 0
    joint = np.exp(log_joints - top)
    resp = joint / joint.sum(axis=1, keepdims=True)
    return resp, np.sum(w * (top[:, 0] + np.log(joint.sum(axis=1))))


def m_step(oracle, resp, x, w, prior=None):
    r = resp * w[:, None]
    counts = r.sum(axis=0)
    return counts / counts.sum(), oracle.m_step(r, x, prior)


# -- Gaussians ---------------------------------------------------------------------------------------------------------

SPHERICAL = Form(
    lambda covariances, j, d: covariances[j] * np.eye(d),
    lambda matrices, shares: np.array([np.trace(matrix) / len(matrix) for matrix in matrices]),
    lambda rng, d: 1.7 * np.linalg.qr(rng.normal(size=(d, d)))[0],
)
DIAGONAL = Form(
    lambda covariances, j, d: np.diag(covariances[j]),
    lambda matrices, shares: np.array([np.diag(matrix) for matrix in matrices]),
    lambda rng, d: np.diag(rng.uniform(0.3, 5.0, d)),
)
TIED = Form(
    lambda covariances, j, d: covariances,
    lambda matrices, shares: sum(share * matrix for share, matrix in zip(shares, matrices, strict=True)),
    lambda rng, d: rng.normal(size=(d, d)) + 2 * np.eye(d),
)
FULL = Form(lambda covariances, j, d: covariances[j], lambda matrices, shares: np.asarray(matrices), TIED.closed_under)


def gaussian(form):
    def log_prob(params, j, x):
        matrix = form.matrix(np.asarray(params["covariances"]), j, x.shape[1])
        return np.reshape(stats.multivariate_normal(params["means"][j], matrix).logpdf(x), len(x))

    def m_step(r, x, prior):
        counts = r.sum(axis=0)
        means = np.array([np.average(x, axis=0, weights=r[:, j]) for j in range(len(counts))])
        matrices = []
        for j, mean in enumerate(means):
            matrices.append((r[:, j, None] * (x - mean)).T @ (x - mean) / counts[j])
        return {"means": means, "covariances": form.reduced(np.array(matrices), counts / counts.sum())}

    return Oracle(log_prob, m_step)


# -- discrete rows -----------------------------------------------------------------------------------------------------


def _bernoulli_m_step(r, x, prior):
    alpha, beta = (1.0, 1.0) if prior is None else (prior.alpha, prior.beta)
    return {"probs": (r.T @ x + alpha - 1) / (r.sum(axis=0)[:, None] + alpha + beta - 2)}


BERNOULLI = Oracle(
    lambda params, j, x: stats.bernoulli.logpmf(x.astype(int), params["probs"][j]).sum(axis=1), _bernoulli_m_step
)
POISSON = Oracle(
    lambda params, j, x: stats.poisson.logpmf(x.astype(int), params["rates"][j]).sum(axis=1),
    lambda r, x, prior: {"rates": np.array([np.average(x, axis=0, weights=column) for column in r.T])},
)
