//! Image config and manifest, as bytes: a pure function of the layers, the base and the commit.

use std::collections::BTreeMap;

use codeloc_core::image::{Load, LoadTarget};
use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest};
use serde_json::{Map, Value, json};

use super::{BuildError, layer::Layer, registry::sha256, uv::Target};

/// Where the base image keeps its Python environment, and we its packages.
pub const ENVIRONMENT_FOLDER: &str = "/opt/codeloc/env";
/// The annotation on our layers in the manifest: `dependencies` or `code`.
pub const LAYER_ANNOTATION: &str = "codeloc.layer";

const LABEL_PYTHON: &str = "codeloc.python";
/// Of a base image: interpreter and C library, `cp312-glibc2.36`.
const LABEL_ABI: &str = "codeloc.abi";
const LABEL_COMMIT: &str = "codeloc.commit";
const LABEL_LOCATION: &str = "codeloc.location";
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
    pub location: &'a str,
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
        let mut layers: Vec<OciDescriptor> = self.base.map(|base| base.layers.clone()).unwrap_or_default();
        for layer in &mut layers {
            layer.media_type = oci_media_type(&layer.media_type);
        }
        for (name, layer) in [("dependencies", self.dependencies), ("code", self.code)] {
            layers.push(OciDescriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.clone(),
                size: layer.size.cast_signed(),
                annotations: Some(BTreeMap::from([(LAYER_ANNOTATION.to_owned(), name.to_owned())])),
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
        let manifest =
            serde_json::to_vec(&manifest).map_err(|error| BuildError::Terminal(format!("no manifest: {error}")))?;
        Ok(Assembled { config, config_digest, manifest })
    }

    fn config(&self) -> Result<Vec<u8>, BuildError> {
        let unsound = || BuildError::Terminal("the base image's config is not an image config".to_owned());
        let mut document: Map<String, Value> = match self.base {
            Some(base) => serde_json::from_slice(&base.config).map_err(|_| unsound())?,
            None => Map::new(),
        };
        let created = jiff::Timestamp::from_second(self.commit_time)
            .map_err(|error| BuildError::Terminal(format!("the commit's time is out of range: {error}")))?
            .to_string();

        let mut config = taken_object(&mut document, "config").ok_or_else(unsound)?;
        let variables = config.get("Env").and_then(Value::as_array).cloned().unwrap_or_default();
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
            (LABEL_LOCATION, self.location),
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
        let mut history = document.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
        for name in ["dependencies", "code"] {
            history.push(json!({"created": created, "created_by": format!("codeloc {name}")}));
        }

        document.insert("created".to_owned(), json!(created));
        document.insert("architecture".to_owned(), json!(self.architecture));
        document.insert("os".to_owned(), json!("linux"));
        document.insert("config".to_owned(), Value::Object(config));
        document.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
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
    let mut all: Vec<String> = variables.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match all.iter_mut().find(|variable| variable.starts_with("PATH=")) {
        Some(path) if path["PATH=".len()..].split(':').next() == Some(&ours) => {}
        Some(path) => *path = format!("PATH={ours}:{}", &path["PATH=".len()..]),
        None => all.insert(0, format!("PATH={ours}:{SEARCH_PATH}")),
    }
    json!(all)
}

/// An OCI manifest may not name Docker's media types; the bytes behind them are the same.
fn oci_media_type(media_type: &str) -> String {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar".to_owned(),
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
        other => other.to_owned(),
    }
}

