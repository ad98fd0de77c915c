"""Pictures and the report: what is drawn is what was fitted, names from the data are only text, and a browser agrees."""

import html.parser
import json
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import jaxem
import jaxem.html
from jaxem import plots
from tests.cases import GAUSSIANS, KINDS
from tests.conftest import X64
from tests.test_cli import COMMAND, fails, run

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>$&{{DATA}}'


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


# -- the report ----------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """The elements of a page, the text a reader sees, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.shown, self.fetched, self.open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open = tag
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        if self.open not in ("script", "style"):
            self.shown.append(data)


def numbers_of(page):
    return json.loads(re.search(r'<script type="application/json" id="numbers">(.*?)</script>', page, re.S).group(1))


@pytest.fixture(scope="module")
def page(faithful):
    x, results, best = faithful
    return jaxem.html.report(best, x, columns=["eruption", EVIL], landscape=jaxem.landscape(results), title=EVIL)


def test_a_report_is_one_file_and_names_are_text(page):
    read = Page(page)
    assert read.fetched == []
    assert read.tags.count("script") == 2
    assert "img" not in read.tags
    assert EVIL in "".join(read.shown)
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert numbers_of(page)["names"] == ["eruption", EVIL]


def test_the_player_shows_em(page, faithful):
    """Frames are EM: l grows, l-hat touches it at 0, lies below elsewhere and is highest at the M-step."""
    _, _, best = faithful
    numbers = numbers_of(page)
    trace = np.array(numbers["trace"])
    assert (np.diff(trace) > -1e-6 * abs(trace[-1])).all()
    assert abs(trace[-1] - float(best.objective)) < 0.1
    along = np.array(numbers["along"])
    above, below = np.array(numbers["log_likelihood"], float), np.array(numbers["proxy"], float)
    assert above.shape == below.shape == (len(numbers["turns"]), len(along))
    zero, one = int(np.argmin(np.abs(along))), int(np.argmin(np.abs(along - 1)))
    slack = (1e-6 if X64 else 1e-3) * abs(trace[-1])
    assert along[zero] == 0
    assert along[one] == 1
    assert (below <= above + slack).all()
    np.testing.assert_allclose(below[:, zero], above[:, zero], atol=slack)
    assert (below[:, one] >= below.max(axis=1) - slack).all()
    np.testing.assert_allclose(above[:, zero], trace[numbers["turns"]], atol=slack)
    assert np.array(numbers["means"]).shape == (len(numbers["turns"]), 2, 2)


def test_numbers_on_the_page_are_the_fits(page, faithful):
    _, _, best = faithful
    shown = " ".join(Page(page).shown)
    assert f"{float(best.log_likelihood):,.4f}" in shown
    for weight in np.asarray(best.mixture.weights):
        assert f"{weight:.4f}" in shown
    assert re.search(r"\d+ of \d+</b> laws", page)


@pytest.mark.slow
def test_reports_of_other_data():
    """One column, many columns, many rows (sampled, and it says so), another family, a degenerate fit."""
    rng = np.random.default_rng(0)
    many = np.concatenate([rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2)) + 4])
    text = jaxem.html.report(jaxem.best(fitted(many, jaxem.Spherical())), many)
    assert "sample of 2,000 of the 4,000 rows" in text
    assert "draws 500" in text
    single = many[:200, :1]
    assert np.array(numbers_of(jaxem.html.report(jaxem.best(fitted(single)), single))["means"]).shape[-1] == 1
    wide = rng.normal(size=(90, 14))
    assert "2 more columns" in jaxem.html.report(jaxem.best(fitted(wide, jaxem.Spherical())), wide, features=(13, 2))
    flags = (rng.uniform(size=(60, 3)) < 0.5).astype(float)
    assert "no player" in jaxem.html.report(jaxem.best(fitted(flags, jaxem.Bernoulli())), flags)
    with pytest.raises(ValueError, match="columns has 1 names"):
        jaxem.html.report(jaxem.best(fitted(many)), many, columns=["a"])
    with pytest.raises(ValueError, match="features"):
        jaxem.html.report(jaxem.best(fitted(wide, jaxem.Spherical())), wide, features=(0, 14))


def test_the_command_line_draws_and_reports(tmp_path):
    done = run("fit", "--plot", tmp_path / "fit.png", "--report", tmp_path / "fit.html", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    assert "Old Faithful" in (tmp_path / "fit.html").read_text()
    assert "drawn in" in done.stdout
    assert "reported in" in done.stdout
    fails(run("fit", "--plot", tmp_path / "fit.png"), "exists; choose another name or add --force", code=2)
    fails(run("fit", "--plot", tmp_path / "fit.doc"), "suffix", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.html", "fit.png"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 380])
def test_in_a_real_browser(tmp_path, width):
    """It renders, the slider moves, play plays, and the console is silent, on a laptop and on a phone."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    path = tmp_path / "fit.html"
    done = subprocess.run([*COMMAND, "fit", "-k", "3", "--report", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 800})
        errors, asked = [], []
        tab.on("console", lambda message: errors.append(message.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        assert tab.locator("#player circle").count() > 250
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        ellipse = tab.locator("#player path[stroke='#0072B2']").first
        before, first = ellipse.get_attribute("d"), tab.locator("output").inner_text()
        slider = tab.locator("input[type=range]")
        slider.focus()
        for _ in range(6):
            slider.press("ArrowRight")
        assert ellipse.get_attribute("d") != before
        assert tab.locator("output").inner_text() != first
        tab.locator("button").click()
        at = int(slider.input_value())
        tab.wait_for_timeout(1500)
        assert int(slider.input_value()) > at
        tab.locator("button").click()
        paused = slider.input_value()
        tab.wait_for_timeout(700)
        assert slider.input_value() == paused
        assert errors == []
        assert asked == [path.as_uri()]
        browser.close()


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
