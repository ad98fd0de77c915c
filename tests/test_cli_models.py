"""Models on the command line: compared side by side, converted to JSON and npz and back; JSON for programs; completions."""

import csv
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score

import jaxem
from jaxem import exchange, io
from tests.cases import ORACLES, named
from tests.test_cli import fails, run, run_process

RNG = np.random.default_rng(4)
X = np.concatenate([RNG.normal([0, 5], 1, (60, 2)), RNG.normal([6, -5], 1, (40, 2))]).round(4)


def gaussian(weights, means, covariances):
    parameters = jaxem.GaussianParams(np.array(means, float), np.array(covariances, float))
    return jaxem.Mixture(np.log(weights), parameters, jaxem.Full())


A = gaussian([0.6, 0.4], [[0, 5], [6, -5]], [np.eye(2), np.eye(2)])
B = gaussian([0.4, 0.3, 0.3], [[6, -5], [-0.5, 5], [0.5, 5]], [np.eye(2), [[1, 0.3], [0.3, 1]], np.eye(2)])


def log_joint(mixture, x=X):
    """By scipy."""
    weights, (means, covariances) = np.exp(mixture.log_weights), mixture.components
    densities = [multivariate_normal(m, s).logpdf(x) for m, s in zip(means, covariances, strict=True)]
    return np.log(weights) + np.stack(densities, axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    io.save(A, path / "a", columns=["u", "v"])
    swapped = jaxem.GaussianParams(B.components.means[:, ::-1], B.components.covariances[:, ::-1, ::-1])
    io.save(jaxem.Mixture(B.log_weights, swapped, B.family), path / "b", columns=["v", "u"])
    np.savetxt(path / "x.csv", np.column_stack([X[:, 1], np.arange(1, 101), X[:, 0]]), delimiter=",", comments="",
               header="v,id,u", fmt=["%.4f", "%d", "%.4f"])  # fmt: skip
    return path


def record(done, command):
    """The one object on stdout; NaN is not in it."""
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (found["command"], found["schema"], found["jaxem"]) == (command, 1, jaxem.__version__)
    return found


def test_two_models_on_data(folder):
    """Against scipy's densities and scikit-learn's index; columns are found by name, in any order."""
    done = run("compare", folder / "a", folder / "b", folder / "x.csv", "--json")
    assert done.returncode == 0, done.stderr
    found = record(done, "compare")
    labels = {}
    for name, mixture, p in (("a", A, 11), ("b", B, 17)):
        joint = log_joint(mixture)
        totals = np.logaddexp.reduce(joint, axis=1)
        labels[name] = joint.argmax(axis=1)
        bic = p * np.log(100) - 2 * totals.sum()
        expected = {"log_likelihood": totals.sum(), "bic": bic, "aic": 2 * p - 2 * totals.sum(),
                    "icl": bic - 2 * (joint.max(axis=1) - totals).sum(), "n_parameters": p}  # fmt: skip
        for key, value in expected.items():
            assert found[name][key] == pytest.approx(value, rel=1e-9), key
    agreement = found["agreement"]
    assert agreement["adjusted_rand"] == pytest.approx(adjusted_rand_score(labels["a"], labels["b"]))
    matching = {one["a"]: one["b"] for one in agreement["matching"]}
    assert matching[1] == 0
    assert matching[0] == np.bincount(labels["b"], minlength=3)[1:].argmax() + 1
    assert (found["rows"], found["columns"], found["divergence"]) == (100, ["u", "v"], None)
    text = run("compare", folder / "a", folder / "b", folder / "x.csv").stdout
    assert f"{found['b']['bic']:.3f}" in text
    assert "BIC is less for A" in text


def test_equal_models_agree(folder):
    found = record(run("compare", folder / "b", folder / "b", folder / "x.csv", "--json"), "compare")["agreement"]
    assert (found["adjusted_rand"], found["same_label"]) == (1.0, 1.0)
    assert [(one["a"], one["b"]) for one in found["matching"]] == [(0, 0), (1, 1), (2, 2)]


def test_two_models_without_data(folder, tmp_path):
    """The divergence of two Gaussians, of which there is a formula."""
    io.save(gaussian([1.0], [[0, 0]], [np.eye(2)]), tmp_path / "p", columns=["u", "v"])
    io.save(gaussian([1.0], [[1, 2]], [2 * np.eye(2)]), tmp_path / "q", columns=["u", "v"])
    found = record(run("compare", tmp_path / "p", tmp_path / "q", "--json"), "compare")
    for key, exact in (
        ("of_b_from_a", 0.5 * (1 + 2.5 - 2 + np.log(4))),
        ("of_a_from_b", 0.5 * (4 + 5 - 2 - np.log(4))),
    ):
        one = found["divergence"][key]
        assert abs(one["value"] - exact) < 5 * one["standard_error"] < 0.5
    assert found["agreement"] is None
    assert "nats, standard error" in run("compare", tmp_path / "p", tmp_path / "q").stdout


def test_models_of_different_columns_are_not_compared(folder, tmp_path):
    io.save(A, tmp_path / "other", columns=["u", "w"])
    io.save(A.marginal(0), tmp_path / "one")
    fails(
        run("compare", folder / "a", tmp_path / "other"), "different columns: A has u, v; B has u, w; compare models of"
    )
    fails(run("compare", folder / "a", tmp_path / "one", folder / "x.csv"), "A has 2 columns, B has 1")
    io.save(A, tmp_path / "unnamed")
    done = run("compare", folder / "a", tmp_path / "unnamed", folder / "x.csv")
    assert "one of the models has no names of columns" in done.stderr


# -- other formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("case", **named([case for case in ORACLES if type(case.family).__name__ in io.FAMILIES]))
def test_every_family_comes_back(case, suffix, tmp_path):
    """Bit for bit, and by the way of the other format a model file that says the same."""
    with jax.enable_x64(True):
        mixture = case.mixture()
        columns = [f"Größe {j}" for j in range(mixture.family.n_features(mixture.components))]
        exchange.write_model(mixture, tmp_path / f"m{suffix}", columns=columns)
        back = exchange.read_model(tmp_path / f"m{suffix}")
        assert back.columns == tuple(columns)
        assert back.mixture.family == mixture.family
        for one, other in zip(jax.tree.leaves(back.mixture), jax.tree.leaves(mixture), strict=True):
            np.testing.assert_array_equal(one, other)


def test_convert_there_and_back(folder, tmp_path):
    for before, after in (("a", "a.json"), ("a.json", "a.npz"), ("a.npz", "a.safetensors")):
        source = folder / before if before == "a" else tmp_path / before
        done = run("convert", source, tmp_path / after)
        assert done.returncode == 0, done.stderr
    with jax.enable_x64(True):
        first, last = io.load_model(folder / "a"), io.load_model(tmp_path / "a.safetensors")
    assert last.columns == first.columns == ("u", "v")
    for one, other in zip(jax.tree.leaves(first.mixture), jax.tree.leaves(last.mixture), strict=True):
        np.testing.assert_array_equal(one, other)
    text = json.loads((tmp_path / "a.json").read_text())
    assert (text["family"], text["columns"], text["components"]["means"]) == (
        {"Full": {}},
        ["u", "v"],
        [[0, 5], [6, -5]],
    )
    assert text["weights"] == pytest.approx([0.6, 0.4])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["components.means"], A.components.means)
    assert (
        run("predict", tmp_path / "a.json", folder / "x.csv").stdout
        == run("predict", folder / "a", folder / "x.csv").stdout
    )
    fails(run("convert", folder / "a", tmp_path / "a.json"), "exists.*--force", code=2)
    assert run("convert", folder / "a", tmp_path / "a.json", "--force").returncode == 0


