"""Records what the published training script does to binary weights over epochs.

The script makes new optimizers at every epoch. It keeps latent weights and the averages
of Bop beside the weights. This program runs its optimizers in its loop on the gradients
of ``published.npz`` and writes ``restarts.npz``. It needs PyTorch and a checkout of
https://github.com/gushan/SGDAT:

    python tests/golden/record_restarts.py PATH_TO_CHECKOUT
"""

import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
STEPS_PER_EPOCH = 25


def sign(x):
    return torch.where(x >= 0, 1.0, -1.0)


def binarize(p, threshold):
    """Keeps what the optimizer left as the latent weight, and takes its sign."""
    p.org = p.data.clamp(-1, 1).clone()
    latent = p.org
    if threshold is not None:
        latent = torch.where(p.org.abs() - threshold > 0, p.org, p.pre_binary_data)
    p.data = sign(latent)


def train(make, start, gradients, threshold=None):
    """Returns the weights after each step."""
    p = torch.nn.Parameter(sign(torch.from_numpy(start)))
    p.org = torch.zeros_like(p.data)
    weights = []
    for step, gradient in enumerate(torch.from_numpy(gradients)):
        if step % STEPS_PER_EPOCH == 0:
            optimizer = make([p])
        p.grad = gradient.clone()
        p.pre_binary_data = p.data.clone()
        p.data = p.org.clone()
        optimizer.step()
        binarize(p, threshold)
        weights.append(p.detach().numpy().copy())
    return np.stack(weights)


def main(checkout):
    sys.path.insert(0, checkout)
    from optimizers.Bop import Bop
    from optimizers.Bop2ndOrder import Bop2ndOrder
    from optimizers.SGDAT import SGDAT

    torch.set_num_threads(1)
    sgd, adam = torch.optim.SGD, torch.optim.Adam
    # Rows whose binary weights learn in the same way are recorded once.
    rows = {
        "sgd": (lambda p: sgd(p, lr=1e-4), None),
        "sgdm": (lambda p: sgd(p, lr=1e-4, momentum=0.9), None),
        "adam_star": (lambda p: adam(p, lr=1e-3), None),
        "bop": (lambda p: Bop(p, gamma=1e-4, threshold=1e-8), None),
        "bop2nd_order": (
            lambda p: Bop2ndOrder(p, gamma=1e-7, sigma=1e-3, threshold=1e-6),
            None,
        ),
        "sgdt": (lambda p: sgd(p, lr=1e-4), 1e-8),
        "sgdat": (lambda p: SGDAT(p, lr=1e-4, threshold=1e-7), None),
        "sgdat_momentum": (
            lambda p: SGDAT(p, lr=1e-4, threshold=1e-7, momentum=0.9),
            None,
        ),
    }
    published = np.load(HERE / "published.npz")
    start, gradients = published["w0"], published["grads"]
    recorded = {
        name: np.packbits(train(make, start, gradients, threshold) > 0)
        for name, (make, threshold) in rows.items()
    }
    np.savez_compressed(HERE / "restarts.npz", **recorded)


if __name__ == "__main__":
    main(*sys.argv[1:])
