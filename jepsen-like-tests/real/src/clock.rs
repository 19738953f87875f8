//! How wrong a server's clock is, by the date of its answers.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_A_DAY: u64 = 86_400;

/// By how many seconds the clock that wrote this date (RFC 9110, `Sun, 06 Nov 1994 08:49:37 GMT`) differs from ours.
pub(crate) fn seconds_off(date: &str) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(seconds_apart(second_of_day(date)?, now % SECONDS_A_DAY))
}

fn second_of_day(date: &str) -> Option<u64> {
    let mut parts = date.split(' ').find(|word| word.contains(':'))?.split(':').map(|part| part.parse::<u64>().ok());
    let mut next = || parts.next()?;
    Some(next()? * 3600 + next()? * 60 + next()?)
}

/// Clocks are wrong by minutes, never by half a day.
fn seconds_apart(one: u64, other: u64) -> u64 {
    let apart = one.abs_diff(other);
    apart.min(SECONDS_A_DAY - apart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_by_the_time_of_the_day() {
        assert_eq!(second_of_day("sun, 06 nov 1994 08:49:37 gmt"), Some(8 * 3600 + 49 * 60 + 37));
        assert_eq!(second_of_day("soon"), None);
        assert_eq!(seconds_apart(10, 40), 30);
        assert_eq!(seconds_apart(SECONDS_A_DAY - 10, 20), 30, "over midnight");
    }
}
