//! Variables in paths and values: each must be one that the plan of the job defines, and none may be needed
//! for its own value.
//!
//! Directories and the job's own variables may use each other in any order. Programs come last and may use
//! what only a process has.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::error::{Refusal, SpecError};
use crate::spec::expand::variables_in;
use crate::spec::job::JobSpec;
use crate::spec::nearest::nearest;
use crate::toolkit::Toolkit;

/// Variables that each node defines before any path of the job is worked out: usable in every path.
/// Source: docs/compat.md, "Environment variables".
pub const PATH_VARIABLES: [&str; 10] = [
    "AZ_BATCHAI_JOB_MOUNT_ROOT",
    "AZ_BATCHAI_MOUNT_ROOT",
    "AZ_BATCHAI_JOB_TEMP",
    "AZ_BATCHAI_JOB_TEMP_DIR",
    "AZ_BATCHAI_SHARED_JOB_TEMP",
    "AZ_BATCHAI_ROOT",
    "AZ_BATCH_JOB_ID",
    "TRAINYARD_JOB",
    "TRAINYARD_NODE",
    "HOME",
];

/// Variables of a process: in values of environment variables and in paths of programs only.
const PROCESS_VARIABLES: [&str; 9] = [
    "AZ_BATCHAI_MPI_HOST_FILE",
    "AZ_BATCHAI_MPI_MASTER_NODE",
    "AZ_BATCHAI_NUM_GPUS",
    "AZ_BATCHAI_NUM_GPUS_PER_NODE",
    "AZ_BATCHAI_PS_HOSTS",
    "AZ_BATCHAI_WORKER_HOSTS",
    "AZ_BATCHAI_TASK_INDEX",
    "AZ_BATCHAI_PYTORCH_INIT_METHOD",
    "AZ_BATCHAI_PYTORCH_BACKEND",
];

/// Names that a message lists.
const NAMES_SHOWN: usize = 20;

pub(super) fn check(spec: &JobSpec, report: &mut Refusal) {
    let scope = Scope::of(spec);
    for (index, host) in spec.mount_volumes.iter().flat_map(|volumes| &volumes.host_paths).enumerate() {
        scope.check_path(&format!("mountVolumes.hostPaths[{index}].path"), &host.path, report);
    }
    for definition in &scope.definitions {
        match definition.kind {
            Kind::Directory => scope.check_path(&definition.at, definition.text, report),
            Kind::Value => scope.check_value(&definition.at, definition.text, report),
        }
    }
    if let Some(place) = scope.circle {
        let Definition { at, name, .. } = &scope.definitions[place];
        let error = SpecError::at(at, format!("`{name}` is needed for its own value"));
        report.refuse(error.cure("write one of the values out"));
    }
    for (field, path) in program_paths(&spec.toolkit) {
        let at = format!("{}.{field}", spec.toolkit.key());
        for name in variables_in(path).filter(|name| scope.secrets.contains(name) || !scope.is_defined(name))
        {
            report.refuse(scope.undefined(&at, name).value(path).allowed(scope.allowed()));
        }
    }
}

/// A text that gives a variable its value.
struct Definition<'a> {
    at: String,
    name: String,
    text: &'a str,
    kind: Kind,
}

enum Kind {
    Directory,
    Value,
}

/// What the job defines.
struct Scope<'a> {
    definitions: Vec<Definition<'a>>,
    places: BTreeMap<String, usize>,
    secrets: BTreeSet<&'a str>,
    /// For each definition, the variable of a process that it needs, by itself or through others.
    late: Vec<Option<&'static str>>,
    /// A definition that is needed for its own value.
    circle: Option<usize>,
}

