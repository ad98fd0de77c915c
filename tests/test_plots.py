"""Pictures: what is drawn is what was fitted."""

import re
import types

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats

import jaxem
from jaxem import plots
from jaxem.canvas import spread_out
from tests.cases import GAUSSIANS, KINDS, fitted
from tests.conftest import X64


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("family", GAUSSIANS, ids=lambda family: type(family).__name__)
def test_ellipses_are_the_covariances(family, faithful):
    """The shadow of the outer ellipse on each axis is two standard deviations, by numpy."""
    x = faithful[0]
    mixture = jaxem.best(fitted(x, family)).mixture
    ax = plots.plot_mixture(mixture, x, columns=["eruption", "waiting"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eruption", "waiting")
    covariances = np.asarray(mixture.components.covariances, float)
    outer = [np.array(line.get_data()) for line in ax.get_lines()][1::2]
    for j, line in enumerate(outer):
        expected = 2 * np.sqrt(np.diag(KINDS[family].form.matrix(covariances, j, 2)))
        np.testing.assert_allclose((line.max(axis=1) - line.min(axis=1)) / 2, expected, rtol=5e-3)
        np.testing.assert_allclose(line[:, :-1].mean(axis=1), np.asarray(mixture.components.means[j]), rtol=1e-4)


def test_any_two_features_or_one():
    x = np.random.default_rng(0).normal(size=(60, 4)) * np.array([1, 2, 3, 4])
    mixture = jaxem.best(fitted(x)).mixture
    ax = plots.plot_mixture(mixture, x, features=(3, 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x4", "x2")
    line = np.array(ax.get_lines()[1].get_data())
    covariance = np.asarray(mixture.components.covariances[0], float)
    np.testing.assert_allclose(np.ptp(line[0]) / 2, 2 * np.sqrt(covariance[3, 3]), rtol=5e-3)
    for ax in (plots.plot_mixture(mixture, x, features=(2,)), plots.plot_responsibilities(mixture, x, features=(2,))):
        grid, density = ax.get_lines()[-1].get_data()
        expected = sum(
            w * np.exp(-((grid - m[2]) ** 2) / (2 * c[2, 2])) / np.sqrt(2 * np.pi * c[2, 2])
            for w, m, c in zip(mixture.weights, *map(np.asarray, mixture.components), strict=True)
        )
        np.testing.assert_allclose(density, expected, rtol=1e-4)
    for bad in ((0, 4), (0, 1, 2), (), (-5, 0)):
        with pytest.raises(ValueError, match="give one or two columns from 0 to 3"):
            plots.plot_mixture(mixture, x, features=bad)
    bernoulli = jaxem.Mixture(jnp.zeros(1), jaxem.BernoulliParams(jnp.full((1, 4), 0.5)), jaxem.Bernoulli())
    with pytest.raises(ValueError, match="give one or two columns from 0 to 3"):
        plots.plot_mixture(bernoulli, x > 0, features=(0, 4))


def test_each_takes_an_ax_and_returns_it(faithful):
    x, results, best = faithful
    one = np.asarray(x)[:, :1]
    narrow = jaxem.best(fitted(one)).mixture
    for draw in (
        lambda ax: plots.plot_mixture(best.mixture, ax=ax),
        lambda ax: plots.plot_mixture(narrow, one, ax=ax),
        lambda ax: plots.plot_responsibilities(best.mixture, x, ax=ax),
        lambda ax: plots.plot_responsibilities(narrow, one, ax=ax),
        lambda ax: plots.plot_trace(best, ax=ax),
        lambda ax: plots.plot_trace(results, ax=ax),
        lambda ax: plots.plot_landscape(jaxem.landscape(results), ax=ax),
    ):
        _, ax = plt.subplots()
        assert draw(ax) is ax
        assert draw(None) is not ax
        ax.figure.canvas.draw()


def test_soft_colours_are_the_posteriors(faithful):
    x, _, best = faithful
    ax = plots.plot_responsibilities(best.mixture, x)
    drawn = ax.collections[0].get_facecolors()[:, :3]  # type: ignore[attr-defined]
    resp = np.asarray(best.mixture.responsibilities(x), float)
    np.testing.assert_allclose(drawn, resp @ plots.colours(2), atol=1e-6)


def test_the_trace_and_the_landscape_are_what_was_found(faithful):
    _, results, best = faithful
    line = plots.plot_trace(best).get_lines()[0].get_ydata()
    trace = np.asarray(best.trace)
    np.testing.assert_array_equal(line, trace[np.isfinite(trace)])
    seen = jaxem.landscape(results)
    [side] = plots.plot_landscape(seen).child_axes
    assert [vars(bar)["_width"] for bar in side.patches] == seen.counts.tolist()


def test_colours_differ_in_grey_too():
    """Neighbours differ in lightness; beyond eight components there are still as many colours as components."""
    light = plots.colours(4) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.diff(light)).min() > 0.1
    assert len(np.unique(plots.colours(20), axis=0)) == 20


def test_large_data_are_sampled():
    x = np.random.default_rng(0).normal(size=(20_001, 2))
    mixture = jaxem.Mixture(jnp.zeros(1), jaxem.GaussianParams(jnp.zeros((1, 2)), jnp.eye(2)[None]), jaxem.Full())
    assert len(plots.plot_mixture(mixture, x).collections[0].get_offsets()) == plots.MOST_POINTS


# -- what stands for a mixture, and the methods ---------------------------------------------------------------------------


def search_of(results):
    """A Search as `jaxem.search` makes it, of climbs that are known."""
    best = jaxem.best(results)
    return jaxem.Search(best, jaxem.landscape(results), results, ("k-means++",) * 6, 100, None)


def selection_of(search, *candidates, chosen=0, criterion="bic"):
    return jaxem.Selection(search, chosen, candidates, 100, 272.0, criterion)


def candidate(k, bic, family=jaxem.Full(), status=jaxem.Status.CONVERGED, **more):
    return jaxem.Candidate(family, k, -1.0, 3, bic, bic - 1.0, bic + 1.0, status, **more)


@pytest.fixture(scope="module")
def things(faithful):
    """One fit in every form in which a user holds it."""
    _, results, best = faithful
    search = search_of(results)
    model = types.SimpleNamespace(mixture_=best.mixture)
    return best.mixture, best, search, selection_of(search, candidate(2, 1.0)), model


def test_whatever_stands_for_a_mixture_is_drawn(things, faithful):
    x = faithful[0]
    for draw in (plots.plot_mixture, plots.plot_responsibilities, plots.plot_uncertainty, plots.plot_classification):
        drawn = [[line.get_xydata() for line in draw(thing, x).get_lines()] for thing in things]
        assert len(drawn[0]) == 4
        for other in drawn[1:]:
            np.testing.assert_array_equal(other, drawn[0])


def test_each_has_a_picture_of_its_own(things, faithful):
    """`.plot()` draws what there is without rows, `.plot(x)` the rows in soft colours, on axes that it returns."""
    x, results, _ = faithful
    mixture, result, search, selection, _ = things
    found = jaxem.summary(mixture, x)
    test = jaxem.LikelihoodRatioTest(7.5, np.array([1.0, 2.0, 9.0]), 0.5, mixture[0], mixture, 0)
    labels = (
        (mixture, "x1"), (result, "turn of EM"), (results, "turn of EM"), (search, "nats below the best"),
        (search.landscape, "nats below the best"), (selection, "components"), (test, "twice the gain in log-likelihood"),
    )  # fmt: skip
    for thing, label in labels:
        assert thing.plot().get_xlabel() == label
    _, ax = plt.subplots()
    for thing in (mixture, result, search):
        assert thing.plot(x, columns=["eruption", "waiting"], ax=ax) is ax
        soft = np.asarray(ax.collections[-1].get_facecolors()[:, :3])
        np.testing.assert_allclose(soft, np.asarray(mixture.responsibilities(x)) @ plots.colours(2), atol=1e-6)
        assert ax.get_xlabel() == "eruption"
        ax.clear()
    assert [ax.get_title() for ax in found.plot(columns=["a", "b"])[:3]] == ["weights", "means, a", "means, b"]
    replicates = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.01 * leaf, 1.02 * leaf]), mixture)
    refits = jaxem.Bootstrap(
        found.estimate, found.standard_error, replicates, np.ones(3), 0, "weighted", mixture.family
    )
    assert len(refits.plot()) == 6


