//! `--set path=value` and `-e NAME=value`: changes that a command line makes to a document before it is
//! checked, so that a changed field is held to the same rules as a written one.

use serde_json::{Map, Value, json};

use super::error::{Refusal, SpecError, shortened};
use super::form::join;
use super::nearest::nearest;
use super::shape::{self, Shape, names};

/// One change to a document.
#[derive(Clone, PartialEq, Eq)]
pub enum Override {
    /// `--set path=value`. Lists and objects are written as JSON, all else as it is.
    Set {
        /// The field, as `nodeCount` or `environmentVariables[0].value`.
        path: String,
        /// Its new value.
        value: String,
    },
    /// `-e NAME=value`: adds an environment variable, or replaces its value.
    Environment {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
}

impl std::fmt::Debug for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The value may be a secret.
        match self {
            Override::Set { path, .. } => write!(f, "--set {path}=..."),
            Override::Environment { name, .. } => write!(f, "-e {name}=..."),
        }
    }
}

impl Override {
    /// Reads `path=value`.
    ///
    /// # Errors
    /// If there is no `=`, or nothing before it.
    pub fn set(text: &str) -> Result<Override, SpecError> {
        let (path, value) = split(text, "--set", "nodeCount=4")?;
        Ok(Override::Set { path: path.strip_prefix("properties.").unwrap_or(path).to_owned(), value })
    }

    /// Reads `NAME=value`.
    ///
    /// # Errors
    /// If there is no `=`, or nothing before it.
    pub fn environment(text: &str) -> Result<Override, SpecError> {
        let (name, value) = split(text, "-e", "EPOCHS=3")?;
        Ok(Override::Environment { name: name.to_owned(), value })
    }
}

fn split<'a>(text: &'a str, option: &str, example: &str) -> Result<(&'a str, String), SpecError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name, value.to_owned())),
        _ => {
            Err(SpecError::at(option, "no `=` after a name")
                .cure(format!("write it as `{option} {example}`")))
        }
    }
}

/// Makes the changes, in their order.
pub(super) fn apply(document: &mut Map<String, Value>, overrides: &[Override], report: &mut Refusal) {
    for change in overrides {
        match change {
            Override::Set { path, value } => {
                if let Err(error) = set(document, path, value) {
                    report.refuse(error);
                }
            }
            Override::Environment { name, value } => set_variable(document, name, value),
        }
    }
}

fn set_variable(document: &mut Map<String, Value>, name: &str, value: &str) {
    let variables = document.entry("environmentVariables").or_insert_with(|| json!([]));
    if variables.is_null() {
        *variables = json!([]);
    }
    // Anything but a list is told of when the document is checked.
    let Value::Array(variables) = variables else { return };
    match variables.iter_mut().find(|variable| variable["name"] == name) {
        Some(variable) => variable["value"] = value.into(),
        None => variables.push(json!({ "name": name, "value": value })),
    }
}

fn set(document: &mut Map<String, Value>, path: &str, text: &str) -> Result<(), SpecError> {
    let steps = steps(path).ok_or_else(|| unreadable(path))?;
    let (Some(Step::Key(first)), rest) = (steps.first(), steps.get(1..).unwrap_or_default()) else {
        return Err(unreadable(path));
    };
    let (mut shape, mut at) = (field(shape::job(), "", first)?, first.clone());
    let mut slot = document.entry(first.clone()).or_insert(Value::Null);
    for step in rest {
        (slot, shape, at) = descend(slot, shape, &at, step)?;
    }
    *slot = match shape {
        Shape::Text { .. } | Shape::Whole { .. } | Shape::Flag => text.into(),
        Shape::Object(_) | Shape::List { .. } => serde_json::from_str(text).map_err(|_| {
            SpecError::at(&at, "not JSON")
                .allowed(shape.allowed())
                .cure("write it as JSON, or set one field of it")
        })?,
    };
    Ok(())
}

fn descend<'v, 's>(
    slot: &'v mut Value,
    shape: &'s Shape,
    at: &str,
    step: &Step,
) -> Result<(&'v mut Value, &'s Shape, String), SpecError> {
    match (step, shape) {
        (Step::Key(key), Shape::Object(_)) => {
            let shape = field(shape, at, key)?;
            if !slot.is_object() {
                *slot = json!({});
            }
            Ok((&mut slot[key.as_str()], shape, join(at, key)))
        }
        (Step::Index(index), Shape::List { item, .. }) => {
            let path = format!("{at}[{index}]");
            if !slot.is_array() {
                *slot = json!([]);
            }
            let items = slot.as_array_mut().ok_or_else(|| unreadable(&path))?;
            if *index > items.len() {
                let problem = format!("the list has {} items", items.len());
                return Err(SpecError::at(path, problem).allowed(format!("[0] to [{}]", items.len())));
            }
            if *index == items.len() {
                items.push(Value::Null);
            }
            Ok((&mut items[*index], item, path))
        }
        (Step::Key(_), _) => Err(SpecError::at(at, "has no fields").allowed(shape.allowed())),
        (Step::Index(_), _) => Err(SpecError::at(at, "is no list").allowed(shape.allowed())),
    }
}

fn field<'s>(shape: &'s Shape, at: &str, key: &str) -> Result<&'s Shape, SpecError> {
    if let Some(field) = shape.field(key) {
        return Ok(&field.shape);
    }
    let fields = shape.fields();
    let error = SpecError::at(join(at, &shortened(key)), "unknown field").allowed(names(fields));
    Err(match nearest(key, fields.iter().map(|field| field.name.as_str())) {
        Some(name) => error.cure(format!("did you mean `{}`?", join(at, name))),
        None => error,
    })
}

fn unreadable(path: &str) -> SpecError {
    SpecError::at(shortened(path), "not a path of fields")
        .allowed("names joined by dots, list items by number, as `environmentVariables[0].value`")
}

enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = vec![];
    for part in path.split('.') {
        let (key, indices) = part.split_at(part.find('[').unwrap_or(part.len()));
        if key.is_empty() {
            return None;
        }
        steps.push(Step::Key(key.to_owned()));
        for index in indices.split_terminator(']') {
            steps.push(Step::Index(index.strip_prefix('[')?.parse().ok()?));
        }
        if !indices.is_empty() && !indices.ends_with(']') {
            return None;
        }
    }
    Some(steps)
}
