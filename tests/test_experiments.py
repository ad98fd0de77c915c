"""Every experiment has a config and a smaller one, with which it runs in seconds; bad configs are named in one line."""

import csv
import gzip
import importlib
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.mixture import GaussianMixture

import jaxem
from experiments import common, inference, mclust, posterior
from experiments.common import ConfigError, load_config
from experiments.digits import DigitsConfig, digits, made, read_idx
from experiments.mclust import MclustConfig
from experiments.rates import RatesConfig, clusters, rates, tight
from experiments.restarts import RestartsConfig, restarts
from tests.cases import reference_data
from tests.conftest import ROUNDING, STATISTICAL, X64

ROOT = Path(__file__).parents[1]
NAMES = [
    path.stem
    for path in sorted((ROOT / "experiments").glob("*.py"))
    if path.stem not in ("__init__", "common", "peers", "reference")
]


def run(name, config, out):
    command = [sys.executable, "-m", f"experiments.{name}", str(config), "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run an experiment in this process, and expect one line of complaint and exit code 2."""

    def refused(message, kind, experiment, *arguments, paths=()):
        monkeypatch.setattr(sys, "argv", ["experiment", *map(str, arguments)])
        with pytest.raises(SystemExit, match="2"):
            common.run(kind, experiment, paths)
        stderr = capsys.readouterr().err
        assert message in stderr
        assert len(stderr.strip().splitlines()) == 1

    yield refused
    jax.config.update("jax_enable_x64", X64)  # an experiment sets it


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_a_config_and_a_smaller_one(name):
    module = importlib.import_module(f"experiments.{name}")
    kind = getattr(module, name.title().replace("_", "") + "Config")
    for folder in ("configs", "configs/smoke"):
        assert isinstance(load_config(kind, ROOT / folder / f"{name}.toml"), kind)


@pytest.mark.parametrize("folder", ["configs", pytest.param("configs/smoke", marks=pytest.mark.slow)])
def test_the_benchmark_has_a_config_for_a_gpu(folder, tmp_path):
    config = load_config(importlib.import_module("experiments.benchmark").BenchmarkConfig, ROOT / folder / "gpu.toml")
    assert not config.memory
    if folder == "configs/smoke":
        done = run("benchmark", ROOT / folder / "gpu.toml", tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "lecture" else pytest.mark.slow) for n in NAMES])
def test_smoke(name, tmp_path):
    done = run(name, ROOT / "configs" / "smoke" / f"{name}.toml", tmp_path)
    assert done.returncode == 0, done.stderr
    if name == "mclust" and mclust.version() is None:
        assert "is missing" in done.stdout
        assert not list(tmp_path.iterdir())
        return
    assert done.stdout.splitlines()[0].startswith("measured on")
    suffixes = {path.suffix for path in tmp_path.iterdir()}
    assert suffixes == {".csv", ".png", *([".md"] if name == "benchmark" else [])}
    assert all(path.stat().st_size > 0 for path in tmp_path.iterdir())
    measured = {"inference": coverage, "hypergradient": gains, "posterior": masses}.get(name)
    if measured:
        measured(tmp_path, done.stdout)


def table(path):
    """The rows of a CSV."""
    with path.open() as file:
        return list(csv.DictReader(file))


def coverage(out, printed):
    """Intervals of 40 sets of a right family cover 95 per cent of its parameters, errors are the true spread; both roughly."""
    rows = [row for row in table(out / "inference.csv") if row["law"] == "normal" and row["parameters"] == "all"]
    assert {row["errors"]: int(row["sets"]) for row in rows} == {"standard": 40, "robust": 40, "bootstrap": 3}
    for row in rows[:2]:
        assert abs(float(row["coverage"]) - 0.95) < STATISTICAL * float(row["standard error of it"])
        assert 0.7 < float(row["error / true spread"]) < 1.4
    p_values = [float(row["p-value"]) for row in table(out / "inference_p_values.csv")]
    assert all(np.isclose(10 * p, round(10 * p)) and 0.1 <= p <= 1 for p in p_values)


def gains(out, printed):
    """What is learned is better on held-out rows than what it began with; corrupted rows get the low weights."""
    rows = table(out / "hypergradient.csv")
    heights = {row["fit"]: float(row["held-out rows"]) for row in rows}
    by_gradients = next(height for name, height in heights.items() if name.endswith("gradients"))
    on_grid = next(height for name, height in heights.items() if "grid of" in name)
    assert heights["default 1 / n"] <= on_grid < by_gradients + 0.02
    assert heights["by all rows alike"] < heights["by learned weights"]
    weights = table(out / "hypergradient_weights.csv")
    clean, corrupted = ([float(row["weight"]) for row in weights if row["corrupted"] == is_so] for is_so in "01")
    assert (len(clean), len(corrupted)) == (60, 20)
    assert np.mean(np.less.outer(corrupted, clean)) > 0.75


