"""Joining a cluster: one process a host, all of them running the same command."""

from __future__ import annotations

import os

from astroad_jax.errors import ConfigError

VARIABLES = ("ASTROAD_COORDINATOR", "ASTROAD_PROCESSES", "ASTROAD_PROCESS")


def join_cluster() -> None:
    """Initialise `jax.distributed` where the environment says that this process is one of several.

    ``ASTROAD_COORDINATOR`` (host:port of process 0), ``ASTROAD_PROCESSES`` and ``ASTROAD_PROCESS`` say it in so many
    words. ``ASTROAD_CLUSTER=auto`` leaves it to JAX, which knows SLURM, Open MPI, Kubernetes and TPU pods. Without any
    of them the process is alone.

    Raises
    ------
    ConfigError
        Some of the three variables are missing or no numbers.
    """
    import jax

    if os.environ.get("ASTROAD_CLUSTER") == "auto":
        jax.distributed.initialize()
        return
    given = [os.environ.get(name, "") for name in VARIABLES]
    if not any(given):
        return
    if not all(given) or not (given[1].isdigit() and given[2].isdigit()):
        raise ConfigError(
            "the environment describes half a cluster",
            where=", ".join(VARIABLES),
            expected="host:port, number of processes, number of this process",
            got=", ".join(value or "(not set)" for value in given),
            fix="set all three, or ASTROAD_CLUSTER=auto",
        )
    jax.distributed.initialize(given[0], int(given[1]), int(given[2]))


def is_primary() -> bool:
    """Whether this process speaks for all."""
    from astroad_jax.engine import processes

    return processes.is_primary()
