"""A fit as one HTML file: EM to play half-step by half-step, the choice between models, parameters, optima, verification.

The file needs no network and no library: it holds the numbers of playing.py as JSON, and page/*.js draws them as SVG. What does
not move is written here: tables, the curves of BIC, the gaps between optima. It stays below 300 kB for any data: what is
shown is limited, and the page says what is not shown. Text that comes from the data is escaped.
"""

import html as escaping
import importlib.resources
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxem.checks import as_mixture, as_supported
from jaxem.criteria import criteria
from jaxem.display import as_moments, count_of, html_table, summary_card
from jaxem.families.base import Family
from jaxem.families.gaussian import GaussianParams
from jaxem.families.student_t import StudentT
from jaxem.inference import Summary
from jaxem.laws import Report, verify
from jaxem.loop import Result, fit
from jaxem.mixture import Mixture
from jaxem.playing import COLOURS, Climb, climb_of, palette
from jaxem.queue import Landscape
from jaxem.racing import Search
from jaxem.selection import Candidate, Selection
from jaxem.stopping import Status

MOST_SHOWN = 12
"""components, features and optima that a table shows, at most"""
MOST_NUMBERS = 60
"""numbers of a component that a table shows, at most, of a family that is not Gaussian"""
ABREAST = 3
"""components beside each other in a table, at most, so that it fits on a phone"""
MOST_CANDIDATES = 80
"""candidates of a selection that the table shows, at most: those with the least BIC"""
LONGEST_NAME, LONGEST_IN_TABLE = 80, 24
"""characters of a name that the page shows, and a table"""
SIDES = (400, 250)
"""width and height of the curves of BIC"""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""how the curves of BIC are drawn; with eight colours they tell 32 families apart"""


def report(
    result: Any,
    x: ArrayLike,
    *,
    columns: Sequence[str] | None = None,
    n: float | None = None,
    landscape: Landscape | None = None,
    verification: Report | Literal[False] | None = None,
    summary: Summary | None = None,
    title: str = "A mixture fitted by EM",
    features: tuple[int, int] = (0, 1),
    seed: int = 0,
) -> str:
    """The page, as text to be written to a file; at most 300 kB.

    Args:
        result: a Selection, whose candidates are compared on the page; a Search; a Result of `fit` or `best`; a Mixture or a
            fitted `jaxem.sklearn.GaussianMixture`.
        x: `[n, d]`, the data it was fitted to.
        columns: names of the d columns.
        n: the number of observations in BIC, if that is not the number of rows, as with weights.
        landscape: the optima that restarts ended in; by default those of the search, if there was one.
        verification: what `verify` found; None: it is computed; False: the page has none.
        summary: of `jaxem.summary`: a table of errors and intervals is added.
        title: of the page.
        features: the two columns that the player draws first. The reader can choose others.
        seed: of the player's starts.

    Raises:
        ValueError: if x does not suit the mixture, or a feature is not there.
    """
    found = _unwrap(result, x)
    mixture = found.result.mixture
    data = as_supported(mixture.family, x, mixture.n_components, mixture.family.n_features(mixture.components))
    values = np.asarray(data.astype(np.result_type(data.dtype, mixture.log_weights.dtype)))
    rows, d = values.shape
    names = [f"x{j + 1}" for j in range(d)] if columns is None else [_shorter(str(name)) for name in columns]
    if len(names) != d:
        raise ValueError(f"columns has {len(names)} names; give one for each of the {d} columns of x")
    shown = [0] if d == 1 else [int(feature) for feature in features]
    if any(not 0 <= feature < d for feature in shown):
        raise ValueError(f"features = {features}; give two columns from 0 to {d - 1}")
    if verification is None:
        verification = verify(mixture, values)
    observed = found.selection.n if n is None and found.selection is not None else n or rows
    played = climb_of(found.result, values, shown, names, seed)
    optima = found.search.landscape if landscape is None and found.search is not None else landscape
    page = importlib.resources.files("jaxem") / "page"
    read: Callable[[str], str] = lambda name: (page / name).read_text(encoding="utf-8")  # noqa: E731
    return _fill(
        read("page.html"),
        TITLE=_text(_shorter(title)),
        STYLE=read("page.css"),
        SCRIPT=read("lesson.js") + read("page.js"),
        SUBTITLE=_text(f"{count_of(rows, 'row')}, {count_of(d, 'column')}; {_description(mixture)}"),
        CARDS=_cards(found.result, observed),
        SELECTION="" if found.selection is None else _selection(found.selection),
        PARAMETERS=_parameters(mixture, names) + ("" if summary is None else _errors(summary, names)),
        VERIFICATION="" if verification is False else _verification(verification),
        LANDSCAPE="" if optima is None else _landscape(optima, of_search=landscape is None),
        PLAYER=_passes(found, played) + _player(played, rows, np.isnan(values).any(), mixture.family),
        DATA=_json(played.numbers if isinstance(played, Climb) else {}),
    )


class Found(NamedTuple):
    """A result, and where it comes from."""

    result: Result
    search: Search | None
    selection: Selection | None


def _unwrap(found: Any, x: ArrayLike) -> Found:
    """The Result in a Selection or a Search; of a mixture or an estimator one whose likelihood is that of x."""
    selection = found if isinstance(found, Selection) else None
    search = found.best if isinstance(found, Selection) else found if isinstance(found, Search) else None
    result = found if search is None else search.best
    if isinstance(result, Result):
        return Found(result, search, selection)
    result = fit(as_mixture(found, x), x, max_iter=0)
    if hasattr(found, "converged_"):
        status = Status.CONVERGED if found.converged_ else Status.MAX_ITER
        result = result._replace(status=jnp.int32(status), n_iter=jnp.int32(found.n_iter_))
    return Found(result, None, None)


# -- the page ------------------------------------------------------------------------------------------------------------


def _fill(template: str, **parts: str) -> str:
    """The template with its parts put in at once, so that no part is searched for another's mark."""
    pieces = template.split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:]))


