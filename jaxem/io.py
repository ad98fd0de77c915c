"""Save and load a Mixture as safetensors with a closed schema; no pickle, no import by name.

A file holds the arrays `log_weights` and `components.<field>` and these strings: `format` ("jaxem-mixture"), `version`,
`family` (one of FAMILIES), `n_components`, `n_features` and `sha256`, the digest of the arrays with their names, dtypes
and shapes. It may hold nothing else. The family itself says which fields it has, of which shapes, and what is wrong with
their values. A file is written beside its destination, flushed and renamed, so that the path holds the old model or the
new one, never half of one.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxem.families.base import Family
from jaxem.families.discrete import Bernoulli
from jaxem.families.gaussian import Diagonal, Full, Spherical, Tied
from jaxem.mixture import Mixture

FORMAT, VERSION = "jaxem-mixture", "1"
FAMILIES: dict[str, Family] = {
    type(family).__name__: family for family in (Spherical(), Diagonal(), Tied(), Full(), Bernoulli())
}
"""what a file may hold; a new family is one more entry"""
ENTRY = {"dtype", "shape", "data_offsets"}
METADATA = {"format", "version", "family", "n_components", "n_features", "sha256"}
MAX_HEADER = 2**16
"""bytes a header may have; those that `save` writes have a few hundred"""
SUM = {4: 1e-4, 8: 1e-8}
"""how far the sum of the weights may be from one, by bytes of a number"""
PROBES = ((2, 3), (4, 5))
"""two numbers of components, and two of features, for which the shapes of parameters are tried"""
DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


WRITING = threading.Lock()
"""held while a file is written; whoever ends the process waits for it"""


class ModelFormatError(ValueError):
    """A file that `save` did not write, or that was changed since; the message is one line and names the field."""


def save(mixture: Mixture, path: str | Path, *, overwrite: bool = True) -> None:
    """Write a mixture to `path`, atomically.

    Raises:
        TypeError: for a family that files do not know (one of your own).
        ValueError: for parameters that are not finite.
        FileExistsError: if the path exists and `overwrite` is false.
    """
    name = type(mixture.family).__name__
    if FAMILIES.get(name) != mixture.family:
        raise TypeError(f"mixture has family {mixture.family!r}, which a file cannot hold; give one of {[*FAMILIES]}")
    if mixture.log_weights.ndim != 1:
        raise ValueError(f"mixture has log_weights of shape {mixture.log_weights.shape}; save one mixture, not a batch")
    params = jax.tree.map(np.asarray, mixture.components)
    arrays = {"log_weights": np.asarray(mixture.log_weights), **_by_name(params)}
    for field, array in arrays.items():
        if np.isnan(array).any() or (field != "log_weights" and np.isinf(array).any()):
            raise ValueError(f"{field} holds values that are not finite; a failed fit is not saved")
    if (
        len({array.dtype.str for array in arrays.values()} | {"<f4", "<f8"}) > 2
        or len({a.dtype for a in arrays.values()}) > 1
    ):
        raise ValueError(
            f"parameters have dtypes {[str(a.dtype) for a in arrays.values()]}; give one, float32 or float64"
        )
    _check_values("mixture", arrays["log_weights"], params, mixture.family)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "family": name,
        "n_components": str(mixture.n_components),
        "n_features": str(mixture.family.n_features(mixture.components)),
        "sha256": _digest(arrays),
    }
    write_atomically(Path(path), safetensors.numpy.save(arrays, metadata), overwrite)


def load(path: str | Path) -> Mixture:
    """Read a mixture that `save` wrote.

    Raises:
        ModelFormatError: if `save` did not write the file, or it was cut or changed since; it names the field.
        OSError: if the file cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the name")
    if not (path.is_file() or path.is_dir()):  # reading a pipe or a device may never end
        raise ModelFormatError(f"{path} is no regular file; give the name of a saved model")
    with path.open("rb") as file:  # opened once: another model may take the path while we read
        header, start, size = _header(path, file)
        metadata = header.pop("__metadata__", None)
        k, d = _check_metadata(path, metadata)
        family = FAMILIES[metadata["family"]]
        shapes, tree = _shapes(family, k, d)
        expected = {"log_weights": (k,), **shapes}
        _check_arrays(path, header, expected, size)
        content = start + file.read(size)
    try:
        arrays = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ModelFormatError(f"{path}: {error}") from error
    if _digest(arrays) != metadata["sha256"]:
        raise ModelFormatError(f"{path}: sha256 does not match; the file was changed or damaged")
    log_weights, params = arrays["log_weights"], jax.tree.unflatten(tree, [arrays[field] for field in shapes])
    _check_values(path, log_weights, params, family)
    narrow = jax.dtypes.canonicalize_dtype(log_weights.dtype)
    if narrow != log_weights.dtype:  # float64 in a JAX of 32 bits
        with np.errstate(over="ignore", under="ignore"):
            log_weights, params = jax.tree.map(lambda leaf: leaf.astype(narrow), (log_weights, params))
        try:
            _check_values(path, log_weights, params, family)
        except ModelFormatError as error:
            raise ValueError(f"{error} in {narrow}; set jax_enable_x64 to load this model in float64") from error
    return Mixture(jnp.asarray(log_weights), jax.tree.map(jnp.asarray, params), family)


