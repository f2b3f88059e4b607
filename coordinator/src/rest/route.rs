//! What a route is, and how its path is matched without regard to case.

use axum::routing::MethodRouter;
use http::Method;

use super::App;
use super::authz::{Act, Action};

/// One line of a route table.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// With parameters as `{job}`.
    pub(crate) path: &'static str,
    /// What the caller must be allowed to do.
    pub(crate) action: Action,
    pub(crate) handler: fn() -> MethodRouter<App>,
}

/// A line of a route table, for an action of type `A`, which the handler's `Authz<A>` repeats.
pub(crate) const fn route<A: Act>(
    method: Method,
    path: &'static str,
    handler: fn() -> MethodRouter<App>,
) -> Route {
    Route { method, path, action: A::ACTION, handler }
}

/// Templates whose literal segments are compared without case, as the service did.
pub(crate) struct Templates(Vec<Vec<&'static str>>);

impl Templates {
    pub(crate) fn new(paths: impl Iterator<Item = &'static str>) -> Templates {
        let mut templates: Vec<Vec<&str>> = paths.map(|path| path.split('/').collect()).collect();
        templates.sort();
        templates.dedup();
        Templates(templates)
    }

    /// The path with its literal segments in the case of the template that fits; `None`: it is in that case
    /// already, or no template fits.
    pub(crate) fn canonical(&self, path: &str) -> Option<String> {
        let segments: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let template = self.0.iter().find(|template| fits(template, &segments))?;
        let canonical: Vec<&str> =
            segments.iter().enumerate().map(|(i, segment)| literal(template, i).unwrap_or(segment)).collect();
        let canonical = canonical.join("/");
        (canonical != path).then_some(canonical)
    }
}

/// The text of the template's segment, unless it is a parameter or beyond its end.
fn literal<'a>(template: &[&'a str], i: usize) -> Option<&'a str> {
    template.get(i).copied().filter(|segment| !segment.starts_with('{'))
}

fn fits(template: &[&str], segments: &[&str]) -> bool {
    let rest = template.last().is_some_and(|last| last.starts_with("{*"));
    let length = if rest { segments.len() >= template.len() } else { segments.len() == template.len() };
    length
        && template.iter().zip(segments).all(|(want, have)| {
            if want.starts_with('{') { !have.is_empty() } else { want.eq_ignore_ascii_case(have) }
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JOB: &str = "/subscriptions/{s}/resourceGroups/{g}/providers/Microsoft.BatchAI/workspaces/{w}/experiments/{e}/jobs/{j}";

    fn templates() -> Templates {
        Templates::new([JOB, "/api/v1/files/{ticket}/{*name}", "/healthz"].into_iter())
    }

    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(templates().canonical(path).as_deref(), expected, "{path}");
    }

    #[test]
    fn literals_take_the_case_of_the_template_and_names_keep_theirs() {
        check(
            "/SUBSCRIPTIONS/S/resourcegroups/JOBS/providers/microsoft.batchai/Workspaces/w/experiments/E/JOBS/Jobs",
            Some(
                "/subscriptions/S/resourceGroups/JOBS/providers/Microsoft.BatchAI/workspaces/w/experiments/E/jobs/Jobs",
            ),
        );
        check("/healthz", None);
        check("/healthz/", Some("/healthz"));
        check("/HEALTHZ/x", None);
        check("/API/v1/files/T.t/a/B", Some("/api/v1/files/T.t/a/B"));
    }

    proptest! {
        #[test]
        fn a_path_stays_one_of_the_same_length_and_is_stable(path in "(/[a-zA-Z%.~-]{0,9}){0,14}/?") {
            if let Some(canonical) = templates().canonical(&path) {
                prop_assert!(canonical.eq_ignore_ascii_case(path.trim_end_matches('/')));
                prop_assert_eq!(templates().canonical(&canonical), None);
            }
        }

        #[test]
        fn names_are_never_changed(names in proptest::collection::vec("[a-zA-Z0-9_-]{1,12}", 5)) {
            let mut names = names.into_iter();
            let path: Vec<String> = JOB
                .split('/')
                .map(|s| if s.starts_with('{') { names.next().unwrap() } else { s.to_ascii_uppercase() })
                .collect();
            let canonical = templates().canonical(&path.join("/")).unwrap();
            for (have, want) in canonical.split('/').zip(&path) {
                prop_assert!(have == want || JOB.split('/').any(|s| s == have));
            }
        }
    }
}
