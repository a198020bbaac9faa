"""How a network is trained, whatever network, optimizer and images these are."""

import dataclasses

from sgdat_jax import checks
from sgdat_jax.options import HOUSEKEEPING, PLACEMENT, Options, option

MOST_STEPS = 2**31  # of a run, which counts them in int32


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
            checks.at_least(name, getattr(self, name), 1)
        checks.at_least("crop_padding", self.crop_padding, 0)
        checks.within("label_smoothing", self.label_smoothing, "[0, 1)")
        checks.within("validation_share", self.validation_share, "[0, 1)")
        checks.within("stream_above", self.stream_above, "[0, inf)")


@dataclasses.dataclass(frozen=True)
class Upkeep(Options):
    """What a run records and saves, and on which devices it trains.

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
        checks.within("save_every_minutes", self.save_every_minutes, "(0, inf]")
        if self.save_every_steps is not None:
            checks.at_least("save_every_steps", self.save_every_steps, 1)
        checks.at_least("keep_states", self.keep_states, 2)
        if self.devices is not None:
            checks.at_least("devices", self.devices, 1)
        checks.at_least("max_skipped_steps", self.max_skipped_steps, 1)
        checks.at_most("max_skipped_steps", self.max_skipped_steps, MOST_STEPS - 1)


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


def check_seeds(first: int, count: int = 1) -> None:
    """Raises ValueError if seeds that follow each other do not fit into 32 bits."""
    checks.at_least("seeds", count, 1)
    for seed in (first, first + count - 1):
        checks.within("seed", seed, "[0, 2**32)")
