"""The command line as a stranger uses it: what it prints, what it refuses, and with which exit code.

Most commands run in this process, which has JAX and its programs. A process is started for what depends on one: signals,
full and closed pipes, settings of JAX, the programs that are compiled.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from io import StringIO
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest

import jaxem
from jaxem import cli, io
from tests.cases import reference_mixture

COMMAND = [sys.executable, "-m", "jaxem.cli"]


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments):
    """A command in this process."""
    stdout, stderr = StringIO(), StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, COLUMNS="80"))
        stack.enter_context(mock.patch("jaxem.cli.terminal._DEBUGGING", []))
        stack.enter_context(contextlib.redirect_stdout(stdout))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        left = stack.enter_context(pytest.raises(SystemExit))
        cli.app([*map(str, arguments)], prog_name="jaxem")
    return Done(left.value.code, stdout.getvalue(), stderr.getvalue())


def run_process(*arguments, **environment):
    """A command in a process of its own."""
    command, environment = [*COMMAND, *map(str, arguments)], {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def fails(done, message, code=1):
    assert done.returncode == code, (done.returncode, done.stderr)
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1
    return done


def load(path):
    """A saved model with all its digits; the command line saves float64."""
    with jax.enable_x64(True):
        return io.load(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved model: the best known fit of two components to Old Faithful."""
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    io.save(reference_mixture("faithful", 2, "full"), path)
    return path


def programs(done):
    """What a process compiled, without moves of data."""
    names = set(re.findall(r"Finished XLA compilation of jit\((\w+)\)", done.stderr))
    return names - {"stage", "_threefry_seed", "convert_element_type"}


def test_fit_without_a_file(tmp_path):
    """The starts of a search are one program, its climbs one, the laws one."""
    path = tmp_path / "m.safetensors"
    done = run_process("fit", "--no-cache", "--out", path, JAX_LOG_COMPILES="1")
    assert done.returncode == 0, done.stderr
    assert programs(done) == {"_open_round", "_run", "_try_all"}
    for expected in (
        "Old Faithful (bundled): 272 rows, 2 columns",
        "log-likelihood  -1130.26396",
        "BIC             2322.192 (lower is better)",
        "CONVERGED",
        "Landscape of optima",
        "laws hold",
        f"saved to {path}",
    ):
        assert expected in done.stdout, done.stdout
    assert re.search(r"Verified by autodiff: (\d+) of \1 laws hold", done.stdout)
    np.testing.assert_allclose(sorted(load(path).weights), [0.355872857106, 0.644127142894], atol=1e-5)


