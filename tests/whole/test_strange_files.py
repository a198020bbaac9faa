"""Files that are not the program's, in all the places that it writes to, stay."""

import os
import pathlib
import shutil

import pytest

from benchmarks import strangers
from sgdat_jax import cli

pytestmark = pytest.mark.usefixtures("compiled_quickly", "without_drawing")

_TINY = ("--model", "TinyNet", "--epochs", "1")


@pytest.fixture(scope="module", autouse=True)
def _tiny_net():
    import small_runs  # registers the network

    assert small_runs.TinyNet


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, a comparison and a sweep of an epoch each."""
    made = tmp_path_factory.mktemp("finished")
    cli.main(["train", *_TINY, "--run-dir", str(made / "run")])
    cli.main(_compare(made / "compare"))
    cli.main(_sweep(made / "sweep"))
    return made


def _compare(folder):
    words = ["compare", *_TINY, "--optimizers", "sgdat", "--seeds", "1"]
    return [*words, "--run-dir", str(folder)]


def _sweep(folder):
    words = ["sweep", *_TINY, "--learning-rate", "1e-4", "1e-3"]
    return [*words, "--seeds", "1", "--run-dir", str(folder)]


@pytest.fixture
def outside(tmp_path):
    return strangers.outside(tmp_path)


def _link_all(folder, names, outside):
    """Makes links of files that the program replaces."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
        target = "thesis.txt" if len(name) % 2 else "new"  # "new" is not there
        (folder / name).symlink_to(outside / target)


def test_a_run(finished, outside, tmp_path):
    folder = shutil.copytree(finished / "run", tmp_path / "run")
    ours = strangers.contents(folder)
    strangers.put(folder, outside)
    strange = strangers.contents(tmp_path)
    for name in ours:
        del strange[f"run/{name}"]
    assert len(strange) > 100
    cli.main(["train", "--resume", str(folder)])
    assert strange.items() <= strangers.contents(tmp_path).items()
    words = ["--epochs", "2", "--save-every-steps", "5", "--tensorboard"]
    cli.main(["train", "--resume", str(folder), *words])
    after = strangers.contents(tmp_path)
    assert strange.items() <= after.items()
    steps = {name for name in os.listdir(folder / "checkpoints") if name.isdecimal()}
    assert steps == {"22", "40", "44"}  # of 22 there is what is strange in it
    left = {name for name in after if name.startswith("run/checkpoints/22/")}
    assert left - strange.keys() <= ours_folders(left)
    cli.main(["evaluate", str(folder)])
    assert strange.items() <= strangers.contents(tmp_path).items()


def ours_folders(names):
    """The folders above some paths."""
    return {
        parent.as_posix() for name in names for parent in pathlib.Path(name).parents
    }


_REPLACED = ("times.jsonl", "metrics.jsonl", "best.npz", "last.npz", "result.json")
_PLOTS = ("plots/learning.png", "plots/flip_ratio.png", "plots/flip_counts.png")


