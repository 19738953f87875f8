//! What every world of the tests shares: random numbers that a seed decides, plans of faults, histories, the judges of histories, and verdicts.

pub mod checker;
pub mod history;
pub mod judgement;
pub mod plan;
pub mod record;
pub mod rng;
pub mod shrink;
pub mod verdict;
