"""missing=True: the likelihood of what was observed, exactly, under every family that takes it, and everything built on it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, multivariate_t, poisson

import jaxem
from jaxem.holes import in_runs, patterns_of, run_length
from jaxem.rows import as_rows
from tests.cases import OTHER_KINDS, slow_but_first
from tests.conftest import X64
from tests.test_cli import run

pytestmark = pytest.mark.skipif(not X64, reason="the tolerances are those of float64")
KEY = jax.random.key(0)
GAUSSIANS = (jaxem.Full(True), jaxem.Diagonal(True), jaxem.Spherical(True), jaxem.Tied(True))
INDEPENDENT = (jaxem.Poisson(True), jaxem.Categorical(3, True), jaxem.Bernoulli(True))
EVERY = (*GAUSSIANS, *INDEPENDENT, jaxem.StudentT(missing=True))
NAMED = {"ids": lambda family: type(family).__name__}


def with_holes(x, share=0.3, seed=0):
    """The rows with a share of their values missing; one misses all, one none."""
    rng = np.random.default_rng(seed)
    x = np.array(x, float)
    x[rng.random(x.shape) < share] = np.nan
    x[1], x[0] = np.nan, np.where(np.isnan(x[0]), 1.0, x[0])
    return x


def problem(family, n=60, d=3, k=2, seed=0):
    """A mixture of random parameters, and rows of about its scale with holes."""
    rng = np.random.default_rng(seed)
    kind = OTHER_KINDS[dataclasses.replace(family, missing=False)]
    log_weights = jnp.log(jnp.asarray(rng.dirichlet(3 * np.ones(k))))
    mixture = jaxem.Mixture(log_weights, kind.params(rng, k, d), family)
    return mixture, with_holes(kind.data(np.random.default_rng(seed + 1), n, d), seed=seed)


def log_density(family, params, j, row):
    """log p of what was observed of a row under component j, by scipy."""
    seen = np.flatnonzero(~np.isnan(row))
    if not seen.size:
        return 0.0
    if isinstance(family, jaxem.Poisson):
        return poisson.logpmf(row[seen], np.asarray(params.rates)[j, seen]).sum()
    if isinstance(family, jaxem.Bernoulli):
        return np.log(np.where(row[seen] == 1, params.probs[j, seen], 1 - params.probs[j, seen])).sum()
    if isinstance(family, jaxem.Categorical):
        return np.log(np.asarray(params.probs)[j, seen, row[seen].astype(int)]).sum()
    means, matrices = (np.asarray(leaf) for leaf in family.as_gaussians(params))
    mean, matrix = means[j, seen], matrices[j][np.ix_(seen, seen)]
    if isinstance(family, jaxem.StudentT):
        return multivariate_t.logpdf(row[seen], mean, matrix, float(params.dofs[j]))
    return multivariate_normal.logpdf(row[seen], mean, matrix)


def by_hand(mixture, x):
    """log p(x_i and j) of what was observed, `[n, k]`, by scipy."""
    family, params, k = mixture.family, mixture.components, mixture.n_components
    log_weights = np.asarray(mixture.log_weights)
    return np.array([[log_weights[j] + log_density(family, params, j, row) for j in range(k)] for row in x])


def clusters(n=240, d=3, seed=0, share=0.3):
    """Rows of two clusters, complete and with holes."""
    rng = np.random.default_rng(seed)
    full = rng.normal(size=(n, d)) @ np.array([[1, 0.8, 0], [0, 0.6, 0.3], [0, 0, 1]])[:d, :d]
    full[: n // 2] += 4.0
    return full, with_holes(full, share, seed)


# -- the likelihood ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", EVERY, **NAMED)
def test_log_likelihood_is_that_of_what_was_observed(family):
    """Row by row against scipy; in passes, in runs and in blocks, eager and traced."""
    mixture, x = problem(family)
    joint = by_hand(mixture, x)
    expected = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mixture.log_joint(x), joint, rtol=1e-10, atol=1e-10)
    weight = np.random.default_rng(3).uniform(0.5, 2.0, len(x))
    for found in (
        jaxem.e_step(mixture, x, weight),
        jaxem.e_step(mixture, x, weight, chunk_size=7),
        jax.jit(jaxem.e_step)(mixture, jnp.asarray(x), jnp.asarray(weight)),
    ):
        np.testing.assert_allclose(found.log_likelihood, weight @ expected, rtol=1e-10)


@pytest.mark.parametrize("family", EVERY, **NAMED)
def test_a_row_without_anything_adds_nothing(family):
    mixture, x = problem(family)
    nothing = np.full((1, 3), np.nan)
    assert float(mixture.log_prob(nothing)[0]) == pytest.approx(0.0, abs=1e-14)
    np.testing.assert_allclose(mixture.responsibilities(nothing)[0], mixture.weights, rtol=1e-13)
    before, after = (jaxem.e_step(mixture, rows).log_likelihood for rows in (x, np.r_[x, nothing]))
    assert float(after) == pytest.approx(float(before), rel=1e-13)


@pytest.mark.parametrize("family", GAUSSIANS, **NAMED)
def test_the_gradient_of_the_brute_force_likelihood_is_zero_at_the_fit(family):
    """By autodiff of the plain formula, with jnp.linalg, in units of the gradient's parts of single rows."""
    _, x = clusters()
    start = jaxem.starts(KEY, family, x, 2, 1)[0]
    found = jaxem.fit(start, x, accelerator=jaxem.hybrid(), stop=jaxem.RemainingGainBelow(1e-14)).mixture
    seen = ~np.isnan(x)
    both = jnp.asarray(seen[:, :, None] & seen[:, None, :])
    values = jnp.asarray(np.where(seen, x, 0.0))

    def of_rows(free):
        mixture = found.constrain(free)
        means, matrices = family.as_gaussians(mixture.components)
        identity = jnp.eye(x.shape[1])

        def of_one(log_weight, mean, matrix):
            here = jnp.where(both, matrix[None], 0.0) + jnp.where(seen[:, :, None], 0.0, identity[None])
            away = jnp.where(seen, values - mean[None, :], 0.0)
            squares = jnp.sum(away * jnp.linalg.solve(here, away[:, :, None])[:, :, 0], axis=1)
            return log_weight - 0.5 * (squares + jnp.linalg.slogdet(here)[1] + seen.sum(axis=1) * np.log(2 * np.pi))

        joint = jnp.stack([of_one(*one) for one in zip(mixture.log_weights, means, matrices, strict=True)])
        return jax.nn.logsumexp(joint, axis=0)

    free = found.unconstrain()
    np.testing.assert_allclose(of_rows(free), found.log_prob(x), rtol=1e-10, atol=1e-10)
    scores = np.asarray(jax.jacrev(of_rows)(free))  # [n, p]
    assert np.max(np.abs(scores.sum(axis=0)) / np.abs(scores).sum(axis=0)) < 1e-6


