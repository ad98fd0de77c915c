"""Sources: whatever rows are passed over block by block, the numbers are those of the same rows in memory."""

import os
import sqlite3
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import jaxem
from jaxem import source, threads
from jaxem.datasets import DataError
from tests.conftest import DTYPE, ROUNDING, X64

KEY = jax.random.key(0)
N = 70_003
NAMES = ("a", "b", "c")


def rows_of(n=N, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0, 0], [6, 0, 1], [0, 6, -1]])
    return (centres[rng.integers(0, 3, n)] + rng.normal(size=(n, 3))).astype(DTYPE)


X = rows_of()
W = np.random.default_rng(1).integers(0, 3, N).astype(DTYPE)


class Cut(jaxem.Source):
    """Rows in memory, cut into blocks of any size."""

    def __init__(self, x, size, w=None):
        self.x, self.size, self.w = x, size, w

    def __iter__(self):
        for i in range(0, len(self.x), self.size):
            rows = self.x[i : i + self.size]
            yield rows if self.w is None else (rows, self.w[i : i + self.size])


def start(family="full", k=3):
    return jaxem.starts(KEY, family, X[:500], k, 1)[0]


def same(a, b, rtol):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        scale = float(np.max(np.abs(np.asarray(other)), initial=1.0))
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * scale)


# -- Stream = memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1_000, 50_001, 10**6])
def test_a_pass_is_that_of_the_rows_in_memory(size, weighted):
    w = W if weighted else None
    same(jaxem.e_step(start(), Cut(X, size, w)), jaxem.e_step(start(), X, w), 1e-12 if X64 else ROUNDING)


def test_the_size_of_blocks_does_not_change_a_bit():
    one, other = (jaxem.e_step(start(), Cut(X, size, W)) for size in (999, 65_537))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize("n", [1, 2])
def test_threads_do_not_change_a_bit(n):
    expected = jaxem.e_step(start(), Cut(X, 5_000))
    threads.set_threads(n)
    try:
        found = jaxem.e_step(start(), Cut(X, 5_000))
    finally:
        threads.set_threads(None)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))


@pytest.mark.parametrize("family", ["spherical", "diag", "full", "student-t"])
def test_a_fit_ends_where_that_of_the_rows_in_memory_does(family):
    options = {"accelerator": jaxem.hybrid(), "max_iter": 30}
    one, other = (jaxem.fit(start(family), data, **options) for data in (Cut(X, 9_000), X))
    assert abs(float(one.log_likelihood / other.log_likelihood) - 1) < (1e-8 if X64 else 1e-5)
    # after 30 turns the degrees of freedom still move, and rounding with them
    a, b = one.mixture.components, other.mixture.components
    a, b = (a.means, b.means) if family == "student-t" else (a, b)
    same(a, b, (1e-6 if family == "student-t" else 1e-8) if X64 else 1e-2)


def test_counts_and_a_prior():
    x = np.random.default_rng(0).poisson([[3.0, 9.0]], (N, 2)).astype(DTYPE)
    first, prior = jaxem.starts(KEY, jaxem.Poisson(), x[:1000], 2, 1)[0], jaxem.Dirichlet(5.0) + jaxem.Gamma(2.0, 1.0)
    one, other = (jaxem.fit(first, data, prior=prior, max_iter=5) for data in (Cut(x, 30_000), x))
    same(one.mixture, other.mixture, 1e-8 if X64 else 1e-3)


def test_climbs_share_the_blocks():
    starts = jaxem.starts(KEY, "full", X[:500], 3, 10, jaxem.RandomPoints())
    options = {"accelerator": jaxem.hybrid(), "max_iter": 12}
    one, other = (jaxem.fit_restarts(starts, data, **options) for data in (Cut(X, 7_000), X))
    np.testing.assert_allclose(one.log_likelihood, other.log_likelihood, rtol=1e-8 if X64 else 1e-4)


def test_a_search_finds_what_that_of_the_rows_in_memory_does():
    one, other = (jaxem.search(jax.random.key(1), "full", data, 3, budget=60) for data in (Cut(X, 11_111), X))
    assert abs(float(one.best.log_likelihood / other.best.log_likelihood) - 1) < (1e-8 if X64 else 1e-5)
    if X64:
        assert one.passes == other.passes


