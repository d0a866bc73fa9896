"""The one exception whose text is meant for the person at the terminal."""


class ClusterError(Exception):
    """Something the reader can act on: the text says what failed and what to do."""
