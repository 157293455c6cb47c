//! Addresses of one family alone.
//!
//! Asked for both at once, the system's resolver is content with one: whether the name has none of the other, or nobody
//! has answered for it, can't be told. Asked for that alone, it says which.

use std::ffi::{CStr, CString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use super::{Answer, NO_ADDRESS, Unfound};

/// What `found` lacks of a family in which the name had addresses: the last good ones, if nobody answers for it now.
pub(super) fn completed(mut found: Vec<IpAddr>, known: &[IpAddr], ask: impl Fn(bool) -> Answer) -> Vec<IpAddr> {
    for is_v6 in [false, true] {
        let is_of = |address: &&IpAddr| address.is_ipv6() == is_v6;
        if found.iter().any(|address| is_of(&address)) || !known.iter().any(|address| is_of(&address)) {
            continue;
        }
        match ask(is_v6) {
            Ok(addresses) => found.extend(addresses),
            Err(error) if error.is_lasting => {}
            Err(_) => found.extend(known.iter().filter(is_of)),
        }
    }
    found
}

/// The addresses of one family.
pub(super) fn resolve(host: &str, is_v6: bool) -> Answer {
    let Ok(name) = CString::new(host) else { return Err(Unfound::new(NO_ADDRESS)) };
    // SAFETY: an addrinfo is integers and pointers, for which all bits zero is a value.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list = ptr::null_mut();
    // SAFETY: each pointer is valid for the call, and the name ends with NUL.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        // SAFETY: the words of a code are a text that ends with NUL and lives for ever.
        let words = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
        return Err(Unfound::new(&words.to_string_lossy()));
    }
    let mut addresses = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: the call has made a list, whose last entry's next is null.
        let entry = unsafe { &*at };
        // SAFETY: an entry's address is of its family.
        let address = unsafe { ip(entry) };
        addresses.extend(address.filter(|address| !addresses.contains(address)));
        at = entry.ai_next;
    }
    // SAFETY: it is the list of the call, and nothing points into it any more.
    unsafe { libc::freeaddrinfo(list) };
    if addresses.is_empty() { Err(Unfound::new(NO_ADDRESS)) } else { Ok(addresses) }
}

/// # Safety
///
/// `ai_addr` points to an address of the family `ai_family`.
unsafe fn ip(entry: &libc::addrinfo) -> Option<IpAddr> {
    match entry.ai_family {
        libc::AF_INET => {
            // SAFETY: of this family it is a sockaddr_in.
            let v4 = unsafe { &*entry.ai_addr.cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family it is a sockaddr_in6.
            let v6 = unsafe { &*entry.ai_addr.cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn v6(last: u16) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into()
    }

    /// Half of a name's servers would be gone for as long as a name server answers one kind of question alone.
    #[test]
    fn addresses_of_a_family_that_nobody_answers_for_are_kept() {
        let nobody = |_| Err(Unfound::new("Temporary failure in name resolution"));
        let none = |_| Err(Unfound::new("No address associated with hostname"));
        let known = [v4(1), v6(1), v6(2)];
        assert_eq!(completed(vec![v4(2)], &known, nobody), [v4(2), v6(1), v6(2)]);
        assert_eq!(completed(vec![v6(3)], &known, nobody), [v6(3), v4(1)]);
        assert_eq!(completed(vec![v4(2)], &known, none), [v4(2)], "it has none any more");
        assert_eq!(completed(vec![v4(2)], &known, |_| Ok(vec![v6(4)])), [v4(2), v6(4)]);
        let unasked = |_| -> Answer { panic!("the answer is whole, as far as anybody knows") };
        assert_eq!(completed(vec![v4(2)], &[v4(1)], unasked), [v4(2)]);
        assert_eq!(completed(vec![v4(2), v6(3)], &known, unasked), [v4(2), v6(3)]);
    }

    #[test]
    fn the_system_is_asked_for_one_family() {
        assert_eq!(resolve("127.0.0.1", false).ok(), Some(vec![Ipv4Addr::LOCALHOST.into()]));
        assert_eq!(resolve("::1", true).ok(), Some(vec![Ipv6Addr::LOCALHOST.into()]));
        assert!(resolve("127.0.0.1", true).is_err_and(|error| !error.words.is_empty()));
    }
}
