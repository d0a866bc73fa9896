"""What lets us in at a metric source or a gate: the keys of a Secret, read again before every request.

The Secret of the metric source is the installation's and mounted as files; that of a gate lies in the namespace of its
Deployment and is read from the API server.

==========================  ==================================================================================
key                         what it is for
==========================  ==================================================================================
``username``, ``password``  HTTP basic authentication
``token``                   HTTP bearer authentication; instead of the two above
``ca.crt``                  certificates of the authorities to trust, instead of the system's
``tls.crt``, ``tls.key``    client certificate and its private key
``headers``                 further headers, one ``Name: value`` a line, for example ``X-Scope-OrgID: games``
``origin``                  for gates alone, and never missing there: the only scheme, host and port that all this is
                            sent to; who may name an address may not choose where the credentials go
==========================  ==================================================================================

No message tells what is in a key, only which key to look at.
"""

import os
import re
import ssl
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from yarl import URL

from tidegate.adapters.connection import ApiConnection, path_of
from tidegate.errors import Refused, Unavailable
from tidegate.ports import SECRET

__all__ = ["Access", "AccessFolder", "AccessSecrets", "find_tls_error"]

KEYS = ("username", "password", "token", "headers", "ca.crt", "tls.crt", "tls.key")
PROVING = KEYS[:4]
"""The keys that can be wrong when the source says 401 or 403."""
ORIGIN = "origin"
SWAPPED = "..data"
"""Kubernetes changes all files of a mounted Secret at once by turning this link."""
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
RESERVED = frozenset({"authorization", "host", "content-type", "content-length", "transfer-encoding", "connection"})


@dataclass(frozen=True, slots=True)
class Access:
    """What one request carries, and what to check when that does not let us in."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | bool = True
    """True: what the system trusts, and no client certificate."""
    secret: str | None = None
    """What people call the Secret; None: none is named."""
    setting: str = ""
    """Where people name one."""
    proving: tuple[str, ...] = ()
    """The keys in it that prove who we are."""

    def explain_refusal(self, status: int) -> str:
        """Say what to check when the other side answers 401 or 403."""
        if self.secret is None:
            return f"it wants credentials ({status}); name a Secret with them in {self.setting}"
        if not self.proving:
            return f"it wants credentials ({status}), and {self.secret} is missing or has none of {', '.join(PROVING)}"
        return f"it refused the credentials ({status}); check {' and '.join(self.proving)} in {self.secret}"

    def explain_tls(self, error: ssl.SSLError) -> str:
        """Say what to check when there is no secure connection."""
        where = self._where
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message.rstrip(".")
            return f"its certificate is not trusted ({why}); put that of its authority into ca.crt of {where}"
        return f"TLS failed ({error.reason}); check tls.crt and tls.key of {where}"

    def explain_cut(self, url: str) -> str:
        """Say what to check when a connection was cut: since TLS 1.3 a server may refuse a client just so."""
        if not url.startswith("https:"):
            return ""
        return f"; if it asks for a client certificate, check tls.crt and tls.key of {self._where}"

    @property
    def _where(self) -> str:
        return self.secret or f"a Secret, and name that in {self.setting}"


class AccessFolder:
    """A folder with these keys; without one, nothing is sent and the system's authorities are trusted."""

    def __init__(self, folder: Path | None = None, secret: str | None = None) -> None:
        """Take the folder, and the name of the Secret that it shows, for people."""
        self._folder = folder
        self._keys = _Keys(f"Secret {secret}" if secret else str(folder), "prometheus.auth.existingSecret")
        self._found: dict[str, bytes] | None = None
        self._access = Access(setting=self._keys.setting)

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
        except OSError as error:
            raise self._keys.fault(f"cannot be read: {error.strerror}") from error
        if found != self._found:
            self._access = self._keys.make(found)
            self._found = found
        return self._access


class AccessSecrets:
    """The Secrets that gates name, in the namespaces of their Deployments."""

    def __init__(self, api: ApiConnection) -> None:
        """Use this connection."""
        self._api = api

    async def read(self, namespace: str, name: str | None, url: str) -> Access:
        """Return what a request to this address carries; nothing if no Secret is named.

        Raises:
            Unavailable: The Secret cannot be used (BadCredentials), or the API server does not tell.
        """
        keys = _Keys(f"Secret {name}", "secret of the gate")
        if name is None:
            return Access(setting=keys.setting)
        try:
            found = await self._api.get(path_of(SECRET, namespace, name))
        except Refused as error:
            raise keys.fault("the operator may not read it; add its name to gates.secrets of the chart") from error
        if found is None:
            raise keys.fault(f"is missing; create it in namespace {namespace}")
        data = {key: b64decode(value) for key, value in (found.get("data") or {}).items()}
        keys.check_origin(data.get(ORIGIN, b""), url)
        return keys.make({key: data[key] for key in KEYS if key in data})


