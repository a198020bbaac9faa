"""Signs whose parameter goes along with training."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
from jax.typing import ArrayLike

_progress: contextvars.ContextVar[ArrayLike] = contextvars.ContextVar(
    "progress", default=1.0
)
# Programs that JAX keeps by it: those that hold one traced progress fit no other.
_trace = jax.make_user_context()


@contextlib.contextmanager
def annealing(progress: ArrayLike) -> Iterator[None]:
    """Tells annealed signs how far training is, wherever they are called in the block.

    `training.fit` and the command do so at each step. In a loop of one's own it goes
    around the call of the network, within the function that is differentiated, so that
    the progress may be a traced number. A program of `jax.jit` that is called in the
    block keeps the progress that it was traced with, if that is not a traced number.

    Args:
      progress: fraction of training done, from 0 to 1.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import signs
      >>> quantize = signs.annealed(signs.ede_sign, "t", signs.ede_t)
      >>> def slope(progress):
      ...     with signs.annealing(progress):
      ...         return jax.grad(lambda x: quantize(x).sum())(jnp.zeros(1))
      >>> print(slope(0.0), slope(1.0))
      [1.] [10.]
    """
    token = _progress.set(progress)
    is_traced = isinstance(progress, jax.core.Tracer)
    try:
        with _trace(object() if is_traced else None):
            yield
    finally:
        _progress.reset(token)


def annealed(
    quantizer: Callable[..., jax.Array],
    parameter: str,
    schedule: Callable[[ArrayLike], jax.Array],
) -> Callable[[ArrayLike], jax.Array]:
    """Returns a quantizer whose parameter follows a schedule during training.

    Where nothing tells the progress, as in evaluation, it is that of the end.

    Args:
      quantizer: a sign or another quantizer with a parameter.
      parameter: its name.
      schedule: from the fraction of training done, in [0, 1], to its value.

    Example:
      >>> from sgdat_jax import signs
      >>> quantize = signs.annealed(signs.reste_sign, "o", signs.reste_o)
      >>> signs.is_sign(quantize)
      True
    """

    @functools.wraps(quantizer)
    def quantize(x: ArrayLike) -> jax.Array:
        return quantizer(x, **{parameter: schedule(_progress.get())})

    return quantize
