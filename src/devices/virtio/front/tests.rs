// Bits and offsets are written as numbers where the specification gives them, so
// that a constant that is wrong does not agree with itself.

use super::testing::{Probe, QUEUE_SIZES, Told};
use super::*;

const FEATURES: u64 = 1 << 32 | 1 << 28 | 1;

struct Bench {
    ram: GuestRam,
    probe: Probe,
    front: Front,
    told: Arc<Told>,
}

fn bench() -> Bench {
    let ram = GuestRam::new(1 << 20).unwrap();
    let probe = Probe::default();
    let front = probe.front(&ram);
    let told = Told::new(&front);
    Bench {
        ram,
        probe,
        front,
        told,
    }
}

impl Bench {
    fn status(&mut self, value: u8) -> u8 {
        let interrupt: Arc<dyn VirtioInterrupt> = self.told.clone();
        self.front.set_status(value, &interrupt);
        self.front.status()
    }

    fn choose(&mut self, features: u64) {
        self.front.set_driver_features_half(0, features as u32);
        self.front
            .set_driver_features_half(1, (features >> 32) as u32);
    }

    fn set_queue(&mut self, index: u16, size: u16, base: u64) {
        let queue = self.front.queue_mut(index).unwrap();
        queue.size = size;
        queue.descriptors = base;
        queue.available = base + 0x1000;
        queue.used = base + 0x2000;
        self.front.set_queue_ready(index, true);
    }

    /// Up to FEATURES_OK.
    fn negotiated(mut self) -> Self {
        self.status(1);
        self.status(3);
        self.choose(FEATURES);
        assert_eq!(self.status(0xb), 0xb);
        self
    }

    /// Up to DRIVER_OK, with queue 1 only.
    fn running(self) -> Self {
        let mut bench = self.negotiated();
        bench.set_queue(1, 8, 0x1_0000);
        assert_eq!(bench.status(0xf), 0xf);
        bench
    }

    fn config_changes(&self) -> usize {
        *self.told.config_changes.lock().unwrap()
    }
}

#[test]
fn features_are_the_devices_own_and_the_rings() {
    let bench = bench();
    assert_eq!(bench.front.features_half(0), 1 | 1 << 9 | 1 << 28 | 1 << 29);
    assert_eq!(bench.front.features_half(1), 1);
    for select in [2, 3, u32::MAX] {
        assert_eq!(bench.front.features_half(select), 0);
    }
}

#[test]
fn a_driver_that_follows_the_rules_gets_its_queues() {
    let mut bench = bench().running();
    let log = bench.probe.log();
    assert_eq!(log.activations, [(FEATURES, vec![(1, 8)])]);
    drop(log);
    assert_eq!(bench.config_changes(), 0);
    assert_eq!(bench.front.driver_features_half(1), 1);
    // Said twice, it is done once.
    assert_eq!(bench.status(0xf), 0xf);
    assert_eq!(bench.probe.log().activations.len(), 1);
}

#[test]
fn features_ok_is_refused_for_what_is_not_offered() {
    for features in [
        0,
        1,
        1 << 28,
        1 << 32 | 2,
        1 << 32 | 1 << 24,
        1 << 32 | 1 << 33,
    ] {
        let mut bench = bench();
        bench.choose(features);
        assert_eq!(bench.status(0xb), 0x3, "{features:#x}");
        // Mended, it is taken.
        bench.choose(1 << 32);
        assert_eq!(bench.status(0xb), 0xb);
    }
}

#[test]
fn features_are_fixed_once_agreed_on() {
    let mut bench = bench().negotiated();
    bench.choose(u64::MAX);
    let halves = [0, 1].map(|select| bench.front.driver_features_half(select));
    assert_eq!(halves, [1 << 28 | 1, 1]);
    bench.front.set_driver_features_half(2, 7);
    assert_eq!(bench.front.driver_features_half(2), 0);
}

#[test]
fn driver_ok_without_features_ok_is_ignored() {
    let mut bench = bench();
    bench.set_queue(0, 256, 0x1_0000);
    assert_eq!(bench.status(0x7), 0x3);
    assert!(bench.probe.log().activations.is_empty());
    assert_eq!(bench.front.stage(), Stage::Negotiating);
}

