//! Flags over environment over file over defaults. The schema of [`Settings`] tells which leaves there are, so that a new
//! setting is a flag, a variable and a line of the docs without another word.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::Settings;

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read the settings file {path}: {error}")]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{path}: {message}")]
    File { path: PathBuf, message: String },
    #[error("--{flag} {value}: {message}")]
    Flag { flag: String, value: String, message: String },
    #[error("setting {setting} {message}")]
    Value { setting: &'static str, message: String },
    #[error("the settings do not fit together: {0}")]
    Together(String),
}

/// One thing that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// `["aws", "cluster"]`
    pub path: Vec<String>,
    pub description: String,
    pub default: Value,
    /// Whether a flag's text is taken as it is; otherwise it is read as YAML.
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
    let defaults = serde_json::to_value(Settings::default()).expect("plain data serialises");
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
        description: schema["description"].as_str().unwrap_or_default().to_owned(),
        default: default.clone(),
        // Enums have no type of their own in some drafts; they are texts too.
        text: kinds.is_empty() || kinds.contains(&"string"),
    });
}

/// The flags of all settings, each with its environment variable.
pub fn arguments() -> Vec<Arg> {
    let of_leaf = |leaf: Leaf| {
        Arg::new(leaf.flag())
            .long(leaf.flag())
            .env(leaf.variable())
            .value_name("VALUE")
            .hide_env_values(true)
            .help_heading("Settings (each is also a line of the settings file)")
            .help(leaf.description)
    };
    std::iter::once(
        Arg::new("config")
            .long("config")
            .env("CODELOC_CONFIG")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("The settings file [default: codeloc.yml where there is one]"),
    )
    .chain(leaves().into_iter().map(of_leaf))
    .collect()
}

/// Reads the settings of one invocation. Relative paths in the file are relative to the working directory.
pub fn load(matches: &ArgMatches) -> Result<Settings, SettingsError> {
    let default = Path::new("codeloc.yml");
    let file = matches.get_one::<PathBuf>("config").map(PathBuf::as_path).or_else(|| default.exists().then_some(default));
    let base = match file {
        Some(path) => from_file(path)?,
        None => Settings::default(),
    };
    let mut merged = serde_json::to_value(base).expect("plain data serialises");
    for leaf in leaves() {
        let flag = leaf.flag();
        let Some(text) = matches.get_one::<String>(&flag) else { continue };
        let value = if leaf.text {
            Value::String(text.clone())
        } else {
            serde_saphyr::from_str(text).map_err(|error| SettingsError::Flag {
                flag,
                value: text.clone(),
                message: error.to_string(),
            })?
        };
        set(&mut merged, &leaf.path, value);
    }
    let settings: Settings = serde_json::from_value(merged).map_err(|error| SettingsError::Together(error.to_string()))?;
    Ok(settings)
}

fn from_file(path: &Path) -> Result<Settings, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|error| SettingsError::Unreadable { path: path.to_owned(), error })?;
    serde_saphyr::from_str(&text).map_err(|error| SettingsError::File { path: path.to_owned(), message: error.to_string() })
}

fn set(value: &mut Value, path: &[String], leaf: Value) {
    let Some((last, folders)) = path.split_last() else { return };
    let mut at = value;
    for folder in folders {
        at = at.as_object_mut().expect("settings are nested objects").entry(folder).or_insert(Value::Object(Map::new()));
    }
    at.as_object_mut().expect("settings are nested objects").insert(last.clone(), leaf);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(arguments_given: &[&str]) -> ArgMatches {
        clap::Command::new("codeloc").args(arguments()).get_matches_from(std::iter::once(&"codeloc").chain(arguments_given))
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codeloc.yml");
        std::fs::write(&path, "aws: {cluster: from-file, bucket: from-file}\n").unwrap();
        let settings = load(&matches(&["--config", path.to_str().unwrap(), "--aws-cluster", "from-flag"])).unwrap();
        assert_eq!((settings.aws.cluster.as_str(), settings.aws.bucket.as_str()), ("from-flag", "from-file"));
    }

    #[test]
    fn lists_and_numbers_are_read_as_yaml() {
        let settings = load(&matches(&["--aws-subnets", "[subnet-a, subnet-b]", "--dagster-port", "4100"])).unwrap();
        assert_eq!((settings.aws.subnets.len(), settings.dagster.port), (2, 4100));
    }

    #[test]
    fn an_unknown_line_of_the_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codeloc.yml");
        std::fs::write(&path, "aws:\n  clutser: x\n").unwrap();
        let error = load(&matches(&["--config", path.to_str().unwrap()])).unwrap_err().to_string();
        assert!(error.contains("clutser"), "{error}");
    }

    #[test]
    fn every_setting_is_described() {
        let silent: Vec<String> = leaves().into_iter().filter(|leaf| leaf.description.is_empty()).map(|leaf| leaf.flag()).collect();
        assert_eq!(silent, Vec::<String>::new());
    }
}
