"""EM over batches: what moving statistics must keep, numpy's own incremental and stepwise EM, fixed points, and `partial_fit`."""

import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import jaxem
from jaxem import Ellipsoidal, Full, Mixture, online
from jaxem.em import stats_of
from jaxem.families.movable import Movable
from jaxem.sklearn import GaussianMixture, MixtureModel
from tests import oracle
from tests.cases import CASES, NUMERICAL, OTHERS, Case, Counts, blobs, named
from tests.conftest import ROUNDING, STATISTICAL, X64
from tests.sklearn_pair import FAITHFUL, clusters, only_once
from tests.test_contract import StudentT as OfAUser

MOVABLE = [case for case in (*CASES, *OTHERS) if isinstance(case.family, Movable) and case.prior is None]
LATENT = (jaxem.StudentT, jaxem.Deconvolved)
"""families whose statistics hold latent scales, or truths, under the old parameters too"""
float64 = pytest.mark.skipif(not X64, reason="checks of float64 digits")


def assert_close(one, other, rtol=ROUNDING, atol=None):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        scale = max(float(np.max(np.abs(b), initial=0.0)), 1.0)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale if atol is None else atol)


def weights_of(n, seed=2):
    return np.random.default_rng(seed).choice([0.0, 0.5, 1.0, 3.0], n)


def has_latents(family):
    return isinstance(family, LATENT) or any(map(has_latents, getattr(family, "families", ())))


# -- statistics that are moved -------------------------------------------------------------------------------------------


@float64
@pytest.mark.parametrize("case", **named(MOVABLE, first=20))
def test_moved_statistics(case):
    """They are those that a pass at the same responsibilities would take about the new mixture; the bound is the proxy, the
    M-step is the same, and the way back leads back."""
    old, new, x, w = case.mixture(0), case.mixture(5), jnp.asarray(case.data()), jnp.asarray(weights_of(60))
    stats = jaxem.e_step(old, x, w)
    there = online.moved(stats, old, new)
    np.testing.assert_allclose(there.log_likelihood, jaxem.proxy(new, old, x, w), rtol=100 * ROUNDING)
    if not has_latents(case.family):
        expected = stats_of(new, x, old.responsibilities(x) * w[:, None])
        assert_close(there.components, expected.components, 100 * ROUNDING)
    free = [jaxem.m_step(*of).unconstrain() for of in ((old, stats), (new, there))]
    if case.family.exact:
        np.testing.assert_allclose(free[1], free[0], rtol=1e4 * ROUNDING, atol=1e4 * ROUNDING)
    assert_close(online.moved(there, new, old), stats, 1000 * ROUNDING)


@float64
@pytest.mark.parametrize("form", ["VEV", "EVI", "VVE"])
def test_moved_statistics_of_mclusts_forms(form):
    family, rng = Ellipsoidal(form), np.random.default_rng(0)
    full = [Case(Full(), 2, 3).mixture(seed) for seed in (0, 5)]
    old, new = (Mixture(m.log_weights, family.from_covariances(*m.components), family) for m in full)
    x = jnp.asarray(rng.normal(size=(50, 3)))
    stats = jaxem.e_step(old, x)
    there = online.moved(stats, old, new)
    np.testing.assert_allclose(there.log_likelihood, jaxem.proxy(new, old, x), rtol=100 * ROUNDING)
    expected = stats_of(new, x, old.responsibilities(x))
    assert_close(there.components, expected.components, 100 * ROUNDING)


@float64
def test_a_component_without_rows_moves_to_nothing():
    old, new = (Case(Full(), 3, 2).mixture(seed) for seed in (0, 5))
    x = blobs(30)
    dead = Mixture(jnp.log(jnp.asarray([0.5, 0.5, 0.0])), old.components, old.family)
    there = online.moved(jaxem.e_step(dead, x), dead, new)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(there))
    assert not np.any(there.components.second[2])


