//! virtio-block: a disk for the guest (virtio 1.2 §5.2).

pub mod config_space;
pub mod disk;
pub mod request;
