"""What the files of a run folder hold, as types that are checked when they are read.

More keys than these may be there: files of other versions have some.
"""

import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Ordinal = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Amount = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Unset = msgspec.UnsetType
_PerLayer = dict[str, float] | _Unset
_Bins = list[_Amount] | _Unset
_BinsPerLayer = dict[str, list[_Amount]] | _Unset


class Times(msgspec.Struct):
    """A line of ``times.jsonl``."""

    epoch: _Ordinal
    seconds: _Amount  # of training, evaluation aside
    images_per_second: _Amount


class EpochLine(msgspec.Struct):
    """A line of ``metrics.jsonl``; without binary weights there is nothing of flips."""

    epoch: _Ordinal  # from 1
    train_loss: float  # mean cross-entropy, in nats
    train_accuracy: _Share
    test_loss: float
    test_accuracy: _Share
    train_top5_accuracy: _Share | _Unset = msgspec.UNSET
    test_top5_accuracy: _Share | _Unset = msgspec.UNSET
    skipped_steps: _Count | _Unset = msgspec.UNSET
    flip_ratio: _Amount | _Unset = msgspec.UNSET  # mean over the steps of the epoch
    flip_ratio_per_layer: _PerLayer = msgspec.UNSET
    gradient_per_layer: _PerLayer = msgspec.UNSET  # mean magnitude
    flip_histogram: _Bins = msgspec.UNSET
    flip_histogram_per_layer: _BinsPerLayer = msgspec.UNSET
    epoch_flip_histogram: _Bins = msgspec.UNSET
    epoch_flip_histogram_per_layer: _BinsPerLayer = msgspec.UNSET
    threshold_histogram: _Bins = msgspec.UNSET
    margin_histogram: _Bins = msgspec.UNSET


class Result(msgspec.Struct):
    """``result.json``."""

    test_accuracy: _Share  # of the last epoch
    best_test_accuracy: _Share
    best_epoch: _Ordinal
    epochs: _Ordinal
    seconds: _Amount
    seed: _Count
    device: str
    skipped_steps: _Count | _Unset = msgspec.UNSET
    model: dict[str, Any] | _Unset = msgspec.UNSET
    flips_per_weight: _Amount | _Unset = msgspec.UNSET
    flip_histogram: _Bins = msgspec.UNSET
    flip_histogram_per_layer: _BinsPerLayer = msgspec.UNSET


class Diverged(msgspec.Struct):
    """``diverged.json``."""

    epoch: _Ordinal
    step: _Count


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """``progress.json`` of a saved state."""

    lines: list[EpochLine]
    times: list[Times]
    seconds: _Amount
    steps: _Count  # of the epoch under way
    epoch_seconds: _Amount
    record: dict[str, float | dict[str, float]] | None


class Trial(msgspec.Struct):
    """A line of ``trials.jsonl`` of a sweep."""

    hyperparameters: dict[str, float]
    seed: _Count
    test_accuracy: _Share
    best_test_accuracy: _Share
    test_accuracies: list[_Share]
    flips_per_weight: _Amount
    seconds: _Amount
    diverged: bool | _Unset = msgspec.UNSET


def check(file: pathlib.Path, values: Any, kind: type[msgspec.Struct]) -> Any:
    """Returns what a file holds, if it is of a kind.

    Raises:
      ValueError: with the file, the key and what is there.

    Example:
      >>> import pathlib
      >>> from sgdat_jax.training import formats
      >>> found = {"epoch": "3", "step": 12}
      >>> formats.check(pathlib.Path("diverged.json"), found, formats.Diverged)
      Traceback (most recent call last):
      ...
      ValueError: diverged.json is damaged: Expected `int`, got `str` - at `$.epoch`.
    """
    try:
        msgspec.convert(values, kind)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from None
    return values


def check_all(
    file: pathlib.Path, lines: Sequence[Any], kind: type[msgspec.Struct]
) -> list[Any]:
    """Returns the lines of a file, if each is of a kind.

    Raises:
      ValueError: as in `check`.
    """
    return [check(file, line, kind) for line in lines]
