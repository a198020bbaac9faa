"""The folder of a run: its config, a line of metrics per epoch, its result.

Training writes it; the command, comparisons and reports read it.
"""

from sgdat_jax.run_folder.config import check_data as check_data
from sgdat_jax.run_folder.config import check_same as check_same
from sgdat_jax.run_folder.config import config_of as config_of
from sgdat_jax.run_folder.config import create as create
from sgdat_jax.run_folder.config import read_config as read_config
from sgdat_jax.run_folder.config import read_data as read_data
from sgdat_jax.run_folder.config import reopen as reopen
from sgdat_jax.run_folder.config import write_config as write_config
from sgdat_jax.run_folder.outcome import append_epoch as append_epoch
from sgdat_jax.run_folder.outcome import has_diverged as has_diverged
from sgdat_jax.run_folder.outcome import is_finished as is_finished
from sgdat_jax.run_folder.outcome import read_diverged as read_diverged
from sgdat_jax.run_folder.outcome import read_metrics as read_metrics
from sgdat_jax.run_folder.outcome import read_result as read_result
from sgdat_jax.run_folder.outcome import seconds_per_epoch as seconds_per_epoch
from sgdat_jax.run_folder.outcome import write_diverged as write_diverged
from sgdat_jax.run_folder.outcome import write_epochs as write_epochs
from sgdat_jax.run_folder.outcome import write_result as write_result
from sgdat_jax.run_folder.places import BEST as BEST
from sgdat_jax.run_folder.places import CHECKPOINTS as CHECKPOINTS
from sgdat_jax.run_folder.places import CONFIG as CONFIG
from sgdat_jax.run_folder.places import DIVERGED as DIVERGED
from sgdat_jax.run_folder.places import FORMAT as FORMAT
from sgdat_jax.run_folder.places import LAST as LAST
from sgdat_jax.run_folder.places import LOCK as LOCK
from sgdat_jax.run_folder.places import METRICS as METRICS
from sgdat_jax.run_folder.places import PLOTS as PLOTS
from sgdat_jax.run_folder.places import RESULT as RESULT
from sgdat_jax.run_folder.places import TENSORBOARD as TENSORBOARD
from sgdat_jax.run_folder.places import TIMES as TIMES
from sgdat_jax.run_folder.places import check_inner as check_inner
from sgdat_jax.run_folder.places import check_links as check_links
from sgdat_jax.run_folder.places import check_path as check_path
from sgdat_jax.run_folder.places import check_there as check_there
from sgdat_jax.run_folder.places import is_empty as is_empty
from sgdat_jax.run_folder.places import lock as lock
from sgdat_jax.run_folder.places import lock_there as lock_there
from sgdat_jax.run_folder.places import read_json as read_json
