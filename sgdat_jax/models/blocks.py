"""What the networks share: their choices, and the layers that follow from them."""

import dataclasses
import fnmatch
import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any, Required, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from sgdat_jax import checks, dtypes, layers, signs


@dataclasses.dataclass(frozen=True)
class Choices:
    """How a network was built, fit for JSON by `dataclasses.asdict`.

    Example:
      >>> import dataclasses, json
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> def build():
      ...     rngs = nnx.Rngs(0)
      ...     return sj.models.DigitsNet(full_precision="conv2", width=0.5, rngs=rngs)
      >>> choices = nnx.eval_shape(build).choices
      >>> print(json.dumps(dataclasses.asdict(choices), indent=1))
      {
       "width": 0.5,
       "binary_layers": [
        "conv3",
        "dense4"
       ],
       "full_precision": [
        "conv2"
       ],
       "pad_value": 0.0,
       "input_quantizer": "ste_sign",
       "kernel_quantizer": "kernel_sign",
       "dtype": null,
       "unbiased_variance": false
      }
    """

    width: float  # factor of the channels
    binary_layers: tuple[str, ...]  # names as `sgdat_jax.summarize` has them
    full_precision: tuple[str, ...]  # layers that would be binary by default
    pad_value: float
    input_quantizer: str | None
    kernel_quantizer: str | None
    dtype: str | None
    unbiased_variance: bool


class BatchNorm(nnx.BatchNorm):
    """`flax.nnx.BatchNorm` whose running variance is PyTorch's.

    It averages variances with divisor n - 1 of the n numbers that a channel has in a
    batch; Flax's have divisor n. A batch is still normalized by its own variance with
    divisor n.

    Raises:
      ValueError: in training, if a channel has one number alone, as in PyTorch.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.models import blocks
      >>> norm = blocks.BatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> _ = norm(jnp.array([[1.0], [3.0]]))
      >>> norm.var[...]  # 0.5 * 1 + 0.5 * 2
      Array([1.5], dtype=float32)
    """

    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes `x`, whose channels come last."""
        if mask is not None:
            raise ValueError("`mask` must be None: Flax's BatchNorm takes masks.")
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average:
            return super().__call__(x, True)
        count = x.size // x.shape[-1]
        if self.axis_name is not None:
            count = jax.lax.psum(
                count, self.axis_name, axis_index_groups=self.axis_index_groups
            )
        if count < 2:
            raise ValueError(f"`x` must have 2 numbers per channel, got {x.shape=}.")
        kept = self.momentum * self.var[...]
        normalized = super().__call__(x, False)
        self.var[...] = kept + count / (count - 1) * (self.var[...] - kept)
        return normalized


class Options(TypedDict, total=False):
    """The keyword arguments that all networks take; see `BinaryNet`."""

    width: float
    full_precision: str | Sequence[str]
    pad_value: float
    input_quantizer: layers.Quantizer | None
    kernel_quantizer: layers.Quantizer | None
    dtype: Dtype | None
    unbiased_variance: bool
    rngs: Required[nnx.Rngs]


class Builder:
    """Makes the layers of one network by its choices, and keeps record of them.

    Args:
      width, full_precision, pad_value, input_quantizer, kernel_quantizer, dtype,
        unbiased_variance: see `BinaryNet`.
      rngs: source of the initial weights, the stream ``params``.

    Raises:
      TypeError: if `full_precision` holds anything but strings or `width` is no number.
      ValueError: if `width` is not a finite number above 0.

    Example:
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> from sgdat_jax.models import blocks
      >>> builder = blocks.Builder(width=0.3, rngs=nnx.Rngs(0))
      >>> builder.channels(128)
      40
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        full_precision: str | Sequence[str] = (),
        pad_value: float = 0.0,
        input_quantizer: layers.Quantizer | None = signs.ste_sign,
        kernel_quantizer: layers.Quantizer | None = layers.kernel_sign,
        dtype: Dtype | None = None,
        unbiased_variance: bool = False,
        rngs: nnx.Rngs,
    ):
        checks.number("`width`", width, "(0, inf)")
        self.width = width
        self.patterns = _patterns(full_precision)
        self.names: dict[str, bool] = {}  # of the layers made, with whether binary
        self.pad_value = pad_value
        self.input_quantizer = input_quantizer
        self.kernel_quantizer = kernel_quantizer
        self.dtype = dtype
        # Sums and statistics: bfloat16 has no integers between 256 and 258.
        self.wide = None if dtype is None else dtypes.wide(dtype)
        self.unbiased_variance = unbiased_variance
        self.rngs = rngs

    def channels(self, features: int) -> int:
        """Returns a number of channels times the width, rounded to a multiple of 8."""
        return max(8, 8 * math.floor(features * self.width / 8 + 0.5))

    def conv(
        self,
        name: str,
        in_features: int,
        out_features: int,
        kernel_size: int = 3,
        strides: int = 1,
    ) -> nnx.Module:
        """Returns a square convolution of a name, binary unless chosen otherwise."""
        if not self._decide(name):
            return self.real_conv(in_features, out_features, kernel_size, strides)
        return layers.BinaryConv(
            in_features,
            out_features,
            (kernel_size, kernel_size),
            strides=strides,
            padding=kernel_size // 2,
            pad_value=self.pad_value,
            **self._binary_options(),
        )

    def dense(self, name: str, in_features: int, out_features: int) -> nnx.Module:
        """Returns a dense layer of a name, binary unless chosen otherwise."""
        if not self._decide(name):
            return nnx.Linear(
                in_features,
                out_features,
                use_bias=False,
                dtype=self.dtype,
                rngs=self.rngs,
            )
        return layers.BinaryLinear(in_features, out_features, **self._binary_options())

    def real_conv(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int = 3,
        strides: int = 1,
        *,
        use_bias: bool = False,
    ) -> nnx.Conv:
        """Returns a convolution that is never binary."""
        return nnx.Conv(
            in_features,
            out_features,
            (kernel_size, kernel_size),
            strides=strides,
            padding=kernel_size // 2,
            use_bias=use_bias,
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def head(self, in_features: int, num_classes: int) -> nnx.Linear:
        """Returns the last layer, in float32 at least: it costs next to nothing."""
        return nnx.Linear(in_features, num_classes, dtype=self.wide, rngs=self.rngs)

    def batch_norm(self, features: int, *, affine: bool = True) -> nnx.BatchNorm:
        """Returns a batch normalization whose running averages keep 0.9 a step.

        It computes in float32 at least.
        """
        kind = BatchNorm if self.unbiased_variance else nnx.BatchNorm
        return kind(
            features,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.wide,
            use_scale=affine,
            use_bias=affine,
            rngs=self.rngs,
        )

    def choices(self) -> Choices:
        """Returns the record of what was built.

        Raises:
          ValueError: if an entry of `full_precision` fits no layer.
        """
        for pattern in self.patterns:
            if not fnmatch.filter(self.names, pattern):
                raise ValueError(
                    f"`full_precision` has {pattern!r}, which fits none of the layers "
                    f"{', '.join(self.names)}."
                )
        return Choices(
            width=self.width,
            binary_layers=tuple(n for n, binary in self.names.items() if binary),
            full_precision=tuple(n for n, binary in self.names.items() if not binary),
            pad_value=self.pad_value,
            input_quantizer=_quantizer_name(self.input_quantizer),
            kernel_quantizer=_quantizer_name(self.kernel_quantizer),
            dtype=None if self.dtype is None else jnp.dtype(self.dtype).name,
            unbiased_variance=self.unbiased_variance,
        )

    def _decide(self, name: str) -> bool:
        """Returns whether the layer of a name is binary, and puts it on record."""
        chosen = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)
        self.names[name] = not chosen
        return not chosen

    def _binary_options(self) -> dict[str, Any]:
        return {
            "input_quantizer": self.input_quantizer,
            "kernel_quantizer": self.kernel_quantizer,
            "dtype": self.dtype,
            "preferred_element_type": self.wide,
            "rngs": self.rngs,
        }


