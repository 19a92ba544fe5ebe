//! Workspace entry: the address of a location in `workspace.yaml`, and the state of the location in the webserver.
//!
//! Guarantees: codeloc publishes a location only after it answered, and removes the entry before it deletes anything.

use codeloc_crds::LocationName;
use serde::Serialize;

use super::change::{Action, Description, Effect, Field};
use super::tracked_fields::TrackedField;
use crate::dagster::{Entry, WebLocation};
use crate::ids::Revision;

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("address", "host and port in `workspace.yaml`", "workspace.yaml"),
    TrackedField::new("loaded", "whether the webserver knows the location", "reloadWorkspace"),
    TrackedField::new("server_id", "the revision that the webserver shows", "reloadRepositoryLocation"),
];

/// The published entry, and the state of the location in the webserver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub entry: Option<Entry>,
    /// Absent if codeloc did not ask the webserver, or if the webserver does not know the location.
    pub web: Option<WebLocation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Publish {
        name: LocationName,
        host: String,
        port: u16,
        from: Option<String>,
    },
    Remove {
        name: LocationName,
    },
    /// Removes an entry whose address belongs to another location's task now, with the server id `found`.
    Withdraw {
        name: LocationName,
        from: String,
        found: String,
    },
    /// The webserver does not know the location although its entry is published: it missed a reload.
    ReloadWorkspace {
        name: LocationName,
    },
    /// The webserver shows another revision: it asked an old task while both were running.
    Reload {
        name: LocationName,
        expected: Revision,
        found: String,
    },
}

/// `revision` is the one that the tasks have loaded. `webserver` is false if none is configured or it does not answer.
pub fn diff(
    name: &LocationName,
    entry: &Entry,
    revision: &Revision,
    observed: &Observed,
    webserver: bool,
) -> Option<Change> {
    if observed.entry.as_ref() != Some(entry) {
        let from = observed.entry.as_ref().map(|from| format!("{}:{}", from.host, from.port));
        return Some(Change::Publish { name: name.clone(), host: entry.host.clone(), port: entry.port, from });
    }
    if !webserver {
        return None;
    }
    let found = match &observed.web {
        None => return Some(Change::ReloadWorkspace { name: name.clone() }),
        Some(WebLocation::Loading) => return None,
        Some(WebLocation::Loaded { server_id: Some(server_id) }) if revision == server_id.as_str() => return None,
        Some(WebLocation::Loaded { server_id }) => server_id.clone().unwrap_or_else(|| "none".to_owned()),
        Some(WebLocation::Error { .. }) => "an error".to_owned(),
    };
    Some(Change::Reload { name: name.clone(), expected: revision.clone(), found })
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Publish { .. }
            | Self::Remove { .. }
            | Self::Withdraw { .. }
            | Self::ReloadWorkspace { .. }
            | Self::Reload { .. } => Effect::Modifies,
        }
    }

    pub fn describe(&self) -> Description {
        match self {
            Self::Publish { name, host, port, from } => {
                let to = format!("{host}:{port}");
                Description {
                    action: if from.is_some() { Action::Update } else { Action::Create },
                    name: name.to_string(),
                    fields: vec![
                        from.as_ref()
                            .map_or_else(|| Field::set("address", &to), |from| Field::changed("address", from, &to)),
                    ],
                    reason: if from.is_some() {
                        "the address changed"
                    } else {
                        "the location is not in workspace.yaml"
                    }
                    .to_owned(),
                }
            }
            Self::Remove { name } => Description::deleted(name),
            Self::Withdraw { name, from, found } => Description {
                action: Action::Delete,
                name: name.to_string(),
                fields: vec![],
                reason: format!(
                    "the code server at {from} answers with {found}, which is not a revision of this location"
                ),
            },
            Self::ReloadWorkspace { name } => {
                let field = Field::changed("loaded", false, true);
                Description::updated(name, vec![field], "the webserver has not loaded the location")
            }
            Self::Reload { name, expected, found } => Description::updated(
                name,
                vec![Field::changed("server_id", found, expected)],
                "the webserver shows another revision",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::NAME;

    fn change(published: bool, web: Option<WebLocation>, webserver: bool) -> Option<Change> {
        let entry = Entry { host: "orders-service.dagster.internal".to_owned(), port: 4000 };
        let observed = Observed { entry: published.then(|| entry.clone()), web };
        diff(&NAME, &entry, &"new".into(), &observed, webserver)
    }

    #[test]
    fn a_location_is_published_before_the_webserver_reloads_it() {
        assert!(matches!(change(false, None, true), Some(Change::Publish { from: None, .. })));
        assert!(matches!(change(true, None, true), Some(Change::ReloadWorkspace { .. })));
    }

    #[test]
    fn the_webserver_reloads_a_location_with_another_revision_or_an_error() {
        let loaded = |id: &str| Some(WebLocation::Loaded { server_id: Some(id.to_owned()) });
        assert_eq!(change(true, loaded("new"), true), None);
        assert!(matches!(change(true, loaded("old"), true), Some(Change::Reload { found, .. }) if found == "old"));
        let error = Some(WebLocation::Error { message: "ImportError".to_owned() });
        assert!(matches!(change(true, error, true), Some(Change::Reload { .. })));
        assert_eq!(change(true, Some(WebLocation::Loading), true), None);
    }

    #[test]
    fn a_webserver_that_does_not_answer_reloads_nothing() {
        assert_eq!(change(true, None, false), None);
    }
}
