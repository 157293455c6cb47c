//! Thin, typed wrappers over the socket calls that std does not offer.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use forebay_core::config::TcpOptions;
use forebay_core::io::Peer;

/// Seconds that the kernel keeps a client to itself that says nothing. Whoever connects speaks first, so a client is
/// accepted together with what it says: one wake-up less for each.
const DEFER_ACCEPT_S: libc::c_int = 1;

/// Whether the sizes of buffers were set, or the system chooses them as it goes (Linux 5.14).
const SO_BUF_LOCK: libc::c_int = 72;

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

    /// A Unix socket's path, or its abstract name behind an @, as libpq writes it; refuses one that is too long or holds a NUL.
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
        let mut len = size_of::<libc::sockaddr_un>();
        if path.starts_with('@') {
            // An abstract name is as long as the address says, and begins with NUL.
            sun.sun_path[0] = 0;
            len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + path.len();
        }
        Ok(SockAddr { storage, len: len as libc::socklen_t })
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

fn option(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers live over the call; `len` says how much may be written.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// No Nagle, and what `options` say. A listener hands these on to what it accepts.
pub(crate) fn tune_tcp(fd: RawFd, options: &TcpOptions) -> io::Result<()> {
    let rounded = |us: u64, unit: u64| libc::c_int::try_from(us.div_ceil(unit)).unwrap_or(libc::c_int::MAX);
    let count = |n: u32| libc::c_int::try_from(n).unwrap_or(libc::c_int::MAX);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, libc::c_int::from(options.keepalive))?;
    let times = [
        (libc::TCP_KEEPIDLE, rounded(options.keepalive_idle, 1_000_000)),
        (libc::TCP_KEEPINTVL, rounded(options.keepalive_interval, 1_000_000)),
        (libc::TCP_KEEPCNT, count(options.keepalive_count)),
        (libc::TCP_USER_TIMEOUT, rounded(options.user_timeout, 1000)),
    ];
    for (name, value) in times {
        if value > 0 {
            set_option(fd, libc::IPPROTO_TCP, name, value)?;
        }
    }
    if options.socket_buffer > 0 {
        set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, count(options.socket_buffer))?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, count(options.socket_buffer))?;
    }
    Ok(())
}

/// Whether the peer owes an acknowledgement that was asked for more than once: of what was sent, of its closed window, or of
/// a question whether it is there.
pub(crate) fn is_overdue(fd: RawFd) -> bool {
    // SAFETY: tcp_info is plain integers, for which all bits zero is a value.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: both pointers live over the call; `len` says how much may be written.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len) };
    // A peer that is there answers each probe, which sets their count back.
    result == 0 && (info.tcpi_retransmits > 0 || info.tcpi_probes > 1)
}

