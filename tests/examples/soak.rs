//! `make soak`: any number of seeds of the simulation on all cores. `SEED=n` runs one seed. If it fails, soak shortens its history
//! and prints the log of the shortest one to standard error, filtered by `RUST_LOG`. `WIDE=1` draws wide histories, and `FAULTS=2` makes
//! each fault twice as likely.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use codeloc_tests::simulation::{History, run_history, shrink};

fn number(arguments: &[String], name: &str) -> Option<u64> {
    let at = arguments.iter().position(|argument| argument == name)?;
    Some(arguments.get(at + 1)?.parse().unwrap_or_else(|_| panic!("{name} needs a number")))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let wide = arguments.iter().any(|argument| argument == "--wide");
    let faults = number(&arguments, "--faults").and_then(|times| u32::try_from(times).ok()).unwrap_or(1);
    let draw = |seed| {
        let history = if wide { History::draw_wide(seed) } else { History::draw(seed) };
        History { chances: history.chances.times(faults), ..history }
    };
    if let Some(seed) = number(&arguments, "--seed") {
        let history = draw(seed);
        println!("{history:#?}");
        match run_history(&history) {
            Ok(numbers) => println!("seed {seed}: {numbers:?}"),
            Err(failure) => {
                println!("seed {seed}: {failure}\n");
                let (shortest, failure) = shrink(&history);
                println!("shortest history that fails: {:#?}\n{failure}", shortest.events);
                tracing_subscriber::fmt()
                    .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                    .with_writer(std::io::stderr)
                    .without_time()
                    .init();
                drop(run_history(&shortest));
                std::process::exit(1);
            }
        }
        return;
    }
    let (from, count) = (number(&arguments, "--from").unwrap_or(0), number(&arguments, "--seeds").unwrap_or(1000));
    let (next, failed, calls) = (AtomicU64::new(from), Mutex::new(Vec::new()), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= from + count {
                        return;
                    }
                    match std::panic::catch_unwind(|| run_history(&draw(seed))) {
                        Ok(Ok(numbers)) => drop(calls.fetch_add(numbers.calls as u64, Ordering::SeqCst)),
                        Ok(Err(failure)) => {
                            println!("seed {seed}: {failure}");
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                        }
                        Err(_) => {
                            println!("seed {seed}: panicked");
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{count} seeds from {from}, {} calls: {} failed {failed:?}", calls.into_inner(), failed.len());
    if !failed.is_empty() {
        std::process::exit(1);
    }
}
