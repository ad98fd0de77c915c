"""Models in the files of other programs: JSON, which people and every language read, and numpy's npz.

A JSON file holds one object:

    {"format": "jaxem-mixture", "version": "3", "family": {"Full": {}}, "n_components": 2, "n_features": 2,
     "columns": ["height", "weight"], "dtype": "float64", "weights": [...], "log_weights": [...],
     "components": {"means": [[...], ...], "covariances": [[[...], ...], ...]}, "sha256": "..."}

An npz file holds the arrays under the names that a model file gives them, such as `components.means`, and `metadata`, what
it says of them as JSON. Both are checked as strictly as a model file (io.py): a closed schema, the family's shapes and
values, and the digest. No pickle is read and nothing is executed. A JSON file that another program wrote may lack
`log_weights`, then the weights count; `sha256`; and `dtype`, which is float64 then.
"""

import io as text_io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxem.atomic import write_atomically
from jaxem.io import (
    DTYPES,
    METADATA,
    SUM,
    Model,
    ModelFormatError,
    Plan,
    digest,
    load_model,
    no_duplicates,
    pack,
    plan_of,
    save,
    unpack,
)
from jaxem.mixture import Mixture

FORMATS = (".safetensors", ".json", ".npz")
"""suffixes of the formats; a file with another, or with none, is a model file"""
UNSAFE = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".dill")
"""suffixes of files that can run any code when they are loaded"""
OPTIONAL = {"log_weights", "sha256", "dtype"}
"""what a JSON file may lack"""
KEYS = (METADATA["3"] | {"weights", "components"}) | OPTIONAL
METADATA_ENTRY = "metadata"
"""the entry of an npz file that tells the family and the columns"""


def write_model(
    mixture: Mixture, path: str | Path, *, columns: Sequence[str] | None = None, overwrite: bool = True
) -> None:
    """Write a mixture in the format that the suffix of `path` names: .json, .npz, else a model file; atomically.

    Arguments and errors are those of `jaxem.io.save`, and a ValueError for a suffix of pickles.
    """
    path = Path(path)
    _refuse_pickles(path)
    if path.suffix.lower() == ".json":
        write_atomically(path, _as_text(model_record(mixture, columns)).encode(), overwrite)
    elif path.suffix.lower() == ".npz":
        arrays, metadata = pack(mixture, columns)
        buffer = text_io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{METADATA_ENTRY: np.array(json.dumps(metadata))}, **arrays)
        write_atomically(path, buffer.getvalue(), overwrite)
    else:
        save(mixture, path, columns=columns, overwrite=overwrite)