def _by_name(params: Any) -> dict[str, Any]:
    """The leaves of parameters by the names that a file gives them, such as `components.means`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {f"components.{jax.tree_util.keystr(path, simple=True, separator='.')}": leaf for path, leaf in leaves}


def _shapes(family: Family, k: int, d: int) -> tuple[dict[str, tuple[int, ...]], Any]:
    """The shapes of the family's parameters by their names, in order, and the structure they make."""
    patterns, tree = _patterns(family)
    sizes = {PROBES[0]: k, PROBES[1]: d}
    shapes = {name: tuple(sizes.get(pair, pair[0]) for pair in pattern) for name, pattern in patterns.items()}
    return shapes, tree


@functools.lru_cache
def _patterns(family: Family) -> tuple[dict[str, tuple[tuple[int, int], ...]], Any]:
    """Each axis of the parameters as its two lengths for the two k and d of `PROBES`; nothing is computed.

    Never for the k and d of a file, which may be any number.
    """
    small, large = (
        jax.eval_shape(functools.partial(family.init, n_components=k), jax.ShapeDtypeStruct((1, d), np.float32))
        for k, d in zip(*PROBES, strict=True)
    )
    pairs = zip(_by_name(small).items(), _by_name(large).values(), strict=True)
    patterns = {name: tuple(zip(one.shape, other.shape, strict=True)) for (name, one), other in pairs}
    return patterns, jax.tree.structure(small)


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], bytes, int]:
    """The file's header, read without its arrays, the same as bytes, and the number of bytes that follow it."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise ModelFormatError(f"{path}: header is truncated or too long; this is not a model that jaxem saved")
    start += file.read(length)
    try:
        header = json.loads(start[8:].decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path}: header is not the JSON of a model ({error})") from error
    if not isinstance(header, dict):
        raise ModelFormatError(f"{path}: header is not the JSON of a model")
    return header, start, size - 8 - length


def _check_metadata(path: Path, metadata: Any) -> tuple[int, int]:
    """The numbers of components and features that the header claims, once the rest of it is what it should be."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelFormatError(f"{path}: format is not {FORMAT!r}; this is not a model that jaxem saved")
    if metadata.get("version") != VERSION:
        raise ModelFormatError(f"{path}: version is {metadata.get('version')!r}; this jaxem reads {VERSION!r}")
    if set(metadata) != METADATA:
        raise ModelFormatError(f"{path}: metadata has the fields {sorted(metadata)}; expected {sorted(METADATA)}")
    if not isinstance(metadata["family"], str) or metadata["family"] not in FAMILIES:
        raise ModelFormatError(f"{path}: family is {metadata['family']!r}; known are {[*FAMILIES]}")
    k, d = (_count(path, metadata, name) for name in ("n_components", "n_features"))
    return k, d


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _count(path: Path, metadata: Mapping[str, str], name: str) -> int:
    text = metadata[name]
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and 0 < len(text) <= 9 and int(text) > 0):
        raise ModelFormatError(f"{path}: {name} is {text!r}; expected a positive whole number")
    return int(text)


def _check_arrays(path: Path, header: dict[str, Any], expected: dict[str, tuple[int, ...]], size: int) -> None:
    if set(header) != set(expected):
        raise ModelFormatError(f"{path}: arrays are {sorted(header)}; expected {sorted(expected)}")
    total, dtypes = 0, set()
    for name, shape in expected.items():
        entry = header[name]
        known = isinstance(entry, dict) and set(entry) == ENTRY and isinstance(entry["dtype"], str)
        if not known or entry["shape"] != list(shape) or entry["dtype"] not in DTYPES:
            raise ModelFormatError(f"{path}: {name} is {entry}; expected shape {list(shape)} and one of {[*DTYPES]}")
        dtypes.add(entry["dtype"])
        total += math.prod(shape) * DTYPES[entry["dtype"]].itemsize
    if len(dtypes) > 1:
        raise ModelFormatError(f"{path}: dtype differs between arrays: {sorted(dtypes)}")
    if total != size:
        raise ModelFormatError(
            f"{path}: data has {size} bytes where the shapes need {total}; the file is not whole, or holds more than a model"
        )


def _check_values(path: Path | str, log_weights: np.ndarray, params: Any, family: Family) -> None:
    off = SUM[log_weights.dtype.itemsize]
    log_weights = log_weights.astype(np.float64)
    if np.isnan(log_weights).any() or abs(np.exp(np.minimum(log_weights, 1.0)).sum() - 1) > off:
        raise ModelFormatError(f"{path}: log_weights do not belong to weights that sum to one")
    for name, array in _by_name(params).items():
        if not np.isfinite(array).all():
            raise ModelFormatError(f"{path}: {name} holds values that are not finite")
    wrong = family.check(jax.tree.map(lambda leaf: leaf.astype(np.float64), params))
    if wrong is not None:
        raise ModelFormatError(f"{path}: components.{wrong}")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file so that its path holds the old content or the new one, never a part, whatever happens."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; give the name of a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or allow overwriting it")
    with WRITING:
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent or Path(), prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
