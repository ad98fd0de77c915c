"""The bundled data, and tables of numbers from files: CSV and other text, plain or gzipped, Parquet and npy.

`jaxem.layout` tells the delimiter, the decimal mark, the header and the comments of a text file; what the caller says
takes their place. What was understood, and what looks wrong in the numbers, is in the notes of the table, a line each:

* columns that are left out if none are asked for: text, dates, row numbers (`jaxem.columns` has the rules), and columns
  without a name, which are the row numbers of pandas and R;
* text in UTF-16 or Windows-1252, and whole numbers that float64 cannot hold;
* a number far from all others, such as -999 or 1e36: a code for a missing value, perhaps;
* how many rows were left out for a missing value.

If something is wrong with a file, one `DataError` names the place and the text found there: the line and the column of a
text file, else the row, counted from 1. A header is not trusted: what a file claims to hold is compared with its size
before memory is allocated. Only regular files are read, and standard input as "-": a pipe or a device may never end.
"""

import contextlib
import csv
import dataclasses
import functools
import gzip
import importlib.resources
import io
import math
import re
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from jaxem.columns import is_row_number, kind_of_text, left_out
from jaxem.layout import BLANKS, MISSING, SAMPLED, Asked, LayoutError, generated_names, is_number, split, tell_layout

STDIN = ("-", "/dev/stdin")
"""names of standard input"""
TEXT = (".csv", ".tsv", ".txt", ".dat")
"""suffixes of text files; each may be followed by .gz"""
ARROW = (".arrow", ".feather", ".ipc")
"""suffixes of Arrow's own files, which are passed over block by block (files.py)"""
LARGEST_EXACT = 2**53
"""the whole number up to which float64 holds all"""
APART = 1e8
"""times all others that the size of a number is, from which on it is noted"""
CODES = re.compile(r"9+\.?9+|32767|32768|65535|2147483647|2147483648")
"""sizes of numbers that stand for a missing value in many files"""
FEWEST = 4
"""rows among which a number can be far from all others"""
MOST_NOTED = 3
"""columns that one kind of note names"""


class DataError(ValueError):
    """A file that cannot be read as a table of numbers; the message is one line."""


class NotNumericError(DataError):
    """A column that is not of numbers; `kind` is "text" or "date" if it may be left out, else None."""

    def __init__(self, message: str, kind: str | None) -> None:
        super().__init__(message)
        self.kind = kind


class Table(NamedTuple):
    """Numbers with names.

    Attributes:
        values: `[n, d]`, float64, or float32 where the file says so.
        columns: the names of the d columns.
        notes: what was understood of the file and what looks wrong in it, a line each.
        kept: which rows of the file these are, a bool for each of its rows; None if all are there.
    """

    values: np.ndarray
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()
    kept: np.ndarray | None = None


class Options(NamedTuple):
    """How a file is read: the keyword arguments of `read_table`, checked."""

    asked: Asked = Asked()
    texts: frozenset[str] = MISSING  # that stand for a missing value
    codes: tuple[float, ...] = ()  # likewise
    drop_missing: bool = False
    keep_missing: bool = False
    drop: tuple[str, ...] = ()  # columns that are as if they were not there


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


def read_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    *,
    drop: Sequence[str] | str = (),
    delimiter: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    na: Sequence[str | float] | str | float = (),
    drop_missing: bool = False,
    keep_missing: bool = False,
) -> Table:
    """Read a table of numbers; the suffix tells the format: .csv, .tsv, .txt, .dat (or one of these with .gz), .parquet, .npy.

    `Table.notes` says what was understood of a text file, where it is not plain CSV, and which columns were left out.

    Args:
        path: the file; "-" for a text file on standard input.
        columns: names of the columns to keep, in this order, which must be numbers. By default, as on the command line, all
            that have a name and are measurements: neither text nor dates nor row numbers (`jaxem.columns` has the rules).
        drop: names of columns to leave out as well.
        delimiter: one character between the fields of a text file; a blank stands for runs of blanks. Told by default.
        decimal: "." or ",". Told by default.
        header: whether the first row has the names of the columns. Told by default.
        na: what stands for a missing value beside the usual texts ("", "NA", "--" ...): texts, or numbers such as -999.
        drop_missing: whether rows with a missing value are left out; else one is an error.
        keep_missing: whether a missing value is NaN in the table, for a family with `missing=True`.

    Raises:
        DataError: naming the file, the place, what was found there and what to do.
        ValueError: for an argument that cannot be meant.
    """
    marks = dict[str, Any]({"drop": drop, "delimiter": delimiter, "decimal": decimal, "header": header, "na": na})
    return open_table(path, **marks, drop_missing=drop_missing, keep_missing=keep_missing).read(columns)


