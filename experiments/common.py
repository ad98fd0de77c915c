"""What every experiment shares: a checked TOML config, a folder of results, a CSV, the style of its figures, timing.

    python -m experiments.NAME configs/NAME.toml [--out FOLDER]

A config that is wrong (unknown key, wrong type, missing file) gives one line that names the key, before any work is done.
"""

import argparse
import csv
import difflib
import io
import os
import statistics
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pydantic
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from jaxem.io import write_atomically
from jaxem.plots import COLOURS, LINES, MARKERS

ALONE, WIDE, HIGH = 5.4, 3.6, 3.2
"""inches of a panel, alone or beside others; two side by side, shrunk to the 380 pixels of a phone, have letters 9 pixels high"""
STYLE: Any = {
    "figure.constrained_layout.use": True,
    "figure.figsize": (ALONE, 3.8),
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "legend.handlelength": 2.6,  # so that lines show their style
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    # neighbours differ in colour and in style, so that figures can be read in grey
    "axes.prop_cycle": cycler(color=COLOURS, linestyle=2 * LINES),
}
"""of every figure"""

Positive = Annotated[int, pydantic.Field(gt=0)]
Sizes = Annotated[list[Positive], pydantic.Field(min_length=2)]


class Config(pydantic.BaseModel):
    """Base of the configs: no unknown keys, no coercion."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


SomeConfig = TypeVar("SomeConfig", bound=Config)


class ConfigError(Exception):
    """A config that cannot be used; the message is one line."""


def load_config(kind: type[SomeConfig], path: Path, given: Mapping[str, str] | None = None) -> SomeConfig:
    """Read and check a TOML file; what is `given` on the command line takes the place of what stands there."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    except RecursionError as error:  # brackets in brackets by the thousand
        raise ConfigError(f"{path} is nested too deeply; a config needs no more than two levels") from error
    try:
        return kind.model_validate({**values, **(given or {})})
    except pydantic.ValidationError as error:
        # an unknown key explains a missing one
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        close = difflib.get_close_matches(key, kind.model_fields, 1)
        hint = f"; did you mean {close[0]!r}?" if first["type"] == "extra_forbidden" and close else ""
        raise ConfigError(f"{path}: {key}: {first['msg']} (found {first['input']!r}){hint}") from error


def run(
    kind: type[SomeConfig], experiment: Callable[[SomeConfig, Path], Iterable[str]], paths: Sequence[str] = ()
) -> None:
    """The command line of an experiment: prints the lines it yields, the last one its conclusion.

    `paths` are fields of the config, names of files, that may be given on the command line as well.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=experiment.__doc__)
    parser.add_argument("config", type=Path, help="a TOML file from configs/")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for CSV and figures")
    for path in paths:
        parser.add_argument(f"--{path}", help=f"a file, in place of the config's {path}")
    arguments = parser.parse_args()
    given = {path: getattr(arguments, path) for path in paths if getattr(arguments, path) is not None}
    jax.config.update("jax_enable_x64", True)  # a script may choose; what is to be float32 says so
    try:
        config = load_config(kind, arguments.config, given)
        arguments.out.mkdir(parents=True, exist_ok=True)
        with plt.rc_context(STYLE):
            for line in experiment(config, arguments.out):
                print(line, flush=True)
    except (ConfigError, OSError, ValueError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; what was finished is in {arguments.out}", file=sys.stderr)
        sys.exit(130)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode(), overwrite=True)


def panels(n: int, *, columns: int = 2, sharey: bool = False, high: float = HIGH) -> tuple[Figure, Any]:
    """A figure of n panels, at most so many side by side, and their axes."""
    columns = min(n, columns)
    rows = -(-n // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(ALONE if columns == 1 else WIDE * columns, high * rows), sharey=sharey, squeeze=False
    )
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    return figure, list(axes.flat[:n])


def line_style(i: int) -> dict[str, Any]:
    """Colour, style and marker of line i, which neighbours do not share."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)]}


def save_figure(figure: Figure, path: Path) -> None:
    """Save and close a figure, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, bbox_inches="tight", format=path.suffix[1:])
    plt.close(figure)
    write_atomically(path, picture.getvalue(), overwrite=True)


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, in seconds, after one call that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def hardware() -> str:
    """What the numbers were measured on."""
    device = jax.devices()[0]
    return f"{os.cpu_count()} CPU cores, {device.platform} ({device.device_kind}), jax {jax.__version__}"
