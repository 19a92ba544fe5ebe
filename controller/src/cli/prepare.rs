//! Everything that the daemon needs before it starts. `run` starts with it and `doctor` reports its errors, so that both agree.

use std::path::Path;

use crate::api::access::Access;
use crate::api::hooks::Secret;
use crate::cost::Prices;
use crate::daemon::wiring;
use crate::settings::Settings;
use crate::status::notify::Notify;

/// Made from the settings and the files that they name.
pub struct Prepared {
    pub access: Access,
    pub secret: Secret,
    pub prices: Prices,
    pub notify: Option<Notify>,
}

/// Uses no network and writes nothing. Errors name the setting and suggest a fix.
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
        read_secret("git.tokens", path)?;
    }
    Ok(prepared)
}

fn notify(settings: &Settings) -> Result<Option<Notify>, String> {
    let notify = &settings.notify;
    if let Some(path) = &notify.secret_file {
        read_secret("notify.secret_file", path)?;
    }
    let Some(url_file) = notify.url_file.clone() else {
        if notify.secret_file.is_some() {
            return Err(
                "notify.secret_file is set without notify.url_file; set notify.url_file, or remove notify.secret_file"
                    .to_owned(),
            );
        }
        return Ok(None);
    };
    let url = read_secret("notify.url_file", &url_file)?;
    // The error does not repeat the URL, which is a secret.
    if reqwest::Url::parse(url.trim()).is_err() {
        return Err(format!(
            "notify.url_file {} does not contain a URL; write the webhook's URL into it",
            url_file.display()
        ));
    }
    Ok(Some(Notify { url_file, secret_file: notify.secret_file.clone(), severity: notify.severity }))
}

/// The text of a file that codeloc reads again for each use.
fn read_secret(setting: &str, path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("cannot read {setting} {}: {error}; make it readable for the daemon's user", path.display())
    })?;
    if text.trim().is_empty() {
        Err(format!("{setting} {} is empty; write the secret into it", path.display()))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::fixtures::valid;

    /// The error for valid settings after a change.
    fn error_after(change: impl Fn(&mut Settings, &Path)) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        std::fs::write(folder.path().join("no-url"), "hooks of chat\n").unwrap();
        let mut settings = valid();
        settings.build.work_folder = folder.path().join("work");
        change(&mut settings, folder.path());
        let error = prepare(&settings).err().unwrap_or_default();
        assert!(!settings.build.work_folder.exists(), "prepare writes nothing");
        error
    }

    #[test]
    fn valid_settings_are_prepared() {
        assert_eq!(error_after(|_, _| {}), "");
    }

    #[test]
    fn every_file_in_the_settings_must_exist_and_not_be_empty() {
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
            let error = error_after(change);
            assert!(error.contains(setting), "{setting}: {error}");
        }
    }

    #[test]
    fn settings_that_no_build_can_use_are_refused() {
        let base = error_after(|settings, _| settings.build.base_image = "::bad::".to_owned());
        assert!(base.contains("build.base_image ::bad::"), "{base}");
        let host = error_after(|settings, _| settings.build.platform = crate::settings::Platform::Host);
        assert!(host.contains("build.compile_python"), "{host}");
        let url = error_after(|settings, _| settings.build.requirements = vec!["https://example.com/x.whl".to_owned()]);
        assert!(url.contains("https://example.com/x.whl"), "{url}");
    }
}
