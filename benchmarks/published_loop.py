"""Does our training program agree with the published script, epoch by epoch?

The loop of the published script, written anew in PyTorch, takes each step beside our
training program: the same initial state, the same augmented and normalized batches. So
arithmetic alone differs. What that changes is shown step by step at the beginning, by
two more loops of the published rules: one in float64, and one whose Adam rounds its
bias corrections to float32 as Optax does.

    python -m benchmarks.published_loop --data ~/cifar10/ --seeds 0 1 2

What is found of a seed is written after each epoch. Seeds whose file has all epochs are
not trained again. With ``--plot`` nothing is trained: figure and summary are made anew
of the files that are there.
"""

import argparse
import contextlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from benchmarks import published_curves, timing, torch_nets
from sgdat_jax import cpu, optimizers
from sgdat_jax.data import augment
from sgdat_jax.experiments import configs, recipes, setup
from sgdat_jax.inference import weight_files
from sgdat_jax.inference.export import torch_names
from sgdat_jax.training import loop, runs

RESULTS = pathlib.Path(__file__).parent / "results" / "published_loop"
RECIPE = "cifar10-binarynet-sgdat"
REAL_RATE = 1e-3  # of Adam
FIRST_STEPS = 20  # weights are compared after each
_TEST_BATCH = 500


class PublishedLoop:
    """The published training loop of a network of `torch_nets`.

    At every epoch both optimizers are made anew: the latent weights alone go on.

    Args:
      net: the network, in float32 or float64.
      rounded: whether the bias corrections of Adam are rounded to float32 as Optax has
        them; PyTorch's are Python's floats.
    """

    def __init__(self, net, *, rounded=False):
        self.net = net
        self._rounded = rounded
        self.binary, self._real = torch_nets.split_parameters(net)
        self._latents = [torch.zeros_like(weight) for weight in self.binary]
        self.begin_epoch()

    def begin_epoch(self):
        self._sgdat = torch_nets.Sgdat(self.binary, latents=self._latents)
        self._adam = torch.optim.Adam(self._real, REAL_RATE)
        self._sums = np.zeros(3)  # of losses, correct predictions and flips
        self._images = self._steps = 0

    def step(self, images, labels):
        """Takes a step on images of any dtype; returns the mean loss before it."""
        self.net.train()
        images = images.to(next(self.net.parameters()).dtype)
        logits = self.net(images)
        loss = functional.cross_entropy(logits, labels)
        self._sgdat.zero_grad()
        self._adam.zero_grad()
        loss.backward()
        if self._rounded:
            (group,) = self._adam.param_groups
            group["lr"] = REAL_RATE * rounding_of_corrections(self._steps + 1)
        self._sgdat.step()
        self._adam.step()
        correct = int((logits.argmax(1) == labels).sum())
        sizes = [weight.numel() for weight in self.binary]
        flips = float(np.average(self._sgdat.flipped, weights=sizes))
        self._sums += loss.item() * len(labels), correct, flips
        self._images += len(labels)
        self._steps += 1
        return loss.item()

    def line(self):
        """Returns what the epoch's steps so far have been like, as our lines say it."""
        losses, correct, flips = self._sums
        return {
            "train_loss": losses / self._images,
            "train_accuracy": correct / self._images,
            "flip_ratio": flips / self._steps,
        }

    @torch.no_grad()
    def test(self, batches):
        """Returns loss and accuracy by the running averages of normalization."""
        self.net.eval()
        losses = correct = count = 0
        for images, labels in batches:
            logits = self.net(images)
            losses += float(functional.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(1) == labels).sum())
            count += len(labels)
        return {"test_loss": losses / count, "test_accuracy": correct / count}

    def weights(self):
        """Returns the binary weights as arrays, in the order of the layers."""
        return [weight.detach().numpy() for weight in self.binary]


