"""Settings of the router control plane, read from the environment (prefix ``TIDEGATE_ROUTER_``)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidegate.domain.manifests.names import WORKLOAD_LABEL

__all__ = ["RouterSettings"]


class RouterSettings(BaseSettings):
    """Everything that a person can set; the defaults are those of the chart."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_ROUTER_", frozen=True)

    namespaces: str = ""
    """Namespaces whose Routes are served, separated by commas; empty means all."""
    xds_host: str = "0.0.0.0"
    """Address on which proxies reach the control plane."""
    xds_port: int = Field(default=18000, ge=0, le=65535)
    """Port on which proxies reach the control plane; 0 takes a free one."""
    http_host: str = "0.0.0.0"
    """Address of health and metrics."""
    http_port: int = Field(default=18001, ge=0, le=65535)
    """Port of health and metrics; 0 takes a free one."""
    listener_port: int = Field(default=8000, ge=1, le=65535)
    """Port on which the proxies listen for requests."""
    proxy_selector: str = ""
    """Labels of the proxies' pods: each one that is ready must acknowledge; empty: only connected ones must."""
    proxy_namespace: str = "tidegate-system"
    """Namespace of the proxies' pods."""
    proxy_grace_seconds: float = Field(default=10.0, ge=0)
    """How long a proxy that disconnected is still waited for; without effect when ``proxy_selector`` is set."""
    pod_selector: str = WORKLOAD_LABEL
    """Label selector of the pods that Routes lead to."""
    status_delay_seconds: float = Field(default=1.0, ge=0)
    """A Route is reported as waiting only after this time: an acknowledgement usually takes a millisecond."""
    startup_grace_seconds: float = Field(default=5.0, ge=0)
    """Nor in this time after the start, in which the proxies come back."""
    log_level: str = "INFO"
    """Least severe level that is logged."""

    @property
    def namespace_list(self) -> tuple[str, ...]:
        """Return the namespaces to watch; an empty tuple means all."""
        return tuple(part.strip() for part in self.namespaces.split(",") if part.strip())
