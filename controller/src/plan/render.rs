//! A plan as text, for people, and as JSON, for programs. Values of environment variables are in neither.

use std::fmt::Write;

use serde::Serialize;

use super::Plan;
use crate::kinds::{Action, Description, Field, Kind, Step};

/// One step as JSON.
#[derive(Serialize)]
struct Row {
    kind: Kind,
    #[serde(flatten)]
    description: Description,
}

#[derive(Serialize)]
struct Document<'a> {
    repository: &'a str,
    /// `Synced`, `OutOfSync`, `Unknown`.
    sync: String,
    message: &'a str,
    steps: Vec<Row>,
    /// Follow once what is waited for is there.
    later: Vec<Row>,
}

fn rows(steps: &[Step]) -> Vec<Row> {
    steps.iter().map(|step| Row { kind: step.kind(), description: step.describe() }).collect()
}

pub fn json(plans: &[(String, Plan)]) -> serde_json::Value {
    let documents: Vec<Document<'_>> = plans
        .iter()
        .map(|(repository, plan)| Document {
            repository,
            sync: plan.report.sync.to_string(),
            message: &plan.report.message,
            steps: rows(&plan.steps),
            later: rows(&plan.later),
        })
        .collect();
    serde_json::to_value(documents).expect("plain data serialises")
}

pub fn text(plans: &[(String, Plan)]) -> String {
    let mut out = String::new();
    let mut changing = 0;
    let mut steps = 0;
    for (repository, plan) in plans {
        if plan.is_empty() {
            continue;
        }
        changing += 1;
        steps += plan.steps.len() + plan.later.len();
        let _ = writeln!(out, "{repository}: {}", plan.report.message);
        for step in &plan.steps {
            write_step(&mut out, step, "");
        }
        for step in &plan.later {
            write_step(&mut out, step, " (later)");
        }
        out.push('\n');
    }
    if changing == 0 {
        out.push_str("No changes: AWS is as the configs want it.\n");
    } else {
        let _ = writeln!(out, "{steps} step(s) in {changing} of {} repositories.", plans.len());
    }
    out
}

fn write_step(out: &mut String, step: &Step, when: &str) {
    let description = step.describe();
    let sign = match description.action {
        Action::Create => '+',
        Action::Update => '~',
        Action::Delete => '-',
    };
    let _ = writeln!(out, "  {sign} {} {}{when}: {}", step.kind().title(), description.name, description.reason);
    for Field { name, from, to } in &description.fields {
        let _ = match from {
            Some(from) => writeln!(out, "      {name}: {from} -> {to}"),
            None => writeln!(out, "      {name}: {to}"),
        };
    }
}
