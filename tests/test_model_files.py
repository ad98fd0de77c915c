"""Models and tables on disk: what goes out comes back; what is wrong is named; nothing is half-written."""

import errno
import hashlib
import json
import os
import signal
import stat
import struct
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

import jaxem
from jaxem import datasets, io
from tests.cases import ORACLES, Case, Counts, named
from tests.conftest import DTYPE


@pytest.mark.parametrize("case", **named([case for case in ORACLES if type(case.family).__name__ in io.FAMILIES]))
def test_save_and_load(case, tmp_path):
    mixture = case.mixture()
    io.save(mixture, tmp_path / "m.safetensors")
    loaded = io.load(tmp_path / "m.safetensors")
    assert loaded.family == mixture.family
    assert jax.tree.structure(loaded) == jax.tree.structure(mixture)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(mixture), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype == DTYPE
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_arrays_may_lie_in_memory_in_any_order(tmp_path):
    """Views of numpy: what is written is what they hold, not what their memory holds."""
    params = jaxem.GaussianParams(
        np.arange(6.0).reshape(2, 3)[:, ::-1], np.stack([np.eye(3), 2 * np.eye(3)], axis=-1).T
    )
    mixture = jaxem.Mixture(np.log([0.75, 0.25])[::-1], params, jaxem.Full())
    io.save(mixture, tmp_path / "m")
    for a, b in zip(jax.tree.leaves(io.load(tmp_path / "m")), jax.tree.leaves(mixture), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


class Counted(Counts):
    """A family that files get to know by one row; it says how many features it has and what is wrong with rates."""

    def n_features(self, params):
        return params.rates.shape[-1]

    def check(self, params):
        return None if (params.rates > 0).all() else "rates holds values that are not positive"


def test_a_new_family_is_one_row(tmp_path, monkeypatch):
    monkeypatch.setitem(io.FAMILIES, "Counted", Counted())
    counts = Case(Counts(), 2, 3).mixture()
    mixture = jaxem.Mixture(counts.log_weights, counts.components, Counted())
    io.save(mixture, tmp_path / "m")
    loaded = io.load(tmp_path / "m")
    assert loaded.family == Counted()
    np.testing.assert_array_equal(loaded.components.rates, mixture.components.rates)
    wrong = jaxem.Mixture(mixture.log_weights, jax.tree.map(jnp.negative, mixture.components), Counted())
    with pytest.raises(io.ModelFormatError, match=r"components\.rates holds values that are not positive"):
        io.save(wrong, tmp_path / "m")


PLAIN = [
    jaxem.Spherical(),
    jaxem.Diagonal(),
    jaxem.Tied(),
    jaxem.Full(),
    jaxem.Bernoulli(),
    jaxem.Poisson(),
    jaxem.StudentT(),
]


@pytest.mark.parametrize("family", PLAIN, ids=repr)
def test_shapes_in_a_file_are_the_familys(family):
    """For sizes of which nothing could be computed, too."""
    for k, d in ((1, 1), (2, 4), (3, 5), (5, 3)):
        shapes, _ = io._shapes(family, k, d)
        mixture = Case(family, k, d).mixture()
        assert list(shapes.values()) == [leaf.shape for leaf in jax.tree.leaves(mixture.components)]
    first = next(iter(io._shapes(family, 10**9, 10**9)[0].values()))
    assert first == (10**9, 10**9)


def test_a_dead_component_is_kept(tmp_path):
    mixture = Case(jaxem.Full(), 2, 2).mixture()
    dead = jaxem.Mixture(jnp.asarray([0.0, -jnp.inf]), mixture.components, mixture.family)
    io.save(dead, tmp_path / "m")
    np.testing.assert_array_equal(io.load(tmp_path / "m").weights, [1.0, 0.0])


def test_save_refuses(tmp_path):
    mixture = Case(jaxem.Spherical(), 2, 2).mixture()
    path = tmp_path / "m"
    io.save(mixture, path)
    before = path.read_bytes()
    broken = jaxem.Mixture(mixture.log_weights * jnp.nan, mixture.components, mixture.family)
    with pytest.raises(ValueError, match="log_weights holds values that are not finite"):
        io.save(broken, path)
    with pytest.raises(FileExistsError, match="exists"):
        io.save(mixture, path, overwrite=False)

    class Mine(jaxem.Spherical):
        pass

    with pytest.raises(TypeError, match="which a file cannot hold"):
        io.save(jaxem.Mixture(mixture.log_weights, mixture.components, Mine()), path)
    with pytest.raises(IsADirectoryError):
        io.save(mixture, tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


def edit(path, change_header=None, change_data=None):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    if change_header:
        change_header(header)
    if change_data:
        change_data(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


LIES = {
    "format": lambda h: h["__metadata__"].update(format="other"),
    "version": lambda h: h["__metadata__"].update(version="99"),
    "family": lambda h: h["__metadata__"].update(family="os.system"),
    "n_components": lambda h: h["__metadata__"].update(n_components="-1"),
    "n_features": lambda h: h["__metadata__"].update(n_features="999999999"),
    "sha256": lambda h: h["__metadata__"].update(sha256="0" * 64),
    "metadata": lambda h: h["__metadata__"].update(extra="1"),
    "columns": lambda h: h["__metadata__"].update(columns='["a"]'),
    "arrays": lambda h: h.pop("log_weights"),
    "log_weights": lambda h: h["log_weights"].update(shape=[3]),
    "components.means": lambda h: h["components.means"].update(dtype="I64"),
    "components.covariances": lambda h: h["components.covariances"].update(extra=1),
}


@pytest.mark.parametrize("field", LIES)
def test_a_lie_in_the_header_is_named(field, tmp_path):
    path = tmp_path / "m"
    io.save(Case(jaxem.Full(), 2, 2).mixture(), path)
    edit(path, LIES[field])
    with pytest.raises(io.ModelFormatError, match="components.means" if field == "n_features" else field):
        io.load(path)


@pytest.mark.parametrize("columns", [("height", "weight"), ("Größe", "\x1b[31m, 2\n"), ("b", "a"), None])
def test_a_model_knows_its_columns(columns, tmp_path):
    mixture = Case(jaxem.Full(), 2, 2).mixture()
    io.save(mixture, tmp_path / "m", columns=columns)
    loaded = io.load_model(tmp_path / "m")
    assert loaded.columns == columns
    np.testing.assert_array_equal(loaded.mixture.components.means, mixture.components.means)
    np.testing.assert_array_equal(io.load(tmp_path / "m").components.means, mixture.components.means)


def test_a_model_knows_many_columns(tmp_path):
    params = jaxem.GaussianParams(np.zeros((1, 20_000), "f4"), np.ones(1, "f4"))
    names = tuple(f"a rather long name {j}" for j in range(20_000))
    io.save(jaxem.Mixture(np.zeros(1, "f4"), params, jaxem.Spherical()), tmp_path / "m", columns=names)
    assert io.load_model(tmp_path / "m").columns == names


def test_columns_of_a_model_are_different_names(tmp_path):
    mixture = Case(jaxem.Full(), 2, 2).mixture()
    for columns, message in {
        ("a",): "columns are 1 names for 2 features; give one name for each",
        ("a", "a"): "columns hold 'a' twice",
        ("a", ""): "columns hold ''; give names",
        ("a", 3): "columns hold '3'; give names",
        ("a", "b" * 1001): "columns hold 'bbbb.*1000 characters",
        ("a", "\udc80"): r"columns hold '\\udc80', which is no text",
    }.items():
        with pytest.raises(ValueError, match=message):
            io.save(mixture, tmp_path / "m", columns=columns)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    ['["a", "a"]', '["a"]', '["a", 1]', '["a", null]', '"ab"', '{"a": 1, "b": 2}', "[", "", "[" * 100_000, '["a", ""]',
     '["a", "\\ud800"]', "true", "NaN", None, ["a", "b"]],
)  # fmt: skip
def test_hostile_columns(text, tmp_path):
    path = tmp_path / "m"
    io.save(Case(jaxem.Full(), 2, 2).mixture(), path, columns=["a", "b"])
    edit(path, lambda header: header["__metadata__"].update(columns=text))
    with pytest.raises(io.ModelFormatError, match="columns") as error:
        io.load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_the_digest_covers_what_is_said_of_a_model(tmp_path):
    """Also what the shapes of the arrays do not show: names in another order, another family of the same shapes, no names."""
    path = tmp_path / "m"
    for changed in (
        {"columns": '["b", "a"]'},
        {"columns": "null"},
        {"version": "1", "columns": None, "family": "Full"},
        {"family": '{"Tied": {}}'},
    ):
        is_tied = "version" not in changed and "family" in changed
        params = jaxem.GaussianParams(np.zeros((2, 2)), np.ones((2, 2)) if is_tied else np.stack([np.eye(2)] * 2))
        family = jaxem.Diagonal() if is_tied else jaxem.Full()
        io.save(jaxem.Mixture(np.log([0.5, 0.5]), params, family), path, columns=["a", "b"])
        edit(path, lambda header, changed=changed: header["__metadata__"].update(changed))
        if changed.get("version") == "1":
            edit(path, lambda header: header["__metadata__"].pop("columns"))
        with pytest.raises(io.ModelFormatError, match="sha256"):
            io.load(path)


def test_a_file_of_version_1_is_read(tmp_path):
    """Written here as jaxem 0.5 wrote it: no columns, a digest of the arrays alone."""
    arrays = {
        "log_weights": np.log([0.25, 0.75]).astype(DTYPE),
        "components.means": np.array([[1.0, 2.0], [3.0, 4.0]], DTYPE),
        "components.covariances": np.array([1.0, 2.0], DTYPE),
    }
    digest = hashlib.sha256()
    for name in ("components.covariances", "components.means", "log_weights"):
        digest.update(f"{name}|{arrays[name].dtype.str}|{arrays[name].shape}|".encode() + arrays[name].tobytes())
    metadata = {
        "format": "jaxem-mixture", "version": "1", "family": "Spherical", "n_components": "2", "n_features": "2",
        "sha256": digest.hexdigest(),
    }  # fmt: skip
    safetensors.numpy.save_file(arrays, tmp_path / "m", metadata)
    loaded = io.load_model(tmp_path / "m")
    assert loaded.columns is None
    np.testing.assert_array_equal(loaded.mixture.components.means, [[1.0, 2.0], [3.0, 4.0]])
    arrays["log_weights"][:] = np.log(0.5)
    safetensors.numpy.save_file(arrays, tmp_path / "m", metadata)
    with pytest.raises(io.ModelFormatError, match="sha256"):
        io.load(tmp_path / "m")


def test_a_float64_model_is_not_rounded_in_silence(tmp_path):
    third = jaxem.Mixture(np.zeros(1), jaxem.GaussianParams(np.full((1, 1), 1 / 3), np.ones(1)), jaxem.Spherical())
    io.save(third, tmp_path / "m")
    with jax.enable_x64(True):
        assert float(io.load(tmp_path / "m").components.means[0, 0]) == 1 / 3
    for loading in (io.load, io.load_model):
        with (
            jax.enable_x64(False),
            pytest.warns(UserWarning, match="float64 model.*float32; set jax_enable_x64") as told,
        ):
            loading(tmp_path / "m")
        assert told[0].filename == __file__
    io.save(one_model(), tmp_path / "m")
    with jax.enable_x64(False):
        assert io.load(tmp_path / "m").components.means.dtype == np.float32


def test_every_truncation_and_every_flipped_byte_is_seen(tmp_path):
    path = tmp_path / "m"
    io.save(Case(jaxem.Diagonal(), 2, 1).mixture(), path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(io.ModelFormatError):
            io.load(path)
    for i in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :])
            with pytest.raises(io.ModelFormatError):
                io.load(path)


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(io.ModelFormatError, match="no regular file"):
            io.load(path)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_save_killed_at_any_moment_leaves_a_model(tmp_path):
    """The file holds the old model or the new one, whenever the process is killed."""
    code = (
        "import sys, numpy as np, jaxem; from jaxem import io\n"
        "def model(v):\n"
        "    params = jaxem.GaussianParams(np.full((1, 40), v, 'f4'), np.eye(40, dtype='f4')[None])\n"
        "    return jaxem.Mixture(np.zeros(1, 'f4'), params, jaxem.Full())\n"
        "io.save(model(0.0), sys.argv[1]); print('ready', flush=True)\n"
        "while True:\n"
        "    for v in (1.0, 2.0): io.save(model(v), sys.argv[1])"
    )
    path = tmp_path / "m"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    for _ in range(200):  # a reader never meets half a file
        assert float(io.load(path).components.means[0, 0]) in (0.0, 1.0, 2.0)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert float(io.load(path).components.means[0, 0]) in (0.0, 1.0, 2.0)


def one_model(value=0.0):
    return jaxem.Mixture(
        np.zeros(1, "f4"), jaxem.GaussianParams(np.full((1, 1), value, "f4"), np.ones(1, "f4")), jaxem.Spherical()
    )


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
def test_mode_and_link_stay(tmp_path):
    (tmp_path / "below").mkdir()
    target, link = tmp_path / "below" / "m", tmp_path / "link"
    link.symlink_to("below/m")
    io.save(one_model(), link)  # a link that leads to no file yet
    new = tmp_path / "new"
    new.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(new.stat().st_mode)
    for mode in (0o600, 0o664, 0o444):
        target.chmod(mode)
        io.save(one_model(1.0), link)
        assert link.is_symlink()
        assert stat.S_IMODE(target.stat().st_mode) == mode
        assert float(io.load(target).components.means[0, 0]) == 1.0
    assert sorted(os.listdir(tmp_path)) == ["below", "link", "new"]
    assert os.listdir(tmp_path / "below") == ["m"]


@pytest.mark.skipif(os.name != "posix", reason="devices of POSIX")
def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/null"):
        with pytest.raises(OSError, match="no regular file"):
            io.save(one_model(), path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_what_killed_processes_left_is_removed(tmp_path):
    """Two of them, each killed just before it renames; what belongs to others and to the living stays."""
    code = (
        "import os, signal, sys, unittest.mock as mock; from jaxem import atomic; from pathlib import Path\n"
        "with mock.patch('os.replace', lambda *_: os.kill(os.getpid(), signal.SIGKILL)):\n"
        "    atomic.write_atomically(Path(sys.argv[1]), b'x', True)"
    )
    path = tmp_path / "m"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(path)])
        assert done.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 1  # the next save removes what the one before left
    dead = next(tmp_path.iterdir()).name
    others = [".m.tmp", "m.abc.tmp", ".jaxem-notes.tmp", ".jaxem-0badcafe-1-x.tmp.bak", dead.removeprefix(".")]
    of_the_living = "-".join([*dead.split("-")[:2], str(os.getpid()), "abcdefgh.tmp"])
    elsewhere = (
        f".jaxem-00000000-{dead.split('-')[2]}-abcdefgh.tmp"  # a process of another machine with the same number
    )
    for name in (*others, of_the_living, elsewhere):
        (tmp_path / name).touch()
    io.save(one_model(), path)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, of_the_living, elsewhere, "m"])
    for name in (*others, of_the_living, elsewhere):
        os.utime(tmp_path / name, (0, 0))
    io.save(one_model(), path)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "m"])


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_names_the_path_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "m"
    io.save(one_model(), path)
    before = path.read_bytes()
    code = (
        "import resource, sys; from jaxem import atomic; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "atomic.write_atomically(Path(sys.argv[1]), bytes(10**6), True)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno {errno.EFBIG}] File too large: '{path}'"
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with mock.patch("os.fsync", full), pytest.raises(OSError, match=f"No space left on device: '{path}'") as caught:
        io.save(one_model(1.0), path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.skipif(os.name != "posix", reason="folders of POSIX")
def test_a_renaming_is_flushed(tmp_path):
    """First the file, then its folder: else a crash of the machine could undo the renaming."""
    flushed = []

    def note(handle):
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "m").exists()))

    with mock.patch("os.fsync", note):
        io.save(one_model(), tmp_path / "m")
    assert flushed == [(False, False), (True, True)]


