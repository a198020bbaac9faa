"""The methods that a comparison has: who trains the binary weights and who the rest."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sgdat_jax import files, names
from sgdat_jax.experiments import registry


class Method(NamedTuple):
    """A row of a comparison."""

    label: str
    settings: Mapping[str, Any]  # fields of `TrainConfig`, whatever the others are


_SGD_FOR_ALL = {"real_optimizer": "sgd", "real_learning_rate": 1e-4}
_RESTARTED = ", restarted every epoch"

# Table 2 of Shan et al., Neurocomputing 555, 126431, 2023. A star means that one
# optimizer trains binary and real-valued parameters; all others leave these to Adam.
PAPER = {
    "sgd_star": Method(
        "SGD*", {"optimizer": "sgd", "real_momentum": None, **_SGD_FOR_ALL}
    ),
    "sgdm_star": Method(
        "SGDM*",
        {"optimizer": "sgd", "momentum": 0.9, "real_momentum": 0.9, **_SGD_FOR_ALL},
    ),
    "adam_star": Method(
        "Adam*",
        {"optimizer": "adam", "real_optimizer": "adam", "real_momentum": None},
    ),
    "sgd": Method("SGD", {"optimizer": "sgd"}),
    "sgdm": Method("SGDM", {"optimizer": "sgd", "momentum": 0.9}),
    "bop": Method("Bop", {"optimizer": "bop"}),
    "bop2nd_order": Method("Bop2ndOrder", {"optimizer": "bop2nd_order"}),
    "sgdt": Method("SGDT", {"optimizer": "sgdt"}),
    "sgdat": Method("SGDAT", {"optimizer": "sgdat"}),
    "sgdat_momentum": Method(
        "SGDAT with momentum", {"optimizer": "sgdat", "momentum": 0.9}
    ),
}

METHODS = names.Table(
    "methods",
    PAPER
    | {
        "sgdat_restart": Method(
            f"SGDAT{_RESTARTED}",
            {"optimizer": "sgdat", "reset_flips_every_epoch": True},
        ),
        "adam_adaptive": Method("Adam, adaptive", {"optimizer": "adam_adaptive"}),
        "lion": Method("Lion", {"optimizer": "lion"}),
        "lion_adaptive": Method("Lion, adaptive", {"optimizer": "lion_adaptive"}),
        "boat": Method("BOAT", {"optimizer": "boat"}),
        "prob_bop": Method("ProbBop", {"optimizer": "prob_bop"}),
        "diode": Method("Diode", {"optimizer": "diode"}),
    },
)


def method(name: str) -> Method:
    """Returns the method of a name: a row of `METHODS`, or any optimizer by itself.

    Raises:
      ValueError: if the name is unknown.
    """
    if name not in METHODS and name in registry.OPTIMIZERS:
        return Method(name, {"optimizer": name})
    row: Method = names.look_up("optimizer", METHODS, name)
    return row


def read_rows(path: pathlib.Path) -> tuple[str, ...]:
    """Adds the rows of a file to `METHODS`, and returns their names.

    Args:
      path: of TOML: a table for each row, ``[name]``, with an ``optimizer``, perhaps a
        ``label``, and any options of ``train`` or hyperparameters of the optimizer.

    Raises:
      ValueError: if the file is not of that form, or a row has the name of another.
    """
    rows = {}
    for name, values in files.read_toml(path).items():
        if not isinstance(values, dict) or "optimizer" not in values:
            raise ValueError(
                f"{path}: {name} must be a table with an optimizer, got {values!r}."
            )
        if not _NAME.fullmatch(name) or name in METHODS:
            raise ValueError(
                f"{path}: a row's name must be of letters, digits, _ and -, and new, "
                f"got {name!r}."
            )
        rows[name] = _row(name, values)
    if not rows:
        raise ValueError(f"{path} has no row.")
    METHODS.update(rows)
    return tuple(rows)


def _row(name: str, values: Mapping[str, Any]) -> Method:
    own = {k: v for k, v in values.items() if k not in _OPTIONS}
    options: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in values.items()
        if k in _OPTIONS
    }
    words = options.get("set", ())
    if isinstance(words, tuple):  # whatever else it is, `TrainConfig` refuses
        words = (*words, *(f"{k}={_text(v)}" for k, v in own.items()))
    label = str(options.get("label", name))
    return Method(label, options | {"set": words, "label": label})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_NAME = re.compile(r"[\w-]+")
# What makes a method; a method may set the learning rate of the rest as well.
FIELDS = (
    "optimizer",
    "learning_rate",
    "threshold",
    "momentum",
    "gamma",
    "sigma",
    "eta",
    "set",
    "reset_flips_every_epoch",
    "restart_binary_every_epoch",
    "real_optimizer",
    "real_momentum",
    "real_set",
)


# What a row of a file may have in addition to hyperparameters.
_OPTIONS = {*FIELDS, "label", "real_learning_rate", "real_schedule", "binary_schedule"}


def label_of(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Returns what to call the method of a run.

    Args:
      settings: fields of its `TrainConfig`.
      defaults: those of ``TrainConfig()``.

    Returns:
      The label of `METHODS`, or else the optimizer with all settings of the method that
      are not at their default.
    """
    if settings["label"]:
        return str(settings["label"])
    given = _given(settings, defaults)
    resets_flips = given.pop("reset_flips_every_epoch", False)
    restarts = given.pop("restart_binary_every_epoch", False)
    name, momentum = given["optimizer"], given.get("momentum")
    if name == "sgdat":
        restarts = resets_flips
    elif not registry.can_restart(name, momentum):
        restarts = False
    suffix = _RESTARTED if restarts else ""
    for method in METHODS.values():
        if given == _given({**defaults, **method.settings}, defaults):
            return f"{method.label}{suffix}"
    name = given.pop("optimizer")
    words = given.pop("set", ())
    real_words = [f"real_{word}" for word in given.pop("real_set", ())]
    options = (f"{key}={value}" for key, value in given.items())
    parts = (name, *options, *words, *real_words)
    return f"{' '.join(parts)}{suffix}"


def _given(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the optimizer, and what else of a method is not at its default."""
    return {
        name: settings[name]
        for name in FIELDS
        if name == "optimizer" or settings[name] != defaults[name]
    }
