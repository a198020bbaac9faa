"""States of 4 bytes per weight: one word holds what an optimizer knows of a weight.

An optimizer that keeps one real number per weight, a latent weight or an average of
gradients, keeps it together with the signed count in a word of 32 bits (words.py). A
step then reads and writes one array. The optimizer's own rule is left as it is: a step
unpacks words, is the exact step from there, and rounds the number that it leads to.
"""

from typing import Any, Literal, NamedTuple

import jax
import optax

from sgdat_jax import checks
from sgdat_jax.optimizers import binary, words

Layout = Literal["exact", "compact"]

_REAL = ("latent", "mu")  # the real number of a weight: the first that a state has


class CompactState(NamedTuple):
    """State of an optimizer with ``layout="compact"``.

    Read it through `latent_weights` and its siblings.
    """

    words: optax.Updates  # shaped like the parameters, uint32; see words.py
    rest: Any  # the exact state, with None for the trees that the words hold

    @property
    def binary_params(self) -> optax.Updates:
        """A tree shaped like the weights that the optimizer trains."""
        return self.words

    @property
    def unpacked(self) -> Any:
        """The exact state that this one stands for, its signed counts as counters."""
        counters = jax.tree.map(lambda w: words.unpack(w)[1], self.words)
        real = jax.tree.map(lambda w: words.unpack(w)[0], self.words)
        return self.rest._replace(
            signed_count=counters, **{_real_field(self.rest): real}
        )


def lay_out(
    tx: optax.GradientTransformationExtraArgs, layout: Layout, **refused: Any
) -> optax.GradientTransformationExtraArgs:
    """Returns a binary optimizer with the state of a layout.

    Args:
      tx: an optimizer of this library or, by `flip_rule`, of one's own. Its state is a
        ``NamedTuple`` with ``signed_count`` and with ``latent`` or ``mu``, the real
        number of each weight; its rule reads and changes signed counts by the functions
        of binary.py alone.
      layout: ``"exact"`` for the optimizer as it is, or ``"compact"``.
      refused: the optimizer's arguments that only an exact state has room for.

    Returns:
      ``tx`` itself, or one whose state is a `CompactState`.

    Raises:
      ValueError: if the layout is unknown, or compact and one of these is not None.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> from sgdat_jax.optimizers import compact
      >>> tx = compact.lay_out(sj.prob_bop(steps_per_epoch=100), "compact")
      >>> state = tx.init(jnp.ones(1000))
      >>> sum(leaf.nbytes for leaf in jax.tree.leaves(state))  # the step count has 4
      4004
    """
    checks.choice("`layout`", layout, ("exact", "compact"))
    if layout == "exact":
        return tx
    for name, value in refused.items():
        if value is not None:
            raise ValueError(
                f"`{name}` must be None with layout='compact', whose words have 24 "
                f"bits for a latent weight and 7 for a flip count, got {value!r}."
            )

    def init_fn(params: optax.Params) -> CompactState:
        return _packed(tx.init(params))

    def update_fn(
        updates: optax.Updates,
        state: CompactState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, CompactState]:
        _, after = tx.update(updates, state.unpacked, params, **extra_args)
        state = _packed(after)
        # The same updates, but made of the words: or XLA would compute the step twice.
        return jax.tree.map(binary.exact_update, state.words, params), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _packed(state: Any) -> CompactState:
    field = _real_field(state)
    packed = jax.tree.map(
        lambda real, s: words.pack(real, binary.counter(s)),
        getattr(state, field),
        state.signed_count,
    )
    return CompactState(packed, state._replace(signed_count=None, **{field: None}))


def _real_field(state: Any) -> str:
    return next(name for name in _REAL if name in state._fields)
