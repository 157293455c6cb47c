"""Addresses of sources: what they mean, and what a user is told of a bad one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from forebay.config.draft import BY_KEY
from forebay.config.source_address import Host, parse
from forebay.config.topology import SOURCE_EXAMPLES
from forebay.control.discover import registry
from forebay.control.discover.registration import Means, Query
from forebay.failure import Exit, Failure

T = TypeVar("T")

SECRET = "hunter2"


def test_an_address_is_read_whole() -> None:
    """Logins with signs of URLs in them, IPv6, ports that are left out."""
    read = parse(f"patroni+https://ad%40min:{SECRET}%2F%3F@10.0.0.1:8008,[fd00::1]:9,db_1.example/a%20b/?ca=/x.crt")
    assert read.hosts == (Host("10.0.0.1", 8008), Host("fd00::1", 9), Host("db_1.example", None))
    assert (read.user, read.path, dict(read.options)) == ("ad@min", "a b", {"ca": "/x.crt"})
    assert read.password is not None
    assert read.password.text == f"{SECRET}/?"
    assert [each.at(1) for each in read.hosts] == ["10.0.0.1:8008", "[fd00::1]:9", "db_1.example:1"]
    assert SECRET not in f"{read} {read!r}"


BAD = {
    "nothing": ("", "does not begin with scheme://"),
    "no scheme": ("10.0.0.1:8008", "does not begin with scheme://"),
    "an unknown scheme": ("patron://h", "no source of topology with the scheme patron://"),
    "a port beyond all": ("patroni://h:65536", '"65536" is not a port'),
    "a port of words": ("patroni://h:x", "what stands behind a host's colon is not a port"),
    "an empty host": ("patroni://a,,b", "a host of the address is empty"),
    "a host of signs": ("patroni://a%b", '"a%b" is neither a host name nor an address'),
    "IPv6 without brackets": ("patroni://fd00::1", "is not a port"),
    "no host": ("patroni://", "names no host"),
    "too many": ("patroni://" + ",".join("h" for _ in range(65)), "names 65 hosts; 64 at most"),
    "an unknown option": ("patroni+https://h?certifcate=x", 'no option "certifcate"'),
    "an option twice": ("patroni+https://h?ca=a&ca=b", '"ca" of the patroni+https:// address is given twice'),
    "a blank": ("patroni://a b", "holds a blank"),
    "a fragment": ("patroni://a#b", "holds a #"),
    "a password that ends the hosts": (f"patroni://u:{SECRET}/x@h", "holds an @ behind its hosts"),
    "a file that is not there": ("patroni+https://h?ca=/nowhere.crt", 'the file "/nowhere.crt" of the option "ca"'),
    "a key alone": ("patroni+https://h?key=/k", 'the option "key" goes with "certificate"'),
    "an authority without TLS": ("etcd://h/scope?ca=/x.crt", 'the option "ca" is for TLS, which the etcd:// address'),
    "a key without TLS": ("patroni://h?certificate=/c&key=/k", 'the option "certificate" is for TLS'),
    "no scope": ("etcd://h", "names no scope"),
    "a namespace with a port": ("kubernetes://ns:1/shop", "is a namespace and a service"),
    "no service": ("kubernetes://ns", "is a namespace and a service"),
    "a service with capitals": ("kubernetes://ns/Shop", '"Shop" is no name in Kubernetes'),
    "a user of Kubernetes": (f"kubernetes://u:{SECRET}@ns/shop", "has no user"),
    "not in a pod": ("kubernetes://ns/shop", "KUBERNETES_SERVICE_HOST is not set"),
    "an API server in the clear": ("kubernetes://ns/shop?api=http://h", "not an https:// address"),
    "two names": ("dns://a,b", "has one name"),
    "a service's port": ("dns+srv://_postgres._tcp.a:5432", "has no port"),
    "an unknown role": ("dns://a?role=chief", '"chief" is no role'),
    "a name server with a name": ("dns://a?server=ns.example", '"ns.example" is not the address of a name server'),
    "nobody to ask": ("aurora://a.cluster-b1.eu-west-1.rds.amazonaws.com", "needs servers of the cluster to ask"),
    "a cluster by a name of one's own": ("aurora://db.example.com", '"db.example.com" is no endpoint of an Amazon'),
    "a pattern without a star": ("aurora://db?members=a.example.com", 'members is "a.example.com", which is no'),
    "a pattern with two": ("aurora://db?members=*.*", "which is no pattern of hosts"),
    "a pattern with a path": ("aurora://db?members=*/x", "which is no pattern of hosts"),
    "a pattern with port 0": ("aurora://db?members=*:0", "which is no pattern of hosts"),
    "two clusters": ("aurora://a,b?members=*", "has one host"),
    "a user of a cluster": (f"aurora://u:{SECRET}@a?members=*", "has no user"),
    "a cluster and a path": ("aurora://a/b?members=*", "has no path"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_address_is_told_with_a_hint_and_without_its_password(case: str) -> None:
    """It is written into a file by hand, and read again in a log."""
    text, told = BAD[case]
    with pytest.raises(Failure) as failed:
        registry.build(text, Means())
    assert told in failed.value.message
    assert failed.value.hint
    assert SECRET not in f"{failed.value.message} {failed.value.hint}"


def test_hints_lead_to_what_was_meant() -> None:
    """A slip of the hand is named; nothing else is guessed."""
    with pytest.raises(Failure) as failed:
        registry.build("patron://h", Means())
    assert (failed.value.hint, failed.value.exit) == ("Did you mean patroni://?", Exit.USAGE)
    with pytest.raises(Failure) as failed:
        registry.build("patroni+https://h?certifcate=x", Means())
    assert failed.value.hint == 'Did you mean "certificate"?'
    with pytest.raises(Failure) as failed:
        registry.build("zookeeper://h", Means())
    assert (
        failed.value.hint == f"There are {', '.join(sorted(each for kind in registry.KINDS for each in kind.schemes))}."
    )


def test_every_kind_is_built_from_its_example(tmp_path: Path) -> None:
    """What a hint shows must work."""

    class Nobody:
        async def ask(self, question: Callable[[Query], Awaitable[T]], beside: str) -> tuple[str, T]:
            raise AssertionError

        def close(self) -> None: ...

    means = Means(servers=Nobody, environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    for kind in registry.KINDS:
        for each in kind.example.split(" or "):
            if each.startswith("kubernetes"):
                with pytest.raises(Failure, match=r"the authority /var/run/secrets/.*/ca\.crt can't be read"):
                    registry.build(each, means)
            else:
                assert registry.build(each, means)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with an extra of forebay's."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Failure) as failed:
        registry.build("patroni://h", Means())
    assert "needs the package httpx2" in failed.value.message
    assert "forebay[discover]" in str(failed.value.hint)


def test_each_topology_that_can_be_chosen_has_a_source() -> None:
    """A name that the check accepts, and that nobody serves, would end the start."""
    schemes = {scheme for kind in registry.KINDS for scheme in kind.schemes}
    for kind, example in SOURCE_EXAMPLES.items():
        assert parse(example).scheme == kind
        assert kind in schemes
    assert BY_KEY["databases", "topology"].choices == ("none", "poll", *SOURCE_EXAMPLES)