def test_an_estimator_draws_itself():
    from jaxem.sklearn import GaussianMixture

    x = np.random.default_rng(0).normal(size=(60, 2)) + 4.0 * np.repeat([[0.0], [1.0]], 30, axis=0)
    model = GaussianMixture(2, covariance_type="spherical", random_state=0)
    with pytest.raises(TypeError, match=r"mixture is a GaussianMixture that is not fitted; call its fit\(X\) first"):
        model.plot()
    model.fit(x)
    assert len(model.plot().get_lines()) == len(model.plot(x).get_lines()) == 4
    frame = pytest.importorskip("pandas").DataFrame(x, columns=["$a", "b"])
    assert model.plot(frame).get_xlabel() == r"\$a"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, r: plots.plot_mixture(r, x), ValueError, "mixture is a batch of 6; give one of them"),
        (lambda x, r: plots.plot_mixture(x, 2), TypeError, "data come after a mixture"),
        (lambda x, r: plots.plot_density(r[0], np.asarray(x)[:, 0]), ValueError, r"x has shape \(272,\); give \[n, d\]"),
        (lambda x, r: plots.plot_density(r[0], x, masses=(0.5, 1.0)), ValueError, "masses = .*give shares between 0 and 1"),
        (lambda x, r: plots.plot_mixture(r[0], x, columns=["a"]), ValueError, "columns has 1 names for 2 columns"),
        (lambda x, r: plots.plot_mixture(r[0], x, sample_weight=[1.0]), ValueError, "sample_weight has shape.*give 272"),
        (lambda x, r: plots.plot_classification(r[0], x, [0, 1]), ValueError, r"labels has shape \(2,\); give one for each"),
        (lambda x, r: plots.plot_uncertainty(r[0], None), ValueError, "x is None; give the rows"),
        (lambda x, r: plots.plot_pairs(r[0], x, features=(2,)), ValueError, "give columns from 0 to 1"),
        (lambda x, r: plots.plot_trace(r.mixture), TypeError, "result is a Mixture; give a Result"),
        (lambda x, r: plots.plot_landscape(r[0]), TypeError, "landscape is a Result; give one of jaxem.landscape"),
        (lambda x, r: plots.plot_selection(r), TypeError, "selection is a Result; give a Selection"),
        (lambda x, r: plots.plot_test(r), TypeError, "test is a Result; give one of jaxem.likelihood_ratio_test"),
        (lambda x, r: plots.plot_intervals(r), TypeError, "errors is a Result; give one of jaxem.summary"),
    ],
)  # fmt: skip
def test_a_wrong_thing_is_told_in_one_line(call, error, words, faithful):
    with pytest.raises(error, match=words) as told:
        call(*faithful[:2])
    assert "\n" not in str(told.value)


