"""The commands and their options: what is checked, in which order, and which functions of jaxem do the work.

A command reads its data before JAX starts, so that a wrong name costs no time; files to be written are checked before
anything is computed. Data in float64 are computed in float64, whatever JAX's setting.
"""

from __future__ import annotations

import enum
import io as text_io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jaxem.cli.terminal import WorkError, progress_bar, run, run_command_line, show_errors, start_jax
from jaxem.cli.words import BUNDLED, Outcome, advice, check_density, print_fit, print_verification, write_csv

if TYPE_CHECKING:
    import threading

    from jaxem.datasets import Table
    from jaxem.families.base import Family
    from jaxem.init import Initializer
    from jaxem.laws import Report
    from jaxem.mixture import Mixture
    from jaxem.queue import RestartsProgress
    from jaxem.racing import Candidate, Search, SearchProgress, Selection
    from jaxem.stopping import StoppingRule

app = typer.Typer(
    name="jaxem",
    help="Fit mixture models by expectation-maximisation, from many starts at once, and verify the mathematics.",
    no_args_is_help=True,
    add_completion=False,
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
NO_LIMIT = 10**18
"""a bound that only keeps absurd numbers out; the data set the real one"""


class Covariance(enum.StrEnum):
    """Names of the Gaussian families, as in scikit-learn."""

    FULL = "full"
    TIED = "tied"
    DIAG = "diag"
    SPHERICAL = "spherical"
    ALL = "all"


class Init(enum.StrEnum):
    """Names of the initialisers."""

    KMEANS_PLUS_PLUS = "k-means++"
    KMEANS = "kmeans"
    RANDOM = "random"
    RANDOM_POINTS = "random-points"


def _whole(text: str | int) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number; give one such as 3") from None


Data = Annotated[Path | None, typer.Argument(help="csv, tsv, parquet or npy; Old Faithful if left out.")]
Model = Annotated[Path, typer.Argument(help="A model that `jaxem fit --out` saved.")]
Columns = Annotated[str | None, typer.Option(help="Names of the columns to use, separated by commas.")]
Out = Annotated[Path | None, typer.Option(help="Write here instead of to stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
ChunkSize = Annotated[int | None, typer.Option(min=1, help="Rows worked on at a time, to bound memory.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no compiled programs for the next time.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="On an error show where it was raised.", callback=lambda on: show_errors(on))
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the random numbers.")]


@app.command()
def fit(
    data: Data = None,
    components: Annotated[
        str,
        typer.Option("-k", "--components", metavar="K|A:B", help="Number of components, or a range to choose from."),
    ] = "2",
    covariance: Annotated[Covariance, typer.Option(help="Form of the covariances; all tries each.")] = Covariance.FULL,
    budget: Annotated[
        int | None,
        typer.Option(parser=_whole, help="Passes that the search for the best optimum may make.  [default: 1000]"),
    ] = None,
    restarts: Annotated[
        int | None, typer.Option(parser=_whole, help="Climb to the end from so many starts instead of searching.")
    ] = None,
    seed: Seed = 0,
    init: Annotated[
        Init | None, typer.Option(help="How these starts are made.  [default: k-means++]", show_default=False)
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(help="Stop where less than this is left to gain in log-likelihood, in nats.  [default: 1e-8]"),
    ] = None,
    max_iter: Annotated[int, typer.Option(parser=_whole, help="EM steps of a climb at most.")] = 10_000,
    columns: Columns = None,
    out: Annotated[Path | None, typer.Option(help="Save the best mixture here (safetensors).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the fit and its optima here (png, pdf, svg).")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report here, one HTML file in which EM can be played step by step.")
    ] = None,
    force: Force = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not verify the mathematics at the result.")
    ] = False,
    chunk_size: ChunkSize = None,
    no_cache: NoCache = False,
    debug: Debug = False,
) -> None:
    """Fit a mixture of Gaussians to DATA by EM; without DATA to the bundled Old Faithful.

    The best optimum is searched for: starts of several kinds are raced and the last polished. With -k A:B or --covariance all
    each is searched for, and the one with the least BIC kept. A fit that did not converge says so and exits 0; one that
    collapsed is not saved and exits 1 with advice.
    """

    def work() -> None:
        files = Files(out, plot, report, force)
        files.check()
        counts = _counts(components)
        settings = Settings(
            counts, covariance, seed, budget, restarts, init or Init.KMEANS_PLUS_PLUS, tol, max_iter, chunk_size
        )
        if restarts is None and init is not None:
            settings = settings._replace(restarts=RESTARTS)
        settings.check()
        table = _read(data, columns)
        _fit(table, data, settings, files, verified=not no_verify, keep=not no_cache)

    run(work)


@app.command()
def predict(
    model: Model,
    data: Data = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="The probability of each component, not the likeliest.")
    ] = False,
    columns: Columns = None,
    out: Out = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Print the component of each row of DATA, as CSV."""

    def work() -> None:
        import numpy as np

        _check_free(out, force)
        table = _read(data, columns)
        start_jax(0)
        with _precision(table):
            mixture = _load(model)
            check_density(np.asarray(mixture.log_prob(table.values)))
            found = np.asarray((mixture.responsibilities if proba else mixture.predict)(table.values))
        if proba:
            write_csv([f"p{j}" for j in range(found.shape[1])], map(np.ndarray.tolist, found), out, force)
        else:
            write_csv(["component"], ([label] for label in found.tolist()), out, force)

    run(work)


@app.command()
def score(model: Model, data: Data = None, columns: Columns = None, debug: Debug = False) -> None:
    """Print the log-likelihood of DATA under a model, in total and per row, and its BIC and AIC."""

    def work() -> None:
        import numpy as np

        from jaxem.racing import criteria

        table = _read(data, columns)
        start_jax(0)
        with _precision(table):
            mixture = _load(model)
            log_prob = np.asarray(mixture.log_prob(table.values), np.float64)
            check_density(log_prob)
            total, n = float(log_prob.sum()), len(log_prob)
            of_fit = criteria(total, mixture.n_parameters, n)
        print(f"log_likelihood {total:.6f}\nper_row {total / n:.6f}\nrows {n}")
        print(f"bic {of_fit.bic:.6f}\naic {of_fit.aic:.6f}")

    run(work)


@app.command()
def sample(
    model: Model,
    n: Annotated[int, typer.Option("-n", "--rows", min=1, max=10**7, help="Number of rows.")] = 100,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Draw rows from a model and print them as CSV, with the component each came from."""

    def work() -> None:
        import jax
        import numpy as np

        _check_free(out, force)
        start_jax(0)
        with jax.enable_x64(True):
            mixture = _load(model)
            rows, labels = (np.asarray(leaf) for leaf in mixture.sample(jax.random.key(seed), n))
        names = [*(f"x{j + 1}" for j in range(rows.shape[1])), "component"]
        lines = ([*row, label] for row, label in zip(rows.tolist(), labels.tolist(), strict=True))
        write_csv(names, lines, out, force)

    run(work)


@app.command()
def verify(model: Model, data: Data = None, columns: Columns = None, seed: Seed = 0, debug: Debug = False) -> None:
    """Try the laws of EM on a model and DATA, and print each with its residual and verdict."""

    def work() -> None:
        import jaxem

        table = _read(data, columns)
        start_jax(0)
        with _precision(table):
            report = jaxem.verify(_load(model), table.values, seed=seed)
        print(report)
        if not report.ok:
            raise WorkError("a law fails: the model's formulas do not fit together on these data")

    run(work)


def main() -> None:
    """Entry point of the `jaxem` command."""
    run_command_line(app)


# -- what is asked for ---------------------------------------------------------------------------------------------------


class Files(NamedTuple):
    """Where `fit` writes to; None for nowhere."""

    out: Path | None
    plot: Path | None
    report: Path | None
    force: bool

    def check(self) -> None:
        """Raise, before anything is computed, for a file that cannot be written."""
        for path in (self.out, self.plot, self.report):
            _check_free(path, self.force)
        if self.plot is not None:
            _picture_format(self.plot)


class Settings(NamedTuple):
    """What `fit` is to fit and how it looks for the best optimum: by a search within a budget, or from `restarts` starts."""

    counts: tuple[int, ...]
    covariance: Covariance
    seed: int
    budget: int | None
    restarts: int | None
    init: Init
    tol: float | None
    max_iter: int
    chunk_size: int | None

    @property
    def several(self) -> bool:
        """Whether there is a choice to be made between models."""
        return len(self.counts) > 1 or self.covariance == Covariance.ALL

    def check(self) -> None:
        """Raise for numbers that cannot be meant, whatever the data, and for options that exclude each other."""
        if self.tol is not None and not 0 <= self.tol < math.inf:
            raise typer.BadParameter(f"{self.tol} is not a tolerance; give a number such as 1e-8", param_hint="--tol")
        _check_whole("--budget", self.budget)
        _check_whole("--restarts", self.restarts, most=2**20)
        _check_whole("--max-iter", self.max_iter, least=0, most=10**7)
        if self.restarts is not None and (self.several or self.budget is not None):
            other = "--budget" if self.budget is not None else "-k A:B and --covariance all"
            raise typer.BadParameter(f"{other} and --restarts or --init exclude each other; give one of the two")

    @property
    def stop(self) -> StoppingRule | None:
        """The stopping rule; None for the default."""
        import jaxem

        return None if self.tol is None else jaxem.RemainingGainBelow(self.tol)

    def of_search(self) -> dict[str, Any]:
        """Keyword arguments of `jaxem.search` and `jaxem.select`."""
        return {"budget": self.budget, "stop": self.stop, "max_iter": self.max_iter, "chunk_size": self.chunk_size}


def _counts(text: str) -> tuple[int, ...]:
    """`3`, or `1:6` for 1, 2, ..., 6."""
    first, colon, last = text.partition(":")
    low = _whole(first)
    high = _whole(last) if colon else low
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


def _check_free(out: Path | None, force: bool) -> None:
    if out is None:
        return
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a directory; give the name of a file")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; choose another name or add --force")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written to; choose another folder")


def _read(data: Path | None, columns: str | None) -> Table:
    """The table in a file, or the bundled one, with the columns that were named."""
    from jaxem.datasets import DataError, faithful_table, read_table

    chosen = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    if data is not None:
        return read_table(data, chosen)
    table = faithful_table()
    if chosen is None:
        return table
    unknown = [name for name in chosen if name not in table.columns]
    if unknown:
        raise DataError(f"the bundled data have no column {unknown[0]!r}; they have {', '.join(table.columns)}")
    return type(table)(table.values[:, [table.columns.index(name) for name in chosen]], tuple(chosen))


def _load(model: Path) -> Mixture:
    from jaxem.io import load

    return load(model)


def _precision(table: Table) -> Any:
    """The scope in which data in float64 are computed in float64."""
    import jax

    return jax.enable_x64(table.values.dtype.itemsize == 8)


def _family(covariance: Covariance) -> Family:
    import jaxem

    families = {"full": jaxem.Full(), "tied": jaxem.Tied(), "diag": jaxem.Diagonal(), "spherical": jaxem.Spherical()}
    return families[covariance.value]


def _initializer(init: Init) -> Initializer:
    import jaxem

    initializers: dict[str, Initializer] = {
        "k-means++": jaxem.KMeansPlusPlus(),
        "kmeans": jaxem.KMeans(),
        "random": jaxem.RandomParameters(),
        "random-points": jaxem.RandomPoints(),
    }
    return initializers[init.value]


# -- the fit -------------------------------------------------------------------------------------------------------------


def _fit(table: Table, data: Path | None, settings: Settings, files: Files, *, verified: bool, keep: bool) -> None:
    """Fit, save, print, verify, draw and report."""
    import jaxem
    from jaxem.checks import as_components
    from jaxem.io import save
    from jaxem.stopping import Status

    for k in settings.counts:
        as_components(k, table.values.shape[0])
    start_jax(table.values.size * max(settings.counts) * (settings.restarts or RESTARTS), keep=keep)
    compiling = _compile_verification(table, settings) if verified and not settings.several else None
    try:
        with _precision(table):
            outcome = _climb(table, settings)
            mixture, status = outcome.result.mixture, Status(int(outcome.result.status))
            if files.out is not None and not status.failed:  # before anything is printed: stdout may be closed
                save(mixture, files.out, overwrite=files.force)
            print_fit(BUNDLED if data is None else str(data), table, outcome, status)
            if status.failed:
                raise WorkError(advice(table, mixture.n_components, outcome.covariance, status))
    finally:  # a process that ends while XLA compiles is aborted
        if compiling is not None:
            compiling.join()
    with _precision(table):
        verification = jaxem.verify(mixture, table.values) if verified else None
        if verification is not None:
            print_verification(verification)
        if files.plot is not None:
            _draw(outcome, table, files.plot, files.force)
            print(f"drawn in {files.plot}")
        if files.report is not None:
            _write_report(outcome, data, table, verification, files.report, files.force)
            print(f"reported in {files.report}")
        print("not saved (--out FILE saves the mixture)" if files.out is None else f"saved to {files.out}")


def _compile_verification(table: Table, settings: Settings) -> threading.Thread:
    """Compile the verification while the fit is under way."""
    import jax
    import numpy as np

    import jaxem
    from jaxem.laws import compile_verify

    family, k, values = _family(settings.covariance), settings.counts[0], table.values
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda x: family.init(x, k), values)
        log_weights, params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), (np.zeros(k), shapes))
        return compile_verify(jaxem.Mixture(log_weights, params, family), values)


