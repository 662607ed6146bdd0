//! Mayfly.