@dataclasses.dataclass(frozen=True)
class OpenTable:
    """A file of which the columns are known and the numbers are not read yet.

    Attributes:
        path: the name of the file.
        columns: the names of its columns; those without a name are left out.
        named: whether the names are the file's own; else they are x1, x2, ...
        notes: what was understood of the file, a line each.
        numbers: reads columns; if the second argument is true it leaves out those of text.
        cells: the names of all columns of the file, "" where there is none, and its rows as texts.
    """

    path: str
    columns: tuple[str, ...]
    named: bool
    notes: tuple[str, ...]
    options: Options
    numbers: Callable[[tuple[str, ...], bool], "Numbers"]
    cells: Callable[[], tuple[tuple[str, ...], Iterator[list[str]]]]

    def __post_init__(self) -> None:
        """Leave out what `Options.drop` names."""
        if self.options.drop:
            choose_columns(self.path, self.columns, self.options.drop)
            kept = tuple(name for name in self.columns if name not in self.options.drop)
            object.__setattr__(self, "columns", kept)

    def read(self, columns: Sequence[str] | None = None, beside: Sequence[str] = ()) -> Table:
        """The table of these columns, in this order, by default of all that are measurements; then those `beside` them.

        Raises:
            DataError: naming the file, the place, what was found there and what to do.
        """
        choose_columns(self.path, self.columns, [*(columns or ()), *beside] or None)
        every = self.columns if columns is None else tuple(columns)
        kept = tuple(name for name in every if name not in beside)
        with _reading(self.path):
            found = self.numbers(kept, columns is None) if kept else None
            if columns is None and found is not None:
                found = _without_row_numbers(self, found)
            if beside:
                found = _joined(found, self.numbers(tuple(beside), False))
            return _as_table(self, cast(Numbers, found))


class Numbers(NamedTuple):
    """What a file holds in some columns; NaN where a value is missing."""

    columns: tuple[str, ...]
    values: np.ndarray
    notes: list[str]
    place: Callable[[int, str], tuple[str, str]]  # of a row, from 0, and a column: where it is, and the text there


def open_table(
    path: str | Path,
    *,
    drop: Sequence[str] | str = (),
    delimiter: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    na: Sequence[str | float] | str | float = (),
    drop_missing: bool = False,
    keep_missing: bool = False,
) -> OpenTable:
    """Find out which columns a file has; arguments and errors are those of `read_table`."""
    options = options_of(delimiter, decimal, header, na, drop_missing, keep_missing, drop)
    if str(path) in STDIN:
        if sys.stdin is None:
            raise DataError("standard input is closed; give the name of a file")
        return _open_text("standard input", sys.stdin.buffer.read(), options)
    path = Path(path)
    with _reading(path):
        return _open_file(path, options)


def as_source(name: str, table: Table, drop: Sequence[str] = ()) -> OpenTable:
    """A table in memory as one that is open, under a name that errors give."""

    def numbers(kept: tuple[str, ...], choosing: bool) -> Numbers:
        return Numbers(kept, table.values[:, _places(table.columns, kept)], [], _by_row)

    cells = functools.partial(_cells_of, table.columns, table.values)
    return OpenTable(name, table.columns, True, table.notes, Options(drop=tuple(drop)), numbers, cells)


def _cells_of(names: tuple[str, ...], values: np.ndarray) -> tuple[tuple[str, ...], Iterator[list[str]]]:
    """Names, and numbers as texts."""
    return names, ([*map(str, row)] for row in values.tolist())


