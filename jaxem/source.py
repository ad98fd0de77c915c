"""Sources: data that are passed over, wherever they lie. No row is in memory longer than its block.

A `Source` yields blocks of rows, each time the same ones in the same order: that is all a source of your own must do. The
rest follows by adding up. One pass gives the `Moments`, from which a `Frame` is made, and a sample of rows; every further
pass gives Stats. All three are values of a block that add:

    Moments    weight W, mean m and squares S about it:  W = W1 + W2,  m = m1 + W2 (m2 - m1) / W,
               S = S1 + S2 + (m2 - m1)^2 W1 W2 / W                                           (Chan, Golub and LeVeque 1979)
    Draw      the rows whose random priorities are the least; a row's priority depends on its number alone, so the sample
               is the same however the rows are cut or shared
    Stats      stats.py

A `Stream` is a source made ready for passes under one family, as `Rows` are data in memory. A source of few rows is read
into memory and becomes Rows.
"""

import abc
import contextlib
import dataclasses
import functools
import hashlib
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.checks import already_told, as_data, as_supported, check_start, warn_of_coarse, warn_of_small
from jaxem.families.base import Family
from jaxem.rows import Frame, Rows, as_rows, block_size, bucket, centred_columns, ready_in_frame
from jaxem.threads import fold_all

T = TypeVar("T")
BATCH, LEAST_BATCH, BATCH_NUMBERS = 2**16, 2**12, 2**20
"""rows that are worked on at a time, at most and at least, and about how many numbers they hold"""
SAMPLED, LEAST_SAMPLED, SAMPLED_NUMBERS = 2**18, 2**15, 2**24
"""rows of the sample in memory, at most and at least, and about how many numbers they hold"""
LOOKED_AT = 2**12
"""rows that a fingerprint looks at"""
SPARE = 2
"""times as many rows as a sample takes are offered for it: enough unless nearly half of all have weight 0"""
IN_MEMORY, IN_MEMORY_NUMBERS = 2**16, 2**22
"""rows and numbers up to which a source is read into memory"""


