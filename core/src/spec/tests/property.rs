//! Nothing makes the door panic, nothing that it says holds a secret, and what it takes is whole.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::good_input::FULL;
use super::*;
use crate::toolkit::Toolkit;

/// Any JSON, with known keys and telling words among the strings.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(word(), inner, 0..6).prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

fn word() -> impl Strategy<Value = String> {
    let known = [
        "properties",
        "nodeCount",
        "stdOutErrPathPrefix",
        "customToolkitSettings",
        "tensorFlowSettings",
        "commandLine",
        "inputDirectories",
        "outputDirectories",
        "id",
        "path",
        "pathPrefix",
        "pathSuffix",
        "environmentVariables",
        "name",
        "value",
        "secrets",
        "mountVolumes",
        "hostPaths",
        "relativeMountPath",
        "constraints",
        "maxWallClockTime",
        "P1D",
        "$A/..",
        "/a/../b",
        "${AZ_BATCHAI_JOB_TEMP}",
        "2",
        "true",
        "A",
        "\0",
        "ü-ß",
        "..",
        "workerCount",
        "parameterServerCount",
        "resources",
        "gpusPerNode",
        "azureFileShares",
        "credentials",
    ];
    prop_oneof![proptest::sample::select(known.to_vec()).prop_map(str::to_owned), ".{0,8}"]
}

/// A document that is nearly right: fields of a good one, some replaced by anything.
fn nearly_right() -> impl Strategy<Value = Value> {
    let good: Value = serde_json::to_value(taken(FULL, &Options::default()).spec).expect("JSON");
    let keys: Vec<String> = good.as_object().expect("an object").keys().cloned().collect();
    let change = (proptest::sample::select(keys), any_json(), any::<bool>());
    vec(change, 0..4).prop_map(move |changes| {
        let mut document = good.clone();
        for (key, value, deep) in changes {
            match document[&key].as_object_mut().and_then(|fields| fields.values_mut().next()) {
                Some(inner) if deep => *inner = value,
                _ => document[&key] = value,
            }
        }
        document
    })
}

fn any_options() -> impl Strategy<Value = Options> {
    let sources = prop_oneof![Just(Source::File), Just(Source::RestBody)];
    let set = (word(), word(), 0..3usize, word()).prop_map(|(a, b, index, value)| Override::Set {
        path: if index == 0 { format!("{a}.{b}") } else { format!("{a}[{}].{b}", index - 1) },
        value,
    });
    let environment = (word(), word()).prop_map(|(name, value)| Override::Environment { name, value });
    (sources, any::<bool>(), vec(prop_oneof![set, environment], 0..3))
        .prop_map(|(source, strict, overrides)| Options { source, strict, overrides })
}

/// What must hold of every answer.
fn check(document: &[u8], options: &Options) {
    match read(document, options) {
        Ok(read) => {
            let public = serde_json::to_string(&read.spec).expect("JSON");
            assert_eq!(from_stored(&public, secrets_of(&read.spec)).expect("it was stored"), read.spec);
            assert!(read.spec.asks_the_same_as(&read.spec));
            // What was read reads again, to the same.
            let body = request_body(&read.spec).to_string();
            let again = Options { source: options.source, strict: true, overrides: vec![] };
            assert_eq!(taken(&body, &again).spec, read.spec);
        }
        Err(refusal) => {
            assert!(!refusal.errors.is_empty());
            for error in &refusal.errors {
                assert!(error.to_string().len() < 4096, "{error}");
                assert!(!error.to_string().contains("an error of Trainyard"), "{error}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200), options in any_options()) {
        check(&bytes, &options);
    }

    #[test]
    fn any_text(text in "[-{}\\[\\]:,#&*!|>'\"%@`a\\n\\t 0-9.$]{0,60}") {
        check(text.as_bytes(), &Options::default());
    }

    #[test]
    fn any_value(value in any_json(), options in any_options()) {
        check(value.to_string().as_bytes(), &options);
        check(json!({ "properties": value }).to_string().as_bytes(), &options);
    }

    #[test]
    fn any_change_of_a_good_document(value in nearly_right(), options in any_options()) {
        check(value.to_string().as_bytes(), &options);
    }

    #[test]
    fn any_toolkit_settings(key in proptest::sample::select(&Toolkit::KEYS[..]), settings in any_json()) {
        let document = json!({ "nodeCount": 2, "stdOutErrPathPrefix": "/l", key: settings });
        check(document.to_string().as_bytes(), &Options::default());
    }

    /// Whatever is broken in a document, its secrets are in no message.
    #[test]
    fn no_message_holds_a_secret(at in 0usize..FULL.len(), length in 1usize..40, json in any::<bool>()) {
        let document = if json {
            request_body(&taken(FULL, &Options::default()).spec).to_string()
        } else {
            FULL.to_owned()
        };
        let start = at.min(document.len() - 1);
        let end = (start + length).min(document.len());
        prop_assume!(document.is_char_boundary(start) && document.is_char_boundary(end));
        let broken = format!("{}{}", &document[..start], &document[end..]);
        if let Err(refusal) = read(broken.as_bytes(), &Options::default()) {
            let messages = format!("{refusal}{:?}", refusal.warnings);
            prop_assert!(!messages.contains("SECRET-"), "{}", messages);
        }
    }
}