def options_of(
    delimiter: Any,
    decimal: Any,
    header: Any,
    na: Any,
    drop_missing: bool,
    keep_missing: bool = False,
    drop: Sequence[str] | str = (),
) -> Options:
    """The keyword arguments of `read_table`, checked."""
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n\0#'):
        raise ValueError(f"delimiter = {delimiter!r} cannot part columns; give one character such as ',' or ' '")
    if decimal not in (None, ".", ","):
        raise ValueError(f"decimal = {decimal!r} is no decimal mark; give '.' or ','")
    if header not in (None, True, False):
        raise ValueError(f"header = {header!r} is not understood; give True, False or None")
    given = [na] if isinstance(na, str | int | float) else list(na)
    for code in given:
        if isinstance(code, bool) or not isinstance(code, str | int | float | np.number):
            raise ValueError(f"na = {code!r} is neither text nor a number; give such as 'NA' or -999")
    texts = [str(code).strip() for code in given]
    codes = tuple(float(text) for text in texts if is_number(text))
    if drop_missing and keep_missing:
        raise ValueError("drop_missing and keep_missing exclude each other; give one of the two")
    asked, dropped = Asked(delimiter, decimal, header), (drop,) if isinstance(drop, str) else tuple(drop)
    return Options(asked, MISSING | set(texts), codes, bool(drop_missing), bool(keep_missing), dropped)


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Errors of the system while a file is read become a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_file(path: Path, options: Options) -> OpenTable:
    if path.is_dir():
        raise DataError(f"{path} is a directory; give a file")
    if not path.exists():
        raise DataError(f"{path} does not exist; check the name")
    if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe or a device may never end
        raise DataError(f"{path} is no regular file; give one, or - to read standard input")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else path.suffix.lower()
    if suffix in (".npy", ".parquet"):
        return (_open_npy if suffix == ".npy" else _open_parquet)(path, options)
    if suffix.removesuffix(".gz") not in TEXT:
        allowed = ", ".join((*TEXT, ".parquet", ".npy"))
        raise DataError(f"{path} has the suffix {suffix!r}; give one of {allowed}, text also with .gz")
    return _open_text(str(path), path.read_bytes(), options)


# -- npy and Parquet -----------------------------------------------------------------------------------------------------


def _open_npy(path: Path, options: Options) -> OpenTable:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # numpy compares the shape with the file's size
    except OSError:
        raise
    except Exception as error:  # a header is parsed as Python: it may be wrong in any way
        raise DataError(f"{path} is no npy file of numbers ({one_line(error)})") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {getattr(values, 'dtype', 'several arrays')}; give an npy file of real numbers")
    if values.ndim != 2:
        raise DataError(f"{path} holds an array of shape {values.shape}; give [n, d], for one feature [n, 1]")
    names = generated_names(values.shape[1])

    def numbers(kept: tuple[str, ...], choosing: bool) -> Numbers:
        chosen = values if kept == names else values[:, _places(names, kept)]
        with np.errstate(over="ignore"):
            cast = chosen.astype(np.float32 if values.dtype == np.float32 else np.float64)
        notes = _rounded_notes(kept, chosen, cast) if values.dtype.kind in "iu" and values.dtype.itemsize == 8 else []
        return Numbers(kept, cast, notes, _by_row)

    return OpenTable(str(path), names, False, (), options, numbers, functools.partial(_cells_of, names, values))


def _rounded_notes(names: tuple[str, ...], whole: np.ndarray, cast: np.ndarray) -> list[str]:
    """Notes on whole numbers that float64 does not hold."""
    found = []
    for j, name in enumerate(names):
        for i in np.flatnonzero(np.abs(cast[:, j]) >= LARGEST_EXACT):
            if int(whole[i, j]) != int(cast[i, j]):
                found.append(_rounded(name, int(whole[i, j]), f"row {i + 1}"))
                break
    return _some(found)


def _rounded(name: str, number: int, place: str) -> str:
    return (
        f"column {name!r} holds {number} ({place}), which float64 does not hold and rounds to {int(float(number))}; "
        "leave it out if it is an identifier"
    )


def _by_row(row: int, name: str) -> tuple[str, str]:
    return f"row {row + 1}", ""


def need_pyarrow(extra: str = "cli") -> None:
    """A ModuleNotFoundError that names the extra if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"pyarrow is not installed; reading this format needs: pip install 'jaxem[{extra}]'", name="pyarrow"
        ) from error


def _open_parquet(path: Path, options: Options) -> OpenTable:
    need_pyarrow()
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(
            path
        ).read()  # read_table makes columns of names of folders such as year=2020
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no readable Parquet file ({one_line(error)})") from error
    every = [str(name) for name in table.column_names]
    names = tuple(name for name in every if name.strip() and not re.fullmatch(r"__index_level_\d+__", name))
    check_different(path, names)
    left_out = len(every) - len(names)  # a name that pandas gives row numbers is none
    notes = (f"{_columns(left_out)} without a name left out",) if left_out else ()

    def numbers(kept: tuple[str, ...], choosing: bool) -> Numbers:
        return _from_arrow(path, table, kept, choosing)

    def cells() -> tuple[tuple[str, ...], Iterator[list[str]]]:
        rows = (
            row
            for batch in table.to_batches(max_chunksize=4096)
            for row in zip(*batch.to_pydict().values(), strict=True)
        )
        own = tuple(name if name in names else "" for name in every)
        return own, (["" if value is None else str(value) for value in row] for row in rows)

    return OpenTable(str(path), names, True, notes, options, numbers, cells)


def _columns(count: int) -> str:
    return "a column" if count == 1 else f"{count} columns"


def _from_arrow(path: Path, table: Any, kept: tuple[str, ...], choosing: bool) -> Numbers:
    from pyarrow import types

    notes: list[str] = []
    own = dict(zip(kept, (table.column(place) for place in _places(table.column_names, kept)), strict=True))
    arrays, said = _chosen(str(path), kept, choosing, lambda name: _arrow_numbers(path, name, own[name], notes))
    single = all(types.is_float32(own[name].type) for name in arrays)
    stacked = np.column_stack(list(arrays.values()))
    return Numbers(tuple(arrays), stacked.astype(np.float32) if single else stacked, [*said, *_some(notes)], _by_row)


def _chosen(
    path: str, kept: tuple[str, ...], choosing: bool, read: Callable[[str], np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns by their names; if the choice is ours, without those of text or dates, and notes on these."""
    arrays: dict[str, np.ndarray] = {}
    left: dict[str, list[str]] = {"text": [], "date": []}
    first: NotNumericError | None = None
    for name in kept:
        try:
            arrays[name] = read(name)
        except NotNumericError as error:
            if not choosing or error.kind is None:
                raise
            first = first or error
            left[error.kind].append(name)
    if first is not None and not arrays:
        raise NotNumericError(f"{path} has no column of numbers: {str(first).removeprefix(f'{path}: ')}", None)
    return arrays, [left_out(kind, names) for kind, names in left.items() if names]


