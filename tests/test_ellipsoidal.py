"""Ellipsoidal against numpy and scipy, the laws and mclust's count of parameters; TiedSpherical and TiedDiagonal too."""

import copy
import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

import jaxem
from jaxem.names import FORMS
from tests.cases import reference_data, slow_but_first
from tests.conftest import ROUNDING, X64

OWN = ("EVI", "VEI", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV")
KEY = jax.random.key(0)
only_float64 = pytest.mark.skipif(not X64, reason="float64 is judged")


def rows(d, n=60, seed=0):
    """Rows [n, d] of correlated features."""
    rng = np.random.default_rng(seed)
    return 2.5 * rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d))) + rng.integers(0, 2, (n, 1))


@functools.lru_cache
def start(form, k, d, seed=0):
    """A mixture of the form on `rows(d)`, made by one M-step from random responsibilities."""
    return _start(jaxem.checks.as_family(form), jnp.asarray(rows(d)), jnp.asarray(responsibilities(60, k, seed)))


@functools.partial(jax.jit, static_argnums=0)
def _start(family, x, resp):
    k = resp.shape[1]
    pooled = jaxem.Mixture(jnp.full(k, -np.log(float(k))), family.init(x, k), family)
    return jaxem.m_step(pooled, jaxem.em.stats_of(pooled, x, resp))


@jax.jit
def step_from(mixture, x, resp):
    """An M-step from given responsibilities."""
    return jaxem.m_step(mixture, jaxem.em.stats_of(mixture, x, resp))


def responsibilities(n, k, seed):
    return np.random.default_rng(seed).dirichlet(0.5 * np.ones(k), n)


def covariances(mixture):
    """The covariance matrices [k, d, d] of a mixture of any Gaussian form."""
    family, components = mixture.family, mixture.components
    if isinstance(family, jaxem.Ellipsoidal):
        return np.asarray(family.covariances(components))
    return np.asarray(family.as_matrices(components.covariances, *components.means.shape))


# -- names ---------------------------------------------------------------------------------------------------------------


def test_forms_that_are_other_families_are_these():
    others = {
        "VII": jaxem.Spherical(),
        "VVI": jaxem.Diagonal(),
        "EEE": jaxem.Tied(),
        "VVV": jaxem.Full(),
        "EII": jaxem.TiedSpherical(),
        "EEI": jaxem.TiedDiagonal(),
    }
    assert {form: jaxem.Ellipsoidal(form) for form in FORMS if form not in OWN} == others
    assert len({jaxem.Ellipsoidal(form) for form in FORMS}) == len(FORMS) == 14
    assert jaxem.checks.as_family("vev") == jaxem.Ellipsoidal("VEV")


def test_a_form_is_a_value():
    family = jaxem.Ellipsoidal("varying", "equal", "varying")
    assert family == jaxem.Ellipsoidal("VEV") == jaxem.Ellipsoidal("vev") == jaxem.Ellipsoidal("V", "E", "V")
    assert family != jaxem.Ellipsoidal("EEV")
    assert hash(family) == hash(jaxem.Ellipsoidal("VEV"))
    assert repr(family) == "Ellipsoidal('VEV')"
    for again in (copy.copy(family), copy.deepcopy(family), pickle.loads(pickle.dumps(family))):
        assert again == family
    assert dataclasses.replace(family, volume="E") == jaxem.Ellipsoidal("EEV")
    assert jaxem.Ellipsoidal(volume="equal", shape="identity", orientation="identity") == jaxem.TiedSpherical()
    with pytest.raises(dataclasses.FrozenInstanceError):
        family.volume = "E"  # type: ignore[misc]


@pytest.mark.parametrize("arguments", [("VEX",), ("VE",), ("IEV",), ("V", "I", "V"), ("varying", "equal"), (3,)])
def test_a_wrong_form_is_named(arguments):
    with pytest.raises(ValueError, match=r"is unknown; choose from EII, VII, .*, VVV") as error:
        jaxem.Ellipsoidal(*arguments)
    assert repr(arguments[0]) in str(error.value)
    assert "\n" not in str(error.value)


