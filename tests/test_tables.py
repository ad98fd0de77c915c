"""Tables as people have them: what is told from a text file, what is said of it, and what is refused."""

import gzip
import io
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from jaxem import datasets
from jaxem.datasets import DataError, open_table, read_table

X = np.column_stack(
    [np.random.default_rng(11).normal(2, 0.4, 40).round(3), np.random.default_rng(12).normal(30, 3, 40).round(3)]
)
WHOLE = np.random.default_rng(13).integers(5, 90, (40, 2)).astype(float)


def lines(x=X, delimiter=",", form="%.3f", comma=False):
    """Rows as text."""
    buffer = io.StringIO()
    np.savetxt(buffer, x, fmt=form, delimiter="\0")
    text = buffer.getvalue()
    return (text.replace(".", ",") if comma else text).replace("\0", delimiter)


def numbered(x=X, first=1, quoted=False):
    mark = '"' if quoted else ""
    return [f"{mark}{i + first}{mark}" for i in range(len(x))]


def labelled(labels, delimiter):
    return "".join(
        f"{label}{delimiter}{line}\n" for label, line in zip(labels, lines(X, delimiter).splitlines(), strict=True)
    )


NAMED = ("len", "wait")
READ = {
    # name of the file, its text, names of the columns, words in the notes (none: nothing is said)
    "plain": ("x.csv", "len,wait\n" + lines(), NAMED, ()),
    "no header": ("x.csv", lines(), ("x1", "x2"), ()),
    "years": ("x.csv", "2019,2020\n" + lines(), ("2019", "2020"), ("line 1 .2019, 2020. is taken for names",)),
    "pandas' 0, 1": ("x.csv", "0,1\n" + lines(), ("0", "1"), ("line 1 .0, 1. is taken for names.*--no-header",)),
    "pandas' index and 0, 1": ("x.csv", ",0,1\n" + labelled(numbered(first=0), ","), ("0", "1"), ("names", "no name")),
    "quoted numbers as names": ("x.csv", '"7","3"\n' + lines(), ("7", "3"), ("taken for names",)),
    "row numbers without a name": ("x.csv", ",len,wait\n" + labelled(numbered(), ","), NAMED, ("column 1 has no name",)),
    "R's write.csv": ("x.csv", '"","len","wait"\n' + labelled(numbered(quoted=True), ","), NAMED, ("no name",)),
    "R's write.table": ("x.txt", '"len" "wait"\n' + labelled(numbered(quoted=True), " "), NAMED, ("blanks", "no name")),
    "row names with blanks": (
        "x.txt", '"len" "wait"\n' + labelled([f'"Mazda RX{i}"' for i in range(40)], " "), NAMED, ("blanks", "no name"),
    ),
    "row names and commas": (
        "x.csv", '"len","wait"\n' + labelled([f'"Mazda, {i}"' for i in range(40)], ","), NAMED, ("no name",),
    ),
    "write.table without quotes": ("x.dat", "len wait\n" + labelled(numbered(), " "), NAMED, ("blanks", "no name")),
    "aligned": ("x.txt", "     len       wait\n" + lines(X, "   ", "%10.3f"), NAMED, ("blanks part the columns",)),
    "aligned, no header": ("x.dat", lines(X, "  ", "%9.3f"), ("x1", "x2"), ("blanks part the columns",)),
    "blanks and tabs": ("x.txt", "len\t wait\n" + lines(X, " \t "), NAMED, ()),
    "savetxt": ("x.txt", "# len wait\n" + lines(X, " "), NAMED, ("blanks.*the names are in line 1, a comment",)),
    "savetxt of a program": ("x.txt", "# made today by us\n# 40 2\n" + lines(X, " "), ("x1", "x2"), ("blanks",)),
    "comments": ("x.csv", "# made today\nlen,wait\n#1,2\n" + lines() + "# the end\n", NAMED, ("2 lines.*#.*left out",)),
    "header with #": ("x.tsv", "#len\twait\n" + lines(X, "\t"), NAMED, ("a comment",)),
    "semicolons": ("x.csv", "len;wait\n" + lines(X, ";"), NAMED, ("semicolons part the columns",)),
    "decimal commas": ("x.csv", "len;wait\n" + lines(X, ";", comma=True), NAMED, ("semicolons.*decimal mark is a comma",)),
    "decimal commas, no header": ("x.csv", lines(X, ";", comma=True), ("x1", "x2"), ("semicolons.*comma",)),
    "decimal commas and tabs": ("x.tsv", "len\twait\n" + lines(X, "\t", comma=True), NAMED, ("mark is a comma",)),
    "decimal commas and blanks": ("x.txt", lines(X, "  ", comma=True), ("x1", "x2"), ("blanks.*comma",)),
    "a spreadsheet's sep=": ("x.csv", "sep=;\nlen;wait\n" + lines(X, ";", comma=True), NAMED, ("semicolons.*comma",)),
    "bars": ("x.txt", "len|wait\n" + lines(X, "|"), NAMED, ("vertical bars",)),
    "a delimiter at the end": ("x.csv", "len,wait,\n" + lines().replace("\n", ",\n"), NAMED, ("column 3 has no name",)),
    "the same, no header": ("x.csv", lines().replace("\n", ",\n"), ("x1", "x2"), ()),
    "a delimiter at the end of rows": ("x.csv", "len,wait\n" + lines().replace("\n", ",\n"), NAMED, ("no name",)),
    "blanks around": ("x.csv", "len, wait\n" + lines(X, " , "), NAMED, ()),
    "plus signs": ("x.csv", "len,wait\n" + lines(X, ",", "%+.3f"), NAMED, ()),
    "old Macs": ("x.csv", ("len,wait\n" + lines()).replace("\n", "\r"), NAMED, ()),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("name", "text", "columns", "notes"), READ.values(), ids=READ)
