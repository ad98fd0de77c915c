"""The reason of a collapse: which component, which rows, which combination of columns, and advice that fits."""

import dataclasses
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxem
from jaxem import Bernoulli, BernoulliParams, Diagonal, Full, GaussianParams, Mixture, Spherical, Status, Tied
from jaxem.dependence import in_words, shortest
from jaxem.rows import as_rows
from jaxem.standard import standardise
from tests.cases import GAUSSIANS, KINDS, Counts, Rates, blobs
from tests.conftest import DTYPE, X64

KEY = jax.random.key(0)
TOL = 1e-9 if X64 else 5e-5
MATRICES = (Tied(), Full())
by_family = pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
by_matrices = pytest.mark.parametrize("family", MATRICES, ids=lambda family: type(family).__name__)


def at(family, x, labels):
    """A mixture with a component at the rows of each label: their means, and covariances that are too wide, not singular."""
    groups = [x[labels == j] for j in range(labels.max() + 1)]
    scale = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    wide = [np.cov(group.T, bias=True).reshape(x.shape[1], -1) + np.diag(1e-3 * scale**2) for group in groups]
    shares = np.array([len(group) for group in groups]) / len(x)
    covariances = KINDS[family].form.reduced(np.array(wide), shares)
    means = np.array([group.mean(axis=0) for group in groups])
    params = GaussianParams(jnp.asarray(means, DTYPE), jnp.asarray(covariances, DTYPE))
    return Mixture(jnp.log(jnp.asarray(shares, DTYPE)), params, family)


def halves(n):
    return np.arange(n) % 2


def null_vector(x):
    """The one combination of the columns that is constant, by singular values of scaled columns; and their deviations."""
    x = x.astype(float)
    spread = x.std(axis=0)
    null = scipy.linalg.null_space((x - x.mean(axis=0)) / spread, rcond=1e-6 if X64 else 1e-4)
    assert null.shape[1] == 1
    return null[:, 0] / spread, spread


def assert_parallel(found, expected, unit=1.0):
    """Two combinations are the same but for a factor, with the columns in units of `unit`."""
    found, expected = found * unit, expected * unit
    sign = np.sign(found @ expected)
    np.testing.assert_allclose(found / np.linalg.norm(found), sign * expected / np.linalg.norm(expected), atol=TOL)


def one_hot(rng, n, k):
    return np.eye(k)[rng.permutation(np.arange(n) % k)]


RNG = np.random.default_rng(11)
A = RNG.normal(size=(120, 3)) * [1.0, 20.0, 0.03] + [5.0, -100.0, 0.4]
DEPENDENT = {
    "one-hot": (np.c_[one_hot(RNG, 120, 3), A[:, 0]], "a + b + c = 1"),
    "one-hot last": (np.c_[A[:, 0], one_hot(RNG, 120, 4)], "b + c + d + e = 1"),
    "percentages": (100 * RNG.dirichlet(np.ones(4), 120), "a + b + c + d = 100"),
    "sum": (np.c_[A, A[:, 0] + A[:, 1]], "a + b - d = 0"),
    "weighted": (np.c_[A[:, 0], 2 * A[:, 0] - 3 * A[:, 1] + 4, A[:, 1]], "2 a - b - 3 c = -4"),
    "mean": (np.c_[A[:, :2], A[:, :2].mean(axis=1), A[:, 2]], "a + b - 2 c = 0"),
    "equal": (np.c_[A, A[:, 1]], "b = d"),
    "opposite": (np.c_[A, 1 - A[:, 0]], "a + d = 1"),
    "falling": (np.c_[A, 1 - 4 * A[:, 0]], "d = -4 a + 1"),
    "proportional": (np.c_[A[:, 0], 2.54 * A[:, 0], A[:, 1]], "b = 2.54 a"),
    "shifted": (np.c_[A, A[:, 1] - 273.15], "d = b - 273.15"),
    "affine": (np.c_[1.8 * A[:, 1] + 32, A], "a = 1.8 c + 32"),
}