def test_predict_score_and_sample(model, tmp_path):
    with jax.enable_x64(True):
        resp = np.asarray(load(model).responsibilities(jaxem.datasets.faithful()))
    x = jaxem.datasets.faithful()
    labels = run("predict", model).stdout.split()
    assert labels[0] == "component"
    np.testing.assert_array_equal([int(label) for label in labels[1:]], resp.argmax(axis=1))

    np.savetxt(tmp_path / "x.csv", x[:5], delimiter=",", header="a,b", comments="")
    rows = run("predict", model, tmp_path / "x.csv", "--proba").stdout.splitlines()
    assert rows[0] == "p0,p1"
    found = np.array([row.split(",") for row in rows[1:]], float)
    np.testing.assert_allclose(found, resp[:5], atol=1e-5)

    done = run("score", model)
    assert "log_likelihood -1130.263960" in done.stdout
    assert "bic 2322.19" in done.stdout

    one, other = (run("sample", model, "-n", 7, "--seed", 3).stdout for _ in range(2))
    assert one == other
    assert one.splitlines()[0] == "x1,x2,component"
    assert len(one.splitlines()) == 8
    done = run("sample", model, "-n", 7, "--seed", 3, "--out", tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == one
    assert "saved" in done.stderr


def test_verify(model):
    done = run("verify", model)
    assert done.returncode == 0
    assert "stationary   holds" in done.stdout
    assert "verified: yes" in done.stdout
    found = json.loads(run("verify", model, "--json").stdout)
    assert (found["command"], found["ok"]) == ("verify", True)
    assert {"name", "residual", "tolerance", "ok", "reason"} == set(found["laws"][0])


def test_options_of_fit(tmp_path):
    np.save(tmp_path / "x.npy", jaxem.datasets.faithful())
    done = run(
        "fit", tmp_path / "x.npy", "-k", 3, "--covariance", "tied", "--restarts", 8, "--seed", 1, "--init", "kmeans",
        "--max-iter", 2, "--no-verify", "--columns", "x2,x1", "--chunk-size", 50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MAX_ITER after 2 passes: not converged, raise --max-iter" in done.stdout
    assert "mean x2  mean x1" in done.stdout
    assert "Verified" not in done.stdout


def test_restarts_of_one_kind():
    done = run("fit", "--restarts", 12, "--init", "random", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert "Landscape of optima, 12 restarts" in done.stdout
    assert "log-likelihood  -1130.26396" in done.stdout


@pytest.mark.parametrize(
    ("counts", "covariance", "models"), [("2:3", "tied", 2), pytest.param("2:3", "all", 8, marks=pytest.mark.slow)]
)
def test_select(counts, covariance, models, tmp_path):
    """The table of criteria, the best of it printed and saved."""
    path = tmp_path / "m.safetensors"
    done = run("fit", "-k", counts, "--covariance", covariance, "--budget", 150, "--no-verify", "--out", path)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("\n\n")[0].splitlines()
    assert len(table) == models + 2  # a head, and a line that says n
    assert table[0].endswith("less is better")
    chosen = [line for line in table if line.endswith("chosen")]
    assert [line.split()[:2] for line in chosen] == [["3", "Tied"]]
    assert "3 components, tied covariances" in done.stdout
    assert type(load(path).family).__name__ == "Tied"


def test_refusals_of_ranges_and_budgets():
    fails(run("fit", "-k", "3:1"), "smaller number first", 2)
    fails(run("fit", "-k", "1:1000"), "at most 100", 2)
    for text in ("two", "1-6", "1,2,3", "1:6:2", "1..6", "2.5", ""):
        fails(run("fit", "-k", text), f"'{re.escape(text)}' is not a whole number; give a number or", 2)
    fails(run("fit", "--budget", 0), "0 is out of range", 2)
    fails(run("fit", "-k", "1:3", "--restarts", 4), "or --init exclude", 2)
    fails(run("fit", "--budget", 100, "--init", "random"), "or --init exclude", 2)
    fails(run("fit", "--tol", "nan"), "not a tolerance", 2)
    fails(run("fit", "--tol", -1), "not a tolerance", 2)


def test_help():
    done = run_process("--help")
    assert done.returncode == 0
    for command in ("fit", "predict", "score", "sample", "verify"):
        assert command in done.stdout
        assert run(command, "--help").returncode == 0


def test_refusals(model, tmp_path):
    path = model
    text = tmp_path / "text.csv"
    text.write_text("a,b\n1,2\n3,red\n")
    (tmp_path / "nan.csv").write_text("a,b\n1,2\n3,nan\n")
    (tmp_path / "bad.safetensors").write_bytes(path.read_bytes()[:-5])
    before = path.read_bytes()
    fails(run("fit", text), "column 'b' is not numeric")
    fails(run("fit", "-k", "1-6"), "'1-6' is not a whole number; give a number or a range", 2)
    fails(run("fit", tmp_path / "nan.csv"), "line 3, column 'b'")
    fails(run("fit", tmp_path / "nothing.csv"), "does not exist")
    fails(run("fit", "-k", 0), "0 is out of range", 2)
    fails(run("fit", "-k", 10**12), "exceeds the 272 rows")
    fails(run("fit", "--restarts", 0), "0 is out of range", 2)
    fails(run("fit", "--max-iter", -3), "-3 is out of range", 2)
    fails(run("fit", "--out", path), "exists.*--force", 2)
    assert path.read_bytes() == before
    fails(run("fit", "--out", tmp_path / "no" / "m"), "does not exist; make it first")
    fails(run("predict", tmp_path / "bad.safetensors"), "not whole")
    fails(run("predict", tmp_path / "nothing"), "does not exist")
    fails(run("predict", path, "--columns", "waiting"), "x has 1 columns, the mixture 2")
    fails(run("fit", "--covariance", "banded"), "'banded' is none of full, tied, diag", code=2)
    fails(run("fit", "--covariance", "sperical"), "did you mean", code=2)
    fails(run("fit", "--init", "kmean"), "did you mean", code=2)
    fails(run("fit", "--order", "height"), "'height' is none of weight, mean", code=2)
    fails(run("fit", "--out", tmp_path / "a", "--report", tmp_path / "a"), "name one file twice", code=2)
    fails(run("predict", path, "--out", path), "exists.*--force", 2)
    fails(run("sample", path, "--out", path), "exists.*--force", 2)
    fails(run("fit", "--colour", "red"), "No such option", code=2)
    fails(run("nonsense"), "No such command", code=2)


def test_degenerate_data_get_advice(tmp_path):
    rng = np.random.default_rng(0)
    np.savetxt(
        tmp_path / "c.csv",
        np.column_stack([rng.normal(size=50), np.ones(50), rng.normal(size=50)]),
        delimiter=",",
        header="a,b,c",
        comments="",
    )
    out = tmp_path / "m"
    done = fails(
        run("fit", tmp_path / "c.csv", "-k", 1, "--no-verify", "--out", out),
        "DEGENERATE.*column 'b' is constant.*--columns",
    )
    assert "nan" not in done.stdout.lower()
    assert "BIC" not in done.stdout
    assert not out.exists()
    found = json.loads(run("fit", tmp_path / "c.csv", "-k", 1, "--no-verify", "--json").stdout)
    assert (found["status"], found["bic"], found["model"]) == ("DEGENERATE", None, None)
    done = run("fit", tmp_path / "c.csv", "--columns", "a", "-k", 1, "--no-verify")
    assert done.returncode == 0
    assert "CONVERGED" in done.stdout
    parts = rng.dirichlet(np.ones(3), 50)
    np.savetxt(tmp_path / "p.csv", parts, delimiter=",", header="sand,silt,clay", comments="")
    reason = r"columns depend on each other \(sand \+ silt \+ clay = 1 in all 50 rows\)"
    for route in ((), ("--restarts", 2)):
        fails(
            run("fit", tmp_path / "p.csv", "-k", 1, "--no-verify", *route),
            f"{reason}: leave one of them out with --columns",
        )
    spike = np.r_[rng.normal(size=(30, 1)), np.full((12, 1), 9.0)]
    np.savetxt(tmp_path / "s.csv", spike, delimiter=",", header="size", comments="")
    reason = r"in the best climb component [01] sits on 12 equal rows \(size = 9\): leave these rows out"
    fails(run("fit", tmp_path / "s.csv", "--covariance", "diag", "--restarts", 8, "--no-verify"), reason)


def test_compiled_programs_are_kept_where_the_user_says(model, tmp_path):
    """In $JAXEM_CACHE; nowhere with --no-cache, an empty name or a place that cannot be written to."""
    here, other, data = tmp_path / "here", tmp_path / "other", tmp_path / "x.npy"
    np.save(data, np.random.default_rng(0).normal(size=(40, 2)))
    quick = ("fit", data, "-k", 1, "--covariance", "spherical", "--restarts", 2, "--no-verify", "--max-iter", 3)
    done = run_process(*quick, JAXEM_CACHE=str(here), JAX_LOG_COMPILES="1")
    assert done.returncode == 0, done.stderr
    assert programs(done) == {"_draw_all", "_open_and_run"}  # the starts are one program, fit and best another
    again = run_process(*quick, JAXEM_CACHE=str(here), JAX_LOG_COMPILES="1")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert programs(again) == set()
    assert run_process(*quick, "--no-cache", JAXEM_CACHE=str(other)).returncode == 0
    assert not other.exists()
    for nowhere in ("", str(data / "below a file")):
        done = run_process("score", model, JAXEM_CACHE=nowhere)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_core_is_used_for_much_work_and_the_answer_is_the_same(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3)) + 6 * rng.integers(0, 3, (4000, 1))
    np.save(tmp_path / "x.npy", x)
    options = ("fit", tmp_path / "x.npy", "-k", 3, "--restarts", 150, "--no-verify", "--tol", 1e-6)
    outs = [tmp_path / "many", tmp_path / "one"]
    many = run_process(*options, "--out", outs[0])
    one = run_process(*options, "--out", outs[1], JAX_NUM_CPU_DEVICES="1")
    assert many.returncode == one.returncode == 0, many.stderr + one.stderr
    models = [load(out) for out in outs]
    np.testing.assert_allclose(*(np.sort(model.components.means[:, 0]) for model in models), rtol=1e-6)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_stops_within_seconds(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200_000, 8)))
    out = tmp_path / "m.safetensors"
    process = subprocess.Popen(
        [*COMMAND, "fit", str(tmp_path / "x.npy"), "-k", "20", "--restarts", "500", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip
    time.sleep(8)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    begun = time.perf_counter()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.perf_counter() - begun < 30  # a bound against hanging, not a measurement
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_termination_has_its_own_code(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200_000, 8)))
    command = [*COMMAND, "fit", str(tmp_path / "x.npy"), "-k", "20", "--restarts", "500"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(4)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "terminated" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""


# each is interrupted when it is first imported: by our own package, early and late; the last within the work
MOMENTS = [
    "typer",
    "jaxem.cli.terminal",
    "jaxem.cli.commands",
    "jaxem.datasets",
    "pyarrow",
    "numpy",
    "jax",
    "jaxlib",
    "jaxem.io",
]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", MOMENTS)
def test_signals_while_modules_are_imported(module, number, model):
    """One line and the exit code of the signal, whatever is being imported when it comes."""
    code = (
        "import os, sys, time, jaxem.cli\n"
        "module, number, *arguments = sys.argv[1:]\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == module:\n"
        "            os.kill(os.getpid(), int(number)); time.sleep(20)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['jaxem', *arguments]\n"
        "jaxem.cli.main()"
    )
    (model.parent / "x.csv").write_text("a,b\n1,2\n3,4\n")
    command = [sys.executable, "-c", code, module, str(int(number)), "predict", str(model), str(model.parent / "x.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    word, exit_code = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}[number]
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.strip() == f"jaxem: {word}"
    assert done.stdout == ""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_that_is_ignored_stays_ignored():
    """Such as Ctrl-C in a command that a script put in the background."""
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); from jaxem.cli.signals import listen; listen(); "
    code += "import os; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "alive\n"


def test_rows_too_far_away(model, tmp_path):
    """A row that no component can produce gets no number, and squares that overflow give one line."""
    (tmp_path / "far.csv").write_text("a,b\n3,60\n1e200,0\n")
    fails(run("predict", model, tmp_path / "far.csv", "--proba"), "row 2 is so far")
    fails(run("score", model, tmp_path / "far.csv"), "row 2 is so far")
    fails(run("fit", tmp_path / "far.csv", "--no-verify"), "the squares of column .a. overflow float64: rescale it")


def test_debug_shows_where(tmp_path):
    fails(run("score", tmp_path / "none"), "does not exist")
    shown = run("score", tmp_path / "none", "--debug")
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith("jaxem: error:")


def test_an_unforeseen_error_is_one_line(model, monkeypatch):
    """An error that nobody foresaw prints one line, which says that the fault is in jaxem."""
    monkeypatch.setattr("jaxem.datasets.faithful_table", mock.Mock(side_effect=KeyError("unforeseen")))
    fails(run("score", model), "KeyError: 'unforeseen'; this is a fault of jaxem")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
def test_stdout_may_be_full_or_closed(model):
    command = [*COMMAND, "sample", str(model), "-n", "50000"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    fails(done, "No space left on device")
    line = " ".join(command)
    closed = subprocess.run(f"{line} >&-", shell=True, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_stdout_may_be_closed_early(model):
    done = subprocess.run(
        f"{sys.executable} -m jaxem.cli sample {model} -n 100000 | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "x1,x2,component\n"
    assert "Traceback" not in done.stderr


def test_errors_are_printed_drawn_and_reported(tmp_path):
    """With the names of the columns, and equal to those of Python."""
    page, picture = tmp_path / "fit.html", tmp_path / "fit.png"
    done = run("fit", "--errors", "--no-verify", "--report", page, "--plot", picture)
    assert done.returncode == 0, done.stderr
    x = jaxem.datasets.faithful()
    with jax.enable_x64(True):
        mixture = reference_mixture("faithful", 2, "full")
        expected = jaxem.summary(mixture, x).standard_error.components.means
    for line in done.stdout.splitlines():
        if found := re.match(r"means\[\d, waiting\] +(\S+) +(\S+)", line):
            j = int(np.argmin(np.abs(np.asarray(mixture.components.means[:, 1]) - float(found[1]))))
            assert float(found[2]) == pytest.approx(float(expected[j, 1]), rel=1e-3)
            break
    else:
        pytest.fail(done.stdout)
    assert "How sure" in page.read_text()
    found = json.loads(run("fit", "--errors", "--json").stdout)
    assert found["errors"]["standard_error"]["components.means"][j][1] == pytest.approx(float(expected[j, 1]), rel=1e-3)
    assert found["verification"]["ok"] is True
    assert picture.stat().st_size > 10_000


def test_a_test_for_one_component_more(tmp_path):
    """Two clusters are more than one component, and a picture shows it; wrong numbers are one line."""
    path, picture = tmp_path / "x.csv", tmp_path / "null.png"
    rng = np.random.default_rng(0)
    np.savetxt(path, np.concatenate([rng.normal(size=30), 8 + rng.normal(size=30)]), header="a", comments="")
    done = run("test", path, "-k", 1, "--replicates", 19, "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert "Likelihood ratio test of 1 x Full against 2 x Full" in done.stdout
    assert "p-value    0.05, of 19 replicates" in done.stdout
    assert "<- the data" in done.stdout
    found = json.loads(run("test", path, "-k", 1, "--replicates", 19, "--json").stdout)
    assert (found["p_value"], len(found["replicates"]), found["alternative"]["n_components"]) == (0.05, 19, 2)
    assert picture.stat().st_size > 5_000
    fails(run("test", path, "--against", 1), "alternative = .* is the smaller model itself")
    fails(run("test", path, "--covariance", "all"), "give one --covariance or --family", code=2)
    fails(run("test", path, "-k", 0), "give a whole number of at least 1", code=2)
