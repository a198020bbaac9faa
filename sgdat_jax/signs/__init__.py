"""Sign functions with surrogate gradients, for binary weights and activations.

The derivative of sign is zero almost everywhere, so each function here returns the
quantized value and replaces its derivative by the one of a published estimator. Use
one as `input_quantizer` or `kernel_quantizer` of a layer, or alone on any array.

All of them share four rules:

* The sign of 0 and of -0.0 is +1, where the papers' PyTorch code often emits 0.
* NaN gives NaN, in the value and in the gradient (`sign` alone: its gradient is 0).
* The output has the dtype of `x`; comparisons and derivatives are computed in float32
  or wider, so a bound such as 1.0 is judged exactly for bfloat16 and float16.
* Parameters (`clip_value`, `t`, `o`, `beta`, `threshold`) are ordinary arguments with
  a zero gradient: a schedule can anneal them under `jax.jit` without recompiling.
  Python numbers are validated, arrays and traced values are not.

This module defines no layers, learns no scale, and supports reverse mode only: forward
mode (`jax.jvp`, `jax.hessian`) is not defined for `jax.custom_vjp`. XLA's CPU backend
flushes float32 and bfloat16 subnormals to zero, so there their sign is +1.
"""

from sgdat_jax.signs.activations import leaky_tanh as leaky_tanh
from sgdat_jax.signs.annealing import annealed as annealed
from sgdat_jax.signs.annealing import annealing as annealing
from sgdat_jax.signs.binary import approx_sign as approx_sign
from sgdat_jax.signs.binary import ede_sign as ede_sign
from sgdat_jax.signs.binary import ede_t as ede_t
from sgdat_jax.signs.binary import reste_o as reste_o
from sgdat_jax.signs.binary import reste_sign as reste_sign
from sgdat_jax.signs.binary import sign as sign
from sgdat_jax.signs.binary import ste_sign as ste_sign
from sgdat_jax.signs.binary import surrogate as surrogate
from sgdat_jax.signs.binary import swish_sign as swish_sign
from sgdat_jax.signs.levels import dorefa as dorefa
from sgdat_jax.signs.levels import magnitude_aware_sign as magnitude_aware_sign
from sgdat_jax.signs.levels import ste_heaviside as ste_heaviside
from sgdat_jax.signs.levels import ste_ternary as ste_ternary
from sgdat_jax.signs.marks import gives_signs as gives_signs
from sgdat_jax.signs.marks import is_sign as is_sign
from sgdat_jax.signs.marks import of_bits as of_bits
from sgdat_jax.signs.marks import precision as precision