# -- geometry ------------------------------------------------------------------------------------------------------------


def test_ellipses_satisfy_the_quadratic_form():
    covariance = np.array([[2.0, 0.9], [0.9, 0.7]])
    points = plots.ellipse(np.array([3.0, -1.0]), covariance, 1.5) - np.array([[3.0], [-1.0]])
    np.testing.assert_allclose(np.einsum("in,ij,jn->n", points, np.linalg.inv(covariance), points), 1.5**2)


def two_apart(d=2):
    """Two Gaussians of known law, and a sampler and a density that are scipy's."""
    rng, weights = np.random.default_rng(1), np.array([0.3, 0.7])
    means = np.stack([np.zeros(d), np.full(d, 3.0)])
    factors = np.eye(d) + 0.4 * rng.normal(size=(2, d, d))
    laws = [scipy.stats.multivariate_normal(m, f @ f.T) for m, f in zip(means, factors, strict=True)]
    params = jaxem.GaussianParams(jnp.asarray(means), jnp.asarray(np.stack([law.cov for law in laws])))
    mixture = jaxem.Mixture(jnp.log(jnp.asarray(weights)), params, jaxem.Full())
    labels = rng.uniform(size=4000) < weights[1]
    x = np.where(labels[:, None], laws[1].rvs(4000, random_state=2), laws[0].rvs(4000, random_state=3))
    return mixture, x, lambda rows: sum(w * law.pdf(rows) for w, law in zip(weights, laws, strict=True)), labels


