//! What clients do to a cluster, and the judges of what they saw. The same in every world: only [`Wire`] knows how a server is reached.
//!
//! A new workload is a file here and a line in [`all`].

mod agent;
mod api;
mod append;
mod bulk;
mod ca;
mod catalog;
mod client;
mod counter;
mod dns;
mod flips;
mod http;
mod intention;
mod keys;
mod lease;
mod lock;
mod phases;
mod register;
mod session;
mod set;
mod tree;
mod watch;
mod xcluster;

use std::sync::Arc;

pub use api::{Api, Entry, Failure, Mode, Seen};
pub use async_trait::async_trait;
pub use client::{Client, Need, Shared, Told, Workload};
pub use http::{Place, Reply, Stream, Wire};
pub use phases::{clear, converge, finish, load};

/// One of each.
pub fn all() -> Vec<Arc<dyn Workload>> {
    vec![
        Arc::new(register::Register::default()),
        Arc::new(counter::Counter),
        Arc::new(set::Set),
        Arc::new(tree::Tree),
        Arc::new(watch::Watch),
        Arc::new(catalog::Catalog),
        Arc::new(bulk::Bulk),
        Arc::new(lock::Lock),
        Arc::new(session::Session::default()),
        Arc::new(append::Append::default()),
        Arc::new(dns::Dns::of(dns::Asked::Servers)),
        Arc::new(dns::Dns::of(dns::Asked::Agents)),
        Arc::new(ca::Ca),
        Arc::new(agent::Agent),
        Arc::new(intention::Intention),
        Arc::new(xcluster::Xcluster::default()),
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

/// Refuses workloads in a world that offers only these.
///
/// # Errors
/// The first of the workloads that needs something else, and what that is.
pub fn fit(workloads: &[Arc<dyn Workload>], offers: &[Need]) -> Result<(), String> {
    for workload in workloads {
        if let Some(need) = workload.needs().iter().find(|need| !offers.contains(need)) {
            return Err(format!("the workload {} needs {need:?}, which this world does not have", workload.name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_refused_where_it_cannot_run() {
        let dns = named(&["dns".to_owned()]).unwrap();
        assert!(fit(&dns, &[]).unwrap_err().contains("dns needs Dns"));
        assert_eq!(fit(&dns, &[Need::Dns]), Ok(()));
    }
}
