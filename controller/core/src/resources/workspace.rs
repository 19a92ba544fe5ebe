//! Workspace entry: the line of `workspace.yaml` through which Dagster reaches a location, and what the webserver has
//! loaded of it. It is written only for a location that answered, and removed before anything else.

use serde::Serialize;

use super::drift::TrackedField;
use super::{Action, Description, Effect, Field};
use crate::dagster::Entry;
use crate::dagster::WebLocation;

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("address", "host and port in `workspace.yaml`", "workspace.yaml"),
    TrackedField::new("loaded", "whether the webserver knows the location", "reloadWorkspace"),
    TrackedField::new("server_id", "the revision that the webserver shows", "reloadRepositoryLocation"),
];

/// What is published and what the webserver says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub entry: Option<Entry>,
    /// Absent: the webserver was not asked, or knows no such location.
    pub web: Option<WebLocation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Publish {
        name: String,
        host: String,
        port: u16,
        from: Option<String>,
    },
    Remove {
        name: String,
    },
    /// Its host is another location's task by now, which gives `found` as its server id.
    Withdraw {
        name: String,
        from: String,
        found: String,
    },
    /// The webserver knows no such location although its entry is published: it missed a reload.
    ReloadWorkspace {
        name: String,
    },
    /// The webserver shows definitions of another revision: it asked an old task while both were up.
    Reload {
        name: String,
        expected: String,
        found: String,
    },
}

/// `revision` is the one that was proven to be loaded. `webserver` is false when none is configured or it does not answer.
pub fn diff(name: &str, entry: &Entry, revision: &str, observed: &Observed, webserver: bool) -> Option<Change> {
    if observed.entry.as_ref() != Some(entry) {
        let from = observed.entry.as_ref().map(|from| format!("{}:{}", from.host, from.port));
        return Some(Change::Publish { name: name.to_owned(), host: entry.host.clone(), port: entry.port, from });
    }
    if !webserver {
        return None;
    }
    let found = match &observed.web {
        None => return Some(Change::ReloadWorkspace { name: name.to_owned() }),
        Some(WebLocation::Loading) => return None,
        Some(WebLocation::Loaded { server_id: Some(server_id) }) if server_id == revision => return None,
        Some(WebLocation::Loaded { server_id }) => server_id.clone().unwrap_or_else(|| "none".to_owned()),
        Some(WebLocation::Error { .. }) => "an error".to_owned(),
    };
    Some(Change::Reload { name: name.to_owned(), expected: revision.to_owned(), found })
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
                    name: name.clone(),
                    fields: vec![
                        from.as_ref()
                            .map_or_else(|| Field::set("address", &to), |from| Field::changed("address", from, &to)),
                    ],
                    reason: if from.is_some() {
                        "its address changed"
                    } else {
                        "the location answers and is not published"
                    }
                    .to_owned(),
                }
            }
            Self::Remove { name } => Description::deleted(name),
            Self::Withdraw { name, from, found } => Description {
                action: Action::Delete,
                name: name.clone(),
                fields: vec![],
                reason: format!("{from} answers with {found}, which is no revision of this location"),
            },
            Self::ReloadWorkspace { name } => {
                let field = Field::changed("loaded", false, true);
                Description::updated(name, vec![field], "the webserver does not know this location yet")
            }
            Self::Reload { name, expected, found } => Description::updated(
                name,
                vec![Field::changed("server_id", found, expected)],
                "the webserver shows another revision",
            ),
        }
    }
}