class Source(abc.ABC):
    """Data that are passed over block by block. Write `__iter__`; `fit`, `search` and the others then take it as x.

    Example:
        >>> import jax, jaxem, numpy as np
        >>> class Simulated(jaxem.Source):
        ...     def __iter__(self):
        ...         for i in range(4):
        ...             yield np.random.default_rng(i).normal(size=(50_000, 2))
        >>> found = jaxem.fit(jaxem.starts(jax.random.key(0), "full", Simulated(), 1, 1)[0], Simulated())
        >>> print(found.mixture.components.means.shape)
        (1, 2)
    """

    columns: tuple[str, ...] | None = None
    """the names of the columns, if they have any, for messages"""
    is_shared = False
    """whether several processes pass over it together"""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Blocks of rows `[b, d]`, or pairs of such and their weights `[b]`: each time the same, in the same order.

        An array that was yielded must not be filled anew: threads may still read it.
        """

    def place(self, row: int) -> str:
        """Where row number `row`, from 0, is to be found, for messages."""
        return f"row {row} of the {type(self).__name__}"

    def check(self) -> None:  # noqa: B027 - most data do not change
        """Raise if the data are not what they were. It is called before each pass."""

    def fingerprint(self) -> str:
        """What tells these data from others, for checkpoints: some of the rows, and number, weight, means and spreads of all.

        These are told to nine digits, because sums of other blocks round differently.
        """
        found = self.overview()
        moments, (x, w) = found.moments, found.draw.least(LOOKED_AT)
        spread = np.sqrt(moments.squares / moments.total)
        size = np.abs(moments.mean) + spread
        means = (moments.mean / np.where(size > 0, size, 1.0)).round(9) + 0.0  # not -0
        rows = hashlib.sha256(np.ascontiguousarray(x).tobytes() + np.ascontiguousarray(w).tobytes()).hexdigest()
        sizes = " ".join(f"{one:.9g}" for one in size)
        return f"{moments.rows} {moments.n} {moments.total:.9g} {sizes} {means.tolist()} {rows}"

    def block_rows(self, d: int) -> int:
        """Rows of d columns in a block that is worked on; shorter ones are padded, so that one program serves all."""
        return batch_rows(d)

    def fold(self, of_block: Callable[[int, np.ndarray, np.ndarray | None], T]) -> T:
        """The sum of `of_block(number of the first row, rows, weights)` over all blocks, in their order.

        A source whose blocks lie elsewhere overrides this, and works on them there.
        """
        self.check()
        found = fold_all(as_blocks_of_one_size(self), lambda block: of_block(*block))
        if found is None:
            raise ValueError(f"the {type(self).__name__} yields no rows; give at least one")
        return found

    def overview(self) -> "Overview":
        """Moments, sample and dtype of all rows; one pass, made once."""
        known: dict[str, Any] = vars(self)
        if "_overview" not in known:
            found = self.fold(functools.partial(describe, self.place, self.columns))
            if not found.moments.n:
                raise ValueError(f"the {type(self).__name__} holds no row of positive weight; at least one must count")
            known["_overview"] = found
        return cast(Overview, known["_overview"])

    def offer_few(self, n: int, d: int) -> None:
        """Describe n rows of d columns, of which only about twice as many as the sample takes are offered for it: else a large
        part of the data would travel. Where many rows have weight 0 these are too few; then another pass offers all."""
        most = sampled_rows(d)
        if "_overview" not in vars(self) and n > SPARE * most:
            bound = 2**64 * SPARE * most // n
            found = self.fold(functools.partial(describe, self.place, self.columns, bound=bound))
            if found.draw.n >= most:
                vars(self)["_overview"] = found

    def count(self) -> int:
        """How many rows there are, of any weight; a pass, made once, if nothing else says it."""
        known: dict[str, Any] = vars(self)
        if "_count" not in known:
            known["_count"] = sum(len(rows) for _, rows, _ in as_blocks_of_one_size(self))
        return int(known["_count"])

    def share(self, index: int, count: int) -> "Source":
        """What process `index` of `count` passes over, if all have the same source; by default each has rows of its own."""
        del index, count
        return self

    def sample(self, n: int) -> np.ndarray:
        """At most n rows `[n, d]`, drawn evenly, without replacement, from those of positive weight; at most 262,144."""
        return self.overview().draw.least(n)[0]

    def in_memory(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All rows `[n, d]` and their weights `[n]`, or None."""
        self.check()
        blocks = [(x, w) for _, x, w in as_blocks_of_one_size(self)]
        return _join(blocks)

    def ready(self, family: Any, k: int, *, like: Any, lanes: int, chunk_size: int | None) -> "Rows | Stream":
        """The rows, ready for passes under mixtures of a family: a Stream, or Rows where they are few."""
        found = self.overview()
        moments = found.moments
        n, d = moments.n, moments.mean.size
        if moments.rows <= IN_MEMORY and moments.rows * d <= IN_MEMORY_NUMBERS:
            x, w = self.in_memory()
            return as_rows(family, x, w, k, like=like, lanes=lanes, chunk_size=chunk_size)
        self._check_for(family, k, like)
        dtype: Any = jax.dtypes.canonicalize_dtype(found.dtype)
        if like is not None:
            dtype = jax.dtypes.canonicalize_dtype(jnp.promote_types(dtype, like.log_weights.dtype))
        dtype = np.dtype(dtype)
        x, w = found.draw.least(n)
        check_start(family, x, None, like)
        if found.dtype.itemsize > dtype.itemsize:
            warn_of_coarse(x, dtype)
        variance = moments.squares / moments.total
        warn_of_small(variance, dtype)
        centre = np.where(centred_columns(family.location, d), moments.mean, 0.0)
        with np.errstate(over="ignore", under="ignore"):
            leaves: Any = (
                *(np.asarray(leaf, dtype) for leaf in (centre, variance, moments.total)),
                np.int32(min(n, 2**31 - 1)),
            )
        frame = Frame(*leaves)
        size, floats = self.block_rows(d), family.row_floats(k * lanes, d)
        blocks = [block_size((rows, d), floats, dtype, chunk_size=chunk_size) for rows in (bucket(len(x)), size)]
        sampled = jax.tree.map(jax.device_put, ready_in_frame(x, w, frame, blocks[0]))
        return Stream(self, frame, sampled, blocks[1], moments.rows)

    def _check_for(self, family: Family, k: int, like: Any) -> None:
        """A ValueError if a row cannot occur under a family; one pass for a family that says which can, made once."""
        as_supported(family, self.sample(1), k, None if like is None else family.n_features(like.components))
        known: set[Any] = vars(self).setdefault("_checked", set())
        kind = type(family)
        if (kind.support is Family.support and kind.complaint is Family.complaint) or (family, k) in known:
            return
        self.fold(functools.partial(_check_block, self.place, family, k))
        known.add((family, k))