@pytest.mark.parametrize("name", ["m.joblib", "m.pkl", "m.pickle", "m.pt"])
def test_pickles_are_refused_in_both_directions(name, folder, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    fails(run("convert", folder / "a", tmp_path / name, "--force"), "can run any code when it is loaded", code=2)
    fails(run("convert", tmp_path / name, tmp_path / "m.json"), "can run any code when it is loaded", code=2)
    fails(run("predict", tmp_path / name, folder / "x.csv"), "can run any code when it is loaded")
    fails(run("fit", "--out", tmp_path / f"new.{name}"), "a model is written as safetensors", code=2)
    fails(run("convert", folder / "a", tmp_path / "m.xml"), "names no format; give .safetensors, .json, .npz", code=2)


def lies(found):
    """Changes of the record of A, each of which must be refused, and what is said of it."""
    means = found["components"]["means"]
    return {
        "a key more": ({**found, "more": 1}, "the keys are"),
        "a key less": ({key: value for key, value in found.items() if key != "family"}, "the keys are"),
        "a component more": ({**found, "components": {**found["components"], "more": [1]}}, "'components.more' is not expected"),
        "a component less": ({**found, "components": {"means": means}}, "covariances is not a list of numbers of shape"),
        "another shape": ({**found, "components": {**found["components"], "means": means[:1]}}, "means is not a list"),
        "a text": ({**found, "components": {**found["components"], "means": [["0", 5], [6, -5]]}}, "means is not a list"),
        "true": ({**found, "components": {**found["components"], "means": [[True, 5], [6, -5]]}}, "means is not a list"),
        "too large": ({**found, "sha256": None, "components": {**found["components"], "means": [[10**400, 5], [6, -5]]}}, "m"),
        "no covariance": ({**found, "sha256": None, "components": {**found["components"], "covariances": [[[1, 2], [2, 1]]] * 2}},
                          "components.covariances"),
        "no weights": ({**found, "weights": [0.6, 0.6], "log_weights": None, "sha256": None}, "log_weights do not belong"),
        "two kinds of weights": ({**found, "weights": [0.5, 0.5]}, "weights are not those of log_weights"),
        "a number changed": ({**found, "components": {**found["components"], "means": [[0, 5.5], [6, -5]]}}, "sha256 does not"),
        "a name changed": ({**found, "columns": ["u", "w"]}, "sha256 does not match"),
        "another dtype": ({**found, "dtype": "object"}, "dtype is 'object'"),
        "a family": ({**found, "family": {"os.system": {}}}, "family is"),
        "a number of features": ({**found, "n_features": 10**8}, "n_features|columns"),
        "a list": ([found], "the keys are list"),
    }  # fmt: skip


LIES = lies(exchange.model_record(A, ["u", "v"]))


@pytest.mark.parametrize(("changed", "message"), LIES.values(), ids=LIES)
def test_a_lie_in_json_is_named(changed, message, tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(changed))
    with pytest.raises(io.ModelFormatError, match=message) as error:
        exchange.read_model(tmp_path / "m.json")
    assert "\n" not in str(error.value)


def test_json_that_another_program_wrote(tmp_path):
    """The weights alone, without a digest; whole numbers are numbers; a name twice and NaN are refused."""
    found = exchange.model_record(A, ["u", "v"])
    plain = {key: value for key, value in found.items() if key not in ("log_weights", "sha256", "dtype")}
    (tmp_path / "m.json").write_text(json.dumps({**plain, "weights": [0.75, 0.25]}))
    with jax.enable_x64(True):
        mixture = exchange.read_model(tmp_path / "m.json").mixture
    np.testing.assert_allclose(mixture.weights, [0.75, 0.25])
    assert mixture.components.means.tolist() == [[0, 5], [6, -5]]
    for text, message in (
        (json.dumps(plain).replace('"format"', '"format": "x", "format"', 1), "twice"),
        (json.dumps(plain).replace("0.6", "NaN", 1), "NaN is no number of JSON"),
        ("[" * 100_000, "not the JSON"),
        ("", "not the JSON"),
    ):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(io.ModelFormatError, match=message):
            exchange.read_model(tmp_path / "m.json")


def test_npz_files_that_are_no_models(tmp_path):
    """Objects, compressed bombs, headers that lie, changed numbers and every truncation."""
    path = tmp_path / "m.npz"
    exchange.write_model(A, path, columns=["u", "v"])
    whole = path.read_bytes()
    with np.load(path) as arrays:
        entries = dict(arrays)
    for changed, message in (
        ({**entries, "components.means": entries["components.means"] + 1}, "sha256 does not match"),
        ({**entries, "more": np.zeros(2)}, "arrays are"),
        ({**entries, "log_weights": entries["log_weights"].astype(object)}, "no array of numpy|no model's"),
        ({**entries, "components.means": entries["components.means"][:1]}, "has the shape"),
        ({**entries, "metadata": np.array("{")}, "metadata is not JSON"),
        ({key: value for key, value in entries.items() if key != "metadata"}, "holds no 'metadata'"),
    ):
        np.savez(path, **changed)
        with pytest.raises(io.ModelFormatError, match=message):
            exchange.read_model(path)
    np.savez_compressed(path, **entries)
    with pytest.raises(io.ModelFormatError, match="is compressed"):
        exchange.read_model(path)
    np.savez(path, **entries)
    path.write_bytes(path.read_bytes().replace(b"'shape': (2, 2), }" + b" " * 8, b"'shape': (99999999, 2), } "))
    with pytest.raises(io.ModelFormatError):
        exchange.read_model(path)
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(io.ModelFormatError):
            exchange.read_model(path)


# -- for programs --------------------------------------------------------------------------------------------------------


def test_a_fit_as_json(folder, tmp_path):
    """Nothing else on stdout; the model in it is the one that is saved, and can be read back."""
    out, picture = tmp_path / "m", tmp_path / "fit.png"
    done = run("fit", folder / "x.csv", "-k", "1:2", "--no-verify", "--json", "--out", out, "--plot", picture)
    assert done.returncode == 0, done.stderr
    found = record(done, "fit")
    assert [(one["n_components"], one["chosen"]) for one in found["candidates"]] == [(1, False), (2, True)]
    assert (found["rows"], found["columns"], found["status"], found["converged"]) == (
        100,
        ["v", "u"],
        "CONVERGED",
        True,
    )
    assert found["bic"] == pytest.approx(11 * np.log(100) - 2 * found["log_likelihood"])
    assert (found["verification"], found["errors"]) == (None, None)
    assert found["files"] == {"out": str(out), "plot": str(picture), "report": None}
    (tmp_path / "m.json").write_text(json.dumps(found["model"]))
    assert run("predict", tmp_path / "m.json", folder / "x.csv").stdout == run("predict", out, folder / "x.csv").stdout
    assert done.stderr.splitlines() == [
        "jaxem: note: identifier column left out: id; it tells the rows apart; name the columns to use with --columns to keep it"
    ]


def test_a_score_as_json(folder, tmp_path):
    done = run("score", folder / "a", folder / "x.csv", "--json")
    found, total = record(done, "score"), np.logaddexp.reduce(log_joint(A), axis=1).sum()
    assert found["log_likelihood"] == pytest.approx(total)
    assert (found["per_row"], found["sum_of_weights"]) == (pytest.approx(total / 100), None)
    assert fails(run("fit", tmp_path / "nothing.csv", "--json"), "does not exist").stdout == ""


def test_numbers_that_json_lacks_are_null():
    from jaxem.cli.records import plain

    assert plain({"a": np.array([1.0, np.nan]), "b": (np.inf, 2, None, "x", True)}) == {
        "a": [1.0, None],
        "b": [None, 2, None, "x", True],
    }


# -- the shell -----------------------------------------------------------------------------------------------------------


def completed(line):
    """What bash is offered, by a process that must not import JAX."""
    code = (
        "import sys, atexit; sys.argv = ['jaxem']; from jaxem.cli import main\n"
        "atexit.register(lambda: print('' if 'jax' not in sys.modules else 'JAX', file=sys.stderr)); main()"
    )
    words = {"_JAXEM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **words})
    assert done.stderr.strip() == ""
    return done.stdout.split()


def test_completions(monkeypatch):
    assert completed("jaxem co") == ["compare", "convert"]
    assert completed("jaxem fit --covariance sph") == ["spherical"]
    assert completed("jaxem fit --covariance full,ti") == ["full,tied"]
    assert set(completed("jaxem fit --family st")) == {"student-t"}
    assert completed("jaxem fit --init k") == ["k-means++", "kmeans"]
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # the shell is named, not looked for
    done = run_process("--show-completion", "bash")
    assert "_JAXEM_COMPLETE=complete_bash" in done.stdout


def test_every_help_shows_examples_and_no_type_of_a_flag():
    for command in ("fit", "test", "predict", "score", "sample", "verify", "compare", "convert"):
        text = run(command, "--help").stdout
        assert "Example" in text
        assert f"jaxem {command} " in text.split("Example")[1]
        assert "<bool>" not in text
        assert "[data]" not in text
    text = run("--help").stdout
    assert "Exit codes" in text
    assert "<bool>" not in text


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "jaxem", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"jaxem {jaxem.__version__}\n")


# -- tables --------------------------------------------------------------------------------------------------------------


def test_labels_are_appended_to_the_table(folder, tmp_path):
    """All columns as they are in the file; a row that is left out keeps its cells and gets none."""
    lines = (folder / "x.csv").read_text().splitlines()
    lines[0] += ",kind,component"
    lines[1:] = [f'{line},"a, b",7' for line in lines[1:]]
    lines[3] = 'NA,3,1.5,"a, b",7'
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines) + "\n")
    done = run("predict", folder / "a", path, "--append", "--drop-missing")
    rows = list(csv.reader(done.stdout.splitlines()))
    assert rows[0] == ["v", "id", "u", "kind", "component", "component of the model"]
    assert [row[:5] for row in rows] == list(csv.reader(lines))
    assert rows[3][5] == ""
    labels = np.delete(log_joint(A).argmax(axis=1), 2)
    assert [int(row[5]) for row in rows[1:] if row[5]] == labels.tolist()
    np.save(tmp_path / "x.npy", X)
    rows = list(csv.reader(run("predict", folder / "a", tmp_path / "x.npy", "--append", "--proba").stdout.splitlines()))
    assert rows[0] == ["x1", "x2", "p0", "p1"]
    assert [float(cell) for cell in rows[1][:2]] == X[0].tolist()


