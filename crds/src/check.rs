//! Checks that the JSON Schema cannot express: the format of values, and rules across fields.

use std::collections::BTreeMap;
use std::path::Path;

use crate::fields::{
    AccessFields, EnvironmentFields, HealthFields, LocationFields, ResourceFields, ScalingFields, SecretFields,
};
use crate::git::{reaches_metadata, url_problem, valid_reference_name};
use crate::location::{
    Access, CodePointer, GitReference, Health, Location, LocationName, Mode, NameError, Resources, RunResources,
    Scaling,
};
use crate::prefix::{self, SHARED, is_prefix, is_within, owner, reserved_overlap};
use crate::problem::Finding;
use crate::yaml::{Node, Step};

/// Variables that codeloc or ECS sets: a value from a config would break the location or be overwritten.
const RESERVED_VARIABLES: [&str; 14] = [
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "DAGSTER_ATTRIBUTE",
    "DAGSTER_CLI_API_GRPC_FIXED_SERVER_ID",
    "DAGSTER_CONTAINER_CONTEXT",
    "DAGSTER_CONTAINER_IMAGE",
    "DAGSTER_CURRENT_IMAGE",
    "DAGSTER_GRPC_HOST",
    "DAGSTER_GRPC_PORT",
    "DAGSTER_LOCATION_NAME",
    "DAGSTER_MODULE_NAME",
    "DAGSTER_PYTHON_FILE",
    "DAGSTER_REPO_S3_BUCKET",
    "DAGSTER_REPO_S3_PREFIX",
    "DAGSTER_WORKING_DIRECTORY",
];

/// AWS allows 50 tags per resource. codeloc's own tags use the rest.
pub const MAX_TAGS: usize = 40;

/// ECS accepts 64 KiB per task definition (Amazon ECS service quotas). codeloc and the settings use the rest.
const MAX_ENVIRONMENT_BYTES: usize = 48 * 1024;

/// Length of the JSON around each variable: `{"name":"","value":""},`.
const VARIABLE_OVERHEAD: usize = 23;

/// IAM accepts 10,240 characters for all inline policies of a role (IAM and AWS STS quotas). The statements of codeloc use the rest.
const MAX_POLICY_CHARACTERS: usize = 8 * 1024;

/// Length of the policy text around each prefix. A policy names a prefix twice: for its objects and for listing.
const PREFIX_OVERHEAD: usize = 100;

/// A longer command belongs into a script.
const MAX_COMMAND_BYTES: usize = 4096;

/// Limit for paths and URLs that git and file systems accept.
const MAX_PATH_BYTES: usize = 1024;

/// Checks the decoded fields. `root` provides the position of each field, `path` the folder of the file.
pub(crate) fn location(fields: LocationFields, root: &Node, path: &str) -> Result<Location, Vec<Finding>> {
    let mut check = Check { root, findings: Vec::new() };
    for field in fields.unsupported() {
        check.at_key(field, format!("`{field}` is not supported yet"), format!("remove `{field}`"));
    }
    check.name(&fields.name, path);
    check.dockerfile(&fields);
    check.build(&fields);
    check.git_url(&fields.git_url);
    let reference = check.reference(fields.branch, fields.tag, fields.commit);
    let code = check.code(fields.python_file, fields.module);
    check.relative_path("subdirectory", fields.subdirectory.as_deref());
    check.relative_path("dependencies", fields.dependencies.as_deref());
    check.attribute(fields.attribute.as_deref());
    check.image(fields.image.as_deref(), fields.dependencies.is_some(), fields.image_policy.is_some());
    check.resources("resources", fields.resources.cpu, fields.resources.memory);
    if let Some(resources) = &fields.run_resources {
        check.resources("run_resources", resources.cpu, resources.memory);
    }
    check.prefix(fields.s3_prefix.as_deref(), &fields.name);
    let access = check.access(fields.access);
    check.scaling(&fields.scaling);
    let environment = check.environment(fields.environment);
    let secrets = check.secrets(fields.secrets, &environment);
    check.sizes(&environment, &secrets);
    check.tags(&fields.tags);
    check.mode(fields.mode, fields.mode_when_resumed.is_some());
    // `Check::code` adds a finding whenever it returns `None`.
    let Some(code) = code.filter(|_| check.findings.is_empty()) else {
        return Err(check.findings);
    };
    let ResourceFields { cpu, memory, architecture } = fields.resources;
    let ScalingFields { min_capacity, max_capacity, cpu_threshold, memory_threshold } = fields.scaling;
    let HealthFields { start_seconds, load_seconds } = fields.health;
    Ok(Location {
        s3_prefix: fields.s3_prefix.unwrap_or_else(|| format!("repos/{}", fields.name)),
        name: LocationName(fields.name),
        git_url: fields.git_url,
        reference,
        subdirectory: fields.subdirectory,
        code,
        attribute: fields.attribute,
        python_version: fields.python_version,
        image: fields.image,
        image_policy: fields.image_policy.unwrap_or_default(),
        dependencies: fields.dependencies,
        dockerfile: fields.dockerfile,
        build_commands: fields.build.commands,
        resources: Resources { cpu, memory, architecture },
        run_resources: fields.run_resources.map(|run| RunResources { cpu: run.cpu, memory: run.memory }),
        environment,
        secrets,
        access,
        scaling: Scaling { min_capacity, max_capacity, cpu_threshold, memory_threshold },
        health: Health { start_seconds, load_seconds },
        tags: fields.tags,
        adopt: fields.adopt,
        mode: fields.mode,
        protect: fields.deletion.protect,
    })
}

