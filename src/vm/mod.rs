//! The virtual machine as a whole: how it is built, lives and ends.

pub mod exit;
