use std::sync::Mutex;
use std::thread;

use proptest::prelude::*;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;
use crate::interrupts::MsiRoutes;

/// Remembers the routes, and gives vectors that lead nowhere.
#[derive(Default)]
struct Routes(Mutex<Vec<(u32, Option<Msi>)>>);

impl MsiRoutes for Routes {
    fn set_route(&self, gsi: u32, route: Option<Msi>) {
        self.0.lock().unwrap().push((gsi, route));
    }
}

impl Routes {
    /// GSI, address and data of each change since the last call.
    fn take(&self) -> Vec<(u32, u64, u32)> {
        let changes = std::mem::take(&mut *self.0.lock().unwrap());
        let change =
            |(gsi, msi): (u32, Option<Msi>)| (gsi, msi.unwrap().address, msi.unwrap().data);
        changes.into_iter().map(change).collect()
    }
}

fn vectors(count: u32, routes: &Arc<Routes>) -> Vec<MsiVector> {
    let vector = |gsi| MsiVector::new(gsi, EventFd::new(EFD_NONBLOCK).unwrap(), routes.clone());
    (24..24 + count).map(vector).collect()
}

fn msix(count: u32) -> (Msix, Arc<Routes>) {
    let routes = Arc::new(Routes::default());
    (Msix::new(vectors(count, &routes)), routes)
}

fn write(msix: &mut Msix, offset: usize, value: u32) {
    msix.write_table(offset, &value.to_le_bytes());
}

fn read(msix: &Msix, offset: usize) -> u32 {
    let mut data = [0; 4];
    msix.read_table(offset, &mut data);
    u32::from_le_bytes(data)
}

fn pending(msix: &Msix) -> u8 {
    let mut data = [0];
    msix.read_pending(0, &mut data);
    data[0]
}

/// Messages sent by vector 0's descriptor since the last call.
fn sent(msix: &Msix, vector: usize) -> u64 {
    msix.shared.vectors[vector].msi.fd().read().unwrap_or(0)
}

/// What a device does for an interrupt.
fn interrupt(msix: &Msix, vector: u16) {
    if let Some(fd) = msix.vectors().raise(vector) {
        fd.write(1).unwrap();
    }
}

#[test]
fn entries_are_masked_after_reset_and_their_reserved_bits_stay_zero() {
    let (mut msix, _) = msix(2);
    assert_eq!(read(&msix, 12), 1);
    assert_eq!(read(&msix, 28), 1);
    msix.write_table(16, &[0xff; 16]);
    let all = [16, 20, 24, 28].map(|at| read(&msix, at));
    assert_eq!(all, [u32::MAX, u32::MAX, u32::MAX, 1]);
    msix.write_table(24, &[1, 2, 3, 4, 0, 0, 0, 0]);
    assert_eq!((read(&msix, 24), read(&msix, 28)), (0x0403_0201, 0));
    assert_eq!(read(&msix, 0), 0);
}

#[test]
fn a_message_is_routed_when_it_is_unmasked() {
    let (mut msix, routes) = msix(2);
    msix.set_control(CONTROL_ENABLE);
    write(&mut msix, 16, 0xfee0_1000);
    write(&mut msix, 24, 0x41);
    assert!(routes.take().is_empty());
    write(&mut msix, 28, 0);
    assert_eq!(routes.take(), [(25, 0xfee0_1000, 0x41)]);
    interrupt(&msix, 1);
    assert_eq!((sent(&msix, 0), sent(&msix, 1)), (0, 1));
    write(&mut msix, 28, 1);
    write(&mut msix, 28, 0);
    assert!(routes.take().is_empty(), "the same message");
    write(&mut msix, 28, 1);
    write(&mut msix, 24, 0x42);
    write(&mut msix, 28, 0);
    assert_eq!(routes.take(), [(25, 0xfee0_1000, 0x42)]);
}

