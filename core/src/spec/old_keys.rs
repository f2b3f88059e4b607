//! Keys that real job files hold and that have no effect, with what they are: of older api-versions, or
//! set by the service alone. Source: docs/compat.md, "Job".

/// What the key is, if it is one of these. `at` is the path of the object that holds it.
pub(super) fn meaning(at: &str, key: &str) -> Option<&'static str> {
    let kind_of_place = at.split('[').next().unwrap_or_default();
    Some(match (kind_of_place, key) {
        ("", "toolType") => "read-only, it follows from the settings key",
        ("", "experimentName") => "read-only, the experiment is chosen when the job is submitted",
        ("", "location") => "of api-version 2018-03-01, a job has no location",
        ("", "priority") => "of api-version 2018-03-01, now `schedulingPriority` (low, normal, high)",
        ("", "id" | "name" | "type") => "read-only, the job gets its name when it is submitted",
        (
            "",
            "jobOutputDirectoryPathSegment"
            | "creationTime"
            | "provisioningState"
            | "provisioningStateTransitionTime"
            | "executionState"
            | "executionStateTransitionTime"
            | "executionInfo"
            | "trainyard",
        ) => "read-only, set by the service",
        ("outputDirectories", "type") => "of api-version 2018-03-01, output directories have no type",
        ("outputDirectories", "createNew") => "of api-version 2018-03-01, output directories are always made",
        ("mountVolumes.azureFileShares" | "mountVolumes.azureBlobFileSystems", "credentialsInfo") => {
            "of api-version 2017-09-01-preview, now `credentials`"
        }
        _ => return None,
    })
}
