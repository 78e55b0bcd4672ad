//! Time and randomness: the only readers of the clocks and of the random source.

use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// The monotonic clock: tokio's, which tests can pause and advance.
#[expect(clippy::disallowed_methods, reason = "the one reader of the monotonic clock")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock. In a unit test that advances tokio's clock it advances as well.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn wall() -> SystemTime {
    #[cfg(test)]
    return SystemTime::now() + now().saturating_duration_since(Instant::now());
    #[cfg(not(test))]
    SystemTime::now()
}

/// The wall clock in seconds since the epoch.
pub fn epoch() -> i64 {
    OffsetDateTime::from(wall()).unix_timestamp()
}

/// Now, as `2026-01-31T12:00:00.000Z`.
pub fn stamp() -> String {
    stamp_of(wall())
}

/// A moment, as `2026-01-31T12:00:00.000Z`.
pub fn stamp_of(moment: SystemTime) -> String {
    let moment = OffsetDateTime::from(moment);
    let (date, time) = (moment.date(), moment.time());
    let (hour, minute, second, milli) = time.as_hms_milli();
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Now, for a file name: letters and digits only.
pub fn file_stamp() -> String {
    stamp().chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Seconds since the epoch, as `2026-01-31T12:00:00Z`; as a number if that can't be written.
pub fn rfc3339(epoch: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(epoch).ok();
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{epoch} s after 1970"))
}

/// Seconds since the epoch from an RFC 3339 time, such as EC2's `launchTime`.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// Seconds since the epoch from an HTTP Date header (RFC 9110, section 5.6.7: "GMT" for RFC 2822's "+0000").
pub fn parse_http_date(text: &str) -> Option<i64> {
    let text = text.strip_suffix("GMT").map_or_else(|| text.to_owned(), |date| format!("{date}+0000"));
    OffsetDateTime::parse(&text, &Rfc2822).ok().map(OffsetDateTime::unix_timestamp)
}

/// Waits. Never use it for a condition that can be watched.
pub async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// That duration, multiplied by a random factor from a half to one.
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.5 + chance() / 2.0)
}

/// A random number in [0, 1).
pub fn chance() -> f64 {
    // 53 bits: what an f64 represents exactly.
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// 64 random bits. If the kernel's source fails, the clock's nanoseconds: these bits separate nodes, they protect no secret.
pub fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return OffsetDateTime::from(wall()).unix_timestamp_nanos() as u64;
    }
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_ec2_and_of_http() {
        assert_eq!(parse_rfc3339("2015-12-22T10:44:05.000Z"), Some(1_450_781_045));
        assert_eq!(parse_http_date("Tue, 22 Dec 2015 10:44:05 GMT"), Some(1_450_781_045));
        assert_eq!(rfc3339(1_450_781_045), "2015-12-22T10:44:05Z");
        assert_eq!(rfc3339(i64::MAX), "9223372036854775807 s after 1970");
        assert_eq!(parse_rfc3339("yesterday"), None);
        assert_eq!(parse_http_date(""), None);
    }
}
