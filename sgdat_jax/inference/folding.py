"""Networks for inference alone: signs as narrow dtypes or bits, and thresholds."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sgdat_jax import dtypes, layers, names, signs
from sgdat_jax.inference.folded import FoldedLayer


@signs.of_bits(1)
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
    """Stands for a batch normalization of integers whose sign alone is used.

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


def fold(model: nnx.Module, dtype: str = "bits") -> Any:
    """Returns a copy of a trained network for inference alone.

    Each layer with binary inputs and a binary kernel becomes a `FoldedLayer`, which has
    the kernel's signs once and for all and computes products in `dtype`, wherever it
    stands: in lists, tuples and dictionaries, too. Each normalization between two of
    them whose sign alone is used becomes a `Threshold`: in `BinaryNet` all but the
    first and the last two, in `DigitsNet` the second and third, in `SgdatResNet18` the
    first of each block, in `BiRealResNet18`, which adds up their values, none. All else
    stays as it is, with running averages: real-valued layers, those with a bias, an
    `output_scale` or a quantizer that is no sign, and layers of your own that have a
    ``__call__`` of their own.

    Signs of sums are to the bit those of `model` compiled for the same device with the
    same options, as thresholds are found by normalizing every sum that can occur.

    Args:
      model: any network. It, or a module in it, says what can become thresholds by an
        attribute ``sign_chain``: names of binary layers and batch normalizations in
        turn, where the sums of each layer go, perhaps max-pooled, into the
        normalization after it, and that one's output into the next layer alone.
      dtype: of the binary products; all are exact. With ``"bits"`` a kernel takes a
        32nd of the memory; a CPU multiplies by counting them, other devices in
        bfloat16 or, convolutions on GPUs, float16; convolutions that are transposed, in
        groups or by a function of the user's own unpack it to float32, and kernels with
        a mask, whose zeros are no bits, are float32 all the time. The others are
        ``"float32"``, ``"bfloat16"`` (summed in float32) and ``"int8"`` (summed in
        int32); on a CPU they take far longer.

    Raises:
      ValueError: if `dtype` is unknown, or a variable is not finite.

    Example:
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import inference
      >>> model = nnx.jit(sj.models.DigitsNet)(rngs=nnx.Rngs(0))
      >>> folded = inference.fold(model, "int8")
      >>> folded.conv2.kernel.dtype
      dtype('int8')
      >>> type(folded.conv2).__name__
      'FoldedLayer'
      >>> [type(norm).__name__ for norm in (folded.norm1, folded.norm2)]
      ['BatchNorm', 'Threshold']
    """
    quantizer = names.look_up("dtype", _INPUT_QUANTIZERS, dtype)
    _check_finite(model)
    model = nnx.clone(model)
    model.eval()
    modules = [module for _, module in nnx.iter_modules(model)]
    folded = {
        id(module): layer
        for module in modules
        if (layer := _fold_layer(module, quantizer, dtype)) is not None
    }
    for module in modules:
        _replace_children(module, folded)
    for module in modules:
        chain = getattr(module, "sign_chain", ())
        for index in range(1, len(chain) - 1, 2):
            before, norm, after = (getattr(module, n) for n in chain[index - 1 :][:3])
            ends_are_folded = all(isinstance(e, FoldedLayer) for e in (before, after))
            if ends_are_folded and isinstance(norm, nnx.BatchNorm):
                bound = math.prod(before.kernel_shape) // before.out_features
                setattr(module, chain[index], _threshold(norm, bound))
    return folded.get(id(model), model)


def _replace_children(module: nnx.Module, folded: dict[int, FoldedLayer]) -> None:
    """Puts folded layers where a module has their originals, by the latter's ids."""

    def is_whole(node: Any) -> bool:
        return isinstance(node, nnx.Module | nnx.Variable)

    for name, value in list(vars(module).items()):
        if id(value) in folded:
            setattr(module, name, folded[id(value)])
        elif any(id(n) in folded for n in jax.tree.leaves(value, is_leaf=is_whole)):
            # A container of the user's, such as a tuple that `nnx.data` marked.
            replaced = jax.tree.map(
                lambda node: folded.get(id(node), node), value, is_leaf=is_whole
            )
            setattr(module, name, nnx.data(replaced))


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


def _fold_layer(
    layer: Any, quantizer: layers.Quantizer, dtype: str
) -> FoldedLayer | None:
    """Returns what stands for a layer of signs; None if it is not one of those."""
    if (
        not isinstance(layer, layers.BinaryLayer)
        or type(layer).__call__ is not layers.BinaryLayer.__call__
        or not signs.is_sign(layer.input_quantizer)
        or layer.use_bias
        or layer.output_scale is not None
        or not _sums_exactly(layer)
    ):
        return None
    kernel, is_binary = _kernel_signs(layer)
    return FoldedLayer(layer, kernel, dtype, quantizer) if is_binary else None


def _sums_exactly(layer: layers.BinaryLayer) -> bool:
    """Returns whether a layer's own sums of signs are not rounded."""
    if layer.promote_dtype is not dtypes.promote:  # who knows to what
        return False
    dtype = layer.preferred_element_type or layer.dtype or layer.kernel.dtype
    return dtypes.sums_exactly(dtype)


@nnx.jit
def _kernel_signs(layer: layers.BinaryLayer) -> tuple[jax.Array, jax.Array]:
    """Returns a kernel as int8, and whether it is of -1 and +1, and 0 by the mask."""
    kernel = layer.signed_kernel()
    magnitude = jnp.ones_like(kernel)
    if layer.mask is not None:
        magnitude *= layer.mask.astype(bool).astype(kernel.dtype)
    return kernel.astype(jnp.int8), (jnp.abs(kernel) == magnitude).all()


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
