//! In which order texts are expanded that define variables and use each other's.

use std::collections::BTreeMap;

use super::PlanError;
use crate::spec::expand::variables_in;

/// A variable, and the text that gives its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Definition<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
}

/// The places of all definitions: each after those it needs, else in their own order.
///
/// A text that names its own variable means the value from before, as in `PATH=/opt/bin:$PATH`.
pub(super) fn order(definitions: &[Definition<'_>]) -> Result<Vec<usize>, PlanError> {
    let places = definitions.iter().enumerate().map(|(place, definition)| (definition.name, place)).collect();
    let mut walk = Walk { definitions, places, marks: vec![Mark::New; definitions.len()], order: Vec::new() };
    (0..definitions.len()).try_for_each(|place| walk.visit(place))?;
    Ok(walk.order)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    Open,
    Done,
}

struct Walk<'a> {
    definitions: &'a [Definition<'a>],
    places: BTreeMap<&'a str, usize>,
    marks: Vec<Mark>,
    order: Vec<usize>,
}

impl Walk<'_> {
    /// Deep at most as many levels as a spec may have variables and directories.
    fn visit(&mut self, place: usize) -> Result<(), PlanError> {
        let Definition { name, text } = self.definitions[place];
        match self.marks[place] {
            Mark::Done => return Ok(()),
            Mark::Open => return Err(PlanError::Circular { name: name.to_owned() }),
            Mark::New => self.marks[place] = Mark::Open,
        }
        for needed in variables_in(text).filter(|needed| *needed != name) {
            if let Some(needed) = self.places.get(needed) {
                self.visit(*needed)?;
            }
        }
        self.marks[place] = Mark::Done;
        self.order.push(place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(definitions: &[(&'static str, &'static str)]) -> Result<Vec<&'static str>, PlanError> {
        let list: Vec<_> = definitions.iter().map(|(name, text)| Definition { name, text }).collect();
        Ok(order(&list)?.into_iter().map(|place| definitions[place].0).collect())
    }

    #[test]
    fn what_is_needed_comes_first() {
        assert_eq!(
            names(&[("A", "$B"), ("B", "$C$D"), ("C", "$NO"), ("D", "x")]),
            Ok(vec!["C", "D", "B", "A"])
        );
        assert_eq!(names(&[("PATH", "/x:$PATH"), ("A", "$PATH")]), Ok(vec!["PATH", "A"]));
        assert_eq!(names(&[("A", "$B"), ("B", "$A")]), Err(PlanError::Circular { name: "A".into() }));
    }
}
