"""Entry point of ``python -m sgdat_jax``, the same as that of ``sgdat-jax``."""

from sgdat_jax_command import main

if __name__ == "__main__":
    main()