/// The memory sizes in MiB that Fargate offers for a CPU size
/// (<https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html>).
fn memory_sizes(cpu: u32) -> Vec<u32> {
    let stepped = |from: u32, to: u32, step: u32| (from..=to).step_by(step as usize).collect();
    match cpu {
        256 => vec![512, 1024, 2048],
        512 => stepped(1024, 4096, 1024),
        1024 => stepped(2048, 8192, 1024),
        2048 => stepped(4096, 16_384, 1024),
        4096 => stepped(8192, 30_720, 1024),
        8192 => stepped(16_384, 61_440, 4096),
        16_384 => stepped(32_768, 122_880, 8192),
        _ => Vec::new(),
    }
}

/// The memory sizes for a CPU size, for an error.
fn memory_choices(cpu: u32) -> String {
    match memory_sizes(cpu).as_slice() {
        [first, second, .., last] if memory_sizes(cpu).len() > 5 => {
            format!("{first} to {last} MiB in steps of {}", second - first)
        }
        [others @ .., last] => {
            let words: Vec<String> = others.iter().map(u32::to_string).collect();
            format!("{} or {last} MiB", words.join(", "))
        }
        [] => String::new(),
    }
}

/// Whether ECS accepts `arn` as a secret in Secrets Manager (optionally with key, stage and version) or as a parameter.
/// Wildcards are invalid, because codeloc grants the ARN to the execution role.
pub fn is_secret_arn(arn: &str) -> bool {
    let plain = arn.chars().all(|c| c.is_ascii_alphanumeric() || "-_.=/+@!:".contains(c));
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, service, region, account, resource] = parts[..] else { return false };
    let numbers = account.len() == 12 && account.chars().all(|c| c.is_ascii_digit());
    let named = match service {
        "secretsmanager" => {
            let parts: Vec<&str> = resource.split(':').collect();
            parts[0] == "secret" && parts.get(1).is_some_and(|name| !name.is_empty()) && [2, 5].contains(&parts.len())
        }
        "ssm" => resource.strip_prefix("parameter/").is_some_and(|name| !name.is_empty() && !name.contains(':')),
        _ => false,
    };
    plain && partition.starts_with("aws") && !region.is_empty() && numbers && named
}

fn is_image_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['-', '/', ':'])
        && !name.ends_with('/')
        && !name.contains("//")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':'))
}

fn is_image_by_digest(image: &str) -> bool {
    let digits = |digest: &str| digest.chars().all(|c| c.is_ascii_digit() || matches!(c, 'a'..='f'));
    image
        .split_once("@sha256:")
        .filter(|_| image.len() <= MAX_PATH_BYTES)
        .is_some_and(|(name, digest)| is_image_name(name) && digest.len() == 64 && digits(digest))
}

fn is_image_by_tag(image: &str) -> bool {
    let plain = |tag: &str| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    // codeloc stores the reference as the value of an AWS tag, which holds 256 characters.
    image.len() <= 256 && image.rsplit_once(':').is_some_and(|(name, tag)| is_image_name(name) && plain(tag))
}

