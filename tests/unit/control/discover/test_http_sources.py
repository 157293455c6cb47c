"""Sources that ask by HTTP, beside servers that answer late, too much, something else, or not at all."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from forebay.config.secret import Secret
from forebay.control.discover import http, registry
from forebay.control.discover.member import Lease, Managing, Member, Role, Sighting, SourceFailed, TimedSource
from forebay.control.discover.registration import Means

from tests.harness.certificates import Authority
from tests.harness.postgres import free_port
from tests.harness.web import Answer, Reply, Request, serving

SECRET = "hunter2"
# As Patroni 4.1 and 3.3 write it.
CLUSTER: dict[str, Any] = {
    "members": [
        {"name": "a", "role": "leader", "state": "running", "api_url": "http://10.0.0.1:8008/patroni",
         "host": "10.0.0.1", "port": 5433, "timeline": 7},
        {"name": "b", "role": "sync_standby", "state": "streaming", "api_url": "http://10.0.0.2:8008/patroni",
         "host": "db2.example", "port": 5432, "timeline": 7, "lag": 24, "lsn": "1/8000060", "replay_lag": 24},
        {"name": "c", "role": "replica", "state": "starting", "api_url": "http://10.0.0.3:8008/patroni",
         "host": "10.0.0.3", "timeline": 6, "lag": "unknown", "lsn": "unknown", "tags": {"nofailover": True}},
        {"name": "d", "role": "replica", "state": "creating replica", "api_url": "http://10.0.0.4:8008/patroni"},
    ],
    "pause": True,
    "scope": "shop",
}  # fmt: skip


async def look(address: str, **means: Any) -> Sighting:
    """One look of a source of its own."""
    source = registry.build(address, Means(**means))
    try:
        return await source.look()
    finally:
        await source.close()


def always(reply: Reply) -> Answer:
    """The same to everybody."""

    async def answer(_: Request) -> Reply:
        return reply

    return answer


async def never(_: Request) -> Reply:
    """Accepts, and says nothing."""
    await asyncio.Event().wait()
    raise AssertionError


def test_what_patroni_tells_is_reduced_to_members() -> None:
    """Words for the same thing differ between releases; what is unknown stays so."""

    async def story() -> None:
        async with serving(always(Reply(body=CLUSTER))) as web:
            seen = await look(f"patroni://{web.host}")
            assert (seen.asked, seen.lease, seen.is_paused) == (web.host, Lease(holder="a"), True)
            assert [each.path for each in web.requests] == ["/cluster"]
        a, b, c = seen.members
        assert a == Member(
            host="10.0.0.1", port=5433, role=Role.PRIMARY, source="patroni", name="a", timeline=7, state="running",
            api="http://10.0.0.1:8008/patroni",
        )  # fmt: skip
        assert (b.host, b.role, b.lsn, b.lag_bytes) == ("db2.example", Role.REPLICA, (1 << 32) + 0x8000060, 24)
        assert (c.port, c.role, c.lsn, c.lag_bytes, c.state) == (5432, Role.REPLICA, None, None, "starting")
        assert (seen.primaries, seen.holder) == ((a,), a)

        standby = {"members": [{**CLUSTER["members"][0], "role": "standby_leader"}]}
        async with serving(always(Reply(body=standby))) as web:
            seen = await look(f"patroni://{web.host}")
            assert (seen.primaries, seen.holder, seen.is_paused) == ((), seen.members[0], False)

    asyncio.run(story())


def test_patronis_own_times_are_asked_and_are_its_defaults_where_they_are_not_set() -> None:
    """They say how long a lost primary is waited for."""

    async def story() -> None:
        for body, expected in (({"ttl": 20, "loop_wait": 5, "slots": {}}, (20, 5)), ({"maximum_lag": 1}, (30, 10))):
            async with serving(always(Reply(body=body))) as web:
                source = registry.build(f"patroni://{web.host}", Means())
                assert isinstance(source, TimedSource)
                times = await source.times()
                assert (times.lease_s, times.round_s) == expected
                await source.close()

    asyncio.run(story())


def test_patroni_is_asked_to_switch_over_and_its_refusal_is_told() -> None:
    """Its words are the only ones that say why; of a login, where that goes."""

    async def story() -> None:
        replies = [Reply(body=b"done"), Reply(412, b"candidate is\nnot healthy"), Reply(401, b"no auth")]

        async def answer(_: Request) -> Reply:
            return replies.pop(0)

        async with serving(answer) as web:
            source = registry.build(
                f"patroni://{web.host}", Means(timeout_s=0.2), user="ops", password=Secret("geheim")
            )
            assert isinstance(source, Managing)

            def member(name: str) -> Member:
                api = f"http://{web.host}/patroni"
                return Member(host="db", port=5432, role=Role.REPLICA, source="patroni", name=name, api=api)

            await source.switch_over(member("a"), member("b"), limit_s=5)
            for words in ("HTTP status 412.: candidate is not healthy", "HTTP status 401"):
                with pytest.raises(SourceFailed, match=words) as failed:
                    await source.switch_over(member("a"), member("b"), limit_s=5)
            assert "topology_source_user" in str(failed.value.hint)
            with pytest.raises(SourceFailed, match="nobody tells where"):
                await source.switch_over(replace(member("a"), api=None), member("b"), limit_s=5)
            await source.close()
        asked = {(each.method, each.path, each.body) for each in web.requests}
        assert asked == {("POST", "/switchover", b'{"leader":"a","candidate":"b"}')}
        assert web.requests[0].headers["authorization"].startswith("Basic ")
        count = len(web.requests)
        source = registry.build(
            f"patroni+https://{web.host}", Means(timeout_s=0.2), user="ops", password=Secret("geheim")
        )
        assert isinstance(source, Managing)
        with pytest.raises(SourceFailed, match="the login is not sent there without TLS"):
            await source.switch_over(member("a"), member("b"), limit_s=5)
        await source.close()
        assert len(web.requests) == count

    asyncio.run(story())


BAD: dict[str, tuple[Answer, str]] = {
    "silence": (never, "no answer within 0.2 s"),
    "an error": (always(Reply(503, CLUSTER)), "HTTP status 503"),
    "a redirect": (always(Reply(302, headers={"location": "http://127.0.0.1:1/"})), "HTTP status 302"),
    "no JSON": (always(Reply(body=b"<html>")), "the answer is no JSON"),
    "other JSON": (always(Reply(body={"members": [{"name": 1}]})), "not of the form expected"),
    "too much": (always(Reply(body=b" " * (1 << 20) + b"{}")), "more than 1048576 bytes"),
    "too much is promised": (always(Reply(body=b" " * 100, length=1 << 40)), "no answer within 0.2 s"),
    "no HTTP": (always(Reply(headers={"content-length": "x"})), "the connection failed"),
    "nobody": (always(Reply(body={"members": CLUSTER["members"][3:]})), "names no member with an address"),
    "a crowd": (always(Reply(body={"members": CLUSTER["members"][:1] * 65})), "names more than 64 members"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_answer_that_is_none_is_told(case: str) -> None:
    """With the address that was asked, in time, and without the password."""
    answer, told = BAD[case]

    async def story() -> None:
        async with serving(answer) as web:
            began = time.monotonic()
            with pytest.raises(SourceFailed) as failed:
                await look(f"patroni://admin:{SECRET}@{web.host}", timeout_s=0.2)
            assert time.monotonic() - began < 2
        assert told in str(failed.value)
        assert web.host in str(failed.value)
        assert SECRET not in f"{failed.value} {failed.value.hint}"

    asyncio.run(story())


def test_one_that_answers_is_enough_and_is_asked_first_the_next_time() -> None:
    """A member that is gone must not cost its timeout at every look."""

    async def story() -> None:
        async with serving(never) as silent, serving(always(Reply(body=CLUSTER))) as good:
            hosts = f"127.0.0.1:{free_port()},{silent.host},{good.host}"
            source = registry.build(f"patroni://{hosts}", Means())
            try:
                began = time.monotonic()
                assert (await source.look()).asked == good.host
                first_s = time.monotonic() - began
                assert first_s < 0.9, "the silent one is not waited for"
                for _ in range(3):
                    assert (await source.look()).asked == good.host
                assert (len(silent.requests), len(good.requests)) == (1, 4)
            finally:
                await source.close()
        with pytest.raises(SourceFailed) as failed:
            await look(f"patroni://{','.join(f'127.0.0.1:{free_port()}' for _ in range(6))}")
        assert str(failed.value).count("connection refused") == 4
        assert str(failed.value).endswith("; and 2 more)")

    asyncio.run(story())


def test_what_takes_several_answers_takes_one_timeout() -> None:
    """A login that is slow and keys that are slow are not two timeouts after each other."""

    async def slow(request: Request) -> Reply:
        await asyncio.sleep(0.2)
        return Reply(body={"token": "t"} if "auth" in request.path else {"header": {}, "responses": []})

    async def story() -> None:
        async with serving(slow) as web:
            with pytest.raises(SourceFailed, match=r"no answer within 0\.3 s"):
                await look(f"etcd://u:{SECRET}@{web.host}/shop", timeout_s=0.3)
            assert [each.path for each in web.requests] == ["/v3/auth/authenticate", "/v3/kv/txn"]

    asyncio.run(story())


def test_tls_and_logins(tmp_path: Path) -> None:
    """A server without a certificate of the authority learns no password."""

    async def answer(request: Request) -> Reply:
        expected = "Basic " + base64.b64encode(f"admin:{SECRET}".encode()).decode()
        return Reply(body=CLUSTER) if request.headers.get("authorization") == expected else Reply(401)

    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    pair = authority.issue("web", "127.0.0.1")
    client = authority.issue("client", "forebay")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    tls.load_cert_chain(pair.certificate, pair.key)
    tls.verify_mode = ssl.CERT_REQUIRED
    files = f"certificate={client.certificate}&key={client.key}"

    async def story() -> None:
        async with serving(answer, tls) as web:
            login = f"admin:{SECRET}@{web.host}"
            seen = await look(f"patroni+https://{login}?ca={authority.certificate}&{files}")
            assert len(seen.primaries) == 1
            with pytest.raises(SourceFailed, match="HTTP status 401") as failed:
                await look(f"patroni+https://admin:wrong@{web.host}?ca={authority.certificate}&{files}")
            assert failed.value.hint == "Check the user and the password in its address."
            asked = len(web.requests)
            for address, told in (
                (f"patroni+https://{login}?ca={other.certificate}&{files}", "its certificate is not accepted"),
                (f"patroni+https://{login}?{files}", "its certificate is not accepted"),
                (
                    f"patroni+https://admin:{SECRET}@localhost:{web.port}?ca={authority.certificate}&{files}",
                    "its certif",
                ),
            ):
                with pytest.raises(SourceFailed) as failed:
                    await look(address)
                assert told in str(failed.value)
                assert "with the option ca" in str(failed.value.hint)
            theirs = other.issue("theirs", "forebay")
            # This server ends the connection without a word; one that says why is in tests/clusters/test_fleet_tls.py.
            for shown in (f"&certificate={theirs.certificate}&key={theirs.key}", ""):
                with pytest.raises(SourceFailed, match="the connection failed") as failed:
                    await look(f"patroni+https://{login}?ca={authority.certificate}{shown}")
                assert "certificate and key" in str(failed.value.hint)
            assert len(web.requests) == asked

    asyncio.run(story())


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "it demands a certificate of ours"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "it does not accept our certificate, or demands one (bad certificate)"),
        ("TLSV1_ALERT_UNKNOWN_CA", "it does not accept our certificate (unknown ca)"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "it does not accept our certificate (certificate expired)"),
        ("WRONG_VERSION_NUMBER", "TLS failed: WRONG_VERSION_NUMBER"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "TLS failed: TLSV1_ALERT_PROTOCOL_VERSION"),
    ],
)
def test_an_alert_of_tls_is_put_into_words(reason: str, told: str) -> None:
    """OpenSSL's names say nothing to who has to renew a certificate."""
    refusal = http._refusal(reason)
    assert str(refusal) == told
    assert ("certificate and key" in str(refusal.hint)) == ("certificate" in told)
    assert (refusal.hint == http._WRITE_NO_HTTPS) == (reason == "WRONG_VERSION_NUMBER")