#[test]
fn what_comes_under_a_mask_is_pending_until_it_is_lifted() {
    let (mut msix, _) = msix(2);
    msix.set_control(CONTROL_ENABLE);
    write(&mut msix, 12, 0);
    write(&mut msix, 12, 1);
    interrupt(&msix, 0);
    interrupt(&msix, 0);
    assert_eq!((sent(&msix, 0), pending(&msix)), (0, 1));
    write(&mut msix, 12, 0);
    assert_eq!((sent(&msix, 0), pending(&msix)), (1, 0));

    write(&mut msix, 28, 0);
    msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
    interrupt(&msix, 0);
    interrupt(&msix, 1);
    assert_eq!((sent(&msix, 0), sent(&msix, 1), pending(&msix)), (0, 0, 3));
    write(&mut msix, 28, 1);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!((sent(&msix, 0), sent(&msix, 1), pending(&msix)), (1, 0, 2));
    msix.vectors().forget_pending();
    write(&mut msix, 28, 0);
    assert_eq!(sent(&msix, 1), 0);
}

#[test]
fn nothing_is_sent_while_msix_is_off() {
    let (mut msix, routes) = msix(1);
    write(&mut msix, 12, 0);
    assert!(routes.take().is_empty());
    assert!(!msix.vectors().is_enabled());
    interrupt(&msix, 0);
    assert_eq!(sent(&msix, 0), 0);
    msix.set_control(CONTROL_ENABLE);
    assert!(msix.vectors().is_enabled());
    assert_eq!(sent(&msix, 0), 1);
    msix.set_control(0);
    assert!(!msix.vectors().is_enabled());
    interrupt(&msix, 0);
    assert_eq!(sent(&msix, 0), 0);
}

#[test]
fn vectors_that_do_not_exist_do_nothing() {
    let (mut msix, routes) = msix(1);
    msix.set_control(CONTROL_ENABLE);
    for offset in [16, 4096, usize::MAX - 64] {
        msix.write_table(offset, &[0; 16]);
        assert_eq!(read(&msix, offset), 0);
    }
    for vector in [1, 2047, 0xffff] {
        assert!(msix.vectors().raise(vector).is_none());
    }
    let mut data = [0xff; 8];
    msix.read_pending(1, &mut data);
    assert_eq!(data, [0; 8]);
    assert!(routes.take().is_empty());
}

/// Each interrupt raised while another thread masks and unmasks is sent or pending.
#[test]
fn no_interrupt_is_lost_between_mask_and_unmask() {
    let (mut msix, _) = msix(1);
    msix.set_control(CONTROL_ENABLE);
    let vectors = msix.vectors().clone();
    let raised = Arc::new(AtomicBool::new(false));
    let device = thread::spawn({
        let raised = raised.clone();
        move || {
            for _ in 0..20_000 {
                raised.store(true, Ordering::SeqCst);
                if let Some(fd) = vectors.raise(0) {
                    fd.write(1).unwrap();
                }
                while raised.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            }
        }
    });
    let mut rounds = 0;
    while !device.is_finished() {
        write(&mut msix, 12, 1);
        write(&mut msix, 12, 0);
        if raised.load(Ordering::SeqCst) && sent(&msix, 0) > 0 {
            rounds += 1;
            raised.store(false, Ordering::SeqCst);
        }
    }
    device.join().unwrap();
    assert_eq!(rounds, 20_000);
}

proptest! {
    #[test]
    fn hostile_tables(
        accesses in prop::collection::vec((0usize..80, any::<[u8; 8]>(), 0usize..4, any::<u16>()), 0..100),
    ) {
        let (mut msix, routes) = msix(3);
        for (offset, data, width, other) in accesses {
            msix.write_table(offset, &data[..1 << width]);
            let mut back = [0; 8];
            msix.read_table(offset, &mut back[..1 << width]);
            msix.read_pending(offset, &mut back);
            if other & 1 != 0 {
                msix.set_control(other);
            }
            interrupt(&msix, other & 3);
        }
        let saved = serde_json::to_vec(&msix.state()).unwrap();
        let mut copy = Msix::new(vectors(3, &routes));
        copy.restore(&serde_json::from_slice(&saved).unwrap());
        prop_assert_eq!(copy.state(), msix.state());
        let mut shorter = Msix::new(vectors(1, &routes));
        shorter.restore(&msix.state());
        prop_assert_eq!(shorter.len(), 1);
    }
}
