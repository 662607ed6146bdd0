//! What this process needs before anything else is done.

/// Prepares the process; to be called once, before there is a second thread.
///
/// - Standard input, output and error are open, if only to `/dev/null`: a file or
///   a VM opened in the place of one would get what is printed.
/// - Writing to a pipe that nobody reads is an error, not the end of the process.
/// - All threads share one heap. None allocates while the guest runs, and a heap
///   of its own takes four system calls and some pages for each.
pub fn prepare() {
    open_standard_descriptors();
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // SAFETY: the call changes a number that the allocator looks at later on.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Opens `/dev/null` in the place of each standard descriptor that is closed.
fn open_standard_descriptors() {
    let mut standard =
        [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO].map(|fd| libc::pollfd {
            fd,
            events: 0,
            revents: 0,
        });
    // SAFETY: the kernel writes to the three elements it is told of.
    unsafe { libc::poll(standard.as_mut_ptr(), standard.len() as libc::nfds_t, 0) };
    for entry in standard {
        if entry.revents & libc::POLLNVAL != 0 {
            // The lowest free number is the one that is closed, in their order.
            // SAFETY: the path ends with NUL, and the descriptor is nobody else's.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
}
