#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::qcow2_check::run(data));
