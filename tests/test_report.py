"""The report: what the player shows is EM by numpy, tables hold what was fitted, names are only text, and a browser agrees."""

import base64
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxem
import jaxem.display
import jaxem.html
from jaxem import playing
from jaxem.racing import Search
from jaxem.selection import Candidate, Selection
from jaxem.stopping import Status
from tests import oracle
from tests.cases import fitted
from tests.conftest import X64
from tests.test_cli import COMMAND, fails, run

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>$&{{DATA}}'
UNIT = 1 / playing.PARTS
"""what lengths are rounded to, in parts of an axis"""
MOST_BYTES, ROOM_FOR_TABLES = 300_000, 100_000


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
    assert [axis["name"] for axis in numbers_of(page)["axes"]] == ["eruption", EVIL]
    assert "legend" in page


def mixture_on_page(numbers, i):
    """Weights, means and covariances of the i-th mixture that the page holds, in units of the data."""
    low, span = (np.array([axis[name] for axis in numbers["axes"]]) for name in ("low", "span"))
    deviations = np.array(numbers["deviations"][i], float) * UNIT * span
    first, second = np.triu_indices(len(low), 1)
    correlations = np.tile(np.eye(len(low)), (len(deviations), 1, 1))
    correlations[:, first, second] = correlations[:, second, first] = np.array(numbers["correlations"][i]) / 1000
    covariances = correlations * deviations[:, :, None] * deviations[:, None, :]
    return np.array(numbers["weights"][i]), low + np.array(numbers["means"][i]) * UNIT * span, covariances


def shares_on_page(numbers):
    """Responsibilities `[frames, rows, k]`, 0 for those that the page leaves out."""
    shape = (len(numbers["turns"]), len(numbers["points"]), numbers["kept"])
    owners, shares = (
        np.frombuffer(base64.b64decode(numbers[name]), np.uint8).reshape(shape) for name in ("owners", "shares")
    )
    found = np.zeros((*shape[:2], len(numbers["palette"])))
    np.put_along_axis(found, owners.astype(int), shares / 255, axis=-1)
    return found


def test_the_half_steps_are_those_of_em(page, faithful):
    """By numpy: colours are the E-step's, ellipses move as the M-step moves them, and l is that of each mixture."""
    x = np.asarray(faithful[0], float)
    numbers = numbers_of(page)
    textbook, w = oracle.gaussian(oracle.FULL), np.ones(len(x))
    span = np.array([axis["span"] for axis in numbers["axes"]])
    np.testing.assert_allclose(span, np.ptp(x, axis=0), rtol=1e-5)
    shares = shares_on_page(numbers)
    assert shares.shape == (len(numbers["turns"]), len(x), 2)  # all rows are drawn
    for frame in range(len(numbers["turns"]) - 1):
        at, turn = numbers["at"][frame], numbers["turns"][frame]
        weights, means, covariances = mixture_on_page(numbers, at)
        resp, log_likelihood = oracle.e_step(textbook, weights, {"means": means, "covariances": covariances}, x, w)
        np.testing.assert_allclose(shares[frame], resp, atol=0.01)
        assert numbers["trace"][turn] == pytest.approx(log_likelihood, abs=0.3)
        new_weights, new = oracle.m_step(textbook, resp, x, w)
        shown_weights, shown_means, shown_covariances = mixture_on_page(numbers, at + 1)
        np.testing.assert_allclose(shown_weights, new_weights, atol=1e-3)
        np.testing.assert_allclose(shown_means / span, new["means"] / span, atol=3e-3)
        scale = span[:, None] * span
        np.testing.assert_allclose(shown_covariances / scale, new["covariances"] / scale, atol=1e-3)


def test_the_lines_are_l_and_its_bound(page, faithful):
    """l grows; l-hat touches it at 0, lies below elsewhere and is highest at the M-step."""
    numbers = numbers_of(page)
    trace = np.array(numbers["trace"])
    assert (np.diff(trace) > -1e-6 * abs(trace[-1])).all()
    assert abs(trace[-1] - float(faithful[2].objective)) < 0.1
    along = np.array(numbers["along"])
    above, below = np.array(numbers["log_likelihood"], float), np.array(numbers["proxy"], float)
    assert above.shape == below.shape == (len(numbers["turns"]), len(along))
    zero, one = int(np.argmin(np.abs(along))), int(np.argmin(np.abs(along - 1)))
    slack = (1e-6 if X64 else 1e-3) * abs(trace[-1])
    assert (along[zero], along[one]) == (0, 1)
    assert (below <= above + np.maximum(slack, 1e-3 * abs(above))).all()
    np.testing.assert_allclose(above[:, zero], 0, atol=slack)
    np.testing.assert_allclose(below[:, zero], 0, atol=slack)
    assert (below[:, one] >= below.max(axis=1) - slack).all()
    turns = np.array(numbers["turns"])[:-1]
    rises = trace[turns + 1] - trace[turns]
    np.testing.assert_allclose(above[:-1, one], rises, atol=slack, rtol=1e-3)


NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="there is no node to run JavaScript")
def test_what_the_page_says_of_a_step(page, tmp_path):
    """Sentences, responsibilities, rings and the arrow of the trace, by the JavaScript of the page and by numpy."""
    numbers = numbers_of(page)
    script = (Path(jaxem.html.__file__).parent / "page" / "lesson.js").read_text()
    wanted = """
    const em = lesson(JSON.parse(require("fs").readFileSync(0, "utf8")));
    const steps = Array.from({ length: em.steps }, (_, i) => i), rows = Array.from({ length: em.n }, (_, i) => i);
    console.log(JSON.stringify({
      said: steps.map(em.sentence), titles: steps.map(em.title), totals: steps.map(em.logLikelihood),
      shares: rows.map((row) => em.responsibilities(1, row).found), changed: em.changed(1), colour: em.colour(0, 0),
      ring: em.ring(em.mixtureAt(3), 0, 0, 1, 2), below: steps.map(em.isBelow), range: em.traceRange(),
      positions: [em.position(0), em.position(1), em.position(em.steps - 1)], mean: em.written(0, em.mean(0, 0, 0)),
    }));"""
    (tmp_path / "run.js").write_text(f"{script}\n{wanted}")
    done = subprocess.run(
        [str(NODE), str(tmp_path / "run.js")], input=json.dumps(numbers), capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    trace, last = numbers["trace"], len(numbers["trace"]) - 1
    frames = numbers["turns"]
    assert seen["titles"] == ["E: colour the points", "M: move the ellipses"] * (len(frames) - 1) + [
        "E: colour the points"
    ]
    assert seen["totals"][:2] == trace[:2]
    assert f"rises by {trace[1] - trace[0]:.2f} to {trace[1]:.3f}" in seen["said"][1]
    assert f"promised {numbers['proxy'][0][numbers['along'].index(1)]:.2f}" in seen["said"][1]
    assert "random start" in seen["said"][0]
    assert f"ends here, at log-likelihood {trace[last]:.3f}" in seen["said"][-1]
    assert seen["positions"] == [f"turn 1 of {last}, E-step", f"turn 1 of {last}, M-step", f"after turn {last}, E-step"]
    shares = shares_on_page(numbers)
    np.testing.assert_allclose(seen["shares"], shares[1], atol=1e-12)
    changed = int(np.sum(shares[1].argmax(axis=1) != shares[0].argmax(axis=1)))
    assert abs(seen["changed"] - changed) <= np.sum(np.ptp(shares[1], axis=1) == 0)  # ties have no one owner
    assert f"{seen['changed']} of {len(numbers['points'])} have a new owner" in seen["said"][2]
    mixed = shares[0, 0] @ np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in numbers["palette"]])
    np.testing.assert_allclose(
        [int(c) for c in re.findall(r"\d+", seen["colour"])], mixed / shares[0, 0].sum(), atol=0.51
    )
    _, means, covariances = mixture_on_page(numbers, numbers["at"][1] + 1)
    low, span = (np.array([axis[name] for axis in numbers["axes"]]) for name in ("low", "span"))
    away = low + np.array(seen["ring"]) * UNIT * span - means[0]
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariances[0]), away), 4, rtol=1e-6)
    assert seen["below"] == [total < seen["range"][0] for total in seen["totals"]]
    assert float(seen["mean"]) == pytest.approx(mixture_on_page(numbers, 0)[1][0, 0], abs=0.01)


def test_numbers_on_the_page_are_the_fits(page, faithful):
    _, results, best = faithful
    shown = " ".join(Page(page).shown)
    assert f"{float(best.log_likelihood):,.4f}" in shown
    for weight in np.asarray(best.mixture.weights):
        assert f"{weight:.4f}" in shown
    assert re.search(r"\d+ of \d+</b> laws", page)
    assert (
        page.count(f"took {int(best.n_iter)} passes") == len(re.findall(r"\d+ pass", page)) == 1
    )  # one count of passes
    optima = jaxem.landscape(results)
    assert "<th>restarts</th>" in page
    assert f"</i> {optima.counts[0]}</td>" in page