@by_matrices
@pytest.mark.parametrize("name", DEPENDENT)
@pytest.mark.parametrize("k", [1, 2])
def test_columns_that_depend_on_each_other(name, family, k):
    """The combination is the null vector that singular values give; the words are the equation that the data were made by."""
    data, words = DEPENDENT[name]
    data = data.astype(DTYPE)
    found = jaxem.collapse_of(at(family, data, halves(120) % k), data)
    assert found.component == (0 if k == 1 else None)
    assert found.n_rows == 120
    assert found.rows == tuple(range(16))
    assert_parallel(found.combination, *null_vector(data))
    np.testing.assert_allclose(
        data @ found.combination, found.value, atol=TOL * np.abs(data @ np.diag(found.combination)).max()
    )
    expected = f"columns depend on each other ({words} in all 120 rows): leave one of them out, or use Diagonal()"
    assert found.text("abcde"[: data.shape[1]]) == expected


@pytest.mark.parametrize("seed", range(6))
def test_the_combination_does_not_depend_on_order_or_units(seed):
    """Rows and columns in another order, columns in other units, other weights: the same combination in the new names."""
    rng = np.random.default_rng(seed)
    free = rng.normal(size=(90, 5))
    chosen = rng.choice(5, rng.integers(1, 4), replace=False)
    dependent = free[:, chosen] @ rng.integers(1, 6, len(chosen)) + rng.integers(-3, 4)
    order, scale = rng.permutation(6), 10.0 ** rng.integers(-3, 4, 6)
    x = (np.c_[free, dependent][rng.permutation(90)] * scale + rng.integers(-4, 5, 6))[:, order].astype(DTYPE)
    w = rng.integers(0, 4, 90)
    found = jaxem.collapse_of(at(Full(), x, np.zeros(90, int)), x, w)
    assert found.n_rows == np.count_nonzero(w)
    assert found.rows == tuple(np.flatnonzero(w)[:16])
    assert np.count_nonzero(found.combination) == len(chosen) + 1
    assert_parallel(found.combination, *null_vector(x))


def test_of_several_dependences_one_of_few_terms_is_told():
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=(200, 2)), one_hot(rng, 200, 3), one_hot(rng, 200, 4)].astype(DTYPE)
    found = jaxem.collapse_of(at(Full(), x, np.zeros(200, int)), x)
    np.testing.assert_array_equal(found.combination, [0, 0, 1, 1, 1, 0, 0, 0, 0])
    assert found.value == 1.0


def test_many_terms_are_not_all_named():
    rng = np.random.default_rng(0)
    free = rng.normal(size=(200, 11))
    x = np.c_[free, free.sum(axis=1)].astype(DTYPE)
    found = jaxem.collapse_of(at(Full(), x, np.zeros(200, int)), x)
    np.testing.assert_allclose(found.combination / found.combination[0], [1.0] * 11 + [-1.0], rtol=1e-3)
    words = "12 columns depend on each other in all 200 rows (a, b, c, d, e, f, g, h and 4 more): leave one"
    assert found.text("abcdefghijkl").startswith(words)


@pytest.mark.skipif(not X64, reason="in float32 these columns depend on each other to rounding")
def test_columns_that_nearly_depend_on_each_other():
    """How far they are from it is said; it is the largest distance of a row."""
    rng = np.random.default_rng(4)
    free, noise = rng.normal(size=(300, 2)), 1e-9 * rng.normal(size=300)
    x = np.c_[free, free.sum(axis=1) + noise]
    found = jaxem.collapse_of(at(Full(), x, np.zeros(300, int)), x)
    assert_parallel(found.combination, np.array([1.0, 1.0, -1.0]))
    apart = np.abs(noise - noise.mean()).max()
    assert (
        found.reason("abc")
        == f"columns nearly depend on each other (a + b - c = 0 to within {apart:.1g} in all 300 rows)"
    )
    x[:, 2] = free.sum(axis=1) + 1e-3 * rng.normal(size=300)
    assert jaxem.collapse_of(at(Full(), x, np.zeros(300, int)), x) is None  # a tight fit of many rows is sound