impl<'a> Scope<'a> {
    fn of(spec: &'a JobSpec) -> Scope<'a> {
        let logs = Definition {
            at: "stdOutErrPathPrefix".to_owned(),
            name: "AZ_BATCHAI_STDOUTERR_DIR".to_owned(),
            text: &spec.std_out_err_path_prefix,
            kind: Kind::Directory,
        };
        let inputs = spec.input_directories.iter().enumerate().map(|(index, directory)| Definition {
            at: format!("inputDirectories[{index}].path"),
            name: format!("AZ_BATCHAI_INPUT_{}", directory.id),
            text: &directory.path,
            kind: Kind::Directory,
        });
        let outputs = spec.output_directories.iter().enumerate().map(|(index, directory)| Definition {
            at: format!("outputDirectories[{index}].pathPrefix"),
            name: format!("AZ_BATCHAI_OUTPUT_{}", directory.id),
            text: &directory.path_prefix,
            kind: Kind::Directory,
        });
        let variables = spec.environment_variables.iter().enumerate().map(|(index, variable)| Definition {
            at: format!("environmentVariables[{index}].value"),
            name: variable.name.clone(),
            text: &variable.value,
            kind: Kind::Value,
        });
        let definitions: Vec<Definition<'_>> =
            std::iter::once(logs).chain(inputs).chain(outputs).chain(variables).collect();
        let mut scope = Scope {
            places: definitions.iter().enumerate().map(|(place, d)| (d.name.clone(), place)).collect(),
            secrets: spec.secrets.iter().map(|secret| secret.name.as_str()).collect(),
            late: vec![None; definitions.len()],
            circle: None,
            definitions,
        };
        let mut marks = vec![Mark::New; scope.definitions.len()];
        (0..marks.len()).for_each(|place| scope.visit(place, &mut marks));
        scope
    }

    /// Looks at everything that this definition needs, once. Deep at most as many levels as there are
    /// definitions, of which `limits` allows few.
    fn visit(&mut self, place: usize, marks: &mut [Mark]) {
        match marks[place] {
            Mark::Done => return,
            Mark::Open => {
                self.circle.get_or_insert(place);
                return;
            }
            Mark::New => marks[place] = Mark::Open,
        }
        let definition = &self.definitions[place];
        // `PATH=/opt/bin:$PATH`: the node's value is meant. A directory has none from before.
        let itself = matches!(definition.kind, Kind::Value).then_some(definition.name.as_str());
        let needs: BTreeSet<&str> =
            variables_in(definition.text).filter(|name| Some(*name) != itself).collect();
        let process = PROCESS_VARIABLES.into_iter().find(|variable| needs.contains(variable));
        let needed: Vec<usize> = needs.iter().filter_map(|name| self.places.get(*name).copied()).collect();
        for needed in &needed {
            self.visit(*needed, marks);
        }
        self.late[place] = process.or_else(|| needed.iter().find_map(|needed| self.late[*needed]));
        marks[place] = Mark::Done;
    }

    fn is_defined(&self, name: &str) -> bool {
        PATH_VARIABLES.contains(&name) || PROCESS_VARIABLES.contains(&name) || self.places.contains_key(name)
    }

    /// What a directory may use, in words.
    fn allowed(&self) -> String {
        let own = self.definitions.iter().map(|definition| definition.name.as_str());
        let mut names: Vec<&str> = PATH_VARIABLES.into_iter().chain(own).collect();
        if names.len() > NAMES_SHOWN {
            names.truncate(NAMES_SHOWN);
            names.push("...");
        }
        names.join(", ")
    }

    /// A directory is made before any process starts: what only a process has cannot be in its path.
    fn check_path(&self, at: &str, path: &str, report: &mut Refusal) {
        for name in variables_in(path) {
            let error = if self.secrets.contains(name) || !self.is_defined(name) {
                self.undefined(at, name)
            } else if let Some(needed) = self.needs_process(name) {
                let problem =
                    format!("`{name}` differs between the processes of a job, and this is one directory");
                let problem =
                    if needed == name { problem } else { format!("{problem} (it needs `{needed}`)") };
                SpecError::at(at, problem).cure("write the path out")
            } else {
                continue;
            };
            report.refuse(error.value(path).allowed(self.allowed()));
        }
    }

    fn check_value(&self, at: &str, value: &str, report: &mut Refusal) {
        for name in variables_in(value) {
            if self.secrets.contains(name) {
                report.refuse(secret_in_text(at, name));
            } else if name.starts_with("AZ_BATCHAI_") && !self.is_defined(name) {
                report.warn(at, format!("nothing defines the variable `{name}`; {}", self.cure(name)));
            }
        }
    }

    fn undefined(&self, at: &str, name: &str) -> SpecError {
        if self.secrets.contains(name) {
            return secret_in_text(at, name);
        }
        SpecError::at(at, format!("nothing defines the variable `{name}`")).cure(self.cure(name))
    }

    fn cure(&self, name: &str) -> String {
        let own = self.definitions.iter().map(|definition| definition.name.as_str());
        match nearest(name, PATH_VARIABLES.into_iter().chain(PROCESS_VARIABLES).chain(own)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add `{name}` to environmentVariables, or write it out"),
        }
    }

    /// The variable of a process that this one is or needs.
    fn needs_process(&self, name: &str) -> Option<&'static str> {
        match self.places.get(name) {
            Some(place) => self.late[*place],
            None => PROCESS_VARIABLES.into_iter().find(|variable| *variable == name),
        }
    }
}

#[derive(Clone, Copy)]
enum Mark {
    New,
    Open,
    Done,
}

fn secret_in_text(at: &str, name: &str) -> SpecError {
    SpecError::at(at, format!("`{name}` is a secret, and would be shown here"))
        .cure("let the program read it from its environment")
}

/// The paths of programs in the settings of a toolkit, by field.
fn program_paths(toolkit: &Toolkit) -> Vec<(&'static str, &str)> {
    let (config, script, interpreter) = match toolkit {
        Toolkit::Cntk(s) => {
            (&s.config_file_path, s.python_script_file_path.as_ref(), &s.python_interpreter_path)
        }
        Toolkit::Caffe(s) => {
            (&s.config_file_path, s.python_script_file_path.as_ref(), &s.python_interpreter_path)
        }
        Toolkit::PyTorch(s) => (&None, Some(&s.python_script_file_path), &s.python_interpreter_path),
        Toolkit::TensorFlow(s) => (&None, Some(&s.python_script_file_path), &s.python_interpreter_path),
        Toolkit::Caffe2(s) => (&None, Some(&s.python_script_file_path), &s.python_interpreter_path),
        Toolkit::Chainer(s) => (&None, Some(&s.python_script_file_path), &s.python_interpreter_path),
        Toolkit::Horovod(s) => (&None, Some(&s.python_script_file_path), &s.python_interpreter_path),
        Toolkit::Custom(_) | Toolkit::CustomMpi(_) => return vec![],
    };
    let fields = [
        ("configFilePath", config.as_deref()),
        ("pythonScriptFilePath", script.map(String::as_str)),
        ("pythonInterpreterPath", interpreter.as_deref()),
    ];
    fields.into_iter().filter_map(|(field, path)| Some((field, path?))).collect()
}
