"""Networks with random averages, odd channels among them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import inference

DTYPES = ("float32", "bfloat16", "int8", "bits")
FOLDED = {  # normalizations that become thresholds
    "DigitsNet": ["norm2", "norm3"],
    "BinaryNet": [f"norm{index}" for index in range(2, 8)],
    "SgdatResNet18": [f"blocks/{index}/norm1" for index in range(6)],
    "BiRealResNet18": [],
}
SIZES = {"DigitsNet": (8, 8, 1), "BinaryNet": (8, 8, 3)}
# With these the sum 3 normalizes to 0 or, as compiled for most processors, where the
# addition takes the product before it is rounded, to less: -1/3 is rounded down.
TIE = {"mean": 0.0, "var": 1 - 1e-5, "scale": -1 / 3, "bias": 1.0}


def random_values(rng, norm):
    """Averages and scales of sums of some 100 signs, with each kind of odd channel."""
    channels = norm.num_features
    values = {
        "mean": rng.normal(0, 5, channels),
        "var": 100 * np.exp(rng.normal(size=channels)),
        "scale": rng.normal(size=channels),
        "bias": rng.normal(0, 0.5, channels),
    }
    values["mean"][0::4] = np.round(values["mean"][0::4])  # the threshold is a sum
    values["bias"][0::4] = 0
    values["scale"][1::8] = 0
    values["bias"][1::16] = 0
    for name, value in TIE.items():
        values[name][2::8] = value
    return values


def fill(norm, rng):
    for key, value in random_values(rng, norm).items():
        if getattr(norm, key) is not None:
            getattr(norm, key).set_value(jnp.asarray(value, jnp.float32))


def random_network(name, **options):
    net = functools.partial(getattr(sj.models, name), 5, width=0.1, **options)
    shape = SIZES.get(name, (16, 16, 3))
    model = nnx.eval_shape(lambda: net(input_shape=shape, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            fill(module, rng)
            continue
        for variable in vars(module).values():
            if isinstance(variable, nnx.Param):
                value = rng.normal(size=variable.shape)
                if isinstance(variable, sj.BinaryParam):
                    value = np.where(value < 0, -1, 1)
                variable.set_value(jnp.asarray(value, jnp.float32))
    return model


def images_for(name):
    return jax.random.normal(jax.random.key(0), (6, *SIZES.get(name, (16, 16, 3))))


def plain_logits(model, images):
    model = nnx.clone(model)
    model.eval()
    return inference.to_function(model)(images)


def thresholds_of(model):
    return sorted(
        "/".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if isinstance(module, inference.Threshold)
    )


def assert_same(folded, images, expected):
    """Were one sign another, logits would differ by far more than by rounding."""
    logits = inference.to_function(folded)(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
