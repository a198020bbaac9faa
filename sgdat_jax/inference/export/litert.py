"""Files of LiteRT (TFLite), by its own converter from StableHLO.

TFLite has no packed signs and no population count, so products are those of float32 and
kernels are float32 in the file, too: it is as large as the network in full precision.
"""

import pathlib

import jax
import numpy as np

from sgdat_jax.inference.export import networks

_CONVERTER = ("litert-converter", "litert")  # package and extra
_INPUT, _OUTPUT = "images", "logits"


def runs_here(options: networks.Options) -> bool:
    """Returns whether this machine can run a file."""
    del options
    return True


def content(network: networks.Network, options: networks.Options) -> bytes:
    """Returns the content of a file.

    Raises:
      ValueError: if a package is missing, or an operation has no form in LiteRT.
    """
    api = networks.require("litert_converter.converter_api_ext", *_CONVERTER)
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir.dialects import stablehlo

    program = _program(network.with_products("float32"), options.batch_size or 1)
    with ir.Context() as context:
        api.prepare_mlir_context(context)
        module = stablehlo.deserialize_portable_artifact(context, program)
        api.set_signature(module.operation, "serving_default", [_INPUT], [_OUTPUT])
        try:
            api.run_convert_to_tfl_passes(
                module, passmanager.PassManager(), api.ConvertToTFLConfig()
            )
            return bytes(api.export_flatbuffer_to_bytes(module.operation))
        except (RuntimeError, ValueError, ir.MLIRError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"LiteRT cannot hold this network ({reason}); a function needs "
                "products of float32: load(file, 'float32') or fold(model, 'float32')."
            ) from None


def _program(network: networks.Network, batch_size: int) -> bytes:
    """Returns a network as portable StableHLO."""
    networks.require("flatbuffers", "flatbuffers")  # by jax.export
    traced = jax.jit(lambda inputs: network.function.plain(inputs))
    exported = jax.export.export(traced, platforms=("cpu",))
    return exported(network.inputs(batch_size)).mlir_module_serialized


def run(
    file: pathlib.Path, network: networks.Network, options: networks.Options
) -> networks.Run:
    """Returns the function of a file, on one core."""
    del network
    litert = networks.require(
        "ai_edge_litert.interpreter", "ai-edge-litert", _CONVERTER[1]
    )
    interpreter = litert.Interpreter(model_content=file.read_bytes(), num_threads=1)
    signature = interpreter.get_signature_runner("serving_default")

    def classify(batch: np.ndarray) -> np.ndarray:
        return signature(**{_INPUT: batch})[_OUTPUT]

    return networks.by_batches(classify, options.batch_size or 1)