def _arrow_numbers(path: Path, name: str, column: Any, notes: list[str]) -> np.ndarray:
    """A column of Arrow as numbers, with notes on what is not plain; or a NotNumericError."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_null(kind):
        column = column.cast("float64")
    elif not any(
        is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    ):
        values = column.to_pylist()
        texts = [str(value) for value in values if value is not None]
        row = next((i for i, v in enumerate(values) if v is not None and not is_number(str(v))), 0)
        what = "date" if types.is_temporal(kind) else None if any(map(is_number, texts)) else kind_of_text(texts)
        raise NotNumericError(
            f"{path}: column {name!r} is not numeric but {kind} (row {row + 1} holds {str(values[row])[:40]!r}); "
            "correct it, leave it out with --drop, or name the columns to use with --columns",
            what,
        )
    elif types.is_boolean(kind):
        notes.append(f"column {name!r} holds true and false, read as 1 and 0")
    if types.is_integer(kind):
        try:
            column.cast("float64")
        except pyarrow.ArrowInvalid:
            every = enumerate(column.to_pylist())
            found = next(((i, v) for i, v in every if v is not None and int(float(v)) != v), None)
            if found is not None:
                notes.append(_rounded(name, found[1], f"row {found[0] + 1}"))
    return np.asarray(column.cast("float64", safe=False).to_numpy().astype(np.float64))


# -- text ----------------------------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """The rows of a text file, in which a place is to be named."""

    path: str
    body: bytes  # the lines below the header, a line each of the file; comments are empty lines
    line: int  # in which they begin
    delimiter: str
    decimal: str
    names: tuple[str, ...]
    named: bool

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows, and the line that each begins in, from 1."""
        file = io.TextIOWrapper(io.BytesIO(self.body), encoding="utf-8", errors="replace", newline="")
        reader = csv.reader(file, delimiter=self.delimiter)
        begin = 0
        while True:
            try:
                fields = next(reader, None)
            except csv.Error:  # a field beyond csv's limit
                return
            if fields is None:
                return
            if fields:
                yield self.line + begin, fields
            begin = reader.line_num

    def ragged_row(self) -> str:
        """Words about the first row that has too few fields or too many; empty if there is none."""
        for line, fields in self.rows():
            if len(fields) != len(self.names):
                found = self.delimiter.join(fields)[:40]
                return f": line {line} has {len(fields)} {'field' if len(fields) == 1 else 'fields'}: {found!r}"
        return ""

    def place(self, row: int, name: str) -> tuple[str, str]:
        """Where a field is, by its row from 0, and what it holds."""
        return self.at(row, self.names.index(name))

    def at(self, row: int, column: int) -> tuple[str, str]:
        """`place` by the number of the column, from 0."""
        for i, (line, fields) in enumerate(self.rows()):
            if i == row and column < len(fields):
                return f"line {line}", fields[column]
        return f"row {row + 1}", ""


