"""How a text file holds a table: its delimiter, its decimal mark, its header and its comments, told from its first lines.

What is told, in this order; what the caller says takes the place of it:

* **Comments.** A line that begins with # is one. The last one above the rows may hold the names, as numpy's savetxt writes.
* **Delimiter.** Comma, tab, semicolon, vertical bar, or blanks, of which a run counts as one: the one by which most cells are
  numbers, in rows of one length.
* **Decimal mark.** A comma where cells such as 1,5 are there and none such as 1.5; never if commas part the columns.
* **Header.** The first row, if a cell of it is text where numbers follow. A first row of numbers has the names if they are
  whole numbers over numbers with decimals, or rise and lie far from all numbers below them: years, or pandas' 0, 1.
  A missing value says nothing.
* **Row names.** A header with one name less than the rows have fields, as R's write.table writes: the first column has none.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

SAMPLED = 200
"""lines at the head of a file that its layout is told from"""
BLANKS = " "
"""the delimiter that stands for a run of blanks or tabs"""
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars", BLANKS: "blanks"}
"""delimiters that are recognised, and what they are called"""
MISSING = frozenset((
    "", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NULL", "Null", "null",
    "None", "none", "-", "--", "---", ".", "?", "*", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
))  # fmt: skip
"""texts that stand for a missing value everywhere"""
_NUMBERS = {
    mark: re.compile(
        rf"[+-]?(?:(?:\d+{re.escape(mark)}?\d*|{re.escape(mark)}\d+)(?:e[+-]?\d+)?|inf|infinity)", re.I | re.A
    )
    for mark in ".,"
}
_UNREADABLE = re.compile(r"[+-]?(?:0x[0-9a-f]+|\d[\d_.,' ]*(?:[ed][+-]?\d+)?%?)", re.I | re.A)
"""numbers in notations that are not read: 1_000, 0x1F, 1.234,5"""
_DECIMALS = re.compile(r"-0,\d+|[+-]?\d+,0\d+|[+-]?\d,\d{2,}e[+-]?\d+", re.I | re.A)
"""pairs of whole numbers that are rather one number with a decimal comma"""
_WHOLE = re.compile(r"[+-]?\d+", re.A)
_TOKEN = re.compile(r'"(?:[^"]|"")*"(?=\s|$)|\S+')
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r|\Z)")
FAR = 3.0
"""ranges of a column by which a number above it lies far from it"""
FEW_WHOLE = 0.2
"""share of whole numbers that a column of decimals may have below a header of whole numbers"""


class LayoutError(ValueError):
    """Lines that are no table; the message begins with the place."""


class Asked(NamedTuple):
    """What the caller says of a text file; None where it is to be told from the file."""

    delimiter: str | None = None
    decimal: str | None = None
    header: bool | None = None


class Layout(NamedTuple):
    """How a text file holds a table.

    Attributes:
        delimiter: one character; `BLANKS` for runs of blanks.
        decimal: the decimal mark.
        names: a name for each field of a row; empty where the file gives none.
        named: whether the names are the file's; else they are x1, x2, ...
        begin: bytes before the first row.
        line: the line, from 1, that begins there.
        notes: what a person should know of it, in words.
    """

    delimiter: str
    decimal: str
    names: tuple[str, ...]
    named: bool
    begin: int
    line: int
    notes: tuple[str, ...]


class _Row(NamedTuple):
    number: int  # of its first line in the sample, from 0
    end: int  # of the line after its last
    fields: list[str]
    quoted: bool  # whether it begins with a quotation mark


def is_number(cell: str, decimal: str = ".") -> bool:
    """Whether a cell is a number as tables write them: no hexadecimal digits, no underscores, no thousands."""
    return _NUMBERS[decimal].fullmatch(cell.strip()) is not None


def generated_names(count: int) -> tuple[str, ...]:
    """x1, x2, ...: what columns without names are called."""
    return tuple(f"x{j + 1}" for j in range(count))


def tell_layout(content: bytes, asked: Asked) -> Layout:
    """The layout of a text file.

    Raises:
        LayoutError: if the lines are no table, or there are none.
    """
    ends = [0]
    for found in _LINE.finditer(content):
        ends.append(found.end())
        if len(ends) > SAMPLED or found.end() == len(content):
            break
    lines = [content[a:b].decode("utf-8", "replace").rstrip("\r\n") for a, b in pairwise(ends)]
    hint = re.fullmatch(r'"?sep=(.)"?', lines[0]) if lines else None
    if hint:  # a spreadsheet's word on the delimiter
        asked = asked._replace(delimiter=asked.delimiter or hint[1].replace(" ", BLANKS))
        lines[0] = ""
    comments = [i for i, line in enumerate(lines) if line.lstrip().startswith("#")]
    plain = ["" if i in set(comments) else line for i, line in enumerate(lines)]
    if not any(line.strip() for line in plain):
        if not comments:
            raise LayoutError(" is empty; give a file with at least one row")
        plain, comments = ["" if i != comments[-1] else line for i, line in enumerate(lines)], []
    delimiter = asked.delimiter or _tell_delimiter(plain, asked.decimal)
    rows = split(plain, delimiter)
    decimal = asked.decimal or _tell_decimal(rows, delimiter, content)
    above = [i for i in comments if i < rows[0].number]
    names, named, n_header, notes = _tell_names(rows, above, lines, delimiter, decimal, asked.header)
    begin = rows[0].end if n_header else rows[0].number
    told = [f"{_called(delimiter)} part the columns"] if delimiter not in ",\t" else []
    told += ["the decimal mark is a comma"] if decimal == "," else []
    return Layout(delimiter, decimal, names, named, ends[begin], begin + 1, (*_sentence(told + notes[:1]), *notes[1:]))


def _called(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, f"{delimiter!r}")


def _sentence(parts: list[str]) -> list[str]:
    words = "; ".join(part for part in parts if part)
    return [words] if words else []


def split(lines: Iterable[str], delimiter: str) -> list[_Row]:
    """The rows in lines of text, without the empty ones."""
    if delimiter == BLANKS:
        every = enumerate(lines)
        rows = [_Row(i, i + 1, split_blanks(line), line.lstrip().startswith('"')) for i, line in every if line.strip()]
        return rows or [_Row(0, 1, [""], False)]
    rows, begun, lines = [], 0, list(lines)
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter)
    try:
        for fields in reader:
            if fields and (len(fields) > 1 or fields[0].strip()):
                rows.append(_Row(begun, reader.line_num, fields, lines[begun].lstrip().startswith('"')))
            begun = reader.line_num
    except csv.Error:  # a field beyond csv's limit
        pass
    return rows or [_Row(0, 1, [""], False)]


def split_blanks(line: str) -> list[str]:
    """The fields of a line in which runs of blanks part the columns; quotation marks hold blanks together."""
    tokens = _TOKEN.findall(line)
    return [t[1:-1].replace('""', '"') if len(t) > 1 and t[0] == t[-1] == '"' else t for t in tokens]


def _width(rows: Sequence[_Row]) -> int:
    """How many fields a row has: as many as the header, or one more, if rows agree with it; else as many as most have."""
    widths = [len(row.fields) for row in rows]
    first, below = widths[0], widths[1:]
    if not below or first in below:
        return first
    if all(width == first + 1 for width in below):
        return first + 1
    return max(sorted(set(below)), key=below.count)


def _tell_delimiter(lines: list[str], decimal: str | None) -> str:
    """The delimiter by which most cells are numbers; a comma where nothing parts the columns."""
    best, most = ",", 0.0
    for delimiter in DELIMITERS:
        rows = split(lines, delimiter)
        width = _width(rows)
        below = rows[1:] or rows
        if delimiter == "," and (_is_one_column(rows) or (decimal == "," and not any('"' in line for line in lines))):
            best = "\t"  # any but the comma
            continue
        if width < 2:
            continue
        whole = [row.fields for row in below if len(row.fields) == width]
        marks = "." if delimiter == "," else ".,"
        numbers = sum(
            cell.strip() in MISSING or any(is_number(cell, mark) for mark in marks) for row in whole for cell in row
        )
        share = (numbers + 0.5) / (width * len(below) + 0.5)  # some even if there is no number
        share += 0.01 * (len(rows[0].fields) == width)
        if whole and share > most + 1e-9:
            best, most = delimiter, share
    return best


def _is_one_column(rows: Sequence[_Row]) -> bool:
    """Whether rows that a comma parts in two are rather single numbers with a decimal comma.

    Their header has no comma; or there is none, and some have no comma either, or such as -0,5 or 2,05 or 1,25e-3 are there.
    """
    if len(rows) < 2 or rows[1].quoted:
        return False
    fields = [[field.strip() for field in row.fields] for row in rows]
    if len(fields[0]) == 1 and not is_number(fields[0][0]):
        fields = fields[1:]
    elif {len(row) for row in fields} != {1, 2} and not any(_DECIMALS.fullmatch(",".join(row)) for row in fields):
        return False
    return all(len(row) <= 2 and is_number(",".join(row), ",") for row in fields)


def _tell_decimal(rows: Sequence[_Row], delimiter: str, content: bytes) -> str:
    """The decimal mark of rows that no comma parts."""
    if delimiter == ",":
        return "."
    cells = [cell for row in rows for cell in row.fields]
    commas = sum("," in cell and is_number(cell, ",") for cell in cells)
    points = sum("." in cell and is_number(cell, ".") for cell in cells)
    if commas != points:
        return "," if commas > points else "."
    return "," if not points and re.search(rb"\d,\d", content) else "."  # the first lines may be whole numbers


def _tell_names(
    rows: list[_Row], above: list[int], lines: list[str], delimiter: str, decimal: str, header: bool | None
) -> tuple[tuple[str, ...], bool, int, list[str]]:
    """The names of the fields, whether they are the file's, how many rows they take, and notes: the first on the header."""
    first, below, width = rows[0], rows[1:], _width(rows)
    short = bool(below) and len(first.fields) == width - 1
    has_header = _is_header(rows, width, decimal) if header is None else header
    line, notes = first.number + 1, [""]
    if has_header:
        names = [field.strip() for field in first.fields]
        if any(is_number(name, decimal) for name in names):
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            notes[0] = f"line {line} ({shown}) is taken for names of columns (--no-header takes it for numbers)"
        if short:
            ends_empty = all(row.fields[-1].strip() == "" for row in below if len(row.fields) == width)
            names = [*names, ""] if ends_empty else ["", *names]
        elif len(names) != width:
            raise LayoutError(
                f": line {line} has {_count(len(names), 'field')}: {delimiter.join(names)[:40]!r}, "
                f"and the rows below it have {width}; give every column one name"
            )
        return tuple(names), True, 1, notes
    names = list(generated_names(width))
    for i in reversed(above if header is None else []):
        told = _names_in_comment(lines[i], delimiter, width, rows, decimal)
        if told:
            notes[0] = f"the names are in line {i + 1}, a comment"
            return tuple(told), True, 0, notes
        break
    if width > 1 and all(len(row.fields) == width and not row.fields[-1].strip() for row in rows):
        names[-1] = ""  # every line ends in a delimiter
    if delimiter == "," and width == 2 and len(rows) > 4 and _may_be_decimals(rows):
        notes[0] = "commas part two columns of whole numbers (--decimal=, takes them for decimal marks of one)"
    elif header is None and _may_be_names(first, below):
        shown = ", ".join(first.fields[:3]) + (", ..." if width > 3 else "")
        notes[0] = f"line {line} ({shown}) is taken for numbers (--header takes it for names of columns)"
    return tuple(names), False, 0, notes


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _names_in_comment(line: str, delimiter: str, width: int, rows: list[_Row], decimal: str) -> list[str] | None:
    """The names in a comment above the rows, if it has one for each column."""
    words = line.strip().lstrip("#")
    for mark in dict.fromkeys((delimiter, BLANKS, ",")):
        row = split([words], mark)[0]
        fields = [field.strip() for field in row.fields]
        if len(fields) == width and any(fields):
            if not any(is_number(field, decimal) for field in fields):
                return fields
            rising = all(is_number(a, decimal) and is_number(b, decimal) for a, b in pairwise(fields)) and all(
                float(a.replace(decimal, ".")) < float(b.replace(decimal, ".")) for a, b in pairwise(fields)
            )  # else it may say how many rows and columns there are
            return fields if rising and _is_header([_Row(0, 1, fields, False), *rows], width, decimal) else None
    return None


