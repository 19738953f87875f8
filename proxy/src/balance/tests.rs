//! What balancing promises, for random loads and in a small world with a clock of its own.

use super::*;
use proptest::prelude::*;

impl Loaded for Load {
    fn load(&self) -> &Load {
        self
    }
}

/// A fixed sequence of numbers that look random (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One request after another, each answered at once after its endpoint's latency. Returns how many each got.
fn serve(loads: &[Load], latencies_us: &[u64], requests: usize, start_us: u64) -> Vec<usize> {
    let mut numbers = Numbers(7);
    let mut got = vec![0; loads.len()];
    let mut now_us = start_us;
    for _ in 0..requests {
        let place = pick(loads, now_us, numbers.next()).expect("there are endpoints");
        loads[place].answered(now_us + latencies_us[place], latencies_us[place]);
        got[place] += 1;
        now_us += 1_000;
    }
    got
}

#[test]
fn nothing_comes_of_nothing() {
    assert_eq!(pick::<Load>(&[], 0, 9), None);
    assert_eq!(pick(&[Load::new(1)], 0, u64::MAX), Some(0));
}

#[test]
fn equals_share_alike() {
    let loads: Vec<Load> = (0..4).map(|_| Load::new(1)).collect();
    for got in serve(&loads, &[500; 4], 8_000, 0) {
        assert!((1_400..2_600).contains(&got), "{got} of 8000");
    }
}

#[test]
fn a_slow_endpoint_gets_little() {
    let loads: Vec<Load> = (0..3).map(|_| Load::new(1)).collect();
    let got = serve(&loads, &[500, 500, 50_000], 6_000, 0);
    // Its two neighbours win every draw in which they meet it; it is never drawn against itself.
    assert!(got[2] < 60, "{got:?}");
}

#[test]
fn a_slow_endpoint_that_recovers_is_taken_back() {
    let loads: Vec<Load> = (0..2).map(|_| Load::new(1)).collect();
    serve(&loads, &[500, 50_000], 1_000, 0);
    // Two minutes later nobody remembers the bad time.
    let got = serve(&loads, &[500, 500], 4_000, 120_000_000);
    assert!(got[1] > 400, "{got:?}");
}

#[test]
fn waiting_requests_count_and_weights_divide() {
    let (idle, busy, heavy) = (Load::new(1), Load::new(1), Load::new(4));
    for load in [&idle, &busy, &heavy] {
        load.answered(0, 1_000);
    }
    (0..3).for_each(|_| busy.begin());
    (0..3).for_each(|_| heavy.begin());
    assert!(idle.cost(0) < busy.cost(0));
    assert!((heavy.cost(0) - idle.cost(0)).abs() < 1e-9, "four times the load at four times the weight");
}

#[test]
fn ejection_doubles_ends_and_is_forgiven() {
    let load = Load::new(1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        load.failed(0, u64::MAX - 1);
        waits.push(load.ejected_until_us.load(Relaxed));
    }
    assert!(waits.iter().all(|&wait| (EJECT_FIRST_US / 2..=EJECT_MAX_US).contains(&wait)), "{waits:?}");
    assert!(load.is_ejected(0) && !load.is_ejected(EJECT_MAX_US));
    load.answered(1, 100);
    assert!(!load.is_ejected(1));
    load.failed(0, 0);
    assert!(!load.is_ejected(EJECT_FIRST_US), "a success starts the count anew");
}

#[test]
fn when_all_are_ejected_any_is_better_than_none() {
    let loads: Vec<Load> = (0..3).map(|_| Load::new(1)).collect();
    loads.iter().for_each(|load| load.failed(0, 0));
    assert!(pick(&loads, 1, 12).is_some());
}

#[test]
fn the_retry_budget_is_a_fifth_of_the_requests() {
    let budget = RetryBudget::default();
    assert_eq!((0..100).filter(|_| budget.spend()).count(), 10, "the start");
    (0..50).for_each(|_| budget.earn());
    assert_eq!((0..100).filter(|_| budget.spend()).count(), 10, "a fifth of fifty");
    (0..1_000).for_each(|_| budget.earn());
    assert_eq!((0..100).filter(|_| budget.spend()).count(), 20, "savings are bounded");
}

proptest! {
    /// An ejected endpoint is never picked while there is another, whatever the draw.
    #[test]
    fn the_ejected_are_passed_over(ejected in proptest::collection::vec(any::<bool>(), 1..20), random in any::<u64>()) {
        let loads: Vec<Load> = ejected.iter().map(|_| Load::new(1)).collect();
        for (load, &is) in loads.iter().zip(&ejected) {
            if is { load.failed(0, random) }
        }
        let place = pick(&loads, 1, random).expect("not empty");
        prop_assert!(!ejected[place] || ejected.iter().all(|&is| is));
    }

    /// Of the two that are drawn, the dearer one is never taken: with two endpoints, always the cheaper.
    #[test]
    fn of_two_the_cheaper(a in 1u64..1_000_000, b in 1u64..1_000_000, busy_a in 0u32..50, busy_b in 0u32..50, random in any::<u64>()) {
        let loads = [Load::new(1), Load::new(1)];
        loads[0].answered(0, a);
        loads[1].answered(0, b);
        (0..busy_a).for_each(|_| loads[0].begin());
        (0..busy_b).for_each(|_| loads[1].begin());
        let place = pick(&loads, 0, random).expect("two");
        prop_assert!(loads[place].cost(0) <= loads[1 - place].cost(0));
    }

    /// The average lies between what was and what came, and a peak counts at once.
    #[test]
    fn the_average_is_bounded(before in 1f64..1e7, sample in 1f64..1e7, elapsed in 0u64..1_000_000_000) {
        let next = next_latency(before, elapsed, sample);
        prop_assert!(next.is_finite() && next >= before.min(sample) * 0.999_999 && next <= before.max(sample) * 1.000_001);
        if sample >= before { prop_assert!((next - sample).abs() < 1e-6) }
    }

    /// Every endpoint can be drawn: nobody starves for the way in which numbers are cut in two.
    #[test]
    fn every_endpoint_is_drawn(count in 2usize..12, seed in any::<u64>()) {
        let loads: Vec<Load> = (0..count).map(|_| Load::new(1)).collect();
        let mut numbers = Numbers(seed);
        let mut seen = vec![false; count];
        for _ in 0..count * 60 {
            seen[pick(&loads, 0, numbers.next()).expect("not empty")] = true;
        }
        prop_assert!(seen.iter().all(|&s| s), "{seen:?}");
    }
}
