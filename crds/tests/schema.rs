//! The committed schema is the generated one.

use std::path::Path;

use codeloc_crds::schema;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "rewriting the committed schema is asked for through the environment"
)]
fn the_committed_schema_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("repository.schema.json");
    let generated = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var("UPDATE_SCHEMA").is_ok() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        committed, generated,
        "rewrite it with UPDATE_SCHEMA=1 cargo test -p codeloc-crds"
    );
}

#[test]
fn every_field_of_the_schema_has_a_description() {
    fn undescribed(schema: &serde_json::Value, way: &str, found: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let way = format!("{way}.{name}");
            if property["description"].as_str().is_none_or(str::is_empty) {
                found.push(way.clone());
            }
            undescribed(property, &way, found);
            undescribed(&property["items"], &way, found);
        }
    }
    let mut found = Vec::new();
    undescribed(&schema(), "", &mut found);
    assert_eq!(found, Vec::<String>::new());
}
