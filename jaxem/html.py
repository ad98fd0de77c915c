"""A fit as one HTML file: summary, parameters, verification, landscape, and EM to play step by step.

The file needs no network and no library: it holds the numbers as JSON, and page.js, a few dozen lines of JavaScript, draws
them as SVG. The player walks through plain EM from a random start: rows take the colours of their posteriors, ellipses
move, the log-likelihood rises. Beside it l-hat and the log-likelihood are drawn along the line from theta_t to
theta_t+1 = M(theta_t) in the chart,

    theta(s) = theta_t + s (theta_t+1 - theta_t):   l-hat(theta(0)) = l(theta(0)),  l-hat <= l,  argmax_s l-hat = 1.

Of large data a sample is drawn, and the page says so. Text that comes from the data is escaped.
"""

import base64
import html as escaping
import importlib.resources
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from jaxem.checks import as_mixture, as_supported
from jaxem.display import as_moments, html_table, summary_card
from jaxem.em import e_step, m_step, proxy
from jaxem.families.gaussian import GaussianParams
from jaxem.inference import Summary
from jaxem.init import RandomParameters
from jaxem.laws import Report, verify
from jaxem.loop import Result, fit
from jaxem.mixture import Mixture
from jaxem.queue import Landscape, fit_restarts, starts
from jaxem.selection import criteria
from jaxem.stopping import Status, has_failed

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#9A8C00", "#444444")
MOST_CLIMBED, MOST_DRAWN = 2_000, 500
"""rows that the player's EM uses, and rows that it draws, at most"""
TRIED, MOST_TURNS, MOST_FRAMES = 16, 400, 60
"""starts that the player's climb is chosen from, turns it makes and pictures it shows, at most"""
LIVELY = 30
"""turns that make a good show"""
ALONG = np.arange(-12, 39) / 20
"""where l and l-hat are drawn along the line, in EM steps"""
MOST_SHOWN = 12
"""components, features and optima that a table shows, at most"""


def report(
    result: Any,
    x: ArrayLike,
    *,
    columns: Sequence[str] | None = None,
    landscape: Landscape | None = None,
    verification: Report | None = None,
    summary: Summary | None = None,
    title: str = "A mixture fitted by EM",
    features: tuple[int, int] = (0, 1),
    seed: int = 0,
) -> str:
    """The page, as text to be written to a file.

    Args:
        result: a Result of `fit`, `best` or `search(...).best`; a Search, a Mixture or a fitted
            `jaxem.sklearn.GaussianMixture` will do.
        x: `[n, d]`, the data it was fitted to.
        columns: names of the d columns.
        landscape: the optima that restarts ended in.
        verification: what `verify` found; computed if not given.
        summary: of `jaxem.summary`: a table of errors and intervals is added.
        title: of the page.
        features: the two columns that the player draws.
        seed: of the player's starts.

    Raises:
        ValueError: if x does not suit the mixture, or a feature is not there.
    """
    result = _as_result(result, x)
    mixture = result.mixture
    data = as_supported(mixture.family, x, mixture.n_components, mixture.family.n_features(mixture.components))
    values = np.asarray(data.astype(np.result_type(data.dtype, mixture.log_weights.dtype)))
    n, d = values.shape
    names = [f"x{j + 1}" for j in range(d)] if columns is None else [str(name) for name in columns]
    if len(names) != d:
        raise ValueError(f"columns has {len(names)} names; give one for each of the {d} columns of x")
    shown = [0] if d == 1 else [int(feature) for feature in features]
    if any(not 0 <= feature < d for feature in shown):
        raise ValueError(f"features = {features}; give two columns from 0 to {d - 1}")
    verification = verify(result.mixture, values) if verification is None else verification
    played = _player_climb(result, values, shown, [names[feature] for feature in shown], seed)
    page = importlib.resources.files("jaxem") / "page"
    return _fill(
        (page / "page.html").read_text(encoding="utf-8"),
        TITLE=_text(title),
        STYLE=(page / "page.css").read_text(encoding="utf-8"),
        SCRIPT=(page / "page.js").read_text(encoding="utf-8"),
        SUBTITLE=_text(f"{n:,} rows, {d} {'column' if d == 1 else 'columns'}; {_description(result.mixture)}"),
        CARDS=_cards(result, n),
        PARAMETERS=_parameters(result.mixture, names) + ("" if summary is None else _errors(summary, names)),
        VERIFICATION=_verification(verification),
        LANDSCAPE="" if landscape is None else _landscape(landscape),
        PLAYER=_player(played, n),
        DATA=_json({} if played is None else played.numbers),
    )