def _is_header(rows: list[_Row], width: int, decimal: str) -> bool:
    """Whether the first row has the names of the columns."""
    first, below = rows[0], [row.fields for row in rows[1:] if len(row.fields) == width]
    cells = [cell.strip() for cell in first.fields]
    if len(cells) == width - 1 and below:
        cells = ["", *cells]
    columns = [[row[j].strip() for row in below] for j in range(min(width, len(cells)))]
    numbers = [j for j, cell in enumerate(cells) if is_number(cell, decimal) or _UNREADABLE.fullmatch(cell)]
    text = [j for j, cell in enumerate(cells) if cell not in MISSING and j not in numbers]
    numeric = [sum(is_number(cell, decimal) for cell in column) for column in columns]
    if text and (not numbers or not below):
        return True
    if len(cells) != width:
        return False
    if any(j < len(columns) and 2 * numeric[j] >= len(columns[j]) and numeric[j] for j in text):
        return True
    if not numbers or not below:
        return False
    if len(numbers) + len(text) < len(cells) and not (
        [j for j in range(len(cells)) if j not in numbers and j not in text] == [0] and _is_label(columns[0])
    ):
        return False  # a missing value among numbers: a row of data
    if first.quoted and not rows[1].quoted:
        return True
    return _are_names([cells[j] for j in numbers], [columns[j] for j in numbers], decimal)


