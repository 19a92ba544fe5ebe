//! Changes the mode in the text of a config, for `codeloc suspend` and `codeloc resume`.
//!
//! The config itself stores the mode to restore, so that it survives restarts and readers can see it.

use serde_json::{Map, Value, json};

use crate::edit::{EditError, edit, read};

const MODE: &str = "mode";
const BEFORE: &str = "mode_when_resumed";

/// Suspends the location and stores its current mode. Does nothing if the location is already suspended.
pub fn suspend(text: &str) -> Result<String, EditError> {
    let config = read(text)?;
    if is_suspended(&config) {
        return Ok(text.to_owned());
    }
    let before = config.get(MODE).cloned().unwrap_or(Value::Null);
    edit(text, &fields([(MODE, json!("suspended")), (BEFORE, before)]))
}

/// Restores the mode from before the location was suspended. Does nothing if the location is not suspended.
pub fn resume(text: &str) -> Result<String, EditError> {
    let config = read(text)?;
    if !is_suspended(&config) {
        return Ok(text.to_owned());
    }
    let before = config.get(BEFORE).cloned().unwrap_or(Value::Null);
    edit(text, &fields([(MODE, before), (BEFORE, Value::Null)]))
}

fn is_suspended(config: &Map<String, Value>) -> bool {
    config.get(MODE).is_some_and(|mode| mode == "suspended")
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# Ours.\nname: orders\ngit_url: https://example.com/orders.git\nmodule: orders\n";

    fn with_mode(mode: &str) -> String {
        format!("{CONFIG}mode: {mode}\nbranch: next # for now\n")
    }

    #[test]
    fn resume_restores_every_mode() {
        let mut configs: Vec<String> =
            ["enforce", "detect", "\"detect\"", "'enforce'", "detect # until May"].map(with_mode).into();
        configs.extend([CONFIG.to_owned(), CONFIG.trim_end().to_owned()]);
        configs.extend(configs.clone().iter().map(|config| config.replace('\n', "\r\n")));
        for before in configs {
            let suspended = suspend(&before).unwrap();
            let parsed = crate::parse("orders/config.yml", &suspended).unwrap();
            assert_eq!(parsed.mode, crate::Mode::Suspended, "{suspended}");
            let resumed = resume(&suspended).unwrap();
            assert_eq!(resumed, before, "{suspended}");
        }
    }

    #[test]
    fn suspend_writes_the_mode_to_restore() {
        let suspended = suspend(&with_mode("detect")).unwrap();
        assert_eq!(suspended, format!("{CONFIG}mode: suspended\nbranch: next # for now\nmode_when_resumed: detect\n"));
    }

    #[test]
    fn suspending_twice_or_resuming_an_active_location_changes_nothing() {
        let suspended = suspend(&with_mode("detect")).unwrap();
        assert_eq!(suspend(&suspended).unwrap(), suspended);
        for running in [CONFIG.to_owned(), with_mode("enforce"), with_mode("detect")] {
            assert_eq!(resume(&running).unwrap(), running);
        }
    }

    #[test]
    fn resume_enforces_a_config_that_was_suspended_by_hand() {
        assert_eq!(resume(&with_mode("suspended")).unwrap(), with_mode("x").replace("mode: x\n", ""));
    }

    #[test]
    fn rejects_a_mode_to_restore_on_an_active_location() {
        for (mode, before) in [("enforce", "detect"), ("detect", "enforce"), ("suspended", "suspended")] {
            let text = format!("{}mode_when_resumed: {before}\n", with_mode(mode));
            let error = crate::parse("orders/config.yml", &text).unwrap_err().render(false);
            assert!(error.contains("mode_when_resumed"), "{error}");
        }
    }
}
