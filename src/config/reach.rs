//! Advice about listeners: what loads and will surprise. Source: config.md 8, protocol.md 6.8.

use super::{Config, error::Problem, read::Reading, sockets::Mss};

/// Warns about settings of listeners.
pub(super) fn advise(reading: &mut Reading, config: &Config) {
    proxy(reading, config);
    let own = config.listeners.iter().filter_map(|own| own.client_mss);
    if let Some(text) = own.filter_map(|Mss(size)| risk(size?)).next() {
        warn(
            reading,
            "server.listeners",
            format!("has a client_mss that {text}"),
        );
    }
    if let Some(text) = config.server.client_mss.and_then(|Mss(size)| risk(size?)) {
        warn(reading, "server.client_mss", text);
    }
}

fn proxy(reading: &mut Reading, config: &Config) {
    let server = &config.server;
    let own = config
        .listeners
        .iter()
        .any(|l| l.proxy_protocol == Some(true));
    if !server.proxy_protocol && !own {
        return;
    }
    let key = "server.proxy_protocol_trusted_cidrs";
    if !reading.is_set(key) {
        let text = format!(
            "is on while {key} is not set: whoever reaches the port may state any source address; \
             list your load balancers there"
        );
        warn(reading, "server.proxy_protocol", text);
    } else if server.proxy_protocol_trusted_cidrs.is_empty() {
        let text = "is empty: nobody may send a PROXY header, so nobody is let in where one is \
                    wanted";
        warn(reading, key, text.to_owned());
    }
}

fn warn(reading: &mut Reading, key: &str, text: String) {
    let finding = reading.about(key, Problem::Rule { text });
    reading.warnings.push(finding);
}

/// Android looks at eleven bytes behind the first record of our answer before they are all there;
/// it fails when a segment ends among them (protocol.md 6.8, 3). `None`: no segment can.
fn risk(mss: u16) -> Option<String> {
    if is_safe(mss) {
        return None;
    }
    let safe = (mss..=4096).find(|size| is_safe(*size));
    let instead = safe.map_or(String::new(), |size| format!("; \"{size}\" has none such"));
    Some(format!(
        "lets segments of {mss} bytes, or of {} with time stamps, end where Android clients stop \
         reading the answer{instead}",
        mss.saturating_sub(TIME_STAMP_BYTES)
    ))
}

fn is_safe(mss: u16) -> bool {
    let ends_within = |size: u16, first: u16, last: u16| (first..=last).any(|at| at % size == 0);
    [mss, mss.saturating_sub(TIME_STAMP_BYTES)]
        .iter()
        .all(|size| {
            *size == 0
                || !WINDOWS
                    .iter()
                    .any(|(first, last)| ends_within(*size, *first, *last))
        })
}

/// Where no segment may end: bytes of the answer received, with either key share.
const WINDOWS: [(u16, u16); 2] = [(127, 137), (1215, 1225)];
/// What the option takes from each segment.
const TIME_STAMP_BYTES: u16 = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_whose_multiples_fall_into_the_window_are_told() {
        for safe in [88 + 12, 1460, 1400, 2000, 536] {
            let sums = (1..60)
                .map(|n| n * safe)
                .chain((1..60).map(|n| n * (safe - 12)));
            let bad = |at: &u32| (127..=137).contains(at) || (1215..=1225).contains(at);
            assert_eq!(
                sums.clone().any(|at| bad(&at)),
                risk(safe as u16).is_some(),
                "{safe}"
            );
        }
        assert_eq!(risk(1460), None);
        // 76 with time stamps, times 16.
        assert!(risk(88).is_some_and(|text| text.contains("of 76 with")));
        assert!(risk(256).is_some());
        assert!(risk(135).is_some_and(|text| text.contains("\"")));
        assert_eq!(risk(92), None);
    }
}
