//! The JSON Schema of `config.yml`, for editors and for the structural part of reading.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use crate::fields::RepositoryFields;

/// Draft 7, which is what editors' YAML servers read, without references.
pub fn schema() -> Value {
    SCHEMA.clone()
}

pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .for_deserialize()
        .with_transform(RecursiveTransform(simplify))
        .into_generator()
        .into_root_schema_for::<RepositoryFields>()
        .to_value()
});

fn simplify(schema: &mut schemars::Schema) {
    // An optional field is left out, not set to nothing: `branch:` with the value forgotten is a mistake.
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_mut_slice() {
            let only = only.take();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if schema.get("default") == Some(&Value::Null) {
        schema.remove("default");
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [only] = choices.as_mut_slice()
            && let Value::Object(only) = only.take()
        {
            schema.remove("anyOf");
            schema.ensure_object().extend(only);
        }
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    // Widths of Rust's integers say nothing to an author.
    schema.remove("format");
}