# -- the chart -----------------------------------------------------------------------------------------------------------

# nMclustParams(form, d, k) of mclust, counted by hand: means, weights, and the covariances as in Celeux and Govaert's table 1
COUNTS = {
    "EII": {(2, 2): 6, (3, 3): 12, (4, 2): 10},
    "VII": {(2, 2): 7, (3, 3): 14, (4, 2): 11},
    "EEI": {(2, 2): 7, (3, 3): 14, (4, 2): 13},
    "VEI": {(2, 2): 8, (3, 3): 16, (4, 2): 14},
    "EVI": {(2, 2): 8, (3, 3): 18, (4, 2): 16},
    "VVI": {(2, 2): 9, (3, 3): 20, (4, 2): 17},
    "EEE": {(2, 2): 8, (3, 3): 17, (4, 2): 19},
    "VEE": {(2, 2): 9, (3, 3): 19, (4, 2): 20},
    "EVE": {(2, 2): 9, (3, 3): 21, (4, 2): 22},
    "VVE": {(2, 2): 10, (3, 3): 23, (4, 2): 23},
    "EEV": {(2, 2): 9, (3, 3): 23, (4, 2): 25},
    "VEV": {(2, 2): 10, (3, 3): 25, (4, 2): 26},
    "EVV": {(2, 2): 10, (3, 3): 27, (4, 2): 28},
    "VVV": {(2, 2): 11, (3, 3): 29, (4, 2): 29},
}


@pytest.mark.parametrize("form", FORMS)
def test_parameters_are_as_many_as_mclust_counts(form):
    family = jaxem.checks.as_family(form)
    for (d, k), count in COUNTS[form].items():
        components = jax.eval_shape(lambda x, k=k: family.init(x, k), rows(d))
        shapes = jaxem.Mixture(jax.ShapeDtypeStruct((k,), float), components, family)
        assert shapes.n_parameters == count


@pytest.mark.parametrize(("k", "d"), slow_but_first([(3, 3), (2, 2), (1, 3), (3, 1)]))
@pytest.mark.parametrize("form", [*OWN, "EII", "EEI"])
def test_coordinates_are_those_of_a_mixture(form, k, d):
    mixture = start(form, k, d)
    free = 0.7 * np.random.default_rng(0).normal(size=mixture.n_parameters)
    own, again, found, units = _there_and_back(mixture, jnp.asarray(free))
    for a, b in zip(jax.tree.leaves(mixture), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=100 * ROUNDING, atol=100 * ROUNDING)
    np.testing.assert_allclose(found, free, rtol=100 * ROUNDING, atol=100 * ROUNDING)
    assert np.isfinite(units).all()
    assert np.isfinite(own).all()


@jax.jit
def _there_and_back(mixture, free):
    own = mixture.unconstrain()
    return own, mixture.constrain(own), mixture.constrain(free).unconstrain(), mixture.units()


@pytest.mark.parametrize("form", OWN)
def test_a_component_without_rows_keeps_its_own(form):
    mixture, x = start(form, 3, 3), jnp.asarray(rows(3))
    resp = jnp.asarray(responsibilities(len(x), 3, 1)).at[:, 0].set(0.0)
    new = step_from(mixture, x, resp)
    assert bool(jnp.all(jnp.isfinite(jax.jit(jaxem.Mixture.unconstrain)(new))))
    np.testing.assert_array_equal(new.components.means[0], mixture.components.means[0])
    for name, letter in zip(("volumes", "shapes", "orientations"), form, strict=True):
        leaf = getattr(new.components, name)
        if letter == "V" and leaf is not None:
            np.testing.assert_array_equal(leaf[0], getattr(mixture.components, name)[0])
    two = mixture[1:]
    other = step_from(two, x, resp[:, 1:])
    np.testing.assert_allclose(covariances(new)[1:], covariances(other), rtol=100 * ROUNDING, atol=100 * ROUNDING)


