//! From bytes to one JSON object: limits first, then syntax. Says nothing about fields.
//!
//! A document that begins with `{` is JSON, any other is YAML. Keys that stand twice are refused in both.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::{SpecError, kind, shortened};
use super::limits::{SPEC_BYTES, SPEC_DEPTH};

/// The document as an object.
pub(super) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, SpecError> {
    let text = text(bytes)?;
    let value = if text.trim_start().starts_with('{') { json(text)? } else { yaml(text)? };
    if depth(&value) > SPEC_DEPTH {
        return Err(too_deep("document"));
    }
    match value {
        Value::Object(object) => Ok(object),
        Value::Null => Err(empty()),
        other => Err(SpecError::at("document", format!("{} where a job is expected", kind(&other)))
            .allowed("an object: `{\"properties\": {..}}` in JSON, `nodeCount: 1` and so on in YAML")),
    }
}

/// Bytes as text: not too many, not none, no NUL, UTF-8; a byte order mark is left out.
fn text(bytes: &[u8]) -> Result<&str, SpecError> {
    if bytes.len() > SPEC_BYTES {
        return Err(SpecError::at("document", format!("{} bytes are too many", bytes.len()))
            .allowed(format!("up to {SPEC_BYTES} bytes"))
            .cure("check that this is a job file; data belongs in files that the job reads"));
    }
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        return Err(SpecError::at(position(bytes, offset), "a NUL byte").cure("save the file as UTF-8 text"));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        SpecError::at(position(bytes, e.valid_up_to()), "not UTF-8").cure("save the file as UTF-8 text")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() { Err(empty()) } else { Ok(text) }
}

fn empty() -> SpecError {
    SpecError::at("document", "empty")
        .cure("write the job into it; `trainyard job schema` and docs/job-spec.md show the fields")
}

fn too_deep(path: impl Into<String>) -> SpecError {
    SpecError::at(path, "nested too deeply").allowed(format!("up to {SPEC_DEPTH} levels"))
}

fn position(bytes: &[u8], offset: usize) -> String {
    let before = &bytes[..offset];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
    place(line as u64, column as u64)
}

fn place(line: u64, column: u64) -> String {
    format!("line {line}, column {column}")
}

fn json(text: &str) -> Result<Value, SpecError> {
    let Unique(value) = serde_json::from_str(text).map_err(|e| {
        let at = place(e.line() as u64, e.column() as u64);
        let message = e.to_string();
        let problem = message.split(" at line ").next().unwrap_or("syntax error");
        if problem.starts_with("recursion limit") {
            return too_deep(at);
        }
        SpecError::at(at, format!("not JSON: {problem}"))
            .cure("a document that begins with `{` is read as JSON: correct it there, or write it as YAML")
    })?;
    Ok(value)
}

fn yaml(text: &str) -> Result<Value, SpecError> {
    // Without a snippet: the lines around an error may hold a secret.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: SPEC_DEPTH,
            flow_nesting_limit: SPEC_DEPTH,
            max_aliases: 1000,
            max_anchors: 1000,
            max_nodes: 200_000,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    let Unique(value) = serde_saphyr::from_str_with_options(text, options).map_err(|e| yaml_error(&e))?;
    Ok(value)
}

fn yaml_error(error: &serde_saphyr::Error) -> SpecError {
    use serde_saphyr::Error;
    let at = error.location().map_or_else(|| "document".to_owned(), |at| place(at.line(), at.column()));
    let not_yaml = |problem: String| SpecError::at(at.clone(), format!("not YAML: {problem}"));
    match error.without_snippet() {
        Error::Budget { breach, .. } => {
            let breach = format!("{breach:?}");
            if breach.starts_with("Depth") || breach.contains("Nesting") {
                too_deep(at)
            } else if breach.starts_with("Documents") {
                one_document(at)
            } else {
                let limit = breach.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
                SpecError::at(at, format!("over a limit on YAML ({limit})"))
                    .cure("use fewer anchors and aliases")
            }
        }
        Error::MultipleDocuments { .. } => one_document(at),
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map(shortened).unwrap_or_default();
            SpecError::at(at, format!("the key `{key}` stands twice")).cure("leave one of them")
        }
        Error::Eof { .. } => not_yaml("unexpected end".to_owned()),
        Error::NonFiniteFloat { .. } => {
            not_yaml("a number without end".to_owned()).cure("write text in quotes")
        }
        Error::UnknownAnchor { .. } => not_yaml("an alias of an anchor that does not exist".to_owned())
            .cure("write text that begins with `*` in quotes"),
        other => {
            let message = other.to_string();
            let problem = message.lines().next().and_then(|line| line.split(" at line ").next());
            let problem = problem.unwrap_or("syntax error");
            if problem.contains("nesting") || problem.contains("recursion") {
                return too_deep(at);
            }
            not_yaml(problem.to_owned())
        }
    }
}