@pytest.mark.parametrize("family", slow_but_first(EVERY, 3), **NAMED)
def test_all_laws_hold(family):
    """Rows and values missing, weights of zero among them; `tight`, `stationary` and the like judge `bound`."""
    mixture, x = problem(family)
    report = jaxem.verify(mixture, x)
    assert report, str(report)


@pytest.mark.parametrize("family", [jaxem.Full(True), jaxem.Diagonal(True)], **NAMED)
def test_all_laws_hold_with_a_prior(family):
    mixture, x = problem(family)
    prior = jaxem.fraley_raftery(dataclasses.replace(family, missing=False), x, 2) + jaxem.Dirichlet(2.0)
    report = jaxem.verify(mixture, x, prior=prior)
    assert report, str(report)


@pytest.mark.parametrize("family", EVERY, **NAMED)
def test_em_never_falls(family):
    """125 random problems of 40 rows each (500 of Gaussians), 5 to 60 per cent missing, whole rows and whole columns of a
    cluster among them: 20 steps of EM."""
    n, d, k, rng = 40, 3, 2, np.random.default_rng(5)
    kind = OTHER_KINDS[dataclasses.replace(family, missing=False)]
    problems = []
    for i in range(125):
        x = kind.data(rng, n, d)
        complete = x.copy()
        x[rng.random(x.shape) < rng.uniform(0.05, 0.6)] = np.nan
        x[rng.integers(n)] = np.nan
        if i % 2:
            x[: n // 2, rng.integers(d)] = np.nan  # what a component of these rows never shows
        for j in range(d):  # each column is observed somewhere, at several values
            x[-3:, j] = complete[-3:, j]
        problems.append(x)
    starts = [problem(family, n, d, k, seed)[0] for seed in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(starts[i % 4] for i in range(125)))
    climb = jax.jit(jax.vmap(lambda mixture, x: jaxem.fit(mixture, x, max_iter=20, stop=jaxem.GainBelow(-jnp.inf))))
    found = climb(stacked, jnp.asarray(np.stack(problems)))
    trace = np.asarray(found.trace)
    falls = np.diff(trace, axis=1) < -1e-12 * (np.abs(trace[:, :-1]) + n)
    assert not falls.any()
    sound = ~np.isin(np.asarray(found.status), [jaxem.Status.DEGENERATE, jaxem.Status.NONFINITE])
    assert np.isfinite(trace[sound]).all()
    assert sound.sum() > 60


# -- closed forms --------------------------------------------------------------------------------------------------------


def test_a_monotone_pattern_has_a_closed_form():
    """Little and Rubin (2019, section 7.4): each column regressed on those before it, over the rows that have both."""
    rng = np.random.default_rng(1)
    full = rng.normal(size=(90, 3)) @ rng.normal(size=(3, 3)) + [1.0, -2.0, 30.0]
    x = full.copy()
    x[60:, 2] = x[75:, 1] = np.nan  # column 0 is always there, column 2 only where column 1 is
    means, matrix = np.zeros(3), np.zeros((3, 3))
    means[0], matrix[0, 0] = x[:, 0].mean(), x[:, 0].var()
    for j in (1, 2):
        rows = ~np.isnan(x[:, j])
        design = np.column_stack([np.ones(rows.sum()), x[rows, :j]])
        coefficients, *_ = np.linalg.lstsq(design, x[rows, j], rcond=None)
        residual = np.mean((x[rows, j] - design @ coefficients) ** 2)
        means[j] = coefficients[0] + coefficients[1:] @ means[:j]
        matrix[:j, j] = matrix[j, :j] = matrix[:j, :j] @ coefficients[1:]
        matrix[j, j] = residual + coefficients[1:] @ matrix[:j, :j] @ coefficients[1:]
    start = jaxem.starts(KEY, jaxem.Full(True), x, 1, 1)[0]
    found = jaxem.fit(start, x, accelerator=jaxem.hybrid(), stop=jaxem.RemainingGainBelow(1e-15)).mixture.components
    np.testing.assert_allclose(found.means[0], means, rtol=1e-8)
    np.testing.assert_allclose(found.covariances[0], matrix, rtol=1e-8)


def test_one_component_has_two_optima_and_a_saddle():
    """Murray's rows (1977): at a correlation of 0 the likelihood has a saddle, which search leaves."""
    n = np.nan
    four = [[1, 1], [1, -1], [-1, 1], [-1, -1]]
    x = np.array([*four, [2, n], [2, n], [-2, n], [-2, n], [n, 2], [n, 2], [n, -2], [n, -2]], float)
    found = jaxem.search(KEY, jaxem.Full(True), x, 1).best
    assert np.linalg.eigvalsh(np.asarray(jaxem.information(found.mixture, x))).min() > 0.1
    start = jaxem.Mixture(
        jnp.zeros(1), jaxem.GaussianParams(jnp.zeros((1, 2)), jnp.array([[[2.0, 1.0], [1.0, 2.0]]])), jaxem.Full(True)
    )
    other = jaxem.fit(start, x, accelerator=jaxem.hybrid())
    assert float(found.log_likelihood) == pytest.approx(float(other.log_likelihood), rel=1e-9)


def test_one_step_is_that_of_plain_numpy():
    """The expected moments, row by row: Dempster, Laird and Rubin (1977, section 4.1.3)."""
    mixture, x = problem(jaxem.Full(True), seed=4)
    joint = by_hand(mixture, x)
    resp = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
    means, matrices = (np.asarray(leaf) for leaf in mixture.components)
    for family, pooled in ((jaxem.Full(True), False), (jaxem.Tied(True), True)):
        if pooled:
            mixture = jaxem.Mixture(mixture.log_weights, jaxem.GaussianParams(means, matrices[0]), family)
            matrices = np.stack([matrices[0]] * 2)
            joint = by_hand(mixture, x)
            resp = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
        new_means, second = np.zeros((2, 3)), np.zeros((2, 3, 3))
        for j in range(2):
            filled, extra = np.zeros_like(x), np.zeros((len(x), 3, 3))
            for i, row in enumerate(x):
                o, m = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
                gain = (
                    matrices[j][np.ix_(m, o)] @ np.linalg.inv(matrices[j][np.ix_(o, o)])
                    if o.size
                    else np.zeros((m.size, 0))
                )
                filled[i, o], filled[i, m] = row[o], means[j, m] + gain @ (row[o] - means[j, o])
                extra[i][np.ix_(m, m)] = matrices[j][np.ix_(m, m)] - gain @ matrices[j][np.ix_(o, m)]
            r = resp[:, j]
            new_means[j] = r @ filled / r.sum()
            away = filled - new_means[j]
            second[j] = (r[:, None] * away).T @ away + np.tensordot(r, extra, 1)
        expected = second.sum(axis=0) / len(x) if pooled else second / resp.sum(axis=0)[:, None, None]
        new = jaxem.m_step(mixture, jaxem.e_step(mixture, x)).components
        np.testing.assert_allclose(new.means, new_means, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(new.covariances, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", EVERY, **NAMED)
def test_nothing_missing_is_the_plain_family(family):
    mixture, _ = problem(family)
    plain = dataclasses.replace(mixture, family=dataclasses.replace(family, missing=False))
    x = OTHER_KINDS[plain.family].data(np.random.default_rng(2), 50, 3)
    ours, theirs = (jaxem.m_step(one, jaxem.e_step(one, x)) for one in (mixture, plain))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(mixture.log_prob(x), plain.log_prob(x), rtol=1e-12)
    np.testing.assert_array_equal(mixture.impute(x), x)
    assert mixture.n_parameters == plain.n_parameters


@pytest.mark.parametrize("family", EVERY, **NAMED)
def test_weights_count_rows(family):
    """Weight 3 is three copies, 0 is absent whatever the row holds; the order of rows does not matter."""
    mixture, x = problem(family, n=20)
    weight = np.r_[np.zeros(4), 3.0, np.ones(15)]
    wild = x.copy()
    if family.location:
        wild[:4] = 1e200
    copies = np.r_[np.repeat(x[4:5], 3, axis=0), x[5:]]
    expected = jaxem.m_step(mixture, jaxem.e_step(mixture, copies))
    for rows, w in ((x, weight), (wild, weight), (x[::-1], weight[::-1])):
        found = jaxem.m_step(mixture, jaxem.e_step(mixture, rows, w))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


# -- what is missing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [jaxem.Full(True), jaxem.Tied(True), jaxem.Diagonal(True)], **NAMED)
def test_impute_gives_conditional_means(family):
    """By the conditional densities of the mixture itself, which know nothing of holes."""
    mixture, x = problem(family, n=12)
    found = np.asarray(mixture.impute(x))
    for row, filled in zip(x, found, strict=True):
        o, m = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        np.testing.assert_array_equal(filled[o], row[o])
        if o.size and m.size:
            given = mixture.conditional(o.tolist(), row[o])
            np.testing.assert_allclose(filled[m], given.weights @ given.components.means, rtol=1e-10)
        elif m.size:
            np.testing.assert_allclose(filled, mixture.weights @ mixture.components.means, rtol=1e-10)


def test_impute_of_kinds_and_counts():
    mixture, x = problem(jaxem.Categorical(3, True), n=12)
    resp, probs = np.asarray(mixture.responsibilities(x)), np.asarray(mixture.components.probs)
    likeliest = np.argmax(np.einsum("nk,kdc->ndc", resp, probs), axis=2)
    np.testing.assert_array_equal(mixture.impute(x), np.where(np.isnan(x), likeliest, x))
    mixture, x = problem(jaxem.Poisson(True), n=12)
    expected = np.asarray(mixture.responsibilities(x)) @ np.asarray(mixture.components.rates)
    np.testing.assert_allclose(mixture.impute(x), np.where(np.isnan(x), expected, x), rtol=1e-12)
    both = jaxem.Product((jaxem.Full(True), (0, 1)), (jaxem.Poisson(True), (2,)))
    params = problem(jaxem.Full(True), d=2)[0].components, problem(jaxem.Poisson(True), d=1)[0].components
    mixture = jaxem.Mixture(jnp.log(jnp.asarray([0.4, 0.6])), params, both)
    x = np.array([[1.0, np.nan, 2.0], [0.5, 1.0, np.nan], [np.nan, np.nan, 1.0]])
    filled, resp = np.asarray(mixture.impute(x)), np.asarray(mixture.responsibilities(x))
    assert filled[1, 2] == pytest.approx(float(resp[1] @ params[1].rates[:, 0]), rel=1e-12)
    assert np.isfinite(filled).all()


def test_old_faithful_with_a_fifth_missing():
    """Over 100 draws the estimate is within two of its standard errors of that of all values; mean imputation is not."""
    complete = jaxem.datasets.faithful()
    best = jaxem.search(KEY, "full", complete, 2).best.mixture
    best = jaxem.sorted_components(best, "mean")
    rng = np.random.default_rng(0)
    draws = np.repeat(complete[None], 100, axis=0)
    draws[rng.random(draws.shape) < 0.2] = np.nan
    means = np.nanmean(draws, axis=1, keepdims=True)
    start = dataclasses.replace(best, family=jaxem.Full(True))
    climb = jax.jit(jax.vmap(lambda x: jaxem.fit(start, x, accelerator=jaxem.hybrid())))
    ours = climb(jnp.asarray(draws))
    plain = jax.jit(jax.vmap(lambda x: jaxem.fit(best, x, accelerator=jaxem.hybrid())))
    theirs = plain(jnp.asarray(np.where(np.isnan(draws), means, draws)))
    estimate = lambda result: np.asarray(jax.vmap(lambda one: one.unconstrain())(result.mixture))  # noqa: E731
    error = np.sqrt(np.diag(np.linalg.inv(jaxem.information(ours.mixture[0], draws[0]))))
    truth = np.asarray(best.unconstrain())
    off, off_by_means = (np.abs(estimate(one) - truth) / error for one in (ours, theirs))
    assert (off < 2).mean() > 0.99
    assert np.median(off_by_means.max(axis=1)) > 4


# -- everything that is built on it --------------------------------------------------------------------------------------


def test_search_starts_and_restarts_with_holes():
    """The same optimum from every kind of start, by the drop-in and by `MixtureModel`, with an offset that costs digits."""
    from jaxem.sklearn import GaussianMixture, MixtureModel

    _, x = clusters()
    family = jaxem.Full(True)
    found = jaxem.search(KEY, family, x, 2)
    best = float(found.best.log_likelihood)
    assert float(np.sum(np.logaddexp.reduce(by_hand(found.best.mixture, x), axis=1))) == pytest.approx(best, rel=1e-12)
    labels = np.asarray(found.best.mixture.predict(x))
    known = ~np.isnan(x).all(axis=1)
    right = labels[known] == (np.arange(len(x)) < len(x) // 2)[known]
    assert max(right.mean(), 1 - right.mean()) > 0.97
    kinds = (jaxem.KMeansPlusPlus(), jaxem.RandomParameters(), jaxem.KMeans(), jaxem.RandomPoints())
    for kind in (*kinds, jaxem.FromResponsibilities(np.eye(2)[labels])):
        starts = jaxem.starts(KEY, family, x, 2, 2, kind)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(starts))
        results = jaxem.fit_restarts(starts, x, accelerator=jaxem.hybrid())
        assert float(results.log_likelihood.max()) == pytest.approx(best, rel=1e-9)
    model = GaussianMixture(2, missing=True, init_params="search", random_state=0).fit(x)
    assert model.score(x) * len(x) == pytest.approx(best, rel=1e-9)
    assert np.isfinite(model.predict_proba(x)).all()
    plain = GaussianMixture(2, missing=True, reg_covar=0, tol=1e-12, max_iter=500, random_state=0).fit(x)
    assert plain.lower_bound_ * len(x) == pytest.approx(best, rel=1e-8)
    assert MixtureModel(family, 2, random_state=0).fit(x).log_likelihood_ == pytest.approx(best, rel=1e-9)
    shifted = jaxem.search(KEY, family, x + 1e7, 2).best
    assert float(shifted.log_likelihood) == pytest.approx(best, rel=1e-7)
    masked = jaxem.fit(found.best.mixture, np.ma.masked_invalid(x))
    assert float(masked.log_likelihood) == pytest.approx(best, rel=1e-12)


def test_runs_hold_rows_of_one_pattern():
    """However many patterns there are, each run has one, each row is there once, and the rest has no weight."""
    rng = np.random.default_rng(0)
    for n, d, share in ((500, 4, 0.2), (300, 20, 0.3), (50, 2, 0.0)):
        x = rng.normal(size=(n, d))
        x[rng.random(x.shape) < share] = np.nan
        patterns = patterns_of(x)
        for i, j in rng.integers(n, size=(200, 2)):
            assert (patterns[i] == patterns[j]) == bool((np.isnan(x[i]) == np.isnan(x[j])).all())
        for length in (1, 8, run_length(patterns, d, 512)):
            for segment in (None, 64):
                places = in_runs(patterns, length, segment)
                assert len(places) % length == 0
                np.testing.assert_array_equal(np.sort(places[places >= 0]), np.arange(n))
                there = np.where(places < 0, -1 - places, places)
                assert (patterns[there].reshape(-1, length) == patterns[there].reshape(-1, length)[:, :1]).all()
    rows = as_rows(jaxem.Full(True), with_holes(np.random.default_rng(1).normal(size=(5000, 4))), None, 2)
    assert rows.run > 1
    seen = np.isnan(np.asarray(rows.blocks)).reshape(len(rows.blocks), 4, -1, rows.run)
    assert (seen == seen[..., :1]).all()
    assert float(rows.weights.sum()) == 5000
    assert int(rows.frame.n) == 5000


def test_what_is_known_of_the_estimate():
    """Information by differences of the brute-force gradient, standard errors larger than those of complete rows, and a
    parametric bootstrap that misses what the data miss."""
    from jaxem.replicas import replicas_of

    full, x = clusters()
    best = jaxem.search(KEY, jaxem.Diagonal(True), x, 2).best.mixture
    free = np.asarray(best.unconstrain())

    def likelihood(free):
        return np.sum(np.logaddexp.reduce(by_hand(best.constrain(jnp.asarray(free)), x), axis=1))

    step, found = 1e-3, np.asarray(jaxem.information(best, x))
    for i, j in ((0, 0), (1, 1), (1, 7), (9, 9)):
        one, two = step * np.eye(free.size)[[i, j]]
        second = sum(
            s * likelihood(free + a * one + b * two) for a, b, s in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
        )
        assert found[i, j] == pytest.approx(-second / (4 * step**2), rel=1e-3, abs=1e-3)
    complete = jaxem.fit(dataclasses.replace(best, family=jaxem.Diagonal()), full).mixture
    wide, narrow = jaxem.summary(best, x).standard_error, jaxem.summary(complete, full).standard_error
    assert (np.asarray(wide.components.means) > np.asarray(narrow.components.means)).all()
    rows = as_rows(jaxem.Full(True), x, None, 2)
    gaussian = dataclasses.replace(
        best, family=jaxem.Full(True), components=jaxem.Diagonal().as_gaussians(best.components)
    )
    drawn = replicas_of(KEY, np.arange(3), rows, "parametric", gaussian).own
    for blocks, weights in zip(drawn["blocks"], drawn["weights"], strict=True):
        np.testing.assert_array_equal(np.isnan(blocks), np.isnan(rows.blocks))
        np.testing.assert_array_equal(np.asarray(weights) > 0, np.asarray(rows.weights) > 0)


def test_with_labels_a_background_and_other_columns():
    _, x = clusters()
    truth = (np.arange(len(x)) < len(x) // 2).astype(float)
    known = np.where(np.arange(len(x)) % 3 == 0, truth, -1)
    labelled = jaxem.Product((jaxem.Full(True), (0, 1, 2)), (jaxem.Labelled(), (3,)))
    best = jaxem.search(KEY, labelled, np.c_[x, known], 2).best.mixture
    predicted = np.asarray(best.predict(np.c_[x, np.full(len(x), -1.0)]))
    assert (predicted == truth)[~np.isnan(x).all(axis=1)].mean() > 0.97
    behind = jaxem.Union((jaxem.Full(True), 2), (jaxem.Uniform(-20.0, 20.0), 1))
    outliers = np.r_[x, np.random.default_rng(0).uniform(-19, 19, (12, 3))]
    outliers[-6:, 1] = np.nan
    mixture = jaxem.search(KEY, behind, outliers, 3).best.mixture
    row = np.array([[1.0, np.nan, 2.0]])
    assert float(mixture.log_joint(row)[0, 2] - mixture.log_weights[2]) == pytest.approx(-2 * np.log(40.0), rel=1e-12)
    assert np.isfinite(np.asarray(mixture.impute(outliers))).all()


def test_noise_of_infinite_variance_is_a_missing_value():
    """`Deconvolved` with noise that is infinite where a value is missing, and zero elsewhere, is `Full(missing=True)`."""
    mixture, x = problem(jaxem.Full(True))
    noisy = jaxem.with_noise(x, np.where(np.isnan(x), np.inf, 0.0))
    behind = dataclasses.replace(mixture, family=jaxem.Deconvolved())
    np.testing.assert_allclose(behind.log_prob(noisy), mixture.log_prob(x), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(behind.denoise(noisy), mixture.impute(x), rtol=1e-10, atol=1e-10)
    ours, theirs = (jaxem.fit(one, rows, max_iter=15) for one, rows in ((mixture, x), (behind, noisy)))
    np.testing.assert_allclose(ours.trace[:16], theirs.trace[:16], rtol=1e-10)
    for a, b in zip(jax.tree.leaves(ours.mixture), jax.tree.leaves(theirs.mixture), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", [jaxem.Full(True), jaxem.Diagonal(True), jaxem.Spherical(True)], **NAMED)
@pytest.mark.parametrize("held", [{"means": [True, False]}, {"weights": True, "covariances": [False, True]}])
def test_the_m_step_is_exact_with_held_parameters(family, held):
    """The proxy's gradient in the chart, which has no held coordinates, is zero; what is held has the same bits."""
    mixture, x = problem(family)
    prior = jaxem.fraley_raftery(dataclasses.replace(family, missing=False), x, 2)
    start = jaxem.fit(mixture, x, prior=prior, held=held, max_iter=0).mixture
    assert start.n_parameters < mixture.n_parameters
    new = jaxem.m_step(start, jaxem.e_step(start, x), prior)
    gradient = jax.grad(lambda free: jaxem.proxy(new.constrain(free), start, x, prior=prior))(new.unconstrain())
    assert float(jnp.max(jnp.abs(gradient))) < 1e-10 * len(x)
    for name, which in held.items():
        before, after = (
            one.log_weights if name == "weights" else getattr(one.components, name) for one in (mixture, new)
        )
        which = np.flatnonzero(np.broadcast_to(which, 2))
        np.testing.assert_array_equal(before[which], after[which])


def test_float32_stays_float32():
    _, x = clusters()
    found = jaxem.fit(jaxem.starts(KEY, jaxem.Full(True), x.astype(np.float32), 2, 1)[0], x.astype(np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(found.mixture)} == {np.dtype("float32")}
    wide = jaxem.fit(jaxem.starts(KEY, jaxem.Full(True), x, 2, 1)[0], x)
    assert float(found.log_likelihood) == pytest.approx(float(wide.log_likelihood), rel=1e-4)


def test_model_files_and_values(tmp_path):
    """A file holds the setting; one written before there was one is read; equal settings are equal families."""
    mixture, _ = problem(jaxem.Full(True))
    jaxem.io.save(mixture, tmp_path / "m.safetensors")
    assert jaxem.io.load(tmp_path / "m.safetensors").family == jaxem.Full(missing=True)
    assert repr(jaxem.Full()) == "Full()"
    assert repr(jaxem.Full(True)) == "Full(missing=True)"
    assert jaxem.Full() != jaxem.Full(True)
    from jaxem.io import _from_description

    assert _from_description({"Full": {}}, 0) == jaxem.Full()
    assert _from_description({"StudentT": {"dof": 4.0}}, 0) == jaxem.StudentT(4.0)


def test_command_line(tmp_path):
    """--missing takes empty cells, NA and codes; the model then takes such rows without being told."""
    _, x = clusters(80)
    lines = ["a,b,c", *(",".join("" if np.isnan(v) else f"{v:.17g}" for v in row) for row in x)]
    lines[3] = "NA" + lines[3][lines[3].index(",") :]
    lines[5] = "-999" + lines[5][lines[5].index(",") :]
    table, model = tmp_path / "t.csv", str(tmp_path / "m.safetensors")
    table.write_text("\n".join(lines) + "\n")
    x[2, 0] = x[4, 0] = np.nan

    def call(*arguments):
        done = run(*arguments)
        return done.returncode, done.stdout, done.stderr

    fit = ("fit", table, "-k", "2", "--covariance", "diag", "--no-verify", "--na=-999")
    status, _, said = call(*fit)
    assert status == 1
    assert "--missing" in said
    assert len(said.strip().splitlines()) == 1
    status, _, said = call(*fit, "--missing", "--out", model)
    assert status == 0
    assert f"{int(np.isnan(x).sum())} values are missing" in said
    mixture = jaxem.io.load(model)
    status, printed, _ = call("score", model, table, "--na=-999")
    assert status == 0
    assert float(printed.split()[1]) == pytest.approx(float(np.sum(mixture.log_prob(x))), abs=1e-5)
    status, printed, _ = call("predict", model, table, "--na=-999")
    assert printed.split()[1:] == [str(label) for label in np.asarray(mixture.predict(x))]
    for more, word in (
        (("--missing", "--drop-missing"), "exclude"),
        (("--missing", "--covariance", "VEV"), "whole rows"),
    ):
        status, _, said = call("fit", table, "-k", "2", "--na=-999", *more)
        assert status != 0
        assert word in said


def test_pictures_and_reports(tmp_path):
    """One feature or two are drawn; the report's player has a place for every row."""
    import json
    import re

    from jaxem.html import report
    from jaxem.plots import plot_mixture, plot_responsibilities

    _, x = clusters(60)
    mixture = jaxem.fit(jaxem.starts(KEY, jaxem.Diagonal(True), x, 2, 1)[0], x).mixture
    for features in ((0, 1), (0,)):
        plot_mixture(mixture, x, features=features)
        assert plot_responsibilities(mixture, x, features=features).has_data()
    counts = np.abs(np.round(x))
    poisson = jaxem.fit(jaxem.starts(KEY, jaxem.Poisson(True), counts, 2, 1)[0], counts).mixture
    for features in ((0,), (0, 1)):
        plot_responsibilities(poisson, counts, features=features)
    [points] = re.findall(r'"points":(\[\[.*?\]\])', report(mixture, x))
    assert np.isfinite(np.asarray(json.loads(points), float)).all()


HOLED = with_holes(np.random.default_rng(0).normal(size=(20, 2)))
FULL = jaxem.Full(True)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jaxem.search(KEY, "full", HOLED, 2), r"x\[1, 0\] = nan.*missing=True"),
        (lambda: jaxem.search(KEY, FULL, np.c_[HOLED, np.full(20, np.nan)], 2), "column 2 of x is NaN in all 20 rows"),
        (lambda: jaxem.search(KEY, FULL, HOLED, 2, np.eye(20)[1]), "column 0 of x is NaN in all 1 rows that have a weight"),
        (lambda: jaxem.search(KEY, FULL, np.where(np.isnan(HOLED), np.inf, HOLED), 2), r"x\[1, 0\] = inf.*finite"),
        (lambda: jaxem.search(KEY, jaxem.Product((FULL, (0,)), (jaxem.Diagonal(), (1,))), HOLED, 2), r"x\[1, 1\] = nan"),
        (lambda: jaxem.search(KEY, jaxem.Poisson(True), np.where(np.isnan(HOLED), HOLED, -1.0), 2), "cannot occur"),
        (lambda: jaxem.search(KEY, "full", np.ma.masked_invalid(HOLED), 2), "mask over .* missing=True"),
        (lambda: jaxem.Full("yes"), "missing = 'yes'"),
        (lambda: jaxem.StudentT(missing=0.5), "missing = 0.5"),
        (lambda: problem(FULL)[0].conditional(0, np.nan), "values holds NaN"),
        (lambda: jaxem.search(KEY, FULL, np.array([[1.0, None], [2.0, 3.0]], object), 1), "dtype object.*na_value"),
        (lambda: jaxem.datasets.read_table("-", drop_missing=True, keep_missing=True), "exclude each other"),
    ],
)  # fmt: skip
def test_bad_input_is_said_in_one_line(call, words):
    with pytest.raises(ValueError, match=words) as found:
        call()
    assert "\n" not in str(found.value)


@pytest.mark.filterwarnings(
    "ignore:reg_covar = 0.3 is no small part", "ignore:Best performing initialization did not converge"
)
@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_reg_covar_is_added_to_the_variances(form):
    """As scikit-learn does: the same as without `missing` on complete rows, and what the M-step of holes lacks."""
    from jaxem.sklearn import GaussianMixture

    full, x = clusters(120)
    options = {"covariance_type": form, "reg_covar": 0.3, "random_state": 0, "tol": 0, "max_iter": 400}
    ours, plain = (GaussianMixture(2, missing=missing, **options).fit(full) for missing in (True, False))
    np.testing.assert_allclose(ours.covariances_, plain.covariances_, rtol=1e-9)
    np.testing.assert_allclose(ours.means_, plain.means_, rtol=1e-9)
    holed = GaussianMixture(2, missing=True, **options).fit(x)
    step = jaxem.m_step(holed.mixture_, jaxem.e_step(holed.mixture_, x)).components.covariances
    added = holed.covariances_ - np.asarray(step)
    expected = 0.3 * np.eye(3) if form in ("full", "tied") else 0.3
    np.testing.assert_allclose(added, np.broadcast_to(expected, added.shape), atol=1e-9)


def test_drop_in_says_what_to_set():
    from jaxem.sklearn import GaussianMixture

    with pytest.raises(ValueError, match=r"contains NaN.*missing=True"):
        GaussianMixture(2).fit(HOLED)
    with pytest.raises(NotImplementedError, match="batch by batch"):
        GaussianMixture(2, missing=True).partial_fit(HOLED)
