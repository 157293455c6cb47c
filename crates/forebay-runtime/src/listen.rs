//! The sockets that clients connect to: bound before any thread starts, so that a start fails as a whole.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use forebay_core::config::{Listen, TcpOptions};

use crate::socket::{self, SockAddr};

/// One listening socket, of one worker.
pub(crate) struct Listener {
    pub(crate) fd: OwnedFd,
    /// It is the only one of its address: its clients are handed round.
    pub(crate) is_for_all_workers: bool,
    /// Clients come from other hosts, or could.
    pub(crate) is_tcp: bool,
}

/// All listening sockets of an engine.
pub(crate) struct Listeners {
    /// For each worker, its own.
    pub(crate) by_worker: Vec<Vec<Listener>>,
    /// As people write them: `127.0.0.1:6432`, `[::1]:6432`, a path.
    pub(crate) addresses: Vec<String>,
    /// The Unix socket's file, to be removed at the end.
    pub(crate) unix: Option<UnixFile>,
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct ListenError {
    /// The address or path.
    pub address: String,
    /// Why not.
    pub cause: io::Error,
}

impl Listeners {
    /// Takes over the sockets of the process that is succeeded: to each worker its part, if there are as many.
    pub(crate) fn succeed(
        fds: &[RawFd],
        tcp: &TcpOptions,
        workers: u16,
        nonblocking: bool,
    ) -> Result<Listeners, ListenError> {
        let mut all = Listeners::adopt(fds, tcp, workers, nonblocking)?;
        let sockets = all.by_worker.iter_mut().flat_map(std::mem::take).zip(&all.addresses).collect::<Vec<_>>();
        let of_address = |address: &String| all.addresses.iter().filter(|other| *other == address).count();
        let mut seen = std::collections::BTreeMap::<&String, usize>::new();
        for (mut listener, address) in sockets {
            let number = seen.entry(address).or_default();
            let worker = if listener.is_tcp { *number % usize::from(workers) } else { 0 };
            *number += 1;
            // With fewer sockets than workers, those that have one accept for all.
            listener.is_for_all_workers = !listener.is_tcp || of_address(address) < usize::from(workers);
            all.by_worker[worker].push(listener);
        }
        let unix = fds.iter().find_map(|fd| UnixFile::of(*fd));
        let mut addresses = all.addresses;
        addresses.dedup();
        if let Some(file) = &unix {
            addresses.retain(|address| !address.starts_with("unix ("));
            addresses.push(file.path.display().to_string());
        }
        Ok(Listeners { by_worker: all.by_worker, addresses, unix })
    }

    /// Takes over sockets that a service manager has bound; the first worker accepts for all.
    pub(crate) fn adopt(
        fds: &[RawFd],
        tcp: &TcpOptions,
        workers: u16,
        nonblocking: bool,
    ) -> Result<Listeners, ListenError> {
        let mut by_worker: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for number in fds {
            let failed = |cause| ListenError { address: format!("descriptor {number}"), cause };
            let fd = socket::adopt(*number, nonblocking).map_err(failed)?;
            if !socket::is_listening(*number).map_err(failed)? {
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a socket that listens")));
            }
            let address = socket::bound_address(*number).map_err(failed)?;
            if address.is_some() {
                socket::tune_listener(*number, tcp).map_err(failed)?;
            }
            addresses.push(address.map_or_else(|| format!("unix (descriptor {number})"), |a| a.to_string()));
            by_worker[0].push(Listener { fd, is_for_all_workers: true, is_tcp: address.is_some() });
        }
        Ok(Listeners { by_worker, addresses, unix: None })
    }

    /// Binds everything that `listen` names, for `workers` workers. `nonblocking` as the driver needs it.
    pub(crate) fn bind(
        listen: &Listen,
        tcp: &TcpOptions,
        workers: u16,
        nonblocking: bool,
    ) -> Result<Listeners, ListenError> {
        let mut by_worker: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        let mut port = listen.port;
        for text in &listen.addresses {
            let failed = |cause| ListenError { address: format!("{text}:{port}"), cause };
            let ip: IpAddr =
                text.parse().map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidInput, "not an IP address")))?;
            let wanted = SocketAddr::new(ip, port);
            let address = if listen.reuse_port && port != 0 { wanted } else { reserve(wanted).map_err(failed)? };
            for listeners in &mut by_worker {
                let fd = bind_tcp(address, tcp, listen.backlog, nonblocking)
                    .map_err(|cause| ListenError { address: address.to_string(), cause })?;
                listeners.push(Listener { fd, is_for_all_workers: false, is_tcp: true });
            }
            // All addresses share the port that the system chose for the first.
            port = address.port();
            addresses.push(address.to_string());
        }
        let unix = match &listen.unix {
            None => None,
            Some(folder) => {
                let path = Path::new(folder).join(format!(".s.PGSQL.{port}"));
                let failed = |cause| ListenError { address: path.display().to_string(), cause };
                let (fd, file) = bind_unix(&path, listen, nonblocking).map_err(failed)?;
                by_worker[0].push(Listener { fd, is_for_all_workers: true, is_tcp: false });
                addresses.push(path.display().to_string());
                file
            }
        };
        Ok(Listeners { by_worker, addresses, unix })
    }
}

