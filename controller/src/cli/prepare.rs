//! What the daemon has to have before it begins. `run` begins with it, `doctor` tells what stands against it: one judgement for both.

use std::path::Path;

use crate::api::access::Access;
use crate::api::hooks::Secret;
use crate::cost::Prices;
use crate::daemon::wiring;
use crate::settings::Settings;
use crate::status::notify::Notify;

/// Out of the settings and the files that they name.
pub struct Prepared {
    pub access: Access,
    pub secret: Secret,
    pub prices: Prices,
    pub notify: Option<Notify>,
}

/// Needs no network, and writes nothing. Errors name the setting and what to do.
pub fn prepare(settings: &Settings) -> Result<Prepared, String> {
    settings.check().map_err(|error| error.to_string())?;
    let prepared = Prepared {
        access: Access::new(settings.api.tokens_file.clone(), settings.listen)?,
        secret: Secret::new(settings.api.hook_secret_file.clone())?,
        prices: Prices::load(settings.cost.prices_file.as_deref())?,
        notify: notify(settings)?,
    };
    wiring::build_settings(settings).check().map_err(|error| error.to_string())?;
    for path in settings.git.tokens.values() {
        holds_something("git.tokens", path)?;
    }
    Ok(prepared)
}

fn notify(settings: &Settings) -> Result<Option<Notify>, String> {
    let notify = &settings.notify;
    if let Some(path) = &notify.secret_file {
        holds_something("notify.secret_file", path)?;
    }
    let Some(url_file) = notify.url_file.clone() else {
        if notify.secret_file.is_some() {
            return Err("notify.secret_file is set, and notify.url_file is not: set both, or neither".to_owned());
        }
        return Ok(None);
    };
    let url = holds_something("notify.url_file", &url_file)?;
    // Not repeated: it is a secret.
    if reqwest::Url::parse(url.trim()).is_err() {
        return Err(format!("notify.url_file {} holds no URL", url_file.display()));
    }
    Ok(Some(Notify { url_file, secret_file: notify.secret_file.clone(), severity: notify.severity }))
}

/// Whether a file can be read that is read again whenever it is needed.
fn holds_something(setting: &str, path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{setting} {} cannot be read: {error}", path.display()))?;
    if text.trim().is_empty() { Err(format!("{setting} {} is empty", path.display())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of good settings after this change.
    fn said(change: impl Fn(&mut Settings, &Path)) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        std::fs::write(folder.path().join("no-url"), "hooks of chat\n").unwrap();
        let mut settings = Settings::default();
        settings.source.path = Some("repos".into());
        settings.aws.bucket = "platform".to_owned();
        settings.aws.subnets = vec!["subnet-a".to_owned()];
        settings.aws.security_groups = vec!["sg-a".to_owned()];
        settings.aws.execution_role_arn = "arn:aws:iam::123456789012:role/execution".to_owned();
        settings.build.work_folder = folder.path().join("work");
        change(&mut settings, folder.path());
        let said = prepare(&settings).err().unwrap_or_default();
        assert!(!settings.build.work_folder.exists(), "it writes nothing");
        said
    }

    #[test]
    fn good_settings_are_prepared() {
        assert_eq!(said(|_, _| {}), "");
    }

    #[test]
    fn each_file_that_is_named_has_to_be_there_and_to_hold_something() {
        type Change = fn(&mut Settings, &Path);
        let cases: [(&str, Change); 13] = [
            ("api.tokens_file", |settings, folder| settings.api.tokens_file = Some(folder.join("nope"))),
            ("api.hook_secret_file", |settings, folder| settings.api.hook_secret_file = Some(folder.join("nope"))),
            ("api.hook_secret_file", |settings, folder| settings.api.hook_secret_file = Some(folder.join("empty"))),
            ("cost.prices_file", |settings, folder| settings.cost.prices_file = Some(folder.join("nope"))),
            ("cost.prices_file", |settings, folder| settings.cost.prices_file = Some(folder.join("empty"))),
            ("notify.url_file", |settings, folder| settings.notify.url_file = Some(folder.join("nope"))),
            ("notify.url_file", |settings, folder| settings.notify.url_file = Some(folder.join("empty"))),
            ("notify.url_file", |settings, folder| settings.notify.url_file = Some(folder.join("no-url"))),
            ("notify.secret_file", |settings, folder| settings.notify.secret_file = Some(folder.join("nope"))),
            ("notify.secret_file", |settings, folder| settings.notify.secret_file = Some(folder.join("no-url"))),
            ("git.tokens", |settings, folder| {
                settings.git.tokens.insert("https://github.com/".to_owned(), folder.join("nope"));
            }),
            ("build.constraints", |settings, folder| settings.build.constraints = Some(folder.join("nope"))),
            ("listen", |settings, _| settings.listen = "0.0.0.0:8080".parse().unwrap()),
        ];
        for (setting, change) in cases {
            let said = said(change);
            assert!(said.contains(setting), "{setting}: {said}");
        }
    }

    #[test]
    fn what_no_build_could_use_is_refused() {
        let base = said(|settings, _| settings.build.base_image = "::bad::".to_owned());
        assert!(base.contains("base image ::bad::"), "{base}");
        let host = said(|settings, _| settings.build.platform = crate::settings::Platform::Host);
        assert!(host.contains("build.compile_python"), "{host}");
        let url = said(|settings, _| settings.build.requirements = vec!["https://example.com/x.whl".to_owned()]);
        assert!(url.contains("https://example.com/x.whl"), "{url}");
    }
}
