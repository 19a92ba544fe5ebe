//! Image config and manifest, as bytes: a pure function of the layers, the base and the commit.

use std::collections::BTreeMap;

use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest,
};
use serde_json::{Map, Value, json};

use super::{BuildError, Load, LoadTarget, layer::Layer, registry::sha256};

/// Where the base image keeps its Python environment, and we its packages.
pub const ENVIRONMENT_FOLDER: &str = "/opt/codeloc/env";
/// The annotation on our layers in the manifest: `dependencies` or `code`.
pub const LAYER_ANNOTATION: &str = "codeloc.layer";

const LABEL_PYTHON: &str = "codeloc.python";
const LABEL_COMMIT: &str = "codeloc.commit";
const LABEL_REPOSITORY: &str = "codeloc.repository";
const LABEL_LOAD: &str = "codeloc.load";
const LABEL_WORKING_DIRECTORY: &str = "codeloc.working-directory";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image below our layers.
pub(super) struct Base {
    pub layers: Vec<OciDescriptor>,
    pub config: Vec<u8>,
}

pub(super) struct Assembly<'a> {
    pub base: Option<&'a Base>,
    pub dependencies: &'a Layer,
    pub code: &'a Layer,
    pub load: &'a Load,
    pub architecture: &'a str,
    pub python: &'a str,
    pub repository: &'a str,
    pub commit: &'a str,
    /// Seconds since 1970.
    pub commit_time: i64,
}

/// What is pushed last.
pub(super) struct Assembled {
    pub config: Vec<u8>,
    pub config_digest: String,
    pub manifest: Vec<u8>,
}

impl Assembly<'_> {
    pub(super) fn assemble(&self) -> Result<Assembled, BuildError> {
        let config = self.config()?;
        let config_digest = sha256(&config);
        let mut layers: Vec<OciDescriptor> = self
            .base
            .map(|base| base.layers.clone())
            .unwrap_or_default();
        for layer in &mut layers {
            layer.media_type = oci_media_type(&layer.media_type);
        }
        for (name, layer) in [("dependencies", self.dependencies), ("code", self.code)] {
            layers.push(OciDescriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.clone(),
                size: layer.size.cast_signed(),
                annotations: Some(BTreeMap::from([(
                    LAYER_ANNOTATION.to_owned(),
                    name.to_owned(),
                )])),
                ..OciDescriptor::default()
            });
        }
        let manifest = OciImageManifest {
            schema_version: 2,
            media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
            config: OciDescriptor {
                media_type: IMAGE_CONFIG_MEDIA_TYPE.to_owned(),
                digest: config_digest.clone(),
                size: config.len().cast_signed() as i64,
                ..OciDescriptor::default()
            },
            layers,
            subject: None,
            artifact_type: None,
            annotations: None,
        };
        let manifest = serde_json::to_vec(&manifest)
            .map_err(|error| BuildError::Terminal(format!("no manifest: {error}")))?;
        Ok(Assembled {
            config,
            config_digest,
            manifest,
        })
    }

    fn config(&self) -> Result<Vec<u8>, BuildError> {
        let unsound =
            || BuildError::Terminal("the base image's config is not an image config".to_owned());
        let mut document: Map<String, Value> = match self.base {
            Some(base) => serde_json::from_slice(&base.config).map_err(|_| unsound())?,
            None => Map::new(),
        };
        let created = jiff::Timestamp::from_second(self.commit_time)
            .map_err(|error| {
                BuildError::Terminal(format!("the commit's time is out of range: {error}"))
            })?
            .to_string();

        let mut config = taken_object(&mut document, "config").ok_or_else(unsound)?;
        let variables = config
            .get("Env")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        config.insert("Env".to_owned(), environment(&variables));
        config.insert("WorkingDir".to_owned(), json!(self.load.working_directory));
        let mut labels = taken_object(&mut config, "Labels").ok_or_else(unsound)?;
        let load = match &self.load.target {
            LoadTarget::Module(module) => format!("module:{module}"),
            LoadTarget::File(path) => format!("file:{path}"),
        };
        for (label, value) in [
            (LABEL_PYTHON, self.python),
            (LABEL_COMMIT, self.commit),
            (LABEL_REPOSITORY, self.repository),
            (LABEL_LOAD, &load),
            (LABEL_WORKING_DIRECTORY, &self.load.working_directory),
        ] {
            labels.insert(label.to_owned(), json!(value));
        }
        config.insert("Labels".to_owned(), Value::Object(labels));

        let mut diff_ids = match document.get("rootfs").map(|rootfs| &rootfs["diff_ids"]) {
            None => Vec::new(),
            Some(ids) => ids.as_array().ok_or_else(unsound)?.clone(),
        };
        if diff_ids.len() != self.base.map_or(0, |base| base.layers.len()) {
            return Err(unsound());
        }
        diff_ids.extend([json!(self.dependencies.diff_id), json!(self.code.diff_id)]);
        let mut history = document
            .get("history")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for name in ["dependencies", "code"] {
            history.push(json!({"created": created, "created_by": format!("codeloc {name}")}));
        }

        document.insert("created".to_owned(), json!(created));
        document.insert("architecture".to_owned(), json!(self.architecture));
        document.insert("os".to_owned(), json!("linux"));
        document.insert("config".to_owned(), Value::Object(config));
        document.insert(
            "rootfs".to_owned(),
            json!({"type": "layers", "diff_ids": diff_ids}),
        );
        document.insert("history".to_owned(), Value::Array(history));
        Ok(Value::Object(document).to_string().into_bytes())
    }
}

