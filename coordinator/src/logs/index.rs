//! `.index`: one JSON line for each end and each gap, appended and made durable before it is acknowledged.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Line {
    /// The stream of this file has ended.
    End(String),
    /// Bytes of this file that were dropped on the node: from, to.
    Gap(String, u64, u64),
}

pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(".index")
}

/// A line that was torn by a power cut was never acknowledged: it is left out.
pub(super) fn read(folder: &Path) -> io::Result<Vec<Line>> {
    match std::fs::read_to_string(path(folder)) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Appends the lines; the caller syncs the file.
pub(super) fn append(folder: &Path, lines: &[Line]) -> io::Result<File> {
    // The empty line first closes one that a power cut may have torn.
    let mut text = String::from("\n");
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path(folder))?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}