@pytest.mark.any_dtype
def test_select_and_summary():
    with jax.enable_x64(True):
        x = X.astype(float)
        chosen = [jaxem.select(KEY, "full", data, (1, 3), budget=40) for data in (Cut(x, 10_000), x)]
        assert chosen[0].chosen == chosen[1].chosen == 1
        same([c[4:7] for c in chosen[0].candidates], [c[4:7] for c in chosen[1].candidates], 1e-8)
        mixture = chosen[1].best.best.mixture
        prior = jaxem.variance_floor(x, 1e-3)
        for option in (None, prior):
            found = jaxem.fit(mixture, x, prior=option, accelerator=jaxem.hybrid()).mixture
            one, other = (jaxem.summary(found, data, prior=option) for data in (Cut(x, 10_000), x))
            same(tuple(one[:5]), tuple(other[:5]), 1e-6)
            one, other = (jaxem.information(found, data, prior=option) for data in (Cut(x, 10_000), x))
            same(one, other, 1e-8)
        report = jaxem.verify(mixture, Cut(x, 10_000))
        assert report.ok
        assert "drawn from the Cut" in str(report)


@pytest.mark.any_dtype
@pytest.mark.parametrize("dtype", ["int64", "int8", "bool", "float32"])
def test_rows_of_any_type_are_centred_exactly(dtype):
    x = (np.random.default_rng(0).poisson(7.6, (N, 2)) % (2 if dtype == "bool" else 100)).astype(dtype)
    with jax.enable_x64(True):
        for family in ("spherical", "poisson"):
            first = jaxem.starts(KEY, family, x[:500].astype(float), 2, 1)[0]
            same(jaxem.e_step(first, Cut(x, 9_999)), jaxem.e_step(first, x.astype(float)), 1e-12)


@pytest.mark.any_dtype
def test_a_source_that_yields_other_rows_in_a_later_pass_is_told():
    class Fading(jaxem.Source):
        left = 2

        def __iter__(self):
            self.left -= 1
            yield X if self.left == 1 else X[:30_000]

    with pytest.raises(ValueError, match=f"yields 30000 rows, and {N} before"):
        jaxem.fit(start(), Fading())


@pytest.mark.any_dtype
def test_responsibilities_of_a_source_are_refused():
    resp = np.full((N, 3), 1 / 3)
    with pytest.raises(ValueError, match="FromResponsibilities needs rows in memory"):
        jaxem.starts(KEY, "full", Cut(X, 10_000), 3, 1, jaxem.FromResponsibilities(resp))


def test_few_rows_are_read_into_memory():
    few = X[:300]
    same(jaxem.e_step(start(), Cut(few, 7)), jaxem.e_step(start(), few), ROUNDING)
    same(jaxem.proxy(start(), start(), Cut(few, 7)), jaxem.proxy(start(), start(), few), ROUNDING)


def test_the_sample_is_even_and_does_not_depend_on_the_blocks(monkeypatch):
    monkeypatch.setattr(source, "SAMPLED", 2_000)
    monkeypatch.setattr(source, "LEAST_SAMPLED", 2_000)
    numbers = np.arange(N, dtype=float)[:, None]
    found = Cut(numbers, 5_000, W).sample(10**6)[:, 0].astype(int)
    assert len(found) == 2_000
    assert len(set(found)) == 2_000
    assert (W[found] > 0).all()
    assert np.array_equal(found, Cut(numbers, 333, W).sample(2_000)[:, 0])
    assert np.array_equal(found, source.sample_order(N, 1, W)[:2_000])
    error = abs(found.mean() - N / 2) / (N / np.sqrt(12 * 2_000))
    assert error < 5  # standard errors


def test_moments_add_far_from_the_origin():
    x = (1e9 + np.random.default_rng(0).normal(size=(1000, 2))).astype(np.float64)
    parts = [source.Moments.of(x[a:b], None) for a, b in ((0, 10), (10, 11), (11, 1000))]
    whole = parts[0] + parts[1] + parts[2]
    np.testing.assert_allclose(whole.squares / 1000, np.var(x - 1e9, axis=0), rtol=1e-9)
    np.testing.assert_allclose(whole.mean, x.mean(axis=0), rtol=1e-15)


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.zeros(N), "zero everywhere"),
        (np.ones(3), "has shape"),
        (["a"] * N, "has dtype"),
        ([[1.0], [1.0, 2.0]], "ragged"),
    ],
)
def test_wrong_weights_of_large_data_are_said(weights, words):
    with pytest.raises(ValueError, match=words):
        jaxem.search(KEY, "full", X, 2, weights)


# -- a source of one's own -----------------------------------------------------------------------------------------------


