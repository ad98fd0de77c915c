"""K is data, not shape: components that only fill a shape stay at weight 0 and change nothing."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import Status, loop, racing, rounds, selection
from jaxem.rows import as_rows
from jaxem.slots import with_slots, without_absent
from tests.cases import CASES, Counts, blobs
from tests.conftest import DTYPE, ROUNDING

KEY = jax.random.key(0)


def climb(mixture, x, present, accelerator=None, turns=12):
    """The climb of some turns from a mixture of which only some components are present: its State and its Result."""
    rows = as_rows(mixture.family, x, None, mixture.n_components)
    stop, _ = loop.as_options(mixture.family, rows, jaxem.GainBelow(0.0), None, accelerator)
    begun = loop.begin(mixture.to_frame(rows.frame), turns, accelerator, jnp.asarray(present))
    state = loop.advance(begun, rows, turns, stop=stop, accelerator=accelerator)
    return state, loop.finish(state, rows.frame)


WITHOUT_PRIOR = [case for case in CASES if case.prior is None and case.k > 1]


@pytest.mark.parametrize(
    ("case", "accelerator"),
    [(case, None) for case in WITHOUT_PRIOR] + [(case, "hybrid") for case in WITHOUT_PRIOR[:4]],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_absent_components_change_nothing(case, accelerator):
    """The climb is that of the mixture without them, and they have weight 0 at its end. An accelerator sees more
    coordinates; to the same maximum it takes another way.
    """
    x, mixture = case.data().astype(DTYPE), case.mixture().astype(DTYPE)
    k, many = mixture.n_components, mixture.n_components + 3
    chosen = jaxem.hybrid() if accelerator else None
    turns = 400 if accelerator else 12
    _, alone = climb(mixture, x, np.ones(k, bool), chosen, turns)
    padded = jax.tree.map(jnp.asarray, with_slots(mixture, many))
    assert padded.n_components == many
    state, among = climb(padded, x, np.arange(many) < k, chosen, turns)
    assert np.all(np.asarray(among.mixture.log_weights)[k:] == -np.inf)
    assert np.isfinite(np.asarray(among.mixture.log_weights)[:k]).all()
    if accelerator is None:
        np.testing.assert_allclose(among.trace, alone.trace, rtol=10 * ROUNDING)
        assert int(among.status) == int(alone.status)
    else:
        np.testing.assert_allclose(among.objective, alone.objective, rtol=100 * ROUNDING)
    batch: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[None], among)
    back = without_absent(batch, k).mixture[0]
    assert back.n_components == k
    tolerance = 1e3 * ROUNDING if accelerator is None else 0.05
    np.testing.assert_allclose(back.log_prob(x), alone.mixture.log_prob(x), rtol=tolerance, atol=tolerance)
    assert state.present.shape == (many,)


@pytest.mark.parametrize("family", [jaxem.Full(), jaxem.Tied(), jaxem.Spherical()], ids=lambda one: type(one).__name__)
def test_statuses_are_those_of_the_components_that_are_present(family):
    """Absent ones are no lost ones, coincide with nothing and have not collapsed; present ones do as ever."""
    x = blobs(80).astype(DTYPE)
    start = jaxem.starts(KEY, family, x, 2, 1)[0]
    present = np.arange(5) < 2
    _, sound = climb(with_slots(start, 5), x, present, turns=60)
    assert not Status(int(sound.status)).failed
    twins = dataclasses.replace(start, components=family.subset(start.components, np.array([0, 0]))[1])
    _, saddle = climb(with_slots(twins, 5), x, present, turns=4)  # rounding parts them in time
    assert Status(int(saddle.status)) == Status.SADDLE
    lost = dataclasses.replace(start, log_weights=jnp.asarray([0.0, -np.inf], DTYPE))
    _, degenerate = climb(with_slots(lost, 5), x, present, turns=5)
    assert Status(int(degenerate.status)) == Status.DEGENERATE


@functools.partial(jax.jit, static_argnums=0)
def values_of_starts(slots, recipe, mixture, x, w, k):
    """Log-likelihoods `[12]` and weights `[12, slots]` of starts by a recipe."""

    def one(seed):
        start = recipe(jax.random.key(seed), jaxem.Full(), x, slots, w, mixture, k)
        return jnp.sum(jnp.where(w > 0, start.log_prob(x), 0.0)), start.weights

    return jax.lax.map(one, jnp.arange(12))


@pytest.mark.parametrize("recipe", list(rounds.ARMS.values()), ids=list(rounds.ARMS))
@pytest.mark.parametrize("k", [1, 3])
def test_starts_with_room_for_more_components(recipe, k):
    """A start of k in six slots: k components with weight, about as likely as a start of k alone."""
    x = jnp.asarray(blobs(120), DTYPE)
    w = jnp.ones(len(x), x.dtype).at[::7].set(0.0)
    given = jaxem.starts(KEY, "full", np.asarray(x), 6, 1)[0][np.arange(k)]
    recipe = jax.tree.map(jnp.asarray, recipe)
    found = {}
    for slots in (6, k):
        found[slots], weights = values_of_starts(slots, recipe, with_slots(given, slots), x, w, jnp.int32(k))
        assert np.all(np.asarray(weights)[:, k:] == 0)
        np.testing.assert_allclose(np.sum(weights, axis=1), 1.0, rtol=1e-5)
    error = np.sqrt((np.var(found[6]) + np.var(found[k])) / 11) + 1e-3 * abs(np.mean(found[k]))
    assert abs(np.mean(found[6]) - np.mean(found[k])) < 6 * error


def test_a_selection_of_many_numbers_of_components_compiles_one_program_for_each_family():
    x = blobs(60).astype(DTYPE)
    openings, runs = len(rounds._open.made), len(jaxem.lanes.run.made)
    found = jaxem.select(KEY, ["spherical", "diagonal"], x, range(1, 5))
    assert len(rounds._open.made) == openings + 2
    assert len(jaxem.lanes.run.made) == runs + 2
    assert [(one.n_components, type(one.family).__name__) for one in found.candidates[:5]] == [
        (1, "Spherical"), (2, "Spherical"), (3, "Spherical"), (4, "Spherical"), (1, "Diagonal"),
    ]  # fmt: skip
    assert found.best.best.mixture.n_components == found.candidates[found.chosen].n_components


def test_a_selection_finds_what_searches_find():
    """Every candidate's likelihood, parameters and criteria, whatever shape it was found in."""
    x = blobs(150, separation=5.0).astype(DTYPE)
    found = jaxem.select(KEY, "full", x, [3, 1, 2])
    for one in found.candidates:
        alone = jaxem.search(jax.random.key(5), "full", x, one.n_components)
        assert abs(one.log_likelihood - float(alone.best.log_likelihood)) < 2e-3
        assert one.n_parameters == alone.best.mixture.n_parameters
        doubt = -float(np.sum(np.asarray(alone.best.mixture.log_confidence(x), np.float64)))
        expected = jaxem.criteria.criteria(float(alone.best.log_likelihood), one.n_parameters, 150, doubt)
        np.testing.assert_allclose((one.bic, one.aic, one.icl), expected, rtol=1e-4)
    mixture = found.best.best.mixture
    np.testing.assert_allclose(
        float(np.sum(mixture.log_prob(x))), found.candidates[found.chosen].log_likelihood, rtol=1e-5
    )
    np.testing.assert_allclose(np.sum(mixture.weights), 1.0, rtol=1e-5)


