"""The commands and their options: what is checked, in which order, and which functions of jaxem do the work.

`fit` reads its data before JAX starts, so that a wrong name costs no time; the others first ask the model for its columns.
Files to be written are checked before anything is computed. Data or models in float64 are computed in float64, whatever
JAX's setting.
"""

from __future__ import annotations

import difflib
import enum
import io as text_io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

import jaxem
from jaxem.cli.kinds import Kind, Layers, from_module, kinds
from jaxem.cli.manual import COVARIANCES, EXIT_CODES, KINDS, Command, Program, completes
from jaxem.cli.reading import (
    Columns,
    Data,
    Decimal,
    Delimiter,
    Drop,
    DropMissing,
    Header,
    Labels,
    Missing,
    Na,
    Reading,
    Stream,
    Weighted,
    Weights,
    columns_of_model,
)
from jaxem.cli.records import (
    data_record,
    fit_record,
    print_record,
    report_record,
    score_record,
    summary_record,
    test_record,
)
from jaxem.cli.terminal import UsageError, WorkError, note, printable, run, show_errors, start_jax
from jaxem.cli.words import BUNDLED, Outcome, advice, check_density, print_fit, print_verification, write_csv

if TYPE_CHECKING:
    import threading

    import numpy as np

    from jaxem.datasets import OpenTable, Table
    from jaxem.families.base import Family
    from jaxem.inference import Summary
    from jaxem.init import Initializer
    from jaxem.io import Model as Saved
    from jaxem.laws import Report
    from jaxem.mixture import Mixture
    from jaxem.queue import RestartsProgress
    from jaxem.racing import Search
    from jaxem.rounds import SearchProgress
    from jaxem.selection import Selection
    from jaxem.stopping import StoppingRule

app = typer.Typer(
    name="jaxem",
    cls=Program,
    no_args_is_help=True,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)
LARGE = 2**26
"""bytes of data above which devices share the rows, not the restarts"""
MOST_COUNTS = 100
"""numbers of components that are tried at most"""
SHORT = 10**7
"""numbers that a search touches below which it shows no progress"""
RESTARTS = 64
"""climbs where --init is given without --restarts"""
OTHER_FORMATS = (
    *(".pkl", ".pickle", ".joblib", ".pt", ".pth", ".json", ".npz", ".npy", ".csv", ".tsv", ".txt", ".parquet"),
    *(".png", ".pdf", ".svg", ".html", ".h5", ".gz", ".zip"),
)
"""suffixes that a model file does not have: programs would take it for something else"""
NO_LIMIT = 10**18
"""a bound that only keeps absurd numbers out; the data set the real one"""


class Init(enum.StrEnum):
    """Names of the initialisers."""

    KMEANS_PLUS_PLUS = "k-means++"
    KMEANS = "kmeans"
    RANDOM = "random"
    RANDOM_POINTS = "random-points"


class Order(enum.StrEnum):
    """What components can be put in order by."""

    WEIGHT = "weight"
    MEAN = "mean"


ALSO = {
    "kmeans++": "k-means++",
    "k-means": "kmeans",
}
"""other names of initialisers"""


def _one_of(kind: type[enum.StrEnum]) -> Callable[[str], Any]:
    """A parser of the names in an enumeration, which says what was perhaps meant."""

    def parse(text: str) -> Any:
        name = ALSO.get(text.lower(), text.lower())
        names = [str(member) for member in kind]
        if name in names:
            return kind(name)
        close = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}{hint}")

    return parse


def _option(kind: type[enum.StrEnum], text: str, default: str | bool = True) -> Any:
    names = [str(member) for member in kind]
    complete = completes(*names, after=())
    parser = _one_of(kind)
    return typer.Option(
        parser=parser, metavar="|".join(names), help=text, show_default=default, autocompletion=complete
    )


def _whole(text: str | int) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number; give one such as 3") from None


