"""Kept programs: the next process loads what this one compiled; nothing damaged, foreign or of other settings is used."""

import concurrent.futures
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

import jaxem
from jaxem import kept
from jaxem.program import BRISK, Program, forget_programs
from tests.cases import blobs
from tests.conftest import X64


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of kept programs, in a process whose tests keep none otherwise."""
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "place", lambda: kept.folder_of(os.environ.get(kept.VARIABLE)))
    kept.folder_of.cache_clear()
    jax.config.update("jax_enable_compilation_cache", False)  # the suite's, which would keep what is compiled
    reset_cache()
    yield tmp_path / "cache" / "programs"
    jax.config.update("jax_enable_compilation_cache", True)
    reset_cache()
    kept.folder_of.cache_clear()


def test_the_cache_of_jax_comes_first(folder):
    """What it has loaded cannot be written again, so nothing is kept beside it."""
    jax.config.update("jax_enable_compilation_cache", True)
    Program(square, (1,))(np.ones((2, 2)), 1)
    assert not files(folder)


def square(x, power):
    return jax.numpy.linalg.eigvalsh(x @ x.T) ** power


square.__module__ = "jaxem.test"


def fresh(program):
    """The same program as the next process has it: nothing is made yet."""
    return Program(program.function, program.static_argnums)


def untraceable(program, monkeypatch):
    """The same program in the next process, where tracing is an error."""
    new = fresh(program)

    def fails(args):
        raise AssertionError("traced again")

    monkeypatch.setattr(new, "_jit_for", fails)
    return new


def files(folder):
    return sorted(folder.glob("*.program"))


def test_the_next_process_does_not_trace(folder, monkeypatch):
    """Programs that call LAPACK too: its addresses are looked up when they are loaded."""
    program, x = Program(square, (1,)), np.arange(6.0).reshape(2, 3)
    expected = program(x, 2)
    assert len(files(folder)) == 1
    again = untraceable(program, monkeypatch)
    assert again.exists(x, 2)
    assert not again.exists(x, 3)
    np.testing.assert_array_equal(again(x, 2), expected)
    np.testing.assert_allclose(expected, np.linalg.eigvalsh(x @ x.T) ** 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "other name"])
def test_a_damaged_file_is_ignored_and_replaced(folder, damage):
    program, x = Program(square, (1,)), np.ones((2, 2))
    expected = program(x, 1)
    program(x, 2)
    (path,) = {path for path in files(folder) if path.name.startswith(name_of_call(program, x, 1))}
    good = path.read_bytes()
    other = next(one for one in files(folder) if one != path).read_bytes()
    bad = {
        "cut": good[:100],
        "flipped": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:],
        "empty": b"",
        "foreign": b"\x80\x04" + os.urandom(500),
        "other name": other,
    }[damage]
    path.write_bytes(bad)
    again = fresh(program)
    assert not again.exists(x, 1)
    np.testing.assert_array_equal(again(x, 1), expected)
    assert path.read_bytes() != bad
    assert fresh(program).exists(x, 1)


def name_of_call(program, *args):
    return program._name(program._kind(args), args)


def test_names_tell_programs_apart(monkeypatch):
    """Shapes, dtypes, static arguments, settings, versions and sources: each has another name; values have not."""
    program, x = Program(square, (1,)), np.ones((2, 2), np.float32)
    names = [
        name_of_call(program, x, 1),
        name_of_call(program, x, 2),
        name_of_call(program, x[:1], 1),
        name_of_call(program, x.astype(np.int32), 1),
        name_of_call(Program(square, (1,), small={**BRISK, "xla_cpu_enable_fast_math": True}), x, 1),
    ]
    with jax.default_matmul_precision("highest"):
        names.append(name_of_call(program, x, 1))
    with jax.enable_x64(not X64):
        names.append(name_of_call(program, x, 1))
    monkeypatch.setattr(kept, "_process", lambda: "another version")
    names.append(name_of_call(program, x, 1))
    assert len(set(names)) == len(names)
    monkeypatch.undo()
    assert name_of_call(program, 2 * x, 1) == names[0]


def test_names_are_those_of_another_process():
    """Also of functions with closures, accelerators, families and treedefs."""
    code = (
        "import jax, jaxem, numpy as np; from jaxem import kept, lanes;"
        "m = jaxem.Mixture(np.zeros(2), jaxem.Full().init(np.eye(3), 2), jaxem.Full());"
        "print(kept.name_of([lanes._run, jaxem.hybrid(), jaxem.anderson(3), jax.tree.structure(m), {'b': 1, 'a': 2.5}]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


class Mine(NamedTuple):
    a: int


class Family(jaxem.Full):
    pass


@pytest.mark.parametrize(
    "value",
    [
        fresh,
        Mine(1),
        Family(),
        jaxem.Full,
        optax.sgd(lambda step: 0.1),
        np.ones(2),
        object(),
        [Family()],
    ],
    ids=["function", "tuple", "family", "class", "closure", "array", "object", "inside"],
)
def test_code_of_a_user_has_no_name(value: Any):
    if value is jaxem.Full:  # but jaxem's own has
        assert kept.name_of([value, value(), functools.partial(jaxem.fit, max_iter=3), None, 1.5, np.dtype("int8")])
    else:
        assert kept.name_of([value]) is None


def test_closures_with_other_values_have_other_names():
    assert kept.name_of([jaxem.anderson(3)]) != kept.name_of([jaxem.anderson(4)])
    assert kept.name_of([True]) != kept.name_of([1]) != kept.name_of([1.0]) != kept.name_of(["1"])
    assert kept.name_of([(1, 2)]) != kept.name_of([((1,), 2)]) != kept.name_of([(1, (2,))])
    assert kept.name_of(["a,b"]) != kept.name_of(["a", "b"])


def test_the_least_recently_used_go_first(folder, monkeypatch):
    program, x = Program(square, (1,)), np.ones((2, 2))
    for power in range(4):
        program(x, power)
    paths = [folder / (name_of_call(program, x, power) + ".program") for power in range(4)]
    size = max(path.stat().st_size for path in paths)
    for age, path in zip((1, 400, 300, 200), paths, strict=True):
        os.utime(path, (1e9 - age, 1e9 - age))
    assert fresh(program).exists(x, 1)  # used now
    monkeypatch.setattr(kept, "MOST_BYTES", 4 * size)
    program(x, 4)
    left = [power for power, path in enumerate(paths) if path.exists()]
    assert left == [0, 1]  # the second because it was used, the first because it is young
    assert (folder / (name_of_call(program, x, 4) + ".program")).exists()


def test_only_a_folder_of_the_user_is_used(folder, tmp_path):
    program, x = Program(square, (1,)), np.ones((2, 2))
    assert kept.folder_of("") is None
    (tmp_path / "file").write_text("")
    assert kept.folder_of(str(tmp_path / "file")) is None
    program(x, 1)
    folder.chmod(0o777)  # anybody could put code there
    kept.folder_of.cache_clear()
    assert kept.place() is None
    assert not fresh(program).exists(x, 1)
    np.testing.assert_array_equal(fresh(program)(x, 1), program(x, 1))


def test_a_value_that_takes_long_to_find_is_kept(folder):
    found = []

    def find():
        found.append(1)
        return (None, "words")

    assert [kept.fact(["a fact", 2], find) for _ in range(3)] == [(None, "words")] * 3
    assert len(found) == 1
    assert kept.fact(["a fact", 3], find) == (None, "words")
    assert kept.fact([Family()], find) == (None, "words")
    assert len(found) == 3


def test_whoever_waits_for_a_program_gets_its_fault_and_the_next_call_tries_again(monkeypatch):
    program, x = Program(square, (1,)), np.ones((2, 2))
    lower = program._jit_for
    faults = [KeyboardInterrupt(), RuntimeError("once")]

    def fails(args):
        if faults:
            raise faults.pop(0)
        return lower(args)

    monkeypatch.setattr(program, "_jit_for", fails)
    with pytest.raises(KeyboardInterrupt):
        program(x, 1)
    with pytest.raises(RuntimeError, match="once"):
        program(x, 1)
    assert program(x, 1).shape == (2,)


RUN = """
import sys, jax, numpy as np, jaxem
x = np.load(sys.argv[1])
mixture = jaxem.search(jax.random.key(0), "spherical", x, 2, budget=300).best.mixture
numbers = [*map(np.asarray, jax.tree.leaves(mixture)), mixture.log_prob(x)]
print([np.asarray(number).tobytes().hex() for number in numbers], flush=True)
if len(sys.argv) > 2:
    one = jaxem.fit(mixture, x, accelerator=jaxem.hybrid())
    print(np.asarray(one.objective).tobytes().hex(), [law.residual for law in jaxem.verify(mixture, x).laws])
