"""The README's code is run as a reader would run it, and its links lead somewhere."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

import guides

_README = guides.ROOT / "README.md"
_LINK = re.compile(r"\]\(([^)]+)\)")


def test_readme_has_blocks_of_every_kind():
    assert len(guides.blocks(_README, "sh")) == 2  # .ci/run runs them
    assert len(guides.blocks(_README, "bash")) == 1
    assert len(guides.blocks(_README, "python")) == 2
    assert len(_README.read_text().splitlines()) <= 150


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


def test_photos_become_a_file_for_a_phone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    page = guides.ROOT / "docs" / "guides" / "photos.md"
    exec(guides.blocks(page, "python")[0].code, {})  # draws photos/ and new.jpg
    (block,) = guides.blocks(_README, "bash")
    # In one go where the packages of all formats are installed.
    quick = block.code.replace("--flip", "--flip --epochs 2 --batch-size 40")
    guides.run_shell("\n".join(quick.splitlines()[:4]))
    assert (tmp_path / "photos.stablehlo").is_file()
    assert "predicts the same classes" in capsys.readouterr().out
    guides.need(block.code)
    guides.run_shell("\n".join(quick.splitlines()[4:]))
    assert (tmp_path / "phone.vmfb").is_file()


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
