//! `codeloc cost`: estimated costs on Fargate.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::client::Client;
use super::out::{Cell, table};
use super::terminal::{print_json, say};
use super::{Failure, client};
use crate::cost::Cost;
use crate::settings;

pub fn command() -> Command {
    Command::new("cost")
        .about("Estimate the monthly costs of code servers on Fargate, and the savings with ARM64 and Spot")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the JSON response of the API"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let costs: Vec<Cost> = Client::new(matches)?.get("/v1/costs").await?;
    if matches.get_flag("json") {
        print_json(&costs)?;
        return Ok(ExitCode::SUCCESS);
    }
    let as_of = costs.first().map(|cost| cost.as_of.clone());
    let row = |name: &str, dollars: [f64; 5]| {
        let [min, now, max, arm, spot] = dollars.map(|dollars| Cell::new(format!("{dollars:.2}")));
        [Cell::new(name), min, now, max, arm, spot]
    };
    let dollars = |cost: &Cost| [cost.min, cost.now, cost.max, cost.saved_by_arm64, cost.saved_by_spot];
    let mut sum = [0.0; 5];
    for cost in &costs {
        for (sum, dollars) in sum.iter_mut().zip(dollars(cost)) {
            *sum += dollars;
        }
    }
    let mut rows: Vec<_> = costs.iter().map(|cost| row(&cost.location, dollars(cost))).collect();
    rows.push(row("all", sum));
    table(["NAME", "MIN", "NOW", "MAX", "ARM64 SAVES", "SPOT SAVES"], rows);
    if let Some(as_of) = as_of {
        say!("US dollars for 730 hours, at the prices of {as_of}; runs, logs, images and traffic are not included.");
    }
    Ok(ExitCode::SUCCESS)
}
