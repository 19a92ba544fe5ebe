//! Revisions of fixed configs, and a form of an earlier release that never was.

use std::collections::BTreeMap;

use codeloc_crds::{CodePointer, Location, RunResources};

use super::*;
use crate::deployment::{Address, Deployment};
use crate::fixtures::{deployment, image, location};
use crate::ids::Arn;
use crate::image::{Image, LoadTarget};
use crate::resources::{DesiredResources, ObservedResources, role, run_definition, task_definition, task_spec};

/// A form with another probe, another variable and another text. An earlier release could have had it.
pub(crate) const OLDER: Form = Form {
    version: 0,
    rewrite: |content| {
        if let Some(check) = &mut content.health_check {
            check.interval = 5;
        }
        content.environment.insert("CODELOC".to_owned(), "0".to_owned());
    },
    text: |content| format!("{content:?}").into_bytes(),
};

pub(crate) fn desired_in_older_form(location: &Location, image: &Image, deployment: &Deployment) -> DesiredResources {
    DesiredResources::in_form(location, Some(image), &role::Kept::default(), deployment, &OLDER)
}

/// The pinned revisions: name, version of the form, revision of the code server, revision of the runs.
const PINNED: &str = include_str!("revisions.txt");

/// A config, its image and its deployment.
#[derive(Clone)]
struct Case {
    location: Location,
    image: Image,
    deployment: Deployment,
}

impl Case {
    /// What codeloc desires while AWS has these definitions.
    fn matching(&self, observed: &ObservedResources) -> DesiredResources {
        let kept = role::Kept::default();
        DesiredResources::matching(&self.location, Some(&self.image), &kept, &self.deployment, observed)
    }

    fn desired(&self, form: &Form) -> DesiredResources {
        DesiredResources::in_form(&self.location, Some(&self.image), &role::Kept::default(), &self.deployment, form)
    }

    fn revisions(&self, form: &Form) -> String {
        let desired = self.desired(form);
        let run = &desired.run_definition.as_ref().expect("the image is known").tags[crate::tags::REVISION];
        format!("{} {run}", desired.task_definition.revision)
    }
}

