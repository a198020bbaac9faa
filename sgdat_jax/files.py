"""Files written whole or not at all, JSON, and JSON lines.

Everything that writes, moves or removes files does it here, by three rules. A new file
is created under a random name and then renamed into place. Symbolic links are never
followed: a link in the place of a new file is replaced, a link in the place of a folder
or of a file to append to is refused. Files that the caller does not name stay.
"""

import contextlib
import errno
import json
import lzma
import os
import pathlib
import re
import secrets
import shutil
import stat
import tokenize
import tomllib
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

PARTIAL = ".partial"  # suffix of a file that is being written
_PARTIAL_NAME = re.compile(r".+\.[0-9a-f]{8}\.partial", re.DOTALL)
# What NumPy, zipfile and json raise for files that are damaged or made to do harm.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
)
# Windows has neither; there, creating links takes rights of its own.
_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)  # at a named pipe


@contextlib.contextmanager
def whole(
    file: pathlib.Path, mode: str = "w", newline: str | None = None
) -> Iterator[IO[Any]]:
    """Opens a file to write it whole: if the block fails, what was there stays.

    Args:
      file: path; a regular file or a symbolic link that is there is replaced.
      mode: ``"w"`` for UTF-8 text or ``"wb"`` for bytes.
      newline: as in `open`.

    Raises:
      OSError: if the file cannot be written; the message names it.
    """
    encoding = None if "b" in mode else "utf-8"
    # A random name, so that nothing is there yet.
    partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}{PARTIAL}")
    with _naming(file):
        data = partial.open(mode.replace("w", "x"), encoding=encoding, newline=newline)
        try:
            with data:
                yield data
                data.flush()
                os.fsync(data.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


def write_text(file: pathlib.Path, text: str) -> None:
    """Writes a file of text, or none if that fails."""
    with whole(file) as data:
        data.write(text)


def write_json(
    file: pathlib.Path,
    values: Mapping[str, Any] | Sequence[Any],
    indent: int | None = 2,
) -> None:
    """Writes a file of JSON, or none if that fails."""
    write_text(file, json.dumps(values, indent=indent) + "\n")


def write_lines(file: pathlib.Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file of JSON lines, or none if that fails."""
    with whole(file) as data:
        data.writelines(json.dumps(line) + "\n" for line in lines)


def append_line(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Adds a line to a file of JSON lines; an unended last line is cut off first.

    Raises:
      OSError: if that fails, or if the file is a link or not a regular file.
    """
    with _naming(file):
        check_no_link(file)
        if os.path.lexists(file) and not is_regular(file):  # a pipe cannot be sought
            raise OSError(errno.EINVAL, "it is not a regular file")
        with open(file, "a+b", opener=_open_no_link) as lines:
            lines.seek(0)
            ended, newline, last = lines.read().rpartition(b"\n")
            if _is_torn(last):
                lines.truncate(len(ended + newline))
            elif last:
                lines.write(b"\n")
            lines.write(json.dumps(values).encode() + b"\n")
            lines.flush()
            os.fsync(lines.fileno())


def read_text(file: pathlib.Path) -> str:
    """Reads a file of text in UTF-8, with or without the mark of its byte order.

    Raises:
      ValueError: if it is not there, cannot be read or is not a regular file.
    """
    try:
        with open(file, encoding="utf-8-sig", opener=_open_no_wait) as data:
            _check_regular(data)
            return data.read()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """Reads a file of JSON.

    Raises:
      ValueError: if it is not there, cannot be read or holds no JSON object.
    """
    return _parse(file, read_text(file))


def read_toml(file: pathlib.Path) -> dict[str, Any]:
    """Reads a file of TOML.

    Raises:
      ValueError: if it is not there, cannot be read or is not TOML.
    """
    text = read_text(file)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not TOML: {error}.") from None


def to_toml(values: Mapping[str, Any]) -> str:
    """Returns values as TOML: numbers, texts, truths, and tuples of them.

    What is None is left out.

    Example:
      >>> from sgdat_jax import files
      >>> print(files.to_toml({"rate": 1e-4, "layers": ("a", "b"), "width": None}))
      rate = 0.0001
      layers = ["a", "b"]
      <BLANKLINE>
    """
    # JSON writes these kinds as TOML does.
    return "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
        for name, value in values.items()
        if value is not None
    )


def read_lines(file: pathlib.Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines, but for a torn last line.

    A full disk or a kill leaves half a line; whoever appends the next one cuts it off.

    Raises:
      ValueError: if it cannot be read or a line is damaged.
    """
    ended, _, last = read_text(file).rpartition("\n")
    lines = [*ended.splitlines(), *([] if _is_torn(last) or not last else [last])]
    return [_parse(file, line) for line in lines]


def has_torn_line(file: pathlib.Path) -> bool:
    """Returns whether the last line of a file is half a line; no file has none.

    Raises:
      ValueError: if the file is there and cannot be read.
    """
    return is_file(file) and _is_torn(read_text(file).rpartition("\n")[-1])


def _is_torn(last: str | bytes) -> bool:
    """Returns whether what stands behind the last end of a line is no whole line."""
    try:
        return bool(last) and not json.loads(last)
    except (ValueError, RecursionError):
        return True


def make(paths: Iterable[pathlib.Path], option: str = "run_dir") -> list[pathlib.Path]:
    """Makes folders, and those above them, unless they are there.

    Args:
      paths: of the folders.
      option: what gave the paths, for the message of an error.

    Returns:
      What was not there before, outermost first.

    Raises:
      ValueError: if one of them cannot be made or written; nothing is left on disk
        then.
    """
    made: list[pathlib.Path] = []
    for path in paths:
        try:
            for folder in (*reversed(path.parents), path):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)  # another process may be faster
                    made.append(folder)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            remove_empty(made)
            raise not_writable(path, option, error) from None
    return made


def make_inner(folder: pathlib.Path) -> None:
    """Makes a folder within one of ours, unless it is there.

    Raises:
      OSError: if that fails, or if a link or a file is in its place.
    """
    with _naming(folder):
        check_no_link(folder)
        folder.mkdir(exist_ok=True)


def remove_empty(folders: Sequence[pathlib.Path]) -> None:
    """Removes the folders that are empty, the last first; the others stay."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # another process has filled it
            folder.rmdir()


def remove(path: pathlib.Path) -> None:
    """Removes a file, a link or a folder with all that is in it, if it is there."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partials(folder: pathlib.Path, old: Collection[str] = ()) -> None:
    """Removes partial files that a killed process has left.

    Call it only while no other process writes to the folder.

    Args:
      folder: need not be there.
      old: names of partial files of former versions.
    """
    for path in entries(folder):
        is_ours = _PARTIAL_NAME.fullmatch(path.name) or path.name in old
        if is_ours and is_regular(path):
            path.unlink(missing_ok=True)


def set_aside(path: pathlib.Path, why: str) -> pathlib.Path:
    """Renames a file or folder to ``NAME.WHY``, or to one with a number that is free.

    Returns:
      The new path.

    Raises:
      OSError: if that fails; the message names it.
    """
    place, number = path.with_name(f"{path.name}.{why}"), 1
    while os.path.lexists(place):
        number += 1
        place = path.with_name(f"{path.name}.{why}-{number}")
    with _naming(path):
        path.rename(place)
    return place


def entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns what is in a folder, sorted by name; nothing if it is not there.

    Raises:
      OSError: if the path cannot be read or is not a folder.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def open_regular(file: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a regular file, or a link to one, to read its bytes.

    Raises:
      OSError: if that fails, or at once if it is a named pipe or a device.
    """
    data = open(file, "rb", opener=_open_no_wait)  # noqa: SIM115
    try:
        _check_regular(data)
    except OSError:
        data.close()
        raise
    return data


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


def not_writable(path: pathlib.Path, option: str, error: OSError) -> ValueError:
    """Returns the error of an option whose folder cannot be written."""
    return ValueError(
        f"{option} must be a folder that can be written, got {path}: {error.strerror}."
    )


@contextlib.contextmanager
def _naming(file: pathlib.Path) -> Iterator[None]:
    """Names a file where it cannot be written, which the system does not always."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        message = f"{file} cannot be written: {error.strerror}."
        raise OSError(error.errno, message) from None


def _open_no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | _NO_WAIT, 0o666)


def _open_no_link(path: str, flags: int) -> int:
    return _open_no_wait(path, flags | _NO_LINK)


def _check_regular(data: IO[Any]) -> None:
    if not stat.S_ISREG(os.fstat(data.fileno()).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def _parse(file: pathlib.Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a JSON object, got {text[:40]}.")
    return values
