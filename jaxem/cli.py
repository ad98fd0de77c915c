"""The command line: jaxem fit | predict | score | sample | verify.

What was asked for goes to stdout, progress and complaints to stderr. Exit codes: 0 done (also when a fit did not converge,
which it says), 1 the data or the fit failed, 2 wrong usage, 130 interrupted, 143 terminated. An error is one line; --debug
shows where it was raised. Data in float64 are computed in float64, whatever JAX's setting. JAX is imported only once there
is work to do, so that --help answers at once.
"""

from __future__ import annotations

import csv
import enum
import errno
import io as text_io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

try:
    import typer
    from rich.console import Console
    from rich.table import Table as Grid
except ModuleNotFoundError as error:  # the extra is missing
    raise SystemExit(
        f"jaxem: {error.name} is not installed; the command line needs: pip install 'jaxem[cli]'"
    ) from error

if TYPE_CHECKING:
    from jaxem.datasets import Table
    from jaxem.families.base import Family
    from jaxem.init import Initializer
    from jaxem.laws import Report
    from jaxem.loop import Result
    from jaxem.mixture import Mixture
    from jaxem.queue import Landscape
    from jaxem.racing import Search, Selection
    from jaxem.stopping import StoppingRule

app = typer.Typer(
    name="jaxem",
    help="Fit mixture models by expectation-maximisation, from many starts at once, and verify the mathematics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
SHOWN = 6
"""features and components a printed table shows at most"""
BUNDLED = "Old Faithful (bundled)"
LARGE = 2**26
"""bytes of data above which the rows are shared out among devices, not the restarts"""
MOST_COUNTS = 100
"""numbers of components that are tried at most"""
SHORT = 10**7
"""numbers that a search touches below which it shows no progress"""
CACHE_VARIABLE = "JAXEM_CACHE"
"""environment variable that names the folder of compiled programs; empty for none. Without it JAX's own is followed"""


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


def _counts(text: str) -> tuple[int, ...]:
    """`3`, or `1:6` for 1, 2, ..., 6."""
    first, colon, last = text.partition(":")
    low = _whole(first)
    high = _whole(last) if colon else low
    _check_whole("-k", low, most=10**18)
    if high < low:
        raise typer.BadParameter(f"{text!r} is no range; give the smaller number first, such as 1:6", param_hint="-k")
    if high - low >= MOST_COUNTS:
        raise typer.BadParameter(f"{text!r} is {high - low + 1} numbers; give at most {MOST_COUNTS}", param_hint="-k")
    return tuple(range(low, high + 1))


def _check_whole(option: str, value: int | None, least: int = 1, most: int = 2**31 - 1) -> None:
    """A number that cannot be meant is wrong usage, whatever the data."""
    if value is not None and not least <= value <= most:
        raise typer.BadParameter(
            f"{value} is out of range; give a whole number from {least} to {most}", param_hint=option
        )


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
    bool, typer.Option("--debug", help="On an error show where it was raised.", callback=lambda on: _debug(on))
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
        float | None, typer.Option(help="Stop where less than so many nats are left to gain.  [default: 1e-8]")
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
        import math

        import jaxem
        from jaxem.checks import as_components
        from jaxem.io import save
        from jaxem.stopping import Status

        for path in (out, plot, report):
            _check_free(path, force)
        drawn = None if plot is None else _picture_format(plot)
        if tol is not None and not 0 <= tol < math.inf:
            raise typer.BadParameter(f"{tol} is not a tolerance; give a number such as 1e-8", param_hint="--tol")
        counts = _counts(components)
        _check_whole("--budget", budget)
        _check_whole("--restarts", restarts, most=2**20)
        _check_whole("--max-iter", max_iter, least=0, most=10**7)
        table = _read(data, columns)
        for k in counts:
            as_components(k, table.values.shape[0])
        many = len(counts) > 1 or covariance == Covariance.ALL
        plan = Plan(
            seed=seed,
            budget=budget,
            restarts=64 if restarts is None and init is not None else restarts,
            init=init or Init.KMEANS_PLUS_PLUS,
            tol=tol,
            max_iter=max_iter,
            chunk_size=chunk_size,
        )
        if plan.restarts is not None and (many or budget is not None):
            asked = "--budget" if budget is not None else "-k A:B and --covariance all"
            raise typer.BadParameter(f"{asked} and --restarts or --init exclude each other; choose one")
        _start_jax(table.values.size * max(counts) * (plan.restarts or 64), keep=not no_cache)
        compiling = None if no_verify or many else _compile_verification(table, counts[0], covariance)
        try:
            with _precision(table):
                found = _select(table, counts, covariance, plan) if many else _fit(table, counts[0], covariance, plan)
                result = found.result
                status = Status(int(result.status))
                failed = status in (Status.DEGENERATE, Status.NONFINITE)
                if out is not None and not failed:  # before anything is printed: stdout may be closed
                    save(result.mixture, out, overwrite=force)
                _print_fit(data, table, found, status)
                if failed:
                    raise _FitError(_advice(table, result.mixture.n_components, found.covariance, status))
        finally:  # a process that ends while XLA compiles is aborted
            if compiling is not None:
                compiling.join()
        with _precision(table):
            verification = None if no_verify else jaxem.verify(result.mixture, table.values)
            if verification is not None:
                _print_verification(verification)
            if plot is not None and drawn is not None:
                _draw(found, table, plot, drawn, force)
                print(f"drawn in {plot}")
            if report is not None:
                _write_report(found, data, table, verification, report, force)
                print(f"reported in {report}")
            print("not saved (--out FILE saves the mixture)" if out is None else f"saved to {out}")

    _run(work)


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
        _start_jax(0)
        with _precision(table):
            mixture = _load(model)
            _check_reached(np.asarray(mixture.log_prob(table.values)))
            found = np.asarray((mixture.responsibilities if proba else mixture.predict)(table.values))
        if proba:
            _write_csv([f"p{j}" for j in range(found.shape[1])], map(np.ndarray.tolist, found), out, force)
        else:
            _write_csv(["component"], ([label] for label in found.tolist()), out, force)

    _run(work)


@app.command()
def score(model: Model, data: Data = None, columns: Columns = None, debug: Debug = False) -> None:
    """Print the log-likelihood of DATA under a model, in total and per row, and its BIC and AIC."""

    def work() -> None:
        import numpy as np

        table = _read(data, columns)
        _start_jax(0)
        with _precision(table):
            mixture = _load(model)
            log_prob = np.asarray(mixture.log_prob(table.values), np.float64)
            _check_reached(log_prob)
            total, n, p = float(log_prob.sum()), len(log_prob), mixture.n_parameters
        print(f"log_likelihood {total:.6f}\nper_row {total / n:.6f}\nrows {n}")
        print(f"bic {-2 * total + p * np.log(n):.6f}\naic {-2 * total + 2 * p:.6f}")

    _run(work)


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
        _start_jax(0)
        with jax.enable_x64(True):
            mixture = _load(model)
            rows, labels = (np.asarray(leaf) for leaf in mixture.sample(jax.random.key(seed), n))
        names = [*(f"x{j + 1}" for j in range(rows.shape[1])), "component"]
        _write_csv(
            names, ([*row, label] for row, label in zip(rows.tolist(), labels.tolist(), strict=True)), out, force
        )

    _run(work)


@app.command()
def verify(model: Model, data: Data = None, columns: Columns = None, seed: Seed = 0, debug: Debug = False) -> None:
    """Try the laws of EM on a model and DATA, and print each with its residual and verdict."""

    def work() -> None:
        import jaxem

        table = _read(data, columns)
        _start_jax(0)
        with _precision(table):
            report = jaxem.verify(_load(model), table.values, seed=seed)
        print(report)
        if not report.ok:
            raise _FitError("a law fails: the model's formulas do not fit together on these data")

    _run(work)


def main() -> None:
    """Entry point of the `jaxem` command."""
    for name in ("stdout", "stderr"):
        # closed before we began: as good as a reader that has left
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    signal.signal(signal.SIGTERM, lambda *_: _leave("terminated", 128 + signal.SIGTERM))
    try:
        app()
    except OSError as error:  # --help into a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            print(f"jaxem: error: {error}", file=sys.stderr)
            sys.exit(1)
    except KeyboardInterrupt:
        _leave("interrupted", 128 + signal.SIGINT)


# -- work ----------------------------------------------------------------------------------------------------------------


class _FitError(Exception):
    """The work failed in a foreseen way; the message is what the user reads."""


def _run(work: Callable[[], None]) -> None:
    """Do the work in a thread, so that Ctrl-C is heard while XLA computes; turn what is foreseen into one line."""
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
            sys.stdout.flush()
        except BaseException as error:
            failure.append(error)

    worker = threading.Thread(target=guarded, daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.1)
    except KeyboardInterrupt:
        _leave("interrupted", 128 + signal.SIGINT)
    if not failure:
        return
    error = failure[0]
    if isinstance(error, (typer.Exit, typer.BadParameter)):  # an option that is wrong in view of the data
        raise error
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written has nowhere to go
    if isinstance(error, BrokenPipeError):  # the reader of stdout has left: no fault of ours
        raise typer.Exit(0)
    if _DEBUGGING:
        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        error = MemoryError("out of memory; use --chunk-size, fewer --restarts, a smaller --max-iter or fewer rows")
    foreseen = (_FitError, ValueError, TypeError, OSError, MemoryError, OverflowError, ImportError)
    found = str(error).replace("\n", " ").strip() or type(error).__name__
    if not isinstance(error, foreseen):
        found = (
            f"{type(error).__name__}: {found[:300]}; this is a fault of jaxem: please report it with what --debug shows"
        )
    print(f"jaxem: error: {found}", file=sys.stderr)
    raise typer.Exit(1)


_DEBUGGING: list[bool] = []
"""holds True once --debug was given"""


def _debug(on: bool) -> None:
    if on:
        _DEBUGGING.append(True)


def _leave(word: str, code: int) -> None:
    # the computing thread cannot be stopped: leave at once, but for a file being written, which is finished first
    print(f"\njaxem: {word}", file=sys.stderr)
    sys.stderr.flush()
    writing = getattr(sys.modules.get("jaxem.io"), "WRITING", None)  # it may be half imported
    if writing is not None:
        writing.acquire(timeout=10)
    os._exit(code)


def _read(data: Path | None, columns: str | None) -> Table:
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


def _check_reached(log_prob: Any) -> None:
    """Raise for a row that no component can produce: nothing that is said of it would be true."""
    import numpy as np

    lost = np.flatnonzero(~np.isfinite(log_prob))
    if lost.size:
        raise _FitError(
            f"row {lost[0] + 1} is so far from every component that its density is zero ({lost.size} such rows); drop it"
        )


def _load(model: Path) -> Mixture:
    from jaxem.io import load

    return load(model)


def _precision(table: Table) -> Any:
    """The scope in which data in float64 are computed in float64."""
    import jax

    return jax.enable_x64(table.values.dtype.itemsize == 8)


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


def _family(covariance: Covariance) -> Family:
    import jaxem

    return {"full": jaxem.Full(), "tied": jaxem.Tied(), "diag": jaxem.Diagonal(), "spherical": jaxem.Spherical()}[
        covariance.value
    ]


def _initializer(init: Init) -> Initializer:
    import jaxem

    initializers: dict[str, Initializer] = {
        "k-means++": jaxem.KMeansPlusPlus(),
        "kmeans": jaxem.KMeans(),
        "random": jaxem.RandomParameters(),
        "random-points": jaxem.RandomPoints(),
    }
    return initializers[init.value]


def _start_jax(work: int, *, keep: bool = True) -> None:
    """What must be settled before JAX starts: where compiled programs are kept, and a device for each core if it pays."""
    import jax

    from jaxem.program import SMALL, cores

    named = os.environ.get(CACHE_VARIABLE)
    if not keep or named == "":
        jax.config.update("jax_enable_compilation_cache", False)
    elif named is not None or "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_programs(named)
    if (
        work > SMALL
        and jax.config.values["jax_num_cpu_devices"] < 0
        and "device_count" not in os.environ.get("XLA_FLAGS", "")
    ):
        jax.config.update("jax_num_cpu_devices", cores())


def _keep_programs(named: str | None) -> None:
    """Keep compiled programs in the folder named, else in jaxem in the user's folder of caches; not if it cannot be."""
    import jax
    import platformdirs

    folder = Path(named) if named else platformdirs.user_cache_path("jaxem")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _compile_verification(table: Table, components: int, covariance: Covariance) -> threading.Thread:
    """Compile the verification while the fit is under way."""
    import jax
    import numpy as np

    import jaxem
    from jaxem.laws import compile_verify

    family, values = _family(covariance), table.values
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda x: family.init(x, components), values)
        log_weights, params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), (np.zeros(components), shapes))
        return compile_verify(jaxem.Mixture(log_weights, params, family), values)


