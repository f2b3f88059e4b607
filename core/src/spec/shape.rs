//! What each field of a spec must look like: the JSON Schema of the types, compiled for reading.
//!
//! The types are the only list of fields; this walks the schema that they generate, so that a field added
//! there is read, checked and named in messages without a word here.

use std::sync::OnceLock;

use schemars::schema_for;
use serde_json::{Map, Value};

use super::job::JobSpec;
use super::limits::{COMMAND_LINE_BYTES, DIRECTORIES};

/// What a value must look like.
#[derive(Debug)]
pub(super) enum Shape {
    /// Named fields.
    Object(Vec<Field>),
    /// Items of one shape, at most so many.
    List { item: Box<Shape>, max: usize },
    /// A string of so many bytes; one of `choices` in any case where there are any.
    Text { secret: bool, min: usize, max: usize, choices: Vec<String> },
    /// A whole number in this range.
    Whole { min: u64, max: u64 },
    /// True or false.
    Flag,
}

/// One field of an object.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) shape: Shape,
}

/// The shape of [`JobSpec`]. No toolkit is required here: they are counted apart.
pub(super) fn job() -> &'static Shape {
    static JOB: OnceLock<Shape> = OnceLock::new();
    JOB.get_or_init(|| {
        let schema = schema_for!(JobSpec).to_value();
        compile(&schema, &schema)
    })
}

impl Shape {
    /// The fields of an object; none of anything else.
    pub(super) fn fields(&self) -> &[Field] {
        match self {
            Shape::Object(fields) => fields,
            Shape::List { .. } | Shape::Text { .. } | Shape::Whole { .. } | Shape::Flag => &[],
        }
    }

    /// The field of this name.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields().iter().find(|field| field.name == name)
    }

    /// What is allowed, in words.
    pub(super) fn allowed(&self) -> String {
        match self {
            Shape::Object(fields) => format!("an object with {}", names(fields)),
            Shape::List { item, .. } => match item.as_ref() {
                Shape::Object(fields) => format!("a list of objects with {}", names(fields)),
                Shape::List { .. } | Shape::Text { .. } | Shape::Whole { .. } | Shape::Flag => {
                    "a list".to_owned()
                }
            },
            Shape::Text { choices, .. } if !choices.is_empty() => choices.join(", "),
            Shape::Text { .. } => "text".to_owned(),
            Shape::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Shape::Flag => "true or false".to_owned(),
        }
    }

    /// Every path below this shape that ends in a field of this name, as `resources.gpusPerNode`.
    pub(super) fn places_of(&self, name: &str) -> Vec<String> {
        let mut found = vec![];
        self.collect_places(name, "", &mut found);
        found
    }

    fn collect_places(&self, name: &str, at: &str, found: &mut Vec<String>) {
        if let Shape::List { item, .. } = self {
            item.collect_places(name, &format!("{at}[]"), found);
        }
        for field in self.fields() {
            let path = if at.is_empty() { field.name.clone() } else { format!("{at}.{}", field.name) };
            if field.name == name {
                found.push(path.clone());
            }
            field.shape.collect_places(name, &path, found);
        }
    }
}

/// The names of the fields, for a message.
pub(super) fn names(fields: &[Field]) -> String {
    fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn compile(root: &Value, schema: &Value) -> Shape {
    let mut whole = Map::new();
    gather(root, schema, &mut whole);
    let number = |key: &str| whole.get(key).and_then(Value::as_u64);
    let kinds: Vec<&str> = match &whole["type"] {
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect()
        }
        kind => kind.as_str().into_iter().collect(),
    };
    match kinds[..] {
        ["object"] => Shape::Object(object(root, &whole)),
        ["array"] => Shape::List {
            item: Box::new(compile(root, &whole["items"])),
            max: number("maxItems").map_or(DIRECTORIES, |max| max as usize),
        },
        ["string"] => Shape::Text {
            secret: whole.get("writeOnly") == Some(&Value::Bool(true)),
            min: number("minLength").unwrap_or(0) as usize,
            max: number("maxLength").map_or(COMMAND_LINE_BYTES, |max| max as usize),
            choices: choices(&whole),
        },
        ["integer"] => Shape::Whole {
            min: number("minimum").unwrap_or(0),
            max: number("maximum").unwrap_or(u64::from(u32::MAX)),
        },
        ["boolean"] => Shape::Flag,
        _ => unreachable!(
            "the types of a spec hold no other kind, which the test `every_field_has_a_shape` shows"
        ),
    }
}