def test_a_table_is_read_and_what_was_understood_is_said(name, text, columns, notes, packed, tmp_path):
    content = text.encode()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    table = read_table(path)
    np.testing.assert_array_equal(table.values, X)
    assert table.columns == columns
    assert len(table.notes) == len(notes), table.notes
    for note, words in zip(table.notes, notes, strict=True):
        assert re.search(words, note), note
    assert table.kept is None


def write(tmp_path, text, name="x.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_whole_numbers_below_numbers(tmp_path):
    """Years far from all counts are names; 0, 1 above whole numbers may be both, which is said; 3, 4 are a row."""
    for header, is_header, said in (
        ("2019,2020", True, "taken for names"),
        ("0,1", False, "taken for numbers"),
        ("7,9", False, ""),
        ("9,7", False, ""),
    ):
        table = read_table(write(tmp_path, f"{header}\n{lines(WHOLE, form='%d')}"))
        assert len(table.values) == 40 + (not is_header), header
        assert said in " ".join(table.notes)
        assert bool(said) == bool(table.notes)
    table = read_table(tmp_path / "x.csv", header=True)
    assert (table.columns, len(table.values)) == (("9", "7"), 40)


@pytest.mark.parametrize("first", ["NA,2", ",2", "2,--", "NA,2.5", "nan,7"])
@pytest.mark.parametrize("x", [X, WHOLE], ids=["decimals", "whole"])
def test_a_missing_value_makes_no_header(first, x, tmp_path):
    path = write(tmp_path, f"{first}\n{lines(x)}")
    with pytest.raises(DataError, match=r"line 1, column 'x\d' holds .*a missing value.*--drop-missing"):
        read_table(path)
    table = read_table(path, drop_missing=True)
    np.testing.assert_array_equal(table.values, x)
    assert table.columns == ("x1", "x2")
    assert "1 of 41 rows has a missing value and is left out" in table.notes


@pytest.mark.parametrize("cell", ["1_000", "0x1F", "1.234,5", "1'000", "5%", "1e5x", "12:30", "1 000", "٣", "1d5"])
def test_other_notations_are_no_numbers(cell, tmp_path):
    """Above, among and below numbers: never another number, never a header of its own."""
    for text, line in ((f'a,b\n1.5,2\n3,4.5\n"{cell}",1\n', 4), (f'a,b\n"{cell}",1\n1.5,2\n3,4.5\n', 2)):
        with pytest.raises(DataError, match=rf"column 'a' is not numeric but string \(line {line} holds") as error:
            read_table(write(tmp_path, text))
        assert cell in str(error.value)
    if cell in ("1_000", "0x1F", "1'000", "5%", "1d5"):
        with pytest.raises(DataError, match=r"column 'x1' is not numeric but string \(line 1 holds"):
            read_table(write(tmp_path, f"{cell},1\n1.5,2\n3,4.5\n"))


def test_whole_numbers_that_float64_does_not_hold(tmp_path):
    """They are rounded, and it is said which; 2^53 and 2^60 are held."""
    for number, rounded in (
        (2**53 + 1, 2**53),
        (2**53, None),
        (2**60, None),
        (2**60 + 1, 2**60),
        (-(2**53) - 1, -(2**53)),
    ):
        numbers = [number, number - 2**10, number - 2**11]
        write(tmp_path, "id,b\n" + "".join(f"{value},{i}.5\n" for i, value in enumerate(numbers)))
        pyarrow.parquet.write_table(pyarrow.table({"id": numbers, "b": [0.5, 1.5, 2.5]}), tmp_path / "x.parquet")
        np.save(tmp_path / "x.npy", np.array([numbers, numbers]).T)
        for name, place in (("x.csv", "line 2"), ("x.parquet", "row 1"), ("x.npy", "row 1")):
            assert [
                note for note in read_table(tmp_path / name).notes if "does not hold" in note
            ] == [] or "npy" in name
            table = read_table(tmp_path / name, ["x1"] if "npy" in name else ["id"])
            assert table.values[0, 0] == float(number)
            told = [note for note in table.notes if "does not hold" in note]
            assert bool(told) == (rounded is not None), table.notes
            assert not told or (f"{number} ({place})" in told[0] and f"rounds to {rounded}" in told[0])


@pytest.mark.parametrize("code", [-999.0, -99.9, 1e36, 9.969209968386869e36, 1e20, -32768.0, 99999.0, -9.99])
@pytest.mark.parametrize("times", [1, 25])
def test_codes_for_missing_values(code, times, tmp_path):
    """They are noted, with the option that leaves them out; and are left out when asked."""
    x = X.copy()
    x[:times, 1] = code
    for form in ("%.17g", "%.6g"):
        path = write(tmp_path, "len,wait\n" + lines(x, form=form))
        (note,) = read_table(path).notes
        option = note.split("--na=")[1].split()[0]
        assert f"column 'wait' holds {code:.7g}" in note or form == "%.6g"
        for na in (option, float(option), [option], ["none", f"{code:.7g}" if form == "%.6g" else code]):
            table = read_table(path, na=na, drop_missing=True)
            np.testing.assert_array_equal(table.values, X[times:].astype(float))
            np.testing.assert_array_equal(table.kept, np.arange(40) >= times)
            assert len(table.notes) == 1
            assert f"{times} of 40 rows" in table.notes[0]
        with pytest.raises(DataError, match=r"line 2, column 'wait' holds .*missing value"):
            read_table(path, na=option)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    assert "far from the rest" in read_table(tmp_path / "x.npy").notes[0]
    assert len(read_table(tmp_path / "x.npy", na=code, drop_missing=True).values) == 40 - times


def test_sound_numbers_are_not_noted(tmp_path):
    rng = np.random.default_rng(0)
    for column in (
        rng.normal(size=200), np.exp(rng.normal(0, 2, 200)), rng.integers(0, 2, 200), np.zeros(200), np.full(200, 1e30),
        rng.normal(1e9, 1, 200), rng.standard_cauchy(200), np.r_[np.zeros(199), 1.0], rng.uniform(-999, 0, 200),
        np.r_[99.0, rng.integers(60, 99, 199)], 10.0 ** rng.uniform(-6, 6, 200),
    ):  # fmt: skip
        np.save(tmp_path / "x.npy", np.column_stack([column, rng.normal(size=200)]).astype(float))
        assert read_table(tmp_path / "x.npy").notes == ()


@pytest.mark.parametrize("name", ["id", "ID", "index", "row", "Unnamed: 0", "patient_id", "PatientID", "obs", "nr"])
def test_a_column_that_counts_the_rows_is_left_out_and_said(name, tmp_path):
    """Not if it is asked for; then it is said that it counts."""
    for first in (0, 1, 1001):
        path = write(tmp_path, f"{name},len,wait\n" + labelled(numbered(first=first), ","))
        table = read_table(path)
        assert table.columns == NAMED
        np.testing.assert_array_equal(table.values, X)
        said = f"identifier column left out: {name}; it tells the rows apart; name the columns to use with --columns to keep it"
        assert table.notes == (said,)
        assert read_table(path, ["len", "wait"]).notes == read_table(path, drop=name).notes == ()
        table = read_table(path, ["len", name])
        assert table.values[:, 1].tolist() == list(range(first, first + 40))
        assert table.notes == (
            f"column {name!r} tells the rows apart; leave it out with --drop if it is no measurement",
        )


def test_what_is_a_row_number_and_what_is_not(tmp_path):
    """1, 2, 3, ... under any name in many rows; other whole numbers that are all different if they are called an id."""
    shuffled = np.random.default_rng(5).permutation(40) * 7 + 300
    for name, numbers, is_one in (
        ("fluid", range(1, 41), True), ("fluid", range(40), False), ("fluid", shuffled, False),
        ("year", range(1980, 2020), False),
        ("customer_id", shuffled, True), ("customerId", shuffled, True), ("paid", shuffled, False),
        ("id", shuffled // 14, False), ("id", shuffled + 0.5, False), ("number", shuffled, False),
    ):  # fmt: skip
        path = write(tmp_path, f"{name},len,wait\n" + labelled([*map(str, numbers)], ","))
        assert read_table(path).columns == (NAMED if is_one else (name, *NAMED)), (name, numbers)
    for text, columns in (("fluid,b\n1,2.5\n2,1.5\n3,0.5\n", ("fluid", "b")), ("id\n7\n9\n8\n", ("id",))):
        assert read_table(write(tmp_path, text)).columns == columns  # few rows, and no other column
    missing = write(tmp_path, "id,len\n7,1.5\n,2.5\n9,\n8,3.5\n")
    assert read_table(missing, drop_missing=True).values[:, 0].tolist() == [1.5, 2.5, 3.5]


def test_what_pandas_writes_is_read(tmp_path):
    """Its own reader agrees, for its index, its numbers as names, and its Parquet with an index."""
    frame = pd.DataFrame(X, columns=["len", "wait"])
    for data in (
        frame,
        frame.rename(columns={"len": 0, "wait": 1}),
        frame.rename(columns={"len": "2019", "wait": "2020"}),
    ):
        for options in ({}, {"index": False}, {"sep": ";", "decimal": ","}, {"sep": "\t", "index": False}):
            data.to_csv(tmp_path / "x.csv", **options)
            table = read_table(tmp_path / "x.csv")
            np.testing.assert_array_equal(table.values, data.to_numpy())
            assert table.columns == tuple(map(str, data.columns))
    frame[frame.len > 2].to_parquet(tmp_path / "x.parquet")
    table = read_table(tmp_path / "x.parquet")
    np.testing.assert_array_equal(table.values, X[X[:, 0] > 2])
    assert table.columns == NAMED
    assert table.notes == ("a column without a name left out",)


def test_missing_values_of_every_kind(tmp_path):
    """Rows with one are left out and counted; without being asked they are refused."""
    texts = ["", "NA", "N/A", "nan", "NULL", "None", "<NA>", "-", "--", ".", "?", "#N/A", "NaN"]
    path = write(tmp_path, "a,b\n1,2\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts)) + "3,4\n")
    table = read_table(path, drop_missing=True)
    np.testing.assert_array_equal(table.values, [[1, 2], [3, 4]])
    assert table.notes == ("13 of 15 rows have a missing value and are left out",)
    np.testing.assert_array_equal(np.flatnonzero(table.kept), [0, 14])
    assert len(table.kept) == 15
    with pytest.raises(DataError, match=r"line 3, column 'b' holds a missing value.*--drop-missing \(13 such values\)"):
        read_table(path)
    np.testing.assert_array_equal(read_table(path, ["a"]).values[1:-1, 0], np.arange(13))
    pyarrow.parquet.write_table(
        pyarrow.table({"a": [1, None, 3], "b": [1.0, 2.0, float("nan")]}), tmp_path / "x.parquet"
    )
    np.testing.assert_array_equal(read_table(tmp_path / "x.parquet", drop_missing=True).values, [[1, 1]])
    with pytest.raises(DataError, match=r"column 'b' is not numeric.*holds 'gone'.*--na=gone"):
        read_table(write(tmp_path, "a,b\n1,gone\n3,4\n"))
    np.testing.assert_array_equal(read_table(tmp_path / "x.csv", na="gone", drop_missing=True).values, [[3, 4]])
    with pytest.raises(DataError, match="no row without a missing value"):
        read_table(write(tmp_path, "a,b\n1,NA\nNA,4\n"), drop_missing=True)
    with pytest.raises(DataError, match="line 2, column 'b' holds 'inf', inf"):
        read_table(write(tmp_path, "a,b\n1,inf\n3,4\n"), drop_missing=True)
    np.testing.assert_array_equal(read_table(tmp_path / "x.csv", na="inf", drop_missing=True).values, [[3, 4]])


def test_what_the_caller_says_takes_the_place_of_what_is_told(tmp_path):
    path = write(tmp_path, "0,1\n" + lines())
    assert read_table(path, header=False).values.shape == (41, 2)
    assert read_table(path, header=False).notes == ()
    assert read_table(write(tmp_path, "7,8\n1,2\n3,4\n"), header=True).columns == ("7", "8")
    np.testing.assert_array_equal(read_table(write(tmp_path, "a:b\n1:2\n"), delimiter=":").values, [[1, 2]])
    np.testing.assert_array_equal(
        read_table(write(tmp_path, "1,5\n2,5\n"), delimiter=";", decimal=",").values, [[1.5], [2.5]]
    )
    np.testing.assert_array_equal(read_table(write(tmp_path, 'a,b\n"1,5",2\n'), decimal=",").values, [[1.5, 2]])
    with pytest.raises(DataError, match=r"column 'a' is not numeric.*line 2 holds '1,5'.*--decimal=,"):
        read_table(write(tmp_path, 'a,b\n"1,5",2\n3,4\n'))
    with pytest.raises(DataError, match=r"column 'x1' is not numeric.*line 1 holds 'a'"):
        read_table(write(tmp_path, "a,b\n1,2\n"), header=False)
    for wrong in (
        {"delimiter": ",,"},
        {"decimal": ";"},
        {"header": 3},
        {"na": [None]},
        {"na": True},
        {"delimiter": ""},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
            read_table(path, **wrong)


def test_a_late_change_is_seen(tmp_path):
    """What only comes after the lines that the layout is told from."""
    early = "1;2\n" * 1000
    np.testing.assert_array_equal(read_table(write(tmp_path, f"a;b\n{early}1,5;2\n")).values[-1], [1.5, 2])
    with pytest.raises(DataError, match="line 1002 has 3 fields"):
        read_table(write(tmp_path, f"a;b\n{early}1;5;2\n"))
    with pytest.raises(DataError, match=r"column 'b' is not numeric but string \(line 1003 holds 'red'\)"):
        read_table(write(tmp_path, f"a;b\n{early}\n1;red\n"))
    with pytest.raises(DataError, match="line 1001 holds '7' after the last column"):
        read_table(write(tmp_path, "1;2;\n" * 1000 + "1;2;7\n"))
    with pytest.raises(DataError, match=r"column 'len' is not numeric but string \(line 1003 holds 'red'\)"):
        read_table(write(tmp_path, "# a title\n  len   wait\n" + "  1.5    2\n" * 1000 + "red 2\n", "x.txt"))


def test_one_column_with_decimal_commas(tmp_path):
    """With a header, or with 0 behind a comma, it is told; else two columns of whole numbers are said to be doubtful."""
    numbers = np.array([[2.05], [3.14], [-1.5], [4.0], [12.35]])
    text = "2,05\n3,14\n-1,5\n4\n12,35\n"
    for header, columns in (("len\n", ("len",)), ("", ("x1",))):
        table = read_table(write(tmp_path, header + text))
        np.testing.assert_array_equal(table.values, numbers)
        assert (table.columns, table.notes) == (columns, ("the decimal mark is a comma",))
    for text, first in (("1,5\n2\n", 1.5), ("-0,5\n2,5\n", -0.5), ("1,25e-3\n2,50e-3\n", 1.25e-3)):
        assert read_table(write(tmp_path, text)).values[0].tolist() == [first]
    path = write(tmp_path, "2,15\n3,14\n1,52\n4,00\n12,35\n".replace("4,00", "4,10"))
    table = read_table(path)
    assert table.values.shape == (5, 2)
    assert "--decimal=, takes them for decimal marks" in table.notes[0]
    np.testing.assert_array_equal(read_table(path, decimal=",").values[:, 0], [2.15, 3.14, 1.52, 4.1, 12.35])
    assert read_table(write(tmp_path, "2,1\n3,14\n1,5\n4,1\n12,35\n")).notes == ()


def test_many_columns(tmp_path):
    """Names of any total length, and none."""
    wide = np.arange(40_000.0).reshape(2, -1) + 0.5
    for header in (",".join(f"a rather long name {j}" for j in range(20_000)) + "\n", ""):
        table = read_table(write(tmp_path, header + lines(wide, form="%.1f")))
        np.testing.assert_array_equal(table.values, wide)
        assert table.columns[-1] == ("a rather long name 19999" if header else "x20000")


REFUSED = {
    "a header too long": ("a,b,c\n1,2\n3,4\n", "line 1 has 3 fields: 'a,b,c', and the rows below it have 2"),
    "a short first row of numbers": ("1,2\n3,4,5\n6,7,8\n", "line 1 has 2 fields"),
    "only comments": ("# a\n# b\n", "has no rows"),
    "twice, without a name": (",a,,a\n1,2,3,4\n", "two columns named 'a'"),
    "no column with a name": (",\n1,2\n3,4\n", "line 1, column 'x1' holds a missing value"),
    "half of UTF-16": ("\ufeffa,b\n1,2\n".encode("utf-16-le")[:-1], "no whole text in UTF-16"),
    "no code page": (b"a,b\n1,\x81\n", r"not text in UTF-8: line 2 holds b'\\x81"),
    "half a gz": (gzip.compress(b"a,b\n1,2\n")[:-9], "no whole gzip file"),
    "thousands": ("a;b\n1,050.29;2.5\n2,050.29;3.5\n", r"column 'a' is not numeric .* \(line 2 holds '1,050.29'\)"),
    "blanks, ragged": ("1.5 2\n3\n4 5\n", "line 2 has 1 field: '3'"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(content, message, tmp_path):
    (tmp_path / "x.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as error:
        read_table(tmp_path / "x.csv")
    assert "\n" not in str(error.value)


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path):
    twice = pyarrow.table([pyarrow.array([1.0]), pyarrow.array([2.0])], names=["a", "a"])
    pyarrow.parquet.write_table(twice, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="two columns named 'a'"):
        read_table(tmp_path / "x.parquet")


def test_folders_make_no_columns(tmp_path):
    (tmp_path / "year=2020").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.0]}), tmp_path / "year=2020" / "x.parquet")
    assert read_table(tmp_path / "year=2020" / "x.parquet").columns == ("a",)


def test_true_and_false_are_numbers_and_said(tmp_path):
    table = read_table(write(tmp_path, "a,b\n1,True\n2,false\n"))
    np.testing.assert_array_equal(table.values, [[1, 1], [2, 0]])
    assert table.notes == ("column 'b' holds true and false, read as 1 and 0",)
    with pytest.raises(DataError, match="line 3 holds 'maybe'"):
        read_table(write(tmp_path, "a,b\n1,True\n2,maybe\n"))


def test_a_source_knows_its_columns_before_its_numbers(tmp_path):
    source = open_table(write(tmp_path, "name,len,wait\nred,1,2\nblue,3,4\n"))
    assert (source.columns, source.named) == (("name", "len", "wait"), True)
    np.testing.assert_array_equal(source.read(["wait", "len"]).values, [[2, 1], [4, 3]])
    with pytest.raises(DataError, match="line 2 holds 'red'"):
        source.read(["name", "len"])
    assert source.read().columns == ("len", "wait")
    assert source.read(beside=["len"]).columns == ("wait", "len")
    assert open_table(write(tmp_path, "1,2\n")).named is False


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_only_regular_files_are_read(tmp_path):
    """A pipe without a writer and a device without an end: refused at once."""
    os.mkfifo(tmp_path / "pipe.csv")
    for name, target in (("zero.csv", "/dev/zero"), ("zero.npy", "/dev/zero"), ("zero.parquet", "/dev/zero")):
        (tmp_path / name).symlink_to(target)
    for name in ("pipe.csv", "zero.csv", "zero.npy", "zero.parquet"):
        with pytest.raises(DataError, match="no regular file; give one, or - to read standard input"):
            read_table(tmp_path / name)
    (tmp_path / "link.csv").symlink_to(write(tmp_path, "1,2\n"))
    assert read_table(tmp_path / "link.csv").values.shape == (1, 2)
    with pytest.raises(DataError, match=r"give one of .csv.*text also with .gz"):
        read_table(write(tmp_path, "1,2\n", "x.npy.gz"))


@pytest.mark.parametrize("name", datasets.STDIN)
def test_standard_input(name):
    code = f"from jaxem.datasets import read_table; print(read_table({name!r}).values.tolist())"
    for content in (b"a;b\n1,5;2\n", gzip.compress(b"a b\n1.5 2\n")):
        done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True)
        assert done.stdout == b"[[1.5, 2.0]]\n", done.stderr
    done = subprocess.run([sys.executable, "-c", code], input=b"", capture_output=True, text=False)
    assert b"DataError: standard input is empty" in done.stderr


BIRDS = ["Adelie", "Gentoo", "Chinstrap", "Adelie"] * 10


def birds(**columns):
    """A table of numbers and text, which is a text file and a Parquet file."""
    return pd.DataFrame({"len": X[:, 0], "species": BIRDS, "wait": X[:, 1], **columns})


def test_text_and_dates_are_left_out_and_said(tmp_path):
    """In text and in Parquet, as text, categories and times; not if they are asked for."""
    days = pd.date_range("2021-03-01", periods=40)
    frame = birds(sex=["f", None, "m", "f"] * 10, day=days)
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.assign(species=frame.species.astype("category")).to_parquet(tmp_path / "x.parquet")
    said = (
        "text columns left out: species, sex; give --columns to choose",
        "date column left out: day; give --columns to choose",
    )
    for name in ("x.csv", "x.parquet"):
        table = read_table(tmp_path / name)
        np.testing.assert_array_equal(table.values, X)
        assert (table.columns, table.notes) == (NAMED, said)
        assert read_table(tmp_path / name, drop=["species", "sex", "day", "len"]).columns == ("wait",)
        with pytest.raises(DataError, match="column 'species' is not numeric"):
            read_table(tmp_path / name, ["len", "species"])
        with pytest.raises(DataError, match="has no column 'age'; it has len, species"):
            read_table(tmp_path / name, drop="age")


@pytest.mark.parametrize(
    "days", ["2021-03-{}", "{}.3.2021", "3/{}/21", "12:{}:59", "2021-03-{}T07:30:00Z", "{}-Mar-2021"]
)
def test_days_in_many_forms_are_dates(days, tmp_path):
    frame = birds(when=[days.format(10 + i % 18) for i in range(40)])
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert "date column left out: when; give --columns to choose" in read_table(tmp_path / "x.csv").notes


@pytest.mark.parametrize(
    "cells",
    [["12,5x"] + ["12.5"] * 39, ["$1.50"] * 40, ["3 €"] * 40, ["1,412.50"] * 40, ["5%"] * 30 + ["none of it"] * 10,
     ["12 kg"] * 40, ["0x1F"] * 40, ["1.234,5"] * 40, ["1'000"] * 40, ["gone"] * 39 + ["1"], ["True"] * 39 + ["maybe"]],
    ids=lambda cells: cells[0],
)  # fmt: skip
def test_numbers_with_faults_are_no_text(cells, tmp_path):
    """An error that names the line, not a column that vanishes."""
    birds(odd=cells).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match=r"column 'odd' is not numeric.*line \d+ holds .*leave it out with --drop"):
        read_table(tmp_path / "x.csv")
    assert read_table(tmp_path / "x.csv", drop="odd").columns == NAMED


