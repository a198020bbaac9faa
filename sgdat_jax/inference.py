"""Trained networks in use: from files of weights, or folded out of a model.

A network that only predicts needs neither real-valued kernels nor most of its batch
normalizations: products of signs have small integers as sums, so the sign of a
normalized sum is a comparison with one integer per channel. `fold` makes that form;
`load` does so with a file of weights. Decisions stay the same to the bit.

Nothing here learns, and nothing but the core's dependencies is needed.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from sgdat_jax import bits, cpu, layers, names, signs
from sgdat_jax.data import augment
from sgdat_jax.training import state as state_lib
from sgdat_jax.training import weights_file


def _sign_as(x: jax.Array, dtype: str) -> jax.Array:
    return jnp.where(x >= 0, 1, -1).astype(dtype)


@signs.gives_signs
def _float32_sign(x: jax.Array) -> jax.Array:
    return signs.sign(x).astype(jnp.float32)


# Made once: a partial equals none but itself, and neither would compiled programs.
_INPUT_QUANTIZERS: dict[str, layers.Quantizer] = {
    "float32": _float32_sign,
    "bfloat16": functools.partial(_sign_as, dtype="bfloat16"),
    "int8": functools.partial(_sign_as, dtype="int8"),
    "bits": _float32_sign,
}


class Threshold(nnx.Module):
    """Stands for a batch normalization of integers of which only the sign is used.

    Args:
      direction: shape (channels,), -1 where the normalization falls and +1 elsewhere.
      threshold: shape (channels,), integers: the least of the inputs times `direction`
        whose normalization is not negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import inference
      >>> falls_above_2 = inference.Threshold(jnp.array([-1.0]), jnp.array([-2.0]))
      >>> falls_above_2(jnp.array([[1.0], [2.0], [3.0]])).ravel()
      Array([ 1.,  0., -1.], dtype=float32)
    """

    def __init__(self, direction: jax.Array, threshold: jax.Array):
        self.direction = nnx.Variable(direction)
        self.threshold = nnx.Variable(threshold)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns numbers of the normalization's sign; `x` has the channels last."""
        axes = range(x.ndim - 1)
        direction = jnp.expand_dims(self.direction[...], axes)
        return direction * x - jnp.expand_dims(self.threshold[...], axes)


class Function:
    """A compiled function of inputs, which holds the variables of its network.

    It takes part in JAX's transformations and in `jax.export.export` as a function of
    `jax.jit` does. Called by itself it is compiled with options of its own, which JAX
    takes at the top level alone; within another program that program's hold.
    Nested lists become arrays.
    """

    def __init__(
        self,
        run: Callable[[list[jax.Array], jax.Array], jax.Array],
        leaves: list[jax.Array],
        options: Mapping[str, str],
        list_dtype: jax.typing.DTypeLike | None = None,
    ):
        leaves = jax.device_put(leaves)
        alone = jax.jit(run, compiler_options=dict(options))
        self._alone = functools.partial(alone, leaves)
        self._within = jax.jit(functools.partial(run, leaves))
        self._list_dtype = list_dtype

    def __call__(self, inputs: ArrayLike) -> jax.Array:
        """Computes the outputs; compiles for each new batch size."""
        if isinstance(inputs, jax.core.Tracer):
            return self._within(inputs)
        if not hasattr(inputs, "dtype"):
            inputs = _as_array(inputs, self._list_dtype)
        return self._alone(inputs)

    def trace(self, inputs: Any) -> jax.stages.Traced:
        """Traces for inputs, or for their shape, which may be symbolic."""
        return self._within.trace(inputs)

    def lower(self, inputs: Any) -> jax.stages.Lowered:
        """Lowers for inputs or for their shape."""
        return self._within.lower(inputs)

    def eval_shape(self, inputs: Any) -> Any:
        """Returns the shape and dtype of the outputs."""
        return self._within.eval_shape(inputs)


def _as_array(inputs: Any, dtype: jax.typing.DTypeLike | None) -> np.ndarray:
    try:
        return np.asarray(inputs, dtype)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"`inputs` must be an array or nested lists: {error}"
        ) from None


