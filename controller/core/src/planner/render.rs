//! A plan as text for people and as JSON for programs. Neither contains values of environment variables.

use std::fmt::Write;

use codeloc_crds::LocationName;
use serde::{Deserialize, Serialize};

use super::Plan;
use crate::resources::{Action, Kind, Step};

/// The plan of one location, as commands print it and the daemon's API sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    location: String,
    /// `Synced`, `OutOfSync`, `Unknown`.
    sync: String,
    message: String,
    steps: Vec<Row>,
    /// They follow after codeloc has what it waits for.
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
    pub fn new(location: &LocationName, plan: &Plan) -> Self {
        Self {
            location: location.to_string(),
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
        out.push_str("No changes. AWS matches the configuration.\n");
    } else {
        let (steps, locations) = (count(steps, "step"), count(plans.len(), "location"));
        let _ = writeln!(out, "{steps} in {changing} of {locations}.");
    }
    out
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::Report;
    use crate::resources::log_group;
    use crate::status::{Health, Sync};

    fn document(location: &str, steps: Vec<Step>, later: Vec<Step>) -> Document {
        let report = Report {
            sync: Sync::OutOfSync,
            health: Health::Progressing,
            message: "applying changes".to_owned(),
            conditions: vec![],
            revision: None,
            serving: None,
            address: None,
            look_again: None,
        };
        Document::new(&LocationName::new(location).unwrap(), &Plan::of(steps, later, report))
    }

    #[test]
    fn a_plan_without_steps_says_that_aws_matches() {
        assert_eq!(text(&[document("orders", vec![], vec![])]), "No changes. AWS matches the configuration.\n");
    }

    #[test]
    fn the_text_shows_each_step_with_its_fields_and_reason() {
        let set = log_group::Change::SetRetention { name: "/orders".to_owned(), from: Some(7), to: 30 };
        let delete = log_group::Change::Delete { arn: "arn".into(), name: "/orders".to_owned() };
        let orders = document("orders", vec![Step::LogGroup(set)], vec![Step::LogGroup(delete)]);
        let expected = "\
orders: applying changes
  ~ log group /orders: differs from the settings
      retention_days: 7 -> 30
  - log group /orders (later): no config uses it any more

2 steps in 1 of 2 locations.
";
        assert_eq!(text(&[orders, document("stock", vec![], vec![])]), expected);
    }
}
