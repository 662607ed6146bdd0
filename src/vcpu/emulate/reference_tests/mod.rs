//! Vector instructions against a model of them written from the manuals.
//!
//! The emulator executes a vector instruction on the host's processor, so the
//! processor is no witness here. Each family's file gives what its instructions
//! compute, lane by lane (Intel SDM vol. 2) or from the standard they implement
//! (FIPS 197, FIPS 180-4); [`harness`] runs their forms on many inputs and
//! compares everything a guest can see. A form this host lacks must be `#UD`.

mod addressing;
mod aes;
mod arithmetic;
mod compare;
mod convert;
mod enablement;
mod exceptions;
mod faults;
mod float;
mod forms;
mod fused;
mod gather;
mod half;
mod harness;
mod insert;
mod logic;
mod masks;
mod model;
mod moves;
mod permute;
mod processor;
mod random;
mod rare;
mod registers;
mod running_ahead;
mod sha;
mod shift;
mod shuffle;
mod suppression;
mod widths;
