"""The control plane of the built-in Envoy: Routes and ready endpoints in, xDS out, acknowledged weights back.

Data walks in one direction: ``reflector`` (what the API server says) -> ``control`` (tables) -> ``snapshot`` (pure: xDS
resources) -> ``session`` (pure: what one proxy must be sent next) -> ``ads`` (gRPC) -> proxy; and back:
acknowledgement -> ``fleet`` (who runs what) -> ``status`` (pure: what the Route says) -> ``recorder`` (one patch).
"""