@dataclasses.dataclass(frozen=True)
class Stream:
    """A source ready for passes.

    Attributes:
        source: where the blocks come from.
        frame: the `Frame` of all rows.
        sampled: `Rows` in memory, in a random order, in that frame.
        block: rows in a block of Rows.
        n_rows: how many rows there are, those of weight 0 among them.
    """

    source: Source
    frame: Frame
    sampled: Rows
    block: int
    n_rows: int

    @property
    def dtype(self) -> Any:
        """Of the rows once they are centred."""
        return self.sampled.dtype

    @property
    def size(self) -> int:
        """Numbers in all rows."""
        return self.n_rows * self.frame.centre.size

    mesh = None

    def check_components(self, n_components: int) -> int:
        """The number of components; a ValueError if it exceeds the number of rows that count."""
        return self.sampled.check_components(n_components)

    def sum(self, function: Callable[..., T], *args: Any) -> T:
        """The sum of `function(*args, rows)`, a pytree, over Rows of all blocks, in their order."""
        args = jax.tree.map(np.asarray, args)
        size = self.source.block_rows(self.frame.centre.size)
        found = self.source.fold(functools.partial(_on_block, function, args, self.frame, self.block, size))
        if found.rows != self.n_rows:
            raise ValueError(
                f"the {type(self.source).__name__} yields {found.rows} rows, and {self.n_rows} before; it must yield the same in "
                "each pass"
            )
        return cast(T, found.tree)


