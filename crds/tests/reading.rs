//! Reading configs, and the errors that an author sees.

use codeloc_crds::{Architecture, CodePointer, ConfigError, GitReference, ImagePolicy, parse};
use insta::assert_snapshot;

const PATH: &str = "repos/my-pipeline/config.yml";

const MINIMAL: &str = "\
name: my-pipeline
git_url: https://github.com/user/repo.git
python_file: my_pipeline/definitions.py
";

const EXAMPLE: &str = "\
name: my-pipeline
git_url: https://github.com/user/repo.git
branch: main
python_file: my_pipeline/definitions.py
resources: {cpu: 256, memory: 512, architecture: ARM64}
s3_prefix: repos/my-pipeline
environment: [{name: CUSTOM_VAR, value: custom_value}]
scaling: {min_capacity: 1, max_capacity: 2, cpu_threshold: 70, memory_threshold: 80}
";

fn error(text: &str) -> ConfigError {
    parse(PATH, text).expect_err("the text contains a mistake")
}

/// The error for the minimal config with additional lines.
fn error_with(lines: &str) -> ConfigError {
    error(&format!("{MINIMAL}{lines}\n"))
}

fn plain_error_with(lines: &str) -> String {
    error_with(lines).render(false)
}

#[test]
fn the_example_is_valid() {
    let location = parse(PATH, EXAMPLE).unwrap();
    assert_eq!(location.name.as_str(), "my-pipeline");
    assert_eq!(location.code, CodePointer::PythonFile("my_pipeline/definitions.py".to_owned()));
    assert_eq!(location.environment["CUSTOM_VAR"], "custom_value");
}

#[test]
fn the_example_contains_the_defaults() {
    let minimal = parse(PATH, MINIMAL).unwrap();
    let mut example = parse(PATH, EXAMPLE).unwrap();
    example.environment.clear();
    assert_eq!(minimal, example);
    assert_eq!(minimal.reference, GitReference::Branch("main".to_owned()));
    assert_eq!(minimal.resources.architecture, Architecture::Arm64);
    assert_eq!((minimal.health.start_seconds, minimal.health.load_seconds), (120, 120));
}