/// Bytes that were written and that the peer has not taken yet, of a TCP or a Unix socket.
pub(crate) fn unacknowledged(fd: RawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int, and the pointer to one lives over the call.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// What `tune_tcp` does, for a listener, which may have had other options before.
pub(crate) fn tune_listener(fd: RawFd, options: &TcpOptions) -> io::Result<()> {
    give_back_to_system(fd, options)?;
    tune_tcp(fd, options)?;
    let seconds = if options.defer_accept { DEFER_ACCEPT_S } else { 0 };
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// What `options` leave to the system gets the system's value, where another one was set before.
fn give_back_to_system(fd: RawFd, options: &TcpOptions) -> io::Result<()> {
    let fresh = stream(libc::AF_INET, false)?;
    let of_system = |level, name| option(fresh.as_raw_fd(), level, name);
    let left = [
        (libc::TCP_KEEPIDLE, options.keepalive_idle == 0),
        (libc::TCP_KEEPINTVL, options.keepalive_interval == 0),
        (libc::TCP_KEEPCNT, options.keepalive_count == 0),
        (libc::TCP_USER_TIMEOUT, options.user_timeout == 0),
    ];
    for (name, _) in left.into_iter().filter(|(_, is_left)| *is_left) {
        set_option(fd, libc::IPPROTO_TCP, name, of_system(libc::IPPROTO_TCP, name)?)?;
    }
    // A kernel before 5.14 does not know the option: then buffers keep the size that they had.
    if options.socket_buffer == 0 && option(fd, libc::SOL_SOCKET, SO_BUF_LOCK).is_ok_and(|lock| lock != 0) {
        for name in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
            // The system doubles what it is told.
            set_option(fd, libc::SOL_SOCKET, name, of_system(libc::SOL_SOCKET, name)? / 2)?;
        }
        set_option(fd, libc::SOL_SOCKET, SO_BUF_LOCK, 0)?;
    }
    Ok(())
}

/// The address that a socket is bound to: `Ok(None)` for a Unix socket.
pub(crate) fn bound_address(fd: RawFd) -> io::Result<Option<SocketAddr>> {
    Ok(name(fd, libc::getsockname)?.ip().map(|(ip, port)| SocketAddr::new(ip, port)))
}

/// The path that a Unix socket is bound to.
pub(crate) fn bound_path(fd: RawFd) -> Option<String> {
    let address = name(fd, libc::getsockname).ok()?;
    if address.family() != libc::AF_UNIX {
        return None;
    }
    // SAFETY: the family says which structure the kernel wrote.
    let sun = unsafe { &*(&raw const address.storage).cast::<libc::sockaddr_un>() };
    let bytes: Vec<u8> = sun.sun_path.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8(bytes).ok().filter(|path| !path.is_empty())
}

/// Whether the socket is one that listens.
pub(crate) fn is_listening(fd: RawFd) -> io::Result<bool> {
    Ok(option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN)? != 0)
}

/// A descriptor of somebody else's making is ours from here on: blocking as the driver needs it, closed on exec.
pub(crate) fn adopt(fd: RawFd, nonblocking: bool) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    check(flags)?;
    let wanted = if nonblocking { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the caller hands it over, and it is open, as the calls above have shown.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Descriptors of one message.
const FDS_MAX: usize = 253;

/// Room for the control message that carries them, aligned as the kernel wants it.
#[repr(align(8))]
struct Control([u8; 1040]);

/// Sends bytes, and with the first of them descriptors. Returns how many bytes went.
pub(crate) fn send_with(fd: RawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    assert!(fds.len() <= FDS_MAX);
    let mut control = Control([0; 1040]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is pointers and integers, for which all bits zero is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    if !fds.is_empty() {
        let length = size_of_val(fds) as libc::c_uint;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: arithmetic only; the room is enough for FDS_MAX descriptors.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: the control message begins where there is room for its head and the descriptors.
        unsafe {
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(length) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(head).cast(), fds.len());
        }
    }
    loop {
        // SAFETY: all that the message points to lives over the call.
        let sent = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) if is_interrupted() => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
}

/// Receives bytes, and the descriptors that come with them: closed on exec. Returns how many bytes came; none: the end.
pub(crate) fn receive_with(fd: RawFd, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = Control([0; 1040]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is pointers and integers, for which all bits zero is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let got = loop {
        // SAFETY: all that the message points to lives over the call, and the lengths are those of the memory.
        let got = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(got) {
            Ok(got) => break got,
            Err(_) if is_interrupted() => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the kernel has written whole control messages, and says how long they are.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(&raw const message);
        while !head.is_null() {
            if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                let length = (*head).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(head).cast::<RawFd>();
                for at in 0..length / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            head = libc::CMSG_NXTHDR(&raw const message, head);
        }
    }
    Ok(got)
}

fn is_interrupted() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

/// The process that is at the other end of a Unix socket.
pub(crate) fn peer_pid(fd: RawFd) -> io::Result<libc::pid_t> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let value = (&raw mut credentials).cast();
    // SAFETY: both pointers live over the call; the length says how much may be written.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut length) })?;
    Ok(credentials.pid)
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
    let code = option(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
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

#[cfg(test)]
mod tests;