def read_model(path: str | Path) -> Model:
    """Read a model of any of these formats, by the suffix of `path`; errors and the warning are those of `jaxem.io.load`."""
    path = Path(path)
    _refuse_pickles(path)
    readers = {".json": _from_json, ".npz": _from_npz}
    if path.suffix.lower() not in readers:
        return load_model(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the name")
    if not path.is_file():  # reading a pipe or a device may never end
        raise ModelFormatError(f"{path} is no regular file; give the name of a saved model")
    arrays, metadata, plan = readers[path.suffix.lower()](path)
    may_lack = path.suffix.lower() == ".json"
    if not (may_lack and metadata["sha256"] is None) and digest(arrays, metadata) != metadata["sha256"]:
        raise ModelFormatError(f"{path}: sha256 does not match; the file was changed or damaged")
    return unpack(path, arrays, plan, stacklevel=3)


def _refuse_pickles(path: Path) -> None:
    if path.suffix.lower() in UNSAFE:
        raise ValueError(
            f"{path} has the suffix {path.suffix}: such a file can run any code when it is loaded, so none is written or "
            "read; give .safetensors, .json or .npz"
        )


# -- JSON ----------------------------------------------------------------------------------------------------------------


def model_record(mixture: Mixture, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """A model as JSON, of dictionaries, lists, numbers and texts."""
    arrays, metadata = pack(mixture, columns)
    log_weights = arrays["log_weights"]
    components: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split(".")
        if folders:  # components.0.means is in two objects
            place = components
            for folder in folders[1:]:
                place = place.setdefault(folder, {})
            place[leaf] = array.tolist()
    return {
        "format": metadata["format"],
        "version": metadata["version"],
        "family": json.loads(metadata["family"]),
        "n_components": int(metadata["n_components"]),
        "n_features": int(metadata["n_features"]),
        "columns": json.loads(metadata["columns"]),
        "dtype": str(log_weights.dtype),
        "weights": np.exp(log_weights.astype(np.float64)).tolist(),
        "log_weights": [value if math.isfinite(value) else None for value in log_weights.tolist()],
        "components": components,
        "sha256": metadata["sha256"],
    }


def _as_text(record: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and one for each row of numbers."""

    def written(value: Any, depth: int) -> str:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not any(isinstance(one, dict | list) for one in inner):
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        pad, end = "  " * (depth + 1), "  " * depth
        if isinstance(value, dict):
            lines = [f"{pad}{json.dumps(name)}: {written(one, depth + 1)}" for name, one in value.items()]
            return "{\n" + ",\n".join(lines) + f"\n{end}}}"
        return "[\n" + ",\n".join(pad + written(one, depth + 1) for one in value) + f"\n{end}]"

    return written(dict(record), 0) + "\n"


def _from_json(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], Plan]:
    try:
        record = json.loads(path.read_bytes().decode(), object_pairs_hook=no_duplicates, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is not the JSON of a model ({str(error)[:200]})") from error
    if not isinstance(record, dict) or not set(record) | {"sha256"} >= KEYS - OPTIONAL or not set(record) <= KEYS:
        found = sorted(record)[:20] if isinstance(record, dict) else type(record).__name__
        raise ModelFormatError(f"{path}: the keys are {found}; expected {sorted(KEYS - OPTIONAL)}")
    known = dict(record)
    weights, components = known.pop("weights"), known.pop("components")
    log_weights, name = known.pop("log_weights", None), known.pop("dtype", "float64")
    if name not in ("float32", "float64"):
        raise ModelFormatError(f"{path}: dtype is {str(name)[:40]!r}; expected 'float32' or 'float64'")
    metadata: dict[str, Any] = {**known, "sha256": record.get("sha256")}
    for field in ("family", "columns"):
        metadata[field] = json.dumps(known[field])
    for field in ("n_components", "n_features"):
        metadata[field] = str(known[field]) if type(known[field]) is int else known[field]
    plan, dtype = plan_of(path, metadata), np.dtype(name)
    arrays = {
        field: _array(path, field, _found(components, field), shape, dtype)
        for field, shape in plan.shapes.items()
        if field != "log_weights"
    }
    _refuse_more(path, components, {*plan.shapes}, "components")
    own = _array(path, "weights", weights, plan.shapes["log_weights"], np.dtype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(own).astype(dtype)
    if log_weights is not None:
        dead = (
            [-math.inf if one is None else one for one in log_weights] if isinstance(log_weights, list) else log_weights
        )
        logs = _array(path, "log_weights", dead, plan.shapes["log_weights"], dtype)
        if not np.allclose(np.exp(np.minimum(logs, 1.0)), own, rtol=0, atol=SUM[dtype.itemsize]):
            raise ModelFormatError(
                f"{path}: weights are not those of log_weights; leave log_weights out, or correct one"
            )
    return {"log_weights": logs, **arrays}, metadata, plan


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _found(components: Any, field: str) -> Any:
    """What an object of objects holds under a name such as components.0.means; None if it is not there."""
    for name in field.split(".")[1:]:
        components = components.get(name) if isinstance(components, dict) else None
    return components


def _refuse_more(path: Path, value: Any, known: set[str], prefix: str) -> None:
    """A ModelFormatError for a key that no field has."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        field = f"{prefix}.{name}"
        if field not in known and not any(one.startswith(f"{field}.") for one in known):
            raise ModelFormatError(
                f"{path}: {field[:100]!r} is not expected; expected {sorted(known - {'log_weights'})}"
            )
        if field not in known:
            _refuse_more(path, inner, known, field)


def _array(path: Path, field: str, value: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Lists of numbers as an array; a ModelFormatError if their shape is another, or something is no number."""

    def is_whole(part: Any, left: tuple[int, ...]) -> bool:
        if not left:
            return isinstance(part, int | float) and not isinstance(part, bool)
        return isinstance(part, list) and len(part) == left[0] and all(is_whole(one, left[1:]) for one in part)

    if not is_whole(value, shape):
        raise ModelFormatError(f"{path}: {field} is not a list of numbers of shape {list(shape)}")
    try:
        with np.errstate(over="ignore"):
            return np.array(value, np.float64).reshape(shape).astype(dtype)
    except OverflowError as error:
        raise ModelFormatError(f"{path}: {field} holds a number that float64 cannot hold") from error


# -- npz -----------------------------------------------------------------------------------------------------------------


def _from_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], Plan]:
    """Entries are read by hand: what a header claims is compared with the size before memory is taken, and no object is made."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if packed:  # what a small file unpacks to has no bound
                raise ModelFormatError(f"{path} is compressed; write it by numpy.savez, not savez_compressed")
            names = [entry.filename.removesuffix(".npy") for entry in entries]
            if len(set(names)) < len(names) or METADATA_ENTRY not in names:
                raise ModelFormatError(f"{path} holds no {METADATA_ENTRY!r}; this is not a model that jaxem wrote")
            contents = {name: archive.read(entry) for name, entry in zip(names, entries, strict=True)}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, ModelFormatError):
            raise
        raise ModelFormatError(f"{path} is no whole npz file ({str(error)[:200]})") from error
    told = _entry(path, METADATA_ENTRY, contents.pop(METADATA_ENTRY), lambda kind: kind.kind == "U")
    try:
        metadata = json.loads(str(told), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path}: metadata is not JSON ({str(error)[:200]})") from error
    plan = plan_of(path, metadata)
    if set(contents) != set(plan.shapes):
        raise ModelFormatError(f"{path}: arrays are {sorted(contents)[:20]}; expected {sorted(plan.shapes)}")
    arrays = {name: _entry(path, name, contents[name], lambda kind: kind in DTYPES.values()) for name in plan.shapes}
    for name, shape in plan.shapes.items():
        if arrays[name].shape != shape:
            raise ModelFormatError(f"{path}: {name} has the shape {arrays[name].shape}; expected {shape}")
    if len({array.dtype for array in arrays.values()}) > 1:
        raise ModelFormatError(f"{path}: dtype differs between arrays")
    return arrays, metadata, plan


def _entry(path: Path, name: str, content: bytes, allowed: Callable[[np.dtype], bool]) -> np.ndarray:
    """An npy file as an array of an allowed dtype."""
    file = text_io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, dtype = header(file)
    except Exception as error:  # a header is parsed as Python: it may be wrong in any way
        raise ModelFormatError(f"{path}: {name} is no array of numpy ({str(error)[:200]})") from error
    body = content[file.tell() :]
    if not allowed(dtype) or len(body) != math.prod(shape) * dtype.itemsize:
        raise ModelFormatError(
            f"{path}: {name} is an array {shape} of {dtype} in {len(body)} bytes; that is no model's"
        )
    return np.frombuffer(body, dtype).reshape(shape, order="F" if by_columns else "C").copy()
