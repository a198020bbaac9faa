"""Files: what is at a path, folders, and contents written whole or not at all.

Everything that writes, moves or removes files does it here, by three rules. A new file
is created under a random name and then renamed into place. Symbolic links are never
followed: a link in the place of a new file is replaced, a link in the place of a folder
or of a file to append to is refused. Files that the caller does not name stay.
"""

from sgdat_jax.files.contents import DAMAGE as DAMAGE
from sgdat_jax.files.contents import PARTIAL as PARTIAL
from sgdat_jax.files.contents import append_line as append_line
from sgdat_jax.files.contents import check_format as check_format
from sgdat_jax.files.contents import from_json as from_json
from sgdat_jax.files.contents import has_torn_line as has_torn_line
from sgdat_jax.files.contents import read_json as read_json
from sgdat_jax.files.contents import read_lines as read_lines
from sgdat_jax.files.contents import read_text as read_text
from sgdat_jax.files.contents import read_toml as read_toml
from sgdat_jax.files.contents import to_toml as to_toml
from sgdat_jax.files.contents import whole as whole
from sgdat_jax.files.contents import write_json as write_json
from sgdat_jax.files.contents import write_lines as write_lines
from sgdat_jax.files.contents import write_text as write_text
from sgdat_jax.files.folders import make as make
from sgdat_jax.files.folders import make_inner as make_inner
from sgdat_jax.files.folders import not_writable as not_writable
from sgdat_jax.files.folders import of_caches as of_caches
from sgdat_jax.files.folders import remove as remove
from sgdat_jax.files.folders import remove_empty as remove_empty
from sgdat_jax.files.folders import remove_partials as remove_partials
from sgdat_jax.files.folders import set_aside as set_aside
from sgdat_jax.files.kinds import check_no_link as check_no_link
from sgdat_jax.files.kinds import entries as entries
from sgdat_jax.files.kinds import is_file as is_file
from sgdat_jax.files.kinds import is_folder as is_folder
from sgdat_jax.files.kinds import is_regular as is_regular
from sgdat_jax.files.kinds import open_regular as open_regular
