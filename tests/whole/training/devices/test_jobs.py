"""Jobs of several processes on this machine, that speak over the loopback address."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import shared_runs
import small_runs
from sgdat_jax import run_folder
from sgdat_jax.training import checkpoint
from sgdat_jax.training.devices import hosts

_SCRIPT = pathlib.Path(__file__).with_name("one_of_many.py")
_FOLDERS = os.pathsep.join([str(pathlib.Path(shared_runs.__file__).parent), *sys.path])
# As in test_eight_devices.py, where the reasons are.
ROUNDING = 5e-6
STEPS_ALIKE = 10
LAST_LOSSES = 0.03


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(processes, where, folder, *, steps=small_runs.STEPS, fail=None, devices=1):
    """Starts a job; ``fail`` is a process and the step at which it fails."""
    address = f"127.0.0.1:{free_port()}"
    return [
        launch(
            (address, processes, process, where, folder, steps)
            + ((fail[1],) if fail and fail[0] == process else ()),
            devices,
        )
        for process in range(processes)
    ]


def launch(arguments, devices=1, **variables):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(_SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": _FOLDERS} | variables,
    )


def finish(job, folder):
    """Returns what each process of a job has seen."""
    for process in job:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors
    return [dict(np.load(folder / f"{number}.npz")) for number in range(len(job))]


@pytest.fixture(scope="module")
def alone():
    return small_runs.train(small_runs.alone())


@pytest.mark.parametrize(
    ("processes", "devices", "where"),
    [
        (2, 1, "copied"),
        pytest.param(2, 2, "sharded", marks=pytest.mark.slow),
        pytest.param(4, 1, "copied", marks=pytest.mark.slow),
        pytest.param(4, 1, "sharded", marks=pytest.mark.slow),
    ],
)
def test_a_job_trains_as_one_process(alone, tmp_path, processes, devices, where):
    found = finish(start(processes, where, tmp_path, devices=devices), tmp_path)
    after, losses = alone
    share = small_runs.BATCH // processes
    held = {"copied": processes * devices, "sharded": 1}[where]
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(after))
    test_share = len(small_runs.digits().test_labels) // processes
    for number, one in enumerate(found):
        ours = one["losses"]
        np.testing.assert_allclose(
            ours[:STEPS_ALIKE], losses[:STEPS_ALIKE], rtol=ROUNDING
        )
        assert abs(ours[-50:].mean() / losses[-50:].mean() - 1) < LAST_LOSSES
        assert one["rows"].tolist() == [number * test_share, (number + 1) * test_share]
        assert one["writer"] == (number == 0)
        assert (
            total * held / processes <= one["bytes"] < 1.05 * total * held / processes
        )
        for name in found[0].keys() - {"rows", "writer"}:
            np.testing.assert_array_equal(one[name], found[0][name])
    examples, _, correct, top5 = found[0]["metrics"]
    assert 180 < correct < top5 <= 360 == examples
    assert share * processes == small_runs.BATCH


@pytest.mark.slow
def test_a_job_finds_its_processes_by_slurm(tmp_path):
    variables = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    arguments = ("cluster", "-", "-", "copied", tmp_path, 10)
    job = [launch(arguments, SLURM_PROCID=str(i), **variables) for i in range(2)]
    found = finish(job, tmp_path)
    assert found[0]["losses"].tolist() == found[1]["losses"].tolist()
    assert found[1]["rows"].tolist() == [180, 360]


def wait_for_step(process, number):
    for line in process.stdout:
        if line == f"step {number}\n":
            return
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others(tmp_path, processes, victim):
    job = start(processes, "copied", tmp_path, steps=10**6)
    for process in job:
        wait_for_step(process, 10)
    job[victim].kill()
    deadline = time.monotonic() + 30
    for number, process in enumerate(job):
        errors = process.communicate(timeout=max(0, deadline - time.monotonic()))[1]
        assert process.returncode != 0
        if number != victim:
            ours = f"process {number} of {processes} ends" in errors
            assert ours or "another task died" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_an_error_in_one_process_ends_the_others(tmp_path, victim):
    job = start(2, "copied", tmp_path, steps=10**6, fail=(victim, 15))
    errors = [process.communicate(timeout=60)[1] for process in job]
    assert all(process.returncode != 0 for process in job)
    assert (
        f"sgdat-jax: error: process {victim} of 2 ends (OSError: no space left on "
        "device); when one ends, all do: start all again to go on from the last "
        "checkpoint\n"
    ) in errors[victim]
    other = errors[1 - victim]
    assert f"process {1 - victim} of 2 ends" in other or "another task died" in other


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "nowhere.invalid"])
def test_a_coordinator_that_cannot_be_reached(host, monkeypatch):
    monkeypatch.setattr(hosts, "_PATIENCE_SECONDS", 0.3)
    address = f"{host}:{free_port()}"
    with pytest.raises(ValueError, match=r"coordinator must be reached within 0\.3 s"):
        hosts.join(address, 1, 2)


def test_without_a_cluster_all_must_be_told():
    code = "from sgdat_jax.training import hosts; hosts.join('10.0.0.1:1')"
    done = shared_runs.python("-c", code, PYTHONPATH=_FOLDERS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ValueError: No cluster was found that tells coordinator, process_id and "
        "num_processes: give all three. (Number of processes must be defined.)"
    )


def command(folder, *options, processes=2, others=(), **places):
    """Starts the command as a job; ``others`` are options of all but the first.

    ``places`` are arguments of `subprocess.Popen` for all but the first.
    """
    address = f"127.0.0.1:{free_port()}"
    flags = "--xla_force_host_platform_device_count=1"
    words = ["-m", "sgdat_jax", "train", "--resume", folder, *options, "--distributed"]
    words += ["--coordinator", address, "--num-processes", processes, "--process-id"]
    return [
        subprocess.Popen(
            [sys.executable, *map(str, (*words, number, *(others if number else ())))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **{"env": os.environ | {"XLA_FLAGS": flags}} | (places if number else {}),
        )
        for number in range(processes)
    ]


def assert_all_end(job, folder, *named):
    """Asserts that all processes of a job end together with one line, and no run."""
    while all(process.poll() is None for process in job):
        time.sleep(0.05)
    begin = time.monotonic()
    for process in job:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 2, error
        assert error.startswith("sgdat-jax: error: ")
        assert error.count("\n") == 1
        for words in named:
            assert words in error
    # To wait for one that has ended would take as long as for one that never comes.
    assert time.monotonic() - begin < 0.8 * hosts._PATIENCE_SECONDS
    assert not folder.exists()


def test_processes_with_other_settings_all_end(tmp_path):
    others = ("--seed", "5", "--learning-rate", "0.3", "--save-every-steps", "7")
    job = command(tmp_path / "run", others=others)
    assert_all_end(
        job,
        tmp_path / "run",
        "sgdat-jax: error: The processes of a job must be alike: learning_rate "
        "differs (None in process 0, 0.3 in process 1); seed differs (0 in process 0, "
        "5 in process 1).\n",
    )


@pytest.mark.slow
def test_processes_with_other_images_all_end(tmp_path):
    folder = tmp_path / "run"
    for place in ("here", "there"):
        (tmp_path / place / "set").mkdir(parents=True)
        for part in ("train", "test"):
            images = np.zeros((64, 8, 8, 1), np.uint8)
            images[3, 0, 0, 0] = place == "there" and part == "test"
            np.save(tmp_path / place / "set" / f"{part}_images.npy", images)
            labels = np.arange(64) % 2
            np.save(tmp_path / place / "set" / f"{part}_labels.npy", labels)
    with contextlib.chdir(tmp_path / "here"):
        job = command(folder, "--dataset", "./set", cwd=tmp_path / "there")
    assert_all_end(job, folder, "alike: test_images differs ('", "' in process 1).")
    with contextlib.chdir(tmp_path / "here"):
        job = command(folder, "--dataset", "./set", cwd=tmp_path)
    said = "error: process 1: set is not a folder of arrays or of photos.\n"
    assert_all_end(job, folder, said)


@pytest.mark.slow
def test_processes_with_other_versions_all_end(tmp_path):
    folder, flags = tmp_path / "run", "--xla_force_host_platform_device_count=1"
    (tmp_path / "optax-9.dist-info").mkdir()
    (tmp_path / "optax-9.dist-info" / "METADATA").write_text("Version: 9\nName: optax")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths}
    job = command(folder, env=env)
    assert_all_end(job, folder, "version of optax differs ('", "'9' in process 1).\n")
    env = os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "1"}
    job = command(folder, env=env)
    assert_all_end(job, folder, "jax_enable_x64 differs (False in process 0, True in")


@pytest.mark.slow
def test_processes_with_other_weights_at_start_all_end(tmp_path):
    folder = tmp_path / "run"
    for place in ("here", "there"):
        shutil.copytree(shared_runs.finished().folder, tmp_path / place / "first")
    with np.load(tmp_path / "there" / "first" / "best.npz") as archive:
        arrays = dict(archive)
    changed = next(n for n, array in arrays.items() if array.dtype == np.float32)
    arrays[changed] = arrays[changed] + 1
    np.savez(tmp_path / "there" / "first" / "best.npz", **arrays)
    with contextlib.chdir(tmp_path / "here"):
        job = command(folder, "--init", "first", cwd=tmp_path / "there")
    assert_all_end(job, folder, "alike: init differs ('", "' in process 1).")


def test_a_process_that_never_comes(tmp_path):
    code = (
        "import sys; from sgdat_jax.training import hosts; "
        "hosts._PATIENCE_SECONDS = 1; hosts.join(sys.argv[1], 0, 2)"
    )
    done = shared_runs.python("-c", code, f"127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "sgdat-jax: error: not all processes of the job have come within 1 seconds; "
        "each must have a process_id of its own, from 0 to 1\n"
    )


def test_an_interrupt_while_others_are_awaited(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    words = ["train", "--run-dir", str(tmp_path / "run"), "--distributed"]
    words += ["--coordinator", address, "--num-processes", "2", "--process-id", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sgdat_jax", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    hosts._wait_for("127.0.0.1", int(address.rpartition(":")[2]))
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)
    assert (process.returncode, *output) == (
        130,
        "",
        "sgdat-jax: error: interrupted\n",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_error_in_one_process_is_told_by_all(tmp_path):
    folder = tmp_path / "run"
    job = command(folder, others=("--learning-rate", "-1"))
    assert_all_end(job, folder, "error: process 1: `learning_rate` must be in [0, inf)")
    (tmp_path / "a file").write_text("mine")
    job = command(tmp_path / "a file" / "run")
    assert_all_end(job, folder, "error: process 0: run_dir must be a folder that can")


def wait_for_states(folder, count, job):
    while len(checkpoint.steps(folder / run_folder.CHECKPOINTS)) < count:
        assert all(process.poll() is None for process in job), job[0].communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_command_as_a_job_that_is_stopped_and_killed(tmp_path):
    folder = tmp_path / "run"
    options = ("--epochs", "6", "--diagnostics", "--save-every-steps", "16")
    options += ("--keep-states", "99")
    job = command(folder, *options)
    wait_for_states(folder, 2, job)
    job[1].send_signal(signal.SIGTERM)  # one hears of it, all end
    errors = [process.communicate(timeout=120)[1] for process in job]
    assert [process.returncode for process in job] == [75, 75], errors
    assert "the run is saved; it goes on with sgdat-jax train --resume" in errors[0]

    saved = checkpoint.steps(folder / run_folder.CHECKPOINTS)
    job = command(folder, *options)
    wait_for_states(folder, len(saved) + 2, job)
    job[1].kill()
    begin = time.monotonic()
    error = job[0].communicate(timeout=120)[1]
    assert time.monotonic() - begin < 60
    assert job[0].returncode not in (0, None)
    assert "process 0 of 2 ends" in error or "task" in error
    job[1].communicate()

    job = command(folder, *options)
    outputs = [process.communicate(timeout=300) for process in job]
    assert [process.returncode for process in job] == [0, 0], outputs
    assert "goes on after step" in outputs[0][0]
    assert "epoch" not in outputs[1][0]
    lines = run_folder.read_metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert run_folder.read_result(folder)["devices"] == 2

    whole = tmp_path / "whole"
    outputs = [process.communicate() for process in command(whole, *options)]
    name = run_folder.METRICS  # on as many devices: the same bits
    assert (folder / name).read_bytes() == (whole / name).read_bytes()
    # Evaluated on one device.
    done = shared_runs.command("evaluate", str(folder))
    assert f"test accuracy {lines[-1]['test_accuracy']:.2%}" in done.stdout


def test_a_job_of_which_no_cluster_tells():
    done = shared_runs.command("train", "--run-dir", "x", "--distributed")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sgdat-jax: error: No cluster was found that tells")
    assert done.stderr.count("\n") == 1
