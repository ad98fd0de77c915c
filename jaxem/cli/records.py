"""What --json prints: one object on stdout, of which the keys are documented in docs/command-line.md.

Its first keys are `jaxem`, the version of the program, `command`, and `schema`, a whole number that rises when a key
changes its meaning or vanishes; new keys may come at any time. NaN and infinities are null.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import jaxem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxem.cli.reading import Weighted
    from jaxem.cli.words import Outcome
    from jaxem.comparison import LikelihoodRatioTest
    from jaxem.inference import Summary
    from jaxem.laws import Report
    from jaxem.mixture import Mixture
    from jaxem.stopping import Status

SCHEMA = 1


def print_record(command: str, record: Mapping[str, Any]) -> None:
    """Print one object of JSON in one line."""
    every = {"jaxem": jaxem.__version__, "command": command, "schema": SCHEMA, **record}
    print(json.dumps(plain(every), allow_nan=False))


def plain(value: Any) -> Any:
    """The same of dictionaries, lists, numbers and texts; what is not finite is None."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # of numpy or JAX
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def data_record(source: str, weighted: Weighted) -> dict[str, Any]:
    """Which data were used."""
    n, _ = weighted.shape
    weight = weighted.total if weighted.is_weighted else None
    return {"data": source, "rows": n, "columns": list(weighted.table.columns), "sum_of_weights": weight}


def fit_record(
    source: str, weighted: Weighted, outcome: Outcome, status: Status, shown: Mixture, names: Any
) -> dict[str, Any]:
    """A fit, and the mixture `shown` with the names of its columns, as a JSON file of it has them; null if the fit failed."""
    from jaxem.criteria import criteria
    from jaxem.exchange import model_record

    result, landscape = outcome.result, outcome.landscape
    total, p = float(result.log_likelihood), result.mixture.n_parameters
    criterion = criteria(total, p, weighted.total)
    optima = zip(landscape.log_likelihood.tolist(), landscape.counts.tolist(), strict=True)
    chosen = None if outcome.selection is None else outcome.selection.chosen
    candidates = () if outcome.selection is None else outcome.selection.candidates
    return {
        **data_record(source, weighted),
        "components": outcome.described,
        "n_components": result.mixture.n_components,
        "n_parameters": p,
        "status": status.name,
        "converged": status.name == "CONVERGED",
        "passes": int(result.n_iter),
        "log_likelihood": None if status.failed else total,
        "bic": None if status.failed else criterion.bic,
        "aic": None if status.failed else criterion.aic,
        "model": None if status.failed else model_record(shown, names or _needed(shown, weighted)),
        "optima": [{"log_likelihood": value, "climbs": count} for value, count in optima],
        "collapsed_climbs": landscape.degenerate,
        "candidates": [
            {
                "family": one.family.shown_name, "n_components": one.n_components, "n_parameters": one.n_parameters,
                "log_likelihood": one.log_likelihood, "bic": one.bic, "aic": one.aic, "icl": one.icl,
                "status": one.status.name, "chosen": i == chosen,
            }
            for i, one in enumerate(candidates)
        ],
        "verification": None,
        "errors": None,
        "files": {},
    }  # fmt: skip


def _needed(mixture: Mixture, weighted: Weighted) -> Sequence[str] | None:
    """Names for columns that have none, where the parameters do not tell how many there are."""
    from jaxem.layout import generated_names

    known = mixture.family.n_features(mixture.components)
    return None if known else generated_names(len(weighted.table.columns))


def report_record(report: Report) -> dict[str, Any]:
    """What `verify` found."""
    laws = [
        {"name": law.name, "residual": law.residual, "tolerance": law.tolerance, "ok": law.ok, "reason": law.reason}
        for law in report.laws
    ]
    return {"ok": report.ok, "laws": laws, "notes": list(report.notes)}


def summary_record(summary: Summary) -> dict[str, Any]:
    """Standard errors and intervals, of the weights and of each array of the components."""
    from jaxem.io import by_name

    def arrays(parameters: Any) -> dict[str, Any]:
        return {"weights": parameters.weights, **by_name(parameters.components)}

    parts = ("estimate", "standard_error", "robust_error", "lower", "upper")
    found = {part: arrays(getattr(summary, part)) for part in parts}
    return {"level": summary.level, **found, "cautions": list(summary.cautions)}


def test_record(source: str, weighted: Weighted, found: LikelihoodRatioTest) -> dict[str, Any]:
    """A likelihood ratio test."""
    models = {
        name: {
            "family": mixture.family.shown_name,
            "n_components": mixture.n_components,
            "n_parameters": mixture.n_parameters,
        }
        for name, mixture in (("null", found.null), ("alternative", found.alternative))
    }
    numbers = {
        "statistic": found.statistic,
        "p_value": found.p_value,
        "replicates": found.replicates,
        "failed": found.failed,
    }
    return {**data_record(source, weighted), **models, **numbers}


def score_record(source: str, weighted: Weighted, total: float, criteria: Sequence[float]) -> dict[str, Any]:
    """The log-likelihood of data under a model."""
    bic, aic, *_ = criteria
    per_row = total / weighted.total
    return {**data_record(source, weighted), "log_likelihood": total, "per_row": per_row, "bic": bic, "aic": aic}
