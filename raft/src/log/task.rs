//! The writer in a simulation: a task, whose syncs take simulated time. A crash in between loses or tears the frame.

use std::io;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::writer::{Request, Writer};

/// A writer at work.
pub(crate) struct Writing {
    requests: UnboundedSender<Request>,
}

impl Writing {
    pub(crate) fn start(mut writer: Writer) -> io::Result<Writing> {
        let (requests, mut inbox) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(first) = inbox.recv().await {
                let mut gathered = writer.gather(first, || inbox.try_recv().ok());
                let put = writer.put(&mut gathered);
                tokio::time::sleep(writer.disk.sync_time()).await;
                let written = put.and_then(|()| writer.settle(&mut gathered));
                if !writer.judge(written) || gathered.stop {
                    return;
                }
            }
        });
        Ok(Writing { requests })
    }

    pub(crate) fn send(&self, request: Request) -> io::Result<()> {
        self.requests.send(request).map_err(|_gone| io::Error::other("the log has stopped"))
    }

    /// Has all that waits written, soon.
    pub(crate) fn stop(&self) {
        // If the task is gone, there is nothing left to stop.
        let _ = self.send(Request::Stop);
    }
}
