//! JSON with the order of its members, and a check of it against the contract's types.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A JSON value whose objects keep their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap()
    }

    /// Names of an object's members, in their order.
    pub(crate) fn keys(&self) -> Vec<&str> {
        let Self::Object(members) = self else {
            return Vec::new();
        };
        members.iter().map(|(key, _)| key.as_str()).collect()
    }

    pub(crate) fn member(&self, name: &str) -> Option<&Json> {
        let Self::Object(members) = self else {
            return None;
        };
        members
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }
}

/// Compares values with the types of `v1.json`.
pub(crate) struct Contract(Value);

impl Contract {
    pub(crate) fn load() -> Self {
        Self(serde_json::from_str(include_str!("../vectors/v1.json")).unwrap())
    }

    /// Rows of `endpoints`.
    pub(crate) fn endpoints(&self) -> &[Value] {
        self.0["endpoints"].as_array().unwrap()
    }

    /// Everything in `value` that does not fit `name`.
    pub(crate) fn misfits(&self, value: &Json, name: &str, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.check(value, name, path, &mut found);
        found
    }

    fn check(&self, value: &Json, name: &str, path: &str, found: &mut Vec<String>) {
        if let Some(item) = name.strip_suffix("[]") {
            match value {
                Json::Array(items) => {
                    items
                        .iter()
                        .for_each(|value| self.check(value, item, path, found));
                }
                other => found.push(format!("{path}: no array: {other:?}")),
            }
            return;
        }
        let scalar = &self.0["scalars"][name];
        if scalar.is_object() {
            if !fits_scalar(value, scalar) {
                found.push(format!("{path}: no {name}: {value:?}"));
            }
            return;
        }
        let Json::Object(members) = value else {
            found.push(format!("{path}: no object: {value:?}"));
            return;
        };
        let fields = self.0["types"][name]["fields"].as_array().unwrap();
        let place = |key: &str| fields.iter().position(|field| field["name"] == key);
        let places: Vec<_> = members.iter().map(|(key, _)| place(key)).collect();
        if places.contains(&None) || !places.is_sorted() {
            let keys: Vec<_> = members.iter().map(|(key, _)| key).collect();
            found.push(format!("{path}: unknown members or other order: {keys:?}"));
        }
        for field in fields {
            let key = field["name"].as_str().unwrap();
            self.check_field(value.member(key), field, &format!("{path}.{key}"), found);
        }
    }

    fn check_field(
        &self,
        value: Option<&Json>,
        field: &Value,
        path: &str,
        found: &mut Vec<String>,
    ) {
        let absent = field["when_absent"].as_str().unwrap_or("never");
        match value {
            None if matches!(absent, "omit" | "either") => {}
            None => found.push(format!("{path}: missing")),
            Some(Json::Null) if matches!(absent, "null" | "either") => {}
            Some(value) => {
                self.check(value, field["type"].as_str().unwrap(), path, found);
                let allowed = [&field["enum"], &field["enum_later"]];
                if let (Json::Text(text), true) = (value, field["enum"].is_array()) {
                    let mut allowed = allowed.iter().filter_map(|list| list.as_array()).flatten();
                    if !allowed.any(|allowed| allowed == text.as_str()) {
                        found.push(format!("{path}: {text} is not allowed"));
                    }
                }
            }
        }
    }
}

fn fits_scalar(value: &Json, scalar: &Value) -> bool {
    match (value, scalar["json"].as_str().unwrap()) {
        (Json::Integer(number), "integer") => {
            let limit = |name: &str| scalar[name].to_string().parse::<i128>().unwrap();
            (limit("min")..=limit("max")).contains(number)
        }
        (Json::Integer(_) | Json::Float(_), "number")
        | (Json::Bool(_), "boolean")
        | (Json::Text(_), "string")
        | (Json::Object(_), "object")
        | (_, "any") => true,
        _ => false,
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Ordered)
    }
}

struct Ordered;

impl<'de> Visitor<'de> for Ordered {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}
