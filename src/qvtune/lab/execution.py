"""`Execution`: the options of every command that trains many runs."""

from typing import Any, Literal

from pydantic import Field, model_validator

from qvtune.options import Options


class Execution(Options):
    """Where the runs are trained, and which of them."""

    executor: Literal["local", "workers", "ray", "slurm"] = Field(
        "local",
        description="local: one after another in this process; workers: processes on this machine; ray: a Ray cluster, "
        "or one started here; slurm: jobs of a cluster, through submitit.",
    )
    workers: int = Field(
        1, ge=1, description="Runs at the same time. Given without --executor, it means --executor workers."
    )
    slurm: list[str] = Field(
        [], description="Option of submitit, as in slurm_partition=gpu, timeout_min=60 or gpus_per_node=1."
    )
    retry: bool = Field(False, description="Train again what failed, diverged or was stopped early.")
    halving: bool = Field(
        False,
        description="Successive halving: stop a run early at an evaluation where it is not among the best third of "
        "those that came as far.",
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: dict[str, Any]) -> dict[str, Any]:
        executor = values.get("executor")
        if executor is None and "workers" in values:
            return values | {"executor": "workers"}
        if executor == "local" and "workers" in values:
            raise ValueError("--workers is given, and --executor local trains one run at a time. Give one of them.")
        if "slurm" in values and executor != "slurm":
            raise ValueError("--slurm is given, and --executor is not slurm. Give --executor slurm, or leave it out.")
        return values


DEFAULT_EXECUTION = Execution.model_validate({})
