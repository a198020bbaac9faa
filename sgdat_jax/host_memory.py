"""The former home of `sgdat_jax.keep_freed_memory`."""

from sgdat_jax.cpu import keep_freed_memory as keep_freed_memory