fn one_document(at: String) -> SpecError {
    SpecError::at(at, "a second YAML document").allowed("one job per file").cure("split the file at `---`")
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
    }
}

/// A value in which no key stands twice: `serde_json::Value` itself would take the last one.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Unique, D::Error> {
        from.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    // Beyond 64 bits it is no count: text, as a password of digits only.
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(UniqueVisitor)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = vec![];
        while let Some(Unique(item)) = from.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{}` stands twice", shortened(&key))));
            }
            let Unique(value) = from.next_value()?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(text: &str, expected: Value) {
        let parsed = parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!(Value::Object(parsed), expected, "{text:?}");
    }

    fn refused(bytes: impl AsRef<[u8]>, path: &str, problem: &str) {
        let bytes = bytes.as_ref();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let error = parse(bytes).expect_err(&shown);
        assert_eq!(error.path, path, "{shown:?}: {error}");
        assert!(error.to_string().contains(problem), "{shown:?}: {error}");
    }

    #[test]
    fn json_and_yaml_give_the_same() {
        check(r#"{"a": [1, "2", null, true, 1.5]}"#, json!({"a": [1, "2", null, true, 1.5]}));
        check("a: [1, '2', null, true, 1.5]", json!({"a": [1, "2", null, true, 1.5]}));
        check("# note\na:\n- 1\n- \"2\"\n", json!({"a": [1, "2"]}));
        check("\u{feff} {\"a\": 1}", json!({"a": 1}));
    }

    #[test]
    fn yaml_keeps_what_looks_like_text() {
        check(
            "a: yes\nb: 0777\nc: 1_000\nd: off",
            json!({"a": "yes", "b": "0777", "c": "1_000", "d": "off"}),
        );
        check("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}}));
        check("a: |\n  echo $i\n  exit", json!({"a": "echo $i\nexit\n"}));
    }

    #[test]
    fn bad_text_is_refused_with_its_place() {
        refused("", "document", "empty");
        refused(" \n\t\n", "document", "empty");
        refused("# nothing\n", "document", "empty");
        refused("---\n", "document", "empty");
        refused("null", "document", "empty");
        refused("[1]", "document", "a list");
        refused("hello", "document", "text");
        refused(b"{\"a\":\n \"\0\"}", "line 2, column 3", "NUL");
        refused(b"a: \xff\xfe", "line 1, column 4", "UTF-8");
        refused("a: 1\nb:\n\t- x: [\n", "line 3, column 2", "not YAML");
        refused("a: 1\nb: 2: 3\n", "line 2, column 5", "not YAML");
        refused("a: 1\nb: [1, 2\n", "line 2, column 4", "not YAML");
        refused("{\"a\": 1,\n \"b\": }", "line 2, column 7", "not JSON");
        refused("{\"a\": 1,}", "line 1, column 9", "not JSON");
        refused("{\"a\": 1", "line 1, column 7", "not JSON");
        refused("{\"a\": 1} x", "line 1, column 10", "not JSON");
        refused("{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}", "line 1, column 26", "`c` stands twice");
        refused("a: 1\nb: 2\na: 3", "line 3, column 1", "`a` stands twice");
        refused("a: 1\n---\nb: 1", "line 2, column 1", "a second YAML document");
        refused("a: .inf", "line 1, column 4", "not YAML");
        refused("a: *nope", "line 1, column 4", "not YAML");
    }

    #[test]
    fn size_and_depth_are_bounded() {
        refused(vec![b' '; SPEC_BYTES + 1], "document", "too many");
        let nested = |open: &str, close: &str, levels: usize| {
            format!("{}{}", open.repeat(levels), close.repeat(levels)).into_bytes()
        };
        let mut json = b"{\"a\":".to_vec();
        json.extend(nested("[", "]", SPEC_DEPTH - 1));
        json.push(b'}');
        parse(&json).expect("32 levels");
        for levels in [SPEC_DEPTH, 100, 10_000, 400_000] {
            let mut json = b"{\"a\":".to_vec();
            json.extend(nested("[", "]", levels));
            json.push(b'}');
            assert!(parse(&json).expect_err("deep JSON").problem.contains("nested too deeply"), "{levels}");
            let mut yaml = b"a: ".to_vec();
            yaml.extend(nested("[", "]", levels));
            let error = parse(&yaml).expect_err("deep YAML");
            assert!(error.problem.contains("nested too deeply"), "{levels}: {error}");
        }
        let block: String = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert!(parse(block.as_bytes()).expect_err("deep block").problem.contains("nested too deeply"));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let alias = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", "));
        }
        parse(bomb.as_bytes()).expect_err("an alias bomb");
    }
}