def _climb(table: Table, settings: Settings) -> Outcome:
    if settings.several:
        return _select(table, settings)
    return (_search if settings.restarts is None else _restart)(table, settings)


def _restart(table: Table, settings: Settings) -> Outcome:
    """Climb from many starts of one kind to the end."""
    import jax

    import jaxem
    from jaxem.devices import mesh_of
    from jaxem.display import count_of
    from jaxem.queue import lane_count
    from jaxem.rows import as_rows

    family, k = _family(settings.covariance), settings.counts[0]
    devices, restarts = jax.local_devices(), settings.restarts or 1
    # devices share the restarts, but the rows of large data: then each device has only its own in memory
    by_rows = len(devices) > 1 and (restarts < len(devices) or table.values.nbytes > LARGE)
    mesh = mesh_of(devices) if by_rows else None
    with progress_bar("fitting restarts", restarts) as update:

        def show(seen: RestartsProgress) -> None:
            update(seen.finished, f"{seen.passes} passes, best {seen.best:.4f}")

        lanes = lane_count(restarts)
        rows = as_rows(family, table.values, None, k, lanes=lanes, chunk_size=settings.chunk_size, mesh=mesh)
        key, initializer = jax.random.key(settings.seed), _initializer(settings.init)
        starts = jaxem.starts(key, family, rows, k, restarts, initializer)
        results = jaxem.fit_restarts(
            starts,
            rows,
            stop=settings.stop,
            max_iter=settings.max_iter,
            accelerator=jaxem.hybrid(),
            callback=show,
        )
    origin = count_of(restarts, "restart")
    return Outcome(jaxem.best(results), settings.covariance.value, jaxem.landscape(results), origin, None)