def _is_label(column: list[str]) -> bool:
    """Whether cells are all different and no measurements: whole numbers in steps of one, or text."""
    if len(set(column)) < len(column):
        return False
    if all(_WHOLE.fullmatch(cell) for cell in column):
        return [int(cell) - int(column[0]) for cell in column] == list(range(len(column)))
    return not any(is_number(cell) for cell in column)


def _are_names(cells: list[str], columns: list[list[str]], decimal: str) -> bool:
    """Whether numbers above columns of numbers are names, such as years, rather than a row."""
    below = [[cell for cell in column if is_number(cell, decimal)] for column in columns]
    if len(set(cells)) < len(cells) or not all(below) or not all(is_number(cell, decimal) for cell in cells):
        return False
    values = [float(cell.replace(decimal, ".")) for cell in cells]
    steps = [b - a for a, b in pairwise(values)]
    if all(re.fullmatch(r"\d+", cell, re.A) for cell in cells):
        most = max(sum(_WHOLE.fullmatch(cell) is not None for cell in column) / len(column) for column in below)
        even = len(steps) > 1 and min(steps) == max(steps)
        enough = len(cells) > 1 or len(below[0]) >= 10
        if (most == 0 and enough) or (even and most <= FEW_WHOLE):
            return True
    rising = len(steps) > 0 and min(steps) > 0
    return rising and all(_is_far(v, column, decimal) for v, column in zip(values, below, strict=True))


