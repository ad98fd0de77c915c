"""The bundled data, and tables of numbers from files: CSV, TSV, Parquet and npy.

Whatever is wrong with a file is said in one `DataError` that names the place: file, line or row, column, and the value.
"""

import csv
import importlib.resources
from pathlib import Path
from typing import NamedTuple

import numpy as np


class DataError(ValueError):
    """A file that cannot be read as a table of numbers; the message is one line."""


class Table(NamedTuple):
    """Numbers with names.

    Attributes:
        values: `[n, d]`, float64.
        columns: the names of the d columns.
    """

    values: np.ndarray
    columns: tuple[str, ...]


def faithful() -> np.ndarray:
    """Old Faithful: 272 eruptions, `[272, 2]` of duration and waiting time in minutes (Azzalini and Bowman 1990)."""
    return faithful_table().values


def faithful_table() -> Table:
    """`faithful` with its column names."""
    with importlib.resources.as_file(importlib.resources.files("jaxem") / "data" / "faithful.csv") as path:
        return read_table(path)
