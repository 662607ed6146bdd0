//! What this host offers: KVM and its kind, and what else VMs can use.
//!
//! | file              | subject                                           |
//! |-------------------|---------------------------------------------------|
//! | `kvm.rs`          | opening `/dev/kvm`, the capabilities Mayfly needs |
//! | `backend.rs`      | hardware KVM or kvm-pvm                           |
//! | `facilities.rs`   | tun, huge pages, io_uring, userfaultfd            |
//! | `checkup.rs`      | all of it as a list of findings (`mayfly doctor`) |

mod backend;
mod checkup;
mod facilities;
mod kvm;

pub use backend::Backend;
pub use checkup::{Checkup, Finding, Status, checkup};
pub use kvm::{HostError, open_kvm, physical_address_bits};