@pytest.mark.parametrize("wrong", [["F64"], {"a": 1}, None, 3, True])
def test_types_that_json_allows_and_we_do_not(wrong, tmp_path):
    path = tmp_path / "m"
    for field in ("dtype", "shape", "data_offsets"):
        io.save(Case(jaxem.Full(), 2, 2).mixture(), path)
        edit(path, lambda header, field=field: header["log_weights"].update({field: wrong}))
        with pytest.raises(io.ModelFormatError):
            io.load(path)


def test_float64_that_float32_cannot_hold_is_not_read_as_infinity(tmp_path):
    for means, covariance in ((1e300, 1.0), (0.0, 1e-60)):
        params = jaxem.GaussianParams(np.full((1, 1), means), np.full(1, covariance))
        io.save(jaxem.Mixture(np.zeros(1), params, jaxem.Spherical()), tmp_path / "m")
        with jax.enable_x64(True):
            assert float(io.load(tmp_path / "m").components.means[0, 0]) == means
        with jax.enable_x64(False), pytest.raises(ValueError, match="set jax_enable_x64"):
            io.load(tmp_path / "m")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04\x95", b"\xff" * 100, b"PK\x03\x04" + b"\0" * 50])
def test_foreign_files(content, tmp_path):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(io.ModelFormatError):
        io.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        io.load(tmp_path / "nothing")


