//! The fuzzers' kept corpora, each input through its target's body.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::fs;
use std::path::Path;

/// Fewer inputs than this, and the corpus has got lost.
const FEWEST: usize = 20;
/// Larger ones are not kept.
const LARGEST: u64 = 64 << 10;

#[test]
fn every_kept_input_passes_its_target() {
    for (name, run) in bodies::TARGETS {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).expect("a corpus") {
            let path = entry.expect("an input").path();
            let data = fs::read(&path).expect("an input");
            assert!(data.len() as u64 <= LARGEST, "{}", path.display());
            println!("{}", path.display());
            run(&data);
            inputs += 1;
        }
        assert!(inputs >= FEWEST, "{name}: {inputs} inputs");
    }
}
