"""Files written whole or not at all, and never through links."""

import json
import os
import stat

import pytest

from sgdat_jax import files


@pytest.fixture
def precious(tmp_path):
    """A file that is not the program's, outside of the folder it writes to."""
    file = tmp_path / "precious"
    file.write_text("mine")
    return file


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_round_trips(folder):
    values = {"a": 0.1 + 0.2, "b": [1, None], "c": "ü"}
    files.write_json(folder / "x.json", values)
    assert files.read_json(folder / "x.json") == values
    files.write_lines(folder / "x.jsonl", [values, {}])
    files.append_line(folder / "x.jsonl", values)
    assert files.read_lines(folder / "x.jsonl") == [values, {}, values]
    files.write_text(folder / "x.md", "±")
    assert (folder / "x.md").read_bytes() == "±".encode()
    assert len(list(folder.iterdir())) == 3


def test_the_mark_of_the_byte_order_is_no_text(tmp_path):
    for name, text in (("a.toml", "rate = 1"), ("a.json", '{"rate": 1}')):
        (tmp_path / name).write_text(text, "utf-8-sig")
    assert files.read_toml(tmp_path / "a.toml") == {"rate": 1}
    assert files.read_json(tmp_path / "a.json") == {"rate": 1}


def test_what_is_there_stays_if_writing_fails(folder):
    file = folder / "x"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError), files.whole(file) as data:
        data.write("half")
        _ = 1 / 0
    assert file.read_text() == "before"
    assert list(folder.iterdir()) == [file]


def test_new_files_have_the_rights_of_the_process(folder):
    before = os.umask(0o027)
    try:
        files.write_text(folder / "x", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_a_link_is_replaced_and_its_target_stays(folder, precious, target):
    file = folder / "x.json"
    file.symlink_to(precious.with_name(target))
    files.write_json(file, {"a": 1})
    assert not file.is_symlink()
    assert json.loads(file.read_text()) == {"a": 1}
    assert precious.read_text() == "mine"
    assert sorted(folder.parent.iterdir()) == [folder, precious]


def test_links_under_names_of_partial_files_are_left_alone(folder, precious):
    for name in ("x.partial", "x.json.partial", "x.json.00000000.partial"):
        (folder / name).symlink_to(precious)
    before = sorted(folder.iterdir())
    files.write_json(folder / "x.json", {})
    files.remove_partials(folder, {"x.partial"})
    assert sorted(folder.iterdir()) == [folder / "x.json", *before]
    assert precious.read_text() == "mine"


def test_only_partial_files_of_our_names_are_removed(folder):
    (folder / "a.0123abcd.partial").mkdir()
    for name in ("x.json.0123abcd.partial", "x.partial"):
        (folder / name).write_text("half")
    kept = ("novel.partial", "x.json.0123ABCD.partial", "0123abcd.partial")
    for name in kept:
        (folder / name).write_text("mine")
    files.remove_partials(folder, {"x.partial"})
    assert {path.name for path in folder.iterdir()} == {"a.0123abcd.partial", *kept}
    files.remove_partials(folder / "nowhere")


def _link(path, precious):
    path.symlink_to(precious)


def _dangling(path, precious):
    path.symlink_to(path.with_name("nowhere"))


def _folder(path, precious):
    path.mkdir()


def _pipe(path, precious):
    os.mkfifo(path)


@pytest.mark.parametrize("stranger", [_link, _dangling, _folder, _pipe])
def test_lines_are_added_to_regular_files_alone(folder, precious, stranger):
    file = folder / "x.jsonl"
    stranger(file, precious)
    before = os.lstat(file)
    with pytest.raises(OSError, match=r"x\.jsonl cannot be written"):
        files.append_line(file, {})
    assert os.lstat(file) == before
    assert precious.read_text() == "mine"
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize("stranger", [_dangling, _folder, _pipe])
def test_other_things_are_not_read(folder, precious, stranger):
    stranger(folder / "x.json", precious)
    for read in (files.read_json, files.read_lines):
        with pytest.raises(ValueError, match=r"x\.json cannot be read"):
            read(folder / "x.json")


@pytest.mark.parametrize("stranger", [_link, _dangling])
def test_inner_folders_are_no_links(folder, precious, stranger):
    files.make_inner(folder / "inner")
    files.make_inner(folder / "inner")
    precious.unlink()
    precious.mkdir()
    stranger(folder / "link", precious)
    with pytest.raises(OSError, match="link cannot be written: it is a symbolic link"):
        files.make_inner(folder / "link")


def test_names_of_what_is_set_aside_are_free(folder, precious):
    (folder / "44.damaged").mkdir()
    (folder / "44.damaged-2").symlink_to("nowhere")
    (folder / "44").mkdir()
    (folder / "44" / "a").write_text("x")
    assert files.set_aside(folder / "44", "damaged") == folder / "44.damaged-3"
    assert (folder / "44.damaged-3" / "a").read_text() == "x"
    assert not list((folder / "44.damaged").iterdir())
    with pytest.raises(OSError, match="45 cannot be written"):
        files.set_aside(folder / "45", "damaged")


def test_a_link_is_removed_and_its_target_stays(folder, precious):
    (folder / "link").symlink_to(precious.parent)
    (folder / "inner").mkdir()
    (folder / "inner" / "link").symlink_to(precious.parent)
    for name in ("link", "inner", "nowhere"):
        files.remove(folder / name)
    assert list(folder.iterdir()) == []
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("torn", [b'{"a": 1', b"\xff\x00", b" "])
def test_a_torn_last_line_does_not_count_and_is_cut_off(tmp_path, torn):
    file = tmp_path / "x.jsonl"
    files.append_line(file, {"a": 0})
    assert not files.has_torn_line(file)
    with file.open("ab") as data:
        data.write(torn)
    if torn != b"\xff\x00":  # which is no text, and named as damage
        assert files.has_torn_line(file)
        assert files.read_lines(file) == [{"a": 0}]
    files.append_line(file, {"a": 2})
    assert files.read_lines(file) == [{"a": 0}, {"a": 2}]
    assert not files.has_torn_line(tmp_path / "none.jsonl")
