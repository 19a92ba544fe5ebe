//! Names of locations in the arguments of commands.

use codeloc_core::status::LocationStatus;

/// Similarity, from 0 to 1, from which codeloc suggests a name.
const MIN_SIMILARITY: f64 = 0.8;

/// The error for names without a location. It suggests similar names.
pub fn unknown(names: &[&String], all: &[LocationStatus]) -> Option<String> {
    let unknown = names.iter().filter(|name| all.iter().all(|status| status.name != ***name));
    let errors: Vec<String> = unknown
        .map(|name| {
            let mut similar: Vec<(f64, &str)> =
                all.iter().map(|status| (strsim::jaro_winkler(name, &status.name), status.name.as_str())).collect();
            similar.retain(|(similarity, _)| *similarity >= MIN_SIMILARITY);
            similar.sort_by(|left, right| right.0.total_cmp(&left.0));
            let similar: Vec<String> = similar.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
            match similar.join(" or ") {
                none if none.is_empty() => format!("there is no location `{name}`; `codeloc list` shows all of them"),
                similar => format!("there is no location `{name}`; did you mean {similar}?"),
            }
        })
        .collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}