def _open_text(path: str, content: bytes, options: Options) -> OpenTable:
    need_pyarrow()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is no whole gzip file ({one_line(error)}); pack it again") from error
    content, encoding = _in_utf8(path, content)
    check_bytes(path, content)
    try:
        layout = tell_layout(content, options.asked)
    except LayoutError as error:
        raise DataError(f"{path}{error}") from error
    notes = [*encoding, *layout.notes]
    names = [name for name in layout.names if name]
    check_different(path, names)
    nameless = [j for j, name in enumerate(layout.names) if not name]
    if nameless and layout.named:
        which = f"column {nameless[0] + 1} has" if len(nameless) == 1 else f"{len(nameless)} columns have"
        notes.append(f"{which} no name and {'is' if len(nameless) == 1 else 'are'} left out")
    body, comments = _normal(content[layout.begin :], layout.delimiter)
    if comments:
        notes.append(f"{comments} {'line' if comments == 1 else 'lines'} below begin with # and are left out")
    delimiter = "\t" if layout.delimiter == BLANKS else layout.delimiter
    text = Text(path, body, layout.line, delimiter, layout.decimal, layout.names, layout.named)

    def numbers(kept: tuple[str, ...], choosing: bool) -> Numbers:
        return _parse(text, kept, options, choosing)

    def cells() -> tuple[tuple[str, ...], Iterator[list[str]]]:
        return text.names, (fields for _, fields in text.rows())

    return OpenTable(path, tuple(names), layout.named, tuple(notes), options, numbers, cells)


def _in_utf8(path: str, content: bytes) -> tuple[bytes, list[str]]:
    """Text in UTF-8 without a mark, and a note if it was in UTF-16 or in Windows-1252, of which Latin-1 is a part."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return content.decode("utf-16").encode(), ["the text is in UTF-16"]
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no whole text in UTF-16 ({one_line(error)}); export it as UTF-8") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.isascii() or b"\0" in content:
        return content, []
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            return content, []  # it is an error, which names the line
        number = content.count(b"\n", 0, error.start) + 1
        shown = (
            text[max(error.start - 9, text.rfind("\n", 0, error.start) + 1) : error.start + 10].split("\n")[0].strip()
        )
        said = f"the text is not in UTF-8 and is read as Windows-1252: line {number} holds {shown!r}"
        return text.encode(), [f"{said}; export it as UTF-8 if that is wrong"]
    return content, []


def check_bytes(path: str, content: bytes) -> None:
    """A DataError for the first line that holds a NUL byte or is not UTF-8."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is text in UTF-16; export it as UTF-8")
    nul = content.find(b"\0")
    if nul >= 0:
        before = content[:nul]
        number, line = before.count(b"\n") + 1, before[before.rfind(b"\n") + 1 :]
        raise DataError(
            f"{path} holds a NUL byte in line {number}, column {len(line) + 1}: {line[-20:]!r}; it is not a text file"
        )
    if not content.isascii():
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            number = content.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{path} is not text in UTF-8: line {number} holds {content[error.start :][:10]!r}; export it as UTF-8"
            ) from error


def _normal(body: bytes, delimiter: str) -> tuple[bytes, int]:
    """Rows as pyarrow reads them, line for line: runs of blanks become tabs, comments empty lines; and the count of these."""
    commented = b"#" in body and re.search(rb"(?:\A|[\r\n])[ \t]*#", body) is not None
    if not commented and delimiter != BLANKS:
        return body, 0
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    is_comment = [line.lstrip().startswith(b"#") for line in lines] if commented else [False] * len(lines)
    lines = [b"" if left_out else line for line, left_out in zip(lines, is_comment, strict=True)]
    if delimiter == BLANKS:
        quoted = b'"' in body
        lines = [_retabbed(line) if quoted else b"\t".join(line.split()) for line in lines]
    return b"\n".join(lines), sum(is_comment)


def _retabbed(line: bytes) -> bytes:
    """A line of quoted fields with tabs instead of runs of blanks."""
    fields = split([line.decode()], BLANKS)[0].fields if line.strip() else []
    row = io.StringIO()
    csv.writer(row, delimiter="\t", lineterminator="").writerow(fields)
    return row.getvalue().encode()