class Query(jaxem.Source):
    """The rows that a query yields, through the DB-API of Python."""

    def __init__(self, path, query):
        self.path, self.query = path, query

    def __iter__(self):
        connection = sqlite3.connect(self.path)
        try:
            cursor = connection.execute(self.query)
            while rows := cursor.fetchmany(20_000):
                yield np.asarray(rows, float)
        finally:
            connection.close()


@pytest.mark.any_dtype
def test_a_database_is_a_source(tmp_path):
    path = tmp_path / "rows.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a REAL, b REAL, c REAL)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", X.astype(float).tolist())
    with jax.enable_x64(True):
        found = jaxem.e_step(start(), Query(path, "SELECT a, b, c FROM t ORDER BY rowid"))
        same(found, jaxem.e_step(start(), X.astype(float)), 1e-12)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([], "yields no rows"),
        ([np.zeros(3)], r"shape \(3,\)"),
        ([np.zeros((3, 2)), np.zeros((3, 3))], "as before"),
        ([np.array([["a", "b"]])], "real numbers"),
        ([(np.zeros((3, 2)), np.zeros(2))], "weights of shape"),
        ([(np.zeros((3, 2)), -np.ones(3))], "row 0 of the .*weight is -1"),
        ([(np.zeros((3, 2)), np.zeros(3))], "no row of positive weight"),
        ([[[1.0, 2.0], [None, 3.0]]], "row 1 of the .*column 0 holds None"),
        ([np.zeros((3, 2)), np.array([[1.0, np.nan]])], "row 3 of the .*column 1 holds nan"),
    ],
)
@pytest.mark.any_dtype
def test_what_is_wrong_with_a_block_is_said_in_one_line(blocks, words):
    class Wrong(jaxem.Source):
        def __iter__(self):
            yield from blocks

    with pytest.raises(ValueError, match=words) as raised:
        jaxem.search(KEY, "full", Wrong(), 2)
    assert "\n" not in str(raised.value)


@pytest.mark.any_dtype
def test_an_exception_of_the_source_ends_the_pass():
    class Broken(jaxem.Source):
        def __iter__(self):
            yield X
            raise RuntimeError("the line is dead")

    with pytest.raises(RuntimeError, match="the line is dead"):
        jaxem.e_step(start(), Broken())


@pytest.mark.any_dtype
def test_what_needs_rows_in_memory_says_so():
    data = Cut(X, 10_000)
    with pytest.raises(TypeError, match=r"sample\(100_000\)"):
        jaxem.proxy(start(), start(), data)
    with pytest.raises(TypeError, match="predict_to"):
        start().predict(data)
    with pytest.raises(ValueError, match="weights of its rows"):
        jaxem.fit(start(), data, np.ones(N))
    with pytest.raises(ValueError, match="exceeds"):
        jaxem.fit_restarts(jaxem.starts(KEY, "diag", X[:100], 50, 2), Cut(X[:40], 10))
    with pytest.raises(ValueError, match="cannot occur under"):
        jaxem.search(KEY, jaxem.Poisson(), data, 2)
    with pytest.raises(TypeError, match="has no derivatives"):
        jax.grad(lambda level: jaxem.fit(start(), data, prior=jaxem.Dirichlet(level)).objective)(2.0)
    with pytest.raises(TypeError, match="has no derivatives"):
        jax.jit(lambda mixture: jaxem.fit(mixture, data).objective)(start())
    with pytest.raises(TypeError, match=r"sample\(100_000\)"):
        jaxem.bootstrap(KEY, start(), data)
    with pytest.raises(ValueError, match="in memory"):
        jaxem.select(KEY, "full", data, (1, 2), criterion="cv")


