"""The bundled data, and tables of numbers from files: CSV, TSV, Parquet and npy.

If something is wrong with a file, one `DataError` names the place and the text found there: the line and the column of a
text file, else the row, counted from 1. A header is not trusted: what a file claims to hold is compared with its size
before memory is allocated.
"""

import csv
import importlib.resources
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SNIFFED = 65_536
"""characters at the head of a text file that its delimiter and header are found by"""


class DataError(ValueError):
    """A file that cannot be read as a table of numbers; the message is one line."""


class Table(NamedTuple):
    """Numbers with names.

    Attributes:
        values: `[n, d]`, float64, or float32 where the file says so.
        columns: the names of the d columns.
    """

    values: np.ndarray
    columns: tuple[str, ...]


def faithful() -> np.ndarray:
    """Old Faithful, `[272, 2]`: duration of an eruption and waiting time to the next, in minutes.

    Azzalini and Bowman 1990, as R's `faithful`.
    """
    return faithful_table().values


def faithful_table() -> Table:
    """`faithful` with its column names."""
    text = (importlib.resources.files("jaxem") / "data" / "faithful.csv").read_text(encoding="utf-8")
    header, *lines = text.split()
    return Table(np.array([line.split(",") for line in lines], float), tuple(header.split(",")))


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> Table:
    """Read a table of numbers; the suffix tells the format: .csv, .tsv, .txt, .parquet or .npy.

    Text files may have a header or none (then the columns are x1, x2, ...); comma, tab, semicolon and space are
    recognised as delimiters.

    Args:
        path: the file.
        columns: names of the columns to keep, in this order; all by default, which must then all be numbers.

    Raises:
        DataError: naming the file, the place, what was found there and what to do.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a directory; give a file")
    if not path.exists():
        raise DataError(f"{path} does not exist; check the name")
    readers = {".npy": _read_npy, ".parquet": _read_parquet, ".csv": _read_text, ".tsv": _read_text, ".txt": _read_text}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} has the suffix {path.suffix!r}; give one of {', '.join(sorted(readers))}")
    try:
        return reader(path, columns)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_npy(path: Path, columns: Sequence[str] | None) -> Table:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # numpy compares the shape with the file's size
    except OSError:
        raise
    except Exception as error:  # a header is parsed as Python: it may be wrong in any way
        raise DataError(f"{path} is no npy file of numbers ({_one_line(error)})") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {getattr(values, 'dtype', 'several arrays')}; give an npy file of real numbers")
    if values.ndim != 2:
        raise DataError(f"{path} holds an array of shape {values.shape}; give [n, d], for one feature [n, 1]")
    names = tuple(f"x{j + 1}" for j in range(values.shape[1]))
    kept = _choose_columns(path, names, columns)
    values = values[:, [names.index(name) for name in kept]]
    with np.errstate(over="ignore"):
        values = values.astype(np.float32 if values.dtype == np.float32 else np.float64)
    return _as_table(path, values, kept)


def _need_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pyarrow is not installed; reading this format needs: pip install 'jaxem[cli]'", name="pyarrow"
        ) from error


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Table:
    _need_pyarrow()
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no readable Parquet file ({_one_line(error)})") from error
    return _from_arrow(path, table, columns)


def _read_text(path: Path, columns: Sequence[str] | None) -> Table:
    _need_pyarrow()
    import pyarrow
    import pyarrow.csv

    _check_bytes(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.read(SNIFFED)
    lines = [line for line in head.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; give a file with at least one row")
    delimiter = _delimiter(lines[0])
    first = next(csv.reader([lines[0]], delimiter=delimiter))
    has_header = not all(_is_number(field) for field in first)
    names = [field.strip() for field in first] if has_header else [f"x{j + 1}" for j in range(len(first))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns named {twice!r}; rename one")
    text = Text(path, delimiter, has_header, len(names))
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(
                column_names=None if has_header else names, block_size=min(2**30, max(2**20, path.stat().st_size))
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
        )
    except pyarrow.ArrowException as error:
        found = text.ragged_row() or f"is not a table: {_one_line(error)}"
        fields = f"{len(names)} {'field' if len(names) == 1 else 'fields'}"
        raise DataError(f"{path}{found}; every row must have {fields}") from error
    return _from_arrow(path, table.rename_columns(names), columns, text)


def _check_bytes(path: Path) -> None:
    """A DataError for the first line that holds a NUL byte or is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            nul = line.find(b"\0")
            if nul >= 0:
                raise DataError(
                    f"{path} holds a NUL byte in line {number}, column {nul + 1}: {line[:nul][-20:]!r}; it is not a text file"
                )
            if not line.isascii():
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path} is not text in UTF-8: line {number} holds {line[error.start :][:10]!r}; export it as UTF-8"
                    ) from error


