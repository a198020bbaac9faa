"""Does our training program agree with the published script, epoch by epoch?

The loop of the published script, written anew in PyTorch, takes each step beside our
training program: the same initial state, the same augmented and normalized batches. So
arithmetic alone differs, and sums in another order round otherwise. How much that
changes is measured, too: a third loop is the published one again, on the same images in
reverse order within each batch, which is equal but for rounding.

    python -m benchmarks.published_loop --data ~/cifar10/ --seeds 0 1 2

Seeds whose file in the folder of results is whole are not trained again. With
``--plot`` nothing is trained: figure and summary are made of the files anew.
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
FIRST_STEPS = 20  # after each of which weights are compared
_TEST_BATCH = 500
_LOOPS = ("published", "reordered")  # in PyTorch


class PublishedLoop:
    """The published training loop of a network of `torch_nets`.

    At every epoch both optimizers are made anew: the latent weights alone go on.
    """

    def __init__(self, net):
        self.net = net
        self.binary, self._real = torch_nets.split_parameters(net)
        self._latents = [torch.zeros_like(weight) for weight in self.binary]
        self.begin_epoch()

    def begin_epoch(self):
        self._sgdat = torch_nets.Sgdat(self.binary, latents=self._latents)
        self._adam = torch.optim.Adam(self._real, 1e-3)
        self._sums = np.zeros(3)  # of losses, correct predictions and flips
        self._images = self._steps = 0

    def step(self, images, labels):
        """Takes a step; returns the mean loss before it."""
        self.net.train()
        logits = self.net(images)
        loss = functional.cross_entropy(logits, labels)
        self._sgdat.zero_grad()
        self._adam.zero_grad()
        loss.backward()
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
        self._loops = {name: PublishedLoop(network_of(run)) for name in _LOOPS}
        self._steps = 0
        weights = binary_weights(run)
        for theirs in self._loops.values():
            assert not any(differing(weights, theirs.weights()))
        self._found: dict[str, Any] = {
            "binary_weights": {
                name: array.size
                for name, array in zip(run.task.binary_layers, weights, strict=True)
            },
            "first_steps": [],
            "epochs": [],
        }

    def stepped(self, metrics, flip_ratio):
        images, labels = self._batches.train(self._steps)
        losses = {"ours": float(metrics.loss[0] / metrics.examples[0])}
        for name, theirs in self._loops.items():
            order = slice(None) if name == "published" else torch.arange(len(labels))
            if name == "reordered":
                order = order.flip(0)
            losses[name] = theirs.step(images[order], labels[order])
        self._steps += 1
        if self._steps <= FIRST_STEPS:
            self._found["first_steps"].append({"step": self._steps, "loss": losses})

    def save(self, run):
        steps = self._found["first_steps"]
        if self._steps <= FIRST_STEPS and "differing" not in steps[-1]:
            steps[-1]["differing"] = self._differing(binary_weights(run))

    def _differing(self, ours):
        """Returns how many weights of each layer differ from the published loop's."""
        theirs = self._loops["published"].weights()
        again = self._loops["reordered"].weights()
        return {"ours": differing(ours, theirs), "reordered": differing(again, theirs)}

    def end_epoch(self, run, line, times):
        total = sum(self._found["binary_weights"].values())
        counts = self._differing(binary_weights(run))
        share = {name: 1 - sum(layers) / total for name, layers in counts.items()}
        kept = (*published_curves.MEASURES, "train_loss", "train_accuracy", "test_loss")
        lines = {"ours": {key: line[key] for key in kept}}
        for name, theirs in self._loops.items():
            lines[name] = theirs.line() | theirs.test(self._batches.test())
            theirs.begin_epoch()
        self._found["epochs"] += [
            {
                "seed": run.config.seed,
                "epoch": line["epoch"],
                "loop": name,
                **values,
                "equal_to_published": share.get(name),
            }
            for name, values in lines.items()
        ]
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


def train(options, seed, file):
    """Trains all loops from one seed; writes what was found after each epoch."""
    config = settings_of(options, seed)
    data = setup.load(config)
    run = runs.begin(setup.plan(config, data), seed, folder=None)
    about = {
        "recipe": RECIPE,
        "seed": seed,
        "width": config.width,
        "batch": config.batch_size,
        "epochs": config.epochs,
        "steps_per_epoch": run.steps_per_epoch,
        "images": {"train": len(data.train_images), "test": len(data.test_images)},
        "torch_threads": torch.get_num_threads(),
    }

    def done(found):
        timing.write(file, {"about": about, **found})
        for row in found["epochs"][-1 - len(_LOOPS) :]:
            print(published_curves.told(row), flush=True)

    beside = Beside(run, done)
    loop.train(run, beside, keeper=beside)


def is_whole(file, options):
    """Returns whether a file has all epochs of a seed, by the same options."""
    if not file.exists():
        return False
    found = json.loads(file.read_text())
    has = found["about"]["epochs"], found["about"]["width"]
    last = max((row["epoch"] for row in found["epochs"]), default=0)
    return has == (options.epochs, options.width) and last == options.epochs


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
        if not options.plot and not is_whole(file, options):
            train(options, seed, file)
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    published_curves.summarize(found, options.out)


if __name__ == "__main__":
    main()
