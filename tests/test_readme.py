"""The README's code is run as a reader would run it, and its links lead somewhere."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

import guides

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_README = guides.ROOT / "README.md"
_LINK = re.compile(r"\]\(([^)]+)\)")


def test_readme_has_blocks_of_every_kind():
    assert len(guides.blocks(_README, "sh")) == 2  # .ci/run runs them
    assert len(guides.blocks(_README, "bash")) == 1
    assert len(guides.blocks(_README, "python")) == 2
    assert len(_README.read_text().splitlines()) <= 150


@pytest.mark.whole
@pytest.mark.parametrize("block", guides.blocks(_README, "python"))
def test_python_block(block, tmp_path):
    (tmp_path / "example.py").write_text(block.code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder in which the README's commands on photos have run up to an export."""
    folder = tmp_path_factory.mktemp("photos")
    page = guides.ROOT / "docs" / "guides" / "photos.md"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        exec(guides.blocks(page, "python")[0].code, {})  # draws photos/ and new.jpg
        guides.run_shell("\n".join(_photo_commands()[:4]))
    return folder


def _photo_commands() -> list[str]:
    (block,) = guides.blocks(_README, "bash")
    return guides.commands(block.code)


@pytest.mark.whole
def test_photos_become_a_trained_network(photos):
    assert len(_photo_commands()) == 6
    assert (photos / "runs" / "photos" / "best.npz").is_file()
    assert (photos / "photos.stablehlo").is_file()


@pytest.mark.whole
@pytest.mark.parametrize("number", [4, 5])
def test_a_trained_network_becomes_a_file_for_a_phone(photos, number, monkeypatch):
    command = _photo_commands()[number]
    guides.need(command)
    monkeypatch.chdir(photos)
    guides.run_shell(command)
    assert (photos / command.split()[-1]).is_file()


def _links() -> list[str]:
    return _LINK.findall(_README.read_text())


def test_links_lead_to_files():
    names = [link for link in _links() if "://" not in link]
    assert any(name.endswith(".png") for name in names)
    assert [name for name in names if not (guides.ROOT / name).exists()] == []


def test_a_package_index_gets_whole_addresses():
    project = tomllib.loads((guides.ROOT / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = _README.read_text()
    for rule in hook["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    source = project["project"]["urls"]["Source"]
    links = _LINK.findall(text)
    assert [link for link in links if "://" not in link] == []
    assert sum(link.startswith(source) for link in links) == sum(
        "://" not in link for link in _links()
    )