#[test]
fn bits_go_by_a_reset_only_and_some_are_not_the_drivers() {
    let mut bench = bench().running();
    assert_eq!(bench.status(1), 0xf);
    assert_eq!(bench.status(0x10 | 0x20 | 0x40), 0xf);
    assert_eq!(bench.status(0x80), 0x8f);
    assert_eq!(bench.status(0), 0);
    assert_eq!(bench.probe.log().resets, 1);
}

#[test]
fn a_driver_that_has_given_up_cannot_go_on() {
    let mut bench = bench().negotiated();
    assert_eq!(bench.status(0x80), 0x8b);
    assert_eq!(bench.status(0x0f), 0x8b);
    assert!(bench.probe.log().activations.is_empty());
}

#[test]
fn queues_are_fixed_while_they_are_ready_and_while_the_device_runs() {
    let mut bench = bench().negotiated();
    assert_eq!(bench.front.queue(0).map(|queue| queue.size), Some(256));
    assert!(bench.front.queue_mut(2).is_none() && bench.front.queue(2).is_none());
    bench.set_queue(1, 8, 0x1_0000);
    assert!(bench.front.queue_mut(1).is_none());
    bench.front.set_queue_ready(1, false);
    assert!(bench.front.queue_mut(1).is_some());
    bench.front.set_queue_ready(1, true);
    bench.status(0xf);
    assert!(bench.front.queue_mut(0).is_none());
    bench.front.set_queue_ready(1, false);
    bench.front.set_queue_ready(0, true);
    bench.front.set_queue_ready(9, true);
    let ready = [0, 1].map(|index| bench.front.queue(index).unwrap().ready);
    assert_eq!(ready, [false, true]);
}

#[test]
fn a_queue_that_is_none_breaks_the_device() {
    // (size, descriptors, available, used): each is wrong in one thing.
    let bad = [
        (0, 0x1_0000, 0x1_1000, 0x1_2000),
        (3, 0x1_0000, 0x1_1000, 0x1_2000),
        (32, 0x1_0000, 0x1_1000, 0x1_2000),
        (u16::MAX, 0x1_0000, 0x1_1000, 0x1_2000),
        (16, 0x1_0008, 0x1_1000, 0x1_2000),
        (16, 0x1_0000, 0, 0x1_2000),
        (16, 0x1_0000, 0x1_1001, 0x1_2000),
        (16, 0x1_0000, 0x1_1000, 0x1_2002),
        (16, 0x10_0000, 0x1_1000, 0x1_2000),
        (16, 0xf_fff0, 0x1_1000, 0x1_2000),
        (16, 0x1_0000, 0xf_fffe, 0x1_2000),
        (16, 0x1_0000, 0x1_1000, 0xf_fffc),
        (16, !0xf, 0x1_1000, 0x1_2000),
        (16, 0x1_0000, !0x1, 0x1_2000),
        (16, 0x1_0000, 0x1_1000, !0x3),
    ];
    for (size, descriptors, available, used) in bad {
        let mut bench = bench().negotiated();
        let queue = bench.front.queue_mut(1).unwrap();
        *queue = QueueState {
            size,
            descriptors,
            available,
            used,
            ..QueueState::default()
        };
        bench.front.set_queue_ready(1, true);
        let what = (size, descriptors, available, used);
        assert_eq!(bench.status(0xf), 0x4f, "{what:x?}");
        assert_eq!(bench.config_changes(), 1);
        assert!(bench.probe.log().activations.is_empty());
        assert_eq!(bench.status(0), 0);
        assert_eq!(bench.status(3), 3);
    }
}

#[test]
fn a_device_that_will_not_start_needs_a_reset() {
    let bench = bench();
    bench.probe.log().refuses = true;
    let mut bench = bench.negotiated();
    assert_eq!(bench.status(0xf), 0x4f);
    assert_eq!(bench.config_changes(), 1);
    // It may have begun something: it is reset too.
    bench.status(0);
    assert_eq!(bench.probe.log().resets, 1);
}

#[test]
fn a_broken_device_tells_the_driver_once() {
    let mut bench = bench().running();
    let told = bench.told.clone();
    let thread = std::thread::spawn(move || {
        told.device_broken();
        told.device_broken();
    });
    thread.join().unwrap();
    assert_eq!(bench.front.status(), 0x4f);
    assert_eq!(bench.config_changes(), 1);
    // Before DRIVER_OK nobody listens.
    bench.status(0);
    bench.told.device_broken();
    assert_eq!((bench.front.status(), bench.config_changes()), (0x40, 1));
}

