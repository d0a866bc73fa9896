"""The outside world behind the ports: the API server, Prometheus, MLflow. Exceptions are translated here."""
