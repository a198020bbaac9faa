"""What all tables have in common."""

import csv
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from sgdat_jax import files

_CHOSEN = {
    "test": "chosen on the test set itself, as in the paper",
    "validation": "chosen on a part of the training images that is not trained with",
}


def selection(by: Collection[str]) -> str:
    """Returns what the accuracies of a table are, and how best epochs were chosen.

    Args:
      by: ``"test"``, ``"validation"``, both or none, if there are no best epochs.
    """
    chosen = " and ".join(_CHOSEN[name] for name in _CHOSEN if name in by)
    best = f" Best epoch: {chosen}." if chosen else ""
    return (
        "Top-1 accuracy on the test set, mean ± standard deviation over seeds, without "
        f"runs that diverged.{best}"
    )


def spread(results: Sequence[Mapping[str, Any]], key: str) -> dict[str, float | None]:
    """Returns mean and standard deviation of an entry; of one run, the latter is None.

    Both are None where a result has no such entry, or there is no result.
    """
    if not results or any(result.get(key) is None for result in results):
        return {"mean": None, "std": None}
    values = np.array([result[key] for result in results], np.float64)
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "std": std}


def format_spread(
    values: Mapping[str, float | None], form: str, scale: float = 1.0
) -> str:
    """Returns what `spread` returns as text, empty without a mean."""
    mean, std = values["mean"], values["std"]
    if mean is None:
        return ""
    plus_minus = "" if std is None else f" ± {scale * std:{form}}"
    return f"{scale * mean:{form}}{plus_minus}"


def format_runs(row: Mapping[str, Any]) -> str:
    """Returns the number of a row's runs, and of those that diverged, as text."""
    diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
    return f"{row['runs']}{diverged}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Returns lines of cells, headers first, as a Markdown table.

    Numbers, which are in all columns but the first, are to the right.
    """
    header, *others = lines
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n"
        for line in (header, rule, *others)
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
_SIGN = re.compile(r"(?<!\w)([+-])(?=\d)")  # of a number


def latex(lines: Sequence[Sequence[str]], caption: str) -> str:
    """Returns lines of cells, headers first, as a LaTeX table of the package booktabs.

    Args:
      lines: cells as text.
      caption: below it.

    Example:
      >>> from sgdat_jax.report import tables
      >>> print(tables.latex([["optimizer", "last (%)"], ["Bop", "98 ± 1"]], "Digits."))
      \\begin{table}
        \\centering
        \\begin{tabular}{lr}
          \\toprule
          optimizer & last (\\%) \\\\
          \\midrule
          Bop & 98 $\\pm$ 1 \\\\
          \\bottomrule
        \\end{tabular}
        \\caption{Digits.}
      \\end{table}
      <BLANKLINE>
    """
    header, *others = (" & ".join(map(_escaped, line)) + r" \\" for line in lines)
    columns = "l" + "r" * (len(lines[0]) - 1)
    rows = [r"\toprule", header, r"\midrule", *others, r"\bottomrule"]
    inner = "".join(f"    {row}\n" for row in rows)
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\begin{{tabular}}{{{columns}}}\n{inner}  \\end{{tabular}}\n"
        f"  \\caption{{{_escaped(caption)}}}\n\\end{{table}}\n"
    )


def _escaped(text: str) -> str:
    return _SIGN.sub(r"$\1$", "".join(_LATEX.get(sign, sign) for sign in text))


def write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV.

    Args:
      path: of the file.
      rows: an entry that is a dictionary has a column for each of its own, such as
        ``test_accuracy_mean``; a list is one cell, divided by spaces.
    """
    flat = [_flat(row) for row in rows]
    with files.whole(path, newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(key for row in flat for key in row))
        writer.writeheader()
        writer.writerows(flat)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}_{name}": entry for name, entry in value.items()}
        elif isinstance(value, list):
            flat[key] = " ".join(map(str, value))
        else:
            flat[key] = value
    return flat
