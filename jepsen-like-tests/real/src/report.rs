//! What a person looks at: `index.html` with the verdict, and three pictures on one scale of time: `timeline.svg`, `latency.svg`, `availability.svg`.

use std::fmt::Write;
use std::path::Path;

use jlt_core::judgement::Judgement;
use jlt_core::plan::{Fault, Plan};
use jlt_core::record::{Outcome, Record};

use crate::nemesis::Happened;
use crate::picture::{Picture, escape};
use crate::run::{Verdict, names};

/// One point of a curve for so much time.
const BUCKET_MS: u64 = 250;

const OK: &str = "#2a9d8f";
const FAILED: &str = "#e9b44c";
const UNKNOWN: &str = "#d1495b";

const LANE: f64 = 22.0;

/// Writes all four files.
pub(crate) fn write(
    folder: &Path,
    plan: &Plan,
    history: &[Record],
    happened: &[Happened],
    verdict: &Verdict,
) -> std::io::Result<()> {
    let end_ms = history.iter().map(|record| record.end_ns / 1_000_000).max().unwrap_or(0).max(plan.duration_ms) + 1;
    let pictures = [
        ("timeline.svg", timeline(plan, history, happened, end_ms)),
        ("latency.svg", latency(history, happened, end_ms)),
        ("availability.svg", availability(history, happened, end_ms)),
    ];
    for (name, picture) in &pictures {
        std::fs::write(folder.join(name), picture)?;
    }
    let pictures: Vec<&str> = pictures.iter().map(|(_, picture)| picture.as_str()).collect();
    std::fs::write(folder.join("index.html"), page(verdict, happened, &pictures))
}

/// A lane for each kind of fault, and one for each workload whose colour says how it fared.
fn timeline(plan: &Plan, history: &[Record], happened: &[Happened], end_ms: u64) -> String {
    let lanes = plan.kinds.len() + plan.workloads.len();
    let mut picture = Picture::new("faults and workloads", lanes as f64 * LANE, end_ms);
    for (lane, kind) in plan.kinds.iter().enumerate() {
        let top = lane as f64 * LANE;
        picture.label(top + LANE * 0.7, kind.name());
        for one in happened.iter().filter(|one| one.fault == *kind) {
            let title = format!("{} {} to {} ms. {}", names(&one.servers), one.start_ms, one.end_ms, one.effect);
            picture.bar(one.start_ms, one.end_ms, top + 2.0, LANE - 4.0, colour(*kind), &title);
            picture.mark(one.start_ms, top + LANE * 0.7, &names(&one.servers));
        }
    }
    for (lane, workload) in plan.workloads.iter().enumerate() {
        let top = (plan.kinds.len() + lane) as f64 * LANE;
        picture.label(top + LANE * 0.7, workload);
        for (at, counts) in counts(history, Some(workload), end_ms).iter().enumerate() {
            let start_ms = at as u64 * BUCKET_MS;
            let [ok, failed, unknown] = *counts;
            let colour = match ok + failed + unknown {
                0 => continue,
                all if ok * 10 >= all * 9 => OK,
                _ if ok > 0 => FAILED,
                _ => UNKNOWN,
            };
            let title = format!("{start_ms} ms: {ok} answered, {failed} failed, {unknown} unknown");
            picture.bar(start_ms, start_ms + BUCKET_MS, top + 2.0, LANE - 4.0, colour, &title);
        }
    }
    picture.finish()
}

/// The median, the 99th percentile and the longest time of what was answered; blocking queries are left out, as they are meant to wait.
fn latency(history: &[Record], happened: &[Happened], end_ms: u64) -> String {
    let mut buckets = vec![Vec::new(); buckets(end_ms)];
    for record in history {
        let waits = record.call.get("watch").is_some();
        if let (Outcome::Ok(_), false) = (&record.outcome, waits) {
            buckets[bucket(record)].push((record.end_ns - record.start_ns) as f64 / 1e6);
        }
    }
    buckets.iter_mut().for_each(|bucket| bucket.sort_by(f64::total_cmp));
    let most = buckets.iter().filter_map(|bucket| bucket.last().copied()).fold(10.0, f64::max);
    let mut picture = Picture::new("latency of what was answered, ms (logarithmic)", 200.0, end_ms);
    shade(&mut picture, happened, 200.0);
    let height = |ms: f64| 200.0 - 200.0 * (ms.max(0.1) / 0.1).log10() / (most / 0.1).log10();
    for tick in [1.0, 10.0, 100.0, 1000.0, 10_000.0].into_iter().filter(|tick| *tick <= most) {
        picture.grid(height(tick), &format!("{tick} ms"));
    }
    for (name, share, colour) in [("longest", 1.0, UNKNOWN), ("p99", 0.99, FAILED), ("p50", 0.5, OK)] {
        let points = buckets.iter().enumerate().filter(|(_, bucket)| !bucket.is_empty()).map(|(at, bucket)| {
            let rank = ((bucket.len() - 1) as f64 * share).round() as usize;
            (at as u64 * BUCKET_MS + BUCKET_MS / 2, height(bucket[rank]))
        });
        picture.curve(points, colour, name);
    }
    picture.finish()
}

