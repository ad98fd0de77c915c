"""Every experiment has a config and a smaller one, with which it runs in seconds; bad configs are named in one line."""

import gzip
import importlib
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import common
from experiments.common import ConfigError, load_config
from experiments.digits import DigitsConfig, digits, made, read_idx
from experiments.restarts import RestartsConfig, restarts
from tests.conftest import X64

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


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "lecture" else pytest.mark.slow) for n in NAMES])
def test_smoke(name, tmp_path):
    done = run(name, ROOT / "configs" / "smoke" / f"{name}.toml", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("measured on")
    suffixes = {path.suffix for path in tmp_path.iterdir()}
    assert suffixes == {".csv", ".png", *([".md"] if name == "benchmark" else [])}
    assert all(path.stat().st_size > 0 for path in tmp_path.iterdir())


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
