//! How many processors, and of what make.

/// The processors of this machine.
pub(super) struct Cpu {
    /// Those that this process may use: fewer than the machine has under an affinity mask or a CPU quota.
    pub(super) count: u32,
    /// As `Intel(R) Xeon(R) Platinum 8480C`; empty if the kernel does not tell (some ARM).
    pub(super) model: String,
}

pub(super) fn look() -> Cpu {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let model =
        std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|file| model(&file)).unwrap_or_default();
    Cpu { count: u32::try_from(count).unwrap_or(u32::MAX), model }
}

fn model(cpuinfo: &str) -> Option<String> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_processor_names_the_model() {
        let file = "processor\t: 0\nmodel name\t: Intel(R)  Xeon(R)   CPU\nmodel name\t: other\n";
        assert_eq!(model(file).as_deref(), Some("Intel(R) Xeon(R) CPU"));
        assert_eq!(model("processor : 0\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(model name|.*):.*\n.*") {
            let _ = model(&text);
        }
    }
}
