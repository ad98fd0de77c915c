"""Tables on the command line: columns by name, weights, missing values, marks, strange names and strange files."""

import errno
import gzip
import os
import re
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest

import jaxem
from jaxem import io
from tests.test_cli import COMMAND, fails, run, run_process

RNG = np.random.default_rng(1)
X = np.concatenate([RNG.normal([1, 100], [0.3, 8], (30, 2)), RNG.normal([3, 40], [0.4, 6], (50, 2))]).round(6)
MIXTURE = jaxem.Mixture(
    np.log([0.375, 0.625]),
    jaxem.GaussianParams(np.array([[1.0, 100.0], [3.0, 40.0]]), np.array([[0.09, 64.0], [0.16, 36.0]])),
    jaxem.Diagonal(),
)


def log_joint(x=X):
    """By the formula, in numpy."""
    weights, (means, variances) = np.exp(MIXTURE.log_weights), MIXTURE.components
    squares = (x[:, None, :] - means) ** 2 / variances
    return np.log(weights) - 0.5 * np.sum(squares + np.log(2 * np.pi * variances), axis=2)


LABELS = log_joint().argmax(axis=1)
LOG_PROB = np.logaddexp.reduce(log_joint(), axis=1)


def load_model(path):
    with jax.enable_x64(True):
        return io.load_model(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("named") / "m.safetensors"
    io.save(MIXTURE, path, columns=["height", "weight"])
    return path


def write(path, header, x, delimiter=","):
    np.savetxt(path, x, fmt="%.6f" if x.dtype.kind == "f" else "%s", delimiter=delimiter, header=header, comments="")
    return path


def labels(done):
    assert done.returncode == 0, done.stderr
    return [int(line) if line.strip('"') else None for line in done.stdout.splitlines()[1:]]


def notes(done):
    return [line.removeprefix("jaxem: note: ") for line in done.stderr.splitlines()]


def test_columns_are_found_by_name(model, tmp_path):
    """In another order, among others, also text; the same labels, and what was done is said."""
    extra = np.column_stack([X[:, 1], ["red"] * 80, X[:, 0]])
    for name, header, x, said in (
        ("same", "height,weight", X, []),
        ("swapped", "weight,height", X[:, ::-1], ["the columns are put in the order of the model: height, weight"]),
        (
            "more",
            "height,age,weight",
            np.insert(X, 1, 7.5, axis=1),
            ["the model uses the columns height, weight; age is left out"],
        ),
        ("text", "weight,colour,height", extra, ["the columns are put in.*", "the model uses .*; colour is left out"]),
    ):
        path = write(tmp_path / f"{name}.csv", header, x)
        done = run("predict", model, path)
        np.testing.assert_array_equal(labels(done), LABELS, err_msg=name)
        assert len(notes(done)) == len(said)
        for note, words in zip(notes(done), said, strict=True):
            assert re.fullmatch(words, note), note
        assert f"log_likelihood {LOG_PROB.sum():.6f}" in run("score", model, path).stdout
        assert "verified: yes" in run("verify", model, path).stdout


def test_missing_names_are_refused(model, tmp_path):
    for header, x, message in (
        (
            "height,mass",
            X,
            r"lacks the column weight of the model; it has height, mass; rename them, or name 2 .* --columns",
        ),
        ("a,b,c", np.insert(X, 1, 7.5, axis=1), "lacks the columns height, weight of the model; it has a, b, c"),
        ("Height,Weight", X, "lacks the columns height, weight of the model; it has Height, Weight"),
    ):
        path = write(tmp_path / "x.csv", header, x)
        for command in ("predict", "score", "verify"):
            fails(run(command, model, path), message)
    done = run("predict", model, path, "--columns", "Height,Weight")  # the way out that the message names
    np.testing.assert_array_equal(labels(done), LABELS)
    assert notes(done) == ["columns go by position: Height, Weight for the model's height, weight"]
    fails(
        run("predict", model, path, "--columns", "Height"), "--columns names 1, and the model needs 2: height, weight"
    )
    fails(run("predict", model), "the bundled table lacks the columns height, weight")


def test_columns_without_names_go_by_position(model, tmp_path):
    np.savetxt(tmp_path / "x.csv", X, fmt="%.6f", delimiter=",")
    np.save(tmp_path / "x.npy", X)
    for name in ("x.csv", "x.npy"):
        done = run("predict", model, tmp_path / name)
        np.testing.assert_array_equal(labels(done), LABELS)
        assert notes(done) == ["columns go by position: x1, x2 for the model's height, weight"]
    np.save(tmp_path / "x.npy", X[:, :1])
    fails(
        run("predict", model, tmp_path / "x.npy"), "has no names of columns: 1, and the model needs 2: height, weight"
    )
    io.save(MIXTURE, tmp_path / "unnamed")
    done = run("predict", tmp_path / "unnamed", write(tmp_path / "x.csv", "a,b", X))
    np.testing.assert_array_equal(labels(done), LABELS)
    assert done.stderr == ""


def test_a_fit_keeps_its_columns(tmp_path):
    """`sample` prints them; what it prints is read again; columns of a table without names are kept if they were chosen."""
    path, out = write(tmp_path / "x.csv", "weight,height", X[:, ::-1]), tmp_path / "m"
    fit = ("fit", path, "-k", 2, "--no-verify", "--force", "--out", out)
    assert run(*fit).returncode == 0
    assert load_model(out).columns == ("weight", "height")
    done = run("sample", out, "-n", 5)
    assert done.stdout.splitlines()[0] == "weight,height,component"
    (tmp_path / "s.csv").write_text(done.stdout)
    assert notes(run("predict", out, tmp_path / "s.csv")) == [
        "the model uses the columns weight, height; component is left out"
    ]
    assert run(*fit, "--columns", "height").returncode == 0
    assert load_model(out).columns == ("height",)
    assert len(labels(run("predict", out, path))) == 80  # the file that it was fitted on
    np.save(tmp_path / "x.npy", X)
    assert run("fit", tmp_path / "x.npy", *fit[2:]).returncode == 0
    assert load_model(out).columns is None
    assert run("sample", out, "-n", 5).stdout.splitlines()[0] == "x1,x2,component"
    assert run("fit", tmp_path / "x.npy", *fit[2:], "--columns", "x2").returncode == 0
    assert load_model(out).columns == ("x2",)
    assert notes(run("predict", out, tmp_path / "x.npy")) == ["the model uses the columns x2; x1 is left out"]
    write(tmp_path / "c.csv", "component,b", X)
    assert run("fit", tmp_path / "c.csv", *fit[2:]).returncode == 0
    assert run("sample", out, "-n", 5).stdout.splitlines()[0] == "component,b,component of the model"


def test_names_that_no_file_can_hold_do_not_lose_a_fit(tmp_path):
    path = write(tmp_path / "x.csv", f"{'a' * 1001},b", X)
    done = run("fit", path, "-k", 1, "--no-verify", "--out", tmp_path / "m")
    assert done.returncode == 0
    assert re.fullmatch("the model is saved without the names of its columns, which hold 'a+'; .*", notes(done)[0])
    assert load_model(tmp_path / "m").columns is None


def test_a_model_in_float64_keeps_its_digits(model, tmp_path):
    """Also for data in float32, and where JAX has 32 bits."""
    far = jaxem.Mixture(
        MIXTURE.log_weights, MIXTURE.components._replace(means=MIXTURE.components.means + 2.0**24), MIXTURE.family
    )
    io.save(far, tmp_path / "m")
    np.save(tmp_path / "x.npy", (np.round(X) + 2.0**24).astype(np.float32))
    x = np.load(tmp_path / "x.npy").astype(float) - 2.0**24
    expected = np.logaddexp.reduce(log_joint(x), axis=1).sum()
    done = run_process("score", tmp_path / "m", tmp_path / "x.npy", JAX_ENABLE_X64="0")
    assert f"log_likelihood {expected:.6f}" in done.stdout
    assert done.stderr == ""


def test_missing_values(model, tmp_path):
    """Rows with one are left out where asked; `predict` keeps one line for each row."""
    text = write(tmp_path / "x.csv", "height,weight", X).read_text().splitlines()
    text[4], text[9], text[20], text[80] = "NA,5", "1.5,", "gone,4", "1.0,-999"
    (tmp_path / "x.csv").write_text("\n".join(text) + "\n")
    path, lost = tmp_path / "x.csv", [3, 8, 19, 79]
    kept = np.setdiff1d(np.arange(80), lost)
    fails(run("predict", model, path), r"column 'height' is not numeric.*\(line 21 holds 'gone'\)")
    fails(run("predict", model, path, "--na", "gone"), r"line 5, column 'height' holds 'NA', a missing value.*\(3 such")
    for na in (("--na", "gone", "--na", "-999"), ("--na", "gone,-999"), ("--na=-999,gone",)):
        done = run("predict", model, path, *na, "--drop-missing")
        found = labels(done)
        assert [found[i] for i in lost] == [None] * 4
        np.testing.assert_array_equal([found[i] for i in kept], LABELS[kept])
        assert notes(done) == ["4 of 80 rows have a missing value and are left out"]
    proba = run("predict", model, path, *na, "--drop-missing", "--proba").stdout.splitlines()
    assert proba[4] == ","
    assert len(proba) == 81
    done = run("score", model, path, *na, "--drop-missing")
    assert f"log_likelihood {LOG_PROB[kept].sum():.6f}" in done.stdout
    assert "rows 76" in done.stdout
    done = run("fit", path, "-k", 2, "--no-verify", *na, "--drop-missing")
    assert "76 rows, 2 columns" in done.stdout
    done = run("fit", path, "-k", 1, "--no-verify", "--na", "gone", "--drop-missing")
    assert any("holds -999" in note for note in notes(done))


def test_marks_and_headers(model, tmp_path):
    text = "".join(f"{a:.6f}:{b:.6f}\n" for a, b in X)
    (tmp_path / "x.txt").write_text("7:8\n" + text.replace(".", ","))
    done = run(
        "predict", model, tmp_path / "x.txt", "--delimiter", ":", "--decimal", "comma", "--header", "--columns", "7,8"
    )
    np.testing.assert_array_equal(labels(done), LABELS)
    done = run("predict", model, tmp_path / "x.txt", "--delimiter", ":", "--decimal", ",", "--no-header")
    np.testing.assert_array_equal(labels(done)[1:], LABELS)
    for word, mark in (("tab", "\t"), ("blank", " "), ("semicolon", ";")):
        (tmp_path / "y.txt").write_text(text.replace(":", mark))
        np.testing.assert_array_equal(labels(run("predict", model, tmp_path / "y.txt", "--delimiter", word)), LABELS)
    fails(run("fit", tmp_path / "x.txt", "--delimiter", "ab"), "'ab' cannot part columns", 2)
    fails(run("fit", tmp_path / "x.txt", "--decimal", ";"), "';' is no decimal mark", 2)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(name, model):
    text = "height;weight\n" + "".join(f"{a:.6f};{b:.6f}\n" for a, b in X)
    for content in (text.encode(), gzip.compress(text.replace(".", ",").encode())):
        done = subprocess.run([*COMMAND, "predict", str(model), name], input=content, capture_output=True)
        np.testing.assert_array_equal([int(label) for label in done.stdout.split()[1:]], LABELS)


WEIGHT = np.random.default_rng(2).integers(0, 3, 80).astype(float)


def test_weights_are_counts_of_rows(tmp_path):
    """Weights that are counts give the fit of the repeated rows, and its BIC; the n of BIC is said."""
    weighted = write(tmp_path / "w.csv", "height,w,weight", np.insert(X, 1, WEIGHT, axis=1))
    repeated = write(tmp_path / "r.csv", "height,weight", np.repeat(X, WEIGHT.astype(int), axis=0))
    n, shown = int(WEIGHT.sum()), {}
    for options in (
        ("-k", "2"),
        ("-k", "2", "--restarts", "4"),
        ("-k", "1:2", "--covariance", "diag", "--budget", "100"),
    ):
        for path, weights in ((weighted, ("--weights", "w")), (repeated, ())):
            done = run("fit", path, *options, *weights, "--no-verify", "--out", tmp_path / "m", "--force")
            assert done.returncode == 0, done.stderr
            shown[path] = [
                float(re.search(rf"^{name} +(\S+)", done.stdout, re.M)[1]) for name in ("log-likelihood", "BIC")
            ]
            assert (f"n is {n}, the sum of the weights" in done.stdout) == bool(weights)
            assert (f"80 rows, 2 columns, weights that sum to {n};" in done.stdout) == bool(weights)
            assert load_model(tmp_path / "m").columns == ("height", "weight")
        np.testing.assert_allclose(shown[weighted], shown[repeated], rtol=1e-6)


def test_weights_of_a_score(model, tmp_path):
    path = write(tmp_path / "w.csv", "w,height,weight", np.insert(X, 0, WEIGHT / 2, axis=1))
    done = run("score", model, path, "--weights", "w")
    total, n = (WEIGHT / 2 * LOG_PROB).sum(), WEIGHT.sum() / 2
    for line in (f"log_likelihood {total:.6f}", f"per_row {total / n:.6f}", "rows 80", f"weights {n:g}"):
        assert line in done.stdout.splitlines()
    assert f"bic {9 * np.log(n) - 2 * total:.6f}" in done.stdout
    assert done.stderr == ""
    assert "verified: yes" in run("verify", model, path, "--weights", "w").stdout


def test_weights_that_are_none(tmp_path):
    path = write(tmp_path / "w.csv", "w,height,weight", np.insert(X, 0, WEIGHT, axis=1))
    fails(run("fit", path, "--weights", "v"), "has no column 'v'; it has w, height, weight")
    fails(run("fit", path, "--weights", "w", "--columns", "w,height"), "named by --weights and among the columns", 2)
    negative = write(tmp_path / "n.csv", "w,height", np.insert(X, 0, WEIGHT - 1, axis=1)[:, :2])
    fails(run("fit", negative, "--weights", "w"), rf"column 'w' holds the weight -1 \(row {np.argmin(WEIGHT) + 1}\)")
    fails(run("fit", write(tmp_path / "z.csv", "w,a", 0 * X), "--weights", "w"), "no weight above zero")
    fails(run("fit", write(tmp_path / "o.csv", "w", X[:, :1]), "--weights", "w"), "no column beside the weights")


@pytest.mark.skipif(not hasattr(jaxem, "sorted_components"), reason="the function comes with another change")
@pytest.mark.parametrize("order", ["weight", "mean"])
def test_components_in_order(order, tmp_path):
    path, out = write(tmp_path / "x.csv", "height,weight", X), tmp_path / "m"
    for seed in range(3):
        done = run("fit", path, "-k", 2, "--no-verify", "--order", order, "--seed", seed, "--out", out, "--force")
        assert done.returncode == 0, done.stderr
        mixture = load_model(out).mixture
        key = -np.asarray(mixture.weights) if order == "weight" else np.asarray(mixture.components.means)[:, 0]
        assert key[0] < key[1]
        assert f"{mixture.weights[0]:.5f}" in re.search(r"(?m)^ +0 +.*", done.stdout)[0]


HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e"


def test_escape_sequences_do_not_reach_the_terminal(tmp_path):
    """Of column names, cells and names of files, on stdout and stderr; files get the names as they are."""
    folder = tmp_path / HOSTILE
    folder.mkdir()
    path, out = write(folder / "x.csv", f'"{HOSTILE}",b', X), folder / "m"
    (folder / "text.csv").write_text(f"a,b\n1,{HOSTILE}\n")
    (folder / "header.csv").write_text(f"{HOSTILE},{HOSTILE}\n1,2\n")
    for arguments, code in (
        (("fit", path, "-k", 1, "--no-verify", "--out", out), 0),
        (("fit", path, "-k", 1, "--no-verify", "--out", out), 2),
        (("fit", path, "-k", 1, "--no-verify", "--report", folder / "r.html", "--plot", folder / "r.png"), 0),
        (("fit", path, "--plot", folder / f"p.{HOSTILE}"), 2),
        (("sample", out, "-n", 3), 0),
        (("sample", out, "-n", 3, "--out", folder / "s.csv"), 0),
        (("predict", out, folder / "text.csv"), 1),
        (("fit", folder / "text.csv"), 1),
        (("fit", folder / "header.csv"), 1),
        (("fit", path, "--columns", "c"), 1),
        (("fit", folder / f"{HOSTILE}.csv"), 1),
        (("fit", path, "--weights", HOSTILE, "--columns", HOSTILE), 2),
        (("score", folder / "text.csv", path), 1),
    ):
        done = run(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        for text in (done.stdout, done.stderr):
            assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}, text
    assert load_model(out).columns == (HOSTILE, "b")
    assert (folder / "s.csv").read_text(encoding="utf-8").startswith(f"{HOSTILE},b,component\n")


@pytest.mark.parametrize(
    "setting", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_a_terminal_without_umlauts_is_no_error(setting, tmp_path):
    path = write(tmp_path / "Größe.csv", "b,Größe", X)
    done = run_process("fit", path, "-k", 1, "--no-verify", "--columns", "Größe", "--out", tmp_path / "m", **setting)
    assert done.returncode == 0, done.stderr
    assert load_model(tmp_path / "m").columns == ("Größe",)
    assert run_process("sample", tmp_path / "m", "-n", 2, **setting).returncode == 0
    done = run_process("fit", path, "--columns", "Länge", **setting)
    assert done.returncode == 1
    assert "has no column" in done.stderr


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"jaxem {jaxem.__version__}\n")


@pytest.mark.parametrize("word", ["diag", "diagonal", "Diagonal", "DIAG"])
def test_forms_by_their_other_names(word, tmp_path):
    done = run("fit", write(tmp_path / "x.csv", "a,b", X), "-k", 1, "--no-verify", "--covariance", word)
    assert "1 component, diag covariances" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="files of POSIX")
def test_what_is_no_file_is_refused(model, tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zero.csv"):
        fails(run("fit", tmp_path / name), "no regular file; give one, or - to read standard input")
        fails(run("predict", model, tmp_path / name), "no regular file")
    for out in (tmp_path / "pipe.csv", "/dev/null"):
        fails(run("fit", "--out", out, "--force"), "no regular file; give the name of one")
    fails(run("predict", tmp_path / "pipe.csv"), "no regular file")


def test_a_full_disk_is_one_line_with_the_path(model, tmp_path):
    """Of a file that is written; what was printed before is not lost."""
    out = tmp_path / "labels.csv"
    out.write_text("old")
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with mock.patch("os.fsync", full):
        fails(run("sample", model, "--out", out, "--force"), f"No space left on device: '{out}'")
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["labels.csv"]


def test_warnings_are_notes_in_one_line(model, monkeypatch):
    code = (
        "import sys, warnings; sys.argv = ['jaxem', 'score']; import jaxem.cli.terminal as terminal\n"
        "terminal.run(lambda: warnings.warn('one\\nthing'))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stderr == "jaxem: note: one thing\n"
