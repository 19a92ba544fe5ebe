//! Three hundred and twenty lives of a deployment, each from a seed of its own; `make soak` lives through any number of them. A failing one prints
//! its seed; `make soak SEED=…` shows it again, with its history made as short as it still fails.

use codeloc_tests::simulation::run_seed;

/// Seeds of one test: the tests of this file share the cores.
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
fn whatever_happens_what_is_live_comes_to_what_is_wanted_first_chunk() {
    seeds(0);
}

#[test]
fn whatever_happens_what_is_live_comes_to_what_is_wanted_second_chunk() {
    seeds(1);
}

#[test]
fn whatever_happens_what_is_live_comes_to_what_is_wanted_third_chunk() {
    seeds(2);
}

#[test]
fn whatever_happens_what_is_live_comes_to_what_is_wanted_fourth_chunk() {
    seeds(3);
}
