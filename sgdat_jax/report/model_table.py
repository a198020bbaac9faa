"""The table of a network."""

from collections.abc import Sequence

from rich import box, table

from sgdat_jax import summary


def summary_table(layers: Sequence[summary.LayerSummary]) -> table.Table:
    """Returns the table of a network: weights, memory and work by precision.

    Narrow are weights and operands of 2 to 31 bits; their columns are there if there
    are any. Below stands which layers do more than is counted, and what.

    Args:
      layers: what `sgdat_jax.summarize` returns.

    Example:
      >>> import rich
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import report
      >>> model = sj.models.DigitsNet(rngs=nnx.Rngs(0))
      >>> table = report.summary_table(sj.summarize(model, (8, 8, 1)))
      >>> rich.print(table)  # doctest: +SKIP
    """
    missing = [f"{row.name}: {row.not_counted}" for row in layers if row.not_counted]
    result = table.Table(
        box=box.SIMPLE,
        show_footer=True,
        padding=(0, 1, 0, 0),
        caption="not counted: " + "; ".join(missing) if missing else None,
    )
    total = summary.total(list(layers))
    columns = (
        ("layer", "total", [layer.name for layer in layers]),
        ("kind", "", [layer.kind for layer in layers]),
        ("output", "", ["x".join(map(str, layer.output_shape)) for layer in layers]),
        *(
            (header, _short(getattr(total, field)), [_short(n) for n in values])
            for header, field in (
                ("1-bit\nweights", "binary_weights"),
                ("narrow\nweights", "narrow_weights"),
                ("32-bit\nweights", "real_weights"),
                ("memory\nbytes", "memory_bytes"),
                ("1-bit\nMACs", "binary_macs"),
                ("narrow\nMACs", "narrow_macs"),
                ("32-bit\nMACs", "real_macs"),
            )
            if any(values := [getattr(layer, field) for layer in layers])
            or not field.startswith("narrow")
        ),
    )
    for index, (header, footer, _) in enumerate(columns):
        result.add_column(header, footer, justify="left" if index < 2 else "right")
    for row in zip(*(cells for *_, cells in columns), strict=True):
        result.add_row(*row)
    return result


def _short(number: float) -> str:
    """Returns a number with three digits and a unit, or a dash for nothing."""
    if not number:
        return "-"
    exponent = int(f"{number:.2e}".partition("e")[2])  # after rounding to three digits
    power = min(exponent // 3, 4)
    return f"{number / 1000**power:.3g}{('', 'k', 'M', 'G', 'T')[power]}"