def test_a_stranger_fits_a_table(tmp_path):
    """Text, an identifier, weights and a dropped column at once; the notes name each, and the model knows what is left."""
    rows = [f"{i + 1},{'mf'[i % 2]},{a},{b},2,{a + b:.4f}" for i, (a, b) in enumerate(X)]
    (tmp_path / "x.csv").write_text("id,sex,u,v,w,sum\n" + "\n".join(rows) + "\n")
    fit = ("fit", tmp_path / "x.csv", "-k", 2, "--no-verify", "--weights", "w", "--drop", "sum", "--json")
    done = run(*fit, "--out", tmp_path / "m.safetensors")
    assert done.returncode == 0, done.stderr
    found = record(done, "fit")
    assert (found["columns"], found["sum_of_weights"]) == (["u", "v"], 200.0)
    assert [line.split(": ", 2)[2] for line in done.stderr.splitlines()] == [
        "text column left out: sex; give --columns to choose",
        "identifier column left out: id; it tells the rows apart; name the columns to use with --columns to keep it",
    ]
    assert run("predict", tmp_path / "m.safetensors", tmp_path / "x.csv").returncode == 0
    fails(
        run("predict", tmp_path / "m.safetensors", tmp_path / "x.csv", "--drop", "u"), "lacks the column u of the model"
    )
    fails(run("fit", tmp_path / "x.csv", "--drop", "age"), "has no column 'age'; it has id, sex, u, v, w, sum")
    fails(
        run("fit", tmp_path / "x.csv", "--columns", "u,sex"), "column 'sex' is not numeric but string .line 2 holds 'm'"
    )
    streamed = record(run("fit", *fit[1:], "--stream", "--drop", "sum,id"), "fit")
    assert streamed["columns"] == ["u", "v"]
    assert streamed["log_likelihood"] == pytest.approx(found["log_likelihood"], rel=1e-6)


def test_the_first_of_many_columns(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 8)).round(4)
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", comments="", header=",".join("abcdefgh"), fmt="%.4f")
    done = run("fit", tmp_path / "x.csv", "-k", 2, "--no-verify", "--covariance", "spherical")
    assert "(the first 6 of 8 columns; --out saves all)" in done.stdout


@pytest.mark.parametrize(
    ("value", "single", "shown"),
    [
        (-48176024.0, True, "-48176024"),
        (-1130.26396, True, "-1130.264"),
        (-1130.26396, False, "-1130.26396"),
        (2.5, True, "2.50000"),
    ],
)
def test_no_digit_is_shown_that_float32_does_not_have(value, single, shown):
    from jaxem.cli.words import _with_digits

    assert _with_digits(value, 5, single) == shown
