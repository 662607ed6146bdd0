//! Saved and restored, also after hostile accesses.

use proptest::prelude::*;

use super::*;

#[test]
fn a_saved_function_goes_on() {
    let mut bench = bench();
    bench.move_bar(BAR as u32);
    bench.pci.write_config(4, &[2, 0]);
    bench.msix_control(0x8000);
    bench.unmask(1, 0x41);
    let mut bench = bench.started();
    bench.set16(0x1a, 1);
    let saved = serde_json::to_vec(&bench.pci.state()).unwrap();
    let state: VirtioPciState = serde_json::from_slice(&saved).unwrap();

    let (probe, routes) = (Probe::default(), Arc::new(Routes::default()));
    let (vectors, fds) = vectors(&routes);
    let front = probe.front_in(&bench.ram, state.front.clone());
    let bells = Arc::new(Bells::default());
    let copy = VirtioPci::from_state(
        front,
        &state,
        vectors,
        Arc::new(Line::default()),
        bells.clone(),
    );
    assert_eq!(copy.state(), state);
    assert_eq!(bells.now(), [BAR + 0x3000, BAR + 0x3004]);
    let active = probe.log();
    active.active.as_ref().unwrap().interrupt.queue_used(1);
    assert_eq!(fds[1].read().unwrap(), 1);
    let route = (
        25,
        Some(Msi {
            address: 0xfee0_0000,
            data: 0x41,
        }),
    );
    assert_eq!(*routes.0.lock().unwrap(), [route]);
}

/// One access: to configuration space or memory, where, how wide, what if it writes.
type Access = (bool, u64, usize, Option<[u8; 8]>);

fn accesses() -> impl Strategy<Value = Vec<Access>> {
    let offset = prop_oneof![
        4 => 0u64..0x100,
        2 => (0u64..16).prop_map(|region| region << 12),
        2 => 0x8000u64..0x8040,
        1 => 0u64..0x1_0000,
    ];
    let data = prop::option::of(any::<[u8; 8]>());
    prop::collection::vec((any::<bool>(), offset, 0usize..4, data), 0..200)
}

proptest! {
    #[test]
    fn hostile_accesses(accesses in accesses()) {
        let mut bench = bench();
        for (config, offset, width, data) in accesses {
            let width = 1 << width;
            let mut buffer = data.unwrap_or_default();
            let part = &mut buffer[..width];
            match (config, data) {
                (true, None) => bench.pci.read_config(offset as usize, part),
                (true, Some(_)) => bench.pci.write_config(offset as usize, part),
                (false, None) => bench.pci.read_memory(offset, part),
                (false, Some(_)) => bench.pci.write_memory(offset, part),
            }
            let bar = bench.pci.memory().map(|range| range.start);
            let expected = bar.map_or(vec![], |bar| vec![bar + 0x3000, bar + 0x3004]);
            prop_assert_eq!(bench.bells.now(), expected);
        }
        let state = bench.pci.state();
        let (vectors, _) = vectors(&bench.routes);
        let front = Probe::default().front_in(&bench.ram, state.front.clone());
        let line = Arc::new(Line::default());
        let copy = VirtioPci::from_state(front, &state, vectors, line.clone(), Arc::new(Bells::default()));
        prop_assert_eq!(copy.state(), state);
        prop_assert_eq!(line.is_up(), bench.line.is_up());
    }
}