@by_family
@pytest.mark.parametrize("k", [1, 2])
def test_a_constant_column(family, k):
    x = np.insert(blobs(50, 2).astype(DTYPE), 1, 7.25, axis=1)
    found = jaxem.collapse_of(at(family, x, halves(50) % k), x)
    if family == Spherical():
        assert found is None
        return
    np.testing.assert_array_equal(found.combination, [0, 1, 0])
    assert found.value == 7.25
    assert (
        found.text(["a", "the b", "c"])
        == "column 'the b' is constant (7.25 in all 50 rows), so its variance is zero: leave it out"
    )
    assert str(found).startswith("column 1 is constant")
    more = np.insert(x, 0, -1.0, axis=1)
    assert "column 'a' and column 'c' are constant" in jaxem.collapse_of(at(family, more, halves(50) % k), more).text(
        "abcd"
    )


@by_family
@pytest.mark.parametrize("n_equal", [1, 2, 3, 4, 5, 25, 70])
def test_rows_that_are_equal(family, n_equal):
    """A component on one row, a few or many equal ones: few are named, of many their number and their values."""
    x = blobs(60, 2).astype(DTYPE)
    rows = np.sort(np.random.default_rng(n_equal).permutation(60 + n_equal)[:n_equal])
    labels = np.zeros(60 + n_equal, int)
    labels[rows] = 1
    together = np.empty((len(labels), 2), DTYPE)
    together[labels == 0], together[rows] = x, [40.0, -3.5]
    found = jaxem.collapse_of(at(family, together, labels), together)
    if family == Tied():
        assert found is None  # a cluster without spread is no collapse of what all share
        return
    assert found.component == 1
    assert found.n_rows == n_equal
    assert found.rows == tuple(rows[:16])
    text = found.text(["a", "b"])
    if n_equal <= 4:
        listed = [str(row) for row in rows]
        assert (
            f"component 1 sits on row{'s' * (n_equal > 1)} {', '.join(listed[:-1])}{' and ' * (n_equal > 1)}{listed[-1]} alone"
            in text
        )
        assert "lower the number of components, or give a prior such as jaxem.chen_tan(x)" in text
        assert f"row{'s' * (n_equal > 1)} {rows[0] + 1}" in found.text(first_row=1)
    else:
        assert f"component 1 sits on {n_equal} equal rows (a = 40 and b = -3.5): leave these rows out" in text
    if n_equal == 1:
        assert found.combination is None
    else:
        np.testing.assert_allclose(together[rows] @ found.combination, found.value)


@pytest.mark.parametrize("family", [Diagonal(), Full()], ids=["Diagonal", "Full"])
@pytest.mark.parametrize("n_saturated", [30, 150])
def test_values_that_are_equal(family, n_saturated):
    """A spike of saturated values in one column: the column, the value and the number of rows are named."""
    rng = np.random.default_rng(2)
    x = np.c_[rng.normal(100, 30, 400), rng.normal(size=400)].astype(DTYPE)
    labels = np.zeros(400, int)
    labels[100 : 100 + n_saturated] = 1
    x[labels == 1, 0] = 255
    found = jaxem.collapse_of(at(family, x, labels), x)
    # rows near 255 by chance may be the component's too before the EM step
    assert (found.component, found.n_rows, found.rows[0]) == (1, n_saturated, 100)
    np.testing.assert_array_equal(found.combination != 0, [True, False])
    assert found.value / found.combination[0] == 255
    text = f"component 1 sits on {n_saturated} rows with saturated = 255: leave these rows or this column out, or give a prior"
    assert found.text(["saturated", "size"]).startswith(text)


