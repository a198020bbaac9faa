"""partition_binary on each form of a model's parameters, and what it refuses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sgdat_jax as sj

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STEPS = 3
SGDAT = sj.sgdat(1e-3, 1e-5)
ADAM = optax.adam(1e-2)


class Block(nnx.Module):
    def __init__(self, rngs):
        layers = [sj.BinaryLinear(4, 4, use_bias=True, rngs=rngs) for _ in range(2)]
        self.layers = nnx.List(layers)
        self.scale = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * jnp.expand_dims(self.scale[...], 0)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.counter = nnx.BatchStat(jnp.zeros(()))  # state that nobody trains

    def __call__(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


BINARY = [f"blocks/{i}/layers/{j}/kernel" for i in range(2) for j in range(2)]


@pytest.fixture
def model():
    return Net(nnx.Rngs(0))


def partition(model, binary=SGDAT, real=ADAM):
    return sj.partition_binary(model, binary=binary, real=real)


def by_name(params):
    """Returns the leaves of parameters in any form, by the names on their path."""
    pure = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(pure)
    }


def gradients(params, step):
    rng = np.random.default_rng(step)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params
    )


def jit_step(tx):
    # With the sum inside, which XLA contracts with Adam's last product.
    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def train(tx, params, all_gradients):
    step, state = jit_step(tx), tx.init(params)
    for grads in all_gradients:
        params, state = step(params, state, grads)
    return params, state


def apart(params, all_gradients, is_binary):
    """Trains binary and real-valued parameters apart, each with its own optimizer."""
    trained = {}
    for tx, wanted in ((SGDAT, True), (ADAM, False)):
        trees = [by_name(tree) for tree in (params, *all_gradients)]
        first, *rest = [
            {k: v for k, v in tree.items() if is_binary(k) == wanted} for tree in trees
        ]
        trained |= by_name(train(tx, first, rest)[0])
    return trained


FORMS = {
    "split state": lambda model: nnx.split(model, nnx.Param, ...)[1],
    "state": lambda model: nnx.state(model, nnx.Param),
    "pure state": lambda model: jax.tree.map(
        lambda variable: variable.get_value(),
        nnx.state(model, nnx.Param),
        is_leaf=lambda node: isinstance(node, nnx.Variable),
    ),
    "dictionary": lambda model: nnx.to_pure_dict(nnx.state(model, nnx.Param)),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_the_parameters_is_trained(model, form):
    params = FORMS[form](model)
    start = by_name(params)
    sequence = [gradients(params, step) for step in range(STEPS)]
    expected = apart(params, sequence, lambda name: name in BINARY)
    trained, state = train(partition(model), params, sequence)
    chex.assert_trees_all_equal(by_name(trained), expected)
    for name in BINARY:
        assert set(np.unique(expected[name])) == {-1.0, 1.0}
        assert np.any(expected[name] != start[name])
    assert by_name(sj.flip_counts(state)).keys() == set(BINARY)


def test_nnx_optimizer_trains_the_model(model):
    params = nnx.state(model, nnx.Param)
    sequence = [gradients(params, step) for step in range(STEPS)]
    expected = apart(params, sequence, lambda name: name in BINARY)
    optimizer = nnx.Optimizer(model, partition(model), wrt=nnx.Param)
    step = nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))
    for grads in sequence:
        step(model, optimizer, grads)
    chex.assert_trees_all_equal(by_name(nnx.state(model, nnx.Param)), expected)
    assert len(jax.tree.leaves(sj.latent_weights(optimizer.opt_state))) == len(BINARY)


def test_binary_parameters_alone_may_be_trained(model):
    tx = partition(model)
    optimizer = nnx.Optimizer(model, tx, wrt=sj.BinaryParam)
    params = nnx.state(model, sj.BinaryParam)
    grads = gradients(params, 0)
    expected, _ = train(SGDAT, params, [grads])
    optimizer.update(model, grads)
    chex.assert_trees_all_equal(
        by_name(nnx.state(model, sj.BinaryParam)), by_name(expected)
    )


def test_linen_collections_are_trained():
    layer = nnx.bridge.ToLinen(Net)
    x = jax.random.normal(jax.random.key(1), (16, 3))
    variables = layer.init(jax.random.key(0), x)
    rest = {"batch_stats": variables.pop("batch_stats")}
    assert variables.keys() == {"params", "binary_params"}

    def loss(variables):
        return jnp.mean((layer.apply(variables | rest, x) - 1) ** 2)

    tx, start = partition(variables), variables
    grad, step = jax.jit(jax.grad(loss)), jit_step(tx)
    state, sequence = tx.init(variables), []
    for _ in range(STEPS):
        sequence.append(grad(variables))
        variables, state = step(variables, state, sequence[-1])

    def is_binary(name):
        return name.startswith("binary_params/")

    trained = by_name(variables)
    chex.assert_trees_all_equal(trained, apart(start, sequence, is_binary))
    binary = {name: leaf for name, leaf in trained.items() if is_binary(name)}
    assert len(binary) == len(BINARY)
    assert all(np.all(np.abs(leaf) == 1) for leaf in binary.values())
    flipped = [np.any(leaf != by_name(start)[name]) for name, leaf in binary.items()]
    assert any(flipped)


def test_a_student_learns_its_teachers_weights():
    def layer(seed):
        return sj.BinaryLinear(
            8, 4, input_quantizer=None, use_bias=True, rngs=nnx.Rngs(seed)
        )

    student, teacher = layer(0), layer(1)
    teacher.bias[...] = jnp.array([0.2, -0.1, 0.0, 0.1])
    x = jax.random.normal(jax.random.key(1), (64, 8))
    optimizer = nnx.Optimizer(student, partition(student), wrt=nnx.Param)

    @nnx.jit
    def step(student, optimizer):
        def loss(student):
            return jnp.mean((student(x) - teacher(x)) ** 2)

        value, grads = nnx.value_and_grad(loss)(student)
        optimizer.update(student, grads)
        return value

    losses = [float(step(student, optimizer)) for _ in range(100)]
    assert np.any(student.kernel[...] != layer(0).kernel[...])
    np.testing.assert_array_equal(student.kernel[...], teacher.kernel[...])
    assert losses[-1] < losses[0] / 1000


def test_optimizers_may_be_wrapped_on_either_side(model):
    params = nnx.state(model, nnx.Param)
    sequence = [gradients(params, step) for step in range(STEPS)]
    inject = optax.inject_hyperparams(sj.sgdat)(1e-3, 1e-5)
    wrapped = optax.chain(
        optax.identity(), partition(model, optax.apply_if_finite(inject, 1))
    )
    trained, state = train(wrapped, params, sequence)
    expected, expected_state = train(partition(model), params, sequence)
    chex.assert_trees_all_equal(by_name(trained), by_name(expected))
    counts, expected_counts = map(sj.flip_counts, (state, expected_state))
    chex.assert_trees_all_equal(by_name(counts), by_name(expected_counts))


def test_select_binary_masks_all_others(model):
    params = nnx.state(model, nnx.Param)
    selected = sj.select_binary(model, params)
    assert by_name(selected).keys() == set(BINARY)
    assert selected["first"]["kernel"] == optax.MaskedNode()
    pure = nnx.to_pure_dict(params)
    assert by_name(sj.select_binary(model, pure)).keys() == set(BINARY)
    # Bare arrays in the place of parameters, as in gradients and updates.
    kernel = sj.select_binary(params, pure)["blocks"][0]["layers"][1]["kernel"]
    np.testing.assert_array_equal(kernel, model.blocks[0].layers[1].kernel[...])


def message_of(call):
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


def test_a_model_without_binary_weights_is_refused():
    layer = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    for model, kind in ((layer, "Linear"), ({"params": {"a": 1.0}}, "dict")):
        message = message_of(functools.partial(partition, model))
        assert message.startswith("`model` must have binary weights")
        assert message.endswith(f"got none in {kind}.")


def test_a_binary_weight_that_is_not_among_the_parameters_is_refused(model):
    wrt = nnx.All(nnx.Param, nnx.Not(sj.BinaryParam))
    tx = partition(model)
    expected = (
        "`params` and `updates` must hold every binary weight, or nobody flips it; "
        "missing: blocks/0/layers/0/kernel."
    )
    assert message_of(lambda: nnx.Optimizer(model, tx, wrt=wrt)) == expected
    assert message_of(lambda: tx.init(nnx.state(model, wrt))) == expected


@pytest.mark.parametrize(
    ("binary", "state"),
    [
        (optax.adam(1e-3), "ScaleByAdamState, EmptyState"),
        (optax.sgd(1e-3), "EmptyState, EmptyState"),
    ],
)
def test_binary_must_be_a_binary_optimizer(model, binary, state):
    tx = partition(model, binary=binary)
    assert message_of(lambda: tx.init(nnx.state(model, nnx.Param))) == (
        "`binary` must be a binary optimizer such as sgdat(), got one that flips no "
        f"weight: its state is {state}. To freeze weights, give `optax.set_to_zero()`, "
        "`optax.masked(sgdat(), mask)`, or `optax.chain(sgdat(), "
        "optax.masked(optax.set_to_zero(), mask))`."
    )


@pytest.mark.parametrize("real", [SGDAT, optax.chain(optax.clip(1.0), SGDAT)])
def test_real_must_not_be_a_binary_optimizer(model, real):
    tx = partition(model, real=real)
    assert message_of(lambda: tx.init(nnx.state(model, nnx.Param))) == (
        "`real` must not be a binary optimizer: it would turn the real-valued "
        "parameters into -1 and +1."
    )


def test_multi_steps_need_no_conversion(model):
    every = functools.partial(optax.MultiSteps, every_k_schedule=2)
    binary, real = every(SGDAT), every(optax.adam(1e-3))
    given = partition(model, binary=binary, real=real)
    converted = partition(
        model,
        binary=binary.gradient_transformation(),
        real=real.gradient_transformation(),
    )
    params = nnx.state(model, nnx.Param)
    found, expected = (tx.init(params) for tx in (given, converted))
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("name", ["binary", "real"])
def test_what_is_no_optimizer_is_named(name):
    optimizers = {"binary": sj.sgdat(), "real": optax.adam(1e-3)} | {name: 1e-3}
    model = sj.BinaryLinear(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=f"`{name}` must be an Optax optimizer"):
        sj.partition_binary(model, **optimizers)
