"""From the description of a network to the network."""

import dataclasses
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sgdat_jax import names, signs

# Those of `names`, where they are known without an import of JAX.
NETWORKS, SIGNS = names.NETWORKS, names.SIGNS
_LARGEST_ARRAY = 2**31 - 1  # numbers; XLA's indices have 32 bits
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}  # None: that of the parameters
# Signs whose parameter follows the schedule of their paper in training.
annealed_ede_sign = signs.annealed(signs.ede_sign, "t", signs.ede_t)
annealed_reste_sign = signs.annealed(signs.reste_sign, "o", signs.reste_o)


# Fields of `Spec` that networks take under another name.
_FIELDS = {"input_quantizer": "input_sign", "dtype": "compute_dtype"}


@dataclasses.dataclass(frozen=True)
class Spec:
    """What builds a network: names and numbers, fit for JSON by `dataclasses.asdict`.

    Example:
      >>> from sgdat_jax.models import specs
      >>> spec = specs.Spec("DigitsNet", 10, (8, 8, 1), full_precision=("conv2",))
      >>> spec.shapes().choices.binary_layers
      ('conv3', 'dense4')
    """

    model: str  # a key of `NETWORKS`
    num_classes: int
    input_shape: tuple[int, ...]  # height, width and channels of an image
    width: float = 1.0
    full_precision: tuple[str, ...] = ()
    pad_value: float = 0.0
    input_sign: str = "ste_sign"  # a key of `SIGNS`
    compute_dtype: str = "float32"  # a key of `DTYPES`
    unbiased_variance: bool = False

    def build(self, seed: int | jax.Array = 0) -> nnx.Module:
        """Returns the network with the initial weights of a seed.

        Raises:
          ValueError: if a name is unknown, or the network cannot be built as told.
        """
        kind: Any = names.look_up("model", NETWORKS, self.model)
        options = {
            "width": self.width,
            "full_precision": self.full_precision,
            "pad_value": self.pad_value,
            "input_quantizer": names.look_up("sign", SIGNS, self.input_sign),
            "dtype": names.look_up("compute dtype", DTYPES, self.compute_dtype),
            "unbiased_variance": self.unbiased_variance,
        }
        taken = self._taken(kind, options)
        rngs = nnx.Rngs(jax.random.key(seed))
        return kind(self.num_classes, rngs=rngs, **taken)

    def _taken(self, kind: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments that a network takes, if it can do without the rest."""
        # Of a module's class it would be that of Flax's metaclass.
        function = kind.__init__ if isinstance(kind, type) else kind  # type: ignore[misc]
        accepted = inspect.signature(function).parameters
        if any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            return {"input_shape": self.input_shape, **options}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for argument in options.keys() - accepted.keys():
            field = _FIELDS.get(argument, argument)
            if getattr(self, field) != defaults[field]:
                raise ValueError(
                    f"{self.model} takes no `{argument}`, got "
                    f"{field}={getattr(self, field)!r}."
                )
        options = {"input_shape": self.input_shape, **options}
        return {k: v for k, v in options.items() if k in accepted}

    def shapes(self) -> Any:
        """Returns the network with shapes in place of its weights.

        Raises:
          ValueError: as in `build`, or if an array would have too many numbers.
        """
        shapes = nnx.eval_shape(self.build)
        for path, leaf in jax.tree.leaves_with_path(nnx.state(shapes)):
            if math.prod(leaf.shape) > _LARGEST_ARRAY:
                raise ValueError(
                    f"width must be less for these images, got {self.width}: "
                    f"{jax.tree_util.keystr(path, simple=True, separator='/')} of "
                    f"{self.model} would have {float(math.prod(leaf.shape)):.3g} "
                    "numbers."
                )
        return shapes


# What of a network is the user's to choose, whatever the images are.
CHOICES = tuple(
    field.name
    for field in dataclasses.fields(Spec)
    if field.name not in ("num_classes", "input_shape")
)
