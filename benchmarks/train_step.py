"""How fast is a whole training step, next to full precision and to PyTorch?

Forward and backward pass, both optimizers, batch normalization, augmentation (shifts
and mirrors) and metrics of the same network: with SGDAT, with Adam on latent weights,
in full precision, and written plainly in PyTorch, eager and on request compiled. All
steps of a case take turns in one process; times are medians, ratios are medians over
the turns. A turn is as many steps as training takes in one program: one on a CPU,
hundreds elsewhere.

    python -m benchmarks.train_step --models BinaryNet --width 0.5 --batch 64

On an accelerator, where PyTorch runs with mixed precision:

    python -m benchmarks.train_step --dtype bfloat16 --batch 128 1024 4096 --compile
"""

import argparse
import importlib.util
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from sgdat_jax import cpu, lookups, summary
from sgdat_jax.data import dataset, sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import loop, steps

RESULTS = pathlib.Path(__file__).parent / "results" / "train_step"
MODELS = ("BinaryNet", "SgdatResNet18", "BiRealResNet18")
SHAPE = (32, 32, 3)
VARIANTS = {
    "sgdat": {"optimizer": "sgdat"},
    "adam": {"optimizer": "adam"},
    "full precision": {"full_precision": ("*",)},
}


def made_images(batch):
    """Returns a set of one batch of CIFAR's shape; pixels do not matter for speed."""
    images = np.random.default_rng(0).integers(0, 256, (batch, *SHAPE), np.uint8)
    labels = (np.arange(batch) % 10).astype(np.int32)
    return sources.Dataset(
        "made", images, labels, images, labels, class_names=tuple("0123456789")
    )


def settings_of(model, batch, options, **variant):
    return configs.TrainConfig(
        model=model,
        width=options.width,
        compute_dtype=options.dtype,
        batch_size=batch,
        crop_padding=4,
        flip=True,
        **variant,
    )


def program_arguments(settings, data):
    """Returns what the training program takes for a turn: task, state and images."""
    plan = setup.plan(settings, data)
    images = loop.on_device(data, plan.task.layout)
    batch = jnp.arange(settings.batch_size)
    indices = jnp.tile(batch, (steps.steps_per_call(), 1))
    return plan.task, plan.init(0), images, indices


def training_steps(settings, data):
    """Returns a turn of the training program itself, which keeps its state."""
    task, state, *rest = program_arguments(settings, data)
    held = [state]

    def turn():
        held[0], record = loop.programs().train_steps(task, held[0], *rest)
        return held[0], record

    return turn


def torch_steps_per_turn():
    """Returns how many steps of PyTorch are a turn: each is a call of its own."""
    return min(steps.steps_per_call(), 32)


def torch_steps(settings, data, *, compiled):
    """Returns a turn of the same network in PyTorch."""
    import torch

    from benchmarks import torch_nets

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    mean, std = dataset.channel_statistics(data.train_images)
    take = torch_nets.train_step(
        settings.model,
        settings.width,
        device,
        mixed=settings.compute_dtype == "bfloat16",
        compiled=compiled,
        padding=settings.crop_padding,
        mean=mean,
        std=std,
    )
    images = torch.tensor(data.train_images, device=device)
    labels = torch.tensor(data.train_labels, device=device).long()
    numbers = torch.arange(settings.batch_size, device=device)

    def turn():
        for _ in range(torch_steps_per_turn()):
            take(images, labels, numbers)
        if device == "cuda":
            torch.cuda.synchronize()

    return turn


def turns_of(model, batch, options):
    """Returns a turn of each kind of step of a case by name."""
    data = made_images(batch)
    turns = {
        name: training_steps(settings_of(model, batch, options, **variant), data)
        for name, variant in VARIANTS.items()
    }
    if importlib.util.find_spec("torch"):
        settings = settings_of(model, batch, options)
        turns["pytorch"] = torch_steps(settings, data, compiled=False)
        if options.compile:
            turns["pytorch compiled"] = torch_steps(settings, data, compiled=True)
    return turns


def flops_per_image(model, batch, options):
    """Returns the floating-point operations of a step: three times the forward pass."""
    settings = settings_of(model, batch, options)
    total = summary.total(setup.summarize(settings, made_images(batch)))
    return 3 * 2 * (total.binary_macs + total.real_macs)


def matmul_rate(dtype):
    """Returns the measured rate of a large matrix product, in operations a second."""
    size = 4096 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    samples = timing.take_turns([lambda: product(a, a)], rounds=5)
    return 2 * size**3 / timing.spread(samples.wall).low


def measure(model, batch, options, peak):
    """Returns a row per step of one case."""
    turns = turns_of(model, batch, options)
    taken = timing.take_turns(
        list(turns.values()), rounds=options.rounds, warmup=options.warmup
    ).wall
    counts = [
        torch_steps_per_turn() if "pytorch" in name else steps.steps_per_call()
        for name in turns
    ]
    seconds = taken / np.array(counts)
    work = batch * flops_per_image(model, batch, options)
    rows = []
    for place, name in enumerate(turns):
        took = timing.spread(seconds[:, place])
        rows.append(
            {
                "model": model,
                "batch": batch,
                "step": name,
                "rounds": len(seconds),
                "steps_per_round": counts[place],
                "seconds": took._asdict(),
                "images_per_second": batch / took.median,
                "share_of_matmul_rate": work / took.median / peak,
                "over_sgdat": timing.paired_ratio(seconds, place, 0)._asdict(),
            }
        )
    return rows


def show(rows):
    cells = [
        {
            "model": row["model"],
            "batch": str(row["batch"]),
            "step": row["step"],
            "images/s": f"{row['images_per_second']:,.0f}",
            "of matmul rate": f"{row['share_of_matmul_rate']:.0%}",
            "time / SGDAT's": timing.ratio_text(row["over_sgdat"]),
        }
        for row in rows
    ]
    timing.show(cells, names=("model", "step"))


def main(arguments: Sequence[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, nargs="+", default=[128])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--warmup", type=int, default=2, help="rounds not timed")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    cpu.keep_freed_memory()  # as the command does
    lookups.look_up_gradients()
    peak = matmul_rate(options.dtype)
    case = f"{jax.default_backend()}-{options.dtype}"
    for model in options.models:
        rows = []
        name = f"{case}-{model}-width{options.width:g}.json"
        for batch in options.batch:
            found = measure(model, batch, options, peak)
            show(found)
            rows += found
            timing.write(options.out / name, {"matmul_rate": peak, "rows": rows})


if __name__ == "__main__":
    main()