def masses(out, printed):
    """Intervals of 95 per cent hold most of the posterior, and are narrower than its own by no more than half."""
    rows = table(out / "posterior.csv")
    assert len(rows) == 11
    assert all(0.8 < float(row["mass in summary's"]) <= 1.0 and 0.8 < float(row["width ratio"]) < 1.6 for row in rows)
    assert "0 divergences" in printed


def test_digits_from_files(tmp_path, refused):
    """The command line takes files in idx format, plain or gzipped; one line says what is wrong with them, before any work."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, size=(60, 28, 28), dtype=np.uint8), np.arange(60, dtype=np.uint8) % 10
    images, names = tmp_path / "images.gz", tmp_path / "labels"
    images.write_bytes(gzip.compress(struct.pack(">HBBIII", 0, 8, 3, 60, 28, 28) + pixels.tobytes()))
    names.write_bytes(struct.pack(">HBBI", 0, 8, 1, 60) + labels.tobytes())
    np.testing.assert_array_equal(read_idx(images), pixels)
    np.testing.assert_array_equal(read_idx(names), labels)
    config = load_config(
        DigitsConfig, ROOT / "configs" / "smoke" / "digits.toml", {"images": str(images), "labels": str(names)}
    )
    training, held_out, source = made(config)
    assert source == "images.gz"
    assert (len(training.labels), len(held_out.labels)) == (config.n, 12)
    # no held-out image is among those that training images were made of
    originals = {image.tobytes() for image in pixels.astype(np.float32) / 255}
    first = {image.tobytes() for image in training.pixels[:48]}
    assert first <= originals
    assert not first & {image.tobytes() for image in held_out.pixels}
    (tmp_path / "short").write_bytes(names.read_bytes()[:-1])
    (tmp_path / "text").write_text("no idx")
    for given, message in (
        (["--images", tmp_path / "none", "--labels", names], "cannot be read"),
        (["--images", images], "give both"),
        (["--images", images, "--labels", tmp_path / "short"], "truncated"),
        (["--images", tmp_path / "text", "--labels", names], "no idx file"),
        (["--images", names, "--labels", names], "shape"),
    ):
        arguments = (ROOT / "configs" / "smoke" / "digits.toml", *given, "--out", tmp_path)
        refused(message, DigitsConfig, digits, *arguments, paths=("images", "labels"))
    text = (ROOT / "configs" / "smoke" / "digits.toml").read_text()
    (tmp_path / "many.toml").write_text(text.replace("k = 3", "k = 5000"))
    refused("k: 5000 clusters", DigitsConfig, digits, tmp_path / "many.toml", "--out", tmp_path)


def test_bad_configs(tmp_path, refused):
    good = (ROOT / "configs" / "smoke" / "restarts.toml").read_text()
    for text, message in {
        good.replace("restarts = 8", "restart = 8"): "did you mean 'restarts'?",
        good.replace("restarts = 8", 'restarts = "8"'): "restarts: Input should be a valid integer",
        good.replace("restarts = 8", "restarts = 0"): "restarts: Input should be greater than 0",
        good.replace("seed = 0", "seed ="): "is no TOML",
        good.replace("seed = 0", f"seed = {'[' * 5000}"): "is nested too deeply",
        good.replace("seed = 0", f"seed = {'{a = ' * 5000}"): "is nested too deeply",
    }.items():
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ConfigError, match=message) as error:
            load_config(RestartsConfig, tmp_path / "bad.toml")
        assert "\n" not in str(error.value)
    refused("cannot be read", RestartsConfig, restarts, tmp_path / "missing.toml")


def normal_law(x):
    """The one normal law that fits `x` `[n, 1]` best, as two equal components, and its log-likelihood in closed form."""
    parameters = jaxem.GaussianParams(jnp.full((2, 1), x.mean()), jnp.full(2, x.var()))
    mixture = jaxem.Mixture(jnp.log(jnp.array([0.5, 0.5])), parameters, jaxem.Spherical())
    return mixture, -len(x) / 2 * (np.log(2 * np.pi * x.var()) + 1)


def by_sklearn(x):
    """scikit-learn's best of two components, and its log-likelihood."""
    model = GaussianMixture(2, tol=1e-13, max_iter=10_000, n_init=5, reg_covar=0.0, random_state=0).fit(x)
    return model, model.score(x) * len(x)