@pytest.mark.parametrize("form", OWN)
def test_a_component_on_one_row_has_finite_coordinates(form):
    mixture, x = start(form, 3, 3)[:2], jnp.asarray(rows(3))
    resp = jnp.zeros((len(x), 2)).at[:, 0].set(1.0).at[0].set(jnp.array([0.0, 1.0]))
    new = step_from(mixture, x, resp)
    assert bool(jnp.all(jnp.isfinite(jax.jit(jaxem.Mixture.unconstrain)(new))))
    variance = jnp.var(x, axis=0)
    lost = new.family.degenerate(new.components, jnp.array([59.0, 1.0]), variance)
    # with an equal volume one row is no spike; a matrix of its own is singular
    assert lost.tolist() == [False, form in ("VEI", "VEE", "VEV", "VVE", "EVV")]
    assert not np.any(mixture.family.degenerate(mixture.components, jnp.array([30.0, 30.0]), variance))


def test_parameters_from_a_file_are_checked():
    for form in OWN:
        mixture = start(form, 3, 3)
        params, family = jax.tree.map(np.asarray, mixture.components), mixture.family
        assert family.check(params) is None
        assert family.check(params._replace(volumes=-params.volumes)) == "volumes is not positive"
        assert family.check(params._replace(shapes=2.0 * params.shapes)).startswith("shapes has not the")
        assert family.check(params._replace(shapes=-params.shapes)).startswith("shapes is not positive")
        if params.orientations is not None:
            wrong = params._replace(orientations=params.orientations + 0.1)
            assert family.check(wrong) == "orientations is not orthogonal"


# -- the M-step ----------------------------------------------------------------------------------------------------------


def scatter(x, resp):
    """Counts [k] and covariances about the means [k, d, d], by numpy."""
    counts = resp.sum(axis=0)
    means = resp.T @ x / counts[:, None]
    return counts, np.array([(r[:, None] * (x - m)).T @ (x - m) / r.sum() for r, m in zip(resp.T, means, strict=True)])


def deviance(counts, s, sigma):
    """Minus the part of the proxy that depends on covariances, per row."""
    terms = [np.linalg.slogdet(b)[1] + np.trace(np.linalg.solve(b, a)) for a, b in zip(s, sigma, strict=True)]
    return float(0.5 * counts @ np.array(terms) / counts.sum())


def from_free(form, free, k, d):
    """Covariances [k, d, d] at unconstrained numbers: logarithms and exponentials of skew matrices."""
    i = 0

    def parts(letter, size):
        nonlocal i
        many = k if letter == "V" else 1
        block = free[i : i + many * size].reshape(many, size)
        i += many * size
        return np.broadcast_to(block, (k, size))

    volumes, shapes = np.exp(parts(form[0], 1)), parts(form[1], d)
    shapes = np.exp(shapes - shapes.mean(axis=1, keepdims=True))
    pairs = np.tril_indices(d, -1)
    axes = np.broadcast_to(np.eye(d), (k, d, d))
    if form[2] != "I":
        angles, skews = parts(form[2], len(pairs[0])), np.zeros((k, d, d))
        skews[:, pairs[0], pairs[1]] = angles
        axes = np.array([scipy.linalg.expm(skew - skew.T) for skew in skews])
    return volumes[:, :, None] * np.einsum("kij,kj,klj->kil", axes, shapes, axes)