def _as_result(found: Any, x: ArrayLike) -> Result:
    """A Result, also of a Search, or of a mixture or an estimator, whose likelihood is that of x."""
    for _ in range(2):  # a Selection holds a Search, which holds a Result
        found = getattr(found, "best", found)
    if isinstance(found, Result):
        return found
    result = fit(as_mixture(found, x), x, max_iter=0)
    if not hasattr(found, "converged_"):
        return result
    status = Status.CONVERGED if found.converged_ else Status.MAX_ITER
    return result._replace(status=jnp.int32(status), n_iter=jnp.int32(found.n_iter_))


# -- the player ----------------------------------------------------------------------------------------------------------


class Climb(NamedTuple):
    """What the player shows."""

    numbers: dict[str, Any]
    rows: int  # that it uses
    drawn: int  # rows
    turns: int
    is_best: bool  # whether it ends in the fit's optimum


def _player_climb(result: Result, values: np.ndarray, shown: list[int], names: list[str], seed: int) -> Climb | None:
    """Plain EM from a random start that ends well and is worth watching; None if there is nothing to draw."""
    mixture = result.mixture
    if not isinstance(mixture.components, GaussianParams):
        return None
    rng = np.random.default_rng(seed)
    sampled = values if len(values) <= MOST_CLIMBED else values[np.sort(rng.choice(len(values), MOST_CLIMBED, False))]
    k = mixture.n_components
    if len(sampled) < k:
        return None
    begun = starts(jax.random.key(seed), mixture.family, sampled, k, TRIED, RandomParameters())
    ends = fit_restarts(begun, sampled, max_iter=MOST_TURNS)
    objective, turns = np.asarray(ends.objective, float), np.asarray(ends.n_iter)
    sound = np.isfinite(objective) & ~has_failed(np.asarray(ends.status))
    if not sound.any():
        return None
    reached = float(result.objective) if len(sampled) == len(values) else -math.inf
    top = max(float(objective[sound].max()), reached)
    near = sound & (objective > top - 0.1)
    among = near if near.any() else sound & (objective == objective[sound].max())
    chosen = int(np.argmin(np.where(among, np.abs(np.log((turns + 1) / LIVELY)), np.inf)))
    start = begun[chosen]
    made = min(int(turns[chosen]) + 1, MOST_TURNS)
    frames = (
        np.arange(made)
        if made <= MOST_FRAMES
        else np.unique(np.round(np.geomspace(1, made, MOST_FRAMES))).astype(int) - 1
    )
    climbed, log_likelihood = _climb(start, jnp.asarray(sampled), made)
    kept = climbed[frames]
    drawn = np.sort(rng.choice(len(sampled), min(MOST_DRAWN, len(sampled)), False))
    resp = np.asarray(jax.vmap(lambda one: one.responsibilities(jnp.asarray(sampled[drawn])))(kept), float)
    below, above = (np.asarray(one, float) for one in _proxy_along(kept, jnp.asarray(sampled), jnp.asarray(ALONG)))
    means, factors = _ellipses(kept, shown)
    weights = np.exp(np.asarray(kept.log_weights, float))
    order = _matching_order(mixture, kept[-1])
    soft = np.nan_to_num(resp[..., order] @ _colours(k))
    numbers = {
        "names": names,
        "points": _as_lists(np.asarray(mixture.impute(sampled[drawn]))[:, shown]),  # expected values for missing ones
        "colours": base64.b64encode(np.clip(np.round(soft * 255), 0, 255).astype(np.uint8).tobytes()).decode(),
        "palette": list(_palette(k)),
        "turns": frames.tolist(),
        "weights": _as_lists(weights[:, order]),
        "means": _as_lists(means[:, order]),
        "factors": _as_lists(factors[:, order]),
        "trace": _as_lists(np.asarray(log_likelihood, float), 10),
        "along": _as_lists(ALONG),
        "log_likelihood": _as_lists(above, 10),
        "proxy": _as_lists(below, 10),
    }
    return Climb(numbers, len(sampled), len(drawn), made - 1, bool(near.any() and reached > -math.inf))


def _climb(start: Mixture, x: Array, made: int) -> tuple[Mixture, Array]:
    """theta_0, theta_1, ... and their log-likelihoods, leaves `[made, ...]`."""

    def turn(mixture: Mixture, _: None) -> tuple[Mixture, tuple[Mixture, Array]]:
        stats = e_step(mixture, x)
        return m_step(mixture, stats), (mixture, stats.log_likelihood)

    return jax.jit(lambda start: jax.lax.scan(turn, start, None, made)[1])(start)


