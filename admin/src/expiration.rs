//! [`Expiration`]: a user's end of validity, in the one form that is stored and the one shown.

use jiff::Timestamp;

/// A moment in UTC, read from RFC 3339 text with a mandatory offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiration(Timestamp);

impl Expiration {
    /// Reads RFC 3339. A space or lower-case letter instead of `T` and fractional seconds are
    /// fine; a missing offset or time is not. Source: control-api.md 6.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // jiff also reads ISO 8601 basic forms, hour-only offsets and bracketed zone names, which
        // RFC 3339 does not know.
        has_rfc3339_shape(text.as_bytes())
            .then(|| text.parse().ok().map(Self))
            .flatten()
    }

    /// A moment as unix time; `None` beyond the year 9999.
    #[must_use]
    pub fn from_epoch_secs(secs: i64) -> Option<Self> {
        Timestamp::from_second(secs).ok().map(Self)
    }

    /// For the file: `2030-01-02T03:04:05Z`.
    #[must_use]
    pub fn stored(self) -> String {
        self.0.to_string()
    }

    /// For JSON: `2030-01-02T03:04:05+00:00`.
    #[must_use]
    pub fn shown(self) -> String {
        let mut text = self.0.to_string();
        if text.ends_with('Z') {
            text.pop();
        }
        text.push_str("+00:00");
        text
    }

    /// Unix time, seconds.
    #[must_use]
    pub fn epoch_secs(self) -> i64 {
        self.0.as_second()
    }
}

/// `dddd-dd-ddTdd:dd:dd[.d+](Z|±dd:dd)`; values are not looked at.
fn has_rfc3339_shape(text: &[u8]) -> bool {
    let Some((moment, rest)) = text.split_at_checked(19) else {
        return false;
    };
    let fits = moment
        .iter()
        .zip(b"dddd-dd-ddTdd:dd:dd")
        .all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            b'T' => matches!(byte, b'T' | b't' | b' '),
            other => byte == other,
        });
    let rest = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            if digits == 0 {
                return false;
            }
            fraction.get(digits..).unwrap_or_default()
        }
        None => rest,
    };
    let offset = match rest {
        b"Z" | b"z" => true,
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    fits && offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_is_shown_and_stored_in_utc() {
        for (given, stored) in [
            ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05Z"),
            ("2030-01-02 03:04:05z", "2030-01-02T03:04:05Z"),
            ("2030-01-02t03:04:05+02:00", "2030-01-02T01:04:05Z"),
            ("2030-01-02T03:04:05.250-00:30", "2030-01-02T03:34:05.25Z"),
        ] {
            let parsed = Expiration::parse(given).unwrap();
            assert_eq!(parsed.stored(), stored, "{given}");
            assert_eq!(
                parsed.shown(),
                format!("{}+00:00", stored.trim_end_matches('Z'))
            );
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "tomorrow",
            "2030-01-02",
            "2030-01-02T03:04:05",
            "2030-13-02T03:04:05Z",
            "2030-02-30T03:04:05Z",
            "20300102T030405Z",
            "2030-01-02T03:04:05+02",
            "2030-01-02T03:04:05Z[UTC]",
            "2030-01-02T03:04:05.Z",
            "2030-01-02T25:04:05Z",
            "2030-01-02T03:04:05+99:00",
            " 2030-01-02T03:04:05Z",
            "2030-01-02T03:04:05é",
        ] {
            assert_eq!(Expiration::parse(text), None, "{text}");
        }
    }
}
