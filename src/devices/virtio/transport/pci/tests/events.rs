//! Interrupts and kicks.

use super::*;

#[test]
fn each_queue_interrupts_by_its_vector() {
    let mut bench = bench();
    bench.msix_control(0x8000);
    for vector in 0..3 {
        bench.unmask(vector, 0x30 + vector as u32);
    }
    let routes = bench.routes.0.lock().unwrap().len();
    assert_eq!(routes, 3);
    let mut bench = bench.started();
    for (queue, vector) in [(0, 2), (1, 1)] {
        bench.set16(0x16, queue);
        assert_eq!(bench.get16(0x1a), 0xffff, "none at first");
        bench.set16(0x1a, vector);
        assert_eq!(bench.get16(0x1a), vector);
    }
    let interrupt = bench.interrupt();
    interrupt.config_changed();
    assert_eq!(bench.sent(), [0, 0, 0], "no vector is mapped");
    bench.set16(0x10, 0);
    interrupt.queue_used(0);
    interrupt.queue_used(1);
    interrupt.queue_used(1);
    interrupt.queue_used(2);
    assert_eq!(bench.sent(), [0, 2, 1]);
    interrupt.config_changed();
    assert_eq!(bench.sent(), [1, 0, 0]);
    assert_eq!(bench.get16(0x14) >> 8, 2, "generation");
    interrupt.device_broken();
    assert_eq!(bench.sent(), [1, 0, 0]);
    assert_eq!((bench.isr(), bench.line.is_up()), (0, false));

    bench.set32(0x8000 + 16 + 12, 1);
    interrupt.queue_used(1);
    assert_eq!((bench.sent(), bench.get32(0x7000)), (vec![0, 0, 0], 2));
    bench.set32(0x8000 + 16 + 12, 0);
    assert_eq!((bench.sent(), bench.get32(0x7000)), (vec![0, 1, 0], 0));
}

#[test]
fn vectors_that_do_not_exist_are_not_mapped() {
    let mut bench = bench();
    for at in [0x10, 0x1a] {
        bench.set16(at, 1);
        assert_eq!(bench.get16(at), 1);
        bench.set16(at, 3);
        assert_eq!(bench.get16(at), 0xffff);
        bench.set16(at, 2);
        bench.set16(at, 0xffff);
        assert_eq!(bench.get16(at), 0xffff);
    }
    bench.set16(0x16, 2);
    bench.set16(0x1a, 0);
    assert_eq!(bench.get16(0x1a), 0xffff, "no such queue");
}

#[test]
fn without_msix_the_line_is_up_until_isr_is_read() {
    let mut bench = bench().started();
    let interrupt = bench.interrupt();
    assert!(interrupt.raise(1).is_none());
    assert!(bench.line.is_up());
    assert_eq!(bench.config32(4) >> 16 & 8, 8, "interrupt status");
    assert_eq!((bench.isr(), bench.line.is_up()), (1, false));
    assert_eq!(bench.config32(4) >> 16 & 8, 0);
    assert_eq!(bench.isr(), 0);
    interrupt.config_changed();
    interrupt.queue_used(0);
    assert_eq!(bench.isr(), 3);

    bench.pci.write_config(4, &[6, 4]);
    interrupt.queue_used(0);
    assert!(!bench.line.is_up(), "the command register forbids it");
    assert_eq!(bench.config32(4) >> 16 & 8, 8);
    bench.pci.write_config(4, &[6, 0]);
    assert!(bench.line.is_up());
    bench.msix_control(0x8000);
    assert!(!bench.line.is_up());
    assert_eq!(bench.config32(4) >> 16 & 8, 0);
}

#[test]
fn a_reset_takes_vectors_and_interrupts_back() {
    let mut bench = bench().started();
    bench.set16(0x10, 0);
    bench.set16(0x1a, 1);
    bench.interrupt().queue_used(0);
    assert!(bench.line.is_up());
    bench.set8(0x14, 0);
    assert_eq!(bench.probe.log().resets, 1);
    assert!(!bench.line.is_up());
    assert_eq!((bench.isr(), bench.get16(0x10)), (0, 0xffff));
    assert_eq!(bench.get16(0x16), 0, "queue_select");
    for queue in [0, 1] {
        bench.set16(0x16, queue);
        assert_eq!((bench.get16(0x1a), bench.get16(0x1c)), (0xffff, 0));
        assert_eq!(bench.get32(0x20), 0);
    }
}

#[test]
fn doorbells_follow_the_bar() {
    let mut bench = bench();
    bench.move_bar(BAR as u32);
    assert!(bench.bells.now().is_empty());
    assert_eq!(bench.pci.memory(), None);
    bench.pci.write_config(4, &[2, 0]);
    assert_eq!(bench.bells.now(), [BAR + 0x3000, BAR + 0x3004]);
    assert_eq!(bench.pci.memory(), Some(BAR..BAR + 0x1_0000));
    bench.move_bar(BAR as u32 + 0x10_0000);
    assert_eq!(bench.bells.now(), [BAR + 0x10_3000, BAR + 0x10_3004]);
    bench.move_bar(0xffff_ffff);
    assert_eq!(bench.config32(0x10), 0xffff_0000);
    assert!(bench.bells.now().is_empty());
    bench.move_bar(BAR as u32);
    assert_eq!(bench.bells.now(), [BAR + 0x3000, BAR + 0x3004]);
    bench.pci.write_config(4, &[0, 0]);
    assert!(bench.bells.now().is_empty());
}

#[test]
fn doorbells_that_are_refused_are_not_taken_away() {
    let mut bench = bench_with(Bells {
        refuse: true,
        ..Bells::default()
    });
    bench.move_bar(BAR as u32);
    bench.pci.write_config(4, &[2, 0]);
    bench.move_bar(BAR as u32 + 0x10_0000);
    assert!(bench.bells.now().is_empty());
}

#[test]
fn a_kick_that_is_an_exit_reaches_its_queue() {
    let mut bench = bench();
    let kicks = [0, 1].map(|queue| bench.pci.front().kick(queue).unwrap().clone());
    bench.set16(0x3004, 1);
    bench.set16(0x3000 + 4 * 2, 2);
    bench.set32(0x6ffc, 0);
    assert_eq!(kicks[1].read().unwrap(), 1);
    kicks[0].write(1).unwrap();
    assert_eq!(
        kicks[0].read().unwrap(),
        1,
        "nothing but what was just written"
    );
}
