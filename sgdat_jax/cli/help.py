"""Help texts: one screen per command, made of its options' docstrings and defaults.

The first sentence of an option's docstring is its line; the rest is for ``--help-all``.
"""

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tyro
from rich import text

from sgdat_jax import names
from sgdat_jax.cli import options
from sgdat_jax.data import sources
from sgdat_jax.experiments import methods, registry

WIDTH = 80  # columns that a page is laid out for
_COLUMN = 28  # where explanations begin

# Options by group, those of the first page before the bar. What is in none is in the
# group of its command, and on the first page if the command has few options.
_GROUPS = {
    "data": (
        "dataset validation_share flip | crop_padding data_dir test_share image_size "
        "resize skip_broken resized_crop label_smoothing normalization stream_above "
        "allow_changed_data"
    ),
    "network": (
        "model width full_precision | pad_value input_sign compute_dtype "
        "unbiased_variance"
    ),
    "binary optimizer": (
        "optimizer optimizers learning_rate threshold momentum set | gamma sigma eta "
        "binary_schedule reset_flips_every_epoch restart_binary_every_epoch rows"
    ),
    "real-valued optimizer": (
        "real_optimizer real_learning_rate real_schedule | real_set real_momentum "
        "real_warmup_epochs restart_real_every_epoch clip_norm"
    ),
    "run": (
        "recipe resume init epochs batch_size seeds seed reference | config "
        "print_config plugin init_scale max_skipped_steps save_every_minutes "
        "save_every_steps keep_states"
    ),
    "devices": (
        "devices distributed models_at_once | sharded coordinator process_id "
        "num_processes"
    ),
    "output": "run_dir diagnostics | label tensorboard select_on_test",
}
SHELLS = ("bash", "zsh")
KINDS: dict[str, names.Table] = {
    "optimizers": registry.OPTIMIZERS,
    "real-optimizers": registry.REAL_OPTIMIZERS,
    "networks": names.NETWORKS,
    "signs": names.SIGNS,
    "datasets": sources.DATASETS,
    "schedules": registry.SCHEDULES,
    "methods": methods.METHODS,
}
_CHOICES: dict[str, Callable[[], Iterable[str]]] = {
    "dataset": sources.DATASETS.known,
    "model": names.NETWORKS.known,
    "input_sign": names.SIGNS.known,
    "compute_dtype": lambda: names.COMPUTE_DTYPES,
    "normalization": lambda: registry.NORMALIZATIONS,
    "optimizer": registry.OPTIMIZERS.known,
    "optimizers": methods.METHODS.known,
    "real_optimizer": registry.REAL_OPTIMIZERS.known,
    "real_schedule": registry.SCHEDULES.known,
    "binary_schedule": registry.SCHEDULES.known,
    "resize": lambda: ("crop", "squash"),
    "kind": lambda: KINDS,
    "shell": lambda: SHELLS,
    "format": lambda: ("stablehlo", "iree", "onnx", "npz", "torch"),
}
_METAVARS = {
    **dict.fromkeys(("run_dir", "data_dir", "resume"), "DIR"),
    **dict.fromkeys(("config", "rows", "out", "init"), "FILE"),
    "run_dirs": "DIR",
    **dict.fromkeys(("set", "real_set"), "NAME=VALUE"),
    "plugin": "MODULE",
    "full_precision": "NAME",
}
_FEW = 12  # options of a command, all of them on its first page


class Option(NamedTuple):
    """What a page says of an option."""

    name: str  # of the field
    flag: str  # as it is typed, with what follows it
    line: str
    rest: str
    default: str
    choices: tuple[str, ...]
    is_positional: bool

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return not self.is_positional and " " not in self.flag


def asked_for(words: Sequence[str]) -> bool:
    """Returns whether words of a command line ask for help."""
    return not {"-h", "--help", "--help-all"}.isdisjoint(words)


def page(words: Sequence[str], defaults: Any = None) -> text.Text:
    """Returns the page that words of a command line ask for.

    Args:
      words: of the command line, the name of the command first if there is one.
      defaults: of the command's options, if they are others than those of their class.

    Raises:
      ValueError: if there is no such command.
    """
    if not words or words[0].startswith("-"):
        return _overview("sgdat-jax", _commands(), "Trains binary neural networks.")
    name, *others = words
    names.check("command", options.COMMANDS, name)
    kind, title = options.COMMANDS[name][0], f"sgdat-jax {name}"
    inner = options.subcommands(kind)
    if inner:
        given = next((word for word in others if not word.startswith("-")), None)
        if given is None:
            return _overview(title, inner, _summary(kind))
        names.check("command", inner, given)
        kind, title = inner[given], f"{title} {given}"
    return _of_command(kind, title, defaults, everything="--help-all" in words)


def _commands() -> dict[str, type]:
    return {name: kind for name, (kind, _) in options.COMMANDS.items()}


def _summary(kind: type) -> str:
    return str(inspect.getdoc(kind)).partition("\n\n")[0].replace("\n", " ")


def _overview(title: str, commands: Mapping[str, type], summary: str) -> text.Text:
    page = _head(f"{title} COMMAND [OPTIONS]", summary)
    page.append("\ncommands\n", "bold")
    for name, kind in commands.items():
        _append(page, f"  {name}", _summary(kind), 16)
    page.append(f"\n{title} COMMAND --help explains one; sgdat-jax --version.\n")
    return page