def _is_far(value: float, column: list[str], decimal: str) -> bool:
    numbers = [float(cell.replace(decimal, ".")) for cell in column]
    low, high = min(numbers), max(numbers)
    reach = FAR * ((high - low) or max(abs(low), abs(high)))
    return len(numbers) > 2 and not low - reach <= value <= high + reach


def _may_be_names(first: _Row, below: list[_Row]) -> bool:
    """Whether a row of whole numbers could be names as well: 0, 1, ..., or 1, 2, 3, ..., or years."""
    if len(first.fields) < 2 or not below or not all(re.fullmatch(r"\d{1,9}", f.strip(), re.A) for f in first.fields):
        return False
    numbers = [int(field) for field in first.fields]
    counts = numbers == list(range(len(numbers))) or (len(numbers) > 2 and numbers == list(range(1, len(numbers) + 1)))
    return counts or (min(numbers) >= 1900 and max(numbers) <= 2100 and numbers == sorted(set(numbers)))


def _may_be_decimals(rows: list[_Row]) -> bool:
    """Whether pairs of whole numbers could be single numbers with as many decimals each."""
    if not all(len(row.fields) == 2 and is_number(",".join(row.fields), ",") for row in rows):
        return False
    signed = any(row.fields[0].lstrip().startswith("-") for row in rows)
    return signed or len({len(row.fields[1]) for row in rows}) == 1
