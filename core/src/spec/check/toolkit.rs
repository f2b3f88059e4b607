//! The toolkit: exactly one, and counts that its nodes can hold.

use serde_json::{Map, Value};

use crate::spec::error::{Refusal, SpecError, shortened};
use crate::spec::job::JobSpec;
use crate::spec::limits::TASKS;
use crate::spec::nearest::closest;
use crate::spec::shape;
use crate::toolkit::{Toolkit, caffe, cntk, tensorflow};

pub(super) fn one(document: &mut Map<String, Value>, report: &mut Refusal) {
    let given: Vec<&str> = Toolkit::KEYS
        .into_iter()
        .filter(|key| document.get(*key).is_some_and(|value| !value.is_null()))
        .collect();
    match given[..] {
        [_] => return,
        [] => report.refuse(none(document)),
        [first, ref others @ ..] => {
            let error = SpecError::at(first, format!("{} toolkits: {}", given.len(), given.join(", ")));
            report.refuse(
                error.allowed("exactly one").cure(format!("remove all but one, as {}", others.join(", "))),
            );
            for other in others {
                document.remove(*other);
            }
            return;
        }
    }
    // A stand-in, so that the rest of the document can be checked.
    document.insert("customToolkitSettings".to_owned(), serde_json::json!({ "commandLine": "true" }));
}

fn none(document: &mut Map<String, Value>) -> SpecError {
    let is_known = |key: &str| shape::job().field(key).is_some();
    let unknown = document.iter().find(|(key, value)| is_settings(key) && !is_known(key) && !value.is_null());
    let Some(key) = unknown.map(|(key, _)| key.clone()) else {
        return SpecError::at("toolkit", "missing")
            .allowed(format!("exactly one of {}", Toolkit::KEYS.join(", ")))
            .cure("add the settings of one; `customToolkitSettings` runs any command");
    };
    document.remove(&key);
    let stem = |key: &str| key.len().saturating_sub("Settings".len());
    let meant = closest(&key[..stem(&key)], Toolkit::KEYS.map(|known| &known[..stem(known)]));
    let error = SpecError::at(shortened(&key), "unknown toolkit").allowed(Toolkit::KEYS.join(", "));
    match meant {
        Some((name, _)) => {
            error.cure(format!("did you mean `{name}Settings`? `customToolkitSettings` runs any command"))
        }
        None => error,
    }
}

fn is_settings(key: &str) -> bool {
    key.len() >= 8
        && key.is_char_boundary(key.len() - 8)
        && key[key.len() - 8..].eq_ignore_ascii_case("settings")
}

pub(super) fn check(spec: &JobSpec, report: &mut Refusal) {
    match &spec.toolkit {
        Toolkit::TensorFlow(settings) => check_tensorflow(spec, settings, report),
        Toolkit::Caffe(settings) => check_caffe(settings, report),
        Toolkit::Cntk(settings) => check_cntk(settings, report),
        Toolkit::PyTorch(_)
        | Toolkit::Caffe2(_)
        | Toolkit::Chainer(_)
        | Toolkit::Custom(_)
        | Toolkit::CustomMpi(_)
        | Toolkit::Horovod(_) => {}
    }
}

fn check_tensorflow(spec: &JobSpec, settings: &tensorflow::Settings, report: &mut Refusal) {
    let at = |field: &str| format!("tensorFlowSettings.{field}");
    let nodes = spec.node_count;
    if let Some(servers) = settings.parameter_server_count
        && servers > nodes
    {
        report.refuse(
            SpecError::at(at("parameterServerCount"), "more parameter servers than nodes")
                .value(servers)
                .allowed(format!("0 to {nodes} (nodeCount)"))
                .cure("lower it, or raise nodeCount"),
        );
    }
    let Some(workers) = settings.worker_count else { return };
    let gpus = spec.resources.and_then(|resources| resources.gpus_per_node).filter(|gpus| *gpus > 0);
    if let Some(gpus) = gpus
        && u64::from(workers) > u64::from(nodes) * u64::from(gpus)
    {
        let most = u64::from(nodes) * u64::from(gpus);
        report.refuse(
            SpecError::at(at("workerCount"), "more workers than GPUs")
                .value(workers)
                .allowed(format!("1 to {most} (nodeCount {nodes} x resources.gpusPerNode {gpus})"))
                .cure("lower it, or raise nodeCount or resources.gpusPerNode"),
        );
    }
    let tasks = u64::from(workers) + u64::from(settings.parameter_server_count.unwrap_or(1));
    if tasks > u64::from(TASKS) && settings.parameter_server_count.is_none_or(|servers| servers <= nodes) {
        report.refuse(
            SpecError::at(at("workerCount"), "too many tasks")
                .value(workers)
                .allowed(format!("{TASKS} tasks per job")),
        );
    }
}

fn check_caffe(settings: &caffe::Settings, report: &mut Refusal) {
    one_program("caffeSettings", &settings.config_file_path, &settings.python_script_file_path, report);
    interpreter_needs_script(
        "caffeSettings",
        &settings.python_interpreter_path,
        &settings.python_script_file_path,
        report,
    );
}

fn check_cntk(settings: &cntk::Settings, report: &mut Refusal) {
    one_program("cntkSettings", &settings.config_file_path, &settings.python_script_file_path, report);
    interpreter_needs_script(
        "cntkSettings",
        &settings.python_interpreter_path,
        &settings.python_script_file_path,
        report,
    );
    let fits = match settings.language_type.as_deref() {
        Some("BrainScript") => settings.python_script_file_path.is_none(),
        Some("Python") => settings.config_file_path.is_none(),
        Some(_) | None => true,
    };
    if !fits {
        report.refuse(
            SpecError::at("cntkSettings.languageType", "does not fit the file that is given")
                .value(settings.language_type.clone().unwrap_or_default())
                .allowed("BrainScript with configFilePath, Python with pythonScriptFilePath")
                .cure("remove languageType: it follows from the file"),
        );
    }
}

fn one_program(at: &str, config: &Option<String>, script: &Option<String>, report: &mut Refusal) {
    let allowed = "exactly one of configFilePath and pythonScriptFilePath";
    match (config, script) {
        (Some(_), Some(_)) => {
            report.refuse(SpecError::at(at, "both are given").allowed(allowed).cure("remove one"))
        }
        (None, None) => report.refuse(SpecError::at(at, "none is given").allowed(allowed).cure("add one")),
        (Some(_), None) | (None, Some(_)) => {}
    }
}

fn interpreter_needs_script(
    at: &str,
    interpreter: &Option<String>,
    script: &Option<String>,
    report: &mut Refusal,
) {
    if let (Some(interpreter), None) = (interpreter, script) {
        report.refuse(
            SpecError::at(format!("{at}.pythonInterpreterPath"), "there is no script for it")
                .value(interpreter.as_str())
                .allowed("only with pythonScriptFilePath")
                .cure("remove it"),
        );
    }
}