@dataclass(frozen=True, slots=True)
class _Keys:
    """Makes of the keys of one Secret what a request carries.

    Raises, from every method but `fault`:
        Unavailable: A key cannot be used; the message names it.
    """

    secret: str
    setting: str

    def make(self, found: Mapping[str, bytes]) -> Access:
        proving = tuple(key for key in PROVING if key in found)
        return Access(self._headers(found), self._tls(found), self.secret, self.setting, proving)

    def check_origin(self, value: bytes, url: str) -> None:
        """Refuse an address that the Secret is not for; a path would promise more than is looked at."""
        wanted = URL(url).origin()
        text = self._text(ORIGIN, value)
        if not text:
            raise self.fault(f"add the key {ORIGIN} with the one place that all this may be sent to, such as {wanted}")
        try:
            origin = URL(text).origin()
            is_whole = URL(text).relative() in (URL(""), URL("/"))
        except ValueError:
            origin, is_whole = None, False
        if origin is None or not is_whole:
            raise self.fault(f"{ORIGIN} is not like https://gates.example:8443")
        if origin != wanted:
            raise self.fault(f"its {ORIGIN} is not {wanted}; correct the url of the gate, or that key")

    def fault(self, message: str) -> Unavailable:
        return Unavailable("BadCredentials", f"{self.secret}: {message}")

    def _headers(self, found: Mapping[str, bytes]) -> dict[str, str]:
        texts = {key: self._text(key, found[key]) for key in PROVING if key in found}
        headers = self._further_headers(texts.pop("headers", ""))
        for key, text in texts.items():
            if not text or not text.isprintable() or (key == "token" and not (text.isascii() and " " not in text)):
                raise self.fault(f"{key} is empty or has characters that no {key} has")
        if "token" in texts and len(texts) > 1:
            raise self.fault("has a token and a username or password; remove one of the two")
        if len(texts) == 1 and "token" not in texts:
            raise self.fault("has one of username and password; add the other one")
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
                raise self.fault(f"line {number} of headers is not like 'X-Scope-OrgID: games'")
            if name.lower() in RESERVED:
                raise self.fault(f"line {number} of headers sets {name}; use username and password, or token")
            headers[name] = value
        return headers

    def _text(self, key: str, value: bytes) -> str:
        try:
            return value.decode().strip()
        except UnicodeDecodeError as error:
            raise self.fault(f"{key} is not text") from error

    def _tls(self, found: Mapping[str, bytes]) -> ssl.SSLContext | bool:
        if not found.keys() & {"ca.crt", "tls.crt", "tls.key"}:
            return True
        context = self._trust(found)
        if ("tls.crt" in found) != ("tls.key" in found):
            raise self.fault("has one of tls.crt and tls.key; add the other one")
        if "tls.crt" in found:
            try:
                _show_certificate(context, found["tls.crt"] + b"\n" + found["tls.key"])
            except (ssl.SSLError, ValueError) as error:
                raise self.fault("tls.crt and tls.key are not a certificate and its key, in PEM, open") from error
        return context

    def _trust(self, found: Mapping[str, bytes]) -> ssl.SSLContext:
        authorities = self._text("ca.crt", found["ca.crt"]) if "ca.crt" in found else None
        try:
            return ssl.create_default_context(cadata=authorities)
        except (ssl.SSLError, ValueError) as error:
            raise self.fault("ca.crt has no certificate in PEM") from error


def find_tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return what TLS said; the client's own errors wrap it, and some of them only look like it."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, aiohttp.ClientError):
            return error
        error = error.__cause__
    return None


def _show_certificate(context: ssl.SSLContext, chain: bytes) -> None:
    """Show a client certificate; it is read from a file alone, so the key gets one in memory, and none on a disk."""
    file = os.memfd_create("tls")
    try:
        os.write(file, chain)
        # A key with a passphrase would otherwise ask for it at the terminal.
        context.load_cert_chain(f"/proc/self/fd/{file}", password="")
    finally:
        os.close(file)


def _authorization(texts: Mapping[str, str]) -> str:
    if "token" in texts:
        return f"Bearer {texts['token']}"
    return "Basic " + b64encode(f"{texts['username']}:{texts['password']}".encode()).decode()
