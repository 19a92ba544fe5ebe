//! Merges defaults, file, environment and flags. Flags and variables follow from the schema of [`Settings`]: a new field needs no
//! other code.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Settings;

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read the settings file {path}: {error}; check --config or CODELOC_CONFIG")]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{path}: {message}")]
    File { path: PathBuf, message: String },
    #[error("{given}: {message}; see docs/settings.md")]
    Given { given: String, message: String },
    #[error("setting {setting} {message}")]
    Value { setting: String, message: String },
    #[error("invalid settings: {0}")]
    Merged(String),
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// `["aws", "cluster"]`
    pub path: Vec<String>,
    pub description: String,
    pub default: Value,
    /// Whether the text of a flag is the value; if not, codeloc parses it as YAML.
    text: bool,
}

impl Leaf {
    pub fn flag(&self) -> String {
        self.path.join("-").replace('_', "-")
    }

    pub fn variable(&self) -> String {
        format!("CODELOC_{}", self.path.join("_").to_uppercase())
    }
}

/// All leaves, in the order of their definition.
pub fn leaves() -> Vec<Leaf> {
    let generator = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    let schema = generator.into_root_schema_for::<Settings>().to_value();
    let defaults = serde_json::to_value(Settings::default()).expect("settings serialise");
    let mut leaves = Vec::new();
    collect(&schema, &defaults, &mut Vec::new(), &mut leaves);
    leaves
}

fn collect(schema: &Value, default: &Value, path: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            path.push(name.clone());
            collect(property, &default[name], path, leaves);
            path.pop();
        }
        return;
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    leaves.push(Leaf {
        path: path.clone(),
        description: schema["description"].as_str().unwrap_or_default().replace('\n', " "),
        default: default.clone(),
        // The schema of an enum may lack a type; its values are text.
        text: kinds.is_empty() || kinds.contains(&"string"),
    });
}

/// A default as a flag takes it; `None` if it is empty.
fn shown_default(default: &Value) -> Option<String> {
    match default {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Array(items) if items.is_empty() => None,
        Value::Object(fields) if fields.is_empty() => None,
        other => Some(other.to_string()),
    }
}

/// The flags of all settings, each with its environment variable.
pub fn arguments() -> Vec<Arg> {
    let argument = |leaf: Leaf| {
        let default = shown_default(&leaf.default).map_or_else(String::new, |default| format!(" [default: {default}]"));
        Arg::new(leaf.flag())
            .long(leaf.flag())
            .env(leaf.variable())
            .value_name("VALUE")
            .hide_env_values(true)
            .help_heading("Settings (each can also be set in the settings file)")
            .help(format!("{}{default}", leaf.description))
    };
    std::iter::once(
        Arg::new("config")
            .long("config")
            .env("CODELOC_CONFIG")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Read the settings from this file [default: codeloc.yml, if it exists]"),
    )
    .chain(leaves().into_iter().map(argument))
    .collect()
}

/// Loads the settings of one invocation. Relative paths in the file are relative to the working directory.
pub fn load(matches: &ArgMatches) -> Result<Settings, SettingsError> {
    let default = Path::new("codeloc.yml");
    let file =
        matches.get_one::<PathBuf>("config").map(PathBuf::as_path).or_else(|| default.exists().then_some(default));
    let base = match file {
        Some(path) => from_file(path)?,
        None => Settings::default(),
    };
    let mut merged = serde_json::to_value(base).expect("settings serialise");
    for leaf in leaves() {
        let flag = leaf.flag();
        let Some(text) = matches.get_one::<String>(&flag) else { continue };
        let fault = |message: String| SettingsError::Given { given: given(matches, &leaf, text), message };
        if text.trim().is_empty() {
            return Err(fault(format!("the value of {} is empty; set a value, or leave it out", leaf.path.join("."))));
        }
        let value = if leaf.text { Value::String(text.clone()) } else { from_yaml(text).map_err(fault)? };
        set(&mut merged, &leaf.path, value);
        // Checked after each flag: an error of all settings together would not name the flag.
        serde_json::from_value::<Settings>(merged.clone()).map_err(|error| fault(error.to_string()))?;
    }
    let settings: Settings =
        serde_json::from_value(merged).map_err(|error| SettingsError::Merged(error.to_string()))?;
    Ok(settings)
}

