"""Every family in model files, on the command line and in pictures."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

import jaxem
from jaxem import io
from jaxem.cli.commands import app
from tests.cases import BEHIND, NUMERICAL, OTHERS, SEMI_SUPERVISED, named
from tests.conftest import X64

matplotlib.use("Agg")
KEY = jax.random.key(0)
SAVED = [case for case in OTHERS if case.family != NUMERICAL and case.prior is None]


# -- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", **named(SAVED))
def test_a_file_holds_it(case, tmp_path):
    mixture = case.mixture()
    io.save(mixture, tmp_path / "m")
    again = io.load(tmp_path / "m")
    assert again.family == mixture.family
    assert jax.tree.structure(again) == jax.tree.structure(mixture)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(mixture), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", ["VEV", "EVE", "EII", "EEI"])
def test_a_file_holds_ellipsoidal_forms(form, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2))
    mixture = jaxem.starts(KEY, jaxem.Ellipsoidal(form), x, 2, 1)[0]
    io.save(mixture, tmp_path / "m")
    again = io.load(tmp_path / "m")
    assert again.family == mixture.family
    np.testing.assert_array_equal(again.log_prob(x), mixture.log_prob(x))


def test_an_older_file_with_a_plain_name_is_read(tmp_path):
    mixture = next(case for case in OTHERS if case.family == BEHIND).mixture()[:2]
    full = jaxem.Mixture(mixture.log_weights, mixture.components[0], jaxem.Full())
    io.save(full, tmp_path / "m")
    with safetensors.safe_open(tmp_path / "m", "numpy") as file:
        metadata = file.metadata()
    arrays = safetensors.numpy.load_file(tmp_path / "m")
    metadata |= {"version": "2", "family": "Full"}
    metadata["sha256"] = io.digest(arrays, metadata)
    safetensors.numpy.save_file(arrays, tmp_path / "old", metadata)
    np.testing.assert_array_equal(io.load(tmp_path / "old").components.means, full.components.means)


WRONG = [
    ({"Nonsense": {}}, "known are"),
    ({"Categorical": {}}, r"has the settings \['n_categories'\]"),
    ({"Categorical": {"n_categories": 0}}, "n_categories = 0"),
    ({"Categorical": {"n_categories": 3, "more": 1}}, "has the settings"),
    ({"Product": {"parts": [[{"Full": {}}, [0, 5]]]}}, "belongs to no part"),
    ({"Product": {"parts": [[{"Full": {}}, [0]]]}}, "n_features is 2"),
    ({"Union": {"parts": [[{"Full": {}}, 7]]}}, "does not fit"),
    ({"Product": {"parts": 3}}, "family is"),
    ([1, 2], "expected one name"),
    ({"StudentT": {"dof": 10**400}}, "dof = 1000"),
    ({"StudentT": {"dof": "4"}}, "dof = '4'"),
    ({"Full": {}, "Tied": {}}, "expected one name"),
]


@pytest.mark.parametrize(("family", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_file_with_a_wrong_family_is_refused(family, message, tmp_path):
    mixture = next(case for case in OTHERS if case.family == BEHIND).mixture()
    full = jaxem.Mixture(jnp.log(jnp.array([0.5, 0.5])), mixture.components[0], jaxem.Full())
    io.save(full, tmp_path / "m")
    with safetensors.safe_open(tmp_path / "m", "numpy") as file:
        metadata = file.metadata()
    arrays = safetensors.numpy.load_file(tmp_path / "m")
    metadata["family"] = json.dumps(family)
    metadata["sha256"] = io.digest(arrays, metadata)
    safetensors.numpy.save_file(arrays, tmp_path / "bad", metadata)
    with pytest.raises(io.ModelFormatError, match=message) as caught:
        io.load(tmp_path / "bad")
    assert "\n" not in str(caught.value)


def test_a_family_inside_a_family_inside_a_family_ends(tmp_path):
    nested = {"Full": {}}
    for _ in range(40):
        nested = {"Union": {"parts": [[nested, None]]}}
    with pytest.raises(ValueError, match="expected one name"):
        io._from_description(nested, 0)


class Own(jaxem.Spherical):
    """A family of somebody's own."""


def test_a_family_of_a_users_own_is_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "FAMILIES", dict(io.FAMILIES))
    params = jaxem.GaussianParams(jnp.zeros((1, 2)), jnp.ones(1))
    mixture = jaxem.Mixture(jnp.zeros(1), params, Own())
    with pytest.raises(TypeError, match="register"):
        io.save(mixture, tmp_path / "m")
    io.register(Own)
    io.save(mixture, tmp_path / "m")
    assert io.load(tmp_path / "m").family == Own()
    with pytest.raises(ValueError, match="name = 'Full'"):
        io.register(Own, "Full")
    with pytest.raises(TypeError, match="give a Family"):
        io.register(3)
    io.register(NUMERICAL, "normal")
    numerical = next(case for case in OTHERS if case.family == NUMERICAL).mixture()
    with pytest.raises(ValueError, match="columns is None"):
        io.save(numerical, tmp_path / "n")
    with pytest.raises(ValueError, match="init gives"):
        io.save(numerical, tmp_path / "n", columns=["a", "b"])
    io.save(numerical, tmp_path / "n", columns=["a"])
    assert io.load(tmp_path / "n").family is NUMERICAL


# -- the command line ----------------------------------------------------------------------------------------------------


