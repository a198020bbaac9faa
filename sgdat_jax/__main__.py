"""Entry point of ``sgdat-jax`` and ``python -m sgdat_jax``."""

import sys

from sgdat_jax import cpu


def main() -> None:
    """Runs the command line, or says what to install for it."""
    try:
        from sgdat_jax import cli
    except KeyboardInterrupt:
        print("sgdat-jax: error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sgdat_jax"):
            raise
        print(
            f"sgdat-jax: error: {error.name} is not installed; the training program "
            "needs: pip install 'sgdat-jax[train]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    cpu.keep_freed_memory()
    cli.main()


if __name__ == "__main__":
    main()
