"""Small words: what a status says, `[i]`, what is printed, names of the version before."""

import copy
import html
import itertools
import math
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxem
from jaxem import Status, display
from jaxem.criteria import criteria
from jaxem.inference import Parameters
from jaxem.laws import Law
from jaxem.stopping import has_failed
from tests.cases import CASES, Case, Counts, blobs, named
from tests.conftest import ROUNDING

KEY = jax.random.key(0)
X = blobs(120)
FAMILIES = {type(case.family).__name__: case for case in CASES if case.k > 1}


@pytest.fixture(scope="module")
def results():
    """Five climbs; one of them has two components in one place, another has failed."""
    starts = jaxem.starts(KEY, jaxem.Full(), X, 2, 5)
    found = jaxem.fit_restarts(starts, X, max_iter=200)
    status = found.status.at[3].set(Status.NONFINITE).at[4].set(Status.DEGENERATE)
    return found._replace(status=status)


# -- statuses ------------------------------------------------------------------------------------------------------------


def test_every_status_has_a_meaning():
    meanings = [status.meaning for status in Status]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)
    assert not any("\n" in meaning or meaning.endswith(".") for meaning in meanings)


def test_failed_is_one_rule_for_a_status_and_for_arrays():
    assert [status for status in Status if status.failed] == [Status.DEGENERATE, Status.NONFINITE, Status.SADDLE]
    expected = [status.failed for status in Status]
    for array in (np.arange(len(Status)), jnp.arange(len(Status))):
        np.testing.assert_array_equal(has_failed(array), expected)
    np.testing.assert_array_equal(jax.jit(has_failed)(jnp.arange(len(Status))), expected)
    assert [has_failed(int(status)) for status in Status] == expected


# -- [i] -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", **named(FAMILIES.values()))
def test_a_component_is_a_mixture_of_one(case):
    mixture, x = case.mixture(), case.data()
    of_each = mixture.family.log_prob(mixture.components, jnp.asarray(x))  # [n, k]
    assert len(mixture) == case.k
    for i, one in enumerate(mixture):
        assert one.n_components == 1
        np.testing.assert_array_equal(one.weights, [1.0])
        np.testing.assert_allclose(one.log_prob(x), of_each[:, i], rtol=100 * ROUNDING)
    assert i == case.k - 1
    np.testing.assert_array_equal(*(jax.tree.leaves(mixture[j].components)[0] for j in (-1, case.k - 1)))
    traced = jax.jit(lambda mixture, i: mixture[i])(mixture, 1)
    for a, b in zip(jax.tree.leaves(traced), jax.tree.leaves(mixture[1]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", **named(FAMILIES.values()))
def test_components_in_another_order_are_the_same_mixture(case):
    mixture, x = case.mixture(), case.data()
    for order in (slice(None, None, -1), np.arange(case.k)[::-1]):
        np.testing.assert_allclose(mixture[order].log_prob(x), mixture.log_prob(x), rtol=100 * ROUNDING)
    part = mixture[:2]
    np.testing.assert_allclose(part.weights, mixture.weights[:2] / mixture.weights[:2].sum(), rtol=100 * ROUNDING)


def test_a_dead_component_alone_has_weight_one():
    mixture = Case(jaxem.Full(), 3, 2).mixture()
    dead = jaxem.Mixture(jnp.asarray([0.0, -jnp.inf, -jnp.inf]), mixture.components, mixture.family)
    assert float(dead[1].weights[0]) == 1.0
    np.testing.assert_allclose(dead[1:].weights, [0.5, 0.5], rtol=ROUNDING)


def test_mixtures_of_a_batch(results):
    batch = results.mixture
    assert len(batch) == 5
    for i, one in enumerate(batch):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(batch), strict=True):
            np.testing.assert_array_equal(a, b[i])
    assert len(batch[1:3]) == 2
    assert len(list(results.mixture[np.int64(2)])) == 2  # a climb, then its components


@pytest.mark.parametrize("i", [5, -6, 99])
def test_a_number_that_is_not_there(results, i):
    for batch in (results, results.mixture):
        with pytest.raises(IndexError, match=f"index {i} is out of range; there are 5"):
            batch[i]
    with pytest.raises(IndexError, match="there are 2"):
        results.mixture[0][i]


def test_a_result_of_a_batch(results):
    for i in (0, 4, -1, np.int32(2), jnp.int32(2)):
        one = results[i]
        assert isinstance(one, jaxem.Result)
        assert one.mixture.n_components == 2
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(results), strict=True):
            np.testing.assert_array_equal(a, b[i])
    assert results[1:4].status.shape == (3,)
    assert results[jnp.argsort(results.objective)].status.shape == (5,)
    with pytest.raises(TypeError, match=r"result\.mixture"):
        results[0][0]


