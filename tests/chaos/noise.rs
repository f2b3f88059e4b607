//! Numbers and bytes that look like nothing and can be made again.

/// xorshift64.
#[derive(Clone, Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    /// From a seed; any will do.
    pub(crate) fn new(seed: u64) -> Noise {
        // Small seeds differ in few bits: mixed first.
        let mut noise = Noise((seed ^ 0x9e37_79b9_7f4a_7c15).max(1));
        for _ in 0..8 {
            noise.draw();
        }
        noise
    }

    /// From a name, as `task.py` does it.
    pub(crate) fn named(name: &str) -> Noise {
        let step = |x: u64, byte: u8| (x ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Noise(name.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// The next number.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below a limit.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.draw() >> 11) % limit
    }

    /// One of these.
    pub(crate) fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let index = self.below(items.len() as u64);
        &items[usize::try_from(index).expect("an index")]
    }

    /// Whether something of so many percent happens.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// The next bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.draw().to_le_bytes()).take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words.flatten().collect();
        bytes.truncate(length);
        bytes
    }
}
