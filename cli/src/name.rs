//! Names for jobs that were given none: `adjective-noun-1234`.

use crate::config;

/// A name drawn at random.
pub(crate) fn generate() -> anyhow::Result<String> {
    Ok(from_number(u64::from_le_bytes(config::random()?)))
}

/// The name that belongs to a number; all names are about equally likely.
fn from_number(mut number: u64) -> String {
    let mut take = |n: usize| {
        let n = n as u64;
        let part = number % n;
        number /= n;
        // Less than a list's length.
        part as usize
    };
    let adjective = ADJECTIVES[take(ADJECTIVES.len())];
    let noun = NOUNS[take(NOUNS.len())];
    format!("{adjective}-{noun}-{:04}", take(10_000))
}

#[rustfmt::skip]
const ADJECTIVES: [&str; 60] = [
    "amber", "ample", "azure", "bold", "brave", "brisk", "bronze", "calm", "candid", "chilly", "civil", "clear",
    "copper", "coral", "crisp", "deft", "dusky", "eager", "early", "even", "fabled", "fair", "fleet", "fond",
    "gentle", "gilded", "glad", "golden", "grand", "hardy", "hazel", "humble", "ivory", "jolly", "keen", "kind",
    "level", "lively", "lucid", "lunar", "mellow", "merry", "mild", "nimble", "noble", "patient", "placid", "proud",
    "quick", "quiet", "rapid", "ready", "rustic", "silver", "solar", "steady", "sunny", "swift", "tidy", "vivid",
];

#[rustfmt::skip]
const NOUNS: [&str; 60] = [
    "anvil", "axle", "beacon", "boiler", "bolt", "bridge", "buffer", "cabin", "canyon", "cargo", "caboose", "comet",
    "coupler", "crane", "delta", "depot", "engine", "express", "ferry", "flint", "forge", "freight", "gable", "gantry",
    "gauge", "girder", "harbor", "hopper", "junction", "lantern", "lever", "local", "loom", "meadow", "mill", "needle",
    "orbit", "otter", "piston", "platform", "points", "portal", "quarry", "rail", "ridge", "river", "rocket", "shuttle",
    "siding", "signal", "sleeper", "spark", "spur", "switch", "tender", "tower", "track", "trestle", "tunnel", "wagon",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use trainyard_core::text::Name;

    use super::*;

    #[test]
    fn every_number_gives_a_name_that_is_allowed() {
        for number in [0, 1, 59, 60, 3_599, 3_600, 35_999_999, 36_000_000, u64::MAX] {
            let name = from_number(number);
            assert!(Name::parse(&name).is_ok(), "{name}");
            assert_eq!(name.split('-').count(), 3, "{name}");
        }
        assert_eq!(from_number(0), "amber-anvil-0000");
        assert_eq!(from_number(60 * 60 * 10_000 - 1), "vivid-wagon-9999");
    }

    #[test]
    fn no_word_stands_twice() {
        let words: BTreeSet<&str> = ADJECTIVES.iter().chain(&NOUNS).copied().collect();
        assert_eq!(words.len(), ADJECTIVES.len() + NOUNS.len());
    }
}
