"""Every family under every law; and what the laws in jaxem/laws.py cannot state of a single mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import laws
from jaxem.em import chart_map
from jaxem.rows import as_rows
from tests.cases import CASES, FEW, GAUSSIANS, KINDS, MORE_CASES, OTHERS, Case, named, reference_data, reference_mixture
from tests.conftest import ROUNDING, X64

NAMES = {
    "additive",
    "tight",
    "fisher",
    "stationary",
    "maximal",
    "unbeaten",
    "ascent",
    "maximum",
    "rate",
    "chart",
    "block",
}
NAMES |= {"equivariant", "sample", "normalised"}


@pytest.mark.skipif(not X64, reason="verify computes in float64 in either mode")
@pytest.mark.parametrize("case", **named(CASES, first=len(FEW)))
def test_laws_hold(case):
    report = laws.verify(case.mixture(), case.data(), prior=case.prior)
    assert report.ok, f"\n{report}"
    assert {law.name for law in report.laws} == (NAMES | {"step"} if case.kind.form and case.prior is None else NAMES)
    assert "verified: yes" in str(report)


@pytest.mark.slow
@pytest.mark.parametrize("case", **named(MORE_CASES))
def test_laws_hold_in_more_shapes(case):
    test_laws_hold(case)


@pytest.mark.parametrize("case", **named((*CASES, *MORE_CASES, *OTHERS)))
def test_chart_has_as_many_coordinates_as_parameters(case):
    mixture = case.mixture()
    free = mixture.unconstrain()
    assert free.shape == (case.n_parameters,)
    assert mixture.n_parameters == case.n_parameters
    # any coordinates are a mixture, whose coordinates they are
    other = free + 0.3 * jnp.asarray(np.random.default_rng(0).normal(size=case.n_parameters), free.dtype)
    there = mixture.constrain(other)
    np.testing.assert_allclose(there.unconstrain(), other, rtol=10 * ROUNDING, atol=10 * ROUNDING)
    np.testing.assert_allclose(jnp.sum(there.weights), 1.0, rtol=ROUNDING)


def test_chart_is_finite_for_collapsed_covariances():
    for family, covariances in zip(
        GAUSSIANS, (np.zeros(2), np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((2, 3, 3))), strict=True
    ):
        params = jaxem.GaussianParams(jnp.ones((2, 3)), jnp.asarray(covariances))
        mixture = jaxem.Mixture(jnp.array([0.0, -jnp.inf]), params, family)
        assert bool(jnp.all(jnp.isfinite(mixture.unconstrain())))
    probs = jaxem.BernoulliParams(jnp.array([[0.0, 1.0], [0.5, 1.0]]))
    mixture = jaxem.Mixture(jnp.log(jnp.array([0.5, 0.5])), probs, jaxem.Bernoulli())
    assert bool(jnp.all(jnp.isfinite(mixture.unconstrain())))
    again = mixture.constrain(mixture.unconstrain())
    np.testing.assert_allclose(again.components.probs, probs.probs, atol=ROUNDING)


def test_components_may_come_in_any_order():
    for case in CASES:
        mixture, x = case.mixture(), case.data()
        order = np.roll(np.arange(case.k), 1)
        shared = isinstance(case.family, jaxem.Tied)
        components = jax.tree.map(lambda leaf: leaf[order], mixture.components)  # noqa: B023
        if shared:
            components = components._replace(covariances=mixture.components.covariances)
        permuted = jaxem.Mixture(mixture.log_weights[order], components, case.family)
        one, other = (jaxem.m_step(m, jaxem.e_step(m, x)) for m in (mixture, permuted))
        np.testing.assert_allclose(one.weights[order], other.weights, rtol=ROUNDING)
        if not shared:
            for a, b in zip(jax.tree.leaves(one.components), jax.tree.leaves(other.components), strict=True):
                np.testing.assert_allclose(a[order], b, rtol=10 * ROUNDING, atol=ROUNDING)


@pytest.mark.skipif(not X64, reason="the images' covariances are too ill-conditioned for float32")
@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_features_may_be_scaled_and_rotated(family):
    """x -> A x + b moves the log-likelihood of the fitted mixture by -n log |A| and its parameters along."""
    case = Case(family, 2, 3)
    mixture, x = case.mixture(), case.data(80)
    rng = np.random.default_rng(4)
    a = case.kind.form.closed_under(rng, 3)
    b = rng.normal(size=3)
    matrices = np.asarray(family.as_matrices(mixture.components.covariances, 2, 3), float)
    matrices = a @ matrices @ a.T
    covariances = case.kind.form.reduced(matrices, [0.5, 0.5])
    means = np.asarray(mixture.components.means, float) @ a.T + b
    image = jaxem.Mixture(
        mixture.log_weights, jaxem.GaussianParams(jnp.asarray(means), jnp.asarray(covariances)), family
    )
    y = x @ a.T + b
    one, other = jaxem.e_step(mixture, x), jaxem.e_step(image, y)
    jacobian = len(x) * np.linalg.slogdet(a)[1]
    np.testing.assert_allclose(other.log_likelihood, one.log_likelihood - jacobian, rtol=10 * ROUNDING)
    one, other = jaxem.m_step(mixture, one), jaxem.m_step(image, other)
    expected = np.asarray(one.components.means, float) @ a.T + b
    np.testing.assert_allclose(other.components.means, expected, rtol=100 * ROUNDING, atol=10 * ROUNDING)
    again = a @ np.asarray(family.as_matrices(one.components.covariances, 2, 3), float) @ a.T
    found = family.as_matrices(other.components.covariances, 2, 3)
    np.testing.assert_allclose(found, again, rtol=100 * ROUNDING, atol=100 * ROUNDING)


def test_nested_families_agree():
    """From the same responsibilities: diag(Full) = Diagonal, its mean over d = Spherical, weighted Full = Tied."""
    x = Case(jaxem.Full(), 3, 3).data(90)
    resp = np.random.default_rng(5).dirichlet(np.ones(3), len(x))
    found = {}
    for family in GAUSSIANS:
        params = Case(family, 3, 3).mixture(seed=7).components
        stats = family.suff_stats(params, jnp.asarray(x), jnp.asarray(resp))
        found[type(family).__name__] = family.m_step(params, stats)
    full = np.asarray(found["Full"].covariances)
    np.testing.assert_allclose(found["Diagonal"].covariances, np.diagonal(full, axis1=1, axis2=2), rtol=50 * ROUNDING)
    np.testing.assert_allclose(found["Spherical"].covariances, np.trace(full, axis1=1, axis2=2) / 3, rtol=50 * ROUNDING)
    shares = resp.sum(axis=0) / len(x)
    np.testing.assert_allclose(
        found["Tied"].covariances, np.einsum("k,kij->ij", shares, full), rtol=50 * ROUNDING, atol=50 * ROUNDING
    )
    for params in found.values():
        np.testing.assert_allclose(params.means, found["Full"].means, rtol=50 * ROUNDING, atol=10 * ROUNDING)


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_one_component_is_the_sample_moments(family):
    x = Case(family, 1, 3).data(50)
    start = jaxem.starts(jax.random.key(0), family, x, 1, 1)[0]
    fitted = jaxem.m_step(start, jaxem.e_step(start, x)).components
    expected = KINDS[family].form.reduced(np.cov(x.T, bias=True)[None], [1.0])
    np.testing.assert_allclose(fitted.means[0], x.mean(axis=0), rtol=10 * ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(fitted.covariances, expected, rtol=20 * ROUNDING, atol=10 * ROUNDING)


@pytest.mark.skipif(not X64, reason="an identity of second derivatives at a maximum, in float64")
def test_rate_is_the_missing_information():
    """At a maximum the Jacobian of M is I - inv(I_complete) I_observed; its eigenvalues are known for Old Faithful."""
    x = reference_data("faithful")
    mixture = reference_mixture("faithful", 3, "full")
    mixture = jaxem.fit(mixture, x, stop=jaxem.GainBelow(-jnp.inf), max_iter=400).mixture
    free = mixture.unconstrain()

    em = chart_map(mixture, as_rows(mixture.family, x, None, mixture.n_components, centred=False))
    jacobian = jax.jit(jax.jacfwd(em))(free)
    complete = -jax.jit(jax.hessian(lambda at: jaxem.proxy(mixture.constrain(at), mixture, x)))(free)
    observed = -jax.jit(jax.hessian(lambda at: jaxem.e_step(mixture.constrain(at), x).log_likelihood))(free)
    np.testing.assert_allclose(jacobian, np.eye(free.size) - np.linalg.solve(complete, observed), atol=1e-7)
    eigenvalues = np.sort(np.linalg.eigvals(jacobian).real)[::-1]
    np.testing.assert_allclose(eigenvalues[:2], [0.836595, 0.805977], atol=1e-6)


@pytest.mark.slow
def test_verify_judges_formulas_not_digits_far_from_the_origin():
    case = Case(jaxem.Full(), 2, 2)
    mixture = case.mixture()
    far = jaxem.Mixture(
        mixture.log_weights, mixture.components._replace(means=mixture.components.means + 2.0**27), case.family
    )
    report = jaxem.verify(far, case.data() + 2.0**27)
    assert report.ok, f"\n{report}"


@pytest.mark.slow
def test_verify_samples_many_rows_and_says_so():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12_345, 1))
    mixture = Case(jaxem.Spherical(), 2, 1).mixture()
    report = jaxem.verify(mixture, x)
    assert report.ok, f"\n{report}"
    assert "10000 of 12345 rows" in str(report)


@pytest.mark.slow
def test_verify_samples_many_parameters_and_says_so():
    d = 30
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, d)) @ (np.eye(d) + 0.1 * rng.normal(size=(d, d)))
    mixture = Case(jaxem.Full(), 3, d).mixture()
    report = jaxem.verify(mixture, x)
    assert report.ok, f"\n{report}"
    assert f"of {mixture.n_parameters} coordinates" in str(report)


def test_verify_fails_a_wrong_m_step_and_names_it():
    class Biased(jaxem.Spherical):
        def m_step(self, params, stats):
            new = super().m_step(params, stats)
            return new._replace(covariances=new.covariances * (stats.counts / (stats.counts - 1)))

    case = Case(jaxem.Spherical(), 2, 2)
    mixture = jaxem.Mixture(case.mixture().log_weights, case.mixture().components, Biased())
    report = jaxem.verify(mixture, case.data())
    assert not report.ok
    assert "stationary" in [law.name for law in report.laws if not law.ok]
    assert "verified: NO" in str(report)


def test_laws_hold_for_many_rows_and_features():
    """Several blocks, one component at a time: derivatives that XLA's CPU compiler breaks unless broadcasts are hidden."""
    x = np.random.default_rng(0).normal(size=(2000, 12))
    starts = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 1, jaxem.RandomParameters())
    report = jaxem.verify(starts[0], x)
    assert report.ok, report


def test_a_verification_compiled_ahead_is_the_same(monkeypatch):
    x = np.random.default_rng(0).normal(size=(30, 2))
    mixture = Case(jaxem.Diagonal(), 2, 2).mixture()
    expected = jaxem.verify(mixture, x)
    monkeypatch.setattr(laws._all_laws, "made", {})
    laws.compile_verify(mixture, x).join()
    assert len(laws._all_laws.made) == 1
    assert jaxem.verify(mixture, x) == expected