#[test]
fn every_supported_field_is_read() {
    let text = "\
name: my-pipeline
git_url: git@github.com:user/repo.git
commit: \"0123456789ABCDEF0123456789abcdef01234567\"
subdirectory: pipelines/sales
module: sales.definitions
attribute: defs
python_version: \"3.12\"
dependencies: requirements.txt
build: {commands: [make manifest]}
resources: {cpu: 1024, memory: 8192, architecture: X86_64}
run_resources: {cpu: 4096, memory: 16384}
s3_prefix: sales/v1
environment:
  - {name: PORT, value: \"8080\"}
secrets:
  - {name: TOKEN, value_from: \"arn:aws:ssm:eu-central-1:123456789012:parameter/sales/token\"}
access: {read: [repos/orders, repos/billing, repos/orders], write: [repos/shared/exports]}
scaling: {max_capacity: 5}
health: {start_seconds: 300}
tags: {team: sales}
adopt: true
mode: detect
deletion: {protect: true, data: retain}
";
    insta::assert_json_snapshot!(parse(PATH, text).unwrap(), @r#"
    {
      "name": "my-pipeline",
      "git_url": "git@github.com:user/repo.git",
      "reference": {
        "commit": "0123456789abcdef0123456789abcdef01234567"
      },
      "subdirectory": "pipelines/sales",
      "code": {
        "module": "sales.definitions"
      },
      "attribute": "defs",
      "python_version": "3.12",
      "image": null,
      "image_policy": "pinned",
      "dependencies": "requirements.txt",
      "dockerfile": null,
      "build_commands": [
        "make manifest"
      ],
      "resources": {
        "cpu": 1024,
        "memory": 8192,
        "architecture": "X86_64"
      },
      "run_resources": {
        "cpu": 4096,
        "memory": 16384
      },
      "s3_prefix": "sales/v1",
      "environment": {
        "PORT": "8080"
      },
      "secrets": {
        "TOKEN": "arn:aws:ssm:eu-central-1:123456789012:parameter/sales/token"
      },
      "access": {
        "read": [
          "repos/billing",
          "repos/orders"
        ],
        "write": [
          "repos/shared/exports"
        ]
      },
      "scaling": {
        "min_capacity": 1,
        "max_capacity": 5,
        "cpu_threshold": 70,
        "memory_threshold": 80
      },
      "health": {
        "start_seconds": 300,
        "load_seconds": 120
      },
      "tags": {
        "team": "sales"
      },
      "adopt": true,
      "mode": "detect",
      "protect": true
    }
    "#);
}

#[test]
fn reports_a_misspelled_field() {
    assert_snapshot!(plain_error_with("resources:\n  memroy: 512"), @r"
     error: unknown field `resources.memroy`
      ╭─[repos/my-pipeline/config.yml:5:3]
    4 │ resources:
    5 │   memroy: 512
      ·   ^^^^^^
      ╰────
     hint: did you mean `memory`?
    ");
    assert_snapshot!(plain_error_with("python-version: \"3.12\""), @r#"
     error: unknown field `python-version`
      ╭─[repos/my-pipeline/config.yml:4:1]
    3 │ python_file: my_pipeline/definitions.py
    4 │ python-version: "3.12"
      · ^^^^^^^^^^^^^^
      ╰────
     hint: did you mean `python_version`?
    "#);
    assert_snapshot!(plain_error_with("replicas: 2"), @r"
     error: unknown field `replicas`
      ╭─[repos/my-pipeline/config.yml:4:1]
    3 │ python_file: my_pipeline/definitions.py
    4 │ replicas: 2
      · ^^^^^^^^
      ╰────
     hint: known fields here: name, git_url, branch, tag, commit, subdirectory, python_file, module, attribute, python_version, image, image_policy,
     dependencies, dockerfile, build, resources, s3_prefix, environment, secrets, run_resources, access, health, scaling, mode, mode_when_resumed, deletion,
     load_balancer, spot, tags, adopt
    ");
}

#[test]
fn does_not_report_a_misspelled_field_as_missing() {
    let error = error(&MINIMAL.replace("git_url", "git_ulr"));
    assert_eq!((error.problems().len(), error.line()), (1, 2), "{error}");
}

#[test]
fn rejects_fields_that_conflict_with_a_dockerfile() {
    let shown = |more: &str| plain_error_with(&format!("dockerfile: docker/Dockerfile\n{more}"));
    assert!(shown("dependencies: requirements.txt").contains("`dependencies` cannot be combined with `dockerfile`"));
    assert!(shown("python_version: \"3.12\"").contains("`python_version` cannot be combined with `dockerfile`"));
    assert!(shown("image: registry.example/team/app:1").contains("`dockerfile` cannot be combined with `image`"));
    assert!(shown("build: {commands: [make]}").contains("`build.commands` cannot be combined with `dockerfile`"));
    assert!(plain_error_with("dockerfile: ../Dockerfile").contains("dockerfile"));
}

#[test]
fn rejects_commands_that_codeloc_cannot_run() {
    let of_image = plain_error_with("image: registry.example/team/app:1\nbuild: {commands: [make]}");
    assert!(of_image.contains("`build.commands` cannot be combined with `image`"), "{of_image}");
    let empty = plain_error_with("build: {commands: [make, ' ']}");
    assert!(empty.contains("a command is empty or longer than 4096 bytes"), "{empty}");
}

#[test]
fn reports_memory_that_fargate_does_not_offer() {
    assert_snapshot!(plain_error_with("resources: {cpu: 256, memory: 8192}"), @r"
     error: `resources.memory` is 8192, but with cpu 256 Fargate offers 512, 1024 or 2048 MiB
      ╭─[repos/my-pipeline/config.yml:4:31]
    3 │ python_file: my_pipeline/definitions.py
    4 │ resources: {cpu: 256, memory: 8192}
      ·                               ^^^^
      ╰────
     hint: set `memory` to one of these sizes, or choose another `cpu`
    ");
    assert_snapshot!(plain_error_with("resources: {cpu: 4096}"), @r"
     error: `resources.memory` is 512, but with cpu 4096 Fargate offers 8192 to 30720 MiB in steps of 1024
      ╭─[repos/my-pipeline/config.yml:4:18]
    3 │ python_file: my_pipeline/definitions.py
    4 │ resources: {cpu: 4096}
      ·                  ^^^^
      ╰────
     hint: set `memory` to one of these sizes, or choose another `cpu`
    ");
    assert_snapshot!(plain_error_with("resources: {cpu: 300}"), @r"
     error: `resources.cpu` is 300, not one of 256, 512, 1024, 2048, 4096, 8192, 16384
      ╭─[repos/my-pipeline/config.yml:4:18]
    3 │ python_file: my_pipeline/definitions.py
    4 │ resources: {cpu: 300}
      ·                  ^^^
      ╰────
     hint: use one of these values
    ");
}

#[test]
fn reports_a_misspelled_mode() {
    assert_snapshot!(plain_error_with("mode: enforced"), @r"
     error: `mode` is enforced, not one of enforce, detect, suspended
      ╭─[repos/my-pipeline/config.yml:4:7]
    3 │ python_file: my_pipeline/definitions.py
    4 │ mode: enforced
      ·       ^^^^^^^^
      ╰────
     hint: did you mean `enforce`?
    ");
}

#[test]
fn reports_a_duplicate_key() {
    assert_snapshot!(plain_error_with("branch: main\nbranch: other"), @r"
     error: `branch` is set twice
      ╭─[repos/my-pipeline/config.yml:5:1]
    4 │ branch: main
    5 │ branch: other
      · ^^^^^^
      ╰────
     hint: remove one of the two
    ");
}

#[test]
fn reports_a_name_with_a_dot() {
    assert_snapshot!(error(&MINIMAL.replace("my-pipeline", "my.pipeline")).render(false), @r"
     error: `my.pipeline` is not a valid name
      ╭─[repos/my-pipeline/config.yml:1:7]
    1 │ name: my.pipeline
      ·       ^^^^^^^^^^^
    2 │ git_url: https://github.com/user/repo.git
      ╰────
     hint: use lowercase letters, digits and single hyphens, starting with a letter
    ");
}

#[test]
fn reports_a_name_that_does_not_match_the_folder() {
    assert_snapshot!(parse("repos/sales/config.yml", MINIMAL).unwrap_err().render(false), @r"
     error: name `my-pipeline` does not match the folder `sales`
      ╭─[repos/sales/config.yml:1:7]
    1 │ name: my-pipeline
      ·       ^^^^^^^^^^^
    2 │ git_url: https://github.com/user/repo.git
      ╰────
     hint: set `name: sales`, or rename the folder to `my-pipeline`
    ");
}

#[test]
fn suggests_no_name_that_is_invalid() {
    let error = parse("repos/My_Pipeline/config.yml", MINIMAL).unwrap_err();
    assert_eq!(error.hint(), "rename the folder to `my-pipeline`");
}

#[test]
fn reports_an_unsupported_field() {
    assert_snapshot!(plain_error_with("load_balancer:\n  port: 80\nspot: true"), @r"
     error: `load_balancer` is not supported yet
      ╭─[repos/my-pipeline/config.yml:4:1]
    3 │ python_file: my_pipeline/definitions.py
    4 │ load_balancer:
      · ^^^^^^^^^^^^^
    5 │   port: 80
      ╰────
     hint: remove `load_balancer`
     error: `spot` is not supported yet
      ╭─[repos/my-pipeline/config.yml:6:1]
    5 │   port: 80
    6 │ spot: true
      · ^^^^
      ╰────
     hint: remove `spot`
    ");
}

#[test]
fn accepts_only_arns_of_secrets_and_never_shows_values() {
    for value in [
        "hunter2",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-*",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders:password",
        "arn:aws:ssm:eu-central-1:123456789012:parameter/",
        "arn:aws:s3:::bucket/hunter2",
    ] {
        let error = error_with(&format!("secrets:\n  - {{name: TOKEN, value_from: '{value}'}}")).to_string();
        assert!(error.contains("`value_from` is not the ARN"), "{value}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for value in [
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-a1b2c3",
        "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:team/orders-a1b2c3:password::",
        "arn:aws:ssm:eu-central-1:123456789012:parameter/orders/password",
    ] {
        let text = format!("{MINIMAL}secrets:\n  - {{name: TOKEN, value_from: '{value}'}}\n");
        assert_eq!(parse(PATH, &text).unwrap().secrets["TOKEN"], value);
    }
    let twice = "environment: [{name: TOKEN, value: a}]\n\
                 secrets: [{name: TOKEN, value_from: 'arn:aws:ssm:eu-central-1:123456789012:parameter/a'}]";
    assert!(error_with(twice).to_string().contains("set twice"));
}

#[test]
fn grants_accept_only_whole_folders() {
    for prefix in ["repos/*", "repos/orders/", "../orders", "repos/system", "repos", "${aws:username}"] {
        let error = error_with(&format!("access: {{read: ['{prefix}']}}"));
        assert_eq!((error.problems().len(), error.line()), (1, 4), "{prefix}: {error}");
    }
}

#[test]
fn checks_cpu_and_memory_of_runs() {
    let error = error_with("run_resources: {cpu: 256, memory: 4096}").to_string();
    assert!(error.contains("`run_resources.memory` is 4096, but with cpu 256 Fargate offers"), "{error}");
}

#[test]
fn never_shows_credentials_of_a_url() {
    let error = error(&MINIMAL.replace("https://", "https://me:hunter2@"));
    assert_snapshot!(error.render(false), @r"
     error: `git_url` contains credentials
      ╭─[repos/my-pipeline/config.yml:2:10]
    1 │ name: my-pipeline
    2 │ git_url: https://**********@github.com/user/repo.git
      ·          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    3 │ python_file: my_pipeline/definitions.py
      ╰────
     hint: remove the part before @ and revoke it if you committed it; configure tokens in the setting `git.tokens`
    ");
    assert!(!format!("{error} {error:?} {}", error.render(true)).contains("hunter2"));
}

#[test]
fn never_shows_credentials_in_an_invalid_url() {
    for url in [
        "me:hunter2@github.com:user/repo.git",
        "me:hunter2@github.com/user/repo.git",
        "https:/me:hunter2@github.com/user/repo.git",
        "\"me:hunter2@github.com/user/repo.git\"",
        "https://github.com/user/repo.git?access_token=hunter2",
        "github.com/user/repo.git?access_token=hunter2",
        "ssh://me:hunter2@github.com/user/repo.git",
    ] {
        let text = MINIMAL.replace("https://github.com/user/repo.git", url);
        // The excerpt of another mistake can contain the line too.
        for text in [text.clone(), format!("{text}banch: x"), text.replace("name:", "nam:")] {
            let error = error(&text);
            let shown = format!("{error} {error:?} {}", error.render(false));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

#[test]
fn reports_invalid_yaml() {
    assert_snapshot!(plain_error_with("environment: [{name: A, value: b}"), @r"
     error: invalid YAML: unclosed bracket '['
      ╭─[repos/my-pipeline/config.yml:4:14]
    3 │ python_file: my_pipeline/definitions.py
    4 │ environment: [{name: A, value: b}
      ·              ^
      ╰────
     hint: check indentation, quotes and brackets on this line and the line before
    ");
    assert_snapshot!(plain_error_with("  branch: main"), @r"
     error: invalid YAML: mapping values are not allowed in this context
      ╭─[repos/my-pipeline/config.yml:4:9]
    3 │ python_file: my_pipeline/definitions.py
    4 │   branch: main
      ·         ^
      ╰────
     hint: check indentation, quotes and brackets on this line and the line before
    ");
    assert_snapshot!(plain_error_with("tags: {a: *nowhere}"), @r"
     error: invalid YAML: reference to unknown value
      ╭─[repos/my-pipeline/config.yml:4:11]
    3 │ python_file: my_pipeline/definitions.py
    4 │ tags: {a: *nowhere}
      ·           ^
      ╰────
     hint: check indentation, quotes and brackets on this line and the line before
    ");
    assert_snapshot!(plain_error_with("---\nname: other"), @r"
     error: the file contains a second YAML document
      ╭─[repos/my-pipeline/config.yml:5:1]
    4 │ ---
    5 │ name: other
      · ^
      ╰────
     hint: write one config per file and remove `---`
    ");
    assert_snapshot!(error("").render(false), @r"
    error: the config must be a map of fields, not empty
     ╭─[repos/my-pipeline/config.yml:1:1]
     ╰────
    hint: write one `field: value` per line
    ");
    assert_snapshot!(error("just words").render(false), @r"
     error: the config must be a map of fields, not text
      ╭─[repos/my-pipeline/config.yml:1:1]
    1 │ just words
      · ^^^^^^^^^^
      ╰────
     hint: write one `field: value` per line
    ");
}

#[test]
fn a_number_of_the_wrong_field_gets_the_valid_values() {
    // A client that writes JSON loses the last digit of 3.10.
    let hint = error_with("python_version: 3.1").hint().to_owned();
    assert_eq!(hint, r#"use one of these values, with quotes: "3.10", "3.11", "3.12", "3.13", "3.14""#);
    assert_eq!(error_with("tag: 1.10").hint(), r#"quote it: "1.10""#);
}

#[test]
fn long_comments_are_valid() {
    let comment = "  # one line\n".repeat(500);
    let location = parse(PATH, &format!("{comment}{MINIMAL}resources:\n{comment}  memory: 1024\n{comment}")).unwrap();
    assert_eq!(location.resources.memory, 1024);
}

#[test]
fn reports_values_of_the_wrong_type() {
    assert_snapshot!(plain_error_with("environment: [{name: PORT, value: 8080}, {name: DEBUG, value: true}]"), @r#"
     error: `environment[0].value` must be text, not a number
      ╭─[repos/my-pipeline/config.yml:4:35]
    3 │ python_file: my_pipeline/definitions.py
    4 │ environment: [{name: PORT, value: 8080}, {name: DEBUG, value: true}]
      ·                                   ^^^^
      ╰────
     hint: quote it: "8080"
     error: `environment[1].value` must be text, not a boolean
      ╭─[repos/my-pipeline/config.yml:4:63]
    3 │ python_file: my_pipeline/definitions.py
    4 │ environment: [{name: PORT, value: 8080}, {name: DEBUG, value: true}]
      ·                                                               ^^^^
      ╰────
     hint: quote it: "true"
    "#);
    assert_snapshot!(plain_error_with("python_version: 3.10"), @r#"
     error: `python_version` must be text, not a number
      ╭─[repos/my-pipeline/config.yml:4:17]
    3 │ python_file: my_pipeline/definitions.py
    4 │ python_version: 3.10
      ·                 ^^^^
      ╰────
     hint: quote it: "3.10"
    "#);
    assert_snapshot!(plain_error_with("resources: {cpu: \"256\"}\nadopt: yes"), @r#"
     error: `resources.cpu` must be a whole number, not text
      ╭─[repos/my-pipeline/config.yml:4:18]
    3 │ python_file: my_pipeline/definitions.py
    4 │ resources: {cpu: "256"}
      ·                  ^^^^^
    5 │ adopt: yes
      ╰────
     hint: remove the quotes: 256
     error: `adopt` must be true or false
      ╭─[repos/my-pipeline/config.yml:5:8]
    4 │ resources: {cpu: "256"}
    5 │ adopt: yes
      ·        ^^^
      ╰────
     hint: use true
    "#);
    assert_snapshot!(plain_error_with("branch:"), @r"
     error: `branch` has no value
      ╭─[repos/my-pipeline/config.yml:4:1]
    3 │ python_file: my_pipeline/definitions.py
    4 │ branch:
      · ^^^^^^
      ╰────
     hint: set a value, or remove the line
    ");
    assert_snapshot!(plain_error_with("environment: {A: b}"), @r"
     error: `environment` must be a list, not a map of fields
      ╭─[repos/my-pipeline/config.yml:4:14]
    3 │ python_file: my_pipeline/definitions.py
    4 │ environment: {A: b}
      ·              ^
      ╰────
     hint: write one item per line, each after `- `
    ");
}

#[test]
fn shows_all_problems_in_the_order_of_lines() {
    let text = "\
name: shared
git_url: http://github.com/user/repo.git
branch: refs/heads/main
tag: v1
image: registry/app@latest
dependencies: ../requirements.txt
scaling: {min_capacity: 3}
environment:
  - {name: DAGSTER_GRPC_PORT, value: \"1\"}
  - {name: 1X, value: a}
  - {name: A, value: a}
  - {name: A, value: b}
tags: {\"aws:x\": sales}
s3_prefix: repos/*/x
";
    assert_snapshot!(parse("repos/shared/config.yml", text).unwrap_err().render(false), @r#"
     error: neither `python_file` nor `module` is set
      ╭─[repos/shared/config.yml:1:1]
    1 │ name: shared
      · ^^^^
    2 │ git_url: http://github.com/user/repo.git
      ╰────
     hint: add `python_file: PATH/definitions.py` or `module: PACKAGE.definitions`
     error: the name `shared` is reserved for the platform
      ╭─[repos/shared/config.yml:1:7]
    1 │ name: shared
      ·       ^^^^^^
    2 │ git_url: http://github.com/user/repo.git
      ╰────
     hint: use another name
     error: `git_url` uses an unencrypted protocol
      ╭─[repos/shared/config.yml:2:10]
    1 │ name: shared
    2 │ git_url: http://github.com/user/repo.git
      ·          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    3 │ branch: refs/heads/main
      ╰────
     hint: use https:// or ssh://
     error: `branch` must be a short name, not a full reference
      ╭─[repos/shared/config.yml:3:9]
    2 │ git_url: http://github.com/user/repo.git
    3 │ branch: refs/heads/main
      ·         ^^^^^^^^^^^^^^^
    4 │ tag: v1
      ╰────
     hint: set `branch: main`
     error: `tag` and `branch` are both set
      ╭─[repos/shared/config.yml:4:1]
    3 │ branch: refs/heads/main
    4 │ tag: v1
      · ^^^
    5 │ image: registry/app@latest
      ╰────
     hint: keep only one of `branch`, `tag` and `commit`
     error: `image` has no valid digest
      ╭─[repos/shared/config.yml:5:8]
    4 │ tag: v1
    5 │ image: registry/app@latest
      ·        ^^^^^^^^^^^^^^^^^^^
    6 │ dependencies: ../requirements.txt
      ╰────
     hint: use NAME@sha256:DIGEST with the 64 digits that `docker buildx imagetools inspect` prints
     error: `dependencies` cannot be combined with `image`
      ╭─[repos/shared/config.yml:6:1]
    5 │ image: registry/app@latest
    6 │ dependencies: ../requirements.txt
      · ^^^^^^^^^^^^
    7 │ scaling: {min_capacity: 3}
      ╰────
     hint: remove `dependencies`: the image contains them
     error: `dependencies` is not a path below the root of the code
      ╭─[repos/shared/config.yml:6:15]
    5 │ image: registry/app@latest
    6 │ dependencies: ../requirements.txt
      ·               ^^^^^^^^^^^^^^^^^^^
    7 │ scaling: {min_capacity: 3}
      ╰────
     hint: use a path such as pipelines/sales: no folders `.` and `..`, no `:` or `\`, no slash at the start or the end
     error: min_capacity 3 is greater than max_capacity 2
      ╭─[repos/shared/config.yml:7:25]
    6 │ dependencies: ../requirements.txt
    7 │ scaling: {min_capacity: 3}
      ·                         ^
    8 │ environment:
      ╰────
     hint: raise `max_capacity` to 3 or more, or lower `min_capacity`
     error: variable `DAGSTER_GRPC_PORT` is reserved: codeloc or ECS sets it
       ╭─[repos/shared/config.yml:9:12]
     8 │ environment:
     9 │   - {name: DAGSTER_GRPC_PORT, value: "1"}
       ·            ^^^^^^^^^^^^^^^^^
    10 │   - {name: 1X, value: a}
       ╰────
     hint: remove it, or use another name
     error: `1X` is not a valid variable name
       ╭─[repos/shared/config.yml:10:12]
     9 │   - {name: DAGSTER_GRPC_PORT, value: "1"}
    10 │   - {name: 1X, value: a}
       ·            ^^
    11 │   - {name: A, value: a}
       ╰────
     hint: use letters, digits and underscores, not starting with a digit
     error: variable `A` is set twice
       ╭─[repos/shared/config.yml:12:12]
    11 │   - {name: A, value: a}
    12 │   - {name: A, value: b}
       ·            ^
    13 │ tags: {"aws:x": sales}
       ╰────
     hint: remove one of the two
     error: tag `aws:x` starts with a reserved prefix
       ╭─[repos/shared/config.yml:13:8]
    12 │   - {name: A, value: b}
    13 │ tags: {"aws:x": sales}
       ·        ^^^^^^^
    14 │ s3_prefix: repos/*/x
       ╰────
     hint: use a key that does not start with aws: or codeloc:
     error: `repos/*/x` is not a valid prefix
       ╭─[repos/shared/config.yml:14:12]
    13 │ tags: {"aws:x": sales}
    14 │ s3_prefix: repos/*/x
       ·            ^^^^^^^^^
       ╰────
     hint: use folder names of letters, digits and -_.= separated by /, without a leading or trailing slash
    "#);
}

#[test]
fn reports_a_missing_field() {
    assert_snapshot!(error("name: my-pipeline\nmodule: a\n").render(false), @r"
     error: the config has no `git_url`
      ╭─[repos/my-pipeline/config.yml:1:1]
    1 │ name: my-pipeline
      · ^^^^
    2 │ module: a
      ╰────
     hint: add `git_url: https://github.com/user/repo.git`
    ");
    assert_snapshot!(error("name: my-pipeline\ngit_url: /srv/x\n").render(false), @r"
     error: neither `python_file` nor `module` is set
      ╭─[repos/my-pipeline/config.yml:1:1]
    1 │ name: my-pipeline
      · ^^^^
    2 │ git_url: /srv/x
      ╰────
     hint: add `python_file: PATH/definitions.py` or `module: PACKAGE.definitions`
    ");
    assert_snapshot!(plain_error_with("module: a"), @r"
     error: `module` and `python_file` are both set
      ╭─[repos/my-pipeline/config.yml:4:1]
    3 │ python_file: my_pipeline/definitions.py
    4 │ module: a
      · ^^^^^^
      ╰────
     hint: remove one of them
    ");
}

#[test]
fn displays_position_and_message_on_one_line() {
    let error = error_with("s3_prefix: repos/shared/x\nscaling: {min_capacity: 0}");
    assert_snapshot!(error, @r"repos/my-pipeline/config.yml:5:25: `scaling.min_capacity` is 0, not 1 to 5000");
    assert_eq!((error.path(), error.line(), error.column()), (PATH, 5, 25));
}

#[test]
fn colored_output_has_the_same_text() {
    let error = error_with("banch: main");
    let colored = error.render(true);
    assert!(colored.contains("\u{1b}["));
    let mut stripped = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        stripped.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    stripped.push_str(rest);
    assert_eq!(stripped, error.render(false));
}

#[test]
fn rejects_each_invalid_value_at_its_line() {
    let invalid = [
        "branch: -x",
        "branch: a..b",
        "tag: \"v 1\"",
        "commit: abc",
        "commit: 1234567890123456789012345678901234567890",
        "subdirectory: /abs",
        "subdirectory: a/../b",
        "subdirectory: a/",
        "dependencies: ..",
        "attribute: a.b",
        "python_version: \"3.9\"",
        "python_version: \"3\"",
        "image: app@sha256:abc",
        "image: app",
        "image: registry.example:5000/app",
        "image: \"registry.example/app:\"",
        "image: registry.example/app:-1",
        "image: registry.example/a b:1",
        "image: 169.254.169.254/app:1",
        "image_policy: follow",
        "image_policy: never",
        "mode: enforced",
        "s3_prefix: /a",
        "s3_prefix: a/",
        "s3_prefix: a/../b",
        "s3_prefix: repos",
        "s3_prefix: repos/shared",
        "s3_prefix: \"a${aws:username}\"",
        "s3_prefix: \"\"",
        "environment: [{name: ECS_ENABLE, value: a}]",
        "environment: [{name: A}]",
        "environment: [{name: A, value: \"\\0\"}]",
        "scaling: {cpu_threshold: 0}",
        "scaling: {memory_threshold: 101}",
        "scaling: {min_capacity: -1}",
        "scaling: {min_capacity: 1.5}",
        "health: {start_seconds: 301}",
        "tags: {\"codeloc:x\": sales}",
        "tags: {\"\": sales}",
        "tags: {a: \"é€*\"}",
        "tags: {a: 1}",
        "spot: false",
        "adopt: yes",
        "branch: no",
    ];
    for line in invalid {
        let error = error_with(line);
        assert_eq!(error.line(), 4, "{line}: {error}");
        assert!(!error.hint().is_empty(), "{line}");
    }
}

#[test]
fn accepts_images_with_digest_or_tag() {
    let read = |line: &str| parse(PATH, &format!("{MINIMAL}{line}\n")).unwrap();
    let tag = read("image: registry.example:5000/team/app:1.4.0\nimage_policy: follow");
    assert_eq!(tag.image_tag(), Some("registry.example:5000/team/app:1.4.0"));
    assert_eq!(tag.image_policy, ImagePolicy::Follow);
    let digest = read(&format!("image: app:1.4.0@sha256:{:064x}", 1));
    assert_eq!((digest.image_tag(), digest.image_policy), (None, ImagePolicy::Pinned));
}

#[test]
fn rejects_an_image_policy_for_a_digest() {
    let line = format!("image: app@sha256:{:064x}\nimage_policy: follow", 1);
    let error = error_with(&line);
    assert_eq!((error.line(), error.hint().contains("a digest never changes")), (5, true), "{error}");
}

#[test]
fn rejects_invalid_names() {
    for name in ["-a", "a-", "a--b", "1a", "A", "a_b", "temp", "system", "é", &"a".repeat(41)] {
        let text = MINIMAL.replace("my-pipeline", name);
        let error = parse(&format!("repos/{name}/config.yml"), &text).expect_err(name);
        assert_eq!(error.line(), 1, "{name}");
    }
    let longest = "a".repeat(40);
    assert!(parse(&format!("repos/{longest}/config.yml"), &MINIMAL.replace("my-pipeline", &longest)).is_ok());
}

#[test]
fn rejects_invalid_python_files_and_modules() {
    for pointer in [
        "python_file: definitions.txt",
        "python_file: ../a.py",
        "python_file: /a.py",
        "module: a-b",
        "module: a..b",
        "module: \"\"",
    ] {
        let text = MINIMAL.replace("python_file: my_pipeline/definitions.py", pointer);
        assert_eq!(error(&text).line(), 3, "{pointer}");
    }
}

#[test]
fn resolves_anchors() {
    let text = format!("{MINIMAL}environment:\n  - {{name: A, value: &shared one}}\n  - {{name: B, value: *shared}}\n");
    assert_eq!(parse(PATH, &text).unwrap().environment["B"], "one");
}

#[test]
fn accepts_a_byte_order_mark_and_windows_line_ends() {
    let text = format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n"));
    assert!(parse(PATH, &text).is_ok());
    let wrong = format!("\u{feff}{}banch: x\r\n", MINIMAL.replace('\n', "\r\n"));
    let error = parse(PATH, &wrong).unwrap_err();
    assert_eq!((error.line(), error.column()), (4, 1));
}

#[test]
fn rejects_deep_nesting_without_a_crash() {
    let error = error_with(&format!("mode: {}", "[".repeat(100_000)));
    assert_eq!(error.line(), 4);
}
