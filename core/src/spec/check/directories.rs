//! Input, output and log directories: ids and forms of paths.

use std::collections::BTreeMap;

use crate::spec::error::{Refusal, SpecError};
use crate::spec::expand::variables_in;
use crate::spec::job::JobSpec;
use crate::spec::limits::PATH_BYTES;
use crate::text::Name;

pub(super) fn check(spec: &JobSpec, report: &mut Refusal) {
    check_absolute("stdOutErrPathPrefix", &spec.std_out_err_path_prefix, report);
    check_ids(
        "inputDirectories",
        spec.input_directories.iter().map(|directory| directory.id.as_str()),
        report,
    );
    for (index, directory) in spec.input_directories.iter().enumerate() {
        check_absolute(&format!("inputDirectories[{index}].path"), &directory.path, report);
    }
    check_ids(
        "outputDirectories",
        spec.output_directories.iter().map(|directory| directory.id.as_str()),
        report,
    );
    for (index, directory) in spec.output_directories.iter().enumerate() {
        let at = format!("outputDirectories[{index}]");
        if directory.id == "stdouterr" {
            let error = SpecError::at(format!("{at}.id"), "names the log directory").value("stdouterr");
            report.refuse(error.cure("choose another id"));
        }
        check_absolute(&format!("{at}.pathPrefix"), &directory.path_prefix, report);
        if let Some(suffix) = directory.path_suffix.as_deref().filter(|suffix| !suffix.is_empty()) {
            check_relative(&format!("{at}.pathSuffix"), suffix, report);
        }
    }
}

fn check_ids<'a>(list: &str, ids: impl Iterator<Item = &'a str>, report: &mut Refusal) {
    let mut seen = BTreeMap::new();
    for (index, id) in ids.enumerate() {
        let path = format!("{list}[{index}].id");
        if Name::parse(id).is_err() {
            let error = SpecError::at(path, "not an id").value(id);
            report.refuse(error.allowed("1 to 64 of the characters A-Z a-z 0-9 _ -"));
            continue;
        }
        if let Some(first) = seen.insert(id, index) {
            let problem = format!("the same id as {list}[{first}]");
            report.refuse(SpecError::at(path, problem).value(id).cure("give each directory its own id"));
            continue;
        }
        if id.contains('-') {
            report.warn(path, "no shell can read a variable with `-` in its name: `_` is better");
        }
    }
}

/// A path that is absolute once its variables are expanded, without `..`.
pub(super) fn check_absolute(at: &str, path: &str, report: &mut Refusal) {
    let begins_with_variable = path.starts_with('$') && variables_in(path).next().is_some();
    let problem = if !path.starts_with('/') && !begins_with_variable {
        "not an absolute path"
    } else if goes_up(path) {
        "contains `..`"
    } else {
        return check_text(at, path, report);
    };
    let error = SpecError::at(at, problem).value(path);
    report
        .refuse(error.allowed("a path that begins with / or a variable, as $AZ_BATCHAI_JOB_MOUNT_ROOT/logs"));
}

/// A path below another: not absolute, without `..`, with at least one name.
pub(super) fn check_relative(at: &str, path: &str, report: &mut Refusal) {
    let problem = if path.starts_with('/') {
        "an absolute path"
    } else if goes_up(path) {
        "contains `..`"
    } else if path.split('/').all(|part| matches!(part, "" | ".")) {
        "names no folder"
    } else {
        if path.contains('$') {
            report.warn(at, "variables are not expanded here: the folder will have a `$` in its name");
        }
        return check_text(at, path, report);
    };
    let error = SpecError::at(at, problem).value(path);
    report.refuse(
        error
            .allowed("a path below another, as `data/train`")
            .cure("write it without `/` in front and without `..`"),
    );
}

fn goes_up(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

pub(super) fn check_text(at: &str, path: &str, report: &mut Refusal) {
    if path.chars().any(char::is_control) {
        report.refuse(SpecError::at(at, "contains a control character").value(path).cure("remove it"));
    }
    if path.len() > PATH_BYTES {
        let problem = format!("{} bytes are too many", path.len());
        report.refuse(SpecError::at(at, problem).allowed(format!("up to {PATH_BYTES} bytes")));
    }
}
