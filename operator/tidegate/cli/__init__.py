"""``tidegate`` and ``kubectl tidegate``: the commands for people. Nothing of the operator imports this package."""
