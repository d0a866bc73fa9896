"""One class per kind, each with the same four verbs: observe, plan, act, record."""
