"""ONNX, for onnxruntime and others: products in float32, signs stored as bits.

The function's jaxpr becomes a graph, one operation after another. A large array of -1
and +1 is stored as bits, eight to a byte, with operations that unpack it; onnxruntime
does them once, when it loads the file.
"""

import pathlib

import jax
import numpy as np

from sgdat_jax.inference.export import networks
from sgdat_jax.inference.export.jaxprs import graph as graph_lib

# The first opset with bitwise operations, which most runtimes have had since 2023.
_OPSET = 18
_IR_VERSION = 8  # of the same release of ONNX


def runs_here(options: networks.Options) -> bool:
    """Returns whether this machine can run a file."""
    del options
    return True


def content(network: networks.Network, options: networks.Options) -> bytes:
    """Returns the content of a file.

    Raises:
      ValueError: if onnx is missing, or the graph has no form of an operation.
    """
    del options
    onnx = networks.require("onnx", "onnx")
    function = network.with_products("float32").function
    inputs = network.any_inputs()
    jaxpr = jax.make_jaxpr(lambda images: function.plain(images))(inputs)
    graph = graph_lib.Graph(onnx)
    images = graph.input("images", inputs)
    (logits,) = graph.add_jaxpr(jaxpr.jaxpr, jaxpr.consts, [images])
    model = onnx.helper.make_model(
        graph.finish("network", logits, jaxpr.out_avals[0]),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="sgdat-jax",
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"ONNX cannot hold this network ({reason}); a function needs products of "
            "float32: load(file, 'float32') or fold(model, 'float32')."
        ) from None
    return model.SerializeToString()


def run(
    file: pathlib.Path, network: networks.Network, options: networks.Options
) -> networks.Run:
    """Returns the function of a file."""
    del network, options
    runtime = networks.require("onnxruntime", "onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = (argument.name for argument in session.get_inputs())
    return lambda inputs: np.asarray(session.run(None, {name: inputs})[0])
