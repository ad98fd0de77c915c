"""Files: tables larger than memory, passed over block by block. Parquet, Arrow, CSV and other text, npy.

pyarrow reads ahead in threads of its own while the last block is worked on; npy is mapped into memory. The order of rows is
that of the sorted names of the files, so the answer is the same each time. What is wrong with a file is a `DataError` of one
line that names it.
"""

import contextlib
import glob
import gzip
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxem.atomic import check_destination, replacing
from jaxem.checks import as_count, as_mixture, as_several
from jaxem.columns import IDENTIFIER, kind_of_text, left_out
from jaxem.datasets import (
    ARROW,
    TEXT,
    DataError,
    Options,
    check_bytes,
    check_different,
    choose_columns,
    mark_missing,
    need_pyarrow,
    one_line,
    options_of,
    seems_text,
)
from jaxem.layout import BLANKS, SAMPLED, LayoutError, generated_names, split, tell_layout
from jaxem.source import Source, as_blocks_of_one_size, batch_rows, name_place

HEAD = 2**20
"""bytes of a text file by which its layout is told"""
NPY_PIECE = 2**20
"""rows of an npy file that are one piece, as a row group is one of a Parquet file"""
KNOWN_OF_ALL = ("_overview", "_checked", "_count")
"""what a source remembers of all its rows, which is not true of a share"""
KINDS = ("component", "probabilities", "log_prob")
"""what `predict_to` can write"""


class Piece(NamedTuple):
    """A part of a file that is read on its own: processes share the pieces."""

    path: str
    part: Any  # a fragment of pyarrow's, or the first row of an npy file and the one after the last
    rows: int | None  # None where it is not known before they are read


