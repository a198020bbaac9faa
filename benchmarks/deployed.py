"""A network in every form in which it is used, as functions of images.

The forms are our compiled function of a file of weights, and files for other programs.
`deployment` measures them.
"""

import functools
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from benchmarks import inference as networks_of
from sgdat_jax import inference
from sgdat_jax.inference import weight_files
from sgdat_jax.inference.export import checks, iree, networks
from sgdat_jax.models import specs

OURS, RIVAL = "ours bits", "onnxruntime float32"
WEIGHTS = "net.npz"  # name of the file of weights
_COMPARED = 4  # images whose predicted classes are compared
# From images to a program that predicts them; they lie where it takes them from.
Bind = Callable[[np.ndarray], Callable[[], Any]]


class Form(NamedTuple):
    """How a network is written to a file, and read from it."""

    file: str  # its name
    write: Callable[[networks.Network, pathlib.Path, str | None], Any] | None
    read: Callable[[pathlib.Path], Bind]
    has_processor: bool = True  # can be made for a given processor
    takes_batches: bool = True


class Program(NamedTuple):
    """A network that predicts."""

    file_bytes: int
    load_seconds: float  # from the file to the first prediction
    bind: Bind


def threads() -> int:
    """Returns how many threads each program has: as many as processors."""
    return len(os.sched_getaffinity(0))


def write_weights(model: str, width: float, file: pathlib.Path) -> None:
    """Writes a file of weights as training does."""
    state = networks_of.made_weights(model, width)
    params, stats = nnx.split_state(state, nnx.Param, ...)
    shape = networks_of.SHAPES[model]
    spec = specs.Spec(model, 10, shape, width=width)
    details = {"mean": [0.5] * shape[2], "std": [0.25] * shape[2]}
    weight_files.write(file, spec, params, stats, details)


def float32_bytes(model: str, width: float) -> int:
    """Returns the bytes of a network's variables in float32."""
    shapes = specs.Spec(model, 10, networks_of.SHAPES[model], width=width).shapes()
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes)))


def _write_iree(network, file, processor, dtype):
    target = iree.host() if processor else None
    options = networks.Options(target=target, cpu=processor)
    file.write_bytes(iree.content(network.with_products(dtype), options))


def _export(network, file, processor, kind):
    del processor
    inference.export(network.file, kind, file)


def _read_iree(file):
    """Returns the function of a module, on all threads of the process."""
    from iree import runtime

    driver = "local-sync" if threads() == 1 else "local-task"
    if threads() > 1:
        runtime.flags.parse_flags(f"--task_topology_group_count={threads()}")
    context = runtime.SystemContext(config=runtime.Config(driver))
    module = runtime.VmModule.mmap(context.instance, str(file))
    context.add_vm_module(module)
    main = context.modules[module.name]["main"]

    def bind(images):
        device = context.config.device
        placed = [
            runtime.asdevicearray(device, image) for image in images[:, np.newaxis]
        ]
        return lambda: [main(image).to_host() for image in placed]

    return bind


def _read_onnx(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"]
    )
    return lambda images: lambda: session.run(None, {"images": images})[0]


def _read_stablehlo(file):
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    return _bind_jax(jax.jit(exported.call))


def _read_ours(file, dtype):
    return _bind_jax(inference.load(file, dtype))


def _bind_jax(classify):
    def bind(images):
        placed = jax.device_put(images)
        return lambda: np.asarray(classify(placed))

    return bind


def _of_iree(dtype):
    write = functools.partial(_write_iree, dtype=dtype)
    return Form(f"{dtype}.vmfb", write, _read_iree, takes_batches=False)


FORMS = {
    OURS: Form(WEIGHTS, None, functools.partial(_read_ours, dtype="bits")),
    "ours float32": Form(WEIGHTS, None, functools.partial(_read_ours, dtype="float32")),
    "jax StableHLO": Form(
        "net.stablehlo",
        functools.partial(_export, kind="stablehlo"),
        _read_stablehlo,
    ),
    "IREE bits": _of_iree("bits"),
    "IREE int8": _of_iree("int8"),
    "IREE float32": _of_iree("float32"),
    RIVAL: Form("net.onnx", functools.partial(_export, kind="onnx"), _read_onnx, False),
}


def write_files(
    model: str,
    width: float,
    folder: pathlib.Path,
    forms: Sequence[str],
    processor: str | None,
) -> None:
    """Writes the files that a folder does not have yet."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS
    if not weights.exists():
        write_weights(model, width, weights)
    network = networks.open_network(weights, None, "uint8")
    for form in (FORMS[name] for name in forms):
        if form.write is not None and not (folder / form.file).exists():
            form.write(network, folder / form.file, processor)


def read_programs(folder: pathlib.Path, forms: Sequence[str]) -> dict[str, Program]:
    """Returns the programs of files, by name; all must predict the same.

    Raises:
      ValueError: if one predicts another class where rounding does not decide.
    """
    network = networks.open_network(folder / WEIGHTS, None, "uint8")
    images = network.random_inputs(_COMPARED)
    programs = {}
    for name in forms:
        file = folder / FORMS[name].file
        begun = time.perf_counter()
        bind = FORMS[name].read(file)
        bind(images[:1])()
        seconds = time.perf_counter() - begun
        logits = np.reshape(bind(images)(), (_COMPARED, -1))  # IREE's one by one
        checks.compare(network, images, logits)
        programs[name] = Program(file.stat().st_size, seconds, bind)
    return programs