def _proxy_along(mixtures: Mixture, x: Array, along: Array) -> tuple[Array, Array]:
    """l-hat and l, `[frames, s]` each, at steps `along` from each theta_t to the M-step from it."""

    def of_one(mixture: Mixture) -> tuple[Array, Array]:
        free = mixture.unconstrain()
        step = m_step(mixture, e_step(mixture, x)).unconstrain() - free

        def at(s: Array) -> tuple[Array, Array]:
            there = mixture.constrain(free + s * step)
            return proxy(there, mixture, x), e_step(there, x).log_likelihood

        return jax.lax.map(at, along.astype(free.dtype))

    return jax.jit(lambda mixtures: jax.lax.map(of_one, mixtures))(mixtures)


def _matching_order(mixture: Mixture, other: Mixture) -> np.ndarray:
    """The order of the other's components in which they lie nearest to this one's."""
    ours, theirs = (np.asarray(one.components.means, float) for one in (mixture, other))
    scale = np.std(np.concatenate([ours, theirs]), axis=0)
    distance = np.sum(((ours[:, None] - theirs[None]) / np.where(scale > 0, scale, 1)) ** 2, axis=-1)  # [k, k]
    return linear_sum_assignment(distance)[1]


def _ellipses(mixtures: Mixture, shown: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Means `[f, k, 1 or 2]` in the features shown, and factors L of their covariances, flat."""
    moments = jax.vmap(lambda one: as_moments(one.family, one.components))(mixtures)
    means, blocks = (np.asarray(leaf, float) for leaf in moments)  # [f, k, d], [f, k, d, d]
    blocks = blocks[:, :, shown][:, :, :, shown]
    values, vectors = np.linalg.eigh(blocks)
    factors = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
    return means[:, :, shown], factors.reshape(*factors.shape[:2], -1)


def _colours(k: int) -> np.ndarray:
    """`[k, 3]`, from 0 to 1."""
    return np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in _palette(k)])


def _palette(k: int) -> tuple[str, ...]:
    return tuple(COLOURS[j % len(COLOURS)] for j in range(k))


# -- the page ------------------------------------------------------------------------------------------------------------


def _fill(template: str, **parts: str) -> str:
    """The template with its parts put in at once, so that no part is searched for another's mark."""
    pieces = template.split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:]))


def _text(text: str) -> str:
    return escaping.escape(str(text), quote=True)


