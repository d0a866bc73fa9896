"""Supervised learning of a policy and value network from exactly labelled positions."""