def test_flat_rows_do_not_become_negative():
    """A feature that is constant in all rows has variance 0 or a rounding above it, however far the start was."""
    x = np.column_stack([np.full(64, 0.1), blobs(64)[:, 0]]).astype(np.float64 if X64 else np.float32)
    old = Case(jaxem.Diagonal(), 1, 2).mixture().astype(x.dtype).shift(jnp.asarray([30.0, 0.0], x.dtype))
    new = jaxem.m_step(old, jaxem.e_step(old, x))
    assert float(online.moved(jaxem.e_step(old, x), old, new).components.second[0, 0]) >= 0


@pytest.mark.parametrize(
    "family",
    [NUMERICAL, Counts(), OfAUser(), jaxem.Product((Full(), (0,)), (NUMERICAL, (1,)))],
    ids=["Numerical", "Counts", "of a user", "Product"],
)
def test_families_that_cannot(family):
    """A family must say that it can: a wrong default would be a wrong answer."""
    x = np.abs(blobs(40)).round()
    components = family.init(jnp.asarray(x), 2)
    mixture = Mixture(jnp.log(jnp.asarray([0.5, 0.5])), components, family)
    for call in (
        lambda: online.begin(mixture, x),
        lambda: MixtureModel(family, 2, init_params="kmeans").partial_fit(x),
    ):
        with pytest.raises(NotImplementedError, match=r"cannot be fitted batch by batch.*Movable") as caught:
            call()
        assert "\n" not in str(caught.value)


# -- incremental EM ------------------------------------------------------------------------------------------------------


def incremental_by_numpy(textbook, mixture, batches, order, w):
    """Incremental EM with all responsibilities written down: parameters and F after each turn."""
    weights, params = np.exp(mixture.log_weights), mixture.components._asdict()
    resp = {}
    for b in order:
        resp[b], _ = oracle.e_step(textbook, weights, params, batches[b], w[b])
        rows, own, of_rows = (np.concatenate([part[i] for i in resp]) for part in (batches, w, resp))
        weights, params = oracle.m_step(textbook, of_rows, rows, own)
        joint = oracle.log_joint(textbook, weights, params, rows)
        entropy = np.where(of_rows > 0, of_rows * np.log(np.where(of_rows > 0, of_rows, 1.0)), 0.0)
        yield weights, params, np.sum(own[:, None] * (of_rows * joint - entropy))


@float64
@pytest.mark.parametrize("case", **named([Case(Full(), 2, 3), Case(jaxem.Tied(), 2, 2), Case(jaxem.Spherical(), 3, 2),
                                          Case(jaxem.Bernoulli(), 2, 3)], first=2))  # fmt: skip
def test_incremental_em_by_numpy(case):
    """In any order of batches, with weights of which some are 0; batches have different sizes."""
    mixture, x, w = case.mixture(), case.data(n=90), weights_of(90)
    cuts = [20, 31, 70]
    batches, weights = dict(enumerate(np.split(x, cuts))), dict(enumerate(np.split(w, cuts)))
    order = [2, 0, 2, 3, 1, 1, 0, 2, 3]
    state = online.begin(mixture, batches[2], weights[2], n_batches=4)
    expected = incremental_by_numpy(case.kind.oracle, mixture, batches, order, weights)
    for b, (shares, params, bound) in zip(order, expected, strict=True):
        state = online.incremental_step(state, batches[b], b, weights[b])
        np.testing.assert_allclose(state.mixture.weights, shares, rtol=1e3 * ROUNDING)
        assert_close(state.mixture.components._asdict(), params, 1e3 * ROUNDING)
        np.testing.assert_allclose(state.total.log_likelihood, bound, rtol=1e3 * ROUNDING)
    np.testing.assert_allclose(state.weight, w.sum(), rtol=ROUNDING)
    assert int(state.n_steps) == len(order)


