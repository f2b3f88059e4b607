//! Which of the driver's events mean that a GPU can take no work, and what an operator does then.
//!
//! Source: NVIDIA's "XID Errors" catalogue. Xids of a faulty *program* (13, 31, 43, 45, ...) are counted,
//! but are no fault of the GPU.

/// What the catalogue says of one Xid.
struct Xid {
    number: u64,
    meaning: &'static str,
    cure: &'static str,
}

const CRITICAL: &[Xid] = &[
    Xid { number: 48, meaning: "double bit ECC error", cure: "reset the GPU" },
    Xid { number: 63, meaning: "a memory row is to be remapped", cure: "drain the node and reset the GPU" },
    Xid {
        number: 64,
        meaning: "a memory row could not be remapped",
        cure: "reset the GPU; replace it if it comes back",
    },
    Xid { number: 74, meaning: "NVLink error", cure: "reset the GPU; check the bridge if it comes back" },
    Xid { number: 79, meaning: "the GPU has fallen off the bus", cure: "reboot the node" },
    Xid { number: 94, meaning: "contained memory error", cure: "reset the GPU" },
    Xid { number: 95, meaning: "uncontained memory error", cure: "reset the GPU" },
];

/// The fault that this Xid is, or `None` if the GPU can go on.
pub(super) fn of_xid(number: u64) -> Option<String> {
    let xid = CRITICAL.iter().find(|xid| xid.number == number)?;
    Some(format!("Xid {}: {} ({})", xid.number, xid.meaning, xid.cure))
}

/// The driver's ECC event without an Xid.
pub(super) const DOUBLE_BIT_ECC: &str = "double bit ECC error (reset the GPU)";

/// A call answered that the GPU is lost.
pub(super) const LOST: &str = "the GPU is lost: it no longer answers on its bus (reboot the node)";

/// The driver wants a reset first.
pub(super) const RESET_REQUIRED: &str = "the driver asks for a reset of this GPU";

/// MIG mode without instances: there is nothing that a task could use.
pub(super) const MIG_WITHOUT_INSTANCES: &str =
    "MIG is enabled, but there is no MIG device (make one with nvidia-smi mig, or disable MIG)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_xids_of_the_gpu_are_faults() {
        for critical in [48, 63, 64, 74, 79, 94, 95] {
            let text = of_xid(critical).unwrap();
            assert!(text.starts_with(&format!("Xid {critical}: ")), "{text}");
        }
        for programs in [0, 13, 31, 43, 45, 999] {
            assert_eq!(of_xid(programs), None);
        }
    }
}