@pytest.mark.parametrize(
    "cells", [["1st", "2nd"], ["A1", "B2"], ["030-1234", "040-5678"], ["yes", "no"], ["12 Oak Street", "x"]]
)
def test_text_with_digits_is_text(cells, tmp_path):
    birds(odd=cells * 20).to_csv(tmp_path / "x.csv", index=False)
    assert read_table(tmp_path / "x.csv").columns == NAMED


def test_rows_are_not_lost_for_what_is_left_out(tmp_path):
    """A missing value counts only in the columns that are kept."""
    x = X.copy()
    x[5, 0] = np.nan
    frame = birds(sex=[None] * 20 + ["f"] * 20, len=x[:, 0])
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        assert len(read_table(tmp_path / name, drop_missing=True).values) == 39
        np.testing.assert_array_equal(read_table(tmp_path / name, keep_missing=True).values, x)
    half = birds(len=["gone" if i % 2 else f"{value}" for i, value in enumerate(X[:, 0])])
    half.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match="say --na=gone if that is a missing value"):
        read_table(tmp_path / "x.csv")
    np.testing.assert_array_equal(read_table(tmp_path / "x.csv", na="gone", drop_missing=True).values, X[::2])


def test_there_must_be_a_column_of_numbers(tmp_path):
    with pytest.raises(DataError, match=r"has no column of numbers: column 'a' is not numeric.*line 2 holds 'x'"):
        read_table(write(tmp_path, "a,b\nx,2021-01-01\ny,2021-01-02\n"))


GERMAN = "Name;Größe;Gewicht\r\n" + "".join(f"P{i};{a:.3f};{b:.3f}\r\n".replace(".", ",") for i, (a, b) in enumerate(X))


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "in UTF-16"), ("cp1252", "Windows-1252: line 1 holds 'Name;Größe"),
     ("latin-1", "Windows-1252")],
)  # fmt: skip
def test_a_spreadsheet_in_german(encoding, said, tmp_path):
    (tmp_path / "x.csv").write_bytes(GERMAN.encode(encoding))
    table = read_table(tmp_path / "x.csv")
    np.testing.assert_array_equal(table.values, X)
    assert table.columns == ("Größe", "Gewicht")
    assert said in table.notes[0]
    assert len(table.notes) == 2 + bool(said)


def test_one_missing_value_is_told_in_the_singular(tmp_path):
    (tmp_path / "one.csv").write_text("a,b\n1.5,2.5\n2.5,\n3.5,4.5\n")
    with pytest.raises(DataError, match=r"\(1 such value\)"):
        read_table(tmp_path / "one.csv")
    notes = read_table(tmp_path / "one.csv", keep_missing=True).notes
    assert any("1 value is missing, in 1 of 3 rows: b 1;" in note for note in notes)