fn base() -> Case {
    Case { location: location(512, 2, None), image: image(1), deployment: deployment() }
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const SECRET: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:warehouse-a1b2c3";

type Edit = fn(&mut Case);

/// One change each. The revision must differ from that of every other one.
const CHANGES: &[(&str, Edit)] = &[
    ("name", |case| {
        case.location.name = codeloc_crds::LocationName::new("a-name-of-forty-characters-the-limit-abc").unwrap();
    }),
    ("cpu", |case| case.location.resources.cpu = 512),
    ("memory", |case| case.location.resources.memory = 1024),
    ("architecture", |case| case.location.resources.architecture = Architecture::X86_64),
    ("run-resources", |case| case.location.run_resources = Some(RunResources { cpu: 1024, memory: 8192 })),
    ("s3-prefix", |case| case.location.s3_prefix = "teams/sales/orders".to_owned()),
    ("attribute", |case| case.location.attribute = Some("defs".to_owned())),
    ("no-environment", |case| case.location.environment.clear()),
    ("environment", |case| {
        case.location.environment = variables(&[("A", ""), ("B", "größer \"quoted\" \\ \n"), ("LEVEL", "2")]);
    }),
    ("secrets", |case| case.location.secrets = variables(&[("PASSWORD", SECRET)])),
    ("secrets-of-a-key", |case| {
        case.location.secrets = variables(&[("PASSWORD", &format!("{SECRET}:password::")), ("TOKEN", SECRET)]);
    }),
    ("start-seconds", |case| case.location.health.start_seconds = 30),
    ("most-start-seconds", |case| case.location.health.start_seconds = 3600),
    ("image", |case| case.image = image(2)),
    ("file", |case| case.image.load.target = LoadTarget::File("/opt/codeloc/code/src/app.py".to_owned())),
    ("module", |case| case.image.load.target = LoadTarget::Module("orders".to_owned())),
    ("working-directory", |case| case.image.load.working_directory = "/opt/codeloc/code/src".to_owned()),
    ("deployment", |case| case.deployment.id = "codeloc-eu".to_owned()),
    ("partition", |case| case.deployment.partition = "aws-cn".to_owned()),
    ("account", |case| case.deployment.account = "210987654321".to_owned()),
    ("region", |case| case.deployment.region = "us-east-1".to_owned()),
    ("bucket", |case| case.deployment.bucket = "data".to_owned()),
    ("port", |case| case.deployment.port = 4266),
    ("execution-role", |case| case.deployment.execution_role_arn = Arn::from("arn:aws:iam::123456789012:role/other")),
    ("deployment-environment", |case| case.deployment.environment = variables(&[("LEVEL", "9"), ("ZONE", "a")])),
    ("deployment-secrets", |case| case.deployment.secrets = variables(&[("SHARED", SECRET)])),
];

/// One change each that must not change the revision.
const IRRELEVANT: &[(&str, Edit)] = &[
    ("git-url", |case| case.location.git_url = "https://github.com/acme/other.git".to_owned()),
    ("reference", |case| case.location.reference = codeloc_crds::GitReference::Branch("next".to_owned())),
    ("subdirectory", |case| case.location.subdirectory = Some("src".to_owned())),
    // The image knows how Dagster loads it.
    ("code", |case| case.location.code = CodePointer::PythonFile("app.py".to_owned())),
    ("python-version", |case| case.location.python_version = Some("3.13".to_owned())),
    ("dependencies", |case| case.location.dependencies = Some("requirements.txt".to_owned())),
    ("dockerfile", |case| case.location.dockerfile = Some("Dockerfile".to_owned())),
    ("commit", |case| case.image.commit = None),
    ("scaling", |case| case.location.scaling.max_capacity = 9),
    ("load-seconds", |case| case.location.health.load_seconds = 900),
    ("tags", |case| case.location.tags = variables(&[("team", "sales")])),
    ("adopt", |case| case.location.adopt = true),
    ("mode", |case| case.location.mode = codeloc_crds::Mode::Detect),
    ("protect", |case| case.location.protect = true),
    ("cluster", |case| case.deployment.cluster = "other".to_owned()),
    ("namespace", |case| case.deployment.namespace = "other.internal".to_owned()),
    ("subnets", |case| case.deployment.subnets = vec!["subnet-z".to_owned()]),
    ("permissions-boundary", |case| case.deployment.permissions_boundary = Some(Arn::from("arn:aws:iam::1:policy/p"))),
    ("log-retention", |case| case.deployment.log_retention_days = 90),
    ("address", |case| case.deployment.address = Address::Discovered),
];

fn edited(edits: &[Edit]) -> Case {
    let mut case = base();
    for edit in edits {
        edit(&mut case);
    }
    case
}

/// Named cases: one change each, and all pairs of changes.
fn cases() -> Vec<(String, Case)> {
    let single = CHANGES.iter().map(|(name, edit)| ((*name).to_owned(), edited(&[*edit])));
    let pairs = CHANGES.iter().enumerate().flat_map(|(index, (first, edit))| {
        let later = CHANGES[index + 1..].iter();
        later.map(move |(second, other)| (format!("{first}+{second}"), edited(&[*edit, *other])))
    });
    [("base".to_owned(), base())].into_iter().chain(single).chain(pairs).collect()
}

/// The forms that a release used or will use.
fn released() -> impl Iterator<Item = &'static Form> {
    FORMS.iter().filter(|form| form.version > OLDER.version)
}