# -- files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The rows as files of every kind."""
    place = tmp_path_factory.mktemp("rows")
    table = pa.table({**dict(zip(NAMES, X.astype(float).T, strict=True)), "w": W.astype(float)})
    (place / "parts").mkdir()
    for i in range(3):
        pq.write_table(table.slice(i * 30_000, 30_000), place / "parts" / f"{i}.parquet", row_group_size=11_000)
    pa.feather.write_feather(table, place / "rows.arrow")
    np.save(place / "rows.npy", np.column_stack([X, W]).astype(float))
    text = "\n".join([",".join([*NAMES, "w"]), *(",".join(map(repr, row)) for row in np.column_stack([X, W]).tolist())])
    (place / "rows.csv").write_text(text + "\n")
    (place / "rows.tsv").write_text(text.replace(",", "\t") + "\n")
    (place / "german.csv").write_text(text.replace(",", ";").replace(".", ",") + "\n")
    import gzip

    (place / "rows.csv.gz").write_bytes(gzip.compress(text.encode(), 1))
    return place


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    "name", ["parts/*.parquet", "parts", "rows.arrow", "rows.csv", "rows.tsv", "german.csv", "rows.csv.gz"]
)
def test_files_of_every_kind_hold_the_same_rows(name, folder):
    with jax.enable_x64(True):
        found = jaxem.Files(str(folder / name), NAMES, "w", batch_rows=10_007)
        same(jaxem.e_step(start(), found), jaxem.e_step(start(), X.astype(float), W.astype(float)), 1e-12)
        blocks = list(found)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in blocks]), X.astype(float))
        assert jaxem.Files(str(folder / name), weight="w").columns == NAMES


@pytest.mark.any_dtype
def test_npy_is_mapped(folder):
    found = jaxem.Files(folder / "rows.npy", ["x1", "x2", "x3"], "x4")
    assert not found.named
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), X.astype(float))


@pytest.mark.any_dtype
def test_shares_are_consecutive_and_complete(folder):
    every = jaxem.Files(folder / "parts", NAMES)
    for count in (1, 2, 3, 7):
        blocks = [x for i in range(count) for x in every.share(i, count)]
        np.testing.assert_array_equal(np.concatenate(blocks), X.astype(float))


@pytest.mark.any_dtype
def test_names_of_folders_are_columns_that_may_be_named(tmp_path):
    for year in (2020, 2021):
        (tmp_path / f"year={year}").mkdir()
        pq.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / f"year={year}" / "x.parquet")
    assert jaxem.Files(tmp_path).columns == ("a",)
    np.testing.assert_array_equal(
        np.concatenate(list(jaxem.Files(tmp_path, ["year", "a"]))), [[2020, 1], [2020, 2], [2021, 1], [2021, 2]]
    )


