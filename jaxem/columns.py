"""Which columns of a table are measurements, if the caller names none: neither text nor dates nor numbers of rows.

* **Text** is a column of which no cell is a number, such as species. One number in it, and it is no text but a column with
  errors, or with codes for missing values. Numbers in another notation, such as $412.00 or 5%, are errors, too: they are
  measurements, and must not vanish.
* **Dates and times** are text of which every cell is one.
* **Row numbers** are whole numbers that rise by one: from 1 in at least `LONG` rows whatever the column is called, or from
  anywhere under a name such as `index`, `no` or `row`. Whole numbers that are all different under a name such as `id` or
  `user_id` are the same.

Whoever leaves a column out says so: `left_out` has the words.
"""

import re
from collections.abc import Sequence

import numpy as np

LONG = 10
"""rows from which on 1, 2, 3, ... are row numbers whatever the column is called"""
FEWEST = 3
"""rows below which nothing is taken for a row number"""
MOST_NAMED = 10
"""names of columns that a note gives"""
NUMBERS_OF_ROWS = re.compile(
    r"(?:.*[\W_])?(?:id|idx|index|ix|nr|no|num|number|row|rows|rowname|rownames|obs)|unnamed: \d+|.*[a-z](?-i:I[dD])",
    re.I,
)
"""names of columns that count rows"""
IDENTIFIER = re.compile(r"(?:.*[\W_])?(?:id|uuid|guid)|id_.*|.*[a-z](?-i:I[dD])", re.I)
"""names of columns that tell rows apart"""
_DATE = re.compile(
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})|\d{1,2}[- ][a-z]{3,9}[- ]\d{2,4})"
    r"(?:[T ,]+\d{1,2}:\d{2}.*)?|\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?: ?[ap]m)?",
    re.I | re.A,
)
_NOTATION = re.compile(
    r"(?:[A-Z]{3} ?|[^\w\s])?\s?[+-]?(?:0x[0-9a-f]+|\d[\d_.,'\s]*(?:[ed][+-]?\d+)?)\s?"
    r"(?:(?!st\b|nd\b|rd\b|th\b)[a-zµ°]{1,3}|%|[^\w\s])?",
    re.I | re.A,
)
"""a number with a currency, a unit, a percent sign or marks between thousands; a range such as 1-5 is none"""


def kind_of_text(cells: Sequence[str]) -> str | None:
    """What cells are of which none is a number: "text", "date", or None for numbers in another notation."""
    if not cells:
        return "text"
    if all(_DATE.fullmatch(cell.strip()) for cell in cells):
        return "date"
    return None if 2 * sum(_NOTATION.fullmatch(cell.strip()) is not None for cell in cells) >= len(cells) else "text"


def is_row_number(name: str, values: np.ndarray) -> bool:
    """Whether a column `[n]`, in which NaN is a missing value, tells rows apart and measures nothing."""
    known = values[~np.isnan(values)]
    if len(known) < FEWEST or not np.isfinite(known).all() or (known != np.round(known)).any():
        return False
    if len(known) == len(values) and (np.diff(values) == 1).all():
        return bool(NUMBERS_OF_ROWS.fullmatch(name) or (len(values) >= LONG and values[0] == 1))
    return IDENTIFIER.fullmatch(name) is not None and len(np.unique(known)) == len(known)


def left_out(what: str, names: Sequence[str], remedy: str = "give --columns to choose") -> str:
    """A note on columns that are left out."""
    shown = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
    return f"{what} {'column' if len(names) == 1 else 'columns'} left out: {shown}; {remedy}"