def _of_command(
    kind: type, title: str, defaults: Any, *, everything: bool
) -> text.Text:
    found = list_options(kind, defaults)
    values = [option.flag for option in found if option.is_positional]
    page = _head(
        " ".join([title, *values, "[OPTIONS]"]),
        *str(inspect.getdoc(kind)).split("\n\n")[: None if everything else 1],
    )
    is_cut = False
    for group, chosen in _grouped(found).items():
        first = [o for o in chosen if len(found) <= _FEW or _is_common(o)]
        is_cut |= len(first) < len(chosen)
        shown = chosen if everything else first
        if shown:
            page.append(f"\n{group}\n", "bold")
        for option in shown:
            _append(page, f"  {option.flag}", _explained(option, everything), _COLUMN)
    if everything and any(option.is_switch for option in found):
        page.append("\nA switch such as --flip also has an opposite: --no-flip.\n")
    if is_cut and not everything:
        page.append(f"\n{title} --help-all has the other options, and says more.\n")
    return page


def _head(usage: str, *paragraphs: str) -> text.Text:
    page = text.Text()
    page.append("usage: ", "bold").append(f"{usage}\n")
    for paragraph in paragraphs:
        page.append(textwrap.fill(" ".join(paragraph.split()), WIDTH) + "\n")
    return page


def _append(page: text.Text, left: str, right: str, column: int) -> None:
    lines = textwrap.wrap(
        right, WIDTH - column, break_on_hyphens=False, break_long_words=False
    )
    if len(left) >= column:
        page.append(f"{left}\n")
        left = ""
    for line in lines:
        page.append(f"{left:{column}}{line}\n")
        left = ""


def _explained(option: Option, everything: bool) -> str:
    parts = [option.line]
    if option.choices:
        parts[0] = f"{option.line.rstrip('.')}: {', '.join(option.choices)}"
    if everything and option.rest:
        parts[0] = f"{parts[0].rstrip('.')}."
        parts.append(option.rest)
    elif not everything:
        parts[0] = parts[0].rstrip(".")
    if option.default:
        parts.append(f"[{option.default}]")
    return " ".join(parts)


@functools.cache
def _places() -> dict[str, tuple[str, bool]]:
    """Returns the group of each option, and whether it is on the first page."""
    places: dict[str, tuple[str, bool]] = {}
    for group, listed in _GROUPS.items():
        common, _, others = listed.partition("|")
        places |= dict.fromkeys(common.split(), (group, True))
        places |= dict.fromkeys(others.split(), (group, False))
    return places


def _is_common(option: Option) -> bool:
    return _places().get(option.name, ("", False))[1]


def _grouped(found: Sequence[Option]) -> dict[str, list[Option]]:
    if len(found) <= _FEW:
        return {
            "arguments": [option for option in found if option.is_positional],
            "options": [option for option in found if not option.is_positional],
        }
    groups: dict[str, list[Option]] = {group: [] for group in _GROUPS}
    order = list(_places())
    for option in sorted(
        found, key=lambda o: order.index(o.name) if o.name in order else len(order)
    ):
        groups[_places().get(option.name, ("run", False))[0]].append(option)
    return groups


def list_options(kind: type, defaults: Any = None) -> list[Option]:
    """Returns the options of a command.

    Args:
      kind: class of its options.
      defaults: an instance with other defaults than the class has.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    documented = _docstrings(kind)
    found = []
    for field in dataclasses.fields(kind):
        hint, flag, is_positional = _plain(hints[field.name], field.name)
        line, _, rest = documented[field.name].partition(". ")
        metavar = _metavar(hint, field.name)
        default = (
            field.default if defaults is None else getattr(defaults, field.name, None)
        )
        found.append(
            Option(
                field.name,
                metavar if is_positional else f"--{flag} {metavar}".rstrip(),
                line,
                rest,
                _default(default),
                tuple(_CHOICES[field.name]()) if field.name in _CHOICES else (),
                is_positional,
            )
        )
    return found


def _plain(hint: Any, name: str) -> tuple[Any, str, bool]:
    """Returns a type without what tyro reads, the option's name, and its place."""
    flag, is_positional = name.replace("_", "-"), False
    if typing.get_origin(hint) is typing.Annotated:
        hint, *marks = typing.get_args(hint)
        is_positional = any(
            mark in typing.get_args(tyro.conf.Positional[str]) for mark in marks
        )
        flag = next((m.name for m in marks if getattr(m, "name", None)), flag)
    return hint, flag, is_positional


def _metavar(hint: Any, name: str) -> str:
    several = typing.get_origin(hint) is tuple
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = typing.get_args(hint)[0]
        several = typing.get_origin(hint) is tuple
    if several:
        hint = typing.get_args(hint)[0]
    if hint is bool:
        return ""
    word = _METAVARS.get(name) or {int: "N", float: "X"}.get(hint, name.upper())
    if hint is str and name in _CHOICES and name not in _METAVARS:
        word = "NAME"
    return f"{word} ..." if several else word


def _default(value: Any) -> str:
    """Returns a default as it would be typed; empty for none."""
    if value is None or value is False or value is dataclasses.MISSING:
        return ""
    if value is True:
        return "on"
    if isinstance(value, tuple):
        return " ".join(map(_default, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _docstrings(kind: type) -> dict[str, str]:
    """Returns the docstrings of the fields of a class, those of its bases included."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                name = typing.cast(ast.Name, field.target).id
                said = typing.cast(ast.Constant, after.value).value
                found[name] = " ".join(str(said).split())
    return found
