//! Values without rules of their own: numbers, switches, text, addresses, lists.
//!
//! Not here: maps and enumerations (`value.rs`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use toml_edit::Item;

use super::{
    error::Problem,
    keys::Limits,
    read::{Reading, Slot},
    value::{Value, quoted, text, wrong_form, wrong_type},
};

macro_rules! whole_numbers {
    ($($ty:ident)+) => { $(
        impl Value for $ty {
            fn kind() -> String {
                stringify!($ty).to_owned()
            }

            fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
                let number = whole(slot, reading, $ty::MAX as f64)?;
                // `whole` has checked the range of the type.
                $ty::try_from(number).ok()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}
whole_numbers!(u8 u16 u32 u64 usize);

/// A whole number of at least 0 within the limits of its row.
fn whole(slot: &Slot<'_>, reading: &mut Reading, type_max: f64) -> Option<u64> {
    let limits = slot.row.limits;
    let Some(number) = slot.item.as_integer() else {
        let quoted = slot
            .item
            .as_str()
            .is_some_and(|text| text.parse::<f64>().is_ok());
        let expected = match span_of(limits, type_max) {
            range if range.is_empty() => "a whole number".to_owned(),
            range => format!("a whole number {range}"),
        };
        return wrong_type(
            slot,
            reading,
            expected,
            quoted.then_some("remove the quotes"),
        );
    };
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
    let as_float = number as f64;
    let max = limits.max.unwrap_or(type_max).min(type_max);
    let inside = (limits.min.unwrap_or(0.0)..=max).contains(&as_float);
    let stepped = limits
        .step
        .is_none_or(|step| number.unsigned_abs() % step == 0);
    if (inside && stepped) || (number >= 0 && limits.also == Some(as_float)) {
        return u64::try_from(number).ok();
    }
    let allowed = match span_of(limits, type_max) {
        range if range.is_empty() => "at least 0".to_owned(),
        range => range,
    };
    reading.error(slot, Problem::OutOfRange { allowed });
    None
}

/// "0 to 65535", "at least 1", "0 or 10 to 300", "4096 to 65536 in steps of 4096"; empty when any
/// whole number will do.
fn span_of(limits: Limits, type_max: f64) -> String {
    let min = limits.min.unwrap_or(0.0);
    let max = limits
        .max
        .or_else(|| (type_max < 4.3e9).then_some(type_max));
    let mut text = match (min, max) {
        (_, Some(max)) => format!("{min} to {max}"),
        (min, None) if min > 0.0 => format!("at least {min}"),
        (_, None) => String::new(),
    };
    if let Some(also) = limits.also {
        text = format!("{also} or {text}");
    }
    if let Some(step) = limits.step {
        text = format!("{text} in steps of {step}");
    }
    text
}

impl Value for f32 {
    fn kind() -> String {
        "f32".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let limits = slot.row.limits;
        let (min, max) = (
            limits.min.unwrap_or(f64::MIN),
            limits.max.unwrap_or(f64::MAX),
        );
        #[expect(clippy::cast_precision_loss, reason = "ratios")]
        let whole = slot.item.as_integer().map(|number| number as f64);
        let Some(number) = slot.item.as_float().or(whole) else {
            let quoted = slot.item.is_str().then_some("remove the quotes");
            return wrong_type(
                slot,
                reading,
                format!("a number {min:.1} to {max:.1}"),
                quoted,
            );
        };
        if (min..=max).contains(&number) {
            #[expect(clippy::cast_possible_truncation, reason = "ratios")]
            return Some(number as Self);
        }
        reading.error(
            slot,
            Problem::OutOfRange {
                allowed: format!("{min:.1} to {max:.1}"),
            },
        );
        None
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for bool {
    fn kind() -> String {
        "bool".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let quoted = matches!(slot.item.as_str(), Some("true" | "false"));
        let fix = quoted.then_some("remove the quotes");
        slot.item
            .as_bool()
            .or_else(|| wrong_type(slot, reading, "true or false", fix))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        text(slot, reading, "a string").map(str::to_owned)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    fn kind() -> String {
        "path".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let path = text(slot, reading, "a path")?;
        if path.trim().is_empty() {
            return wrong_form(slot, reading, "is blank", "a path");
        }
        Some(Self::from(path))
    }

    fn show(&self) -> String {
        quoted(&self.display().to_string())
    }
}

macro_rules! parsed {
    ($($ty:ident, $kind:literal, $expected:literal;)+) => { $(
        impl Value for $ty {
            fn kind() -> String {
                $kind.to_owned()
            }

            fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
                let text = text(slot, reading, $expected)?;
                match text.trim().parse() {
                    Ok(value) => Some(value),
                    Err(_) => wrong_form(slot, reading, "is malformed", $expected),
                }
            }

            fn show(&self) -> String {
                quoted(&self.to_string())
            }
        }
    )+ };
}
parsed! {
    IpAddr, "ip", "an address without a port";
    Ipv4Addr, "string", "an IPv4 address; to listen on none set network.ipv4 = false";
    Ipv6Addr, "string", "an IPv6 address; to listen on none set network.ipv6 = false";
    SocketAddr, "string", "address:port, such as \"127.0.0.1:9091\", IPv6 in brackets";
}

impl Value for IpNet {
    fn kind() -> String {
        "cidr".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "an address or a network, such as \"10.0.0.0/8\"";
        let text = text(slot, reading, EXPECTED)?.trim();
        let net = text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(Self::from));
        net.ok()
            .or_else(|| wrong_form(slot, reading, "is neither", EXPECTED))
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl<T: Value> Value for Option<T> {
    fn kind() -> String {
        format!("{}?", T::kind())
    }

    fn choices() -> &'static [&'static str] {
        T::choices()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        T::read(slot, reading).map(Some)
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "null".to_owned(), T::show)
    }
}

impl<T: Value> Value for Vec<T> {
    fn kind() -> String {
        format!("{}[]", T::kind())
    }

    fn choices() -> &'static [&'static str] {
        T::choices()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let Some(list) = slot.item.as_array() else {
            let fix = slot.item.is_str().then_some("put it in brackets");
            return wrong_type(slot, reading, "a list, [\"…\", \"…\"]", fix);
        };
        let items: Vec<Item> = list.iter().cloned().map(Item::Value).collect();
        let read: Vec<Option<T>> = items
            .iter()
            .map(|item| T::read(&slot.inner(slot.key.clone(), item, slot.at), reading))
            .collect();
        read.into_iter().collect()
    }

    fn show(&self) -> String {
        let parts: Vec<String> = self.iter().map(T::show).collect();
        format!("[{}]", parts.join(","))
    }
}