def test_contours_hold_the_stated_shares():
    """Of rows that the picture has not seen, 50, 75 and 95 per cent lie inside, up to four standard errors."""
    mixture, x, density, _ = two_apart()
    ax = plots.plot_density(mixture)
    [contours] = [one for one in ax.collections if hasattr(one, "levels")]
    share = [np.mean(np.log(density(x)) >= level) for level in contours.levels[::-1]]
    np.testing.assert_allclose(share, plots.MASSES, atol=4 * 0.5 / np.sqrt(len(x)))
    inside = contours.get_paths()[0].vertices  # of the lowest level: the density is the same all along it
    np.testing.assert_allclose(np.log(density(inside)), contours.levels[0], atol=0.05)
    above, beside = ax.child_axes
    np.testing.assert_allclose(np.trapezoid(*above.get_lines()[0].get_data()[::-1]), 1.0, atol=1e-3)
    np.testing.assert_allclose(np.trapezoid(*beside.get_lines()[0].get_data()), 1.0, atol=1e-3)
    assert plots.plot_density(mixture, marginals=False).child_axes == []


def test_dots_grow_with_doubt():
    """Sizes are monotone in 1 - max p(j | x) by scipy; 5 per cent of the weight is black."""
    mixture, x, _, _ = two_apart()
    x = x[:1000]
    weights = np.where(np.arange(1000) % 2 == 0, 0.0, np.arange(1000))
    part = [w * scipy.stats.multivariate_normal(m, c).pdf(x) for w, m, c in
            zip(mixture.weights, *map(np.asarray, mixture.components), strict=True)]  # fmt: skip
    doubt = 1.0 - np.max(part, axis=0) / np.sum(part, axis=0)
    for weight in (None, weights):
        dots = plots.plot_uncertainty(mixture, x, sample_weight=weight).collections[-1]
        own = np.arange(1000) if weight is None else np.flatnonzero(weight)
        order = own[np.argsort(doubt[own], kind="stable")]
        clear = doubt[order] > 1e-3  # below that rounding may order them otherwise
        np.testing.assert_allclose(dots.get_offsets()[clear], x[order[clear]])
        assert (np.diff(dots.get_sizes()) >= -1e-4).all()  # type: ignore[attr-defined]
        black = dots.get_facecolors()[:, 0] == 0  # type: ignore[attr-defined]
        w = (np.ones(1000) if weight is None else weights)[order]
        assert 0.05 <= w[black].sum() / w.sum() < 0.06
        assert black[-1]
        assert not black[0]


def test_doubt_in_one_column_is_a_curve():
    """Between equal Gaussians at -1 and 1 the doubt at x is 1 / (1 + exp(2 |x|))."""
    params = jaxem.GaussianParams(jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1, 1)))
    mixture = jaxem.Mixture(jnp.log(jnp.array([0.5, 0.5])), params, jaxem.Full())
    ax = plots.plot_uncertainty(mixture, np.linspace(-3, 3, 20)[:, None])
    at, height = (np.asarray(one) for one in ax.get_lines()[0].get_data())
    np.testing.assert_allclose(height, 1.0 / (1.0 + np.exp(2.0 * np.abs(at))), atol=1e-6)
    single = plots.plot_uncertainty(mixture[0], np.linspace(-3, 3, 20)[:, None])
    np.testing.assert_allclose(single.get_lines()[0].get_ydata(), 0.0, atol=1e-6)


def test_what_is_misclassified_has_a_ring():
    """Names of labels do not matter; rows are found that were mislabelled on purpose."""
    mixture, x, _, _ = two_apart()
    x = x[:300]
    found = np.asarray(mixture.predict(x))
    names = np.array(["one", "other"])[1 - found]
    assert plots.plot_classification(mixture, x, names).get_title() == "0 of 300 rows misclassified (0.0%)"
    names[[3, 5, 250]] = "third"
    ax = plots.plot_classification(mixture, x, names)
    assert ax.get_title() == "3 of 300 rows misclassified (1.0%)"
    np.testing.assert_allclose(ax.collections[-1].get_offsets(), x[[3, 5, 250]])
    for j in range(2):
        np.testing.assert_allclose(ax.collections[j].get_offsets(), x[found == j])
    paths = [ax.collections[j].get_paths()[0].vertices for j in range(2)]
    assert len(paths[0]) != len(paths[1])  # a circle and a square