class Files(Source):
    """Rows of files, in the order of their names; a `Source`.

    Args:
        paths: a file, a pattern such as `"data/*.parquet"`, a folder, or several of these. All have one suffix: .parquet,
            .arrow, .feather, .ipc, .npy, or .csv, .tsv, .txt, .dat, also with .gz.
        columns: names of the columns, in this order; by default all of numbers that have a name, except `weight`. The
            columns of npy files are x1, x2, ... The names of folders such as year=2020 are columns that may be named. Row
            numbers are kept, because only a pass over all rows could tell them; `notes` names columns that may be such.
        weight: the name of a column with the weight of each row.
        batch_rows: rows that are read at a time; about 2^20 numbers by default.
        delimiter, decimal, header: of text files, as for `datasets.read_table`; told from the first file by default.
        na: numbers and texts that also stand for a missing value, such as -999.
        drop_missing: whether rows with a missing value are left out; else one is an error.
        drop: names of columns to leave out.

    Raises:
        DataError: naming the file, what was found and what to do, in one line.

    Example:
        >>> import jax, jaxem, numpy as np, os, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> for i in range(2):
        ...     np.save(os.path.join(folder, f"{i}.npy"), np.random.default_rng(i).normal(size=(50_000, 2)))
        >>> x = jaxem.Files(folder)
        >>> print(x.columns, x.sample(10).shape)
        ('x1', 'x2') (10, 2)
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        columns: Sequence[str] | None = None,
        weight: str | None = None,
        batch_rows: int | None = None,
        *,
        delimiter: str | None = None,
        decimal: str | None = None,
        header: bool | None = None,
        na: Sequence[str | float] | str | float = (),
        drop_missing: bool = False,
        drop: Sequence[str] | str = (),
    ) -> None:
        self.paths, base = _list_files(paths)
        self.weight, self._options = weight, options_of(delimiter, decimal, header, na, drop_missing, False, drop)
        self.batch_rows = None if batch_rows is None else as_count("batch_rows", batch_rows)
        suffix = _suffix_of(self.paths)
        layout: Any = None
        if suffix == ".npy":
            self._names, self._pieces = _npy_pieces(self.paths)
            self._schema: Any = None
        else:
            layout = _layout(self.paths, self._options) if suffix in TEXT else None
            text = _text_in_head(self.paths[0], layout, self._options) if layout else set()
            self._schema, self._names, self._pieces = _arrow_pieces(
                self.paths, base, suffix, layout, self._options, text
            )
        inside = self._names if self._schema is None else _physical(self._pieces)
        dropped = self._options.drop
        if dropped:
            choose_columns(self.paths[0], self._names, dropped)
            self._names = tuple(name for name in self._names if name not in dropped)
        by_default = [name for name in self._names if name in inside and name != weight]
        self.notes: tuple[str, ...] = ()
        """what should be known of the choice of columns, a line each"""
        if columns is None:
            by_default = self._without_text(by_default)
        self.named = suffix != ".npy" and (suffix not in TEXT or layout.named)
        """whether the names of the columns are those of the files"""
        wanted = by_default if columns is None else [columns] if isinstance(columns, str) else list(columns)
        self.columns = choose_columns(self.paths[0], self._names, wanted)
        if weight is not None:
            choose_columns(self.paths[0], self._names, [weight])
        if weight in self.columns:
            raise ValueError(f"weight = {weight!r} is among the columns; it can only be one of them")
        self._states = {path: _state(path) for path in self.paths}
        self._begins: list[tuple[int, str]] = []
        if self._schema is not None:
            self._check_columns()

    def __iter__(self) -> Iterator[Any]:
        """Blocks `[b, d]`, or pairs of such and their weights `[b]`."""
        begin = 0
        self._begins = []
        for path, pieces in _by_path(self._pieces):
            self._begins.append((begin, path))
            with _errors_of(path):
                for piece in pieces:
                    for values in self._read(piece):
                        begin += len(values)
                        yield self._as_block(values)

    def _read(self, piece: Piece) -> Iterator[np.ndarray]:
        """The columns asked for, and the weight, of some rows of a piece after the other, `[b, c]`."""
        wanted = self._wanted
        rows = self.batch_rows or batch_rows(len(wanted))
        if self._schema is None:
            values = np.load(piece.path, mmap_mode="r", allow_pickle=False)
            places = [self._names.index(name) for name in wanted]
            whole = wanted == list(self._names)
            begin, end = piece.part
            for first in range(begin, end, rows):
                block = values[first : min(first + rows, end)]
                yield np.asarray(block if whole else block[:, places])
            return
        batches = piece.part.to_batches(
            schema=self._schema, columns=wanted, batch_size=rows, batch_readahead=1, fragment_readahead=1
        )
        for batch in batches:
            if batch.num_rows:
                yield _as_matrix([batch.column(j) for j in range(len(wanted))])

    @property
    def _wanted(self) -> list[str]:
        """The columns that are read: the weight comes last."""
        return [*(self.columns or ()), *(() if self.weight is None else (self.weight,))]

    def _as_block(self, values: np.ndarray) -> Any:
        """Rows, and their weights if a column has them."""
        if self._options.codes:
            values = values.astype(values.dtype if values.dtype.kind == "f" else np.float64)
            mark_missing(values, self._options.codes)
        if self._options.drop_missing and values.dtype.kind == "f":
            there = ~np.isnan(values).any(axis=1)
            values = values if there.all() else values[there]
        return values if self.weight is None else (values[:, :-1], values[:, -1])

    def place(self, row: int) -> str:
        """The file that holds a row, and the row's number there, from 1."""
        first, path = max((known for known in self._begins if known[0] <= row), default=(0, self.paths[0]))
        return f"{path}, {'about ' if self._options.drop_missing else ''}row {row - first + 1}"

    def check(self) -> None:
        """Raise a DataError if a file has vanished or is not what it was when it was opened."""
        for path, state in self._states.items():
            if _state(path) != state:
                raise DataError(f"{path} has changed since it was opened; make the Files anew and begin again")

    def fingerprint(self) -> str:
        """The names, sizes and times of the files, and what is read of them."""
        about = [(Path(path).name, *state) for path, state in self._states.items()]
        parts = [(Path(piece.path).name, piece.rows) for piece in self._pieces]
        options = self._options._replace(texts=sorted(self._options.texts))  # type: ignore[arg-type]  # sets have no order
        text = repr((about, parts, self.columns, self.weight, options))
        return hashlib.sha256(text.encode()).hexdigest()

    def count(self) -> int:
        """How many rows there are, of any weight; no pass is made where the files say it."""
        sizes = [piece.rows for piece in self._pieces]
        return super().count() if None in sizes or self._options.drop_missing else sum(filter(None, sizes))

    def share(self, index: int, count: int) -> "Files":
        """The files of process `index` of `count`: consecutive pieces with about the same number of rows."""
        sizes = np.cumsum([0, *(1 if piece.rows is None else piece.rows for piece in self._pieces)])
        ends = np.searchsorted(sizes, np.linspace(0, sizes[-1], count + 1))
        found = object.__new__(Files)
        vars(found).update({name: value for name, value in vars(self).items() if name not in KNOWN_OF_ALL})
        found._pieces = self._pieces[ends[index] : ends[index + 1]]
        return found

    def _without_text(self, names: list[str]) -> list[str]:
        """The same without columns of text, unless there are no others; what is left out, or may be an identifier, is noted."""
        left = [name for name in names if self._schema is not None and not _is_number(self._schema.field(name).type)]
        kept = [name for name in names if name not in left]
        if not kept:
            return names
        notes = [left_out("text or date", left)] if left else []
        notes += [
            f"column {name!r} may tell the rows apart; leave it out with --drop if it is no measurement"
            for name in kept
            if IDENTIFIER.fullmatch(name)
        ]
        self.notes = tuple(notes)
        return kept

    def _check_columns(self) -> None:
        """A DataError if a file lacks a column, or has text in it."""
        of_folders = set(self._schema.names) - _physical(self._pieces)
        for path, pieces in _by_path(self._pieces):
            with _errors_of(path):
                there = pieces[0].part.physical_schema
            for name in self._wanted:
                if name not in {*there.names, *of_folders}:
                    raise DataError(f"{path} lacks the column {name!r}; it has {', '.join(there.names)[:200]}")
                kind = (there if name in there.names else self._schema).field(name).type
                if not _is_number(kind):
                    raise DataError(
                        f"column {name!r} of {path} holds {kind}, not numbers; leave it out with columns=, or recode it"
                    )


