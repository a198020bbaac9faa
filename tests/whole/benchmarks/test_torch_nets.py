import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj
from benchmarks import train_step
from sgdat_jax.data import dataset
from sgdat_jax.experiments import configs, setup

torch = pytest.importorskip("torch")

from benchmarks import torch_nets  # noqa: E402


def test_torch_shifts_and_mirrors_images():
    torch.manual_seed(0)
    image = np.arange(1, 1 + 5 * 4 * 2, dtype=np.uint8).reshape(5, 4, 2)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    crops = [padded[y : y + 5, x : x + 4] for y in range(5) for x in range(5)]
    allowed = {crop.tobytes() for crop in [*crops, *(crop[:, ::-1] for crop in crops)]}
    made = torch_nets.augment(torch.tensor(np.stack(1000 * [image])), padding=2)
    assert (made.dtype, made.shape) == (torch.uint8, (1000, 5, 4, 2))
    assert {crop.tobytes() for crop in made.numpy()} == allowed


def test_torch_flips_the_weights_that_the_library_flips():
    start = np.where(np.arange(30) % 3 == 0, -1, 1).astype(np.float32)
    weight = torch.nn.Parameter(torch.tensor(start))
    rival = torch_nets.Sgdat([weight])
    tx, params = sj.sgdat(), jnp.asarray(start)
    state, shares = tx.init(params), []
    for gradient in np.random.default_rng(0).normal(size=(5, 30)).astype(np.float32):
        weight.grad = torch.tensor(gradient)
        rival.step()
        updates, state = tx.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(weight.detach().numpy(), params)
        shares.append(float(rival.flipped[0]))
        assert shares[-1] == pytest.approx(float(np.mean(np.asarray(updates) != 0)))
    assert max(shares) > 0


@pytest.mark.parametrize("model", train_step.MODELS)
def test_torch_measures_what_the_library_measures(model):
    torch.manual_seed(0)
    data = train_step.made_images(8)
    mean, std = dataset.channel_statistics(data.train_images)
    take = torch_nets.train_step(
        model, 0.0625, "cpu", mixed=False, compiled=False, padding=4, mean=mean, std=std
    )
    images, labels = torch.tensor(data.train_images), torch.tensor(data.train_labels)
    numbers = torch.arange(8)
    for _ in range(3):
        loss, correct, top5, flips = take(images, labels.long(), numbers)
        assert 0 < loss / 8 < 10
        assert 0 <= correct <= top5 <= 8
        assert 0 <= flips.min() <= flips.max() <= 1
    settings = configs.TrainConfig(model=model, width=0.0625)
    assert len(flips) == len(
        setup.spec_of(settings, data).shapes().choices.binary_layers
    )
