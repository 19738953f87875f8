//! Random numbers that a seed decides: SplitMix64 (Steele, Lea and Flood, 2014). Good enough to choose, not to hide.

use std::time::Duration;

/// A generator; each thread has its own, split from the run's.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The generator number `stream` of the run with this seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0xa076_1d64_78bd_642f));
        rng.next();
        rng
    }

    /// A number below `limit`, which is at least 1.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A duration from `low_ms` to `high_ms`, both included.
    pub fn between_ms(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(low_ms + self.next() % (high_ms - low_ms + 1))
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.next() % 1000 < u64::from(per_mille)
    }

    /// One of them; there is at least one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_streams_differ() {
        let take = |seed, stream| -> Vec<usize> {
            let mut rng = Rng::new(seed, stream);
            (0..16).map(|_| rng.below(1000)).collect()
        };
        assert_eq!(take(1, 0), take(1, 0));
        assert_ne!(take(1, 0), take(1, 1));
        assert_ne!(take(1, 0), take(2, 0));
    }

    #[test]
    fn ranges_hold() {
        let mut rng = Rng::new(7, 7);
        for _ in 0..1000 {
            assert!(rng.below(3) < 3);
            let pause = rng.between_ms(10, 20).as_millis();
            assert!((10..=20).contains(&pause));
        }
    }
}
