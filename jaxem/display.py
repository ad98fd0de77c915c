"""What a person reads of a mixture, a fit, a search or a report: one card, as text for `print` and as HTML for a notebook.

`readable` gives a class `__str__`, `__repr__` and `_repr_html_` from a function that makes a `Card` of an object: `print`, a
console and a notebook show the same, and it fits on one screen. The functions look at attributes only, so that this file needs
no other but `stopping`. An object without values (traced, deleted, a tree of shapes) has no card: Python shows it.
`picture` is what the `plot` methods of the same classes call.
"""

import html
import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import jax
import numpy as np

from jaxem.stopping import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes

    from jaxem.comparison import LikelihoodRatioTest
    from jaxem.divergence import Divergence
    from jaxem.inference import Summary
    from jaxem.laws import Report
    from jaxem.loop import Result
    from jaxem.mixture import Mixture
    from jaxem.queue import Landscape
    from jaxem.racing import Search
    from jaxem.resampling import Bootstrap
    from jaxem.selection import Candidate, Selection

if not TYPE_CHECKING:
    Axes = Any  # of matplotlib's, which is an extra

MOST_ROWS = 8
"""components, climbs or optima that a card shows"""
SYMMETRIC = ("covariances", "scales")
"""parameters that are symmetric matrices where they are `[..., d, d]`"""
MOST_LINES = 30
"""parameters whose errors a card shows, and candidates of a selection"""
MOST_NUMBERS = 8
"""numbers of a component that a card shows"""

T = TypeVar("T")


class Card(NamedTuple):
    """A title, named facts, a table, a sketch in lines of text, notes below it, and more cards."""

    title: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    parts: tuple["Card", ...] = ()
    sketch: tuple[str, ...] = ()

    def text(self) -> str:
        """The card in lines for a terminal."""
        width = max((len(name) for name, _ in self.facts), default=0)
        lines = [self.title] if self.title else []
        lines += [f"{name:<{width}}  {value}" for name, value in self.facts]
        lines += table_lines(self.header, self.rows) if self.header else []
        own = "\n".join([*lines, *self.sketch, *self.notes])
        return "\n\n".join(piece for piece in (own, *(part.text() for part in self.parts)) if piece)

    def html(self) -> str:
        """The same as HTML; whatever comes from outside is escaped."""
        pieces = [f"<p><b>{html.escape(self.title)}</b></p>"] if self.title else []
        pieces += [html_table((), self.facts)] if self.facts else []
        pieces += [html_table(self.header, self.rows)] if self.header else []
        pieces += ["<pre>" + html.escape("\n".join(self.sketch)) + "</pre>"] if self.sketch else []
        pieces += [f"<p>{html.escape(note)}</p>" for note in self.notes]
        return f"<div>{''.join(pieces)}{''.join(part.html() for part in self.parts)}</div>"


def readable(card_of: Callable[[Any], Card | None]) -> Callable[[type[T]], type[T]]:
    """Give a class `__str__`, `__repr__` and `_repr_html_` from the card of its objects; None where there is nothing to show."""

    def to_html(self: Any) -> str | None:
        card = card_of(self)
        return None if card is None else card.html()

    def add(cls: type[T]) -> type[T]:
        own = cls.__repr__

        def to_text(self: Any) -> str:
            card = card_of(self)
            return own(self) if card is None else card.text()

        cls.__str__ = cls.__repr__ = to_text  # type: ignore[method-assign]
        cls._repr_html_ = to_html  # type: ignore[attr-defined]
        return cls

    return add


