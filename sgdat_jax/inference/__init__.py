"""Trained networks in use: from files of weights, or folded out of a model.

A network that only predicts needs neither real-valued kernels nor most of its batch
normalizations: products of signs have small integers as sums, so the sign of a
normalized sum is a comparison with one integer per channel. `fold` makes that form;
`load` does so with a file of weights. Decisions stay the same to the bit.

Nothing here learns, and nothing but the core's dependencies is needed.
"""

from sgdat_jax.inference.classifier import Classifier as Classifier
from sgdat_jax.inference.classifier import Prediction as Prediction
from sgdat_jax.inference.classifier import load as load
from sgdat_jax.inference.classifier import load_model as load_model
from sgdat_jax.inference.export import export as export
from sgdat_jax.inference.folded import FoldedLayer as FoldedLayer
from sgdat_jax.inference.folding import Threshold as Threshold
from sgdat_jax.inference.folding import fold as fold
from sgdat_jax.inference.function import Function as Function
from sgdat_jax.inference.function import to_function as to_function
from sgdat_jax.inference.torch_weights import from_torch as from_torch
