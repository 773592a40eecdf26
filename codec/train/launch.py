"""Start the processes that `accelerate launch --cpu --num_processes N` was asked for.

Accelerate 1.15 starts one process on CPUs however many are asked for, unless through MPI, and tells that process
nothing of the number. It is on the command line of the launcher, which waits for this process to end.
"""

import os
import sys
from collections.abc import Mapping, Sequence

import psutil
import torch

# What its command line is known by, and how many words come before its arguments.
LAUNCHERS = {"accelerate": 2, "accelerate-launch": 1, "accelerate.commands.launch": 1}
# Where one of these is set, a launcher of several processes has been at work: torch's, or MPI's.
RANKS = ("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def start_missing_processes() -> None:
    """Replace this process by torch's launcher of as many as were asked for; return if they are there already."""
    command = launcher_command(launcher_arguments(), program(), os.environ)
    if command is not None:
        os.execv(command[0], command)


def program() -> list[str]:
    """What Python runs, and its arguments: a script, or -m and the name of a module."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        return sys.argv
    return ["-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def is_for_cpu(environment: Mapping[str, str]) -> bool:
    """Whether to work on the CPU: because the launcher says so, or because there is nothing else."""
    return environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true") or not torch.accelerator.is_available()


def launcher_arguments() -> list[str] | None:
    """The arguments of the `accelerate launch` that started this process; None if something else did."""
    parent = psutil.Process().parent()
    try:
        line = parent.cmdline() if parent is not None else []
    except psutil.Error:
        return None
    names = [os.path.basename(argument) for argument in line[:3]]
    for name, words in LAUNCHERS.items():
        if name in names:
            return line[names.index(name) + words :]
    return None


def launcher_command(
    arguments: Sequence[str] | None, script: Sequence[str], environment: Mapping[str, str]
) -> list[str] | None:
    """The command that starts several processes on CPUs; None if one is enough or others are there.

    Args:
        arguments: Of `accelerate launch`.
        script: This program, as `program` gives it.
        environment: Of this process; a launcher of several tells each of them its rank.
    """
    if arguments is None or not is_for_cpu(environment):
        return None
    if any(name in environment for name in RANKS):
        return None
    # Imported here: it is slow.
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    options, _ = launch_command_parser().parse_known_args(list(arguments))
    settings = options
    if options.num_processes is None and (options.config_file or os.path.isfile(default_config_file)):
        settings = load_config_from_file(options.config_file)
    machines = settings.num_machines or 1
    processes = (settings.num_processes or 1) // machines
    if processes * machines < 2:
        return None
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    if machines == 1:
        command.append("--standalone")
    else:
        command += [
            f"--nnodes={machines}",
            f"--node_rank={settings.machine_rank}",
            f"--master_addr={settings.main_process_ip}",
            f"--master_port={settings.main_process_port or 29500}",
        ]
    return [*command, *script]
