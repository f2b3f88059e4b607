//! What a number is, and where probes write it.

use trainyard_proto::v1::Sample;

/// A number's description. Names end with the unit, counters with `_total`.
#[derive(Debug, PartialEq, Eq)]
pub struct Desc {
    /// As `gpu_power_watts`.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// One sentence for people.
    pub help: &'static str,
    /// Names of its labels; those that do not apply are left out of a sample.
    pub labels: &'static [&'static str],
}

/// How a number moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Up and down.
    Gauge,
    /// Only up, until whatever counts it starts anew.
    Counter,
}

impl Desc {
    /// A number that goes up and down.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Desc {
        Desc { name, kind: Kind::Gauge, help, labels }
    }

    /// A number that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Desc {
        Desc { name, kind: Kind::Counter, help, labels }
    }
}

/// The samples of one round.
#[derive(Debug, Default)]
pub struct Out {
    pub(crate) samples: Vec<Sample>,
}

impl Out {
    /// Adds one sample; a value that is not finite is left out.
    #[expect(clippy::cast_precision_loss, reason = "metrics are f64 on the wire: exact up to 2^53")]
    pub fn count(&mut self, desc: &Desc, labels: &[(&str, &str)], value: u64) {
        self.push(desc, labels, value as f64);
    }

    /// Adds one sample; a value that is not finite is left out.
    pub fn push(&mut self, desc: &Desc, labels: &[(&str, &str)], value: f64) {
        debug_assert!(
            labels.iter().all(|(name, _)| desc.labels.contains(name)),
            "{} has the labels {:?}",
            desc.name,
            desc.labels
        );
        if !value.is_finite() {
            return;
        }
        self.samples.push(Sample {
            name: desc.name.to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            value,
        });
    }

    /// As [`Out::push`], if there is a value.
    pub fn push_some(&mut self, desc: &Desc, labels: &[(&str, &str)], value: Option<f64>) {
        if let Some(value) = value {
            self.push(desc, labels, value);
        }
    }

    /// The value of one sample: for tests.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |sample: &&Sample| {
            sample.name == name
                && sample.labels.len() == labels.len()
                && labels
                    .iter()
                    .all(|(name, value)| sample.labels.get(*name).is_some_and(|have| have == value))
        };
        self.samples.iter().find(fits).map(|sample| sample.value)
    }
}
