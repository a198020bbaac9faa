import io
import pathlib
import shutil

import jax
import pytest

import sgdat_jax as sj
import shared_runs
from sgdat_jax import cli, run_folder
from sgdat_jax.cli import command

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def _files(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in pathlib.Path(folder).rglob("*")
    }


def _refused(arguments, capfd):
    """Runs a command that must fail, and returns its one line on stderr."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    output = capfd.readouterr()
    assert caught.value.code == 2
    assert output.out == ""
    *skipped, error = output.err.splitlines()
    assert all(line.startswith("sgdat-jax: skipped: ") for line in skipped)
    assert error.startswith("sgdat-jax: error: ")
    assert not set("─│╭╰") & set(output.err)
    return error


@pytest.mark.usefixtures("without_drawing")
def test_a_finished_run_is_told_again(tmp_path, capsys):
    folder = shutil.copytree(shared_runs.finished().folder, tmp_path / "run")
    best = {"best_test_accuracy": 0.9876, "best_epoch": 1}
    run_folder.write_result(folder, run_folder.read_result(folder) | best)
    cli.main(["train", "--resume", str(folder)])
    printed = capsys.readouterr().out
    assert "already finished\ntest accuracy " in printed
    assert " after 2 epochs (best by test: 98.76% after 1), seed 0, " in printed


def test_run_that_was_moved_is_evaluated(tmp_path, capfd):
    folder = shutil.copytree(
        shared_runs.finished().folder, tmp_path / "moved [a] :smile:"
    )
    cli.main(["evaluate", str(folder)])
    result = run_folder.read_result(folder)
    printed = capfd.readouterr().out
    assert f"test accuracy {result['test_accuracy']:.2%}," in printed
    assert printed.endswith(" on 360 images of digits, weights of the last epoch\n")


def test_the_installed_network_is_evaluated(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    cli.main(["evaluate", "digits"])
    printed = capfd.readouterr().out
    assert printed.startswith(f"test accuracy {356 / 360:.2%}, ")
    assert printed.endswith(" on 360 images of digits\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "train, compare, sweep, evaluate, report"),
        ("tran", "tran"),
        ("--versions", "--versions"),
        ("evaluate", "Folder of the run"),
        ("evaluate a b", "b"),
        (f"export digits --to npz --out {245 * 'x'}", f"error: {245 * 'x'} cannot be"),
        ("train extra", "extra"),
        ("train --epoch 3", "--epochs"),
        ("train --colour red", "--colour"),
        ("train --dataset digit", "'digits'"),
        ("train --model digitsnet", "'DigitsNet'"),
        ("train --optimizer sgdatt", "'sgdat'"),
        ("train --epochs", "--epochs"),
        ("train --epochs abc", "'abc'"),
        ("train --epochs 1.5", "'1.5'"),
        ("train --epochs 0", "epochs must be at least 1, got 0"),
        ("train --epochs 1" + 30 * "0", "epochs must be less than 2**63 in magnitude"),
        ("train --max-skipped-steps 2147483648", "must be at most 2147483647"),
        ("train --epochs 97612894", "fewer than 2,147,483,648 steps in all, got 9761"),
        ("compare --epochs 1000000000", "epochs must have fewer than 2,147,483,648 st"),
        ("sweep --gamma 0 1 --optimizer bop --epochs 1000000000", "steps in all, got"),
        ("export digits --to iree --out x --batch-size 1048576", "less than 1,048,576"),
        ("train --batch-size 0", "batch_size must be at least 1, got 0"),
        (
            "train --batch-size 100000",
            "got 100,000; 359 would make 4 steps",
        ),
        ("train --crop-padding -1", "crop_padding must be at least 0, got -1"),
        ("train --crop-padding 99999999999", "crop_padding must be less than"),
        ("train --learning-rate -1", "`learning_rate` must be in [0, inf), got -1"),
        ("train --learning-rate nan", "`learning_rate` must be in [0, inf), got nan"),
        ("train --learning-rate fast", "'fast'"),
        ("train --threshold -1", "`threshold` must be in [0, inf), got -1"),
        ("train --momentum 1.0", "`momentum` must be in [0, 1), got 1.0"),
        ("train --real-learning-rate inf", "real_learning_rate must be in [0, inf)"),
        ("train --seed -1", "seed must be in [0, 2**32), got -1"),
        ("train --seed 4294967296", "seed must be in [0, 2**32), got 4294967296"),
        ("compare --seeds 0", "seeds must be at least 1, got 0"),
        ("compare --optimizers sgdatt", "the nearest is 'sgdat'"),
        ("compare --optimizers", "optimizers must have at least one name, got none"),
        ("compare --seed 4294967295 --seeds 2", "got 4294967296"),
        ("compare --crop-padding 9", "crop_padding must be less than the 8"),
        ("sweep --optimizer bopp", "the nearest is 'bop'"),
        ("sweep --gamma 1e-3 1e-4", "sgdat has no `gamma`, got gamma=0.001"),
        ("sweep --threshold", "threshold must have at least one value"),
        ("sweep --threshold 1e-7", "must have several values, got none"),
        (
            "sweep --threshold 1e-7 1e-7",
            "at least one value, and each once",
        ),
        ("sweep --threshold 1 -1", "`threshold` must be in [0, inf), got -1"),
        ("sweep --threshold 0 1 --models-at-once 0", "models_at_once must be at least"),
        (
            "compare --optimizers sgd bop --reference sgdat",
            "reference must be one of the rows sgd, bop, got 'sgdat'",
        ),
        ("compare --validation-share 1", "validation_share must be in [0, 1), got 1"),
        ("report", "There must be at least one finished run"),
        ("report missing", "There must be at least one finished run"),
        ("evaluate missing", "missing is not the folder of a finished run"),
        ("evaluate " + 300 * "x", "is not the folder of a finished run"),
        ("train --run-dir new/" + 300 * "x", "run_dir must be a folder that can"),
        ("train --run-dir sweep[1]", "run_dir must have none of *, ? and ["),
        ("compare --run-dir x[1]", "run_dir must have none of *, ? and [ in its path"),
        ("compare --optimizers sgd --run-dir " + 300 * "x", "File name too long"),
        ("train --run-dir \udcff", "run_dir must have a path in UTF-8"),
        ("compare --run-dir a\udcff", "run_dir must have a path in UTF-8"),
        ("train --run-dir=", "--run-dir must not be empty"),
        ("data show digits --out=", "--out must not be empty"),
        ("report x --out=", "--out must not be empty"),
        ("train --width 1e30", "width must be less for these images, got 1e+30"),
        ("compare --width 1000", "DigitsNet would have 3.69e+10 numbers"),
    ],
)
def test_refused_arguments(arguments, named, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named in _refused(arguments.split(), capfd)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", ["train --epochs 0", "train --epoch 3", "tran"])
def test_one_line_also_without_box_characters(arguments, capsys, monkeypatch):
    messages = []
    for encoding in ("utf-8", "ascii"):
        # Tyro looks at the encoding of stdout to choose the characters of its box.
        monkeypatch.setattr("sys.stdout", _Encoded(encoding))
        with pytest.raises(SystemExit):
            cli.main(arguments.split())
        messages.append(capsys.readouterr().err)
    assert messages[0] == messages[1]
    assert "---" not in messages[0]


class _Encoded(io.StringIO):
    encoding = "ascii"

    def __init__(self, encoding):
        super().__init__()
        self.encoding = encoding


def test_run_dir_that_is_taken(tmp_path, capfd):
    folder = shutil.copytree(shared_runs.finished().folder, tmp_path / "run")
    before = _files(tmp_path)
    assert "holds a run" in _refused(["train", "--run-dir", str(folder)], capfd)
    file = folder / "config.json"
    for path in (file, file / "below"):
        error = _refused(["train", "--run-dir", str(path)], capfd)
        assert f"run_dir must be a folder that can be written, got {path}" in error
    assert _files(tmp_path) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_compare_and_report_where_no_folder_can_be(tmp_path, capfd, place):
    run = shutil.copytree(shared_runs.finished().folder, tmp_path / "run")
    (tmp_path / "file").write_text("precious")
    before, path = _files(tmp_path), str(tmp_path / place)
    capfd.readouterr()
    for arguments, option in (
        (["compare", "--run-dir", path], "run_dir"),
        (["report", str(run), "--out", path], "out"),
    ):
        error = _refused(arguments, capfd)
        assert f"{option} must be a folder that can be written, got {path}" in error
    assert _files(tmp_path) == before


def test_report_names_a_reference_that_is_not_there(tmp_path, capfd):
    run = str(shared_runs.finished().folder)
    arguments = ["report", run, "--reference", "Bob", "--out", str(tmp_path / "out")]
    error = _refused(arguments, capfd)
    assert "unknown reference 'Bob'; the nearest is 'SGDAT'" in error
    assert not (tmp_path / "out").exists()


def _write(name, content):
    return lambda folder: (folder / name).write_text(content)


def _checkpoint_file(folder, name):
    (path,) = folder.glob(f"checkpoints/*/{name}")
    return path


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "result.json").unlink(), "not the folder of a finis"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (_write("config.json", '{"epochs": '), "config.json cannot be read"),
        (_write("config.json", "[1, 2]"), "config.json must hold a JSON object"),
        (_write("config.json", '{"colour": 1}'), "'colour'"),
        (_write("config.json", '{"epochs": "2"}'), "epochs must be of type int"),
        (_write("config.json", '{"momentum": 0.9}'), "not a checkpoint of this run"),
        (_write("result.json", ""), "result.json cannot be read"),
        (_write("result.json", "null"), "result.json must hold a JSON object"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "holds no checkpoint"),
        (
            lambda folder: shutil.rmtree(_checkpoint_file(folder, "state")),
            "is missing",
        ),
        (
            lambda folder: _checkpoint_file(folder, "state/_METADATA").unlink(),
            "state/_METADATA is missing",
        ),
        (
            lambda folder: _checkpoint_file(folder, "state/manifest.ocdbt").write_bytes(
                b""
            ),
            "state/manifest.ocdbt has changed",
        ),
    ],
)
def test_damaged_run(tmp_path, capfd, damage, named):
    folder = shutil.copytree(shared_runs.finished().folder, tmp_path / "run")
    damage(folder)
    before = _files(tmp_path)
    capfd.readouterr()
    error = _refused(["evaluate", str(folder)], capfd)
    assert named in error
    assert str(folder) in error
    assert _files(tmp_path) == before


def test_import_is_cheap():
    heavy = ["jax", "optax", "flax", "tyro", "matplotlib", "sklearn", "tensorflow"]
    heavy += ["tensorflow_datasets", "grain", "sgdat_jax.cli", "sgdat_jax.training"]
    code = f"import sys, sgdat_jax; print([m for m in {heavy} if m in sys.modules])"
    done = shared_runs.python("-c", code)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")


@pytest.mark.parametrize("own", [None, "/own/folder"])
def test_compiled_programs_are_kept(own, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = "jax_compilation_cache_dir"
    monkeypatch.delenv(name.upper(), raising=False)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update(name, own)
        command._keep_compiled_programs()
        expected = own or str(tmp_path / "sgdat_jax" / "compiled")
        assert jax.config.jax_compilation_cache_dir == expected
    finally:
        jax.config.update(name, before)


def _without_home(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)


def _below_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


@pytest.mark.parametrize("place", ["no home", "below a file"])
def test_a_cache_that_cannot_be_is_done_without(place, tmp_path, monkeypatch):
    if place == "no home":
        _without_home(monkeypatch)
    else:
        _below_a_file(monkeypatch, tmp_path)
    name = "jax_compilation_cache_dir"
    monkeypatch.delenv(name.upper(), raising=False)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update(name, None)
        command._keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update(name, before)


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"sgdat-jax {sj.__version__}\n"
