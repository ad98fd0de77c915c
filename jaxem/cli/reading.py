"""How the commands read their tables: the options that say how, weights, and the columns of a model found by their names.

A model that knows its columns finds them in a table by name, in any order and among others. A model or a table without names
goes by position. What is not plain is said in a line on stderr, and a name that the table lacks is an error.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jaxem.cli.terminal import UsageError, note

if TYPE_CHECKING:
    import numpy as np

    from jaxem.datasets import OpenTable, Table

Data = Annotated[
    Path | None,
    typer.Argument(
        metavar="DATA",
        help="csv, tsv, txt or dat (also with .gz), parquet, npy or arrow, a pattern or folder of such; - for text on "
        "standard input; Old Faithful if left out.",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Names of the columns to use, separated by commas.",
        show_default="all but text, dates and row numbers",
    ),
]
Drop = Annotated[str | None, typer.Option(metavar="NAMES", help="Names of columns to leave out, separated by commas.")]
Weights = Annotated[str | None, typer.Option(metavar="COLUMN", help="Name of the column with the weight of each row.")]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Name of a column with the known component of each row, as whole numbers; -1 where it is not known.",
    ),
]
_PANEL = "How DATA are read"
SHOWN = 10_000
"""rows of streamed data that pictures and reports show"""
LARGE_PART = 0.25
"""part of the memory above which a file is streamed"""
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="MARK",
        rich_help_panel=_PANEL,
        help="What parts the columns of a text file: one character, tab or blank.",
        show_default="told from the file",
    ),
]
Decimal = Annotated[
    str | None,
    typer.Option(
        metavar="MARK",
        rich_help_panel=_PANEL,
        help="The decimal mark of a text file, point or comma.",
        show_default="told from the file",
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        rich_help_panel=_PANEL,
        help="Whether the first row has the names of the columns.",
        show_default="told from the file",
    ),
]
Na = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CODE",
        rich_help_panel=_PANEL,
        help="What also stands for a missing value, such as -999; again, or with commas, for several.",
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        rich_help_panel=_PANEL,
        help="Pass over DATA block by block; so are patterns, folders and files larger than a quarter of the memory.",
    ),
]
DropMissing = Annotated[
    bool, typer.Option("--drop-missing", rich_help_panel=_PANEL, help="Leave out rows with a missing value.")
]
Missing = Annotated[
    bool,
    typer.Option(
        "--missing",
        rich_help_panel=_PANEL,
        help="Take a missing value as not observed: the fit uses what was, exactly.",
    ),
]
_WORDS = {"tab": "\t", "\\t": "\t", "blank": " ", "space": " ", "comma": ",", "semicolon": ";", "point": "."}
"""words for marks that a shell makes hard to type"""


class Reading(NamedTuple):
    """What the command line says of a table."""

    data: Path | None
    columns: str | None = None
    weights: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    header: bool | None = None
    na: Sequence[str] | None = None
    drop_missing: bool = False
    labels: str | None = None
    missing: bool = False
    drop: str | None = None

    @property
    def chosen(self) -> tuple[str, ...] | None:
        """The columns that were named, if any."""
        return None if self.columns is None else _names(self.columns)

    @property
    def dropped(self) -> tuple[str, ...]:
        """The columns that are left out by name."""
        return () if self.drop is None else _names(self.drop)

    def open(self) -> OpenTable:
        """The file, or the bundled table, of which only the columns are known."""
        from jaxem.datasets import as_source, faithful_table, open_table

        if self.data is None:
            return as_source("the bundled table", faithful_table(), self.dropped)
        return open_table(self.data, **self._marks)

    @property
    def _marks(self) -> dict[str, Any]:
        """How the file is to be read, as keyword arguments."""
        delimiter = self.delimiter if self.delimiter is None else _WORDS.get(self.delimiter, self.delimiter)
        decimal = self.decimal if self.decimal is None else _WORDS.get(self.decimal, self.decimal)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"#'):
            raise typer.BadParameter(
                f"{delimiter!r} cannot part columns; give one character, tab or blank", param_hint="--delimiter"
            )
        if decimal not in (None, ".", ","):
            raise typer.BadParameter(f"{decimal!r} is no decimal mark; give . or ,", param_hint="--decimal")
        codes = [code.strip() for several in self.na or () for code in several.split(",") if code.strip()]
        marks = {"delimiter": delimiter, "decimal": decimal, "header": self.header, "na": codes, "drop": self.dropped}
        if self.missing and self.drop_missing:
            raise UsageError("--missing and --drop-missing exclude each other; give one of the two")
        return {**marks, "drop_missing": self.drop_missing, "keep_missing": self.missing}

    def is_streamed(self, asked: bool) -> bool:
        """Whether the data are passed over block by block: if that is asked for, if they are several files, or if they are
        larger than a part of the memory, which is said."""
        from jaxem.datasets import ARROW

        text = "-" if self.data is None else str(self.data)
        if text in ("-", "/dev/stdin"):
            if asked:
                raise UsageError("--stream needs DATA in files; give the name of one, a pattern or a folder")
            return False
        is_pattern = not os.path.exists(text) and glob.has_magic(text)
        if asked or is_pattern or os.path.isdir(text) or os.path.splitext(text)[1] in ARROW:
            return True
        try:
            size, memory = os.path.getsize(text), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, AttributeError):
            return False
        if size > LARGE_PART * memory:
            note(f"{text} has {size / 1e9:.1f} GB and is passed over block by block (--stream)")
        return size > LARGE_PART * memory

    def stream(self, names: Sequence[str] | None = None) -> Weighted:
        """The files as a source, with the columns named, by default those of --columns."""
        from jaxem.datasets import Table
        from jaxem.files import Files

        if self.labels is not None:
            raise UsageError("--labels needs a table in memory; leave it out, or leave --stream out")
        if self.missing:
            raise UsageError("--missing needs a table in memory; leave it out, or leave --stream out")
        weights = None if self.weights is None else _typed(self.weights).strip()
        marks = {name: value for name, value in self._marks.items() if name != "keep_missing"}
        source = Files(str(self.data), self.chosen if names is None else names, weights, **marks)
        columns = source.columns or ()
        files = "1 file" if len(source.paths) == 1 else f"{len(source.paths)} files"
        _say(source.notes)
        _say([f"{files}, {source.overview().moments.n} rows, columns {', '.join(columns[:20])}; read block by block"])
        return Weighted(Table(source.sample(SHOWN), columns), None, None, source)

    def read(self, source: OpenTable, names: Sequence[str] | None = None) -> Weighted:
        """The table of these columns, by default of those named by --columns, with its notes said, and the weights."""
        names = self.chosen if names is None else names
        beside: dict[str, str] = {}  # columns that are read beside the others, by their option
        for option, name in (("--weights", self.weights), ("--labels", self.labels)):
            if name is None:
                continue
            name = _typed(name).strip()
            if name in beside.values():
                raise UsageError(f"column {name!r} is named by --weights and --labels; it can only be one of them")
            if names is not None and name in names:
                raise UsageError(
                    f"column {name!r} is named by {option} and among the columns; it can only be one of them"
                )
            beside[option] = name
        if not beside:
            table = source.read(names)
            _say(table.notes)
            return Weighted(table, None)
        table = source.read(names, [*beside.values()])
        _say(table.notes)
        labels = weights = None
        if "--labels" in beside:
            table, labels = _part(table, "labels")
            labels = _codes(beside["--labels"], labels)
        if "--weights" in beside:
            table, weights = _part(table, "weights")
            _check_weights(beside["--weights"], weights)
        return Weighted(table, weights, labels)


class Weighted(NamedTuple):
    """A table, and the weight of each row, `[n]`; None where all are one. And the component that each is known to be of.

    Of a table that is passed over block by block the `table` has some rows, and `source` all.
    """

    table: Table
    weights: np.ndarray | None
    labels: np.ndarray | None = None
    source: Any = None

    @property
    def values(self) -> Any:
        """The rows that are fitted, `[n, d]`, their labels in one more column; or a source of them."""
        import numpy as np

        if self.source is not None:
            return self.source
        values = self.table.values
        return values if self.labels is None else np.column_stack([values, self.labels.astype(values.dtype)])

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns of the table."""
        n, d = self.table.values.shape
        return (n, d) if self.source is None else (self.source.overview().moments.n, d)

    @property
    def is_weighted(self) -> bool:
        """Whether rows have weights."""
        return self.weights is not None or (self.source is not None and self.source.weight is not None)

    @property
    def total(self) -> float:
        """The sum of the weights: the n of BIC."""
        if self.source is not None:
            return float(self.source.overview().moments.total)
        return float(len(self.table.values) if self.weights is None else self.weights.sum())