@dataclasses.dataclass(frozen=True)
class Sum:
    """A pytree of arrays, and the rows that it is of; sums add leaf by leaf."""

    tree: Any
    rows: int = 0

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(jax.tree.map(operator.add, self.tree, other.tree), self.rows + other.rows)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Number, weight, mean and squares of rows, in float64. Moments add."""

    rows: int  # of any weight
    n: int  # of positive weight
    total: float
    mean: np.ndarray  # [d]
    squares: np.ndarray  # [d], weighted, about the mean

    @classmethod
    def of(cls, x: np.ndarray, w: np.ndarray | None) -> "Moments":
        """Moments of rows `[b, d]` of weights `[b]`."""
        rows = len(x)
        if w is not None and not w.all():
            x, w = x[w > 0], w[w > 0]
        d = x.shape[1]
        if not len(x):
            return cls(rows, 0, 0.0, np.zeros(d), np.zeros(d))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            anchor = x[0].astype(np.float64)
            moved = x - anchor
            ones = np.ones(len(x)) if w is None else w.astype(np.float64)
            total = float(ones.sum())
            shift = ones @ moved / total
            moved -= shift
            return cls(rows, len(x), total, anchor + shift, ones @ moved**2)

    def __add__(self, other: "Moments") -> "Moments":
        if not (self.n and other.n):
            kept = self if self.n else other
            return dataclasses.replace(kept, rows=self.rows + other.rows)
        total = self.total + other.total
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            gap = other.mean - self.mean
            mean = self.mean + gap * (other.total / total)
            squares = self.squares + other.squares + gap**2 * (self.total * other.total / total)
        return Moments(self.rows + other.rows, self.n + other.n, total, mean, squares)


@dataclasses.dataclass(frozen=True)
class Draw:
    """Rows that were drawn evenly, without replacement: those of the least priorities. They add."""

    pieces: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]  # priorities [m], rows [m, d], weights [m]
    most: int
    bound: int = 2**64 - 1  # rows of higher priorities are not drawn

    @classmethod
    def of(cls, begin: int, x: np.ndarray, w: np.ndarray | None, bound: int = 2**64 - 1) -> "Draw":
        """What may be drawn of rows `[b, d]` whose first has the number `begin`."""
        priority = priorities(begin, len(x))
        w = np.ones(len(x), x.dtype) if w is None else w
        drawn = (w > 0) & (priority <= np.uint64(bound))
        if not drawn.all():
            priority, x, w = priority[drawn], x[drawn], w[drawn]
        return cls(((priority, x, w),), sampled_rows(x.shape[1]), bound)

    @property
    def n(self) -> int:
        """How many rows are held."""
        return sum(len(piece[0]) for piece in self.pieces)

    def __add__(self, other: "Draw") -> "Draw":
        pieces = list(self.pieces)
        for priority, x, w in other.pieces:
            low = priority <= np.uint64(self.bound)
            pieces.append((priority, x, w) if low.all() else (priority[low], x[low], w[low]))
        bound = min(self.bound, other.bound)
        if (found := Draw(tuple(pieces), self.most, bound)).n <= 2 * self.most:
            return found
        priority, x, w = _join_pieces(pieces)
        first = np.argpartition(priority, self.most)[: self.most]
        return Draw(((priority[first], x[first], w[first]),), self.most, int(priority[first].max()))

    def least(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """At most n rows, in the order of their priorities, and their weights."""
        priority, x, w = _join_pieces(self.pieces)
        first = np.argsort(priority, kind="stable")[: min(n, self.most)]
        return x[first], w[first]


@dataclasses.dataclass(frozen=True)
class Overview:
    """What one pass tells of a source."""

    moments: Moments
    draw: Draw
    dtype: Any

    def __add__(self, other: "Overview") -> "Overview":
        dtype = np.promote_types(self.dtype, other.dtype)
        return Overview(self.moments + other.moments, self.draw + other.draw, dtype)


def _join_pieces(pieces: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate([piece[i] for piece in pieces]) for i in range(3))


def sampled_rows(d: int) -> int:
    """Rows of d columns that a sample has."""
    return int(np.clip(SAMPLED_NUMBERS // d, LEAST_SAMPLED, SAMPLED))


def priorities(begin: int, n: int) -> np.ndarray:
    """Random numbers of 64 bits for rows `begin` to `begin + n`, each a function of its row's number alone, `[n]`.

    The mixing function of SplitMix64 (Steele, Lea and Flood 2014).
    """
    z = np.arange(begin, begin + n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def sample_order(n: int, d: int, sample_weight: Any) -> np.ndarray:
    """An order of n rows in memory `[n]`: first those that a source of the same rows would draw, in the same order."""
    counted = np.arange(n)
    if sample_weight is not None:
        try:  # what is wrong with the weights is said where they are checked
            weights = np.asarray(sample_weight, np.float64)
        except (TypeError, ValueError):
            return counted
        if weights.shape != (n,) or not (weights > 0).any():
            return counted
        counted = np.flatnonzero(weights > 0)
    priority, most = priorities(0, n)[counted], min(sampled_rows(d), counted.size)
    first = np.argpartition(priority, most - 1)[:most]
    first = counted[first[np.argsort(priority[first], kind="stable")]]
    others = np.ones(n, bool)
    others[first] = False
    return np.concatenate([first, np.flatnonzero(others)])


# -- blocks --------------------------------------------------------------------------------------------------------------


def batch_rows(d: int) -> int:
    """Rows of d columns that are worked on at a time."""
    return int(np.clip(2 ** int(np.log2(max(1, BATCH_NUMBERS // d))), LEAST_BATCH, BATCH))


def describe(
    place: Callable[[int], str],
    names: tuple[str, ...] | None,
    begin: int,
    x: np.ndarray,
    w: np.ndarray | None,
    *,
    bound: int = 2**64 - 1,
) -> Overview:
    """What a block tells; a ValueError that names the place for a number that cannot be meant.

    Rows whose priority is above the bound are not drawn.
    """
    if x.dtype.kind == "O":  # such as NULL in a database
        missing = np.argwhere(np.frompyfunc(lambda value: value is None, 1, 1)(x).astype(bool))
        if len(missing):
            row, column = missing[0]
            name = column if names is None else repr(names[column])
            raise ValueError(
                f"{place(begin + row)}: column {name} holds None; drop or fill the row, every value must be finite"
            )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        name = column if names is None else repr(names[column])
        value = x[row, column]
        why = "a source takes no missing values" if np.isnan(value) else "every value must be finite"
        raise ValueError(f"{place(begin + row)}: column {name} holds {value}; drop or fill the row, {why}")
    if w is not None and not (np.isfinite(w) & (w >= 0)).all():
        row = int(np.argmin(np.isfinite(w) & (w >= 0)))
        raise ValueError(f"{place(begin + row)}: the weight is {w[row]}; weights must be finite and not negative")
    with name_place(place, begin), already_told():
        data: Any = as_data(x, exact=True)
    weights = None if w is None else w.astype(data.dtype)
    return Overview(Moments.of(data, weights), Draw.of(begin, data, weights, bound), data.dtype)


def _check_block(
    place: Callable[[int], str], family: Any, k: int, begin: int, x: np.ndarray, w: np.ndarray | None
) -> Sum:
    with name_place(place, begin), already_told():
        as_supported(family, x, k, exact=True)
    return Sum((), len(x))


@contextlib.contextmanager
def name_place(place: Callable[[int], str], begin: int) -> Iterator[None]:
    """A ValueError about a block says where the block begins."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"in the block that begins with {place(begin)}: {error}") from None


