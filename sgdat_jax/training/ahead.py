"""The programs of a run from shapes alone, for devices that need not be there.

What `loop` runs is lowered here for the devices of a plan's layout, real or those of a
topology. The compiled program then tells of memory, bytes and collectives:

    >>> import numpy as np
    >>> from sgdat_jax.data import sources
    >>> from sgdat_jax.experiments import configs, setup
    >>> from sgdat_jax.training import ahead
    >>> config = configs.TrainConfig(batch_size=8, devices=1)
    >>> lowered = ahead.train_batch(setup.plan(config, sources.digits()))
    >>> "stablehlo.convolution" in lowered.as_text()
    True
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax.training import loop, runs, states, steps


def state(plan: runs.Plan) -> states.TrainState:
    """Returns the shapes of a run's state, and where they lie."""
    return plan.task.layout.shapes(jax.eval_shape(plan.init, np.uint32(0)))


def train_batch(plan: runs.Plan) -> jax.stages.Lowered:
    """Lowers a step on a batch at hand, as for images that are streamed."""
    batch = plan.task.layout.row_shapes(_batch(plan, plan.config.batch_size))
    return _programs(plan).train_batch.lower(plan.task, state(plan), batch)


def train_steps(plan: runs.Plan, number: int | None = None) -> jax.stages.Lowered:
    """Lowers steps on images that lie on the devices.

    Args:
      plan: of the run.
      number: of steps; None: as many as a run takes in one call.
    """
    layout = plan.task.layout
    at_once = min(steps.steps_per_call(layout.platform), plan.steps_per_epoch)
    count = len(plan.dataset.train_images)
    images = jax.eval_shape(lambda b: steps.Images.of(*b), _batch(plan, count))
    shape = (number or at_once, plan.config.batch_size)
    indices = layout.row_shapes(jax.ShapeDtypeStruct(shape, jnp.int32), axis=1)
    return _programs(plan).train_steps.lower(
        plan.task, state(plan), layout.whole_shapes(images), indices
    )


def eval_step(plan: runs.Plan) -> jax.stages.Lowered:
    """Lowers the evaluation of a batch of test images."""
    size = loop.test_batch_size(len(plan.dataset.test_images), plan.task.layout)
    weights = jax.ShapeDtypeStruct((size,), jnp.float32)
    shapes = plan.task.layout.row_shapes((_batch(plan, size), weights))
    return _programs(plan).eval_step.lower(plan.task, state(plan), *shapes)


def _programs(plan: runs.Plan) -> Any:
    return loop.programs(plan.task.layout.platform)


def _batch(plan: runs.Plan, size: int) -> Any:
    shape = (size, *plan.dataset.input_shape)
    images: Any = jax.ShapeDtypeStruct(shape, jnp.uint8)
    labels: Any = jax.ShapeDtypeStruct((size,), jnp.int32)
    return steps.Batch(images, labels)