@float64
@pytest.mark.parametrize("case", **named([Case(Full(), 2, 2), Case(jaxem.StudentT(), 2, 2), Case(jaxem.Regression(1), 2, 2),
                                          Case(jaxem.Poisson(), 2, 2), Case(Full(), 2, 2, jaxem.chen_tan(blobs(60)))],
                                         first=3))  # fmt: skip
def test_the_bound_never_falls_and_ends_where_em_ends(case):
    """Labelled batches, repeated: F rises to rounding, touches l at the end, and EM over all rows stays there."""
    rng = np.random.default_rng(0)
    x = rng.permutation(blobs(120, separation=3.5))
    if isinstance(case.family, jaxem.StudentT):
        x = rng.standard_t(3, (120, 2)) + np.where(rng.random((120, 1)) < 0.4, 9.0, 0.0)
    if isinstance(case.family, jaxem.Poisson):
        x = rng.poisson(np.where(x > 2, 9.0, 3.0)).astype(float)
    if isinstance(case.family, jaxem.Regression):
        x[:, 1] += np.where(rng.random(120) < 0.4, 2.0, -3.0) * x[:, 0]
    start = jaxem.starts(jax.random.key(1), case.family, x, 2, 1)[0]
    batches = np.array_split(x, 6)
    look = jax.jit(lambda s: (s.here.unconstrain(), jaxem.objective(s.mixture, s.total, case.prior)))
    state, last, moved, free = online.begin(start, batches[0], n_batches=6), -np.inf, 1.0, start.unconstrain()
    for turn in range(6 * 400):
        before = free
        state = online.incremental_step(state, batches[turn % 6], turn % 6, prior=case.prior)
        free, height = look(state)
        height = float(height)
        if turn >= 6:
            assert height >= last - 1e-12 * (abs(last) + len(x))
        last = height
        moved = 0.9 * moved + float(np.max(np.abs(free - before)))
        if moved < 1e-11:
            break
    assert moved < 1e-11
    stats = jaxem.e_step(state.mixture, x)
    np.testing.assert_allclose(height, jaxem.objective(state.mixture, stats, case.prior), rtol=1e-12)
    after = jaxem.m_step(state.mixture, stats, case.prior)
    np.testing.assert_allclose(after.unconstrain(), state.mixture.unconstrain(), rtol=1e-8, atol=1e-8)
    found = jaxem.fit(state.mixture, x, prior=case.prior)
    np.testing.assert_allclose(found.objective, height, rtol=1e-12)


@pytest.mark.parametrize("family", [Full(), jaxem.Tied()])
def test_one_batch_is_plain_em(family):
    x, w = blobs(150), weights_of(150)
    start = jaxem.starts(jax.random.key(0), family, x, 2, 1)[0]
    state, theta = online.begin(start, x, w, n_batches=1), start
    for _ in range(3):
        state = online.incremental_step(state, x, 0, w)
        bound = jaxem.proxy(jaxem.m_step(theta, jaxem.e_step(theta, x, w)), theta, x, w)
        theta = jaxem.m_step(theta, jaxem.e_step(theta, x, w))
        assert_close(state.mixture, theta, 100 * ROUNDING)
        np.testing.assert_allclose(state.total.log_likelihood, bound, rtol=100 * ROUNDING)


@pytest.mark.any_dtype
@float64
def test_room_and_order_of_numbers_do_not_matter():
    """Eleven batches in a state that grows, in one with room from the start, and in one program: the same climb."""
    x = blobs(220, separation=2.5)
    batches = np.random.default_rng(0).permutation(x).reshape(11, 20, 2)
    start = jaxem.starts(jax.random.key(0), Full(), x, 2, 1)[0]
    wide, grown = online.begin(start, batches[0], n_batches=30), online.begin(start, batches[0], n_batches=1)
    for turn in range(22):
        if (b := turn % 11) == grown.n_batches:
            grown = online.with_room(grown, 2 * b)
        wide = online.incremental_step(wide, batches[b], b + 7)
        grown = online.incremental_step(grown, batches[b], b)
    assert_close((grown.here, grown.total), (wide.here, wide.total), 1e3 * ROUNDING)

    @jax.jit
    def both_rounds(state, batches):
        def turn(state, of_batch):
            return online.incremental_step(state, of_batch[1], of_batch[0]), None

        for _ in range(2):
            state, _ = jax.lax.scan(turn, state, (jnp.arange(11), batches))
        return state

    within = both_rounds(online.begin(start, batches[0], n_batches=11), jnp.asarray(batches))
    assert_close((within.here, within.total), (wide.here, wide.total), 1e3 * ROUNDING)