#[test]
fn a_reset_forgets_everything() {
    let mut bench = bench().running();
    bench.status(0);
    let fresh = Probe::default().front(&bench.ram).state();
    assert_eq!(bench.front.state(), fresh);
    assert_eq!(fresh.queues.len(), QUEUE_SIZES.len());
}

#[test]
fn thousands_of_resets_leave_nothing_behind() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut bench = bench();
    let before = descriptors();
    for _ in 0..5_000 {
        bench = bench.running();
        bench.status(0);
    }
    assert_eq!(bench.probe.log().resets, 5_000);
    assert_eq!(Arc::strong_count(&bench.told), 1);
    // Other tests open some too.
    assert!(descriptors() < before + 1_000);
    // A device that has nothing is not asked to give it back.
    bench.status(0);
    assert_eq!(bench.probe.log().resets, 5_000);
}

#[test]
fn the_configuration_space_is_written_only_after_features_ok() {
    let mut bench = bench();
    bench.front.write_config(0, &[1, 2]);
    assert_eq!(bench.probe.log().config[..2], [0, 0]);
    let mut bench = bench.negotiated();
    bench.front.write_config(0, &[1, 2]);
    let mut data = [0xff; 4];
    bench.front.read_config(0, &mut data);
    assert_eq!(data, [1, 2, 0, 0]);
    let mut behind = [0xff; 4];
    bench.front.read_config(6, &mut behind);
    assert_eq!(behind, [0; 4]);
    bench.status(0x80);
    bench.front.write_config(0, &[7]);
    assert_eq!(bench.probe.log().config[0], 1);
}

#[test]
fn the_generation_follows_the_devices_word() {
    let bench = bench();
    let before = bench.front.config_generation();
    bench.told.config_changed();
    assert_ne!(bench.front.config_generation(), before);
}

#[test]
fn a_kick_that_came_as_an_exit_is_a_kick() {
    let bench = bench();
    bench.front.notify(1);
    bench.front.notify(2);
    bench.front.notify(u16::MAX);
    assert_eq!(bench.front.kick(1).unwrap().read().unwrap(), 1);
    assert!(bench.front.kick(2).is_none());
}

#[test]
fn a_restored_device_goes_on_where_the_used_ring_is() {
    let mut bench = bench().running();
    bench.front.pause();
    assert!(bench.probe.log().paused);
    bench.ram.write(0x1_2002, &[0x34, 0x12]).unwrap();
    let saved = serde_json::to_vec(&bench.front.state()).unwrap();
    let state: FrontState = serde_json::from_slice(&saved).unwrap();
    assert_eq!(state.queues[1].next_available, 0x1234);

    let probe = Probe::default();
    let mut front = probe.front_in(&bench.ram, state.clone());
    let told: Arc<dyn VirtioInterrupt> = Told::new(&front);
    front.reactivate(&told);
    front.reactivate(&told);
    assert_eq!(probe.log().activations, [(FEATURES, vec![(1, 8)])]);
    let rings = probe.log().active.as_ref().unwrap().queues[0].rings.state();
    assert_eq!((rings.next_available, rings.next_used), (0x1234, 0x1234));
    assert_eq!(front.kick(1).unwrap().read().unwrap(), 1);
    assert_eq!(front.state(), state);
}

#[test]
fn a_broken_snapshot_gives_a_broken_device() {
    let ram = GuestRam::new(1 << 20).unwrap();
    let status_of = |status, driver_features| {
        let state = FrontState {
            status,
            driver_features,
            queues: vec![QueueState::default(); 40],
            ..FrontState::default()
        };
        let front = Probe::default().front_in(&ram, state);
        assert_eq!(front.queue_count(), 2);
        front.status()
    };
    assert_eq!(status_of(0x33, 0), 0x03);
    assert_eq!(status_of(0x0b, FEATURES), 0x0b);
    assert_eq!(status_of(0x0f, FEATURES), 0x0f);
    assert_eq!(status_of(0x0f, 1), 0x43);
    assert_eq!(status_of(0x07, FEATURES), 0x43);
}
