//! Allocations a request: a whole VM in this process, whose allocator counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mayfly::config::{
    CmdlineConfig, CmdlineMode, DiskConfig, DiskFormat, MemoryConfig, SerialConfig, Transport,
    VmConfig,
};
use mayfly::console::Console;
use mayfly::memory::layout::VIRTIO_MMIO_START;
use mayfly::vm::builder::{self, Inputs};
use mayfly::vm::exit::ExitReason;
use mayfly::vm::hardware::Hardware;
use mayfly::vm::running::RunningVm;

use super::{WORKLOADS, Workload, guests};

/// Allocations by any thread of this process so far.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// How many more allocations a run with more requests makes, a request.
pub fn per_request(image: &Path, transport: &str) -> Result<f64, Box<dyn Error>> {
    const FEW: u64 = 1000;
    const MANY: u64 = 5000;
    let few = allocations(image, transport, FEW)?;
    let many = allocations(image, transport, MANY)?;
    // The warm-up is a tenth more.
    let requests = (MANY - FEW) * 11 / 10;
    Ok(many.saturating_sub(few) as f64 / requests as f64)
}

/// Allocations of one VM, from its start to its end.
fn allocations(image: &Path, transport: &str, count: u64) -> Result<u64, Box<dyn Error>> {
    let workload = Workload {
        count,
        ..WORKLOADS[2].1
    };
    let mut text = workload.words();
    let mut config = VmConfig::new(guests::bare("blk_bench"));
    if transport == "mmio" {
        config.transport = Transport::Mmio;
        text = format!("bare.mmio={} {text}", VIRTIO_MMIO_START);
    }
    config.serial = SerialConfig::Null;
    config.memory = MemoryConfig::new(64 << 20);
    config.cmdline = CmdlineConfig {
        mode: CmdlineMode::Replace,
        text,
    };
    let mut disk = DiskConfig::new(image.to_owned());
    disk.format = DiskFormat::Raw;
    config.disks.push(disk);
    let mut inputs = Inputs::open(&config)?;
    let console = Console::open(&config.serial)?;
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let hardware = Hardware::new(&config, &mut inputs, console, Instant::now())?;
    let built = builder::build(&config, &inputs, &hardware)?;
    let lifecycle = built.machine.lifecycle.clone();
    let vm = RunningVm::start(built)?;
    hardware.start_writer()?;
    while lifecycle.reason().is_none() {
        thread::sleep(Duration::from_millis(5));
    }
    let ended = vm.finish();
    if ended.reason != ExitReason::Reset {
        return Err(format!("the guest has ended by {:?}", ended.reason).into());
    }
    Ok(ALLOCATIONS.load(Ordering::Relaxed) - before)
}
