"""A real single-node Kubernetes out of upstream parts, started and stopped by one command."""
