"""Pure decisions: data in, data out; no client, no clock, no event loop."""
