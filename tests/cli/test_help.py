"""Help texts, lists of names and completion, and that they are cheap."""

import dataclasses
import importlib

import pytest

import shared_runs
from sgdat_jax import cli, experiments, names
from sgdat_jax.cli import help as help_pages
from sgdat_jax.cli import options
from sgdat_jax.data import pictures
from sgdat_jax.experiments import configs, methods, recipes, registry, setup
from sgdat_jax.inference.export import formats
from sgdat_jax.models import specs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_ROWS = 48  # of one screen
_KINDS = {name: kind for name, (kind, _) in options.COMMANDS.items() if name != "data"}
_KINDS |= {f"data {k}": v for k, v in options.subcommands(options.DataConfig).items()}


def _printed(words, capfd):
    cli.main(words.split())
    output = capfd.readouterr()
    assert output.err == ""
    return output.out


@pytest.mark.parametrize("name", ["", "data", *_KINDS])
def test_one_screen_explains_a_command(name, capfd):
    lines = _printed(f"{name} --help", capfd).splitlines()
    assert len(lines) <= _ROWS
    assert max(map(len, lines)) <= help_pages.WIDTH
    assert lines[0].startswith(f"usage: sgdat-jax {name}".rstrip())
    if name in ("", "data"):
        for command in options.subcommands(options.DataConfig) if name else _KINDS:
            assert any(f"  {command.split()[0]} " in line for line in lines)


@pytest.mark.parametrize("name", _KINDS)
def test_all_options_are_explained(name, capfd):
    text = " ".join(_printed(f"{name} --help-all", capfd).split())
    found = help_pages.list_options(_KINDS[name])
    assert {o.name for o in found} == {f.name for f in dataclasses.fields(_KINDS[name])}
    for option in found:
        assert 0 < len(option.line) <= 66, option
        assert f" {option.flag} {option.line.rstrip('.')}" in text
        assert option.rest in text


def test_defaults_and_choices_are_those_of_the_program(capfd):
    text = _printed("train --help", capfd)
    config = configs.TrainConfig()
    assert f"[{config.epochs}]" in text and f"[{config.optimizer}]" in text
    options_of_train = help_pages.list_options(options.Train)
    shown = {option.name: option.default for option in options_of_train}
    assert (shown["seed"], shown["pad_value"], shown["flip"]) == ("0", "0", "")
    rates = registry.defaults("sgdat")
    assert rates == {"learning_rate": 1e-4, "threshold": 1e-7}  # as its lines say
    assert "of sgdat 1e-4" in text and "of sgdat 1e-7" in text
    for name in (*registry.OPTIMIZERS, *names.NETWORKS):
        assert name in text
    choices = {k: tuple(listed()) for k, listed in help_pages._CHOICES.items()}
    assert choices["format"] == tuple(formats.FORMATS)
    assert set(choices["resize"]) == set(pictures.RESIZES)
    assert set(choices["compute_dtype"]) == set(specs.DTYPES)
    assert set(choices["optimizers"]) == set(methods.METHODS)


def test_no_group_names_an_option_that_is_not_there():
    known = {f.name for kind in _KINDS.values() for f in dataclasses.fields(kind)}
    assert set(help_pages._places()) <= known


def test_help_shows_the_defaults_of_a_recipe(capfd):
    text = _printed("train --recipe cifar10-binarynet-sgdm --help", capfd)
    for value in ("[200]", "[256]", "[cifar10]", "[0.9]", "[on]"):
        assert value in text


def test_help_of_a_command_that_is_not_there(capfd):
    with pytest.raises(SystemExit) as caught:
        cli.main(["trian", "--help"])
    assert caught.value.code == 2
    assert "the nearest is 'train'" in capfd.readouterr().err


_COUNTED = """
import sys, time
start = time.process_time()
import msgspec, rich.console, tyro
yardstick = time.process_time() - start
from sgdat_jax import cli
try:
    cli.main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"jax", "optax", "flax", "matplotlib", "scipy", "tensorflow"}
ratio = time.process_time() / yardstick
print(ratio, *heavy.intersection(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "train --epochs 0",
        *(
            pytest.param(words, marks=pytest.mark.whole)
            for words in (
                "--version",
                "train --help-all",
                "data show --help",
                "list optimizers",
                "completion bash",
                "tran",
                "train --epoch 3",
                "train --optimizer sgdatt",
                "compare --optimizers sgdatt",
            )
        ),
    ],
)
def test_help_and_typos_need_no_jax_and_little_time(words):
    done = shared_runs.python("-c", _COUNTED, *words.split())
    *_, (ratio, *heavy) = map(str.split, done.stderr.splitlines())
    assert heavy == []
    # 3.5 to 4.5 times what their libraries take, 0.3 to 0.4 s on two shared cores.
    assert float(ratio) < 10


@pytest.mark.parametrize("kind", help_pages.KINDS)
def test_list_prints_a_name_per_line(kind, capfd):
    table = getattr(experiments, kind.upper().replace("-", "_"))
    assert _printed(f"list {kind}", capfd).split() == table.known()


def test_list_knows_plugins(tmp_path, capfd, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from sgdat_jax import names\nnames.SIGNS['mine_sign'] = abs\n"
    )
    monkeypatch.setattr(names.SIGNS, "data", dict(names.SIGNS.data))
    printed = _printed(f"list signs --plugin {tmp_path / 'mine.py'}", capfd)
    assert "mine_sign" in printed.split()


@pytest.mark.parametrize("shell", help_pages.SHELLS)
def test_completion_knows_commands_and_options(shell, capfd):
    script = _printed(f"completion {shell}", capfd)
    for word in ("sgdat-jax", "compare", "recipes", "learning-rate"):
        assert word in script


@pytest.mark.whole
def test_recipes_and_what_they_cost(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = _printed("recipes", capfd)
    for name, settings in recipes.TASKS.items():
        (line,) = [line for line in text.splitlines() if f" {name} " in line]
        assert settings["model"] in line
    assert "10 M" in text and "sgdat_momentum" in text
    small, large = (
        recipes.cost("cifar10-binarynet"),
        recipes.cost("tiny_imagenet-binarynet"),
    )
    # Five convolutions of known sizes make up most of VGG-small's products.
    assert small.macs == pytest.approx(617e6, rel=0.01)
    assert small.cpu_hours == pytest.approx(200 * 50_000 / 130 / 3600)
    # Twice as high and wide, with the same dense layers behind.
    assert 3.9 < large.macs / small.macs < 4.0


def test_a_network_of_unbiased_variance_is_summarized():
    config = recipes.config(configs.TrainConfig, "cifar10-binarynet-sgdat")
    assert config.unbiased_variance
    assert setup.summarize(config, setup.Shape(10, (32, 32, 3)))


def test_public_names_are_those_that_checkers_see():
    import ast
    import inspect

    import sgdat_jax

    (block,) = [
        node
        for node in ast.parse(inspect.getsource(sgdat_jax)).body
        if isinstance(node, ast.If)
    ]
    seen = {
        alias.asname: node.module.removeprefix("sgdat_jax").lstrip(".")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: home for name, home in sgdat_jax._HOMES.items() if home}
    assert {name: home for name, home in seen.items() if home} == lazy
    for name, home in sgdat_jax._HOMES.items():
        module = importlib.import_module(f"sgdat_jax.{home or name}")
        expected = getattr(module, name) if home else module
        assert getattr(sgdat_jax, name) is expected
    assert set(sgdat_jax.__all__) <= set(dir(sgdat_jax))
    with pytest.raises(AttributeError, match="no attribute 'sgdatt'"):
        sgdat_jax.sgdatt  # noqa: B018
