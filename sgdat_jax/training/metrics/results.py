"""The lines of metrics of a run, and its result."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sgdat_jax import lookups, optimizers
from sgdat_jax.run_folder import formats
from sgdat_jax.training import runs, states, versions
from sgdat_jax.training.metrics import diagnostics


def epoch_lines(run: runs.Run) -> tuple[formats.EpochLine, formats.Times]:
    """Returns the line of metrics of an epoch whose steps are done, and its times.

    Raises:
      FloatingPointError: if all of the steps were skipped.
    """
    assert run.progress.record is not None
    sums = run.progress.record.sums()
    steps, epoch = sums["steps"], len(run.progress.lines) + 1
    if not sums["examples"]:
        raise FloatingPointError(
            f"the loss or gradients of all steps of epoch {epoch} are not finite"
            f"{runs.where_saved(run)}"
        )
    line: Any = {"epoch": epoch, **means("train", sums)}
    if sums["skipped_steps"]:
        line["skipped_steps"] = int(sums["skipped_steps"])
    for name in ("flip_ratio", "flip_ratio_per_layer", "gradient_per_layer"):
        if name in sums:
            line[name] = jax.tree.map(lambda total: total / steps, sums[name])
    if run.task.diagnostics:
        line |= _diagnostics_line(run)
    seconds = run.progress.epoch_seconds
    images = run.steps_per_epoch * run.config.batch_size
    return line, {
        "epoch": epoch,
        "seconds": seconds,
        "images_per_second": images / seconds,
    }


def means(prefix: str, sums: Mapping[str, float]) -> dict[str, float]:
    """Returns means over all examples of the sums of `step.Metrics`."""
    return {
        f"{prefix}_loss": sums["loss"] / sums["examples"],
        f"{prefix}_accuracy": sums["correct"] / sums["examples"],
        f"{prefix}_top5_accuracy": sums["correct_top5"] / sums["examples"],
    }


def result_of(run: runs.Run) -> dict[str, Any]:
    """Returns the result of a run that has come to its end, as in JSON."""
    lines = run.progress.lines
    selecting = formats.selecting(lines[-1])
    best: Any = max(lines, key=lambda line: line[selecting])  # type: ignore[literal-required]
    of_validation = selecting == "valid_accuracy"
    layout = run.task.layout
    device = layout.first
    skipped = sum(line.get("skipped_steps", 0) for line in lines)
    return {
        "test_accuracy": lines[-1]["test_accuracy"],
        "best_test_accuracy": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "selected_by": "validation" if of_validation else "test",
        "selection": "test_accuracy: last epoch; best_test_accuracy: best epoch on "
        f"the {'validation part' if of_validation else 'test set'}",
        **({"best_valid_accuracy": best[selecting]} if of_validation else {}),
        "epochs": run.config.epochs,
        "skipped_steps": skipped,
        "seconds": run.progress.seconds,
        "seed": run.config.seed,
        "model": _model(run.task),
        **(_flips(run, lines) if run.task.is_binary else {}),
        "device": " ".join(dict.fromkeys((device.platform, device.device_kind))),
        "devices": layout.devices,
        "gradients": "looked up" if lookups.are_in_use() else "by XLA",
        "versions": {"python": platform.python_version(), **versions.packages()},
    }


def _model(task: states.Task) -> dict[str, Any]:
    """Returns what is known of a network, as in JSON."""
    said: dict[str, Any] = {"binary_layers": task.binary_layers}
    if dataclasses.is_dataclass(task.choices) and not isinstance(task.choices, type):
        said |= dataclasses.asdict(task.choices)
    return {"name": task.model} | {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in said.items()
    }


_flip_counts = jax.jit(optimizers.flip_counts)
_diagnose = jax.jit(diagnostics.diagnose)
_flip_histogram = jax.jit(optimizers.flip_histogram)


def _diagnostics_line(run: runs.Run) -> dict[str, Any]:
    line: dict[str, Any] = {}
    counts_before = run.state.counts_before
    if counts_before is None:
        return line
    if run.config.restarts_flips:
        counts_before = jax.tree.map(jnp.zeros_like, counts_before)
    diagnosed = _diagnose(run.state.opt_state, counts_before)
    found = run.task.layout.gather(diagnosed)
    for name, value in found._asdict().items():
        if isinstance(value, optimizers.FlipRatio):
            line |= _shares(name, value)
        elif value is not None:
            line[name] = value.tolist()
    return line


def _flips(run: runs.Run, lines: Sequence[formats.EpochLine]) -> dict[str, Any]:
    """Returns how often binary weights flipped, in all and by their number."""
    flips = sum(line["flip_ratio"] for line in lines) * run.steps_per_epoch
    if not run.task.counts_flips:
        return {"flips_per_weight": flips}
    counts = _flip_counts(run.state.opt_state)
    histogram = run.task.layout.gather(_flip_histogram(counts))
    return {"flips_per_weight": flips, **_shares("flip_histogram", histogram)}


def _shares(name: str, shares: optimizers.FlipRatio) -> dict[str, Any]:
    """Returns shares of all weights and of each layer as entries of a line."""
    per_layer = optimizers.layers_of(shares.per_leaf)
    return {
        name: shares.total.tolist(),
        f"{name}_per_layer": {key: leaf.tolist() for key, leaf in per_layer.items()},
    }
