"""The options that every config has: data, network and optimizers."""

import dataclasses
import pathlib
import re
from typing import Any

from sgdat_jax import checks, names
from sgdat_jax.data import pictures, sources
from sgdat_jax.experiments import hyperparameters, plugins, registry
from sgdat_jax.options import HOUSEKEEPING, Options, option

# Those with an option of their own.
HYPERPARAMETERS = ("learning_rate", "threshold", "momentum", "gamma", "sigma", "eta")


@dataclasses.dataclass(frozen=True)
class Plugged(Options):
    """Plug-ins, which add names.

    Raises:
      ValueError: if a module has not been imported by `plugins.load`.
    """

    plugin: tuple[str, ...] = option((), HOUSEKEEPING)
    """Modules, or files ending in .py, that add names. They add optimizers, networks,
    signs, data sets, schedules or methods to the tables of sgdat_jax.experiments."""

    def __post_init__(self) -> None:
        """Checks that all names can be known."""
        super().__post_init__()
        missing = plugins.missing(self.plugin)
        if missing:
            raise ValueError(f"it needs --plugin {' '.join(missing)}.")


@dataclasses.dataclass(frozen=True)
class Task(Plugged):
    """Data set, network and optimizer of the real-valued parameters.

    Raises:
      TypeError: if a value is of another type than its field.
      ValueError: if a name is unknown or a number out of its range.
    """

    dataset: str = "digits"
    """Images to learn, or a folder/ of photos. A name; tfds:NAME[:CONFIG], once
    `sgdat-jax data prepare` has prepared it; a folder with a slash in its path, of
    photos (CLASS/*.jpg, or train/CLASS/*.jpg with test/CLASS/*.jpg) or of arrays; or
    hf:PATH, saved by Hugging Face's datasets."""

    data_dir: str | None = option(None, HOUSEKEEPING)
    """Folder of prepared data sets. None: that of tensorflow-datasets. For
    tiny_imagenet also its published zip or folder; for photos the folder of what is
    decoded of them, None: the user's cache."""

    test_share: float | None = None
    """Share of each class of photos to test with. Where the folder has none to test
    with; None: 0.2."""

    image_size: int | None = None
    """Height and width that photos are brought to. None: the median of their shorter
    sides, at most 64."""

    resize: str | None = None
    """How photos are brought to one size. crop (None), so that the shorter side fits
    and the centre is kept, or squash, which stretches them."""

    skip_broken: bool = False
    """Leave out broken photos instead of refusing them. Those that are animated or of
    other formats too; all are named."""

    model: str | None = None
    """Network, else one that fits the images. None: DigitsNet for images up to 16x16,
    BinaryNet up to 64x64, BiRealResNet18 for larger ones. SgdatResNet18 is the
    paper's ResNet-18, of three stages."""

    width: float = 1.0
    """Factor of channels and hidden features."""

    full_precision: tuple[str, ...] = ()
    """Layers that are real-valued instead of binary. By name or pattern, such as
    conv2 or 'dense*'; '*' is the same network without binary layers, which the
    optimizer of the real-valued parameters trains alone."""

    pad_value: float = 0.0
    """Padding of binary convolutions: 0, 1 or -1. 0 as published."""

    input_sign: str = "ste_sign"
    """How activations are quantized. By their sign, with the gradient of ste_sign as
    published, approx_sign, swish_sign, ede_sign or reste_sign (these two annealed
    during training) or magnitude_aware_sign; or by ste_heaviside, ste_ternary or
    dorefa."""

    compute_dtype: str = "float32"
    """Type of the network's products. Parameters, sums and batch normalization are
    float32 always."""

    unbiased_variance: bool = False
    """Running variances with divisor n - 1. As in PyTorch, instead of n."""

    normalization: str = "dataset"
    """Mean and deviation that images are normalized by. Those of the data set's
    training images, or published constants."""

    real_optimizer: str = "adam"
    """Optimizer of all other parameters. Those are real-valued."""

    real_set: tuple[str, ...] = ()
    """Hyperparameters of that optimizer. Such as weight_decay=1e-4 of adamw; numbers,
    true, false, none or text."""

    real_learning_rate: float = 1e-3
    """Its learning rate."""

    real_momentum: float | None = None
    """Its momentum if it has any, as sgd, in [0, 1). None: no momentum."""

    real_schedule: str = "cosine"
    """Schedule of its rate. cosine: down to 0 at the end."""

    real_warmup_epochs: int = 0
    """Epochs in which it first rises from 0."""

    restart_real_every_epoch: bool = False
    """Restart its moments at every epoch. As in the published training script: the
    moments of Adam, or the momentum of sgd; the schedule goes on."""

    reset_flips_every_epoch: bool = False
    """Restart flip counts and momentum of sgdat. At every epoch, as in the published
    training script; other binary optimizers go on."""

    restart_binary_every_epoch: bool = False
    """Restart moments of sgd, sgdt, adam and lion. At every epoch, as in the
    published training script. Latent weights, the averages of bop and the schedule go
    on."""

    binary_schedule: str = "constant"
    """Schedule of its learning rate, or gamma. cosine: down to 0 at the end."""

    clip_norm: float | None = None
    """Greatest norm of all gradients together. Larger ones are scaled down to it;
    None: any."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        sources.check_name(self.dataset)
        self.pictures()
        if self.model is not None:
            names.check("model", names.NETWORKS, self.model)
        for kind, table, name in (
            ("sign", names.SIGNS, self.input_sign),
            ("compute dtype", names.COMPUTE_DTYPES, self.compute_dtype),
            ("normalization", registry.NORMALIZATIONS, self.normalization),
            ("schedule", registry.SCHEDULES, self.real_schedule),
            ("schedule", registry.SCHEDULES, self.binary_schedule),
        ):
            names.check(kind, table, name)
        checks.within("real_learning_rate", self.real_learning_rate, "[0, inf)")
        for name in ("real_learning_rate", "clip_norm"):
            hyperparameters.check_float32(name, getattr(self, name))
        if self.clip_norm is not None:
            checks.within("clip_norm", self.clip_norm, "(0, inf)")
        registry.check_real_optimizer(
            self.real_optimizer,
            self.real_hyperparameters(),
            restart=self.restart_real_every_epoch,
        )

    def real_hyperparameters(self) -> dict[str, Any]:
        """Returns what the real-valued parameters' optimizer is given."""
        taken = ("learning_rate", "momentum")
        given = hyperparameters.parse(self.real_set, taken, "real_set")
        if self.real_momentum is not None:
            given["momentum"] = self.real_momentum
        return given

    def pictures(self) -> pictures.Options:
        """Returns how photos become images."""
        return pictures.Options(
            self.test_share, self.image_size, self.resize, self.skip_broken
        )

    @property
    def task_name(self) -> str:
        """Data set and model, which name the folders of results."""
        dataset = re.sub(r"[^\w.]+", "-", pathlib.PurePath(self.dataset).name)
        return f"{dataset}-{self.model}" if self.model else dataset