def test_pairs_show_correlations_within_components():
    mixture, x, _, _ = two_apart(3)
    axes = plots.plot_pairs(mixture, x[:200], columns=["a", "b", "c"])
    assert axes.shape == (3, 3)
    covariances = np.asarray(mixture.components.covariances, float)
    for j, text in enumerate(axes[0, 2].texts):
        c = covariances[j]
        assert text.get_text() == f"{j}: {c[0, 2] / np.sqrt(c[0, 0] * c[2, 2]):+.2f}"
    assert [ax.get_xlabel() for ax in axes[2]] == ["a", "b", "c"]
    np.testing.assert_allclose(axes[2, 1].collections[0].get_offsets(), x[:200][:, [1, 2]])
    wide = jaxem.Mixture(jnp.zeros(1), jaxem.GaussianParams(jnp.zeros((1, 8)), jnp.eye(8)[None]), jaxem.Full())
    rows = np.random.default_rng(0).normal(size=(20, 8))
    axes = plots.plot_pairs(wide, rows)
    assert axes.shape == (6, 6)
    assert "the first 6 of 8 features" in axes[0, 0].figure.get_suptitle()
    chosen = plots.plot_pairs(wide, rows, features=(7, 1))
    assert [ax.get_xlabel() for ax in chosen[1]] == ["x8", "x2"]
    assert chosen[0, 0].figure.get_suptitle() == ""


def test_histograms_take_weights(faithful):
    x, _, best = faithful
    weights = np.random.default_rng(0).uniform(0, 2, len(x))
    weights[:50] = 0.0
    bars = plots.plot_mixture(best, x, features=(1,), sample_weight=weights).patches
    seen, w = np.asarray(x)[50:, 1], weights[50:]
    for bar in bars:
        low, wide, high = bar.get_x(), bar.get_width(), bar.get_height()  # type: ignore[attr-defined]
        inside = (seen >= low) & ((seen < low + wide) | (bar is bars[-1]))
        np.testing.assert_allclose(high, w[inside].sum() / w.sum() / wide, rtol=1e-6)


# -- the optima and the choice ---------------------------------------------------------------------------------------------


def test_gaps_are_nats_below_the_best():
    values = np.array([-10.0, -12.5, -14.0])
    seen = jaxem.Landscape(values, values, np.array([3, 9, 1]), np.arange(3), 2, 1)
    ax = plots.plot_landscape(seen)
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), [0.0, 2.5, 4.0])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["-10.00", "-12.50", "-14.00"]
    [side] = ax.child_axes
    assert [vars(bar)["_width"] for bar in side.patches] == [3, 9, 1]
    ticks = np.asarray(side.get_xticks())
    np.testing.assert_array_equal(ticks, np.round(ticks))
    assert ax.get_title() == "3 collapsed or failed"
    once = seen._replace(counts=np.ones(3, int))
    assert plots.plot_landscape(once).child_axes == plots.plot_landscape(seen, counts=False).child_axes == []


def test_a_search_has_no_bars_of_climbs(faithful):
    """Its finalists were picked: their numbers tell nothing of random starts."""
    assert plots.plot_landscape(search_of(faithful[1])).child_axes == []
    [side] = plots.plot_landscape(faithful[1]).child_axes
    assert [vars(bar)["_width"] for bar in side.patches] == [6]


