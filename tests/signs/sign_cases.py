"""The estimators, and plain NumPy float64 transcriptions of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax import signs

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]

# bfloat16 and float16 results are float32 results rounded once, so half a unit in the
# last place (2^-9, 2^-12), doubled. In float32, exp(-u) is off by up to u 2^-24
# relatively, and u reaches 87 before it underflows: 87 * 2^-24 = 5e-6, doubled.
RTOL = {jnp.float32: 1e-5, jnp.bfloat16: 2**-8, jnp.float16: 2**-11}
# Below the smallest normal number a result may be flushed to zero or lose digits.
ATOL = {dtype: float(jnp.finfo(dtype).smallest_normal) for dtype in DTYPES}

# The bounds as float32 holds them: the comparisons are made in float32.
TENTH = float(np.float32(0.1))
TWENTIETH = float(np.float32(0.05))

EDGES = [0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 1.0078125, 1.5, 2.0, 30.0, 1e3, 1e30, np.inf]
NEAR_ONE = [1.0 - 2**-8, 1.0 + 2**-7, 1.5 + 2**-7]


def ref_sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def ref_window(x, clip=1.0):
    return np.where(np.abs(x) <= clip, 1.0, 0.0)


def ref_approx(x):
    return np.where(np.abs(x) <= 1, 2 - 2 * np.abs(np.clip(x, -1, 1)), 0.0)


def ref_swish(x, beta=5.0):
    # Clipped where float64's cosh would overflow; the derivative is 0 from there on.
    bx = np.clip(beta * x, -700, 700)
    return beta * (2 - bx * np.tanh(bx / 2)) / (1 + np.cosh(bx))


def ref_ede(x, t=1.0):
    # cosh^-2 is 1 - tanh^2 without its cancellation.
    return max(1 / t, 1) * t / np.cosh(np.clip(t * x, -350, 350)) ** 2


def ref_reste(x, o=1.0):
    a = np.abs(x)
    power = np.clip(a, TENTH, 1.5) ** ((1 - o) / o) / o
    return np.where(a > 1.5, 0, np.where(a > TENTH, power, TENTH ** (1 / o) / TENTH))


def ref_heaviside(x):
    return np.where(x > 0, 1.0, 0.0)


def ref_ternary(x, d=TWENTIETH):
    return np.where(x >= d, 1.0, np.where(x <= -d, -1.0, 0.0))


def ref_dorefa(x, bits=2):
    return np.round(np.clip(x, 0, 1) * (2**bits - 1)) / (2**bits - 1)


def ref_dorefa_weights(x, bits=2):
    unit = np.tanh(x) / np.abs(np.tanh(x)).max() / 2 + 0.5
    return 2 * np.round(unit * (2**bits - 1)) / (2**bits - 1) - 1


def ref_tanh_slope(x):
    return np.cosh(np.clip(x, -350, 350)) ** -2.0 / np.abs(np.tanh(x)).max()


def ref_unit(x):
    return np.where((x >= 0) & (x <= 1), 1.0, 0.0)


# id: (estimator, positional parameters, reference value, reference derivative)
CASES = {
    "ste": (signs.ste_sign, (), ref_sign, ref_window),
    "ste-1.5": (signs.ste_sign, (1.5,), ref_sign, lambda x: ref_window(x, 1.5)),
    "ste-none": (signs.ste_sign, (None,), ref_sign, np.ones_like),
    "approx": (signs.approx_sign, (), ref_sign, ref_approx),
    "swish": (signs.swish_sign, (), ref_sign, ref_swish),
    "swish-1": (signs.swish_sign, (1.0,), ref_sign, lambda x: ref_swish(x, 1.0)),
    "ede": (signs.ede_sign, (), ref_sign, ref_ede),
    "ede-2^-10": (signs.ede_sign, (2**-10,), ref_sign, lambda x: ref_ede(x, 2**-10)),
    "ede-10": (signs.ede_sign, (10.0,), ref_sign, lambda x: ref_ede(x, 10.0)),
    "reste": (signs.reste_sign, (), ref_sign, ref_reste),
    "reste-3": (signs.reste_sign, (3.0,), ref_sign, lambda x: ref_reste(x, 3.0)),
    "heaviside": (signs.ste_heaviside, (), ref_heaviside, ref_window),
    "ternary": (signs.ste_ternary, (), ref_ternary, ref_window),
    "ternary-1": (signs.ste_ternary, (1.0, None), lambda x: ref_ternary(x, 1.0),
                  np.ones_like),
    "dorefa": (signs.dorefa, (), ref_dorefa, ref_unit),
    "dorefa-4": (signs.dorefa, (4,), lambda x: ref_dorefa(x, 4), ref_unit),
    "dorefa weights": (signs.dorefa, (2, "weights"), ref_dorefa_weights,
                       ref_tanh_slope),
}  # fmt: skip
ESTIMATORS = [
    signs.ste_sign,
    signs.approx_sign,
    signs.swish_sign,
    signs.ede_sign,
    signs.reste_sign,
    signs.magnitude_aware_sign,
    signs.ste_heaviside,
    signs.ste_ternary,
    signs.dorefa,
]
ODD = [e for e in ESTIMATORS if e not in (signs.ste_heaviside, signs.dorefa)]
# Estimators of one entry at a time, so that one entry's value tells nothing of others.
POINTWISE = [e for e in ESTIMATORS if e is not signs.magnitude_aware_sign]
ANNEALED = [
    (signs.ste_sign, "clip_value"),
    (signs.swish_sign, "beta"),
    (signs.ede_sign, "t"),
    (signs.reste_sign, "o"),
    (signs.magnitude_aware_sign, "clip_value"),
    (signs.ste_heaviside, "clip_value"),
    (signs.ste_ternary, "clip_value"),
    (signs.ste_ternary, "threshold"),
]


def name(value):
    return getattr(value, "__name__", None)


def points(dtype):
    """Return special values of both signs, and a grid, in `dtype`."""
    edges = np.array(EDGES + NEAR_ONE)
    x = np.concatenate([edges, -edges, np.linspace(-3, 3, 62)])
    with np.errstate(over="ignore"):  # 1e30 is inf in float16
        return jnp.asarray(x.astype(dtype))


@functools.cache  # so that tests share what is compiled
def value_and_slope(estimator, *params, **kwargs):
    """Return a jitted function of x that gives the value and the derivative."""

    @jax.jit
    def run(x):
        value, vjp = jax.vjp(lambda x: estimator(x, *params, **kwargs), x)
        return value, vjp(jnp.ones_like(value))[0]

    return run