@float64
def test_other_rows_take_the_place_of_the_old():
    """A batch that is replaced leaves nothing behind, even if it was far away and of large numbers."""
    x = blobs(100, separation=3.0)
    start = jaxem.starts(jax.random.key(0), Full(), x, 2, 1)[0]
    state = online.begin(start, x, n_batches=2)
    state = online.incremental_step(state, x[:50], 0)
    state = online.incremental_step(state, 1e3 * x[50:], 1)
    for b, rows in ((1, x[50:]), (0, x[:50])):
        state = online.incremental_step(state, rows, b)
    # the same responsibilities, without that batch
    here = online.incremental_step(online.begin(start, x, n_batches=2), x[:50], 0)
    here = online.incremental_step(here, 1e3 * x[50:], 1)
    of_second = jaxem.e_step(here.mixture, x[50:])
    first = jaxem.e_step(start, x[:50])
    second = jaxem.m_step(here.mixture, online.moved(first, start, here.mixture) + of_second)
    expected = jaxem.m_step(second, online.moved(of_second, here.mixture, second) + jaxem.e_step(second, x[:50]))
    assert_close(state.mixture, expected, 1e4 * ROUNDING)


@float64
def test_weights_of_zero_are_absent_and_those_of_two_count_twice():
    x, far = blobs(60), np.full((5, 2), 1e200)
    start = jaxem.starts(jax.random.key(0), Full(), x, 2, 1)[0]
    heavy = np.where(np.arange(60) < 20, 2.0, 1.0)
    of = {
        "weights": ([x], [heavy]),
        "copies": ([np.concatenate([x, x[:20]])], [None]),
        "absent": ([np.concatenate([far, x])], [np.concatenate([np.zeros(5), heavy])]),
    }
    for kind in ("incremental", "stepwise"):
        ends = []
        for batches, weights in of.values():
            state = online.begin(start, x, n_batches=1 if kind == "incremental" else None)
            for _ in range(3):
                if kind == "incremental":
                    state = online.incremental_step(state, batches[0], 0, weights[0])
                else:
                    state = online.stepwise_step(state, batches[0], weights[0])
            ends.append((state.mixture, state.total, state.weight))
        assert_close(ends[1], ends[0], 100 * ROUNDING)
        assert_close(ends[2], ends[0], 100 * ROUNDING)


# -- stepwise EM ---------------------------------------------------------------------------------------------------------