@dataclasses.dataclass(frozen=True)
class Method(Plugged):
    """Who learns the binary weights."""

    optimizer: str = "sgdat"
    """Optimizer of the binary weights. sgd, adam and lion train latent weights;
    adam_adaptive and lion_adaptive have the thresholds of sgdat besides."""

    learning_rate: float | None = None
    """Step size; of sgdat 1e-4 unless given. Of sgdat, sgdt, diode and the optimizers
    on latent weights; None: the optimizer's own default."""

    threshold: float | None = None
    """Flip threshold; of sgdat 1e-7 per flip. Its growth with each flip for sgdat,
    adam_adaptive and lion_adaptive, the threshold itself for sgdt, bop, bop2nd_order
    and prob_bop; None: the optimizer's own default."""

    momentum: float | None = None
    """Momentum of sgdat, sgdt and sgd, in [0, 1). None: no momentum."""

    gamma: float | None = None
    """Rate of the average gradient of bop and its kin. Those are bop2nd_order and
    prob_bop; None: the optimizer's own default."""

    sigma: float | None = None
    """Rate of the average square of bop2nd_order. None: 1e-3."""

    eta: float | None = None
    """Growth of the squared threshold of boat. None: 0.1."""

    set: tuple[str, ...] = ()
    """Other hyperparameters of the optimizer. Any keyword argument of its function in
    Python, such as nesterov=true or weight_decay=1e-4."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        names.check("optimizer", registry.OPTIMIZERS, self.optimizer)

    def hyperparameters(self) -> dict[str, Any]:
        """Returns the binary optimizer's hyperparameters; None: its own default."""
        given = {name: getattr(self, name) for name in HYPERPARAMETERS}
        return given | hyperparameters.parse(self.set, taken=HYPERPARAMETERS)