def _say(notes: Sequence[str]) -> None:
    for text in notes:
        note(text)


def _typed(text: str) -> str:
    """What was typed, as text in UTF-8 also where the locale knows only ASCII."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def _names(text: str) -> tuple[str, ...]:
    """Names that were typed with commas between them."""
    return tuple(name.strip() for name in _typed(text).split(",") if name.strip())


def _part(table: Table, what: str) -> tuple[Table, np.ndarray]:
    """Part the last column from the others."""
    import numpy as np

    if table.values.shape[1] == 1:
        raise ValueError(f"there is no column beside the {what} {table.columns[-1]!r}; give at least one")
    rest = table._replace(values=np.ascontiguousarray(table.values[:, :-1]), columns=table.columns[:-1])
    return rest, table.values[:, -1].copy()


def _check_weights(name: str, weights: np.ndarray) -> None:
    import numpy as np

    lost = np.flatnonzero(np.isnan(weights))
    if lost.size:
        raise ValueError(f"column {name!r} holds no weight in row {lost[0] + 1}; fill it in")
    negative = np.flatnonzero(weights < 0)
    if negative.size:
        row = negative[0]
        raise ValueError(
            f"column {name!r} holds the weight {weights[row]:g} (row {row + 1}); weights cannot be negative"
        )
    if not weights.any():
        raise ValueError(f"column {name!r} holds no weight above zero; at least one row must count")


def _codes(name: str, labels: np.ndarray) -> np.ndarray:
    """Components from 0 for the labels of a column, in their order, and -1 for those below 0, which is said."""
    import numpy as np

    wrong = np.flatnonzero(labels != np.round(labels))
    if wrong.size:
        row = wrong[0]
        raise ValueError(f"column {name!r} holds the label {labels[row]:g} (row {row + 1}); give whole numbers, or -1")
    known = np.unique(labels[labels >= 0])
    if not known.size:
        raise ValueError(f"column {name!r} holds no label of 0 or more; leave --labels out")
    shown = ", ".join(f"{value:g}" for value in known[:10]) + (", ..." if known.size > 10 else "")
    is_plain = known.tolist() == list(range(known.size))
    _say([
        f"{int(np.sum(labels >= 0))} rows are labelled"
        + ("" if is_plain else f"; the labels {shown} are components 0 to {known.size - 1}")
    ])  # fmt: skip
    return np.where(labels < 0, -1, np.searchsorted(known, labels))


def columns_of_model(
    source: OpenTable, chosen: tuple[str, ...] | None, weights: str | None, model: tuple[str, ...] | None, d: int | None
) -> tuple[str, ...] | None:
    """The columns of a table that a model of d columns wants, in its order; None for all that are measurements, by position.

    What is not plain is said. `chosen` are the columns that were named by --columns, `model` those that the model knows.
    """
    from jaxem.datasets import DataError

    if model is None:  # all, if there are as many as it has: it may have been fitted on row numbers
        every = tuple(name for name in source.columns if name != weights)
        return every if chosen is None and len(every) == d else chosen
    named = ", ".join(model[:20]) + (", ..." if len(model) > 20 else "")
    have = chosen or tuple(name for name in source.columns if name != weights)
    wanted, there = set(model), set(have)
    if wanted <= there:
        left_out = [name for name in have if name not in wanted]
        if [name for name in have if name in wanted] != [*model]:
            note(f"the columns are put in the order of the model: {named}")
        if left_out and weights is None:
            note(f"the model uses the columns {named}; {_few(left_out)} left out")
        return model
    if chosen is not None or not source.named:
        whose = "--columns names" if chosen is not None else f"{source.path} has no names of columns:"
        if len(have) != len(model):
            raise DataError(f"{whose} {len(have)}, and the model needs {len(model)}: {named}")
        note(f"columns go by position: {', '.join(have[:20])} for the model's {named}")
        return have
    missing = [name for name in model if name not in there]
    raise DataError(
        f"{source.path} lacks {'the column' if len(missing) == 1 else 'the columns'} {', '.join(missing)[:200]} of the model; "
        f"it has {', '.join(have)[:200]}; rename them, or name {len(model)} in the model's order with --columns"
    )


def _few(names: list[str]) -> str:
    """Some names with a verb."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"
