"""HTTP with a deadline and a limit to every answer, as all sources use it that ask by HTTP.

An answer is JSON of a given type; whatever else comes is a NoAnswer. Redirects are not followed, and proxies of the
environment are not used: what is asked is on the cluster's own network.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from forebay.config.source_address import Address
from forebay.control.discover.member import Renewal
from forebay.failure import Exit, Failure

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 1024 * 1024
CONNECTIONS_MAX: Final = 8
# Words that are passed on to people.
SAID_BYTES_MAX: Final = 300
# How long a server may take to say what it has against our certificate.
ALERT_S: Final = 0.3
# Options of addresses that lead over TLS: files.
TLS_OPTIONS: Final = frozenset(("ca", "certificate", "key"))


# What to do about a connection that TLS did not come about for.
_WHO_WE_TRUST: Final = (
    "Name the authority of its certificate with the option ca; the certificate must be for the address that is asked."
)
_WHO_WE_ARE: Final = (
    "Name a certificate with the options certificate and key: of an authority that it trusts, valid, and for clients "
    "(clientAuth)."
)
_MAY_REFUSE: Final = (
    "It may demand a certificate, or not accept ours, and end the connection for that: see its log, and the options "
    "certificate and key."
)
_WRITE_HTTPS: Final = "If it speaks TLS, write +https behind the scheme of its address."
_WRITE_NO_HTTPS: Final = "If it speaks no TLS, leave out +https behind the scheme of its address."


class NoAnswer(Exception):
    """Why there is none, in a few words.

    status: of an HTTP answer that was none, or None; said: what stood in it, which may be anything. hint: what to do.
    """

    def __init__(self, cause: str, *, status: int | None = None, said: str = "", hint: str | None = None) -> None:
        super().__init__(cause)
        self.status = status
        self.said = said
        self.hint = hint


class Http:
    """Asks the servers of one source. Belongs to one event loop."""

    def __init__(
        self, *, timeout_s: float, tls: Callable[[], ssl.SSLContext] | None = None, login: tuple[str, str] | None = None
    ) -> None:
        """tls: reads the files of TLS, and blocks meanwhile; raises Failure. login: user and password of HTTP's basic
        authentication."""
        self._timeout_s = timeout_s
        self._is_secure = tls is not None
        self._login = login
        self._read = tls
        self._tls = tls() if tls else None
        self._client = self._made()
        # How many questions are under way with each client: one that is not the current one is closed with its last.
        self._uses: Counter[httpx2.AsyncClient] = Counter()

    def read_files(self) -> Renewal:
        """Reads the files of TLS once more, and blocks meanwhile. Raises Failure; then all is as before."""
        tls = self._read() if self._read else None

        async def renew() -> None:
            if tls is not None:
                before, self._tls = self._client, tls
                self._client = self._made()
                await self._drop(before)

        return renew

    def _made(self) -> httpx2.AsyncClient:
        import httpx2

        return httpx2.AsyncClient(
            # Without a context of its own, httpx2 reads the system's authorities, also where no TLS is spoken.
            verify=self._tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            auth=self._login,
            trust_env=False,
            follow_redirects=False,
            # A deadline of ours is around every use.
            timeout=None,
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            # Compressed, a few bytes could grow beyond any limit.
            headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "forebay"},
        )

    @contextlib.asynccontextmanager
    async def _using(self) -> AsyncIterator[httpx2.AsyncClient]:
        """The current client; what is under way goes on with it when it is no more."""
        client = self._client
        self._uses[client] += 1
        try:
            yield client
        finally:
            self._uses[client] -= 1
            await self._drop(client)

    async def _drop(self, client: httpx2.AsyncClient) -> None:
        if client is not self._client and not self._uses[client]:
            del self._uses[client]
            # Nobody asks with it any more, whatever becomes of its connections.
            with contextlib.suppress(Exception):
                await client.aclose()

    async def get(self, url: str, of: type[T], *, headers: Mapping[str, str] | None = None) -> T:
        """The answer to a GET. Raises NoAnswer."""
        return _decoded(await self._bytes("GET", url, None, headers), of)

    async def post(self, url: str, body: Any, of: type[T], *, headers: Mapping[str, str] | None = None) -> T:
        """The answer to a POST of JSON. Raises NoAnswer."""
        return _decoded(await self._bytes("POST", url, msgspec.json.encode(body), headers), of)

    async def tell(self, url: str, body: Any, *, limit_s: float) -> tuple[int, str]:
        """The status of a POST of JSON that may take as long, and what was said, whatever it is. Raises NoAnswer."""
        with _told(limit_s, self._is_secure):
            async with asyncio.timeout(limit_s):
                headers = {"content-type": "application/json"}
                async with (
                    self._using() as client,
                    client.stream("POST", url, content=msgspec.json.encode(body), headers=headers) as answer,
                ):
                    said = b""
                    async for chunk in answer.aiter_raw():
                        said = (said + chunk)[:SAID_BYTES_MAX]
                    return answer.status_code, " ".join(said.decode(errors="replace").split())

    async def lines(
        self, url: str, body: Any, of: type[T], *, headers: Mapping[str, str] | None = None, silence_s: float
    ) -> AsyncGenerator[T, None]:
        """The lines of an answer without end, each as it comes; they end after silence_s without one.

        Raises NoAnswer when the connection is lost.
        """
        with _told(self._timeout_s, self._is_secure):
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(self._timeout_s):
                    answer = await stack.enter_async_context(
                        self._stream("POST", url, msgspec.json.encode(body), headers)
                    )
                chunks = answer.aiter_raw()
                kept = b""
                while True:
                    try:
                        async with asyncio.timeout(silence_s):
                            chunk = await anext(chunks, None)
                    except TimeoutError:
                        return
                    if chunk is None:
                        raise NoAnswer("the connection was closed")
                    *whole, kept = (kept + chunk).split(b"\n")
                    if len(kept) > ANSWER_BYTES_MAX:
                        raise NoAnswer(f"a line has more than {ANSWER_BYTES_MAX} bytes")
                    for line in whole:
                        if line.strip():
                            yield _decoded(line, of)

    async def close(self) -> None:
        """Closes connections."""
        for client in {self._client, *self._uses}:
            await client.aclose()

    async def _bytes(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str] | None) -> bytes:
        try:
            return await self._asked(method, url, body, headers)
        except NoAnswer as none:
            if none.hint == _MAY_REFUSE:
                raise await self._alert(url) or none from None
            raise

    async def _alert(self, url: str) -> NoAnswer | None:
        """What a server says of our certificate. Nothing is sent: of who sends, the last words may be lost."""
        split = urlsplit(url)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(min(ALERT_S, self._timeout_s / 3)):
                reader, writer = await asyncio.open_connection(split.hostname, split.port, ssl=self._tls)
                try:
                    await reader.read(1)
                except ssl.SSLError as error:
                    return _refusal(error.reason or "no reason is given")
                finally:
                    writer.transport.abort()
        return None

    async def _asked(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str] | None) -> bytes:
        with _told(self._timeout_s, self._is_secure):
            async with asyncio.timeout(self._timeout_s), self._stream(method, url, body, headers) as answer:
                content = bytearray()
                async for chunk in answer.aiter_raw():
                    content += chunk
                    if len(content) > ANSWER_BYTES_MAX:
                        raise NoAnswer(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
                return bytes(content)

    @contextlib.asynccontextmanager
    async def _stream(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> AsyncIterator[httpx2.Response]:
        content_type = {"content-type": "application/json"} if body is not None else {}
        async with (
            self._using() as client,
            client.stream(method, url, content=body, headers={**(headers or {}), **content_type}) as answer,
        ):
            if not answer.is_success:
                said = b""
                async for chunk in answer.aiter_raw():
                    said += chunk
                    if len(said) >= SAID_BYTES_MAX:
                        break
                words = said[:SAID_BYTES_MAX].decode(errors="replace")
                raise NoAnswer(f"HTTP status {answer.status_code}", status=answer.status_code, said=words)
            yield answer


@contextlib.contextmanager
def _told(timeout_s: float, is_secure: bool) -> Iterator[None]:
    """What can go wrong, in a few words that hold nothing of the request."""
    import httpx2

    try:
        yield
    except TimeoutError:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from None
    except httpx2.ConnectError as error:
        raise _why(error) or NoAnswer(str(error) or "no connection") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ssl.SSLError) as error:
        # With TLS 1.3 a server looks at our certificate when all else is done: what it says of it comes as an answer.
        # Of a server that wants TLS, either its alert is read or the end of the connection, whichever is there first.
        is_cut = isinstance(error, (httpx2.RemoteProtocolError, httpx2.ReadError))
        hint = _MAY_REFUSE if is_secure else _WRITE_HTTPS if is_cut else None
        raise _why(error) or NoAnswer(f"the connection failed ({type(error).__name__})", hint=hint) from None


def _why(error: BaseException) -> NoAnswer | None:
    """The system's words, which are somewhere in the chain of causes; None: they are not."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NoAnswer(f"its certificate is not accepted: {cause.verify_message}", hint=_WHO_WE_TRUST)
        if isinstance(cause, ssl.SSLError):
            return _refusal(cause.reason or "no reason is given")
        if isinstance(cause, ConnectionRefusedError):
            return NoAnswer("connection refused")
        cause = cause.__cause__ or cause.__context__
    return None