def _search(table: Table, settings: Settings) -> Outcome:
    """Race diverse starts."""
    import jax

    import jaxem

    k, options = settings.counts[0], settings.of_search()
    # what takes no time shows no progress, and is not cut in pieces for it
    long = table.values.size * k * options["budget"] >= SHORT
    with progress_bar("searching", options["budget"], counts=False, wanted=long) as update:

        def show(seen: SearchProgress) -> None:
            update(seen.passes, f"{seen.lanes} climbs, {seen.passes} passes, best {seen.best:.4f}")

        key, family, callback = jax.random.key(settings.seed), _family(settings.covariance), show if long else None
        found = jaxem.search(key, family, table.values, k, callback=callback, **options)
    return _outcome(found, settings.covariance, None)


def _select(table: Table, settings: Settings) -> Outcome:
    """Search for each number of components and form of covariances, and keep the one with the least BIC."""
    import jax

    import jaxem

    every = settings.covariance == Covariance.ALL
    forms = [form for form in Covariance if form != Covariance.ALL] if every else [settings.covariance]
    with progress_bar("selecting", len(forms) * len(settings.counts)) as update:
        done: list[Candidate] = []

        def show(candidate: Candidate) -> None:
            done.append(candidate)
            name = type(candidate.family).__name__
            update(len(done), f"{name}, k = {candidate.n_components}, BIC {candidate.bic:.3f}")

        families = [_family(form) for form in forms]
        key, options = jax.random.key(settings.seed), settings.of_search()
        selection = jaxem.select(key, families, table.values, settings.counts, callback=show, **options)
    return _outcome(selection.best, forms[selection.chosen // len(settings.counts)], selection)


def _outcome(found: Search, covariance: Covariance, selection: Selection | None) -> Outcome:
    from jaxem.display import count_of

    passes = count_of(found.passes, "pass", "passes")
    origin = f"{count_of(len(found.arms), 'finalist')} of a search of {passes}"
    return Outcome(found.best, covariance.value, found.landscape, origin, selection)


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


def _draw(outcome: Outcome, table: Table, path: Path, force: bool) -> None:
    """The fit, and the landscape of optima beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from jaxem.io import write_atomically
    from jaxem.plots import plot_landscape, plot_responsibilities

    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    fit, optima = figure.subplots(1, 2, width_ratios=(1.5, 1))
    plot_responsibilities(outcome.result.mixture, table.values, columns=table.columns, ax=fit)
    plot_landscape(outcome.landscape, ax=optima)
    shown = "" if len(table.columns) <= 2 else f", the first 2 of {len(table.columns)} columns"
    fit.set_title(f"log-likelihood {float(outcome.result.log_likelihood):.4f}{shown}", fontsize=10)
    optima.set_title(outcome.origin, fontsize=10)
    picture = text_io.BytesIO()
    figure.savefig(picture, format=_picture_format(path), dpi=150)
    write_atomically(path, picture.getvalue(), force)


def _write_report(
    outcome: Outcome, data: Path | None, table: Table, verification: Report | None, path: Path, force: bool
) -> None:
    import jaxem.html
    from jaxem.io import write_atomically

    page = jaxem.html.report(
        outcome.result,
        table.values,
        columns=table.columns,
        landscape=outcome.landscape,
        verification=verification,
        title=f"EM on {BUNDLED if data is None else data.name}",
    )
    write_atomically(path, page.encode(), force)