@float64
def test_stepwise_em_by_numpy():
    """Shares fall as the formula says, for batches of different weight; raw moments in numpy give the same path."""
    case = Case(Full(), 2, 2)
    mixture, x = case.mixture(), case.data(n=100)
    weights, params, old, total = np.exp(mixture.log_weights), mixture.components._asdict(), None, 0.0
    state = online.begin(mixture, x[:30])
    for begin, end in ((0, 30), (30, 40), (40, 100), (100, 100), (0, 60)):
        if begin == end:
            continue
        rows, w = x[begin:end], weights_of(end - begin, seed=end)
        resp, _ = oracle.e_step(case.kind.oracle, weights, params, rows, w)
        r = resp * w[:, None]
        new = [r.sum(axis=0), r.T @ rows, np.einsum("nk,ni,nj->kij", r, rows, rows)]
        new, total = [part / w.sum() for part in new], total + w.sum()
        share = 1.0 if old is None else (total / w.sum() + 3.0) ** -0.8
        old = new if old is None else [(1 - share) * a + share * b for a, b in zip(old, new, strict=True)]
        means = old[1] / old[0][:, None]
        covariances = old[2] / old[0][:, None, None] - means[:, :, None] * means[:, None, :]
        weights, params = old[0], {"means": means, "covariances": covariances}
        state = online.stepwise_step(state, rows, w, decay=0.8, offset=3.0)
        np.testing.assert_allclose(state.mixture.weights, weights, rtol=1e3 * ROUNDING)
        assert_close(state.mixture.components._asdict(), params, 1e4 * ROUNDING)
        np.testing.assert_allclose(state.total.counts, total * weights, rtol=1e3 * ROUNDING)


@float64
def test_a_stream_of_fresh_rows_leads_to_the_truth():
    """Within 5 standard errors. Where clusters lie far apart these are known: a row counts by the share that it has in S."""
    rng = np.random.default_rng(0)
    means, weights, n, turns, decay = np.array([[0.0, 0.0], [9.0, 1.0]]), np.array([0.3, 0.7]), 200, 150, 0.7
    start = Mixture(
        jnp.log(jnp.asarray([0.5, 0.5])),
        jaxem.GaussianParams(jnp.asarray([[-1.0, 2.0], [11.0, 0.0]]), jnp.asarray([4.0, 4.0])),
        jaxem.Spherical(),
    )
    state, shares = None, np.zeros(0)
    for turn in range(turns):
        label = rng.choice(2, n, p=weights)
        x = means[label] + rng.normal(size=(n, 2))
        state = online.begin(start, x) if state is None else state
        state = online.stepwise_step(state, x, decay=decay, offset=0.0)
        share = (turn + 1.0) ** -decay
        shares = np.append((1 - share) * shares, share)
    rows = n / np.sum(shares**2)  # equally many rows that count alike
    found = state.mixture
    assert np.all(np.abs(found.weights - weights) < STATISTICAL * np.sqrt(weights * (1 - weights) / rows))
    assert np.all(np.abs(found.components.means - means) < STATISTICAL / np.sqrt(rows * weights)[:, None])
    assert np.all(np.abs(found.components.covariances - 1) < STATISTICAL / np.sqrt(rows * weights))
    assert rows > 5 * n


@float64
def test_rows_count_alike_at_decay_one():
    """With decay 1 and offset 0 it makes no difference how a stream is cut, where responsibilities do not change."""
    x = blobs(400, separation=40.0)[np.random.default_rng(0).permutation(400)]
    start = jaxem.fit(jaxem.starts(jax.random.key(0), Full(), x, 2, 1)[0], x, max_iter=20).mixture
    state = online.begin(start, x)
    for part in np.split(x, [7, 100, 101, 250]):
        state = online.stepwise_step(state, part, decay=1.0, offset=0.0)
    expected = jaxem.m_step(start, jaxem.e_step(start, x))
    assert_close(state.mixture, expected, 1e4 * ROUNDING)


@pytest.mark.parametrize("dtype", [np.float32, np.float64] if X64 else [np.float32])
def test_dtype_in_dtype_out(dtype):
    x = blobs(80).astype(dtype)
    start = jaxem.starts(jax.random.key(0), Full(), x, 2, 1)[0]
    for state in (
        online.incremental_step(online.begin(start, x, n_batches=2), x, 1, prior=jaxem.chen_tan(x)),
        online.stepwise_step(online.begin(start, x), x, prior=jaxem.Dirichlet(2.0)),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype(dtype), np.dtype(np.int32)}


