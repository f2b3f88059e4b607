//! Real shims and real processes, each behaviour with cgroups and without. Names in brackets are the numbers
//! of the reliability contract.

mod adoption;
mod ending;
mod starting;
mod yard;
