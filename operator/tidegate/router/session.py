"""What one proxy has been told, what it has accepted, and what it must be told next. Pure: no network, no clock.

State-of-the-world ADS in the make-before-break order: clusters, their endpoints, the listener, host names, and routes
only when the proxy has all they refer to. A cluster is taken away only when the proxy has accepted routes without it;
a backend that has no ready endpoint any more loses its share first and its endpoints then.

::

    snapshot ──► clusters ──ack──► endpoints ──ack──► routes ──ack──► confirmed
                     ▲                 ▲                 │
                     └─────────────────┴── kept while sent or accepted routes need them

One response per kind is under way at a time, so a refusal names the few parts that changed: they are sent one by one
until the guilty one is found, which then stays at its last accepted content while everybody else's changes go on.

A proxy that reconnects says which version of each kind it has. Kinds that are always sent complete are not sent again
when that is what it shall have. Endpoints and routes are: a proxy that dropped and re-added one has lost its content
without reporting another version. Content that it has already changes nothing in it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tidegate.router.clusters import build_endpoints
from tidegate.router.listener import LISTENER
from tidegate.router.parts import Kind, Part, version_of
from tidegate.router.snapshot import Snapshot

__all__ = ["ProxySession", "Receipt", "Request", "Response"]

_COMPLETE = frozenset({Kind.CLUSTERS, Kind.LISTENERS, Kind.SCOPES})
"""Kinds of which a response holds everything; what is missing in it is removed."""


@dataclass(frozen=True, slots=True)
class Request:
    """A discovery request: a subscription, an acknowledgement, or a refusal with the proxy's message."""

    kind: Kind
    version: str = ""
    nonce: str = ""
    names: frozenset[str] = frozenset()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A discovery response; ``bodies`` are serialised resources."""

    kind: Kind
    version: str
    nonce: str
    bodies: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request meant: the response it answers, if any, and the parts it accepted or refused."""

    nonce: str = ""
    accepted: frozenset[str] = frozenset()
    refused: str | None = None


@dataclass(slots=True)
class _Channel:
    """One kind of resource of one proxy."""

    subscribed: bool = False
    untouched: bool = True
    """Nothing was sent or recognised on this stream yet."""
    known_version: str = ""
    """What the proxy said it has when it connected."""
    names: frozenset[str] = frozenset()
    nonce: str = ""
    """The response under way; empty when there is none."""
    under_way: tuple[Part, ...] = ()
    """What is new in that response."""
    sent: dict[str, Part] = field(default_factory=dict)
    accepted: dict[str, Part] = field(default_factory=dict)
    refusals: dict[Part, str] = field(default_factory=dict)
    """Parts that the proxy refused, with its message."""
    suspects: set[Part] = field(default_factory=set)
    """Parts of a refused response that had several: the proxy may have accepted some of them."""
    blocked: str = ""
    """A version that was refused although no single part is to blame."""
    settled: tuple[object, ...] | None = None
    """What was looked at when nothing had to be sent; as long as it is the same, nothing has to be sent."""

    def subscribe(self, request: Request) -> None:
        if not self.subscribed:
            self.subscribed, self.known_version = True, request.version
        if dropped := self.names - request.names:
            self.forget(dropped)
        self.names, self.settled = request.names, None

    def accept(self) -> frozenset[str]:
        changed = frozenset(part.name for part in self.under_way)
        self.suspects = {part for part in self.suspects if part.name not in changed}
        self.accepted, self.nonce = self.sent, ""
        return changed

    def refuse(self, message: str) -> None:
        if len(self.under_way) == 1:
            self.refusals[self.under_way[0]] = message
            self.suspects.difference_update(self.under_way)
        elif self.under_way:
            self.suspects.update(self.under_way)
        else:
            self.blocked = version_of(self.sent)
        self.sent, self.nonce = self.accepted, ""

    def admit(self, wanted: Mapping[str, Part]) -> dict[str, Part]:
        """Hold refused parts, and all suspects but one, at what the proxy has accepted."""
        if not self.refusals and not self.suspects:
            return dict(wanted)
        admitted: dict[str, Part] = {}
        probing = False
        for name, part in wanted.items():
            suspect = part in self.suspects and self.accepted.get(name) != part
            if part in self.refusals or (suspect and probing):
                if name in self.accepted:
                    admitted[name] = self.accepted[name]
                continue
            probing = probing or suspect
            admitted[name] = part
        return admitted

    def forget(self, names: Iterable[str]) -> None:
        """Count parts as not sent: the proxy has dropped them, or needs them again although they did not change."""
        lost = frozenset(names)
        self.sent = {name: part for name, part in self.sent.items() if name not in lost}
        self.accepted = {name: part for name, part in self.accepted.items() if name not in lost}
        self.suspects = {part for part in self.suspects if part.name not in lost}
        self.settled = None


