//! Wire to core by `TryFrom`, which checks everything; core to wire by `From`.
