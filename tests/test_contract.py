"""What the contract promises to those who write families, drivers and queues of their own."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import Bernoulli, Family, Full, GainBelow, Mixture, Status, loop
from jaxem.families.gaussian import GaussianParams, GaussianStats
from jaxem.lanes import Settings, open_and_run, queue_of, run
from jaxem.rows import as_rows
from tests.cases import CASES, Case, blobs, named
from tests.conftest import ROUNDING, X64

FULL = Full()


@dataclasses.dataclass(frozen=True)
class StudentT(Family):
    """Multivariate t with `dof` degrees of freedom: every row has a latent precision u (Peel and McLachlan 2000).

    Its weight E[u] counts for the mean; the covariance is divided by the count of rows.
    """

    dof: float = 4.0
    location: ClassVar[bool | tuple[int, ...]] = True

    def init(self, x, n_components, sample_weight=None):
        return FULL.init(x, n_components, sample_weight)

    def _squares(self, params, x):
        return FULL.squares(params.means, FULL.precisions(params.covariances), x.T).T  # [n, k]

    def log_prob(self, params, x):
        nu, d = self.dof, x.shape[1]
        constant = jax.lax.lgamma((nu + d) / 2) - jax.lax.lgamma(nu / 2) - 0.5 * d * np.log(nu * np.pi)
        volume = -0.5 * jnp.linalg.slogdet(params.covariances)[1]
        return constant + volume[None, :] - 0.5 * (nu + d) * jnp.log1p(self._squares(params, x) / nu)

    def _precision(self, params, x):
        return (self.dof + x.shape[1]) / (self.dof + self._squares(params, x))  # E[u], [n, k]

    def bound(self, new, old, x):
        u = self._precision(old, x)
        raised = [
            -0.5 * jnp.linalg.slogdet(params.covariances)[1][None, :] - 0.5 * u * self._squares(params, x)
            for params in (new, old)
        ]
        return self.log_prob(old, x) + raised[0] - raised[1]

    def suff_stats(self, params, x, resp):
        stats = FULL.suff_stats(params, x, resp * self._precision(params, x))
        return stats._replace(degrees=jnp.sum(resp, axis=0))

    def m_step(self, params, stats):
        return FULL.m_step(params, stats)

    def unconstrain(self, params):
        return FULL.unconstrain(params)

    def constrain(self, params, free):
        return FULL.constrain(params, free)

    def shift(self, params, offset):
        return FULL.shift(params, offset)

    def sample(self, key, params, labels):
        normal_key, gamma_key = jax.random.split(key)
        u = jax.random.gamma(gamma_key, self.dof / 2, labels.shape, params.means.dtype) / (self.dof / 2)
        centred = params._replace(means=jnp.zeros_like(params.means))
        return params.means[labels] + FULL.sample(normal_key, centred, labels) / jnp.sqrt(u)[:, None]


@dataclasses.dataclass(frozen=True)
class Product(Family):
    """Independent groups of columns, each of its own family."""

    parts: tuple[tuple[Family, tuple[int, ...]], ...] = ((Full(), (0, 1)), (Bernoulli(), (2,)))
    location: ClassVar[bool | tuple[int, ...]] = (0, 1)

    def _over_parts(self, method, params, *of_rows):
        return tuple(
            getattr(family, method)(own, *(x[:, np.array(columns)] for x in of_rows))
            for (family, columns), own in zip(self.parts, params, strict=True)
        )

    def init(self, x, n_components, sample_weight=None):
        return tuple(family.init(x[:, np.array(c)], n_components, sample_weight) for family, c in self.parts)

    def log_prob(self, params, x):
        return sum(self._over_parts("log_prob", params, x))

    def suff_stats(self, params, x, resp):
        split = zip(self.parts, params, strict=True)
        return tuple(family.suff_stats(own, x[:, np.array(c)], resp) for (family, c), own in split)

    def m_step(self, params, stats):
        return tuple(f.m_step(own, s) for (f, _), own, s in zip(self.parts, params, stats, strict=True))

    def unconstrain(self, params):
        return jnp.concatenate(self._over_parts("unconstrain", params))

    def constrain(self, params, free):
        sizes = [family.unconstrain(own).shape[0] for (family, _), own in zip(self.parts, params, strict=True)]
        pieces = jnp.split(free, np.cumsum(sizes)[:-1])
        return tuple(f.constrain(own, piece) for (f, _), own, piece in zip(self.parts, params, pieces, strict=True))

    def shift(self, params, offset):
        return (self.parts[0][0].shift(params[0], offset[np.array(self.parts[0][1])]), params[1])

    def support(self, x):
        return jnp.concatenate([jnp.ones_like(x[:, :2], bool), self.parts[1][0].support(x[:, 2:])], axis=1)

    def sample(self, key, params, labels):
        keys = jax.random.split(key, len(params))
        drawn = (f.sample(k, own, labels) for (f, _), own, k in zip(self.parts, params, keys, strict=True))
        return jnp.concatenate(list(drawn), axis=1)


def mixed_rows(n=300, offset=0.0):
    rng = np.random.default_rng(2)
    bits = (rng.uniform(size=(n, 1)) < 0.4).astype(float)
    return np.concatenate([blobs(n, separation=3.0) + offset, bits], axis=1)


@pytest.mark.skipif(not X64, reason="derivatives in float64")
@pytest.mark.parametrize(
    ("family", "x"),
    [(StudentT(), blobs(200, separation=4.0)), (Product(), mixed_rows())],
    ids=lambda one: type(one).__name__,
)
def test_families_of_ones_own_obey_the_laws(family, x):
    """A latent scale (`bound`, a count of its own) and groups of columns (`location` names some) need no special case."""
    start = jaxem.starts(jax.random.key(0), family, x, 2, 1)[0]
    report = jaxem.verify(start, x)
    assert report.ok, f"\n{report}"
    assert {"stationary", "rate", "normalised", "sample"} <= {law.name for law in report.laws}
    result = jaxem.fit(start, x)
    assert Status(int(result.status)) == Status.CONVERGED
    trace = np.asarray(result.trace)[: int(result.n_iter) + 1]
    assert np.all(np.diff(trace) >= -1e-12 * (abs(trace[-1]) + len(x)))


@pytest.mark.skipif(not X64, reason="ten digits of an offset")
def test_only_the_columns_that_may_move_are_centred():
    """Columns a million from the origin keep their digits; the others stay where they are."""
    near, far = mixed_rows(), mixed_rows(offset=2.0**20)
    rows = as_rows(Product(), far, None, 2)
    np.testing.assert_allclose(rows.frame.centre, [*far[:, :2].mean(axis=0), 0.0], rtol=1e-14)
    start = jaxem.starts(jax.random.key(0), Product(), near, 2, 1)[0]
    moved = start.shift(jnp.array([2.0**20, 2.0**20, 0.0]))
    options = {"stop": GainBelow(-jnp.inf), "max_iter": 20}
    one, other = jaxem.fit(start, near, **options), jaxem.fit(moved, far, **options)
    np.testing.assert_allclose(other.objective, one.objective, rtol=1e-11)
    np.testing.assert_allclose(
        other.mixture.components[0].covariances, one.mixture.components[0].covariances, rtol=1e-8
    )
    np.testing.assert_allclose(other.mixture.components[1].probs, one.mixture.components[1].probs, rtol=1e-9)


@pytest.mark.parametrize("case", **named(CASES[:9]))
def test_prepared_blocks_are_the_parts(case):
    """`block_stats` of what `prepare` makes = log_prob, responsibilities and suff_stats, by numpy."""
    mixture, x = case.mixture(), jnp.asarray(case.data(40))
    w = np.random.default_rng(3).uniform(0, 2, 40)
    w[::4] = 0.0
    family, params = case.family, mixture.components
    for log_weights, expected_weights in ((mixture.log_weights, mixture.log_weights), (None, np.zeros(case.k))):
        prepared = family.prepare(params) if log_weights is None else family.prepare(params, log_weights)
        stats = family.block_stats(prepared, x.T, jnp.asarray(w, x.dtype), jnp.sum(x**2, axis=1))
        joint = np.asarray(family.log_prob(params, x), float) + np.asarray(expected_weights, float)
        top = joint.max(axis=1, keepdims=True)
        total = np.exp(joint - top).sum(axis=1, keepdims=True)
        resp = np.exp(joint - top) / total * w[:, None]
        log_likelihood = np.sum(w * (top + np.log(total))[:, 0])
        np.testing.assert_allclose(stats.log_likelihood, log_likelihood, rtol=10 * ROUNDING)
        np.testing.assert_allclose(stats.counts, resp.sum(axis=0), rtol=10 * ROUNDING)
        direct = family.suff_stats(params, x, jnp.asarray(resp, x.dtype))
        for found, expected in zip(jax.tree.leaves(stats.components), jax.tree.leaves(direct), strict=True):
            scale = float(np.max(np.abs(expected)))
            np.testing.assert_allclose(found, expected, rtol=0, atol=20 * ROUNDING * scale)


@pytest.mark.any_dtype
def test_a_host_drives_em_by_stats_it_has_added_up():
    """The Stats of five pieces, added in Python, and `decide`: turn for turn the climb of `fit`."""
    x = blobs(250, separation=2.5).astype(np.float64 if X64 else np.float32)
    start = jaxem.starts(jax.random.key(0), Full(), x, 2, 1)[0]
    stop = GainBelow(1e-8 if X64 else 1e-5)
    whole = jaxem.fit(start, x, stop=stop)
    frame = as_rows(Full(), x, None, 2).frame
    state = loop.begin(start.to_frame(frame))
    pieces = np.split(x, 5)
    while int(state.status) == Status.RUNNING:
        mixture = loop.query(state).from_frame(frame)
        stats = jaxem.e_step(mixture, pieces[0])
        for piece in pieces[1:]:
            stats = stats + jaxem.e_step(mixture, piece)
        state = loop.decide(
            state, loop.point_of(loop.query(state), stats, None), frame, stop=stop, max_iter=loop.MAX_ITER
        )
    result = loop.finish(state, frame)
    assert int(result.status) == int(whole.status)
    if X64:
        assert int(result.n_iter) == int(whole.n_iter)
    np.testing.assert_allclose(result.objective, whole.objective, rtol=10 * ROUNDING)
    np.testing.assert_allclose(
        result.mixture.components.means, whole.mixture.components.means, rtol=1e5 * ROUNDING, atol=1e5 * ROUNDING
    )


@pytest.mark.any_dtype
def test_a_queue_is_a_pytree_that_can_be_kept_and_resumed():
    """A queue taken apart into numpy arrays in mid-climb goes on as if nothing had happened, accelerators too."""
    x = blobs(120, separation=3.0)
    starts = jaxem.starts(jax.random.key(0), jaxem.Diagonal(), x, 2, 12, jaxem.RandomPoints())
    rows = as_rows(jaxem.Diagonal(), x, None, 2, lanes=4)
    dtype = rows.blocks.dtype
    stop = GainBelow(jnp.asarray(1e-6 if X64 else 1e-4, dtype))
    settings = Settings(4, 200, jaxem.squarem())
    no_limit = np.int32(loop.NO_LIMIT)
    _, whole = open_and_run(starts, rows, None, stop, no_limit, no_limit, settings)
    queue, results = open_and_run(starts, rows, None, stop, no_limit, np.int32(7), settings)
    assert not np.any(np.asarray(results.objective))  # zeros before the last piece
    while not np.any(np.asarray(results.objective)):
        leaves, structure = jax.tree.flatten(queue)
        kept = [np.asarray(leaf).tobytes() for leaf in leaves]
        again = [np.frombuffer(data, leaf.dtype).reshape(leaf.shape) for data, leaf in zip(kept, leaves, strict=True)]
        queue, results = run(jax.tree.unflatten(structure, again), rows, None, stop, np.int32(7), settings)
    np.testing.assert_array_equal(results.status, whole.status)
    np.testing.assert_array_equal(results.n_iter, whole.n_iter)
    np.testing.assert_allclose(results.objective, whole.objective, rtol=ROUNDING)


@pytest.mark.any_dtype
def test_a_rung_is_a_queue_with_a_limit():
    """Climbs stop to rest at their turn and resume from there: rungs of 3 turns end where one run of 9 ends."""
    x = blobs(120, separation=3.0)
    starts = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 6, jaxem.RandomPoints())
    rows = as_rows(jaxem.Full(), x, None, 2, lanes=4)
    stop = GainBelow(jnp.asarray(-jnp.inf, rows.blocks.dtype))
    settings, no_limit = Settings(4, 50, None), np.int32(loop.NO_LIMIT)
    _, whole = open_and_run(starts, rows, None, stop, np.int32(8), no_limit, settings)
    np.testing.assert_array_equal(whole.n_iter, 8)
    queue, _ = open_and_run(starts, rows, None, stop, np.int32(2), no_limit, settings)
    np.testing.assert_array_equal(queue.states.n_iter, 2)
    chosen = np.array([4, 1, 5])
    for limit in (5, 8):
        queue, results = run(queue.rung(chosen, limit), rows, None, stop, no_limit, settings)
    np.testing.assert_array_equal(results.n_iter, np.where(np.isin(np.arange(6), chosen), 8, 2))
    np.testing.assert_array_equal(np.asarray(results.objective)[chosen], np.asarray(whole.objective)[chosen])
    np.testing.assert_array_equal(np.asarray(results.trace)[:, :3], np.asarray(whole.trace)[:, :3])


@pytest.mark.any_dtype
def test_climbs_that_rest_resume_as_if_they_had_not():
    """Each climb has a limit of its own, in three rungs: the accelerator, the estimates and the traces go on unbroken."""
    x = blobs(120, separation=2.5)
    starts = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 6, jaxem.RandomPoints())
    rows = as_rows(jaxem.Full(), x, None, 2, lanes=4)
    stop = GainBelow(jnp.asarray(1e-9 if X64 else 1e-5, rows.blocks.dtype))
    settings, no_limit = Settings(4, 300, jaxem.hybrid()), np.int32(loop.NO_LIMIT)
    opened = jax.jit(lambda starts: queue_of(starts, jnp.ones(6, bool), rows.frame, settings, no_limit, resumes=True))
    everyone = np.arange(6)
    _, whole = run(opened(starts).rung(everyone, loop.NO_LIMIT), rows, None, stop, no_limit, settings)
    queue = opened(starts)
    for limits in (np.array([2, 9, 4, 0, 6, 3]), np.array([11, 9, 5, 7, 12, 8])):
        queue, results = run(queue.rung(everyone[::-1], limits), rows, None, stop, no_limit, settings)
        expected = np.minimum(limits, np.asarray(whole.n_iter))
        np.testing.assert_array_equal(results.n_iter, expected)  # none goes beyond its limit, though others still run
    queue, results = run(queue.rung(everyone, loop.NO_LIMIT), rows, None, stop, no_limit, settings)
    np.testing.assert_array_equal(results.n_iter, whole.n_iter)
    np.testing.assert_array_equal(results.status, whole.status)
    for name in ("objective", "rate", "remaining_gain", "trace"):
        np.testing.assert_array_equal(getattr(results, name), getattr(whole, name))


def test_ready_rows_carry_their_weights_and_know_how_many_count():
    x = blobs(40)[:5]
    rows = as_rows(Full(), x, None, 2)
    assert int(rows.frame.n) == 5
    with pytest.raises(ValueError, match="carry their own"):
        jaxem.starts(jax.random.key(0), Full(), rows, 2, 3, sample_weight=np.ones(5))
    with pytest.raises(ValueError, match="n_components = 20 exceeds the 5 rows"):
        jaxem.starts(jax.random.key(0), Full(), rows, 20, 3)
    with pytest.raises(ValueError, match="n_components = 6 exceeds the 5 rows"):
        jaxem.search(jax.random.key(0), Full(), rows, 6)
    half = as_rows(Full(), x, np.array([1.0, 0.0, 2.0, 0.0, 1.0]), 2)
    assert (int(half.frame.n), float(half.frame.total_weight)) == (3, 4.0)
    with pytest.raises(ValueError, match="n_components = 4 exceeds the 3 rows"):
        jaxem.starts(jax.random.key(0), Full(), x, 4, 3, sample_weight=np.array([1.0, 0.0, 2.0, 0.0, 1.0]))


def test_bounds_of_ready_rows_are_those_of_the_data():
    """Ready rows are centred: proxy and elbo move the mixtures and the prior to them."""
    x = (blobs(60) + 3.0).astype(np.float64 if X64 else np.float32)
    mixture, other = (Case(Full(), 2, 2).mixture(seed).astype(x.dtype) for seed in (0, 1))
    prior = jaxem.fraley_raftery(Full(), x, 2)
    rows = as_rows(Full(), x, None, 2)
    expected = jaxem.proxy(other, mixture, x, prior=prior)
    np.testing.assert_allclose(jaxem.proxy(other, mixture, rows, prior=prior), expected, rtol=100 * ROUNDING)
    resp = np.asarray(mixture.responsibilities(x))
    expected = jaxem.elbo(other, x, resp, prior=prior)
    padded = np.concatenate([resp, np.full((rows.weights.size - len(x), 2), 0.5, x.dtype)])
    for given in (resp, padded):
        np.testing.assert_allclose(jaxem.elbo(other, rows, given, prior=prior), expected, rtol=100 * ROUNDING)


class Counted(NamedTuple):
    means: jax.Array
    turns: jax.Array


def test_astype_leaves_whole_numbers_whole():
    components = Counted(jnp.zeros((2, 1), jnp.float32), jnp.arange(2))
    cast = Mixture(jnp.log(jnp.full(2, 0.5, jnp.float32)), components, StudentT()).astype(jnp.float16)
    assert cast.components.turns.dtype == components.turns.dtype
    assert cast.components.means.dtype == cast.log_weights.dtype == jnp.float16


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("how", ["fit", "m_step", "search"])
def test_a_prior_that_does_not_fit_is_named(how, traced):
    """By its kind and in one line, whatever is traced."""
    x = blobs(40)
    mixture = Case(Full(), 2, 2).mixture()
    calls = {
        "fit": lambda x: jaxem.fit(mixture, x, prior=jaxem.Beta(2.0, 3.0)).objective,
        "m_step": lambda x: jaxem.m_step(mixture, jaxem.e_step(mixture, x), jaxem.Beta()).log_weights,
        "search": lambda x: jaxem.search(jax.random.key(0), Full(), np.asarray(x), 2, prior=jaxem.Beta()),
    }
    if traced and how == "search":
        pytest.skip("a function of the host")
    with pytest.raises(TypeError) as caught:
        (jax.jit(calls[how]) if traced else calls[how])(jnp.asarray(x))
    message = str(caught.value)
    assert "says nothing about a Full component; give NormalInverseWishart or Dirichlet" in message
    assert "Tracer" not in message
    assert "\n" not in message


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NearZero(jaxem.Prior):
    """A row of weight `strength` at the origin for every mean, with no say in the covariances."""

    strength: float = 5.0

    def log_prob(self, mixture):
        means, covariances = mixture.components
        inverses = jnp.linalg.inv(covariances)
        return -0.5 * self.strength * jnp.einsum("ki,kij,kj->", means, inverses, means, precision="highest")

    def imagined(self, family, params, stats):
        nothing = super().imagined(family, params, stats)
        counts = jnp.full_like(stats.counts, self.strength)
        own = GaussianStats(
            counts, 0.0 * counts, -self.strength * params.means, self.strength * family.outer(params.means)
        )
        return dataclasses.replace(nothing, components=own)


@pytest.mark.skipif(not X64, reason="derivatives in float64")
def test_a_prior_that_a_user_writes_obeys_the_laws():
    """Imagined statistics and a density are all that it takes; no family has to know it."""
    x = blobs(80, separation=3.0) - 1.5
    start = jaxem.starts(jax.random.key(0), Full(), x, 2, 1)[0]
    report = jaxem.verify(start, x, prior=NearZero())
    assert report.ok, f"\n{report}"
    pulled, free = (jaxem.fit(start, x, prior=prior).mixture.components.means for prior in (NearZero(), None))
    assert float(jnp.sum(pulled**2)) < float(jnp.sum(free**2))


def test_gaussian_statistics_count_means_and_covariances_apart():
    """Rows count the same for both; an imagined row of weight 3 at m counts 3 for the mean and 1 for the covariance."""
    mixture, x = Case(Full(), 1, 2).mixture(), blobs(30)
    stats = jaxem.e_step(mixture, x)
    assert isinstance(stats.components, GaussianStats)
    np.testing.assert_array_equal(stats.components.counts, stats.components.degrees)
    np.testing.assert_array_equal(stats.components.counts, stats.counts)
    m = np.array([1.0, -2.0])
    prior = jaxem.NormalInverseWishart(0.0, jnp.zeros((2, 2)), 3.0, jnp.asarray(m))
    new = jaxem.m_step(mixture, stats, prior).components
    assert isinstance(new, GaussianParams)
    mean = (x.sum(axis=0) + 3 * m) / 33
    scatter = (x - mean).T @ (x - mean) + 3 * np.outer(m - mean, m - mean)
    np.testing.assert_allclose(new.means[0], mean, rtol=100 * ROUNDING)
    np.testing.assert_allclose(new.covariances[0], scatter / 31, rtol=1000 * ROUNDING, atol=100 * ROUNDING)