def _print_version(on: bool) -> None:
    if on:
        print(f"jaxem {jaxem.__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fit mixture models by expectation-maximisation, from many starts at once, and verify the mathematics."""


Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model that `jaxem fit --out` saved, or its .json or .npz.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs, and nothing else, on stdout.")]
Own = Annotated[
    str | None,
    typer.Option(
        "--family", metavar="MODULE:CLASS", help="Where the family of the model is defined, if it is your own."
    ),
]
Out = Annotated[Path | None, typer.Option(help="Write here instead of to stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
ChunkSize = Annotated[int | None, typer.Option(min=1, help="Rows worked on at a time, to bound memory.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no compiled programs for the next time.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="On an error show where it was raised.", callback=lambda on: show_errors(on))
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the random numbers.")]


@app.command(cls=Command)
def fit(
    data: Data = None,
    components: Annotated[
        str,
        typer.Option("-k", "--components", metavar="K|A:B", help="Number of components, or a range to choose from."),
    ] = "2",
    covariance: Annotated[
        str | None,
        typer.Option(
            metavar="FORM",
            autocompletion=completes(*COVARIANCES),
            show_default="full",
            help="Form of the covariances: full, tied, diag, spherical or mclust's letters; all tries four, mclust fourteen.",
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            autocompletion=completes(*KINDS),
            show_default="full",
            help="Kind of component: a form of covariances, student-t, poisson, categorical, bernoulli, or module:Class of "
            "your own; with commas several are tried.",
        ),
    ] = None,
    labels: Labels = None,
    background: Annotated[
        bool, typer.Option("--background", help="One component more, uniform where the data lie, for outliers.")
    ] = False,
    budget: Annotated[
        int | None,
        typer.Option(parser=_whole, show_default="1000", help="Passes that the search for the best optimum may make."),
    ] = None,
    restarts: Annotated[
        int | None, typer.Option(parser=_whole, help="Climb to the end from so many starts instead of searching.")
    ] = None,
    seed: Seed = 0,
    init: Annotated[Init | None, _option(Init, "How these starts are made.", "k-means++")] = None,
    tol: Annotated[
        float | None,
        typer.Option(show_default="1e-8", help="Stop where less than this is left to gain in log-likelihood, in nats."),
    ] = None,
    max_iter: Annotated[int, typer.Option(parser=_whole, help="EM steps of a climb at most.")] = 10_000,
    columns: Columns = None,
    drop: Drop = None,
    weights: Weights = None,
    order: Annotated[
        Order | None,
        _option(Order, "Put the components in order: the heaviest first, or the smallest mean first."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Save the best mixture here (safetensors).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the fit and its optima here (png, pdf, svg).")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report here, one HTML file in which EM can be played step by step.")
    ] = None,
    force: Force = False,
    errors: Annotated[
        bool, typer.Option("--errors", help="Print standard errors and 95% intervals, and draw those of the means.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not verify the mathematics at the result.")
    ] = False,
    chunk_size: ChunkSize = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    header: Header = None,
    na: Na = None,
    drop_missing: DropMissing = False,
    missing: Missing = False,
    stream: Stream = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A file, written every few seconds; if it is there, the work goes on from it."),
    ] = None,
    no_cache: NoCache = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit a mixture to DATA by EM, of Gaussians if nothing else is said; without DATA to the bundled Old Faithful.

    The best optimum is searched for: starts of several kinds are raced and the last polished. With -k A:B or --covariance all
    each is searched for, and the one with the least BIC kept. A fit that did not converge says so and exits 0; one that
    collapsed is not saved and exits 1 with advice.
    """

    def work() -> None:
        files = Files(out, plot, report, force)
        files.check()
        counts = _counts(components)
        layers = Layers(labels is not None, background)
        settings = Settings(
            layers.counts(counts), kinds(covariance, family, missing), layers, seed, budget, restarts,
            init or Init.KMEANS_PLUS_PLUS, tol, max_iter, chunk_size, order, checkpoint,
        )  # fmt: skip
        if restarts is None and init is not None:
            settings = settings._replace(restarts=RESTARTS)
        settings.check()
        reading = Reading(data, columns, weights, delimiter, decimal, header, na, drop_missing, labels, missing, drop)
        if reading.is_streamed(stream):
            start_jax(keep=not no_cache)
            weighted = reading.stream()
            names = weighted.table.columns if weighted.source.named else None
            _fit(
                weighted,
                names,
                data,
                settings,
                files,
                verified=not no_verify,
                keep=not no_cache,
                errors=errors,
                as_json=as_json,
            )
            return
        source = reading.open()
        weighted = reading.read(source)
        if weighted.labels is not None and int(weighted.labels.max()) >= min(counts):
            raise UsageError(
                f"--labels {labels} names {int(weighted.labels.max()) + 1} components, and -k asks for {min(counts)}; give at "
                f"least -k {int(weighted.labels.max()) + 1}"
            )
        generated = not source.named and weighted.table.columns == source.columns
        names = None if generated else weighted.table.columns
        _fit(
            weighted,
            names,
            data,
            settings,
            files,
            verified=not no_verify,
            keep=not no_cache,
            errors=errors,
            as_json=as_json,
        )

    run(work)


@app.command("test", cls=Command)
def likelihood_ratio(
    data: Data = None,
    components: Annotated[
        int, typer.Option("-k", "--components", parser=_whole, help="Number of components that may be enough.")
    ] = 1,
    against: Annotated[
        int | None, typer.Option(parser=_whole, show_default="one more", help="Number of components to compare with.")
    ] = None,
    covariance: Annotated[
        str | None,
        typer.Option(
            metavar="FORM",
            autocompletion=completes(*COVARIANCES),
            show_default="full",
            help="Form of the covariances, as for fit.",
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            autocompletion=completes(*KINDS),
            show_default="full",
            help="Kind of component, as for fit.",
        ),
    ] = None,
    replicates: Annotated[
        int,
        typer.Option(
            parser=_whole, help="Data sets to draw from the smaller fit; the p-value is at least 1 / (1 + this)."
        ),
    ] = 99,
    seed: Seed = 0,
    columns: Columns = None,
    drop: Drop = None,
    weights: Weights = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw what the statistic is by chance here (png, pdf, svg).")
    ] = None,
    force: Force = False,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    header: Header = None,
    na: Na = None,
    drop_missing: DropMissing = False,
    missing: Missing = False,
    no_cache: NoCache = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Test whether -k components are enough for DATA, by the likelihood ratio and the parametric bootstrap.

    A small p-value says that more components fit better than chance would have it. Weights count rows.
    """

    def work() -> None:
        import jax

        Files(None, plot, None, force).check()
        _check_whole("--replicates", replicates, most=10**6)
        _check_whole("-k", components, most=NO_LIMIT)
        _check_whole("--against", against, most=NO_LIMIT)
        chosen = kinds(covariance, family, missing)
        if len(chosen) > 1:
            raise UsageError("the test compares numbers of components of one kind; give one --covariance or --family")
        reading = Reading(
            data, columns, weights, delimiter, decimal, header, na, drop_missing, missing=missing, drop=drop
        )
        weighted = reading.read(reading.open())
        start_jax(keep=not no_cache)
        with _precision(weighted.table):
            found = jaxem.likelihood_ratio_test(
                jax.random.key(seed), chosen[0].make(weighted.table.values), weighted.values, components, against,
                sample_weight=weighted.weights, n_replicates=replicates, progress=True,
            )  # fmt: skip
        if as_json:
            print_record("test", test_record(source_of(data), weighted, found))
        else:
            print(found)
        if plot is not None:
            _draw_test(found, plot, force)
            if not as_json:
                print(f"drawn in {printable(str(plot))}")

    run(work)


@app.command(cls=Command)
def predict(
    model: Model,
    data: Data = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="The probability of each component, not the likeliest.")
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Print the table with its own columns too, and these at the end.")
    ] = False,
    columns: Columns = None,
    drop: Drop = None,
    out: Out = None,
    force: Force = False,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    header: Header = None,
    na: Na = None,
    drop_missing: DropMissing = False,
    stream: Stream = False,
    family: Own = None,
    debug: Debug = False,
) -> None:
    """Print the component of each row of DATA, as CSV; a row that is left out gets an empty line.

    The columns are found by their names, in any order and among others, if the model and DATA have names.
    """

    def work() -> None:
        import numpy as np

        check_free(out, force)
        reading = Reading(data, columns, None, delimiter, decimal, header, na, drop_missing, drop=drop)
        if reading.is_streamed(stream):
            if append:
                raise UsageError("--append needs a table in memory; leave it out, or leave --stream out")
            _predict_stream(model, reading, family, "probabilities" if proba else "component", out, force)
            return
        task = _read_for(model, reading, family)
        with task.precision():
            check_density(np.asarray(task.mixture.log_prob(task.values)))
            ask = task.mixture.responsibilities if proba else task.mixture.predict
            found = np.asarray(ask(task.values))
        names = [f"p{j}" for j in range(found.shape[1])] if proba else ["component"]
        rows = found.reshape(len(found), -1).tolist()
        kept = task.weighted.table.kept
        if kept is not None:
            left, empty = iter(rows), [""] * len(names)
            rows = [next(left) if there else empty for there in kept]
        if append:
            own, cells = task.source.cells()
            names = [*own, *(name if name not in own else f"{name} of the model" for name in names)]
            rows = [[*before, *after] for before, after in zip(cells, rows, strict=True)]
        write_csv(names, rows, out, force)

    run(work)


@app.command(cls=Command)
def score(
    model: Model,
    data: Data = None,
    columns: Columns = None,
    drop: Drop = None,
    weights: Weights = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    header: Header = None,
    na: Na = None,
    drop_missing: DropMissing = False,
    stream: Stream = False,
    family: Own = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the log-likelihood of DATA under a model, in total and per row, and its BIC and AIC.

    With weights the total is weighted, and the n of BIC is their sum.
    """

    def work() -> None:
        import numpy as np

        reading = Reading(data, columns, weights, delimiter, decimal, header, na, drop_missing, drop=drop)
        if reading.is_streamed(stream):
            _score_stream(model, reading, family, as_json)
            return
        task = _read_for(model, reading, family)
        with task.precision():
            log_prob = np.asarray(task.mixture.log_prob(task.values), np.float64)
            p = task.mixture.n_parameters
        check_density(log_prob)
        w = task.weighted.weights
        total = float(log_prob.sum() if w is None else (w * log_prob).sum())
        _print_score(reading, task.weighted, total, p, as_json)

    run(work)


@app.command(cls=Command)
def sample(
    model: Model,
    n: Annotated[int, typer.Option("-n", "--rows", min=1, max=10**7, help="Number of rows.")] = 100,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    family: Own = None,
    debug: Debug = False,
) -> None:
    """Draw rows from a model and print them as CSV, with the component each came from."""

    def work() -> None:
        import jax
        import numpy as np

        from jaxem.layout import generated_names

        check_free(out, force)
        start_jax()
        saved = load_saved(model, family)
        with jax.enable_x64(True):
            rows, labels = (np.asarray(leaf) for leaf in saved.mixture.sample(jax.random.key(seed), n))
        names = [*(saved.columns or generated_names(rows.shape[1]))]
        names.append("component" if "component" not in names else "component of the model")
        lines = ([*row, label] for row, label in zip(rows.tolist(), labels.tolist(), strict=True))
        write_csv(names, lines, out, force)

    run(work)


@app.command(cls=Command)
def verify(
    model: Model,
    data: Data = None,
    columns: Columns = None,
    drop: Drop = None,
    weights: Weights = None,
    seed: Seed = 0,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    header: Header = None,
    na: Na = None,
    drop_missing: DropMissing = False,
    stream: Stream = False,
    family: Own = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Try the laws of EM on a model and DATA, and print each with its residual and verdict.

    The laws are tried with weights of their own; of those given only a zero counts, which leaves its row out.
    """

    def work() -> None:
        reading = Reading(data, columns, weights, delimiter, decimal, header, na, drop_missing, drop=drop)
        if reading.is_streamed(stream):
            mixture, weighted = _stream_for(model, reading, family)
            report = jaxem.verify(mixture, weighted.source, seed=seed)
        else:
            task = _read_for(model, reading, family)
            weighted = task.weighted
            w = weighted.weights
            with task.precision():
                report = jaxem.verify(task.mixture, task.values if w is None else task.values[w > 0], seed=seed)
        if as_json:
            source = source_of(data)
            print_record("verify", {**data_record(source, weighted), **report_record(report)})
        else:
            print(report)
        if not report.ok:
            raise WorkError("a law fails: the model's formulas do not fit together on these data")

    run(work)


# -- what is asked for ---------------------------------------------------------------------------------------------------


class Files(NamedTuple):
    """Where `fit` writes to; None for nowhere."""

    out: Path | None
    plot: Path | None
    report: Path | None
    force: bool

    def check(self) -> None:
        """Raise, before anything is computed, for a file that cannot be written."""
        paths = [path for path in (self.out, self.plot, self.report) if path is not None]
        for path in paths:
            check_free(path, self.force)
        if self.out is not None and self.out.suffix.lower() in OTHER_FORMATS:
            raise typer.BadParameter(
                f"{self.out} has the suffix {self.out.suffix!r}, and a model is written as safetensors; give such as "
                f"{self.out.with_suffix('.safetensors')}"
                + ", then use jaxem convert"
                * (self.out.suffix in (".json", ".npz")),
                param_hint="--out",
            )
        if len({path.absolute() for path in paths}) < len(paths):
            raise UsageError("--out, --plot and --report name one file twice; give each its own")
        if self.plot is not None:
            _picture_format(self.plot)


class Settings(NamedTuple):
    """What `fit` is to fit and how it looks for the best optimum: by a search within a budget, or from `restarts` starts."""

    counts: tuple[int, ...]
    kinds: tuple[Kind, ...]
    layers: Layers
    seed: int
    budget: int | None
    restarts: int | None
    init: Init
    tol: float | None
    max_iter: int
    chunk_size: int | None
    order: Order | None
    checkpoint: Path | None = None

    @property
    def several(self) -> bool:
        """Whether there is a choice to be made between models."""
        return len(self.counts) > 1 or len(self.kinds) > 1

    def check(self) -> None:
        """Raise for numbers that cannot be meant, whatever the data, and for options that exclude each other."""
        if self.tol is not None and not 0 <= self.tol < math.inf:
            raise typer.BadParameter(f"{self.tol} is not a tolerance; give a number such as 1e-8", param_hint="--tol")
        _check_whole("--budget", self.budget)
        _check_whole("--restarts", self.restarts, most=2**20)
        _check_whole("--max-iter", self.max_iter, least=0, most=10**7)
        if self.order is not None and (self.layers.labels or self.layers.background):
            raise typer.BadParameter(
                "components with labels or a background have fixed places; leave --order out", param_hint="--order"
            )
        if self.restarts is not None and (self.several or self.budget is not None):
            other = "--budget" if self.budget is not None else "-k A:B and several kinds"
            raise typer.BadParameter(f"{other} and --restarts or --init exclude each other; give one of the two")
        if self.checkpoint is not None and self.several:
            raise typer.BadParameter(
                "a checkpoint is of one search; give one -k and one kind, or leave --checkpoint out",
                param_hint="--checkpoint",
            )

    def described(self, kind: Kind) -> str:
        """What the components of a fit are, in words."""
        more = " and a background" * self.layers.background + ", some of the rows labelled" * self.layers.labels
        return kind.described + more

    def families(self, weighted: Weighted) -> list[Family]:
        """The families of a table."""
        every = weighted.table.values if weighted.source is not None else weighted.values
        counted = every if weighted.weights is None else every[weighted.weights > 0]
        return [self.layers.wrap(kind.make(weighted.table.values), counted) for kind in self.kinds]

    @property
    def stop(self) -> StoppingRule | None:
        """The stopping rule; None for the default."""
        return None if self.tol is None else jaxem.RemainingGainBelow(self.tol)

    def of_search(self, weighted: Weighted) -> dict[str, Any]:
        """Keyword arguments of `jaxem.search` and `jaxem.select`."""
        options = {"budget": self.budget, "stop": self.stop, "max_iter": self.max_iter, "chunk_size": self.chunk_size}
        return {**options, "sample_weight": weighted.weights}


def _counts(text: str) -> tuple[int, ...]:
    """`3`, or `1:6` for 1, 2, ..., 6."""
    first, colon, last = text.partition(":")
    try:
        low = int(first)
        high = int(last) if colon else low
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a whole number; give a number or a range such as 1:6", param_hint="-k"
        ) from None
    _check_whole("-k", low, most=NO_LIMIT)
    if high < low:
        raise typer.BadParameter(
            f"{text!r} runs backwards; give the smaller number first, such as 1:6", param_hint="-k"
        )
    if high - low >= MOST_COUNTS:
        raise typer.BadParameter(f"{text!r} is {high - low + 1} numbers; give at most {MOST_COUNTS}", param_hint="-k")
    return tuple(range(low, high + 1))


def _check_whole(option: str, value: int | None, least: int = 1, most: int = 2**31 - 1) -> None:
    if value is not None and not least <= value <= most:
        allowed = f"of at least {least}" if most == NO_LIMIT and value < least else f"from {least} to {most}"
        raise typer.BadParameter(f"{value} is out of range; give a whole number {allowed}", param_hint=option)


def check_free(out: Path | None, force: bool) -> None:
    """Raise a UsageError if a file is there and may not be replaced; an OSError if it cannot be written."""
    if out is None:
        return
    from jaxem.atomic import check_destination

    try:
        check_destination(out, force, "add --force")
    except FileExistsError as error:
        raise UsageError(str(error)) from error


class Task(NamedTuple):
    """A model and the table it is asked about."""

    mixture: Mixture
    weighted: Weighted
    source: OpenTable

    @property
    def double(self) -> bool:
        """Whether the model or the table is in float64."""
        return 8 in (self.mixture.log_weights.dtype.itemsize, self.weighted.table.values.dtype.itemsize)

    @property
    def values(self) -> np.ndarray:
        """The rows, in float64 if the model is."""
        values = self.weighted.table.values
        return values.astype("float64") if self.double else values

    def precision(self) -> Any:
        """The scope in which this task is computed."""
        import jax

        return jax.enable_x64(self.double)


def load_saved(model: Path, own: str | None) -> Saved:
    """A model of any format, with all its digits; `own` is where its family is defined."""
    import jax

    from jaxem.exchange import read_model

    if own is not None:
        from_module(own)
    with jax.enable_x64(True):  # no digit is lost
        return read_model(model)


def _read_for(model: Path, reading: Reading, own: str | None) -> Task:
    """Load a model, and read of the table the columns that it wants."""
    start_jax()
    saved = load_saved(model, own)
    # a model of rows that miss values takes such rows
    reading = reading._replace(missing=bool(saved.mixture.family.holes) and not reading.drop_missing)
    source = reading.open()
    d = saved.mixture.family.n_features(saved.mixture.components)
    wanted = columns_of_model(source, reading.chosen, reading.weights, saved.columns, d)
    return Task(saved.mixture, reading.read(source, wanted), source)


def _stream_for(model: Path, reading: Reading, own: str | None) -> tuple[Mixture, Weighted]:
    """Load a model, and open the columns that it wants, by their names, as a source."""
    from jaxem.datasets import DataError

    start_jax()
    saved, chosen = load_saved(model, own), reading.chosen
    if saved.columns is None or (chosen is not None and set(chosen) != set(saved.columns)):
        return saved.mixture, reading.stream()
    try:
        return saved.mixture, reading.stream(saved.columns)
    except DataError:
        weighted = reading.stream()  # the error again, if that is not about names
        if weighted.source.named or weighted.shape[1] != len(saved.columns):
            raise
    note(
        f"columns go by position: {', '.join(weighted.table.columns[:20])} for the model's {', '.join(saved.columns[:20])}"
    )
    return saved.mixture, weighted


def _predict_stream(model: Path, reading: Reading, own: str | None, kind: str, out: Path | None, force: bool) -> None:
    import jax

    if out is None:
        raise UsageError("predictions of streamed data are written to a file; give --out with .parquet, .csv or .npy")
    mixture, weighted = _stream_for(model, reading, own)
    with jax.enable_x64(mixture.log_weights.dtype.itemsize == 8):
        n = jaxem.predict_to(out, mixture, weighted.source, kind, overwrite=force)
    print(f"{n} rows written to {printable(str(out))}")


def _score_stream(model: Path, reading: Reading, own: str | None, as_json: bool) -> None:
    import jax

    mixture, weighted = _stream_for(model, reading, own)
    with jax.enable_x64(mixture.log_weights.dtype.itemsize == 8):
        total = float(jaxem.e_step(mixture, weighted.source).log_likelihood)
    if not math.isfinite(total):
        raise WorkError("some row has no density under the model; leave out rows that it cannot produce")
    _print_score(reading, weighted, total, mixture.n_parameters, as_json)


def _print_score(reading: Reading, weighted: Weighted, total: float, p: int, as_json: bool) -> None:
    from jaxem.criteria import criteria

    n = weighted.total
    of_fit = criteria(total, p, n)
    if as_json:
        print_record("score", score_record(source_of(reading.data), weighted, total, of_fit))
        return
    print(f"log_likelihood {total:.6f}\nper_row {total / n:.6f}\nrows {weighted.shape[0]}")
    if weighted.is_weighted:
        print(f"weights {n:.10g}")
    print(f"bic {of_fit.bic:.6f}\naic {of_fit.aic:.6f}")


def source_of(data: Path | None) -> str:
    """What the data are called."""
    return BUNDLED if data is None else "standard input" if str(data) in ("-", "/dev/stdin") else printable(str(data))


def _precision(table: Table) -> Any:
    """The scope in which data in float64 are computed in float64."""
    import jax

    return jax.enable_x64(table.values.dtype.itemsize == 8)


def _initializer(init: Init) -> Initializer:
    initializers: dict[str, Initializer] = {
        "k-means++": jaxem.KMeansPlusPlus(),
        "kmeans": jaxem.KMeans(),
        "random": jaxem.RandomParameters(),
        "random-points": jaxem.RandomPoints(),
    }
    return initializers[init.value]


# -- the fit -------------------------------------------------------------------------------------------------------------


def _fit(
    weighted: Weighted,
    names: tuple[str, ...] | None,
    data: Path | None,
    settings: Settings,
    files: Files,
    *,
    verified: bool,
    keep: bool,
    errors: bool,
    as_json: bool,
) -> None:
    """Fit, save, print, verify, draw and report; the model is saved with the names of its columns."""
    from jaxem.checks import as_components
    from jaxem.io import save, wrong_columns
    from jaxem.stopping import Status

    table = weighted.table
    wrong = None if names is None or files.out is None else wrong_columns([*names], len(names))
    if wrong is not None:  # before the work, not after it
        note(f"the model is saved without the names of its columns, which {wrong}")
        names = None
    for k in settings.counts:
        as_components(k, weighted.shape[0])
    start_jax(keep=keep)
    ahead = verified and not settings.several and weighted.source is None
    compiling = _compile_verification(weighted, settings) if ahead else None
    shown = weighted._replace(table=table._replace(columns=tuple(map(printable, table.columns))))
    source, record = source_of(data), None
    try:
        with _precision(table):
            outcome = _ordered(_climb(weighted, settings), settings.order)
            mixture, status = outcome.result.mixture, Status(int(outcome.result.status))
            if files.out is not None and not status.failed:  # before anything is printed: stdout may be closed
                save(settings.layers.without_labels(mixture), files.out, columns=names, overwrite=files.force)
            own = settings.layers.without_labels(mixture)
            if as_json:
                record = fit_record(source, shown, outcome, status, own, names)
            else:
                print_fit(source, shown, outcome, status, own)
            if status.failed:
                if record is not None:
                    print_record("fit", record)
                raise WorkError(advice(outcome, shown.table.columns, status))
    finally:  # a process that ends while XLA compiles is aborted
        if compiling is not None:
            compiling.join()
    with _precision(table):
        verification = jaxem.verify(mixture, weighted.values) if verified else None
        if settings.layers.labels:  # pictures and files are of what new rows have
            outcome = outcome.without_labels(settings.layers.without_labels(mixture))
        summary = _errors(mixture, weighted) if errors else None
        if record is None:
            _print_more(verification, summary, shown.table)
        say: Callable[[str], None] = print if record is None else (lambda _: None)
        if files.plot is not None:
            _draw(outcome, shown.table, files.plot, files.force, summary, counts=settings.restarts is not None)
            say(f"drawn in {printable(str(files.plot))}")
        if files.report is not None:
            _write_report(outcome, source, shown, verification, files.report, files.force, summary)
            say(f"reported in {printable(str(files.report))}")
        say(
            "not saved (--out FILE saves the mixture)" if files.out is None else f"saved to {printable(str(files.out))}"
        )
    if record is not None:
        record["verification"] = None if verification is None else report_record(verification)
        record["errors"] = None if summary is None else summary_record(summary)
        written = {"out": files.out, "plot": files.plot, "report": files.report}
        record["files"] = {name: None if path is None else str(path) for name, path in written.items()}
        print_record("fit", record)


def _print_more(verification: Report | None, summary: Summary | None, table: Table) -> None:
    """What was verified, and the standard errors."""
    from jaxem.display import summary_card

    if verification is not None:
        print_verification(verification)
    if summary is not None:
        text = summary_card(summary, table.columns).text()
        print(f"How sure is the fit? (robust: also if the family is wrong)\n{text}\n")


def _errors(mixture: Mixture, weighted: Weighted) -> Summary:
    """Standard errors and intervals."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the table says the same below
        return jaxem.summary(mixture, weighted.values, weighted.weights)


def _ordered(outcome: Outcome, order: Order | None) -> Outcome:
    """The same with its components in order."""
    if order is None:
        return outcome
    mixture = jaxem.sorted_components(outcome.result.mixture, by=order.value)
    return outcome._replace(result=outcome.result._replace(mixture=mixture))


def _compile_verification(weighted: Weighted, settings: Settings) -> threading.Thread:
    """Compile the verification while the fit is under way."""
    import jax
    import numpy as np

    from jaxem.init import shapes_of
    from jaxem.laws import compile_verify

    [family], k, values = settings.families(weighted), settings.counts[0], weighted.values
    with jax.enable_x64(True):
        shapes = shapes_of(family, k, values.shape[1], np.float64)
    return compile_verify(jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes), values)


def _climb(weighted: Weighted, settings: Settings) -> Outcome:
    if settings.several:
        return _select(weighted, settings)
    return (_search if settings.restarts is None else _restart)(weighted, settings)


def _restart(weighted: Weighted, settings: Settings) -> Outcome:
    """Climb from many starts of one kind to the end."""
    import jax

    from jaxem.devices import mesh_of
    from jaxem.display import count_of
    from jaxem.lanes import lane_count
    from jaxem.progress import bar
    from jaxem.rows import as_rows

    values, [family], k = weighted.values, settings.families(weighted), settings.counts[0]
    devices, restarts = jax.local_devices(), settings.restarts or 1
    # several GPUs share the restarts, but the rows of large data: then each has only its own in memory
    several = len(devices) > 1 and devices[0].platform != "cpu"
    by_rows = weighted.source is None and several and (restarts < len(devices) or values.nbytes > LARGE)
    mesh = mesh_of(devices) if by_rows else None
    with bar("fit") as update:
        began = time.perf_counter()

        def show(seen: RestartsProgress) -> None:
            update(seen.finished, restarts, f"{_speed(seen.passes, weighted, began)}, best {seen.best:.4f}")

        lanes = lane_count(restarts)
        options = dict[str, Any]({"lanes": lanes, "chunk_size": settings.chunk_size, "mesh": mesh})
        rows = values if weighted.source is not None else as_rows(family, values, weighted.weights, k, **options)
        key, initializer = jax.random.key(settings.seed), _initializer(settings.init)
        starts = jaxem.starts(key, family, rows, k, restarts, initializer)
        results = jaxem.fit_restarts(
            starts,
            rows,
            stop=settings.stop,
            max_iter=settings.max_iter,
            accelerator=jaxem.hybrid(),
            callback=show,
            checkpoint=settings.checkpoint,
        )
    found, origin = jaxem.best(results), count_of(restarts, "restart")
    failed = jaxem.Status(int(found.status)).failed
    collapse = jaxem.collapse_of(found.mixture, weighted.table.values, weighted.weights) if failed else None
    return Outcome(found, settings.described(settings.kinds[0]), jaxem.landscape(results), origin, None, collapse)


def _speed(passes: int, weighted: Weighted, began: float) -> str:
    """Passes made since `began`, and the rows that they passed over in a second, in words."""
    return f"{passes} passes, {passes * weighted.shape[0] / max(time.perf_counter() - began, 1e-9):.2g} rows/s"


def _search(weighted: Weighted, settings: Settings) -> Outcome:
    """Race diverse starts."""
    import jax

    from jaxem.progress import bar
    from jaxem.racing import default_budget

    values, k, options = weighted.values, settings.counts[0], settings.of_search(weighted)
    # what takes no time shows no progress, and is not cut in pieces for it
    size, began = math.prod(weighted.shape), time.perf_counter()
    budget = settings.budget or default_budget(size * k)
    long = size * k * budget >= SHORT
    with bar("search", long) as update:

        def show(seen: SearchProgress) -> None:
            update(
                seen.passes,
                budget,
                f"{seen.lanes} climbs, {_speed(seen.passes, weighted, began)}, best {seen.best:.4f}",
            )

        key, [family], callback = jax.random.key(settings.seed), settings.families(weighted), show if long else None
        found = jaxem.search(key, family, values, k, callback=callback, checkpoint=settings.checkpoint, **options)
    return _outcome(found, settings.described(settings.kinds[0]), None)


def _select(weighted: Weighted, settings: Settings) -> Outcome:
    """Search for each number of components and kind of component, and keep the one with the least BIC."""
    import jax

    families = settings.families(weighted)
    key, options = jax.random.key(settings.seed), settings.of_search(weighted)
    selection = jaxem.select(key, families, weighted.values, settings.counts, progress=True, **options)
    chosen = settings.kinds[selection.chosen // len(settings.counts)]
    return _outcome(selection.best, settings.described(chosen), selection)


def _outcome(found: Search, described: str, selection: Selection | None) -> Outcome:
    from jaxem.display import count_of

    passes = count_of(found.passes, "pass", "passes")
    origin = f"{count_of(len(found.arms), 'finalist')} of a search of {passes}"
    return Outcome(found.best, described, found.landscape, origin, selection, found.collapse, found)


# -- pictures ------------------------------------------------------------------------------------------------------------


def _picture_format(path: Path) -> str:
    """The format of a picture by its suffix."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("matplotlib is not installed; --plot needs: pip install 'jaxem[plot]'") from error
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FigureCanvasAgg.filetypes:
        raise typer.BadParameter(
            f"{path} has the suffix {path.suffix!r}; give one such as .png, .pdf or .svg", param_hint="--plot"
        )
    return suffix


def _draw(outcome: Outcome, table: Table, path: Path, force: bool, summary: Summary | None, *, counts: bool) -> None:
    """The fit, and beside it the curve of the selection, or the optima where there was nothing to select.

    `counts` says whether the climbs tell how often random starts end in an optimum: those of a search were picked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from jaxem.plots import draws_intervals, plot_landscape, plot_responsibilities, plot_selection

    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    fit, beside = figure.subplots(1, 2, width_ratios=(1.3, 1))
    mixture = outcome.result.mixture
    summary = summary if draws_intervals(mixture) else None
    plot_responsibilities(mixture, table.values, columns=table.columns, summary=summary, ax=fit)
    if outcome.selection is not None:
        plot_selection(outcome.selection, ax=beside)
    else:
        plot_landscape(outcome.landscape, counts=None if counts else False, ax=beside)
        told = [line for line in (outcome.origin, beside.get_title()) if line]
        beside.set_title("\n".join(told), fontsize=10)
    shown = "" if len(table.columns) <= 2 else f", the first 2 of {len(table.columns)} columns"
    fit.set_title(f"log-likelihood {float(outcome.result.log_likelihood):.4f}{shown}", fontsize=10)
    _save_picture(figure, path, force)


def _save_picture(figure: Any, path: Path, force: bool) -> None:
    from jaxem.atomic import write_atomically

    picture = text_io.BytesIO()
    figure.savefig(picture, format=_picture_format(path), dpi=150)
    write_atomically(path, picture.getvalue(), force)


def _draw_test(found: Any, path: Path, force: bool) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from jaxem.plots import plot_test

    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    plot_test(found, ax=figure.subplots())
    _save_picture(figure, path, force)


def _write_report(
    outcome: Outcome,
    source: str,
    weighted: Weighted,
    verification: Report | None,
    path: Path,
    force: bool,
    summary: Summary | None,
) -> None:
    from jaxem import html
    from jaxem.atomic import write_atomically

    found: Any = outcome.result
    if outcome.search is not None:
        found = outcome.search._replace(best=found)
    if outcome.selection is not None:
        found = outcome.selection._replace(best=found)
    page = html.report(
        found,
        weighted.table.values,
        columns=weighted.table.columns,
        n=weighted.total,
        landscape=outcome.landscape if outcome.search is None else None,
        verification=False if verification is None else verification,
        summary=summary if summary is None or summary.family == outcome.result.mixture.family else None,
        title=f"EM on {Path(source).name}",
    )
    write_atomically(path, page.encode(), force)
