//! What this host offers: KVM and its kind, and what else VMs can use.
//!
//! | file              | subject                                           |
//! |-------------------|---------------------------------------------------|
//! | `kvm.rs`          | opening `/dev/kvm`, the capabilities Mayfly needs |
//! | `backend.rs`      | hardware KVM or kvm-pvm                           |
//! | `cgroup/`         | a VM's part of the processors                     |
//! | `facilities.rs`   | huge pages, cgroups, io_uring, userfaultfd        |
//! | `networking.rs`   | taps, passt, ping                                 |
//! | `checkup.rs`      | all of it as a list of findings (`mayfly doctor`) |

mod backend;
pub mod cgroup;
mod checkup;
mod facilities;
mod kvm;
mod networking;

pub use backend::Backend;
pub use checkup::{Checkup, Finding, Status, checkup};
pub use kvm::{HostError, open_kvm, physical_address_bits};