/// The keywords of the schema, with references and the null alternative of an `Option` put in their place.
/// Keywords beside a reference win over those behind it.
fn gather(root: &Value, schema: &Value, into: &mut Map<String, Value>) {
    let Some(schema) = schema.as_object() else { return };
    for (key, value) in schema {
        into.entry(key).or_insert_with(|| value.clone());
    }
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'))
        && let Some(target) = root.pointer(pointer)
    {
        gather(root, target, into);
    }
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    for alternative in alternatives.into_iter().flatten().filter(|a| a["type"] != "null") {
        gather(root, alternative, into);
    }
    // An enum of ours: `oneOf` with a constant per variant. The toolkits, flattened: one with an object each.
    let variants = schema.get("oneOf").and_then(Value::as_array);
    if let Some(kind) = variants.and_then(|variants| variants[0].get("type")) {
        into.entry("type").or_insert_with(|| kind.clone());
    }
}

fn object(root: &Value, schema: &Map<String, Value>) -> Vec<Field> {
    let required = |name: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|r| r.contains(&name.into()))
    };
    let own = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let variants = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let toolkits = variants.filter_map(|variant| variant["properties"].as_object()).flatten();
    let field = |(name, schema): (&String, &Value), required: bool| Field {
        name: name.clone(),
        required,
        shape: compile(root, schema),
    };
    let mut fields: Vec<Field> = own.map(|(name, schema)| field((name, schema), required(name))).collect();
    fields.extend(toolkits.map(|toolkit| field(toolkit, false)));
    fields
}

fn choices(schema: &Map<String, Value>) -> Vec<String> {
    let variants = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten().map(|v| &v["const"]);
    let listed = schema.get("x-choices").and_then(Value::as_array).into_iter().flatten();
    variants.chain(listed).filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolkit::Toolkit;

    #[test]
    fn every_field_has_a_shape() {
        let job = job();
        for key in Toolkit::KEYS {
            assert!(
                matches!(job.field(key), Some(Field { required: false, shape: Shape::Object(_), .. })),
                "{key}"
            );
        }
        let required: Vec<&str> =
            job.fields().iter().filter(|f| f.required).map(|f| f.name.as_str()).collect();
        assert_eq!(required, ["nodeCount", "stdOutErrPathPrefix"]);
        assert_eq!(job.places_of("accountKey").len(), 2);
        assert_eq!(job.places_of("gpusPerNode"), ["resources.gpusPerNode"]);
        assert_eq!(
            job.field("schedulingPriority").map(|f| f.shape.allowed()),
            Some("low, normal, high".to_owned())
        );
    }

    #[test]
    fn secrets_are_known_as_such() {
        fn secrets(shape: &Shape, at: &str, found: &mut Vec<String>) {
            match shape {
                Shape::Text { secret: true, .. } => found.push(at.to_owned()),
                Shape::List { item, .. } => secrets(item, at, found),
                Shape::Object(fields) => {
                    fields.iter().for_each(|f| secrets(&f.shape, &format!("{at}/{}", f.name), found))
                }
                Shape::Text { .. } | Shape::Whole { .. } | Shape::Flag => {}
            }
        }
        let mut found = vec![];
        secrets(job(), "", &mut found);
        assert_eq!(
            found,
            [
                "/mountVolumes/azureFileShares/credentials/accountKey",
                "/mountVolumes/azureBlobFileSystems/credentials/accountKey",
                "/containerSettings/imageSourceRegistry/credentials/password",
                "/secrets/value",
            ]
        );
    }
}
