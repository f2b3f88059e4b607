//! The container files, as far as they can be checked without building them.

use std::path::{Path, PathBuf};

/// Every instruction of a Containerfile. Source: the Dockerfile reference.
const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.file_name().is_some_and(|name| name == "Containerfile") {
            found.push(path);
        }
    }
}

/// Instruction and rest of each logical line.
fn instructions(text: &str) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty() && !part.starts_with('#')) {
        match part.strip_suffix('\\') {
            Some(begun) => line.push_str(begun),
            None => {
                line.push_str(part);
                let (word, rest) = line.split_once(' ').unwrap_or((line.as_str(), ""));
                lines.push((word.to_owned(), rest.trim().to_owned()));
                line.clear();
            }
        }
    }
    assert_eq!(line, "", "the last line goes on");
    lines
}

#[test]
fn container_files_read_as_such() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    let mut found = Vec::new();
    files(&images, &mut found);
    assert!(!found.is_empty());
    for path in found {
        let lines = instructions(&std::fs::read_to_string(&path).unwrap());
        let first = lines.iter().find(|(word, _)| word != "ARG").unwrap();
        assert_eq!(first.0, "FROM", "{}", path.display());
        for (word, rest) in &lines {
            assert!(INSTRUCTIONS.contains(&word.as_str()), "{}: {word}", path.display());
            if ["CMD", "ENTRYPOINT"].contains(&word.as_str()) {
                let argv: Vec<String> = serde_json::from_str(rest).unwrap();
                assert!(!argv.is_empty());
            }
        }
        let readme = std::fs::read_to_string(images.join("README.md")).unwrap();
        let image = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(&format!("`{image}/`")), "images/README.md does not know {image}");
    }
}
