//! The trace of a run: every message of the network and every word of the servers' logs, with its time and place, as one hash. Two runs
//! of one seed must have the same. A message's bytes are taken when it is sent, the first hundreds of them; of its way only when it arrives where, and when
//! it is read.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// So much of a field is in the trace: of a message six hundred bytes.
const FIELD_BYTES_MAX: usize = 4 * 1024;
/// So much of a line is kept in the file; the hash has all of it.
const LINE_BYTES_KEPT: usize = 600;
/// Hosts that are no servers have numbers from here on.
const FIRST_OTHER_HOST: u64 = 1_000;

thread_local! {
    /// Whose turn it is: turmoil enters a span for each host.
    static HOST: Cell<u64> = const { Cell::new(0) };
}

/// Gathers the trace. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Trace {
    shared: Arc<Shared>,
}

struct Shared {
    /// Simulated time in milliseconds.
    now_ms: AtomicU64,
    level: Level,
    state: Mutex<State>,
}

struct State {
    hasher: DefaultHasher,
    lines: u64,
    /// Names by number. Servers are named by theirs.
    hosts: BTreeMap<u64, String>,
    file: Option<BufWriter<File>>,
    line: String,
}

/// The number of the server whose turn it is; 0 if it is nobody's, and more than there are servers if it is another host's.
pub(crate) fn host() -> u64 {
    HOST.get()
}

impl Trace {
    /// An empty trace that takes the servers' logs up to `level`; its lines go to a file, too, if one is given.
    pub(crate) fn new(file: Option<&Path>, level: Level) -> std::io::Result<Self> {
        let file = file.map(File::create).transpose()?.map(BufWriter::new);
        let state = State { hasher: DefaultHasher::new(), lines: 0, hosts: BTreeMap::new(), file, line: String::new() };
        Ok(Self { shared: Arc::new(Shared { now_ms: AtomicU64::new(0), level, state: Mutex::new(state) }) })
    }

    /// From now on it is this time.
    pub(crate) fn set_time(&self, now_ms: u64) {
        self.shared.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Adds a line of the simulation's own.
    pub(crate) fn note(&self, text: &str) {
        self.add(|line| {
            line.push_str(text);
        });
    }

    /// The hash of all so far, and of how many lines.
    pub(crate) fn hash(&self) -> (u64, u64) {
        let mut state = self.state();
        if let Some(file) = &mut state.file {
            // The file is for people; the hash is what counts.
            let _ = file.flush();
        }
        (state.hasher.finish(), state.lines)
    }

    fn add(&self, write: impl FnOnce(&mut String)) {
        let now_ms = self.shared.now_ms.load(Ordering::Relaxed);
        let mut state = self.state();
        let mut line = std::mem::take(&mut state.line);
        line.clear();
        let host = state.hosts.get(&HOST.get()).map_or("-", String::as_str);
        // A string takes everything.
        let _ = write!(line, "{now_ms} {host} ");
        write(&mut line);
        state.hasher.write(line.as_bytes());
        state.lines += 1;
        let hash = state.hasher.finish();
        if let Some(file) = &mut state.file {
            let kept = line.floor_char_boundary(LINE_BYTES_KEPT);
            let _ = writeln!(file, "{} #{hash:016x}", line[..kept].replace('\n', " "));
        }
        state.line = line;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Trace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = if metadata.target() == "turmoil" { Level::TRACE } else { self.shared.level };
        if metadata.is_span() { metadata.name() == "node" } else { *metadata.level() <= level }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = String::new();
        span.record(&mut Fields::new(&mut fields));
        let name = fields.trim_start_matches("name=").trim_matches([' ', '"']);
        let mut state = self.state();
        let known = state.hosts.iter().find(|(_id, known)| *known == name).map(|(id, _name)| *id);
        let id = known.unwrap_or_else(|| {
            let number = name.strip_prefix('s').and_then(|number| number.parse().ok());
            number.unwrap_or(FIRST_OTHER_HOST + state.hosts.len() as u64)
        });
        if known.is_none() {
            state.hosts.insert(id, name.to_owned());
        }
        Id::from_u64(id)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let text = event.metadata();
        self.add(|line| {
            let _ = write!(line, "{} {} ", text.level(), text.target());
            event.record(&mut Fields::new(line));
        });
    }

    fn enter(&self, span: &Id) {
        HOST.set(span.into_u64());
    }

    fn exit(&self, _span: &Id) {
        HOST.set(0);
    }
}

struct Fields<'a> {
    line: &'a mut String,
    /// These bytes were in the trace when they were sent. To write them takes longer than all else.
    is_known: bool,
}

impl<'a> Fields<'a> {
    fn new(line: &'a mut String) -> Self {
        Self { line, is_known: false }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.is_known && field.name() == "protocol" {
            return;
        }
        let start = self.line.len();
        // What is too long ends with an error of our own, and a longer one is told from it by what follows from it.
        let _ = write!(Limited { line: self.line, left: FIELD_BYTES_MAX }, "{}={value:?} ", field.name());
        // The message is the first of the fields.
        self.is_known |= matches!(&self.line[start..], "message=Delivered " | "message=Recv " | "message=Peek ");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.line, "{}={value} ", field.name());
    }
}

/// Takes so many bytes, and then no more: to write all of a long message takes longer than to deal with it.
struct Limited<'a> {
    line: &'a mut String,
    left: usize,
}

impl fmt::Write for Limited<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.line.push_str(text);
        Ok(())
    }
}
