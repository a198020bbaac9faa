"""The command ``sgdat-jax``."""

from sgdat_jax.cli.command import main as main
