//! Thin, typed wrappers over the socket calls that std does not offer.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use forebay_core::io::Peer;

/// Idle seconds after which the kernel asks a peer whether it is there.
const KEEPALIVE_IDLE_S: libc::c_int = 60;
/// Seconds between such questions.
const KEEPALIVE_INTERVAL_S: libc::c_int = 10;
/// Unanswered questions after which the peer is gone.
const KEEPALIVE_COUNT: libc::c_int = 6;
/// Milliseconds that written bytes may stay unacknowledged. The kernel applies it to a peer with a closed
/// window too, so that it must be longer than any reader may pause: shorter values kill `psql | less`.
const USER_TIMEOUT_MS: libc::c_int = 900_000;

/// A socket address as the kernel takes it.
#[derive(Clone, Copy)]
pub(crate) struct SockAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl SockAddr {
    pub(crate) fn tcp(address: SocketAddr) -> SockAddr {
        // SAFETY: sockaddr_storage is plain integers, for which all bits zero is a value.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        let len = match address {
            SocketAddr::V4(v4) => {
                // SAFETY: sockaddr_storage is large enough and aligned for every address family.
                let sin = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
                sin.sin_family = libc::AF_INET as libc::sa_family_t;
                sin.sin_port = v4.port().to_be();
                sin.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                // SAFETY: as above.
                let sin6 = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
                sin6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                sin6.sin6_port = v6.port().to_be();
                sin6.sin6_addr.s6_addr = v6.ip().octets();
                sin6.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        SockAddr { storage, len: len as libc::socklen_t }
    }

    /// A Unix socket's path; refuses one that is too long or holds a NUL.
    pub(crate) fn unix(path: &str) -> io::Result<SockAddr> {
        // SAFETY: as in `tcp`.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        // SAFETY: as in `tcp`.
        let sun = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_un>() };
        sun.sun_family = libc::AF_UNIX as libc::sa_family_t;
        if path.len() >= sun.sun_path.len() || path.as_bytes().contains(&0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "socket path is longer than 107 bytes or holds NUL",
            ));
        }
        for (to, from) in sun.sun_path.iter_mut().zip(path.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(SockAddr { storage, len: size_of::<libc::sockaddr_un>() as libc::socklen_t })
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }

    pub(crate) fn family(&self) -> libc::c_int {
        libc::c_int::from(self.storage.ss_family)
    }

    fn ip(&self) -> Option<(IpAddr, u16)> {
        match self.family() {
            libc::AF_INET => {
                // SAFETY: the family says which structure the kernel wrote.
                let sin = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Some((ip.into(), u16::from_be(sin.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let sin6 = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                Some((ip.to_canonical(), u16::from_be(sin6.sin6_port)))
            }
            _ => None,
        }
    }
}

/// A new stream socket, closed on exec.
pub(crate) fn stream(family: libc::c_int, nonblocking: bool) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just created, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` lives over the call and its size is given.
    let result = unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t)
    };
    check(result)
}

/// No Nagle, keepalive, a limit on unacknowledged bytes. A listener hands these on to what it accepts.
pub(crate) fn tune_tcp(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_S)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_COUNT)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
}

pub(crate) fn bind(fd: RawFd, address: &SockAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`, which lives over the call.
    check(unsafe { libc::bind(fd, address.as_ptr(), address.len()) })
}

pub(crate) fn listen(fd: RawFd, backlog: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX)) })
}

pub(crate) fn connect(fd: RawFd, address: &SockAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`, which lives over the call.
    check(unsafe { libc::connect(fd, address.as_ptr(), address.len()) })
}

/// The local address of a TCP socket.
pub(crate) fn local_address(fd: RawFd) -> io::Result<SocketAddr> {
    let address = name(fd, libc::getsockname)?;
    let (ip, port) = address.ip().ok_or_else(|| io::Error::other("not a TCP socket"))?;
    Ok(SocketAddr::new(ip, port))
}

/// Who is at the other end; an unnameable TCP peer has reset the connection by now.
pub(crate) fn peer(fd: RawFd) -> io::Result<Peer> {
    let address = name(fd, libc::getpeername)?;
    Ok(match address.ip() {
        Some((ip, port)) => Peer::Tcp(ip, port),
        None => Peer::Unix(peer_uid(fd)),
    })
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name(fd: RawFd, call: NameCall) -> io::Result<SockAddr> {
    // SAFETY: plain integers, for which all bits zero is a value.
    let mut address: SockAddr = unsafe { zeroed() };
    address.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: storage and length live over the call; the length says how much may be written.
    check(unsafe { call(fd, (&raw mut address.storage).cast(), &raw mut address.len) })?;
    Ok(address)
}

/// The user behind the other end of a Unix socket: of the process that called listen, for a client.
pub(crate) fn peer_uid(fd: RawFd) -> Option<u32> {
    // SAFETY: ucred is plain integers.
    let mut credentials: libc::ucred = unsafe { zeroed() };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers live over the call; `len` says how much may be written.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut credentials).cast(), &raw mut len)
    };
    (result == 0).then_some(credentials.uid)
}

/// The error that a socket keeps for its owner, such as that of a connect under way.
pub(crate) fn take_error(fd: RawFd) -> io::Result<()> {
    let mut code: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers live over the call; `len` says how much may be written.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut code).cast(), &raw mut len) };
    check(result)?;
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Tells the peer that no more comes from us.
pub(crate) fn shutdown_write(fd: RawFd) {
    // SAFETY: no pointers. A socket that is gone already answers an error that changes nothing.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Closes a descriptor that is kept as a bare number.
pub(crate) fn close(fd: RawFd) {
    debug_assert!(fd >= 0);
    // SAFETY: the caller owns `fd` and forgets it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
