"""Imported before kopf: keeps the official Kubernetes client out of the operator's memory.

Where that client is installed (the router uses it), kopf imports all of it, some 30 MB, for a few type checks. A module
that is None in ``sys.modules`` counts as not installed.
"""

import sys

sys.modules.setdefault("kubernetes", None)  # type: ignore[arg-type]