def predict_to(
    path: str | os.PathLike[str], mixture: Any, x: Source, kind: str = "component", *, overwrite: bool = False
) -> int:
    """Write what a mixture says of each row of a source to a file, block by block; the number of rows.

    Args:
        path: a file to be, .parquet, .csv or .npy. It is there when all is written, or not at all.
        mixture: a Mixture.
        x: a `Source` such as `Files`.
        kind: "component", the likeliest one of each row; "probabilities", `[n, k]`; "log_prob".
        overwrite: whether a file of that name may be replaced.

    Raises:
        ValueError, OSError: in one line.
    """
    mixture, target = as_mixture(mixture), Path(path)
    if x.is_shared:
        raise ValueError(
            "x lies with several processes; write the rows of each to a file of its own, from its own source"
        )
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r} is unknown; choose from {', '.join(KINDS)}")
    if target.suffix not in _WRITERS:
        raise ValueError(f"{path} has the suffix {target.suffix!r}; give one of {', '.join(_WRITERS)}")
    check_destination(target, overwrite)
    ask = {"component": mixture.predict, "probabilities": mixture.responsibilities, "log_prob": mixture.log_prob}[kind]
    names = [f"p{j}" for j in range(mixture.n_components)] if kind == "probabilities" else [kind]
    x.check()
    begin = 0
    with replacing(target, overwrite) as file, _WRITERS[target.suffix](file, names) as write:
        for first, rows, _ in as_blocks_of_one_size(x):
            with name_place(x.place, first):
                found = np.asarray(ask(rows))
            write(found.reshape(len(rows), -1))
            begin = first + len(rows)
        if not begin:
            raise ValueError(f"the {type(x).__name__} yields no rows; give at least one")
    return begin


# -- writing -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _write_parquet(file: Any, names: list[str]) -> Iterator[Any]:
    import pyarrow.parquet

    writer: Any = None

    def write(values: np.ndarray) -> None:
        nonlocal writer
        table = pyarrow.table(dict(zip(names, values.T, strict=True)))
        writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)

    yield write
    if writer is not None:
        writer.close()


@contextlib.contextmanager
def _write_csv(file: Any, names: list[str]) -> Iterator[Any]:
    file.write((",".join(names) + "\n").encode())

    def write(values: np.ndarray) -> None:
        file.write("".join(",".join(map(repr, row)) + "\n" for row in values.tolist()).encode())

    yield write


@contextlib.contextmanager
def _write_npy(file: Any, names: list[str]) -> Iterator[Any]:
    count, dtype, room = 0, np.dtype(float), 128  # room for a header of any shape
    file.write(bytes(room))

    def write(values: np.ndarray) -> None:
        nonlocal count, dtype
        count, dtype = count + len(values), values.dtype
        file.write(np.ascontiguousarray(values).tobytes())

    yield write
    shape = (count, len(names)) if len(names) > 1 else (count,)
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    file.seek(0)
    file.write(b"\x93NUMPY\x01\x00" + (room - 10).to_bytes(2, "little") + text.ljust(room - 11).encode() + b"\n")


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".npy": _write_npy}


# -- opening -------------------------------------------------------------------------------------------------------------