def _on_block(
    function: Callable[..., Any],
    args: Any,
    frame: Frame,
    block: int,
    size: int,
    begin: int,
    x: np.ndarray,
    w: np.ndarray | None,
) -> Sum:
    """`function` of a block made ready; each block has one size, so that one program serves all."""
    del begin
    rows = ready_in_frame(x, w, frame, block, size)
    return Sum(jax.tree.map(np.asarray, function(*args, rows)), len(x))


def as_blocks_of_one_size(source: Source) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """The blocks of a source cut anew, each of one size but the last, with the number of the first row of each."""
    begin, count, size, d = 0, 0, 0, 0
    held: list[tuple[np.ndarray, np.ndarray | None]] = []
    for block in source:
        x, w = _as_block(source, begin + count, block, d)
        if not size:
            d = x.shape[1]
            size = source.block_rows(d)
        while len(x):
            more = min(size - count, len(x))
            held.append((x[:more], None if w is None else w[:more]))
            x, w, count = x[more:], None if w is None else w[more:], count + more
            if count == size:
                yield begin, *_join(held)
                begin, count, held = begin + size, 0, []
    if count:
        yield begin, *_join(held)


def _as_block(source: Source, begin: int, block: Any, d: int) -> tuple[np.ndarray, np.ndarray | None]:
    """What a source yields as rows `[b, d]` and weights `[b]` or None; a ValueError for another shape."""
    x, w = block if isinstance(block, tuple) and len(block) == 2 else (block, None)
    x, w = np.asarray(x), None if w is None else np.asarray(w)
    if x.ndim != 2 or not x.shape[1] or (d and x.shape[1] != d):
        wanted = f"[b, {d}], as before" if d else "[b, d]"
        raise ValueError(f"the block that begins with {source.place(begin)} has shape {x.shape}; give {wanted}")
    if w is not None and (w.shape != x.shape[:1] or w.dtype.kind not in "biuf"):
        raise ValueError(
            f"the block that begins with {source.place(begin)} has weights of shape {w.shape} and dtype {w.dtype}; give "
            f"one number for each of its {len(x)} rows"
        )
    return x, w


def _join(blocks: list[tuple[np.ndarray, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows and weights of several blocks as one; None where all weights are."""
    if len(blocks) == 1:
        return blocks[0]
    x = np.concatenate([block[0] for block in blocks])
    if all(block[1] is None for block in blocks):
        return x, None
    return x, np.concatenate([np.ones(len(x)) if w is None else w for x, w in blocks])
