"""The typed description of a run."""

import dataclasses
import math
from typing import Any

from sgdat_jax.data import sources
from sgdat_jax.training import registry


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Trains a binary network and leaves a folder with its results.

    Binary weights are trained by the binary optimizer, all others by Adam. Without any
    option a small network learns scikit-learn's handwritten digits.
    """

    dataset: str = "digits"
    """Images to learn: digits (scikit-learn's, 8x8); cifar10, cifar100, mnist,
    tiny_imagenet or tfds:NAME[:CONFIG], once `sgdat-jax data prepare` has prepared
    them; or a folder of arrays, with a slash in its path."""

    data_dir: str | None = None
    """Folder of prepared data sets; None: that of tensorflow-datasets. For
    tiny_imagenet also its published zip or folder."""

    model: str = "DigitsNet"
    """Network: DigitsNet (for 8x8 images)."""

    optimizer: str = "sgdat"
    """Optimizer of the binary weights: sgdat, sgdt, sgd and adam (both on latent
    weights), bop, bop2nd_order, boat, prob_bop or diode."""

    learning_rate: float | None = None
    """Step size of sgdat, sgdt, sgd, adam and diode; None: the optimizer's own default,
    for sgdat 1e-4."""

    threshold: float | None = None
    """For sgdat the growth of a weight's flip threshold with each flip, for sgdt, bop,
    bop2nd_order and prob_bop the threshold; None: the optimizer's own default, for
    sgdat 1e-7."""

    momentum: float | None = None
    """Momentum of sgdat, sgdt and sgd, from 0 up to but not including 1; None: no
    momentum."""

    gamma: float | None = None
    """Rate of the average gradient of bop, bop2nd_order and prob_bop; None: the
    optimizer's own default."""

    sigma: float | None = None
    """Rate of the average squared gradient of bop2nd_order; None: 1e-3."""

    eta: float | None = None
    """Growth of the squared threshold of boat; None: 0.1."""

    reset_flips_every_epoch: bool = False
    """Whether flip counts and momentum of sgdat start again at zero at every epoch, as
    in the published training script."""

    real_learning_rate: float = 1e-3
    """Learning rate of Adam, which trains the real-valued parameters."""

    real_schedule: str = "cosine"
    """How that learning rate goes on: constant, or cosine (down to 0 at the end)."""

    epochs: int = 20
    """Passes over the training images."""

    batch_size: int = 64
    """Images per training step."""

    crop_padding: int = 1
    """Pixels by which a training image is shifted at most, each time by chance; 0: not
    at all."""

    flip: bool = False
    """Whether half of the training images, each time others, are mirrored left to
    right."""

    resized_crop: bool = False
    """Whether of each training image, each time by chance, only a part of 8 to 100
    percent of its area is shown, in the size of the whole."""

    seed: int = 0
    """Seed of the initial weights and of the order of images; the same seed gives the
    same result on the same machine."""

    run_dir: str | None = None
    """Folder of the results, new or empty; None: a new one under runs/, named after
    data set, model, optimizer, seed and time."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        for field in dataclasses.fields(self):
            _check_type(field, getattr(self, field.name))
        sources.check_name(self.dataset)
        registry.look_up("model", registry.MODELS, self.model)
        registry.look_up("optimizer", registry.OPTIMIZERS, self.optimizer)
        registry.look_up("schedule", registry.SCHEDULES, self.real_schedule)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        if self.crop_padding < 0:
            raise ValueError(
                f"crop_padding must be at least 0, got {self.crop_padding}."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}.")
        if not 0 <= self.real_learning_rate < math.inf:
            raise ValueError(
                "real_learning_rate must be in [0, inf), got "
                f"{self.real_learning_rate}."
            )
        hyperparameters = self.hyperparameters()
        if self.reset_flips_every_epoch:
            hyperparameters["reset_flips_every"] = 1
        registry.binary_optimizer(self.optimizer, hyperparameters)

    def hyperparameters(self) -> dict[str, float | None]:
        """Returns the binary optimizer's hyperparameters that have an option here."""
        names = ("learning_rate", "threshold", "momentum", "gamma", "sigma", "eta")
        return {name: getattr(self, name) for name in names}


def _check_type(field: dataclasses.Field, value: object) -> None:
    """Raises TypeError if a value is not of its field's type; an int is a float too."""
    kind: Any = field.type
    is_float = isinstance(value, int) and isinstance(0.0, kind)
    if isinstance(value, bool) and kind is not bool:
        fits = False
    else:
        fits = is_float or isinstance(value, kind)
    if not fits:
        name = getattr(kind, "__name__", None) or str(kind)
        raise TypeError(f"{field.name} must be of type {name}, got {value!r}.")
