use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let started = Instant::now();
    mayfly::cli::main(std::env::args_os(), started)
}
