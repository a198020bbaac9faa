"""Which weights of a model are binary, and what leaves of trees are called."""

from typing import Any

import chex
import jax
import optax
from flax import nnx

from sgdat_jax import layers

Path = tuple[str, ...]


def binary_paths(model: Any) -> set[Path]:
    """Returns the paths of a model's binary weights, as tuples of strings.

    Args:
      model: as in `partition_binary`.
    """
    return {
        path
        for path, leaf in leaves_with_path(as_tree(model))
        if isinstance(leaf, layers.BinaryParam) or layers.LINEN_COLLECTION in path
    }


def select_binary(model: Any, tree: chex.ArrayTree) -> chex.ArrayTree:
    """Masks all leaves of a tree that do not belong to a model's binary weights.

    Args:
      model: as in `partition_binary`.
      tree: a pytree shaped like the model's parameters: parameters, gradients, updates.

    Returns:
      The tree with ``optax.MaskedNode()``, which has no leaves, in place of the others.

    Example:
      >>> from flax import nnx
      >>> import jax
      >>> import sgdat_jax as sj
      >>> model = sj.BinaryLinear(4, 2, use_bias=True, rngs=nnx.Rngs(0))
      >>> weights = sj.select_binary(model, nnx.state(model, nnx.Param))
      >>> print([leaf.shape for leaf in jax.tree.leaves(weights)])
      [(4, 2)]
    """
    binary = binary_paths(model)
    return map_with_path(
        lambda path, leaf: leaf if path in binary else optax.MaskedNode(), tree
    )


def layers_of(tree: chex.ArrayTree) -> dict[str, Any]:
    """Returns the leaves of a tree by the names of their layers.

    Args:
      tree: a pytree shaped like a model's parameters, or like its binary ones: flip
        counts, latent weights, flip ratios.

    Returns:
      A dictionary whose keys are paths such as ``"blocks/0/conv1"``; the usual name
      ``"kernel"`` at the end of a path is left out.

    Example:
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> model = sj.models.DigitsNet(rngs=nnx.Rngs(0))
      >>> list(sj.layers_of(nnx.state(model, sj.BinaryParam)))
      ['conv2', 'conv3', 'dense4']
    """
    return {
        join(path).removesuffix("/kernel"): value_of(leaf)
        for path, leaf in leaves_with_path(tree)
    }


def as_tree(model: Any) -> Any:
    """Returns the state of a module; anything else as it is."""
    return nnx.state(model) if isinstance(model, nnx.Module) else model


def value_of(leaf: Any) -> Any:
    """Returns the array in a variable; anything else as it is."""
    return leaf.get_value() if _is_variable(leaf) else leaf


def join(path: Path) -> str:
    """Returns a path as errors show it."""
    return "/".join(path)


def leaves_with_path(tree: Any) -> list[tuple[Path, Any]]:
    """Returns the leaves and variables of a tree that are not masked."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=_is_variable)
    # A variable may hold a mask, which has no leaves.
    return [(_names(path), leaf) for path, leaf in leaves if jax.tree.leaves(leaf)]


def map_with_path(function: Any, tree: Any) -> Any:
    """Maps a function of a path and a leaf, or a variable, over a tree."""
    return jax.tree.map_with_path(
        lambda path, leaf: function(_names(path), leaf), tree, is_leaf=_is_variable
    )


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _names(path: tuple[Any, ...]) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
