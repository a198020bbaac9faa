"""Flax layers whose weights and inputs are binary.

`BinaryLinear`, `BinaryConv` and `BinaryConvTranspose` are `nnx.Linear`, `nnx.Conv` and
`nnx.ConvTranspose` with a sign function in front of the inputs and of the kernel, as in
BinaryNet (Courbariaux et al., 2016, https://arxiv.org/abs/1602.02830). They take all
arguments of those layers. Without the two sign functions they equal them bit for bit,
initial values included. The kernel is a `BinaryParam`, so that optimizers can tell it
from the real-valued parameters around it.

Where both are signs and sums are exact, a program that is compiled for a CPU multiplies
by counting bits (`sgdat_jax.bits`), and one for a GPU convolves in float16, to the same
sums; gradients are of floats.

The layers do not train anything: that a kernel stays in {-1, +1} is the work of the
optimizer. In Linen they are used through `nnx.bridge.to_linen`, where binary kernels
form the collection ``"binary_params"`` and all other parameters stay in ``"params"``:

>>> import jax
>>> import jax.numpy as jnp
>>> import sgdat_jax as sj
>>> from flax import nnx
>>> layer = nnx.bridge.to_linen(sj.BinaryLinear, 3, 2, use_bias=True)
>>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
>>> jax.tree.map(jnp.shape, variables)
{'binary_params': {'kernel': (3, 2)}, 'params': {'bias': (2,)}}
>>> layer.apply(variables, jnp.ones((1, 3))).shape
(1, 2)
"""

from sgdat_jax.layers.base import BinaryLayer as BinaryLayer
from sgdat_jax.layers.base import Options as Options
from sgdat_jax.layers.conv import BinaryConv as BinaryConv
from sgdat_jax.layers.conv import BinaryConvTranspose as BinaryConvTranspose
from sgdat_jax.layers.linear import BinaryLinear as BinaryLinear
from sgdat_jax.layers.params import LINEN_COLLECTION as LINEN_COLLECTION
from sgdat_jax.layers.params import BinaryParam as BinaryParam
from sgdat_jax.layers.params import FoldedKernel as FoldedKernel
from sgdat_jax.layers.params import Quantizer as Quantizer
from sgdat_jax.layers.params import kernel_sign as kernel_sign