fn is_identifier(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

struct Check<'a> {
    root: &'a Node,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn at(&mut self, position: &[Step<'_>], message: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding::new(self.root.span_of(position), message, hint));
    }

    fn at_value(&mut self, field: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.at(&[Step::Key(field)], message, hint);
    }

    fn at_key(&mut self, field: &str, message: impl Into<String>, hint: impl Into<String>) {
        let span = self.root.entry(field).map_or(0..0, |entry| entry.key_span.clone());
        self.findings.push(Finding::new(span, message, hint));
    }

    fn name(&mut self, name: &str, path: &str) {
        let folder = Path::new(path).parent().and_then(Path::file_name).map(|folder| folder.to_string_lossy());
        if let Err(NameError { message, hint }) = LocationName::new(name) {
            self.at_value("name", message, hint);
        } else if let Some(folder) = folder.filter(|folder| *folder != name) {
            let message = format!("name `{name}` does not match the folder `{folder}`");
            let hint = if LocationName::new(&folder).is_ok() {
                format!("set `name: {folder}`, or rename the folder to `{name}`")
            } else {
                format!("rename the folder to `{name}`")
            };
            self.at_value("name", message, hint);
        }
    }

    fn git_url(&mut self, url: &str) {
        if let Some((message, hint)) = url_problem(url) {
            self.at_value("git_url", message, hint);
        } else if url.len() > MAX_PATH_BYTES {
            let message = format!("`git_url` has {} bytes; the limit is {MAX_PATH_BYTES}", url.len());
            self.at_value("git_url", message, "use a shorter URL");
        }
    }

    fn reference(&mut self, branch: Option<String>, tag: Option<String>, commit: Option<String>) -> GitReference {
        let given: Vec<&str> = [("branch", &branch), ("tag", &tag), ("commit", &commit)]
            .into_iter()
            .filter_map(|(field, value)| value.is_some().then_some(field))
            .collect();
        if let [first, others @ ..] = given.as_slice() {
            for other in others {
                let message = format!("`{other}` and `{first}` are both set");
                self.at_key(other, message, "keep only one of `branch`, `tag` and `commit`");
            }
        }
        for (field, name) in [("branch", &branch), ("tag", &tag)] {
            let Some(name) = name else { continue };
            if let Some(short) = name.strip_prefix("refs/") {
                let short = short.split_once('/').map_or(short, |(_, short)| short);
                let message = format!("`{field}` must be a short name, not a full reference");
                self.at_value(field, message, format!("set `{field}: {short}`"));
            } else if !valid_reference_name(name) {
                let message = format!("`{}` is not a valid {field} name", name.escape_debug());
                self.at_value(field, message, format!("use a name that `git {field}` lists"));
            }
        }
        match (branch, tag, commit) {
            (_, _, Some(commit)) => {
                if commit.len() != 40 || !commit.chars().all(|c| c.is_ascii_hexdigit()) {
                    let hint = "use the 40 hexadecimal digits that `git rev-parse HEAD` prints";
                    self.at_value("commit", "`commit` is not a full commit hash", hint);
                }
                GitReference::Commit(commit.to_ascii_lowercase())
            }
            (_, Some(tag), None) => GitReference::Tag(tag),
            (branch, None, None) => GitReference::Branch(branch.unwrap_or_else(|| "main".to_owned())),
        }
    }

    fn code(&mut self, python_file: Option<String>, module: Option<String>) -> Option<CodePointer> {
        match (python_file, module) {
            (Some(_), Some(_)) => {
                self.at_key("module", "`module` and `python_file` are both set", "remove one of them");
                None
            }
            (Some(file), None) => {
                self.relative_path("python_file", Some(&file));
                if Path::new(&file).extension().is_none_or(|extension| extension != "py") {
                    self.at_value(
                        "python_file",
                        "`python_file` does not end in .py",
                        "set it to the path of a Python file, or use `module`",
                    );
                }
                Some(CodePointer::PythonFile(file))
            }
            (None, Some(module)) => {
                if module.len() > MAX_PATH_BYTES || !module.split('.').all(is_identifier) {
                    let hint = "use a dotted name such as my_pipeline.definitions, or set `python_file` instead";
                    self.at_value("module", "`module` is not a valid Python module name", hint);
                }
                Some(CodePointer::Module(module))
            }
            (None, None) => {
                let hint = "add `python_file: PATH/definitions.py` or `module: PACKAGE.definitions`";
                self.at_key("name", "neither `python_file` nor `module` is set", hint);
                None
            }
        }
    }

    fn relative_path(&mut self, field: &str, value: Option<&str>) {
        let Some(path) = value else { return };
        let plain = !path.starts_with('-')
            && !path.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
            && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.trim() == part);
        if !plain {
            let hint = "use a path such as pipelines/sales: no folders `.` and `..`, no `:` or `\\`, no slash at the \
                        start or the end";
            self.at_value(field, format!("`{field}` is not a path below the root of the code"), hint);
        } else if path.len() > MAX_PATH_BYTES {
            let message = format!("`{field}` has {} bytes; the limit is {MAX_PATH_BYTES}", path.len());
            self.at_value(field, message, "use a shorter path");
        }
    }

    fn attribute(&mut self, attribute: Option<&str>) {
        if attribute.is_some_and(|attribute| attribute.len() > MAX_PATH_BYTES || !is_identifier(attribute)) {
            let hint = "use the name of the variable that contains the Definitions, such as defs";
            self.at_value("attribute", "`attribute` is not a valid Python identifier", hint);
        }
    }

    fn build(&mut self, fields: &LocationFields) {
        let commands = &fields.build.commands;
        if fields.image.is_some() && !commands.is_empty() {
            let hint = "remove `build`: codeloc does not build an existing image";
            self.at_key("build", "`build.commands` cannot be combined with `image`", hint);
        }
        if commands.iter().any(|command| command.trim().is_empty() || command.len() > MAX_COMMAND_BYTES) {
            let hint = "write one command for `sh` in each entry, and longer ones into a script of the repository";
            self.at_value("build", format!("a command is empty or longer than {MAX_COMMAND_BYTES} bytes"), hint);
        }
    }

    fn dockerfile(&mut self, fields: &LocationFields) {
        if fields.dockerfile.is_none() {
            return;
        }
        self.relative_path("dockerfile", fields.dockerfile.as_deref());
        if fields.image.is_some() {
            let hint = "remove `dockerfile` or `image`: a location runs one image";
            self.at_key("dockerfile", "`dockerfile` cannot be combined with `image`", hint);
        }
        if !fields.build.commands.is_empty() {
            let hint = "remove `build`: run the commands in the Dockerfile";
            self.at_key("build", "`build.commands` cannot be combined with `dockerfile`", hint);
        }
        for (field, given) in
            [("dependencies", fields.dependencies.is_some()), ("python_version", fields.python_version.is_some())]
        {
            if given {
                let hint = format!("remove `{field}`: the Dockerfile decides it");
                self.at_key(field, format!("`{field}` cannot be combined with `dockerfile`"), hint);
            }
        }
    }

    fn image(&mut self, image: Option<&str>, with_dependencies: bool, with_policy: bool) {
        let Some(image) = image else {
            if with_policy {
                let hint = "add `image: NAME:TAG`, or remove `image_policy`";
                self.at_key("image_policy", "`image_policy` has no effect without `image`", hint);
            }
            return;
        };
        let host = image.split_once('/').map_or("", |(host, _)| host);
        if image.contains('@') {
            if !is_image_by_digest(image) {
                let hint = "use NAME@sha256:DIGEST with the 64 digits that `docker buildx imagetools inspect` prints";
                self.at_value("image", "`image` has no valid digest", hint);
            } else if with_policy {
                let hint = "remove `image_policy`, because a digest never changes, or set `image: NAME:TAG`";
                self.at_key("image_policy", "`image_policy` has no effect on an image digest", hint);
            }
        } else if !is_image_by_tag(image) {
            let hint = "use REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST, such as registry.example/team/app:1.4.0";
            self.at_value("image", "`image` has no valid tag and no digest", hint);
        } else if host.contains(['.', ':']) && reaches_metadata(host) {
            let hint = "use the public or private address of a registry";
            self.at_value("image", "`image` points to a link-local or metadata address", hint);
        }
        if with_dependencies {
            let hint = "remove `dependencies`: the image contains them";
            self.at_key("dependencies", "`dependencies` cannot be combined with `image`", hint);
        }
    }

    fn resources(&mut self, section: &str, cpu: u32, memory: u32) {
        if !memory_sizes(cpu).contains(&memory) {
            let field = self.written(section, "memory").unwrap_or("cpu");
            let choices = memory_choices(cpu);
            let message = format!("`{section}.memory` is {memory}, but with cpu {cpu} Fargate offers {choices}");
            let hint = "set `memory` to one of these sizes, or choose another `cpu`";
            self.at(&[Step::Key(section), Step::Key(field)], message, hint);
        }
    }

    /// `field`, if the file sets it in `section`.
    fn written<'f>(&self, section: &str, field: &'f str) -> Option<&'f str> {
        self.root.entry(section)?.node.entry(field).map(|_| field)
    }

    /// Accepts whole folders only: `*`, `?` and `$` have a meaning in IAM policies.
    fn access(&mut self, fields: AccessFields) -> Access {
        for (field, prefixes) in [("read", &fields.read), ("write", &fields.write)] {
            for (index, prefix) in prefixes.iter().enumerate() {
                let position = [Step::Key("access"), Step::Key(field), Step::Index(index)];
                if !is_prefix(prefix) {
                    self.at(&position, format!("`{}` is not a valid prefix", prefix.escape_debug()), prefix::HINT);
                } else if let Some(reserved) = reserved_overlap(prefix).filter(|_| !is_within(prefix, SHARED)) {
                    let message = format!("prefix `{prefix}` overlaps the reserved prefix `{reserved}`");
                    self.at(&position, message, "grant the prefix of a location, such as repos/orders");
                }
            }
            let size: usize = prefixes.iter().map(|prefix| 2 * prefix.len() + PREFIX_OVERHEAD).sum();
            if size > MAX_POLICY_CHARACTERS / 2 {
                let message = format!("`access.{field}` has {} prefixes, too many for one IAM policy", prefixes.len());
                let hint = "grant parent folders instead: an IAM policy has room for about 30 prefixes";
                self.at(&[Step::Key("access"), Step::Key(field)], message, hint);
            }
        }
        let sorted = |mut prefixes: Vec<String>| {
            prefixes.sort();
            prefixes.dedup();
            prefixes
        };
        Access { read: sorted(fields.read), write: sorted(fields.write) }
    }

    /// Accepts `repos/NAME` of this location, folders in it, and folders outside of `repos`.
    fn prefix(&mut self, prefix: Option<&str>, name: &str) {
        const HINT: &str =
            "remove `s3_prefix` to use `repos/NAME`, or use a folder outside of repos, such as teams/NAME";
        let Some(prefix) = prefix else { return };
        if !is_prefix(prefix) {
            self.at_value("s3_prefix", format!("`{}` is not a valid prefix", prefix.escape_debug()), prefix::HINT);
        } else if let Some(reserved) = reserved_overlap(prefix) {
            self.at_value("s3_prefix", format!("prefix `{prefix}` overlaps the reserved prefix `{reserved}`"), HINT);
        } else if let Some(owner) = owner(prefix).filter(|owner| *owner != name) {
            let message = format!("prefix `{prefix}` belongs to the location `{owner}`");
            self.at_value("s3_prefix", message, HINT);
        }
    }

    /// Limits of AWS on all variables and all secrets together.
    fn sizes(&mut self, environment: &BTreeMap<String, String>, secrets: &BTreeMap<String, String>) {
        // ECS counts JSON, which escapes some characters.
        let json_length = |text: &str| serde_json::Value::from(text).to_string().len() - 2;
        let variables = environment.iter().chain(secrets);
        let size: usize =
            variables.map(|(name, value)| json_length(name) + json_length(value) + VARIABLE_OVERHEAD).sum();
        if size > MAX_ENVIRONMENT_BYTES {
            let field = if environment.is_empty() { "secrets" } else { "environment" };
            let message =
                format!("`environment` and `secrets` take {size} bytes together; the limit is {MAX_ENVIRONMENT_BYTES}");
            self.at_key(field, message, "move large values to a file in the git repository or in the bucket");
        }
        let arns: usize = secrets.values().map(|arn| arn.len() + 3).sum();
        if arns > MAX_POLICY_CHARACTERS {
            let message = format!("{} secrets are too many for one IAM policy", secrets.len());
            let hint = "store several values in one secret of Secrets Manager and select each by key: ARN:KEY::";
            self.at_key("secrets", message, hint);
        }
    }

    fn scaling(&mut self, scaling: &ScalingFields) {
        let ScalingFields { min_capacity, max_capacity, .. } = *scaling;
        if min_capacity > max_capacity {
            let field = self.written("scaling", "min_capacity").unwrap_or("max_capacity");
            let message = format!("min_capacity {min_capacity} is greater than max_capacity {max_capacity}");
            let hint = format!("raise `max_capacity` to {min_capacity} or more, or lower `min_capacity`");
            self.at(&[Step::Key("scaling"), Step::Key(field)], message, hint);
        }
    }

    fn secrets(
        &mut self,
        entries: Vec<SecretFields>,
        environment: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut secrets = BTreeMap::new();
        for (index, SecretFields { name, value_from }) in entries.into_iter().enumerate() {
            let at_name = [Step::Key("secrets"), Step::Index(index), Step::Key("name")];
            self.variable(&at_name, &name);
            if environment.contains_key(&name) || secrets.contains_key(&name) {
                self.set_twice(&at_name, &name);
            }
            if !is_secret_arn(&value_from) {
                let position = [Step::Key("secrets"), Step::Index(index), Step::Key("value_from")];
                // The message omits the value, which may be the secret itself.
                let hint = "use the ARN of a secret (arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME, followed by :KEY:: to select \
                            one key) or of a parameter (arn:aws:ssm:REGION:ACCOUNT:parameter/NAME)";
                self.at(&position, "`value_from` is not the ARN of a secret or a parameter", hint);
            }
            secrets.insert(name, value_from);
        }
        secrets
    }

    fn variable(&mut self, at_name: &[Step<'_>], name: &str) {
        if !is_identifier(name) {
            let hint = "use letters, digits and underscores, not starting with a digit";
            self.at(at_name, format!("`{}` is not a valid variable name", name.escape_debug()), hint);
        } else if RESERVED_VARIABLES.contains(&name) || name.starts_with("ECS_") {
            self.at(
                at_name,
                format!("variable `{name}` is reserved: codeloc or ECS sets it"),
                "remove it, or use another name",
            );
        }
    }

    fn set_twice(&mut self, at_name: &[Step<'_>], name: &str) {
        self.at(at_name, format!("variable `{}` is set twice", name.escape_debug()), "remove one of the two");
    }

    fn environment(&mut self, entries: Vec<EnvironmentFields>) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        for (index, EnvironmentFields { name, value }) in entries.into_iter().enumerate() {
            let at_name = [Step::Key("environment"), Step::Index(index), Step::Key("name")];
            let at_value = [Step::Key("environment"), Step::Index(index), Step::Key("value")];
            self.variable(&at_name, &name);
            if value.contains('\0') {
                self.at(
                    &at_value,
                    format!("the value of `{}` contains a NUL character", name.escape_debug()),
                    "remove the character",
                );
            }
            if environment.contains_key(&name) {
                self.set_twice(&at_name, &name);
            }
            environment.insert(name, value);
        }
        environment
    }

    fn mode(&mut self, mode: Mode, when_resumed: bool) {
        if when_resumed && mode != Mode::Suspended {
            let hint = "remove `mode_when_resumed`: `codeloc suspend` and `codeloc resume` manage it";
            self.at_key("mode_when_resumed", "`mode_when_resumed` has no effect without `mode: suspended`", hint);
        }
    }

    fn tags(&mut self, tags: &BTreeMap<String, String>) {
        let plain = |text: &str| text.chars().all(|c| c.is_alphanumeric() || " +-=._:/@".contains(c));
        if tags.len() > MAX_TAGS {
            let message = format!("`tags` has {} entries; the limit is {MAX_TAGS}", tags.len());
            self.at_key("tags", message, format!("keep at most {MAX_TAGS} tags"));
            return;
        }
        for (key, value) in tags {
            let shown = key.escape_debug();
            let lower = key.to_lowercase();
            let entry = self.root.entry("tags").and_then(|tags| tags.node.entry(key));
            let key_span = entry.map_or(0..0, |entry| entry.key_span.clone());
            let fault = if lower.starts_with("aws:") || lower.starts_with("codeloc:") {
                Some((
                    format!("tag `{shown}` starts with a reserved prefix"),
                    "use a key that does not start with aws: or codeloc:",
                ))
            } else if key.is_empty() || key.chars().count() > 128 || !plain(key) {
                Some((
                    format!("`{shown}` is not a valid tag key"),
                    "use 1 to 128 letters, digits, spaces and + - = . _ : / @",
                ))
            } else if value.chars().count() > 256 || !plain(value) {
                Some((
                    format!("tag `{shown}` has an invalid value"),
                    "use at most 256 letters, digits, spaces and + - = . _ : / @",
                ))
            } else {
                None
            };
            if let Some((message, hint)) = fault {
                self.findings.push(Finding::new(key_span, message, hint));
            }
        }
    }
}
