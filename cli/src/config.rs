//! Where things of the user lie, and which coordinator a client speaks to.
//!
//! `up` writes `client.json` (mode 0600) into the user's configuration folder; clients read it unless flags
//! or variables say otherwise.

use std::env;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use trainyard_core::text::Secret;

/// The port of the coordinator, for agents and clients alike.
pub(crate) const PORT: u16 = 8470;

/// Bytes of a token in random; printed as twice as many hexadecimal digits.
const TOKEN_BYTES: usize = 32;

/// Which coordinator, and what to show it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `http://HOST:PORT`, without a slash at the end.
    pub(crate) coordinator: String,
    /// Absent: only `/healthz` answers.
    pub(crate) token: Option<Secret>,
}

/// `client.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientFile {
    coordinator: String,
    token: String,
    /// Of the `up` that wrote it, so that `down` finds what it has to stop.
    #[serde(default)]
    state_dir: Option<PathBuf>,
}

impl Target {
    /// From the flag or `TRAINYARD_COORDINATOR` (`coordinator`), `TRAINYARD_TOKEN`, and `client.json`.
    ///
    /// The token of `client.json` is sent only to the coordinator of `client.json`.
    pub(crate) fn find(coordinator: Option<&str>) -> anyhow::Result<Target> {
        let from_variable = env::var("TRAINYARD_TOKEN").ok().filter(|t| !t.is_empty()).map(Secret::new);
        let file = client_file();
        let Some(coordinator) = coordinator else {
            let file = read_client_file(&file)?.with_context(|| {
                format!(
                    "no coordinator is known: {} does not exist. Start one with: trainyard up, or name one with \
                     --coordinator URL or TRAINYARD_COORDINATOR",
                    file.display()
                )
            })?;
            let token = from_variable.or_else(|| Some(Secret::new(file.token)));
            return Ok(Target { coordinator: coordinator_url(&file.coordinator)?, token });
        };
        let coordinator = coordinator_url(coordinator)?;
        let token = match from_variable {
            Some(token) => Some(token),
            None => read_client_file(&file)?
                .filter(|file| coordinator_url(&file.coordinator).is_ok_and(|known| known == coordinator))
                .map(|file| Secret::new(file.token)),
        };
        Ok(Target { coordinator, token })
    }
}

/// Makes a base URL of what a user typed: a missing `http://` and a missing port are filled in.
pub(crate) fn coordinator_url(text: &str) -> anyhow::Result<String> {
    let text = text.trim().trim_end_matches('/');
    if text.starts_with("https://") {
        bail!(
            "{text}: https is not built yet; http:// only, through a tunnel where the network is not trusted"
        );
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    if rest.is_empty() || rest.contains("://") || rest.contains('/') || rest.contains(char::is_whitespace) {
        bail!("`{text}` is no coordinator: http://HOST:PORT is expected");
    }
    let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port { format!("http://{rest}") } else { format!("http://{rest}:{PORT}") })
}

/// Writes `client.json`, mode 0600, at once or not at all.
pub(crate) fn write_client_file(target: &Target, state_dir: &Path) -> anyhow::Result<PathBuf> {
    let path = client_file();
    let token = target.token.as_ref().map(Secret::expose).unwrap_or_default();
    let file = ClientFile {
        coordinator: target.coordinator.clone(),
        token: token.to_owned(),
        state_dir: Some(state_dir.to_owned()),
    };
    let text = serde_json::to_string_pretty(&file).context("writing JSON")?;
    write_private(&path, text.as_bytes())?;
    Ok(path)
}

/// The state directory of the last `up` of this user.
pub(crate) fn last_state_dir() -> anyhow::Result<Option<PathBuf>> {
    Ok(read_client_file(&client_file())?.and_then(|file| file.state_dir))
}

fn read_client_file(path: &Path) -> anyhow::Result<Option<ClientFile>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    };
    // serde's message could quote the token: only the place is told.
    let file = serde_json::from_slice(&text).map_err(|e| {
        anyhow::anyhow!(
            "{} is damaged (line {}): remove it, and start `trainyard up` again",
            path.display(),
            e.line()
        )
    })?;
    Ok(Some(file))
}

/// The token kept in this state directory; made if there is none.
pub(crate) fn keep_token(state_dir: &Path) -> anyhow::Result<Secret> {
    let path = state_dir.join("token");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim().to_owned())),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    }
    let token = new_token()?;
    write_private(&path, token.expose().as_bytes())?;
    Ok(token)
}

/// A new token from the kernel's random source.
pub(crate) fn new_token() -> anyhow::Result<Secret> {
    let bytes: [u8; TOKEN_BYTES] = random()?;
    Ok(Secret::new(bytes.iter().map(|b| format!("{b:02x}")).collect()))
}

/// Bytes of the kernel's random source.
pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("reading random bytes: {e}"))?;
    Ok(bytes)
}

fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let dir = path.parent().context("a file in a directory")?;
    make_private_dir(dir)?;
    let tmp = path.with_extension(format!("tmp{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&tmp, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Makes a directory and its parents, readable by its owner only where it is new.
pub(crate) fn make_private_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("making the directory {}", dir.display()))
}

fn client_file() -> PathBuf {
    config_dir().join("client.json")
}

fn config_dir() -> PathBuf {
    base_dir("XDG_CONFIG_HOME", ".config").join("trainyard")
}

/// The state directory of `up` unless one is named: `/var/lib/trainyard` for root.
pub(crate) fn default_state_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() { PathBuf::from("/var/lib/trainyard") } else { user_state_dir() }
}

/// The user's own state directory, root's too.
pub(crate) fn user_state_dir() -> PathBuf {
    base_dir("XDG_STATE_HOME", ".local/state").join("trainyard")
}

/// The XDG rule: the variable if it holds an absolute path, else a folder of the home directory.
fn base_dir(variable: &str, below_home: &str) -> PathBuf {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable)
        .or_else(|| absolute("HOME").map(|home| home.join(below_home)))
        .unwrap_or_else(|| PathBuf::from("/").join("root").join(below_home))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_coordinator_is_completed_or_refused() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(coordinator_url(text).ok().as_deref(), expected, "{text}")
        };
        check("http://10.0.0.4:8470/", Some("http://10.0.0.4:8470"));
        check("10.0.0.4", Some("http://10.0.0.4:8470"));
        check("host:1", Some("http://host:1"));
        check("http://[::1]", Some("http://[::1]:8470"));
        check("[::1]:9", Some("http://[::1]:9"));
        check("https://host", None);
        check("ftp://host", None);
        check("http://host/path", None);
        check("", None);
    }

    #[test]
    fn a_token_stays_the_same_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = keep_token(&state).unwrap();
        assert_eq!(first.expose().len(), 2 * TOKEN_BYTES);
        assert_eq!(keep_token(&state).unwrap(), first);
        assert_eq!(fs::metadata(state.join("token")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