def test_a_result_is_still_a_named_tuple(results):
    """`[i]` is of the batch; everything that looks at fields goes on as before."""
    mixture, log_likelihood, *_, remaining_gain = results
    assert mixture is results.mixture
    assert log_likelihood is results.log_likelihood
    assert remaining_gain is results.remaining_gain
    assert len(results) == len(results._fields) == 8
    assert results._replace(rate=1.0).rate == 1.0
    assert list(results._asdict()) == list(results._fields)
    leaves, tree = jax.tree.flatten(results)
    again = jax.tree.unflatten(tree, leaves)
    assert isinstance(again, jaxem.Result)
    assert jax.tree.structure(again) == tree
    copies = [copy.copy(results), pickle.loads(pickle.dumps(results))]
    through = jax.jit(lambda result: result[2])(results)
    mapped = jax.vmap(lambda result: result._replace(n_iter=result.n_iter + 1))(results)
    for other in copies:
        np.testing.assert_array_equal(other.trace, results.trace)
    np.testing.assert_array_equal(through.trace, results.trace[2])
    np.testing.assert_array_equal(mapped.n_iter, results.n_iter + 1)


# -- what is printed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", **named(FAMILIES.values()))
def test_a_mixture_is_printed_with_its_weights(case):
    mixture = case.mixture()
    text = str(mixture)
    assert text.startswith(
        f"Mixture of {case.k} {type(case.family).__name__} components, {case.n_parameters} parameters\n"
    )
    for weight in np.asarray(mixture.weights):
        assert f"{weight:.4g}" in text
    assert repr(mixture) == text
    assert "<table" in mixture._repr_html_()


def test_means_and_deviations_are_printed():
    mixture = Case(jaxem.Tied(), 2, 2).mixture()
    lines = str(mixture).splitlines()
    assert lines[1].split() == ["component", "weight", "mean", "x1", "mean", "x2", "sd", "x1", "sd", "x2"]
    found = np.array([line.split()[1:] for line in lines[2:]], float)
    deviations = np.sqrt(np.diagonal(mixture.components.covariances))
    expected = np.column_stack([mixture.weights, mixture.components.means, np.tile(deviations, (2, 1))])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_what_a_table_leaves_out_is_said():
    text = str(Case(jaxem.Diagonal(), 12, 9).mixture())
    assert "(4 more components not shown)" in text
    assert "(5 more columns of x are not shown)" in text
    assert len(text.splitlines()) == 2 + display.MOST_ROWS + 2


def test_a_result_is_printed(results):
    one = results[0]
    text = str(one)
    assert f"log-likelihood  {float(one.log_likelihood):.5f}" in text
    assert f"CONVERGED after {int(one.n_iter)} turns: the stopping rule was met" in text
    assert "Mixture of 2 Full components" in text
    assert "with log prior" not in text
    assert f"NONFINITE after {int(results[3].n_iter)} turns: {Status.NONFINITE.meaning}" in str(results[3])
    batch = str(results)
    assert batch.startswith("Results of 5 climbs: 3 CONVERGED, 1 NONFINITE, 1 DEGENERATE\n")
    assert len(batch.splitlines()) == 2 + 5
    assert str(jax.tree.map(lambda leaf: leaf[None], results)).startswith("Results of 5 climbs")


def test_a_result_under_a_prior_says_both():
    start = jaxem.starts(KEY, jaxem.Full(), X, 2, 1)[0]
    found = jaxem.fit(start, X, prior=jaxem.chen_tan(X), max_iter=3)
    assert f"with log prior  {float(found.objective):.5f}" in str(found)


def test_nan_and_infinity_are_printed(results):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype.kind == "f" else leaf, results)
    with jax.debug_nans(True):  # printing is no computation that must be finite
        for one in (broken, broken[0], broken.mixture, broken[0].mixture):
            assert "nan" in str(one)
            assert "nan" in one._repr_html_()


def test_a_landscape_is_printed(results):
    seen = jaxem.landscape(results)
    text = str(seen)
    assert text.splitlines()[0].endswith("that 5 climbs ended in")
    assert f"{seen.log_likelihood[0]:.5f}" in text
    assert "1 climb collapsed" in text
    assert "1 climb had no finite objective" in text
    none = jaxem.landscape(results._replace(status=jnp.full(5, int(Status.DEGENERATE))))
    assert str(none).splitlines() == ["0 optima that 5 climbs ended in", *str(none).splitlines()[1:]]
    assert "<table" in seen._repr_html_()  # type: ignore[attr-defined]  # a decorator sets it


