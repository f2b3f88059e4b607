//! Storage on a node: which kinds this build can mount, and the steps that do it.
