"""Files written whole or not at all: text, JSON, JSON lines and TOML."""

import contextlib
import errno
import json
import lzma
import os
import pathlib
import secrets
import tokenize
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from sgdat_jax.files import kinds

PARTIAL = ".partial"  # suffix of a file that is being written
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
    with kinds.naming(file):
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
    with kinds.naming(file):
        kinds.check_no_link(file)
        # A pipe cannot be sought.
        if os.path.lexists(file) and not kinds.is_regular(file):
            raise OSError(errno.EINVAL, "it is not a regular file")
        with open(file, "a+b", opener=kinds.open_no_link) as lines:
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
        with open(file, encoding="utf-8-sig", opener=kinds.open_no_wait) as data:
            kinds.check_regular(data)
            return data.read()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """Reads a file of JSON.

    Raises:
      ValueError: if it is not there, cannot be read or holds no JSON object.
    """
    return _parse(file, read_text(file))


def from_json(text: str | bytes) -> Any:
    """Returns what JSON holds.

    Raises:
      ValueError: if it is no JSON, or an object has a key twice, where no one can tell
        which of the two values was meant.
      RecursionError: if it is nested too deep.

    Example:
      >>> from sgdat_jax import files
      >>> files.from_json('{"seed": 0, "seed": 1}')
      Traceback (most recent call last):
      ...
      ValueError: it has 'seed' twice
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice[:40]!r} twice")
    return values


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
    """Reads a file of JSON lines, without a torn last line.

    A full disk or a kill leaves half a line; whoever appends the next one cuts it off.

    Raises:
      ValueError: if it cannot be read or a line is damaged.
    """
    ended, _, last = read_text(file).rpartition("\n")
    lines = [*ended.splitlines(), *([] if _is_torn(last) or not last else [last])]
    return [_parse(file, line) for line in lines]


def check_format(file: pathlib.Path, found: Any, newest: int) -> None:
    """Raises ValueError unless this version reads a file's format.

    Args:
      file: for the message.
      found: what it says of its format.
      newest: the format that this version writes; it reads all from 0 on.
    """
    if found not in range(newest + 1):
        raise ValueError(
            f"{file} has format {found!r}, of another version of sgdat-jax; this one "
            f"reads formats up to {newest}."
        )


def has_torn_line(file: pathlib.Path) -> bool:
    """Returns whether the last line of a file is half a line; no file has none.

    Raises:
      ValueError: if the file is there and cannot be read.
    """
    return kinds.is_file(file) and _is_torn(read_text(file).rpartition("\n")[-1])


def _is_torn(last: str | bytes) -> bool:
    """Returns whether what stands behind the last end of a line is no whole line."""
    try:
        return bool(last) and not json.loads(last)
    except (ValueError, RecursionError):
        return True


def _parse(file: pathlib.Path, text: str) -> dict[str, Any]:
    try:
        values = from_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a JSON object, got {text[:40]}.")
    return values