@pytest.mark.any_dtype
def test_numbers_of_every_type_and_missing_ones(tmp_path):
    table = pa.table(
        {
            "i": pa.array([1, 2, None, 4], pa.int32()),
            "b": [True, False, True, True],
            "f": pa.array([1.5, -999.0, 2.5, 3.5], pa.float32()),
            "t": ["u", "v", "w", "x"],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    kept = np.concatenate(list(jaxem.Files(tmp_path, ["i", "b", "f"], na=-999, drop_missing=True)))
    np.testing.assert_array_equal(kept, [[1, 1, 1.5], [4, 1, 3.5]])
    assert next(iter(jaxem.Files(tmp_path, "f"))).dtype == np.float32
    with pytest.raises(ValueError, match=r"x\.parquet, row 3: column 'i' holds nan"):
        jaxem.e_step(start(), jaxem.Files(tmp_path, ["i", "b", "f"]))
    with pytest.raises(DataError, match=r"column 't' of .*holds string"):
        jaxem.Files(tmp_path, ["i", "t"])


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_text_is_left_out_of_a_stream_and_said(name, tmp_path):
    """By default, and where it was not asked for; what may be an identifier is kept, with a note."""
    frame = pd.DataFrame({"id": range(1, 31), "a": np.arange(30) + 0.5, "kind": ["x", "y", "z"] * 10, "b": np.ones(30)})
    (frame.to_csv if name == "x.csv" else frame.to_parquet)(tmp_path / name, index=False)
    files = jaxem.Files(tmp_path)
    assert files.columns == ("id", "a", "b")
    assert files.notes == (
        "text or date column left out: kind; give --columns to choose",
        "column 'id' may tell the rows apart; leave it out with --drop if it is no measurement",
    )
    assert (jaxem.Files(tmp_path, drop="id").columns, jaxem.Files(tmp_path, ["a"]).notes) == (("a", "b"), ())
    np.testing.assert_array_equal(np.concatenate(list(jaxem.Files(tmp_path, ["a", "b"]))), frame[["a", "b"]])
    with pytest.raises(DataError, match="has no column 'age'"):
        jaxem.Files(tmp_path, drop=["age"])


def damaged(folder, tmp_path):
    whole = (folder / "parts" / "0.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    return jaxem.Files(tmp_path / "cut.parquet")


def other_columns(folder, tmp_path):
    pq.write_table(pa.table({"a": [1.0], "z": [2.0]}), tmp_path / "z.parquet")
    return jaxem.Files([folder / "parts" / "0.parquet", tmp_path / "z.parquet"], NAMES)


def other_order(_, tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "2.csv").write_text("b,a\n1,2\n3,4\n")
    return jaxem.Files(tmp_path)


def without_header(_, tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "2.csv").write_text("1,2\n3,4\n")
    return jaxem.Files(tmp_path)


def packed_npy(_, tmp_path):
    (tmp_path / "x.npy.gz").write_bytes(b"")
    return jaxem.Files(tmp_path / "x.npy.gz")


@pytest.mark.any_dtype
def test_what_programs_leave_behind_is_not_read(tmp_path):
    for name in ("a.csv", ".ipynb_checkpoints/a.csv", "_temporary/b.csv", "deep/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a,b\n1,2\n")
    assert [os.path.basename(path) for path in jaxem.Files(tmp_path).paths] == ["a.csv", "c.csv"]


@pytest.mark.any_dtype
def test_types_that_differ_between_files_are_widened(tmp_path):
    pq.write_table(pa.table({"a": pa.array([1, 2], pa.int32())}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"a": pa.array([0.1], pa.float32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": pa.array([0.1], pa.float64())}), tmp_path / "2.parquet")
    found = np.concatenate(list(jaxem.Files(tmp_path)))[:, 0]
    np.testing.assert_array_equal(found, [1.0, 2.0, np.float32(0.1), 0.1])


@pytest.mark.any_dtype
def test_the_working_directory_does_not_matter(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    found = jaxem.Files("x.npy")
    monkeypatch.chdir("/")
    assert len(found.in_memory()[0]) == N


@pytest.mark.any_dtype
def test_codes_of_narrow_numbers(tmp_path):
    pq.write_table(pa.table({"a": pa.array([1.5, -999.9, 2.5], pa.float32())}), tmp_path / "x.parquet")
    np.testing.assert_array_equal(next(iter(jaxem.Files(tmp_path, na=-999.9, drop_missing=True)))[:, 0], [1.5, 2.5])


def text_in_a_number(folder, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n" + "1,2\n" * 10 + "1,oops\n" * 3)
    return list(jaxem.Files(tmp_path / "x.csv", header=True))


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda folder, _: jaxem.Files(folder / "none*.csv"), "matches no file"),
        (lambda folder, _: jaxem.Files(folder / "gone.csv"), r"gone\.csv does not exist"),
        (lambda _, empty: jaxem.Files(empty), "without a file that can be read"),
        (lambda folder, _: jaxem.Files([]), "names no file"),
        (lambda folder, _: jaxem.Files([folder / "rows.csv", folder / "rows.npy"]), "files of one kind"),
        (lambda folder, _: jaxem.Files(folder / "rows.csv", ["a", "q"]), "no column 'q'"),
        (lambda folder, _: jaxem.Files(folder / "rows.csv", ["a", "a"]), "name each once"),
        (lambda folder, _: jaxem.Files(folder / "rows.csv", ["a", "w"], "w"), "only be one of them"),
        (damaged, r"cut\.parquet cannot be read"),
        (other_columns, r"z\.parquet lacks the column 'b'"),
        (other_order, r"2\.csv has the columns b, a, .*1\.csv has a, b"),
        (without_header, r"2\.csv has the columns"),
        (packed_npy, r"x\.npy\.gz has the suffix"),
        (text_in_a_number, r"x\.csv cannot be read.*oops"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(work, words, folder, tmp_path):
    with pytest.raises(ValueError, match=words) as raised:
        work(folder, tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.any_dtype
def test_the_fingerprint_of_files_is_the_same_in_each_process(folder):
    code = f"import jaxem; print(jaxem.Files({str(folder / 'rows.csv')!r}, na=['-999', 'none', 'x']).fingerprint())"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in "123"
    }
    assert len(told) == 1
    assert len(told.pop()) == 65


@pytest.mark.any_dtype
def test_a_file_that_changes_or_vanishes_under_way_is_named(tmp_path):
    paths = [tmp_path / f"{i}.npy" for i in range(2)]
    for path in paths:
        np.save(path, X[: N // 2])
    found = jaxem.Files(tmp_path)
    jaxem.e_step(start(), found)
    os.utime(paths[1], ns=(1, 1))
    with pytest.raises(DataError, match=r"1\.npy has changed since it was opened"):
        jaxem.e_step(start(), found)
    paths[1].unlink()
    with pytest.raises(DataError, match=r"1\.npy cannot be read any more"):
        jaxem.fit(start(), found)


# -- predictions ---------------------------------------------------------------------------------------------------------


@pytest.mark.any_dtype
@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".csv"])
@pytest.mark.parametrize("kind", ["component", "probabilities", "log_prob"])
def test_predictions_are_written_block_by_block(suffix, kind, folder, tmp_path):
    mixture, path = start(), tmp_path / f"out{suffix}"
    found = jaxem.Files(folder / "parts", NAMES)
    assert jaxem.predict_to(path, mixture, found, kind) == N
    ask = {"component": mixture.predict, "probabilities": mixture.responsibilities, "log_prob": mixture.log_prob}[kind]
    expected = np.asarray(ask(X.astype(float) if X64 else X)).reshape(N, -1)
    if suffix == ".npy":
        got = np.load(path).reshape(N, -1)
    elif suffix == ".parquet":
        got = np.column_stack([column.to_numpy() for column in pq.read_table(path).columns])
    else:
        got = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    np.testing.assert_allclose(got, expected, rtol=ROUNDING, atol=1e-7)
    with pytest.raises(FileExistsError):
        jaxem.predict_to(path, mixture, found, kind)


@pytest.mark.any_dtype
def test_predictions_that_fail_leave_no_file(tmp_path):
    class Broken(jaxem.Source):
        def __iter__(self):
            yield X
            raise RuntimeError("the line is dead")

    with pytest.raises(RuntimeError, match="dead"):
        jaxem.predict_to(tmp_path / "out.npy", start(), Broken())
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="suffix"):
        jaxem.predict_to(tmp_path / "out.txt", start(), Broken())
    with pytest.raises(ValueError, match="kind"):
        jaxem.predict_to(tmp_path / "out.npy", start(), Broken(), "labels")


# -- memory and the command line -----------------------------------------------------------------------------------------

MEMORY = """
import sys, jax, numpy as np, jaxem
n = int(sys.argv[1])
class Simulated(jaxem.Source):
    def __iter__(self):
        for i in range(n // 50_000):
            yield np.random.default_rng(i).normal(size=(50_000, 4))
params = jaxem.GaussianParams(jax.numpy.zeros((2, 4)) + jax.numpy.arange(2.0)[:, None], jax.numpy.ones((2, 4)))
mixture = jaxem.Mixture(jax.numpy.full(2, -np.log(2)), params, jaxem.Diagonal())
jaxem.fit(mixture, Simulated(), max_iter=2)
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1e3)
"""


@pytest.mark.any_dtype
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_rows():
    """Peak memory at eight times the rows is at most 60 MB more."""
    peaks = [
        float(subprocess.run([sys.executable, "-c", MEMORY, n], capture_output=True, text=True, check=True).stdout)
        for n in ("600000", "4800000")
    ]
    assert peaks[1] - peaks[0] < 60


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "jaxem.cli", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.any_dtype
def test_the_command_line_streams_patterns_and_folders(folder, tmp_path):
    model, labels = tmp_path / "m.safetensors", tmp_path / "labels.parquet"
    options = ["-k", 3, "--columns", "a,b,c", "--weights", "w", "--no-verify", "--budget", 40]
    done = command("fit", folder / "parts" / "*.parquet", *options, "--out", model, "--checkpoint", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "3 files" in done.stderr
    assert f"{int((W > 0).sum())} rows, 3 columns, weights that sum to {W.sum():.10g}" in done.stdout
    with jax.enable_x64(True):
        expected = jaxem.search(KEY, "full", X.astype(float), 3, W.astype(float), budget=40).best.log_likelihood
    assert f"log-likelihood  {float(expected):.5f}" in done.stdout
    again = command("fit", folder / "parts", *options, "--checkpoint", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert f"{float(expected):.5f}" in again.stdout
    assert command("predict", model, folder / "parts", "--out", labels).returncode == 0
    assert pq.read_table(labels).num_rows == N
    scored = command("score", model, folder / "rows.csv", "--stream", "--weights", "w")
    assert f"log_likelihood {float(expected):.3f}"[:-1] in scored.stdout
    verified = command("verify", model, folder / "parts")
    assert "drawn from the Files" in verified.stdout, verified.stderr
    assert "--out" in command("predict", model, folder / "parts").stderr
    assert "matches no file" in command("fit", folder / "none*.csv").stderr
    refused = command("fit", folder / "parts", "-k", 2, "--columns", "a,b,c", "--checkpoint", tmp_path / "run")
    assert refused.returncode == 1
    assert "was made with other" in refused.stderr
