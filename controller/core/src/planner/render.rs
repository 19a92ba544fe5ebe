//! A plan as text, for people, and as JSON, for programs. Values of environment variables are in neither.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::Plan;
use crate::resources::{Action, Kind, Step};

/// The plan of one location as commands print it. A daemon sends it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    location: String,
    /// `Synced`, `OutOfSync`, `Unknown`.
    sync: String,
    message: String,
    steps: Vec<Row>,
    /// Follow once what is waited for is there.
    later: Vec<Row>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    kind: Kind,
    action: Action,
    name: String,
    fields: Vec<Value>,
    reason: String,
}

/// One field of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Value {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    to: String,
}

impl Document {
    pub fn new(location: &str, plan: &Plan) -> Self {
        Self {
            location: location.to_owned(),
            sync: plan.report.sync.to_string(),
            message: plan.report.message.clone(),
            steps: plan.steps.iter().map(Row::new).collect(),
            later: plan.later.iter().map(Row::new).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.later.is_empty()
    }
}

impl Row {
    fn new(step: &Step) -> Self {
        let description = step.describe();
        let fields = description.fields.into_iter();
        Self {
            kind: step.kind(),
            action: description.action,
            name: description.name,
            fields: fields.map(|field| Value { name: field.name.to_owned(), from: field.from, to: field.to }).collect(),
            reason: description.reason,
        }
    }
}

pub fn text(plans: &[Document]) -> String {
    let mut out = String::new();
    let mut changing = 0;
    let mut steps = 0;
    for plan in plans.iter().filter(|plan| !plan.is_empty()) {
        changing += 1;
        steps += plan.steps.len() + plan.later.len();
        let _ = writeln!(out, "{}: {}", plan.location, plan.message);
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

fn write_step(out: &mut String, step: &Row, when: &str) {
    let sign = match step.action {
        Action::Create => '+',
        Action::Update => '~',
        Action::Delete => '-',
    };
    let _ = writeln!(out, "  {sign} {} {}{when}: {}", step.kind.title(), step.name, step.reason);
    for Value { name, from, to } in &step.fields {
        let _ = match from {
            Some(from) => writeln!(out, "      {name}: {from} -> {to}"),
            None => writeln!(out, "      {name}: {to}"),
        };
    }
}
