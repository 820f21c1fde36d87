"""Where independent work of a run is done."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from alltrades.policies.settings import Frozen

LOCAL, RAY, ADDRESS = "local", "ray", "ray://"


class ComputeSettings(Frozen):
    """Collection, rollouts, trainings that do not wait for one another, weights and evaluation: on
    this machine, or on a Ray cluster. Results are the same, bit for bit.
    """

    on: str = Field(
        LOCAL,
        description="local: processes and threads of this machine; ray: the Ray cluster that runs "
        "here, or one started for the command; ray://HOST:PORT: the cluster at an address; "
        "`--compute X` for short",
    )
    tasks: int | None = Field(
        None,
        ge=1,
        description="tasks on a cluster at the same time; default: as many as it has room for",
    )
    cpus_per_task: float = Field(
        1.0, gt=0, description="processors of a cluster that each task is given (num_cpus of Ray)"
    )
    gpus_per_task: float = Field(
        0.0, ge=0, description="GPUs of a cluster that each task is given, such as 0.25"
    )
    ranks: int = Field(
        1,
        ge=1,
        description="processes of one training of a generalist or a labeled-only policy on a "
        "cluster, each with what a task is given; more than 1 are started through Ray Train",
    )

    @model_validator(mode="after")
    def _ranks_need_a_cluster(self) -> ComputeSettings:
        if self.ranks > 1 and not self.remote:
            raise ValueError(
                f"ranks = {self.ranks} with on = {LOCAL}; expected a Ray cluster; set on: {RAY}, "
                "or start the command by torchrun"
            )
        return self

    @field_validator("on")
    @classmethod
    def _known(cls, value: str) -> str:
        host = value.removeprefix(ADDRESS)
        if value not in (LOCAL, RAY) and (host == value or not host):
            raise ValueError(f"on = {value}; expected {LOCAL}, {RAY} or {ADDRESS}HOST:PORT")
        return value

    @property
    def remote(self) -> bool:
        """Whether a Ray cluster does it."""
        return self.on != LOCAL
