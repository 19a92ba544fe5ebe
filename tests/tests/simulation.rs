//! The simulation with seeds 0 to 319. `make soak` runs any number of seeds; `make soak SEED=…` repeats one seed and shortens its
//! history while it still fails.

use codeloc_tests::simulation::run_seed;

/// The number of seeds per test; the tests run in parallel.
const CHUNK: u64 = 80;

fn seeds(chunk: u64) {
    let mut failures = Vec::new();
    for seed in chunk * CHUNK..(chunk + 1) * CHUNK {
        if let Err(failure) = run_seed(seed) {
            failures.push(format!("seed {seed}: {failure}"));
        }
    }
    assert!(failures.is_empty(), "{} of {CHUNK} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn seeds_0_to_79_converge() {
    seeds(0);
}

#[test]
fn seeds_80_to_159_converge() {
    seeds(1);
}

#[test]
fn seeds_160_to_239_converge() {
    seeds(2);
}

#[test]
fn seeds_240_to_319_converge() {
    seeds(3);
}