def _json(numbers: dict[str, Any]) -> str:
    """JSON that may stand in a script element, whatever it holds."""
    text = json.dumps(numbers, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _as_lists(values: np.ndarray, digits: int = 5) -> Any:
    """Nested lists of so many digits; null where not finite."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(one) for one in value]
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None

    return short(np.asarray(values, float).tolist())


def _description(mixture: Mixture) -> str:
    k = mixture.n_components
    return (
        f"{k} {'component' if k == 1 else 'components'}, {mixture.family.shown_name}, {mixture.n_parameters} parameters"
    )


def _cards(result: Result, n: int) -> str:
    total, status = float(result.log_likelihood), Status(int(result.status))
    of_fit = criteria(total, result.mixture.n_parameters, n)
    bad = status.failed or status == Status.OBJECTIVE_FELL
    cards = [
        ("log-likelihood", f"{total:,.4f}", f"{total / n:.5f} a row"),
        ("BIC", f"{of_fit.bic:,.3f}", "less is better"),
        ("AIC", f"{of_fit.aic:,.3f}", "less is better"),
        ("status", status.name.replace("_", " ").lower(), f"after {int(result.n_iter)} passes"),
    ]
    return "".join(
        f'<div class="card{" bad" if name == "status" and bad else ""}">'
        f"<span>{name}</span><b>{_text(value)}</b><small>{_text(note)}</small></div>"
        for name, value, note in cards
    )


def _parameters(mixture: Mixture, names: list[str]) -> str:
    weights = np.exp(np.asarray(mixture.log_weights, float))
    k, d = len(weights), len(names)
    head, cells = _gaussian_cells(mixture, names) if _is_gaussian(mixture) else _other_cells(mixture, names)
    rows = []
    for j in range(min(k, MOST_SHOWN)):
        mark = f'<i class="dot" style="background:{_palette(k)[j]}"></i>{j}'
        numbers = "".join(f"<td>{cell}</td>" for cell in cells[j])
        rows.append(f"<tr><th>{mark}</th><td>{weights[j]:.4f}</td>{numbers}</tr>")
    what = "mean &plusmn; standard deviation of each column" if _is_gaussian(mixture) else "parameters"
    hidden = [f"{k - MOST_SHOWN} more components"] * (k > MOST_SHOWN) + [f"{d - MOST_SHOWN} more columns"] * (
        d > MOST_SHOWN
    )
    note = f"<p class=note>{' and '.join(hidden)} are not shown.</p>" if hidden else ""
    titles = "".join(f"<th>{_text(title)}</th>" for title in head)
    return (
        f"<p class=note>{what}</p><div class=wide><table><thead><tr><th>component</th><th>weight</th>{titles}</tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _is_gaussian(mixture: Mixture) -> bool:
    return isinstance(mixture.components, GaussianParams)


def _gaussian_cells(mixture: Mixture, names: list[str]) -> tuple[list[str], list[list[str]]]:
    """Mean and standard deviation of each column."""
    means, matrices = (np.asarray(leaf, float) for leaf in as_moments(mixture.family, mixture.components))
    deviations, shown = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2)), names[:MOST_SHOWN]
    cells = [
        [f"{mean[i]:.5g} <i>&plusmn; {deviation[i]:.3g}</i>" for i in range(len(shown))]
        for mean, deviation in zip(means, deviations, strict=True)
    ]
    return shown, cells


def _other_cells(mixture: Mixture, names: list[str]) -> tuple[list[str], list[list[str]]]:
    """What the family shows of its components: numbers of each component, or of each of its columns."""
    k = mixture.n_components
    head: list[str] = []
    cells: list[list[str]] = [[] for _ in range(k)]
    for what, leaf in mixture.family.table(mixture.components).items():
        values = np.asarray(leaf, float)
        if values.ndim == 0 or len(values) != k:
            continue
        numbers = values.reshape(k, -1)[:, : MOST_SHOWN if values.ndim < 3 else MOST_SHOWN * values.shape[2]]
        for i in range(numbers.shape[1]):
            place = i if values.ndim < 3 else i // values.shape[2]
            of_kind = "" if values.ndim < 3 else f" {i % values.shape[2]}"
            head.append(
                what if values.ndim == 1 else f"{what} {names[place] if place < len(names) else place}{of_kind}"
            )
            for line, number in zip(cells, numbers[:, i], strict=True):
                line.append("" if np.isnan(number) else f"{number:.5g}")
    return head, cells


def _errors(summary: Summary, names: list[str]) -> str:
    """The table of standard errors and intervals, and what to beware of."""
    card = summary_card(summary, names)
    notes = "".join(f"<p class=note>{_text(note)}</p>" for note in card.notes)
    return f"<h2>How sure</h2><div class=wide>{html_table(card.header, card.rows)}</div>{notes}"


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
        f"<p><b>{held} of {len(found.laws)}</b> laws of EM hold at this fit, tried by automatic differentiation.</p>"
        f"<details{'' if held == len(found.laws) else ' open'}><summary>each law</summary><div class=wide><table><thead><tr><th>"
        f"</th><th>law</th><th>residual</th><th>at most</th></tr></thead><tbody>{rows}</tbody></table></div></details>{notes}"
    )


def _landscape(landscape: Landscape) -> str:
    values, counts = np.asarray(landscape.objective, float), np.asarray(landscape.counts)
    most = max(1, int(counts.max(initial=1)))
    bars = []
    for i, (value, count) in enumerate(zip(values[:MOST_SHOWN].tolist(), counts[:MOST_SHOWN].tolist(), strict=True)):
        best = " class=best" if i == 0 else ""
        below = "" if i == 0 else f" &middot; {value - values[0]:.2f}"
        bar = f'<i><b style="width:{100 * count / most:.1f}%"{best}></b></i>'
        bars.append(f'<div class="bar"><span>{value:,.4f}</span>{bar}<small>{count}{below}</small></div>')
    told = [
        f"{len(values) - MOST_SHOWN} lower optima are not shown" * (len(values) > MOST_SHOWN),
        f"{landscape.degenerate} climbs collapsed" * (landscape.degenerate > 0),
        f"{landscape.failed} failed" * (landscape.failed > 0),
        f"{landscape.saddles} ended at a saddle" * (landscape.saddles > 0),
    ]
    note = "; ".join(one for one in told if one)
    return (
        "<section><h2>Landscape of optima</h2><p class=note>log-likelihood, and the climbs that ended there</p>"
        f"{''.join(bars)}{f'<p class=note>{note}.</p>' if note else ''}</section>"
    )


def _player(played: Climb | None, n: int) -> str:
    if played is None:
        return "<p class=note>There is no player for this family, or no climb that could be shown.</p>"
    told = []
    if played.rows < n:
        told.append(f"uses a sample of {played.rows:,} of the {n:,} rows")
    if played.drawn < played.rows:
        told.append(f"draws {played.drawn:,} of them")
    if len(played.numbers["turns"]) <= played.turns:
        told.append(f"shows {len(played.numbers['turns'])} of {played.turns + 1} turns, most of them early")
    if played.rows == n and not played.is_best:
        told.append("ends in another optimum than the fit: none of its starts led plain EM to that one")
    note = f"<p class=note>It {'; it '.join(told)}.</p>" if told else ""
    return f'<div id="player"></div>{note}'
