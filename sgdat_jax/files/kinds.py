"""What is at a path, and opening it without a surprise."""

import contextlib
import errno
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import IO, Any

# Windows has neither; there, creating links takes rights of its own.
_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)  # at a named pipe


def entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns what is in a folder, sorted by name; nothing if it is not there.

    Raises:
      OSError: if the path cannot be read or is not a folder.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def is_file(path: pathlib.Path) -> bool:
    """Returns whether a path is a regular file or a link to one.

    Raises:
      OSError: if that cannot be found out, where pathlib may say that it is not there.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_folder(path: pathlib.Path) -> bool:
    """Returns whether a path is a folder, and no link to one.

    Raises:
      OSError: as in `is_file`.
    """
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_regular(path: pathlib.Path) -> bool:
    """Returns whether a path is a regular file, and no link to one."""
    return not path.is_symlink() and os.path.isfile(path)


def check_no_link(path: pathlib.Path) -> None:
    """Raises OSError if a path is a symbolic link, even a dangling one."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")


def open_regular(file: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a regular file, or a link to one, to read its bytes.

    Raises:
      OSError: if that fails, or at once if it is a named pipe or a device.
    """
    data = open(file, "rb", opener=open_no_wait)  # noqa: SIM115
    try:
        check_regular(data)
    except OSError:
        data.close()
        raise
    return data


@contextlib.contextmanager
def naming(file: pathlib.Path) -> Iterator[None]:
    """Names a file where it cannot be written, which the system does not always."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        message = f"{file} cannot be written: {error.strerror}."
        raise OSError(error.errno, message) from None


def open_no_wait(path: str, flags: int) -> int:
    """Opens a path without waiting; for `open`, as the next one."""
    return os.open(path, flags | _NO_WAIT, 0o666)


def open_no_link(path: str, flags: int) -> int:
    """Opens a path without waiting, and no symbolic link."""
    return open_no_wait(path, flags | _NO_LINK)


def check_regular(data: IO[Any]) -> None:
    """Raises OSError if an open file is not a regular one."""
    if not stat.S_ISREG(os.fstat(data.fileno()).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
