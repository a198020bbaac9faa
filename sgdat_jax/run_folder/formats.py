"""What the files of a run folder hold, as types that are checked when they are read.

More keys than these may be there: files of other versions have some.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Ordinal = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Amount = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Unset = msgspec.UnsetType
_Bins = list[_Amount]
_BinsPerLayer = dict[str, list[_Amount]]


class Times(TypedDict):
    """A line of ``times.jsonl``."""

    epoch: _Ordinal
    seconds: _Amount  # of training, evaluation aside
    images_per_second: _Amount


class EpochLine(TypedDict):
    """A line of ``metrics.jsonl``, and all that is shown or drawn of an epoch.

    Without binary weights there is nothing of flips, without a validation part nothing
    of it. What is read of a run folder has its `Times`, too.
    """

    epoch: _Ordinal  # from 1
    train_loss: float  # mean cross-entropy, in nats
    train_accuracy: _Share
    test_loss: float
    test_accuracy: _Share
    train_top5_accuracy: NotRequired[_Share]
    test_top5_accuracy: NotRequired[_Share]
    valid_loss: NotRequired[float]
    valid_accuracy: NotRequired[_Share]
    valid_top5_accuracy: NotRequired[_Share]
    skipped_steps: NotRequired[_Count]
    flip_ratio: NotRequired[_Amount]  # mean over the steps of the epoch
    flip_ratio_per_layer: NotRequired[dict[str, float]]
    gradient_per_layer: NotRequired[dict[str, float]]  # mean magnitude
    flip_histogram: NotRequired[_Bins]  # shares of weights, by `optimizers.FLIP_BINS`
    flip_histogram_per_layer: NotRequired[_BinsPerLayer]
    epoch_flip_histogram: NotRequired[_Bins]  # of flips within the epoch
    epoch_flip_histogram_per_layer: NotRequired[_BinsPerLayer]
    threshold_histogram: NotRequired[_Bins]  # by powers of two
    margin_histogram: NotRequired[_Bins]
    seconds: NotRequired[_Amount]  # as in `Times`
    images_per_second: NotRequired[_Amount]


def selecting(line: Mapping[str, Any]) -> str:
    """Returns which entry of lines picks the best epoch.

    Example:
      >>> from sgdat_jax.run_folder import formats
      >>> formats.selecting({"test_accuracy": 0.5, "valid_accuracy": 0.25})
      'valid_accuracy'
    """
    return "valid_accuracy" if "valid_accuracy" in line else "test_accuracy"


class Result(msgspec.Struct):
    """``result.json``."""

    test_accuracy: _Share  # of the last epoch
    best_test_accuracy: _Share  # of the best epoch
    best_epoch: _Ordinal
    epochs: _Ordinal
    seconds: _Amount
    seed: _Count
    device: str
    selected_by: Literal["test", "validation"] | _Unset = msgspec.UNSET  # best epoch
    best_valid_accuracy: _Share | _Unset = msgspec.UNSET
    skipped_steps: _Count | _Unset = msgspec.UNSET
    model: dict[str, Any] | _Unset = msgspec.UNSET
    flips_per_weight: _Amount | _Unset = msgspec.UNSET
    flip_histogram: _Bins | _Unset = msgspec.UNSET
    flip_histogram_per_layer: _BinsPerLayer | _Unset = msgspec.UNSET


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
    valid_accuracy: _Share | _Unset = msgspec.UNSET  # of the last epoch
    valid_accuracies: list[_Share] | _Unset = msgspec.UNSET


def check(file: pathlib.Path, values: Any, kind: type[Any]) -> Any:
    """Returns what a file holds, if it is of a kind.

    Raises:
      ValueError: with the file, the key and what is there.

    Example:
      >>> import pathlib
      >>> from sgdat_jax.run_folder import formats
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


def check_all(file: pathlib.Path, lines: Sequence[Any], kind: type[Any]) -> list[Any]:
    """Returns the lines of a file, if each is of a kind.

    Raises:
      ValueError: as in `check`.
    """
    return [check(file, line, kind) for line in lines]