def _parse(text: Text, kept: tuple[str, ...], options: Options, choosing: bool) -> Numbers:
    """The columns as numbers: at once where all cells are such as pyarrow reads, else a column at a time.

    If the choice is ours, columns of text are left out.
    """
    import pyarrow

    indices = _places(text.names, kept)
    notes: list[str] = []
    of_text = seems_text((fields for _, fields in text.rows()), text.names, text.decimal, options) if choosing else {}
    kinds = ["string" if name in of_text else "float64" for name in kept]
    try:
        table = _by_pyarrow(text, indices, kinds, options)
    except pyarrow.ArrowInvalid:
        try:
            table = _by_pyarrow(text, indices, ["string"] * len(kept), options)
        except pyarrow.ArrowException as error:
            found = text.ragged_row() or f" is not a table: {one_line(error)}"
            fields = f"{len(text.names)} {'field' if len(text.names) == 1 else 'fields'}"
            raise DataError(f"{text.path}{found}; every row must have {fields}") from error
    own = dict(zip(kept, table.columns, strict=True))

    def read(name: str) -> np.ndarray:
        column = own[name]
        return _as_numbers(text, name, column, options, notes) if column.type == "string" else column.to_numpy()

    if not table.num_rows:
        return Numbers(kept, np.empty((0, len(kept))), [], text.place)
    arrays, said = _chosen(text.path, kept, choosing, read)
    kept, values = tuple(arrays), np.column_stack(list(arrays.values()))
    if not text.named and "" in text.names:  # the first lines end in a delimiter: do all?
        last = len(text.names) - 1
        cells = _by_pyarrow(text, [last], ["string"], options).column(0)
        if cells.null_count < len(cells):
            place, held = text.at(cells.is_valid().index(True).as_py(), last)
            raise DataError(
                f"{text.path}: {place} holds {held[:40]!r} after the last column; give every row one length"
            )
    wide = [name for j, name in enumerate(kept) if (np.abs(values[:, j]) >= LARGEST_EXACT).any()]
    return Numbers(kept, values, [*said, *_some(notes), *_long_numbers(text, wide, options)], text.place)


def seems_text(rows: Iterable[list[str]], names: Sequence[str], decimal: str, options: Options) -> dict[str, list[str]]:
    """The columns of which the first rows hold something, but no number; and what they hold."""
    sampled = list(islice(rows, SAMPLED))
    found = {}
    for j, name in enumerate(names):
        cells = [fields[j].strip() for fields in sampled if j < len(fields)]
        held = [cell for cell in cells if cell not in options.texts]
        if name and held and not any(is_number(cell, decimal) for cell in held):
            found[name] = held
    return found


def _by_pyarrow(text: Text, indices: Sequence[int], kinds: Sequence[str], options: Options) -> Any:
    """The fields of these numbers, from 0, as columns of these kinds."""
    import pyarrow
    import pyarrow.csv

    chosen = [str(j) for j in indices]  # names may be anything
    if not text.body.strip():
        pairs = zip(chosen, kinds, strict=True)
        return pyarrow.table({name: pyarrow.array([], kind) for name, kind in pairs})
    return pyarrow.csv.read_csv(
        pyarrow.BufferReader(text.body),
        read_options=pyarrow.csv.ReadOptions(
            column_names=[str(j) for j in range(len(text.names))],
            block_size=min(2**30, max(2**20, len(text.body))),
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=text.delimiter),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pyarrow.type_for_alias(kind) for name, kind in zip(chosen, kinds, strict=True)},
            include_columns=chosen,
            null_values=sorted(options.texts),
            strings_can_be_null=True,
            decimal_point=text.decimal,
        ),
    )


def _as_numbers(text: Text, name: str, column: Any, options: Options, notes: list[str]) -> np.ndarray:
    """A column of texts as numbers, with a note if they are true and false; a NotNumericError for the first that is none."""
    import pyarrow
    import pyarrow.compute as pc

    cells = pc.utf8_trim_whitespace(column)
    cells = pc.if_else(pc.is_in(cells, value_set=pyarrow.array(sorted(options.texts))), None, cells)
    truths = pc.match_substring_regex(cells, pattern="^(?i:true|false)$")
    if cells.null_count < len(cells) and pc.all(truths).as_py():
        notes.append(f"column {name!r} holds true and false, read as 1 and 0")
        cells = pc.if_else(pc.match_substring_regex(cells, pattern="^(?i:true)$"), "1", pc.if_else(truths, "0", None))
    mark = re.escape(text.decimal)
    pattern = rf"^[+-]?(?:(?:[0-9]+{mark}?[0-9]*|{mark}[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity))$"
    good = pc.fill_null(pc.match_substring_regex(cells, pattern=pattern), True)
    row = pc.index(pc.or_(good, pc.fill_null(truths, False)), False).as_py()
    row = pc.index(good, False).as_py() if row < 0 else row
    if row >= 0:
        place, held = text.place(row, name)
        found = (held or cells[row].as_py()).strip()[:40]
        some = pc.any(pc.match_substring_regex(cells, pattern=pattern)).as_py()  # numbers
        comma = text.decimal == "." and is_number(found, ",")
        remedy = "say --decimal=, if the comma is its decimal mark, " if comma else ""
        if some and re.fullmatch(r"[^\W\d][\w.*?/-]{0,11}|[*?-]{1,5}", found):
            remedy = f"say --na={found} if that is a missing value, "
        raise NotNumericError(
            f"{text.path}: column {name!r} is not numeric but string ({place} holds {found!r}); correct it, "
            f"{remedy}leave it out with --drop, or name the columns to use with --columns",
            None if some or comma or pc.any(truths).as_py() else kind_of_text(pc.unique(cells.drop_null()).to_pylist()),
        )
    cells = pc.replace_substring(pc.ascii_ltrim(cells, characters="+"), pattern=",", replacement=".")
    return np.asarray(cells.cast("float64").to_numpy(), np.float64)