/// How many operations a second were answered, failed, or are unknown; one upon the other.
fn availability(history: &[Record], happened: &[Happened], end_ms: u64) -> String {
    let counts = counts(history, None, end_ms);
    let most = counts.iter().map(|counts| counts.iter().sum::<usize>()).max().unwrap_or(0).max(1);
    let mut picture = Picture::new("operations a second: answered, failed, unknown", 160.0, end_ms);
    shade(&mut picture, happened, 160.0);
    let per_second = |count: usize| count as u64 * 1000 / BUCKET_MS;
    for part in [most, most / 2] {
        picture.grid(160.0 - 160.0 * part as f64 / most as f64, &format!("{}/s", per_second(part)));
    }
    for (at, counts) in counts.iter().enumerate() {
        let (start_ms, mut bottom) = (at as u64 * BUCKET_MS, 160.0);
        for (count, colour, name) in
            [(counts[0], OK, "answered"), (counts[1], FAILED, "failed"), (counts[2], UNKNOWN, "unknown")]
        {
            let height = 160.0 * count as f64 / most as f64;
            bottom -= height;
            let title = format!("{start_ms} ms: {}/s {name}", per_second(count));
            picture.bar(start_ms, start_ms + BUCKET_MS, bottom, height, colour, &title);
        }
    }
    picture.finish()
}

fn shade(picture: &mut Picture, happened: &[Happened], height: f64) {
    for one in happened {
        let title = format!("{} {}", one.fault.name(), names(&one.servers));
        picture.shade(one.start_ms, one.end_ms, height, colour(one.fault), &title);
    }
}

/// Answered, failed and unknown operations in each bucket.
fn counts(history: &[Record], workload: Option<&str>, end_ms: u64) -> Vec<[usize; 3]> {
    let mut counts = vec![[0; 3]; buckets(end_ms)];
    for record in history.iter().filter(|record| workload.is_none_or(|workload| record.workload == workload)) {
        let outcome = match record.outcome {
            Outcome::Ok(_) => 0,
            Outcome::Failed(_) => 1,
            Outcome::Unknown(_) => 2,
        };
        counts[bucket(record)][outcome] += 1;
    }
    counts
}

fn buckets(end_ms: u64) -> usize {
    (end_ms / BUCKET_MS) as usize + 1
}

fn bucket(record: &Record) -> usize {
    (record.end_ns / 1_000_000 / BUCKET_MS) as usize
}

fn colour(fault: Fault) -> &'static str {
    match fault {
        Fault::Partition => "#5e60ce",
        Fault::Oneway => "#9b5de5",
        Fault::Delay => "#48bfe3",
        Fault::Loss => "#4ea8de",
        Fault::Kill => "#c1121f",
        Fault::Pause => "#b08968",
        Fault::Power => "#222222",
        Fault::DiskFull => "#6a994e",
        Fault::SlowSync => "#a7c957",
        Fault::Eio => "#f3722c",
        Fault::Skew => "#f15bb5",
        Fault::Strobe => "#ff99c8",
        Fault::RestartAll => "#e09f3e",
        Fault::Member => "#2a9d8f",
        Fault::Flip => "#8d0801",
        Fault::Crash => "#ff006e",
    }
}

