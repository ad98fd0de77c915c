"""Components in a stable order: every family, batches, ties, and labels that agree from run to run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from tests.cases import GAUSSIANS, KINDS, Case, blobs
from tests.conftest import ROUNDING


@pytest.mark.parametrize("family", KINDS, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize("by", ["weight", "mean", "numbers", "function"])
def test_every_family_keeps_its_density_and_is_in_order(family, by):
    case = Case(family, 4, 3)  # four components, so that no shared matrix of three features looks like them
    mixture, x = case.mixture(), case.data(20)
    weights, first = np.asarray(mixture.weights), np.asarray(jax.tree.leaves(mixture.components)[0])
    columns = first.reshape(4, -1)
    expected = {
        "weight": np.argsort(-weights, kind="stable"),
        "mean": np.lexsort(columns.T[::-1]),
        "numbers": np.argsort([3, 1, 2, 0]),
        "function": np.argsort(weights, kind="stable"),
    }[by]
    given = {"numbers": [3, 1, 2, 0], "function": lambda one: one.weights}.get(by, by)
    found = jaxem.sorted_components(mixture, by=given)
    assert found.family == family
    np.testing.assert_allclose(found.weights, weights[expected], rtol=ROUNDING)
    for a, b in zip(jax.tree.leaves(found.components), jax.tree.leaves(mixture.components), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b)[expected] if b.shape[0] == 4 else b)
    np.testing.assert_allclose(found.log_prob(x), mixture.log_prob(x), rtol=100 * ROUNDING)
    np.testing.assert_array_equal(np.asarray(mixture.predict(x)), expected[np.asarray(found.predict(x))])


def test_equal_numbers_keep_their_order_and_the_next_column_decides():
    means = jnp.array([[1.0, 5.0], [0.0, 9.0], [1.0, 2.0], [0.0, 9.0]])
    mixture = jaxem.Mixture(
        jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4])), jaxem.GaussianParams(means, jnp.ones(4)), jaxem.Spherical()
    )
    found = jaxem.sorted_components(mixture, by="mean")
    np.testing.assert_allclose(found.weights, [0.2, 0.4, 0.3, 0.1], rtol=1e-6)


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_a_batch_is_sorted_mixture_by_mixture(family):
    starts = jaxem.starts(jax.random.key(0), family, blobs(80), 3, 4, jaxem.RandomParameters())
    for by in ("weight", "mean", lambda one: one.components.means[:, 1]):
        batch = jaxem.sorted_components(starts, by=by)
        for i in range(4):
            alone = jaxem.sorted_components(starts[i], by=by)
            for a, b in zip(jax.tree.leaves(batch[i]), jax.tree.leaves(alone), strict=True):
                np.testing.assert_array_equal(a, b)
    numbers = np.random.default_rng(0).permuted(np.tile(np.arange(3), (4, 1)), axis=1)
    batch = jaxem.sorted_components(starts, by=numbers)
    np.testing.assert_array_equal(
        batch.log_weights, np.take_along_axis(np.asarray(starts.log_weights), numbers.argsort(1), 1)
    )


def test_labels_agree_from_run_to_run():
    x = jaxem.datasets.faithful()
    runs = [jaxem.search(jax.random.key(seed), "full", x, 2).best.mixture for seed in range(3)]
    labels = [np.asarray(jaxem.sorted_components(one, by="mean").predict(x)) for one in runs]
    for other in labels[1:]:
        np.testing.assert_array_equal(labels[0], other)


def test_it_works_under_jit_and_on_an_estimator():
    mixture = Case(jaxem.Full(), 3, 2).mixture()
    inside = jax.jit(lambda one: jaxem.sorted_components(one, by="mean"))(mixture)
    for a, b in zip(jax.tree.leaves(inside), jax.tree.leaves(jaxem.sorted_components(mixture, by="mean")), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("size", "by = 'size'; choose weight or mean"),
        ([1, 2], r"shape \(2,\); give \[k\] = \(3,\)"),
        (["a", "b", "c"], "dtype"),
        (lambda one: 1.0, r"shape \(\); give"),
    ],
)
def test_what_cannot_sort_is_told(by, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        jaxem.sorted_components(Case(jaxem.Full(), 3, 2).mixture(), by=by)
    assert "\n" not in str(error.value)
