"""What lets us in at a metric source: the keys of a Secret, mounted as files and read again before every request.

==========================  ==================================================================================
key                         what it is for
==========================  ==================================================================================
``username``, ``password``  HTTP basic authentication
``token``                   HTTP bearer authentication; instead of the two above
``ca.crt``                  certificates of the authorities to trust, instead of the system's
``tls.crt``, ``tls.key``    client certificate and its private key
``headers``                 further headers, one ``Name: value`` a line, for example ``X-Scope-OrgID: games``
==========================  ==================================================================================

No message tells what is in a key, only which key to look at.
"""

import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.errors import Unavailable

__all__ = ["Access", "AccessFolder"]

KEYS = ("username", "password", "token", "headers", "ca.crt", "tls.crt", "tls.key")
PROVING = KEYS[:4]
"""The keys that can be wrong when the source says 401 or 403."""
SWAPPED = "..data"
"""Kubernetes changes all files of a mounted Secret at once by turning this link."""
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
RESERVED = frozenset({"authorization", "host", "content-type", "content-length", "transfer-encoding", "connection"})


@dataclass(frozen=True, slots=True)
class Access:
    """What one request carries."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | bool = True
    """True: what the system trusts, and no client certificate."""


class AccessFolder:
    """A folder with these keys; without one, nothing is sent and the system's authorities are trusted."""

    def __init__(self, folder: Path | None = None, secret: str | None = None) -> None:
        """Take the folder, and the name of the Secret that it shows, for people."""
        self._folder = folder
        self._secret = f"Secret {secret}" if secret else str(folder)
        self._found: dict[str, bytes] = {}
        self._access = Access()

    def read(self) -> Access:
        """Return what the files say now.

        Raises:
            Unavailable: They cannot be used; the message names the key.
        """
        if self._folder is None:
            return self._access
        try:
            folder = (self._folder / SWAPPED).resolve() if (self._folder / SWAPPED).exists() else self._folder
            found = {key: (folder / key).read_bytes() for key in KEYS if (folder / key).is_file()}
            if found != self._found:
                self._access = Access(self._headers(found), self._tls(folder, found))
                self._found = found
        except OSError as error:
            raise self._fault(f"cannot be read: {error.strerror}") from error
        return self._access

    def explain_refusal(self, status: int) -> str:
        """Say what to check when the source answers 401 or 403."""
        if self._folder is None:
            return f"it wants credentials ({status}); name a Secret with them in prometheus.auth.existingSecret"
        used = [key for key in PROVING if key in self._found]
        if not used:
            return f"it wants credentials ({status}), and {self._secret} is missing or has none of {', '.join(PROVING)}"
        return f"it refused the credentials ({status}); check {' and '.join(used)} in {self._secret}"

    def explain_tls(self, error: ssl.SSLError) -> str:
        """Say what to check when there is no secure connection."""
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message.rstrip(".")
            return f"its certificate is not trusted ({why}); put that of its authority into ca.crt of {self._where}"
        return f"TLS failed ({error.reason}); check tls.crt and tls.key of {self._where}"

    def explain_cut(self, url: str) -> str:
        """Say what to check when a connection was cut: since TLS 1.3 a server may refuse a client just so."""
        if not url.startswith("https:"):
            return ""
        return f"; if it asks for a client certificate, check tls.crt and tls.key of {self._where}"

    @property
    def _where(self) -> str:
        return self._secret if self._folder else "a Secret, and name that in prometheus.auth.existingSecret"

    def _headers(self, found: Mapping[str, bytes]) -> dict[str, str]:
        texts = {key: self._text(key, found[key]) for key in PROVING if key in found}
        headers = self._further_headers(texts.pop("headers", ""))
        for key, text in texts.items():
            if not text or not text.isprintable() or (key == "token" and not (text.isascii() and " " not in text)):
                raise self._fault(f"{key} is empty or has characters that no {key} has")
        if "token" in texts and len(texts) > 1:
            raise self._fault("has a token and a username or password; remove one of the two")
        if len(texts) == 1 and "token" not in texts:
            raise self._fault("has one of username and password; add the other one")
        if texts:
            headers["Authorization"] = _authorization(texts)
        return headers

    def _further_headers(self, text: str) -> dict[str, str]:
        headers = {}
        for number, line in enumerate(text.splitlines(), 1):
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not line.strip():
                continue
            if not colon or not HEADER_NAME.fullmatch(name) or not value.isprintable():
                raise self._fault(f"line {number} of headers is not like 'X-Scope-OrgID: games'")
            if name.lower() in RESERVED:
                raise self._fault(f"line {number} of headers sets {name}; use username and password, or token")
            headers[name] = value
        return headers

    def _text(self, key: str, value: bytes) -> str:
        try:
            return value.decode().strip()
        except UnicodeDecodeError as error:
            raise self._fault(f"{key} is not text") from error

    def _tls(self, folder: Path, found: Mapping[str, bytes]) -> ssl.SSLContext | bool:
        if not found.keys() & {"ca.crt", "tls.crt", "tls.key"}:
            return True
        context = self._trust(found)
        if ("tls.crt" in found) != ("tls.key" in found):
            raise self._fault("has one of tls.crt and tls.key; add the other one")
        if "tls.crt" in found:
            try:
                # A key with a passphrase would otherwise ask for it at the terminal.
                context.load_cert_chain(folder / "tls.crt", folder / "tls.key", password="")
            except (ssl.SSLError, ValueError) as error:
                raise self._fault("tls.crt and tls.key are not a certificate and its key, in PEM, open") from error
        return context

    def _trust(self, found: Mapping[str, bytes]) -> ssl.SSLContext:
        authorities = self._text("ca.crt", found["ca.crt"]) if "ca.crt" in found else None
        try:
            return ssl.create_default_context(cadata=authorities)
        except (ssl.SSLError, ValueError) as error:
            raise self._fault("ca.crt has no certificate in PEM") from error

    def _fault(self, message: str) -> Unavailable:
        return Unavailable("BadCredentials", f"{self._secret}: {message}")


def _authorization(texts: Mapping[str, str]) -> str:
    if "token" in texts:
        return f"Bearer {texts['token']}"
    return "Basic " + b64encode(f"{texts['username']}:{texts['password']}".encode()).decode()