@pytest.mark.parametrize("far", [1e5])
def test_an_offset_costs_no_digits(far):
    """The frame of the first batch: rows far from the origin give the same path."""
    x = blobs(200, separation=3.0)
    ends = []
    for offset in (0.0, far):
        moved = (x + offset).astype(np.float64 if X64 else np.float32)
        start = jaxem.m_step(*(lambda m: (m, jaxem.e_step(m, moved)))(
            Mixture(
                jnp.log(jnp.asarray([0.5, 0.5], moved.dtype)),
                jaxem.GaussianParams(jnp.asarray([[offset, offset], [offset + 2, offset]], moved.dtype),
                                     jnp.ones(2, moved.dtype)),
                jaxem.Spherical(),
            )
        ))  # fmt: skip
        state = online.begin(start, moved[:100], n_batches=2)
        for turn in range(6):
            state = online.incremental_step(state, moved[100 * (turn % 2) :][:100], turn % 2)
        ends.append((state.here.components.covariances, state.here.weights))
    assert_close(ends[1], ends[0], 1e-8 if X64 else 0.05)


def test_errors_of_the_core():
    x = blobs(40)
    start = jaxem.starts(jax.random.key(0), Full(), x, 2, 1)[0]
    several, one = online.begin(start, x, n_batches=2), online.begin(start, x)
    with pytest.raises(IndexError, match="batch = 4 is none of the"):
        online.incremental_step(several, x, 4)
    with pytest.raises(ValueError, match="give begin n_batches="):
        online.incremental_step(one, x, 0)
    with pytest.raises(ValueError, match="leave n_batches out"):
        online.stepwise_step(several, x)
    for bad in (0.5, 1.1, -1.0, np.nan):
        with pytest.raises(ValueError, match="above 1/2 and at most 1"):
            online.stepwise_step(one, x, decay=bad)
    with pytest.raises(ValueError, match="offset = -1"):
        online.stepwise_step(one, x, offset=-1)
    with pytest.raises(ValueError, match="3 columns, the mixture 2"):
        online.stepwise_step(one, np.ones((4, 3)))
    with pytest.raises(ValueError, match="n_batches = 1 is less than"):
        online.with_room(several, 1)
    with pytest.raises(TypeError, match="says nothing about a Full"):
        online.stepwise_step(one, x, prior=jaxem.Beta())


# -- partial_fit ---------------------------------------------------------------------------------------------------------

MODELS = (GaussianMixture, lambda *of, **options: MixtureModel("full", *of, init_params="k-means++", **options))


def cut(x, b, seed=0):
    return np.array_split(np.random.default_rng(seed).permutation(x), b)


def climb(model, batches, rounds):
    for _ in range(rounds):
        for i, rows in enumerate(batches):
            model.partial_fit(rows, batch=i)
            if model.converged_:
                return model
    return model


@only_once
@pytest.mark.parametrize("kind", MODELS, ids=["GaussianMixture", "MixtureModel"])
def test_labelled_batches_end_where_em_over_all_rows_ends(kind):
    model = climb(kind(2, random_state=0, tol=1e-14, **({"reg_covar": 0.0} if kind is GaussianMixture else {})),
                  cut(FAITHFUL, 5), 60)  # fmt: skip
    assert model.converged_
    stats = jaxem.e_step(model.mixture_, FAITHFUL)
    after = jaxem.m_step(model.mixture_, stats)
    assert_close(after.components, model.mixture_.components, 1e-8)
    np.testing.assert_allclose(model.lower_bound_, model.score(FAITHFUL), rtol=1e-10)
    assert abs(float(stats.log_likelihood) + 1130.264) < 1e-2
    assert model.n_iter_ % 5 == 0


@only_once
@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_reg_covar_is_that_of_fit(form):
    """One batch with one label is the loop of `fit`: after t calls the parameters of max_iter=t, from the same start."""
    x = clusters()
    options = {"covariance_type": form, "reg_covar": 0.05, "random_state": 0, "tol": 0.0}
    model = GaussianMixture(3, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(4):
            model.partial_fit(x, batch="all")
        expected = GaussianMixture(3, max_iter=4, **options).fit(x)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(model, name), getattr(expected, name), rtol=1e-9, atol=1e-9)
    assert model.n_iter_ == len(model.lower_bounds_) == 4