/// Whether packages for a target work on a base image, by its architecture and by the labels that bases of ours carry; what an image
/// does not say is not held against it. So a new base takes the layers that were made for the old one, or is refused.
pub(super) fn check_base(config: &[u8], target: &Target) -> Result<(), String> {
    let document: Value = serde_json::from_slice(config).map_err(|_| "its config is not JSON".to_owned())?;
    let labels = &document["config"]["Labels"];
    let differs = |what: &str, has: &str, wants: &str| Err(format!("it has {what} {has}, and {wants} is wanted"));
    match document["architecture"].as_str() {
        Some(has) if has != target.architecture => return differs("architecture", has, target.architecture),
        _ => {}
    }
    match labels[LABEL_PYTHON].as_str() {
        Some(has) if has != target.python => return differs("Python", has, &target.python),
        _ => {}
    }
    let Some((interpreter, library)) = labels[LABEL_ABI].as_str().and_then(|abi| abi.split_once('-')) else {
        return Ok(());
    };
    let wanted = format!("cp{}", target.python.replace('.', ""));
    if interpreter != wanted {
        return differs("the interpreter", interpreter, &wanted);
    }
    let Some(floor) = target.platform.as_deref().and_then(|platform| platform.split_once("-manylinux_")) else {
        return Ok(());
    };
    let version = |text: &str, dot: char| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once(dot)?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let has = library.strip_prefix("glibc").and_then(|text| version(text, '.'));
    match (has, version(floor.1, '_')) {
        (Some(has), Some(wants)) if has >= wants => Ok(()),
        _ => differs("the C library", library, &format!("glibc{} or newer", floor.1.replace('_', "."))),
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
    Some(Load { target, working_directory: labels[LABEL_WORKING_DIRECTORY].as_str()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str) -> Layer {
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
        Layer { digest: format!("sha256:{name}"), diff_id: format!("sha256:{name}-diff"), size: 7, media_type }
    }

    fn assembled(base: Option<&Base>) -> (Value, Value, Load) {
        let load =
            Load { target: LoadTarget::Module("a.b".to_owned()), working_directory: "/opt/codeloc/code".to_owned() };
        let (dependencies, code) = (layer("dependencies"), layer("code"));
        let assembly = Assembly {
            base,
            dependencies: &dependencies,
            code: &code,
            load: &load,
            architecture: "arm64",
            python: "3.12",
            location: "demo",
            commit: "c0ffee",
            commit_time: 1_700_000_000,
        };
        let assembled = assembly.assemble().unwrap();
        assert_eq!(load_of(&assembled.config), Some(load.clone()));
        (serde_json::from_slice(&assembled.config).unwrap(), serde_json::from_slice(&assembled.manifest).unwrap(), load)
    }

    #[test]
    fn packages_go_on_bases_of_their_python_and_architecture_whose_c_library_is_new_enough() {
        let target = Target {
            python: "3.12".to_owned(),
            architecture: "arm64",
            platform: Some("aarch64-manylinux_2_28".to_owned()),
            compiler: None,
        };
        let told = |architecture: &str, python: &str, abi: &str| {
            let labels = json!({"codeloc.python": python, "codeloc.abi": abi});
            let config = json!({"architecture": architecture, "config": {"Labels": labels}});
            check_base(config.to_string().as_bytes(), &target)
        };
        assert_eq!(told("arm64", "3.12", "cp312-glibc2.28"), Ok(()));
        assert_eq!(told("arm64", "3.12", "cp312-glibc2.36"), Ok(()));
        for (architecture, python, abi, why) in [
            ("amd64", "3.12", "cp312-glibc2.36", "it has architecture amd64, and arm64 is wanted"),
            ("arm64", "3.13", "cp313-glibc2.36", "it has Python 3.13, and 3.12 is wanted"),
            ("arm64", "3.12", "cp312t-glibc2.36", "it has the interpreter cp312t, and cp312 is wanted"),
            ("arm64", "3.12", "cp312-glibc2.17", "it has the C library glibc2.17, and glibc2.28 or newer is wanted"),
            ("arm64", "3.12", "cp312-musl1.2", "it has the C library musl1.2, and glibc2.28 or newer is wanted"),
        ] {
            assert_eq!(told(architecture, python, abi), Err(why.to_owned()));
        }
        let unlabelled = json!({"config": {}}).to_string();
        assert_eq!(check_base(unlabelled.as_bytes(), &target), Ok(()));
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
        let base = Base { layers: vec![base_layer.clone()], config: base_config.to_string().into_bytes() };
        let (config, manifest, _) = assembled(Some(&base));
        insta::assert_json_snapshot!([config, manifest]);
        let unsound = Base { layers: vec![base_layer.clone(), base_layer], config: base.config };
        let (dependencies, code, load) = (
            layer("d"),
            layer("c"),
            Load { target: LoadTarget::Module("a".to_owned()), working_directory: "/".to_owned() },
        );
        let assembly = Assembly {
            base: Some(&unsound),
            dependencies: &dependencies,
            code: &code,
            load: &load,
            architecture: "arm64",
            python: "3.12",
            location: "demo",
            commit: "c0ffee",
            commit_time: 0,
        };
        assert!(matches!(assembly.assemble(), Err(BuildError::Terminal(_))));
    }
}
