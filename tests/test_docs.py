"""What the guides say is done as they say it."""

import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest

import shared_runs
from sgdat_jax import cli, inference
from sgdat_jax.training import run_folder

_DOCS = pathlib.Path(__file__).parents[1] / "docs"


def _blocks(name: str, language: str) -> list[str]:
    text = (_DOCS / name).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_a_file_of_weights_is_read_by_numpy_alone():
    (code,) = _blocks("weight-files.md", "python")
    assert set(re.findall(r"import (\w+)", code)) == {"json", "numpy"}
    names: dict = {}
    exec(code, names)
    run = shared_runs.finished()
    file, images = run.folder / run_folder.BEST, run.dataset.test_images
    logits = names["predict"](file, images)
    expected = inference.load(file)(images)
    # The reader computes in float64 where NumPy's constants are.
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


@pytest.mark.slow
def test_exports(tmp_path, monkeypatch):
    for package in ("iree.compiler", "iree.runtime", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    shutil.copy(shared_runs.finished().folder / run_folder.BEST, folder)
    monkeypatch.chdir(tmp_path)
    lines = "\n".join(_blocks("export.md", "sh")).splitlines()
    commands = [line for line in lines if " export runs/first " in line]
    assert len(commands) >= 5
    for command in commands:
        cli.main(shlex.split(command)[1:])
    names: dict = {}
    for code in _blocks("export.md", "python"):
        exec(code, names)
    assert names["logits"].shape == (2, 10)
    classes = names["classify"](np.zeros((2, 8, 8, 1), np.uint8)).argmax(-1)
    np.testing.assert_array_equal(names["logits"].argmax(-1), classes)