@only_once
def test_a_stream_without_labels():
    rng = np.random.default_rng(1)
    model = GaussianMixture(2, random_state=0)
    for _ in range(60):
        label = rng.random(200) < 0.4
        model.partial_fit(np.where(label[:, None], 8.0, 0.0) + rng.normal(size=(200, 2)))
    assert not model.converged_
    assert model.n_iter_ == 60
    order = np.argsort(model.means_[:, 0])
    np.testing.assert_allclose(model.means_[order], [[0, 0], [8, 8]], atol=0.15)
    np.testing.assert_allclose(model.weights_[order], [0.6, 0.4], atol=0.05)


@only_once
@pytest.mark.parametrize("kind", MODELS, ids=["GaussianMixture", "MixtureModel"])
def test_what_a_user_may_do(kind):
    """Pickle, clone, search a grid, give weights, fit anew: attributes tell of the last call."""
    batches = cut(FAITHFUL, 4)
    model = kind(2, random_state=0)
    for i, rows in enumerate(batches):
        assert model.partial_fit(rows, None, np.ones(len(rows)), batch=i) is model
        assert model.n_iter_ == i + 1
        assert np.isfinite(model.lower_bound_)
    again = pickle.loads(pickle.dumps(model))
    for one in (model, again):
        one.partial_fit(batches[1], batch=1)
    assert_close(again.mixture_, model.mixture_, 0.0)
    assert again.lower_bound_ == model.lower_bound_
    assert not hasattr(clone(model), "n_iter_")
    model.fit(FAITHFUL)
    assert_close(model.mixture_, kind(2, random_state=0).fit(FAITHFUL).mixture_, 0.0)
    before = model.mixture_
    model.partial_fit(FAITHFUL)  # goes on from the fit
    assert_close(model.mixture_.components, before.components, 0.05)
    assert model.n_iter_ == 1
    found = GridSearchCV(kind(random_state=0), {"n_components": [1, 2], "learning_decay": [0.6]}, cv=2).fit(FAITHFUL)
    assert found.best_params_["n_components"] == 2


@only_once
@pytest.mark.parametrize("kind", MODELS, ids=["GaussianMixture", "MixtureModel"])
def test_weights_in_partial_fit(kind):
    """Rows of weight 0 are absent, rows of weight 2 count twice, once there is a start."""
    x = FAITHFUL[:100]
    ends = []
    for rows, weight in ((x, None), (np.concatenate([x, x[:9] + 50]), np.r_[np.ones(100), np.zeros(9)]),
                         (x, np.full(100, 2.0))):  # fmt: skip
        model = kind(2, random_state=0).partial_fit(FAITHFUL[100:], batch=0)
        model.partial_fit(rows, sample_weight=weight, batch=1)
        ends.append(model.mixture_)
    assert_close(ends[1], ends[0], 1e-10)
    twice = kind(2, random_state=0).partial_fit(FAITHFUL[100:], batch=0)
    twice.partial_fit(np.concatenate([x, x]), batch=1)
    assert_close(ends[2], twice.mixture_, 1e-10)


@only_once
def test_float32_stays_float32():
    x = FAITHFUL.astype(np.float32)
    for model in (GaussianMixture(2, random_state=0), MixtureModel("full", 2, random_state=0, init_params="kmeans")):
        model.partial_fit(x[:100]).partial_fit(FAITHFUL[100:])  # the first batch decides
        assert {leaf.dtype for leaf in jax.tree.leaves(model.mixture_)} == {np.dtype(np.float32)}
        assert model.predict_proba(x).dtype == np.float32


