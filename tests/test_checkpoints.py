"""Checkpoints: a call that was killed goes on where it was, and ends with the bits of one that was never stopped."""

import json
import os
import random
import subprocess
import sys
import unittest.mock as mock

import jax
import numpy as np
import optax
import pytest
import safetensors.numpy

import jaxem
from jaxem import journal
from tests.conftest import DTYPE

pytestmark = pytest.mark.any_dtype
KEY = jax.random.key(0)
X = (np.random.default_rng(0).normal(size=(400, 2)) + 3.0 * np.random.default_rng(1).integers(0, 3, (400, 1))).astype(
    DTYPE
)


class Cut(jaxem.Source):
    """More rows than are read into memory."""

    def __iter__(self):
        for i in range(2):
            yield np.random.default_rng(i).normal(size=(40_000, 2)).astype(DTYPE) + 4.0 * (i == 1)

    def fingerprint(self):
        return "two clusters"


def fit(checkpoint, x=X, **options):
    first = jaxem.starts(KEY, "full", X, 3, 1, jaxem.RandomParameters())[0]
    return jaxem.fit(first, x, max_iter=60, checkpoint=checkpoint, **options)


def accelerated(checkpoint):
    return fit(checkpoint, accelerator=jaxem.hybrid())


def streamed(checkpoint):
    return fit(checkpoint, Cut())


def restarts(checkpoint, x=X):
    starts = jaxem.starts(KEY, "full", X, 3, 12, jaxem.RandomParameters())
    return jaxem.fit_restarts(starts, x, max_iter=60, checkpoint=checkpoint)


def streamed_restarts(checkpoint):
    return restarts(checkpoint, Cut())


def threaded_restarts(checkpoint):
    with mock.patch("jaxem.lanes.SHARED", 0):
        return restarts(checkpoint)


def search(checkpoint, x=X):
    return jaxem.search(KEY, "full", x, 3, budget=200, checkpoint=checkpoint)


def streamed_search(checkpoint):
    return search(checkpoint, Cut())


def bootstrap(checkpoint):
    mixture = jaxem.search(KEY, "full", X, 2, budget=60).best.mixture
    with mock.patch("jaxem.resampling.replicas_at_once", return_value=10):
        return jaxem.bootstrap(KEY, mixture, X, n_replicates=25, checkpoint=checkpoint)


def restarts_by_parts(checkpoint):
    with mock.patch("jaxem.parts.SMALL", 0):
        starts = jaxem.starts(KEY, "full", X, 3, 12, jaxem.RandomParameters())
        return jaxem.fit_restarts(starts, X, max_iter=60, chunk_size=100, checkpoint=checkpoint)


SLOW = [pytest.param(call, marks=pytest.mark.slow) for call in (streamed_restarts, streamed_search)]
CALLS = [fit, accelerated, streamed, restarts, restarts_by_parts, threaded_restarts, search, bootstrap, *SLOW]


def bits(result):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result) if hasattr(leaf, "dtype")]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_was_killed_ends_with_the_same_bits(call, tmp_path, monkeypatch):
    """Killed after each of its first writings, and then at some later ones."""
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    monkeypatch.setattr("jaxem.program.FIRST_SECONDS", 1e-4)  # pieces of few turns
    monkeypatch.setattr("jaxem.program.PIECE_SECONDS", 1e-4)
    whole = bits(call(None))
    path, write, left = tmp_path / "run", journal.Journal.write, [0]

    def write_and_die(self, hurry):
        if hurry and left[0] == 0:  # of a process that is killed nothing more is written
            return
        write(self, hurry)
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    rng, kills = random.Random(0), 0
    monkeypatch.setattr(journal.Journal, "write", write_and_die)
    for writings in [1, 2, 3, *(rng.randrange(1, 40) for _ in range(4))]:
        left[0] = writings
        try:
            call(path)
        except KilledError:
            kills += 1
    monkeypatch.setattr(journal.Journal, "write", write)
    assert kills >= 2
    assert bits(call(path)) == whole
    assert bits(call(path)) == whole  # once more, of a call that is over
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_what_was_done_is_not_done_again(tmp_path):
    """A call that is over makes one pass more, or none, beside the one that describes the data."""

    class Counted(Cut):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    options = {"max_iter": 8, "stop": jaxem.GainBelow(-np.inf), "checkpoint": tmp_path / "run"}
    first = jaxem.starts(KEY, "full", X, 3, 1, jaxem.RandomParameters())[0]
    for expected in (1 + 9, 1 + 1):
        data = Counted()
        jaxem.fit(first, data, **options)
        assert data.passes == expected
    heard = []
    starts = jaxem.starts(KEY, "full", X, 3, 12, jaxem.RandomParameters())
    for _ in range(2):
        made = jaxem.fit_restarts(starts, X, max_iter=60, checkpoint=tmp_path / "more", callback=heard.append)
    assert heard[0].executed >= int(made.n_iter.sum())
    assert heard[-1].executed == 0


