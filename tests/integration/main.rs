//! Integration tests.
mod emulated_host;
