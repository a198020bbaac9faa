"""What is read of a command line before its options are parsed."""

import dataclasses

import pytest

from sgdat_jax import cli
from sgdat_jax.cli import parsing
from sgdat_jax.experiments import configs, methods


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train --run_dir=a_b --batch_size 8", "train --run-dir=a_b --batch-size 8"),
        ("--epochs 1 train", "train --epochs 1"),
        ("--distributed train", "train --distributed"),
        ("--no-flip train", "train --no-flip"),
        ("--dataset data train", "train --dataset data"),
        ("--dataset=data train", "train --dataset=data"),
        ("--init_scale 1 train", "train --init-scale 1"),
        ("--optimizers sgd bop compare", "compare --optimizers sgd bop"),
        ("--to npz --out list export digits", "export --to npz --out list digits"),
        ("--set data=list train --seed 1", "train --set data=list --seed 1"),
        ("--help_all train", "train --help-all"),
        ("-h train", "train -h"),
        ("data show train", "data show train"),
        ("tran train", "tran train"),
        ("--dataset train", "--dataset train"),
        ("", ""),
    ],
)
def test_the_command_comes_first_and_hyphens_are_the_spelling(typed, meant):
    assert parsing.arranged(typed.split()) == meant.split()
    assert parsing.arranged(meant.split()) == meant.split()


@pytest.mark.whole
def test_values_may_have_the_names_of_commands():
    for field in dataclasses.fields(configs.TrainConfig):
        words = [f"--{field.name}", "list", "train"]
        command = "list" if field.type is bool else "train"
        assert parsing.arranged(words)[0] == command


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("train --run_dir=", "--run-dir must not be empty"),
        ("--data_dir= train", "--data-dir must not be empty"),
        ("train --init=", "--init must not be empty"),
        ("data prepare mnist --from=", "--from must not be empty"),
        ("train --process_id 0", "This needs --distributed"),
        ("train --num_processes=2", "This needs --distributed"),
        ("train --distributed --no-distributed --process-id 0", "needs --distributed"),
        ("--distributed train", "with a --resume or --run-dir"),
        ("train --resume a --run-dir b", "run_dir must be left out, got b"),
        (
            "compare --learning-rate 0.1",
            "compare takes no --learning-rate, which is an option of train, sweep.",
        ),
        ("sweep --seed 1 --top 3", "sweep takes no --top, which is an option of pred"),
        ("evaluate x --run-dir y", "evaluate takes no --run-dir, which is an option"),
        ("--epochs 3", "a command is missing, got --epochs 3 (known: train, compare"),
        ("--dataset data train", "unknown dataset 'data'"),
    ],
)
def test_refused_in_one_line_before_anything_is_written(
    words, named, capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(words.split())
    assert caught.value.code == 2
    error = capfd.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("optimizer = -1", "optimizer must be of type str, got -1"),
        ('optimizer = ["sgdat"]', "optimizer must be of type str, got ('sgdat',)"),
        ('optimizer = "sgdat"\nset = 3', "set must be of type tuple"),
        ('optimizer = "sgdat"\nmomentum = "x"', "momentum must be of type float"),
        ('optimizer = "sgdat"\ncolour = 1', "sgdat has no `colour`"),
    ],
)
def test_rows_of_a_file_with_other_values_than_options_take(
    row, message, tmp_path, capsys
):
    file = tmp_path / "rows.toml"
    file.write_text(f"[mine]\n{row}\n")
    with pytest.raises(SystemExit) as caught:
        cli.main(["compare", "--rows", str(file), "--run-dir", str(tmp_path / "all")])
    methods.METHODS.pop("mine", None)
    error = capsys.readouterr().err
    assert (caught.value.code, error.count("\n")) == (2, 1)
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
