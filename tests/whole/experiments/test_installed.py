"""What installed packages bring by entry points, as their metadata declare it."""

import json

import pytest

from sgdat_jax import cli, experiments, names

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_ENTRY_POINTS = """\
[sgdat_jax.optimizers]
installed_bop = my_bnns:slow_bop

[sgdat_jax.networks]
InstalledNet = my_bnns:Net

[sgdat_jax.real_optimizers]
installed_lamb = optax:lamb
"""
_MODULE = """\
import sgdat_jax as sj
from flax import nnx


def slow_bop(*, pace=1e-3):
    return sj.bop(pace, threshold=1e-7)


class Net(nnx.Module):
    def __init__(self, num_classes, *, rngs):
        self.first = nnx.Linear(64, 32, rngs=rngs)
        self.binary = sj.BinaryLinear(32, num_classes, rngs=rngs)

    def __call__(self, images):
        return self.binary(self.first(images.reshape(len(images), -1)))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with entry points, as pip would leave it; forgotten afterwards."""
    site = tmp_path / "site"
    (site / "my_bnns-1.0.dist-info").mkdir(parents=True)
    (site / "my_bnns.py").write_text(_MODULE)
    about = site / "my_bnns-1.0.dist-info"
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-bnns\nVersion: 1\n"
    )
    (about / "entry_points.txt").write_text(_ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    names._entry_points.cache_clear()
    yield
    names._entry_points.cache_clear()
    for table in (
        experiments.OPTIMIZERS,
        experiments.NETWORKS,
        experiments.REAL_OPTIMIZERS,
    ):
        for name in ("installed_bop", "InstalledNet", "installed_lamb"):
            table.data.pop(name, None)


def test_an_installed_package_needs_no_plugin(package, tmp_path, capsys):
    cli.main(["list", "optimizers"])
    assert "installed_bop" in capsys.readouterr().out
    folder = str(tmp_path / "run")
    optimizers = ("--optimizer", "installed_bop", "--real-optimizer", "installed_lamb")
    options = ("--model", "InstalledNet", "--set", "pace=0.01", "--epochs", "1")
    cli.main(["train", *optimizers, *options, "--run-dir", folder])
    cli.main(["evaluate", f"{folder}/best.npz"])
    assert "test accuracy" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["optimizer"], config["plugin"]) == ("installed_bop", [])


def test_without_the_package_its_names_are_unknown(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--optimizer", "installed_bop"])
    assert stopped.value.code == 2
    assert "unknown optimizer 'installed_bop'" in capsys.readouterr().err
