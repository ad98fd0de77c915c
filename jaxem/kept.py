"""Kept programs: what one process compiled, the next one loads, and neither traces nor compiles.

Each file of the folder holds one program for CPUs. Its name is the SHA-256 of all that decides what the program is: the
function, its static arguments, the shapes and dtypes of the others, JAX's settings, the versions, the source of jaxem, and
the processor. A function or class that jaxem or its dependencies did not write has no such name, and its programs are not
kept. A file carries a digest of its bytes; one that is damaged, or that JAX cannot load, is ignored and replaced. Files are
written under another name and moved, so no process reads half of one. Above `MOST_BYTES` the least recently used go.

If JAX's own compilation cache is set, it keeps what is compiled, and no program is written here.
The folder is that of the environment variable JAXEM_CACHE, or `jaxem` in the user's caches; an empty variable keeps nothing.
Programs are code: a folder that others may write to is not used.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import os
import pickle
import platform
import tempfile
import types
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

from jaxem.primitives import cores

VARIABLE = "JAXEM_CACHE"
"""environment variable that names the folder"""
MOST_BYTES = 2**28
"""bytes that the folder may hold"""
LEFT = 0.8
"""part of them that is left after the least recently used are deleted"""
KNOWN = ("jaxem", "jax", "jaxlib", "optax", "numpy", "builtins")
"""packages whose functions and classes are told apart by name and version"""
PRIVATE = ("cache", "log", "dump", "traceback", "pgle", "profil", "path", "distributed")
"""settings of JAX with one of these in their names do not change a program"""
SUFFIX = ".program"
LAPACK, CALLBACK = b"lapack_", b"python_cpu_callback"
"""what is in the bytes of programs that call LAPACK, and Python"""


class ForeignError(Exception):
    """A value that cannot be named, because it holds code of a user."""


def name_of(parts: Iterable[Any]) -> str | None:
    """The name of the program that these values decide, in this process; None if one of them cannot be named."""
    try:
        words = "\n".join([_process(), _settings(), *map(spelled, parts)])
    except (ForeignError, RecursionError):
        return None
    return hashlib.sha256(words.encode()).hexdigest()


def is_kept(name: str) -> bool:
    """Whether there is a file of that name, damaged or not."""
    folder = place()
    return folder is not None and (folder / (name + SUFFIX)).exists()


def load(name: str) -> Any:
    """The program of that name, ready to be called; None if there is none or JAX cannot load it."""
    with contextlib.suppress(Exception):  # whatever is wrong with a file, the program is compiled again
        payload, inputs, outputs = _read(name)
        if LAPACK in payload:
            _start_lapack()
        here = jax.local_devices(backend="cpu")[:1]
        return serialize_executable.deserialize_and_load(
            payload, inputs, outputs, backend=here[0].client, execution_devices=here
        )
    return None


def save(name: str, program: Any) -> None:
    """Keep a compiled program, if there is a folder that can be written to.

    Beware: what JAX's own cache has loaded cannot be written again, it would lack its code. If that cache is set, it keeps
    what is compiled.
    """
    config: Any = jax.config
    if config.jax_enable_compilation_cache and config.jax_compilation_cache_dir:
        return
    with contextlib.suppress(Exception):  # a program that is not kept is compiled again
        payload, inputs, outputs = serialize_executable.serialize(program)
        if CALLBACK not in payload:  # it would hold addresses of this process
            _write(name, (payload, inputs, outputs))


def fact(parts: Iterable[Any], find: Callable[[], Any]) -> Any:
    """`find()`, a small value that `parts` decide and that takes long to trace; found once, kept like a program."""
    name = name_of(parts)
    if name is None:
        return find()
    with contextlib.suppress(Exception):
        return _read(name)
    value = find()
    with contextlib.suppress(Exception):
        _write(name, value)
    return value


def _read(name: str) -> Any:
    """What the file of that name holds; an exception if there is none or it is damaged."""
    folder = place()
    if folder is None:
        raise FileNotFoundError(name)
    path = folder / (name + SUFFIX)
    content = path.read_bytes()
    digest, packed = content[:32], content[32:]
    if hashlib.sha256(name.encode() + packed).digest() != digest:
        raise ValueError(f"{path} is damaged")
    os.utime(path)
    return pickle.loads(zlib.decompress(packed))


def _write(name: str, value: Any) -> None:
    """Write a file under another name, move it in place, and delete what is too much."""
    folder = place()
    if folder is None:
        return
    packed = zlib.compress(pickle.dumps(value), 1)
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(name.encode() + packed).digest() + packed)
        os.replace(temporary, folder / (name + SUFFIX))
    except BaseException:
        os.unlink(temporary)
        raise
    _prune(folder)


def place() -> Path | None:
    """The folder of kept programs, made if it is missing; None if none is to be kept or it cannot be used safely."""
    return folder_of(os.environ.get(VARIABLE))


@functools.lru_cache
def folder_of(named: str | None) -> Path | None:
    """The folder that this value of the variable stands for."""
    if named == "":
        return None
    if named is None:
        import platformdirs

        named = str(platformdirs.user_cache_path("jaxem"))
    folder = Path(named) / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
    except OSError:
        return None
    owned = not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not state.st_mode & 0o022)
    return folder if owned and os.access(folder, os.W_OK) else None


def _prune(folder: Path) -> None:
    """Delete the files that were not used for longest, if there are too many bytes; what a killed process left is among them."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may delete it
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in found)
    if total <= MOST_BYTES:
        return
    for _, size, path in sorted(found):
        if total <= LEFT * MOST_BYTES:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


