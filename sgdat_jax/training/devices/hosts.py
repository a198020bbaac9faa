"""Several processes, on one host or many, that train as one job.

They find each other by `jax.distributed`, whose coordinator is the first of them. When
one process ends, the others cannot go on: they end as well, and all are started again.
"""

import contextlib
import json
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from sgdat_jax import checks

# Within this time the others hear of a process or a host that has gone silent. Where a
# connection breaks, as it does when a process is killed, they hear at once.
_HEARTBEAT_SECONDS = 60
_PATIENCE_SECONDS = 50
_PATIENCE_OF_CLUSTERS = 300  # which may start some of their hosts minutes later


class Disagreement(ValueError):
    """Processes of a job differ where they must not; all of them raise it together."""


def join(
    coordinator: str | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
    *,
    heartbeat_seconds: int = _HEARTBEAT_SECONDS,
) -> None:
    """Makes this process one of a job; comes before any other use of jax.

    All wait for each other, for a minute at most, and for five minutes in a cluster.
    Then, or at an interrupt, the process ends at once: with 2, or 130, after one line
    on stderr. What is None is found out from the cluster: a TPU pod, Slurm, Open MPI
    or Kubernetes.

    Args:
      coordinator: host and port of the first process, on which it will listen, such as
        ``10.0.0.1:1234``.
      process_id: number of this process, from 0.
      num_processes: how many there are.
      heartbeat_seconds: silence after which a process counts as dead.

    Raises:
      ValueError: if an argument is not valid, or None and no cluster tells its value;
        if the coordinator's port is in use, or it cannot be reached.
    """
    host, _, port = (coordinator or "").rpartition(":")
    if coordinator is not None and not (
        host and port.isdecimal() and 0 < int(port) < 2**16
    ):
        raise ValueError(
            f"coordinator must be host and port, such as 10.0.0.1:1234, got "
            f"{coordinator}."
        )
    if num_processes is not None:
        checks.within("num_processes", num_processes, "[1, 2**31)")
    if process_id is not None and not 0 <= process_id < (num_processes or sys.maxsize):
        raise ValueError(
            f"process_id must be in [0, num_processes), got {process_id} of "
            f"{num_processes}."
        )
    if coordinator is not None and num_processes is not None:
        if process_id == 0:
            _check_free(int(port))
        elif process_id is not None:
            _wait_for(host.strip("[]"), int(port))
    is_cluster = None in (coordinator, process_id, num_processes)
    patience = _PATIENCE_OF_CLUSTERS if is_cluster else _PATIENCE_SECONDS
    missing = f"not all processes of the job have come within {patience:g} seconds"
    if num_processes is not None and not is_cluster:
        # jax waits in vain where two have the same.
        last = num_processes - 1
        missing += f"; each must have a process_id of its own, from 0 to {last}"
    try:
        _within(
            patience,
            missing,
            lambda: jax.distributed.initialize(
                coordinator_address=coordinator,
                process_id=process_id,
                num_processes=num_processes,
                # After it jax would abort the process, with a trace of its stack.
                initialization_timeout=2 * math.ceil(patience),
                heartbeat_timeout_seconds=heartbeat_seconds,
            ),
        )
    except ValueError as error:
        raise ValueError(
            "No cluster was found that tells coordinator, process_id and "
            f"num_processes: give all three. ({error})"
        ) from None


def _within(seconds: float, missing: str, wait: Callable[[], None]) -> None:
    """Calls what waits for the other processes; too long, it ends this one, saying so.

    It is called in a thread, as jax hears neither signals nor the clock while it waits.
    """
    raised: list[BaseException] = []

    def call() -> None:
        try:
            wait()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    if thread.is_alive():
        _end(missing, 2)
    if raised:
        raise raised[0]


def _end(reason: str, code: int) -> NoReturn:
    """Ends the process at once, as its ordinary end waits for the others."""
    print(f"sgdat-jax: error: {reason}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _check_free(port: int) -> None:
    """Raises ValueError if the coordinator cannot listen: jax would crash."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise ValueError(
            f"coordinator must have a port that is free, got {port}: {error.strerror}."
        ) from None


def _wait_for(host: str, port: int) -> None:
    """Raises ValueError if nothing listens there for a minute: jax would abort."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"coordinator must be reached within {_PATIENCE_SECONDS} seconds, "
                    f"got {host}:{port}: {error.strerror or error}."
                ) from None
        time.sleep(0.2)


def is_job() -> bool:
    """Returns whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_writer() -> bool:
    """Returns whether this process writes what all of them have reached."""
    return jax.process_index() == 0


def as_writer(number: int) -> int:
    """Returns the number that the writer has; all processes call this together."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def any_of(flag: bool) -> bool:
    """Returns whether a flag is set in any process; all call this together."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def agree(facts: Mapping[str, Any]) -> None:
    """Checks that all processes have the same facts; all call this together.

    Args:
      facts: by name, as in JSON.

    Raises:
      Disagreement: in all processes, with the facts that differ.
    """
    first, *others = map(json.loads, _gather(json.dumps(facts)))
    differences = []
    for name in dict.fromkeys(key for found in (first, *others) for key in found):
        for number, other in enumerate(others, start=1):
            if first.get(name) != other.get(name):
                differences.append(
                    f"{name} differs ({first.get(name)!r} in process 0, "
                    f"{other.get(name)!r} in process {number})"
                )
                break
    if differences:
        raise Disagreement(
            f"The processes of a job must be alike: {'; '.join(differences)}."
        )


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Raises an error of one process in this block in all of them.

    Within the block no process may wait for another.

    Raises:
      Disagreement: in all processes, if one of them raises ValueError or OSError.
    """
    if not is_job():
        yield
        return
    message = ""
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error) or type(error).__name__
    for number, found in enumerate(_gather(message)):
        if found:
            raise Disagreement(f"process {number}: {found}")


def _gather(text: str) -> list[str]:
    """Returns the texts of all processes, which call this together."""
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(content.size))
    padded = np.pad(content, (0, int(np.max(sizes)) + 1 - content.size))
    rows = multihost_utils.process_allgather(padded)
    return [
        bytes(row[:size]).decode()
        for row, size in zip(np.asarray(rows), np.ravel(sizes), strict=True)
    ]


def meet(place: str) -> None:
    """Waits until all processes have come to the same place of the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


@contextlib.contextmanager
def one_for_all(*together: type[BaseException]) -> Iterator[None]:
    """Ends this process at once on any error within, if it is one of several.

    Errors of the types ``together``, which all processes raise at the same place, pass.
    The ordinary end of a process of a job waits for all the others, and they wait for
    this one, which would take minutes. Theirs is a `jax.errors.JaxRuntimeError` when
    this process has ended.
    """
    try:
        yield
    except together:
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        if not isinstance(error, jax.errors.JaxRuntimeError):
            traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _end(
            f"process {jax.process_index()} of {jax.process_count()} ends ({reason}); "
            "when one ends, all do: start all again to go on from the last checkpoint",
            1,
        )
