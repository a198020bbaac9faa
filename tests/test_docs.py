"""What the pages of the site say is done as they say it."""

import inspect
import pathlib
import re
import runpy
import shlex
import tomllib
from typing import Any

import numpy as np
import pytest

import guides
import sgdat_jax as sj
import shared_runs
import tables
from sgdat_jax import inference, report, run_folder
from sgdat_jax.cli import parsing

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_DOCS = guides.ROOT / "docs"
# Many runs, other processes, the compilers of IREE. The README has photos as well.
_SLOW = {"clusters.md", "command.md", "export.md", "photos.md"}


def _with_code(*languages: str) -> list[pathlib.Path]:
    pages = sorted(_DOCS.rglob("*.md"))
    return [page for page in pages if guides.blocks(page, *languages)]


def _param(page: pathlib.Path) -> Any:
    mark = pytest.mark.slow if page.name in _SLOW else pytest.mark.whole
    return pytest.param(page, id=page.stem, marks=mark)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A folder to work in, with a cache of its own; tables of names are given back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with tables.kept():
        yield tmp_path


@pytest.mark.parametrize("page", list(map(_param, _with_code("python", "bash"))))
def test_a_page_does_what_it_says(page, scratch):
    guides.run(page)


@pytest.mark.parametrize("page", _with_code("console"), ids=lambda page: page.stem)
def test_what_is_not_run_is_understood(page, scratch):
    for block in guides.blocks(page, "console"):
        for line in guides.commands(block.code):
            _, found, words = line.rpartition("sgdat-jax ")
            if found and words not in ("--version", "train --help"):
                parsing.parse(shlex.split(words))


@pytest.mark.whole
@pytest.mark.parametrize(
    "file", sorted(_DOCS.glob("examples/*.py")), ids=lambda file: file.stem
)
def test_an_example(file, scratch, capsys):
    if "import equinox" in file.read_text():
        pytest.importorskip("equinox")
    runpy.run_path(str(file), run_name="__main__")
    assert capsys.readouterr().out


def test_a_file_of_weights_is_read_by_numpy_alone():
    (block,) = guides.blocks(_DOCS / "weight-files.md", "python")
    assert set(re.findall(r"import (\w+)", block.code)) == {"json", "numpy"}
    names: dict = {}
    exec(block.code, names)
    run = shared_runs.finished()
    file, images = run.folder / run_folder.BEST, run.dataset.test_images
    logits = names["predict"](file, images)
    expected = inference.load(file)(images)
    # The reader computes in float64 where NumPy's constants are.
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


def test_links_into_the_repository_lead_to_files():
    project = tomllib.loads((guides.ROOT / "pyproject.toml").read_text())["project"]
    form = re.escape(project["urls"]["Source"]) + r"/(?:tree|blob)/main/([^)#]+)"
    pages = sorted(_DOCS.rglob("*.md"))
    paths = [path for page in pages for path in re.findall(form, page.read_text())]
    assert len(paths) >= 5
    assert [path for path in paths if not (guides.ROOT / path).exists()] == []


def test_the_reference_has_every_public_name():
    listed = set()
    for page in _DOCS.glob("api/*.md"):
        listed |= set(re.findall(r"^   (\w+)$", page.read_text(), re.M))
    public = set(sj.__all__) | set(vars(inference)) | set(vars(report))
    public = {name for name in public if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(sj, name, None))}
    modules |= {
        name
        for module in (inference, report)
        for name in vars(module)
        if inspect.ismodule(vars(module)[name])
    }
    assert sorted(public - modules - listed) == []


def test_fields_in_the_reference_are_told_by_their_comments(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # as the file does, and given back
    comment = runpy.run_path(str(_DOCS / "conf.py"))["_comment"]
    assert comment("sgdat_jax.training.Fitted.lines") == "metrics, one line per epoch"
    assert comment("sgdat_jax.report.Run.folder") == ""
