"""Runs that are described by names: configs, tables, recipes, comparisons, sweeps."""