def test_links_in_place_of_files_of_a_run(finished, outside, tmp_path):
    folder = shutil.copytree(finished / "run", tmp_path / "run")
    (outside / "thesis.txt").write_text('{"a": 1}\n')  # can be read as a result
    _link_all(folder, (*_REPLACED, *_PLOTS), outside)
    config = shutil.copy(folder / "config.json", outside / "config.json")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(config)
    before = strangers.contents(outside)
    cli.main(["train", "--resume", str(folder), "--epochs", "2"])
    assert strangers.contents(outside) == before
    assert not [path for path in folder.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("name", ["lock", "checkpoints", "plots", "tensorboard"])
@pytest.mark.parametrize("target", ["outside", "nowhere"])
@pytest.mark.parametrize("epochs", ["1", "2"])
def test_links_in_place_of_folders_of_a_run(
    finished, outside, tmp_path, capsys, name, target, epochs
):
    folder = shutil.copytree(finished / "run", tmp_path / "run")
    if (folder / name).exists():
        (folder / name).rename(tmp_path / "aside")
    (folder / name).symlink_to(tmp_path / target)
    before = strangers.contents(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--resume", str(folder), "--epochs", epochs])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"sgdat-jax: error: {folder / name} must not be a symbolic link: nothing is "
        "written or removed through links.\n"
    )
    assert strangers.contents(tmp_path) == before


@pytest.mark.parametrize("name", ["times.partial", "lock", "checkpoints"])
def test_a_folder_with_a_link_is_not_empty(outside, tmp_path, capsys, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(outside / "thesis.txt")
    before = strangers.contents(tmp_path)
    for option in ("--run-dir", "--resume"):
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", option, str(tmp_path / "run")])
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert strangers.contents(tmp_path) == before


_TABLES = ("comparison.md", "comparison.csv", "comparison.json", "accuracy.png")


def test_a_comparison(finished, outside, tmp_path):
    folder = shutil.copytree(finished / "compare", tmp_path / "compare")
    (folder / "sgdat" / "seed0" / "result.json").unlink()
    _link_all(folder, _TABLES, outside)
    strangers.put(folder, outside)
    strange = _strange(tmp_path, finished)
    cli.main(_compare(folder))
    assert strange.items() <= strangers.contents(tmp_path).items()
    assert not any((folder / name).is_symlink() for name in _TABLES)


def _strange(folder, finished):
    """What is in a folder, without what the program has made."""
    ours = strangers.contents(finished)
    found = strangers.contents(folder)
    return {name: content for name, content in found.items() if name not in ours}


@pytest.mark.parametrize(
    "name", ["lock", "sgdat", "sgdat/seed0", "sgdat/seed0/checkpoints"]
)
def test_links_in_a_comparison(finished, outside, tmp_path, capsys, name):
    folder = shutil.copytree(finished / "compare", tmp_path / "compare")
    (folder / "sgdat" / "seed0" / "result.json").unlink()
    (folder / name).rename(tmp_path / "aside")
    (folder / name).symlink_to(tmp_path / "aside")
    before = strangers.contents(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(_compare(folder))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"{folder / name} must not be a symbolic link" in error
    assert error.count("\n") == 1
    assert strangers.contents(tmp_path) == before


def test_a_sweep(finished, outside, tmp_path, capsys):
    folder = shutil.copytree(finished / "sweep", tmp_path / "sweep")
    names = ("settings.md", "trials.csv", "settings.json", "heat_map.png")
    _link_all(folder, names, outside)
    strangers.put(folder, outside)
    (folder / "trials.jsonl").unlink()
    strange = _strange(tmp_path, finished)
    cli.main(_sweep(folder))
    assert strange.items() <= strangers.contents(tmp_path).items()
    assert not any((folder / name).is_symlink() for name in names)
    (folder / "trials.jsonl").unlink()
    (folder / "trials.jsonl").symlink_to(outside / "new")
    before = strangers.contents(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(_sweep(folder))
    assert caught.value.code == 2
    assert "trials.jsonl must not be a symbolic link" in capsys.readouterr().err
    assert strangers.contents(tmp_path) == before


_OF_OTHERS = ("learning.png", "margins.svg", "comparison.csv", "comparison.json")


@pytest.mark.parametrize("name", _OF_OTHERS)
def test_files_of_others_by_the_names_of_a_reports(finished, tmp_path, capsys, name):
    out = tmp_path / "photos"
    out.mkdir()
    (out / name).write_text('{"mine": 1}')
    before = strangers.contents(tmp_path)
    for words, option in (
        (["report", str(finished / "run"), "--out", str(out)], "out"),
        (_compare(out), "run_dir"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert f"{option} must be new, or hold an earlier report, got {out}" in error
        assert f"its {name} would be replaced or removed" in error
    assert strangers.contents(tmp_path) == before


def test_a_report(finished, outside, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    _link_all(out, (*_TABLES, "margins.png"), outside)
    strangers.put(out, outside)
    strange = {
        name: content
        for name, content in strangers.contents(tmp_path).items()
        if not name.endswith(_TABLES)
    }
    cli.main(["report", str(finished / "run"), "--out", str(out)])
    assert strange.items() <= strangers.contents(tmp_path).items()
    assert not any((out / name).is_symlink() for name in _TABLES)
