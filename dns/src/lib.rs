//! Questions to records: names, answers, and the UDP and TCP listeners.
