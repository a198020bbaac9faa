"""Gradients of convolutions of signs on a CPU, by looking sums up.

Of two gradients each multiplies signs with numbers. Four signs pick one of 16 sums of
four numbers, so a processor with vectors of 16 numbers adds 64 products by one
permutation of a vector and one addition, where it would take four multiplications.
`gradients.cc` does that; it is compiled on the machine when it is first needed, by the
C++ compiler found there, and kept. `bits` has the products of signs alone.
"""

from sgdat_jax.lookups.gradients import are_possible as are_possible
from sgdat_jax.lookups.gradients import to_inputs as to_inputs
from sgdat_jax.lookups.gradients import to_kernel as to_kernel
from sgdat_jax.lookups.native import are_in_use as are_in_use
from sgdat_jax.lookups.native import look_up_gradients as look_up_gradients
