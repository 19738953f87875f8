//! The thread of the writer.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use super::held;
use super::writer::{Request, Writer};

/// A writer at work.
pub(crate) struct Writing {
    requests: Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writing {
    pub(crate) fn start(mut writer: Writer) -> io::Result<Writing> {
        let (requests, inbox) = channel();
        let work = move || {
            while let Ok(first) = inbox.recv() {
                let mut gathered = writer.gather(first, || inbox.try_recv().ok());
                let written = writer.put(&mut gathered).and_then(|()| writer.settle(&mut gathered));
                if !writer.judge(written) || gathered.stop {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("raft-log".into()).spawn(work)?;
        Ok(Writing { requests, thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn send(&self, request: Request) -> io::Result<()> {
        self.requests.send(request).map_err(|_gone| io::Error::other("the log has stopped"))
    }

    /// Has all that waits written and ends the thread. Blocks.
    pub(crate) fn stop(&self) {
        // If the thread is gone, there is nothing left to stop.
        let _ = self.send(Request::Stop);
        if let Some(thread) = held(&self.thread).take() {
            let _ = thread.join();
        }
    }
}