def test_no_verification_is_shown_nor_made(faithful, monkeypatch):
    x, _, best = faithful
    monkeypatch.setattr(jaxem.html, "verify", None)
    assert "Verification" not in jaxem.html.report(best, x, verification=False)


# -- a selection and a search --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def selection(faithful):
    """Of made-up candidates, so that curves can be known: two families, three numbers of components, one that failed."""
    _, results, best = faithful
    landscape = jaxem.landscape(results)._replace(
        objective=np.array([-10.0, -12.0, -18.0]),
        log_likelihood=np.array([-10.0, -12.0, -18.0]),
        counts=np.ones(3, int),
    )
    search = Search(best, landscape, results, ("random",) * 6, 420, None)
    bic = {jaxem.Full(): (2600.0, 2320.0, 2330.0), jaxem.Diagonal(): (3050.0, 2346.0, 2332.0)}
    candidates = [
        Candidate(family, k, -1000.0 - k, 10 + k, value, value - 50, value + 50, Status.CONVERGED)
        for family, values in bic.items()
        for k, value in enumerate(values, start=1)
    ]
    candidates[5] = candidates[5]._replace(status=Status.DEGENERATE)
    return Selection(search, 1, tuple(candidates), 2_520, 272.0)


def test_a_selection_has_its_table_and_curves(faithful, selection):
    page = jaxem.html.report(selection, faithful[0], verification=False)
    rows = re.findall(r"<tr[^>]*>(?:(?!</tr>).)*</tr>", page[page.index("choice between") : page.index("Parameters")])
    assert len(rows) == 7
    for row, one in zip(rows[1:], selection.candidates, strict=True):
        assert all(f"<td>{value:.1f}</td>" in row for value in (one.bic, one.aic, one.icl))
        assert ("chosen" in row) == (one is selection.candidates[1])
        assert ("degenerate" in row) == one.status.failed
    curves = [
        np.array(re.findall(r"([\d.]+) ([\d.]+)", path), float)
        for path in re.findall(r'<path d="(M[^"]*)" fill="none" stroke-width', page)
    ]
    full, diagonal = curves
    assert (len(full), len(diagonal)) == (3, 2)  # the one that failed is not drawn
    drawn = np.concatenate([full, diagonal])[:, 1]
    bics = np.array([one.bic for one in selection.candidates[:5]])
    slope = np.polyfit(bics, drawn, 1)
    assert slope[0] < 0  # less is lower on the page, where y grows downwards
    np.testing.assert_allclose(np.polyval(slope, bics), drawn, atol=0.1)
    assert "2,520 passes" in page
    assert re.search(r"plain EM from one random start makes \d+ turns", page)


def test_gaps_of_a_search_are_drawn_in_nats(faithful, selection):
    page = jaxem.html.report(selection.best, faithful[0], verification=False)
    found = page[page.index("Landscape") :]
    widths = [float(width) for width in re.findall(r'class=gap><i><b style="width:([\d.]+)%', found)]
    assert widths == [0.0, 25.0, 100.0]  # 0, 2 and 8 nats
    assert "class=climbs" not in found
    assert "420 passes" in page
    assert "choice between" not in page


# -- any data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 7, 12, 30, 60])
@pytest.mark.parametrize("d", [1, 2, 12, 50])
def test_the_numbers_of_a_player_fit_in_a_page(k, d):
    """Of the longest climb, at the widest numbers; with names that are cut, tables and a table of many candidates."""
    rng, made = np.random.default_rng(0), playing.MOST_TURNS
    longest = 0
    for turns in (made, playing._frames(playing.MOST_FRAMES, k)[-1] + 1):
        frames = playing._frames(turns, k)
        kept = np.union1d(frames, np.minimum(frames + 1, turns - 1))
        assert len(kept) <= playing.MOST_KEPT
        axes = playing._axes(d, (0, min(1, d - 1)), len(kept) * k)
        rows, a = playing._rows(len(frames), k), len(axes)
        assert rows >= 100
        assert a >= min(d, 2)
        factors = rng.normal(size=(len(kept), k, a, a))
        seen = playing.Seen(
            None, rng.uniform(0, 1, (len(kept), k)), -1.2345e3 * rng.uniform(1, 2, (len(kept), k, a)),
            factors @ np.swapaxes(factors, -1, -2), rng.dirichlet(np.ones(k), (len(kept), rows)),
            -1e3 * rng.uniform(1, 2, (len(kept), 26)), -1e3 * rng.uniform(1, 2, (len(kept), 26)),
        )  # fmt: skip
        numbers = {
            "axes": [{"name": "&" * jaxem.html.LONGEST_NAME, "low": -1.23456789012e-100, "span": 1.23456e-100}] * a,
            "points": rng.integers(0, playing.PARTS, (rows, a)).tolist(),
            "trace": playing.as_lists(-1e7 * rng.uniform(1, 2, turns), 10),
            **playing._shares(seen.resp[: len(frames)]),
            **playing._shapes(seen, np.arange(k), len(kept), np.zeros(a), np.ones(a)),
            **playing._lines(seen, np.arange(len(frames))),
        }
        longest = max(longest, len(jaxem.html._json(numbers)))
    page = Path(jaxem.html.__file__).parent / "page"
    static = sum(len(path.read_bytes()) for path in page.iterdir())
    assert static + longest < MOST_BYTES - ROOM_FOR_TABLES - 10_000  # for what is always there


