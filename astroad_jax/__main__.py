"""``python -m astroad_jax``: the command line."""

from astroad_jax.cli import main

main()
