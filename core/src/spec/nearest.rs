//! Which known word was probably meant.

/// The candidate most like `word`, if any is much like it.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (candidate, likeness) = closest(word, candidates)?;
    (likeness >= 0.8).then_some(candidate)
}

/// The candidate most like `word`, however unlike, and how like it is, 0 to 1.
pub(super) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<(&'a str, f64)> {
    // Keys can be as long as the document; no known one is longer than this.
    let word: String = word.chars().take(64).flat_map(char::to_lowercase).collect();
    let mut best: Option<(&str, f64)> = None;
    for candidate in candidates {
        let lower = candidate.to_lowercase();
        // Typing slips are few edits; abbreviations share the beginning.
        let likeness =
            strsim::jaro_winkler(&word, &lower).max(strsim::normalized_damerau_levenshtein(&word, &lower));
        if best.is_none_or(|(_, of_best)| likeness > of_best) {
            best = Some((candidate, likeness));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word_and_strangers_none() {
        let known = ["nodeCount", "stdOutErrPathPrefix", "secrets", "retries", "containerSettings"];
        for (word, expected) in [
            ("nodecount", Some("nodeCount")),
            ("nodeCnt", Some("nodeCount")),
            ("stdOutErrPath", Some("stdOutErrPathPrefix")),
            ("containerSetings", Some("containerSettings")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
