import re

import jax
import numpy as np
import pytest

import small_runs
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import ahead, loop
from sgdat_jax.training.devices import parallel

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def told(lowered):
    """A program, without the marks by which jax says that it is for one device."""
    text = re.sub(r"  sdy.mesh @empty_mesh.*\n", "", lowered.as_text())
    text = re.sub(r"sdy.sharding = #sdy.sharding<@empty_mesh, \[.*?\]>(, )?", "", text)
    return text.replace(", }", "}").replace(" {}", "")


@pytest.mark.parametrize(("devices", "sharded"), [(1, False), (8, False), (8, True)])
def test_programs_are_those_of_a_run(devices, sharded):
    layout = parallel.lay_out(jax.devices()[:devices], sharded=sharded)
    config = configs.TrainConfig(model="TinyNet", batch_size=16)
    plan = setup.plan(config, small_runs.digits(), layout)
    state = plan.init(np.uint32(0))
    numbers = layout.put_rows(np.zeros((1, 16), np.int32), axis=1)
    data = loop.on_device(plan.dataset, layout)
    ((batch, weights), *_) = loop.test_batches(plan.dataset, layout)
    programs = loop.programs()
    for ours, theirs in (
        (
            ahead.eval_step(plan),
            programs.eval_step.lower(plan.task, state, batch, weights),
        ),
        (
            ahead.train_steps(plan, 1),
            programs.train_steps.lower(plan.task, state, data, numbers),
        ),
    ):
        assert told(ours) == told(theirs)
    assert told(ahead.train_steps(plan)) == told(ahead.train_steps(plan, 1))
    assert "stablehlo.dot_general" in told(ahead.train_batch(plan))