def test_the_tables_of_a_page_fit_in_it_too(selection):
    """Of 400 candidates, 50 columns with names that are all marks, 30 components and 100 standard errors."""
    rng, k, d = np.random.default_rng(0), 30, 50
    factors = rng.normal(size=(k, d, d))
    params = jaxem.GaussianParams(-1e5 * rng.normal(size=(k, d)), factors @ np.swapaxes(factors, -1, -2))
    mixture = jaxem.Mixture(np.full(k, -np.log(k)), params, jaxem.Full())
    names = ['"' * jaxem.html.LONGEST_NAME] * d
    many = selection._replace(
        candidates=tuple(one._replace(bic=-1234567.8 + i) for i, one in enumerate(selection.candidates * 66))
    )
    place = f"covariances[0, {names[0][: jaxem.html.LONGEST_IN_TABLE]}, {names[0][: jaxem.html.LONGEST_IN_TABLE]}]"
    errors = jaxem.display.html_table(("parameter", *["std. error"] * 5), ((place, *["-1.2e-05"] * 5),) * 100)
    page = jaxem.html._selection(many) + jaxem.html._parameters(mixture, names) + errors
    assert "candidates of higher BIC are not shown" in page
    assert len(page.encode()) < ROOM_FOR_TABLES


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_column_far_from_nought_and_one_component(dtype):
    """Values on the axis are those of the data, to the digits that the dtype has."""
    if dtype == np.float64 and not X64:
        pytest.skip("float64 is off")
    x = (1e6 + np.random.default_rng(0).normal(size=(50, 1))).astype(dtype)
    result = jaxem.fit(jaxem.starts(jax.random.key(0), jaxem.Diagonal(), x, 1, 1)[0], x)
    page = jaxem.html.report(result, x, verification=False)
    numbers = numbers_of(page)
    [axis] = numbers["axes"]
    points = axis["low"] + np.array(numbers["points"])[:, 0] * UNIT * axis["span"]
    np.testing.assert_allclose(np.sort(points), np.sort(x[:, 0]), atol=1e-3)
    assert mixture_on_page(numbers, -1)[1][0, 0] == pytest.approx(
        np.mean(x, dtype=float), abs=0.1 if dtype == np.float32 else 1e-3
    )
    assert "1 component," in page


def test_features_can_be_chosen_and_what_cannot_be_shown_is_said():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(90, 14))
    result = jaxem.best(fitted(wide, jaxem.Spherical()))
    page = jaxem.html.report(result, wide, features=(13, 2), verification=False)
    numbers = numbers_of(page)
    assert [axis["name"] for axis in numbers["axes"][:3]] == ["x14", "x3", "x1"]
    assert f"chosen from {len(numbers['axes'])} of the 14 columns" in page
    assert "2 more columns are not shown" in page
    low, span = (np.array([axis[name] for axis in numbers["axes"]]) for name in ("low", "span"))
    order = [13, 2, *(j for j in range(13) if j != 2)][: len(low)]
    points = low + np.array(numbers["points"]) * UNIT * span
    np.testing.assert_allclose(points, wide[:, order], atol=1e-3)
    with pytest.raises(ValueError, match="features"):
        jaxem.html.report(result, wide, features=(0, 14))
    with pytest.raises(ValueError, match="columns has 1 names"):
        jaxem.html.report(result, wide, columns=["a"])


@pytest.mark.parametrize(
    ("family", "words"),
    [(jaxem.Bernoulli(), "no ellipses for Bernoulli"), (jaxem.Categorical(2), "no ellipses for Categorical")],
    ids=lambda one: type(one).__name__,
)
def test_a_family_without_ellipses_has_no_player(family, words):
    flags = (np.random.default_rng(0).uniform(size=(60, 3)) < 0.5).astype(float)
    page = jaxem.html.report(jaxem.starts(jax.random.key(0), family, flags, 2, 1)[0], flags, verification=False)
    assert words in page
    assert numbers_of(page) == {}
    assert "probs x1" in page


