"""Tools of a developer's machine: the local cluster and the demo. Nothing here is shipped."""
