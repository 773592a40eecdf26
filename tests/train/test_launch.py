"""How many processes a launcher was asked for. That they start is tested with the training script."""

import sys
from importlib.machinery import ModuleSpec

import pytest
import torch

from codec.train.launch import launcher_arguments, launcher_command, program

SCRIPT = ["train.py", "recipe.toml", "--set", "run.steps = 3"]
CPU = {"ACCELERATE_USE_CPU": "True"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def command(*arguments: str, environment: dict[str, str] = CPU) -> list[str] | None:
    return launcher_command([*arguments, *SCRIPT], SCRIPT, environment)


@pytest.mark.parametrize("arguments", [["--cpu", "--num_processes", "2"], ["--num-processes=2", "--cpu"]])
def test_as_many_processes_are_started_as_were_asked_for(arguments) -> None:
    assert command(*arguments) == [*TORCHRUN, "--nproc_per_node=2", "--standalone", *SCRIPT]


def test_several_machines_find_each_other() -> None:
    machines = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "10.0.0.1"]
    arguments = ["--cpu", "--num_processes", "6", *machines]
    nodes = ["--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1"]
    assert command(*arguments) == [*TORCHRUN, "--nproc_per_node=3", *nodes, "--master_port=29500", *SCRIPT]
    assert "--master_port=1234" in command(*arguments, "--main_process_port", "1234")


def test_the_number_may_stand_in_a_file(tmp_path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 3\nuse_cpu: true\n"
        "num_machines: 1\nmachine_rank: 0\nmixed_precision: 'no'\ndebug: false\n"
    )
    assert "--nproc_per_node=3" in command("--config_file", str(file))
    assert "--nproc_per_node=2" in command("--config_file", str(file), "--num_processes", "2")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--cpu", "--num_processes", "1"], CPU),
        (["--cpu", "--num_processes", "2"], CPU | {"RANK": "0"}),
        (["--cpu", "--num_processes", "2"], CPU | {"OMPI_COMM_WORLD_RANK": "1"}),
    ],
)
def test_nothing_is_started_where_nothing_is_missing(arguments, environment) -> None:
    assert command(*arguments, environment=environment) is None


@pytest.mark.parametrize("environment", [{}, {"ACCELERATE_USE_CPU": "False"}])
def test_with_gpus_accelerate_starts_the_processes_itself(monkeypatch, environment) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert command("--num_processes", "2", environment=environment) is None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert "--nproc_per_node=2" in command("--num_processes", "2", environment=environment)


def test_without_a_launcher_there_is_nothing_to_start() -> None:
    assert launcher_arguments() is None
    assert launcher_command(None, SCRIPT, CPU) is None


def test_a_module_is_started_as_one(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/path/codec/cli/__main__.py", "tokenize", "folder"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("codec.cli.__main__", None))
    assert program() == ["-m", "codec.cli", "tokenize", "folder"]
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert program() == ["/path/codec/cli/__main__.py", "tokenize", "folder"]
