"""What the commands print: tables of a fit, its optima and its verification, advice where a fit failed, and CSV.

Everything is made by numpy and plain strings: nothing is compiled after the fit.
"""

from __future__ import annotations

import csv
import io as text_io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxem.cli.terminal import printable

if TYPE_CHECKING:
    import numpy as np

    from jaxem.cli.reading import Weighted
    from jaxem.laws import Report
    from jaxem.loop import Result
    from jaxem.mixture import Mixture
    from jaxem.queue import Landscape
    from jaxem.racing import Search
    from jaxem.reasons import Collapse
    from jaxem.selection import Selection
    from jaxem.stopping import Status

MOST_SHOWN = 6
"""features, components and optima that a printed table shows"""
OPTIONS = {
    "max_iter": "--max-iter",
    "lower the number of components": "lower -k",
    "start elsewhere": "try another --seed",
    "use Diagonal() or Spherical()": "use --covariance diag or spherical",
    "use Diagonal()": "use --covariance diag",
    "a simpler family of covariances": "--covariance diag or spherical",
    "it out": "it out with --columns",
    "them out": "them out with --columns",
    "this column out": "this column out (with --columns)",
    "jaxem.chen_tan(x)": "jaxem.chen_tan(x) in Python",
}
"""words about Python, and what to say of the command line instead; in turn"""
BUNDLED = "Old Faithful (bundled)"


class Outcome(NamedTuple):
    """What `fit` has to tell."""

    result: Result
    described: str  # what the components are, such as "full covariances"
    landscape: Landscape
    origin: str  # which climbs the landscape is of
    selection: Selection | None
    collapse: Collapse | None  # why the fit failed, if it did
    search: Search | None = None  # that the result is of, if any

    def without_labels(self, mixture: Mixture) -> Outcome:
        """The same about a mixture of the columns beside the labels."""
        return self._replace(result=self.result._replace(mixture=mixture))


def print_fit(source: str, weighted: Weighted, outcome: Outcome, status: Status, shown: Mixture) -> None:
    """The mixture, of the columns that are `shown`, its log-likelihood and BIC, how the climb ended, and the optima."""
    from jaxem.criteria import criteria
    from jaxem.display import count_of
    from jaxem.stopping import Status

    table, total_weight = weighted.table, weighted.total
    n, d = weighted.shape
    result, mixture, total = outcome.result, outcome.result.mixture, float(outcome.result.log_likelihood)
    k, p = mixture.n_components, mixture.n_parameters
    if outcome.selection is not None:
        print(f"{outcome.selection}\n")
    of_sum = "" if not weighted.is_weighted else f", weights that sum to {total_weight:.10g}"
    print(
        f"{source}: {count_of(n, 'row')}, {count_of(d, 'column')}{of_sum}; {count_of(k, 'component')}, "
        f"{outcome.described}, {count_of(p, 'parameter')}\n"
    )
    _print_components(shown, table.columns)
    meaning = "" if status == Status.CONVERGED else f": {in_options(status.meaning)}"
    single = result.log_likelihood.dtype.itemsize == 4
    print(f"log-likelihood  {_with_digits(total, 5, single)}" + ", of a fit that does not count" * status.failed)
    if not status.failed:
        of_n = "" if total_weight == n else f"; n is {total_weight:.10g}, the sum of the weights"
        bic = _with_digits(criteria(total, p, total_weight).bic, 3, single)
        print(f"BIC             {bic} (lower is better{of_n})")
    print(f"status          {status.name} after {count_of(int(result.n_iter), 'pass', 'passes')}{meaning}\n")
    _print_landscape(outcome.landscape, outcome.origin)


def _with_digits(value: float, decimals: int, single: bool) -> str:
    """A number with so many decimals, and no more digits than float32 has where it comes from there."""
    whole = len(f"{abs(value):.0f}")
    return f"{value:.{max(0, min(decimals, 7 - whole)) if single else decimals}f}"


def in_options(words: str) -> str:
    """Words about arguments of Python as words about options of the command line."""
    for python, option in OPTIONS.items():
        words = words.replace(python, option)
    return words


def _print_landscape(landscape: Landscape, origin: str) -> None:
    from jaxem.display import count_of

    print(f"Landscape of optima, {origin}")
    found = list(zip(landscape.log_likelihood.tolist(), landscape.counts.tolist(), strict=True))
    if found:
        rows = [[f"{value:.5f}", str(count)] for value, count in found[:MOST_SHOWN]]
        _print_table(["log-likelihood", "climbs"], rows)
    else:
        print("none: no climb ended at an optimum")
    if len(found) > MOST_SHOWN:
        climbs = count_of(sum(count for _, count in found[MOST_SHOWN:]), "climb")
        print(f"... {len(found) - MOST_SHOWN} more, from {climbs}")
    if landscape.degenerate:
        are = "is" if landscape.degenerate == 1 else "are"
        print(f"{count_of(landscape.degenerate, 'climb')} collapsed and {are} not counted")
    if landscape.failed:
        print(f"{count_of(landscape.failed, 'climb')} failed")
    if landscape.saddles:
        print(f"{count_of(landscape.saddles, 'climb')} ended at a saddle")
    print()