def load(file: str | pathlib.Path, dtype: str = "bits") -> Function:
    """Returns the trained network of a file of weights as a compiled function.

    The function maps uint8 images ``(batch, height, width, channels)``, which it
    normalizes as in training, to float32 logits ``(batch, classes)``. It compiles for
    each new batch size, and raises ValueError for images of another shape or dtype. It
    predicts what ``sgdat-jax evaluate`` counts; on CPUs, int8 leaves convolutions to
    another library, which may round the real-valued ones otherwise.

    Args:
      file: ``best.npz`` or ``last.npz`` of a run.
      dtype: of the binary products, see `fold`.

    Raises:
      ValueError: if the file is none of weights, damaged or of another model, or
        `dtype` is unknown.

    Example:
      >>> import numpy as np
      >>> from sgdat_jax import inference
      >>> def predict(file: str, images: np.ndarray) -> np.ndarray:
      ...     classify = inference.load(file)
      ...     return np.argmax(classify(images), -1)
    """
    path = pathlib.Path(file)
    about = weights_file.read_about(path)
    try:
        shapes = state_lib.model_shapes(about.config, about)
    except ValueError as error:
        raise ValueError(f"{path} is of no model that can be built: {error}") from None
    graph, *states = nnx.split(shapes, nnx.Param, ...)
    model = nnx.merge(graph, *weights_file.read(path, *states))

    def classify(model: Any, images: jax.Array) -> jax.Array:
        if images.dtype != jnp.uint8 or images.shape[1:] != about.input_shape:
            raise ValueError(
                "`images` must be uint8 of shape (batch, "
                f"{', '.join(map(str, about.input_shape))}), got {images.dtype} of "
                f"shape {images.shape}."
            )
        return model(augment.normalize(images, about.mean, about.std))

    return to_function(fold(model, dtype), classify, np.uint8)


def to_function(
    model: nnx.Module,
    apply: Callable[[Any, jax.Array], jax.Array] = lambda model, inputs: model(inputs),
    list_dtype: jax.typing.DTypeLike | None = None,
) -> Function:
    """Returns a network as a compiled function of its inputs alone.

    The network's variables stay on the device, and later changes of them go unnoticed.
    A call costs less than one of `flax.nnx.jit`, which takes the network apart each
    time.

    Args:
      model: any network; `fold` of a trained one.
      apply: what to do with the network and the inputs.
      list_dtype: what inputs become that are nested lists; None: NumPy's choice.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import inference
      >>> build = nnx.jit(sj.models.DigitsNet)
      >>> network = inference.to_function(inference.fold(build(rngs=nnx.Rngs(0))))
      >>> network(jnp.zeros((2, 8, 8, 1))).shape
      (2, 10)
    """
    graph, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)

    def run(leaves: list[jax.Array], inputs: jax.Array) -> jax.Array:
        return apply(nnx.merge(graph, jax.tree.unflatten(tree, leaves)), inputs)

    # With these, convolutions of int8 are slow on CPUs.
    has_int8 = any(leaf.dtype == jnp.int8 for leaf in leaves)
    options = {} if has_int8 else cpu.compiler_options()
    return Function(run, leaves, options, list_dtype)


