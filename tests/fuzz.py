"""Hostile input by the thousand: `python -m tests.fuzz [--inputs 10000] [--seed 0]`.

Data, tables, model files and configs, each wrong in its own way. What may come of one: a fitted model without a NaN, or an
error of the kinds that the edge raises, in one message, within seconds. Anything else is a fault, and is printed with the
seed that gives it again.
"""

import argparse
import faulthandler
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxem
import jaxem.io
from experiments.common import ConfigError, load_config
from experiments.restarts import RestartsConfig
from jaxem import datasets
from jaxem.program import forget_programs
from jaxem.sklearn import FORMS, GaussianMixture

SLOW = 60.0
"""seconds after which an input is said to hang (compiling is in it)"""
ROWS, FEATURES, COMPONENTS = 30, 2, 3
"""the most of each: few shapes, few programs"""


class FaultError(AssertionError):
    """What must never happen."""


def numbers(rng: np.random.Generator) -> np.ndarray:
    """A matrix of numbers, of any size, scale, offset and degeneracy."""
    n, d = rng.integers(1, ROWS + 1), rng.integers(1, FEATURES + 1)
    x = rng.normal(size=(n, d))
    match rng.integers(8):
        case 0:
            x = np.round(x)
        case 1:
            x = x[rng.integers(0, max(1, n // 4), n)]  # duplicates
        case 2:
            x[:, rng.integers(d)] = 1.0  # a constant column
        case 3:
            x[rng.integers(n)] *= 10.0 ** rng.integers(1, 12)  # an outlier
        case 4:
            x = np.outer(x[:, 0], np.ones(d))  # of rank one
        case 5:
            x = np.zeros((n, d))
    if rng.random() < 0.4:
        x = x * 10.0 ** rng.integers(-320, 308)
    elif rng.random() < 0.4:
        x = x * 10.0 ** rng.integers(-6, 7) + 10.0 ** rng.integers(-3, 9)
    return x


def hostile(rng: np.random.Generator) -> Any:
    """Numbers that were mistreated on the way."""
    x: Any = numbers(rng)
    with np.errstate(all="ignore"):
        match rng.integers(16):
            case 0:
                x.flat[rng.integers(x.size)] = rng.choice([np.nan, np.inf, -np.inf])
            case 1:
                x = x.astype(rng.choice([np.float32, np.float16, np.int64, np.int8, np.uint8, bool]))
            case 2:
                x = x.astype(rng.choice([">f8", ">f4", ">i4"]))
            case 3:
                x = x.astype(object)
                x.flat[rng.integers(x.size)] = rng.choice(np.array(["a", None, "1.5", b"x", 10**400, 1j], object))
            case 4:
                x = x.astype(complex)
            case 5:
                x = [x[:, 0], x[None], x[:0], x[:, :0], np.float64(3.0)][rng.integers(5)]
            case 6:
                x = np.ma.masked_array(x, mask=rng.random(x.shape) < rng.choice([0.0, 0.1, 1.0]))
            case 7:
                x = x.tolist()
                if rng.random() < 0.5:
                    x[rng.integers(len(x))] = rng.choice(np.array([[], [1.0, 2.0, 3.0], "row", None], object))
            case 8:
                x = np.asfortranarray(x)[::-1]
            case 9:
                x = x.astype(np.float32)
    return x


def one_estimator(rng: np.random.Generator, folder: Path) -> bool:
    """Fit and ask; whether it was fitted."""
    del folder
    x = hostile(rng)
    options: dict[str, Any] = {
        "n_components": int(rng.integers(1, COMPONENTS + 1)),
        "covariance_type": str(rng.choice([*FORMS])),
        "reg_covar": float(rng.choice([0.0, 1e-6, 1e-2])),
        "max_iter": int(rng.choice([0, 1, 30])),
        "n_init": int(rng.choice([1, 2])),
        "tol": float(rng.choice([0.0, 1e-3])),
        "init_params": str(rng.choice(["kmeans", "random", "k-means++", "random_from_data"])),
        "random_state": int(rng.integers(100)),
    }
    weight = None
    if rng.random() < 0.3 and (isinstance(x, list) or x.ndim):
        weight = rng.choice([0.0, 1.0, 1e-300, 1e300, -1.0, np.nan], len(x), p=[0.3, 0.6, 0.04, 0.02, 0.02, 0.02])
    model = GaussianMixture(**options)
    try:
        model.fit(x, sample_weight=weight)
    except (ValueError, TypeError) as error:
        said(error)
        if hasattr(model, "means_"):
            raise FaultError("a failed fit left parameters") from error
        return False
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        values = getattr(model, name)
        if np.isnan(values).any() or (not name.startswith("prec") and not np.isfinite(values).all()):
            raise FaultError(f"{name} holds {values}")
    if abs(model.weights_.sum() - 1) > 1e-5 or (model.weights_ < 0).any():
        raise FaultError(f"weights_ is {model.weights_}")
    if np.isnan(model.score_samples(x)).any():
        raise FaultError("a score is NaN")
    try:
        proba = model.predict_proba(x)
    except ValueError as error:
        said(error)
        if "too large" not in str(error):
            raise FaultError("no probabilities for the rows it was fitted on") from error
    else:
        if not np.allclose(proba.sum(axis=1), 1, atol=1e-5):
            raise FaultError("probabilities do not sum to one")
    return True


def one_search(rng: np.random.Generator, folder: Path) -> bool:
    """The core's own edge: `search` on the same data."""
    del folder
    x = hostile(rng)
    family = [*FORMS.values()][rng.integers(len(FORMS))]
    k = int(rng.integers(1, COMPONENTS + 1))
    try:
        found = jaxem.search(jax.random.key(int(rng.integers(100))), family, x, k, budget=int(rng.choice([1, 30])))
    except (ValueError, TypeError) as error:
        said(error)
        return False
    for leaf in jax.tree.leaves(found.best.mixture.components):
        if np.isnan(np.asarray(leaf)).any():
            raise FaultError(f"the best mixture holds {leaf}")
    return True


def one_table(rng: np.random.Generator, folder: Path) -> bool:
    """A text file with something wrong in it."""
    pieces = [
        "1",
        "2.5",
        "-3e4",
        "a",
        "",
        "NA",
        "nan",
        "inf",
        '"4"',
        '"',
        "1,5",
        "\0",
        "é",
        "1e999",
        " ",
        "#",
        "'",
        "0x1",
        "--",
    ]
    delimiter = str(rng.choice([",", ";", "\t", " ", "|"]))
    rows = [delimiter.join(rng.choice(pieces[:3], 3)) for _ in range(rng.integers(0, 6))]
    for _ in range(rng.integers(0, 4)):
        rows.insert(rng.integers(len(rows) + 1), delimiter.join(rng.choice(pieces, rng.integers(0, 5))))
    text = str(rng.choice(["\n", "\r\n", "\r"])).join(["a,b,c".replace(",", delimiter), *rows])
    content = text.encode(str(rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), "replace")
    if rng.random() < 0.2:
        content = rng.bytes(rng.integers(0, 200))
    path = folder / f"x{rng.choice(['.csv', '.tsv', '.txt', '.npy', '.parquet'])}"
    path.write_bytes(content)
    try:
        table = datasets.read_table(path)
    except datasets.DataError as error:
        said(error)
        if "\n" in str(error):
            raise FaultError("more than one line") from error
        return False
    if not np.isfinite(table.values).all():
        raise FaultError("a table that is not finite")
    return True


def one_model(rng: np.random.Generator, folder: Path) -> bool:
    """A saved model with bytes changed, cut, doubled or put in."""
    path, known = folder / "model", folder / "known"
    if not known.exists():
        jaxem.io.save(
            GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [1.0]], [1.0, 2.0], "spherical").mixture_, known
        )
    content = bytearray(known.read_bytes())
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(content) + 1))
        match rng.integers(4):
            case 0:
                content[at : at + 1] = rng.bytes(1)
            case 1:
                content = content[:at]
            case 2:
                content[at:at] = rng.bytes(rng.integers(1, 40))
            case 3:
                content[at:at] = content[: rng.integers(len(content) + 1)]
    same = bytes(content) == known.read_bytes()
    path.write_bytes(bytes(content))
    try:
        jaxem.io.load(path)
    except jaxem.io.ModelFormatError as error:
        said(error)
        return False
    if not same:
        raise FaultError("a changed file was read as a model")
    return True


