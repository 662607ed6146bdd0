//! TILERELEASE, LDTILECFG and STTILECFG, on the vCPU's XSAVE image alone.
//!
//! KVM lets a guest enable AMX only if the VMM has asked for it, which Mayfly
//! never does: then these are `#UD`. Where XCR0 has the tiles nonetheless, their
//! configuration is kept in the image, and the tiles' data, which KVM's image has
//! no room for, is in its initial configuration.

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;

const TILE_CONFIGURATION: u32 = 17;
/// Both components: configuration and data.
const TILES: u64 = 0b11 << TILE_CONFIGURATION;
const LEN: usize = 64;
/// Offsets of palette 1 (SDM vol. 1 §18.2): bytes a row, then rows, one entry a tile.
const ROW_BYTES: std::ops::Range<usize> = 16..32;
const ROWS: std::ops::Range<usize> = 48..56;
const MAX_ROW_BYTES: u16 = 64;
const MAX_ROWS: u8 = 16;

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    cpu.require_osxsave()?;
    if !cpu.is_64_bit() || cpu.state.xcr0()? & TILES != TILES {
        return Err(Exception::invalid_opcode().into());
    }
    let place = cpu.host.xsave.component(TILE_CONFIGURATION);
    let mut image = cpu.state.xsave()?;
    match insn.mnemonic() {
        Mnemonic::Tilerelease => image.set_in_use(image.in_use() & !TILES),
        Mnemonic::Ldtilecfg => {
            let at = cpu.address(insn, 0)?;
            let mut configuration = [0; LEN];
            cpu.read(at, &mut configuration)?;
            image.set_in_use(image.in_use() & !TILES);
            if !is_valid(&configuration) {
                return Err(Exception::general_protection().into());
            }
            let palette = configuration.first().copied();
            if let Some(place) = place.filter(|_| palette != Some(0)) {
                image.put(place.offset, &configuration);
                image.set_in_use(image.in_use() | place.bit());
            }
        }
        _ => {
            let at = cpu.address(insn, 0)?;
            let mut configuration = [0; LEN];
            let in_use = image.in_use();
            if let Some(place) = place.filter(|place| in_use & place.bit() != 0) {
                for (to, from) in configuration.iter_mut().zip(image.get(place.offset, LEN)) {
                    *to = *from;
                }
            }
            return cpu.write(at, &configuration);
        }
    }
    Ok(cpu.state.set_xsave(&image)?)
}

/// The checks of LDTILECFG. Palette 0 says that there are no tiles, whatever follows.
fn is_valid(configuration: &[u8; LEN]) -> bool {
    let part = |range: std::ops::Range<usize>| configuration.get(range).unwrap_or_default();
    match configuration.first() {
        Some(0) => return true,
        Some(1) => {}
        _ => return false,
    }
    let row_bytes = part(ROW_BYTES).chunks_exact(2).map(|pair| {
        pair.iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u16::from(*byte))
    });
    let tiles_are_whole = row_bytes.zip(part(ROWS)).all(|(bytes, rows)| {
        bytes <= MAX_ROW_BYTES && *rows <= MAX_ROWS && (bytes == 0) == (*rows == 0)
    });
    let reserved = part(2..ROW_BYTES.start)
        .iter()
        .chain(part(ROW_BYTES.end..ROWS.start))
        .chain(part(ROWS.end..LEN));
    tiles_are_whole && reserved.copied().all(|byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{KERNEL_DATA, Machine, assemble};
    use super::super::xsave_layout::tests::sample;
    use super::*;

    assemble! { release: ".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0" }
    assemble! { load_configuration: ".byte 0xc4, 0xe2, 0x78, 0x49, 0x07" }
    assemble! { store_configuration: ".byte 0xc4, 0xe2, 0x79, 0x49, 0x06" }

    fn machine() -> Machine {
        let mut machine = Machine::new();
        machine.host.xsave = sample();
        machine.state.xcr0 |= TILES;
        (machine.regs.rdi, machine.regs.rsi) = (KERNEL_DATA, KERNEL_DATA + 0x100);
        let mut configuration = [0; LEN];
        (configuration[0], configuration[16], configuration[48]) = (1, 64, 16);
        machine.ram.write(KERNEL_DATA, &configuration).unwrap();
        machine
    }

    fn stored(machine: &mut Machine) -> [u8; LEN] {
        machine
            .ram
            .write(KERNEL_DATA + 0x100, &[0xff; LEN])
            .unwrap();
        machine.run(store_configuration()).unwrap();
        let mut stored = [0; LEN];
        machine.ram.read(KERNEL_DATA + 0x100, &mut stored).unwrap();
        stored
    }

    #[test]
    fn a_configuration_is_kept_until_it_is_released() {
        let mut machine = machine();
        assert_eq!(stored(&mut machine), [0; LEN]);
        machine.run(load_configuration()).unwrap();
        assert_eq!(machine.state.image.in_use(), 1 << 17);
        let kept = stored(&mut machine);
        assert_eq!((kept[0], kept[16], kept[48], kept[49]), (1, 64, 16, 0));
        machine.run(release()).unwrap();
        assert_eq!(machine.state.image.in_use(), 0);
        assert_eq!(stored(&mut machine), [0; LEN]);
    }

    #[test]
    fn configurations_are_checked() {
        for (at, value) in [
            (0, 2),
            (5, 1),
            (16, 65),
            (17, 1),
            (40, 1),
            (48, 17),
            (49, 3),
            (60, 1),
        ] {
            let mut machine = machine();
            machine.ram.write(KERNEL_DATA + at, &[value]).unwrap();
            assert_eq!(
                machine.fault(load_configuration()),
                Exception::general_protection(),
                "byte {at}"
            );
        }
    }

    #[test]
    fn without_tiles_in_xcr0_there_are_no_instructions() {
        let mut machine = machine();
        machine.state.xcr0 = 7;
        for code in [release(), load_configuration(), store_configuration()] {
            assert_eq!(machine.fault(code), Exception::invalid_opcode());
        }
    }
}
