//! Settings of daemons in layers: flag over environment over file over default, each with where it came from.
//!
//! The file is TOML with the flags' names as keys (`state_dir = "/srv/trainyard"`), the environment's names
//! are `TRAINYARD_` and the key in capitals. No secret is a setting: a file that holds one is.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};

/// Bytes of a configuration file at most.
const FILE_BYTES: u64 = 1024 * 1024;

/// The layers, and what was wrong with them.
pub(crate) struct Settings {
    file: toml::Table,
    file_path: Option<PathBuf>,
    env: fn(&str) -> Option<String>,
    known: BTreeSet<&'static str>,
    effective: Vec<Effective>,
    errors: Vec<String>,
}

struct Effective {
    key: &'static str,
    value: Value,
    source: String,
}

/// A value as text, and where it came from.
struct Raw {
    text: String,
    source: String,
}

impl Settings {
    /// Reads the file, if there is one.
    pub(crate) fn read(file: Option<&Path>) -> Settings {
        Settings::with(file, |name| std::env::var(name).ok())
    }

    fn with(file: Option<&Path>, env: fn(&str) -> Option<String>) -> Settings {
        let mut settings = Settings {
            file: toml::Table::new(),
            file_path: file.map(Path::to_owned),
            env,
            known: BTreeSet::new(),
            effective: Vec::new(),
            errors: Vec::new(),
        };
        if let Some(path) = file {
            match read_table(path) {
                Ok(table) => settings.file = table,
                Err(e) => settings.errors.push(format!("{}: {e}", path.display())),
            }
        }
        settings
    }

    /// A setting that has a default.
    pub(crate) fn get<T>(&mut self, key: &'static str, flag: Option<String>, default: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let raw = self
            .raw(key, flag)
            .unwrap_or_else(|| Raw { text: default.to_owned(), source: "default".to_owned() });
        self.parse(key, raw)
    }

    /// A setting that may be absent.
    pub(crate) fn optional<T>(&mut self, key: &'static str, flag: Option<String>) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let raw = self.raw(key, flag)?;
        self.parse(key, raw)
    }

    /// A setting without which nothing goes.
    pub(crate) fn required<T>(&mut self, key: &'static str, flag: Option<String>, hint: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let Some(raw) = self.raw(key, flag) else {
            self.errors.push(format!("{key}: not set; {hint}"));
            return None;
        };
        self.parse(key, raw)
    }

    /// Something else is wrong.
    pub(crate) fn refuse(&mut self, error: impl Display) {
        self.errors.push(error.to_string());
    }

    fn raw(&mut self, key: &'static str, flag: Option<String>) -> Option<Raw> {
        self.known.insert(key);
        let variable = format!("TRAINYARD_{}", key.to_ascii_uppercase());
        if let Some(text) = flag {
            return Some(Raw { text, source: format!("--{}", key.replace('_', "-")) });
        }
        if let Some(text) = (self.env)(&variable).filter(|text| !text.is_empty()) {
            return Some(Raw { text, source: variable });
        }
        let path = self.file_path.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
        let text = match self.file.get(key)? {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(n) => n.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                self.errors.push(format!("{path}: {key}: text, a number, true or false is expected"));
                return None;
            }
        };
        Some(Raw { text, source: path })
    }

    fn parse<T>(&mut self, key: &'static str, raw: Raw) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        match raw.text.parse() {
            Ok(value) => {
                self.effective.push(Effective { key, value: json!(raw.text), source: raw.source });
                Some(value)
            }
            Err(e) => {
                self.errors.push(format!("{} ({}) = `{}`: {e}", key, raw.source, raw.text));
                None
            }
        }
    }

    /// What is wrong with the settings that were asked for; the file may hold others.
    pub(crate) fn errors_of_those_asked_for(&self) -> &[String] {
        &self.errors
    }

    /// All that is wrong, unknown keys of the file among it.
    pub(crate) fn errors(&self) -> Vec<String> {
        let mut errors = self.errors.clone();
        let path = self.file_path.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
        for key in self.file.keys().filter(|key| !self.known.contains(key.as_str())) {
            let known: Vec<&str> = self.known.iter().copied().collect();
            errors.push(format!("{path}: unknown key `{key}`; known are: {}", known.join(", ")));
        }
        errors
    }

    /// The settings in effect with their sources.
    pub(crate) fn effective(&self) -> Value {
        let settings = self.effective.iter().map(|setting| {
            (setting.key.to_owned(), json!({"value": setting.value, "source": setting.source}))
        });
        Value::Object(settings.collect())
    }
}

fn read_table(path: &Path) -> Result<toml::Table, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > FILE_BYTES {
        return Err(format!("{size} bytes; 1 MiB is the limit"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    text.parse().map_err(|e: toml::de::Error| e.to_string().trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn some_env(name: &str) -> Option<String> {
        (name == "TRAINYARD_LISTEN").then(|| "from-env".to_owned())
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn get(settings: &mut Settings, flag: Option<&str>) -> Option<String> {
        settings.get("listen", flag.map(str::to_owned), "default")
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
        let file = file("listen = 'from-file'");
        assert_eq!(get(&mut Settings::with(None, no_env), None).as_deref(), Some("default"));
        assert_eq!(get(&mut Settings::with(Some(file.path()), no_env), None).as_deref(), Some("from-file"));
        assert_eq!(get(&mut Settings::with(Some(file.path()), some_env), None).as_deref(), Some("from-env"));
        let mut settings = Settings::with(Some(file.path()), some_env);
        assert_eq!(get(&mut settings, Some("from-flag")).as_deref(), Some("from-flag"));
        assert_eq!(settings.effective(), json!({"listen": {"value": "from-flag", "source": "--listen"}}));
        assert!(settings.errors().is_empty());
    }

    #[test]
    fn everything_wrong_is_told() {
        let file = file("listen = [1]\nlisen = 1\nnumber = 'x'");
        let mut settings = Settings::with(Some(file.path()), no_env);
        assert_eq!(settings.optional::<String>("listen", None), None);
        assert_eq!(settings.optional::<u32>("number", None), None);
        assert_eq!(settings.required::<String>("root", None, "give --root"), None);
        let errors = settings.errors().join("\n");
        for part in ["listen: text", "number", "`x`", "root: not set; give --root", "unknown key `lisen`"] {
            assert!(errors.contains(part), "{part} in {errors}");
        }
        assert!(!Settings::with(Some(Path::new("/none")), no_env).errors().is_empty());
    }
}
