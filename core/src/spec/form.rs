//! Fits a document to the shape of a spec: types, required fields, ranges, unknown keys.
//!
//! All errors of a document are wanted at once, so what does not fit is replaced by a stand-in, and the walk
//! goes on. Afterwards the document always reads as a `JobSpec`; later checks leave stand-ins alone.

use serde_json::{Map, Value};

use super::error::{Refusal, SpecError, kind, shortened};
use super::nearest::nearest;
use super::shape::{Field, Shape, names};
use super::{Options, Source, old_keys, shape};

/// Fits the fields to the shape: null fields and unknown keys go, numbers written as text become numbers.
pub(super) fn fit(values: &mut Map<String, Value>, options: &Options, report: &mut Refusal) {
    Form { options, report }.object("", shape::job().fields(), values);
}

/// `at.key`, or the key alone at the top.
pub(super) fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

struct Form<'a> {
    options: &'a Options,
    report: &'a mut Refusal,
}

impl Form<'_> {
    fn object(&mut self, at: &str, fields: &[Field], values: &mut Map<String, Value>) {
        values.retain(|_, value| !value.is_null());
        let unknown = self.unknown_keys(at, fields, values);
        for field in fields {
            let path = join(at, &field.name);
            let given = values.remove(&field.name);
            // What is optional can be left out, but for objects: one of them is the toolkit.
            let needed = field.required || given.is_some() && matches!(field.shape, Shape::Object(_));
            let fitting = match given {
                Some(value) => self.value(&path, &field.shape, value),
                None if field.required => self.refuse(missing(&path, field, &unknown)),
                None => None,
            };
            if let Some(value) = fitting.or_else(|| needed.then(|| stand_in(&field.shape))) {
                values.insert(field.name.clone(), value);
            }
        }
    }

    /// Takes the keys that no field has out of the values, and tells of them.
    fn unknown_keys(&mut self, at: &str, fields: &[Field], values: &mut Map<String, Value>) -> Vec<String> {
        let is_known = |key: &str| fields.iter().any(|field| field.name == key);
        let unknown: Vec<String> = values.keys().filter(|key| !is_known(key)).cloned().collect();
        for key in &unknown {
            values.remove(key);
            if at.is_empty() && key == "$schema" {
                continue;
            }
            self.unknown_key(at, key, fields);
        }
        unknown
    }

    fn unknown_key(&mut self, at: &str, key: &str, fields: &[Field]) {
        let path = join(at, &shortened(key));
        let (problem, cure) = match old_keys::meaning(at, key) {
            Some(meaning) => (format!("not read: {meaning}"), "remove it".to_owned()),
            None => ("unknown key, not read".to_owned(), meant(key, fields)),
        };
        if self.options.strict {
            self.report.refuse(SpecError::at(path, problem).cure(cure));
        } else if self.options.source == Source::File {
            self.report.warn(path, format!("{problem}; {cure}"));
        }
        // Batch AI's own service takes unknown keys of a request without a word.
    }

    /// The value if it fits; else tells why not.
    fn value(&mut self, path: &str, shape: &Shape, value: Value) -> Option<Value> {
        match (shape, value) {
            (Shape::Object(fields), Value::Object(mut values)) => {
                self.object(path, fields, &mut values);
                Some(Value::Object(values))
            }
            (Shape::List { item, max }, Value::Array(items)) => self.list(path, item, *max, items),
            (Shape::Text { .. }, Value::String(text)) => self.text(path, shape, text),
            // `value: 8` is common in YAML. Fractions and truth values could be written otherwise (1.10, True).
            (Shape::Text { .. }, Value::Number(n)) if !n.is_f64() => self.text(path, shape, n.to_string()),
            (Shape::Text { .. }, value @ (Value::Number(_) | Value::Bool(_))) => {
                let problem = format!("{} where text belongs", kind(&value));
                self.refuse(SpecError::at(path, problem).cure("write it in quotes"))
            }
            (Shape::Whole { min, max }, value @ (Value::Number(_) | Value::String(_))) => {
                match whole(&value) {
                    Some(number) if (*min..=*max).contains(&number) => Some(number.into()),
                    Some(_) => {
                        self.refuse(SpecError::at(path, "out of range").value(value).allowed(shape.allowed()))
                    }
                    None => self
                        .refuse(SpecError::at(path, "no whole number").value(value).allowed(shape.allowed())),
                }
            }
            (Shape::Flag, value @ Value::Bool(_)) => Some(value),
            (Shape::Flag, Value::String(text)) if text.eq_ignore_ascii_case("true") => Some(true.into()),
            (Shape::Flag, Value::String(text)) if text.eq_ignore_ascii_case("false") => Some(false.into()),
            // The value is not shown: what stands in a wrong place may be a secret.
            (shape, value) => {
                let problem = format!("{} does not belong here", kind(&value));
                self.refuse(SpecError::at(path, problem).allowed(shape.allowed()))
            }
        }
    }

    fn list(&mut self, path: &str, item: &Shape, max: usize, items: Vec<Value>) -> Option<Value> {
        if items.len() > max {
            let error = SpecError::at(path, format!("{} items are too many", items.len()));
            return self.refuse(error.allowed(format!("up to {max}")));
        }
        let fitted = items.into_iter().enumerate().map(|(index, value)| {
            // A stand-in keeps its place, so that the paths of later items stay true.
            self.value(&format!("{path}[{index}]"), item, value).unwrap_or_else(|| stand_in(item))
        });
        Some(Value::Array(fitted.collect()))
    }

    fn text(&mut self, path: &str, shape: &Shape, text: String) -> Option<Value> {
        let Shape::Text { secret, min, max, choices } = shape else { return None };
        let hidden = *secret || path.starts_with("environmentVariables") && path.ends_with(".value");
        if text.contains('\0') {
            return self.refuse(SpecError::at(path, "contains a NUL byte").cure("remove it"));
        }
        if text.len() < *min {
            return self
                .refuse(SpecError::at(path, "empty").value("").allowed(format!("text of 1 to {max} bytes")));
        }
        if text.len() > *max {
            let error = SpecError::at(path, format!("{} bytes are too many", text.len()));
            return self.refuse(error.allowed(format!("up to {max} bytes")));
        }
        if choices.is_empty() {
            return Some(text.into());
        }
        match choices.iter().find(|choice| choice.eq_ignore_ascii_case(&text)) {
            Some(choice) => Some(choice.as_str().into()),
            None => {
                let error =
                    SpecError::at(path, "none of the values that it can have").allowed(shape.allowed());
                self.refuse(if hidden { error } else { error.value(text) })
            }
        }
    }

    fn refuse(&mut self, error: SpecError) -> Option<Value> {
        self.report.refuse(error);
        None
    }
}

