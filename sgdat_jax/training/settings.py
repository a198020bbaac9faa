"""How a network is trained, whatever network, optimizer and images these are."""

import dataclasses
import math
import types
import typing
from typing import Any

MOST_STEPS = 2**31  # of a run, which counts them in int32
# Kinds of options that leave the result of a run as it is.
HOUSEKEEPING = "housekeeping"  # where files are, and when states are saved
PLACEMENT = "placement"  # where arrays lie: this changes the order of sums alone


def option(default: Any, kind: str) -> Any:
    """Returns the field of an option of a kind."""
    return dataclasses.field(default=default, metadata={"kind": kind})


def options_of(settings: type, *kinds: str) -> set[str]:
    """Returns the options of a class of settings that are of some kinds.

    Example:
      >>> from sgdat_jax.training import settings
      >>> sorted(settings.options_of(settings.Passes, settings.PLACEMENT))
      ['stream_above']
    """
    fields = dataclasses.fields(settings)
    return {field.name for field in fields if field.metadata.get("kind") in kinds}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options whose values have the types of their fields.

    Raises:
      TypeError: if a value is of another type than its field.
    """

    def __post_init__(self) -> None:
        """Checks the type of each value; subclasses check more."""
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            _check_type(field.name, kinds[field.name], getattr(self, field.name))


@dataclasses.dataclass(frozen=True)
class Passes(Options):
    """How training images are passed over.

    Raises:
      ValueError: if a number is out of its range.
    """

    label_smoothing: float = 0.0
    """Share of a label spread over all classes, in [0, 1)."""

    epochs: int = 20
    """Passes over the training images."""

    batch_size: int = 64
    """Images per training step."""

    validation_share: float = 0.0
    """Share of images to pick the best epoch by. Of the training images of each
    class, in [0, 1), and not trained with; 0: the test set picks it, as in the
    paper."""

    crop_padding: int = 1
    """Pixels that images are shifted by at most. Each time by chance; 0: not at all."""

    flip: bool = False
    """Mirror half of the images left to right. Each time others."""

    resized_crop: bool = False
    """Random resized crops. Each time by chance, 8 to 100 percent of an image's area
    in the size of the whole."""

    stream_above: float = option(4.0, PLACEMENT)
    """Gigabytes of images above which they are streamed. Smaller sets are copied to
    the device as a whole; the result is the same."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        for name in ("epochs", "batch_size"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("crop_padding", self.crop_padding, 0)
        check_in("label_smoothing", self.label_smoothing, 1)
        check_in("validation_share", self.validation_share, 1)
        check_in("stream_above", self.stream_above, math.inf)


@dataclasses.dataclass(frozen=True)
class Upkeep(Options):
    """What is recorded and saved of a run, and on which devices it is.

    Raises:
      ValueError: if a number is out of its range.
    """

    diagnostics: bool = False
    """Record gradients, flips, thresholds and margins. Of every layer, in each
    epoch."""

    save_every_minutes: float = option(10.0, HOUSEKEEPING)
    """Minutes between two saved states. A run goes on from a saved state to the bit.
    States are saved at the end and at an interrupt in any case."""

    save_every_steps: int | None = option(None, HOUSEKEEPING)
    """Steps between two saved states. None: by time alone. Where several steps are
    taken in one program, the state is saved after the last of them."""

    keep_states: int = option(2, HOUSEKEEPING)
    """How many saved states to keep, at least two. The weights of the best epoch are
    kept besides."""

    devices: int | None = option(None, PLACEMENT)
    """Devices of each host; all, but one CPU. Every batch is split among them; None:
    all GPUs or TPU cores, or one CPU."""

    sharded: bool = option(False, PLACEMENT)
    """Split weights and optimizer states among devices. Instead of a copy on each:
    less memory, more traffic."""

    max_skipped_steps: int = 10
    """Steps in a row, not finite, that end a run. Steps whose loss or gradients are
    not finite change nothing; after so many the run ends as diverged."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        if not self.save_every_minutes > 0:
            raise ValueError(
                f"save_every_minutes must be above 0, got {self.save_every_minutes}."
            )
        if self.save_every_steps is not None:
            check_at_least("save_every_steps", self.save_every_steps, 1)
        check_at_least("keep_states", self.keep_states, 2)
        if self.devices is not None:
            check_at_least("devices", self.devices, 1)
        check_at_least("max_skipped_steps", self.max_skipped_steps, 1)
        if self.max_skipped_steps >= MOST_STEPS:
            raise ValueError(
                f"max_skipped_steps must be less than {MOST_STEPS:,}, got "
                f"{self.max_skipped_steps}."
            )


@dataclasses.dataclass(frozen=True)
class Settings(Upkeep, Passes):
    """All that one training run needs to know besides its objects.

    Raises:
      ValueError: if a number is out of its range.
    """

    seed: int = 0
    """Seed of initial weights and order of images. The same seed gives the same
    result on the same machine."""

    run_dir: str | None = option(None, HOUSEKEEPING)
    """New folder of the results; else under runs/. New or empty; None: a new one
    under runs/, named after data set, model, optimizer, seed and time."""

    allow_changed_data: bool = option(False, HOUSEKEEPING)
    """Go on although images or labels have changed. What changed is recorded."""

    label: str = option("", HOUSEKEEPING)
    """What tables call the run's method. Empty: its optimizer and hyperparameters."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        check_seeds(self.seed)

    @property
    def restarts_flips(self) -> bool:
        """Whether flip counts start again at every epoch."""
        return False


def check_at_least(name: str, value: int, bound: int) -> None:
    """Raises ValueError if a number is below its bound."""
    if value < bound:
        raise ValueError(f"{name} must be at least {bound}, got {value}.")


def check_in(name: str, value: float, bound: float) -> None:
    """Raises ValueError if a number is not from 0 up to but not including a bound."""
    if not 0 <= value < bound:
        raise ValueError(f"{name} must be in [0, {bound}), got {value}.")


def check_seeds(first: int, count: int = 1) -> None:
    """Raises ValueError if seeds that follow each other do not fit into 32 bits."""
    check_at_least("seeds", count, 1)
    for seed in (first, first + count - 1):
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {seed}.")


def _check_type(name: str, kind: Any, value: object) -> None:
    """Raises TypeError if a value is not of its field's type; an int is a float too.

    ValueError is for an integer that no array of integers holds.
    """
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{name} must be less than 2**63 in magnitude, got {value}.")
    if not _fits(kind, value):
        kind_name = kind.__name__ if isinstance(kind, type) else str(kind)
        raise TypeError(f"{name} must be of type {kind_name}, got {value!r}.")


def _fits(kind: Any, value: object) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(argument, value) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(
            _fits(arguments[0], item) for item in value
        )
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
