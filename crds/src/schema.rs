//! The JSON Schema of `config.yml`. Editors use it, and codeloc checks the structure of files with it.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use crate::fields::LocationFields;

/// The schema in draft 7, which YAML language servers support, without `$ref`.
pub fn schema() -> Value {
    SCHEMA.clone()
}

pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .for_deserialize()
        .with_transform(RecursiveTransform(simplify))
        .into_generator()
        .into_root_schema_for::<LocationFields>()
        .to_value()
});

fn simplify(schema: &mut schemars::Schema) {
    // Users omit optional fields: `branch:` without a value is a mistake, so `null` is invalid.
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
    // The formats are Rust integer types, which mean nothing to the author of a config.
    schema.remove("format");
}
