"""BinaryNet in Larq, to measure against; without this library, and without JAX."""

import larq
import tf_keras as keras

LATENT = {
    "input_quantizer": "ste_sign",
    "kernel_quantizer": "ste_sign",
    "kernel_constraint": "weight_clip",
    "use_bias": False,
}


def binary_net(width, *, pad_values=0.0, **binary):
    """Returns BinaryNet, without the Hardtanh before its last dense layer.

    Args:
      width: factor of all channels and hidden features.
      pad_values: what binary convolutions pad signs with; 0 is Larq's default.
      binary: options of binary layers, by default those of latent weights.
    """
    binary = LATENT | binary
    c1, c2, c3, hidden = (round(width * size) for size in (128, 256, 512, 1024))
    model = keras.Sequential([keras.Input((32, 32, 3))])

    def binary_conv(channels, pool):
        window = {"padding": "same", "pad_values": pad_values, **binary}
        model.add(larq.layers.QuantConv2D(channels, 3, **window))
        if pool:
            model.add(keras.layers.MaxPool2D(2))
        model.add(keras.layers.BatchNormalization())

    model.add(keras.layers.Conv2D(c1, 3, padding="same"))
    model.add(keras.layers.BatchNormalization())
    for channels, pool in ((c1, 1), (c2, 0), (c2, 1), (c3, 0), (c3, 1)):
        binary_conv(channels, pool)
    model.add(keras.layers.Flatten())
    for _ in range(2):
        model.add(larq.layers.QuantDense(hidden, **binary))
        model.add(keras.layers.BatchNormalization())
    model.add(keras.layers.Dense(10))
    model.add(keras.layers.BatchNormalization(scale=False, center=False))
    return model
