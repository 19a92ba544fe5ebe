//! `make bench`: the AWS calls, time and memory of a fleet, next to the lower bound. docs/performance.md explains the figures.
//!
//! `--quick` skips the large fleets. `--virtual`, `--builds` and `--growth` measure one part each: virtual time, builds of images,
//! and fleets in real time with the sizes of `--sizes 20,1000`.
//!
//! Calls and virtual seconds are exact and the same on every machine. CPU and memory are measured on this machine, in a separate
//! process that uses localcloud over HTTP.

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
    let has_flag = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let parts = ["--virtual", "--builds", "--growth"];
    let is_selected = |part: &str| has_flag(part) || !parts.iter().any(|part| has_flag(part));
    let mut table = Table::new();
    if is_selected("--virtual") {
        for n in if has_flag("--quick") { vec![100] } else { vec![100, 1000] } {
            simulated::cold(&mut table, n);
            simulated::sweep(&mut table, n);
        }
        simulated::one_commit(&mut table, 100);
        simulated::commits_during_a_cold_converge(&mut table, if has_flag("--quick") { 100 } else { 1000 });
    }
    if is_selected("--builds") {
        builds::builds(&mut table);
    }
    if is_selected("--growth") {
        let sizes = arguments.iter().skip_while(|argument| *argument != "--sizes").nth(1).map(|sizes| {
            sizes.split(',').map(|size| size.parse().unwrap_or_else(|_| panic!("--sizes needs numbers"))).collect()
        });
        let usual = if has_flag("--quick") { vec![20, 100, 1000] } else { vec![20, 80, 320, 1000, 5120] };
        real::growth(&mut table, &sizes.unwrap_or(usual));
    }
    table.save();
}
