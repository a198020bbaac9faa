"""Which weights of a model are binary, and who trains what."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import optax
from flax import nnx

from sgdat_jax import layers
from sgdat_jax.optimizers import binary as binary_rules

_Path = tuple[str, ...]


def partition_binary(
    model: nnx.Module | nnx.State | Mapping[str, Any],
    *,
    binary: optax.GradientTransformation,
    real: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Gives a model's binary weights to one optimizer and all others to another.

    Binary are the weights of type `sgdat_jax.BinaryParam`. The result works on every
    form of the model's parameters: in an ``nnx.Optimizer``, on the state of
    ``nnx.split`` or ``nnx.state``, on pure nested dictionaries, and on the variables of
    a Linen model, whose binary weights form the collection ``"binary_params"``.

    A binary weight without an optimizer never trains, and nothing else would tell. So
    it is an error if the model has no binary weights, if one of them is missing from
    the parameters, if ``binary`` is not a binary optimizer, and if ``real`` is one.

    A binary optimizer is one whose state, or a state in it, says which weights it
    trains: a ``NamedTuple`` with ``signed_count``, as `flip_rule` makes it, or with
    ``binary_params``, a tree shaped like those weights, if it counts no flips.

    Args:
      model: an ``nnx.Module``, its ``nnx.State``, or a Linen model's variables.
      binary: trains the binary weights; `sgdat` or another optimizer of this library,
        or one of your own, alone or within Optax's wrappers.
      real: trains the real-valued parameters, for example ``optax.adam(1e-3)``.

    Returns:
      An `optax.GradientTransformationExtraArgs`; its state is `optax.partition`'s.

    Raises:
      TypeError: if ``binary`` or ``real`` is not an Optax optimizer.
      ValueError: if ``model`` has no binary weights; in ``init``, in each other case
        above.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import sgdat_jax as sj
      >>> model = sj.BinaryLinear(4, 2, use_bias=True, rngs=nnx.Rngs(0))
      >>> tx = sj.partition_binary(model, binary=sj.sgdat(), real=optax.adam(1e-3))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
      >>> gradients = nnx.grad(lambda m: m(jnp.ones((1, 4))).sum())(model)
      >>> _ = optimizer.update(model, gradients)
      >>> print(model.kernel[...][0])
      [-1. -1.]
    """
    for name, tx in (("binary", binary), ("real", real)):
        if not isinstance(tx, optax.GradientTransformation):
            raise TypeError(f"`{name}` must be an Optax optimizer, got {tx!r}.")
    paths = _binary_paths(model)
    if not paths:
        raise ValueError(
            "`model` must have binary weights (of type BinaryParam, or in the "
            f"collection {layers.LINEN_COLLECTION!r}), got none in "
            f"{type(model).__name__}."
        )

    def labels(params: Any) -> Any:
        present = {path for path, _ in _leaves_with_path(params)}
        missing = paths - present
        # Optax maps over states by calling `init` on a placeholder without leaves.
        if present and missing:
            raise ValueError(
                "`params` and `updates` must hold every binary weight, or nobody flips "
                f"it; missing: {_join(sorted(missing)[0])}."
            )
        return _map_with_path(
            lambda path, _: "binary" if path in paths else "real", params
        )

    named = {
        "binary": _in_scope("binary_optimizer", binary),
        "real": _in_scope("real_optimizer", real),
    }
    inner = optax.partition(named, labels)

    def init_fn(params: Any) -> Any:
        state = inner.init(params)
        states = state.inner_states
        trained = binary_rules.trained_weights(states["binary"])
        if trained is None:
            raise ValueError(
                "`binary` must be a binary optimizer such as sgdat(), got one that "
                f"flips no weight: its state is {_describe(states['binary'])}."
            )
        if binary_rules.trained_weights(states["real"]) is not None:
            raise ValueError(
                "`real` must not be a binary optimizer: it would turn the real-valued "
                "parameters into -1 and +1."
            )
        left_out = paths - {path for path, _ in _leaves_with_path(trained)}
        if left_out and _leaves_with_path(params):
            raise ValueError(
                "`binary` must flip every binary weight, got one that leaves out "
                f"{_join(sorted(left_out)[0])}."
            )
        return state

    return optax.GradientTransformationExtraArgs(init_fn, inner.update)


def _in_scope(
    name: str, tx: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Returns an optimizer whose operations bear a name in profiles."""
    return tx._replace(update=jax.named_scope(name)(tx.update))


def _binary_paths(model: Any) -> set[_Path]:
    """Returns the paths of a model's binary weights, as tuples of strings.

    Args:
      model: as in `partition_binary`.
    """
    tree = nnx.state(model) if isinstance(model, nnx.Module) else model
    return {
        path
        for path, leaf in _leaves_with_path(tree)
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
    paths = _binary_paths(model)
    return _map_with_path(
        lambda path, leaf: leaf if path in paths else optax.MaskedNode(), tree
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
        _join(path).removesuffix("/kernel"): _value(leaf)
        for path, leaf in _leaves_with_path(tree)
    }


def _describe(state: optax.MaskedState) -> str:
    def is_named_tuple(node: Any) -> bool:
        return isinstance(node, tuple) and hasattr(node, "_fields")

    parts = jax.tree.leaves(state.inner_state, is_leaf=is_named_tuple)
    return ", ".join(type(part).__name__ for part in parts)


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _value(leaf: Any) -> Any:
    return leaf.get_value() if _is_variable(leaf) else leaf


def _names(path: tuple[Any, ...]) -> _Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _join(path: _Path) -> str:
    return "/".join(path)


def _leaves_with_path(tree: Any) -> list[tuple[_Path, Any]]:
    leaves = jax.tree.leaves_with_path(tree, is_leaf=_is_variable)
    # A variable may hold a mask, which has no leaves.
    return [(_names(path), leaf) for path, leaf in leaves if jax.tree.leaves(leaf)]


def _map_with_path(function: Any, tree: Any) -> Any:
    return jax.tree.map_with_path(
        lambda path, leaf: function(_names(path), leaf), tree, is_leaf=_is_variable
    )
