"""Save and load a Mixture as safetensors with a closed schema; no pickle, no import by name.

A file holds the arrays `log_weights` and `components.<field>` and these strings: `format` ("jaxem-mixture"), `version`,
`family`, `n_components`, `n_features`, `columns` (a JSON list of the names of the features, or null) and `sha256`, the
digest of all others and of the arrays with their names, dtypes and shapes. It may hold nothing else. The family itself says
which fields it has, of which shapes, and what is wrong with their values. How a file is written is in `jaxem.atomic`.

A family is JSON: its name, one of FAMILIES, and its settings, as in {"Categorical": {"n_categories": 3}}; families inside
a Product or a Union are written the same way. A family of your own is known by `register`. Versions "1" and "2" had a
plain name in place of it, version "1" no columns and a digest of the arrays alone; both are still read.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxem.atomic import write_atomically as write_atomically
from jaxem.families.algebra import Product, Union
from jaxem.families.base import Family
from jaxem.families.deconvolved import Deconvolved, count_values
from jaxem.families.diagonal import Diagonal
from jaxem.families.discrete import Bernoulli, Categorical, Poisson
from jaxem.families.ellipsoidal import Ellipsoidal
from jaxem.families.fixed import Labelled, Uniform
from jaxem.families.gaussian import Spherical
from jaxem.families.matrices import Full
from jaxem.families.numerical import Numerical
from jaxem.families.regression import Regression
from jaxem.families.student_t import StudentT
from jaxem.families.tied import Tied, TiedDiagonal, TiedSpherical
from jaxem.mixture import Mixture

FORMAT, VERSION = "jaxem-mixture", "3"
FAMILIES: dict[str, type[Family] | Family] = {
    kind.__name__: kind
    for kind in (
        *(Spherical, Diagonal, Tied, Full, TiedSpherical, TiedDiagonal, Ellipsoidal, StudentT, Deconvolved),
        *(Bernoulli, Categorical, Poisson),
        *(Regression, Uniform, Labelled, Product, Union),
    )
}
"""what a file may hold, by name: classes, whose settings a file tells, and families of a user's, which have none; a new family
is one more entry, or a call of `register`"""
ENTRY = {"dtype", "shape", "data_offsets"}
METADATA = {
    "1": {"format", "version", "family", "n_components", "n_features", "sha256"},
    "2": {"format", "version", "family", "n_components", "n_features", "columns", "sha256"},
    "3": {"format", "version", "family", "n_components", "n_features", "columns", "sha256"},
}
"""what each version that is read says of a model"""
LATER = "missing"
"""a setting that older files lack, and that a file holds where it is not False"""
MAX_DEPTH = 8
"""families inside families that a file may have"""
MAX_UNKNOWN = 10**7
"""components times features of a family of a user's own; its `init` is asked for shapes of these sizes"""
MAX_HEADER = 2**26
"""bytes a header may have; those that `save` writes have a few hundred, and the names of the columns"""
MAX_NAME = 1000
"""characters that the name of a column may have"""
MAX_NAMES = 2**22
"""characters that all names may have; written as escapes they fit into a header"""
SUM = {4: 1e-4, 8: 1e-8}
"""how far the sum of the weights may be from one, by bytes of a number"""
PROBES = ((2, 3), (4, 5))
"""two numbers of components, and two of features, for which the shapes of parameters are tried"""
DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


class ModelFormatError(ValueError):
    """A file that `save` did not write, or that was changed since; the message is one line and names the field."""


class Model(NamedTuple):
    """What a file holds.

    Attributes:
        mixture: the Mixture.
        columns: the names of its d features; None if the file has none.
    """

    mixture: Mixture
    columns: tuple[str, ...] | None