def _text(text: str) -> str:
    return escaping.escape(str(text), quote=True)


def _shorter(name: str, most: int = LONGEST_NAME) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def _json(numbers: dict[str, Any]) -> str:
    """JSON that may stand in a script element, whatever it holds."""
    text = json.dumps(numbers, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _note(*told: str) -> str:
    """A paragraph of small print of what is not empty."""
    said = "; ".join(one for one in told if one)
    return f"<p class=note>{_text(said[0].upper() + said[1:])}.</p>" if said else ""


def _description(mixture: Mixture) -> str:
    k, p = mixture.n_components, mixture.n_parameters
    return f"{count_of(k, 'component')}, {mixture.family.shown_name}, {count_of(p, 'parameter')}"


def _cards(result: Result, n: float) -> str:
    total, status = float(result.log_likelihood), Status(int(result.status))
    of_fit = criteria(total, result.mixture.n_parameters, n)
    bad = status.failed or status == Status.OBJECTIVE_FELL
    cards = [
        ("log-likelihood", f"{total:,.4f}", f"{total / n:.5f} a row"),
        ("BIC", f"{of_fit.bic:,.3f}", "less is better"),
        ("AIC", f"{of_fit.aic:,.3f}", "less is better"),
        ("status", status.name.replace("_", " ").lower(), status.meaning),
    ]
    return "".join(
        f'<div class="card{" bad" if name == "status" and bad else ""}">'
        f"<span>{name}</span><b>{_text(value)}</b><small>{_text(note)}</small></div>"
        for name, value, note in cards
    )


def _passes(found: Found, played: Climb | str) -> str:
    """What the fit took, and what plain EM takes, in one sentence."""
    if found.selection is not None:
        took = f"The selection made {found.selection.passes:,} passes over the data, from many starts"
    elif found.search is not None:
        took = f"The search made {found.search.passes:,} passes over the data, from many starts"
    elif int(found.result.n_iter) > 0:
        took = f"The climb to this fit took {count_of(int(found.result.n_iter), 'pass', 'passes')} over the data"
    else:
        took = ""
    if isinstance(played, str):
        return f"<p>{took}.</p>" if took else ""
    shown = len(played.numbers["turns"]) - 1
    some = f", of which {shown} are played here, most of them early" if shown < played.turns else ", played here"
    plain = f"lain EM from one random start makes {count_of(played.turns, 'turn')}{some}"
    return f"<p>{took}; p{plain}.</p>" if took else f"<p>P{plain}.</p>"


def _player(played: Climb | str, n: int, holes: bool, family: Family) -> str:
    if isinstance(played, str):
        return _note(f"there is no player: {played}")
    told = [
        f"the player uses a sample of {played.rows:,} of the {n:,} rows" if played.rows < n else "",
        f"the player draws {played.drawn:,} of the rows" if played.drawn < played.rows else "",
        f"the axes can be chosen from {played.axes} of the {played.columns} columns"
        if played.axes < played.columns
        else "",
        "missing values are drawn where the fit expects them" if holes else "",
        "the player ends in another optimum than the fit: none of its starts led plain EM to that one"
        if played.rows == n and not played.is_best
        else "",
    ]
    return f'<div id="player"></div>{_legend(played, family)}{_note(*told)}'


def _legend(played: Climb, family: Family) -> str:
    """What lines, colours, numbers and sizes mean."""
    k, flat = len(played.numbers["palette"]), played.axes == 1
    scaled = isinstance(family, StudentT)  # its scales are no standard deviations
    spread, inside = ("scales", "") if scaled else ("standard deviations", "; {} % of its distribution lie inside")
    line = '<svg viewBox="0 0 34 12" aria-hidden="true"><path d="M1 6H33"{}/></svg>'
    shapes = (
        [(line.format(""), "density of a component, times its weight; the height of a point says nothing")]
        if flat
        else [
            (line.format(""), f"two {spread} of a component{inside.format(86)}"),
            (line.format(' stroke-dasharray="5 4"'), f"one of its {spread}{inside.format(39)}"),
        ]
    )
    dots = "".join(f'<i class="dot" style="background:{colour}"></i>' for colour in palette(min(k, len(COLOURS))))
    again = "; colours repeat after eight, so read the numbers" if k > len(COLOURS) else ""
    size = "The area under a curve is its weight" if flat else "The size of an ellipse is its spread, not its weight"
    entries = [
        *shapes,
        (dots, f"a point has the colours of the components, mixed by its responsibilities{again}"),
        ("<b>0</b>", f"the number of a component, at its mean. {size}; all points have one size"),
    ]
    items = "".join(f"<li><span>{mark}</span> {words}.</li>" for mark, words in entries)
    use = (
        "Arrow keys go from half-step to half-step. Touch a point, or go to the picture by Tab and use the arrow keys, "
        "to see its responsibilities."
    )
    return f'<ul class="legend" aria-label="legend">{items}</ul><p class=note>{use}</p>'


# -- the choice between models -------------------------------------------------------------------------------------------


def _selection(selection: Selection) -> str:
    """The table of candidates, and BIC over the number of components, a curve for each family."""
    candidates = list(selection.candidates)
    order = sorted(range(len(candidates)), key=lambda i: _as_last(candidates[i].bic))[:MOST_CANDIDATES]
    more = [field for field in ("cv", "p_value") if any(math.isfinite(getattr(one, field)) for one in candidates)]
    heads = (
        "k",
        "family",
        "log-likelihood",
        "p",
        "BIC",
        "AIC",
        "ICL",
        *({"cv": "CV", "p_value": "p-value"}[m] for m in more),
    )
    rows = []
    for i in sorted({*order, selection.chosen}):
        one = candidates[i]
        failed = "" if one.status == Status.CONVERGED else f" <i>{one.status.name.replace('_', ' ').lower()}</i>"
        numbers = [_decimal(getattr(one, field), 1) for field in ("bic", "aic", "icl")]
        others = [_decimal(getattr(one, field), 3 if field == "p_value" else 1) for field in more]
        cells = (
            f"<td>{one.n_components}</td><td>{_text(_shorter(one.family.shown_name, LONGEST_IN_TABLE))}{failed}</td>"
            f"<td class=spare>{_decimal(one.log_likelihood, 1)}</td><td class=spare>{one.n_parameters}</td>"
            + "".join(f"<td>{number}</td>" for number in (*numbers, *others))
        )
        mark = ' class="chosen" aria-label="the chosen model"' if i == selection.chosen else ""
        rows.append(f"<tr{mark}>{cells}</tr>")
    titles = "".join(f"<th{' class=spare' if h in ('log-likelihood', 'p') else ''}>{h}</th>" for h in heads)
    hidden = len(candidates) - len(rows)
    note = _note(f"{count_of(hidden, 'candidate')} of higher BIC are not shown") if hidden else ""
    return (
        "<section><h2>The choice between models</h2><p class=note>The chosen one is bold. Less is better; "
        f"n = {selection.n:.10g} observations in BIC and ICL.</p>{_curves(candidates, selection.chosen)}"
        f'<div class="wide choice"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f"{note}</section>"
    )


def _as_last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _decimal(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "&ndash;"


def _curves(candidates: Sequence[Candidate], chosen: int) -> str:
    """BIC over the number of components, of the candidates whose fit is sound."""
    sound = [one for one in candidates if math.isfinite(one.bic) and not one.status.failed]
    if not sound:
        return ""
    width, height, left, bottom = *SIDES, 62, 36
    ks, bics = [one.n_components for one in sound], [one.bic for one in sound]
    (low_k, high_k), (low, high) = (min(ks), max(ks)), (min(bics), max(bics))
    across = lambda k: left + 8 + (width - left - 22) * (0.5 if high_k == low_k else (k - low_k) / (high_k - low_k))  # noqa: E731
    up = lambda value: 12 + (height - bottom - 22) * (0.5 if high == low else (high - value) / (high - low))  # noqa: E731
    marks = [
        f'<line class="grid" x1="{left}" x2="{width}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>'
        f'<text x="{left - 5}" y="{up(value) + 4:.1f}" text-anchor="end">{value:.0f}</text>'
        for value in _ticks(low, high)
    ]
    several = sorted(set(ks))
    for k in several[:: max(1, math.ceil(len(several) / 10))]:
        marks.append(f'<text x="{across(k):.1f}" y="{height - 20}" text-anchor="middle">{k}</text>')
    lines, keys = [], []
    for i, family in enumerate(dict.fromkeys(one.family for one in sound)):
        own = sorted((one.n_components, one.bic) for one in sound if one.family == family)
        look = f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-dasharray="{DASHES[i // len(COLOURS) % len(DASHES)]}"'
        path = "M" + "L".join(f"{across(k):.1f} {up(bic):.1f}" for k, bic in own)
        dots = "".join(f'<circle cx="{across(k):.1f}" cy="{up(bic):.1f}" r="3"/>' for k, bic in own)
        lines.append(
            f'<path d="{path}" fill="none" stroke-width="2" {look}/><g fill="{COLOURS[i % len(COLOURS)]}">{dots}</g>'
        )
        name = _text(_shorter(family.shown_name, LONGEST_IN_TABLE))
        keys.append(f'<li><svg viewBox="0 0 34 12" aria-hidden="true"><path d="M1 6H33" {look}/></svg> {name}</li>')
    best = candidates[chosen]
    ring = (
        f'<circle class="halo" cx="{across(best.n_components):.1f}" cy="{up(best.bic):.1f}" r="8"/>'
        if best in sound
        else ""
    )
    alt = f"BIC over the number of components; the chosen model is {best.family.shown_name} with {best.n_components}"
    return (
        f'<figure class="curves"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{_text(alt)}">{"".join(marks)}'
        f'{"".join(lines)}{ring}<text x="{(left + width) / 2}" y="{height - 3}" text-anchor="middle">components</text>'
        f'<text transform="translate(11 {(height - bottom) / 2}) rotate(-90)" text-anchor="middle">BIC</text></svg>'
        f'<ul class="legend" aria-label="families">{"".join(keys)}</ul></figure>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between two, or the one number that there is."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next((factor * power for factor in (5, 2) if (high - low) / (factor * power) >= 3), power)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


# -- parameters ----------------------------------------------------------------------------------------------------------


def _parameters(mixture: Mixture, names: list[str]) -> str:
    """Features as rows, a few components beside each other."""
    weights = np.exp(np.asarray(mixture.log_weights, float))
    k, d = len(weights), len(names)
    gaussian = isinstance(mixture.components, GaussianParams)
    heads, cells = _gaussian_cells(mixture, names) if gaussian else _other_cells(mixture, names)
    rows = [("weight", [f"{weight:.4f}" for weight in weights]), *zip(heads, cells, strict=True)]
    tables = []
    for chunk in np.array_split(np.arange(min(k, MOST_SHOWN)), math.ceil(min(k, MOST_SHOWN) / ABREAST)):
        top = "".join(f'<th><i class="dot" style="background:{palette(k)[j]}"></i>{j}</th>' for j in chunk)
        body = "".join(
            f"<tr><th>{_text(_shorter(head, LONGEST_IN_TABLE))}</th>{''.join(f'<td>{numbers[j]}</td>' for j in chunk)}</tr>"
            for head, numbers in rows
        )
        tables.append(f"<table><thead><tr><th>component</th>{top}</tr></thead><tbody>{body}</tbody></table>")
    what = "mean &plusmn; standard deviation of each column" if gaussian else "parameters"
    hidden = [
        f"{count_of(k - MOST_SHOWN, 'more component')}" if k > MOST_SHOWN else "",
        f"{count_of(d - MOST_SHOWN, 'more column')}" if d > MOST_SHOWN else "",
        "some of the numbers of each component" if not gaussian and len(heads) == MOST_NUMBERS else "",
    ]
    hidden = [one for one in hidden if one]
    note = _note(f"{' and '.join(hidden)} are not shown") if hidden else ""
    return f'<p class=note>{what}</p><div class="abreast">{"".join(tables)}</div>{note}'


def _gaussian_cells(mixture: Mixture, names: list[str]) -> tuple[list[str], list[list[str]]]:
    """Mean and standard deviation of each column: a line for each column, a cell for each component."""
    means, matrices = (np.asarray(leaf, float) for leaf in as_moments(mixture.family, mixture.components))
    deviations, shown = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2)), names[: means.shape[1]][:MOST_SHOWN]
    cells = [
        [
            f"{mean:.5g} <i>&plusmn; {deviation:.3g}</i>"
            for mean, deviation in zip(means[:, i], deviations[:, i], strict=True)
        ]
        for i in range(len(shown))
    ]
    return shown, cells


def _other_cells(mixture: Mixture, names: list[str]) -> tuple[list[str], list[list[str]]]:
    """What the family shows of its components: a line for each number, a cell for each component."""
    k = mixture.n_components
    heads, cells = list[str](), list[list[str]]()
    for what, leaf in mixture.family.table(mixture.components).items():
        values = np.asarray(leaf, float)
        if values.ndim == 0 or len(values) != k:
            continue
        kinds = values.shape[2] if values.ndim > 2 else 1
        for i, numbers in enumerate(values.reshape(k, -1)[:, : MOST_SHOWN * kinds].T):
            place, of_kind = i // kinds, f" {i % kinds}" if values.ndim > 2 else ""
            name = names[place] if place < len(names) else str(place)
            heads.append(what if values.ndim == 1 else f"{what} {name}{of_kind}")
            cells.append(["" if np.isnan(number) else f"{number:.5g}" for number in numbers])
    return heads[:MOST_NUMBERS], cells[:MOST_NUMBERS]


def _errors(summary: Summary, names: list[str]) -> str:
    """The table of standard errors and intervals, and what to beware of."""
    card = summary_card(summary, [_shorter(name, LONGEST_IN_TABLE) for name in names])
    notes = "".join(f"<p class=note>{_text(note)}</p>" for note in card.notes)
    return f"<h2>How sure</h2><div class=wide>{html_table(card.header, card.rows)}</div>{notes}"


# -- verification and optima ---------------------------------------------------------------------------------------------


def _verification(found: Report) -> str:
    held = sum(law.ok for law in found.laws)
    rows = "".join(
        f'<tr class="{"" if law.ok else "bad"}"><td>{"&#10003;" if law.ok else "&#10007;"}</td><td>{_text(law.name)}'
        f"{_text(f': {law.reason}') if law.reason else ''}</td>"
        f"<td>{law.residual:.1e}</td><td>{law.tolerance:.0e}</td></tr>"
        for law in found.laws
    )
    notes = "".join(f"<p class=note>{_text(note)}</p>" for note in found.notes)
    return (
        f"<section><h2>Verification</h2><p><b>{held} of {len(found.laws)}</b> laws of EM hold at this fit, tried by automatic "
        f"differentiation.</p><details{'' if held == len(found.laws) else ' open'}><summary>each law</summary>"
        "<div class=wide><table><thead><tr><th></th><th>law</th><th>residual</th><th>at most</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>{notes}</section>"
    )


def _landscape(landscape: Landscape, of_search: bool) -> str:
    """How far each optimum lies below the best, in nats; of restarts also how many of them ended there."""
    values, counts = np.asarray(landscape.objective, float), np.asarray(landscape.counts)
    gaps, most = (values[:1] - values)[:MOST_SHOWN], max(1, int(counts.max(initial=1)))
    widest = max(float(gaps.max(initial=0.0)), 1e-12)
    lines = []
    for value, gap, count in zip(values.tolist(), gaps.tolist(), counts.tolist(), strict=False):
        climbs = (
            "" if of_search else f'<td class=climbs><i><b style="width:{100 * count / most:.1f}%"></b></i> {count}</td>'
        )
        below = "best" if gap == 0 else f"{gap:.2f}" if gap >= 0.01 else f"{gap:.1e}"
        drawn = f'<i><b style="width:{100 * gap / widest:.1f}%"></b></i>'
        lines.append(f"<tr><td>{value:,.4f}</td><td class=gap>{drawn}</td><td>{below}</td>{climbs}</tr>")
    note = _note(
        count_of(len(values) - MOST_SHOWN, "lower optimum", "lower optima") + " not shown"
        if len(values) > MOST_SHOWN
        else "",
        f"{count_of(landscape.degenerate, 'climb')} collapsed" if landscape.degenerate else "",
        f"{landscape.failed} failed" if landscape.failed else "",
        f"{landscape.saddles} ended at a saddle" if landscape.saddles else "",
    )
    titles = f"<th>log-likelihood</th><th colspan=2>nats below the best</th>{'' if of_search else '<th>restarts</th>'}"
    what = (
        "the optima that the finalists of the search ended in"
        if of_search
        else "the optima, and the restarts that ended there"
    )
    return (
        f'<section><h2>Landscape of optima</h2><p class=note>{what}</p><table class="optima"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>{note}</section>"
    )
