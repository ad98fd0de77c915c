"""Partitions: Dask arrays and dataframes as a Source, passed over where their partitions are.

Each turn the work, with its parameters, is one value of Dask's graph, which goes to every worker once. A task for each
partition adds up its blocks in their order; a tree of additions, of the same shape each time, adds up the partitions. Only
the total comes to the caller. Dask does again what a lost worker had done, so the total is the same.

The numbers of rows of all partitions are counted first, in one pass, where Dask does not know them: the sample of a source
(source.py) depends on the number of each row. Values are pickled by cloudpickle, which takes functions and classes of a
notebook along. A family is unpickled once in each process: equal bytes give the same object, for which programs exist.
"""

import dataclasses
import functools
import importlib
import io
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from jaxem.checks import as_columns, as_several
from jaxem.families.base import Family
from jaxem.program import settings, under
from jaxem.rows import bucket
from jaxem.source import Overview, Source, as_blocks_of_one_size, batch_rows

T = TypeVar("T")
FAN = 8
"""values that one task adds up"""
_unpickling = threading.RLock()


def from_dask(data: Any, columns: Any = None, weight: Any = None) -> "Partitions":
    """A source of the rows of a Dask array or dataframe, for `fit`, `search` and the others to take as x.

    Passes run where the partitions are, under the scheduler that Dask uses at the time: threads, or a cluster. What is not in
    the workers' memory is computed again in each pass: call `persist()` on data that fit there.

    Args:
        data: an array `[n, d]` in chunks of any kind, or a dataframe of pandas' whose partitions hold the rows.
        columns: names of columns of a dataframe, or numbers of columns of an array, in the order wanted; None takes all.
        weight: the weight of each row: the name of a column, which is then none of the features; or, for an array, an array
            `[n]` of Dask's or in memory.

    Returns:
        The source. Its `columns` are the names of a dataframe's features, None for an array.

    Raises:
        ModuleNotFoundError: without Dask.
        TypeError: data of another kind.
        ValueError: columns that are absent or hold no numbers, shapes that do not agree. A row that no fit can use is told
            of in the first pass, by partition and row.

    Example:
        >>> import dask.array, jax, jaxem
        >>> x = dask.array.random.default_rng(0).normal(size=(100_000, 2), chunks=(25_000, 2)).persist()
        >>> found = jaxem.search(jax.random.key(0), "spherical", jaxem.from_dask(x), 1)
        >>> print(found.best.mixture.components.means.shape)
        (1, 2)
    """
    try:
        dask = importlib.import_module("dask")
        for needed in ("dask.array", "cloudpickle"):
            importlib.import_module(needed)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed; from_dask needs: pip install 'jaxem[dask]'", name=error.name
        ) from None
    if not dask.is_dask_collection(data) or not hasattr(data, "to_delayed") or hasattr(data, "to_textfiles"):
        kind = type(data).__name__
        raise TypeError(f"data is a {kind}; give a Dask array or dataframe (what is in memory is given as x as it is)")
    return _of_frame(data, columns, weight) if hasattr(data, "divisions") else _of_array(data, columns, weight)