def _list_files(paths: Any) -> tuple[tuple[str, ...], str]:
    """The files that are meant, sorted by name within each pattern and folder, and the folder that they lie in."""
    found: list[str] = []
    every = as_several(os.fspath(paths) if isinstance(paths, os.PathLike) else paths)
    for one in every:
        text = os.path.abspath(os.fspath(one))  # what is meant does not change with the working directory
        if os.path.isdir(text):
            inside = sorted(
                str(path) for path in Path(text).rglob("*") if path.is_file() and not _is_hidden(path, text)
            )
            known = [path for path in inside if _suffix(path) in (*TEXT, *ARROW, ".parquet", ".npy")]
            if not known:
                raise DataError(
                    f"{text} is a folder without a file that can be read; give one of Parquet, Arrow, CSV or npy"
                )
            found += known
        elif glob.has_magic(text) and not os.path.exists(text):
            inside = sorted(glob.glob(text, recursive=True))
            if not inside:
                raise DataError(f"{text} matches no file; check the pattern")
            found += inside
        elif not os.path.exists(text):
            raise DataError(f"{text} does not exist; check the name")
        else:
            found.append(text)
    if not found:
        raise DataError("paths names no file; give at least one")
    for text in found:
        if not os.path.isfile(text):
            raise DataError(f"{text} is no regular file; give one")
    folder = os.path.abspath(os.fspath(every[0]))
    base = folder if len(every) == 1 and os.path.isdir(folder) else os.path.commonpath([*map(os.path.dirname, found)])
    return tuple(dict.fromkeys(found)), base


def _is_hidden(path: Path, folder: str) -> bool:
    """Whether a file, or a folder on the way to it, is what programs leave behind."""
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def _suffix(path: str) -> str:
    return Path(path.removesuffix(".gz")).suffix.lower()


def _suffix_of(paths: tuple[str, ...]) -> str:
    suffixes = {_suffix(path) for path in paths}
    if len(suffixes) > 1:
        raise DataError(f"the files have the suffixes {', '.join(sorted(suffixes))}; give files of one kind")
    suffix = suffixes.pop()
    if suffix not in (*TEXT, *ARROW, ".parquet", ".npy") or (suffix not in TEXT and paths[0].endswith(".gz")):
        raise DataError(
            f"{paths[0]} has the suffix {suffix!r}; give one of .parquet, .npy, {', '.join((*ARROW, *TEXT))}"
        )
    return suffix


def _npy_pieces(paths: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Piece, ...]]:
    pieces: list[Piece] = []
    names: tuple[str, ...] = ()
    for path in paths:
        with _errors_of(path):
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim != 2:
            raise DataError(
                f"{path} is no npy file of real numbers [n, d]; it holds {getattr(values, 'dtype', 'several arrays')}"
            )
        own = generated_names(values.shape[1])
        if names and own != names:
            raise DataError(
                f"{path} has {len(own)} columns, {paths[0]} has {len(names)}; give files with the same columns"
            )
        names, n = own, len(values)
        pieces += [Piece(path, (i, min(i + NPY_PIECE, n)), min(NPY_PIECE, n - i)) for i in range(0, n, NPY_PIECE)]
    return names, tuple(pieces)


def _layout(paths: tuple[str, ...], options: Options) -> Any:
    """The layout of the first text file, which the others must share."""
    first = _layout_of(paths[0], options)
    for path in paths[1:]:
        own = _layout_of(path, options)
        for what, mine, others in (
            ("the columns", own.names, first.names),
            ("its first row in line", own.line, first.line),
            ("the delimiter", own.delimiter, first.delimiter),
            ("the decimal mark", own.decimal, first.decimal),
        ):
            if mine != others:
                shown = [", ".join(one)[:100] if isinstance(one, tuple) else one for one in (mine, others)]
                raise DataError(f"{path} has {what} {shown[0]}, {paths[0]} has {shown[1]}; give files of one layout")
    return first


def _head(path: str) -> bytes:
    """The first lines of a text file, whole ones."""
    with _errors_of(path), gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        head = file.read(HEAD)
    if len(head) == HEAD:
        head = head[: head.rfind(b"\n") + 1] or head
    return head.removeprefix(b"\xef\xbb\xbf")


def _layout_of(path: str, options: Options) -> Any:
    head = _head(path)
    check_bytes(path, head)
    try:
        layout = tell_layout(head, options.asked)
    except LayoutError as error:
        raise DataError(f"{path}{error}") from None
    check_different(path, [name for name in layout.names if name])
    if layout.delimiter == BLANKS:
        raise DataError(
            f"{path} parts its columns by runs of blanks, which cannot be streamed; convert it to CSV or Parquet"
        )
    return layout


