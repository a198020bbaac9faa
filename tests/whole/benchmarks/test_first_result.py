import json
import types

import pytest

from benchmarks import first_result


def stack(*places):
    frame = None
    for file, name in places:
        code = types.SimpleNamespace(co_filename=file, co_name=name)
        frame = types.SimpleNamespace(f_code=code, f_back=frame)
    return frame


@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        (("/lib/sgdat_jax/training/loop.py", "train"), "training steps"),
        (("/lib/sgdat_jax/report/figures.py", "save"), "pictures and report"),
        (("/lib/jax/_src/compiler.py", "compile_or_get_cached"), "compiling"),
        (("<frozen importlib._bootstrap>", "_find_and_load"), "imports"),
        (("/lib/rich/console.py", "print"), "setting up"),
    ],
)
def test_the_innermost_kind_counts(inner, kind):
    command = ("/lib/sgdat_jax/cli/work.py", "train")
    assert first_result.kind_of(stack(command, inner)) == kind
    assert first_result.kind_of(None) == "interpreter"


def test_all_seconds_of_a_command_have_a_kind(tmp_path):
    words = ["recipes", "--help"]
    first_result.main(["--rounds", "1", "--out", str(tmp_path), "--", *words])
    (file,) = tmp_path.iterdir()
    for rows in json.loads(file.read_text())["rounds"].values():
        (row,) = rows
        assert set(row) == {*first_result.KINDS, "all"}
        assert sum(row[kind] for kind in first_result.KINDS) == pytest.approx(
            row["all"]
        )
        assert 0 <= row["training steps"] < row["imports"] < row["all"]