def activate(layer: Any, x: jax.Array) -> jax.Array:
    """Applies a layer to the Hardtanh of its input, or to the quantized input alone.

    The sign of a Hardtanh is the sign, and whether the gradient passes is for the
    quantizer to say: `ste_sign` has the window of the Hardtanh.
    """
    is_quantized = getattr(layer, "input_quantizer", None) is not None
    return layer(x if is_quantized else nnx.hard_tanh(x))


def check_sizes(num_classes: int, input_shape: Sequence[int], least: int) -> None:
    """Checks the sizes that a network is built for.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of an image.
      least: height and width of the smallest images.

    Raises:
      TypeError: if a size is not an integer.
      ValueError: if a size is below 1, a height or width below the least, or the shape
        of an image is not of three sizes.
    """
    try:
        height, width, channels = input_shape
    except (TypeError, ValueError):
        raise ValueError(
            f"`input_shape` must be height, width and channels, got {input_shape!r}."
        ) from None
    sizes = num_classes, height, width, channels
    given = f"got {num_classes=} and {input_shape=}."
    if not all(isinstance(size, numbers.Integral) for size in sizes):
        raise TypeError(f"Sizes must be integers, {given}")
    if min(sizes) < 1:
        raise ValueError(f"Sizes must be at least 1, {given}")
    if min(height, width) < least:
        raise ValueError(
            f"`input_shape` must have a height and width of at least {least}, got "
            f"{input_shape=}."
        )


def flatten(x: jax.Array) -> jax.Array:
    """Returns examples ``(batch, ...)`` as vectors ``(batch, features)``."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _patterns(full_precision: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(full_precision, str):
        return (full_precision,)
    is_sequence = isinstance(full_precision, Sequence)
    if not is_sequence or not all(isinstance(name, str) for name in full_precision):
        raise TypeError(
            "`full_precision` must be names of layers or patterns such as '*', got "
            f"{full_precision!r}."
        )
    return tuple(full_precision)


def _quantizer_name(quantizer: layers.Quantizer | None) -> str | None:
    if quantizer is None:
        return None
    if isinstance(quantizer, functools.partial):
        options = [repr(value) for value in quantizer.args]
        options += [f"{name}={value!r}" for name, value in quantizer.keywords.items()]
        return f"{_quantizer_name(quantizer.func)}({', '.join(options)})"
    return getattr(quantizer, "__name__", type(quantizer).__name__)
