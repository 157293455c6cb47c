//! What the bytes of a session travel over: a socket, or TLS over one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forebay_pgwire::write;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Where a server listens, and whether TLS is spoken with it.
#[derive(Clone)]
pub(crate) struct Address {
    /// Its address.
    pub(crate) socket: SocketAddr,
    /// What TLS is spoken with.
    pub(crate) tls: Option<Tls>,
}

/// The authority that a server's certificate has to come from.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<ClientConfig>);

/// Bytes in both directions.
pub(crate) enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// In TLS.
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Tls {
    /// Of the authority whose certificate is in this file.
    pub(crate) fn new(authority: &Path) -> io::Result<Tls> {
        let words = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", authority.display()));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).map_err(|e| words(&e))?).map_err(|e| words(&e))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.map_err(|e| words(&e))?.with_root_certificates(roots).with_no_client_auth();
        Ok(Tls(Arc::new(config)))
    }
}

impl Address {
    /// Connects. Nothing takes longer than `longest`.
    pub(crate) fn connect(&self, longest: Duration) -> io::Result<Stream> {
        let mut socket = TcpStream::connect_timeout(&self.socket, longest)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(longest))?;
        socket.set_write_timeout(Some(longest))?;
        let Some(Tls(config)) = &self.tls else { return Ok(Stream::Plain(socket)) };
        let mut request = Vec::new();
        write::ssl_request(&mut request);
        socket.write_all(&request)?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        if answer != *b"S" {
            return Err(io::Error::other("TLS was refused"));
        }
        let name = ServerName::from(self.socket.ip());
        let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        Ok(Stream::Secure(Box::new(StreamOwned::new(session, socket))))
    }
}

impl Stream {
    /// The socket itself, for its timeouts and to see whether anything has come.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Secure(stream) => &stream.sock,
        }
    }

    /// Sends no more, and says so in TLS if the end is a polite one.
    pub(crate) fn finish(&mut self, is_polite: bool) {
        if let (Stream::Secure(stream), true) = (&mut *self, is_polite) {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let _ = self.socket().shutdown(Shutdown::Write);
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(into),
            Stream::Secure(stream) => match stream.read(into) {
                // An end without a word is one.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                done => done,
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Secure(stream) => stream.flush(),
        }
    }
}