class ProxySession:
    """One stream of one proxy."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._channels = {kind: _Channel() for kind in Kind}
        self._sequence = 0

    def receive(self, request: Request) -> Receipt:
        """Take in what the proxy says; an answer to anything but the response under way only changes names."""
        channel = self._channels[request.kind]
        nonce = channel.nonce
        channel.subscribe(request)
        if not nonce or request.nonce != nonce:
            return Receipt()
        if request.error is not None:
            channel.refuse(request.error)
            return Receipt(nonce, refused=request.error)
        return Receipt(nonce, accepted=channel.accept())

    def respond(self, snapshot: Snapshot) -> list[Response]:
        """Return what can be sent now; what has to wait for an acknowledgement comes with a later call."""
        steps = (self._clusters, self._endpoints, self._listeners, self._scopes, self._routes)
        responses = (step(snapshot) for step in steps)
        return [response for response in responses if response]

    def runs(self, route: Part) -> bool:
        """Tell whether the proxy has accepted exactly this route configuration."""
        return self._channels[Kind.ROUTES].accepted.get(route.name) == route

    def refusal(self, route: Part) -> str | None:
        """Return the proxy's message when it refused this route configuration, or what it cannot be served without."""
        if (own := self._channels[Kind.ROUTES].refusals.get(route)) is not None:
            return own
        needs = route.requires | {LISTENER}
        for kind, channel in self._channels.items():
            for part, message in channel.refusals.items():
                if part.name in needs or (kind is Kind.SCOPES and route.name in part.requires):
                    return message
        return None

    def _clusters(self, snapshot: Snapshot) -> Response | None:
        sent = self._channels[Kind.CLUSTERS].sent
        needed = {name for part in self._outdated(snapshot) for name in part.requires} - snapshot.clusters.keys()
        kept = {name: sent[name] for name in needed if name in sent}
        wanted = {**snapshot.clusters, **kept} if kept else snapshot.clusters
        return self._respond(Kind.CLUSTERS, lambda: wanted, snapshot.clusters, kept)

    def _endpoints(self, snapshot: Snapshot) -> Response | None:
        leaving = self._leaving(snapshot)
        return self._respond(
            Kind.ENDPOINTS, lambda: self._wanted_endpoints(snapshot, leaving), snapshot.endpoints, leaving
        )

    def _listeners(self, snapshot: Snapshot) -> Response | None:
        return self._respond(Kind.LISTENERS, lambda: snapshot.listeners, snapshot.listeners)

    def _scopes(self, snapshot: Snapshot) -> Response | None:
        return self._respond(Kind.SCOPES, lambda: snapshot.scopes, snapshot.scopes)

    def _routes(self, snapshot: Snapshot) -> Response | None:
        clusters, endpoints = self._channels[Kind.CLUSTERS], self._channels[Kind.ENDPOINTS]
        basis = (snapshot.routes, clusters.sent, clusters.accepted, endpoints.sent, endpoints.accepted)
        return self._respond(Kind.ROUTES, lambda: self._wanted_routes(snapshot), *basis)

    def _respond(self, kind: Kind, want: Callable[[], Mapping[str, Part]], *basis: object) -> Response | None:
        """Send what is wanted and not yet sent; ``basis`` is everything outside the channel that decides about it."""
        channel = self._channels[kind]
        if not channel.subscribed or channel.nonce or _same(channel.settled, basis):
            return None
        parts = channel.admit(want())
        first = channel.untouched and kind in _COMPLETE
        if parts == channel.sent and not first:
            channel.settled = basis
            return None
        return self._send(kind, channel, parts)

    def _send(self, kind: Kind, channel: _Channel, parts: dict[str, Part]) -> Response | None:
        complete = kind in _COMPLETE
        changed = {name: part for name, part in parts.items() if channel.sent.get(name) != part}
        content = parts if complete else changed
        version = version_of(content)
        if version == channel.blocked:
            return None
        has_it = channel.untouched and version == channel.known_version if complete else not changed
        channel.untouched, channel.sent = False, parts
        if has_it:
            channel.accepted = parts
            return None
        if kind is Kind.CLUSTERS:
            # A proxy warms a changed cluster up again and waits for its endpoints, which did not change.
            self._channels[Kind.ENDPOINTS].forget(changed)
        self._sequence += 1
        channel.nonce, channel.under_way = str(self._sequence), tuple(changed.values())
        return Response(kind, version, channel.nonce, tuple(content[name].body for name in sorted(content)))

    def _wanted_endpoints(self, snapshot: Snapshot, leaving: set[str]) -> Mapping[str, Part]:
        channel = self._channels[Kind.ENDPOINTS]
        known = {**channel.sent, **snapshot.endpoints} if channel.sent else snapshot.endpoints
        wanted = {name: known[name] for name in channel.names if name in known}
        return {**wanted, **{name: channel.sent[name] for name in leaving if name in wanted and name in channel.sent}}

    def _wanted_routes(self, snapshot: Snapshot) -> Mapping[str, Part]:
        """Return each route in its newest form that the proxy can serve; one that is gone goes with its host names."""
        channel = self._channels[Kind.ROUTES]
        wanted: dict[str, Part] = {}
        for key in channel.names:
            sent, new = channel.sent.get(key), snapshot.routes.get(key)
            part = new if new and (new == sent or self._can_serve(new)) else sent
            if part:
                wanted[key] = part
        return wanted

    def _outdated(self, snapshot: Snapshot) -> list[Part]:
        """Return the routes by which the proxy may still send requests although they shall be others now."""
        routes = self._channels[Kind.ROUTES]
        held = (*routes.sent.values(), *routes.accepted.values(), *routes.suspects)
        return [part for part in held if snapshot.routes.get(part.name) is not part]

    def _leaving(self, snapshot: Snapshot) -> set[str]:
        """Return the clusters that requests are sent to until the proxy accepts routes that it is going to accept."""
        refusals = self._channels[Kind.ROUTES].refusals
        names: set[str] = set()
        for part in self._outdated(snapshot):
            following = snapshot.routes.get(part.name)
            if following is None or following not in refusals:
                names |= part.requires
        return names - snapshot.required

    def _can_serve(self, route: Part) -> bool:
        """Tell whether the proxy has all clusters of the route, with endpoints, and loses none of them now."""
        clusters, endpoints = self._channels[Kind.CLUSTERS], self._channels[Kind.ENDPOINTS]
        return all(
            name in held and held[name] != build_endpoints(name, ())
            for name in route.requires
            for held in (clusters.accepted, clusters.sent, endpoints.accepted, endpoints.sent)
        )


def _same(one: tuple[object, ...] | None, other: tuple[object, ...]) -> bool:
    """Compare by identity where that suffices: tables are never changed once they are in use."""
    return one is not None and all(
        a is b or (isinstance(a, set | dict) and not a and not b) for a, b in zip(one, other, strict=True)
    )