@pytest.mark.slow
@pytest.mark.parametrize("family", [jaxem.StudentT(), jaxem.Tied(), jaxem.Full(missing=True), jaxem.Ellipsoidal("VEV")])
def test_players_of_other_families(family):
    """The climb rises, l-hat lies below l, and rows with missing values have a place."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(60, 2)), rng.normal(size=(60, 2)) + 4])
    if family.holes:
        x[::7, 0] = np.nan
    page = jaxem.html.report(jaxem.starts(jax.random.key(0), family, x, 2, 1)[0], x, verification=False)
    numbers = numbers_of(page)
    assert np.isfinite(np.array(numbers["points"], float)).all()
    assert (np.diff(numbers["trace"]) > -1e-3).all()
    slack = 1e-2 if X64 else 1.0
    assert (np.array(numbers["proxy"], float) <= np.array(numbers["log_likelihood"], float) + slack).all()
    assert ("missing values are drawn" in page.lower()) == family.holes


@pytest.mark.slow
def test_a_sample_of_large_data_is_said():
    rng = np.random.default_rng(0)
    many = np.concatenate([rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2)) + 4])
    page = jaxem.html.report(jaxem.best(fitted(many, jaxem.Spherical())), many)
    assert "sample of 2,000 of the 4,000 rows" in page
    assert re.search(r"draws \d+ of the rows", page)


def test_the_command_line_draws_and_reports(tmp_path):
    done = run("fit", "--plot", tmp_path / "fit.png", "--report", tmp_path / "fit.html", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "fit.html").read_text()
    assert "Old Faithful" in page
    assert "Verification" not in page
    assert re.search(r"The search made [\d,]+ passes", page)
    assert "drawn in" in done.stdout
    assert "reported in" in done.stdout
    fails(run("fit", "--plot", tmp_path / "fit.png"), "exists; choose another name or add --force", code=2)
    fails(run("fit", "--plot", tmp_path / "fit.doc"), "suffix", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.html", "fit.png"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 380])
def test_in_a_real_browser(tmp_path, width):
    """Buttons and keys step, play plays, a chosen point is shown, the console is silent, and nothing is cut on a phone."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    path = tmp_path / "fit.html"
    done = subprocess.run(
        [*COMMAND, "fit", "-k", "2:3", "--report", str(path), "--no-verify"], capture_output=True, text=True
    )
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
        assert tab.evaluate(
            "[...document.querySelectorAll('.wide, .abreast, .optima')].every((e) => e.scrollWidth <= e.clientWidth + 1)"
        )
        sizes = tab.evaluate(
            "[...document.querySelectorAll('svg[role=img] text:not(:empty)')].map((t) =>"
            " parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getBoundingClientRect().width"
            " / t.ownerSVGElement.viewBox.baseVal.width)"
        )
        assert min(sizes) > 10  # pixels
        said = lambda: tab.locator(".told p").inner_text()  # noqa: E731
        ellipse = tab.locator("#player path[stroke='#0072B2']").first
        slider, before, first = tab.locator("input[type=range]"), ellipse.get_attribute("d"), said()
        tab.get_by_role("button", name="next half-step").click()
        assert slider.input_value() == "1"
        assert said() != first
        assert ellipse.get_attribute("d") != before  # the M-step moves it
        tab.keyboard.press("ArrowLeft")
        assert slider.input_value() == "0"
        assert said() == first
        slider.focus()
        for _ in range(6):
            slider.press("ArrowRight")
        assert slider.input_value() == "6"
        point = tab.locator(".point p").first
        chosen = point.inner_text()
        tab.locator("#player .main > svg").focus()
        tab.keyboard.press("ArrowRight")
        assert point.inner_text() != chosen
        assert slider.input_value() == "6"
        bars = tab.locator(".bars small").all_inner_texts()
        assert abs(sum(int(re.sub(r"\D", "", bar)) for bar in bars) - 100) <= 2
        tab.get_by_role("button", name="play").click()
        tab.wait_for_timeout(1500)
        assert int(slider.input_value()) > 6
        tab.get_by_role("button", name="pause").click()
        paused = slider.input_value()
        tab.wait_for_timeout(700)
        assert slider.input_value() == paused
        assert errors == []
        assert asked == [path.as_uri()]
        browser.close()