def test_a_search_a_selection_and_a_report_are_printed(results):
    best = jaxem.best(results)
    found = jaxem.Search(best, jaxem.landscape(results), results, ("lloyd",) * 5, 123, None)
    assert "5 finalists polished, 123 passes made" in str(found)
    assert f"{float(best.log_likelihood):.5f}" in str(found)
    assert "under a penalty" not in str(found)
    assert "under a penalty" in str(found._replace(penalised=best))
    of_fits = [criteria(-50.0 + k, 5 * k, 100, 1.0) for k in (1, 2)]
    candidates = [
        jaxem.Candidate(jaxem.Full(), k, -50.0 + k, 5 * k, *of_fit, Status(k))
        for k, of_fit in zip((1, 2), of_fits, strict=True)
    ]
    chosen = jaxem.Selection(found, 0, tuple(candidates), 123)
    lines = str(chosen).splitlines()
    assert lines[1].endswith("chosen")
    assert lines[2].endswith("MAX_ITER")
    report = jaxem.Report((Law("tight", 1e-16, 1e-10), Law("<b>", 1.0, 1e-9)), ("tried on 5 rows",))
    assert str(report).endswith("verified: NO")
    for one in (found, chosen, report):
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", one._repr_html_())
        assert cells
        words = [html.unescape(cell) for cell in cells]
        assert all(word in str(one) for word in words)


def test_what_has_no_values_is_printed_as_python_does():
    mixture = Case(jaxem.Full(), 2, 2).mixture()
    seen = []

    @jax.jit
    def traced(mixture):
        result = jaxem.fit(mixture, X, max_iter=1)
        seen.extend([str(mixture), str(result), mixture._repr_html_()])
        return result

    shapes = jax.eval_shape(traced, mixture)
    assert seen[0].startswith("Mixture(log_weights=JitTracer")
    assert seen[1].startswith("Result(mixture=Mixture(")
    assert seen[2] is None
    assert str(shapes) == repr(shapes)
    assert repr(shapes).startswith("Result(mixture=Mixture(log_weights=ShapeDtypeStruct(")
    assert str(jax.tree.map(lambda _: 0, mixture)).startswith("Mixture(log_weights=0")
    gone = jax.tree.map(jnp.array, mixture)
    jax.tree.map(lambda leaf: leaf.delete(), gone)
    assert gone._repr_html_() is None


def test_whatever_comes_from_outside_is_escaped():
    card = display.Card("<b>", (("<i>", "&"),), ("<th>",), (("<script>",),), ("</div>",), (display.Card("<inner>"),))
    page = card.html()
    for raw in ("<i>", "<script>", "<inner>", "<th>", "</div></p>"):
        assert raw not in page.replace('<th style="text-align:left">', "")
    assert "&lt;script&gt;" in page


def test_columns_of_numbers_stand_to_the_right():
    lines = display.table_lines(("name", "value"), (("a", "1"), ("bcdef", "-12.5"), ("", "nan")))
    assert lines == ["name   value", "a          1", "bcdef  -12.5", "         nan"]


# -- the rest ------------------------------------------------------------------------------------------------------------


def test_criteria():
    """By the formulas of Schwarz, Akaike, and Biernacki, Celeux and Govaert."""
    found = criteria(-100.0, 5, 50.0, doubt=3.0)
    np.testing.assert_allclose(found, (5 * np.log(50) + 200, 2 * 5 + 200, 5 * np.log(50) + 200 + 6), rtol=1e-15)
    assert np.isnan(criteria(-100.0, 5, 50.0).icl)


@pytest.mark.parametrize(
    ("old", "new"),
    [("Lanes", "queue.RestartsProgress"), ("Raced", "racing.SearchProgress"), ("Settings", "recipes.Recipe")],
)
def test_a_name_of_the_version_before_works_and_warns(old, new):
    module, name = new.split(".")
    for _ in range(2):  # each time, not only the first
        with pytest.warns(DeprecationWarning, match=f"jaxem.{old} will go in the next version"):
            assert getattr(jaxem, old) is getattr(getattr(jaxem, module), name)
    assert old not in jaxem.__all__
    assert old not in dir(jaxem)


def test_a_family_of_your_own_is_printed_too():
    mixture = Case(Counts(), 2, 2).mixture()
    assert "rates x1" in str(mixture)
    assert list(itertools.islice(mixture, 3))[1].n_components == 1


# -- one screen ----------------------------------------------------------------------------------------------------------