def fold(model: nnx.Module, dtype: str = "bits") -> Any:
    """Returns a copy of a trained network for inference alone.

    Of each layer with binary inputs and a binary kernel, the kernel's signs are taken
    once and for all, and products are computed in `dtype`. Each normalization between
    two of them of which only the sign is used becomes a `Threshold`: in `BinaryNet` all
    but the first and the last two, in `DigitsNet` the second and third, in
    `SgdatResNet18` the first of each block, in `BiRealResNet18`, which adds up their
    values, none. All else stays as it is, with running averages: real-valued layers,
    and those with a bias, an `output_scale` or a quantizer that is no sign.

    Signs of sums are to the bit those of `model` compiled for the same device with the
    same options, as thresholds are found by normalizing every sum that can occur.

    Args:
      model: any network. It, or a module in it, says what can become thresholds by an
        attribute ``sign_chain``: names of binary layers and batch normalizations in
        turn, where the sums of each layer go, perhaps max-pooled, into the
        normalization after it, and that one's output into the next layer alone.
      dtype: of the binary products; all are exact. With ``"bits"`` a kernel takes a
        32nd of the memory; a CPU multiplies by counting them, other devices in
        bfloat16; convolutions in groups, or by a function of the user's own, are in
        float32. The others are ``"float32"``, ``"bfloat16"`` (summed in float32) and
        ``"int8"`` (summed in int32); on a CPU they take far longer.

    Raises:
      ValueError: if `dtype` is none of these, or a variable is not finite.

    Example:
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import inference
      >>> model = nnx.jit(sj.models.DigitsNet)(rngs=nnx.Rngs(0))
      >>> folded = inference.fold(model, "int8")
      >>> folded.conv2.kernel.dtype
      dtype('int8')
      >>> [type(norm).__name__ for norm in (folded.norm1, folded.norm2)]
      ['BatchNorm', 'Threshold']
    """
    quantizer = names.look_up("dtype", _INPUT_QUANTIZERS, dtype)
    _check_finite(model)
    model = nnx.clone(model)
    model.eval()
    modules = [module for _, module in nnx.iter_modules(model)]
    folded = {id(one) for one in modules if _fold_layer(one, quantizer, dtype)}
    for module in modules:
        chain = getattr(module, "sign_chain", ())
        for index in range(1, len(chain) - 1, 2):
            before, norm, after = (getattr(module, n) for n in chain[index - 1 :][:3])
            if {id(before), id(after)} <= folded and isinstance(norm, nnx.BatchNorm):
                bound = math.prod(before.kernel_shape[:-1])
                setattr(module, chain[index], _threshold(norm, bound))
    return model


def _check_finite(model: nnx.Module) -> None:
    # Not a number has no sign, and an infinite one no threshold.
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    for path, variable in nnx.to_flat_state(state):
        values = np.asarray(variable[...])
        if not np.isfinite(values).all():
            raise ValueError(
                f"`model` must be finite, got {values[~np.isfinite(values)][0]} in "
                f"{'/'.join(map(str, path))}."
            )


def _fold_layer(layer: Any, quantizer: layers.Quantizer, dtype: str) -> bool:
    """Makes a layer one of signs of a dtype if it is one of signs; returns whether."""
    if (
        not isinstance(layer, layers.BinaryConv | layers.BinaryLinear)
        or not signs.is_sign(layer.input_quantizer)
        or layer.use_bias
        or layer.output_scale is not None
        or not _sums_exactly(layer)
    ):
        return False
    kernel, is_binary = _kernel_signs(layer.kernel_quantizer, layer.kernel[...])
    if not is_binary:
        return False
    if dtype == "bits":
        dtype = "float32"
        if layer.is_packable:
            kernel, dtype = bits.pack(kernel, axis=-2), "uint32"
    layer.kernel = layers.BinaryParam(kernel.astype(dtype))
    layer.kernel_quantizer = None
    layer.input_quantizer = quantizer
    layer.dtype = None
    layer.preferred_element_type = jnp.float32
    return True


def _sums_exactly(layer: Any) -> bool:
    """Returns whether a layer's own sums of signs are not rounded."""
    dtype = layer.preferred_element_type or layer.dtype or layer.kernel.dtype
    return jnp.finfo(dtype).nmant >= jnp.finfo(jnp.float32).nmant


@functools.partial(jax.jit, static_argnums=0)
def _kernel_signs(
    quantizer: layers.Quantizer | None, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns a quantized kernel as int8, and whether it is one of -1 and +1."""
    quantized = kernel if quantizer is None else quantizer(kernel)
    return quantized.astype(jnp.int8), (jnp.abs(quantized) == 1).all()


def _threshold(norm: nnx.BatchNorm, bound: int) -> Threshold:
    """Returns what stands for a normalization of integers from -bound to bound."""
    graph, state = nnx.split(norm)
    return Threshold(*_find_threshold(graph, state, bound))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _find_threshold(
    graph: nnx.GraphDef, state: nnx.State, bound: int
) -> tuple[jax.Array, jax.Array]:
    norm = nnx.merge(graph, state)
    scale = jnp.ones(norm.num_features) if norm.scale is None else norm.scale[...]
    direction = jnp.where(scale < 0, -1.0, 1.0)
    # Rounded or not, the normalization of these never falls, so the least that is not
    # negative is as far up as there are negative ones.
    rising = jnp.arange(-bound, bound + 1, dtype=jnp.float32)[:, jnp.newaxis]
    is_negative = norm(rising * direction[jnp.newaxis]) < 0
    return direction, is_negative.sum(0).astype(jnp.float32) - bound