class Partitions(Source):
    """Rows in partitions of Dask's; made by `from_dask`.

    Attributes:
        columns: names of the features, or None.
    """

    def __init__(
        self,
        data: Any,
        parts: Sequence[Any],
        weights: Sequence[Any] | None,
        lengths: Sequence[int] | None,
        reader: "Reader",
        *,
        counted: Sequence[Any] | None = None,
    ) -> None:
        self._parts, self._weights, self._reader = list(parts), weights, reader
        self._data = data  # Dask forgets persisted partitions when nobody holds the collection; `parts` do not
        self._lengths = None if lengths is None else tuple(map(int, lengths))
        self._counted = parts if counted is None else counted  # what is enough to count rows
        self.columns = None if reader.columns is None else tuple(map(str, reader.columns))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each partition; one pass where Dask does not know them, made once."""
        if self._lengths is None:
            dask: Any = importlib.import_module("dask")
            count = dask.delayed(len, pure=False)
            self._lengths = tuple(map(int, dask.compute(*[count(part) for part in self._counted])))
        return self._lengths

    @property
    def place(self) -> "Places":  # a method would be pickled with all of the data
        """Where row number `row`, from 0, is to be found: a function of it."""
        return Places(tuple(np.cumsum(self.lengths).tolist()))

    def __iter__(self) -> Iterator[Any]:
        """The rows of one partition after the other, each brought here."""
        dask: Any = importlib.import_module("dask")
        place = self.place
        for begin, *task in self._tasks():
            yield self._reader.read(place, begin, *dask.compute(*task))

    def in_memory(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All rows `[n, d]` and their weights `[n]`, or None."""
        dask: Any = importlib.import_module("dask")
        tasks = list(self._tasks())
        found = dask.compute(*[task[1:] for task in tasks])
        read = [self._reader.read(self.place, task[0], *parts) for task, parts in zip(tasks, found, strict=True)]
        weights = [w for _, w in read if w is not None]
        return np.concatenate([x for x, _ in read]), np.concatenate(weights) if weights else None

    def block_rows(self, d: int) -> int:
        """Rows of d columns in a block: the longest partition is cut evenly, so that little is padded."""
        longest = max((1, *self.lengths))
        pieces = -(-longest // batch_rows(d))
        return min(batch_rows(d), bucket(-(-longest // pieces)))

    def overview(self) -> Overview:
        """Moments, sample and dtype of all rows; one pass, made once."""
        self.offer_few(sum(self.lengths), self._reader.d)
        return super().overview()

    def fold(self, of_block: Callable[[int, np.ndarray, np.ndarray | None], T]) -> T:
        """The sum of `of_block(number of the first row, rows, weights)` over all blocks, worked out where the partitions are.

        Ctrl-C cancels what has not begun.
        """
        dask: Any = importlib.import_module("dask")
        work = dask.delayed(_pickled((of_block, _settings(), self.place, self._reader)), pure=False, traverse=False)
        size = self.block_rows(self._reader.d)
        of_partition, add = (dask.delayed(function, pure=False) for function in (sum_of_partition, sum_of))
        sums = [of_partition(work, size, *task) for task in self._tasks()]
        if not sums:
            raise ValueError("the Dask data hold no rows; give at least one")
        while len(sums) > 1:
            groups = [sums[i : i + FAN] for i in range(0, len(sums), FAN)]
            sums = [add(*group) if len(group) > 1 else group[0] for group in groups]
        return cast(T, dask.compute(sums[0])[0])

    def _tasks(self) -> Iterator[tuple[Any, ...]]:
        """The number of the first row, the rows and, if there are any, the weights of each partition that is not empty."""
        begin = 0
        for i, n in enumerate(self.lengths):
            if n:
                yield begin, self._parts[i], *(() if self._weights is None else (self._weights[i],))
            begin += n


@dataclasses.dataclass(frozen=True)
class Places:
    """Where rows are: a function of their number."""

    ends: tuple[int, ...]  # rows of each partition and all before it

    def __call__(self, row: int) -> str:
        """The partition and the row in it, both from 0."""
        i, within = self.find(row)
        return f"partition {i}, row {within}"

    def find(self, row: int) -> tuple[int, int]:
        """The number of a row's partition, and of the row in it."""
        i = min(int(np.searchsorted(self.ends, row, side="right")), len(self.ends) - 1)
        return i, row - (self.ends[i - 1] if i else 0)

    def length(self, i: int) -> int:
        """Rows of partition i."""
        return self.ends[i] - (self.ends[i - 1] if i else 0)


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a partition becomes rows and weights.

    Attributes:
        d: the number of features.
        columns: names of a dataframe's features; None for an array.
        weight: the name of a dataframe's column of weights.
        dtype: of the features of a dataframe.
    """

    d: int
    columns: tuple[Any, ...] | None = None
    weight: Any = None
    dtype: Any = None

    def read(self, place: Any, begin: int, part: Any, w: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows `[b, d]` and weights `[b]` or None; a ValueError that names the place if the partition is not what it was."""
        i = place.find(begin)[0]
        if self.columns is not None:
            w = None if self.weight is None else self._numbers(place, begin, part, (self.weight,), np.float64)[:, 0]
            part = self._numbers(place, begin, part, self.columns, self.dtype)
        for name, array in (("rows", part), ("weights", w)):
            if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
                raise ValueError(f"partition {i} has a mask over some of its {name}; drop those rows or fill them in")
            if array is not None and len(array) != place.length(i):
                raise ValueError(
                    f"partition {i} has {len(array)} {name} where {place.length(i)} were expected; give data that stay the "
                    "same from pass to pass (persist() keeps them), and weights in the same partitions"
                )
        return np.asarray(part), None if w is None else np.asarray(w)

    @staticmethod
    def _numbers(place: Any, begin: int, part: Any, columns: tuple[Any, ...], dtype: Any) -> np.ndarray:
        """Columns of a dataframe as numbers `[b, m]`; a ValueError that names the place of one that is none."""
        try:
            missing = {"na_value": np.nan} if np.dtype(dtype).kind == "f" else {}
            return part[list(columns)].to_numpy(dtype, **missing)
        except (TypeError, ValueError) as error:
            for name in columns:
                for row, value in enumerate(part[name]):
                    if not _is_number(value):
                        raise ValueError(
                            f"{place(begin + row)}: column {name!r} holds {value!r}; every value must be a number"
                        ) from None
            raise ValueError(f"in the block that begins with {place(begin)}: {error}") from None


# -- what is given -------------------------------------------------------------------------------------------------------


def _of_frame(data: Any, columns: Any, weight: Any) -> Partitions:
    """The source of a dataframe; its dtypes are those that Dask expects, and the values are checked in each partition."""
    if data.ndim != 2:
        raise TypeError(f"data is a {type(data).__name__}; give a dataframe, such as data.to_frame()")
    if weight is not None and np.ndim(weight):
        raise ValueError("weight is an array; name the column of the dataframe that holds the weights")
    there = list(data.columns)
    names = [name for name in there if name != weight] if columns is None else list(as_several(columns))
    wanted = names if weight is None else [*names, weight]
    for i, name in enumerate(wanted):
        if name not in there:
            argument = "columns" if i < len(names) else "weight"
            raise ValueError(f"{argument} names {name!r}, which the dataframe lacks; it has {_listed(there)}")
        if there.count(name) > 1:
            raise ValueError(f"the dataframe has {there.count(name)} columns {name!r}; rename them")
    if not names or len(set(names)) < len(names) or weight in names:
        raise ValueError(f"columns = {names!r}; give at least one column, none twice, and not that of the weights")
    dtypes = dict(zip(there, data.dtypes, strict=True))
    text = [name for name in wanted if not _holds_numbers(dtypes[name])]
    if text:
        numeric = [name for name in names if _holds_numbers(dtypes[name])]
        raise ValueError(
            f"column {text[0]!r} has dtype {dtypes[text[0]]}; choose columns of numbers (columns={numeric!r}) or make it one "
            "(astype(float))"
        )
    plain = [dtypes[name] if isinstance(dtypes[name], np.dtype) else np.dtype(float) for name in names]
    reader = Reader(len(names), tuple(names), weight, np.result_type(*plain))
    parts = data[wanted].to_delayed()
    return Partitions(data, parts, None, None, reader, counted=data[wanted[-1:]].to_delayed())


def _of_array(data: Any, columns: Any, weight: Any) -> Partitions:
    """The source of an array, in chunks of whole rows."""
    if data.ndim != 2:
        raise ValueError(f"data has {data.ndim} dimensions; give [n, d], for one feature data.reshape(-1, 1)")
    if data.dtype.kind not in "biuf":
        raise ValueError(f"data has dtype {data.dtype}; give real numbers")
    if np.isnan(data.shape[1]):
        raise ValueError("the number of columns of data is unknown; call data.compute_chunk_sizes() first")
    given = data
    if columns is not None:
        data = data[:, as_columns("columns", columns, data.shape[1])]
    d = int(data.shape[1])
    if not d:
        raise ValueError("data has no columns; give at least one")
    data = data.rechunk({1: -1})
    known = None if np.isnan(data.chunks[0]).any() else data.chunks[0]
    source = Partitions(given, data.to_delayed()[:, 0], None, known, Reader(d))
    if weight is not None:
        source._weights = _weights(weight, source, known is not None)
    return source


def _weights(weight: Any, source: Partitions, known: bool) -> list[Any]:
    """The weights of each partition of an array."""
    dask: Any = importlib.import_module("dask")
    if isinstance(weight, str) or not hasattr(weight, "__len__"):
        raise ValueError(f"weight = {weight!r}; give one weight for each row of the array, as an array [n]")
    is_lazy = dask.is_dask_collection(weight)
    weight = weight if is_lazy else np.asarray(weight)
    if weight.ndim != 1 or weight.dtype.kind not in "biuf":
        raise ValueError(f"weight has shape {weight.shape} and dtype {weight.dtype}; give real numbers [n]")
    if is_lazy and np.isnan(weight.shape[0]) and known:
        weight = weight.compute_chunk_sizes()
    if is_lazy and np.isnan(weight.shape[0]):  # whether the lengths agree is seen in each partition
        if weight.numblocks[0] != len(source._parts):
            chunks = f"weight has {weight.numblocks[0]} chunks, data {len(source._parts)}"
            raise ValueError(f"{chunks}, all of unknown lengths; give them in the same")
        return list(weight.to_delayed())
    lengths = source.lengths
    if weight.shape[0] != sum(lengths):
        raise ValueError(f"weight has shape {weight.shape}; give one weight for each of the {sum(lengths)} rows")
    if is_lazy:
        return list(weight.rechunk((lengths,)).to_delayed())
    ends = np.cumsum(lengths)
    pieces = [dask.delayed(weight[end - n : end], pure=False) for n, end in zip(lengths, ends, strict=True)]
    return list(dask.persist(*pieces))  # else they would travel again in each pass


def _holds_numbers(dtype: Any) -> bool:
    return bool(getattr(dtype, "kind", "O") in "biuf" and getattr(dtype, "name", "") != "category")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _listed(names: Sequence[Any], most: int = 8) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


# -- on the workers ------------------------------------------------------------------------------------------------------


def sum_of_partition(work: bytes, size: int, begin: int, part: Any, w: Any = None) -> Any:
    """The sum over the blocks of a partition whose first row has the number `begin`, in their order."""
    of_block, values, place, reader = _unpickled(work)
    with under(values):
        piece = Piece(functools.partial(reader.read, place, begin, part, w), place, begin, size)
        return sum_of(*(of_block(begin + first, x, weights) for first, x, weights in as_blocks_of_one_size(piece)))


def sum_of(*values: Any) -> Any:
    """The sum of values, added in their order."""
    return functools.reduce(operator.add, values)


@dataclasses.dataclass(frozen=True)
class Piece(Source):
    """A partition as a source, to be cut as one."""

    rows: Callable[[], Any]
    of_all: Callable[[int], str]
    begin: int
    size: int

    def __iter__(self) -> Iterator[Any]:
        """The rows and their weights."""
        yield self.rows()

    def place(self, row: int) -> str:
        """Where row number `row` of the partition is to be found."""
        return self.of_all(self.begin + row)

    def block_rows(self, d: int) -> int:
        """Rows in a block, as in all partitions."""
        return self.size


def _settings() -> dict[str, Any]:
    """JAX's settings that hold here and may hold on a worker; its devices are others."""
    return {name: value for name, value in settings().items() if name != "jax_default_device"}


def _pickled(value: Any) -> bytes:
    """The bytes of a value, in which a family is bytes that tell it from others."""
    cloudpickle: Any = importlib.import_module("cloudpickle")

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            return (_family, (_bytes_of(obj),)) if isinstance(obj, Family) else super().reducer_override(obj)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


@functools.lru_cache(64)
def _bytes_of(family: Family) -> bytes:
    return cast(bytes, importlib.import_module("cloudpickle").dumps(family))


@functools.lru_cache(64)
def _family(content: bytes) -> Any:
    return importlib.import_module("cloudpickle").loads(content)


def _unpickled(content: bytes) -> Any:
    with _unpickling:  # two threads would make two families
        return _loaded(content)


@functools.lru_cache(4)
def _loaded(content: bytes) -> Any:
    return importlib.import_module("cloudpickle").loads(content)