def _refusal(reason: str) -> NoAnswer:
    """What OpenSSL says. An alert is the server's word: TLSV1_ALERT_UNKNOWN_CA, TLSV13_ALERT_CERTIFICATE_REQUIRED, …"""
    _, is_alert, words = reason.partition("_ALERT_")
    if is_alert and words == "CERTIFICATE_REQUIRED":
        return NoAnswer("it demands a certificate of ours", hint=_WHO_WE_ARE)
    if is_alert and words == "BAD_CERTIFICATE":
        return NoAnswer("it does not accept our certificate, or demands one (bad certificate)", hint=_WHO_WE_ARE)
    if is_alert and ("CERTIFICATE" in words or words in ("UNKNOWN_CA", "ACCESS_DENIED")):
        return NoAnswer(f"it does not accept our certificate ({words.lower().replace('_', ' ')})", hint=_WHO_WE_ARE)
    is_no_tls = reason in ("UNEXPECTED_EOF_WHILE_READING", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
    return NoAnswer(f"TLS failed: {reason}", hint=_WRITE_NO_HTTPS if is_no_tls else None)


def _decoded(content: bytes, of: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=of)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"the answer is not of the form expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NoAnswer("the answer is no JSON") from None


def refuse_tls_options(address: Address, secure: str) -> None:
    """Raises Failure where an address without TLS has an option of TLS: who wrote it takes the connection for safe.

    secure: the scheme with TLS.
    """
    given = [name for name in address.options if name in TLS_OPTIONS]
    if given and address.scheme != secure:
        cause = f'the option "{given[0]}" is for TLS, which the {address.scheme}:// address does without'
        raise Failure(cause, hint=f"Write {secure}://, or leave the option out.", exit=Exit.USAGE)


def tls_of(address: Address) -> ssl.SSLContext:
    """A context that trusts the authorities of the option `ca`, or the system's; blocks while it reads them.

    Raises Failure for a file that can't be used.
    """
    ca, certificate, key = (address.options.get(name) for name in ("ca", "certificate", "key"))
    if key and not certificate:
        raise Failure('the option "key" goes with "certificate"', hint="Name both files.", exit=Exit.USAGE)
    context = _loaded("ca", ca, lambda: ssl.create_default_context(cafile=ca))
    if certificate:
        _loaded("certificate", certificate, lambda: context.load_cert_chain(certificate, key, _no_password))
    return context


def _loaded(option: str, path: str | None, load: Callable[[], T]) -> T:
    try:
        return load()
    except OSError as error:
        # An SSLError is an OSError too.
        cause = (
            "holds nothing that can be used" if isinstance(error, ssl.SSLError) else f"can't be read: {error.strerror}"
        )
        hint = "Name a readable file in PEM form; a key must have no password."
        raise Failure(f'the file "{path}" of the option "{option}" {cause}', hint=hint) from None


def _no_password() -> str:
    # Otherwise OpenSSL asks at the terminal.
    return ""