/// The object under a key; an absent or null one is empty, anything else is none.
fn taken_object(document: &mut Map<String, Value>, key: &str) -> Option<Map<String, Value>> {
    match document.shift_remove(key) {
        None | Some(Value::Null) => Some(Map::new()),
        Some(Value::Object(object)) => Some(object),
        Some(_) => None,
    }
}

/// The base's variables, with our environment first on the search path.
fn environment(variables: &[Value]) -> Value {
    let ours = format!("{ENVIRONMENT_FOLDER}/bin");
    let mut all: Vec<String> = variables
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    match all
        .iter_mut()
        .find(|variable| variable.starts_with("PATH="))
    {
        Some(path) if path["PATH=".len()..].split(':').next() == Some(&ours) => {}
        Some(path) => *path = format!("PATH={ours}:{}", &path["PATH=".len()..]),
        None => all.insert(0, format!("PATH={ours}:{SEARCH_PATH}")),
    }
    json!(all)
}

/// An OCI manifest may not name Docker's media types; the bytes behind them are the same.
fn oci_media_type(media_type: &str) -> String {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => {
            "application/vnd.oci.image.layer.v1.tar".to_owned()
        }
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip".to_owned()
        }
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd".to_owned()
        }
        other => other.to_owned(),
    }
}

/// Reads [`Load`] back out of a config of ours.
pub(super) fn load_of(config: &[u8]) -> Option<Load> {
    let document: Value = serde_json::from_slice(config).ok()?;
    let labels = &document["config"]["Labels"];
    let target = match labels[LABEL_LOAD].as_str()?.split_once(':')? {
        ("module", module) => LoadTarget::Module(module.to_owned()),
        ("file", path) => LoadTarget::File(path.to_owned()),
        _ => return None,
    };
    Some(Load {
        target,
        working_directory: labels[LABEL_WORKING_DIRECTORY].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str) -> Layer {
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
        Layer {
            digest: format!("sha256:{name}"),
            diff_id: format!("sha256:{name}-diff"),
            size: 7,
            media_type,
        }
    }

    fn assembled(base: Option<&Base>) -> (Value, Value, Load) {
        let load = Load {
            target: LoadTarget::Module("a.b".to_owned()),
            working_directory: "/opt/codeloc/code".to_owned(),
        };
        let (dependencies, code) = (layer("dependencies"), layer("code"));
        let assembly = Assembly {
            base,
            dependencies: &dependencies,
            code: &code,
            load: &load,
            architecture: "arm64",
            python: "3.12",
            repository: "demo",
            commit: "c0ffee",
            commit_time: 1_700_000_000,
        };
        let assembled = assembly.assemble().unwrap();
        assert_eq!(load_of(&assembled.config), Some(load.clone()));
        (
            serde_json::from_slice(&assembled.config).unwrap(),
            serde_json::from_slice(&assembled.manifest).unwrap(),
            load,
        )
    }

    #[test]
    fn an_image_without_a_base_has_two_layers_and_its_labels() {
        let (config, manifest, _) = assembled(None);
        insta::assert_json_snapshot!([config, manifest]);
    }

    #[test]
    fn a_base_keeps_its_settings_and_lends_its_layers() {
        let base_layer = OciDescriptor {
            media_type: "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
            digest: "sha256:base".to_owned(),
            size: 9,
            ..OciDescriptor::default()
        };
        let base_config = json!({
            "architecture": "arm64", "os": "linux", "created": "x",
            "config": {"User": "1000", "Env": ["A=b", "PATH=/usr/bin"], "Labels": {"theirs": "kept"}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:base-diff"]},
            "history": [{"created_by": "theirs"}],
        });
        let base = Base {
            layers: vec![base_layer.clone()],
            config: base_config.to_string().into_bytes(),
        };
        let (config, manifest, _) = assembled(Some(&base));
        insta::assert_json_snapshot!([config, manifest]);
        let unsound = Base {
            layers: vec![base_layer.clone(), base_layer],
            config: base.config,
        };
        let (dependencies, code, load) = (
            layer("d"),
            layer("c"),
            Load {
                target: LoadTarget::Module("a".to_owned()),
                working_directory: "/".to_owned(),
            },
        );
        let assembly = Assembly {
            base: Some(&unsound),
            dependencies: &dependencies,
            code: &code,
            load: &load,
            architecture: "arm64",
            python: "3.12",
            repository: "demo",
            commit: "c0ffee",
            commit_time: 0,
        };
        assert!(matches!(assembly.assemble(), Err(BuildError::Terminal(_))));
    }
}
