"""Every experiment has a config and a smoke config; the smoke version runs; bad configs are named in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.common import ConfigError, load_config
from experiments.restarts import RestartsConfig

ROOT = Path(__file__).parents[1]
NAMES = [
    path.stem
    for path in sorted((ROOT / "experiments").glob("*.py"))
    if path.stem not in ("__init__", "common", "peers", "reference")
]


def run(name, config, out):
    command = [sys.executable, "-m", f"experiments.{name}", str(config), "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path):
    assert (ROOT / "configs" / f"{name}.toml").exists()
    done = run(name, ROOT / "configs" / "smoke" / f"{name}.toml", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("measured on")
    suffixes = {path.suffix for path in tmp_path.iterdir()}
    assert suffixes == {".csv", ".png", *([".md"] if name == "benchmark" else [])}
    assert all(path.stat().st_size > 0 for path in tmp_path.iterdir())


def test_bad_configs(tmp_path):
    good = (ROOT / "configs" / "smoke" / "restarts.toml").read_text()
    for text, message in {
        good.replace("restarts = 8", "restart = 8"): "did you mean 'restarts'?",
        good.replace("restarts = 8", 'restarts = "8"'): "restarts: Input should be a valid integer",
        good.replace("restarts = 8", "restarts = 0"): "restarts: Input should be greater than 0",
        good.replace("seed = 0", "seed ="): "is no TOML",
    }.items():
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ConfigError, match=message) as error:
            load_config(RestartsConfig, tmp_path / "bad.toml")
        assert "\n" not in str(error.value)
    done = run("restarts", tmp_path / "missing.toml", tmp_path)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