fn missing(path: &str, field: &Field, unknown: &[String]) -> SpecError {
    let error = SpecError::at(path, "missing").allowed(field.shape.allowed());
    match unknown.iter().find(|key| nearest(key, [field.name.as_str()]).is_some()) {
        Some(key) => error.cure(format!("`{}` is not read: write `{}`", shortened(key), field.name)),
        None => error.cure(format!("add `{}`", field.name)),
    }
}

/// What the unknown key probably stands for.
fn meant(key: &str, fields: &[Field]) -> String {
    if let Some(place) = shape::job().places_of(key).first() {
        return format!("its place is `{place}`");
    }
    match nearest(key, fields.iter().map(|field| field.name.as_str())) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known here: {}", names(fields)),
    }
}

/// `2`, `2.0`, `"2"` as a number.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.as_u64().or_else(|| {
            let float = number.as_f64()?;
            // Far below 2^53, where every whole number is exact.
            (float.fract() == 0.0 && (0.0..1e12).contains(&float)).then_some(float as u64)
        }),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What takes the place of a required value that does not fit.
///
/// The greatest number for counts: nothing is then "more than nodeCount".
fn stand_in(shape: &Shape) -> Value {
    match shape {
        Shape::Object(fields) => {
            let required = fields.iter().filter(|field| field.required);
            Value::Object(required.map(|field| (field.name.clone(), stand_in(&field.shape))).collect())
        }
        Shape::List { .. } => Value::Array(vec![]),
        Shape::Text { choices, .. } => choices.first().map_or("", String::as_str).into(),
        Shape::Whole { .. } => u32::MAX.into(),
        Shape::Flag => false.into(),
    }
}