def _long_numbers(text: Text, names: Sequence[str], options: Options) -> list[str]:
    """Notes on whole numbers that float64 does not hold."""
    import pyarrow.compute as pc

    found: list[str] = []
    if not names:
        return found
    table = _by_pyarrow(text, _places(text.names, names), ["string"] * len(names), options)
    for j, name in enumerate(names):
        cells = pc.utf8_trim_whitespace(table.column(j))
        long = np.flatnonzero(
            pc.fill_null(pc.match_substring_regex(cells, pattern="^[+-]?[0-9]{16,}$"), False).to_numpy()
        )
        for row in long:
            number = int(cells[int(row)].as_py()[:300])
            if int(float(number)) != number:
                found.append(_rounded(name, number, text.place(int(row), name)[0]))
                break
    return _some(found)


# -- what all formats share ----------------------------------------------------------------------------------------------


def _places(names: Sequence[str], kept: Sequence[str]) -> list[int]:
    """Where the kept columns are among all."""
    place = {name: j for j, name in enumerate(names)}
    return [place[name] for name in kept]


def _first_twice(names: Sequence[str]) -> str | None:
    """The first name that is there twice."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def check_different(path: str | Path, names: Sequence[str]) -> None:
    """A DataError if two columns have one name."""
    twice = _first_twice(names)
    if twice is not None:
        raise DataError(f"{path} has two columns named {twice!r}; rename one")


def choose_columns(path: str, names: tuple[str, ...], columns: Sequence[str] | None) -> tuple[str, ...]:
    """The columns that are asked for, by default all; a DataError for one that is absent, or asked for twice."""
    if columns is None:
        if not names:
            raise DataError(f"{path} has no columns; give at least one")
        return names
    known = set(names)
    for name in columns:
        if name not in known:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(names)[:200]}")
    twice = _first_twice(columns)
    if twice is not None:
        raise DataError(f"{path}: column {twice!r} is asked for twice; name each once")
    if not columns:
        raise DataError(f"{path}: no column is asked for; name at least one")
    return tuple(columns)


def mark_missing(values: np.ndarray, codes: Sequence[float]) -> None:
    """Put NaN where floating-point values are one of the codes, to rounding."""
    for code in codes:
        values[np.isclose(values, code, rtol=1e-6 if values.dtype == np.float32 else 1e-8, atol=0.0)] = np.nan


def _without_row_numbers(source: OpenTable, found: Numbers) -> Numbers:
    """The same without columns that tell rows apart, unless there are no others; and a note on them."""
    if source.path.lower().endswith(".npy"):  # an array that somebody made, not a table
        return found
    values = found.values.astype(np.float64)
    mark_missing(values, source.options.codes)
    numbers = [is_row_number(name, values[:, j]) for j, name in enumerate(found.columns)]
    if not any(numbers) or all(numbers):
        return found
    kept = [j for j, left in enumerate(numbers) if not left]
    names = [name for name, left in zip(found.columns, numbers, strict=True) if left]
    it, they = ("it tells", "it") if len(names) == 1 else ("they tell", "them")
    note = left_out("identifier", names, f"{it} the rows apart; name the columns to use with --columns to keep {they}")
    columns = tuple(found.columns[j] for j in kept)
    notes = [text for text in found.notes if not text.startswith(tuple(f"column {name!r} " for name in names))]
    return found._replace(columns=columns, values=found.values[:, kept], notes=[*notes, note])


def _joined(some: Numbers | None, more: Numbers) -> Numbers:
    """The columns of both, side by side."""
    if some is None:
        return more
    values = np.column_stack([some.values, more.values])
    return some._replace(columns=(*some.columns, *more.columns), values=values, notes=[*some.notes, *more.notes])


def _as_table(source: OpenTable, found: Numbers) -> Table:
    """The table without missing values, and what looks wrong in it."""
    columns, values, path, options = found.columns, found.values, source.path, source.options
    if values.shape[0] == 0:
        raise DataError(f"{path} has no rows; give at least one")
    mark_missing(values, options.codes)
    missing, notes, kept = np.isnan(values), [*source.notes, *found.notes], None
    if options.drop_missing and missing.any():
        kept = ~missing.any(axis=1)
        left_out, values = int(np.sum(~kept)), values[kept]
        if not len(values):
            raise DataError(f"{path} has no row without a missing value; choose columns with --columns")
        words = "has a missing value and is" if left_out == 1 else "have a missing value and are"
        notes.append(f"{left_out} of {len(kept)} rows {words} left out")
    kept_missing = options.keep_missing and missing.any()
    if kept_missing:
        for j in np.flatnonzero(missing.all(axis=0)):
            raise DataError(f"{path}: column {columns[j]!r} holds no value at all; leave it out with --columns")
        notes.append(_missing_in_words(missing, columns))
    bad = np.argwhere(np.isinf(values) if options.keep_missing else ~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        place, held = found.place(int(row if kept is None else np.flatnonzero(kept)[row]), columns[column])
        lost = math.isnan(values[row, column])
        what = "a missing value or NaN" if lost else str(values[row, column])
        what = f"{held[:40]!r}, {what}" if held else what
        remedy = "fit with --missing, or leave such rows out with --drop-missing"
        remedy = remedy if lost else "say --na=inf if that is a missing value"
        raise DataError(
            f"{path}: {place}, column {columns[column]!r} holds {what}; fill it in, or {remedy} "
            f"({len(bad)} such {'value' if len(bad) == 1 else 'values'})"
        )
    seen = [values[~np.isnan(values[:, j]), j] if kept_missing else values[:, j] for j in range(len(columns))]
    notes += _some(
        [_counter(name) for name, own in zip(columns, seen, strict=True) if source.named and is_row_number(name, own)]
    )
    notes += _some([note for name, own in zip(columns, seen, strict=True) if (note := _odd_values(name, own))])
    return Table(values, columns, tuple(notes), kept)


def _missing_in_words(missing: np.ndarray, columns: Sequence[str]) -> str:
    """How many values are missing, and where."""
    counts = missing.sum(axis=0)
    held = [f"{columns[j]} {counts[j]}" for j in np.argsort(-counts, kind="stable") if counts[j]]
    more = f", {len(held) - MOST_NOTED} more" if len(held) > MOST_NOTED else ""
    rows, total = int(missing.any(axis=1).sum()), int(counts.sum())
    return (
        f"{total} {'value is' if total == 1 else 'values are'} missing, in {rows} of {len(missing)} rows: "
        f"{', '.join(held[:MOST_NOTED])}{more}; the fit takes what was observed"
    )


def _counter(name: str) -> str:
    """A note on a column that tells the rows apart and is there all the same."""
    return f"column {name!r} tells the rows apart; leave it out with --drop if it is no measurement"


def _odd_values(name: str, values: np.ndarray) -> str | None:
    """A note on numbers far from all others: perhaps a code for a missing value."""
    if len(values) < FEWEST:
        return None
    sizes = np.abs(values)
    top = sizes.max()
    others = sizes[sizes < top / 2]
    count = len(sizes) - len(others)
    if others.size and others.max() > 0:
        usual = float(np.median(others[others > 0]))
        far = int(np.sum(sizes > APART * usual))
        if 0 < far < len(sizes) / 2 or top > APART * others.max():
            return _maybe_code(name, values[np.argmax(sizes)], far or count)
    for edge in (values.min(), values.max()):
        rest = values[values != edge]
        if not CODES.fullmatch(f"{abs(edge):.{6 if values.dtype == np.float32 else 10}g}") or not rest.size:
            continue
        gap = float(np.min(np.abs(rest - edge)))
        spread = float(np.ptp(rest)) or float(np.max(np.abs(rest)))
        if gap > 2 * spread or edge < 0 <= rest.min():
            return _maybe_code(name, edge, len(values) - len(rest))
    return None


def _maybe_code(name: str, value: float, count: int) -> str:
    times = "once" if count == 1 else f"{count} times"
    return (
        f"column {name!r} holds {value:.7g} or the like {times}, far from the rest; "
        f"say --na={value:.9g} with --missing or --drop-missing if that means a missing value"
    )


def _some(notes: list[str]) -> list[str]:
    """The first notes of a kind, and how many more there are."""
    more = len(notes) - MOST_NOTED
    return notes if more <= 0 else [*notes[:MOST_NOTED], f"{more} more columns likewise"]


def one_line(error: Any) -> str:
    """What an exception says, in one line of bounded length."""
    return " ".join(str(error).split())[:200]
