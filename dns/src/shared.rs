//! What all listeners share, and the bounded path for the questions that cannot be answered at once.

use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::ResponseCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::answer::{self, Outcome, Scratch, Transport};
use crate::counters::Counters;
use crate::forward;
use crate::lookup::{Found, Lookup};
use crate::zone::Zone;

const FLAG_TRUNCATED: u8 = 0x02;

/// What all listeners share.
pub(crate) struct Shared {
    zone: RwLock<Arc<Zone>>,
    pub(crate) lookup: Arc<dyn Lookup>,
    pub(crate) counters: Counters,
    waiting: Arc<Semaphore>,
}

/// A question that was put off, with its place among those that wait.
pub(crate) struct Deferred {
    outcome: Outcome,
    /// What is written already.
    partial: Vec<u8>,
    packet: Vec<u8>,
    transport: Transport,
    _place: OwnedSemaphorePermit,
}

impl Shared {
    pub(crate) fn new(zone: Zone, lookup: Arc<dyn Lookup>) -> Self {
        let waiting = Arc::new(Semaphore::new(zone.config.waiting_max));
        Self { zone: RwLock::new(Arc::new(zone)), lookup, counters: Counters::default(), waiting }
    }

    /// The settings as they are now. Taken once for a batch of questions.
    pub(crate) fn zone(&self) -> Arc<Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_zone(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }

    /// Answers a packet into `out`. Empty `out` and none means no answer; a [`Deferred`] must be settled on the runtime.
    pub(crate) fn answer(
        &self,
        zone: &Zone,
        packet: &[u8],
        transport: Transport,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Option<Deferred> {
        out.clear();
        let outcome = answer::answer(zone, &*self.lookup, packet, transport, scratch, out);
        match &outcome {
            Outcome::Reply(summary) => {
                self.counters.count_reply(*summary);
                return None;
            }
            Outcome::Drop => {
                self.counters.count_drop();
                return None;
            }
            Outcome::Wait(_) | Outcome::Forward | Outcome::Follow { .. } => {}
        }
        if let Ok(place) = self.waiting.clone().try_acquire_owned() {
            self.counters.count_deferral();
            return Some(Deferred { outcome, partial: out.clone(), packet: packet.to_vec(), transport, _place: place });
        }
        match outcome {
            // Better the alias alone than nothing.
            Outcome::Follow { summary, .. } => self.counters.count_reply(summary),
            _ => self.fail(zone, packet, transport, scratch, out),
        }
        None
    }

    /// Waits for what the question needs and answers it into `out`.
    pub(crate) async fn settle(&self, deferred: Deferred, scratch: &mut Scratch, out: &mut Vec<u8>) {
        let zone = self.zone();
        let Deferred { outcome, partial, packet, transport, _place } = deferred;
        out.clone_from(&partial);
        let outcome = match outcome {
            Outcome::Wait(facts) => {
                let found = timeout(zone.config.wait_timeout, facts).await.unwrap_or(Found::Unavailable);
                answer::complete(&zone, &*self.lookup, found, &packet, transport, scratch, out)
            }
            outcome => outcome,
        };
        match outcome {
            Outcome::Reply(summary) => self.counters.count_reply(summary),
            Outcome::Forward => self.forward(&zone, &packet, transport, scratch, out).await,
            Outcome::Follow { alias, summary } => {
                self.counters.count_forward();
                let limit_bytes = answer::limit_bytes(&zone, &packet, transport);
                if let Some(whole) = forward::follow(&zone.config, &alias, out, limit_bytes).await {
                    *out = whole;
                }
                self.counters.count_reply(summary);
            }
            Outcome::Drop | Outcome::Wait(_) => self.counters.count_drop(),
        }
    }

    async fn forward(
        &self,
        zone: &Zone,
        packet: &[u8],
        transport: Transport,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) {
        self.counters.count_forward();
        let Some(answer) = forward::ask(&zone.config, packet).await else {
            return self.fail(zone, packet, transport, scratch, out);
        };
        if answer.len() <= answer::limit_bytes(zone, packet, transport) {
            out.clone_from(&answer);
            let code = u16::from(answer[3] & 0x0f);
            return self.counters.count_reply(answer::Summary { code, is_trimmed: false });
        }
        // Too long for the asker: the question alone, marked as cut off, sends it to TCP.
        answer::fail(zone, ResponseCode::NoError, packet, transport, scratch, out);
        if let Some(flags) = out.get_mut(2) {
            *flags |= FLAG_TRUNCATED;
        }
        self.counters.count_reply(answer::Summary { code: 0, is_trimmed: true });
    }

    fn fail(&self, zone: &Zone, packet: &[u8], transport: Transport, scratch: &mut Scratch, out: &mut Vec<u8>) {
        if let Outcome::Reply(summary) = answer::fail(zone, ResponseCode::ServFail, packet, transport, scratch, out) {
            self.counters.count_reply(summary);
        }
    }
}
