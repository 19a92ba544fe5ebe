//! The simulation with seeds 0 to 319. `make soak` runs any number of seeds; `make soak SEED=…` repeats one seed and shortens its
//! history while it still fails.

use codeloc_tests::simulation::{Numbers, run_seed, run_wide_seed};

/// The number of seeds per test; the tests run in parallel.
const CHUNK: u64 = 80;

/// The number of wide seeds. One takes as long as two or three others, so that these take about 15 % of the time of all.
const WIDE: u64 = 20;

fn seeds(chunk: u64) {
    run(chunk * CHUNK..(chunk + 1) * CHUNK, run_seed);
}

fn run(seeds: std::ops::Range<u64>, run_seed: fn(u64) -> Result<Numbers, String>) {
    let all = seeds.end - seeds.start;
    let mut failures = Vec::new();
    for seed in seeds {
        if let Err(failure) = run_seed(seed) {
            failures.push(format!("seed {seed}: {failure}"));
        }
    }
    assert!(failures.is_empty(), "{} of {all} failed:\n{}", failures.len(), failures.join("\n"));
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

#[test]
fn wide_seeds_converge() {
    run(0..WIDE, run_wide_seed);
}
