//! As much HTTP/1.1 as a scraper and a probe need: GET and HEAD, one request a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

/// Longest head of a request.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Time for a request and its answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at once; beyond it the oldest goes.
const CONNECTIONS_MAX: usize = 64;

/// What is answered.
pub(super) struct Response {
    pub(super) status: &'static str,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

impl Response {
    pub(super) fn text(status: &'static str, body: &str) -> Response {
        Response { status, kind: "text/plain; charset=utf-8", body: body.to_owned() }
    }

    fn encode(&self, with_body: bool) -> Vec<u8> {
        let mut bytes = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
            self.status,
            self.kind,
            self.body.len(),
        )
        .into_bytes();
        if with_body {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

struct Connection {
    stream: TcpStream,
    deadline: Instant,
    request: Vec<u8>,
    /// Empty until the request is complete.
    response: Vec<u8>,
    sent: usize,
}

enum Outcome {
    Waiting,
    Over,
}

/// The server's sockets.
pub(super) struct Connections {
    listener: TcpListener,
    bell: RawFd,
    open: Vec<Connection>,
}

impl Connections {
    pub(super) fn new(listener: TcpListener, bell: RawFd) -> Connections {
        Connections { listener, bell, open: Vec::new() }
    }

    /// Waits for something to happen and does it. `answer` gets path and query of each request.
    pub(super) fn turn(&mut self, answer: impl Fn(&str, &str) -> Response) {
        let ready = self.wait();
        let now = Instant::now();
        let mut at = 0;
        self.open.retain_mut(|connection| {
            at += 1;
            let is_ready = ready.get(at + 1).copied().unwrap_or(false);
            now < connection.deadline && (!is_ready || matches!(connection.advance(&answer), Outcome::Waiting))
        });
        if ready[1] {
            self.accept();
        }
    }

    /// Which descriptors are ready: the bell, the listener, then the connections in order.
    fn wait(&self) -> Vec<bool> {
        let poll = |fd, events| libc::pollfd { fd, events, revents: 0 };
        let mut polls = vec![poll(self.bell, libc::POLLIN), poll(self.listener.as_raw_fd(), libc::POLLIN)];
        polls.extend(
            self.open
                .iter()
                .map(|c| poll(c.stream.as_raw_fd(), if c.response.is_empty() { libc::POLLIN } else { libc::POLLOUT })),
        );
        let timeout = if self.open.is_empty() { -1 } else { 500 };
        // SAFETY: the array lives over the call, and its length is given.
        let count = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout) };
        if count <= 0 {
            return vec![false; polls.len()];
        }
        polls.iter().map(|p| p.revents != 0).collect()
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_err() {
                    return;
                }
                if self.open.len() >= CONNECTIONS_MAX {
                    self.open.remove(0);
                }
                let deadline = Instant::now() + EXCHANGE_TIMEOUT;
                self.open.push(Connection { stream, deadline, request: Vec::new(), response: Vec::new(), sent: 0 });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Out of descriptors: the listener stays ready, and must not make this thread spin.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

impl Connection {
    fn advance(&mut self, answer: &impl Fn(&str, &str) -> Response) -> Outcome {
        if self.response.is_empty() {
            if let Outcome::Over = self.read() {
                return Outcome::Over;
            }
            if let Some(response) = respond(&self.request, answer) {
                self.response = response;
            }
        }
        self.write()
    }

    fn read(&mut self) -> Outcome {
        let mut chunk = [0; 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Outcome::Over,
                Ok(n) => self.request.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Outcome::Waiting,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Over,
            }
            if self.request.len() > REQUEST_BYTES_MAX {
                return Outcome::Waiting;
            }
        }
    }

    fn write(&mut self) -> Outcome {
        while self.sent < self.response.len() {
            match self.stream.write(&self.response[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Outcome::Waiting,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Over,
            }
        }
        if self.response.is_empty() { Outcome::Waiting } else { Outcome::Over }
    }
}

/// The answer to a request, once its head is complete or too long.
fn respond(request: &[u8], answer: &impl Fn(&str, &str) -> Response) -> Option<Vec<u8>> {
    let is_complete = request.windows(4).any(|w| w == b"\r\n\r\n") || request.windows(2).any(|w| w == b"\n\n");
    if !is_complete {
        let is_too_long = request.len() > REQUEST_BYTES_MAX;
        return is_too_long.then(|| Response::text("431 Request Header Fields Too Large", "too long\n").encode(true));
    }
    let line = request.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let response = match (method, target, version) {
        (Some("GET" | "HEAD"), Some(target), Some(version)) if version.starts_with("HTTP/1.") => {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            answer(path, query)
        }
        (Some(_), Some(_), Some(version)) if version.starts_with("HTTP/") => {
            Response::text("405 Method Not Allowed", "only GET\n")
        }
        _ => Response::text("400 Bad Request", "not HTTP\n"),
    };
    Some(response.encode(method != Some("HEAD")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &[u8]) -> Option<String> {
        let answer = |path: &str, _: &str| Response::text("200 OK", path);
        let bytes = respond(request, &answer)?;
        let text = String::from_utf8(bytes).expect("text");
        Some(text.lines().next().unwrap_or_default().to_owned())
    }

    /// What probes and scrapers send, and what scanners send.
    #[test]
    fn requests_are_answered_by_their_first_line() {
        assert_eq!(status(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").as_deref(), Some("HTTP/1.1 200 OK"));
        assert_eq!(status(b"GET /metrics?x=1 HTTP/1.0\n\n").as_deref(), Some("HTTP/1.1 200 OK"));
        assert_eq!(status(b"POST / HTTP/1.1\r\n\r\n").as_deref(), Some("HTTP/1.1 405 Method Not Allowed"));
        assert_eq!(status(b"\x16\x03\x01 garbage\n\n").as_deref(), Some("HTTP/1.1 400 Bad Request"));
        assert_eq!(status(b"GET / HTTP/1.1\r\nHost"), None);
        let long = vec![b'a'; REQUEST_BYTES_MAX + 1];
        assert_eq!(status(&long).as_deref(), Some("HTTP/1.1 431 Request Header Fields Too Large"));
    }
}