def spelled(value: Any) -> str:
    """A text that two values share only if they make the same program, in every process.

    Raises:
        ForeignError: the value holds a function or an object of a class that `KNOWN` packages did not write.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return f"{kind.__name__}:{value!r}"
    if isinstance(value, enum.Enum):
        return f"{_named(kind)}.{value.name}"
    if isinstance(value, tuple | list):
        return f"{_named(kind)}({','.join(map(spelled, value))})"
    if kind is dict:
        return f"dict({','.join(sorted(f'{spelled(key)}={spelled(item)}' for key, item in value.items()))})"
    if isinstance(value, np.dtype) or kind.__name__ == "KeyTy":  # the second are dtypes of keys
        return f"dtype:{value}"
    if isinstance(value, type):
        return _named(value)
    if isinstance(value, types.FunctionType):
        inside = [cell.cell_contents for cell in value.__closure__ or ()]
        return f"{_named(value)}{spelled([*inside, *(value.__defaults__ or ()), value.__kwdefaults__])}"
    if isinstance(value, functools.partial):
        return f"partial{spelled([value.func, value.args, value.keywords])}"
    if isinstance(value, jax.tree_util.PyTreeDef):
        node = value.node_data()
        return f"tree({'leaf' if node is None else spelled([*node, *value.children()])})"
    if dataclasses.is_dataclass(value):
        return f"{_named(kind)}{spelled([getattr(value, field.name) for field in dataclasses.fields(value)])}"
    raise ForeignError(kind)


def _named(value: Callable[..., Any]) -> str:
    module = value.__module__ or ""
    if module.partition(".")[0] not in KNOWN:
        raise ForeignError(value)
    return f"{module}.{value.__qualname__}"


@functools.cache
def _start_lapack() -> None:
    """Have JAX look up LAPACK's addresses, which it does while it lowers; without them a loaded program crashes."""
    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), np.float32))


@functools.cache
def _process() -> str:
    """What all programs of this process have in common: versions, jaxem's source, the processor and its cores."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        source.update(path.name.encode() + b"\0" + path.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax", "numpy")]
    system = [platform.python_version(), platform.platform(), _processor(), str(cores())]
    return "\n".join([source.hexdigest(), *versions, *system, os.environ.get("XLA_FLAGS", "")])


def _processor() -> str:
    """The processor's model and the instructions that it has."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(16384).partition("\n\n")[0]
    except OSError:
        return platform.processor() + platform.machine()
    told = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(line for line in first.splitlines() if line.startswith(told))


def _settings() -> str:
    """JAX's settings that may change a program."""
    values = {name: value for name, value in jax.config.values.items() if not any(word in name for word in PRIVATE)}
    return repr(sorted((name, repr(getattr(jax.config, name, value))) for name, value in values.items()))