def test_parameters_that_are_no_mixture(tmp_path):
    """`save` refuses them, so that every saved file can be loaded."""
    mixture = Case(jaxem.Full(), 2, 2).mixture()
    covariances = mixture.components.covariances
    for name, changed in {
        "log_weights": jaxem.Mixture(mixture.log_weights + 1.0, mixture.components, mixture.family),
        "components.covariances": jaxem.Mixture(
            mixture.log_weights, mixture.components._replace(covariances=-covariances), mixture.family
        ),
    }.items():
        with pytest.raises(io.ModelFormatError, match=name):
            io.save(changed, tmp_path / "m")
    nearly = covariances.at[0, 0, 1].add(1e-18)
    io.save(
        jaxem.Mixture(mixture.log_weights, mixture.components._replace(covariances=nearly), mixture.family),
        tmp_path / "m",
    )
    assert io.load(tmp_path / "m").n_components == 2


def test_tables_of_every_format(tmp_path):
    values = np.array([[1.0, 2.5], [3.0, -4e3]])
    texts = {
        "header.csv": "a,b\n1,2.5\n3,-4e3\n",
        "none.csv": "1,2.5\n3,-4e3\n",
        "bom.csv": "\ufeffa,b\r\n1,2.5\r\n3,-4e3\r\n",
        "quoted.csv": '"a","b"\n"1","2.5"\n3,-4e3\n',
        "tabs.tsv": "a\tb\n1\t2.5\n3\t-4e3\n",
        "semicolons.txt": "a;b\n1;2.5\n3;-4e3\n",
        "spaces.txt": "1 2.5\n3 -4e3\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        table = datasets.read_table(tmp_path / name)
        np.testing.assert_array_equal(table.values, values, err_msg=name)
        assert table.columns in (("a", "b"), ("x1", "x2"))
    np.save(tmp_path / "x.npy", values.astype(np.float32))
    table = datasets.read_table(tmp_path / "x.npy")
    np.testing.assert_array_equal(table.values, values.astype(np.float32))
    assert table.values.dtype == np.float32
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 3], "b": values[:, 1]}), tmp_path / "x.parquet")
    table = datasets.read_table(tmp_path / "x.parquet", ["b"])
    np.testing.assert_array_equal(table.values, values[:, 1:])
    assert table.columns == ("b",)