def register(family: Family | type[Family], name: str | None = None) -> None:
    """Make a family of your own known to model files: `save` and `load` then take mixtures of it.

    Args:
        family: a class, whose settings (the fields of its dataclass: numbers, strings, families and tuples of these) a file
            holds; or one family with whatever settings, such as a `Numerical`, which a file holds by its name alone.
        name: the name in files, the same whenever they are read; by default that of the class.

    Raises:
        ValueError: if the name is taken by another family.
    """
    kind = family if isinstance(family, type) else type(family)
    if not issubclass(kind, Family):
        raise TypeError(f"family is {family!r}; give a Family, or a class of families")
    name = kind.__name__ if name is None else name
    taken = FAMILIES.get(name)
    if taken is not None and taken != family and f"{taken}" != f"{family}":
        raise ValueError(f"name = {name!r} is that of {taken!r}; give another")
    FAMILIES[name] = family


def save(mixture: Mixture, path: str | Path, *, columns: Sequence[str] | None = None, overwrite: bool = True) -> None:
    """Write a mixture to `path`, atomically.

    Args:
        mixture: one mixture, not a batch. A file does not keep `mixture.held`: all its parameters are free again.
        path: the file; a link is followed.
        columns: the names of the d features, all different; the command line then finds them in a table by name.
        overwrite: whether an existing file is replaced; its mode is kept.

    Raises:
        TypeError: for a family that files do not know; one of your own is made known by `register`.
        ValueError: for parameters that are not finite, and for columns that are not d different names.
        FileExistsError: if the path exists and `overwrite` is false.
        OSError: if the file cannot be written, with its name; the old file is then whole.
    """
    arrays, metadata = pack(mixture, columns)
    write_atomically(Path(path), safetensors.numpy.save(arrays, metadata), overwrite)