/// Finds out whether `address` is free, and which port the system chooses for port 0.
///
/// The workers' sockets share their port, and would share it with another process of the same user too: this one
/// socket does not, so that a second forebay is refused instead of taking half of the clients.
fn reserve(address: SocketAddr) -> io::Result<SocketAddr> {
    let probe = SockAddr::tcp(address);
    let fd = socket::stream(probe.family(), false)?;
    prepare(fd.as_raw_fd(), address)?;
    socket::bind(fd.as_raw_fd(), &probe)?;
    socket::local_address(fd.as_raw_fd()).map(|bound| SocketAddr::new(address.ip(), bound.port()))
}

fn prepare(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    socket::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        socket::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(())
}

fn bind_tcp(address: SocketAddr, tcp: &TcpOptions, backlog: u32, nonblocking: bool) -> io::Result<OwnedFd> {
    let at = SockAddr::tcp(address);
    let fd = socket::stream(at.family(), nonblocking)?;
    prepare(fd.as_raw_fd(), address)?;
    socket::set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    // What is accepted inherits these, which saves six calls for each client.
    socket::tune_listener(fd.as_raw_fd(), tcp)?;
    socket::bind(fd.as_raw_fd(), &at)?;
    socket::listen(fd.as_raw_fd(), backlog)?;
    Ok(fd)
}

/// The file of a Unix socket; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(crate) struct UnixFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl UnixFile {
    /// The file of a socket that another process has bound.
    fn of(fd: RawFd) -> Option<UnixFile> {
        let path = PathBuf::from(socket::bound_path(fd)?);
        let metadata = fs::symlink_metadata(&path).ok()?;
        Some(UnixFile { path, device: metadata.dev(), inode: metadata.ino() })
    }

    /// It is another process's from here on.
    pub(crate) fn leave(mut self) {
        self.inode = 0;
    }
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        let is_ours = |m: fs::Metadata| m.dev() == self.device && m.ino() == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // A folder that went away took the file along.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The socket, and its file, which an abstract one has not: no permissions guard that, and its name ends with it.
fn bind_unix(path: &Path, listen: &Listen, nonblocking: bool) -> io::Result<(OwnedFd, Option<UnixFile>)> {
    let text = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path is not UTF-8"))?;
    let address = SockAddr::unix(text)?;
    if text.starts_with('@') {
        let fd = socket::stream(libc::AF_UNIX, nonblocking)?;
        socket::bind(fd.as_raw_fd(), &address)?;
        socket::listen(fd.as_raw_fd(), listen.backlog)?;
        return Ok((fd, None));
    }
    remove_stale(path, &address)?;
    let fd = socket::stream(libc::AF_UNIX, nonblocking)?;
    // The file takes its mode from the socket, less the umask: it is never more open than it shall be.
    // SAFETY: no pointers.
    socket::check(unsafe { libc::fchmod(fd.as_raw_fd(), listen.unix_mode as libc::mode_t) })?;
    socket::bind(fd.as_raw_fd(), &address)?;
    let metadata = fs::symlink_metadata(path)?;
    let file = UnixFile { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() };
    if let Some(group) = listen.unix_group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(listen.unix_mode))?;
    socket::listen(fd.as_raw_fd(), listen.backlog)?;
    Ok((fd, Some(file)))
}

/// Removes a socket file that nobody listens on any more; refuses if somebody answers or it is no socket.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    let fd = socket::stream(libc::AF_UNIX, true)?;
    match socket::connect(fd.as_raw_fd(), address) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => fs::remove_file(path),
        // Connected, or a full backlog: somebody is there.
        Ok(()) => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
        Err(error) => Err(error),
    }
}
