"""What lies in folders without being the program's, and whether it is still there."""

import errno
import io
import os


def contents(folder):
    """All that is in a folder: bytes of files, targets of links, None for the rest."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def make_unreadable(monkeypatch, name):
    """Denies one file, as the system does to anybody but its administrator."""
    true_open = io.open

    def deny(file, *args, **kwargs):
        if isinstance(file, str | os.PathLike) and os.fspath(file) == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return true_open(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", deny)
    monkeypatch.setattr("builtins.open", deny)
