"""The commands about models themselves: `compare` two of them, with or without data, and `convert` one to another format.

Two models are compared on the same rows of the same columns, found by name. Without data they are compared by the
Kullback-Leibler divergence, by rows drawn from each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import jaxem
from jaxem.cli.commands import Debug, Force, Json, Model, Own, Seed, check_free, load_saved, source_of
from jaxem.cli.commands import app as app
from jaxem.cli.manual import Command
from jaxem.cli.reading import (
    Columns,
    Decimal,
    Delimiter,
    Drop,
    DropMissing,
    Header,
    Na,
    Reading,
    Weighted,
    Weights,
    columns_of_model,
)
from jaxem.cli.records import data_record, print_record
from jaxem.cli.terminal import UsageError, note, printable, run, start_jax
from jaxem.cli.words import check_density

if TYPE_CHECKING:
    import numpy as np

    from jaxem.io import Model as Saved
    from jaxem.mixture import Mixture

SAMPLES = 10_000
"""rows that are drawn from each model where there are no data"""
Rows = Annotated[
    Path | None,
    typer.Argument(metavar="DATA", help="A table, as for fit, on which both are compared; none if left out."),
]
Other = Annotated[Path, typer.Argument(metavar="OTHER", help="Another model of the same columns.")]


@app.command(cls=Command)
def compare(
    model: Model,
    other: Other,
    data: Rows = None,
    columns: Columns = None,
    drop: Drop = None,
    weights: Weights = None,
    seed: Seed = 0,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    header: Header = None,
    na: Na = None,
    drop_missing: DropMissing = False,
    family: Own = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two models side by side: A is MODEL, B is OTHER.

    With DATA: their log-likelihood, BIC, AIC and ICL on the same rows, how far their labels agree (the adjusted Rand index:
    1 for the same clusters, about 0 by chance), and which component of B matches which of A. Without DATA: the
    Kullback-Leibler divergence each way, in nats, by rows drawn from them.
    """

    def work() -> None:
        start_jax()
        a, b = (load_saved(path, family) for path in (model, other))
        names = _shared_columns(a, b)
        b = _in_order(b, names)
        compared: dict[str, Any] = {"a": _of_model(model, a, names), "b": _of_model(other, b, names)}
        if data is None:
            compared |= {"divergence": _divergence(a.mixture, b.mixture, seed), "agreement": None}
        else:
            reading = Reading(data, columns, weights, delimiter, decimal, header, na, drop_missing, drop=drop)
            weighted = _read(reading, a.mixture, b.mixture, names)
            compared |= data_record(source_of(data), weighted) | {"divergence": None}
            labels = []
            for name, mixture in (("a", a.mixture), ("b", b.mixture)):
                found, of_rows = _on_rows(mixture, weighted)
                compared[name] |= found
                labels.append(of_rows)
            compared["agreement"] = _agreement(labels[0], labels[1], a.mixture.n_components, b.mixture.n_components)
        if as_json:
            print_record("compare", compared)
        else:
            _print_comparison(compared)

    run(work)


@app.command(cls=Command)
def convert(
    model: Model,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write: .json, .npz or .safetensors says the format.")
    ],
    force: Force = False,
    family: Own = None,
    debug: Debug = False,
) -> None:
    """Convert a model to JSON, to numpy's npz, or from these to a model file (safetensors).

    Every file is checked in full when it is read, and nothing in it is executed. Pickles, which joblib writes too, can run any
    code and are refused.
    """

    def work() -> None:
        import jax

        from jaxem.exchange import FORMATS, UNSAFE, write_model

        for path in (model, out):
            if path.suffix.lower() in UNSAFE:
                raise UsageError(
                    f"{path} has the suffix {path.suffix}: such a file can run any code when it is loaded; give "
                    ".safetensors, .json or .npz"
                )
        if out.suffix.lower() not in FORMATS:
            raise UsageError(f"{out} has the suffix {out.suffix!r}, which names no format; give {', '.join(FORMATS)}")
        check_free(out, force)
        start_jax()
        saved = load_saved(model, family)
        with jax.enable_x64(True):
            write_model(saved.mixture, out, columns=_columns_to_write(saved), overwrite=force)
        print(f"saved to {printable(str(out))}")

    run(work)


def _columns_to_write(saved: Saved) -> list[str] | None:
    return None if saved.columns is None else list(saved.columns)


# -- two models ----------------------------------------------------------------------------------------------------------


def _shared_columns(a: Saved, b: Saved) -> tuple[str, ...] | None:
    """The columns of both models, in the order of the first; None if neither knows them. A ValueError if they differ."""
    widths = [saved.mixture.family.n_features(saved.mixture.components) for saved in (a, b)]
    if a.columns is not None and b.columns is not None:
        if set(a.columns) != set(b.columns):
            lists = [", ".join(saved.columns or ())[:200] for saved in (a, b)]
            raise ValueError(
                f"the models have different columns: A has {lists[0]}; B has {lists[1]}; compare models of the same columns"
            )
    elif None not in widths and widths[0] != widths[1]:
        raise ValueError(f"A has {widths[0]} columns, B has {widths[1]}; compare models of the same columns")
    elif a.columns is not None or b.columns is not None:
        note("one of the models has no names of columns; they go by position")
    return a.columns or b.columns


def _in_order(saved: Saved, names: tuple[str, ...] | None) -> Saved:
    """The same model with its columns in this order; a ValueError if its family cannot be put in order."""
    if saved.columns is None or names is None or saved.columns == names:
        return saved
    import jax

    try:
        with jax.enable_x64(True):
            mixture = saved.mixture.marginal([saved.columns.index(name) for name in names])
    except NotImplementedError as error:
        raise ValueError(
            f"B has its columns in another order, and {error}; fit it with --columns {','.join(names)}"
        ) from error
    return saved._replace(mixture=mixture, columns=names)