#[test]
fn the_revision_of_a_config_never_changes() {
    let pinned: BTreeMap<(&str, &str), &str> = PINNED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let (name, version) = (words.next().unwrap(), words.next().expect("a version"));
            ((name, version), words.next().expect("two revisions"))
        })
        .collect();
    let (mut missing, mut changed, mut found) = (vec![], vec![], 0);
    for form in released() {
        for (name, case) in cases() {
            let (version, revisions) = (form.version.to_string(), case.revisions(form));
            match pinned.get(&(name.as_str(), version.as_str())) {
                Some(pinned) if *pinned == revisions => found += 1,
                Some(pinned) => changed.push(format!("{name} {version}: {pinned} became {revisions}")),
                None => missing.push(format!("{name} {version} {revisions}")),
            }
        }
    }
    assert!(
        changed.is_empty(),
        "this version of codeloc would roll out every location; add a form (see task_form/mod.rs) instead of changing one:\n{}",
        changed.join("\n")
    );
    assert!(missing.is_empty(), "add these lines to revisions.txt:\n{}", missing.join("\n"));
    assert_eq!(found, pinned.len(), "revisions.txt has lines of cases that do not exist");
}

#[test]
fn every_setting_that_runs_changes_the_revision() {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, case) in cases() {
        names.entry(case.revisions(NEWEST)).or_default().push(name);
    }
    let mut equal: Vec<String> =
        names.into_values().filter(|names| names.len() > 1).map(|names| names.join(" ")).collect();
    equal.sort();
    // The second change replaces the first, or a location with secrets has an execution role of its own.
    let expected = [
        "environment no-environment+environment",
        "module file+module",
        "most-start-seconds start-seconds+most-start-seconds",
        "secrets secrets+execution-role",
        "secrets-of-a-key secrets+secrets-of-a-key secrets-of-a-key+execution-role",
    ];
    assert_eq!(equal, expected);
}

#[test]
fn settings_that_do_not_run_keep_the_revision() {
    for (name, edit) in IRRELEVANT {
        assert_eq!(edited(&[*edit]).revisions(NEWEST), base().revisions(NEWEST), "{name}");
    }
}

/// Everything that an earlier release registered for a case.
fn registered(case: &Case, form: &Form) -> ObservedResources {
    let DesiredResources { task_definition: server, run_definition: run, .. } = case.desired(form);
    let run = run.expect("the image is known");
    let definition = |family: &str, content, tags: &crate::tags::Tags| {
        let arn = Arn::from(format!("arn:task-definition/{family}:1"));
        task_spec::Observed { arn, number: 1, content, foreign: vec![], tags: tags.clone().into() }
    };
    ObservedResources {
        task_definitions: vec![definition(&server.family, server.content, &server.tags).into()],
        run_definitions: vec![definition(&run.family, Some(run.content), &run.tags).into()],
        ..ObservedResources::default()
    }
}

#[test]
fn definitions_in_an_older_form_stay_the_desired_ones() {
    for (name, case) in cases() {
        let observed = registered(&case, &OLDER);
        let desired = case.matching(&observed);
        assert_eq!(desired, case.desired(&OLDER), "{name}");
        let equal = task_definition::equal(&desired.task_definition, &observed.task_definitions, None);
        let equal = equal.expect("it is recognised");
        assert_eq!(task_definition::tag(&desired.task_definition, equal), None, "{name}");
        let run = desired.run_definition.expect("the image is known");
        assert_eq!(run_definition::diff(&run, &observed.run_definitions), [], "{name}");
    }
}

#[test]
fn a_change_moves_a_location_to_the_newest_form() {
    let observed = registered(&base(), &OLDER);
    for (name, edit) in CHANGES {
        let case = edited(&[*edit]);
        let desired = case.matching(&observed);
        assert_eq!(desired, case.desired(NEWEST), "{name}");
    }
}

#[test]
fn a_registered_definition_in_the_newest_form_wins() {
    let case = base();
    let mut observed = registered(&case, &OLDER);
    observed.task_definitions.extend(registered(&case, NEWEST).task_definitions);
    let desired = case.matching(&observed);
    assert_eq!(desired, case.desired(NEWEST));
}

#[test]
fn versions_fall_from_the_newest_form_to_the_oldest() {
    assert_eq!(FORMS[0].version, NEWEST.version);
    assert!(FORMS.windows(2).all(|pair| pair[0].version > pair[1].version));
}
