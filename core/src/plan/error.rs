//! Why a job cannot be planned: the field, its value, and what would do.

use crate::id::NodeId;
use crate::spec::limits;

/// Why a job cannot be planned. No secret value is ever in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The job needs something that this version cannot do yet.
    #[error("not built yet: {}", features.join(", "))]
    NotBuilt {
        /// The fields of the spec that ask for it.
        features: Vec<String>,
    },
    /// The number of grants is not what the job asks for: a fault of ours.
    #[error("the job asks for {need} nodes and got {have}")]
    NodeCount {
        /// `nodeCount`
        need: u32,
        /// Grants.
        have: usize,
    },
    /// A number of the toolkit's settings does not fit the nodes.
    #[error("{field} is {value}: {allowed}")]
    Count {
        /// The field.
        field: String,
        /// Its value, or its default.
        value: usize,
        /// What would do.
        allowed: String,
    },
    /// A path holds a variable that nothing defines there.
    #[error("{field} is `{value}`: nothing defines the variable {name} there")]
    UndefinedVariable {
        /// The field.
        field: String,
        /// Its text as given.
        value: String,
        /// The variable.
        name: String,
    },
    /// A path or value holds the variable of a secret.
    #[error(
        "{field} is `{value}`: {name} is a secret, and would be shown; read it from the environment instead"
    )]
    SecretInText {
        /// The field.
        field: String,
        /// Its text as given.
        value: String,
        /// The secret's variable.
        name: String,
    },
    /// Variables that need each other.
    #[error("the variable {name} is needed for its own value")]
    Circular {
        /// One of them.
        name: String,
    },
    /// A name stands both in `secrets` and in `environmentVariables`.
    #[error("{name} is both a secret and an environment variable of this job")]
    SecretAgain {
        /// The name.
        name: String,
    },
    /// A path does not start at the root.
    #[error("{field} is `{path}`: an absolute path is needed")]
    RelativePath {
        /// The field.
        field: String,
        /// After expansion.
        path: String,
    },
    /// A path that has to be relative is not.
    #[error("{field} is `{path}`: a path without leading `/` is needed, of at least one name")]
    NotRelativePath {
        /// The field.
        field: String,
        /// As given.
        path: String,
    },
    /// A path goes up.
    #[error("{field} is `{path}`: `..` is not allowed in it")]
    UpwardPath {
        /// The field.
        field: String,
        /// After expansion.
        path: String,
    },
    /// A NUL byte, which no path, argument or variable can hold.
    #[error("{field} holds a NUL byte")]
    Nul {
        /// The field.
        field: String,
    },
    /// A name that cannot be one part of a path.
    #[error("the {what} `{name}` cannot be a part of a path")]
    BadName {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name that cannot be a variable's.
    #[error("{field} is `{name}`: not the name of a variable")]
    BadVariableName {
        /// The field.
        field: String,
        /// The name.
        name: String,
    },
    /// Longer than the kernel or we take.
    #[error("{what} is longer than {limit} bytes")]
    TooLong {
        /// A field, or a variable.
        what: String,
        /// The limit, bytes.
        limit: usize,
    },
    /// Two volumes would lie on or in each other.
    #[error("{field} is `{path}`: it lies on or in another volume of this job, or holds one")]
    OverlappingMounts {
        /// The later of the two.
        field: String,
        /// As given.
        path: String,
    },
    /// A volume that tasks may only read needs a bind mount.
    #[error("{field}: node {node} cannot make a directory read-only, because its agent does not run as root")]
    ReadOnlyNeedsRoot {
        /// The field.
        field: String,
        /// The node.
        node: NodeId,
    },
    /// Logs or outputs would be written into a volume that is read-only.
    #[error("{field} is `{path}`: it lies in a volume that is readOnly")]
    ReadOnlyVolume {
        /// The field.
        field: String,
        /// After expansion.
        path: String,
    },
    /// No port is left.
    #[error("node {node} has no free port left between {} and 65535", super::port::FIRST_PORT)]
    PortsExhausted {
        /// The node.
        node: NodeId,
    },
}

impl PlanError {
    pub(super) fn too_long_path(field: &str) -> PlanError {
        PlanError::TooLong { what: field.to_owned(), limit: limits::PATH_BYTES }
    }
}
