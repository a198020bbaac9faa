"""ONNX graphs made of jaxprs, whatever network they are of."""
