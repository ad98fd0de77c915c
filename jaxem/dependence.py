"""Dependence: which columns of a covariance matrix depend on each other, in few terms and round numbers.

A vector a with a'Ca = 0 is a combination of columns that does not vary. There may be many; the one looked for has few terms.
The smallest eigenvalue of a leading block C[:t, :t] falls as t grows (Cauchy's interlacing theorem), so the first block that
is singular is found by bisection. Its columns but the last are independent, so what depends there is unique up to a factor.
"""

from collections.abc import Sequence

import numpy as np

DROPPED = (0.5, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
"""terms below so much of the largest are left out, if the rest varies as little; tried in turn"""
DIGITS = (1, 2, 3, 4, 6)
"""significant digits that coefficients are rounded to, if the combination then varies as little; tried in turn"""
SLACK, ROUNDING = 4.0, 64 * float(np.finfo(np.float64).eps)
"""how many times the smallest eigenvalue, and what in any case, counts as little beside variances of one"""
MOST_VALUES = 8
"""values that an equation shows"""


def dependence(covariance: np.ndarray, tol: float) -> np.ndarray | None:
    """A unit vector `[d]` of few terms along which `covariance` `[d, d]` is hardly more than in any other direction.

    None if it is more than `tol` in all directions.
    """
    d = covariance.shape[0]
    smallest = _smallest(covariance)[0]
    if smallest > tol:
        return None
    little = max(ROUNDING, SLACK * abs(smallest))
    independent, singular = 0, d
    while singular - independent > 1:
        middle = (independent + singular) // 2
        if _smallest(covariance[:middle, :middle])[0] <= little:
            singular = middle
        else:
            independent = middle
    block = covariance[:singular, :singular]
    _, vector = _smallest(block)
    for part in DROPPED:
        kept = np.flatnonzero(np.abs(vector) > part * np.max(np.abs(vector)))
        of_kept, short = _smallest(block[np.ix_(kept, kept)])
        if of_kept <= little:
            break
    else:
        kept, short = np.arange(singular), vector
    sparse = np.zeros(d)
    sparse[kept] = short
    return sparse


def round_coefficients(vector: np.ndarray, covariance: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Coefficients `[d]` of columns x, given those, `vector` `[d]`, of columns x / `unit` with `covariance` `[d, d]`.

    One of them is 1 or -1 and the first is positive. They are rounded as far as the sum varies no more for it.
    """
    terms = np.flatnonzero(vector)
    inner, unit = covariance[np.ix_(terms, terms)], unit[terms]
    raw = vector[terms] / unit
    raw = raw / raw[0]
    allowed = max(ROUNDING, SLACK * abs(_variance(raw * unit, inner)))
    # the shortest to read first: whole numbers, from whichever term is the unit
    options = [
        (digits, np.sum(np.abs(rounded)), base, rounded)
        for digits in DIGITS
        for base in range(len(terms))
        for rounded in [_rounded(raw / abs(raw[base]), digits)]
        if np.all(rounded != 0) and _variance(rounded * unit, inner) <= allowed
    ]
    best = min(options, key=lambda one: (not np.all(one[3] == np.round(one[3])), one[:3]), default=None)
    coefficients = np.zeros(len(vector))
    coefficients[terms] = raw / abs(raw[-1]) if best is None else best[3]
    return coefficients


def in_words(coefficients: np.ndarray, values: Sequence[float]) -> str:
    """A combination and its value, or values, as an equation with `{j}` for the name of column j.

    It is a sum; of two columns with one value one is told by the other.
    """
    terms = [(int(j), float(coefficients[j])) for j in np.flatnonzero(coefficients)]
    if len(terms) != 2 or len(values) > 1:
        shown = [number_in_words(value) for value in values[:MOST_VALUES]] + ["..."] * (len(values) > MOST_VALUES)
        return f"{_sum_in_words(terms)} = {', '.join(shown)}"
    (i, of_i), (j, of_j) = terms if abs(terms[1][1]) == 1 else terms[::-1]
    constant, factor = values[0] / of_j, -of_i / of_j
    if factor == 1 and constant == 0:
        return f"{{{min(i, j)}}} = {{{max(i, j)}}}"
    tail = "" if constant == 0 else f" {'-' if constant < 0 else '+'} {number_in_words(abs(constant))}"
    return f"{{{j}}} = {_sum_in_words([(i, factor)])}{tail}"


def number_in_words(value: float) -> str:
    """A number to six digits, without the sign of a zero."""
    return f"{float(value) + 0.0:.6g}"


def shortest(value: float, error: float) -> float:
    """The number of fewest digits within `error` of `value`."""
    if abs(value) <= error:
        return 0.0
    return next(
        (short for digits in range(1, 17) if abs((short := float(f"{value:.{digits}g}")) - value) <= error),
        float(value),
    )


def _sum_in_words(terms: list[tuple[int, float]]) -> str:
    words = ""
    for j, coefficient in terms:
        sign = "-" if coefficient < 0 else "+"
        lead = f" {sign} " if words else "-" if sign == "-" else ""
        words += f"{lead}{'' if abs(coefficient) == 1 else f'{number_in_words(abs(coefficient))} '}{{{j}}}"
    return words


def _smallest(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """The smallest eigenvalue and its eigenvector."""
    values, vectors = np.linalg.eigh(matrix)
    return float(values[0]), vectors[:, 0]


def _variance(vector: np.ndarray, covariance: np.ndarray) -> float:
    """The variance along a direction."""
    return float(vector @ covariance @ vector) / float(vector @ vector)


def _rounded(values: np.ndarray, digits: int) -> np.ndarray:
    """Values rounded to so many significant digits."""
    return np.array([float(f"{value:.{digits}g}") for value in values])
