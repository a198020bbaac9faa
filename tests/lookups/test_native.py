"""The compiled library: made once, kept, and done without where it cannot be made."""

import json
import logging
import stat
import subprocess
import sys

import pytest

import sgdat_jax as sj
import shared_runs
from sgdat_jax import cpu, files
from sgdat_jax.lookups import native

needs_compiler = pytest.mark.skipif(
    not native._can(), reason="needs AVX2 and a C++ compiler"
)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    native._register.cache_clear()
    yield
    native._register.cache_clear()
    sj.look_up_gradients(False)


def kept(tmp_path):
    return sorted((tmp_path / "caches" / "sgdat_jax").glob("*"))


@pytest.mark.whole
@needs_compiler
def test_it_is_compiled_once(tmp_path, monkeypatch):
    assert sj.look_up_gradients()
    assert not kept(tmp_path)  # not before it is needed
    first = native._compiled()
    assert kept(tmp_path) == [first]
    before = first.stat().st_mtime_ns
    assert native._compiled() == first
    assert first.stat().st_mtime_ns == before
    monkeypatch.setattr(native, "_FLAGS", (*native._FLAGS, "-DOTHER"))
    assert native._compiled() != first  # of other flags it is another


@pytest.mark.whole
@needs_compiler
def test_processes_that_need_it_at_once_do_not_meet(tmp_path):
    code = (
        "import sgdat_jax as sj; from sgdat_jax.lookups import native;"
        "sj.look_up_gradients(); print(native.is_ready())"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == ["True\n"] * 2
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("SGDAT_JAX_LOOKUPS", "0"), ("CXX", "no-compiler -x")]
)
def test_the_environment_can_refuse(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert not sj.look_up_gradients()
    assert not native.is_ready()


def test_other_processors_do_without(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("flags : sse4_2 avx f16c\n")
    monkeypatch.setattr(cpu, "_CPUINFO", info)
    assert not sj.look_up_gradients()


@needs_compiler
def test_a_compiler_that_fails_is_said_once(tmp_path, monkeypatch, caplog):
    compiler = tmp_path / "c++ 1"
    compiler.write_text(
        "#!/bin/sh\n[ $1 = --version ] && exit 0\necho no header >&2; exit 1\n"
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", f"'{compiler}'")
    assert sj.look_up_gradients()
    with caplog.at_level(logging.WARNING):
        assert not native.is_ready()
        assert not native.is_ready()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("Gradients are XLA's")
    assert said.endswith("no header\n")
    assert not kept(tmp_path)


@needs_compiler
def test_without_a_place_to_keep_it_gradients_are_xlas(tmp_path, monkeypatch, caplog):
    files.write_text(tmp_path / "caches", "no folder")
    assert sj.look_up_gradients()
    assert not native.is_ready()
    assert "XDG_CACHE_HOME must be a folder that can be written" in caplog.text


_RUN = """
import sys

from sgdat_jax import __main__ as command
from sgdat_jax.lookups import gradients

gradients._FEWEST_PRODUCTS = 0
sys.argv[1:] = ["train", "--epochs", "2", "--run-dir", sys.argv[1]]
command.main()
"""


@pytest.mark.whole
@needs_compiler
def test_runs_by_command_are_equal_and_say_how_gradients_were_computed(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XLA_FLAGS", "")  # a single device
    runs = [tmp_path / name for name in ("compiled", "kept", "by XLA")]
    results = []
    for run in runs:
        # Both the library and XLA's program are read from a cache the second time.
        monkeypatch.setenv("SGDAT_JAX_LOOKUPS", "0" if run.name == "by XLA" else "1")
        shared_runs.python("-c", _RUN, str(run)).check_returncode()
        results.append(json.loads((run / "result.json").read_text()))
    said = [result["gradients"] for result in results]
    assert said == ["looked up", "looked up", "by XLA"]
    first, second, other = ((run / "metrics.jsonl").read_text() for run in runs)
    assert first == second
    assert first != other  # the last places of gradients decide some flips
