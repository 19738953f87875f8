//! Which endpoint gets the next request: peak-EWMA with power of two choices.
//!
//! Each endpoint has a cost: its decaying peak latency × (requests in flight + 1) ÷ weight. Two endpoints are drawn at
//! random, and the cheaper one is taken. This is as good as knowing all, for the price of looking at two. (Mitzenmacher, "The power of two
//! choices"; Finagle's `PeakEwma`.)
//!
//! Nothing here reads a clock or makes a random number: both are arguments. Loads are atomics that lose a race now and
//! then: they steer, they do not account.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Time constant with which old latencies are forgotten, in microseconds.
const DECAY_US: f64 = 10_000_000.0;
/// The cost of an endpoint that nobody has measured, while its first request is out: others are better. Before that it is the best.
const UNKNOWN_COST_US: f64 = 1e9;
/// How long an endpoint is left alone after its first failed connection, in microseconds; each further one doubles it.
const EJECT_FIRST_US: u64 = 500_000;
/// The longest that it is left alone.
const EJECT_MAX_US: u64 = 30_000_000;

/// What is known about one endpoint.
#[derive(Debug)]
pub struct Load {
    /// Latency in microseconds, as the bits of an `f64`; 0 while nothing is known.
    latency_us: AtomicU64,
    /// When it was last updated.
    updated_us: AtomicU64,
    in_flight: AtomicU32,
    failures: AtomicU32,
    ejected_until_us: AtomicU64,
    weight: u16,
}

impl Load {
    /// An endpoint that nobody has used yet. A weight of 0 counts as 1.
    pub fn new(weight: u16) -> Self {
        Load {
            latency_us: AtomicU64::new(0),
            updated_us: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejected_until_us: AtomicU64::new(0),
            weight: weight.max(1),
        }
    }

    /// A request goes there.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// It is over.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Requests that are there now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The endpoint answered after this long: it lives.
    pub fn answered(&self, now_us: u64, took_us: u64) {
        let before = f64::from_bits(self.latency_us.load(Relaxed));
        let elapsed = now_us.saturating_sub(self.updated_us.load(Relaxed));
        self.latency_us.store(next_latency(before, elapsed, took_us as f64).to_bits(), Relaxed);
        self.updated_us.store(now_us, Relaxed);
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.ejected_until_us.store(0, Relaxed);
        }
    }

    /// The endpoint could not be reached: leave it alone for a while. `random` spreads the return of many proxies.
    pub fn failed(&self, now_us: u64, random: u64) {
        let failures = self.failures.fetch_add(1, Relaxed).min(16);
        let wait = (EJECT_FIRST_US << failures).min(EJECT_MAX_US);
        self.ejected_until_us.store(now_us + wait / 2 + random % (wait / 2 + 1), Relaxed);
    }

    /// Whether it is left alone now.
    pub fn is_ejected(&self, now_us: u64) -> bool {
        now_us < self.ejected_until_us.load(Relaxed)
    }

    /// The price of one more request there.
    pub fn cost(&self, now_us: u64) -> f64 {
        let (known, in_flight) = (f64::from_bits(self.latency_us.load(Relaxed)), f64::from(self.in_flight()));
        let cost = match known {
            0.0 => UNKNOWN_COST_US * in_flight,
            _ => (decayed(known, now_us.saturating_sub(self.updated_us.load(Relaxed))) + 1.0) * (in_flight + 1.0),
        };
        cost / f64::from(self.weight)
    }
}

/// Something that has a [`Load`].
pub trait Loaded {
    /// It.
    fn load(&self) -> &Load;
}

/// The place of the endpoint that should get the next request; none only if there are none. `random` is any number.
///
/// Ejected endpoints are passed over as long as there is one that is not; when all are, any of them is better than none.
pub fn pick<E: Loaded>(endpoints: &[E], now_us: u64, random: u64) -> Option<usize> {
    let count = endpoints.len();
    if count < 2 {
        return (count == 1).then_some(0);
    }
    let (low, high) = (random & 0xffff_ffff, random >> 32);
    let first = draw(low, count);
    // The second is drawn from the others, so that two different ones are compared.
    let second = (first + 1 + draw(high, count - 1)) % count;
    let healthy = |place: usize| !endpoints[place].load().is_ejected(now_us);
    match (healthy(first), healthy(second)) {
        (true, true) => Some(cheaper(endpoints, first, second, now_us)),
        (true, false) => Some(first),
        (false, true) => Some(second),
        // Both draws were bad. Walk on from there to the next good one.
        (false, false) => (0..count).map(|step| (second + step) % count).find(|&place| healthy(place)).or(Some(first)),
    }
}

/// One of `count` places, by 32 random bits.
fn draw(random: u64, count: usize) -> usize {
    // Invariant: the remainder is less than `count`, which is a usize.
    usize::try_from(random % count as u64).expect("less than count")
}

fn cheaper<E: Loaded>(endpoints: &[E], a: usize, b: usize, now_us: u64) -> usize {
    if endpoints[b].load().cost(now_us) < endpoints[a].load().cost(now_us) { b } else { a }
}

fn decayed(latency_us: f64, elapsed_us: u64) -> f64 {
    latency_us * (-(elapsed_us as f64) / DECAY_US).exp()
}

/// Peak-sensitive: a worse latency counts at once, a better one as the old one is forgotten.
fn next_latency(before_us: f64, elapsed_us: u64, sample_us: f64) -> f64 {
    let sample_us = sample_us.max(1.0);
    let keep = (-(elapsed_us as f64) / DECAY_US).exp();
    if before_us == 0.0 || sample_us > before_us * keep {
        sample_us
    } else {
        before_us * keep + sample_us * (1.0 - keep)
    }
}

/// How many retries a proxy may still make: each request earns a fifth of one.
///
/// A budget, not a count for each request: when everything fails, retries add 20 %, not 200 %, to the load.
#[derive(Debug)]
pub struct RetryBudget {
    /// Thousandths of a retry.
    tokens: AtomicU32,
}

const RETRY_COST: u32 = 1_000;
const RETRY_EARNED: u32 = RETRY_COST / 5;
/// What may be saved up, and what there is at the start: 20 and 10 retries.
const RETRY_TOKENS_MAX: u32 = 20 * RETRY_COST;
const RETRY_TOKENS_FIRST: u32 = 10 * RETRY_COST;

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { tokens: AtomicU32::new(RETRY_TOKENS_FIRST) }
    }
}

impl RetryBudget {
    /// A request was made.
    pub fn earn(&self) {
        let tokens = self.tokens.load(Relaxed);
        if tokens < RETRY_TOKENS_MAX {
            self.tokens.store((tokens + RETRY_EARNED).min(RETRY_TOKENS_MAX), Relaxed);
        }
    }

    /// Whether a retry may be made; if so, it is paid for.
    pub fn spend(&self) -> bool {
        self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(RETRY_COST)).is_ok()
    }
}

#[cfg(test)]
mod tests;
