"""Rotations: eigenvectors of small symmetric matrices, and coordinates of an orthogonal matrix, without LAPACK.

    eigenvectors   Jacobi's rotations of disjoint pairs at a time; of positive semidefinite matrices even small eigenvalues
                   keep their digits                             (Golub and Van Loan 2013, 8.5; Demmel and Veselic 1992)
    Cayley         D = (I + A) inv(I - A) of a skew A, and A = (D - I) inv(D + I), which has d (d - 1) / 2 entries

D has no A if an eigenvalue is -1, as where det D = -1. The columns of a matrix of eigenvectors may change their signs, so
`in_chart` changes some: D S + I = (D + S) S is eliminated column by column, and the sign of each pivot d_ii of D is taken as
s_i. Each pivot is then at least 1 in size, and A exists (the same signs as in Ballard et al. 2014, lemma 6.2).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.linalg import cholesky_factors
from jaxem.primitives import dot, epsilon, tiny

SWEEPS = 15
"""sweeps of Jacobi's rotations over all pairs, at most; they square the error once it is small"""
REACH = 4.0
"""largest norm of a column of A up to which the signs of columns stay as they are; a turn by 2 atan(4), 152 degrees"""


@jax.custom_jvp
def eigenvectors(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues `[d]` of a symmetric matrix `[d, d]`, the largest first, and its eigenvectors, the columns of `[d, d]`.

    Eigenvectors of equal eigenvalues have the derivative 0.
    """
    d = matrix.shape[0]
    partners = jnp.asarray(_round_robin(d))
    index = jnp.arange(d)
    largest = jnp.max(jnp.abs(matrix))
    scale = jnp.where(largest > 0, largest, 1.0)

    def is_diagonal(turned: Array) -> Array:
        sizes = jnp.sqrt(jnp.abs(jnp.diagonal(turned)))
        limit = epsilon(turned.dtype) * sizes[:, None] * sizes[None, :] + tiny(turned.dtype)
        return jnp.all((jnp.abs(turned) <= limit) | (index[:, None] == index[None, :]))

    def rotate(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, turned, vectors = carry
        partner = partners[i % partners.shape[0]]
        pairs = (partner[:, None] == index[None, :]) & (partner != index)[:, None]
        diagonal = jnp.diagonal(turned)
        off = jnp.sum(jnp.where(pairs, turned, 0.0), axis=1)
        apart = 0.5 * (jnp.sum(jnp.where(pairs, diagonal[None, :], 0.0), axis=1) - diagonal)
        sign = jnp.where(apart == 0, jnp.where(partner > index, 1.0, -1.0), jnp.sign(apart))
        # tan of the angle, the smaller solution of off (1 - t^2) = 2 apart t; 0 where nothing is to be done
        root = jnp.abs(apart) + jnp.sqrt(apart**2 + off**2)
        tangent = jnp.where(root > 0, sign * off / jnp.where(root > 0, root, 1.0), 0.0)
        cosine = jax.lax.rsqrt(1.0 + tangent**2)
        rotation = jnp.diag(cosine) + jnp.where(pairs, (cosine * tangent)[:, None], 0.0)
        turned = dot("ji,jk,kl->il", rotation, turned, rotation)
        return i + 1, 0.5 * (turned + turned.T), dot("ij,jk->ik", vectors, rotation)

    def goes_on(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[0] < SWEEPS * partners.shape[0]) & ~is_diagonal(carry[1])

    first = (jnp.zeros((), int), matrix / scale, jnp.eye(d, dtype=matrix.dtype))
    _, turned, vectors = jax.lax.while_loop(goes_on, rotate, first)
    order = jnp.argsort(-jnp.diagonal(turned))
    return jnp.diagonal(turned)[order] * scale, orthonormal(vectors)[:, order]


@eigenvectors.defjvp
def _eigenvectors_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    values, vectors = eigenvectors(*primals)
    moved = dot("ji,jk,kl->il", vectors, tangents[0], vectors)
    gaps = values[None, :] - values[:, None]
    apart = jnp.abs(gaps) > epsilon(gaps.dtype) * jnp.max(jnp.abs(values))
    turn = jnp.where(apart, moved / jnp.where(apart, gaps, 1.0), 0.0)
    return (values, vectors), (jnp.diagonal(moved), dot("ij,jk->ik", vectors, turn))


def _round_robin(d: int) -> np.ndarray:
    """Partners `[rounds, d]` such that each of d indices meets each other once; who has none is its own."""
    m = d + d % 2
    around, rounds = np.arange(1, m), []
    for _ in range(m - 1):
        ring = np.concatenate([[0], around])
        partner = np.empty(m, int)
        partner[ring], partner[ring[::-1]] = ring[::-1], ring
        partner = partner[:d]
        rounds.append(np.where(partner < d, partner, np.arange(d)))
        around = np.roll(around, 1)
    return np.array(rounds)


def orthonormal(rotation: Array) -> Array:
    """A nearly orthogonal matrix `[d, d]` with half of its digits' error taken away: one step of Newton and Schulz."""
    return 1.5 * rotation - 0.5 * dot("ij,kj,kl->il", rotation, rotation, rotation)


def skew(entries: Array, d: int) -> Array:
    """The skew matrix `[d, d]` with `entries` `[d (d - 1) / 2]` below its diagonal."""
    rows, columns = np.tril_indices(d, -1)
    lower = jnp.zeros((d, d), entries.dtype).at[rows, columns].set(entries)
    return lower - lower.T


def cayley(entries: Array, d: int) -> Array:
    """The rotation (I + A) inv(I - A) `[d, d]`, A = skew(entries)."""
    identity = jnp.eye(d, dtype=entries.dtype)
    a = skew(entries, d)
    root = cholesky_factors(identity + dot("ji,jk->ik", a, a))[1]  # (I + A)^2 inv(I + A'A) is the same
    once = identity + a
    return orthonormal(dot("ij,jk,lk,lm->im", once, once, root, root))


def cayley_entries(rotation: Array) -> Array:
    """Inverse of `cayley`, `[d (d - 1) / 2]`; first let `in_chart` choose the signs of the columns."""
    a = dot("ij,jk->ik", rotation - rotation.T, _inverse_of_sum(rotation))
    rows, columns = np.tril_indices(rotation.shape[0], -1)
    return 0.5 * (a - a.T)[rows, columns]


def _inverse_of_sum(rotation: Array) -> Array:
    """inv(2 I + D + D'), which is (I + A'A) / 4."""
    root = cholesky_factors(2.0 * jnp.eye(rotation.shape[0], dtype=rotation.dtype) + rotation + rotation.T)[1]
    return dot("kj,kl->jl", root, root)


def in_chart(rotation: Array) -> Array:
    """An orthogonal matrix `[d, d]` with the signs of columns for which `cayley_entries` exist and are no large numbers.

    They stay as they are if A is within `REACH`, so the function is the identity on what it returns.
    """
    d = rotation.shape[0]
    fixed = jax.lax.stop_gradient(rotation)
    index = jnp.arange(d)

    def eliminate(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rest, signs = carry
        sign = jnp.where(rest[i, i] >= 0, 1.0, -1.0).astype(rest.dtype)
        below = jnp.where(index > i, rest[:, i], 0.0) / (rest[i, i] + sign)
        return rest - below[:, None] * rest[i][None, :], signs.at[i].set(sign)

    signs = jax.lax.fori_loop(0, d, eliminate, (fixed, jnp.ones(d, rotation.dtype)))[1]
    stays = jnp.all(4.0 * jnp.diagonal(_inverse_of_sum(fixed)) <= 1.0 + REACH**2)
    return rotation * jnp.where(stays, jnp.ones_like(signs), signs)[None, :]


def align(rotation: Array, old: Array) -> Array:
    """`rotation` `[d, d]` with the signs of columns that are nearest to those of `old`, if these are in the chart."""
    along = jax.lax.stop_gradient(jnp.sum(rotation * old, axis=0))
    return in_chart(rotation * jnp.where(along < 0, -1.0, 1.0)[None, :])