def _print_components(mixture: Mixture, columns: tuple[str, ...]) -> None:
    """A table of weights and of what the family shows of its components; of Gaussians one of the covariances too."""
    import numpy as np

    from jaxem.display import count_of
    from jaxem.families.gaussian import Gaussian

    weights = np.exp(np.asarray(mixture.log_weights))  # by numpy, not jax: nothing is compiled after the fit
    params = jax_to_numpy(mixture.components)
    family, k, names = mixture.family, len(weights), list(columns[:MOST_SHOWN])
    is_gaussian = isinstance(family, Gaussian)
    table = {"mean": params.means} if is_gaussian else jax_to_numpy(family.table(params))
    header, body = ["component", "weight"], [[str(j), f"{weights[j]:.5f}"] for j in range(min(k, MOST_SHOWN))]
    further = {}
    for what, values in table.items():
        if np.ndim(values) == 0 or len(values) != k:
            continue
        if np.ndim(values) > 2:
            further[what] = (
                np.asarray(values) if np.ndim(values) == 3 else np.reshape(values, (*np.shape(values)[:2], -1))
            )
            continue
        by_column = np.ndim(values) == 2 and np.shape(values)[1] <= len(columns)
        header += [f"{what} {name}" for name in names[: np.shape(values)[1]]] if by_column else [what]
        for line, value in zip(body, np.reshape(values, (k, -1)), strict=False):
            line += ["" if np.isnan(number) else f"{number:.6g}" for number in value[: MOST_SHOWN if by_column else 1]]
    _print_table(header, body)
    print()
    if is_gaussian:
        _print_table(*_covariance_table(params.covariances, family, names))
        print()
    for what, values in further.items():  # [k, d, c], such as probabilities of categories
        rows = [
            [str(j), name, *("" if np.isnan(number) else f"{number:.5g}" for number in values[j, i, :MOST_SHOWN])]
            for j in range(min(k, MOST_SHOWN))
            for i, name in enumerate(names[: np.shape(values)[1]])
            if not np.isnan(values[j, i]).all()
        ]
        _print_table(
            ["component", "feature", *(f"{what} {c}" for c in range(min(np.shape(values)[2], MOST_SHOWN)))], rows
        )
    if k > MOST_SHOWN or len(columns) > MOST_SHOWN:
        sizes = ((k, "component"), (len(columns), "column"))
        shown = [f"{MOST_SHOWN} of {count_of(n, word)}" for n, word in sizes if n > MOST_SHOWN]
        print(f"(the first {' and '.join(shown)}; --out saves all)\n")


def jax_to_numpy(tree: Any) -> Any:
    """The same with arrays of numpy."""
    import jax
    import numpy as np

    return jax.tree.map(np.asarray, tree)


def _covariance_table(covariances: np.ndarray, family: Any, names: list[str]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows: a line for each component, or for each row of each matrix."""
    own = covariances[None] if family.shared else covariances[:MOST_SHOWN]
    labels = ["all"] if family.shared else [str(j) for j in range(len(own))]
    if not family.by_matrices:
        is_one = own.ndim == 1
        header = ["component", *(["variance"] if is_one else [f"var {name}" for name in names])]
        of_each = own.reshape(len(own), -1)[:, :MOST_SHOWN]
        pairs = zip(labels, of_each, strict=True)
        return header, [[label, *(f"{value:.6g}" for value in line)] for label, line in pairs]
    rows = [
        [label if i == 0 else "", name, *(f"{value:.6g}" for value in matrix[i, :MOST_SHOWN])]
        for label, matrix in zip(labels, own, strict=True)
        for i, name in enumerate(names)
    ]
    return ["covariance", "feature", *names], rows


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    from jaxem.display import table_lines

    print("\n".join(table_lines(header, rows)))


def print_verification(report: Report) -> None:
    """How many laws hold, the ones the lecture speaks of, and those that fail."""
    failed = [law for law in report.laws if not law.ok]
    residuals = {law.name: law.residual for law in report.laws}
    print(f"Verified by autodiff: {len(report.laws) - len(failed)} of {len(report.laws)} laws hold")
    if "stationary" in residuals:
        print(f"  gradient of the proxy at the M-step {residuals['stationary']:.1e} (zero to rounding)")
        print(f"  its Hessian is negative definite, largest scaled eigenvalue {residuals['maximal']:.2g}")
    print(f"  proxy = log-likelihood at the E-step to {residuals['tight']:.1e}; an EM step never lowers it")
    for law in failed:
        print(f"  FAILS {law.name}: residual {law.residual:.1e}, at most {law.tolerance:.0e}")
    for note in report.notes:
        print(f"  {note}")
    print()


def advice(outcome: Outcome, columns: tuple[str, ...], status: Status) -> str:
    """Why a fit failed, and what to do."""
    collapse, reason = outcome.collapse, in_options(status.meaning)
    if collapse is not None:
        # components are numbered as in the climb that failed, which is not always the one that is printed
        of_climb = "in the best climb " * (collapse.component is not None and outcome.result.mixture.n_components > 1)
        reason = f"{of_climb}{collapse.reason(columns, first_row=1)}: {in_options(collapse.remedy)}"
    return f"the fit is {status.name} and was not saved: {reason}"


def check_density(log_prob: Any) -> None:
    """Raise for a row that no component can produce: nothing that is said of it would be true."""
    import numpy as np

    lost = np.flatnonzero(~np.isfinite(log_prob))
    if lost.size:
        raise ValueError(
            f"row {lost[0] + 1} is so far from every component that its density is zero ({lost.size} such rows); drop it"
        )


def write_csv(header: list[str], rows: Any, out: Path | None, force: bool) -> None:
    """Write a table to a file, or to stdout."""
    buffer = text_io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header if out is not None else map(printable, header))
    writer.writerows(rows)
    if out is None:
        sys.stdout.write(buffer.getvalue())
        return
    from jaxem.atomic import write_atomically

    write_atomically(out, buffer.getvalue().encode(), force)
    print(f"saved to {printable(str(out))}", file=sys.stderr)
