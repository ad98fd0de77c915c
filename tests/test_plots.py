"""Pictures: what is drawn is what was fitted."""

import re

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import jaxem
from jaxem import plots
from tests.cases import GAUSSIANS, KINDS


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def fitted(x, family=None, k=2):
    starts = jaxem.starts(jax.random.key(0), family or jaxem.Full(), x, k, 6)
    return jaxem.fit_restarts(starts, x, max_iter=60)


@pytest.fixture(scope="module")
def faithful():
    x = jaxem.datasets.faithful()
    results = fitted(x)
    return x, results, jaxem.best(results)


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
    bars = plots.plot_landscape(seen).patches
    assert [bar.get_width() for bar in bars] == seen.counts.tolist()  # type: ignore[attr-defined]


def test_colours_differ_in_grey_too():
    """Neighbours differ in lightness; beyond eight components there are still as many colours as components."""
    light = plots.colours(4) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.diff(light)).min() > 0.1
    assert len(np.unique(plots.colours(20), axis=0)) == 20


def test_large_data_are_sampled():
    x = np.random.default_rng(0).normal(size=(20_001, 2))
    mixture = jaxem.Mixture(jnp.zeros(1), jaxem.GaussianParams(jnp.zeros((1, 2)), jnp.eye(2)[None]), jaxem.Full())
    assert len(plots.plot_mixture(mixture, x).collections[0].get_offsets()) == plots.MOST_POINTS


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
