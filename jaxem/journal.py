"""Journal: how far a long call is, kept in a file, so that the call can go on where it was killed.

A long call is a sequence of climbs, each a loop of pieces: a pytree of arrays in, the same pytree out. The journal has an
entry for each climb: what it has come to. The call is made again from its beginning: the climbs that were over are taken from
the journal, the last goes on from its last piece, and what follows is computed. So the numbers are those of a call that was
never stopped.

The file (safetensors) is written every few seconds, as a whole or not at all. It says which data, options, versions and number
of threads it belongs to; with others it is refused. Of several processes the first alone writes.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxem import kept
from jaxem.atomic import WRITING, check_destination, replacing
from jaxem.checks import check_from_host, warn_user
from jaxem.rows import Rows
from jaxem.threads import n_threads

T = TypeVar("T")
FORMAT, VERSION = "jaxem-checkpoint", "1"
DEEPEST = 20
"""how deep options may be nested"""
SECONDS = 5.0
"""seconds between two writings of a journal, at least"""


class Leaves(list[np.ndarray]):
    """The arrays of an entry as the file has them, without their structure."""


class Entry:
    """What one climb has come to."""

    def __init__(self, journal: "Journal", number: int) -> None:
        self.journal, self.number = journal, number

    def restore(self, tree: T) -> T:
        """The pytree that was saved for this climb; if there is none, `tree`, which is of the same kind."""
        if self.number >= len(self.journal.entries):
            self.journal.entries.append(tree)
            return tree
        leaves, structure = jax.tree.flatten(tree)
        saved = self.journal.entries[self.number]
        saved = saved if isinstance(saved, Leaves) else Leaves(jax.tree.leaves(saved))
        if len(saved) != len(leaves):
            raise self.journal.misfit("holds another kind of climb")
        found = [_pad_like(np.asarray(old), np.asarray(like)) for old, like in zip(saved, leaves, strict=True)]
        if any(leaf is None for leaf in found):
            raise self.journal.misfit("holds climbs of other shapes")
        return cast(T, jax.tree.unflatten(structure, found))

    def save(self, tree: Any) -> None:
        """Remember what the climb has come to, and write the file if it is time. Arrays of numpy in it may be changed later."""
        self.journal.entries[self.number] = tree
        self.journal.write(hurry=False)


class Journal:
    """The entries of a call.

    Args:
        path: the file.
        about: what the call is made of: data, options and so on, by name.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path, self.about, self.entries = path, dict(about), list[Any]()
        self.following, self.written, self.took, self.failed = 0, time.monotonic(), 0.0, False
        self.is_read_only = False

    def entry(self) -> Entry:
        """The entry of the next climb."""
        self.following += 1
        return Entry(self, self.following - 1)

    def read(self, shared: bool) -> None:
        """Take the entries from the file, if it is there; if the call is shared by processes, the first reads it for all.

        Raises:
            ValueError: the file is no journal, or one of another call.
            OSError: the file cannot be read or written.
        """

        def find() -> bytes:
            check_destination(self.path, overwrite=True)
            return self.path.read_bytes() if self.path.exists() else b""

        if shared:
            from jaxem.processes import of_first

            content, self.is_read_only = of_first(find), jax.process_index() > 0
        else:
            content = find()
        if not content:
            return
        import safetensors.numpy  # here, as in `write`: only a call with a checkpoint needs it

        try:
            tensors = safetensors.numpy.load(content)
            size = int.from_bytes(content[:8], "little")
            found: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
            about, sizes = json.loads(found["about"]), json.loads(found["entries"])
            if (found["format"], found["version"]) != (FORMAT, VERSION):
                raise ValueError
            self.entries = [Leaves(tensors[f"{i}.{j}"] for j in range(n)) for i, n in enumerate(sizes)]
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{self.path} is no checkpoint of this version of jaxem; name another file") from None
        for name, value in self.about.items():
            if about.get(name) != value:
                other = (
                    f": {about.get(name)} there, {value} here" if name in ("call", "jaxem", "jax", "threads") else ""
                )
                raise self.misfit(f"was made with other {name}{other}")

    def misfit(self, what: str) -> ValueError:
        """The error for a file of another call."""
        return ValueError(f"checkpoint {self.path} {what}; remove it to begin anew, or name another file")

    def write(self, hurry: bool) -> None:
        """Write the file, without `hurry` only if some seconds have passed. If that fails the call goes on, with a warning."""
        begun = time.monotonic()
        if self.is_read_only or (not hurry and begun - self.written < max(SECONDS, 10 * self.took)):
            return
        import safetensors.numpy

        leaves = [entry if isinstance(entry, Leaves) else jax.tree.leaves(entry) for entry in self.entries]
        tensors = {f"{i}.{j}": _trim(np.asarray(leaf)) for i, of in enumerate(leaves) for j, leaf in enumerate(of)}
        about = {"about": json.dumps(self.about), "entries": json.dumps([len(of) for of in leaves])}
        try:
            with WRITING, replacing(self.path, overwrite=True) as file:
                file.write(safetensors.numpy.save(tensors, {"format": FORMAT, "version": VERSION, **about}))
            self.failed = False
        except OSError as error:
            if not self.failed:
                warn_user(f"the checkpoint cannot be written ({error}); the computation goes on without it")
            self.failed = True
        self.written = time.monotonic()
        self.took = self.written - begun