def test_few_rows_of_a_full_covariance():
    """d rows or fewer have no covariance matrix; a few more hardly have one."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80, 3)).astype(DTYPE)
    labels = np.zeros(83, int)
    labels[[10, 40, 41]] = 1
    together = np.empty((83, 3), DTYPE)
    together[labels == 0], together[labels == 1] = x, 50 + rng.normal(size=(3, 3))
    found = jaxem.collapse_of(at(Full(), together, labels), together)
    assert (found.component, found.rows, found.combination) == (1, (10, 40, 41), None)
    expected = "component 1 sits on rows 10, 40 and 41 alone, and a covariance matrix of 3 columns needs at least 4: "
    assert str(found).startswith(expected)
    assert jaxem.collapse_of(at(Diagonal(), together, labels), together) is None
    line = np.linspace(0, 1, 9)[:, None] * [[1.0, 2.0, -1.0]] + 50 + 1e-4 * rng.normal(size=(9, 3))
    together = np.r_[x, line].astype(DTYPE)
    found = jaxem.collapse_of(at(Full(), together, np.r_[np.zeros(80, int), np.ones(9, int)]), together)
    assert (found.component, found.n_rows, found.rows) == (1, 9, tuple(range(80, 89)))
    assert "sits on 9 rows (80, 81, 82, 83 and 5 more), where columns nearly depend on each other" in str(found)
    assert np.ptp(line @ found.combination) < 2e-3 * np.abs(found.combination).max()


def test_columns_that_depend_within_a_component():
    """Only in component 1 is b = 2 a + 1."""
    rng = np.random.default_rng(6)
    on_line = rng.normal(size=90) + 30
    x = np.r_[blobs(110, 2), np.c_[on_line, 2 * on_line + 1]].astype(DTYPE)
    found = jaxem.collapse_of(at(Full(), x, (np.arange(200) >= 110).astype(int)), x)
    assert (found.component, found.n_rows, found.rows[0]) == (1, 90, 110)
    assert_parallel(found.combination, np.array([2.0, -1.0]))
    expected = "columns depend on each other (b = 2 a + 1 in the 90 rows of component 1): leave one of them out"
    assert found.text("ab").startswith(expected)


def test_what_does_not_vary_within_any_component_of_a_tied_covariance():
    """A column that tells the components apart, and a sum that does."""
    rng = np.random.default_rng(7)
    labels = rng.permutation(np.arange(120) % 2)
    x = np.c_[rng.normal(size=(120, 2)), labels].astype(DTYPE)
    found = jaxem.collapse_of(at(Tied(), x, labels), x)
    assert found.component is None
    np.testing.assert_array_equal(found.combination, [0, 0, 1])
    np.testing.assert_array_equal(found.value, [0, 1])
    assert found.reason("abc") == "column 'c' does not vary within any component (c = 0, 1)"
    x[:, 2] = 3 * labels + x[:, 0] + 2 * x[:, 1]
    found = jaxem.collapse_of(at(Tied(), x, labels), x)
    assert_parallel(found.combination, np.array([1.0, 2.0, -1.0]))
    values = np.array([np.mean((x @ found.combination)[labels == j]) for j in (0, 1)])
    np.testing.assert_allclose(found.value, values, atol=100 * TOL)
    assert "within each component" in str(found)
    few = rng.normal(size=(5, 4)).astype(DTYPE)
    text = str(jaxem.collapse_of(at(Tied(), few, np.array([0, 0, 1, 1, 2])), few))
    assert text.startswith("5 rows leave too little spread about 3 means in 4 columns: lower the number of components")


@by_family
def test_fewer_distinct_rows_than_components(family):
    rng = np.random.default_rng(8)
    x = np.repeat(rng.normal(size=(3, 2)), [4, 9, 20], axis=0).astype(DTYPE)
    labels = np.repeat([0, 1, 2, 3], [4, 9, 10, 10])
    found = jaxem.collapse_of(at(family, x, labels), x)
    assert found.component is None
    assert str(found) == "there are 3 distinct rows for 4 components: lower the number of components"


@by_family
def test_all_rows_are_equal(family):
    x = np.full((12, 2), 3.0, DTYPE)
    assert str(jaxem.collapse_of(at(family, x, np.zeros(12, int)), x)).startswith("all 12 rows are equal")
    assert str(jaxem.collapse_of(at(family, x[:1], np.zeros(1, int)), x[:1])).startswith("there is only one row")


@by_matrices
def test_fewer_rows_than_columns(family):
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(DTYPE)
    text = str(jaxem.collapse_of(at(family, x, np.zeros(5, int)), x))
    assert text == "a covariance matrix of 8 columns needs at least 9 rows, there are 5: use Diagonal() or Spherical()"


@pytest.mark.parametrize("family", [*GAUSSIANS, Bernoulli()], ids=lambda family: type(family).__name__)
def test_components_that_coincide_or_have_no_rows(family):
    x = KINDS[family].data(np.random.default_rng(1), 60, 3).astype(DTYPE)
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf, DTYPE), KINDS[family].params(np.random.default_rng(2), 4, 3))
    coinciding = (
        one._replace(means=one.means[jnp.array([0, 1, 2, 1])])
        if family != Bernoulli()
        else one._replace(probs=one.probs[jnp.array([0, 1, 2, 1])])
    )
    if family in (Spherical(), Diagonal(), Full()):
        coinciding = coinciding._replace(covariances=one.covariances[jnp.array([0, 1, 2, 1])])
    mixture = Mixture(jnp.full(4, -np.log(4), DTYPE), coinciding, family)
    found = jaxem.collapse_of(mixture, x)
    assert found.component == 1
    assert str(found) == "components 1 and 3 coincide: lower the number of components, or start elsewhere"
    assert jaxem.collapse_of(dataclasses.replace(mixture, components=one), x) is None
    dead = Mixture(jnp.asarray([-np.log(3.0)] * 2 + [-np.inf, -np.log(3.0)], DTYPE), one, family)
    found = jaxem.collapse_of(dead, x)
    assert (found.component, found.n_rows, found.rows, found.combination) == (2, 0, (), None)
    assert str(found) == "component 2 has lost all its rows: lower the number of components, or start elsewhere"


def test_other_families_say_what_they_can():
    """A family that tells which components have collapsed; discrete rows that are too few for the components."""

    class Strict(Counts):
        def degenerate(self, params, counts, variance):
            return counts < 5

    x = np.r_[np.full((30, 1), 2.0), np.full((3, 1), 90.0), np.full((10, 1), 4.0)].astype(DTYPE)
    mixture = Mixture(jnp.log(jnp.asarray([0.9, 0.1], DTYPE)), Rates(jnp.asarray([[3.0], [90.0]], DTYPE)), Strict())
    found = jaxem.collapse_of(mixture, x)
    assert (found.component, found.n_rows, found.rows) == (1, 3, (30, 31, 32))
    assert str(found).startswith(
        "component 1 has collapsed on rows 30, 31 and 32 alone: lower the number of components"
    )
    bits = np.repeat([[0.0, 1.0], [1.0, 1.0]], 6, axis=0).astype(DTYPE)
    same = Mixture(jnp.full(3, -np.log(3), DTYPE), BernoulliParams(jnp.full((3, 2), 0.5, DTYPE)), Bernoulli())
    assert str(jaxem.collapse_of(same, bits)).startswith("there are 2 distinct rows for 3 components")


@by_family
def test_squares_that_overflow_or_vanish(family):
    largest, least = (1e200, 1e-200) if X64 else (1e25, 1e-25)
    x = blobs(40, 2)
    start = at(family, x, halves(40))
    for factor, words in ((largest, "the squares of column 1 overflow"), (least, "column 1 varies by")):
        scaled = (x * [1.0, factor]).astype(DTYPE)
        found = jaxem.collapse_of(start, scaled)
        if factor == least and family == Spherical():  # the columns share their variance
            found = jaxem.collapse_of(start, (x * [0.5 * least, least]).astype(DTYPE))
        assert str(found).startswith(words)
        assert DTYPE in str(found)
        assert ("float64" in found.remedy) == (not X64)


def test_values_far_away_cost_no_digit():
    """Time stamps and a flag: the combination is found beside an offset of 1e9 deviations."""
    rng = np.random.default_rng(3)
    stamps = 1.7e9 + rng.integers(0, 4000, 200)
    x = np.c_[stamps, stamps - 1.7e9, rng.normal(size=200)]
    start = at(Full(), x - [1.7e9, 0, 0], np.zeros(200, int))
    mixture = Mixture(
        start.log_weights, start.components._replace(means=jnp.asarray(x.mean(axis=0)[None], DTYPE)), Full()
    )
    found = jaxem.collapse_of(mixture, x)
    assert_parallel(found.combination, np.array([1.0, -1.0, 0.0]))
    np.testing.assert_allclose(found.value / found.combination[0], 1.7e9, rtol=1e-12)


def test_rows_made_ready_and_weights():
    """Rows carry their own weights; a row of weight 0 is absent, and keeps its number."""
    x, words = DEPENDENT["affine"]
    x, w = x.astype(DTYPE), np.ones(120)
    w[[0, 5]] = 0
    start = at(Full(), x, np.zeros(120, int))
    ready = as_rows(Full(), x, w, 1)
    found = jaxem.collapse_of(start, ready)
    assert found.n_rows == 118
    assert found.rows[:5] == (1, 2, 3, 4, 6)
    assert_parallel(found.combination, *null_vector(x))
    assert words in found.text("abcd")
    with pytest.raises(ValueError, match="sample_weight was given with ready Rows"):
        jaxem.collapse_of(start, ready, w)


def test_refusals():
    x = blobs(20, 2).astype(DTYPE)
    start = at(Full(), x, halves(20))
    with pytest.raises(ValueError, match=r"log_weights of shape \(1, 2\); give one mixture"):
        jaxem.collapse_of(jax.tree.map(lambda leaf: leaf[None], start), x)
    with pytest.raises(ValueError, match="x has 1 columns, the mixture 2"):
        jaxem.collapse_of(start, x[:, :1])
    with pytest.raises(ValueError, match="sample_weight has shape"):
        jaxem.collapse_of(start, x, np.ones(3))
    flat = np.c_[x, np.ones(20, DTYPE)]
    with pytest.raises(ValueError, match="columns holds 2 names; give one for each of the 3 columns"):
        jaxem.collapse_of(at(Full(), flat, halves(20)), flat).text(["a", "b"])


def test_a_value_of_zero_is_told_as_zero():
    """Zero has no rounding of its own; that of the column counts."""
    rng = np.random.default_rng(1)
    x = np.c_[np.where(np.arange(90) < 40, 0.0, rng.normal(3, 1, 90)), rng.normal(size=90)].astype(DTYPE)
    found = jaxem.collapse_of(at(Diagonal(), x, (np.arange(90) < 40).astype(int)), x)
    assert str(found).startswith("component 1 sits on 40 rows with column 0 = 0: ")


def test_names_with_signs_and_braces_stay_readable():
    x = DEPENDENT["equal"][0].astype(DTYPE)
    found = jaxem.collapse_of(at(Full(), x, np.zeros(120, int)), x)
    assert "('a - b' = '{0}' in all" in found.text(["c", "a - b", "d", "{0}"])


NASTY = {
    "spike": lambda rng: np.r_[rng.normal(size=(60, 2)), np.full((3, 2), 6.0)],
    "constant": lambda rng: np.c_[rng.normal(size=(60, 1)), np.full(60, 2.0)],
    "collinear": lambda rng: rng.normal(size=(60, 1)) @ [[1.0, -2.0]] + 1,
    "rounded": lambda rng: rng.integers(0, 3, (60, 2)).astype(float),
    "plain": lambda rng: rng.normal(size=(60, 2)) + 3 * rng.integers(0, 2, (60, 1)),
}


@by_family
@pytest.mark.parametrize("name", NASTY)
def test_every_climb_that_fails_has_a_reason_and_no_other(name, family):
    """Against the rule in loop.py, which knows nothing of reasons: 24 climbs from starts of all kinds."""
    x = NASTY[name](np.random.default_rng(9)).astype(DTYPE)
    starts = jaxem.starts(KEY, family, x, 3, 24, jaxem.RandomPoints())
    results = jaxem.fit_restarts(starts, x, max_iter=300)
    for i in range(24):
        status, found = Status(int(results.status[i])), jaxem.collapse_of(results[i].mixture, x)
        assert (found is not None) == status.failed, (i, status, found)


@pytest.mark.parametrize("family", ["diagonal", "full"])
@pytest.mark.any_dtype
def test_a_search_that_fails_says_why(family):
    """By the best climb of the likelihood, not by the fit under a penalty that is offered instead."""
    rng = np.random.default_rng(2)
    x = np.c_[np.where(np.arange(200) < 80, 255.0, rng.normal(100, 30, 200)), rng.normal(size=200)].astype(DTYPE)
    found = jaxem.search(KEY, family, x, 2, budget=60)
    assert Status(int(found.best.status)) == Status.DEGENERATE
    assert found.penalised is not None
    assert "80 rows with column 0 = 255" in str(found.collapse)
    assert str(found.collapse) in str(found)
    assert "80 rows with column 0 = 255" in found._repr_html_()  # type: ignore[attr-defined]  # a decorator sets it
    sound = jaxem.search(KEY, family, blobs(200).astype(DTYPE), 2, budget=60)
    assert sound.collapse is None
    assert "failed" not in str(sound)


ADVICE = {
    "constant": (
        "full",
        halves,
        lambda x: np.c_[x, np.ones(60)],
        "column 'c' is constant.*: leave it out with --columns",
    ),
    "collinear": (
        "tied",
        halves,
        lambda x: np.c_[x, x.sum(axis=1)],
        r"saved: columns depend on each other \(a \+ b - c = 0 in all 60 rows\): leave one of them out with --columns, or use "
        "--covariance diag$",
    ),
    "few rows": (
        "diagonal",
        lambda n: (np.arange(n) == 7).astype(int),
        lambda x: np.c_[x, x[:, 0] ** 2],
        r"in the best climb component 1 sits on row 8 alone: lower -k, or give a prior such as jaxem.chen_tan\(x\) in Python$",
    ),
    "too few": (
        "full",
        lambda n: np.zeros(n, int),
        lambda x: np.tile(x[:2], (1, 2)),
        "use --covariance diag or spherical$",
    ),
}


@pytest.mark.parametrize("name", ADVICE)
def test_the_command_line_speaks_of_its_own_options(name):
    """Rows are numbered from 1 there, columns have their names, and what to do is told in options."""
    from jaxem.cli.words import Outcome, advice

    family, labels, data, expected = ADVICE[name]
    x = data(np.random.default_rng(0).normal(size=(60, 2))).astype(DTYPE)
    start = at(jaxem.checks.as_family(family), x, labels(len(x)))
    outcome = Outcome(types.SimpleNamespace(mixture=start), family, None, "", None, jaxem.collapse_of(start, x))
    text = advice(outcome, tuple("abcd"[: x.shape[1]]), Status.DEGENERATE)
    assert re.search(expected, text), text
    assert "\n" not in text
    unknown = advice(outcome._replace(collapse=None), ("a",), Status.SADDLE)
    assert unknown.endswith("components coincide, or a direction leads up; try another --seed or lower -k")


def test_helpers_by_hand():
    assert in_words(np.array([1.0, 0.0, -2.5, 3.0]), [4.0]) == "{0} - 2.5 {2} + 3 {3} = 4"
    assert in_words(np.array([-1.0, 1.0]), [0.0]) == "{0} = {1}"
    assert in_words(np.array([0.0, 2.0]), [-0.0]) == "2 {1} = 0"
    assert in_words(np.array([1.0, 1.0]), [1.0, 2.0]) == "{0} + {1} = 1, 2"
    assert [shortest(0.3000000001, 1e-6), shortest(1e-9, 1e-6), shortest(99.99999, 1e-3)] == [0.3, 0.0, 100.0]
    data = standardise(np.repeat([[1.0, 2.0], [3.0, 2.0]], 5000, axis=0), np.ones(10000))
    assert [data.distinct(most) for most in (1, 2, 5)] == [2, 2, 2]
    np.testing.assert_array_equal(data.varies, [True, False])
    np.testing.assert_allclose(np.concatenate([z for _, z in data.chunks()])[[0, -1]], [[-1, 0], [1, 0]])
