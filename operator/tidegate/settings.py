"""Settings of the operator: the only reader of the environment."""

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, HttpUrl, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tidegate.errors import Stalled

__all__ = ["Settings", "load_settings"]

Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Every setting is an environment variable with the prefix TIDEGATE_."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", extra="ignore", frozen=True)

    namespace: str | None = None
    """Namespace of the operator itself: its lease lies there; that of its pod or kubeconfig when unset."""
    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to work in, separated by commas; all when empty."""
    prometheus_url: HttpUrl | None = None
    """Where the analysis gets its metrics; without it every metric is an Error and releases hold."""
    prometheus_credentials: Path | None = None
    """Folder with the keys of a Secret that lets us in there: see adapters/access.py."""
    prometheus_secret: str | None = None
    """Name of that Secret, for messages."""
    mlflow_url: HttpUrl | None = None
    """Tracking server; without it nothing is registered."""
    artifact_root: str | None = None
    """Where trainers put their results when there is no MLflow, for example s3://bucket/models."""
    trainer_image: str = "tidegate/trainer:latest"
    """Image of the built-in trainer."""
    agent_image: str = "tidegate/model-agent:latest"
    """Image of the puller, the readiness agent and the validator."""
    triton_image: str = "tidegate/triton:latest"
    """Image of Triton Inference Server with the ONNX Runtime backend."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of the images above."""
    progress_url: str = "http://tidegate-operator.tidegate-system:8081"
    """Address at which trainers reach this operator."""
    envoy_service: str = "tidegate-envoy.tidegate-system.svc.cluster.local"
    """DNS name of the Envoy Service: every endpoint is an alias of it."""
    envoy_port: Port = 8000
    """Port of the data plane."""
    gpu_runtime_class: str | None = None
    """Runtime class of pods that ask for GPUs, for example nvidia."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    metrics_port: Port = 8080
    """Port of /metrics, /healthz and /readyz."""
    progress_port: Port = 8081
    """Port at which trainers report their progress."""
    leader_election: bool = True
    """Work only while holding the lease; needed as soon as two replicas may run at once."""
    lease_seconds: Annotated[float, Field(ge=1, le=300)] = 15
    """How long a lease is valid that is not renewed: the longest pause after the leader has died."""
    identity: str = Field(default_factory=socket.gethostname)
    """Name of this replica in the lease: the pod's name."""
    workers: Annotated[int, Field(ge=1, le=256)] = 32
    """Objects that are reconciled at the same time."""
    releases_per_namespace: Annotated[int, Field(ge=0)] = 0
    """Releases that may be under way at once in one namespace; 0: any number."""
    releases_in_cluster: Annotated[int, Field(ge=0)] = 0
    """Releases that may be under way at once in all namespaces that this operator works in; 0: any number."""
    resync_seconds: Annotated[float, Field(ge=1)] = 600
    """How often the memory is compared with the API server, should a watch have missed something."""

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator(
        "prometheus_url",
        "prometheus_credentials",
        "prometheus_secret",
        "mlflow_url",
        "artifact_root",
        "gpu_runtime_class",
        "namespace",
        mode="before",
    )
    @classmethod
    def _drop_empty(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("prometheus_url")
    @classmethod
    def _keep_secrets_out(cls, value: HttpUrl | None) -> HttpUrl | None:
        """Addresses stand in messages; what lets us in must not."""
        if value is not None and (value.username or value.password):
            raise ValueError("has a user or a password; put them into a Secret, see prometheus.auth.existingSecret")
        return value


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        Stalled: A variable has a value that it cannot have; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        found = [f"TIDEGATE_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors(include_url=False)]
        raise Stalled("BadSettings", "; ".join(found)) from error
