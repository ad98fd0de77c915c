"""EM in plain numpy and scipy, written from the textbook and sharing no line with jaxem: slow, obvious, float64."""

import numpy as np
from scipy import stats


def log_joint(kind, weights, params, x):
    columns = []
    for j, weight in enumerate(weights):
        if kind == "Bernoulli":
            log_prob = stats.bernoulli.logpmf(x.astype(int), params["probs"][j]).sum(axis=1)
        else:
            log_prob = stats.multivariate_normal(params["means"][j], matrix(kind, params, j, x.shape[1])).logpdf(x)
        columns.append(np.log(weight) + np.reshape(log_prob, len(x)))
    return np.column_stack(columns)


def matrix(kind, params, j, d):
    covariances = np.asarray(params["covariances"])
    if kind == "Spherical":
        return covariances[j] * np.eye(d)
    if kind == "Diagonal":
        return np.diag(covariances[j])
    return covariances if kind == "Tied" else covariances[j]


def e_step(kind, weights, params, x, w):
    log_joints = log_joint(kind, weights, params, x)
    top = log_joints.max(axis=1, keepdims=True)  # exp of less than -745 is 0
    joint = np.exp(log_joints - top)
    resp = joint / joint.sum(axis=1, keepdims=True)
    return resp, np.sum(w * (top[:, 0] + np.log(joint.sum(axis=1))))


def m_step(kind, resp, x, w, alpha=1.0, beta=1.0):
    n, d = x.shape
    r = resp * w[:, None]
    counts = r.sum(axis=0)
    weights = counts / counts.sum()
    if kind == "Bernoulli":
        ones = np.array([[sum(r[i, j] * x[i, f] for i in range(n)) for f in range(d)] for j in range(len(counts))])
        return weights, {"probs": (ones + alpha - 1) / (counts[:, None] + alpha + beta - 2)}
    means = np.array([np.average(x, axis=0, weights=r[:, j]) for j in range(len(counts))])
    scatter = []
    for j, mean in enumerate(means):
        total = np.zeros((d, d))
        for i in range(n):
            total += r[i, j] * np.outer(x[i] - mean, x[i] - mean)
        scatter.append(total)
    scatter = np.array(scatter)
    if kind == "Tied":
        covariances = scatter.sum(axis=0) / counts.sum()
    elif kind == "Full":
        covariances = scatter / counts[:, None, None]
    elif kind == "Diagonal":
        covariances = np.array([np.diag(s) for s in scatter]) / counts[:, None]
    else:
        covariances = np.array([np.trace(s) for s in scatter]) / (d * counts)
    return weights, {"means": means, "covariances": covariances}
