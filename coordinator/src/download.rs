//! Signed links to files of a job: who holds one may read that one file until it expires, without a token.
//!
//! `<base64url of the claim>.<base64url of its HMAC-SHA256>`. The key is drawn once per database.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use trainyard_core::id::GangId;
use trainyard_core::unit::WallMs;

/// The longest ticket that is looked at, bytes.
const TICKET_BYTES: usize = 16 * 1024;

/// One file of one gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Claim {
    pub(crate) gang: GangId,
    /// `stdouterr`, or the id of an output directory.
    pub(crate) directory: String,
    /// Below it, with `/`.
    pub(crate) path: String,
    pub(crate) expires: WallMs,
}

/// Signs and checks links.
#[derive(Clone)]
pub(crate) struct Signer {
    key: Vec<u8>,
}

/// The link was not made here, or has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadLink;

impl Signer {
    pub(crate) fn new(key: &str) -> Signer {
        Signer { key: key.as_bytes().to_vec() }
    }

    pub(crate) fn sign(&self, claim: &Claim) -> String {
        let claim = serde_json::to_vec(claim).unwrap_or_default();
        let code = self.code(&claim).finalize().into_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(claim), URL_SAFE_NO_PAD.encode(code))
    }

    pub(crate) fn check(&self, ticket: &str, now: WallMs) -> Result<Claim, BadLink> {
        if ticket.len() > TICKET_BYTES {
            return Err(BadLink);
        }
        let (claim, code) = ticket.split_once('.').ok_or(BadLink)?;
        let claim = URL_SAFE_NO_PAD.decode(claim).map_err(|_| BadLink)?;
        let code = URL_SAFE_NO_PAD.decode(code).map_err(|_| BadLink)?;
        // In constant time.
        self.code(&claim).verify_slice(&code).map_err(|_| BadLink)?;
        let claim: Claim = serde_json::from_slice(&claim).map_err(|_| BadLink)?;
        if claim.expires > now { Ok(claim) } else { Err(BadLink) }
    }

    fn code(&self, claim: &[u8]) -> Hmac<Sha256> {
        let mut code =
            <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        code.update(claim);
        code
    }
}

/// A new key: 32 random bytes, in hex.
pub(crate) fn draw_key() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes from its start on");
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_core::id::{GangNo, JobId};

    fn claim() -> Claim {
        Claim {
            gang: GangId { job: JobId(7), gang: GangNo(1) },
            directory: "stdouterr".to_owned(),
            path: "stdout.txt".to_owned(),
            expires: WallMs(1000),
        }
    }

    #[test]
    fn a_link_gives_its_file_until_it_expires() {
        let signer = Signer::new(&draw_key());
        let ticket = signer.sign(&claim());
        assert_eq!(signer.check(&ticket, WallMs(999)), Ok(claim()));
        assert_eq!(signer.check(&ticket, WallMs(1000)), Err(BadLink));
    }

    #[test]
    fn a_changed_or_foreign_link_is_refused() {
        let signer = Signer::new(&draw_key());
        let ticket = signer.sign(&claim());
        assert_eq!(Signer::new(&draw_key()).check(&ticket, WallMs(0)), Err(BadLink));
        let other = signer.sign(&Claim { path: "stderr.txt".to_owned(), ..claim() });
        let (body, _) = other.split_once('.').unwrap();
        let (_, code) = ticket.split_once('.').unwrap();
        assert_eq!(signer.check(&format!("{body}.{code}"), WallMs(0)), Err(BadLink));
        for bad in ["", ".", "a.b", "%", &"x".repeat(TICKET_BYTES + 1)] {
            assert_eq!(signer.check(bad, WallMs(0)), Err(BadLink));
        }
    }
}