class Plan(NamedTuple):
    """How `fit` looks for the best optimum: by a search within a budget, or from so many `restarts`."""

    seed: int
    budget: int | None
    restarts: int | None
    init: Init
    tol: float | None
    max_iter: int
    chunk_size: int | None


class Found(NamedTuple):
    """What `fit` prints."""

    result: Result
    covariance: Covariance
    landscape: Landscape
    origin: str  # what the landscape is of
    selection: Selection | None


def _fit(table: Table, components: int, covariance: Covariance, plan: Plan) -> Found:
    return (_search if plan.restarts is None else _restart)(table, components, covariance, plan)


def _restart(table: Table, components: int, covariance: Covariance, plan: Plan) -> Found:
    """Climb from many starts of one kind to the end."""
    import jax
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import jaxem
    from jaxem.devices import mesh_of
    from jaxem.queue import lane_count
    from jaxem.rows import as_rows

    console = Console(stderr=True)
    looks = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    family, devices, restarts = _family(covariance), jax.local_devices(), plan.restarts or 1
    # restarts are shared out among devices, but of large data the rows are: each device has its own in memory
    by_rows = len(devices) > 1 and (restarts < len(devices) or table.values.nbytes > LARGE)
    with Progress(*looks, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("fitting restarts", total=restarts)

        def show(seen: jaxem.RestartsProgress) -> None:
            described = f"fitting restarts, {seen.passes} passes, best {seen.best:.4f}"
            progress.update(task, completed=seen.finished, description=described)

        mesh = mesh_of(devices) if by_rows else None
        lanes = lane_count(restarts)
        rows = as_rows(family, table.values, None, components, lanes=lanes, chunk_size=plan.chunk_size, mesh=mesh)
        key, initializer = jax.random.key(plan.seed), _initializer(plan.init)
        starts = jaxem.starts(key, family, rows, components, restarts, initializer)
        results = jaxem.fit_restarts(
            starts,
            rows,
            stop=_stop(plan),
            max_iter=plan.max_iter,
            accelerator=jaxem.hybrid(),
            callback=show,
        )
    return Found(jaxem.best(results), covariance, jaxem.landscape(results), f"{restarts} restarts", None)


def _stop(plan: Plan) -> StoppingRule | None:
    import jaxem

    return None if plan.tol is None else jaxem.RemainingGainBelow(plan.tol)


def _search_options(plan: Plan) -> dict[str, Any]:
    from jaxem.racing import BUDGET

    budget = BUDGET if plan.budget is None else plan.budget
    return {"budget": budget, "stop": _stop(plan), "max_iter": plan.max_iter, "chunk_size": plan.chunk_size}


def _search(table: Table, components: int, covariance: Covariance, plan: Plan) -> Found:
    """Race diverse starts."""
    import jax
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    import jaxem

    options = _search_options(plan)
    console = Console(stderr=True)
    looks = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # what takes no time shows no progress, and is not cut in pieces for it
    small = table.values.size * components * options["budget"] < SHORT
    with Progress(*looks, console=console, transient=True, disable=small or not console.is_terminal) as progress:
        task = progress.add_task("searching", total=options["budget"])

        def show(seen: jaxem.SearchProgress) -> None:
            described = f"searching, {seen.lanes} climbs, {seen.passes} passes, best {seen.best:.4f}"
            progress.update(task, completed=min(seen.passes, seen.budget), description=described)

        found = jaxem.search(
            jax.random.key(plan.seed),
            _family(covariance),
            table.values,
            components,
            callback=None if small else show,
            **options,
        )
    return _found(found, covariance, None)


def _select(table: Table, components: tuple[int, ...], covariance: Covariance, plan: Plan) -> Found:
    """Search for each number of components and form of covariances."""
    import jax
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import jaxem

    forms = [form for form in Covariance if form != Covariance.ALL] if covariance == Covariance.ALL else [covariance]
    console = Console(stderr=True)
    looks = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*looks, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("selecting", total=len(forms) * len(components))

        def show(candidate: jaxem.Candidate) -> None:
            name = type(candidate.family).__name__
            progress.update(
                task, advance=1, description=f"{name}, k = {candidate.n_components}, BIC {candidate.bic:.3f}"
            )

        selection = jaxem.select(
            jax.random.key(plan.seed),
            [_family(form) for form in forms],
            table.values,
            components,
            callback=show,
            **_search_options(plan),
        )
    return _found(selection.best, forms[selection.chosen // len(components)], selection)


def _found(found: Search, covariance: Covariance, selection: Selection | None) -> Found:
    n = len(found.arms)
    origin = f"{n} {'finalist' if n == 1 else 'finalists'} of a search of {found.passes} passes"
    return Found(found.best, covariance, found.landscape, origin, selection)


# -- pictures ------------------------------------------------------------------------------------------------------------


def _picture_format(path: Path) -> str:
    """The format of a picture by its suffix, before any work is done."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("matplotlib is not installed; --plot needs: pip install 'jaxem[plot]'") from error
    known = FigureCanvasAgg.filetypes
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in known:
        raise typer.BadParameter(
            f"{path} has the suffix {path.suffix!r}; give one such as .png, .pdf or .svg", param_hint="--plot"
        )
    return suffix


def _draw(found: Found, table: Table, path: Path, kind: str, force: bool) -> None:
    """The fit, and the landscape of optima beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from jaxem.io import write_atomically
    from jaxem.plots import plot_landscape, plot_responsibilities

    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    fit, optima = figure.subplots(1, 2, width_ratios=(1.5, 1))
    plot_responsibilities(found.result.mixture, table.values, columns=table.columns, ax=fit)
    plot_landscape(found.landscape, ax=optima)
    shown = "" if len(table.columns) <= 2 else f", the first 2 of {len(table.columns)} columns"
    fit.set_title(f"log-likelihood {float(found.result.log_likelihood):.4f}{shown}", fontsize=10)
    optima.set_title(found.origin, fontsize=10)
    picture = text_io.BytesIO()
    figure.savefig(picture, format=kind, dpi=150)
    write_atomically(path, picture.getvalue(), force)


def _write_report(
    found: Found, data: Path | None, table: Table, verification: Report | None, path: Path, force: bool
) -> None:
    import jaxem.html
    from jaxem.io import write_atomically

    title = f"EM on {BUNDLED if data is None else data.name}"
    page = jaxem.html.report(
        found.result,
        table.values,
        columns=table.columns,
        landscape=found.landscape,
        verification=verification,
        title=title,
    )
    write_atomically(path, page.encode(), force)


# -- words ---------------------------------------------------------------------------------------------------------------


def _print_fit(data: Path | None, table: Table, found: Found, status: Any) -> None:
    import numpy as np

    n, d = table.values.shape
    result, covariance, landscape = found.result, found.covariance, found.landscape
    mixture, total = result.mixture, float(result.log_likelihood)
    k, p = mixture.n_components, mixture.n_parameters
    source = BUNDLED if data is None else str(data)
    if found.selection is not None:
        print(f"{found.selection}\n")
    print(f"{source}: {n} rows, {d} columns; {k} components, {covariance.value} covariances, {p} parameters\n")
    _print_components(mixture, covariance, table.columns)
    print(f"log-likelihood  {total:.5f}")
    print(f"BIC             {-2 * total + p * np.log(n):.3f} (lower is better)")
    print(f"status          {status.name} after {int(result.n_iter)} passes{_meaning(status.name)}\n")

    print(f"Landscape of optima, {found.origin}")
    grid = Grid("log-likelihood", "climbs", box=None, pad_edge=False, header_style="")
    for value, count in list(zip(landscape.log_likelihood, landscape.counts, strict=True))[:SHOWN]:
        grid.add_row(f"{value:.5f}", str(count))
    _print(grid)
    if len(landscape.counts) > SHOWN:
        print(f"... {len(landscape.counts) - SHOWN} more, {int(landscape.counts[SHOWN:].sum())} climbs")
    if landscape.degenerate:
        print(f"{landscape.degenerate} collapsed and do not count")
    if landscape.failed:
        print(f"{landscape.failed} failed")
    print()


def _meaning(status: str) -> str:
    return {
        "MAX_ITER": ": not converged, raise --max-iter",
        "PRECISION_LIMITED": ": as far as the arithmetic goes",
        "OBJECTIVE_FELL": ": the likelihood fell by more than rounding; rescale the data or use float64",
    }.get(status, "")


def _print_components(mixture: Mixture, covariance: Covariance, columns: tuple[str, ...]) -> None:
    import numpy as np

    weights = np.exp(np.asarray(mixture.log_weights))  # not by jax: nothing is compiled after the fit
    means, covariances = (np.asarray(leaf) for leaf in mixture.components)
    shown, names = range(min(len(weights), SHOWN)), list(columns[:SHOWN])
    grid = Grid(box=None, pad_edge=False, header_style="")
    for header in ("component", "weight", *(f"mean {name}" for name in names)):
        grid.add_column(header, justify="left" if header == "component" else "right", no_wrap=True)
    for j in shown:
        grid.add_row(str(j), f"{weights[j]:.5f}", *(f"{value:.6g}" for value in means[j, :SHOWN]))
    _print(grid)
    print()

    grid = Grid(box=None, pad_edge=False, header_style="")
    by_matrix = covariance in (Covariance.FULL, Covariance.TIED)
    heads = {Covariance.SPHERICAL: ["variance"], Covariance.DIAG: [f"var {name}" for name in names]}
    grid.add_column("covariance" if by_matrix else "component", no_wrap=True)
    for header in [*(["feature"] if by_matrix else []), *heads.get(covariance, names)]:
        grid.add_column(header, justify="left" if header == "feature" else "right", no_wrap=True)
    if by_matrix:
        matrices = covariances[None] if covariance == Covariance.TIED else covariances
        for j, matrix in enumerate(matrices[:SHOWN]):
            label = "all" if covariance == Covariance.TIED else str(j)
            for i, name in enumerate(names):
                grid.add_row(label if i == 0 else "", name, *(f"{value:.6g}" for value in matrix[i, :SHOWN]))
    else:
        for j in shown:
            grid.add_row(str(j), *(f"{value:.6g}" for value in np.atleast_1d(covariances[j])[:SHOWN]))
    _print(grid)
    if len(weights) > SHOWN or len(columns) > SHOWN:
        print(f"(the first {SHOWN} of {len(weights)} components and {len(columns)} columns; --out saves all)")
    print()


def _print(grid: Grid) -> None:
    # to a string first: rich would end the process where stdout is closed early
    console = Console(file=text_io.StringIO(), width=200, highlight=False, emoji=False, markup=False)
    console.print(grid)
    print("\n".join(line.rstrip() for line in console.file.getvalue().splitlines()))  # type: ignore[attr-defined]


def _print_verification(report: Report) -> None:
    failed = [law for law in report.laws if not law.ok]
    slopes = {law.name: law.residual for law in report.laws}
    held = len(report.laws) - len(failed)
    print(f"Verified by autodiff: {held} of {len(report.laws)} laws hold")
    print(f"  gradient of the proxy at the M-step {slopes['stationary']:.1e} (zero but for rounding)")
    print(f"  its Hessian negative definite, largest scaled eigenvalue {slopes['maximal']:.2g}")
    print(f"  proxy = log-likelihood at the E-step to {slopes['tight']:.1e}; an EM step never lowers it")
    for law in failed:
        print(f"  FAILS {law.name}: residual {law.residual:.1e}, at most {law.tolerance:.0e}")
    for note in report.notes:
        print(f"  {note}")
    print()


def _advice(table: Table, components: int, covariance: Covariance, status: Any) -> str:
    import numpy as np

    values = table.values
    constant = [name for name, spread in zip(table.columns, np.ptp(values, axis=0), strict=True) if spread == 0]
    distinct = len(np.unique(values[:100_000], axis=0))
    if constant and covariance != Covariance.SPHERICAL:
        reason = f"column {constant[0]!r} is constant, so its variance is zero; leave it out with --columns"
    elif distinct < components:
        reason = f"there are {distinct} distinct rows for {components} components; lower -k"
    elif np.max(np.abs(values)) > np.sqrt(np.finfo(values.dtype).max / values.size):
        reason = "the squares of the values overflow; rescale the data"
    else:
        reason = "components collapsed on too few rows; lower -k or use --covariance diag, spherical or tied"
    return f"the fit is {status.name} and was not saved: {reason}"


def _write_csv(header: list[str], rows: Any, out: Path | None, force: bool) -> None:
    buffer = text_io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    if out is None:
        sys.stdout.write(buffer.getvalue())
        return
    from jaxem.io import write_atomically

    write_atomically(out, buffer.getvalue().encode(), force)
    print(f"saved to {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