/// The flag with its value, or the variable, whose value may be a secret.
fn given(matches: &ArgMatches, leaf: &Leaf, text: &str) -> String {
    match matches.value_source(&leaf.flag()) {
        Some(ValueSource::EnvVariable) => leaf.variable(),
        _ => format!("--{} {text}", leaf.flag()).trim_end().to_owned(),
    }
}

fn from_file(path: &Path) -> Result<Settings, SettingsError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| SettingsError::Unreadable { path: path.to_owned(), error })?;
    from_yaml(&text).map_err(|message| SettingsError::File { path: path.to_owned(), message })
}

/// The value of a YAML text. The error is one line: a snippet would show the text twice.
pub fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // The parser refuses more than 96 lines of comments in a row if it reports them.
    let options = serde_saphyr::options! { with_snippet: false, emit_comments: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

fn set(value: &mut Value, path: &[String], leaf: Value) {
    let Some((last, folders)) = path.split_last() else { return };
    let mut at = value;
    for folder in folders {
        at =
            at.as_object_mut().expect("settings are nested objects").entry(folder).or_insert(Value::Object(Map::new()));
    }
    at.as_object_mut().expect("settings are nested objects").insert(last.clone(), leaf);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(arguments_given: &[&str]) -> ArgMatches {
        clap::Command::new("codeloc")
            .args(arguments())
            .get_matches_from(std::iter::once(&"codeloc").chain(arguments_given))
    }

    #[test]
    fn a_flag_takes_precedence_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codeloc.yml");
        std::fs::write(&path, "aws: {cluster: from-file, bucket: from-file}\n").unwrap();
        let settings = load(&matches(&["--config", path.to_str().unwrap(), "--aws-cluster", "from-flag"])).unwrap();
        assert_eq!((settings.aws.cluster.as_str(), settings.aws.bucket.as_str()), ("from-flag", "from-file"));
    }

    #[test]
    fn lists_and_numbers_are_parsed_as_yaml() {
        let settings = load(&matches(&["--aws-subnets", "[subnet-a, subnet-b]", "--dagster-port", "4100"])).unwrap();
        assert_eq!((settings.aws.subnets.len(), settings.dagster.port), (2, 4100));
    }

    #[test]
    fn an_error_names_the_flag_with_the_wrong_value() {
        for (flag, value) in [("dagster-port", "abc"), ("mode", "enforced"), ("aws-subnets", "subnet-a")] {
            let error = load(&matches(&[&format!("--{flag}"), value])).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--{flag} {value}: ")), "{error}");
        }
    }

    #[test]
    fn an_empty_value_is_an_error_that_names_the_setting() {
        for leaf in leaves() {
            let flag = format!("--{}", leaf.flag());
            let error = load(&matches(&[&flag, ""])).unwrap_err().to_string();
            let setting = leaf.path.join(".");
            let expected =
                format!("{flag}: the value of {setting} is empty; set a value, or leave it out; see docs/settings.md");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codeloc.yml");
        std::fs::write(&path, "aws:\n  clutser: x\n").unwrap();
        let error = load(&matches(&["--config", path.to_str().unwrap()])).unwrap_err().to_string();
        assert!(error.contains("clutser") && error.contains("line 2") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn every_setting_has_a_description() {
        let undescribed: Vec<String> =
            leaves().into_iter().filter(|leaf| leaf.description.is_empty()).map(|leaf| leaf.flag()).collect();
        assert_eq!(undescribed, Vec::<String>::new());
    }
}
