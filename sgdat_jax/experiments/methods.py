"""The methods that a comparison has: who trains the binary weights and who the rest."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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

METHODS = PAPER | {
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
}

# What makes a method; a method may set the learning rate of the rest as well.
FIELDS = (
    "optimizer",
    "learning_rate",
    "threshold",
    "momentum",
    "gamma",
    "sigma",
    "eta",
    "reset_flips_every_epoch",
    "restart_binary_every_epoch",
    "real_optimizer",
    "real_momentum",
)


def label_of(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Returns what to call the method of a run.

    Args:
      settings: fields of its `TrainConfig`.
      defaults: those of ``TrainConfig()``.

    Returns:
      The label of `METHODS`, or else the optimizer with all settings of the method that
      are not at their default.
    """
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
    parts = (name, *(f"{key}={value}" for key, value in given.items()))
    return f"{' '.join(parts)}{suffix}"


def _given(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the optimizer, and what else of a method is not at its default."""
    return {
        name: settings[name]
        for name in FIELDS
        if name == "optimizer" or settings[name] != defaults[name]
    }
