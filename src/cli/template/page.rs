//! The template and how it is filled in.

use super::Failure;
use crate::client::Delivered;
use base64::{Engine, engine::general_purpose::STANDARD};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use zeroize::Zeroizing;

/// A template that was parsed.
pub(super) struct Page {
    environment: Environment<'static>,
    values: Arc<Mutex<Values>>,
}

/// What the template's function answers from.
#[derive(Default)]
struct Values {
    known: BTreeMap<String, Value>,
    lacks: Option<String>,
}

/// What came of filling it in.
pub(super) enum Written {
    /// The text.
    Whole(Zeroizing<String>),
    /// This secret is not there yet.
    Lacks(String),
}

/// The name under which the only template is kept.
const PAGE: &str = "template";

impl Page {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // It is a file of any kind: nothing is escaped behind anybody's back.
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(Failure::fault)?);
        let values = Arc::new(Mutex::<Values>::default());
        let asked = values.clone();
        environment.add_function("secret", move |name: &str| -> Result<Value, Error> {
            let mut values = asked.lock().unwrap_or_else(PoisonError::into_inner);
            match values.known.get(name) {
                Some(value) => Ok(value.clone()),
                None => {
                    values.lacks = Some(name.to_owned());
                    Err(Error::new(ErrorKind::InvalidOperation, "is fetched first"))
                }
            }
        });
        environment
            .add_template_owned(PAGE, text)
            .map_err(|error| Failure::Usage(format!("{}:{}: {error}", path.display(), error.line().unwrap_or(0))))?;
        Ok(Self { environment, values })
    }

    /// Fills it in with these values, or says which one it lacks first.
    pub(super) fn fill(&self, values: &BTreeMap<String, Delivered>) -> Result<Written, Failure> {
        let known = values.iter().map(|(name, delivered)| (name.clone(), Value::from_object(Secret::of(delivered)))).collect();
        *self.lock() = Values { known, lacks: None };
        let filled = self.environment.get_template(PAGE).and_then(|page| page.render(context! {})).map(Zeroizing::new);
        let lacks = std::mem::take(&mut *self.lock()).lacks;
        match (filled, lacks) {
            (_, Some(name)) => Ok(Written::Lacks(name)),
            (Ok(text), None) => Ok(Written::Whole(text)),
            // What the engine says names places and members, never values.
            (Err(error), None) => Err(Failure::Usage(format!("the template, line {}: {error}", error.line().unwrap_or(0)))),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One secret as the template sees it: itself is the value, and its members are what is beside it.
struct Secret {
    text: Option<Zeroizing<String>>,
    base64: Zeroizing<String>,
    beside: BTreeMap<String, String>,
}

impl Secret {
    fn of(delivered: &Delivered) -> Self {
        let bytes = delivered.value.expose();
        let text = std::str::from_utf8(bytes).ok().map(|text| Zeroizing::new(text.to_owned()));
        Self { text, base64: Zeroizing::new(STANDARD.encode(bytes)), beside: delivered.attributes.clone() }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a secret")
    }
}

impl minijinja::value::Object for Secret {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "value" => self.text.as_ref().map(|text| Value::from(text.as_str())),
            "base64" => Some(Value::from(self.base64.as_str())),
            name => self.beside.get(name).map(Value::from),
        }
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is no text has no value to print, only its base64.
        f.write_str(self.text.as_ref().ok_or(std::fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::template::tests::delivered;

    fn filled(template: &str, values: &[(&str, &[u8])]) -> Result<Written, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), template).unwrap();
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), delivered(name, value))).collect();
        Page::read(file.path())?.fill(&values)
    }

    fn whole(template: &str, values: &[(&str, &[u8])]) -> String {
        match filled(template, values) {
            Ok(Written::Whole(text)) => text.to_string(),
            Ok(Written::Lacks(name)) => panic!("lacks {name}"),
            Err(failure) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn values_stand_where_the_template_names_them_and_nothing_is_escaped() {
        let text = whole("pw={{ secret(\"db/ro\") }} u={{ secret('db/ro').username }}\n", &[("db/ro", b"<&'\"\\>")]);
        assert_eq!(text, "pw=<&'\"\\> u=someone\n");
        assert_eq!(whole("{{ secret('k').base64 }}", &[("k", b"\xff\x00")]), "/wA=");
        assert_eq!(whole("{% if secret('k').value == 'on' %}yes{% endif %}", &[("k", b"on")]), "yes");
    }

    #[test]
    fn what_is_missing_is_named_one_by_one() {
        assert!(matches!(filled("{{ secret('a') }}{{ secret('b') }}", &[("a", b"1")]), Ok(Written::Lacks(name)) if name == "b"));
    }

    #[test]
    fn mistakes_are_told_with_their_line_and_without_values() {
        for wrong in ["a\n{{ secret('k') ", "a\n{{ nobody }}", "a\n{{ secret('k').nothing }}", "a\n{{ secret('bytes') }}"] {
            let Err(Failure::Usage(text)) = filled(wrong, &[("k", b"canary"), ("bytes", b"canary\xff")]) else { panic!("{wrong}") };
            assert!(text.contains('2') && !text.contains("canary"), "{wrong}: {text}");
        }
    }
}
