//! Networks: guests on taps, bridges and in user mode, in namespaces of the tests' own.

mod linux;
mod namespaces;
mod new_tap;
mod traffic;
mod user;
