"""What can be set about a policy server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from alltrades.policies.control.lanes import BATCH
from alltrades.policies.settings import Frozen


class ServerSettings(Frozen):
    """Address, protection, limits and batching of one server; sizes in bytes, times in seconds
    unless named otherwise.
    """

    host: str = Field("127.0.0.1", description="address to listen on; loopback by default")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 picks a free one")
    guard: bool = Field(True, description="keep actions finite and inside the environment's limits")
    limits: Path | None = Field(
        None, description="YAML file of limits by environment, tighter than the environments' own"
    )
    token_file: Path | None = Field(None, description="file with the secret that clients must send")
    certificate: Path | None = Field(None, description="PEM certificate (chain): serve over TLS")
    key: Path | None = Field(None, description="PEM key of the certificate")
    max_message: int | None = Field(
        None,
        ge=1024,
        description="largest message, of which a client that sends more is disconnected; default "
        "what the policy's fields need",
    )
    max_clients: int = Field(128, ge=1, le=4096, description="connected clients, together")
    max_per_address: int | None = Field(
        None, ge=1, description="connected clients of one network address; default no limit"
    )
    idle_seconds: float = Field(
        120.0,
        ge=0,
        description="a client without a request for so long is disconnected, and its place is "
        "another's; 0 for never",
    )
    rate_limit: float = Field(
        1000.0, ge=0, description="requests per second of one client; 0 for no limit"
    )
    engine: Literal["torch", "onnx"] = Field(
        "torch",
        description="what computes actions: PyTorch, or onnxruntime, which is several times faster "
        "on a processor",
    )
    batch: int = Field(BATCH, ge=1, description="rows of a policy call")
    budget_ms: float = Field(
        1.0, ge=0, description="longest wait for other clients' requests, to answer them together"
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="longest wait for requests in flight when the server ends"
    )
    dashboard: bool = Field(False, description="serve the operator's page at /dashboard")
    watch: bool = Field(False, description="load the artifact again when it changes")

    @model_validator(mode="after")
    def _consistent(self) -> ServerSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs both a certificate and its key; give both or neither")
        if self.limits is not None and not self.guard:
            raise ValueError("limits are given and the guard is off; expected the guard on")
        return self