def test_the_curve_of_a_selection_is_bic_by_hand():
    """One spherical Gaussian has l = -n d / 2 (log 2 pi s + 1), and two those of scipy: BIC = p log n - 2 l."""
    x = np.random.default_rng(0).normal(size=(40, 2)) + 6.0 * np.repeat([[0.0], [1.0]], 20, axis=0)
    found = jaxem.select(jax.random.key(0), "spherical", x, [1, 2], budget=60)
    variance = np.mean((x - x.mean(axis=0)) ** 2)
    one = 3 * np.log(40) - 2 * (-40 * (np.log(2 * np.pi * variance) + 1))
    mixture = found.best.best.mixture
    parts = [w * scipy.stats.multivariate_normal(m, c).pdf(x) for w, m, c in
             zip(mixture.weights, *map(np.asarray, mixture.components), strict=True)]  # fmt: skip
    two = 7 * np.log(40) - 2 * np.log(np.sum(parts, axis=0)).sum()
    ax = found.plot()
    np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), [1, 2])
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [one, two], rtol=1e-6 if X64 else 1e-4)
    np.testing.assert_allclose(ax.get_lines()[-1].get_xydata(), [[2, two]], rtol=1e-6 if X64 else 1e-4)
    assert found.criterion == "bic"
    np.testing.assert_array_equal(ax.get_xticks(), np.round(ax.get_xticks()))


def test_candidates_that_failed_are_marked(faithful):
    """A degenerate fit is a cross at the edge and not in the line; one that did not converge is hollow; names at the ends."""
    status = jaxem.Status
    chosen = selection_of(
        search_of(faithful[1]),
        candidate(1, 100.0), candidate(2, 80.0), candidate(3, -9e4, status=status.DEGENERATE),
        candidate(1, 101.0, jaxem.Tied()), candidate(2, 79.0, jaxem.Tied()),
        candidate(3, 85.0, jaxem.Tied(), status.MAX_ITER), chosen=4,
    )  # fmt: skip
    ax = plots.plot_selection(chosen)
    full, tied = (next(line for line in ax.get_lines() if line.get_label() == name) for name in ("Full", "Tied"))
    np.testing.assert_array_equal(full.get_xydata(), [[1, 100], [2, 80]])
    np.testing.assert_array_equal(tied.get_xydata(), [[1, 101], [2, 79], [3, 85]])
    assert full.get_linestyle() != tied.get_linestyle()
    [cross] = [line for line in ax.get_lines() if line.get_marker() == "x"]
    np.testing.assert_allclose(cross.get_xydata(), [[3, ax.get_ylim()[0]]])
    assert ax.get_ylim()[0] > 70
    hollow = [line.get_xydata().tolist() for line in ax.get_lines()
              if line.get_markerfacecolor() == "white"]  # fmt: skip
    assert hollow == [[[3, 85]]]
    assert ax.get_lines()[-1].get_xydata().tolist() == [[2, 79]]
    told = [text.get_text() for text in ax.texts]
    assert {"Full", "Tied"} <= set(told)
    assert "chosen: 2 x Tied\nx: degenerate\nhollow: not converged" in told
    assert plots.plot_selection(chosen, criterion="aic").get_lines()[0].get_ydata()[0] == 99.0
    with pytest.raises(ValueError, match=r'criterion = "cv" was not computed; select with criterion="cv"'):
        plots.plot_selection(chosen, criterion="cv")
    with pytest.raises(ValueError, match="criterion = 'BIC'; choose bic, aic"):
        plots.plot_selection(chosen, criterion="BIC")


def test_a_selection_is_drawn_by_what_it_was_made_by(faithful):
    search = search_of(faithful[1])
    by_rows = selection_of(search, candidate(1, 5.0, cv=4.5), candidate(2, 6.0, cv=3.5), chosen=1, criterion="cv")
    assert plots.plot_selection(by_rows).get_lines()[0].get_ydata().tolist() == [4.5, 3.5]
    tested = selection_of(
        search, candidate(1, 5.0, p_value=0.01), candidate(2, 6.0, p_value=0.4), candidate(3, 6.0), chosen=1,
        criterion="lrt",
    )  # fmt: skip
    ax = plots.plot_selection(tested)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["Full"].get_xydata().tolist() == [[1, 0.01], [2, 0.4]]
    assert 0.05 in [line.get_ydata()[0] for line in ax.get_lines()]
    assert ax.get_ylabel() == "p-value of one more"