def rounding_of_corrections(step):
    """Returns Adam's step by bias corrections in float32, over that by exact ones.

    Optax computes ``1 - decay**step`` in float32: with 0.999 the first is 1.3e-5 off.
    """
    exact = [1 - decay**step for decay in (0.9, 0.999)]
    rounded = [
        float(1 - np.float32(decay) ** np.float32(step)) for decay in (0.9, 0.999)
    ]
    return exact[0] / rounded[0] * (rounded[1] / exact[1]) ** 0.5


def network_of(run):
    """Returns the network in PyTorch with the weights and averages of a run."""
    spec = run.task.network
    net = torch_nets.BinaryNet(spec.width)
    stateful = [module for module in net if module.state_dict()]
    names = torch_names.FAMILIES[spec.model].modules
    modules = dict(zip(names, stateful, strict=True))
    arrays = weight_files.by_path((run.state.params, run.state.stats))
    left = {
        (module, variable)
        for module in names
        for variable in modules[module].state_dict()
        if variable != "num_batches_tracked"
    }
    for place, array in arrays.items():
        path = place.partition("/")[2]  # without the number of the state
        module = path.rpartition("/")[0]
        variable = torch_names.key_of(spec, path).rpartition(".")[2]
        theirs = torch_names.to_theirs(spec, path, np.asarray(array))
        with torch.no_grad():
            getattr(modules[module], variable).copy_(torch.tensor(theirs.copy()))
        left.remove((module, variable))
    if left:
        raise ValueError(f"{spec.model} lacks {sorted(left)}.")
    return net


def binary_weights(run):
    """Returns the binary weights of a run, with PyTorch's axes and order of layers."""
    params = run.state.params
    arrays = weight_files.by_path(optimizers.select_binary(params, params))
    return [
        torch_names.to_theirs(run.task.network, f"{name}/kernel", np.asarray(array))
        for name in run.task.binary_layers
        for array in [arrays[f"{name}/kernel"]]
    ]


def differing(ours, theirs):
    """Returns how many weights of each layer differ."""
    return [int((a != b).sum()) for a, b in zip(ours, theirs, strict=True)]


@jax.jit
def _normalized(images, mean, std):
    return augment.normalize(images, mean, std)


class Batches:
    """The batches of a run as PyTorch takes them."""

    def __init__(self, run):
        self._run = run
        self._augment = jax.jit(
            lambda key, images: augment.augment(key, images, run.task.augmentation)
        )

    def train(self, step):
        """Returns images and labels of a step of the whole run."""
        run = self._run
        epoch, place = divmod(step, run.steps_per_epoch)
        if place == 0:
            self._order = np.asarray(loop.epoch_order(run, run.config.seed, epoch))
        numbers = self._order[place]
        # As in `training.steps`.
        key = jax.random.fold_in(jax.random.key(np.uint32(run.config.seed)), step)
        images = self._augment(key, run.dataset.train_images[numbers])
        return self._tensors(images, run.dataset.train_labels[numbers])

    def test(self):
        """Yields the test images with labels."""
        data = self._run.dataset
        for first in range(0, len(data.test_images), _TEST_BATCH):
            rows = slice(first, first + _TEST_BATCH)
            yield self._tensors(data.test_images[rows], data.test_labels[rows])

    def _tensors(self, images, labels):
        task = self._run.task
        images = np.array(_normalized(images, task.mean, task.std))
        images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(np.asarray(labels), dtype=torch.int64)


