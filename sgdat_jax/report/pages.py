"""One page of HTML that holds a whole comparison, to send to a colleague."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from sgdat_jax import __version__
from sgdat_jax.report.runs import (
    Group,
    settings_that_differ,
    shared_settings,
    subject_of,
)

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem;
  padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } figcaption, .note { font-size: .9rem; opacity: .8; }
img { background: white; border-radius: .3rem; max-width: 100%; height: auto; }
details { margin: 1rem 0; }
@media (max-width: 40rem) {
  body { padding: .75rem; } table { font-size: .8rem; }
  td, th { padding: .2rem .3rem; }
  figure { overflow-x: auto; } img { min-width: 30rem; max-width: none; width: 100%; }
}
"""
_CAPTIONS = {
    "accuracy": "Test accuracy after the last epoch",
    "accuracy_curves": "Test accuracy over the epochs",
    "flip_ratio": "Share of binary weights that a step flips",
    "flip_ratio_per_layer": "The same, layer by layer",
    "flip_histogram": "How often weights had flipped at the end",
    "silence_and_oscillation": "Weights that never flip, and that go back and forth",
    "thresholds": "Flip thresholds at the end",
    "margins": "Latent weights over their thresholds at the end",
    "gradients": "Gradients, layer by layer",
    "learning": "Loss and accuracy over the epochs",
}


def page(
    groups: Sequence[Group],
    tables: Sequence[tuple[Sequence[Sequence[str]], str]],
    plots: Mapping[str, bytes],
) -> str:
    """Returns a page of HTML that needs no other file.

    Args:
      groups: what `group_runs` returns.
      tables: each as its lines of cells, headers first, and what it says.
      plots: files of SVG by name, which become part of the page.
    """
    differ = settings_that_differ(groups)
    subject = " on ".join(filter(None, reversed(subject_of(groups[0].config))))
    parts = [f"<h1>{_text(subject or 'Comparison')}</h1>"]
    for cells, said in tables:
        parts.append(_table(cells, said))
    for name, svg in plots.items():
        parts.append(_picture(svg, _CAPTIONS.get(name, name)))
    if differ:
        labels = [group.label for group in groups]
        rows = zip(labels, *(map(_value, v) for v in differ.values()), strict=True)
        parts.append("<h2>Settings that differ</h2>")
        parts.append(_table([["optimizer", *differ], *map(list, rows)]))
    shared = shared_settings(groups)
    same = [[name, _value(value)] for name, value in shared.items()]
    parts.append("<details><summary>Settings of all runs</summary>")
    parts.append(_table([["setting", "value"], *same]) + "</details>")
    parts.append("<h2>Made with</h2>" + _table(_circumstances(groups)))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(subject or 'Comparison')}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _circumstances(groups: Sequence[Group]) -> list[list[str]]:
    """Returns all versions and machines that the runs were made with."""
    results = [run.result for group in groups for run in group.runs]
    found: dict[str, list[str]] = {"device": [], "devices": []}
    for result in results:
        known = {name: result.get(name) for name in ("device", "devices", "gradients")}
        for name, value in (known | dict(result.get("versions", {}))).items():
            if value is not None:
                found.setdefault(name, []).append(str(value))
    rows = [
        [name, ", ".join(dict.fromkeys(values))]
        for name, values in found.items()
        if values
    ]
    seconds = sum(result["seconds"] for result in results)
    runs = f"{len(results)}, {seconds / 60:.1f} minutes in all"
    page = ["report by sgdat-jax", __version__]
    return [["", ""], ["runs", runs], *rows, page]


def _table(cells: Sequence[Sequence[str]], said: str = "") -> str:
    header, *rows = cells
    lines = [_row("th", header)] if any(header) else []
    lines += [_row("td", row) for row in rows]
    note = f'\n<p class="note">{_text(said)}</p>' if said else ""
    body = "\n".join(lines)
    return f'<div class="wide"><table>\n{body}\n</table></div>{note}'


def _row(kind: str, cells: Sequence[str]) -> str:
    inner = "".join(f"<{kind}>{_text(cell)}</{kind}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def _picture(svg: bytes, caption: str) -> str:
    # As an image, so that names within one picture do not meet those of another.
    data = base64.b64encode(svg).decode()
    return (
        f'<figure><img alt="{_text(caption)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _text(value: str) -> str:
    return html.escape(value)