def large_results():
    """Results of every kind that are as long as they come, or longer."""
    case = Case(jaxem.Full(), 30, 12)
    mixture = case.mixture()
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 50), mixture)
    ends, zeros = -100.0 - jnp.arange(50.0), jnp.zeros(50)
    status = jnp.full(50, int(Status.CONVERGED))
    results = jaxem.Result(batch, ends, ends, status, status, jnp.zeros((50, 9)), zeros, zeros)
    search = jaxem.Search(results[0], jaxem.landscape(results), results, ("lloyd",) * 50, 123, None)
    lines = [
        jaxem.Candidate(jaxem.Full(), k, -1.0 * k, 5 * k, *criteria(-1.0 * k, 5 * k, 100, 1.0), Status.CONVERGED)
        for k in range(1, 127)
    ]
    numbers = Parameters(mixture.weights, mixture.components)
    yield from (mixture, batch, results, results[0], jaxem.landscape(results), search, mixture.components)
    yield jaxem.Selection(search, 3, tuple(lines), 123)
    yield jaxem.Summary(numbers, numbers, numbers, numbers, numbers, 0.95, mixture.weights, jaxem.Full())
    yield from (numbers, lines[0], jaxem.e_step(mixture, case.data()))
    yield jaxem.Report(tuple(Law("tight", 0.0, 1.0) for _ in range(15)), ())
    yield jaxem.LikelihoodRatioTest(1.0, np.arange(999.0), 0.5, mixture, mixture, 3)
    yield jaxem.Divergence(jnp.float32(0.5), jnp.float32(0.01))


@pytest.mark.parametrize("one", [pytest.param(one, id=type(one).__name__) for one in large_results()])
def test_every_result_fits_on_one_screen(one):
    """At most 45 lines of 130 columns, in a console and in a notebook, and no array of more than 8 numbers."""
    shown = [repr(one), str(one)]
    page = getattr(one, "_repr_html_", lambda: "")()
    assert page.count("<tr>") <= 45
    for text in (*shown, page):
        assert not re.search(r"(?i)array\((?:[^,)]*,){9}", text)
        assert not re.search(r"\[(?:[^,\]]*,){9}", text)
    for text in shown:
        assert 1 <= sum(math.ceil(len(line) / 130) for line in text.splitlines()) <= 45


def test_a_long_selection_shows_the_best_and_the_chosen():
    selection = next(one for one in large_results() if isinstance(one, jaxem.Selection))
    text = str(selection)
    assert "(96 more candidates with larger BIC not shown)" in text
    assert text.count("chosen") == 1
    least = min(selection.candidates, key=lambda one: one.bic)
    assert f"{least.bic:.3f}" in text


def test_criteria_of_a_mixture_are_those_by_hand():
    """p log n - 2 l and 2 p - 2 l, the log-likelihood by scipy; weights count rows; a row of weight 0 is absent."""
    mixture, x = Case(jaxem.Full(), 2, 2).mixture(), X[:50]
    joint = [
        np.log(weight) + scipy.stats.multivariate_normal(mean, covariance).logpdf(x)
        for weight, mean, covariance in zip(mixture.weights, *map(np.asarray, mixture.components), strict=True)
    ]
    log_prob = np.logaddexp(*joint)
    w = np.arange(50.0)
    assert math.isclose(mixture.bic(x), 11 * math.log(50) - 2 * log_prob.sum(), rel_tol=ROUNDING)
    assert math.isclose(mixture.aic(x, w), 22 - 2 * (w @ log_prob), rel_tol=ROUNDING)
    assert math.isclose(mixture.bic(x, w), 11 * math.log(w.sum()) - 2 * (w @ log_prob), rel_tol=ROUNDING)
    with pytest.raises(TypeError, match="bic or aic decides from the host"):
        jax.jit(lambda x: mixture.bic(x))(x)


def test_converged_is_read_off_the_status(results):
    want = [status in (Status.CONVERGED, Status.PRECISION_LIMITED) for status in np.asarray(results.status).tolist()]
    assert results.converged.tolist() == want
    assert bool(jaxem.best(results).converged)


def test_a_candidate_says_what_its_line_says():
    of_fit = criteria(-50.0, 5, 100, 1.0)
    one = jaxem.Candidate(jaxem.Full(), 2, -50.0, 5, *of_fit, Status.CONVERGED, p_value=0.25)
    for words in (
        "2 x Full",
        "-50.00000",
        "5 parameters",
        f"BIC {of_fit.bic:.3f}",
        "CONVERGED",
        "p of one more   0.250",
    ):
        assert words in str(one)
    assert "CV" not in str(one)


def test_candidates_without_a_criterion_are_shown_last():
    selection = next(one for one in large_results() if isinstance(one, jaxem.Selection))
    unknown = [one._replace(bic=math.nan) for one in selection.candidates[:20]]
    text = str(selection._replace(candidates=(*unknown, *selection.candidates[20:]), chosen=120))
    assert "nan" not in text
    assert text.count("chosen") == 1  # also where it is far from the least BIC
