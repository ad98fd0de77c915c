"""Writing a file so that its path holds the old content or the new one, never a part of one.

A file is written beside its destination, flushed and renamed; then its folder is flushed. A link stays a link, an old file
gives the new one its owner and mode, and what killed processes left beside it is removed. Devices and pipes are refused:
renaming would replace them.
"""

import contextlib
import os
import re
import socket
import stat
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

WRITING = threading.Lock()
"""held while a small file is written at once; whoever ends the process waits for it"""
STALE = 600.0
"""seconds after which a file that nobody finished is removed, whoever began it"""


def check_destination(path: Path, overwrite: bool, remedy: str = "allow overwriting it") -> None:
    """Raise if a file cannot be written there.

    Raises:
        OSError: of the kind that fits: what is in the way, and what to do.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; give the name of a file")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # renaming would replace a device by a file
        raise OSError(f"{path} is no regular file; give the name of one")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or {remedy}")
    folder = _target(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written to; choose another folder")


def write_atomically(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file so that its path holds the old content or the new one, never a part, whatever happens.

    Raises:
        OSError: naming the path, also where the disk is full; the old file is then whole.
    """
    with WRITING, replacing(path, overwrite) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """A file to write what `path` shall hold; it takes that name when all is written, and is removed if that fails.

    Raises:
        OSError: as `write_atomically`.
    """
    check_destination(path, overwrite)
    target, temporary = _target(path), ""
    _remove_stale(target.parent)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f"{_prefix()}{os.getpid()}-", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _keep_mode(target, temporary)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        if error.filename not in (None, temporary):  # it is about another file, which was read meanwhile
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    _flush_folder(target.parent)


def _target(path: Path) -> Path:
    """The file that a path leads to: a link stays what it is, its target is written."""
    return Path(os.path.realpath(path))


def _keep_mode(path: Path, temporary: str) -> None:
    """Give the new file the owner and the mode of the old one; without one the mode that new files have."""
    if not path.exists():
        os.chmod(temporary, 0o666 & ~_umask())
        return
    old = path.stat()
    if hasattr(os, "chown") and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(OSError):  # only root may, and not everywhere
            os.chown(temporary, old.st_uid, old.st_gid)
    os.chmod(temporary, stat.S_IMODE(old.st_mode))


def _flush_folder(folder: Path) -> None:
    """Make a renaming last; systems that cannot flush a folder do without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _prefix() -> str:
    """How temporary files of this machine begin; the number of the process follows."""
    return f".jaxem-{zlib.crc32(socket.gethostname().encode()):08x}-"


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left here: files of ours whose writer is dead, or that are old."""
    ours = re.compile(r"\.jaxem-[0-9a-f]{8}-(\d+)-\w+\.tmp")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = ours.fullmatch(entry.name)
            if found is None:
                continue
            with contextlib.suppress(OSError):  # somebody else was quicker
                about = entry.stat(follow_symlinks=False)
                mine = not hasattr(os, "geteuid") or about.st_uid == os.geteuid()
                dead = entry.name.startswith(_prefix()) and not _is_alive(int(found[1]))
                if stat.S_ISREG(about.st_mode) and mine and (dead or time.time() - about.st_mtime > STALE):
                    os.unlink(entry.path)


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # there the signal 0 is no question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
