//! The form of a task definition: what codeloc writes into one for a config, and the text that it hashes into the revision.
//!
//! Guarantees: an upgrade of codeloc rolls out no location. codeloc knows the older forms. If a definition in an older form is registered for
//! a location, it stays the desired one until the config, the image or the settings change.
//!
//! The revision depends only on this file and on the functions that fill a [`Content`]. `revisions.txt` pins both: a change of either fails a
//! test. To change what codeloc writes:
//!
//! 1. Add a form with the next version at the top of [`FORMS`].
//! 2. Let `rewrite` of the form below turn the new content into its own.
//! 3. Add the lines of the new version to `revisions.txt`. The lines of a released version never change.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use codeloc_crds::Architecture;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::task_spec::{Content, HealthCheck};
use crate::ids::Revision;

pub struct Form {
    version: u32,
    /// Turns the content of the next newer form into that of this one.
    rewrite: fn(&mut Content),
    /// The text that codeloc hashes into the revision.
    text: fn(&Content) -> Vec<u8>,
}

const FORM_1: Form = Form { version: 1, rewrite: |_| {}, text: text_1 };

/// All forms, the newest first.
#[cfg(not(test))]
pub static FORMS: &[Form] = &[FORM_1];
/// With a synthetic older form.
#[cfg(test)]
pub static FORMS: &[Form] = &[FORM_1, tests::OLDER];

/// The form of everything that codeloc registers.
pub static NEWEST: &Form = &FORM_1;

impl Form {
    /// Turns content of the newest form, without the values that follow from the revision, into this form. Returns its revision.
    pub(super) fn settle(&self, content: &mut Content) -> Revision {
        for form in FORMS.iter().filter(|form| form.version >= self.version) {
            (form.rewrite)(content);
        }
        hex::encode(&Sha256::digest((self.text)(content))[..8]).into()
    }
}

fn text_1(content: &Content) -> Vec<u8> {
    #[derive(Serialize)]
    struct Text<'a> {
        cpu: &'a str,
        memory: &'a str,
        architecture: &'a str,
        task_role_arn: &'a str,
        execution_role_arn: &'a str,
        image: &'a str,
        command: &'a [String],
        environment: &'a BTreeMap<String, String>,
        secrets: &'a BTreeMap<String, String>,
        container: &'a str,
        port: Option<u16>,
        log_group: &'a str,
        log_region: &'a str,
        log_stream_prefix: &'a str,
        health_check: Option<Health<'a>>,
        stop_timeout: i32,
    }
    #[derive(Serialize)]
    struct Health<'a> {
        command: &'a [String],
        interval: i32,
        timeout: i32,
        retries: i32,
        start_period: i32,
    }
    // Without `..`: a new setting does not compile until it has a place here, in a new form.
    let Content {
        cpu,
        memory,
        architecture,
        task_role_arn,
        execution_role_arn,
        image,
        command,
        environment,
        secrets,
        container,
        port,
        log_group,
        log_region,
        log_stream_prefix,
        health_check,
        stop_timeout,
    } = content;
    let health_check = health_check.as_ref().map(|check| {
        let HealthCheck { command, interval, timeout, retries, start_period } = check;
        Health { command, interval: *interval, timeout: *timeout, retries: *retries, start_period: *start_period }
    });
    let text = Text {
        cpu,
        memory,
        architecture: match architecture {
            Architecture::Arm64 => "ARM64",
            Architecture::X86_64 => "X86_64",
        },
        task_role_arn,
        execution_role_arn,
        image,
        command,
        environment,
        secrets,
        container,
        port: *port,
        log_group,
        log_region,
        log_stream_prefix,
        health_check,
        stop_timeout: *stop_timeout,
    };
    serde_json::to_vec(&text).expect("plain data serialises")
}