def lowest(form, counts, s, k, d, n_starts):
    """The lowest deviance that scipy finds."""
    size = sum(
        n * (k if letter == "V" else 1)
        for letter, n in zip(form, (1, d, d * (d - 1) // 2), strict=True)
        if letter != "I"
    )
    rng = np.random.default_rng(0)
    found = [
        scipy.optimize.minimize(
            lambda free: deviance(counts, s, from_free(form, free, k, d)),
            rng.normal(size=size) + np.r_[np.ones(1), np.zeros(size - 1)],
            options={"gtol": 1e-6, "maxiter": 200},
        ).fun
        for _ in range(n_starts)
    ]
    return min(found)


def by_formula(form, counts, s):
    """The closed forms of Celeux and Govaert (1995), by numpy; None where there is none."""
    shares, d = counts / counts.sum(), s.shape[-1]
    if form == "EVI":
        s = np.array([np.diag(np.diag(one)) for one in s])
    if form in ("EVI", "EVV"):
        roots = np.linalg.det(s) ** (1 / d)
        return (shares @ roots) * s / roots[:, None, None]
    if form == "EEV":
        values, vectors = np.linalg.eigh(s)
        return np.einsum("kij,j,klj->kil", vectors, shares @ values, vectors)
    return None


@only_float64
@pytest.mark.parametrize(("k", "d"), slow_but_first([(2, 2), (3, 3)]))
@pytest.mark.parametrize("form", OWN)
def test_no_covariances_are_better_than_those_of_the_m_step(form, k, d):
    x = rows(d)
    for seed in (1, 2):
        resp = responsibilities(len(x), k, seed)
        counts, s = scatter(x, resp)
        mixture = start(form, k, d, seed=3)
        new = covariances(step_from(mixture, jnp.asarray(x), jnp.asarray(resp)))
        ours, right = deviance(counts, s, new), by_formula(form, counts, s)
        if right is not None:
            np.testing.assert_allclose(new, right, rtol=ROUNDING, atol=ROUNDING)
        best = lowest(form, counts, s, k, d, n_starts=4 if right is None else 1)
        assert ours <= best + 1e-9 * abs(best), (ours, best)


@only_float64
def test_a_common_orientation_never_lowers_the_proxy():
    """From orientations of all kinds; the M-step is one, so where it ends another M-step stays."""
    x, k, d = rows(4, n=40), 3, 4
    counts, s = scatter(x, responsibilities(40, k, 5))
    for form in ("EVE", "VVE"):
        family = jaxem.Ellipsoidal(form)
        step = jax.jit(family._parts)
        for seed in range(8):
            axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
            old = start(form, k, d).components._replace(orientations=jnp.asarray(axes))
            best_of_old = step_with_axes(form, counts, s, axes)
            new = jaxem.EllipsoidalParams(old.means, *step(old, s, counts / counts.sum()))
            ours = deviance(counts, s, np.asarray(family.covariances(new)))
            assert ours <= best_of_old + 1e-12
            again = step(new, s, counts / counts.sum())[2]
            np.testing.assert_allclose(again, new.orientations, atol=1e-7)


def step_with_axes(form, counts, s, axes):
    """The lowest deviance with given common axes, by the closed form in these axes."""
    along = np.einsum("ij,kil,lj->kj", axes, s, axes)
    turned = np.array([np.diag(one) for one in along])
    if form == "EVE":
        turned = by_formula("EVI", counts, turned)
    return deviance(counts, s, axes @ turned @ axes.T)


NESTED = {
    "EVI": {"k=1": "EEI", "d=1": "EII"},
    "VEI": {"k=1": "EEI", "d=1": "VII"},
    "VEE": {"k=1": "EEE", "d=1": "VII"},
    "EVE": {"k=1": "EEE", "d=1": "EII"},
    "VVE": {"k=1": "EEE", "d=1": "VII"},
    "EEV": {"k=1": "EEE", "d=1": "EII"},
    "VEV": {"k=1": "EEE", "d=1": "VII"},
    "EVV": {"k=1": "EEE", "d=1": "EII"},
    "EII": {"k=1": "VII", "d=1": "EEE"},
    "EEI": {"k=1": "VVI", "d=1": "EEE"},
}


@pytest.mark.parametrize("form", NESTED)
def test_forms_agree_where_they_coincide(form):
    for where, (k, d) in {"k=1": (1, 3), "d=1": (3, 1)}.items():
        one, other = start(form, k, d), start(NESTED[form][where], k, d)
        assert one.n_parameters == other.n_parameters
        np.testing.assert_allclose(covariances(one), covariances(other), rtol=10 * ROUNDING, atol=10 * ROUNDING)
        x = jnp.asarray(rows(d))
        np.testing.assert_allclose(one.log_prob(x), other.log_prob(x), rtol=100 * ROUNDING, atol=100 * ROUNDING)


def test_tied_variances_are_the_means_of_a_tied_matrix():
    spherical, diagonal, tied = (start(form, 3, 3) for form in ("EII", "EEI", "EEE"))
    variances = np.diag(tied.components.covariances)
    np.testing.assert_allclose(diagonal.components.covariances, variances, rtol=10 * ROUNDING)
    np.testing.assert_allclose(spherical.components.covariances, variances.mean(), rtol=10 * ROUNDING)


@pytest.mark.parametrize("form", OWN)
def test_covariances_of_another_program_are_taken(form):
    mixture = start(form, 3, 3)
    again = jax.jit(mixture.family.from_covariances)(mixture.components.means, jnp.asarray(covariances(mixture)))
    tolerance = 1e-8 if X64 else 1e-3
    found = np.asarray(mixture.family.covariances(again))
    np.testing.assert_allclose(found, covariances(mixture), rtol=tolerance, atol=tolerance)


# -- the laws ------------------------------------------------------------------------------------------------------------

SHAPES = ((3, 3), (2, 2), (1, 2), (3, 1))
QUICK = [("VVE", 2, 2), ("EEI", 3, 2)]
LAWS = [*QUICK, *((form, k, d) for form in (*OWN, "EII", "EEI") for k, d in SHAPES if (form, k, d) not in QUICK)]


@only_float64
@pytest.mark.parametrize(("form", "k", "d"), slow_but_first(LAWS, first=len(QUICK)))
def test_laws_hold(form, k, d):
    mixture, moves = start(form, k, d), 2.0 * np.random.default_rng(0).normal(size=(k, d))  # away from a saddle
    components = mixture.components._replace(means=mixture.components.means + moves)
    report = jaxem.verify(dataclasses.replace(mixture, components=components), rows(d))
    assert report.ok, f"\n{report}"


@only_float64
@pytest.mark.parametrize("form", slow_but_first(["VEE", "EVE", "VEI", "EVV", "VEV", "EII", "EEI"], first=0))
def test_laws_hold_with_a_prior(form):
    x, mixture = rows(2), start(form, 2, 2)
    prior = jaxem.fraley_raftery(mixture.family, x, 2) + jaxem.Dirichlet(1.5)
    report = jaxem.verify(mixture, x, prior=prior)
    assert report.ok, f"\n{report}"


# -- climbs --------------------------------------------------------------------------------------------------------------


@only_float64
@pytest.mark.parametrize(
    ("form", "mclust"), slow_but_first([("VEV", -215.725972), ("EVE", None), ("VEE", None), ("EEV", None)])
)
def test_search_climbs_as_fit_does(form, mclust):
    """Of iris, K = 2: mclust's best form; a climb that starts where the search ended stays there."""
    x = reference_data("iris")
    best = jaxem.search(KEY, form, x, 2).best
    assert jaxem.Status(int(best.status)) == jaxem.Status.CONVERGED
    if mclust is not None:
        assert float(best.log_likelihood) >= mclust - 1e-6
    again = jaxem.fit(best.mixture, x, accelerator=None)
    np.testing.assert_allclose(again.log_likelihood, best.log_likelihood, rtol=1e-9)
    trace = np.asarray(jaxem.fit(jaxem.starts(KEY, form, x, 2, 1)[0], x, max_iter=50, accelerator=None).trace)
    trace = trace[np.isfinite(trace)]
    assert np.all(np.diff(trace) >= -1e-12 * np.abs(trace[1:]))
