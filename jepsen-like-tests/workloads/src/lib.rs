//! What clients do to a cluster, and the judges of what they saw. The same in every world: only [`Wire`] knows how a server is reached.
//!
//! A new workload is a file here and a line in [`all`].

mod api;
mod append;
mod bulk;
mod catalog;
mod client;
mod http;
mod lease;
mod lock;
mod phases;
mod register;
mod session;
mod set;
mod watch;

use std::sync::Arc;

pub use api::{Api, Entry, Failure, Mode, Seen};
pub use async_trait::async_trait;
pub use client::{Client, Shared, Workload};
pub use http::{Reply, Stream, Wire};
pub use phases::{clear, converge, finish, load};

/// One of each.
pub fn all() -> Vec<Arc<dyn Workload>> {
    vec![
        Arc::new(register::Register::default()),
        Arc::new(set::Set),
        Arc::new(watch::Watch),
        Arc::new(catalog::Catalog),
        Arc::new(bulk::Bulk),
        Arc::new(lock::Lock),
        Arc::new(session::Session::default()),
        Arc::new(append::Append::default()),
    ]
}

/// Those of these names.
///
/// # Errors
/// A name that no workload has, with those that there are.
pub fn named(names: &[String]) -> Result<Vec<Arc<dyn Workload>>, String> {
    let known: Vec<&str> = all().iter().map(|workload| workload.name()).collect();
    if let Some(other) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("{other:?} is no workload; there are {}", known.join(", ")));
    }
    Ok(all().into_iter().filter(|workload| names.iter().any(|name| name == workload.name())).collect())
}