def test_one_component_in_many_slots_is_the_sample_moments():
    x = blobs(150, separation=5.0).astype(DTYPE)
    found = jaxem.select(KEY, "full", x, [1, 3], criterion="aic")
    one = found.candidates[0]
    covariance = np.cov(x.T, bias=True)
    expected = -75.0 * (2 * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + 2)
    np.testing.assert_allclose(one.log_likelihood, expected, rtol=1e-5)
    assert one.n_parameters == 5


class Fragile(Counts):
    """A family that gives NaN for a component without rows."""

    def m_step(self, params, stats):
        return type(params)(stats.totals / stats.counts[:, None])


def test_a_family_that_does_not_suffer_empty_components_is_searched_without_them():
    x = np.random.default_rng(0).poisson([[3.0, 9.0]] * 40 + [[30.0, 1.0]] * 40).astype(DTYPE)
    found = jaxem.select(KEY, Fragile(), x, [1, 2])
    expected = jaxem.select(KEY, Counts(), x, [1, 2])
    assert [one.status for one in found.candidates] == [Status.CONVERGED] * 2
    for one, other in zip(found.candidates, expected.candidates, strict=True):
        np.testing.assert_allclose(one.log_likelihood, other.log_likelihood, rtol=1e-5)


def test_unknown_options_of_select_are_told():
    with pytest.raises(TypeError, match=r"select\(\) got an unexpected keyword argument 'restarts'"):
        jaxem.select(KEY, "full", blobs(30), [1, 2], restarts=3)


def test_large_data_and_priors_have_programs_of_their_own(monkeypatch):
    """Where passes cost more than compiling, and where a prior counts components, nothing is absent."""
    seen = []
    search = racing.search_with_slots

    def spy(key, family, x, k, weights, slots, *options, **named):
        seen.append((k, slots))
        return search(key, family, x, k, weights, slots, *options, **named)

    monkeypatch.setattr(selection, "search_with_slots", spy)
    x = blobs(50).astype(DTYPE)
    jaxem.select(KEY, "spherical", x, [1, 2], budget=20)
    jaxem.select(KEY, "spherical", x, [1, 2], budget=20, prior=jaxem.Dirichlet(2.0))
    monkeypatch.setattr(selection, "SHARED", 10)
    jaxem.select(KEY, "spherical", x, [1, 2], budget=20)
    assert seen == [(1, 2), (2, 2), (1, 1), (2, 2), (1, 1), (2, 2)]
