//! All workloads. Room is left for `lock` (a guarded counter) and `append` (lists in transactions).

mod bulk;
mod catalog;
mod register;
mod set;
mod watch;

use crate::workload::Workload;

/// One of each.
pub(crate) fn all() -> Vec<Box<dyn Workload>> {
    vec![
        Box::new(register::Register::default()),
        Box::new(set::Set),
        Box::new(watch::Watch),
        Box::new(catalog::Catalog),
        Box::new(bulk::Bulk),
    ]
}

/// Those of these names.
pub(crate) fn named(names: &[String]) -> Result<Vec<Box<dyn Workload>>, String> {
    let known: Vec<&str> = all().iter().map(|workload| workload.name()).collect();
    if let Some(other) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("{other:?} is no workload; there are {}", known.join(", ")));
    }
    Ok(all().into_iter().filter(|workload| names.iter().any(|name| name == workload.name())).collect())
}