"""


def run(code, *args, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


def test_a_process_with_kept_programs_gives_the_same_bits_and_compiles_none(tmp_path):
    """A damaged folder too, and none: both on a search alone."""
    np.save(tmp_path / "x.npy", blobs(90))
    cache = tmp_path / "cache"
    runs = []
    for _ in range(2):
        runs.append(run(RUN, tmp_path / "x.npy", "all", JAXEM_CACHE=str(cache), JAX_LOG_COMPILES="1"))
        assert runs[-1].returncode == 0, runs[-1].stderr
    assert runs[0].stdout == runs[1].stdout
    assert "jit(_open_round)" in runs[0].stderr
    assert set(re.findall(r"XLA compilation of jit\((_\w+)\)", runs[1].stderr)) <= {"_threefry_seed"}
    of_search = runs[0].stdout.splitlines(keepends=True)[0]
    for path in Path(cache, "programs").iterdir():
        path.write_bytes(path.read_bytes()[:-50])
    again = run(RUN, tmp_path / "x.npy", JAXEM_CACHE=str(cache))
    assert (again.returncode, again.stdout) == (0, of_search), again.stderr
    nothing = run(RUN, tmp_path / "x.npy", JAXEM_CACHE="")
    assert (nothing.returncode, nothing.stdout) == (0, of_search), nothing.stderr


def test_settings_of_jax_are_not_touched(tmp_path):
    code = (
        "import jax, numpy as np; before = dict(jax.config.values); import jaxem;"
        "x = np.random.default_rng(0).normal(size=(30, 2));"
        "jaxem.fit(jaxem.starts(jax.random.key(0), 'diagonal', x, 2, 1)[0], x);"
        "assert dict(jax.config.values) == before"
    )
    done = run(code, JAXEM_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "programs")


def test_arguments_that_lie_elsewhere_are_left_to_jit(folder):
    """A sharded array on one device is no array on that device; neither is one on another."""
    program, x = Program(square, (1,)), np.ones((2, 2))
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:1]), ("rows",))
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    np.testing.assert_array_equal(program(spread, 1), program(x, 1))
    assert len(program.made) == len(files(folder)) == 1
    with jax.debug_nans(True):
        program(x, 2)
    with jax.default_device(jax.local_devices()[0]):
        program(x, 2)
    assert len(program.made) == 1


def test_a_process_can_give_up_its_programs(folder):
    program, x = Program(square, (1,)), np.ones((2, 2))
    expected = program(x, 1)
    forget_programs()
    assert not program.made
    np.testing.assert_array_equal(program(x, 1), expected)


def test_threads_that_need_one_program_make_it_once(monkeypatch):
    program, x = Program(square, (1,)), np.ones((3, 3))
    begun: list[Any] = []
    begin = program._begin

    def counted(*args):
        begun.append(1)
        return begin(*args)

    monkeypatch.setattr(program, "_begin", counted)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: np.asarray(program(x, 1)), range(8)))
    assert len(begun) == 1
    assert all(np.array_equal(one, results[0]) for one in results)
