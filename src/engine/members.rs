//! A few named values in their order: an object of JSON that is small in memory, since every live lease keeps one.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::Value;
use std::{borrow::Cow, fmt};

/// Names with values; none twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(Box<[(Cow<'static, str>, Value)]>);

impl Members {
    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Adds a value, or replaces the one of that name.
    pub fn insert(&mut self, name: &'static str, value: impl Into<Value>) {
        let mut members = std::mem::take(&mut self.0).into_vec();
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.into(),
            None => members.push((name.into(), value.into())),
        }
        self.0 = members.into();
    }

    /// All others.
    pub fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|(known, _)| known != name).cloned().collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members: Vec<(Cow<'static, str>, Value)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<Cow<'static, str>, Value>()? {
                    if members.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members.into()))
            }
        }
        from.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_an_object_of_json_in_its_order() {
        let mut members = Members::default();
        assert!(members.is_empty());
        members.insert("name", "a");
        members.insert("version", 3);
        members.insert("name", "b");
        assert_eq!((members.get("name"), members.get("other")), (Some(&Value::from("b")), None));
        let text = serde_json::to_string(&members).unwrap();
        assert_eq!(text, r#"{"name":"b","version":3}"#);
        assert_eq!(serde_json::from_str::<Members>(&text).unwrap(), members);
        assert_eq!(serde_json::to_string(&members.without("name")).unwrap(), r#"{"version":3}"#);
        for bad in [r#"{"a":1,"a":2}"#, "[]", "null", "3"] {
            assert!(serde_json::from_str::<Members>(bad).is_err(), "{bad}");
        }
    }
}
