"""SGDAT in plain NumPy, from the equations alone: what the library is held to."""

from collections.abc import Callable

import numpy as np

Hyperparameter = float | Callable[[int], float]


class Sgdat:
    """SGDAT with one array of weights; its attributes are the paper's symbols.

    With ``dtype`` float64 the rounding of the library's float32 shows as a difference.
    """

    def __init__(
        self,
        w: np.ndarray,
        learning_rate: Hyperparameter = 1e-4,
        threshold: Hyperparameter = 1e-7,
        *,
        momentum: float | None = None,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        reset_flips_every: int | None = None,
        max_flips: float = np.inf,
        dtype: np.typing.DTypeLike = np.float64,
    ):
        self.learning_rate = learning_rate
        self.threshold = threshold
        self.momentum = momentum or 0.0
        self.dampening = dampening
        self.nesterov = nesterov
        self.weight_decay = weight_decay or 0.0
        self.reset_flips_every = reset_flips_every
        self.max_flips = max_flips
        self.dtype = np.dtype(dtype).type
        self.t = 0
        self.w = np.where(w >= 0, 1, -1).astype(dtype)
        self.m = np.zeros_like(self.w)
        self.u = np.zeros_like(self.w)
        self.n = np.zeros(self.w.shape, np.int64)
        self.margin = np.zeros_like(self.w)  # |m| - threshold * n before the last flips

    def step(self, g: np.ndarray) -> None:
        learning_rate, threshold, momentum, dampening, weight_decay = map(
            self.dtype,
            (
                _at(self.learning_rate, self.t),
                _at(self.threshold, self.t),
                self.momentum,
                self.dampening,
                self.weight_decay,
            ),
        )
        if self.reset_flips_every and self.t % self.reset_flips_every == 0:
            self.n = np.zeros_like(self.n)
            self.u = np.zeros_like(self.u)
        g = g.astype(self.dtype)
        d = g + weight_decay * self.w
        if momentum != 0:
            self.u = momentum * self.u + (1 - dampening) * g
            d = d + momentum * self.u if self.nesterov else self.u
        self.m = self.m - learning_rate * d
        self.margin = np.abs(self.m) - threshold * self.n
        w = np.where(self.margin > 0, np.sign(self.m), self.w)
        self.n = np.minimum(self.n + (w != self.w), self.max_flips).astype(np.int64)
        self.w = w
        self.t += 1


def _at(value: Hyperparameter, t: int) -> float:
    return value(t) if callable(value) else value
