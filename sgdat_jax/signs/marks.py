"""Marks of a quantizer: whether it gives signs, and in how many bits."""

from collections.abc import Callable


def gives_signs(quantizer: Callable) -> Callable:
    """Mark a function that gives -1, +1 and, of NaN, NaN alone; see `is_sign`."""
    quantizer.__dict__["is_sign"] = True
    return quantizer


def of_bits(bits: int | Callable[..., int]) -> Callable[[Callable], Callable]:
    """Mark a function whose values fit in so many bits; see `precision`."""

    def mark(quantizer: Callable) -> Callable:
        quantizer.__dict__["precision"] = bits
        return quantizer

    return mark


def is_sign(quantizer: object) -> bool:
    """Returns whether a quantizer is known to give -1, +1 and, of NaN, NaN alone.

    It tells by the attribute ``is_sign`` of the function, which `surrogate` sets.
    Layers multiply such values by counting bits, and `inference.fold` packs them.

    Example:
      >>> import functools
      >>> from sgdat_jax import signs
      >>> signs.is_sign(functools.partial(signs.swish_sign, beta=10.0))
      True
      >>> signs.is_sign(signs.magnitude_aware_sign)
      False
    """
    function = getattr(quantizer, "func", quantizer)
    return getattr(function, "is_sign", False) is True


def precision(quantizer: object) -> int | None:
    """Returns how many bits a quantizer's values take; None if that is not known.

    It is 1 for signs, and otherwise the attribute ``precision`` of the function: an
    integer, or a function of the quantizer's keyword arguments. Set it on a quantizer
    of your own, and `summarize` counts its products and its memory by it.

    Example:
      >>> import functools
      >>> from sgdat_jax import signs
      >>> signs.precision(signs.ste_sign), signs.precision(signs.ste_ternary)
      (1, 2)
      >>> signs.precision(functools.partial(signs.dorefa, bits=4))
      4
      >>> signs.precision(lambda x: x) is None
      True
    """
    if is_sign(quantizer):
        return 1
    keywords = getattr(quantizer, "keywords", {})  # of a partial, as its `func`
    bits = getattr(getattr(quantizer, "func", quantizer), "precision", None)
    return bits(**keywords) if callable(bits) else bits