@pytest.mark.slow
@pytest.mark.parametrize("call", [fit, search])
def test_kill_9_at_random_moments(call, tmp_path):
    """50 kills of real processes: each next one goes on, and the last ends with the uninterrupted numbers."""
    program = (
        "import sys, hashlib, jaxem.journal as j; j.SECONDS = 0.0\n"
        "import jaxem.program as p; p.FIRST_SECONDS = p.PIECE_SECONDS = 0.01\n"
        f"from tests.test_checkpoints import *\nfound = {call.__name__}(sys.argv[1] or None)\n"
        "print(hashlib.sha256(b''.join(bits(found))).hexdigest())"
    )
    arguments = [sys.executable, "-c", program]
    expected = subprocess.run([*arguments, ""], capture_output=True, text=True, check=True).stdout
    rng, path = random.Random(1), tmp_path / "run"
    for _ in range(50):
        process = subprocess.Popen([*arguments, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.communicate(timeout=rng.uniform(1.0, 6.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        assert not path.exists() or safetensors.numpy.load_file(path)
    done = subprocess.run([*arguments, str(path)], capture_output=True, text=True)
    assert done.stdout == expected, done.stderr
    assert len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_of_another_call_is_refused(tmp_path):
    path = tmp_path / "run"
    fit(path)
    before = path.read_bytes()
    for other, words in [
        (lambda: fit(path, X + 1), "other data"),
        (lambda: fit(path, stop=jaxem.GainBelow(1e-3)), "other options"),
        (lambda: fit(path, accelerator=jaxem.squarem()), "other options"),
        (lambda: restarts(path), "other call: fit there, fit_restarts here"),
    ]:
        with pytest.raises(ValueError, match=words) as raised:
            other()
        assert "remove it to begin anew" in str(raised.value)
        assert "\n" not in str(raised.value)
    with (
        mock.patch("jaxem.__version__", "0.0.1"),
        pytest.raises(ValueError, match=r"other jaxem: .* there, 0\.0\.1 here"),
    ):
        fit(path)
    jaxem.set_threads(7)
    try:
        with pytest.raises(ValueError, match="other threads"):
            fit(path)
    finally:
        jaxem.set_threads(None)
    assert path.read_bytes() == before


def test_a_callback_does_not_change_what_a_checkpoint_holds(tmp_path):
    """A search that was stopped in its callback goes on without one. There are more starts than lanes."""
    options, heard = {"budget": 1500}, []

    def stop(seen):
        heard.append(seen)
        if len(heard) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        jaxem.search(KEY, "full", X, 6, callback=stop, checkpoint=tmp_path / "run", **options)
    found = jaxem.search(KEY, "full", X, 6, checkpoint=tmp_path / "run", **options)
    assert bits(found) == bits(jaxem.search(KEY, "full", X, 6, **options))


def momentum(rate):
    """An accelerator of the user's: its rate is in a closure."""

    def update(updates, state, params=None, **_):
        return jax.tree.map(lambda leaf: rate * leaf, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def test_code_of_the_user_is_told_apart(tmp_path):
    path = tmp_path / "run"
    fit(path, accelerator=momentum(1.1))
    assert bits(fit(path, accelerator=momentum(1.1))) == bits(fit(None, accelerator=momentum(1.1)))
    with pytest.raises(ValueError, match="other options"):
        fit(path, accelerator=momentum(1.2))
    told = [journal._text_of(value) for value in (lambda x: x + 1, lambda x: x + 2, Cut(), np.zeros(2), np.ones(2))]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("content", [b"not a file", bytes(100), json.dumps({"a": 1}).encode()])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "run"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no checkpoint") as raised:
        fit(path)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_place_for_a_checkpoint(tmp_path):
    """As `mktemp` leaves it."""
    path = tmp_path / "run"
    path.write_bytes(b"")
    assert bits(fit(path)) == bits(fit(None))
    assert bits(fit(path)) == bits(fit(None))
    assert safetensors.numpy.load_file(path)


def test_a_model_is_no_checkpoint(tmp_path):
    jaxem.io.save(fit(None).mixture, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="no checkpoint"):
        fit(tmp_path / "m.safetensors")


def test_a_full_disk_is_warned_of_and_the_call_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SECONDS", 0.0)

    def full(*_, **__):
        raise OSError(28, "No space left on device", "run")

    monkeypatch.setattr(journal, "replacing", full)
    with pytest.warns(UserWarning, match="No space left on device.*goes on without it") as warned:
        found = fit(tmp_path / "run")
    assert len(warned) == 1
    assert bits(found) == bits(fit(None))


def test_where_a_checkpoint_cannot_be_is_said_before_the_work(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fit(tmp_path / "none" / "run")
    with pytest.raises(IsADirectoryError):
        fit(tmp_path)
    with pytest.raises(TypeError, match="fit with a checkpoint decides from the host"):
        jax.jit(lambda x: fit(tmp_path / "run", x).log_likelihood)(X)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    heard = []

    def interrupt(seen):
        heard.append(seen)
        raise KeyboardInterrupt

    starts = jaxem.starts(KEY, "full", X, 3, 12, jaxem.RandomParameters())
    with pytest.raises(KeyboardInterrupt):
        jaxem.fit_restarts(starts, X, max_iter=60, checkpoint=tmp_path / "run", callback=interrupt)
    assert (tmp_path / "run").exists()
    assert bits(restarts(tmp_path / "run")) == bits(restarts(None))
    assert os.path.getsize(tmp_path / "run") < 10**6