@contextlib.contextmanager
def journal_at(path: str | os.PathLike[str] | None, call: str, rows: Any, *options: Any) -> Iterator[Journal | None]:
    """The journal of a call in the file `path`, read if it is there, and written at the end; None without a path."""
    if path is None:
        yield None
        return
    check_from_host(f"{call} with a checkpoint", rows, options)
    about = {
        "call": call,
        "jaxem": _version(),
        "jax": jax.__version__,
        "threads": str(n_threads()),
        "data": _data(rows),
        "options": _digest(options),
    }
    journal = Journal(Path(path), about)
    source = getattr(rows, "source", None)
    journal.read(shared=source is not None and source.is_shared)
    try:
        yield journal
    finally:
        journal.write(hurry=True)


def _version() -> str:
    import jaxem

    return jaxem.__version__


def _data(rows: Any) -> str:
    """What tells these rows from others."""
    if isinstance(rows, Rows):
        return _digest((rows.blocks, rows.weights, rows.frame))
    return f"{rows.source.fingerprint()} {rows.dtype} {rows.block}"


def _digest(tree: Any) -> str:
    """A digest of a pytree: its structure, its arrays, and what else is in it."""
    leaves, structure = jax.tree.flatten(tree)
    plain = re.sub(r" at 0x[0-9a-f]+", "", str(structure))  # addresses differ in each process
    return hashlib.sha256("\n".join([plain, *map(_text_of, leaves)]).encode()).hexdigest()


def _text_of(value: Any, depth: int = 0) -> str:
    """A text that tells a value from others, functions and objects of the user's among them.

    Raises:
        ValueError: nothing is known of the value.
    """
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        numbers: Any = value
        array = np.ascontiguousarray(jax.random.key_data(numbers) if _is_key(value) else numbers)
        return f"{np.shape(value)}{array.dtype}{hashlib.sha256(array.tobytes()).hexdigest()}"
    with contextlib.suppress(kept.ForeignError):
        return kept.spelled(value)
    if depth > DEEPEST:
        raise ValueError(f"checkpoint: {value!r} is too deep to be told from others; give the options as plain values")
    tell = functools.partial(_text_of, depth=depth + 1)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, (tuple, list)):
        return f"{kind}({','.join(map(tell, value))})"
    if isinstance(value, dict):
        return f"{kind}({','.join(sorted(f'{tell(key)}={tell(item)}' for key, item in value.items()))})"
    if isinstance(value, functools.partial):
        return f"{kind}({tell([value.func, value.args, value.keywords])})"
    if hasattr(value, "__wrapped__"):
        return f"{kind}({tell(value.__wrapped__)})"
    if isinstance(value, types.FunctionType):
        code, inside = value.__code__, [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [code.co_names, code.co_code, [str(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]]
        text = tell([*parts, *inside, value.__defaults__ or (), value.__kwdefaults__ or {}])
        return f"{value.__module__}.{value.__qualname__}({re.sub(r' at 0x[0-9a-f]+', '', text)})"
    if isinstance(value, types.MethodType):
        return f"{value.__func__.__qualname__}({tell(value.__self__)})"
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "__dict__"):
        return f"{kind}({tell(dict(vars(value)))})"
    raise ValueError(f"checkpoint: {value!r} cannot be told from others of its kind; give the options as plain values")


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _trim(leaf: np.ndarray) -> np.ndarray:
    """An array without the last columns that hold NaN alone: the padding of a trace."""
    if leaf.dtype.kind != "f" or leaf.ndim == 0 or leaf.shape[-1] < 2:
        return np.asarray(leaf, order="C")
    used = ~np.isnan(leaf).all(axis=tuple(range(leaf.ndim - 1)))
    return np.ascontiguousarray(leaf[..., : int(np.max(np.flatnonzero(used), initial=0)) + 1])


def _pad_like(leaf: np.ndarray, like: np.ndarray) -> Any:
    """Undo `_trim`; None if the array is of another kind than `like`."""
    short = leaf.ndim == like.ndim > 0 and leaf.shape[:-1] == like.shape[:-1] and leaf.shape[-1] < like.shape[-1]
    if leaf.dtype != like.dtype or not (short or leaf.shape == like.shape):
        return None
    if not short:
        return leaf.copy()
    if leaf.dtype.kind != "f":
        return None
    return np.concatenate(
        [leaf, np.full((*like.shape[:-1], like.shape[-1] - leaf.shape[-1]), np.nan, leaf.dtype)], axis=-1
    )
