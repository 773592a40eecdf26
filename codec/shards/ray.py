"""Tasks on a Ray cluster, for corpora that outgrow one machine. Ray Data hands them out.

It starts workers as the cluster has room for them, and others in place of those that are killed. Its messages go to the
logs of the cluster, not to stdout and stderr.
"""

import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

LOCAL = "local"
SECONDS_TO_ANSWER = 10.0
# What ends every worker that tries it would otherwise be tried for ever.
ATTEMPTS = 3

# Ray reads them when it is imported.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Which lines not to print. Those of workers that died come to stdout otherwise, with log_to_driver=False too.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
}


def run_on_ray(
    tasks: Sequence[int],
    setup: Callable[[], Callable[[int], Result]],
    address: str,
    *,
    gpu: bool = False,
    jobs: int | None = None,
) -> Generator[tuple[int, Result | None], None, None]:
    """Do numbered tasks on a Ray cluster.

    When a worker is killed, another one does its task. So a task may be done twice, and must give the same then. When
    the iterator is closed, the workers end.

    Args:
        tasks: Their numbers.
        setup: Gives the function that does one task. It runs once in each worker, on any machine of the cluster, so it
            must be something that can be pickled, and this package be installed there.
        address: Of the cluster, as `ray.init` takes it; "auto" for that of this machine; "local" starts one on this
            machine, which ends with the work.
        gpu: Whether a worker gets a GPU of its own, which it sees as the only one; else it gets one core.
        jobs: Workers at the most. Default: as many as the cluster has room for.

    Yields:
        Each task, and what was made of it, in the order in which they come; None if every worker that tried it ended.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: There is no cluster at that address, or it does not let this process in.
        ValueError: The address is malformed; or a local cluster would have no GPU.
        RuntimeError: This process is connected to a cluster already.
        Exception: What the setup or a task raised, wrapped by Ray.
    """
    if not tasks:
        return
    with _cluster(address, jobs) as ray:
        rows = _plan(ray, tasks, setup, gpu, _count_workers(ray, address, gpu), jobs).iter_rows()
        for row in rows:
            yield row["task"], pickle.loads(row["made"])


@contextmanager
def _cluster(address: str, cores: int | None) -> Iterator[Any]:
    """Ray, connected to a cluster."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("ray must be installed for clusters: pip install 'rvq-codec[ray]'") from error
    if ray.is_initialized():
        raise RuntimeError("tasks must be given to a cluster by a process that is connected to none yet")
    # Importing it sets its level.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    _check_address(address)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with _no_stderr():
            ray.init(
                address,
                num_cpus=cores if address == LOCAL else None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        if threading.current_thread() is threading.main_thread():
            # Ray put a handler of its own there, which ends the process with a status of its own.
            signal.signal(signal.SIGTERM, terminate)
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """See that somebody is there: Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # a name that Ray knows, or not
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise ConnectionError(f"address must be that of a Ray cluster; nobody answers at {address}") from error


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what this process says there: Ray's C++ code says that it was told to say nothing."""
    try:
        before = os.dup(2)
    except OSError:  # closed, by `2>&-`
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(nothing)
        os.close(before)


def _count_workers(ray: Any, address: str, gpu: bool) -> int:
    """How many there is room for now; 0 where a cluster may still grow."""
    kind = "GPU" if gpu else "CPU"
    count = int(ray.cluster_resources().get(kind, 0))
    if not count and address == LOCAL:
        raise ValueError(f"a local cluster must have a {kind}; got none on this machine")
    if not count:
        logging.getLogger("codec").warning("the cluster has no %s; waiting for one", kind)
    return count


def _plan(
    ray: Any,
    tasks: Sequence[int],
    setup: Callable[[], Callable[[int], Result]],
    gpu: bool,
    num_workers: int,
    jobs: int | None,
) -> Any:
    """The data set of what is made of the tasks, a row each. It is made when it is read."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # As soon as all workers are busy, one more, if there is room.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    most = min(len(tasks), len(tasks) if jobs is None else jobs)
    pool = ray.data.ActorPoolStrategy(
        min_size=1,
        initial_size=max(1, min(num_workers, most)),
        max_size=most,
        max_tasks_in_flight_per_actor=1,  # tasks are long: none should wait for a certain worker
    )
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
    items = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
    return items.map(
        _Worker,
        fn_constructor_args=(setup, attempts),
        compute=pool,
        num_cpus=0 if gpu else 1,
        num_gpus=1 if gpu else 0,
    )


class _Attempts:
    """How often tasks were begun. It lives in a worker of its own, which does not end with the others."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, task: int) -> int:
        self._begun[task] = self._begun.get(task, 0) + 1
        return self._begun[task]


class _Worker(Generic[Result]):
    """What a worker keeps from task to task. Ray Data starts others in its place, as often as need be."""

    def __init__(self, setup: Callable[[], Callable[[int], Result]], attempts: Any):
        self._work = setup()
        self._attempts = attempts

    def __call__(self, row: dict[str, int]) -> dict[str, Any]:
        import ray

        task = int(row["task"])
        begun = ray.get(self._attempts.begin.remote(task))
        made = self._work(task) if begun <= ATTEMPTS else None
        return {"task": task, "made": pickle.dumps(made)}
