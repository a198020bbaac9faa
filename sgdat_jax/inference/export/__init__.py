"""Trained networks in the formats of other programs.

One module per format says how to write a file and how to run it; `formats` holds the
table of them, and runs each file that it writes. Packages other than the core's are
imported when a format needs them.
"""

from sgdat_jax.inference.export.formats import FORMATS as FORMATS
from sgdat_jax.inference.export.formats import Report as Report
from sgdat_jax.inference.export.formats import export as export
