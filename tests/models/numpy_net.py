"""The networks' layers in plain NumPy and float64, from their description."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import sgdat_jax as sj

# What float32 may be off by, relative to the largest of its kind: a normalization
# loses some 2**-24 per addend of its sums. Before a sign, nothing may be nearer to 0.
ERROR = 1e-5
# Without signs between them, normalizations of few examples each enlarge the error.
REAL_ERROR = 3e-4
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def random_network(build, seed):
    """A network of random variables: nothing in it is 0, 1 or equal by design.

    The seed is one with which no sign is in doubt; `assert_equals_reference` checks.
    """
    rng = np.random.default_rng(seed)

    def fill(path, variable):
        value = rng.standard_normal(variable.shape).astype(np.float32)
        if isinstance(variable, sj.BinaryParam):
            value = np.where(value < 0, np.float32(-1), np.float32(1))
        elif path[-1] == "var":
            value = 100 * np.exp(value)  # about that of a sum of 100 signs
        return variable.replace(jnp.asarray(value))

    model = nnx.eval_shape(build)
    graph, state = nnx.split(model)
    return nnx.merge(graph, nnx.map_state(fill, state))


def both_modes(model, images):
    """Logits in evaluation and in training, and the running averages afterwards."""
    graph, state = nnx.split(model)

    # Compiled for one call: optimized code would take twice the time in all.
    @functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
    def run(state, images):
        model = nnx.merge(graph, state)
        model.eval()
        evaluated = model(images)
        model.train()
        trained = model(images)
        return evaluated, trained, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return run(state, images)


def conv(x, kernel, strides=1, pad_value=0.0):
    """The convolution of (n, h, w, c) with an odd square kernel, padded around."""
    size = kernel.shape[0]
    pad = (size // 2, size // 2)
    x = np.pad(x, [(0, 0), pad, pad, (0, 0)], constant_values=pad_value)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows[:, ::strides, ::strides], kernel)


def pool(x, size, reduce):
    n, h, w, c = x.shape
    return reduce(x.reshape(n, h // size, size, w // size, size, c), (2, 4))


def hard_tanh(x):
    return np.clip(x, -1, 1)


def look_up(tree, name):
    for key in name.split("/"):
        tree = tree[int(key) if key.isdigit() else key]
    return tree


class NumpyNet:
    """Applies the layers of a network by name, in one mode, and watches its signs."""

    def __init__(self, model, *, training):
        self.state = nnx.to_pure_dict(nnx.state(model))
        self.choices = model.choices
        self.training = training
        self.averages = {}  # after this step, by name
        self.margin = np.inf  # the smallest number that a sign was taken of

    def variables(self, name):
        node = look_up(self.state, name)
        return {key: np.asarray(value, np.float64) for key, value in node.items()}

    def layer(self, name, x, strides=1):
        """A binary layer, or the real-valued one in its place."""
        kernel = self.variables(name)["kernel"]
        is_binary = name in self.choices.binary_layers
        assert is_binary != (name in self.choices.full_precision)
        if is_binary and self.choices.input_quantizer == "ste_sign":
            self.margin = min(self.margin, np.abs(x).min())
            x = np.where(x >= 0, 1.0, -1.0)
        else:
            x = hard_tanh(x)
        pad_value = self.choices.pad_value if is_binary else 0.0
        return x @ kernel if kernel.ndim == 2 else conv(x, kernel, strides, pad_value)

    def norm(self, name, x):
        variables = self.variables(name)
        mean, var = variables["mean"], variables["var"]
        if self.training:
            axes = tuple(range(x.ndim - 1))
            self.averages[name] = {
                "mean": 0.9 * mean + 0.1 * x.mean(axes),
                "var": 0.9 * var + 0.1 * x.var(axes),
            }
            mean, var = x.mean(axes), x.var(axes)
        x = (x - mean) / np.sqrt(var + 1e-5)
        return x * variables.get("scale", 1.0) + variables.get("bias", 0.0)


def assert_equals_reference(model, images, reference, error=ERROR):
    """Compares a network with ``reference(net, images)``, in both of its modes."""
    evaluated, trained, averages = both_modes(model, images)
    for logits, training in ((evaluated, False), (trained, True)):
        net = NumpyNet(model, training=training)
        expected = reference(net, np.asarray(images, np.float64))
        # Else a sign could differ by rounding, and with it everything behind it.
        assert net.margin > ERROR
        assert_close(logits, expected, error)
    for name, expected in net.averages.items():
        for key, value in expected.items():
            assert_close(look_up(averages, name)[key], value, error)
    assert len(net.averages) == len(jax.tree.leaves(averages)) / 2


def assert_close(actual, expected, error):
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=error * np.abs(expected).max()
    )
