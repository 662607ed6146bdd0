//! virtio-block: a disk for the guest (virtio 1.2 §5.2).

pub mod disk;