def test_faithful_is_old_faithful():
    x = datasets.faithful()
    assert x.shape == (272, 2)
    np.testing.assert_allclose(x.mean(axis=0), [3.487783, 70.897059], atol=1e-6)
    assert datasets.faithful_table().columns == ("eruptions", "waiting")


BAD_TEXT = {
    "empty": ("", "is empty"),
    "only a header": ("a,b\n", "has no rows"),
    "ragged": ("a,b\n1,2\n3\n", "line 3 has 1 field: '3'; every row must have 2 fields"),
    "ragged, later": ("a,b\n" + "1,2\n" * 50_000 + "\n3,4,5\n", "line 50003 has 3 fields: '3,4,5'"),
    "text": ("a,b\n1,2\n3,red\n", r"column 'b' is not numeric but string \(line 3 holds 'red'\).*--columns"),
    "text without a header": ("1,2\n\n3,red\n", r"column 'x2' is not numeric but string \(line 3 holds 'red'\)"),
    "text in quotes": ('a,b\n1,"2"\n3,"re""d,\nblue"\n', r"column 'b' is not numeric but string \(line 3 holds"),
    "another delimiter": ("a/b\n1/2\n", r"column 'a/b' is not numeric but string \(line 2 holds '1/2'\)"),
    "decimal commas and points": (
        "a;b\n1,5;2,5\n1,5;2.5\n",
        r"column 'b' is not numeric but string \(line 3 holds '2.5'\)",
    ),
    "missing": ("a,b\n1,2\n,4\n", "line 3, column 'a' holds a missing value"),
    "NA": ("a,b\r\n1,NA\r\n3,4\r\n", "line 2, column 'b' holds 'NA', a missing value"),
    "infinite": ("\ufeffa,b\n1,inf\n3,4\n", "line 2, column 'b' holds 'inf', inf"),
    "twice": ("a,a\n1,2\n", "two columns named 'a'"),
    "NUL": ("a,b\n1,\0\n", "NUL byte in line 2, column 3"),
    "NUL, later": (
        "a,b\n" + "1,2\n" * 50_000 + "3,4\0\n",
        "NUL byte in line 50002, column 4",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_TEXT.values(), ids=BAD_TEXT)
def test_bad_tables(text, message, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(datasets.DataError, match=message) as error:
        datasets.read_table(tmp_path / "x.csv")
    assert "\n" not in str(error.value)


def test_bad_files(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.arange(3.0))
    (tmp_path / "not.npy").write_bytes(b"hello")
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros((1000, 1000)))
    (tmp_path / "bomb.npy").write_bytes((tmp_path / "bomb.npz").read_bytes())
    np.save(tmp_path / "good.npy", np.zeros((10, 2)))
    good = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "lie.npy").write_bytes(good.replace(b"(10, 2), }" + b" " * 12, b"(99999999999, 200), } "))
    (tmp_path / "broken.npy").write_bytes(good.replace(b"'shape'", b"'shape("))
    (tmp_path / "short.npy").write_bytes(good[:-8])
    table = pyarrow.table({"a": [1.0, None], "b": [[1.0], [2.0]]})
    pyarrow.parquet.write_table(table.select(["a"]), tmp_path / "null.parquet")
    pyarrow.parquet.write_table(table.select(["b"]), tmp_path / "nested.parquet")
    (tmp_path / "not.parquet").write_bytes(b"hello")
    (tmp_path / "x.xlsx").write_bytes(b"hello")
    (tmp_path / "latin.csv").write_bytes(b"\x81\n1\n")
    for name, message in {
        "objects.npy": "no npy file of numbers",
        "flat.npy": r"shape \(3,\)",
        "not.npy": "no npy file",
        "bomb.npz": "suffix",
        "bomb.npy": "several arrays",
        "lie.npy": "no npy file",
        "broken.npy": "no npy file",
        "short.npy": "no npy file",
        "null.parquet": "row 2, column 'a' holds a missing value",
        "nested.parquet": r"column 'b' is not numeric but list.* \(row 1 holds '\[1.0\]'\)",
        "not.parquet": "no readable Parquet",
        "x.xlsx": "suffix",
        "latin.csv": "UTF-8: line 1",
        "missing.csv": "does not exist",
        ".": "is a directory",
    }.items():
        with pytest.raises(datasets.DataError, match=message):
            datasets.read_table(tmp_path / name)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(datasets.DataError, match="no column 'c'; it has a, b"):
        datasets.read_table(tmp_path / "x.csv", ["c"])