def test_short_searches_are_counted(tmp_path, monkeypatch):
    """A search that ends at the normal law of K = 1, or at no sound optimum, is short by what scikit-learn and the closed form
    say; the true search is not."""
    x = reference_data("acidity")
    search, (flat, one), (_, best) = jaxem.search, normal_law(x), by_sklearn(x)

    def worse(key, family, rows, k):
        seed = int(jax.random.key_data(key)[-1])
        found = search(key, family, rows, k)
        if seed == 0:
            return found
        ended = jaxem.fit(flat, rows, max_iter=0)
        status = jnp.asarray(int(jaxem.Status.MAX_ITER if seed == 1 else jaxem.Status.DEGENERATE))
        return found._replace(best=ended._replace(status=status))

    monkeypatch.setattr(jaxem, "search", worse)
    config = load_config(RatesConfig, ROOT / "configs" / "smoke" / "rates.toml")
    lines = list(rates(config.model_copy(update={"simulated": [], "searches": 3}), tmp_path))
    with (tmp_path / "rates.csv").open() as file:
        rows = list(csv.DictReader(file))
    tolerance = 1e-6 if X64 else 5e-3
    np.testing.assert_allclose([float(row["best known"]) for row in rows], best, atol=tolerance, rtol=0)
    short = [float(row["short in nats"]) for row in rows]
    np.testing.assert_allclose(short, [0.0, best - one, np.inf], atol=2 * tolerance, rtol=0)
    assert [row["status"] for row in rows[1:]] == ["MAX_ITER", "DEGENERATE"]
    assert "acidity, K = 2, spherical: 2 of 3 searches short" in lines[1]
    assert lines[-2].split()[:6] == ["K", "<=", "3", "3", "66.7%", "0.5%"]
    assert lines[-1].startswith("2 of 3 searches end more than 0.01 nats below")
    assert lines[-1].endswith("the targets are missed for K <= 3")


def test_errors_of_simulated_sets():
    """Noise of every law has mean 0 and variance 1; the eleven numbers of a mixture of two are told apart, also in batches."""
    rng = np.random.default_rng(0)
    for name, noise in inference.NOISE.items():
        values = noise(rng, (40_000,))
        squares = (values - values.mean()) ** 2
        assert abs(values.mean()) < STATISTICAL / 200, name
        assert abs(squares.mean() - 1) < STATISTICAL * squares.std() / 200, name
    truth = inference.true_mixture()
    expected = [0.4, 0, 0, 3, 1, 1.0, 0.3, 0.8, 0.7, -0.3, 1.2]
    np.testing.assert_allclose(inference.distinct(truth), expected, rtol=ROUNDING)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), truth)
    np.testing.assert_allclose(inference.distinct(many), [expected, expected], rtol=ROUNDING)
    x = inference.drawn("normal", rng, (3, 4_000)).reshape(-1, 2)
    np.testing.assert_allclose(x.mean(axis=0), [1.8, 0.6], atol=STATISTICAL * 0.02)
    covered = np.repeat([[True], [False], [True], [True]], 11, axis=1)
    np.testing.assert_allclose(inference.share(covered), [0.75, np.std([1, 0, 1, 1], ddof=1) / 2], rtol=ROUNDING)


def test_the_density_that_is_sampled():
    """It is the objective of the mixture at these coordinates."""
    x, mixture = np.asarray(jaxem.datasets.faithful()), inference.true_mixture()
    prior = jaxem.fraley_raftery(jaxem.Full(), x, 2) + jaxem.Dirichlet(2.0)
    expected = jaxem.objective(mixture, jaxem.e_step(mixture, x), prior)
    density = posterior.log_density(mixture, x, prior)
    np.testing.assert_allclose(density(mixture.unconstrain()), expected, rtol=ROUNDING)


def test_simulated_sets():
    """The tight cluster is what its text says it is; sets of two seeds differ, sets of one seed do not."""
    x = tight(7)
    assert x.shape == (4360, 2)
    broad, narrow = x[:4200], x[4200:] - x[4200:].mean(axis=0)
    assert abs(broad.var() - 1) < STATISTICAL * np.sqrt(2 / broad.size)
    assert abs(narrow.var() / 0.08**2 - 1) < STATISTICAL * np.sqrt(2 / narrow.size)
    for make in (clusters, tight):
        np.testing.assert_array_equal(make(1), make(1))
        assert np.any(make(1) != make(2))
    assert clusters(1).shape == (600, 2)


