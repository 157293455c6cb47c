"""An LDAP directory under test: ldaptor, which others wrote, installed into .cache of the checkout and run apart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.harness.certificates import Pair
from tests.harness.postgres import CACHE, free_port

PACKAGES = ("ldaptor==21.2.0", "Twisted==26.10.0", "pyOpenSSL==26.4.0")

BASE = "dc=example,dc=org"
# Who may search, and two users; `double` has two entries.
ENTRIES = f"""\
dn: {BASE}
objectClass: top
dc: example

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

dn: cn=searcher,{BASE}
objectClass: person
cn: searcher
userPassword: may search

dn: uid=app,ou=people,{BASE}
objectClass: person
uid: app
mail: app@example.org
userPassword: pässword, of app

dn: uid=double,ou=people,{BASE}
objectClass: person
uid: double
userPassword: twice

dn: uid=double,{BASE}
objectClass: person
uid: double
userPassword: twice

"""

PROGRAM = """
import sys
from io import BytesIO
from ldaptor.inmemory import fromLDIFFile
from ldaptor.interfaces import IConnectedLDAPEntry
from ldaptor.protocols import pureldap
from ldaptor.protocols.ldap.ldapserver import LDAPServer
from twisted.internet import protocol, reactor, ssl
from twisted.python.components import registerAdapter

port, secure_port, certificate, key = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
options = ssl.DefaultOpenSSLContextFactory(key, certificate)

class Server(LDAPServer):
    def extendedRequest_StartTLS(self, data, reply):
        reply(pureldap.LDAPExtendedResponse(resultCode=0, responseName=self.extendedRequest_StartTLS.oid))
        self.transport.startTLS(options)

    extendedRequest_StartTLS.oid = b"1.3.6.1.4.1.1466.20037"

class Factory(protocol.ServerFactory):
    protocol = Server

    def __init__(self, root):
        self.root = root
        self.debug = False

registerAdapter(lambda factory: factory.root, Factory, IConnectedLDAPEntry)

def begin(root):
    reactor.listenTCP(port, Factory(root), interface="127.0.0.1")
    reactor.listenSSL(secure_port, Factory(root), options, interface="127.0.0.1")
    print("serving", flush=True)

fromLDIFFile(BytesIO(sys.stdin.buffer.read())).addCallback(begin)
reactor.run()
"""


@dataclass(frozen=True, slots=True)
class DirectoryServer:
    """Where it listens: for plain connections and StartTLS, and for TLS from the first byte."""

    port: int
    secure_port: int
    pid: int


def installed() -> Path:
    """The folder that the server's packages lie in."""
    folder = CACHE / "ldaptor"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / ".ldaptor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(folder),
                 "--only-binary=:all:", *PACKAGES],
                check=True, timeout=300,
            )  # fmt: skip
            (folder / "ready").touch()
    return folder


@contextlib.contextmanager
def running(pair: Pair) -> Iterator[DirectoryServer]:
    """A directory with ENTRIES for as long as the block lasts."""
    port, secure_port = free_port(), free_port()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port), str(secure_port), str(pair.certificate), str(pair.key)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(installed())},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(ENTRIES.encode())
        process.stdin.close()
        try:
            assert process.stdout.readline() == b"serving\n"
            yield DirectoryServer(port, secure_port, process.pid)
        finally:
            process.kill()
