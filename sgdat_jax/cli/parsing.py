"""From the words of a command line to the config of a command, without JAX."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from sgdat_jax import __version__, checks, files, names
from sgdat_jax.cli import help as help_pages
from sgdat_jax.cli import options
from sgdat_jax.experiments import plugins

# Options from which the defaults of the others come.
_EARLY = ("recipe", "config", "resume", "rows")
# Options that an unset variable of a shell must not send elsewhere.
_PATHS = ("--run-dir", "--data-dir", "--out", "--init", "--from")


class Asked(Exception):
    """The words ask for nothing but a text, which is the argument: str or rich's."""


def parse(words: Sequence[str]) -> tuple[str, Any]:
    """Parses the command line; returns the name of the work to do, and its config.

    Raises:
      Asked: if the words ask for a text.
      ValueError: of one line, if a word is wrong.
    """
    if list(words) == ["--version"]:
        raise Asked(f"sgdat-jax {__version__}")
    words, _ = _gathered("--set", arranged(words))
    words, modules = _gathered("--plugin", words)
    plugins.load(modules)
    name = words[0] if words and not words[0].startswith("-") else ""
    for option in _PATHS:
        if "" in _values(option, words):
            raise ValueError(f"{option} must not be empty.")
    if help_pages.asked_for(words):
        raise Asked(help_pages.page(words, _defaults(words)))
    if name not in options.COMMANDS:
        known = ", ".join(options.COMMANDS)
        if not name:
            got = f", got {' '.join(words)}" if words else ""
            raise ValueError(f"a command is missing{got} (known: {known}).")
        near = checks.nearest(options.COMMANDS, name)
        raise ValueError(
            f"unknown command {name}; the nearest is {near} (known: {known})."
        )
    parsed = _parsed(words, _defaults(words))
    config = options.config_of(name, parsed)
    if isinstance(config, options.Completion):
        raise Asked(completion(config.shell))
    if isinstance(config, options.Names):
        names.check("kind", help_pages.KINDS, config.kind)
        raise Asked("\n".join(help_pages.KINDS[config.kind].known()))
    if getattr(parsed, "print_config", False):
        raise Asked(files.to_toml(dataclasses.asdict(config)).rstrip("\n"))
    if getattr(parsed, "resume", None) is not None:
        if option_value("--run-dir", words) not in (None, parsed.resume):
            raise ValueError(
                f"resume names the folder of the run, so run_dir must be left out, got "
                f"{parsed.run_dir}."
            )
        return "resume", dataclasses.replace(config, run_dir=parsed.resume)
    return name, config


def completion(shell: str) -> str:
    """Returns a script with which a shell completes commands and options.

    Raises:
      ValueError: if the shell is unknown.
    """
    names.check("shell", help_pages.SHELLS, shell)
    commands: Any = Union[  # noqa: UP007, as it is not of types known here
        tuple(
            Annotated[kind, tyro.conf.subcommand(name)]
            for name, (kind, _) in options.COMMANDS.items()
        )
    ]
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        tyro.cli(commands, prog="sgdat-jax", args=["--tyro-print-completion", shell])
    return script.getvalue()


def arranged(words: Sequence[str]) -> list[str]:
    """Returns words with the command first, and options spelt with hyphens alone."""
    spelt = [_spelt(word) for word in words]
    if spelt and spelt[0].startswith("-"):
        place = _place_of_command(spelt)
        return [*spelt[place : place + 1], *spelt[:place], *spelt[place + 1 :]]
    return spelt


def _spelt(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}"


def _place_of_command(words: Sequence[str]) -> int:
    """Returns where the command is named, but not as an option's value; or the end."""
    named = [place for place, word in enumerate(words) if word in options.COMMANDS]
    with_value = _options_with_value() if named else set()
    free = (place for place in named if not place or words[place - 1] not in with_value)
    return next(free, len(words))


def _options_with_value() -> set[str]:
    """Returns the options of all commands that take a value, as they are typed."""
    found = []
    for kind, _ in options.COMMANDS.values():
        for inner in options.subcommands(kind).values() or [kind]:
            found += help_pages.list_options(inner)
    return {o.flag.partition(" ")[0] for o in found if not o.is_switch}


def _defaults(words: Sequence[str]) -> Any:
    """Returns the defaults of a command's options; None: those of their class."""
    if not words or words[0] not in options.COMMANDS:
        return None
    given = {key: option_value(f"--{key}", words) for key in _EARLY}
    return options.defaults(words[0], given)


def _parsed(words: Sequence[str], default: Any) -> Any:
    kind: Any = options.COMMANDS[words[0]][0]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind, prog=f"sgdat-jax {words[0]}", default=default, args=words[1:]
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        message = _first_lines(errors.getvalue())
        raise ValueError(
            re.sub("^Error parsing [A-Z][A-Za-z]*: ", "", message)
        ) from None


def option_value(option: str, words: Sequence[str]) -> str | None:
    """Returns the value of an option that is needed before the others are parsed."""
    values = _values(option, words)
    if len(values) > 1 or "" in values:
        raise ValueError(f"{option} must have one value, got {' '.join(words)}")
    return values[0] if values else None


def _values(option: str, words: Sequence[str]) -> list[str]:
    values = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name == option:
            values.append(value if equals else next(left, ""))
    return values


def _gathered(option: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Moves a repeated option to the end of the words; returns them and its values.

    It has one value each time, or several of the form NAME=VALUE.
    """
    rest: list[str] = []
    values: list[str] = []
    left = list(words)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name != option:
            rest.append(f"{name}{equals}{value}")
            continue
        if not equals:
            value = left.pop(0) if left else ""
        if not value or value.startswith("--"):
            raise ValueError(f"{option} must have a value, got {' '.join(words)}")
        values.append(value)
        while left and not left[0].startswith("-") and "=" in left[0] and not equals:
            values.append(left.pop(0))
    return [*rest, *([option, *values] if values else [])], values


def _first_lines(box: str) -> str:
    """Returns the message in Tyro's box of an error, and its suggestion, as one line.

    The box has a title, then sections divided by rules: the message, perhaps a
    suggestion, a hint to the help text.
    """
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    if lines[1:] and not lines[1].strip("-"):
        del lines[1]  # a rule below the title, where the terminal has no box characters
    sections: list[list[str]] = [[]]
    for line in lines[1:]:
        if line and not line.strip("─-"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    message = " ".join(sections[0])
    for section in sections[1:]:
        if section and section[0].startswith(("Perhaps", "Similar", "Available")):
            message += f"; {' '.join(section[:2])}"
    return message