def picture(name: str, *what: Any, **options: Any) -> Axes:
    """The axes that `jaxem.plots.NAME` drew on, given what is not None: the one way from a low file to matplotlib.

    Raises:
        ModuleNotFoundError: without matplotlib; it says what to install.
    """
    return cast(
        "Axes",
        getattr(importlib.import_module("jaxem.plots"), name)(*(one for one in what if one is not None), **options),
    )


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, columns of numbers to the right and columns of words to the left."""
    columns = [[head, *(row[i] for row in rows)] for i, head in enumerate(header)]
    widths = [max(map(len, column)) for column in columns]
    right = [_is_numeric(column[1:]) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (header, *rows)
    ]


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML, its cells escaped, columns of numbers to the right."""
    right = [_is_numeric([row[i] for row in rows]) for i in range(len(rows[0] if rows else header))]

    def line(cells: Sequence[str], tag: str) -> str:
        sides = ("right" if numeric else "left" for numeric in right)
        made = (
            f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    head = f"<thead>{line(header, 'th')}</thead>" if header else ""
    body = "".join(line(row, "td") for row in rows)
    return f'<table style="border-collapse:separate;border-spacing:1em 0.1em">{head}<tbody>{body}</tbody></table>'


def divergence_card(divergence: "Divergence") -> Card | None:
    """The estimate and its error."""
    if not _has_values(divergence) or np.ndim(divergence.value):
        return None
    return Card(
        f"Divergence of {float(divergence.value):.5g} nats, standard error {float(divergence.standard_error):.2g}"
    )


def count_of(n: int, noun: str, plural: str = "") -> str:
    """`1 row`, `2 rows`, `2 optima`."""
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"


# -- the card of each class ----------------------------------------------------------------------------------------------


def mixture_card(mixture: "Mixture") -> Card | None:
    """Weights and parameters of the first components; of a batch the weights of the first mixtures."""
    if not _has_values(mixture) or mixture.log_weights.ndim == 0:
        return None
    family, k = mixture.family.shown_name, mixture.n_components
    weights = np.exp(np.asarray(mixture.log_weights, float))
    if weights.ndim > 1:
        shape, flat = weights.shape[:-1], weights.reshape(-1, k)
        batch = [
            (str(i), ", ".join(_short(value) for value in row)) for i, row in enumerate(flat[:MOST_ROWS, :MOST_ROWS])
        ]
        return Card(
            f"{' x '.join(map(str, shape))} mixtures of {count_of(k, f'{family} component')}",
            header=("mixture", "weights") if len(shape) == 1 else (),
            rows=tuple(batch),
            notes=_rest(len(flat), "mixture") + _rest(k, "component") if len(shape) == 1 else (),
        )
    with jax.debug_nans(False):
        found = {name: np.asarray(leaf) for name, leaf in mixture.family.table(mixture.components).items()}
    found = {name: leaf for name, leaf in found.items() if leaf.ndim in (1, 2) and leaf.shape[0] == k}
    most = max(1, MOST_NUMBERS // max(1, len(found)))
    composed = hasattr(mixture.family, "families")  # NaN where a part has no such number
    header, columns = ["component", "weight"], [list(range(k)), weights]
    for name, leaf in found.items():
        alone = leaf.ndim == 1
        for j in range(1 if alone else min(leaf.shape[1], most)):
            column = leaf if alone else leaf[:, j]
            if composed and np.isnan(column).all():  # of a part with other columns
                continue
            header.append(name if alone else f"{name} x{j + 1}")
            columns.append(column)
    cells = [
        ["" if composed and np.isnan(column[j]) else _short(column[j]) for column in columns]
        for j in range(min(k, MOST_ROWS))
    ]
    rows = [tuple(line) for line in cells]
    d = max((leaf.shape[1] for leaf in found.values() if leaf.ndim == 2), default=0)
    columns_hidden = (f"({d - most} more columns of x are not shown)",) if d > most else ()
    title = f"Mixture of {count_of(k, f'{family} component')}, {count_of(mixture.n_parameters, 'parameter')}"
    return Card(title, (), tuple(header), tuple(rows), _rest(k, "component") + columns_hidden)


def result_card(result: "Result") -> Card | None:
    """How the climb ended and where; of a batch a line for each of the first climbs."""
    if not _has_values(result):
        return None
    status = np.asarray(result.status)
    if status.ndim:
        return _batch_card(result, status)
    log_likelihood, objective = float(result.log_likelihood), float(result.objective)
    ended = Status(int(status))
    facts = [("log-likelihood", f"{log_likelihood:.5f}")]
    if objective != log_likelihood and np.isfinite(objective):
        facts.append(("with log prior", f"{objective:.5f}"))
    facts.append(("status", f"{ended.name} after {count_of(int(result.n_iter), 'turn')}: {ended.meaning}"))
    left = float(result.remaining_gain)
    if np.isfinite(left):
        facts.append(("left to gain", f"about {left:.0e} nats"))
    inner = mixture_card(result.mixture)
    return Card("Result of a climb", tuple(facts), parts=() if inner is None else (inner,))


def _batch_card(result: "Result", status: np.ndarray) -> Card:
    counts = Counter(Status(int(one)).name for one in status.ravel().tolist())
    title = f"Results of {count_of(status.size, 'climb')}: {', '.join(f'{n} {name}' for name, n in counts.items())}"
    if status.ndim > 1:
        return Card(title)
    columns = (np.asarray(leaf) for leaf in (result.log_likelihood, status, result.n_iter))
    rows = [
        (str(i), f"{value:.5f}", Status(int(one)).name, str(n_iter))
        for i, (value, one, n_iter) in enumerate(zip(*(column[:MOST_ROWS] for column in columns), strict=True))
    ]
    return Card(title, (), ("climb", "log-likelihood", "status", "turns"), tuple(rows), _rest(status.size, "climb"))


def landscape_card(landscape: "Landscape") -> Card:
    """The optima, how far each lies below the best, and how many climbs ended there."""
    values, totals = np.asarray(landscape.objective, float), np.asarray(landscape.log_likelihood, float)
    counts, prior = np.asarray(landscape.counts), not np.array_equal(values, totals)
    shown = range(min(len(values), MOST_ROWS))
    header = ("optimum", "log-likelihood", *(["with log prior"] if prior else []), "below the best", "climbs")
    rows = [
        (
            str(i),
            f"{totals[i]:.5f}",
            *([f"{values[i]:.5f}"] if prior else []),
            f"{values[0] - values[i]:.5f}",
            str(counts[i]),
        )
        for i in shown
    ]
    made = int(counts.sum()) + landscape.degenerate + landscape.failed + landscape.saddles
    title = f"{count_of(len(values), 'optimum', 'optima')} that {count_of(made, 'climb')} ended in"
    notes = _rest(len(values), "optimum", "optima")
    if landscape.degenerate:
        notes += (f"{count_of(landscape.degenerate, 'climb')} collapsed; they are not counted among the optima",)
    if landscape.failed:
        notes += (f"{count_of(landscape.failed, 'climb')} had no finite objective",)
    if landscape.saddles:
        notes += (f"{count_of(landscape.saddles, 'climb')} ended at a saddle",)
    return Card(title, (), header if rows else (), tuple(rows), notes)


def search_card(search: "Search") -> Card | None:
    """The best optimum, why there is none if so, and the optima that the finalists ended in."""
    best = result_card(search.best)
    if best is None:
        return None
    notes: tuple[str, ...] = ()
    if search.penalised is not None:
        notes = ("every climb of the likelihood collapsed: the parameters are those of a fit under a penalty",)
    if search.collapse is not None:
        notes += (f"the best of the climbs that failed: {search.collapse}",)
    title = (
        f"Search: {count_of(len(search.arms), 'finalist')} polished, {count_of(search.passes, 'pass', 'passes')} made"
    )
    return Card(title, notes=notes, parts=(best._replace(title="Best"), landscape_card(search.landscape)))


def selection_card(selection: "Selection", most: int = MOST_LINES) -> Card:
    """A line for each candidate with its criteria, of many for those with the least BIC; the one chosen is marked."""
    more = {"CV": "cv", "p of one more": "p_value"}
    more = {
        name: field
        for name, field in more.items()
        if any(np.isfinite(getattr(one, field)) for one in selection.candidates)
    }
    header = ("k", "family", "log-likelihood", "p", "BIC", "AIC", "ICL", *more, "less is better")
    bic = np.array([one.bic for one in selection.candidates])
    bic[selection.chosen] = -np.inf  # it is always shown; NaN comes last
    shown = set(np.argsort(bic, kind="stable")[:most].tolist())
    rows = [
        (
            str(one.n_components),
            one.family.shown_name,
            f"{one.log_likelihood:.5f}",
            str(one.n_parameters),
            *(f"{value:.3f}" for value in (one.bic, one.aic, one.icl)),
            *(f"{value:.3f}" if np.isfinite(value := getattr(one, field)) else "" for field in more.values()),
            "chosen" if i == selection.chosen else "" if one.status == Status.CONVERGED else one.status.name,
        )
        for i, one in enumerate(selection.candidates)
        if i in shown
    ]
    left_out = len(selection.candidates) - len(shown)
    notes: tuple[str, ...] = (
        (f"({count_of(left_out, 'more candidate')} with larger BIC not shown)",) if left_out else ()
    )
    notes += (f"n = {selection.n:.10g} observations in BIC and ICL",) if np.isfinite(selection.n) else ()
    return Card(header=header, rows=tuple(rows), notes=notes)


def candidate_card(candidate: "Candidate") -> Card:
    """What one line of a selection says."""
    criteria = {name: getattr(candidate, name.lower()) for name in ("BIC", "AIC", "ICL", "CV")}
    values = (f"{name} {value:.3f}" for name, value in criteria.items() if np.isfinite(value))
    parameters = count_of(candidate.n_parameters, "parameter")
    facts: tuple[tuple[str, str], ...] = (
        ("log-likelihood", f"{candidate.log_likelihood:.5f}, {parameters}"),
        ("less is better", ", ".join(values)),
        ("status", f"{candidate.status.name}: {candidate.status.meaning}"),
    )
    if np.isfinite(candidate.p_value):
        facts += (("p of one more", f"{candidate.p_value:.3f}"),)
    return Card(f"{candidate.n_components} x {candidate.family.shown_name}", facts)


def summary_card(summary: "Summary", names: Sequence[str] = (), most: int = MOST_LINES) -> Card:
    """A line for each of the first parameters: estimate, errors and interval; of symmetric matrices the upper triangle.

    With the `names` of the columns these stand in place of their numbers.
    """
    columns = (summary.estimate, summary.standard_error, summary.robust_error, summary.lower, summary.upper)
    header = ("parameter", "estimate", "std. error", "robust", f"{100 * summary.level:g}% interval from", "to")
    names = () if hasattr(summary.family, "families") else names  # parts have columns of their own
    return _errors_card("", header, columns, tuple(f"beware: {one}" for one in summary.cautions), names, most)


def bootstrap_card(bootstrap: "Bootstrap") -> Card:
    """A line for each parameter: estimate, error and interval over the refits."""
    n = len(bootstrap.status)
    unfinished = int(np.sum(np.asarray(bootstrap.status) == Status.MAX_ITER))
    title = f"Bootstrap, {bootstrap.kind}: {count_of(n, 'refit')}, {bootstrap.failed} failed"
    title += f", {unfinished} not converged" * (unfinished > 0)
    header = ("parameter", "estimate", "std. error", "95% interval from", "to")
    return _errors_card(title, header, (bootstrap.estimate, bootstrap.standard_error, *bootstrap.interval()), ())


def test_card(test: "LikelihoodRatioTest") -> Card:
    """The statistic, the p-value, and a picture of what the statistic is where the smaller model is true."""
    small, large = test.null, test.alternative
    models = (f"{one.n_components} x {one.family.shown_name}" for one in (small, large))
    n = len(test.replicates)
    facts = (
        ("statistic", f"{test.statistic:.4f}"),
        ("p-value", f"{test.p_value:.4g}, of {count_of(n, 'replicate')}"),
    )
    sketch = histogram_lines(np.asarray(test.replicates), test.statistic)
    notes = (f"{count_of(test.failed, 'replicate')} had no sound optimum",) if test.failed else ()
    return Card(f"Likelihood ratio test of {' against '.join(models)}", facts, notes=notes, sketch=sketch)


def histogram_lines(values: np.ndarray, mark: float, bins: int = 12, width: int = 40) -> tuple[str, ...]:
    """A histogram in lines of text, with an arrow at the bin of `mark`."""
    top = max(float(values.max(initial=0.0)), mark)
    edges = np.linspace(0.0, top or 1.0, bins + 1)
    counts = np.histogram(values, edges)[0]
    place = min(bins - 1, int(np.searchsorted(edges, mark, side="right")) - 1)
    longest = max(1, int(counts.max()))
    return tuple(
        f"{edges[i]:>9.2f} {'#' * round(width * int(counts[i]) / longest):<{width}} {counts[i]:>4}"
        + (" <- the data" if i == place else "")
        for i in range(bins)
    )


def _errors_card(
    title: str,
    header: tuple[str, ...],
    columns: Sequence[Any],
    notes: tuple[str, ...],
    names: Sequence[str] = (),
    most: int = MOST_LINES,
) -> Card:
    leaves = [jax.tree_util.tree_flatten_with_path(one)[0] for one in columns]
    rows, k = [], len(columns[0].weights)
    for several in zip(*leaves, strict=True):
        path, arrays = several[0][0], [np.asarray(leaf) for _, leaf in several]
        name = jax.tree_util.keystr(path, simple=True, separator=".").removeprefix("components.")
        if not np.issubdtype(arrays[0].dtype, np.floating):
            continue
        n_of_columns = arrays[0].ndim - (name == "weights" or arrays[0].shape[:1] == (k,))
        fixed = name != "weights" and not np.any(arrays[1]) and np.array_equal(arrays[0], arrays[-1])
        if fixed:  # bounds of a box, origins: nothing was estimated
            continue
        symmetric = (
            name in SYMMETRIC and arrays[0].ndim > 1 and np.array_equal(arrays[0], np.swapaxes(arrays[0], -1, -2))
        )
        for index in np.ndindex(arrays[0].shape):
            if not (symmetric and index[-2] > index[-1]):
                # all axes but that of the components are those of columns, where they are as long
                first = arrays[0].ndim - n_of_columns
                words = [
                    names[i] if axis >= first and size == len(names) else str(i)
                    for axis, (i, size) in enumerate(zip(index, arrays[0].shape, strict=True))
                ]
                place = f"[{', '.join(words)}]" if index else ""
                rows.append((name + place, *(_short(array[index]) for array in arrays)))
    shown = rows[:most]
    rest = (f"({count_of(len(rows) - len(shown), 'more parameter')} not shown)",) if len(rows) > len(shown) else ()
    return Card(title, header=header, rows=tuple(shown), notes=rest + notes)


def report_card(report: "Report") -> Card:
    """Each law with its residual and verdict."""
    rows = [
        (law.name, "holds" if law.ok else "FAILS", f"{law.residual:.1e}", f"{law.tolerance:.0e}") for law in report.laws
    ]
    reasons: dict[str, list[str]] = {}
    for law in report.laws:
        if law.reason:
            reasons.setdefault(law.reason, []).append(law.name)
    why = (f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    notes = (*why, *report.notes, f"verified: {'yes' if report.ok else 'NO'}")
    return Card(header=("law", "verdict", "residual", "at most"), rows=tuple(rows), notes=notes)


def _rest(n: int, noun: str, plural: str = "") -> tuple[str, ...]:
    """A note of what a table of `MOST_ROWS` rows leaves out of n."""
    more = count_of(n - MOST_ROWS, f"more {noun}", f"more {plural or noun + 's'}")
    return (f"({more} not shown)",) if n > MOST_ROWS else ()


def _has_values(tree: Any) -> bool:
    """Whether all leaves are arrays whose numbers can be read."""

    def can_be_read(leaf: Any) -> bool:
        if isinstance(leaf, jax.core.Tracer):
            return False
        if isinstance(leaf, jax.Array):
            return not leaf.is_deleted() and leaf.is_fully_addressable
        return isinstance(leaf, (np.ndarray, np.generic))

    return all(can_be_read(leaf) for leaf in jax.tree.leaves(tree))


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(_is_number(cell) for cell in cells if cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{float(value):.4g}"


def has_moments(family: Any) -> bool:
    """Whether components of a family are drawn as ellipses."""
    return hasattr(family, "as_gaussians")


def as_moments(family: Any, params: Any) -> tuple[Any, Any]:
    """Means `[k, d]` and covariances (of Student's t the scales) as matrices `[k, d, d]`, for what looks from outside.

    Raises:
        ValueError: for a family without them.
    """
    if not has_moments(family):
        raise ValueError(f"mixture has family {type(family).__name__}, which has no covariances; give Gaussians")
    of_gaussians = family.as_gaussians(params)
    return of_gaussians.means, of_gaussians.covariances
