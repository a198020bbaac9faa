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


def outside(folder):
    """Makes a folder of the user's with what links lead to."""
    folder = folder / "outside"
    (folder / "44").mkdir(parents=True)
    for name in ("thesis.txt", "learning.png", "44/sha256.json", "metrics.jsonl"):
        (folder / name).write_text("mine")
    return folder


def put(folder, outside):
    """Puts strangers of every kind in a folder and those in it."""
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        (place / "44 good copy").mkdir()
        (place / "44 good copy" / "config.json").write_text("mine")
        (place / "empty").mkdir()
        for name in (".DS_Store", "novel.partial", "config.json.orig", "x.damaged"):
            (place / name).write_bytes(b"\0mine")
        (place / "to a file").symlink_to(outside / "thesis.txt")
        (place / "to a folder").symlink_to(outside)
        (place / "to nothing").symlink_to("nowhere")
        for name in ("times.partial", "config.partial", "progress.json.partial"):
            (place / name).symlink_to(outside / "thesis.txt")
        (place / "metrics.partial").mkdir()
        os.mkfifo(place / "pipe")
