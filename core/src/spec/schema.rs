//! The JSON Schema of a job file, for editors: generated from the types, then closed and put in order.

use schemars::schema_for;
use serde_json::{Map, Value, json};

use super::job::JobSpec;
use crate::toolkit::Toolkit;

/// The JSON Schema (draft 2020-12) of a job file, in both of its forms: the fields inside `properties`, or
/// bare.
#[must_use]
pub fn schema() -> Value {
    let mut job = schema_for!(JobSpec).to_value();
    let mut definitions = job["$defs"].take();
    if let Some(job) = job.as_object_mut() {
        job.remove("$defs");
        job.remove("$schema");
        flatten_toolkits(job);
    }
    definitions["JobSpec"] = job;
    for definition in definitions.as_object_mut().into_iter().flat_map(Map::values_mut) {
        close(definition);
    }
    definitions["JobSpec"]["properties"]["$schema"] = json!({ "type": "string" });
    let wrapped = json!({
        "type": "object",
        "description": "The form that `az batchai job create -f` takes.",
        "properties": { "$schema": { "type": "string" }, "properties": { "$ref": "#/$defs/JobSpec" } },
        "required": ["properties"],
        "additionalProperties": false,
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Trainyard job",
        "description": "A job: Batch AI's job create parameters (2018-05-01), and the extensions that are marked so.",
        "anyOf": [wrapped, { "$ref": "#/$defs/JobSpec" }],
        "$defs": definitions,
    })
}

/// Puts the toolkits beside the other fields: editors complete `properties`, and seldom `oneOf`.
fn flatten_toolkits(job: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = job.remove("oneOf") else { return };
    for variant in variants {
        for (key, settings) in variant["properties"].as_object().into_iter().flatten() {
            let mut settings = settings.clone();
            settings["description"] = variant["description"].clone();
            job["properties"][key] = settings;
        }
    }
    let one_of = Toolkit::KEYS.map(|key| json!({ "required": [key] }));
    job.insert("oneOf".to_owned(), one_of.as_slice().into());
}

/// Refuses unknown keys, and turns the words that only the reader knows into words that editors know.
fn close(definition: &mut Value) {
    if definition["type"] == "object" {
        definition["additionalProperties"] = false.into();
    }
    for field in
        definition.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
    {
        if let Some(choices) = field.as_object_mut().and_then(|field| field.remove("x-choices")) {
            field["examples"] = choices;
        }
    }
}