def one_config(rng: np.random.Generator, folder: Path) -> bool:
    """A TOML file with something wrong in it."""
    keys = [*RestartsConfig.model_fields, "restart", "seed_", "", "a.b", "[x]", '"']
    values = [
        "1",
        "-1",
        "0",
        "1.5",
        '"text"',
        "true",
        "[1]",
        "{}",
        "nan",
        "99999999999999999999",
        "",
        "'",
        "1979-05-27",
    ]
    lines = [f"{rng.choice(keys)} = {rng.choice(values)}" for _ in range(rng.integers(0, 6))]
    path = folder / "x.toml"
    path.write_bytes("\n".join(lines).encode() if rng.random() < 0.9 else rng.bytes(50))
    try:
        load_config(RestartsConfig, path)
    except ConfigError as error:
        said(error)
        return False
    return True


KINDS: dict[str, tuple[Callable[[np.random.Generator, Path], bool], float]] = {
    "estimator": (one_estimator, 0.4),
    "search": (one_search, 0.1),
    "table": (one_table, 0.2),
    "model file": (one_model, 0.2),
    "config": (one_config, 0.1),
}
"""kinds of input, and their shares"""


def said(error: Exception) -> None:
    """An error must say something, and no traceback of ours."""
    if not str(error).strip() or "Traceback" in str(error):
        raise FaultError(f"{type(error).__name__} says {str(error)!r}") from error


def fuzz(inputs: int, seed: int) -> dict[str, tuple[int, int]]:
    """Try so many inputs; by kind how many were tried, and how many of them were good."""
    counts = dict.fromkeys(KINDS, (0, 0))
    faults: list[str] = []
    names, shares = [*KINDS], [share for _, share in KINDS.values()]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for i in range(inputs):
            rng = np.random.default_rng([seed, i])
            name = str(rng.choice(names, p=shares))
            begun = time.perf_counter()
            faulthandler.dump_traceback_later(10 * SLOW, exit=True)
            try:
                good = KINDS[name][0](rng, Path(folder))
            except Exception as error:
                good = False
                faults.append(f"{name}, seed [{seed}, {i}]: {type(error).__name__}: {str(error)[:300]}")
            finally:
                faulthandler.cancel_dump_traceback_later()
            if time.perf_counter() - begun > SLOW:
                faults.append(f"{name}, seed [{seed}, {i}]: took {time.perf_counter() - begun:.0f} s")
            if i % 500 == 499:
                forget_programs()  # or thousands of programs use up the memory maps that a process may have
            counts[name] = (counts[name][0] + 1, counts[name][1] + good)
    if faults:
        raise FaultError(f"{len(faults)} faults in {inputs} inputs:\n" + "\n".join(faults[:20]))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    for name, (tried, good) in fuzz(arguments.inputs, arguments.seed).items():
        print(f"{name:<12}{tried:6d} tried, {good:6d} accepted, the others refused in words")
    print(f"no fault in {arguments.inputs} inputs ({time.perf_counter() - begun:.0f} s)")


if __name__ == "__main__":
    main()