def _of_model(path: Path, saved: Saved, names: tuple[str, ...] | None) -> dict[str, Any]:
    import numpy as np

    mixture = saved.mixture
    return {
        "file": printable(str(path)),
        "family": mixture.family.shown_name,
        "n_components": mixture.n_components,
        "n_parameters": mixture.n_parameters,
        "columns": None if names is None else list(names),
        "weights": np.exp(np.asarray(mixture.log_weights)),
    }


def _divergence(a: Mixture, b: Mixture, seed: int) -> dict[str, Any]:
    """Kullback-Leibler divergences by rows drawn from either."""
    import jax

    found = {}
    with jax.enable_x64(True):
        for i, (name, p, q) in enumerate((("of_b_from_a", a, b), ("of_a_from_b", b, a))):
            one = jaxem.kl_divergence(p, q, jax.random.key(seed + i), SAMPLES)
            found[name] = {"value": float(one.value), "standard_error": float(one.standard_error), "samples": SAMPLES}
    return found


def _read(reading: Reading, a: Mixture, b: Mixture, names: tuple[str, ...] | None) -> Weighted:
    """The rows that both models are asked about; with missing values if both take such."""
    holes = bool(a.family.holes and b.family.holes)
    reading = reading._replace(missing=holes and not reading.drop_missing)
    source = reading.open()
    wanted = columns_of_model(source, reading.chosen, reading.weights, names, a.family.n_features(a.components))
    return reading.read(source, wanted)


def _on_rows(mixture: Mixture, weighted: Weighted) -> tuple[dict[str, float], np.ndarray]:
    """The criteria of a model on rows, and its labels `[n]`."""
    import jax
    import numpy as np

    from jaxem.criteria import criteria

    values = weighted.values.astype("float64")
    with jax.enable_x64(True):
        log_prob = np.asarray(mixture.log_prob(values))
        check_density(log_prob)
        certainty, labels = np.asarray(mixture.log_confidence(values)), np.asarray(mixture.predict(values))
    w = np.ones(len(values)) if weighted.weights is None else weighted.weights
    total, doubt = float(w @ log_prob), -float(w @ certainty)
    found = criteria(total, mixture.n_parameters, weighted.total, doubt)
    return {"log_likelihood": total, **found._asdict()}, labels


def _agreement(a: np.ndarray, b: np.ndarray, n_a: int, n_b: int) -> dict[str, Any]:
    """How far labels agree: the adjusted Rand index (Hubert and Arabie 1985), and the best matching of components."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((n_a, n_b), np.int64)
    np.add.at(table, (a, b), 1)

    def pairs(counts: np.ndarray) -> float:
        return float(np.sum(counts * (counts - 1.0) / 2.0))

    together, in_a, in_b, every = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(table.sum())
    expected = in_a * in_b / every if every else 0.0
    most = (in_a + in_b) / 2.0
    index = 1.0 if most == expected else (together - expected) / (most - expected)
    pairs_of = zip(*linear_sum_assignment(-table), strict=True)
    of_a, of_b = table.sum(axis=1), table.sum(axis=0)
    matched = [
        {"a": int(i), "b": int(j), "rows": int(table[i, j]), "rows_of_a": int(of_a[i]), "rows_of_b": int(of_b[j])}
        for i, j in pairs_of
    ]
    share = sum(one["rows"] for one in matched) / len(a)
    return {"adjusted_rand": index, "same_label": share, "matching": matched}


def _print_comparison(found: dict[str, Any]) -> None:
    from jaxem.display import table_lines

    a, b = found["a"], found["b"]
    if found["agreement"] is not None:
        n, weight = found["rows"], found["sum_of_weights"]
        print(
            f"{found['data']}: {n} rows" + (f", weights that sum to {weight:.10g}" if weight is not None else "") + "\n"
        )
    rows = [[name, str(a[key]), str(b[key])] for name, key in (("family", "family"), ("components", "n_components"))]
    rows.append(["parameters", str(a["n_parameters"]), str(b["n_parameters"])])
    rows.append(["weights", *(" ".join(f"{weight:.3g}" for weight in one["weights"][:6]) for one in (a, b))])
    for key, name in (("log_likelihood", "log-likelihood"), ("bic", "BIC"), ("aic", "AIC"), ("icl", "ICL")):
        if key in a:
            rows.append([name, f"{a[key]:.3f}", f"{b[key]:.3f}"])
    print("\n".join(table_lines(["", f"A: {a['file']}", f"B: {b['file']}"], rows)))
    if found["agreement"] is None:
        for words, key in (("of B from A", "of_b_from_a"), ("of A from B", "of_a_from_b")):
            one = found["divergence"][key]
            print(
                f"\ndivergence {words}: {one['value']:.5g} nats, standard error {one['standard_error']:.2g}, "
                f"by {one['samples']} rows drawn from {words[-1]}",
                end="",
            )
        print()
        return
    better = "A" if a["bic"] < b["bic"] else "B"
    print(f"\nBIC is less for {better}, by {abs(a['bic'] - b['bic']):.3f} (lower is better)")
    agreement = found["agreement"]
    print(
        f"labels agree in {agreement['same_label']:.1%} of the rows; adjusted Rand index {agreement['adjusted_rand']:.4f}\n"
    )
    header = ["component of A", "of B", "rows in both", "rows of A", "rows of B"]
    keys = ("a", "b", "rows", "rows_of_a", "rows_of_b")
    print("\n".join(table_lines(header, [[str(one[key]) for key in keys] for one in agreement["matching"]])))