@pytest.mark.parametrize("covariance", ["spherical", "diag", "tied", "full"])
def test_fits_of_mclust_are_read(covariance):
    """Parameters in mclust's layout have the log-likelihood that scipy gives; a collapsed component is not sound."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) * [1.0, 3.0]
    factors = rng.normal(size=(2, 2, 2))
    sigma = factors @ factors.swapaxes(1, 2) + np.eye(2)
    if covariance in ("spherical", "diag"):
        sigma = sigma * np.eye(2)
    if covariance == "spherical":
        sigma[:, 1, 1] = sigma[:, 0, 0]
    if covariance == "tied":
        sigma[1] = sigma[0]
    means, weights = rng.normal(size=(2, 2)), np.array([0.3, 0.7])
    densities = [scipy.stats.multivariate_normal(m, s).pdf(x) for m, s in zip(means, sigma, strict=True)]
    expected = np.sum(np.log(weights @ densities))
    table = np.column_stack([[-1.0, -1.0], weights, means, sigma.reshape(2, 4)])
    seen = mclust.theirs(table, x, covariance)
    np.testing.assert_allclose(seen.log_likelihood, expected, rtol=ROUNDING)
    assert (seen.status.failed, seen.reported) == (False, -1.0)
    table[0, 2:4], table[0, 4:] = x[0], 0.0 if covariance == "tied" else 1e-30 * table[0, 4:]
    assert mclust.theirs(table, x, covariance).status.failed


def test_verdicts_on_mclust():
    """Equal within 0.01 nats; mclust is above as soon as one search is below it, jaxem by its best search."""
    x = reference_data("faithful")
    mixture = jaxem.starts(jax.random.key(0), jaxem.Spherical(), x, 2, 1)[0]
    sound = mclust.Theirs(mixture, jaxem.Status.MAX_ITER, -100.0, -100.0)
    for ours, verdict, lost in (
        ([-100.009, -99.991], "equal", []),
        ([-100.009, -99.98], "jaxem above", []),
        ([-100.02, -99.0], "mclust above some", [0]),
        ([-100.02, -np.inf], "mclust above all", [0, 1]),
    ):
        pair = mclust.Pair("faithful", 2, "spherical", sound, ours)
        assert (pair.verdict, pair.lost) == (verdict, lost)
    for theirs, verdict in (
        (None, "mclust without a fit"),
        (sound._replace(status=jaxem.Status.SADDLE), "mclust unsound"),
    ):
        pair = mclust.Pair("faithful", 2, "spherical", theirs, [-101.0])
        assert (pair.verdict, pair.lost) == (verdict, [])


def test_where_mclust_is_higher(monkeypatch):
    """A line names the seeds and the nats, by scikit-learn and the closed form, and tells where mclust's fit climbs on to."""
    x = reference_data("acidity")
    (flat, one), (model, best) = normal_law(x), by_sklearn(x)
    table = np.column_stack([[best, best], model.weights_, model.means_, model.covariances_[:, 0]])
    # two equal components are a saddle; the status is taken for that of a sound fit
    ended = jaxem.fit(flat, x, max_iter=0)._replace(status=jnp.asarray(int(jaxem.Status.CONVERGED)))
    monkeypatch.setattr(jaxem, "search", lambda *_: SimpleNamespace(best=ended))
    pair = mclust.compare("acidity", mclust.Asked(x, {("spherical", 2): table}), 2, "spherical", 2)
    assert (pair.verdict, pair.lost) == ("mclust above all", [0, 1])
    np.testing.assert_allclose(pair.gaps, one - best, rtol=ROUNDING * 100)
    line = mclust.told(pair, 2)
    assert f"higher than 2 of 2 searches (seeds 0, 1), by {best - one:.2f}" in line
    climbed = float(line.split()[-1])
    np.testing.assert_allclose(climbed, best, atol=1e-4 if X64 else 1e-2, rtol=0)
    header, group = mclust.table([pair])
    places = [header.index(name) for name in mclust.VERDICTS]
    assert group.split() == ["K", "<=", "6", "1", "1", "0", "0", "0", "0", "0", "0"]
    assert group[: places[0] + len(mclust.VERDICTS[0])].endswith(" 1")


def test_without_r_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    config = load_config(MclustConfig, ROOT / "configs" / "smoke" / "mclust.toml")
    (line,) = mclust.mclust(config, tmp_path)
    assert "R or its package mclust is missing" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(mclust.version() is None, reason="needs R with mclust")
def test_mclust_answers():
    """What R gives has the log-likelihood that mclust says, to the gain of its last turn; what R cannot give is one line."""
    x = reference_data("acidity")
    config = load_config(MclustConfig, ROOT / "configs" / "smoke" / "mclust.toml").model_copy(update={"k": [1, 2]})
    asked = mclust.ask("acidity", config.problems("acidity"))
    np.testing.assert_array_equal(asked.x, x)
    one = mclust.theirs(asked.fits["full", 1], x, "full")
    np.testing.assert_allclose(one.log_likelihood, -len(x) / 2 * (np.log(2 * np.pi * x.var()) + 1), rtol=ROUNDING)
    two = mclust.theirs(asked.fits["spherical", 2], x, "spherical")
    assert 0 <= two.log_likelihood - two.reported < 1e-5 * (1 + abs(two.reported)) + 1e-2
    with pytest.raises(ValueError, match="R cannot give nonsense") as error:
        mclust.ask("nonsense", [("full", 1)])
    assert "\n" not in str(error.value)
