//! Threads, sockets, io_uring, epoll, TLS: the only crate with I/O.
