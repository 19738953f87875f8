//! What the servers have in memory, and whether it grows.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cluster::name;
use crate::picture::Picture;

/// How high the picture is.
const HEIGHT: f64 = 200.0;

/// Until then caches fill, and the catalog gets what it has from then on.
const WARM_SECONDS: u64 = 600;

/// A server that certainly grows faster leaks.
const GROWTH_KIB_PER_HOUR_MAX: f64 = 1024.0;

/// A server's resident memory at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Sample {
    /// Seconds of the soak.
    pub(crate) seconds: u64,
    pub(crate) server: usize,
    /// Seconds since the process was started.
    pub(crate) age_seconds: u64,
    pub(crate) kib: u64,
}

/// What a process has in memory now.
pub(crate) fn resident_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// That the servers leak, in words, if it is beyond doubt: by two standard errors.
pub(crate) fn leak(samples: &[Sample]) -> Option<String> {
    let (slope, error) = growth_per_hour(samples);
    let is_certain = slope - 2.0 * error > GROWTH_KIB_PER_HOUR_MAX;
    is_certain.then(|| format!("servers: their memory grows by {slope:.0} ± {error:.0} KiB an hour"))
}

/// KiB an hour after the first minutes, and the standard error of that.
///
/// A process that was just started has less than one that has served for minutes, whatever leaks, and faults start servers again at
/// random. So like is compared with like: the line of least squares has one slope, and a height for each age (doubling: up to 1 s, 2 s, 4 s, …).
pub(crate) fn growth_per_hour(samples: &[Sample]) -> (f64, f64) {
    let mut ages: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
    let warm: Vec<&Sample> = samples.iter().filter(|sample| sample.seconds >= WARM_SECONDS).collect();
    for sample in &warm {
        let age = sample.age_seconds.max(1).ilog2();
        ages.entry(age).or_default().push((sample.seconds as f64, sample.kib as f64));
    }
    let (mut across, mut along, mut up) = (0.0, 0.0, 0.0);
    for points in ages.values() {
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (middle, height) = (mean(|point| point.0), mean(|point| point.1));
        for (seconds, kib) in points {
            let (right, above) = (seconds - middle, kib - height);
            across += right * above;
            along += right.powi(2);
            up += above.powi(2);
        }
    }
    if along == 0.0 {
        return (0.0, 0.0);
    }
    let free = warm.len() as f64 - ages.len() as f64 - 1.0;
    let unexplained = (up - across.powi(2) / along).max(0.0) / free.max(1.0);
    (across / along * 3600.0, (unexplained / along).sqrt() * 3600.0)
}

/// A curve for each of so many servers.
pub(crate) fn picture(samples: &[Sample], servers: usize, seconds: u64) -> String {
    const COLOURS: [&str; 3] = ["#5e60ce", "#2a9d8f", "#f3722c"];
    let most = samples.iter().map(|sample| sample.kib).max().unwrap_or(1) as f64;
    let mut picture = Picture::new("memory of the servers", HEIGHT, seconds.max(1) * 1000);
    picture.grid(0.0, &format!("{:.0} MiB", most / 1024.0));
    for server in 0..servers {
        let of_server = samples.iter().filter(|sample| sample.server == server);
        let points = of_server.map(|sample| (sample.seconds * 1000, HEIGHT - HEIGHT * sample.kib as f64 / most));
        picture.curve(points, COLOURS[server % COLOURS.len()], &name(server));
    }
    picture.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample each minute, whose age and memory are of the minute.
    fn samples(minutes: u64, of: impl Fn(u64) -> (u64, u64)) -> Vec<Sample> {
        let sample = |minute| {
            let (age_seconds, kib) = of(minute);
            Sample { seconds: WARM_SECONDS + minute * 60, server: 0, age_seconds, kib }
        };
        (0..minutes).map(sample).collect()
    }

    fn rounded(samples: &[Sample]) -> (f64, f64) {
        let (slope, error) = growth_per_hour(samples);
        (slope.round(), error.round())
    }

    #[test]
    fn growth_is_seen_and_stillness_too() {
        assert_eq!(rounded(&samples(60, |_| (30, 20_000))), (0.0, 0.0));
        assert_eq!(rounded(&samples(60, |minute| (30, 20_000 + minute * 10))), (600.0, 0.0));
        assert_eq!(rounded(&[]), (0.0, 0.0));
        // 100 KiB up or down each minute for an hour: 100 KiB / sqrt(60³ · 60 s² / 12), in an hour.
        assert_eq!(rounded(&samples(60, |minute| (30, 20_000 + minute % 2 * 200))).1, 45.0);
    }

    #[test]
    fn an_old_process_is_not_compared_with_a_young_one() {
        // In the second half of the hour servers are seldom started again.
        let aged = |minute: u64| if minute < 30 { (10, 20_000) } else { (1000, 90_000) };
        assert_eq!(rounded(&samples(60, aged)), (0.0, 0.0));
        let leaks = |minute: u64| (aged(minute).0, aged(minute).1 + minute * 10);
        assert_eq!(rounded(&samples(60, leaks)), (600.0, 0.0));
    }

    #[test]
    fn a_leak_is_one_only_beyond_doubt() {
        let grows = |kib_per_minute| samples(60, move |minute| (30, 20_000 + minute * kib_per_minute));
        assert_eq!(leak(&grows(10)), None);
        assert!(leak(&grows(20)).is_some_and(|leak| leak.contains("1200 ± 0 KiB")));
        let noisy = samples(60, |minute| (30, 20_000 + minute * 20 + minute % 2 * 2_000));
        assert_eq!(leak(&noisy), None);
    }

    #[test]
    fn what_fills_in_the_first_minutes_is_no_growth() {
        let fills = (0..60).map(|minute| Sample {
            seconds: minute * 60,
            server: 0,
            age_seconds: 30,
            kib: 20_000 + minute.min(10) * 3_000,
        });
        assert_eq!(rounded(&Vec::from_iter(fills)), (0.0, 0.0));
    }
}
