"""Tables and plots of networks and of recorded runs."""

from sgdat_jax.report.comparison import compare_pairs as compare_pairs
from sgdat_jax.report.comparison import compare_runs as compare_runs
from sgdat_jax.report.comparison import comparison_markdown as comparison_markdown
from sgdat_jax.report.comparison import comparison_table as comparison_table
from sgdat_jax.report.comparison import differences_markdown as differences_markdown
from sgdat_jax.report.comparison import differences_table as differences_table
from sgdat_jax.report.comparison import write_comparison as write_comparison
from sgdat_jax.report.comparison_plots import plot_accuracy as plot_accuracy
from sgdat_jax.report.comparison_plots import (
    plot_accuracy_curves as plot_accuracy_curves,
)
from sgdat_jax.report.comparison_plots import plot_comparison as plot_comparison
from sgdat_jax.report.comparison_plots import (
    plot_flip_histograms as plot_flip_histograms,
)
from sgdat_jax.report.comparison_plots import plot_flip_ratios as plot_flip_ratios
from sgdat_jax.report.comparison_plots import (
    plot_flip_ratios_per_layer as plot_flip_ratios_per_layer,
)
from sgdat_jax.report.comparison_plots import plot_gradients as plot_gradients
from sgdat_jax.report.comparison_plots import plot_margins as plot_margins
from sgdat_jax.report.comparison_plots import plot_oscillation as plot_oscillation
from sgdat_jax.report.comparison_plots import plot_thresholds as plot_thresholds
from sgdat_jax.report.model_table import summary_table as summary_table
from sgdat_jax.report.run_plots import plot_flip_counts as plot_flip_counts
from sgdat_jax.report.run_plots import plot_flip_ratio as plot_flip_ratio
from sgdat_jax.report.run_plots import plot_learning as plot_learning
from sgdat_jax.report.run_plots import save_plots as save_plots
from sgdat_jax.report.runs import Group as Group
from sgdat_jax.report.runs import Run as Run
from sgdat_jax.report.runs import group_runs as group_runs
from sgdat_jax.report.runs import read_runs as read_runs
from sgdat_jax.report.runs import subject_of as subject_of
from sgdat_jax.report.statistics import paired_differences as paired_differences
from sgdat_jax.report.sweep import plot_heat_map as plot_heat_map
from sgdat_jax.report.sweep import rank_settings as rank_settings
from sgdat_jax.report.sweep import settings_table as settings_table
from sgdat_jax.report.sweep import write_sweep as write_sweep
