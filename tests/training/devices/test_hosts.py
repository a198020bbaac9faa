"""Hosts of a job agree or say what differs; jobs themselves are in tests/whole."""

import dataclasses
import json
import socket

import jax
import numpy as np
import pytest

from sgdat_jax import cli
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import loop
from sgdat_jax.training.devices import agreement, hosts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("10.0.0.1", 0, 2),
            "coordinator must be host and port, such as 10.0.0.1:1234, got 10.0.0.1.",
        ),
        (("10.0.0.1:", 0, 2), "coordinator must be host and port"),
        ((":1234", 1, 2), "coordinator must be host and port"),
        (("10.0.0.1:0", 0, 2), "coordinator must be host and port"),
        (("10.0.0.1:65536", 0, 2), "coordinator must be host and port"),
        (("10.0.0.1:1", 0, 0), "num_processes must be in [1, 2**31), got 0."),
        (("10.0.0.1:1", 0, 2**31), "num_processes must be in [1, 2**31), got 2147"),
        (("10.0.0.1:1", 2, 2), "process_id must be in [0, num_processes), got 2 of 2."),
        (
            ("10.0.0.1:1", -1, 2),
            "process_id must be in [0, num_processes), got -1 of 2.",
        ),
        (("10.0.0.1:1", -1, None), "process_id must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        hosts.join(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("place", ["127.0.0.1", ""])
def test_a_port_in_use(place):
    with socket.create_server((place, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"a port that is free, got {port}: "):
            hosts.join(f"127.0.0.1:{port}", 0, 1)


def test_one_process_is_its_own_job():
    assert hosts.is_writer()
    with pytest.raises(OSError, match="full"), hosts.one_for_all():
        raise OSError("full")


@pytest.fixture
def two_processes(monkeypatch):
    """Lets this process take itself for one of two, whose texts are given."""
    texts = []
    monkeypatch.setattr(hosts, "is_job", lambda: True)
    monkeypatch.setattr(hosts, "_gather", lambda text: [text, *texts])
    return texts


def test_what_differs_is_named(two_processes):
    ours = {"seed": 0, "epochs": 2, "rates": [0.1, None], "old": 1}
    two_processes[:] = [json.dumps(ours)]
    hosts.agree(ours)
    other = {"seed": 5, "epochs": 2, "rates": [0.1, 0.2], "new": "x"}
    two_processes[:] = [json.dumps(ours), json.dumps(other), json.dumps(other)]
    with pytest.raises(hosts.Disagreement) as caught:
        hosts.agree(ours)
    assert str(caught.value) == (
        "The processes of a job must be alike: seed differs (0 in process 0, 5 in "
        "process 2); rates differs ([0.1, None] in process 0, [0.1, 0.2] in process "
        "2); old differs (1 in process 0, None in process 2); new differs (None in "
        "process 0, 'x' in process 2)."
    )


def test_all_but_what_may_differ_is_compared(two_processes, monkeypatch):
    settings = configs.TrainConfig()
    seen = []
    monkeypatch.setattr(hosts, "agree", seen.append)
    agreement.check_config(settings)
    fields = {field.name for field in dataclasses.fields(settings)}
    free = fields - seen[0].keys()
    assert free == {
        *("data_dir", "run_dir", "save_every_minutes", "save_every_steps"),
        *("keep_states", "tensorboard", "label", "plugin", "allow_changed_data"),
    }
    names = ("Python", "sgdat-jax", "jax", "jaxlib", "numpy", "flax", "optax")
    assert {f"version of {name}" for name in names} <= seen[0].keys()
    assert json.loads(json.dumps(seen[0])).keys() == seen[0].keys()


def test_hosts_with_other_numbers_of_devices(two_processes, monkeypatch, tmp_path):
    theirs = agreement._settings(configs.TrainConfig(devices=8))
    two_processes[:] = [json.dumps(agreement._versions() | theirs)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    for start in (setup.set_up, setup.resume):
        with pytest.raises(
            hosts.Disagreement, match=r"devices differs \(4 in process 0"
        ):
            start(configs.TrainConfig(run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_errors_of_others_are_errors_here(two_processes):
    two_processes[:] = [""]
    with hosts.failing_together():
        pass
    refused = pytest.raises(hosts.Disagreement, match="process 0: mine")
    with refused, hosts.failing_together():
        raise OSError("mine")
    two_processes[:] = ["theirs"]
    refused = pytest.raises(hosts.Disagreement, match="process 1: theirs")
    with refused, hosts.failing_together():
        pass
    with pytest.raises(KeyError), hosts.failing_together():
        raise KeyError("a bug")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("train --distributed", "with a --resume or --run-dir"),
        ("compare --distributed --run-dir x", "Only train takes --distributed"),
        ("train --process-id 0", "This needs --distributed"),
        ("train --run-dir x --distributed --process-id a", "process_id must be a numb"),
        ("train --run-dir x --distributed --coordinator a", "must be host and port"),
    ],
)
def test_refused_jobs(words, named, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words.split())
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("per_call", "per_epoch"), [(1, 390), (256, 390), (256, 195)])
def test_processes_meet_every_sixteen_steps_or_after_the_next_call(
    monkeypatch, per_call, per_epoch
):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    ends, step = [], 0
    for _ in range(20):
        end = step + per_epoch
        while step < end:
            step = min(step + per_call, end)
            ends.append(step)
    may_meet = loop._meetings(0)
    met = [0, *(step for step in ends if may_meet(step))]
    assert max(np.diff(met)) <= max(per_call, 16)
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert all(map(loop._meetings(0), ends))