class Text(NamedTuple):
    """A text file in which a place is to be named: where its rows lie."""

    path: Path
    delimiter: str
    has_header: bool
    n_fields: int

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows without the header, and the line that each begins in, from 1."""
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            skipped, begin = not self.has_header, 1
            while True:
                try:
                    fields = next(reader, None)
                except csv.Error:  # a field beyond csv's limit
                    return
                if fields is None:
                    return
                if fields and skipped:
                    yield begin, fields
                skipped, begin = skipped or bool(fields), reader.line_num + 1

    def ragged_row(self) -> str:
        """Words about the first row that has too few fields or too many; empty if there is none."""
        for line, fields in self.rows():
            if len(fields) != self.n_fields:
                found = self.delimiter.join(fields)[:40]
                return f": line {line} has {len(fields)} {'field' if len(fields) == 1 else 'fields'}: {found!r}"
        return ""

    def place(self, row: int, column: int) -> tuple[str, str]:
        """Where a field is, by its row from 0, and what it holds."""
        for i, (line, fields) in enumerate(self.rows()):
            if i == row and column < len(fields):
                return f"line {line}", fields[column]
        return f"row {row + 1}", ""


def _from_arrow(path: Path, table: Any, columns: Sequence[str] | None, text: Text | None = None) -> Table:
    import pyarrow.types

    names = tuple(str(name) for name in table.column_names)
    kept = _choose_columns(path, names, columns)
    arrays, single = [], True
    for name in kept:
        column = table.column(names.index(name))
        kind = column.type
        numeric = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
        if not numeric and len(column) > column.null_count:
            values = column.to_pylist()
            present = [value for value in values if value is not None]
            found = next((value for value in present if not _is_number(str(value))), present[0])
            row = values.index(found)
            place, held = (f"row {row + 1}", "") if text is None else text.place(row, names.index(name))
            raise DataError(
                f"{path}: column {name!r} is not numeric but {kind} ({place} holds {(held or str(found))[:40]!r}); "
                "correct it or name the columns to use with --columns"
            )
        single &= pyarrow.types.is_float32(kind)
        as_float = column.cast("float64", safe=False).to_numpy() if numeric else np.full(len(column), np.nan)
        arrays.append(as_float.astype(np.float64))
    stacked = np.column_stack(arrays) if arrays else np.empty((table.num_rows, 0))
    return _as_table(path, stacked.astype(np.float32) if single else stacked, kept, text, names)


def _choose_columns(path: Path, names: tuple[str, ...], columns: Sequence[str] | None) -> tuple[str, ...]:
    if columns is None:
        return names
    for name in columns:
        if name not in names:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(names)[:200]}")
        if columns.count(name) > 1:
            raise DataError(f"{path}: column {name!r} is asked for twice; name each once")
    return tuple(columns)


def _as_table(
    path: Path, values: np.ndarray, columns: tuple[str, ...], text: Text | None = None, names: tuple[str, ...] = ()
) -> Table:
    if values.shape[0] == 0:
        raise DataError(f"{path} has no rows; give at least one")
    if values.shape[1] == 0:
        raise DataError(f"{path} has no columns; give at least one")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        found = "a missing value or NaN" if math.isnan(values[row, column]) else str(values[row, column])
        place = f"row {row + 1}"
        if text is not None:
            place, held = text.place(int(row), names.index(columns[column]))
            found = f"{held[:40]!r}, {found}" if held else found
        raise DataError(
            f"{path}: {place}, column {columns[column]!r} holds {found}; fill or drop it ({len(bad)} such values)"
        )
    return Table(values, columns)


def _delimiter(line: str) -> str:
    counts = {delimiter: line.count(delimiter) for delimiter in ",\t;"}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    if counts[best]:
        return best
    return " " if " " in line.strip() else ","


def _is_number(field: str) -> bool:
    try:
        float(field.strip().strip('"'))
    except ValueError:
        return field.strip() == ""
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