fn page(verdict: &Verdict, happened: &[Happened], pictures: &[&str]) -> String {
    let mut page = String::from(HEAD);
    let word = verdict.verdict;
    // Writing to a string does not fail.
    write!(page, "<h1><span class=\"{word}\">{word}</span> seed {}, {} s</h1>", verdict.seed, verdict.seconds).ok();
    write!(page, "<p>Again: <code>{}</code></p>", escape(&verdict.repeat)).ok();
    page += &findings(&verdict.judgement, &verdict.coverage);
    page.extend(pictures.iter().map(|picture| format!("<figure>{picture}</figure>")));
    page += "<h2>Operations</h2><table><tr><th>workload<th>answered<th>failed<th>unknown";
    for (workload, tally) in &verdict.operations {
        write!(page, "<tr><td>{workload}<td>{}<td>{}<td>{}", tally.ok, tally.failed, tally.unknown).ok();
    }
    write!(page, "</table><p>The longest time without an answer: {} ms.</p>", verdict.longest_gap_ms).ok();
    page += "<h2>What the faults did</h2><table>";
    for (effect, count) in verdict.effects.iter().filter(|(_, count)| **count > 0) {
        write!(page, "<tr><td>{effect}<td>{count}").ok();
    }
    page += "</table><h2>Faults</h2><table><tr><th>fault<th>servers<th>from, ms<th>to, ms<th>effect";
    for one in happened {
        let (name, servers, effect) = (one.fault.name(), names(&one.servers), escape(&one.effect));
        write!(page, "<tr><td>{name}<td>{servers}<td>{}<td>{}<td>{effect}", one.start_ms, one.end_ms).ok();
    }
    page + TAIL
}

/// What is wrong, as lists.
pub(crate) fn findings(judgement: &Judgement, coverage: &[String]) -> String {
    let mut lists = String::new();
    for (title, findings) in [
        ("Broken guarantees", &judgement.violations[..]),
        ("Not decided", &judgement.undecided),
        ("Too little to prove anything", coverage),
        ("Notes", &judgement.notes),
    ] {
        let items: String = findings.iter().map(|finding| format!("<li>{}</li>", escape(finding))).collect();
        if !items.is_empty() {
            // Writing to a string does not fail.
            write!(lists, "<h2>{title}</h2><ul>{items}</ul>").ok();
        }
    }
    lists
}

pub(crate) const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>jlt</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222;background:#fcfcfb}
h1 span{padding:.1em .5em;border-radius:.3em;color:#fff}.pass{background:#2a9d8f}.fail{background:#d1495b}.unknown{background:#e9b44c}
h2{font-size:1.1em;margin-top:2em}figure{margin:1.5em 0}table{border-collapse:collapse}td,th{text-align:left;padding:.2em 1em .2em 0;border-bottom:1px solid #ddd}
code{background:#eee;padding:.1em .3em}</style>";

const TAIL: &str = "</table><h2>Files</h2><p><a href=\"verdict.json\">verdict.json</a>, <a href=\"plan.json\">plan.json</a>,
<a href=\"faults.json\">faults.json</a>, <a href=\"history.jsonl\">history.jsonl</a>, logs: <a href=\"s1.log\">s1</a>, <a href=\"s2.log\">s2</a>,
<a href=\"s3.log\">s3</a></p></html>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_show_what_happened() {
        let ok = Outcome::Ok(serde_json::Value::Null);
        let record = |outcome, end_ms: u64| Record {
            workload: "set".to_owned(),
            client: 0,
            server: 0,
            life: 1,
            call: serde_json::Value::Null,
            outcome,
            start_ns: end_ms * 1_000_000 - 500_000,
            end_ns: end_ms * 1_000_000,
        };
        let history = [record(ok, 100), record(Outcome::Unknown("lost".to_owned()), 600)];
        let fault = Fault::Partition;
        let happened = [Happened { fault, servers: vec![1], start_ms: 10, end_ms: 500, effect: "cut".to_owned() }];
        let plan = Plan::new(1, std::time::Duration::from_secs(1), 3, vec!["set".to_owned()], &[fault]);
        let picture = timeline(&plan, &history, &happened, 1000);
        for part in ["partition", "s2", OK, UNKNOWN, "0 ms: 1 answered"] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(!picture.contains(FAILED));
        assert_eq!(counts(&history, None, 1000), [[1, 0, 0], [0; 3], [0, 0, 1], [0; 3], [0; 3]]);
        assert!(latency(&history, &happened, 1000).contains("p99"));
        assert!(availability(&history, &happened, 1000).contains("4/s answered"));
    }
}