def _text_in_head(path: str, layout: Any, options: Options) -> set[str]:
    """The columns of text in the first rows of a file."""
    head = _head(path)[layout.begin :]
    found = seems_text(
        (row.fields for row in split(head.decode(errors="replace").splitlines()[:SAMPLED], layout.delimiter)),
        layout.names,
        layout.decimal,
        options,
    )
    return {name for name, cells in found.items() if kind_of_text(cells) is not None}


def _arrow_pieces(
    paths: tuple[str, ...], base: str, suffix: str, layout: Any, asked: Options, text: set[str]
) -> tuple[Any, tuple[str, ...], tuple[Piece, ...]]:
    """pyarrow's schema, the names of the columns, and the pieces."""
    need_pyarrow("files")
    import pyarrow.csv
    import pyarrow.dataset

    kind: Any = "parquet" if suffix == ".parquet" else "ipc"
    if layout is not None:
        # numbers are read as float64, whole or not; a column is text if its first rows hold no number
        kinds = {name: pyarrow.string() if name in text else pyarrow.float64() for name in layout.names}
        kind = pyarrow.dataset.CsvFileFormat(
            parse_options=pyarrow.csv.ParseOptions(delimiter=layout.delimiter),
            read_options=pyarrow.csv.ReadOptions(column_names=list(layout.names), skip_rows=layout.line - 1),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=kinds, null_values=sorted(asked.texts), decimal_point=layout.decimal
            ),
        )
    pieces: list[Piece] = []
    with _errors_of(paths[0]):
        options: Any = {"format": kind, "partitioning": "hive", "partition_base_dir": base}
        if layout is not None:
            options["schema"] = pyarrow.schema([*kinds.items()])
        every = pyarrow.dataset.dataset(list(paths), **options)
    fragments, schema = list(every.get_fragments()), every.schema
    if layout is None:  # a type that holds the numbers of all files
        own = []
        for fragment in fragments:
            with _errors_of(fragment.path):
                own.append(fragment.physical_schema.remove_metadata())
        with contextlib.suppress(pyarrow.ArrowException):  # columns of other kinds are named below
            schema = pyarrow.unify_schemas([schema.remove_metadata(), *own], promote_options="permissive")
    for fragment in fragments:
        with _errors_of(fragment.path):
            if layout is not None:
                pieces.append(Piece(fragment.path, fragment, None))
            elif suffix == ".parquet":
                pieces += [
                    Piece(fragment.path, one, one.row_groups[0].num_rows) for one in fragment.split_by_row_group()
                ]
            else:
                pieces.append(Piece(fragment.path, fragment, fragment.count_rows()))
    names = tuple(name for name in schema.names if name.strip() and not name.startswith("__index_level_"))
    if not pieces:
        raise DataError(f"{paths[0]} holds no rows; give a file with at least one")
    return schema, names, tuple(pieces)


def _state(path: str) -> tuple[int, int]:
    """Size and time of a file."""
    try:
        about = os.stat(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read any more: {error.strerror}") from None
    return about.st_size, about.st_mtime_ns


def _by_path(pieces: tuple[Piece, ...]) -> Iterator[tuple[str, list[Piece]]]:
    own: dict[str, list[Piece]] = {}
    for piece in pieces:
        own.setdefault(piece.path, []).append(piece)
    yield from own.items()


def _physical(pieces: tuple[Piece, ...]) -> set[str]:
    """Names of columns that lie in the files themselves."""
    with _errors_of(pieces[0].path):
        return set(pieces[0].part.physical_schema.names)


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_number(kind.value_type)
    known = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(is_kind(kind) for is_kind in known)


def _as_matrix(columns: list[Any]) -> np.ndarray:
    """Columns of Arrow as one array `[b, c]`, column after column in memory; null is NaN."""
    import pyarrow
    from pyarrow import types

    narrow = all(types.is_float32(column.type) or types.is_float16(column.type) for column in columns)
    found = np.empty((len(columns), len(columns[0])), np.float32 if narrow else np.float64)
    for j, column in enumerate(columns):
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not types.is_floating(column.type):
            column = column.cast(pyarrow.float64(), safe=False)
        found[j] = column.to_numpy(zero_copy_only=False)
    return found.T


@contextlib.contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """What the system or pyarrow says about a file becomes a DataError of one line that names it."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error.strerror or error)}") from error
    except Exception as error:
        if not type(error).__module__.startswith("pyarrow") and not isinstance(error, ValueError):
            raise
        # pyarrow names the file too
        said = re.sub(r"Could not open \w+ input source '[^']*': (Invalid: )?", "", str(error))
        raise DataError(f"{path} cannot be read: {one_line(said)}") from error
