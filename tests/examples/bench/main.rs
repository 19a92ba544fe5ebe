//! `make bench`: what a fleet costs in AWS calls, in time and in memory, beside the least there could be. docs/performance.md
//! explains the figures.
//!
//! `--quick` leaves the large fleets out. `--virtual`, `--builds` and `--growth` each measure one part of it all: in virtual time, builds of images,
//! and fleets in real time, whose sizes `--sizes 20,1000` gives.
//!
//! Calls and virtual seconds are exact and the same on every machine. CPU and memory are of this machine, measured in a process
//! of its own that talks HTTP to localcloud.

mod bare;
mod builds;
mod figures;
mod real;
mod simulated;

use figures::Table;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "daemon") {
        real::daemon(&arguments[2..]);
        return;
    }
    if arguments.get(1).is_some_and(|argument| argument == "build") {
        builds::build(&arguments[2..]);
        return;
    }
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let parts = ["--virtual", "--builds", "--growth"];
    let wanted = |part: &str| given(part) || !parts.iter().any(|part| given(part));
    let mut table = Table::new();
    if wanted("--virtual") {
        for n in if given("--quick") { vec![100] } else { vec![100, 1000] } {
            simulated::cold(&mut table, n);
            simulated::sweep(&mut table, n);
        }
        simulated::one_commit(&mut table, 100);
        simulated::commits_during_a_cold_converge(&mut table, if given("--quick") { 100 } else { 1000 });
    }
    if wanted("--builds") {
        builds::builds(&mut table);
    }
    if wanted("--growth") {
        let sizes = arguments.iter().skip_while(|argument| *argument != "--sizes").nth(1).map(|sizes| {
            sizes.split(',').map(|size| size.parse().unwrap_or_else(|_| panic!("--sizes takes numbers"))).collect()
        });
        let usual = if given("--quick") { vec![20, 100, 1000] } else { vec![20, 80, 320, 1000, 5120] };
        real::growth(&mut table, &sizes.unwrap_or(usual));
    }
    table.save();
}