def test_intervals_are_those_of_the_summary(faithful):
    x, _, best = faithful
    found = jaxem.summary(best.mixture, x)
    panels = dict(zip(["weights", "means, x1", "means, x2"], found.plot(), strict=False))
    for name, of in {"weights": lambda one: one.weights, "means, x2": lambda one: one.components.means[:, 1]}.items():
        assert panels[name].get_title() == name
        for j in range(2):
            bar, dot = panels[name].get_lines()[2 * j : 2 * j + 2]
            np.testing.assert_allclose(bar.get_xdata(), [of(found.lower)[j], of(found.upper)[j]])
            np.testing.assert_allclose(dot.get_xdata(), [of(found.estimate)[j]])


def test_labels_at_the_ends_of_lines_do_not_touch():
    for places in ([1.0, 1.0, 1.0], [0.0, 5.0, 10.0], [9.0, 9.1, 10.0], [0.0, 0.1, 8.0]):
        moved = spread_out(np.array(places), 1.0, 0.0, 10.0)
        assert (np.diff(moved) >= 1.0 - 1e-9).all()
        assert moved[0] >= 0
        assert moved[-1] <= 10
    np.testing.assert_allclose(spread_out(np.array([0.0, 5.0, 10.0]), 1.0, 0.0, 10.0), [0, 5, 10])


def test_letters_can_be_read_and_no_setting_is_changed(faithful):
    """Of a picture of 5 x 4 inches every letter has 9 points at least, and an axis at most seven ticks."""
    x, results, best = faithful
    before = dict(matplotlib.rcParams)
    drawn = [
        best.plot(x), best.plot(), results.plot(), jaxem.landscape(results).plot(), plots.plot_density(best, x),
        plots.plot_uncertainty(best, x), plots.plot_classification(best, x, np.asarray(x)[:, 0] > 3),
        *plots.plot_pairs(best, x).flat,
    ]  # fmt: skip
    for ax in drawn:
        assert min(text.get_fontsize() for text in ax.findobj(matplotlib.text.Text)) >= 9
        assert len(ax.get_xticks()) <= 7
    assert dict(matplotlib.rcParams) == before


def test_intervals_of_means_are_drawn(faithful):
    """Crosses in two columns, bars in one; a summary of another mixture, or without means, is refused."""
    x, _, best = faithful
    mixture = best.mixture
    found = jaxem.summary(mixture, x)
    low, high = (np.asarray(end.components.means) for end in (found.lower, found.upper))
    crosses = [np.asarray(line.get_data()) for line in plots.plot_mixture(mixture, x, summary=found).get_lines()[-4:]]
    for j in range(2):
        across, up = crosses[2 * j], crosses[2 * j + 1]
        np.testing.assert_allclose(across[0], [low[j, 0], high[j, 0]])
        np.testing.assert_allclose(up[1], [low[j, 1], high[j, 1]])
    bars = plots.plot_mixture(mixture, x, features=(1,), summary=found).get_lines()[-2:]
    np.testing.assert_allclose([bar.get_xdata() for bar in bars], np.stack([low[:, 1], high[:, 1]], axis=1))
    with pytest.raises(ValueError, match="summary is of 2 components, the mixture has 1; give its own"):
        plots.plot_mixture(mixture[0], x, summary=found)
    coins = jaxem.Mixture(jnp.zeros(1), jaxem.BernoulliParams(jnp.full((1, 2), 0.5)), jaxem.Bernoulli())
    with pytest.raises(ValueError, match="summary of Bernoulli has no means to draw"):
        plots.plot_mixture(coins, np.eye(2), summary=found)


def test_a_test_is_drawn_with_the_data(faithful):
    one = faithful[2].mixture[0]
    test = jaxem.LikelihoodRatioTest(7.5, np.array([1.0, 2.0, 9.0]), 0.5, one, faithful[2].mixture, 0)
    ax = plots.plot_test(test)
    assert ax.get_lines()[0].get_xdata()[0] == 7.5
    heights: list = [vars(patch)["_height"] for patch in ax.patches]
    assert sum(heights) == 3
    assert ax.get_title() == "1 x Full against 2 x Full"
    told = str(test)
    assert "statistic  7.5000" in told
    assert re.search(r"7\.50 #* +\d <- the data", told)
