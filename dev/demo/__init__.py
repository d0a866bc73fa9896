"""The demonstration: a model is trained, released, improved under traffic, and three bad versions are stopped."""
