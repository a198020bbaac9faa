"""Modules of IREE, machine code for devices without Python.

The binary products are a plain sum of counted words, written out: IREE makes vector
instructions of it, but nothing good of the form that suits XLA (see
`words`). Its higher levels of optimization round real-valued
layers otherwise, which changes classes, so the default level is used.
"""

import io
import pathlib
import platform
import re
import subprocess
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from sgdat_jax import bits, checks
from sgdat_jax.inference import classifier, folding, function, weight_files
from sgdat_jax.inference.export import networks, words

_DRIVER = "local-sync"  # runs in the calling thread
_OPTIONS = (
    # Constants made of others are made when the file is loaded, and do not swell it.
    "--iree-opt-const-eval=false",
    "--iree-vm-bytecode-module-strip-source-map=true",
    "--iree-llvmcpu-debug-symbols=false",
)
_OF_PROCESSOR = {
    "wasm32": ("--iree-llvmcpu-link-embedded=false",),
    "riscv64": (  # rv64gc, which Linux needs; without it there are no floats
        "--iree-llvmcpu-target-cpu-features=+m,+a,+f,+d,+c",
        "--iree-llvmcpu-target-abi=lp64d",
    ),
}


def host() -> str:
    """Returns the target triple of this machine."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine(), platform.machine()
    )
    system = {"Darwin": "apple-darwin", "Windows": "pc-windows-msvc"}
    return f"{machine}-{system.get(platform.system(), 'linux-gnu')}"


def runs_here(options: networks.Options) -> bool:
    """Returns whether this machine can run what is compiled for a target.

    A processor that is named may have instructions that this one lacks, and the first
    of them would end the process.
    """
    is_any = options.cpu in (None, "host", "generic")
    return is_any and options.target in (None, host())


def content(network: networks.Network, options: networks.Options) -> bytes:
    """Returns the content of a file.

    Raises:
      ValueError: if the compiler is missing, lacks the target, or fails.
    """
    # Without a target the file is for this processor and those with all its features.
    target = options.target or host()
    cpu = options.cpu or ("generic" if options.target else "host")
    arguments = [
        *_OPTIONS,
        f"--iree-llvmcpu-target-triple={target}",
        f"--iree-llvmcpu-target-cpu={cpu}",
        *_OF_PROCESSOR.get(target.partition("-")[0], ()),
    ]
    program = _program(network, options.batch_size or 1)
    return _compile(program, target, cpu, arguments)


def _program(network: networks.Network, batch_size: int) -> bytes:
    """Returns a network as StableHLO in MLIR's bytecode."""
    whole = _in_its_form(network)

    # Made anew, as JAX keeps what it traced in another form. Its name is the module's.
    def network_of(inputs: jax.Array) -> jax.Array:
        return whole.plain(inputs)

    with bits.summing_by(words.sums):
        traced = jax.jit(network_of).trace(network.inputs(batch_size))
        module = traced.lower(lowering_platforms=("cpu",)).compiler_ir("stablehlo")
    program = io.BytesIO()
    module.operation.write_bytecode(program)
    return program.getvalue()


def _in_its_form(network: networks.Network) -> function.Function:
    """Returns the function of a network, with convolutions of few channels written out.

    The network must be from a file; another function is returned as it is.
    """
    if network.file is None:
        return network.function
    model = folding.fold(weight_files.read_model(network.file), network.products)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv) and words.is_narrow(module):
            module.conv_general_dilated = words.convolve
    return classifier.of_images(model, weight_files.read_about(network.file))


def _compile(program: bytes, target: str, cpu: str, arguments: Sequence[str]) -> bytes:
    compiler = networks.require("iree.compiler", "iree-base-compiler")
    try:
        return compiler.compile_str(
            program,
            input_type="stablehlo",
            target_backends=["llvm-cpu"],
            extra_args=list(arguments),
        )
    except compiler.CompilerToolError as error:
        known = targets()
        if target.partition("-")[0].replace("_", "-") not in known:
            raise ValueError(
                f"`target` must be a triple of a processor that IREE's compiler has "
                f"({', '.join(known)}), got {target!r}."
            ) from None
        accepted = re.search(r"List of accepted CPUs: (\S.*)", str(error))
        if accepted and f"'{cpu}' is not a recognized processor" in str(error):
            processors = accepted[1].split(", ")
            raise ValueError(
                f"`cpu` must be a processor that IREE's compiler has for {target}, got "
                f"{cpu!r}; the nearest is {checks.nearest(processors, cpu)!r} (known: "
                f"{', '.join(processors)})."
            ) from None
        lines = [line for line in str(error).splitlines() if "error:" in line.lower()]
        reason = lines[0].strip() if lines else str(error)
        raise ValueError(f"IREE cannot compile for {target}: {reason}") from None


def targets() -> list[str]:
    """Returns the processors that the installed compiler has, as in target triples."""
    networks.require("iree.compiler", "iree-base-compiler")
    from iree.compiler.tools import binaries

    listed = subprocess.run(
        [binaries.find_tool("iree-compile"), "--iree-llvmcpu-list-targets"],
        capture_output=True,
        text=True,
        check=False,
    )
    return re.findall(r"^ +(\S+) +- ", listed.stdout + listed.stderr, re.MULTILINE)


def run(
    file: pathlib.Path, network: networks.Network, options: networks.Options
) -> networks.Run:
    """Returns the function of a file for this machine, on one core."""
    del network
    runtime = networks.require("iree.runtime", "iree-base-runtime")
    context = runtime.SystemContext(config=runtime.Config(_DRIVER))
    module = runtime.VmModule.copy_buffer(context.instance, file.read_bytes())
    context.add_vm_module(module)
    main = context.modules[module.name]["main"]
    return networks.by_batches(
        lambda batch: np.asarray(main(batch).to_host()), options.batch_size or 1
    )