class Beside(contextlib.nullcontext, loop.Watcher):
    """Takes each step of our training program in PyTorch as well, and compares.

    It watches the program for its losses, and is its keeper, who sees the state after
    each step.

    Args:
      run: before its first step.
      done: called with all that was found, after each epoch.
    """

    def __init__(self, run, done):
        super().__init__(self)
        self._done = done
        self._batches = Batches(run)
        self._published = PublishedLoop(network_of(run))
        self._others = {
            "rounded": PublishedLoop(network_of(run), rounded=True),
            "float64": PublishedLoop(network_of(run).double()),
        }
        self._steps = 0
        weights = binary_weights(run)
        assert not any(differing(weights, self._published.weights()))
        self._found: dict[str, Any] = {
            "binary_weights": {
                name: array.size
                for name, array in zip(run.task.binary_layers, weights, strict=True)
            },
            "first_steps": [],
            "epochs": [],
        }

    def stepped(self, metrics, flip_ratio):
        batch = self._batches.train(self._steps)
        losses = {
            "ours": float(metrics.loss[0] / metrics.examples[0]),
            "published": self._published.step(*batch),
        }
        self._steps += 1
        if self._steps <= FIRST_STEPS:
            for name, other in self._others.items():
                losses[name] = other.step(*batch)
            self._found["first_steps"].append({"step": self._steps, "loss": losses})

    def save(self, run):
        line = self._found["first_steps"][-1]
        if line["step"] < self._steps or "differing" in line:
            return
        ours, published = binary_weights(run), self._published.weights()
        rounded, float64 = (other.weights() for other in self._others.values())
        line["differing"] = {
            "ours_published": differing(ours, published),
            "ours_rounded": differing(ours, rounded),
            "published_float64": differing(published, float64),
        }

    def end_epoch(self, run, line, times):
        published = self._published
        counts = differing(binary_weights(run), published.weights())
        equal = 1 - sum(counts) / sum(self._found["binary_weights"].values())
        theirs = published.line() | published.test(self._batches.test())
        for loop_of, found in (("ours", line), ("published", theirs)):
            self._found["epochs"].append(
                {
                    "seed": run.config.seed,
                    "epoch": line["epoch"],
                    "loop": loop_of,
                    **{key: found[key] for key in published_curves.MEASURES},
                    "equal_weights": equal,
                }
            )
        for each in (published, *self._others.values()):
            each.begin_epoch()
        self._done(self._found)

    def wait(self):
        pass

    def diverge(self, run):
        pass

    def finish(self, result):
        pass


def settings_of(options, seed):
    settings = dict(recipes.settings(configs.TrainConfig, RECIPE))
    settings |= {"epochs": options.epochs, "width": options.width, "seed": seed}
    if options.data:
        settings["dataset"] = options.data
    if options.batch:
        settings["batch_size"] = options.batch
    # Those of our state after each step, which `Beside` looks at.
    return configs.TrainConfig(**settings, devices=1, save_every_steps=1)


def about(config):
    """Returns what a file of results is of; another file is not the same seed's."""
    return {
        "recipe": RECIPE,
        "seed": config.seed,
        "width": config.width,
        "batch": config.batch_size,
        "epochs": config.epochs,
    }


def train(config, file):
    """Trains all loops from one seed; writes what was found after each epoch."""
    data = setup.load(config)
    run = runs.begin(setup.plan(config, data), config.seed, folder=None)
    told = {
        "about": about(config),
        "images": {"train": len(data.train_images), "test": len(data.test_images)},
        "steps_per_epoch": run.steps_per_epoch,
    }

    def done(found):
        timing.write(file, told | found)
        for row in found["epochs"][-2:]:
            print(published_curves.told(row), flush=True)

    beside = Beside(run, done)
    loop.train(run, beside, keeper=beside)


def is_whole(config, file):
    """Returns whether a file has all epochs of a run."""
    if not file.exists():
        return False
    found = json.loads(file.read_text())
    last = max(row["epoch"] for row in found["epochs"])
    return found["about"] == about(config) and last == config.epochs


def main(arguments: Sequence[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--batch", type=int, help="default: that of the recipe")
    parser.add_argument(
        "--data",
        help="as `sgdat-jax train --dataset` has it, such as a folder of arrays",
    )
    parser.add_argument("--plot", action="store_true", help="of files there are, alone")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if jax.default_backend() != "cpu":
        parser.error("only a CPU takes one step per call: set JAX_PLATFORMS=cpu")
    cpu.keep_freed_memory()  # as the command does
    files = [options.out / f"seed{seed}.json" for seed in options.seeds]
    for seed, file in zip(options.seeds, files, strict=True):
        config = settings_of(options, seed)
        if not options.plot and not is_whole(config, file):
            train(config, file)
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    if not found:
        parser.error(f"{options.out} has none of these seeds")
    published_curves.summarize(found, options.out)


if __name__ == "__main__":
    main()
