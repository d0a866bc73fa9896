"""The proxies: who is connected, who must acknowledge, who runs what. No network; the caller says what time it is."""

from dataclasses import dataclass

from tidegate.router.parts import Part
from tidegate.router.session import ProxySession

__all__ = ["Fleet", "Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the proxies are with one Route."""

    connected: int = 0
    acknowledged: int = 0
    missing: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def confirmed(self) -> bool:
        """Every proxy that must run it does, and there is at least one."""
        return self.acknowledged > 0 and not self.missing and self.refusal is None


class Fleet:
    """All proxies, by node id, which is the name of their pod.

    A connected proxy must acknowledge. So must a proxy's ready pod that is *not* connected: it still serves users,
    with old weights. Where these pods are not known (``expected`` is None), a proxy that disconnected is waited for
    during ``grace`` seconds, so that one that died blocks no rollout for ever.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._sessions: dict[str, list[ProxySession]] = {}
        self._departed: dict[str, float] = {}
        self.expected: frozenset[str] | None = None

    @property
    def connected(self) -> tuple[str, ...]:
        """Return the node ids with an open stream, sorted."""
        return tuple(sorted(self._sessions))

    def join(self, session: ProxySession) -> None:
        """Add a stream; a proxy that reconnects counts with its newest one."""
        self._sessions.setdefault(session.node, []).append(session)
        self._departed.pop(session.node, None)

    def leave(self, session: ProxySession, now: float) -> None:
        """Remove a stream that ended."""
        streams = self._sessions[session.node]
        streams.remove(session)
        if not streams:
            del self._sessions[session.node]
            self._departed[session.node] = now

    def standing(self, route: Part, now: float) -> Standing:
        """Return how far the proxies are with a Route."""
        newest = {node: streams[-1] for node, streams in self._sessions.items()}
        running = {node for node, session in newest.items() if session.runs(route)}
        refusals = (f"{node}: {text}" for node in sorted(newest) if (text := newest[node].refusal(route)))
        return Standing(
            connected=len(newest),
            acknowledged=len(running),
            missing=tuple(sorted((newest.keys() | self._absent(now)) - running)),
            refusal=next(refusals, None),
        )

    def _absent(self, now: float) -> frozenset[str]:
        if self.expected is not None:
            return self.expected
        self._departed = {node: since for node, since in self._departed.items() if now - since < self._grace}
        return frozenset(self._departed)