def pack(mixture: Mixture, columns: Sequence[str] | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a model and what a file says of them, with their digest; errors are those of `save`."""
    family, k = json.dumps(_described(mixture.family)), mixture.n_components
    if mixture.log_weights.ndim != 1:
        raise ValueError(f"mixture has log_weights of shape {mixture.log_weights.shape}; save one mixture, not a batch")
    # safetensors writes the memory as it lies
    params = jax.tree.map(lambda leaf: np.asarray(leaf, order="C"), mixture.components)
    arrays = {"log_weights": np.asarray(mixture.log_weights, order="C"), **by_name(params)}
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
        "family": family,
        "n_components": str(mixture.n_components),
        "n_features": str(mixture.family.n_features(mixture.components) or len(columns or ())),
        "columns": json.dumps(None if columns is None else [*columns]),
    }
    d = int(metadata["n_features"])
    if not d:
        raise ValueError(
            f"columns is None, and {mixture.family.shown_name} does not tell how many there are; give columns="
        )
    expected = {"log_weights": (k,), **_shapes(mixture.family, k, d)[0]}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise ValueError(f"parameters have the shapes {arrays_in_words(arrays)}; the family's init gives {expected}")
    if columns is not None:
        wrong = wrong_columns([*columns], int(metadata["n_features"]))
        if wrong:
            raise ValueError(f"columns {wrong}")
    metadata["sha256"] = digest(arrays, metadata)
    return arrays, metadata


def load(path: str | Path) -> Mixture:
    """Read a mixture that `save` wrote; `load_model` gives the names of its columns, too.

    A float64 model is rounded to float32 where JAX has no float64, with a UserWarning.

    Raises:
        ModelFormatError: if `save` did not write the file, or it was cut or changed since; it names the field.
        ValueError: if float32 cannot hold the model, and JAX has no float64.
        OSError: if the file cannot be read.
    """
    return _read(path).mixture


def load_model(path: str | Path) -> Model:
    """Read a mixture and the names of its columns; errors and the warning are those of `load`."""
    return _read(path)


def _read(path: str | Path) -> Model:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the name")
    if not (path.is_file() or path.is_dir()):  # reading a pipe or a device may never end
        raise ModelFormatError(f"{path} is no regular file; give the name of a saved model")
    with path.open("rb") as file:  # opened once: another model may take the path while we read
        header, start, size = _header(path, file)
        metadata = header.pop("__metadata__", None)
        plan = plan_of(path, metadata)
        _check_arrays(path, header, plan.shapes, size)
        content = start + file.read(size)
    try:
        arrays = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ModelFormatError(f"{path}: {error}") from error
    if digest(arrays, {} if metadata["version"] == "1" else metadata) != metadata["sha256"]:
        raise ModelFormatError(f"{path}: sha256 does not match; the file was changed or damaged")
    return unpack(path, arrays, plan, stacklevel=4)


class Plan(NamedTuple):
    """What the arrays of a file must be."""

    family: Family
    columns: tuple[str, ...] | None
    shapes: dict[str, tuple[int, ...]]  # of all arrays by their names, log_weights first
    tree: Any  # the structure that the parameters make


def plan_of(path: Path, metadata: Any) -> Plan:
    """What the arrays must be by what a file says of them; a ModelFormatError if that is wrong itself."""
    k, d, columns = _check_metadata(path, metadata)
    family = _family(path, metadata)
    try:
        shapes, tree = _shapes(family, k, d)
    except Exception as error:  # of a family of somebody's own, too
        raise ModelFormatError(f"{path}: {error}") from error
    return Plan(family, columns, {"log_weights": (k,), **shapes}, tree)


def unpack(path: Path, arrays: Mapping[str, np.ndarray], plan: Plan, stacklevel: int = 3) -> Model:
    """The model that arrays of the right shapes make; errors and the warning are those of `load`."""
    log_weights, *leaves = (arrays[field] for field in plan.shapes)
    params, family = jax.tree.unflatten(plan.tree, leaves), plan.family
    _check_values(path, log_weights, params, family)
    narrow = jax.dtypes.canonicalize_dtype(log_weights.dtype)
    if narrow != log_weights.dtype:  # float64 in a JAX of 32 bits
        with np.errstate(over="ignore", under="ignore"):
            log_weights, params = jax.tree.map(lambda leaf: leaf.astype(narrow), (log_weights, params))
        try:
            _check_values(path, log_weights, params, family)
        except ModelFormatError as error:
            raise ValueError(f"{error} in {narrow}; set jax_enable_x64 to load this model in float64") from error
        warnings.warn(
            f"{path} holds a float64 model, which is rounded to {narrow}; set jax_enable_x64 to keep its digits",
            stacklevel=stacklevel,
        )
    return Model(Mixture(jnp.asarray(log_weights), jax.tree.map(jnp.asarray, params), family), plan.columns)


def by_name(params: Any) -> dict[str, Any]:
    """The leaves of parameters by the names that a file gives them, such as `components.means`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {f"components.{jax.tree_util.keystr(path, simple=True, separator='.')}": leaf for path, leaf in leaves}


def _described(family: Family) -> dict[str, Any]:
    """A family as JSON: its name and settings."""
    for name, known in FAMILIES.items():
        if isinstance(known, Family) and known == family:
            return {name: {}}
    name = type(family).__name__
    if FAMILIES.get(name) is not type(family):
        raise TypeError(
            f"mixture has family {family!r}, which a file cannot hold; give one of {[*FAMILIES]}, or make it known by "
            "jaxem.io.register"
        )
    settings = {field.name: getattr(family, field.name) for field in _fields(type(family))}
    if not settings.get(LATER, True):
        del settings[LATER]
    return {name: {field: _setting(value) for field, value in settings.items()}}


def _fields(known: Any) -> list[Any]:
    """The fields that a family is made of."""
    return [field for field in dataclasses.fields(known) if field.init]


def _setting(value: Any) -> Any:
    if isinstance(value, Family):
        return _described(value)
    if isinstance(value, tuple):
        return [_setting(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"a family has the setting {value!r}, which a file cannot hold; register the family as it is, with a name"
    )


def _family(path: Path, metadata: Mapping[str, str]) -> Family:
    """The family that the header tells."""
    text = metadata["family"]
    try:
        described = json.loads(text, object_pairs_hook=no_duplicates) if metadata["version"] > "2" else {text: {}}
        return _from_description(described, 0)
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ModelFormatError(f"{path}: family is {_short(text)}: {error}") from error


def _from_description(described: Any, depth: int) -> Family:
    if not isinstance(described, dict) or len(described) != 1 or depth > MAX_DEPTH:
        raise ValueError("expected one name with its settings")
    [(name, settings)] = described.items()
    known = FAMILIES.get(name)
    if known is None or not isinstance(settings, dict):
        raise ValueError(
            f"known are {[*FAMILIES]}; make one of your own known by jaxem.io.register (--family module:Class)"
        )
    fields = {field.name for field in _fields(known)} if isinstance(known, type) else set()
    needed = fields - {LATER}
    if not needed <= set(settings) <= fields:
        raise ValueError(f"{name} has the settings {sorted(needed)}")
    if isinstance(known, Family):
        return known

    def decoded(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(decoded(one) for one in value)
        return _from_description(value, depth + 1) if isinstance(value, dict) else value

    decoded_settings = {field: decoded(value) for field, value in settings.items()}
    if issubclass(known, (Product, Union)):
        return known(*decoded_settings["parts"])
    return cast(Callable[..., Family], known)(**decoded_settings)


def _shapes(family: Family, k: int, d: int) -> tuple[dict[str, tuple[int, ...]], Any]:
    """The shapes of the family's parameters by their names, in order, and the structure they make."""
    if family.n_columns not in (None, d):
        raise ValueError(f"n_features is {d}, the family takes {family.n_columns}")
    if isinstance(family, (Product, Union)):
        numbers = family.lengths(k)
        widths = [len(columns) for _, columns in family.parts] if isinstance(family, Product) else [d] * len(numbers)
        every = [_shapes(*part) for part in zip(family.families, numbers, widths, strict=True)]
        named = {
            name.replace("components", f"components.{i}", 1): shape
            for i, (shapes, _) in enumerate(every)
            for name, shape in shapes.items()
        }
        return named, jax.tree.structure(tuple(jax.tree.unflatten(tree, [0] * len(shapes)) for shapes, tree in every))
    if not type(family).__module__.startswith("jaxem.") or isinstance(family, Numerical):
        if k * d > MAX_UNKNOWN:
            raise ValueError(f"n_components and n_features are {k} and {d}, too many for a family that is not jaxem's")
        made = jax.eval_shape(functools.partial(family.init, n_components=k), jax.ShapeDtypeStruct((1, d), np.float32))
        return {name: leaf.shape for name, leaf in by_name(made).items()}, jax.tree.structure(made)
    if isinstance(family, Deconvolved):  # a row holds the noise of its values as well
        return _shapes(Full(), k, count_values(d))
    patterns, tree = _patterns(family)
    sizes = {PROBES[0]: k, PROBES[1]: d}
    shapes = {name: tuple(sizes.get(pair, pair[0]) for pair in pattern) for name, pattern in patterns.items()}
    return shapes, tree


def arrays_in_words(arrays: Mapping[str, np.ndarray]) -> str:
    """Names and shapes of arrays."""
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items())


@functools.lru_cache
def _patterns(family: Family) -> tuple[dict[str, tuple[tuple[int, int], ...]], Any]:
    """Each axis of the parameters as its two lengths for the two k and d of `PROBES`; nothing is computed.

    Never for the k and d of a file, which may be any number.
    """
    small, large = (
        jax.eval_shape(
            functools.partial(family.init, n_components=k), jax.ShapeDtypeStruct((1, family.n_columns or d), np.float32)
        )
        for k, d in zip(*PROBES, strict=True)
    )
    pairs = zip(by_name(small).items(), by_name(large).values(), strict=True)
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
        header = json.loads(start[8:].decode("utf-8"), object_pairs_hook=no_duplicates)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path}: header is not the JSON of a model ({error})") from error
    if not isinstance(header, dict):
        raise ModelFormatError(f"{path}: header is not the JSON of a model")
    return header, start, size - 8 - length


def _check_metadata(path: Path, metadata: Any) -> tuple[int, int, tuple[str, ...] | None]:
    """The numbers of components and features that the header claims, and their names, once the rest is what it should be."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelFormatError(f"{path}: format is not {FORMAT!r}; this is not a model that jaxem saved")
    version = metadata.get("version")
    if not isinstance(version, str) or version not in METADATA:
        raise ModelFormatError(
            f"{path}: version is {_short(version)}; this jaxem reads {' and '.join(map(repr, METADATA))}"
        )
    if set(metadata) != METADATA[version]:
        raise ModelFormatError(
            f"{path}: metadata has the fields {_short(sorted(metadata))}; expected {sorted(METADATA[version])}"
        )
    if not isinstance(metadata["family"], str):
        raise ModelFormatError(f"{path}: family is {_short(metadata['family'])}; expected the JSON of a family")
    k, d = (_count(path, metadata, name) for name in ("n_components", "n_features"))
    return k, d, _columns(path, metadata, d) if version != "1" else None


def _columns(path: Path, metadata: Mapping[str, Any], d: int) -> tuple[str, ...] | None:
    try:
        columns = json.loads(metadata["columns"])
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path}: columns are not JSON ({error})") from error
    if columns is None:
        return None
    wrong = wrong_columns(columns, d)
    if wrong:
        raise ModelFormatError(f"{path}: columns {wrong}")
    return tuple(columns)


def wrong_columns(columns: Any, d: int) -> str | None:
    """What is wrong with the names of d features, in words."""
    if not isinstance(columns, list) or len(columns) != d:
        found = f"{len(columns)} names" if isinstance(columns, list) else f"a {type(columns).__name__}"
        return f"are {found} for {d} {'feature' if d == 1 else 'features'}; give one name for each"
    for name in columns:
        if not isinstance(name, str) or not name or len(name) > MAX_NAME or "\0" in name:
            return f"hold {str(name)[:40]!r}; give names of 1 to {MAX_NAME} characters"
        if any("\ud800" <= character <= "\udfff" for character in name):
            return f"hold {name[:40]!r}, which is no text; rename it"
    if sum(map(len, columns)) > MAX_NAMES:
        return f"have more than {MAX_NAMES} characters in all; give shorter names"
    if len(set(columns)) < d:
        twice = next(name for name, count in Counter(columns).items() if count > 1)
        return f"hold {twice[:40]!r} twice; give different names"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON; a ValueError if it has a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _count(path: Path, metadata: Mapping[str, str], name: str) -> int:
    text = metadata[name]
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and 0 < len(text) <= 9 and int(text) > 0):
        raise ModelFormatError(f"{path}: {name} is {_short(text)}; expected a positive whole number")
    return int(text)


def _check_arrays(path: Path, header: dict[str, Any], expected: dict[str, tuple[int, ...]], size: int) -> None:
    if set(header) != set(expected):
        raise ModelFormatError(f"{path}: arrays are {_short(sorted(header))}; expected {sorted(expected)}")
    total, dtypes = 0, set()
    for name, shape in expected.items():
        entry = header[name]
        known = isinstance(entry, dict) and set(entry) == ENTRY and isinstance(entry["dtype"], str)
        if not known or entry["shape"] != list(shape) or entry["dtype"] not in DTYPES:
            raise ModelFormatError(
                f"{path}: {name} is {_short(entry)}; expected shape {list(shape)} and one of {[*DTYPES]}"
            )
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
    for name, array in by_name(params).items():
        if not np.isfinite(array).all():
            raise ModelFormatError(f"{path}: {name} holds values that are not finite")
    wrong = family.check(jax.tree.map(lambda leaf: leaf.astype(np.float64), params))
    if wrong is not None:
        raise ModelFormatError(f"{path}: components.{wrong}")


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """The SHA-256 of arrays and of what is said of them."""
    found = hashlib.sha256()
    for name in sorted(set(metadata) - {"sha256"}):
        text = metadata[name].encode()
        found.update(f"{name}|{len(text)}|".encode() + text)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        found.update(array.tobytes())
    return found.hexdigest()
