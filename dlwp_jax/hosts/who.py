"""Who takes part: what a process is told, by its flags or by a launcher, of where it
belongs.
"""

import os
import warnings

FLAGS = ("--coordinator", "--num-processes", "--process-id")


def place(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> tuple[tuple[str, int], int, int, list[int] | None] | None:
    """Where process 0 is, how many there are, which one this is, its devices; None where it is
    the only one.
    """
    local_ids = None
    for name, number, least in (
        ("--num-processes", num_processes, 1),
        ("--process-id", process_id, 0),
    ):
        if number is not None and (
            isinstance(number, bool) or not isinstance(number, int) or number < least
        ):
            raise ValueError(
                f"{name} must be a whole number of at least {least}; got {number!r}."
            )
    if not timeout > 0:
        raise ValueError(f"the timeout must be a positive number of seconds; got {timeout!r}.")
    if num_processes != 1 and None in (coordinator, num_processes, process_id):
        coordinator, num_processes, process_id, local_ids = _detected(
            coordinator, num_processes, process_id, timeout
        )
    if num_processes == 1:
        if process_id:
            raise ValueError(
                f"--process-id {process_id} needs --num-processes {process_id + 1} or more; got 1."
            )
        return None
    if coordinator is None and num_processes is None and process_id is None:
        return None
    given = (coordinator, num_processes, process_id)
    missing = [flag for flag, value in zip(FLAGS, given, strict=True) if value is None]
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            f"{', '.join(FLAGS)} belong together; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing, and no Slurm, Open MPI, Kubernetes or TPU pod was found to take it from."
        )
    if process_id >= num_processes:
        raise ValueError(
            f"--process-id {process_id} does not fit --num-processes {num_processes}: they are counted from 0 to "
            f"{num_processes - 1}."
        )
    return _address(coordinator), num_processes, process_id, local_ids


def _detected(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> tuple[str | None, int | None, int | None, list[int] | None]:
    """What is not given, from the environment of a launcher that JAX knows."""
    from jax._src.clusters import ClusterEnv

    in_kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    if in_kubernetes and "JOB_COMPLETION_INDEX" not in os.environ and not _is_launched():
        return coordinator, num_processes, process_id, None  # some pod or other, a notebook
    with warnings.catch_warnings():
        if in_kubernetes:  # JAX warns where the package is missing, and goes on alone
            warnings.filterwarnings("error", message="(?s).*kubernetes", category=UserWarning)
        try:
            *found, local_ids = ClusterEnv.auto_detect_unset_distributed_params(
                coordinator, num_processes, process_id, None, None, int(timeout) + 1
            )
            return *found, None if local_ids is None else list(local_ids)  # pyright: ignore[reportReturnType]
        except (RuntimeError, UserWarning, ValueError) as error:
            raise ValueError(
                f"what this job's launcher has set does not tell the processes apart ({first_line(error)}); give "
                f"{', '.join(FLAGS)}, or --num-processes 1."
            ) from error


def _is_launched() -> bool:
    return "SLURM_PROCID" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator must be HOST:PORT, such as node1:12345; got {text!r}.")
    return host, int(port)


def first_line(error: BaseException) -> str:
    """What an error says, or else its type, in one line."""
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[:1])
