"""Ends that are nobody's wish: lost interrupts, full disks, folders that vanish."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import shared_runs
from sgdat_jax import cli, run_folder
from sgdat_jax.cli import work
from sgdat_jax.experiments import configs
from sgdat_jax.training import loop

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_SHORT = ("train", "--epochs", "1", "--batch-size", "512", "--run-dir")


def test_output_that_cannot_be_written_costs_no_result(tmp_path, capfd, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as caught:
            cli.main([*_SHORT, str(tmp_path / "run")])
        monkeypatch.undo()
    assert caught.value.code == 1
    assert capfd.readouterr().err == (
        "sgdat-jax: error: the output could not be written: No space left on device\n"
    )
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 1
    assert (tmp_path / "run" / "plots" / "learning.png").exists()


def test_notes_that_cannot_be_written_cost_no_result(tmp_path, capfd, monkeypatch):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    for words, code in (("a.png", 0), ("none.png", 2)):
        with open("/dev/full", "w", buffering=1) as full:  # as of stderr
            monkeypatch.setattr(sys, "stderr", full)
            with pytest.raises(SystemExit) if code else contextlib.nullcontext() as end:
                cli.main(["predict", "digits", str(tmp_path / words), "--csv"])
            monkeypatch.undo()
        output = capfd.readouterr()
        assert (output.out.count("\n"), output.err) == (0 if code else 2, "")
        assert not code or end.value.code == code


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_stay_empty(tmp_path, closed):
    np.save(tmp_path / "a.npy", np.zeros((1, 9, 9, 1), np.uint8))  # will be resized
    words = ["predict", "digits", str(tmp_path / "a.npy"), "--csv"]
    command = f'exec "$0" -m sgdat_jax "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done
    assert done.stdout.count("\n") == (0 if " >" in f" {closed}" else 2)
    assert done.stderr.count("\n") == (0 if "2>" in closed else 1)


def test_folder_that_vanishes_is_an_error(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"

    def stepped(watcher, metrics, flip_ratio):
        shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr(work.progress.ProgressBar, "stepped", stepped)
    monkeypatch.setattr(loop.Watcher, "stepped", stepped)
    with pytest.raises(SystemExit) as caught:
        cli.main([*_SHORT, str(folder)])
    assert caught.value.code == 1
    assert "was the folder removed?" in capsys.readouterr().err
    assert not (folder / "result.json").exists()


def test_folder_that_another_run_takes_is_left_to_it(tmp_path, capsys, monkeypatch):
    folder, before = tmp_path / "run", {}

    def stepped(watcher, metrics, flip_ratio):
        if not before:
            folder.rename(tmp_path / "moved")
            run_folder.create(folder, configs.TrainConfig(epochs=7)).release()
            before.update({path: path.read_bytes() for path in folder.iterdir()})

    monkeypatch.setattr(work.progress.ProgressBar, "stepped", stepped)
    with pytest.raises(SystemExit) as caught:
        cli.main([*_SHORT, str(folder), "--save-every-steps", "1"])
    assert caught.value.code == 1
    assert "was the folder moved, and another run begun" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before


def test_interrupt_that_a_library_swallows_is_not_lost(capsys, monkeypatch):
    def set_up(config):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    swallowing = work.WORK["train"]._replace(set_up=set_up)
    monkeypatch.setitem(work.WORK, "train", swallowing)
    with pytest.raises(SystemExit) as caught:
        cli.main(["train"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "sgdat-jax: error: interrupted\n"


def _started():
    code = (
        "import sys; sys.argv[1:] = ['data', 'info', 'digits'];"
        "import sgdat_jax.__main__ as command; print(flush=True); command.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    return process


@pytest.fixture(scope="module")
def whole_seconds():
    """How long the command takes on this machine, the better of two times."""
    took = []
    for _ in range(2):
        process, start = _started(), time.monotonic()
        process.communicate()
        took.append(time.monotonic() - start)
    return min(took)


@pytest.mark.parametrize("share", [0.03, 0.2, 0.4, 0.8])
def test_an_interrupt_from_the_first_moment_on(share, whole_seconds):
    process = _started()
    time.sleep(share * whole_seconds)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    if process.returncode:  # it may have come to its end
        assert (process.returncode, error) == (130, "sgdat-jax: error: interrupted\n")
    assert process.returncode or share > 0.5


_LATE = """
import signal, sys

from sgdat_jax import __main__ as command


class Late:  # is taken down with the interpreter

    def __del__(self, interrupt=signal.raise_signal, number=signal.SIGINT):
        interrupt(number)


late = Late()
sys.argv[1:] = ["data", "info", "digits"]
command.main()
"""


def test_an_interrupt_after_all_is_done_changes_nothing():
    done = shared_runs.python("-c", _LATE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1,437" in done.stdout


_ENDING = """
import signal, sys, time

from sgdat_jax import __main__ as command

sys.argv[1:] = sys.argv[1:] or ["data", "info", "digits"]
try:
    command.main()
finally:
    signal.raise_signal(signal.SIGINT)
    time.sleep(300)  # as libraries do that cannot end
"""


def test_an_interrupt_while_libraries_end_does_not_change_how_it_ended():
    done = shared_runs.python("-c", _ENDING)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1,437" in done.stdout
    failed = shared_runs.python("-c", _ENDING, "data", "info", "nothing")
    assert failed.returncode == 2
    assert failed.stderr.startswith("sgdat-jax: error: ")
    assert failed.stderr.count("\n") == 1


_IGNORING = """
import signal, sys, threading, time

from sgdat_jax import __main__ as command


def interrupt():
    while True:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)


signal.signal(signal.SIGINT, signal.SIG_IGN)  # as scripts do for the background
threading.Thread(target=interrupt, daemon=True).start()
sys.argv[1:] = ["data", "info", "digits"]
command.main()
"""


def test_a_command_in_the_background_of_a_script_takes_no_interrupt():
    done = shared_runs.python("-c", _IGNORING)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1,437" in done.stdout