def command(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


@pytest.fixture
def table(tmp_path):
    """Two clusters, of which every fifth row has a label, and counts."""
    rng = np.random.default_rng(0)
    truth = np.repeat([1, 2], 60)
    x = rng.normal(size=(120, 2)) + 4.0 * (truth == 2)[:, None]
    label = np.where(np.arange(120) % 5 == 0, truth, -1)
    path = tmp_path / "x.csv"
    counts = rng.poisson(np.where(truth == 2, 12, 2))
    np.savetxt(path, np.column_stack([x, label, counts]), "%.6g", ",", header="a,b,class,n", comments="")
    return path


def test_a_wrong_file_is_told_before_jax_starts():
    code = """
import sys
from typer.testing import CliRunner
from jaxem.cli.commands import app
for options in ([], ["--family", "poisson,student-t"], ["--covariance", "mclust"], ["--family", "module:Class"]):
    done = CliRunner().invoke(app, ["fit", "missing.csv", *options])
    assert done.exit_code and "missing.csv" in done.output, done.output
assert "jax" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not X64, reason="the command line chooses its own precision")
def test_counts_on_the_command_line(table, tmp_path):
    code, said = command("fit", table, "--columns", "n", "--family", "poisson,spherical", "-k", "1:2", "--out",
                         tmp_path / "m", "--no-verify", "--budget", 60)  # fmt: skip
    assert code == 0, said
    assert "poisson components" in said
    assert "rates n" in said
    assert io.load(tmp_path / "m").family == jaxem.Poisson()


@pytest.mark.skipif(not X64, reason="the command line chooses its own precision")
def test_labels_on_the_command_line(table, tmp_path):
    code, said = command("fit", table, "--columns", "a,b", "--labels", "class", "--out", tmp_path / "m", "--no-verify",
                         "--budget", 60)  # fmt: skip
    assert code == 0, said
    assert "24 rows are labelled; the labels 1, 2 are components 0 to 1" in said
    saved = io.load_model(tmp_path / "m")
    assert saved.columns == ("a", "b")
    assert saved.mixture.family == jaxem.Full()
    assert np.all(np.asarray(saved.mixture.components.means)[1] > 3)
    code, said = command("fit", table, "--columns", "a,b", "--labels", "class", "-k", 1)
    assert code != 0
    assert "give at least -k 2" in " ".join(said.replace("│", " ").split())
    code, said = command("fit", table, "--columns", "a,b", "--labels", "class", "--order", "mean")
    assert code != 0
    code, said = command("fit", table, "--columns", "a", "--labels", "b")
    assert code == 1
    assert "give whole numbers" in said
    code, said = command("fit", table, "--labels", "class", "--weights", "class")
    assert code != 0
    assert "--weights and --labels" in said


@pytest.mark.skipif(not X64, reason="the command line chooses its own precision")
def test_a_background_on_the_command_line(table):
    code, said = command("fit", table, "--columns", "a,b", "--background", "--no-verify", "--budget", 60)
    assert code == 0, said
    assert "3 components, full covariances and a background" in said


@pytest.mark.skipif(not X64, reason="the command line chooses its own precision")
def test_a_family_of_a_module_on_the_command_line(table, tmp_path, monkeypatch):
    monkeypatch.setattr(io, "FAMILIES", dict(io.FAMILIES))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_kinds.py").write_text("import jaxem\nclass Mine(jaxem.Spherical):\n    pass\n")
    options = ("--family", "my_kinds:Mine")
    code, said = command("fit", table, "--columns", "a,b", *options, "--out", "m", "--no-verify", "--budget", 60)
    assert code == 0, said
    del io.FAMILIES["my_kinds:Mine"]
    code, said = command("score", "m", table)
    assert code == 1
    assert "--family module:Class" in said
    assert command("score", "m", table, *options)[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--family", "poison"), "did you mean 'poisson'"),
        (("--covariance", "poisson"), "write --family poisson"),
        (("--covariance", "full", "--family", "tied"), "exclude each other"),
        (("--family", "tied,tied"), "twice"),
        (("--family", "no_such_module:Kind"), "No module named"),
        (("--family", "json:dumps"), "is no jaxem.Family"),
    ],
)
def test_a_wrong_kind_is_told(table, options, message):
    code, said = command("fit", table, *options)
    assert code != 0
    assert message in " ".join(said.replace("│", " ").split())


# -- pictures ------------------------------------------------------------------------------------------------------------

DRAWN = [case for case in OTHERS if case.prior is None and not case.family.n_given]


@pytest.mark.parametrize("case", **named(DRAWN))
def test_it_is_drawn(case):
    from matplotlib import pyplot as plt

    from jaxem.plots import plot_classification, plot_density, plot_mixture, plot_responsibilities, plot_uncertainty

    mixture, x = case.mixture(), case.data()
    for plot in (plot_uncertainty, plot_density):
        if not (plot is plot_density and "Regression" in case.name):  # of which x2 alone has no density
            ax = plot(mixture, x)
            ax.figure.canvas.draw()
            plt.close(ax.figure)
    for plot in (plot_mixture, plot_responsibilities, plot_classification):
        ax = plot(mixture, x)
        shown = {text.get_text() for text in ax.texts}
        assert shown & {str(j) for j in range(case.k)}
        plt.close(ax.figure)


def test_what_needs_rows_to_be_drawn_says_so():
    from jaxem.plots import plot_mixture

    with pytest.raises(ValueError, match="give the data"):
        plot_mixture(next(case for case in OTHERS if case.family == BEHIND).mixture())


def test_a_report_shows_it():
    from jaxem import html

    case = next(case for case in OTHERS if case.family == SEMI_SUPERVISED)
    page = html.report(case.mixture(), case.data(), verification=jaxem.laws.Report((), ()))
    assert "mean x1" in page
    assert "Diagonal x Labelled" in page


def test_components_with_fixed_places_are_not_sorted():
    mixture = next(case for case in OTHERS if case.family == BEHIND).mixture()
    with pytest.raises(ValueError, match="fixed places"):
        jaxem.sorted_components(mixture)
