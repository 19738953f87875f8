//! What becomes of a frame: lost, late, doubled, or before its turn. Pure: time and chance come from outside.

use std::time::{Duration, Instant};

use jlt_core::rng::Rng;

/// How one machine's frames reach another; each direction has its own. The default is a perfect wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Every frame takes so long.
    pub delay: Duration,
    /// And up to so much longer, by chance. Frames stay in order.
    pub jitter: Duration,
    /// So many in a thousand are lost.
    pub loss_per_mille: u32,
    /// So many in a thousand arrive twice.
    pub duplicate_per_mille: u32,
    /// So many in a thousand arrive at once, and so overtake those that were delayed before them.
    pub reorder_per_mille: u32,
    /// Nothing arrives.
    pub cut: bool,
}

/// The links between all machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links(Vec<Vec<Link>>);

/// How many frames met which fate; a fault that met none did nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fates {
    /// Frames that one machine sent to another.
    pub sent: u64,
    /// Dropped because the link was cut.
    pub cut: u64,
    /// Dropped by chance.
    pub lost: u64,
    /// Delivered later than at once.
    pub delayed: u64,
    /// Delivered twice.
    pub doubled: u64,
    /// Delivered before their turn.
    pub overtook: u64,
}

/// Decides the fates, in the order in which the frames come.
pub(crate) struct Shaper {
    rng: Rng,
    /// When the last frame from one machine to another arrives, so that the next does not overtake it.
    last: Vec<Vec<Option<Instant>>>,
    pub(crate) fates: Fates,
}

impl Links {
    /// Perfect wires between so many machines.
    pub fn perfect(machines: usize) -> Self {
        Self(vec![vec![Link::default(); machines]; machines])
    }

    /// The link from one machine to another.
    pub fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.0[from][to]
    }

    /// Cuts both directions.
    pub fn cut(&mut self, one: usize, other: usize) {
        self.link(one, other).cut = true;
        self.link(other, one).cut = true;
    }
}

impl Shaper {
    pub(crate) fn new(machines: usize, seed: u64) -> Self {
        Self { rng: Rng::new(seed, 0x6e65_7400), last: vec![vec![None; machines]; machines], fates: Fates::default() }
    }

    /// When a frame that was sent now arrives: never, once or twice.
    pub(crate) fn arrivals(&mut self, links: &Links, from: usize, to: usize, now: Instant) -> Vec<Instant> {
        let link = links.0[from][to];
        self.fates.sent += 1;
        if link.cut {
            self.fates.cut += 1;
            return Vec::new();
        }
        if self.rng.chance(link.loss_per_mille) {
            self.fates.lost += 1;
            return Vec::new();
        }
        let at = self.arrival(&link, from, to, now);
        self.fates.delayed += u64::from(at > now);
        if self.rng.chance(link.duplicate_per_mille) {
            self.fates.doubled += 1;
            return vec![at, at];
        }
        vec![at]
    }

    fn arrival(&mut self, link: &Link, from: usize, to: usize, now: Instant) -> Instant {
        if self.rng.chance(link.reorder_per_mille) {
            self.fates.overtook += u64::from(self.last[from][to].is_some_and(|last| last > now));
            return now;
        }
        let jitter_ms = u64::try_from(link.jitter.as_millis()).unwrap_or(u64::MAX);
        let at = now + link.delay + self.rng.between_ms(0, jitter_ms);
        let at = self.last[from][to].map_or(at, |last| last.max(at));
        self.last[from][to] = Some(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand frames from 0 to 1, one each millisecond: when they were sent and when they arrive.
    fn thousand(link: Link, seed: u64) -> (Vec<(Instant, Instant)>, Fates) {
        let mut links = Links::perfect(2);
        *links.link(0, 1) = link;
        let mut shaper = Shaper::new(2, seed);
        let start = Instant::now();
        let mut arrived = Vec::new();
        for at in 0..1000 {
            let now = start + Duration::from_millis(at);
            arrived.extend(shaper.arrivals(&links, 0, 1, now).into_iter().map(|then| (now, then)));
        }
        (arrived, shaper.fates)
    }

    #[test]
    fn a_perfect_wire_delivers_at_once_and_a_cut_one_never() {
        let (arrived, _) = thousand(Link::default(), 1);
        assert!(arrived.len() == 1000 && arrived.iter().all(|(sent, at)| sent == at));
        let (arrived, fates) = thousand(Link { cut: true, ..Link::default() }, 1);
        assert!(arrived.is_empty() && fates.cut == 1000);
    }

    #[test]
    fn a_cut_is_one_way() {
        let mut links = Links::perfect(2);
        links.link(0, 1).cut = true;
        assert_eq!(Shaper::new(2, 1).arrivals(&links, 1, 0, Instant::now()).len(), 1);
    }

    #[test]
    fn loss_and_doubles_keep_their_rate() {
        let (arrived, fates) = thousand(Link { loss_per_mille: 300, ..Link::default() }, 1);
        assert!((600..800).contains(&arrived.len()), "{}", arrived.len());
        assert_eq!(arrived.len() as u64 + fates.lost, 1000);
        let (arrived, _) = thousand(Link { duplicate_per_mille: 300, ..Link::default() }, 1);
        assert!((1200..1400).contains(&arrived.len()), "{}", arrived.len());
    }

    #[test]
    fn delays_hold_and_keep_the_order() {
        let (delay, jitter) = (Duration::from_millis(50), Duration::from_millis(20));
        let (arrived, _) = thousand(Link { delay, jitter, ..Link::default() }, 1);
        assert!(arrived.iter().all(|(sent, at)| (delay..=delay + jitter).contains(&(*at - *sent))));
        assert!(arrived.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }

    #[test]
    fn some_overtake() {
        let link = Link { delay: Duration::from_millis(50), reorder_per_mille: 100, ..Link::default() };
        let (arrived, fates) = thousand(link, 1);
        assert!(arrived.windows(2).any(|pair| pair[0].1 > pair[1].1));
        assert!((50..150).contains(&fates.overtook), "{}", fates.overtook);
    }

    #[test]
    fn a_seed_repeats_itself() {
        let link = Link { loss_per_mille: 300, ..Link::default() };
        assert_eq!(thousand(link, 7).1, thousand(link, 7).1);
        assert_ne!(thousand(link, 7).1, thousand(link, 8).1);
    }
}