@only_once
@pytest.mark.parametrize(
    "case", **named([case for case in MOVABLE if case.k == 2 and case.family.interchangeable], first=4)
)
def test_other_families(case):
    """Every family that promises it, in the estimator: the bound rises, and ends at the mean log density."""
    x = case.data(n=120)
    model = climb(MixtureModel(case.family, 2, init_params="k-means++", random_state=0, tol=1e-6), cut(x, 3), 300)
    assert model.converged_
    np.testing.assert_allclose(model.lower_bound_, model.score(x), atol=1e-3)


@pytest.mark.any_dtype
@only_once
def test_the_search_starts_from_the_first_batch():
    batches = cut(FAITHFUL, 3)
    for model in (GaussianMixture(2, init_params="search", random_state=0), MixtureModel("full", 2, random_state=0),
                  GaussianMixture(2, n_init=4, init_params="random_from_data", random_state=0)):  # fmt: skip
        climb(model, batches, 30)
        assert abs(model.score(FAITHFUL) * len(FAITHFUL) + 1130.264) < 0.1


@only_once
@pytest.mark.parametrize("kind", MODELS, ids=["GaussianMixture", "MixtureModel"])
def test_errors_of_partial_fit(kind):
    """In one line; the model stays as it was."""
    batches = cut(FAITHFUL, 3)
    with pytest.raises(ValueError, match=r"n_samples = 4|exceeds the 4 rows"):
        kind(5).partial_fit(FAITHFUL[:4])
    model = kind(2, random_state=0).partial_fit(batches[0], batch="a")
    before = pickle.dumps(model.mixture_)
    for message, call in {
        "X has 1 features, but": lambda: model.partial_fit(FAITHFUL[:, :1], batch="a"),
        "give a label in all calls or in none": lambda: model.partial_fit(batches[1]),
        "batch has type list": lambda: model.partial_fit(batches[1], batch=[1]),
        "contains NaN": lambda: model.partial_fit(np.full((3, 2), np.nan), batch="a"),
        "at least one non-zero number": lambda: model.partial_fit(
            batches[1], sample_weight=np.zeros(len(batches[1])), batch="b"
        ),
        "make a new model to start anew": lambda: clone_with(model, n_components=3).partial_fit(batches[1], batch="b"),
        "learning_decay": lambda: clone_with(model, learning_decay=0.5).partial_fit(batches[1], batch="b"),
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        if message != "contains NaN":  # scikit-learn's own has several
            assert "\n" not in str(caught.value)
        assert pickle.dumps(model.mixture_) == before
        assert model.n_iter_ == 1
    unlabelled = kind(2, random_state=0).partial_fit(batches[0])
    with pytest.raises(ValueError, match="the batches before had no label"):
        unlabelled.partial_fit(batches[1], batch=0)


def clone_with(model, **parameters):
    """The same fitted model with other parameters."""
    return pickle.loads(pickle.dumps(model)).set_params(**parameters)


@only_once
def test_an_m_step_that_ends_at_no_mixture():
    flat = np.column_stack([np.arange(20.0), np.zeros(20)])
    model = GaussianMixture(2, reg_covar=0.0, random_state=0, init_params="random")
    with pytest.raises(ValueError, match="ill-defined"):
        model.partial_fit(flat)
    assert not hasattr(model, "means_")
    assert not hasattr(model, "n_features_in_")


@only_once
def test_a_round_of_labels():
    """`converged_` speaks of whole rounds: a label that comes alone, or is new, tells nothing."""
    batches = cut(FAITHFUL, 3)
    model = GaussianMixture(2, random_state=0, tol=1e3)
    for label in (0, 1, 1, 2):
        assert not model.partial_fit(batches[label], batch=label).converged_
    for label in (0, 1, 1):
        assert not model.partial_fit(batches[label], batch=label).converged_
    assert model.partial_fit(batches[2], batch=2).converged_  # all three since 2 was new
    assert not model.partial_fit(batches[0] + 1, batch="new").converged_
