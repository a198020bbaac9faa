"""Files changed by chance are read or refused in one line, whatever they hold."""

import warnings

import pytest

from benchmarks import fuzzing
from sgdat_jax import cli

pytestmark = pytest.mark.usefixtures("compiled_quickly", "without_drawing")

_LEAST = 12
# As many as the guide on reliability counts; minutes each.
_JSON, _BYTES = 2_000, 10_000


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    import small_runs  # registers the network

    assert small_runs.TinyNet
    folder = tmp_path_factory.mktemp("fuzzed")
    words = ["--model", "TinyNet", "--epochs", "1", "--run-dir"]
    cli.main(["train", *words, str(folder / "whole run")])
    rates = ["--learning-rate", "1e-4", "1e-3", "--seeds", "1"]
    cli.main(["sweep", *rates, *words, str(folder / "whole sweep")])
    return fuzzing.cases(folder, folder / "whole run", folder / "whole sweep")


def _check(cases, first, counts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata
        for name, case in cases.items():
            whole = case.file.read_bytes()
            found = fuzzing.fuzz(case, first, counts(name))
            case.file.write_bytes(whole)
            print(f"{name}: {found.read} read, {found.refused} refused")
            assert not found.faults, name
            assert found.refused, name


def test_some_of_each(cases):
    _check(cases, 0, lambda name: _LEAST)


@pytest.mark.slow
def test_thousands_of_each(cases):
    _check(cases, _LEAST, lambda name: _JSON if "json" in name else _BYTES)
